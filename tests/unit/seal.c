// SPDX-License-Identifier: BSD-2-Clause
// The monitor's seal, in a forked process each time: what its two kinds of threads may still do, and what they die of.
#include "vmm/seal.h"

#include "tests/unit/child.h"
#include "vmm/base/check.h"
#include "vmm/base/fd.h"
#include "vmm/base/loop.h"
#include "vmm/spawn.h"

#include <linux/kvm.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#define KILLED (1000 + SIGSYS)

static struct child child;
static struct loop loop;
static int event, done;
static unsigned exits;
static pid_t outside;

_Noreturn static void leave(int status)
{
	for (;;)
		syscall(SYS_exit_group, status);
}

CHILD(sleep)
{
	for (;;)
		pause();
}

static void note_exit(struct child *c, const char *how)
{
	(void)c;
	if (strcmp(how, "killed by signal 9 (Killed)") == 0)
		exits++;
}

static void on_kick(int signal)
{
	(void)signal;
}

static int (*vcpu_part)(void), (*loop_part)(void);

static void *vcpu(void *arg)
{
	struct err e;
	if (seal_vcpu_thread(&e) < 0)
		leave(10);
	int rc = vcpu_part();
	if (rc)
		leave(rc);
	fd_event_signal(done);
#ifdef MINIVMM_SANITIZED
	for (;;) // thread exit under AddressSanitizer makes calls of its own; the kick may come only now
		poll(NULL, 0, -1);
#endif
	return arg;
}

// The life of a monitor: set up, seal, thread, seal, run, end.
static int monitor(void)
{
	struct err e = { "" };
	pthread_t thread = 0;
	const char *argv[] = { "child", "child:sleep", NULL };
	struct spawn_request rq = { .id = "disk0", .program = SELF, .argv = argv, .isolate = true };
	struct sigaction kick = { .sa_handler = on_kick };
	sigaction(SIGRTMIN, &kick, NULL);
	event = fd_eventfd();
	done = fd_eventfd();
	seal_even_sanitized = true;
	if (loop_init(&loop) < 0 || spawn_start(&child, &rq, &e) < 0 ||
	    spawn_watch(&child, &loop, note_exit, NULL) < 0)
		return 1;
	if (seal_process(false, false, &e) < 0) {
		printf("%s\n", e.text);
		return 2;
	}
	if (prctl(PR_GET_DUMPABLE) != 0 || open("/etc/passwd", O_RDONLY) >= 0 || errno != EACCES)
		return 3;
	if (vcpu_part && pthread_create(&thread, NULL, vcpu, NULL) != 0)
		return 4;
	if (seal_wait_thread(&e) != -EINVAL || seal_carrier_thread(&e) != -EINVAL ||
	    seal_return_thread(&e) != -EINVAL) // there were to be none
		return 5;
	if (seal_loop_thread(&e) < 0)
		return 5;
	if (vcpu_part) {
		struct pollfd p = { .fd = done, .events = POLLIN };
		pthread_kill(thread, SIGRTMIN);
		if (poll(&p, 1, 5000) != 1)
			leave(6);
#ifndef MINIVMM_SANITIZED
		pthread_join(thread, NULL);
#endif
	}
	leave(loop_part ? loop_part() : 0);
}

static int run(int (*on_vcpu)(void), int (*on_loop)(void))
{
	vcpu_part = on_vcpu;
	loop_part = on_loop;
	outside = getpid();
	return in_fork(monitor);
}

// ---- what goes on working --------------------------------------------------------------------------------------

static int vcpu_life(void)
{
	int fd = fd_eventfd(); // an interrupt vector
	if (fd < 0)
		return 20;
	fd_event_signal(fd);
	if (!fd_event_take(fd))
		return 21;
	close(fd);
	ioctl(event, KVM_RUN, 0); // ENOTTY, but made
	ioctl(event, KVM_IOEVENTFD, NULL);
	struct pollfd p = { .fd = event, .events = POLLIN };
	poll(&p, 1, 1);
	fd_event_signal(event);
	return 0;
}

static int loop_life(void)
{
	if (!fd_event_take(event))
		return 30;
	spawn_stop(&child, 0); // signals to processes outside the Landlock domain, waitid
	void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED || munmap(p, 4096) < 0)
		return 31;
	ioctl(event, KVM_CREATE_VM, 0); // a machine that restarts
	return 0;
}

TEST(a_sealed_monitor_lives)
{
	CHECK_EQ(run(vcpu_life, loop_life), 0);
}

static int loop_sees_death(void)
{
	syscall(SYS_pidfd_send_signal, child.pidfd, SIGKILL, NULL, 0);
	for (int64_t start = now_ms(); !exits && now_ms() - start < 2000;)
		loop_once(&loop, 100);
	return exits == 1 ? 0 : 40;
}

TEST(a_sealed_monitor_notices_a_device_s_death)
{
	CHECK_EQ(run(NULL, loop_sees_death), 0);
}

// ---- what a thread dies of -------------------------------------------------------------------------------------

static int do_open(void)
{
	return (int)syscall(SYS_openat, AT_FDCWD, "/etc/passwd", O_RDONLY);
}
static int do_socket(void)
{
	return (int)syscall(SYS_socket, AF_UNIX, SOCK_STREAM, 0);
}
static int do_connect(void)
{
	return (int)syscall(SYS_connect, 0, NULL, 0);
}
static int do_exec(void)
{
	return (int)syscall(SYS_execve, "/bin/true", NULL, NULL);
}
static int do_fork(void)
{
	return (int)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
}
static int do_ptrace(void)
{
	return (int)syscall(SYS_ptrace, PTRACE_TRACEME, 0, 0, 0);
}
static int do_kill(void)
{
	return (int)syscall(SYS_kill, outside, 0);
}
static int do_tgkill(void)
{
	return (int)syscall(SYS_tgkill, outside, outside, 0);
}
static int do_exec_mapping(void)
{
	return mmap(NULL, 4096, PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED;
}
static int do_mprotect(void)
{
	return (int)syscall(SYS_mprotect, 0, 0, PROT_EXEC);
}
static int do_type_ahead(void)
{
	return ioctl(0, 0x5412UL /* TIOCSTI */, "x");
}
static int do_unshare(void)
{
	return (int)syscall(SYS_unshare, 0x10000000);
}
static int do_prctl(void)
{
	return prctl(PR_SET_DUMPABLE, 1L);
}
static int do_setfl(void)
{
	return fcntl(event, F_SETOWN, outside);
}
// Allowed to the other thread only.
static int do_create_vm(void)
{
	return ioctl(event, KVM_CREATE_VM, 0);
}
static int do_map(void)
{
	return mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED;
}
static int do_run(void)
{
	return ioctl(event, KVM_RUN, 0);
}
static int do_signal_device(void)
{
	return (int)syscall(SYS_pidfd_send_signal, child.pidfd, 0, NULL, 0);
}

static const struct {
	const char *name;
	int (*run)(void);
	bool vcpu_only, loop_only; // who dies of it
} forbidden[] = {
	{ "open", do_open, false, false },
	{ "socket", do_socket, false, false },
	{ "connect", do_connect, false, false },
	{ "exec", do_exec, false, false },
	{ "fork", do_fork, false, false },
	{ "ptrace", do_ptrace, false, false },
	{ "kill", do_kill, false, false },
	{ "tgkill another process", do_tgkill, false, false },
	{ "executable mapping", do_exec_mapping, false, false },
	{ "mprotect", do_mprotect, false, false },
	{ "TIOCSTI", do_type_ahead, false, false },
	{ "unshare", do_unshare, false, false },
	{ "prctl", do_prctl, false, false },
	{ "F_SETOWN", do_setfl, false, false },
	{ "KVM_CREATE_VM", do_create_vm, true, false },
	{ "mmap", do_map, true, false },
	{ "signal to a device", do_signal_device, true, false },
	{ "KVM_RUN", do_run, false, true },
};

TEST(threads_die_of_what_they_may_not)
{
	for (unsigned i = 0; i < ARRAY_LEN(forbidden); i++) {
		int on_vcpu = run(forbidden[i].run, NULL);
		int on_loop = run(NULL, forbidden[i].run);
		if ((on_vcpu == KILLED) == forbidden[i].loop_only ||
		    (on_loop == KILLED) == forbidden[i].vcpu_only) {
			printf("%s: %d on a vCPU thread, %d on the loop's\n", forbidden[i].name, on_vcpu,
			       on_loop);
			test_failed = true;
		}
	}
}

// ---- order and refusals ----------------------------------------------------------------------------------------

static int wrong_order(void)
{
	struct err e = { "" };
	return seal_vcpu_thread(&e) == -EINVAL && seal_loop_thread(&e) == -EINVAL ? 0 : 1;
}

TEST(a_thread_is_not_sealed_before_its_process)
{
	CHECK_EQ(in_fork(wrong_order), 0);
}

TEST(all_tables_are_printed)
{
	char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);
	seal_print(f);
	fclose(f);
	bool good = strstr(text, "loop\tepoll_wait\t-\t-\t") &&
		    strstr(text, "vcpu\tioctl\targ1 & 0xffffffff == 0xae80\t-\trun the guest\n") &&
		    strstr(text, "wait\taccept4\t") && strstr(text, "carrier\trecvmsg\t") &&
		    strstr(text, "return\tmadvise\t");
	free(text);
	CHECK(good);
}
