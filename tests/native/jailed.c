// SPDX-License-Identifier: BSD-2-Clause
// Runs a program in its jail, as minivmm would for `exec`, but without a machine:
//
//	jailed [--insecure] [--learn FILE] [--path PATH[:rw]]... [--fd N]... PROFILE PROGRAM ARG...
//
// Each --fd hands one over, from 3 on.  Its log goes to standard error; its end is the exit status: its own, or 128 + the signal.
#include "vmm/base/arena.h"
#include "vmm/config.h"
#include "vmm/jail.h"
#include "vmm/spawn.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define WORDS_MAX 64
#define MEMORY	  (UINT64_C(1) << 30)

static int run(const struct spawn_request *rq)
{
	static struct child child;
	struct err e = { "" };
	char buf[4096];
	siginfo_t si = { 0 };
	if (spawn_start(&child, rq, &e) < 0) {
		fprintf(stderr, "jailed: %s\n", e.text);
		return 125;
	}
	printf("%d\n", (int)child.pid);
	fflush(stdout);
	struct pollfd log = { .fd = child.log_fd, .events = POLLIN };
	while (poll(&log, 1, -1) == 1) {
		ssize_t n = read(child.log_fd, buf, sizeof(buf));
		if (n <= 0 || write(STDERR_FILENO, buf, (size_t)n) != n)
			break;
	}
	if (waitid(P_PIDFD, (id_t)child.pidfd, &si, WEXITED) < 0)
		return 125;
	return si.si_code == CLD_EXITED ? si.si_status : 128 + si.si_status;
}

int main(int argc, char **argv)
{
	static struct jail jail;
	static struct profile profile;
	char *paths[WORDS_MAX + 1] = { NULL };
	struct device_config cfg = { .id = "test", .paths = paths };
	struct spawn_request rq = { .id = "test" };
	struct arena texts = { 0 };
	struct err e = { "" };
	int i = 1;
	for (unsigned n = 0; i + 1 < argc && argv[i][0] == '-'; i++) {
		if (strcmp(argv[i], "--insecure") == 0)
			rq.insecure = true;
		else if (strcmp(argv[i], "--learn") == 0)
			rq.learn = argv[++i];
		else if (strcmp(argv[i], "--path") == 0 && n < WORDS_MAX)
			paths[n++] = argv[++i];
		else if (strcmp(argv[i], "--fd") == 0 && rq.fd_count < SPAWN_FDS_MAX)
			rq.fds[rq.fd_count++] = atoi(argv[++i]);
	}
	if (argc < i + 2) {
		fprintf(stderr,
			"usage: jailed [--insecure] [--learn FILE] [--path PATH]... [--fd N]... PROFILE PROGRAM ARG...\n");
		return 125;
	}
	cfg.sandbox = argv[i];
	cfg.exec = argv + i + 1;
	if (jail_of_device(&jail, &profile, &texts, &cfg, MEMORY, &e) < 0) {
		fprintf(stderr, "jailed: %s\n", e.text);
		return 125;
	}
	const char *words[WORDS_MAX + 1] = { NULL };
	for (int w = 0; w < WORDS_MAX && cfg.exec[w]; w++)
		words[w] = cfg.exec[w];
	rq.argv = words;
	rq.program = cfg.exec[0];
	rq.jail = &jail;
	rq.isolate = true;
	int status = run(&rq);
	arena_free(&texts);
	return status;
}
