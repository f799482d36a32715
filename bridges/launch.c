// SPDX-License-Identifier: BSD-2-Clause
#include "bridges/launch.h"

#include "vmm/base/check.h"
#include "vmm/base/fd.h"
#include "vmm/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

_Static_assert(LAUNCH_SOCKET_FD == SPAWN_FD_FIRST, "the socket is the first descriptor of a child");

#define SOCKET_PATH  LAUNCH_PATH_FOLDER "/socket"
#define LISTEN_STEPS 10 // ms between two looks whether it listens, at most

static const struct {
	const char *name, *with;
	enum launch_end end;
} placeholders[] = {
	{ "{fd}", "3", LAUNCH_FD },
	{ "{listen}", "3", LAUNCH_LISTEN },
	{ "{socket}", SOCKET_PATH, LAUNCH_PATH },
};

enum launch_end launch_end_of(const char *const *argv)
{
	for (size_t p = 0; p < ARRAY_LEN(placeholders); p++)
		for (size_t i = 0; argv[i]; i++)
			if (strstr(argv[i], placeholders[p].name))
				return placeholders[p].end;
	return LAUNCH_NO_END;
}

char *launch_word(const char *word)
{
	char *filled = malloc(strlen(word) * sizeof(SOCKET_PATH) + 1);
	char *to = filled;
	while (filled && *word) {
		size_t p = 0, len = 0;
		while (p < ARRAY_LEN(placeholders) &&
		       (len = strlen(placeholders[p].name), strncmp(word, placeholders[p].name, len) != 0))
			p++;
		if (p == ARRAY_LEN(placeholders)) {
			*to++ = *word++;
			continue;
		}
		to = stpcpy(to, placeholders[p].with);
		word += len;
	}
	if (filled)
		*to = '\0';
	return filled;
}

// ---- connections -----------------------------------------------------------------------------------------------

// pair[1] listens, pair[0] is its first client.  The path in between is gone when this returns, so that nobody else is a second one.
static int pair_listening(int pair[2], struct err *e)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	char folder[] = "/tmp/minivmm-XXXXXX";
	int rc = 0;
	if (!mkdtemp(folder))
		return err_sys(e, errno, "make a folder in /tmp");
	snprintf(at.sun_path, sizeof(at.sun_path), "%s/s", folder);
	pair[1] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	pair[0] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (pair[0] < 0 || pair[1] < 0 || bind(pair[1], (const struct sockaddr *)&at, sizeof(at)) < 0 ||
	    listen(pair[1], 1) < 0 || connect(pair[0], (const struct sockaddr *)&at, sizeof(at)) < 0)
		rc = err_sys(e, errno, "make a listening socket");
	unlink(at.sun_path);
	rmdir(folder);
	return rc;
}

// Connects to the socket that the program made: 0 or -errno.  Its root is to be seen through /proc, by its parent; but what lies there is
// the program's, so that no link of it is followed, which would lead to a socket of the host's.
static int connect_to_child(int sock, pid_t pid)
{
	const struct open_how how = {
		.flags = O_PATH | O_CLOEXEC | O_NOFOLLOW,
		.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS,
	};
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	struct stat st;
	char root_path[64];
	snprintf(root_path, sizeof(root_path), "/proc/%d/root", (int)pid);
	FD_AUTO root = open(root_path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		return -errno;
	FD_AUTO fd = (int)syscall(SYS_openat2, root, SOCKET_PATH, &how, sizeof(how));
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0 || !S_ISSOCK(st.st_mode))
		return -ENOTSOCK;
	snprintf(at.sun_path, sizeof(at.sun_path), "/proc/self/fd/%d", fd);
	return connect(sock, (const struct sockaddr *)&at, sizeof(at)) < 0 ? -errno : 0;
}

static int connect_inside(const struct launch *l, const struct child *c, int *sock, struct err *e)
{
	const deadline_ns deadline = l->deadline ? l->deadline : deadline_in_ms(DEADLINE_START_MS);
	int rc = 0;
	FD_AUTO fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	for (int step = 1; fd >= 0; step = MIN(step * 2, LISTEN_STEPS)) {
		rc = connect_to_child(fd, c->pid);
		if (rc == 0) {
			*sock = fd_steal(&fd);
			return 0;
		}
		struct pollfd gone = { .fd = c->pidfd, .events = POLLIN };
		if ((rc != -ENOENT && rc != -ECONNREFUSED && rc != -EINTR) ||
		    deadline_left_ms(deadline) == 0 || poll(&gone, 1, step) == 1)
			break;
	}
	if (rc == -ELOOP || rc == -ENOTSOCK)
		return err_set(e, -rc, "start %s: what it made at its {socket} is no socket", l->program);
	return err_set(e, ETIMEDOUT, "start %s: it does not listen at its {socket}", l->program);
}

// What is handed over is pair[1], and our end pair[0], where there are such.
static int connection_make(const struct launch *l, int pair[2], struct err *e)
{
	switch (launch_end_of(l->argv)) {
	case LAUNCH_NO_END:
	case LAUNCH_FD:
		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
			return err_sys(e, errno, "start %s: make a socket pair", l->program);
		return 0;
	case LAUNCH_LISTEN:
		return pair_listening(pair, e);
	case LAUNCH_PATH:
		break;
	}
	if (!l->isolate || !l->jail)
		return err_set(e, EINVAL, "start %s: {socket} is a path in its jail, and it has none",
			       l->program);
	pair[1] = open("/dev/null", O_RDWR | O_CLOEXEC);
	return pair[1] < 0 ? err_sys(e, errno, "open /dev/null") : 0;
}

static void free_words(char **words)
{
	for (size_t i = 0; words[i]; i++)
		free(words[i]);
}

static int fill_words(char **words, const char *const *argv, struct err *e)
{
	size_t n = 0;
	for (; argv[n]; n++) {
		if (n == LAUNCH_WORDS_MAX)
			return err_set(e, E2BIG, "start %s: more than %d words in its command", argv[0],
				       LAUNCH_WORDS_MAX);
		words[n] = launch_word(argv[n]);
		if (!words[n])
			return err_sys(e, ENOMEM, "start %s", argv[0]);
	}
	return 0;
}

static int launch_with(const struct launch *l, const int *alive_fd, int theirs, const char *const *argv,
		       struct child *child, struct err *e)
{
	struct spawn_request rq = {
		.id = l->id,
		.program = l->program,
		.argv = argv,
		.fds = { theirs },
		.fd_count = 1 + l->resource_count,
		.isolate = l->isolate,
		.insecure = l->insecure,
		.jail = l->isolate ? l->jail : NULL,
		.learn = l->learn,
		.cgroup = l->cgroup,
		.keeper = l->keeper,
		.sibling = alive_fd != NULL,
		.alive_fd = alive_fd ? *alive_fd : -1,
	};
	memcpy(rq.fds + 1, l->resource, sizeof(l->resource[0]) * l->resource_count);
	return spawn_start(child, &rq, e);
}

static int launch(const struct launch *l, const int *alive_fd, int *sock, struct child *c, struct err *e)
{
	char *words[LAUNCH_WORDS_MAX + 1] = { NULL };
	int pair[2] = { -1, -1 };
	int rc = fill_words(words, l->argv, e);
	if (rc < 0)
		goto out;
	rc = connection_make(l, pair, e);
	if (rc == 0)
		rc = launch_with(l, alive_fd, pair[1], (const char *const *)words, c, e);
	if (rc == 0 && pair[0] < 0 && (rc = connect_inside(l, c, &pair[0], e)) < 0)
		spawn_stop(c, 0);
	if (rc == 0)
		*sock = fd_steal(&pair[0]);
out:
	fd_close_all(pair, 2);
	free_words(words);
	return rc;
}

int launch_program(const struct launch *l, int *sock, struct child *c, struct err *e)
{
	return launch(l, NULL, sock, c, e);
}

int launch_again(const void *first, int alive_fd, int *sock, struct child *c, struct err *e)
{
	struct launch l = *(const struct launch *)first;
	l.deadline = 0; // that was the machine's start
	return launch(&l, &alive_fd, sock, c, e);
}

void launch_forget(struct launch *l)
{
	fd_close_all(l->resource, l->resource_count);
	l->resource_count = 0;
	free(l->jail);
	l->jail = NULL;
}

void launch_free(struct launch *l)
{
	if (!l)
		return;
	launch_forget(l);
	free(l->text);
	free(l);
}
