// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/base/loop.h"

#include <errno.h>
#include <unistd.h>

int loop_init(struct loop *l)
{
	*l = (struct loop){ .epoll_fd = epoll_create1(EPOLL_CLOEXEC) };
	return l->epoll_fd < 0 ? -errno : 0;
}

void loop_destroy(struct loop *l)
{
	if (l->epoll_fd >= 0)
		close(l->epoll_fd);
	l->epoll_fd = -1;
}

int loop_add(struct loop *l, struct loop_source *s, uint32_t events)
{
	struct epoll_event ev = { .events = events, .data.ptr = s };
	if (epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, s->fd, &ev) < 0)
		return -errno;
	s->added = true;
	return 0;
}

int loop_modify(struct loop *l, struct loop_source *s, uint32_t events)
{
	struct epoll_event ev = { .events = events, .data.ptr = s };
	return epoll_ctl(l->epoll_fd, EPOLL_CTL_MOD, s->fd, &ev) < 0 ? -errno : 0;
}

void loop_remove(struct loop *l, struct loop_source *s)
{
	if (!s->added)
		return;
	s->added = false;
	epoll_ctl(l->epoll_fd, EPOLL_CTL_DEL, s->fd, NULL);
	for (int i = l->pending_next; i < l->pending_count; i++)
		if (l->pending[i].data.ptr == s)
			l->pending[i].data.ptr = NULL;
}

int loop_once(struct loop *l, int timeout_ms)
{
	int n = epoll_wait(l->epoll_fd, l->pending, LOOP_BATCH, timeout_ms);
	if (n < 0)
		return errno == EINTR ? 0 : -errno;
	l->pending_count = n;
	for (l->pending_next = 0; l->pending_next < l->pending_count;) {
		struct epoll_event ev = l->pending[l->pending_next++];
		struct loop_source *s = ev.data.ptr;
		if (s)
			s->ready(s, ev.events);
	}
	l->pending_count = 0;
	return n;
}

int loop_run(struct loop *l)
{
	l->stopped = false;
	while (!l->stopped) {
		int rc = loop_once(l, -1);
		if (rc < 0)
			return rc;
	}
	return 0;
}

void loop_stop(struct loop *l)
{
	l->stopped = true;
}
