// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/base/err.h"
#include "vmm/base/tap.h"

#include "vmm/base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <string.h>
#include <sys/ioctl.h>

#define TUN_DEVICE "/dev/net/tun"

// Without this, TUNSETIFF would make an interface of any name that is mistyped.
static int interface_exists(const char *name, struct err *e)
{
	size_t len = strlen(name);
	if (len == 0 || len >= IF_NAMESIZE)
		return err_set(e, EINVAL, "tap \"%s\": an interface name has 1 to %d characters", name,
			       IF_NAMESIZE - 1);
	if (if_nametoindex(name) == 0)
		return err_set(e, ENODEV,
			       "tap %s: there is no such interface (ip tuntap add %s mode tap makes one)",
			       name, name);
	return 0;
}

static int attach(int fd, const char *name, short flags)
{
	struct ifreq ifr;
	memset(&ifr, 0, sizeof(ifr));
	memcpy(ifr.ifr_name, name, strlen(name));
	ifr.ifr_flags = flags;
	return ioctl(fd, TUNSETIFF, &ifr) < 0 ? -errno : 0;
}

static int open_by_name(const char *name, bool multi_queue, struct err *e)
{
	int rc = interface_exists(name, e);
	if (rc < 0)
		return rc;
	FD_AUTO fd = open(TUN_DEVICE, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return err_sys(e, errno, "tap %s: open %s", name, TUN_DEVICE);
	const short flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
	rc = attach(fd, name, multi_queue ? flags | IFF_MULTI_QUEUE : flags);
	if (rc == -EINVAL && !multi_queue)
		rc = attach(fd, name, flags | IFF_MULTI_QUEUE); // one queue of a tap that may have more
	if (rc == -EINVAL)
		return err_set(e, EINVAL, "tap %s: not a tap%s", name,
			       multi_queue ? ", or one without multi_queue" : "");
	if (rc == -EBUSY)
		return err_set(e, EBUSY, "tap %s: another program uses it", name);
	if (rc == -EPERM)
		return err_set(e, EPERM, "tap %s: it belongs to another user (ip tuntap add ... user NAME)",
			       name);
	return rc < 0 ? err_sys(e, -rc, "tap %s: TUNSETIFF", name) : fd_steal(&fd);
}

// What a tap is, whoever opened it.
static int inspect(struct tap *t, const char *name, bool multi_queue, struct err *e)
{
	struct ifreq ifr;
	memset(&ifr, 0, sizeof(ifr));
	if (ioctl(t->fd, TUNGETIFF, &ifr) < 0)
		return err_set(e, EINVAL, "tap %s: the descriptor is not a tap's: %s", name, err_text(errno));
	memcpy(t->name, ifr.ifr_name, sizeof(t->name));
	t->name[sizeof(t->name) - 1] = '\0';
	t->multi_queue = ifr.ifr_flags & IFF_MULTI_QUEUE;
	if (!(ifr.ifr_flags & IFF_TAP) || !(ifr.ifr_flags & IFF_NO_PI))
		return err_set(e, EINVAL, "tap %s: %s is not opened as a tap without packet information",
			       name, t->name);
	if (!(ifr.ifr_flags & IFF_VNET_HDR))
		return err_set(e, EINVAL, "tap %s: %s is not opened with IFF_VNET_HDR", name, t->name);
	if (multi_queue && !t->multi_queue)
		return err_set(e, EINVAL, "tap %s: %s is not opened with IFF_MULTI_QUEUE", name, t->name);
	int flags = fcntl(t->fd, F_GETFL);
	if (flags < 0 || fcntl(t->fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return err_sys(e, errno, "tap %s: fcntl", name);
	return 0;
}

int tap_open(struct tap *t, const char *name, bool multi_queue, struct err *e)
{
	FD_AUTO fd =
		fd_is_reference(name) ? fd_open_path(name, O_RDWR, e) : open_by_name(name, multi_queue, e);
	*t = (struct tap){ .fd = fd };
	int rc = fd < 0 ? fd : inspect(t, name, multi_queue, e);
	if (rc < 0)
		t->fd = -1;
	else
		fd_steal(&fd);
	return rc;
}

int tap_set_offload(const struct tap *t, unsigned offload)
{
	return ioctl(t->fd, TUNSETOFFLOAD, (unsigned long)offload) < 0 ? -errno : 0;
}

int tap_set_header(const struct tap *t, int len)
{
	return ioctl(t->fd, TUNSETVNETHDRSZ, &len) < 0 ? -errno : 0;
}

int tap_set_queue(const struct tap *t, bool attached)
{
	struct ifreq ifr;
	memset(&ifr, 0, sizeof(ifr));
	ifr.ifr_flags = attached ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE;
	// The kernel refuses to detach one that is: as a process that was killed may have left it.
	return ioctl(t->fd, TUNSETQUEUE, &ifr) < 0 && (attached || errno != EINVAL) ? -errno : 0;
}
