// SPDX-License-Identifier: BSD-2-Clause
#include "devices/sdk/vdpa_netlink.h"

#include "vmm/base/check.h"
#include "vmm/base/fd.h"

#include <errno.h>
#include <linux/genetlink.h>
#include <linux/netlink.h>
#include <linux/vdpa.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define REPLY_MAX 4096

struct request {
	struct nlmsghdr h;
	struct genlmsghdr g;
	char attributes[1024];
};

static void begin(struct request *rq, uint16_t family, uint8_t command, uint8_t version)
{
	memset(rq, 0, sizeof(*rq));
	rq->h = (struct nlmsghdr){ .nlmsg_len = offsetof(struct request, attributes),
				   .nlmsg_type = family,
				   .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK };
	rq->g = (struct genlmsghdr){ .cmd = command, .version = version };
}

// Messages and attributes begin at multiples of four bytes; their headers' lengths are such.
static size_t padded(size_t len)
{
	return (size_t)align_up(len, NLA_ALIGNTO);
}

// False: it does not fit.
static bool add_text(struct request *rq, uint16_t type, const char *text)
{
	const size_t text_len = strlen(text) + 1,
		     used = rq->h.nlmsg_len - offsetof(struct request, attributes);
	struct nlattr a = { .nla_type = type };
	const size_t len = sizeof(a) + text_len;
	if (text_len > sizeof(rq->attributes) || !range_in(used, padded(len), sizeof(rq->attributes)))
		return false;
	a.nla_len = (uint16_t)len;
	memcpy(rq->attributes + used, &a, sizeof(a));
	memcpy(rq->attributes + used + sizeof(a), text, text_len);
	rq->h.nlmsg_len += (uint32_t)padded(len);
	return true;
}

// Looks through the kernel's attributes for a 16-bit one.  0: there is none.
static uint16_t find_u16(const char *p, size_t len, uint16_t type)
{
	struct nlattr a;
	while (len >= sizeof(a)) {
		uint16_t v;
		memcpy(&a, p, sizeof(a));
		if (a.nla_len < sizeof(a) || a.nla_len > len)
			return 0;
		if (a.nla_type == type && a.nla_len >= sizeof(a) + sizeof(v)) {
			memcpy(&v, p + sizeof(a), sizeof(v));
			return v;
		}
		const size_t step = MIN(len, padded(a.nla_len));
		p += step;
		len -= step;
	}
	return 0;
}

// Says it and takes the answers up to the acknowledgement.  `family`: where to put the family's number, if that was asked for.
static int ask(int fd, const struct request *rq, uint16_t *family)
{
	char reply[REPLY_MAX];
	struct nlmsghdr h;
	struct nlmsgerr error;
	const size_t head = sizeof(h) + sizeof(struct genlmsghdr);
	if (send(fd, rq, rq->h.nlmsg_len, 0) != (ssize_t)rq->h.nlmsg_len)
		return -errno;
	for (;;) {
		ssize_t got = recv(fd, reply, sizeof(reply), 0);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		const char *p = reply;
		for (size_t len = (size_t)got; len >= sizeof(h);) {
			memcpy(&h, p, sizeof(h));
			if (h.nlmsg_len < sizeof(h) || h.nlmsg_len > len)
				return -EPROTO;
			if (h.nlmsg_type == NLMSG_ERROR) {
				if (h.nlmsg_len < sizeof(h) + sizeof(error))
					return -EPROTO;
				memcpy(&error, p + sizeof(h), sizeof(error));
				return error.error;
			}
			if (family && h.nlmsg_len >= head)
				*family = find_u16(p + head, h.nlmsg_len - head, CTRL_ATTR_FAMILY_ID);
			const size_t step = MIN(len, padded(h.nlmsg_len));
			p += step;
			len -= step;
		}
	}
}

int vdpa_netlink_open(uint16_t *family, struct err *e)
{
	struct request rq;
	FD_AUTO fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC);
	if (fd < 0)
		return err_sys(e, errno, "netlink");
	begin(&rq, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, 1);
	add_text(&rq, CTRL_ATTR_FAMILY_NAME, VDPA_GENL_NAME);
	*family = 0;
	int rc = ask(fd, &rq, family);
	if (rc < 0 || !*family)
		return err_sys(e, rc < 0 ? -rc : ENOENT, "netlink family vdpa (modprobe vdpa)");
	return fd_steal(&fd);
}

int vdpa_netlink_add(int fd, uint16_t family, const char *name)
{
	struct request rq;
	begin(&rq, family, VDPA_CMD_DEV_NEW, VDPA_GENL_VERSION);
	if (!add_text(&rq, VDPA_ATTR_MGMTDEV_DEV_NAME, "vduse") || !add_text(&rq, VDPA_ATTR_DEV_NAME, name))
		return -ENAMETOOLONG;
	return ask(fd, &rq, NULL);
}

int vdpa_netlink_del(int fd, uint16_t family, const char *name)
{
	struct request rq;
	begin(&rq, family, VDPA_CMD_DEV_DEL, VDPA_GENL_VERSION);
	return add_text(&rq, VDPA_ATTR_DEV_NAME, name) ? ask(fd, &rq, NULL) : -ENAMETOOLONG;
}
