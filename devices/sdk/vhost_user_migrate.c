// SPDX-License-Identifier: BSD-2-Clause
// What a front-end needs to move a running guest: the log of dirty pages (LOG_SHMFD) and the device's state (DEVICE_STATE).
//
// The state is a header that names the program and what the device's state_save() writes.  It goes through the front-end's
// pipe: a save is one write, small enough for any fresh pipe; a load is read as it comes and checked when the front-end
// asks whether it was good.  Nothing here waits.
#include "devices/sdk/vhost_user_impl.h"
#include "vmm/base/check.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// ---- the log of dirty pages ---------------------------------------------------------------------------------------

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
	if (!vu_can_signal(rq->fds.fd[0]))
		return -EBADF;
	fd_close(&s->dirty.event_fd);
	s->dirty.event_fd = msg_fds_take_one(&rq->fds);
	int flags = fcntl(s->dirty.event_fd, F_GETFL);
	return flags < 0 || fcntl(s->dirty.event_fd, F_SETFL, flags | O_NONBLOCK) < 0 ? -errno : 0;
}

// ---- the device's state -------------------------------------------------------------------------------------------

struct state_header { // in the byte order of the host, as all of the protocol
	char magic[8];
	char program[24];
	uint32_t len; // of what follows
};

static void header_fill(const struct vdev *d, struct state_header *h, size_t len)
{
	*h = (struct state_header){ .magic = "vdevst1", .len = (uint32_t)len };
	memcpy(h->program, d->ops->program, MIN(strlen(d->ops->program), sizeof(h->program)));
}

_Static_assert(sizeof(struct state_header) <= 64, "room in struct transfer");

static void transfer_end(struct server *s)
{
	struct transfer *t = &s->transfer;
	loop_remove(&s->d->loop, &t->source);
	fd_close(&t->source.fd);
}

static int save(struct server *s, int pipe)
{
	struct transfer *t = &s->transfer;
	struct state_header h;
	size_t len = 0;
	if (s->started && s->d->ops->state_save)
		len = s->d->ops->state_save(s->d, t->bytes + sizeof(h));
	header_fill(s->d, &h, len);
	memcpy(t->bytes, &h, sizeof(h));
	len += sizeof(h);
	ssize_t n = write(pipe, t->bytes, len);
	t->failed = n != (ssize_t)len;
	return t->failed ? -EIO : 0;
}

// Reads what is there.  0: the end; -EAGAIN: there may be more; else it failed.
static int load_more(struct transfer *t)
{
	for (;;) {
		uint8_t spare; // beyond what any state of ours is
		const bool full = t->len == sizeof(t->bytes);
		ssize_t n = read(t->source.fd, full ? &spare : t->bytes + t->len,
				 full ? 1 : sizeof(t->bytes) - t->len);
		if (n == 0)
			return 0;
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (full)
			return -EMSGSIZE;
		t->len += (size_t)n;
	}
}

static void load_step(struct server *s)
{
	int rc = load_more(&s->transfer);
	if (rc == -EAGAIN)
		return;
	s->transfer.ended = true;
	s->transfer.failed = rc < 0;
	transfer_end(s);
}

static void load_ready(struct loop_source *src, uint32_t events)
{
	(void)events;
	load_step(CONTAINER_OF(src, struct server, transfer.source));
}

// Whether what was loaded is a state of this device.
static int load_check(struct server *s)
{
	struct transfer *t = &s->transfer;
	struct state_header want, got;
	if (t->failed || t->len < sizeof(got))
		return -EINVAL;
	memcpy(&got, t->bytes, sizeof(got));
	header_fill(s->d, &want, t->len - sizeof(got));
	if (memcmp(&got, &want, sizeof(got)) != 0)
		return -EINVAL;
	// A device that had not been started has none, and some never have.
	if (want.len == 0)
		return 0;
	return s->d->ops->state_load ? s->d->ops->state_load(s->d, t->bytes + sizeof(got), want.len)
				     : -EINVAL;
}

void vu_state_forget(struct server *s)
{
	if (s->d->ops->state_load)
		s->d->ops->state_load(s->d, NULL, 0);
}

int vu_on_set_device_state_fd(struct server *s, struct request *rq)
{
	const struct vhost_user_device_state p = rq->p.state_fd;
	struct transfer *t = &s->transfer;
	FD_AUTO fd = msg_fds_take_one(&rq->fds);
	struct stat st;
	int flags = fcntl(fd, F_GETFL), rc = 0;
	transfer_end(s);
	t->loading = t->ended = t->failed = false;
	t->len = 0;
	if (p.direction > VHOST_USER_STATE_LOAD || p.phase != 0)
		rc = -EINVAL;
	for (unsigned i = 0; i < s->d->queue_count && rc == 0; i++)
		rc = s->ring[i].vq->running ? -EBUSY : 0;
	if (rc == 0 && (flags < 0 || fstat(fd, &st) < 0 || !(S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode)) ||
			fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0))
		rc = -EBADF;
	if (rc == 0 && p.direction == VHOST_USER_STATE_SAVE) {
		rc = save(s, fd);
	} else if (rc == 0) {
		t->loading = true;
		t->source.fd = fd_steal(&fd);
		rc = loop_add(&s->d->loop, &t->source, EPOLLIN);
		if (rc < 0)
			transfer_end(s);
	}
	t->failed |= rc < 0;
	if (rc < 0)
		log_limited(LOG_WARN, "the device's state: %s", strerror(-rc));
	vu_reply_u64(rq, VHOST_USER_STATE_NO_FD | (rc < 0));
	return 0;
}

int vu_on_check_device_state(struct server *s, struct request *rq)
{
	struct transfer *t = &s->transfer;
	int rc = t->failed ? -EIO : 0;
	if (t->loading) {
		// A front-end asks after it closed its end, so the end is there to be read.
		if (!t->ended)
			load_step(s);
		rc = t->ended ? load_check(s) : -EAGAIN;
		transfer_end(s);
		t->loading = false;
	}
	if (rc < 0)
		log_limited(LOG_WARN, "the device's state: %s",
			    rc == -EINVAL ? "it is no state of this device" : strerror(-rc));
	vu_reply_u64(rq, rc < 0);
	return 0;
}

// ---- both ---------------------------------------------------------------------------------------------------------

void vu_migrate_init(struct server *s)
{
	s->dirty.event_fd = -1;
	s->transfer.source = (struct loop_source){ .fd = -1, .ready = load_ready };
	for (unsigned i = 0; i < s->d->queue_count; i++)
		s->ring[i].used_log_gpa = UINT64_MAX;
	vu_dirty_apply(s);
}

void vu_migrate_close(struct server *s)
{
	transfer_end(s);
	for (unsigned i = 0; i < s->d->queue_count; i++)
		s->ring[i].vq->dirty = NULL;
	dirty_close(&s->dirty);
	s->d->mem.extra[GUEST_DIRTY_LOG].map = NULL;
}
