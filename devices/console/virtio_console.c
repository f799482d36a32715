// SPDX-License-Identifier: BSD-2-Clause
#include "devices/console/virtio_console.h"

#include "devices/sdk/scatter.h"
#include "vmm/base/check.h"
#include "vmm/base/log.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stddef.h>
#include <string.h>

#define BIT(n)	    (UINT64_C(1) << (n))
#define CONTROL_RX  2 // to the driver
#define CONTROL_TX  3
#define MESSAGE_MAX (sizeof(struct virtio_console_control) + VCON_NAME_MAX)

// What a port may have to tell, in the order in which a driver is to hear it.
enum tell { TELL_ADD = 1, TELL_CONSOLE = 2, TELL_RESIZE = 4, TELL_NAME = 8, TELL_OPEN = 16, TELL_ALL = 31 };

// Port 0 has the first two queues, the others theirs behind the control queues (virtio 1.2 §5.3.2).
static unsigned first_queue(unsigned port)
{
	return port ? 2 * port + 2 : 0;
}

// ---- control messages to the driver -----------------------------------------------------------------------------

static void tell(struct vcon_port *p, unsigned what)
{
	struct vcon *c = p->c;
	if (!c->multiport || !what)
		return;
	p->tell |= (uint8_t)what;
	vdev_state_changed(c->d);
	vdev_again(c->d, &c->d->queues[CONTROL_RX]);
}

// The message that tells `what`; its length.
static size_t message(const struct vcon_port *p, unsigned what, uint8_t out[MESSAGE_MAX])
{
	struct virtio_console_control m = { .id = p->id };
	// virtio 1.2 §5.3.6.2 has columns first; many versions of Linux take them for rows.
	uint16_t size[2] = { p->c->config.cols, p->c->config.rows };
	const void *rest = NULL;
	size_t len = 0;
	if (what == TELL_ADD) {
		m.event = VIRTIO_CONSOLE_PORT_ADD;
	} else if (what == TELL_CONSOLE) {
		m.event = VIRTIO_CONSOLE_CONSOLE_PORT;
		m.value = 1;
	} else if (what == TELL_RESIZE) {
		m.event = VIRTIO_CONSOLE_RESIZE;
		rest = size;
		len = sizeof(size);
	} else if (what == TELL_NAME) {
		m.event = VIRTIO_CONSOLE_PORT_NAME;
		rest = p->name;
		len = strlen(p->name);
	} else {
		m.event = VIRTIO_CONSOLE_PORT_OPEN;
		m.value = p->connected;
	}
	memcpy(out, &m, sizeof(m));
	if (rest)
		memcpy(out + sizeof(m), rest, len);
	return sizeof(m) + len;
}

// False: there is no buffer.
static bool tell_one(struct vcon_port *p, unsigned what, struct vq *q)
{
	struct vq_chain c;
	uint8_t bytes[MESSAGE_MAX];
	const size_t len = message(p, what, bytes);
	if (vq_pop(q, &c, p->c->iov, VCON_SEGS) <= 0)
		return false;
	if (c.readable || c.writable_len < len)
		vq_fail(q,
			"buffer for control messages has %" PRIu64 " bytes to read and %" PRIu64 " to write",
			c.readable_len, c.writable_len);
	else
		scatter_write(p->c->iov, c.writable, 0, bytes, len);
	vq_push(q, c.head, q->failed ? 0 : (uint32_t)len);
	return !q->failed;
}

static void tell_all(struct vcon *c, struct vq *q)
{
	bool room = true;
	vq_notify_disable(q);
	for (unsigned i = 0; i < c->port_count && room; i++) {
		struct vcon_port *p = &c->port[i];
		while (p->tell && room) {
			unsigned what = p->tell & -(unsigned)p->tell;
			room = tell_one(p, what, q);
			if (room)
				p->tell &= (uint8_t)~what;
		}
	}
	vq_publish(q);
	vdev_state_changed(c->d); // not before: what is said twice does no harm
	if (!room && vq_notify_enable(q))
		vdev_again(c->d, q);
}

void vcon_connected(struct vcon_port *p)
{
	log_info("port %s: %s", p->name, p->connected ? "connected" : "disconnected");
	if (p->ready)
		tell(p, TELL_OPEN);
	vcon_port_again(p);
}

void vcon_sized(struct vcon_port *p, uint16_t cols, uint16_t rows)
{
	struct virtio_console_config *k = &p->c->config;
	if (p->id != 0 || (k->cols == cols && k->rows == rows))
		return;
	k->cols = cols;
	k->rows = rows;
	if (!(p->c->features & BIT(VIRTIO_CONSOLE_F_SIZE)))
		return;
	vdev_config_changed(p->c->d); // all that a driver without MULTIPORT hears of it
	if (p->ready)
		tell(p, TELL_RESIZE);
}

// ---- control messages of the driver -----------------------------------------------------------------------------

static void port_ready(struct vcon_port *p, bool ready)
{
	const struct virtio_console_config *k = &p->c->config;
	bool sized = k->cols && k->rows && p->c->features & BIT(VIRTIO_CONSOLE_F_SIZE);
	p->ready = ready;
	if (!ready)
		log_limited(LOG_WARN, "port %s: the driver cannot use it", p->name);
	else
		tell(p, (p->id == 0 ? TELL_CONSOLE | (sized ? TELL_RESIZE : 0) : 0) | TELL_NAME |
				(p->connected ? TELL_OPEN : 0));
}

static void port_open(struct vcon_port *p, bool open)
{
	p->open = open;
	vcon_port_receive(p);
}

static void obey(struct vcon *c, const struct virtio_console_control *m)
{
	if (m->event == VIRTIO_CONSOLE_DEVICE_READY) {
		for (unsigned i = 0; i < c->port_count && m->value; i++)
			tell(&c->port[i], TELL_ADD);
		if (!m->value)
			log_limited(LOG_WARN, "the driver cannot use the device");
	} else if (m->id >= c->port_count) {
		log_limited(LOG_DEBUG, "control message for port %u of %u", m->id, c->port_count);
	} else if (m->event == VIRTIO_CONSOLE_PORT_READY) {
		port_ready(&c->port[m->id], m->value);
	} else if (m->event == VIRTIO_CONSOLE_PORT_OPEN) {
		port_open(&c->port[m->id], m->value);
	} else {
		log_limited(LOG_DEBUG, "control message %u is none of a driver's", m->event);
	}
}

// Reads the message in a request; bytes behind it are for a future version to know.  False: too short.
static bool message_read(const struct iovec *iov, const struct vq_chain *c, struct virtio_console_control *m)
{
	if (c->readable_len < sizeof(*m))
		return false;
	scatter_read(iov, c->readable, 0, m, sizeof(*m));
	return true;
}

// A driver that has used this queue before was set up with another process of ours and will not say again what it has said.  Without
// a record all that it may have said is assumed.
static void resume(struct vcon *c, const struct vq *q)
{
	for (unsigned i = 0; i < c->port_count && q->resumed; i++) {
		c->port[i].ready = c->port[i].open = true;
		tell(&c->port[i], TELL_OPEN);
		vcon_port_again(&c->port[i]);
	}
}

static void listen_to_driver(struct vcon *c, struct vq *q)
{
	struct vq_chain chain;
	struct virtio_console_control m;
	bool more = true;
	if (!c->seen)
		resume(c, q);
	c->seen = true;
	vq_notify_disable(q);
	for (unsigned budget = VCON_TURN_REQUESTS; budget > 0 && more; budget--) {
		more = vq_pop(q, &chain, c->iov, VCON_SEGS) > 0;
		if (!more)
			break;
		if (chain.writable)
			vq_fail(q, "control message with a writable buffer");
		bool whole = !q->failed && message_read(c->iov, &chain, &m);
		if (whole) {
			obey(c, &m);
			vdev_state_changed(c->d);
		} else if (!q->failed)
			log_limited(LOG_DEBUG, "control message of %" PRIu64 " bytes", chain.readable_len);
		vq_push(q, chain.head, 0);
	}
	vq_publish(q);
	if (more || vq_notify_enable(q))
		vdev_again(c->d, q);
}

// ---- the device -------------------------------------------------------------------------------------------------

void vcon_kick(struct vcon *c, struct vq *q)
{
	unsigned id = q->index < 2 ? 0 : q->index / 2u - 1;
	if (q->index == CONTROL_RX || q->index == CONTROL_TX) {
		if (c->multiport)
			(q->index == CONTROL_RX ? tell_all : listen_to_driver)(c, q);
		return;
	}
	if (id > 0 && !c->multiport)
		return;
	vcon_host_wait(&c->port[id]);
	(q->index & 1 ? vcon_port_transmit : vcon_port_receive)(&c->port[id]);
}

// Who is at the host's end is another matter now, whatever the driver was told last.
static void go_on(struct vcon *c, const struct vcon_state *s)
{
	c->seen = s->seen;
	for (unsigned i = 0; i < c->port_count; i++) {
		struct vcon_port *p = &c->port[i];
		p->ready = s->port[i].ready;
		p->open = s->port[i].open;
		tell(p, s->port[i].tell | (p->ready ? TELL_OPEN : 0));
		vcon_port_again(p);
	}
}

void vcon_start(struct vcon *c, uint64_t features)
{
	c->features = features;
	c->multiport = features & BIT(VIRTIO_CONSOLE_F_MULTIPORT);
	c->seen = false;
	for (unsigned i = 0; i < c->port_count; i++) {
		c->port[i].rx = &c->d->queues[first_queue(i)];
		c->port[i].tx = c->port[i].rx + 1;
		c->port[i].open = i == 0 && !c->multiport; // there is nobody to say so
	}
	if (c->resume && c->multiport)
		go_on(c, c->resume);
	c->resume = NULL;
}

size_t vcon_state_save(const struct vcon *c, void *to)
{
	struct vcon_state s = { .port_count = c->port_count, .seen = c->seen };
	for (unsigned i = 0; i < c->port_count; i++) {
		s.port[i].ready = c->port[i].ready;
		s.port[i].open = c->port[i].open;
		s.port[i].tell = c->port[i].tell;
	}
	memcpy(to, &s, sizeof(s));
	return sizeof(s);
}

int vcon_state_load(struct vcon *c, const void *from, size_t len)
{
	struct vcon_state *s = &c->resumed;
	c->resume = NULL;
	if (len == 0)
		return 0;
	if (len != sizeof(*s))
		return -EINVAL;
	memcpy(s, from, sizeof(*s));
	if (s->port_count != c->port_count || s->seen > 1)
		return -EINVAL;
	for (unsigned i = 0; i < s->port_count; i++)
		if (s->port[i].ready > 1 || s->port[i].open > 1 || s->port[i].tell > TELL_ALL)
			return -EINVAL;
	c->resume = s;
	return 0;
}

void vcon_stop(struct vcon *c)
{
	for (unsigned i = 0; i < c->port_count; i++) {
		struct vcon_port *p = &c->port[i];
		p->rx = p->tx = NULL;
		p->ready = p->open = false;
		p->tell = 0;
		p->tx_done = 0;
		loop_remove(&c->d->loop, &p->out);
		vcon_host_watch(p, false);
		log_info("port %s: received %" PRIu64 ", sent %" PRIu64 ", dropped %" PRIu64, p->name,
			 p->received, p->sent, p->dropped);
	}
	c->features = 0;
	c->multiport = false;
}

static int target_parse(struct vcon_port *p, const char *target)
{
	static const struct {
		const char *prefix;
		enum vcon_kind kind;
	} kinds[] = { { "socket:", VCON_SOCKET }, { "file:", VCON_FILE }, { "fd:", VCON_FD } };
	if (strcmp(target, "stdio") == 0) {
		p->kind = VCON_STDIO;
		return 0;
	}
	if (strcmp(target, "pty") == 0) {
		p->kind = VCON_PTY;
		return 0;
	}
	for (unsigned i = 0; i < ARRAY_LEN(kinds); i++) {
		size_t n = strlen(kinds[i].prefix);
		if (strncmp(target, kinds[i].prefix, n) != 0 || !target[n])
			continue;
		p->kind = kinds[i].kind;
		p->where = p->kind == VCON_FD ? target : target + n;
		return 0;
	}
	return -EINVAL;
}

int vcon_add_port(struct vcon *c, const char *text, struct err *e)
{
	// The driver makes names of files of it.
	size_t n = strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-");
	if (n == 0 || n > VCON_NAME_MAX || text[n] != '=')
		return err_set(
			e, EINVAL,
			"--port: \"%s\" does not begin with a name (1 to %d of A-Z a-z 0-9 _ . -) and \"=\"",
			text, VCON_NAME_MAX);
	if (c->port_count == VCON_PORTS_MAX)
		return err_set(e, EINVAL, "--port: more than %d", VCON_PORTS_MAX);
	struct vcon_port *p = &c->port[c->port_count];
	*p = (struct vcon_port){ .c = c, .id = c->port_count, .keeper = -1 };
	p->in.fd = p->out.fd = p->wait.fd = -1;
	memcpy(p->name, text, n);
	if (target_parse(p, text + n + 1) < 0)
		return err_set(e, EINVAL,
			       "--port %s: \"%s\" is none of stdio, pty, socket:PATH, file:PATH, fd:N",
			       p->name, text + n + 1);
	for (unsigned i = 0; i < c->port_count; i++) {
		if (strcmp(c->port[i].name, p->name) == 0)
			return err_set(e, EINVAL, "--port %s: there are two of this name", p->name);
		if (p->kind == VCON_STDIO && c->port[i].kind == VCON_STDIO)
			return err_set(e, EINVAL, "--port %s: port %s has standard input and output already",
				       p->name, c->port[i].name);
	}
	c->port_count++;
	return 0;
}

int vcon_init(struct vcon *c, struct vdev *d, struct err *e)
{
	c->d = d;
	if (c->port_count == 0)
		return err_set(e, EINVAL, "--port is missing");
	for (unsigned i = 0; i < c->port_count; i++) {
		int rc = vcon_host_open(&c->port[i], e);
		if (rc < 0) {
			err_prefix(e, "port %s", c->port[i].name);
			return rc;
		}
	}
	c->config.max_nr_ports = c->port_count;
	d->config = &c->config;
	d->config_len = offsetof(struct virtio_console_config, emerg_wr);
	d->queue_count = (uint16_t)(2 * c->port_count + 2);
	d->queue_size_max = VQ_SIZE_MAX;
	d->features = VQ_FEATURES | VQ_FEATURE_IN_ORDER | BIT(VIRTIO_CONSOLE_F_MULTIPORT) |
		      (c->port[0].terminal ? BIT(VIRTIO_CONSOLE_F_SIZE) : 0);
	return 0;
}

void vcon_destroy(struct vcon *c)
{
	for (unsigned i = 0; i < c->port_count; i++)
		vcon_host_close(&c->port[i]);
}
