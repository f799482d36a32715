// SPDX-License-Identifier: BSD-2-Clause
#include "devices/switch/switch.h"
#include "vmm/base/check.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define UPLINK_OFFLOADS (TAP_CSUM | TAP_TSO4 | TAP_TSO6 | TAP_ECN)

static void gone(struct uplink *u, struct loop *l, int error)
{
	if (error != EBADFD && error != EBADF && error != ENODEV)
		return;
	log_limited(LOG_ERROR, "tap %s is gone", u->tap.name);
	loop_remove(l, &u->source);
	fd_close(&u->tap.fd);
}

static void uplink_events(struct loop_source *s, uint32_t events)
{
	(void)events;
	CONTAINER_OF(s, struct uplink, source)->ready = true;
}

int uplink_open(struct vswitch *sw, const char *tap, struct err *e)
{
	struct uplink *u = &sw->uplink;
	int rc = tap_open(&u->tap, tap, false, e);
	if (rc < 0) {
		u->tap.fd = -1;
		return rc;
	}
	rc = tap_set_header(&u->tap, (int)NET_HEADER_MAX);
	if (rc == 0)
		rc = tap_set_offload(&u->tap, UPLINK_OFFLOADS);
	if (rc < 0)
		return err_sys(e, -rc, "tap %s: headers and offloads", u->tap.name);
	u->source = (struct loop_source){ .fd = u->tap.fd, .ready = uplink_events };
	rc = loop_add(&sw->d->loop, &u->source, EPOLLIN);
	return rc < 0 ? err_sys(e, -rc, "tap %s: epoll", u->tap.name) : 0;
}

void uplink_close(struct vswitch *sw)
{
	loop_remove(&sw->d->loop, &sw->uplink.source);
	fd_close(&sw->uplink.tap.fd);
}

bool uplink_receive(struct vswitch *sw)
{
	struct uplink *u = &sw->uplink;
	uint32_t work = 0;
	unsigned frames = 0;
	for (; u->ready && u->tap.fd >= 0 && frames < SWITCH_BUDGET && work < SWITCH_WORK; frames++) {
		ssize_t got = read(u->tap.fd, u->buffer, sizeof(u->buffer));
		if (got <= 0) {
			u->ready = false;
			if (got < 0)
				gone(u, &sw->d->loop, errno);
			break;
		}
		struct frame f = { .from = SWITCH_UPLINK, .count = 1 };
		struct iovec iov = { .iov_base = u->buffer + NET_HEADER_MAX,
				     .iov_len = (size_t)got - MIN((size_t)got, NET_HEADER_MAX) };
		memcpy(&f.h, u->buffer, sizeof(f.h));
		f.iov = &iov;
		f.len = (uint32_t)iov.iov_len;
		// What the kernel says of a frame is as a driver's word: everything may be sent this way.
		if (net_header_settle(&f.h, net_offload_features(UPLINK_OFFLOADS), f.len))
			work += forward(sw, &f);
		else
			u->counts.wrong++;
	}
	return frames > 0;
}

void uplink_deliver(struct vswitch *sw, const struct frame *f)
{
	struct uplink *u = &sw->uplink;
	struct virtio_net_hdr_v1 h = f->h;
	struct iovec iov[SWITCH_SEGS + 1] = { { .iov_base = &h, .iov_len = sizeof(h) } };
	if (u->tap.fd < 0)
		return;
	memcpy(iov + 1, f->iov, f->count * sizeof(iov[0]));
	if (writev(u->tap.fd, iov, (int)f->count + 1) >= 0) {
		u->counts.received++;
		return;
	}
	u->counts.no_buffer++;
	gone(u, &sw->d->loop, errno);
}
