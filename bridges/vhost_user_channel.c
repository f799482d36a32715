// SPDX-License-Identifier: BSD-2-Clause
#include "bridges/vhost_user_channel.h"

#include "bridges/vhost_user_wire.h"
#include "vmm/base/check.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

#define WATCHED ((uint32_t)EPOLLIN | (uint32_t)EPOLLPRI | (uint32_t)EPOLLONESHOT)

static void channel_pause(struct vu_channel *c)
{
	const struct itimerspec t = { .it_value.tv_nsec = CHANNEL_PAUSE_MS * NS_PER_MS };
	if (timerfd_settime(c->timer.fd, 0, &t, NULL) < 0)
		vu_link_condemn(c->link, "its request channel cannot be paused");
}

static void channel_timer(struct loop_source *s, uint32_t events)
{
	(void)events;
	struct vu_channel *c = CONTAINER_OF(s, struct vu_channel, timer);
	if (fd_event_take(s->fd) && c->source.added)
		loop_modify(c->link->loop, &c->source, WATCHED);
}

const char *vu_channel_answer(struct vu_channel *c, uint32_t request, uint64_t code, int fd)
{
	struct vhost_user_header h = { .request = request,
				       .flags = VHOST_USER_VERSION | VHOST_USER_REPLY,
				       .size = sizeof(code) };
	struct iovec iov[2] = { { .iov_base = &h, .iov_len = sizeof(h) },
				{ .iov_base = &code, .iov_len = sizeof(code) } };
	const deadline_ns now_or_never = 0;
	int rc = msg_send(c->source.fd, iov, 2, &fd, fd >= 0, now_or_never);
	return rc == 0 ? NULL : "does not read the answers to its requests";
}

// Answers a request that asked for it, or always has an answer.
static const char *channel_reply(struct vu_channel *c, const struct vhost_user_header *asked,
				 const struct vhost_user_row *row, uint64_t code)
{
	const bool always = row && row->reply == VHOST_USER_REPLY_DEFINED;
	if (!always &&
	    (!(asked->flags & VHOST_USER_NEED_REPLY) || !vu_link_has(c->link, VHOST_USER_PF_BIT(REPLY_ACK))))
		return NULL;
	return vu_channel_answer(c, asked->request, code, -1);
}

// One whole request that may be made: 0, -ENOSYS for what is not done, -errno.
static int channel_do(struct vu_channel *c, uint32_t request, int fd)
{
	union {
		struct vhost_user_vring_area area;
		struct vhost_user_shmem_map map;
		struct vhost_user_uuid uuid;
	} m;
	_Static_assert(sizeof(m) <= CHANNEL_PAYLOAD, "read in whole");
	memcpy(&m, c->in + sizeof(struct vhost_user_header), sizeof(m));
	switch (request) {
	case VHOST_USER_BACKEND_CONFIG_CHANGE_MSG:
		c->changed = true;
		return 0;
	case VHOST_USER_BACKEND_VRING_HOST_NOTIFIER_MSG:
		return c->ops->doorbell_page(c, &m.area, fd);
	case VHOST_USER_BACKEND_SHMEM_MAP:
		return c->ops->shared_map(c, &m.map, fd);
	case VHOST_USER_BACKEND_SHMEM_UNMAP:
		return c->ops->shared_unmap(c, &m.map);
	case VHOST_USER_BACKEND_SHARED_OBJECT_ADD:
	case VHOST_USER_BACKEND_SHARED_OBJECT_REMOVE:
	case VHOST_USER_BACKEND_SHARED_OBJECT_LOOKUP:
		return c->ops->object(c, request, &m.uuid);
	default:
		return -ENOSYS;
	}
}

// One whole request in c->in.  NULL, or why the back-end has to go.
static const char *channel_serve(struct vu_channel *c, const struct vhost_user_header *h)
{
	const struct vhost_user_row *row = vhost_user_backend_row(h->request);
	const bool too_many = row && row->fds_max < c->fds.count;
	FD_AUTO fd = msg_fds_take_one(&c->fds);
	if (too_many)
		return "sent descriptors where none are due (request channel)";
	int rc = -ENOSYS;
	if (row && !vhost_user_request_error(h, row, c->link->protocol_features))
		rc = channel_do(c, h->request, fd);
	if (rc != -ENOSYS)
		return rc > 0 ? NULL : channel_reply(c, h, row, rc < 0);
	log_limited(LOG_INFO, "%s: the back-end asks for something that is not offered to it (%s)",
		    c->link->id, row ? row->name : "unknown request");
	return channel_reply(c, h, row, 1);
}

// Reads on until a message is whole and serves it: 1, or 0 if nothing more is there.  A reason in *why ends
// the back-end.
static int channel_step(struct vu_channel *c, const char **why)
{
	struct vhost_user_header h;
	size_t want = sizeof(h);
	if (c->have >= sizeof(h)) {
		memcpy(&h, c->in, sizeof(h));
		want += h.size;
	}
	if (c->have < want) {
		int n = msg_recv_now(c->source.fd, c->in + c->have, want - c->have, &c->fds);
		if (n == -EAGAIN)
			return 0;
		if (n == -ECONNRESET) {
			// A back-end may give the channel up and live on; it just has nothing to say.
			loop_remove(c->link->loop, &c->source);
			return 0;
		}
		if (n < 0) {
			*why = "broke the protocol on its request channel";
			return 0;
		}
		c->have += (unsigned)n;
	}
	if (c->have < sizeof(h))
		return 1;
	memcpy(&h, c->in, sizeof(h));
	if ((h.flags & ~VHOST_USER_NEED_REPLY) != VHOST_USER_VERSION || h.size > CHANNEL_PAYLOAD) {
		*why = "broke the protocol on its request channel (header)";
		return 0;
	}
	if (c->have < sizeof(h) + h.size)
		return 1;
	c->have = 0;
	*why = channel_serve(c, &h);
	return *why == NULL;
}

static void channel_ready(struct loop_source *s, uint32_t events)
{
	struct vu_channel *c = CONTAINER_OF(s, struct vu_channel, source);
	const char *why = events & EPOLLPRI ? "sent out-of-band data on its request channel" : NULL;
	c->changed = false;
	// A message may take two steps, header and payload.
	for (unsigned i = 0; !why && i < 2 * CHANNEL_BURST; i++)
		if (!channel_step(c, &why))
			break;
	if (why) {
		msg_fds_close(&c->fds);
		loop_remove(c->link->loop, s);
		vu_link_condemn(c->link, why);
		return;
	}
	if (s->added)
		channel_pause(c);
	if (c->changed)
		c->ops->config_changed(c);
}

int vu_channel_open(struct vu_channel *c, struct vu_link *link, const struct vu_channel_ops *ops)
{
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (timer < 0) {
		int rc = -errno;
		fd_close_all(pair, 2);
		return rc;
	}
	*c = (struct vu_channel){ .link = link, .ops = ops };
	c->source = (struct loop_source){ .fd = pair[0], .ready = channel_ready };
	c->timer = (struct loop_source){ .fd = timer, .ready = channel_timer };
	return pair[1];
}

int vu_channel_watch(struct vu_channel *c)
{
	if (!c->link)
		return 0;
	int rc = loop_add(c->link->loop, &c->source, WATCHED);
	return rc < 0 ? rc : loop_add(c->link->loop, &c->timer, EPOLLIN);
}

void vu_channel_close(struct vu_channel *c)
{
	if (!c->link)
		return;
	loop_remove(c->link->loop, &c->source);
	loop_remove(c->link->loop, &c->timer);
	msg_fds_close(&c->fds);
	fd_close(&c->source.fd);
	fd_close(&c->timer.fd);
	c->link = NULL;
}
