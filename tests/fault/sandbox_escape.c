// SPDX-License-Identifier: BSD-2-Clause
// A device program that has been taken over tries to get out.
//
// Each attempt runs in a process of its own, started by the real launcher, behind the real sandbox: with
// seccomp it must be killed for it, without seccomp it must be refused by the other walls, and with no walls
// at all it must succeed (else it would prove nothing).
#include "tests/unit/child.h"
#include "vmm/base/check.h"
#include "vmm/base/log.h"
#include "vmm/base/sandbox.h"
#include "vmm/spawn.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>

// Roughly what a device needs; descriptor 3 is /dev/zero.
static const struct sandbox_rule rules[] = {
	SANDBOX_CALL(read, "requests"),
	SANDBOX_CALL(write, "answers"),
	SANDBOX_CALL(epoll_wait, "the loop"),
	SANDBOX_CALL(recvmsg, "messages"),
	SANDBOX_CALL(sendmsg, "messages"),
	SANDBOX_CALL(close, "descriptors"),
	SANDBOX_CALL_IF(mmap, "memory", 2, PROT_EXEC, 0),
	SANDBOX_CALL(munmap, "memory"),
	SANDBOX_IOCTL(0x1277, "BLKDISCARD"),
#ifdef MINIVMM_SANITIZED
	SANDBOX_CALL(sigaltstack, "AddressSanitizer asks before every _exit()"),
#endif
};

// The values that a child needs, in its arguments.
static pid_t outside_pid;
static int outside_port;

// ---- attempts: 0 if it came through, else errno -------------------------------------------------

static int result(long rc)
{
	return rc < 0 ? errno : 0;
}

static int try_open(void)
{
	return result(open("/etc/passwd", O_RDONLY));
}

static int try_create(void)
{
	int fd = open("/tmp/minivmm-escaped", O_WRONLY | O_CREAT, 0600);
	if (fd >= 0)
		unlink("/tmp/minivmm-escaped");
	return result(fd);
}

static int try_create_in_root(void)
{
	return result(mkdir("/escaped", 0700));
}

static int try_list_root(void)
{
	char entries[4096];
	int fd = open("/", O_RDONLY | O_DIRECTORY);
	return fd < 0 ? errno : result(syscall(SYS_getdents64, fd, entries, sizeof(entries)));
}

static int try_climb(void)
{
	if (chdir("..") < 0 || chdir("../../../..") < 0)
		return errno;
	return result(open("etc/passwd", O_RDONLY));
}

static int try_proc(void)
{
	return result(open("/proc/self/mem", O_RDONLY));
}

static int try_stat(void)
{
	struct stat st;
	return result(stat("/etc/passwd", &st));
}

static int try_exec(void)
{
	static char name[] = "true", *argv[] = { name, NULL };
	execve("/bin/true", argv, NULL);
	return errno;
}

static int try_exec_memory(void)
{
	static char name[] = "x", *argv[] = { name, NULL };
	int fd = memfd_create("x", 0);
	if (fd < 0 || write(fd, "#!/bin/true\n", 12) != 12)
		return errno;
	syscall(SYS_execveat, fd, "", argv, NULL, AT_EMPTY_PATH);
	return errno;
}

static int try_connect_unix(void)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	snprintf(a.sun_path, sizeof(a.sun_path), "/tmp/minivmm-escape-%d.sock", (int)outside_pid);
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	return result(connect(fd, (struct sockaddr *)&a, sizeof(a)));
}

static int try_connect_abstract(void)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int n = snprintf(a.sun_path + 1, sizeof(a.sun_path) - 1, "minivmm-escape-%d", (int)outside_pid);
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	return result(connect(fd, (struct sockaddr *)&a,
			      (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n)));
}

static int try_connect_tcp(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)outside_port) };
	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	return result(connect(fd, (struct sockaddr *)&a, sizeof(a)));
}

static int try_kill(void)
{
	return result(kill(outside_pid, 0));
}

static int try_ptrace(void)
{
	return result(ptrace(PTRACE_SEIZE, outside_pid, NULL, NULL));
}

static int try_read_memory(void)
{
	static char mine[16];
	struct iovec to = { mine, sizeof(mine) };
	struct iovec from = { mine, sizeof(mine) }; // the same program, the same place
	return result(process_vm_readv(outside_pid, &to, 1, &from, 1, 0));
}

static int try_pidfd(void)
{
	return result(syscall(SYS_pidfd_open, outside_pid, 0));
}

static int try_mount(void)
{
	if (unshare(CLONE_NEWNS) < 0) // outside the sandbox: not on the test machine's own mounts
		return errno;
	return result(mount("none", "/", "tmpfs", 0, NULL));
}

static int try_chroot(void)
{
	return result(chroot("."));
}

static int try_sethostname(void)
{
	if (unshare(CLONE_NEWUTS) < 0)
		return errno;
	return result(sethostname("escaped", 7));
}

static int try_caps(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {
		{ .permitted = 1U << CAP_SYS_ADMIN, .effective = 1U << CAP_SYS_ADMIN }
	};
	return result(syscall(SYS_capset, &header, data));
}

static int try_more_files(void)
{
	struct rlimit more = { 300000, 300000 };
	return result(setrlimit(RLIMIT_NOFILE, &more));
}

static int try_user_namespace(void)
{
	return result(unshare(CLONE_NEWUSER));
}

static int try_fork(void)
{
	return result(fork());
}

static int try_exec_mapping(void)
{
	void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return p == MAP_FAILED ? errno : 0;
}

static int try_exec_later(void)
{
	void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return result(mprotect(p, 4096, PROT_READ | PROT_EXEC));
}

static int try_io_uring(void)
{
	char params[128] = "";
	return result(syscall(SYS_io_uring_setup, 1, params));
}

static int try_userfaultfd(void)
{
	return result(syscall(SYS_userfaultfd, O_CLOEXEC | 1));
}

static int try_dumpable(void)
{
	return result(prctl(PR_SET_DUMPABLE, 1L, 0L, 0L, 0L));
}

static int try_other_ioctl(void)
{
	ioctl(3, 0x1278UL); // whatever it says, it was made
	return 0;
}

static int try_ioctl_with_high_bits(void)
{
	errno = 0;
	syscall(SYS_ioctl, 3, UINT64_C(0xffffffff00001277),
		0); // the kernel looks at 32 bits: this is BLKDISCARD
	return errno == ENOTTY ? 0 : EPERM;
}

#ifdef __x86_64__
static int try_x32(void)
{
	syscall(0x40000000 + SYS_getpid);
	return 0;
}

static int try_int80(void)
{
	long rc;
	__asm__ volatile("int $0x80"
			 : "=a"(rc)
			 : "a"(20L)
			 : "memory", "r8", "r9", "r10", "r11"); // getpid of i386
	return 0;
}
#endif

enum {
	WALLS = 1,     // refused without seccomp as well
	PID_SPACE = 2, // that, only in a pid name space of its own or behind Landlock 6
	OUTSIDE = 4,   // comes through where there are no walls
};

static const struct attempt {
	const char *name;
	int (*run)(void);
	int flags;
} attempts[] = {
	{ "open", try_open, WALLS | OUTSIDE },
	{ "create", try_create, WALLS | OUTSIDE },
	{ "create_in_root", try_create_in_root, WALLS },
	{ "list_root", try_list_root, WALLS | OUTSIDE },
	{ "climb", try_climb, WALLS | OUTSIDE },
	{ "proc", try_proc, WALLS | OUTSIDE },
	{ "stat", try_stat, WALLS | OUTSIDE },
	{ "exec", try_exec, WALLS | OUTSIDE },
	{ "exec_memory", try_exec_memory, WALLS },
	{ "connect_unix", try_connect_unix, WALLS | OUTSIDE },
	{ "connect_abstract", try_connect_abstract, WALLS | OUTSIDE },
	{ "connect_tcp", try_connect_tcp, WALLS | OUTSIDE },
	{ "kill", try_kill, PID_SPACE | OUTSIDE },
	{ "ptrace", try_ptrace, WALLS },
	{ "read_memory", try_read_memory, WALLS },
	{ "pidfd", try_pidfd, OUTSIDE },
	{ "mount", try_mount, WALLS },
	{ "chroot", try_chroot, WALLS },
	{ "sethostname", try_sethostname, WALLS },
	{ "caps", try_caps, WALLS },
	{ "more_files", try_more_files, WALLS },
	{ "user_namespace", try_user_namespace, OUTSIDE },
	{ "fork", try_fork, OUTSIDE },
	{ "exec_mapping", try_exec_mapping, OUTSIDE },
	{ "exec_later", try_exec_later, OUTSIDE },
	{ "io_uring", try_io_uring, 0 },
	{ "userfaultfd", try_userfaultfd, 0 },
	{ "dumpable", try_dumpable, OUTSIDE },
	{ "other_ioctl", try_other_ioctl, OUTSIDE },
#ifdef __x86_64__
	{ "x32", try_x32, 0 },
	{ "int80", try_int80, 0 },
#endif
};

// ---- the device ---------------------------------------------------------------------------------

#define CAME_THROUGH 200
#define NO_SANDBOX   201

// Arguments: number of the attempt (-1: behave), "seccomp", "walls" or "open", pid and port outside.
CHILD(device)
{
	const struct sandbox_spec spec = {
		.program = "device",
		.rules = rules,
		.rule_count = ARRAY_LEN(rules),
		.nofile = 32,
		.even_sanitized = true,
	};
	struct err e = { "" };
	if (argc != 6)
		_exit(NO_SANDBOX);
	int n = (int)strtol(argv[2], NULL, 10);
	outside_pid = (pid_t)strtol(argv[4], NULL, 10);
	outside_port = (int)strtol(argv[5], NULL, 10);
	if (strcmp(argv[3], "open") != 0 && sandbox_confine(&spec, true, &e) < 0) {
		dprintf(2, "%s\n", e.text);
		_exit(NO_SANDBOX);
	}
	if (strcmp(argv[3], "seccomp") == 0 && sandbox_filter(&spec, &e) < 0)
		_exit(NO_SANDBOX);
	if (n < 0) {
		char zero = 1;
		bool good = read(3, &zero, 1) == 1 && zero == 0 && try_ioctl_with_high_bits() == 0;
		log_warn("behaved");
		_exit(good ? 0 : 1);
	}
	int error = attempts[n].run();
	_exit(error == 0 ? CAME_THROUGH : error);
}

static char how_it_ended[128];
static struct child child;

static void note_exit(struct child *c, const char *how)
{
	(void)c;
	snprintf(how_it_ended, sizeof(how_it_ended), "%s", how);
}

static const char *run_device(int attempt, const char *walls, bool isolate)
{
	char number[16], pid[16], port[16];
	const char *argv[] = { "device", "child:device", number, walls, pid, port, NULL };
	struct err e = { "" };
	struct loop l;
	int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	struct spawn_request rq = { .id = "device",
				    .program = SELF,
				    .argv = argv,
				    .isolate = isolate,
				    .fds = { zero },
				    .fd_count = 1 };
	snprintf(number, sizeof(number), "%d", attempt);
	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	snprintf(port, sizeof(port), "%d", outside_port);
	how_it_ended[0] = '\0';
	if (loop_init(&l) < 0 || spawn_start(&child, &rq, &e) < 0) {
		close(zero);
		snprintf(how_it_ended, sizeof(how_it_ended), "%.120s", e.text);
		return how_it_ended;
	}
	close(zero);
	spawn_watch(&child, &l, note_exit, NULL);
	for (int64_t start = now_ms(); !how_it_ended[0] && now_ms() - start < 5000;)
		loop_once(&l, 100);
	spawn_stop(&child, 0);
	loop_destroy(&l);
	return how_it_ended;
}

// Sockets outside that the device tries to reach; they listen as long as the program runs.
static void sockets_outside(void)
{
	static bool done;
	if (done)
		return;
	done = true;
	outside_pid = getpid();
	struct sockaddr_un path = { .sun_family = AF_UNIX }, abstract = { .sun_family = AF_UNIX };
	snprintf(path.sun_path, sizeof(path.sun_path), "/tmp/minivmm-escape-%d.sock", (int)outside_pid);
	int n = snprintf(abstract.sun_path + 1, sizeof(abstract.sun_path) - 1, "minivmm-escape-%d",
			 (int)outside_pid);
	struct sockaddr_in inet = { .sin_family = AF_INET };
	socklen_t len = sizeof(inet);
	inet.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	int a = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0),
	    b = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0),
	    c = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (bind(a, (struct sockaddr *)&path, sizeof(path)) < 0 || listen(a, 100) < 0 ||
	    bind(b, (struct sockaddr *)&abstract,
		 (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n)) < 0 ||
	    listen(b, 100) < 0 || bind(c, (struct sockaddr *)&inet, sizeof(inet)) < 0 || listen(c, 100) < 0 ||
	    getsockname(c, (struct sockaddr *)&inet, &len) < 0)
		perror("sockets");
	outside_port = ntohs(inet.sin_port);
}

__attribute__((destructor)) static void sockets_remove(void)
{
	char path[64];
	snprintf(path, sizeof(path), "/tmp/minivmm-escape-%d.sock", (int)getpid());
	unlink(path);
}

// ---- tests --------------------------------------------------------------------------------------

TEST(a_device_that_behaves_lives)
{
	CHECK_STR(run_device(-1, "seccomp", true), "exit status 0");
	CHECK_STR(child.last, "minivmm: behaved");
	CHECK_STR(run_device(-1, "seccomp", false), "exit status 0");
}

TEST(each_attempt_is_deadly)
{
	sockets_outside();
	for (unsigned i = 0; i < ARRAY_LEN(attempts); i++)
		if (strncmp(run_device((int)i, "seccomp", true), "killed by seccomp", 17) != 0) {
			printf("%s: %s\n", attempts[i].name, how_it_ended);
			test_failed = true;
		}
}

static bool refused(const char *how)
{
	static const char words[] = "exit status ";
	if (strncmp(how, words, sizeof(words) - 1) != 0)
		return false;
	long status = strtol(how + sizeof(words) - 1, NULL, 10);
	return status > 0 && status < CAME_THROUGH;
}

static void check_other_walls(bool isolate, int which)
{
	sockets_outside();
	for (unsigned i = 0; i < ARRAY_LEN(attempts); i++)
		if ((attempts[i].flags & which) && !refused(run_device((int)i, "walls", isolate))) {
			printf("%s: %s\n", attempts[i].name, how_it_ended);
			test_failed = true;
		}
}

TEST(the_launcher_s_walls_hold_without_seccomp)
{
	check_other_walls(true, WALLS | PID_SPACE);
}

TEST(self_made_walls_hold_without_seccomp)
{
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, 1);
	check_other_walls(false, abi >= 6 ? WALLS | PID_SPACE : WALLS);
}

TEST(attempts_come_through_without_walls)
{
	sockets_outside();
	for (unsigned i = 0; i < ARRAY_LEN(attempts); i++)
		if (attempts[i].flags & OUTSIDE) {
			const char *how = run_device((int)i, "open", false);
			if (strcmp(how, "exit status 200") != 0 && strcmp(how, "exit status 0") != 0) {
				printf("%s: %s\n", attempts[i].name, how);
				test_failed = true;
			}
		}
}
