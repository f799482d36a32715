// SPDX-License-Identifier: BSD-2-Clause
//
// probe - run a monitor until its guest prints a mark, and say what that took.
//
//   probe [-f FIELDS] [-t SECS] MARK COMMAND ARG...
//
// FIELDS, any of: m memory of the process and its descendants at the mark (then the monitor is stopped with
// SIGINT), e wait for its exit by itself, t have its system calls and exits traced (tracefs mounted and set
// up by the caller). One line of name=value pairs on stdout: start_us (the clock at exec), mark_us and
// exit_us since then, kB of memory. Exit status 1 when the mark does not come in time.  Used by
// tests/bench/run, natively and in L1; static, no privileges.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define GUEST_RAM_MIN_KB (64L * 1024) // a mapping of a memfd from this size on is the guest's memory
#define TRACE		 "/sys/kernel/tracing/"

struct memory {
	long rss, pss, private_dirty, guest_ram;
	int processes;
};

static long long now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

__attribute__((noreturn)) static void die(const char *what)
{
	fprintf(stderr, "probe: %s: %s\n", what, strerror(errno));
	exit(1);
}

// ---- memory
// -----------------------------------------------------------------------------------------------------

static void memory_of(pid_t pid, struct memory *m)
{
	char path[64], line[512];
	bool guest_ram = false;
	snprintf(path, sizeof(path), "/proc/%d/smaps", pid);
	FILE *f = fopen(path, "re");
	if (!f)
		return; // gone
	while (fgets(line, sizeof(line), f)) {
		unsigned long start, end;
		long kb;
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2) {
			long size = (long)((end - start) >> 10);
			guest_ram = strstr(line, "/memfd:") && size >= GUEST_RAM_MIN_KB;
			m->guest_ram += guest_ram ? size : 0;
		} else if (!guest_ram && sscanf(line, "Rss: %ld", &kb) == 1) {
			m->rss += kb;
		} else if (!guest_ram && sscanf(line, "Pss: %ld", &kb) == 1) {
			m->pss += kb;
		} else if (!guest_ram && sscanf(line, "Private_Dirty: %ld", &kb) == 1) {
			m->private_dirty += kb;
		}
	}
	fclose(f);
	m->processes++;
}

static void memory_of_family(pid_t pid, struct memory *m)
{
	char path[320];
	memory_of(pid, m);
	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	DIR *d = opendir(path);
	for (struct dirent *t; d && (t = readdir(d));) {
		int child;
		if (t->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "/proc/%d/task/%s/children", pid, t->d_name);
		FILE *f = fopen(path, "re");
		while (f && fscanf(f, "%d", &child) == 1)
			memory_of_family(child, m);
		if (f)
			fclose(f);
	}
	if (d)
		closedir(d);
}

static void memory_print(pid_t pid)
{
	struct memory own = { 0 }, family = { 0 };
	memory_of(pid, &own);
	memory_of_family(pid, &family);
	printf(" rss_kb=%ld dirty_kb=%ld pss_kb=%ld family_pss_kb=%ld processes=%d ram_kb=%ld", own.rss,
	       own.private_dirty, own.pss, family.pss, family.processes, own.guest_ram);
}

// ---- the run
// ----------------------------------------------------------------------------------------------------

static void trace_own_pid(void)
{
	char pid[16];
	int fd = open(TRACE "set_event_pid", O_WRONLY | O_CLOEXEC);
	int n = snprintf(pid, sizeof(pid), "%d", getpid());
	if (fd < 0 || write(fd, pid, (size_t)n) != n)
		die(TRACE "set_event_pid");
}

// The mark may come in pieces, and what is before it is the guest's console.
static bool wait_mark(int fd, const char *mark, long long deadline)
{
	char seen[8192];
	size_t have = 0, len = strlen(mark);
	for (;;) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		long long left = deadline - now_ns();
		if (left <= 0 || poll(&p, 1, (int)(left / 1000000) + 1) <= 0)
			return false;
		ssize_t n = read(fd, seen + have, sizeof(seen) - have);
		if (n <= 0)
			return false;
		have += (size_t)n;
		if (memmem(seen, have, mark, len))
			return true;
		if (have >= len) {
			memmove(seen, seen + have - (len - 1), len - 1);
			have = len - 1;
		}
	}
}

// Reads on, so that a guest that goes on printing is not held up.  False: not in time.
static bool wait_close(int fd, long long deadline)
{
	char sink[4096];
	for (;;) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		long long left = deadline - now_ns();
		if (left <= 0 || poll(&p, 1, (int)(left / 1000000) + 1) <= 0)
			return false;
		if (read(fd, sink, sizeof(sink)) <= 0)
			return true;
	}
}

static bool wait_end(pid_t pid, int ms)
{
	int fd = (int)syscall(SYS_pidfd_open, pid, 0);
	struct pollfd p = { .fd = fd, .events = POLLIN };
	bool ended = fd >= 0 && poll(&p, 1, ms) == 1 && waitpid(pid, NULL, 0) == pid;
	close(fd);
	return ended;
}

int main(int argc, char **argv)
{
	const char *fields = "";
	long limit = 60;
	int c;
	while ((c = getopt(argc, argv, "+f:t:")) != -1) {
		if (c == 'f')
			fields = optarg;
		else if (c == 't')
			limit = atol(optarg);
		else
			return 2;
	}
	if (argc - optind < 2)
		return 2;
	const char *mark = argv[optind];
	long long *start = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int out[2], in[2];
	if (start == MAP_FAILED || pipe2(out, O_CLOEXEC) < 0 || pipe2(in, O_CLOEXEC) < 0)
		die("set-up");
	pid_t pid = fork();
	if (pid < 0)
		die("fork");
	if (pid == 0) {
		dup2(in[0], 0);
		dup2(out[1], 1);
		if (strchr(fields, 't'))
			trace_own_pid();
		*start = now_ns();
		execv(argv[optind + 1], argv + optind + 1);
		die(argv[optind + 1]);
	}
	close(out[1]);
	long long deadline = now_ns() + limit * 1000000000LL;
	bool good = wait_mark(out[0], mark, deadline);
	long long marked = now_ns();
	if (good)
		printf("start_us=%lld mark_us=%lld", *start / 1000, (marked - *start) / 1000);
	if (good && strchr(fields, 'm'))
		memory_print(pid);
	if (good && strchr(fields, 'e'))
		good = wait_close(out[0], deadline);
	else
		kill(pid, good ? SIGINT : SIGKILL);
	if (!wait_end(pid, good ? 5000 : 1000)) {
		kill(pid, SIGKILL);
		good = wait_end(pid, 5000) && !strchr(fields, 'e') && good;
	}
	if (good && strchr(fields, 'e'))
		printf(" exit_us=%lld", (now_ns() - *start) / 1000);
	printf("\n");
	if (!good)
		fprintf(stderr, "probe: %s: no \"%s\", or no end, within %ld s\n", argv[optind + 1], mark,
			limit);
	return good ? 0 : 1;
}
