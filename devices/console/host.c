// SPDX-License-Identifier: BSD-2-Clause
#include "devices/console/virtio_console.h"
#include "vmm/base/check.h"
#include "vmm/base/err.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/base/socket_file.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#define ESCAPE 0x1d // Ctrl-], as telnet has it: the one key that is not the guest's

// Of our own terminal, if a port is one.
static struct termios before;
static bool taken;

// ---- watching ---------------------------------------------------------------------------------------------------

void vcon_host_watch(struct vcon_port *p, bool readable)
{
	struct loop *l = &p->c->d->loop;
	uint32_t events = readable ? EPOLLIN : 0; // EPOLLHUP comes anyway
	int rc = 0;
	if (!p->in_live || p->in.fd < 0)
		loop_remove(l, &p->in);
	else if (!p->in.added)
		rc = loop_add(l, &p->in, events);
	else if (p->in_events != events)
		rc = loop_modify(l, &p->in, events);
	p->in_events = events;
	if (rc < 0)
		log_limited(LOG_ERROR, "port %s: epoll: %s", p->name, err_text(-rc));
}

void vcon_host_wait(struct vcon_port *p)
{
	if (p->kind != VCON_SOCKET || p->connected || p->wait.added)
		return;
	int rc = loop_add(&p->c->d->loop, &p->wait, EPOLLIN);
	if (rc < 0)
		log_limited(LOG_ERROR, "port %s: epoll: %s", p->name, err_text(-rc));
}

static void connected(struct vcon_port *p)
{
	p->connected = p->in_live = true;
	vcon_host_look(p);
	vcon_host_watch(p, false); // until the guest wants it
	vcon_connected(p);
}

static void in_close(struct vcon_port *p)
{
	loop_remove(&p->c->d->loop, &p->in);
	fd_close(&p->in.fd);
}

void vcon_host_hangup(struct vcon_port *p)
{
	p->in_live = false;
	vcon_host_watch(p, false);
	if (!p->connected)
		return;
	loop_remove(&p->c->d->loop, &p->out);
	p->connected = false;
	if (p->kind == VCON_SOCKET)
		fd_close(&p->out.fd);
	vcon_host_wait(p);
	vcon_connected(p);
}

void vcon_host_input_hangup(struct vcon_port *p)
{
	if (p->kind != VCON_STDIO) {
		vcon_host_hangup(p);
		return;
	}
	p->in_live = false;
	vcon_host_watch(p, false);
}

void vcon_host_input_ends(struct vcon_port *p)
{
	vcon_host_input_hangup(p);
	if (p->kind != VCON_PTY)
		in_close(p);
}

// ---- somebody comes ---------------------------------------------------------------------------------------------

static void client_comes(struct vcon_port *p)
{
	int fd = accept4(p->wait.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0 && (errno == EAGAIN || errno == ECONNABORTED || errno == EINTR))
		return;
	// One client at a time; and where there are no descriptors, none before the guest uses the port again.
	loop_remove(&p->c->d->loop, &p->wait);
	int other = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (other < 0) {
		log_limited(LOG_WARN, "port %s: accept: %s", p->name, err_text(errno));
		fd_close(&fd);
		return;
	}
	in_close(p); // what the one before left is not this one's to say
	p->in.fd = fd;
	p->out.fd = other;
	connected(p);
}

// A pty does not tell its other side that it was opened; inotify does.
static void pty_opened(struct vcon_port *p)
{
	_Alignas(struct inotify_event) char events[1024];
	struct pollfd now = { .fd = p->in.fd, .events = POLLIN };
	while (read(p->wait.fd, events, sizeof(events)) > 0)
		;
	if (!p->connected && poll(&now, 1, 0) >= 0 && (now.revents & POLLIN || !(now.revents & POLLHUP)))
		connected(p);
}

static void wait_ready(struct loop_source *s, uint32_t events)
{
	(void)events;
	struct vcon_port *p = CONTAINER_OF(s, struct vcon_port, wait);
	struct signalfd_siginfo si;
	if (p->kind == VCON_SOCKET)
		client_comes(p);
	else if (p->kind == VCON_PTY)
		pty_opened(p);
	else if (read(s->fd, &si, sizeof(si)) > 0)
		vcon_host_look(p);
}

void vcon_host_look(struct vcon_port *p)
{
	struct winsize size;
	if (p->terminal && ioctl(p->kind == VCON_STDIO ? p->out.fd : p->in.fd, TIOCGWINSZ, &size) == 0)
		vcon_sized(p, size.ws_col, size.ws_row);
}

// ---- opening ----------------------------------------------------------------------------------------------------

// Makes *fd, which may be shared with others, one that never waits.  A terminal or a FIFO is opened anew, so that nobody else's
// reads and writes change; other things are, where they matter, handed over to us alone.
static int make_patient(int *fd, int mode, struct err *e)
{
	struct stat st;
	unsigned master;
	if (fstat(*fd, &st) < 0)
		return err_sys(e, errno, "descriptor %d", *fd);
	if (S_ISFIFO(st.st_mode) || (isatty(*fd) && ioctl(*fd, TIOCGPTN, &master) < 0)) {
		char path[32];
		snprintf(path, sizeof(path), "/proc/self/fd/%d", *fd);
		int own = open(path, mode | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
		if (own >= 0) {
			fd_close(fd);
			*fd = own;
			return 0;
		}
	}
	int flags = fcntl(*fd, F_GETFL);
	if (flags < 0 || fcntl(*fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return err_sys(e, errno, "descriptor %d", *fd);
	return 0;
}

static int take_fd(struct loop_source *s, int from, int mode, struct err *e)
{
	s->fd = fcntl(from, F_DUPFD_CLOEXEC, 3);
	if (s->fd < 0)
		return err_sys(e, errno, "descriptor %d", from);
	return make_patient(&s->fd, mode, e);
}

// Where epoll has no use for a descriptor, it is always ready: an output then never blocks, an input is refused but for those that
// give nothing.
static int settle(struct vcon_port *p, struct err *e)
{
	struct loop *l = &p->c->d->loop;
	struct stat st;
	if (p->out.fd >= 0) {
		p->out_plain = loop_add(l, &p->out, 0) == -EPERM;
		loop_remove(l, &p->out);
	}
	if (p->in.fd < 0)
		return 0;
	int rc = loop_add(l, &p->in, 0);
	loop_remove(l, &p->in);
	if (rc == -EPERM && fstat(p->in.fd, &st) == 0 && S_ISCHR(st.st_mode)) {
		fd_close(&p->in.fd);
		return 0;
	}
	return rc < 0 ? err_sys(e, -rc, "its input: a file is none") : 0;
}

static int watch_size(struct vcon_port *p, struct err *e)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGWINCH);
	sigprocmask(SIG_BLOCK, &set, NULL);
	p->wait.fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	int rc = p->wait.fd < 0 ? -errno : loop_add(&p->c->d->loop, &p->wait, EPOLLIN);
	return rc < 0 ? err_sys(e, -rc, "signalfd") : 0;
}

static int open_stdio(struct vcon_port *p, struct err *e)
{
	int rc = take_fd(&p->in, STDIN_FILENO, O_RDONLY, e);
	if (rc == 0)
		rc = take_fd(&p->out, STDOUT_FILENO, O_WRONLY, e);
	if (rc < 0)
		return rc;
	p->terminal = isatty(p->out.fd);
	if (p->terminal && (rc = watch_size(p, e)) < 0)
		return rc;
	if (tcgetattr(p->in.fd, &before) == 0) {
		struct termios raw = before;
		cfmakeraw(&raw);
		raw.c_lflag |= ISIG;
		for (unsigned i = 0; i < NCCS; i++)
			if (i != VMIN && i != VTIME)
				raw.c_cc[i] = _POSIX_VDISABLE;
		raw.c_cc[VINTR] = ESCAPE;
		signal(SIGTTOU, SIG_IGN);
		signal(SIGTTIN, SIG_IGN); // in the background, reading fails; it does not stop the device
		taken = tcsetattr(p->in.fd, TCSANOW, &raw) == 0;
		log_error("port %s is this terminal; Ctrl-] ends the program", p->name);
	}
	return 0;
}

static int open_pty(struct vcon_port *p, struct err *e)
{
	char name[64];
	struct termios raw;
	p->in.fd = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (p->in.fd < 0 || grantpt(p->in.fd) < 0 || unlockpt(p->in.fd) < 0 ||
	    ptsname_r(p->in.fd, name, sizeof(name)) != 0)
		return err_sys(e, errno, "pty");
	// Opened and closed once, it says from now on whether there is anybody.
	FD_AUTO slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (slave < 0 || tcgetattr(slave, &raw) < 0)
		return err_sys(e, errno, "open %s", name);
	cfmakeraw(&raw); // no echo of what the guest says
	if (tcsetattr(slave, TCSANOW, &raw) < 0)
		return err_sys(e, errno, "make %s raw", name);
	p->out.fd = fcntl(p->in.fd, F_DUPFD_CLOEXEC, 0);
	p->wait.fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (p->out.fd < 0 || p->wait.fd < 0 || inotify_add_watch(p->wait.fd, name, IN_OPEN) < 0)
		return err_sys(e, errno, "watch %s", name);
	int rc = loop_add(&p->c->d->loop, &p->wait, EPOLLIN);
	if (rc < 0)
		return err_sys(e, -rc, "watch %s", name);
	p->terminal = true;
	log_error("port %s is %s", p->name, name); // shown at every level: it is what a pty is asked for
	return 0;
}

static int open_socket(struct vcon_port *p, struct err *e)
{
	p->wait.fd = socket_file_listen(p->where, &p->keeper, e);
	if (p->wait.fd < 0)
		return p->wait.fd;
	int rc = loop_add(&p->c->d->loop, &p->wait, EPOLLIN);
	return rc < 0 ? err_sys(e, -rc, "epoll") : 0;
}

static int open_file(struct vcon_port *p, struct err *e)
{
	p->out.fd = fd_open_path(p->where, O_WRONLY | O_CREAT | O_TRUNC | O_NONBLOCK, e);
	return MIN(p->out.fd, 0);
}

static int open_fd(struct vcon_port *p, struct err *e)
{
	FD_AUTO fd = fd_open_path(p->where, O_RDONLY, NULL);
	FD_AUTO other = fd_open_path(p->where, O_WRONLY, fd < 0 ? e : NULL);
	if (fd < 0 && other < 0)
		return other;
	int rc = fd < 0 ? 0 : take_fd(&p->in, fd, O_RDONLY, e);
	if (rc == 0 && other >= 0)
		rc = take_fd(&p->out, other, O_WRONLY, e);
	return rc;
}

int vcon_host_open(struct vcon_port *p, struct err *e)
{
	static int (*const open_kind[])(struct vcon_port *, struct err *) = {
		[VCON_STDIO] = open_stdio, [VCON_PTY] = open_pty, [VCON_SOCKET] = open_socket,
		[VCON_FILE] = open_file,   [VCON_FD] = open_fd,
	};
	p->in.ready = vcon_port_in_ready;
	p->out.ready = vcon_port_out_ready;
	p->wait.ready = wait_ready;
	int rc = open_kind[p->kind](p, e);
	if (rc == 0)
		rc = settle(p, e);
	if (rc == 0 && p->kind != VCON_PTY && p->kind != VCON_SOCKET)
		connected(p);
	return rc;
}

void vcon_host_close(struct vcon_port *p)
{
	struct loop *l = &p->c->d->loop;
	if (p->kind == VCON_STDIO && taken) // `in` may have been closed since
		tcsetattr(STDIN_FILENO, TCSANOW, &before);
	in_close(p);
	loop_remove(l, &p->out);
	loop_remove(l, &p->wait);
	fd_close(&p->out.fd);
	fd_close(&p->wait.fd);
	socket_file_remove(&p->keeper);
}
