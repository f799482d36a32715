// SPDX-License-Identifier: BSD-2-Clause
// vdev_main(): the life of a device program, from its command line to its end.
//
// Follows the back-end program conventions of vhost-user.rst.
#include "devices/sdk/carrier.h"
#include "devices/sdk/dev.h"
#include "devices/sdk/pdev_impl.h"
#include "devices/sdk/vduse.h"
#include "vmm/base/check.h"
#include "vmm/base/err.h"
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
#include <string.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define ACCEPT_PAUSE_MS	 100
#define CONNECT_PAUSE_MS 20

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

// What every carrier needs; each has a table of its own besides.
static const struct sandbox_rule sdk_rules[] = {
	SANDBOX_CALL(epoll_wait, "waits for kicks, messages and completions"),
	SANDBOX_RARE(epoll_pwait, "the same, where the C library has no epoll_wait"),
	SANDBOX_CALL(epoll_ctl, "a front-end's eventfds come and go"),
	SANDBOX_CALL(close, "descriptors of a front-end that replaces them or leaves"),
	SANDBOX_RARE(fstat, "size and kind of a memory file"),
	SANDBOX_RARE(newfstatat, "the same by newer C libraries"),
	SANDBOX_CALL_IF(mmap, "guest memory, never executable", 2, PROT_EXEC, 0),
	SANDBOX_CALL(munmap, "guest memory that the front-end takes back"),
	SANDBOX_CALL_IF(madvise, "guest memory stays out of core dumps", 2, UINT32_MAX, MADV_DONTDUMP),
	SANDBOX_RARE(brk, "memory for the front-end of a device with many queues"),
	SANDBOX_CALL(write, "interrupts (eventfds), answers to the kernel, and log lines"),
	SANDBOX_CALL(read, "SIGTERM, by signalfd; the kernel's messages"),
};

// Of those that are served over sockets.
static const struct sandbox_rule socket_rules[] = {
	SANDBOX_CALL(recvmsg, "messages of the front-end, with descriptors"),
	SANDBOX_CALL(sendmsg, "replies to the front-end"),
	SANDBOX_CALL(accept4, "the next front-end, on a listening socket"),
	SANDBOX_RARE(poll, "is there room for a reply; a pause after accept4 failed"),
	SANDBOX_CALL(fcntl, "access mode of a memory file; eventfds become non-blocking"),
	SANDBOX_RARE(memfd_create, "the record of requests in flight, for front-ends that want one"),
	SANDBOX_RARE(ftruncate, "its size"),
};

static const struct carrier *const socket_carriers[] = { &carrier_vhost_user, &carrier_vfio_user };

// Of virtio devices; PCI functions of their own are served over vfio-user only.
static const struct vdev_option virtio_options[] = {
	{ "vhost-user", "PATH", "listen on this socket for vhost-user front-ends, one after the other" },
	{ "socket-path", "PATH", "the same" },
	{ "vduse", "NAME", "be the VDUSE device of this name, for vDPA: of this host, or of a guest" },
	{ "vdpa-add", NULL, "with its vDPA device, which is removed at the end if no VMM uses it" },
	{ "record", "FILE", "what outlives this program (default: /run/minivmm-vduse-NAME)" },
	{ "print-capabilities", NULL, "say in JSON what this program can do, and exit" },
	{ NULL, NULL, NULL },
};

static const struct vdev_option common_options[] = {
	{ "vfio-user", "PATH",
	  "listen on this socket for vfio-user clients, which see a PCI function; fd:N: on a descriptor" },
	{ "connect", "PATH", "connect to a front-end that listens on this socket, and end when it leaves" },
	{ "fd", "N", "serve on this descriptor: a connected socket, or a listening one" },
	{ "print-syscalls", NULL, NULL }, // for the tests
	{ "insecure", NULL, "go on where the host refuses a part of the sandbox" },
	{ "verbose", NULL, "say more (-v)" },
	{ "quiet", NULL, "say less (-q)" },
	{ "version", NULL, "print the version, and exit" },
	{ "help", NULL, "print this, and exit" },
	{ NULL, NULL, NULL },
};

struct settings {
	const struct carrier *carrier;
	const char *path;      // to listen at, or NULL
	const char *front_end; // to connect to, or NULL
	int fd;		       // to serve on, or -1
	struct vduse_options vduse;
	bool insecure;
	int level; // enum log_level
};

int vdev_number(const char *name, const char *text, uint64_t min, uint64_t max, uint64_t *out, struct err *e)
{
	uint64_t v = 0;
	const char *p = text;
	for (; *p >= '0' && *p <= '9'; p++) {
		if (__builtin_mul_overflow(v, UINT64_C(10), &v) ||
		    __builtin_add_overflow(v, (uint64_t)(*p - '0'), &v))
			break;
	}
	if (*p || p == text || v < min || v > max)
		return err_set(e, EINVAL, "--%s: \"%s\" is not a number from %llu to %llu", name, text,
			       (unsigned long long)min, (unsigned long long)max);
	*out = v;
	return 0;
}

static void help_options(const struct vdev_option *o)
{
	for (; o->name; o++) {
		char left[64];
		snprintf(left, sizeof(left), "--%s%s%s", o->name, o->value ? " " : "",
			 o->value ? o->value : "");
		if (o->help)
			printf("  %-22s %s\n", left, o->help);
	}
}

static void help(const struct vdev_ops *ops)
{
	printf("usage: %s (%s--vfio-user PATH | --connect PATH | --fd N%s) [OPTION]...\n%s\n\n", ops->program,
	       ops->pci ? "" : "--vhost-user PATH | ", ops->pci ? "" : " | --vduse NAME", ops->summary);
	help_options(ops->options);
	printf("\n");
	if (!ops->pci)
		help_options(virtio_options);
	help_options(common_options);
}

static const struct vdev_option *option_find(const struct vdev_option *o, const char *name, size_t len)
{
	for (; o->name; o++)
		if (strlen(o->name) == len && memcmp(o->name, name, len) == 0)
			return o;
	return NULL;
}

static int option_common(struct settings *s, const char *name, const char *value, struct err *e)
{
	uint64_t fd;
	if (strcmp(name, "vhost-user") == 0 || strcmp(name, "socket-path") == 0) {
		s->path = value;
		s->carrier = &carrier_vhost_user;
	} else if (strcmp(name, "vfio-user") == 0) {
		s->path = value;
		s->carrier = &carrier_vfio_user;
	} else if (strcmp(name, "connect") == 0) {
		s->front_end = value;
	} else if (strcmp(name, "fd") == 0) {
		int rc = vdev_number(name, value ? value : "", 0, 1 << 20, &fd, e);
		if (rc < 0)
			return rc;
		s->fd = (int)fd;
	} else if (strcmp(name, "vduse") == 0) {
		s->vduse.name = value;
		s->carrier = &carrier_vduse;
	} else if (strcmp(name, "vdpa-add") == 0) {
		s->vduse.vdpa_add = true;
	} else if (strcmp(name, "record") == 0) {
		s->vduse.record = value;
	} else if (strcmp(name, "insecure") == 0) {
		s->insecure = true;
	} else if (strcmp(name, "verbose") == 0) {
		s->level = MIN(s->level + 1, LOG_DEBUG);
	} else if (strcmp(name, "quiet") == 0) {
		s->level = LOG_ERROR;
	}
	return 0;
}

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

struct rule_list {
	unsigned count;
	struct sandbox_rule rule[64];
};

static int rules_add(struct rule_list *to, const struct sandbox_rule *from, unsigned count)
{
	if (count > ARRAY_LEN(to->rule) - to->count)
		return -E2BIG;
	for (unsigned i = 0; i < count; i++)
		to->rule[to->count++] = from[i];
	return 0;
}

// What the sandbox allows: the SDK's part, the carrier's (NULL: of all that use sockets) and the device's own.
static int rules_collect(const struct vdev_ops *ops, const struct carrier *carrier, struct sandbox_spec *spec)
{
	static struct rule_list all;
	all.count = 0;
	int rc = rules_add(&all, sdk_rules, ARRAY_LEN(sdk_rules));
	if (rc == 0 && carrier != &carrier_vduse)
		rc = rules_add(&all, socket_rules, ARRAY_LEN(socket_rules));
	for (unsigned i = 0; i < ARRAY_LEN(socket_carriers) && rc == 0 && !carrier; i++)
		rc = rules_add(&all, socket_carriers[i]->rules, socket_carriers[i]->rule_count);
	if (rc == 0 && carrier)
		rc = rules_add(&all, carrier->rules, carrier->rule_count);
	if (rc == 0)
		rc = rules_add(&all, ops->rules, ops->rule_count);
	if (rc < 0)
		return rc;
	*spec = (struct sandbox_spec){
		.program = ops->program,
		.rules = all.rule,
		.rule_count = all.count,
		// Ours, three for each queue (of a PCI function: its vectors and doorbells), those of one message, and the device's.
		.nofile = 64 + 3 * VDEV_QUEUES_MAX + MSG_FDS_MAX + ops->fds_max,
	};
	return 0;
}

static void print_syscalls(const struct vdev_ops *ops, const struct carrier *c)
{
	struct sandbox_spec spec;
	if (rules_collect(ops, c, &spec) < 0)
		return;
	sandbox_print(&spec, "", stdout);
	printf("limit\tnofile\t%llu\n", (unsigned long long)spec.nofile);
	if (c == &carrier_vduse)
		vduse_print("keeper\t", stdout);
	else
		socket_file_print("keeper\t", stdout);
	if (ops->aside)
		sandbox_print(ops->aside, "aside\t", stdout);
}

// Options that end the program at once: true if one was given.  They win over any error elsewhere on the line.
static bool answer_and_leave(const struct vdev_ops *ops, int argc, char **argv)
{
	const struct carrier *c = NULL;
	for (int i = 1; i < argc; i++)
		if (strcmp(argv[i], "--vduse") == 0 || strncmp(argv[i], "--vduse=", 8) == 0)
			c = &carrier_vduse;
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--print-capabilities") == 0 && !ops->pci)
			printf("%s\n", ops->capabilities);
		else if (strcmp(argv[i], "--print-syscalls") == 0)
			print_syscalls(ops, c);
		else if (strcmp(argv[i], "--version") == 0)
			printf("%s %s\n", ops->program, MINIVMM_VERSION);
		else if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
			help(ops);
		else
			continue;
		return true;
	}
	return false;
}

static int places_check(const struct vdev_ops *ops, const struct settings *s, struct err *e)
{
	const int places =
		(s->path != NULL) + (s->front_end != NULL) + (s->fd >= 0) + (s->vduse.name != NULL);
	if (places == 0)
		return err_set(e, EINVAL,
			       "where to serve is missing: %s--vfio-user PATH, --connect PATH or --fd N",
			       ops->pci ? "" : "--vhost-user PATH, --vduse NAME, ");
	if (places > 1)
		return err_set(e, EINVAL, "--fd, --connect, --vduse and a socket path exclude each other");
	if (!s->vduse.name && (s->vduse.record || s->vduse.vdpa_add))
		return err_set(e, EINVAL, "--record and --vdpa-add are for --vduse");
	return 0;
}

static int parse_options(struct vdev *d, struct settings *s, int argc, char **argv, struct err *e)
{
	for (int i = 1; i < argc; i++) {
		const char *arg = strcmp(argv[i], "-v") == 0   ? "--verbose"
				  : strcmp(argv[i], "-q") == 0 ? "--quiet"
							       : argv[i];
		if (strncmp(arg, "--", 2) != 0)
			return err_set(e, EINVAL, "\"%s\": not an option (see --help)", arg);
		const char *name = arg + 2, *value = strchr(name, '=');
		size_t len = value ? (size_t)(value - name) : strlen(name);
		const struct vdev_option *own = option_find(d->ops->options, name, len);
		const struct vdev_option *o = own ? own : option_find(common_options, name, len);
		if (!o && !d->ops->pci)
			o = option_find(virtio_options, name, len);
		if (!o)
			return err_set(e, EINVAL, "--%.*s: no such option (see --help)", (int)len, name);
		if (!o->value && value)
			return err_set(e, EINVAL, "--%s takes no value", o->name);
		if (o->value && !value && i + 1 == argc)
			return err_set(e, EINVAL, "--%s: %s is missing", o->name, o->value);
		value = !o->value ? NULL : value ? value + 1 : argv[++i];
		int rc = own ? d->ops->option(d, o->name, value, e) : option_common(s, o->name, value, e);
		if (rc < 0)
			return rc;
	}
	return places_check(d->ops, s, e);
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
	int rc = loop_once(&d->loop, d->again ? 0 : timeout_ms);
	uint64_t again = d->again;
	d->again = 0;
	for (unsigned i = 0; again; i++, again >>= 1)
		if ((again & 1) && d->queues[i].running)
			d->ops->kick(d, &d->queues[i]);
	return rc;
}

static int seal(struct vdev *d, const struct settings *s, int sock, struct err *e)
{
	struct sandbox_spec spec;
	int rc = rules_collect(d->ops, s->carrier, &spec);
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
	if (answer_and_leave(ops, argc, argv))
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
	if (parse_options(d, &s, argc, argv, &e) < 0) {
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
