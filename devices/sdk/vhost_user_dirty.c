// SPDX-License-Identifier: BSD-2-Clause
// The log of dirty pages (LOG_SHMFD) as the front-end asks for it; dirty.c keeps it, virtq.c notes what goes through a queue.
#include "devices/sdk/vhost_user_impl.h"
#include "vmm/base/fd.h"

#include <errno.h>

void vu_dirty_apply(struct server *s)
{
	const bool on = s->dirty.bits && s->features >> VHOST_F_LOG_ALL & 1;
	for (unsigned i = 0; i < s->d->queue_count; i++) {
		struct ring *r = &s->ring[i];
		r->vq->dirty = on ? &s->dirty : NULL;
		r->vq->dirty_used_gpa = r->used_log_gpa;
	}
}

int vu_on_set_log_base(struct server *s, struct request *rq)
{
	if (rq->h.size != sizeof(rq->p.log) || rq->fds.count != 1)
		return -EINVAL;
	if (!guest_mem_allows(&s->d->mem, rq->fds.fd[0]))
		return -EPERM;
	int rc = dirty_open(&s->dirty, rq->fds.fd[0], rq->p.log.fd_offset, rq->p.log.size);
	if (rc < 0)
		return rc;
	s->d->mem.extra[GUEST_DIRTY_LOG].map = s->dirty.map;
	s->d->mem.extra[GUEST_DIRTY_LOG].len = s->dirty.map_len;
	vu_dirty_apply(s);
	// Empty, as it always was; a number for those who asked for one.
	rq->reply_len = 0;
	if (rq->h.flags & VHOST_USER_NEED_REPLY)
		vu_reply_u64(rq, 0);
	return 0;
}

int vu_on_set_log_fd(struct server *s, struct request *rq)
{
	int rc = fd_peer_event_check(rq->fds.fd[0]);
	if (rc < 0)
		return rc;
	fd_close(&s->dirty.event_fd);
	s->dirty.event_fd = msg_fds_take_one(&rq->fds);
	return 0;
}

void vu_dirty_init(struct server *s)
{
	s->dirty.event_fd = -1;
	for (unsigned i = 0; i < s->d->queue_count; i++)
		s->ring[i].used_log_gpa = UINT64_MAX;
	vu_dirty_apply(s);
}

void vu_dirty_close(struct server *s)
{
	for (unsigned i = 0; i < s->d->queue_count; i++)
		s->ring[i].vq->dirty = NULL;
	dirty_close(&s->dirty);
	s->d->mem.extra[GUEST_DIRTY_LOG].map = NULL;
}
