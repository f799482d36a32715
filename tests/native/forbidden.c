// SPDX-License-Identifier: BSD-2-Clause
// Tries one thing that nobody in a jail shall be able to do:
//
//	forbidden [WHAT]      without one: prints their names
//
// Exit status 0: it could.  1: it was refused.  A jail may also kill it (SIGSYS).
#include "vmm/base/check.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

static bool can_open(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC, 0600);
	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

static bool read_passwd(void)
{
	return can_open("/etc/passwd", O_RDONLY) || can_open("/proc/1/root/etc/passwd", O_RDONLY) ||
	       can_open("../../../../../etc/passwd", O_RDONLY);
}
static bool write_root(void)
{
	return can_open("/made", O_WRONLY | O_CREAT) || mkdir("/folder", 0700) == 0;
}
static bool write_library(void)
{
	return can_open("/lib/x86_64-linux-gnu/libc.so.6", O_WRONLY) ||
	       can_open("/usr/lib/made", O_WRONLY | O_CREAT);
}
static bool write_sysctl(void)
{
	return can_open("/proc/sys/kernel/core_pattern", O_WRONLY) ||
	       can_open("/proc/sysrq-trigger", O_WRONLY) || can_open("/proc/self/mem", O_WRONLY);
}
static bool open_kvm(void)
{
	return can_open("/dev/kvm", O_RDWR) || can_open("/dev/mem", O_RDONLY);
}
static bool execute_shell(void)
{
	char name[] = "sh", option[] = "-c", what[] = "exit 0";
	char *argv[] = { name, option, what, NULL }, *none[] = { NULL };
	execve("/bin/sh", argv, none);
	execve("/usr/bin/env", argv, none);
	return false;
}
static bool execute_data(void)
{
	char name[] = "x", *argv[] = { name, NULL }, *none[] = { NULL };
	char buf[4096];
	int from = open("/proc/self/exe", O_RDONLY | O_CLOEXEC),
	    to = open("/tmp/x", O_WRONLY | O_CREAT | O_CLOEXEC, 0700);
	for (ssize_t n; from >= 0 && to >= 0 && (n = read(from, buf, sizeof(buf))) > 0;)
		if (write(to, buf, (size_t)n) != n)
			break;
	close(to);
	execve("/tmp/x", argv, none); // status 0 then: it prints names
	return false;
}
static bool mount_tmpfs(void)
{
	return mount("none", "/tmp", "tmpfs", 0, NULL) == 0 || mount("none", "/", "tmpfs", 0, NULL) == 0;
}
static bool remount_writable(void)
{
	return mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND, NULL) == 0;
}
static bool change_root(void)
{
	return chroot("/usr") == 0;
}
static bool new_user_space(void)
{
	return unshare(CLONE_NEWUSER) == 0;
}
static bool new_mount_space(void)
{
	return unshare(CLONE_NEWNS) == 0;
}
static bool cloned_user_space(void)
{
	pid_t pid = (pid_t)syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, NULL, NULL, NULL, NULL);
	if (pid == 0)
		_exit(0);
	return pid > 0;
}
static bool trace(void)
{
	return ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0;
}
static bool load_bpf(void)
{
	union bpf_attr attr;
	memset(&attr, 0, sizeof(attr));
	attr.map_type = BPF_MAP_TYPE_ARRAY;
	attr.key_size = attr.value_size = 4;
	attr.max_entries = 1;
	return syscall(SYS_bpf, BPF_MAP_CREATE, &attr, sizeof(attr)) >= 0;
}
static bool use_keys(void)
{
	return syscall(SYS_add_key, "user", "x", "y", 1, -4) >= 0;
}
static bool watch_performance(void)
{
	struct perf_event_attr attr = { .type = PERF_TYPE_SOFTWARE,
					.size = sizeof(attr),
					.exclude_kernel = 1 };
	return syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0) >= 0;
}
static bool make_uring(void)
{
	char params[256] = { 0 };
	return syscall(SYS_io_uring_setup, 4, params) >= 0;
}
static bool load_module(void)
{
	return syscall(SYS_finit_module, 0, "", 0) == 0 || errno == ENOEXEC;
}
static bool make_device(void)
{
	return mknod("/tmp/null", S_IFCHR | 0600, makedev(1, 3)) == 0;
}
static bool raise_limit(void)
{
	const struct rlimit more = { 1u << 20, 1u << 20 };
	return setrlimit(RLIMIT_NOFILE, &more) == 0;
}
static bool dump_core(void)
{
	const struct rlimit more = { 1u << 20, 1u << 20 };
	return setrlimit(RLIMIT_CORE, &more) == 0;
}
static bool become_other_user(void)
{
	return syscall(SYS_setresuid, 1, 1, 1) == 0;
}
static bool signal_others(void)
{
	return kill(-1, 0) == 0;
}
static bool push_input(void)
{
	return ioctl(2, TIOCSTI, "x") == 0;
}
static bool reach_network(void)
{
	struct sockaddr_in to = { .sin_family = AF_INET,
				  .sin_port = htons(9),
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	return fd >= 0 && sendto(fd, "x", 1, 0, (const struct sockaddr *)&to, sizeof(to)) == 1;
}
static bool reach_machines(void) // no name space of the network's has a say in these
{
	return socket(AF_VSOCK, SOCK_STREAM, 0) >= 0;
}
static bool reach_abstract(void) // a socket of the host's that has no file; the test listens there
{
	struct sockaddr_un to = { .sun_family = AF_UNIX, .sun_path = "\0minivmm-forbidden" };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	return fd >= 0 &&
	       connect(fd, (const struct sockaddr *)&to,
		       offsetof(struct sockaddr_un, sun_path) + sizeof("?minivmm-forbidden") - 1) == 0;
}
static bool outlive(void)
{
	return prctl(PR_SET_PDEATHSIG, 0L, 0L, 0L, 0L) == 0;
}
static bool raw_socket(void)
{
	return socket(AF_INET, SOCK_RAW, 1) >= 0 || socket(AF_PACKET, SOCK_RAW, 0) >= 0;
}

static const struct {
	const char *name;
	bool (*could)(void);
} attempts[] = {
	{ "read-passwd", read_passwd },
	{ "write-root", write_root },
	{ "write-library", write_library },
	{ "write-sysctl", write_sysctl },
	{ "open-kvm", open_kvm },
	{ "execute-shell", execute_shell },
	{ "execute-data", execute_data },
	{ "mount-tmpfs", mount_tmpfs },
	{ "remount-writable", remount_writable },
	{ "change-root", change_root },
	{ "new-user-space", new_user_space },
	{ "new-mount-space", new_mount_space },
	{ "cloned-user-space", cloned_user_space },
	{ "trace", trace },
	{ "load-bpf", load_bpf },
	{ "use-keys", use_keys },
	{ "watch-performance", watch_performance },
	{ "make-uring", make_uring },
	{ "load-module", load_module },
	{ "make-device", make_device },
	{ "raise-limit", raise_limit },
	{ "dump-core", dump_core },
	{ "become-other-user", become_other_user },
	{ "signal-others", signal_others },
	{ "push-input", push_input },
	{ "reach-network", reach_network },
	{ "reach-machines", reach_machines },
	{ "reach-abstract", reach_abstract },
	{ "outlive", outlive },
	{ "raw-socket", raw_socket },
};

int main(int argc, char **argv)
{
	for (unsigned i = 0; i < ARRAY_LEN(attempts); i++) {
		if (argc < 2)
			puts(attempts[i].name);
		else if (strcmp(argv[1], attempts[i].name) == 0)
			return attempts[i].could() ? 0 : 1;
	}
	return argc < 2 ? 0 : 2;
}
