// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/jail_learn.h"

#include "vmm/base/check.h"
#include "vmm/base/err.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/base/msg.h"
#include "vmm/syscall_name.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define CALLS_MAX  1024
#define IOCTLS_MAX 128
#define SOCK_FROM  512 // number that the socket gets in the child: one that the program itself hardly has

struct seen {
	bool call[CALLS_MAX];
	uint64_t families; // of sockets, a bit for each
	uint32_t ioctl[IOCTLS_MAX];
	unsigned ioctl_count;
};

// ---- the child ------------------------------------------------------------------------------------------------

static int send_descriptor(int sock, int fd)
{
	char byte = 0;
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int))];
	} control = { .room = { 0 } };
	struct iovec iov = { .iov_base = &byte, .iov_len = 1 };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = control.room,
			      .msg_controllen = sizeof(control.room) };
	control.head.cmsg_level = SOL_SOCKET;
	control.head.cmsg_type = SCM_RIGHTS;
	control.head.cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(&control.head), &fd, sizeof(fd));
	// Not sendmsg(): some C libraries make another call of it.
	return syscall(SYS_sendmsg, sock, &msg, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

int jail_learn_enter(int sock)
{
	int high = fcntl(sock, F_DUPFD_CLOEXEC, SOCK_FROM);
	if (high < 0)
		high = sock;
	// Everything is reported but sending the descriptor to which it is: nobody would be there yet to let that through.
	struct sock_filter insn[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_sendmsg, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)high, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
	};
	struct sock_fprog prog = { .len = ARRAY_LEN(insn), .filter = insn };
	int listener =
		(int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &prog);
	return listener < 0 ? -errno : send_descriptor(high, listener);
}

// ---- the process that listens ---------------------------------------------------------------------------------

// -1 when the program was never executed.
static int receive_descriptor(int sock)
{
	char byte;
	struct msg_fds fds = { .count = 0 };
	const deadline_ns never = INT64_MAX;
	return msg_recv(sock, &byte, 1, &fds, never) < 0 ? -1 : msg_fds_take_one(&fds);
}

static void note(struct seen *s, const struct seccomp_data *d)
{
	if (d->nr < 0 || d->nr >= CALLS_MAX)
		return;
	s->call[d->nr] = true;
	if (d->nr == SYS_socket && d->args[0] < 64)
		s->families |= UINT64_C(1) << d->args[0];
	if (d->nr != SYS_ioctl)
		return;
	const uint32_t request = (uint32_t)d->args[1];
	for (unsigned i = 0; i < s->ioctl_count; i++)
		if (s->ioctl[i] == request)
			return;
	if (s->ioctl_count < IOCTLS_MAX)
		s->ioctl[s->ioctl_count++] = request;
}

static void listen_until_end(struct seen *s, int listener)
{
	union { // kernels may know larger ones
		struct seccomp_notif n;
		char room[512];
	} in;
	union {
		struct seccomp_notif_resp r;
		char room[512];
	} out;
	for (;;) {
		struct pollfd p = { .fd = listener, .events = POLLIN };
		if (poll(&p, 1, -1) < 0 && errno != EINTR)
			return;
		if (!(p.revents & POLLIN) && (p.revents & (POLLHUP | POLLERR)))
			return;
		memset(&in, 0, sizeof(in));
		memset(&out, 0, sizeof(out));
		if (!(p.revents & POLLIN) || ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &in) < 0)
			continue; // its thread was killed meanwhile
		note(s, &in.n.data);
		out.r.id = in.n.id;
		out.r.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
		ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &out);
	}
}

static void write_call(FILE *f, const struct seen *s, int nr, bool *first)
{
	// What has a row of its own below, or is needed though no run may show it.
	if (nr == SYS_ioctl || nr == SYS_clone || nr == SYS_clone3 || nr == SYS_socket || nr == SYS_prctl)
		return;
	if (!s->call[nr] && nr != SYS_rt_sigreturn && nr != SYS_restart_syscall && nr != SYS_exit_group)
		return;
	const char *name = syscall_name(nr);
	if (name)
		fprintf(f, "%s\"%s\"", *first ? "" : ", ", name);
	*first &= !name;
}

// What is allowed by one of its arguments.
static void write_conditions(FILE *f, const struct seen *s)
{
	for (unsigned i = 0; i < s->ioctl_count; i++)
		fprintf(f, "[[allow]]\nwhy   = \"seen\"\nwhen  = \"arg1 == 0x%x\"\ncalls = [\"ioctl\"]\n",
			s->ioctl[i]);
	for (unsigned i = 0; i < 64; i++)
		if (s->families >> i & 1)
			fprintf(f,
				"[[allow]]\nwhy   = \"seen\"\nwhen  = \"arg0 == %u\"\ncalls = [\"socket\"]\n",
				i);
	if (!s->call[SYS_prctl])
		return;
	fprintf(f, "[[allow]]\nwhy    = \"that it ends with minivmm is not its own to change\"\n"
		   "when   = \"arg0 == 1\"\nrefuse = \"EPERM\"\ncalls  = [\"prctl\"]\n"
		   "[[allow]]\nwhy   = \"seen; all options but that one\"\nwhen  = [\"arg0 & 1 == 0\"");
	for (unsigned bit = 2; bit <= 64; bit *= 2)
		fprintf(f, ", \"arg0 & %u == %u\"", bit, bit);
	fprintf(f, "]\ncalls = [\"prctl\"]\n");
}

static void write_profile(FILE *f, const struct seen *s, const char *program)
{
	bool first = true;
	char about[64];
	snprintf(about, sizeof(about), "%s", program);
	for (char *c = about; *c; c++)
		if (*c < ' ' || *c > '~' || *c == '"' || *c == '\\')
			*c = '?';
	fprintf(f,
		"# Learned from a run: what that run did not do is not allowed.  Look through it, and write why.\n"
		"about = \"%s\"\n"
		"like  = \"default\"\n\n[[allow]]\nwhy   = \"seen\"\ncalls = [",
		about);
	for (int nr = 0; nr < CALLS_MAX; nr++)
		write_call(f, s, nr, &first);
	fprintf(f, "]\n");
	write_conditions(f, s);
	if (s->call[SYS_clone3] || s->call[SYS_clone])
		fprintf(f,
			"[[allow]]\nwhy   = \"threads or processes, but no name spaces\"\nwhen  = \"arg0 & 0x7e020000 == 0\"\n"
			"calls = [\"clone\"]\n");
	if (s->call[SYS_clone3])
		fprintf(f,
			"[[allow]]\nwhy    = \"no filter sees its flags; the C library then takes clone\"\n"
			"refuse = \"ENOSYS\"\ncalls  = [\"clone3\"]\n");
}

_Noreturn static void learner_run(int sock, int file, const char *path, const char *program)
{
	static struct seen seen;
	setsid(); // Ctrl-C and the terminal's end are the program's, whose end is ours
	prctl(PR_SET_NAME, "learner");
	// All but standard error: what is open here would outlive the machine.
	const int low = MIN(sock, file), high = MAX(sock, file);
	for (int fd = 0; fd < STDERR_FILENO; fd++)
		close(fd);
	if (low > 3)
		syscall(SYS_close_range, 3U, (unsigned)low - 1, 0U);
	if (high > low + 1)
		syscall(SYS_close_range, (unsigned)low + 1, (unsigned)high - 1, 0U);
	syscall(SYS_close_range, (unsigned)high + 1, UINT_MAX, 0U);
	int listener = receive_descriptor(sock);
	if (listener < 0)
		_exit(0);
	listen_until_end(&seen, listener);
	FILE *f = fdopen(file, "w");
	if (f)
		write_profile(f, &seen, program);
	if (!f || fclose(f) != 0) {
		log_error("learn: write %s: %s", path, err_text(errno));
		_exit(1);
	}
	log_info("learned a profile: %s", path);
	_exit(0);
}

int jail_learn_start(const char *file, const char *program, int *sock, struct err *e)
{
	int ends[2];
	FD_AUTO out = open(file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY, 0666);
	if (out < 0)
		return err_sys(e, errno, "learn: make %s", file);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		return err_sys(e, errno, "learn: make a socket pair");
	FD_AUTO ours = ends[0];
	FD_AUTO theirs = ends[1];
	// A grandchild, that nobody has to reap.
	pid_t pid = fork();
	if (pid == 0) {
		if (fork() == 0)
			learner_run(theirs, out, file, program);
		_exit(0);
	}
	if (pid < 0)
		return err_sys(e, errno, "learn: make a process");
	waitpid(pid, NULL, 0);
	*sock = fd_steal(&ours);
	return 0;
}
