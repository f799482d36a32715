// SPDX-License-Identifier: BSD-2-Clause
// The channel on which we tell the front-end something unasked (SET_BACKEND_REQ_FD): that configuration space changed.
//
// Never waits: what the socket does not take at once is sent when it does, and any number of changes is one message.  No
// answer is asked for, so none may come.  A suspended device says nothing (vhost-user.rst, "Suspended device state").
#include "devices/sdk/vhost_user_impl.h"
#include "vmm/base/bin.h"
#include "vmm/base/check.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"

#include <errno.h>
#include <sys/socket.h>

#define QUIET ((uint32_t)EPOLLIN | (uint32_t)EPOLLRDHUP)

static bool suspended(const struct server *s)
{
	for (unsigned i = 0; i < s->d->queue_count; i++)
		if (s->ring[i].vq->running)
			return false;
	return true;
}

void vu_channel_flush(struct server *s)
{
	const uint64_t needed = VHOST_USER_PF_BIT(BACKEND_REQ) | VHOST_USER_PF_BIT(CONFIG);
	if (!s->config_pending || s->channel.fd < 0 || (s->protocol_features & needed) != needed ||
	    suspended(s))
		return;
	struct vhost_user_header h = { .request = VHOST_USER_BACKEND_CONFIG_CHANGE_MSG,
				       .flags = VHOST_USER_VERSION };
	struct iovec iov = { &h, sizeof(h) };
	const deadline_ns now_or_never = 0;
	int rc = msg_send(s->channel.fd, &iov, 1, NULL, 0, now_or_never);
	if (rc == -ETIMEDOUT) {
		loop_modify(&s->d->loop, &s->channel, QUIET | (uint32_t)EPOLLOUT);
		return;
	}
	s->config_pending = false;
	loop_modify(&s->d->loop, &s->channel, QUIET);
	if (rc < 0)
		vu_channel_close(s);
}

static void channel_ready(struct loop_source *src, uint32_t events)
{
	struct server *s = CONTAINER_OF(src, struct server, channel);
	if (events & QUIET) {
		if (!(events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)))
			log_limited(LOG_WARN, "an answer on the request channel that nobody asked for");
		vu_channel_close(s);
	} else if (events & (EPOLLHUP | EPOLLERR)) {
		vu_channel_close(s);
	} else {
		vu_channel_flush(s);
	}
}

static void config_changed(struct vdev *d)
{
	struct server *s = d->session;
	s->config_pending = true;
	vu_channel_flush(s);
}

bool vu_is_socket(int fd)
{
	const struct msghdr nothing = { 0 };
	return sendmsg(fd, &nothing, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0 || errno != ENOTSOCK;
}

int vu_on_set_backend_req_fd(struct server *s, struct request *rq)
{
	if (!vu_is_socket(rq->fds.fd[0]))
		return -ENOTSOCK;
	vu_channel_close(s);
	s->channel.fd = msg_fds_take_one(&rq->fds);
	int rc = loop_add(&s->d->loop, &s->channel, QUIET);
	if (rc < 0)
		fd_close(&s->channel.fd);
	return rc;
}

void vu_channel_init(struct server *s)
{
	s->channel = (struct loop_source){ .fd = -1, .ready = channel_ready };
	s->d->session = s;
	s->d->config_changed = config_changed;
}

void vu_channel_close(struct server *s)
{
	loop_remove(&s->d->loop, &s->channel);
	bin_put(&s->channel.fd);
}
