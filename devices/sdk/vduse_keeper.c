// SPDX-License-Identifier: BSD-2-Clause
//
// The process beside a VDUSE device (aside.h).  It has the rights that the device gave up, and does three things for it, none of
// which the device has a say in beyond when: names and paths are the command line's.
#include "devices/sdk/vdpa_netlink.h"
#include "devices/sdk/vduse_impl.h"
#include "vmm/base/aside.h"
#include "vmm/base/check.h"
#include "vmm/base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define VHOST_VDPA_NODES 256 // as many are looked at

enum { KEEPER_OWNER, KEEPER_CONTROL, KEEPER_NETLINK }; // its descriptors

static const struct sandbox_rule rules[] = {
	SANDBOX_CALL_IF(read, "what the device asks for, and its end", 0, UINT32_MAX, KEEPER_OWNER),
	SANDBOX_CALL_IF(write, "the answer", 0, UINT32_MAX, KEEPER_OWNER),
	SANDBOX_IOCTL(VDUSE_DESTROY_DEV, "the device goes when nobody uses it"),
	SANDBOX_CALL(unlinkat, "and its record with it"),
	SANDBOX_RARE(sendto, "--vdpa-add: the vDPA device's coming and going"),
	SANDBOX_RARE(recvfrom, "--vdpa-add: the kernel's word on that"),
	SANDBOX_RARE(openat, "--vdpa-add: does a VMM hold the vDPA device?"),
	SANDBOX_RARE(open, "the same by other C libraries"),
	SANDBOX_RARE(close, "--vdpa-add: of what was opened for that"),
};

static const struct sandbox_spec spec = {
	.program = "vduse-keeper",
	.rules = rules,
	.rule_count = ARRAY_LEN(rules),
};

// The kernel removes a vDPA device that a VMM has open when the VMM closes it, and lets everybody else wait until then.
static bool held_by_vmm(const char *name)
{
	char path[64 + VDUSE_NAME_MAX];
	for (unsigned i = 0; i < VHOST_VDPA_NODES; i++) {
		snprintf(path, sizeof(path), "/sys/bus/vdpa/devices/%s/vhost-vdpa-%u", name, i);
		FD_AUTO there = open(path, O_PATH | O_CLOEXEC);
		if (there < 0)
			continue;
		snprintf(path, sizeof(path), "/dev/vhost-vdpa-%u", i);
		FD_AUTO node = open(path, O_RDWR | O_CLOEXEC);
		return node < 0 && errno == EBUSY;
	}
	return false;
}

static int add(const struct vduse_keeper *k)
{
	int rc = k->vdpa_add ? vdpa_netlink_add(KEEPER_NETLINK, k->family, k->name) : 0;
	return rc == -EEXIST ? 0 : rc; // its server was killed and came back
}

static int remove_vdpa(const struct vduse_keeper *k)
{
	if (!k->vdpa_add)
		return 0;
	if (held_by_vmm(k->name))
		return -EBUSY;
	int rc = vdpa_netlink_del(KEEPER_NETLINK, k->family, k->name);
	return rc == -ENODEV ? 0 : rc;
}

static int destroy(const struct vduse_keeper *k)
{
	char name[VDUSE_NAME_MAX] = { 0 };
	snprintf(name, sizeof(name), "%s", k->name);
	if (ioctl(KEEPER_CONTROL, VDUSE_DESTROY_DEV, name) < 0)
		return -errno;
	return unlinkat(AT_FDCWD, k->record, 0) < 0 ? -errno : 0;
}

static int do_asked(const struct vduse_keeper *k, uint8_t asked)
{
	switch (asked) {
	case VDUSE_SERVING:
		return add(k);
	case VDUSE_REMOVE:
		return remove_vdpa(k);
	case VDUSE_DESTROY:
		return destroy(k);
	default:
		return -EINVAL;
	}
}

static void keeper_run(const void *arg)
{
	const struct vduse_keeper *k = arg;
	bool served = !k->made;
	for (;;) {
		uint8_t asked;
		ssize_t n = read(KEEPER_OWNER, &asked, sizeof(asked));
		if (n < 0 && errno == EINTR)
			continue;
		if (n != sizeof(asked))
			break;
		served |= asked == VDUSE_SERVING;
		int answer = -do_asked(k, asked);
		if (write(KEEPER_OWNER, &answer, sizeof(answer)) != sizeof(answer))
			break;
	}
	if (!served)
		destroy(k);
}

int vduse_keeper_start(const struct vduse_keeper *k, struct err *e)
{
	const struct aside keeper = {
		.spec = &spec,
		.type = SOCK_SEQPACKET,
		.privileged = true,
		.fds = { k->control, k->netlink },
		.fd_count = k->vdpa_add ? KEEPER_NETLINK : KEEPER_CONTROL,
		.run = keeper_run,
		.arg = k,
	};
	return aside_start(&keeper, e);
}

void vduse_print(const char *prefix, FILE *out)
{
	sandbox_print(&spec, prefix, out);
}
