// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/base/bin.h"

#include "vmm/base/check.h"
#include "vmm/base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define BIN_THREADS 4
#define BIN_STACK   (64u << 10)
#define PATIENCE_NS 20000000 // for one descriptor
#define BIN_SIGNAL  SIGALRM

static const struct sandbox_rule rules[] = {
	SANDBOX_CALL(read, "which descriptor is to be closed (a pipe)"),
	SANDBOX_RARE(close, "closes it, which may wait"),
	SANDBOX_RARE(timer_settime, "not for long, where the kernel can be interrupted"),
	SANDBOX_RARE(futex, "says that it is sealed"),
};

const struct sandbox_spec bin_spec = { .program = "bin", .rules = rules, .rule_count = ARRAY_LEN(rules) };

// As the kernel has it; C libraries name its parts in different ways.
struct timer_event {
	uint64_t value;
	int32_t signal, notify, thread, pad[11];
};
_Static_assert(sizeof(struct timer_event) == 64, "struct sigevent");

static int line[2] = { -1, -1 }; // a pipe of descriptors' numbers; our end of it does not block
static atomic_uint count;
static sem_t sealed;
static struct err sealed_error; // of one that could not be

static void nothing(int signal)
{
	(void)signal;
}

static int prepare(int *timer, struct err *e)
{
	const struct timer_event event = { .signal = BIN_SIGNAL,
					   .notify = SIGEV_THREAD_ID,
					   .thread = (int32_t)syscall(SYS_gettid) };
	if (syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, timer) < 0)
		return err_sys(e, errno, "timer_create");
	return sandbox_filter(&bin_spec, e);
}

static void patience(int timer, long ns)
{
	// Again and again, for one signal may come before the wait.
	const struct itimerspec t = { .it_value.tv_nsec = ns, .it_interval.tv_nsec = ns };
	syscall(SYS_timer_settime, timer, 0, &t, NULL);
}

static void *bin_thread(void *arg)
{
	struct err e = { "" };
	int timer, fd;
	(void)arg;
	if (prepare(&timer, &e) < 0)
		sealed_error = e;
	sem_post(&sealed);
	for (;;) {
		if (read(line[0], &fd, sizeof(fd)) != sizeof(fd))
			continue; // interrupted late
		patience(timer, PATIENCE_NS);
		close(fd);
		patience(timer, 0);
		atomic_fetch_sub(&count, 1);
	}
	return NULL;
}

// 0 or an errno.  No signal but its own reaches it.
static int thread_start(void)
{
	pthread_t thread;
	pthread_attr_t attr;
	sigset_t all, old;
	sigfillset(&all);
	sigdelset(&all, BIN_SIGNAL);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, BIN_STACK);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	const int error = pthread_create(&thread, &attr, bin_thread, NULL);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	return error;
}

int bin_open(struct err *e)
{
	const struct sigaction on_signal = { .sa_handler = nothing };
	int error = 0;
	if (pipe2(line, O_CLOEXEC) < 0 || fcntl(line[1], F_SETFL, O_NONBLOCK) < 0 ||
	    sigaction(BIN_SIGNAL, &on_signal, NULL) < 0 || sem_init(&sealed, 0, 0) < 0)
		return err_sys(e, errno, "threads that close descriptors");
	for (unsigned i = 0; i < BIN_THREADS && error == 0; i++) {
		error = thread_start();
		while (error == 0 && sem_wait(&sealed) < 0)
			;
	}
	if (error)
		return err_set(e, error,
			       "threads that close descriptors: out of memory or of threads (ulimit -u)");
	if (*sealed_error.text)
		return err_set(e, EPERM, "threads that close descriptors: %s", sealed_error.text);
	return 0;
}

bool bin_put(int *fd)
{
	const int saved_errno = errno;
	bool put = false;
	if (line[1] >= 0 && *fd >= 0 && fd_peer_event_check(*fd) < 0 && fcntl(*fd, F_GET_SEALS) < 0) {
		atomic_fetch_add(&count, 1);
		put = write(line[1], fd, sizeof(*fd)) == sizeof(*fd);
		if (put)
			*fd = -1;
		else
			atomic_fetch_sub(&count, 1);
	}
	fd_close(fd);
	errno = saved_errno;
	return put;
}

unsigned bin_count(void)
{
	return atomic_load(&count);
}
