// SPDX-License-Identifier: BSD-2-Clause
#include "devices/sdk/vhost_user_impl.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"

#include <linux/virtio_config.h>

static bool needs_enable(const struct server *s)
{
	return s->features >> VHOST_USER_F_PROTOCOL_FEATURES & 1;
}

void vu_ring_failed(struct vq *q)
{
	struct ring *r = q->carrier;
	r->server->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
}

int vu_ring_start(struct ring *r)
{
	struct server *s = r->server;
	if (r->vq->running || !s->has_features || !r->has_size || !r->has_addr || r->kick.fd < 0)
		return 0;
	if (!s->started) {
		vu_state_recall(s);
		int rc = s->d->ops->start(s->d, s->features & ~PRIVATE_FEATURES);
		if (rc < 0)
			return rc;
		s->d->negotiated = s->features;
		s->started = true;
	}
	int rc = vq_start(r->vq, &s->d->mem, &r->at, s->features);
	if (rc < 0)
		return rc;
	if (!needs_enable(s))
		r->vq->enabled = true;
	r->kicked = false;
	log_debug("queue %u runs: %u entries from %#x", r->vq->index, r->at.size, r->at.base);
	vu_channel_flush(s); // what it had to keep to itself while suspended
	return 0;
}

void vu_ring_kick(struct ring *r)
{
	if (r->vq->running && r->vq->enabled)
		r->server->d->ops->kick(r->server->d, r->vq);
}

void vu_ring_kicked(struct loop_source *src, uint32_t events)
{
	struct ring *r = CONTAINER_OF(src, struct ring, kick);
	if (events & (EPOLLHUP | EPOLLERR)) {
		loop_remove(&r->server->d->loop, src);
		return;
	}
	r->kicked = true;
	if (vu_ring_start(r) < 0) {
		log_limited(LOG_WARN, "queue %u: its rings are not in guest memory", r->vq->index);
		vu_ring_failed(r->vq);
		return;
	}
	vu_ring_kick(r);
}

void vu_ring_drop_kick(struct ring *r)
{
	loop_remove(&r->server->d->loop, &r->kick);
	fd_close(&r->kick.fd);
	r->kicked = false;
}

void vu_ring_stop(struct ring *r)
{
	if (r->vq->running) {
		r->server->d->ops->drain(r->server->d, r->vq);
		if (r->vq->failed && r->at.log)
			r->at.log->version = 0; // what it holds is never to be done
		r->at.base = vq_stop(r->vq);
	}
	vu_ring_drop_kick(r);
}

void vu_stop_all(struct server *s)
{
	for (unsigned i = 0; i < s->d->queue_count; i++) {
		vu_ring_stop(&s->ring[i]);
		s->ring[i].vq->enabled = false;
	}
	s->d->again = 0;
	if (s->started)
		s->d->ops->stop(s->d);
	s->started = false;
}

void vu_relocate_all(struct server *s)
{
	for (unsigned i = 0; i < s->d->queue_count; i++) {
		struct ring *r = &s->ring[i];
		if (r->vq->running && vq_relocate(r->vq, &r->at) < 0) {
			log_limited(LOG_WARN, "queue %u lost its memory", i);
			// No kick is to start it again where it began: only the front-end may, at a place of its choice.
			r->at.base = vq_stop(r->vq);
			vu_ring_drop_kick(r);
			vu_ring_failed(r->vq);
		}
	}
}

struct ring *vu_ring(struct server *s, uint64_t index)
{
	return index < s->d->queue_count ? &s->ring[index] : NULL;
}
