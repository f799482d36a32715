// SPDX-License-Identifier: BSD-2-Clause
#include "bridges/tap_link.h"

#include "vmm/base/fd.h"

#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <string.h>
#include <sys/socket.h>

#define MESSAGE_MAX 8192

// One datagram holds some messages; what does not have its place is the end of it.
static bool says_gone(const uint8_t *text, size_t len, unsigned index)
{
	struct nlmsghdr h;
	struct ifinfomsg i;
	for (size_t at = 0; len - at >= sizeof(h); at += NLMSG_ALIGN(h.nlmsg_len)) {
		memcpy(&h, text + at, sizeof(h));
		if (h.nlmsg_len < sizeof(h) || h.nlmsg_len > len - at)
			return false;
		if (h.nlmsg_type == RTM_DELLINK && h.nlmsg_len >= NLMSG_LENGTH(sizeof(i))) {
			memcpy(&i, text + at + NLMSG_HDRLEN, sizeof(i));
			if (i.ifi_family == AF_UNSPEC && (unsigned)i.ifi_index == index)
				return true;
		}
		if (NLMSG_ALIGN(h.nlmsg_len) > len - at)
			return false;
	}
	return false;
}

// Only the kernel sends to that group.
static void link_ready(struct loop_source *s, uint32_t events)
{
	(void)events;
	struct tap_link *l = (struct tap_link *)(void *)s;
	uint8_t text[MESSAGE_MAX];
	ssize_t n = recv(s->fd, text, sizeof(text), MSG_DONTWAIT);
	if (n <= 0 || !l->index || !says_gone(text, (size_t)n, l->index))
		return;
	l->index = 0;
	l->gone(l);
}

int tap_link_watch(struct tap_link *l, const char *name, struct loop *loop, void (*gone)(struct tap_link *l),
		   struct err *e)
{
	struct sockaddr_nl to = { .nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK };
	*l = (struct tap_link){ .source = { .fd = -1, .ready = link_ready },
				.index = if_nametoindex(name),
				.gone = gone };
	if (!l->index)
		return 0;
	l->source.fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);
	if (l->source.fd < 0 || bind(l->source.fd, (struct sockaddr *)&to, sizeof(to)) < 0)
		return err_sys(e, errno, "tap %s: watch it by netlink", name);
	int rc = loop_add(loop, &l->source, EPOLLIN);
	return rc < 0 ? err_sys(e, -rc, "tap %s: watch it by netlink", name) : 0;
}

void tap_link_close(struct tap_link *l, struct loop *loop)
{
	if (l->source.fd >= 0)
		loop_remove(loop, &l->source);
	fd_close(&l->source.fd);
}
