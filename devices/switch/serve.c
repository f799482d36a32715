// SPDX-License-Identifier: BSD-2-Clause
#include "devices/switch/switch.h"

#include "vmm/base/bin.h"
#include "vmm/base/check.h"
#include "vmm/base/err.h"
#include "vmm/base/log.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#define LOOK_NS		(20 * NS_PER_MS / 1000) // between two looks at sockets and the tap while there is work
#define ACCEPT_PAUSE_MS 100
#define BIN_FULL	64 // descriptors that wait to be closed: somebody keeps making such
// A front-end says at once where memory is.  One that has not is made to leave when another needs its port.
#define SILENT_MS 2000

struct door {
	struct loop_source source;
	struct vswitch *sw;
	deadline_ns closed_until; // 0: open
};

static unsigned ports_taken(const struct vswitch *sw)
{
	unsigned n = 0;
	for (unsigned i = 0; i < sw->ports_used; i++)
		n += sw->port[i] != NULL;
	return n;
}

static void make_room(struct vswitch *sw)
{
	if (ports_taken(sw) < sw->ports_max)
		return;
	for (unsigned i = 0; i < sw->ports_used; i++) {
		struct port *p = sw->port[i];
		if (p->d.mem.count == 0 && deadline_now() - p->since > SILENT_MS * NS_PER_MS) {
			log_limited(LOG_WARN, "port %u: its front-end said nothing", i);
			port_close(p);
			return;
		}
	}
}

static void shut(struct door *door)
{
	loop_remove(&door->sw->d->loop, &door->source);
	door->closed_until = deadline_in_ms(ACCEPT_PAUSE_MS);
}

static void somebody_knocks(struct loop_source *s, uint32_t events)
{
	(void)events;
	struct door *door = CONTAINER_OF(s, struct door, source);
	if (bin_count() > BIN_FULL) {
		log_limited(LOG_WARN, "%u descriptors of front-ends that left cannot be closed: no new ones",
			    bin_count());
		shut(door);
		return;
	}
	int sock = accept4(s->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (sock >= 0) {
		make_room(door->sw);
		port_open(door->sw, sock);
		return;
	}
	if (errno == EAGAIN || errno == ECONNABORTED || errno == EINTR)
		return;
	log_limited(LOG_WARN, "accept: %s", err_text(errno));
	shut(door);
}

bool switch_round(struct vswitch *sw)
{
	bool worked = false;
	sw->now = deadline_now();
	unsigned n = sw->ports_used;
	sw->first = n ? (sw->first + 1) % n : 0;
	for (unsigned i = 0; i < n; i++) {
		struct port *p = sw->port[(sw->first + i) % n];
		if (p)
			worked |= port_transmit(p);
	}
	worked |= uplink_receive(sw);
	for (unsigned i = 0; i < n; i++) {
		struct port *p = sw->port[i];
		if (!p)
			continue;
		vq_publish(&p->queue[SWITCH_TX]);
		vq_publish(&p->queue[SWITCH_RX]);
	}
	return worked;
}

// Closes ports whose front-ends are gone or are to go.  When to do so again at the latest, in milliseconds, or -1.
static int sweep(struct vswitch *sw, struct door *door)
{
	int wake = -1;
	for (unsigned i = 0; i < sw->ports_used; i++) {
		int ms = -1;
		struct port *p = sw->port[i];
		if (!p)
			continue;
		if (p->mem_lost)
			log_limited(LOG_WARN, "port %u: its front-end took memory away", i);
		if (p->mem_lost || !sw->carrier->alive(p->session, &ms))
			port_close(p);
		else if (ms >= 0)
			wake = wake < 0 ? ms : MIN(wake, ms);
	}
	sw->mem_lost = false;
	if (door->closed_until) {
		int ms = deadline_left_ms(door->closed_until);
		if (ms == 0) {
			door->closed_until = 0;
			loop_add(&sw->d->loop, &door->source, EPOLLIN);
		} else {
			wake = wake < 0 ? ms : MIN(wake, ms);
		}
	}
	return wake;
}

// Asks all drivers for kicks.  False: one of them has sent something meanwhile.
static bool may_sleep(struct vswitch *sw)
{
	bool quiet = !sw->uplink.ready;
	for (unsigned i = 0; i < sw->ports_used; i++)
		if (sw->port[i] && vq_notify_enable(&sw->port[i]->queue[SWITCH_TX]))
			quiet = false;
	return quiet;
}

static bool stays_awake(const struct vswitch *sw)
{
	if (sw->now < sw->poller.until)
		return true;
	for (unsigned i = 0; sw->dedicated && i < sw->ports_used; i++)
		if (sw->port[i] && sw->port[i]->features)
			return true;
	return false;
}

static int switch_loop(struct vswitch *sw, struct door *door, const bool *stop)
{
	const bool listening = door->source.fd >= 0;
	deadline_ns look = 0;
	int rc = 0;
	while (rc >= 0 && !*stop) {
		if (switch_round(sw))
			poller_worked(&sw->poller);
		bool awake = stays_awake(sw);
		if (awake && sw->now < look && !sw->mem_lost)
			continue;
		int wake = sweep(sw, door);
		if (!listening && sw->ports_used == 0)
			break; // who was served is gone
		bool sleep = !awake && may_sleep(sw);
		rc = loop_once(&sw->d->loop, sleep ? wake : 0);
		if (sleep)
			poller_worked(&sw->poller); // something woke it: look around for a while
		look = sw->now + LOOK_NS;
	}
	return rc < 0 ? rc : 0;
}

int switch_serve(struct vswitch *sw, const struct carrier *c, int sock, bool listening, const bool *stop)
{
	struct door door = { .sw = sw, .source = { .fd = listening ? sock : -1, .ready = somebody_knocks } };
	int rc = 0;
	sw->carrier = c;
	if (listening)
		rc = loop_add(&sw->d->loop, &door.source, EPOLLIN);
	else
		port_open(sw, sock);
	if (rc == 0)
		rc = switch_loop(sw, &door, stop);
	loop_remove(&sw->d->loop, &door.source);
	for (unsigned i = sw->ports_used; i-- > 0;)
		if (sw->port[i])
			port_close(sw->port[i]);
	return rc;
}
