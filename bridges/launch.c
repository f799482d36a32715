// SPDX-License-Identifier: BSD-2-Clause
#include "bridges/launch.h"

#include "vmm/base/fd.h"
#include "vmm/spawn.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define PLACEHOLDER "{fd}"

_Static_assert(LAUNCH_SOCKET_FD == SPAWN_FD_FIRST, "the socket is the first descriptor of a child");

// A copy of `word` with every placeholder filled in, or NULL without memory.
static char *fill_in(const char *word)
{
	size_t len = strlen(word) + 1;
	for (const char *s = word; (s = strstr(s, PLACEHOLDER)) != NULL; s += strlen(PLACEHOLDER))
		len += 10;
	char *filled = malloc(len);
	if (!filled)
		return NULL;
	char *to = filled;
	for (const char *at; (at = strstr(word, PLACEHOLDER)) != NULL; word = at + strlen(PLACEHOLDER)) {
		memcpy(to, word, (size_t)(at - word));
		to += at - word;
		to += sprintf(to, "%d", LAUNCH_SOCKET_FD);
	}
	memcpy(to, word, strlen(word) + 1);
	return filled;
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
		words[n] = fill_in(argv[n]);
		if (!words[n])
			return err_sys(e, ENOMEM, "start %s", argv[0]);
	}
	return 0;
}

static int launch_with(const struct launch *l, int theirs, const char *const *argv, struct child *child,
		       struct err *e)
{
	struct spawn_request rq = {
		.id = l->id,
		.program = l->program,
		.argv = argv,
		.fds = { theirs },
		.fd_count = 1 + l->resource_count,
		.isolate = l->isolate,
		.insecure = l->insecure,
	};
	memcpy(rq.fds + 1, l->resource, sizeof(l->resource[0]) * l->resource_count);
	return spawn_start(child, &rq, e);
}

int launch_program(const struct launch *l, int *sock, struct child **child, struct err *e)
{
	char *words[LAUNCH_WORDS_MAX + 1] = { NULL };
	int pair[2] = { -1, -1 };
	struct child *c = NULL;
	int rc = fill_words(words, l->argv, e);
	if (rc < 0)
		goto out;
	c = malloc(sizeof(*c));
	if (!c) {
		rc = err_sys(e, ENOMEM, "start %s", l->program);
		goto out;
	}
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
		rc = err_sys(e, errno, "start %s: make a socket pair", l->program);
		goto out;
	}
	rc = launch_with(l, pair[1], (const char *const *)words, c, e);
	if (rc == 0) {
		*sock = fd_steal(&pair[0]);
		*child = c;
		c = NULL;
	}
out:
	fd_close_all(pair, 2);
	free(c);
	free_words(words);
	return rc;
}
