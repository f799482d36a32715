// SPDX-License-Identifier: BSD-2-Clause
// vdev_main(): the life of a device program, from its command line to its end.
//
// Follows the back-end program conventions of vhost-user.rst.
#include "devices/sdk/main_impl.h"
#include "devices/sdk/pdev_impl.h"
#include "vmm/base/bin.h"
#include "vmm/base/check.h"
#include "vmm/base/fd.h"
#include "vmm/base/landlock.h"
#include "vmm/base/log.h"
#include "vmm/base/msg.h"
#include "vmm/base/socket_file.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define ACCEPT_PAUSE_MS	 100
#define CONNECT_PAUSE_MS 20

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

// What callbacks do that the device leaves out.
static int start_any(struct vdev *d, uint64_t features)
{
	(void)d;
	(void)features;
	return 0;
}

static void drain_nothing(struct vdev *d, struct vq *q)
{
	(void)d;
	(void)q;
}

static void nothing(struct vdev *d)
{
	(void)d;
}

static int config_read_only(struct vdev *d, uint32_t off, const void *p, uint32_t len)
{
	(void)d;
	(void)off;
	(void)p;
	(void)len;
	return -EINVAL;
}

static const struct vdev_ops *ops_complete(const struct vdev_ops *given)
{
	static struct vdev_ops ops;
	ops = *given;
	ops.start = ops.start ? ops.start : start_any;
	ops.drain = ops.drain ? ops.drain : drain_nothing;
	ops.stop = ops.stop ? ops.stop : nothing;
	ops.close = ops.close ? ops.close : nothing;
	ops.config_write = ops.config_write ? ops.config_write : config_read_only;
	return &ops;
}

// To a front-end that may be about to listen.
static int connect_out(const char *path, struct err *e)
{
	const deadline_ns deadline = deadline_in_ms(DEADLINE_START_MS);
	for (;;) {
		int sock = msg_connect(path, deadline, e);
		if ((sock != -ENOENT && sock != -ECONNREFUSED) || !deadline_left_ms(deadline))
			return sock;
		poll(NULL, 0, CONNECT_PAUSE_MS);
	}
}

int vdev_turn(struct vdev *d, int timeout_ms)
{
	struct pdev *p = d->pci && d->pci->again && !d->pci->stopped ? d->pci : NULL;
	int rc = loop_once(&d->loop, d->again || p ? 0 : timeout_ms);
	uint64_t again = d->again;
	d->again = 0;
	for (unsigned i = 0; again; i++, again >>= 1)
		if ((again & 1) && d->queues[i].running)
			d->ops->kick(d, &d->queues[i]);
	if (p && !p->stopped) {
		p->again = false;
		p->ops->again(p);
	}
	return rc;
}

static int seal(struct vdev *d, const struct settings *s, int sock, struct err *e)
{
	struct sandbox_spec spec;
	int rc = sdk_rules_collect(d->ops, s->carrier, &spec);
	if (rc < 0)
		return err_set(e, -rc, "sandbox: too many rules");
	spec.nofile += (uint64_t)MAX(sock, 0); // as many may be open below it
	// One that was started with its socket has a supervisor, who says it for all.
	if (landlock_version() == 0)
		log_line(s->fd < 0 ? LOG_WARN : LOG_INFO,
			 "no Landlock in this kernel: name spaces, an empty root and seccomp hold alone");
	if (s->insecure)
		log_warn("--insecure: running with whatever part of the sandbox this host allows");
	rc = sandbox_confine(&spec, !s->insecure, e);
	// One that serves several is held up by none of them.  By the process that is left to serve; name spaces may have made another of it.
	if (rc == 0 && d->ops->serve && (rc = fd_peer_signals_open(e)) < 0 && s->insecure) {
		log_warn("%s", e->text);
		rc = 0;
	}
	if (rc == 0 && d->ops->serve)
		rc = bin_open(e);
	if (rc == 0)
		rc = sandbox_filter(&spec, e);
	if (rc < 0 && s->insecure) {
		log_warn("%s", e->text);
		return 0;
	}
	return rc;
}

struct stopper {
	struct loop_source source;
	bool stop;
};

static void stop_asked(struct loop_source *src, uint32_t events)
{
	(void)events;
	struct signalfd_siginfo si;
	struct stopper *st = CONTAINER_OF(src, struct stopper, source);
	if (read(src->fd, &si, sizeof(si)) == (ssize_t)sizeof(si))
		st->stop = true;
}

struct listener {
	struct loop_source source;
	int accepted;
};

static void client_waits(struct loop_source *src, uint32_t events)
{
	(void)events;
	struct listener *l = CONTAINER_OF(src, struct listener, source);
	l->accepted = accept4(src->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (l->accepted < 0 && errno != EAGAIN && errno != ECONNABORTED && errno != EINTR) {
		log_limited(LOG_WARN, "accept: %s", err_text(errno));
		poll(NULL, 0,
		     ACCEPT_PAUSE_MS); // there is no front-end to keep waiting, only a loop to keep from spinning
	}
}

int carrier_serve(const struct carrier *c, struct vdev *d, int fd, const bool *stop)
{
	struct session *s = c->open(d, fd);
	int wake_ms, rc = 0;
	if (!s)
		return -EIO;
	while (rc >= 0 && c->alive(s, &wake_ms) && !*stop)
		rc = vdev_turn(d, wake_ms);
	if (rc < 0)
		log_error("event loop: %s", err_text(-rc));
	return c->close(s);
}

static int serve_listener(struct vdev *d, const struct settings *s, int fd, const bool *stop)
{
	while (!*stop) {
		struct listener l = { .source = { .fd = fd, .ready = client_waits }, .accepted = -1 };
		int rc = loop_add(&d->loop, &l.source, EPOLLIN);
		while (rc >= 0 && l.accepted < 0 && !*stop)
			rc = vdev_turn(d, -1);
		loop_remove(&d->loop, &l.source);
		if (rc < 0)
			return rc;
		if (l.accepted >= 0)
			carrier_serve(s->carrier, d, l.accepted,
				      stop); // whatever became of it, there is a next one
	}
	return 0;
}

// The device itself.  `sock` is connected or listening, or a VDUSE node; consumed.  `stops`: signals that end it, blocked.  1: it failed and has
// said so.
static int device_run(struct vdev *d, const struct settings *s, int sock, const sigset_t *stops,
		      struct err *e)
{
	int listening = 0;
	socklen_t len = sizeof(listening);
	if (!s->vduse.name && getsockopt(sock, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) < 0)
		return err_sys(e, errno, "--fd %d", sock);
	d->queues = calloc(MAX(d->queue_count, 1), sizeof(*d->queues));
	if (!d->queues)
		return err_sys(e, ENOMEM, "queues");
	for (unsigned i = 0; i < d->queue_count; i++) {
		struct vq *q = &d->queues[i]; // the rest is zeros already, and most of it is never touched
		q->index = (uint16_t)i;
		q->call_fd = q->err_fd = -1;
	}
	int rc = s->carrier->prepare ? s->carrier->prepare(d, e) : 0;
	if (rc < 0)
		return rc;

	struct stopper st = { .source = { .fd = signalfd(-1, stops, SFD_CLOEXEC | SFD_NONBLOCK),
					  .ready = stop_asked } };
	rc = st.source.fd < 0 ? -errno : loop_add(&d->loop, &st.source, EPOLLIN);
	if (rc < 0)
		return err_sys(e, -rc, "signalfd");
	rc = seal(d, s, sock, e);
	if (rc < 0)
		return rc;
	log_info("ready");
	if (d->ops->serve)
		rc = d->ops->serve(d, s->carrier, sock, listening, &st.stop);
	else if (listening)
		rc = serve_listener(d, s, sock, &st.stop);
	else if (carrier_serve(s->carrier, d, sock, &st.stop) < 0)
		return s->vduse.name != NULL;
	return rc < 0 ? err_sys(e, -rc, "event loop") : 0;
}

static int device_main(struct vdev *d, const struct settings *s)
{
	struct err e = { { 0 } };
	int rc = loop_init(&d->loop), sock = s->fd, keeper = -1;
	sigset_t stops;
	sigemptyset(&stops);
	sigaddset(&stops, SIGTERM);
	sigaddset(&stops, SIGINT);
	sigaddset(&stops, SIGHUP);
	sigprocmask(SIG_BLOCK, &stops, NULL); // before a socket tells anybody that we are here
	signal(SIGPIPE, SIG_IGN);
	if (rc < 0)
		err_sys(&e, -rc, "epoll");
	if (rc == 0 && d->ops->pci)
		rc = pdev_create(&d->pci, d, d->ops->pci, &e);
	if (rc == 0)
		rc = d->ops->open(d, &e);
	bool opened = rc == 0;
	if (rc == 0 && s->path) {
		// A socket that is handed down may be connected already.
		sock = s->carrier == &carrier_vfio_user && fd_is_reference(s->path)
			       ? fd_open_path(s->path, O_RDWR, &e)
			       : socket_file_listen(s->path, &keeper, &e);
		rc = MIN(sock, 0);
	}
	if (rc == 0 && s->front_end) {
		sock = connect_out(s->front_end, &e);
		rc = MIN(sock, 0);
	}
	if (rc == 0 && s->vduse.name) {
		sock = vduse_open(d, &s->vduse, &e);
		rc = MIN(sock, 0);
	}
	if (rc == 0)
		rc = device_run(d, s, sock, &stops, &e);
	if (rc < 0)
		log_error("%s", e.text);
	socket_file_remove(&keeper);
	if (opened)
		d->ops->close(d);
	if (d->ops->pci)
		pdev_destroy(d->pci);
	else if (d->pci)
		virtio_fn_destroy(d->pci);
	loop_destroy(&d->loop);
	return rc == 0 ? EXIT_OK : EXIT_FAILED;
}

int vdev_main(const struct vdev_ops *ops, int argc, char **argv)
{
	if (sdk_options_answer(ops, argc, argv))
		return fflush(stdout) == 0 ? EXIT_OK : EXIT_FAILED;
	struct err e = { { 0 } };
	struct vdev *d = calloc(1, sizeof(*d));
	struct settings s = { .carrier = ops->pci ? &carrier_vfio_user : &carrier_vhost_user,
			      .fd = -1,
			      .level = LOG_WARN };
	log_init(ops->program, LOG_WARN);
	if (!d) {
		log_error("out of memory");
		return EXIT_FAILED;
	}
	d->ops = ops_complete(ops);
	if (sdk_options_parse(d, &s, argc, argv, &e) < 0) {
		log_error("%s", e.text);
		free(d);
		return EXIT_USAGE;
	}
	log_init(ops->program, (enum log_level)s.level);
	int rc = device_main(d, &s);
	free(d->queues);
	free(d);
	return rc;
}
