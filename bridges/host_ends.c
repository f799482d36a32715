// SPDX-License-Identifier: BSD-2-Clause
#include "bridges/host_ends.h"

#include "vmm/base/fd.h"
#include "vmm/base/socket_file.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

// A listening socket, and if we made its file what keeps that.
static int open_listener(int *fd, unsigned *count, const char *path, struct err *e)
{
	int keeper = -1;
	int sock = socket_file_listen(path, &keeper, e);
	if (sock < 0)
		return sock;
	fd[(*count)++] = sock;
	if (keeper >= 0)
		fd[(*count)++] = keeper;
	return 0;
}

// Whichever direction a descriptor has.
static int open_reference(const char *reference, struct err *e)
{
	int fd = fd_open_path(reference, O_RDWR, NULL);
	if (fd < 0)
		fd = fd_open_path(reference, O_RDONLY, NULL);
	return fd >= 0 ? fd : fd_open_path(reference, O_WRONLY, e);
}

enum target { PTY, SOCKET, SOCKET_GIVEN, OTHER };

static enum target target_of(const char *port, const char **path)
{
	const char *target = strchr(port, '=') + 1;
	*path = strchr(target, ':') + 1; // of a descriptor this is its number, and not used
	if (strcmp(target, "pty") == 0)
		return PTY;
	if (strncmp(target, "socket:", 7) == 0)
		return fd_is_reference(*path) ? SOCKET_GIVEN : SOCKET;
	return OTHER;
}

static int open_port(int *fd, unsigned *count, const char *port, struct err *e)
{
	const char *path, *target = strchr(port, '=') + 1;
	enum target kind = target_of(port, &path);
	if (kind == PTY)
		return 0; // its own business
	if (kind != OTHER)
		return open_listener(fd, count, path, e);
	int opened = fd_is_reference(target)
			     ? open_reference(target, e)
			     : fd_open_path(path, O_WRONLY | O_CREAT | O_TRUNC | O_NONBLOCK, e);
	if (opened < 0)
		return opened;
	fd[(*count)++] = opened;
	return 0;
}

int host_ends_open_ports(int *fd, unsigned *count, const struct device_config *cfg, struct err *e)
{
	for (char **port = cfg->ports; *port; port++) {
		int rc = open_port(fd, count, *port, e);
		if (rc < 0) {
			err_prefix(e, "port %.*s", (int)strcspn(*port, "="), *port);
			return rc;
		}
	}
	return 0;
}

void host_ends_port_word(char *word, size_t size, const char *port, int *next)
{
	const char *path;
	const int name = (int)strcspn(port, "=");
	enum target kind = target_of(port, &path);
	if (kind == PTY)
		snprintf(word, size, "%s", port);
	else
		snprintf(word, size, "%.*s=%sfd:%d", name, port, kind == OTHER ? "" : "socket:", *next);
	*next += kind == PTY ? 0 : kind == SOCKET ? 2 : 1;
}

int host_ends_open_vsock(int *fd, unsigned *count, const struct device_config *cfg, struct err *e)
{
	return open_listener(fd, count, cfg->path, e);
}
