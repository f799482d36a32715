// SPDX-License-Identifier: BSD-2-Clause
// Messages from a vfio-user server: replies, which go to who waits for them, and commands of its own.
//
// Called by who has the reader's role, on whatever thread.  One that waits for a reply looks for it for a moment before it sleeps, and takes
// it in one piece; what comes along of a next message is kept for whoever reads next.
#include "bridges/vfio_user_link.h"

#include "vmm/base/check.h"
#include "vmm/base/err.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"

#include <errno.h>
#include <string.h>

#define ERRNO_MAX 4095

// ---- bytes --------------------------------------------------------------------------------------

int vfu_take(struct vfu_link *l, void *buf, size_t len, struct msg_fds *fds, deadline_ns deadline)
{
	const size_t n = MIN(len, (size_t)(l->ahead_len - l->ahead_at));
	memcpy(buf, l->ahead + l->ahead_at, n);
	l->ahead_at += (unsigned)n;
	return n < len ? msg_recv(l->sock, (uint8_t *)buf + n, len - n, fds, deadline) : 0;
}

// Waits for up to `most` bytes, with no descriptor among them, when none are ahead.  0 or as msg_recv().
static int look_ahead(struct vfu_link *l, size_t most, deadline_ns deadline)
{
	deadline_ns until = l->has_thread ? look_until(&l->look) : 0;
	for (;;) {
		int n = msg_recv_now(l->sock, l->ahead, most, NULL);
		if (n > 0) {
			if (until)
				look_found(&l->look);
			l->ahead_at = 0;
			l->ahead_len = (unsigned)n;
			return 0;
		}
		if (n != -EAGAIN)
			return n;
		if (until && deadline_now() < until)
			continue;
		if (until)
			look_in_vain(&l->look);
		until = 0;
		n = msg_wait(l->sock, deadline);
		if (n < 0)
			return n;
	}
}

// ---- messages -----------------------------------------------------------------------------------

static int error_of(const struct vfio_user_header *h)
{
	if (!(h->flags & VFIO_USER_ERROR))
		return 0;
	// -EPIPE is how a dead one looks.
	return h->error == 0 || h->error > ERRNO_MAX || h->error == EPIPE ? -EIO : -(int)h->error;
}

// What is wrong with a reply's header and descriptors, or NULL.
static const char *reply_wrong(const struct vfu_pending *p, const struct vfio_user_header *h,
			       unsigned fd_count)
{
	const char *wrong = vfio_user_reply_error(h, p->command, VFU_DATA_MAX);
	if (!wrong && h->size - sizeof(*h) > p->cap)
		wrong = "longer than asked for";
	if (!wrong)
		wrong = vfio_user_fds_error(vfio_user_row(p->command), true, fd_count);
	if (!wrong && fd_count && !p->fds)
		wrong = "a descriptor where none is due";
	return wrong;
}

static void reply_store(struct vfu_link *l, struct vfu_pending *p, const struct vfio_user_header *h,
			struct msg_fds *fds)
{
	p->error = error_of(h);
	if (p->posted) {
		if (p->error)
			log_limited(LOG_WARN, "%s: the server refuses %s: %s", l->id, vfu_name_of(p->command),
				    err_text(-p->error));
		p->used = false;
		return;
	}
	p->len = h->size - sizeof(*h);
	if (p->len)
		memcpy(p->buf, l->reply, p->len);
	if (p->fds) {
		*p->fds = *fds;
		fds->count = 0;
	}
	p->done = true;
}

static void receive_reply(struct vfu_link *l, const struct vfio_user_header *h, struct msg_fds *fds,
			  deadline_ns deadline)
{
	struct vfu_pending copy = { .used = false };
	pthread_mutex_lock(&l->lock);
	const struct vfu_pending *asked = vfu_pending_of(l, h->id);
	if (asked)
		copy = *asked;
	pthread_mutex_unlock(&l->lock);
	if (!asked) {
		vfu_broken(l, "sent a reply that nobody asked for");
		return;
	}
	const char *wrong = reply_wrong(&copy, h, fds->count);
	int rc = wrong ? 0 : vfu_take(l, l->reply, h->size - sizeof(*h), fds, deadline);
	if (rc < 0) {
		vfu_receive_failed(l, rc);
		return;
	}
	if (!wrong)
		wrong = reply_wrong(&copy, h, fds->count);
	if (wrong) {
		vfu_broken(l, "broke the protocol (reply to %s: %s)", vfu_name_of(copy.command), wrong);
		return;
	}
	pthread_mutex_lock(&l->lock);
	struct vfu_pending *p = vfu_pending_of(l, h->id);
	if (p)
		reply_store(l, p, h, fds);
	pthread_cond_broadcast(&l->changed);
	pthread_mutex_unlock(&l->lock);
}

static bool has_twin(struct vfu_link *l)
{
	pthread_mutex_lock(&l->lock);
	const bool twin = l->twin >= 0;
	pthread_mutex_unlock(&l->lock);
	return twin;
}

void vfu_receive(struct vfu_link *l, deadline_ns deadline, const struct vfu_pending *mine)
{
	struct vfio_user_header h = { 0 };
	struct msg_fds fds = { .count = 0 };
	int rc = 0;
	// Where descriptors may come it has to be certain which message they came with.
	if (mine && !mine->fds && !vfu_ahead(l))
		rc = look_ahead(l, MIN(sizeof(h) + mine->cap, sizeof(l->ahead)), deadline);
	if (rc == 0)
		rc = vfu_take(l, &h, sizeof(h), &fds, deadline);
	if (rc < 0) {
		vfu_receive_failed(l, rc);
		return;
	}
	if ((h.flags & VFIO_USER_TYPE_MASK) == VFIO_USER_REPLY) {
		receive_reply(l, &h, &fds, deadline);
	} else if (has_twin(l)) {
		vfu_broken(l, "sent a command on the socket of its replies");
	} else if (fds.count) {
		vfu_broken(l, "sent descriptors with a command");
	} else if (mine && l->has_thread) {
		pthread_mutex_lock(&l->lock);
		l->command = h;
		l->handed = true;
		l->reader = VFU_THREAD;
		pthread_mutex_unlock(&l->lock);
		fd_event_signal(l->wake.fd);
	} else {
		l->serve(l, l->sock, &h);
	}
	msg_fds_close(&fds);
}
