// SPDX-License-Identifier: BSD-2-Clause
// vhost-scsi: a SCSI target of the host's (LIO), made under /sys/kernel/config/target/vhost by its administrator.
//
// The kernel serves all three queues: control, events, requests.  It takes the target when the driver starts the device, and gives it
// back when that stops, so that its LUNs may change in between.
#include "bridges/vhost_kernel_impl.h"
#include "vmm/base/virtio_id.h"

#include <endian.h>
#include <errno.h>
#include <linux/vhost.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <linux/virtio_scsi.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define VHOST_WWPN_MAX (sizeof(((struct vhost_scsi_target *)0)->vhost_wwpn) - 1)
#define TARGETS	       "/sys/kernel/config/target/vhost"
#define SECTORS_MAX    65535
#define COMMANDS_MAX   128
#define LUN_MAX	       16383
#define TARGET_MAX     255
#define SEGMENTS_MAX   126 // of a request, in a queue of 128 and more
#define EVENT_LEN      16  // struct virtio_scsi_event
#define SCSI_HOTPLUG   1   // virtio 1.2 §5.6.3

static int check_target(const char *wwpn, struct err *e)
{
	char path[sizeof(TARGETS) + 1 + VHOST_WWPN_MAX];
	if (strlen(wwpn) > VHOST_WWPN_MAX || strchr(wwpn, '/'))
		return err_set(e, EINVAL, "wwpn = %s is no target's name, such as naa.5001405000000001",
			       wwpn);
	snprintf(path, sizeof(path), "%s/%s", TARGETS, wwpn);
	if (access(path, F_OK) == 0 || errno == EACCES)
		return 0;
	return err_set(e, ENOENT,
		       "wwpn = %s: there is no such target (mkdir -p %s/tpgt_1, then a lun and a nexus)",
		       wwpn, path);
}

static int scsi_open(struct vhost_kernel *vk, const struct device_config *cfg, struct err *e)
{
	const struct virtio_scsi_config shown = {
		.num_queues = htole32(1),
		.seg_max = htole32(SEGMENTS_MAX),
		.max_sectors = htole32(SECTORS_MAX),
		.cmd_per_lun = htole32(COMMANDS_MAX),
		.event_info_size = htole32(EVENT_LEN),
		.sense_size = htole32(VIRTIO_SCSI_SENSE_DEFAULT_SIZE),
		.cdb_size = htole32(VIRTIO_SCSI_CDB_DEFAULT_SIZE),
		.max_target = htole16(TARGET_MAX),
		.max_lun = htole32(LUN_MAX),
	};
	_Static_assert(sizeof(shown) <= VHOST_KERNEL_CONFIG_MAX, "it fits");
	int abi = 0;
	int rc = vhost_call(vk->fd[0], VHOST_SCSI_GET_ABI_VERSION, &abi);
	if (rc < 0)
		return err_sys(e, -rc, "VHOST_SCSI_GET_ABI_VERSION");
	if (abi > VHOST_SCSI_ABI_VERSION)
		return err_set(e, ENOTSUP, "the kernel's vhost-scsi has ABI version %d, minivmm knows %d",
			       abi, VHOST_SCSI_ABI_VERSION);
	memcpy(vk->config, &shown, sizeof(shown));
	vk->backend.config_len = sizeof(shown);
	vk->wwpn = cfg->wwpn;
	return check_target(cfg->wwpn, e);
}

static int scsi_negotiate(struct vhost_kernel *vk, uint64_t features)
{
	(void)vk;
	(void)features;
	return 0;
}

static int endpoint(const struct vhost_kernel *vk, unsigned long request)
{
	struct vhost_scsi_target t;
	memset(&t, 0, sizeof(t));
	memcpy(t.vhost_wwpn, vk->wwpn, strlen(vk->wwpn));
	return vhost_call(vk->fd[0], request, &t);
}

static int scsi_start(struct vhost_kernel *vk)
{
	return endpoint(vk, VHOST_SCSI_SET_ENDPOINT);
}

static void scsi_stop(struct vhost_kernel *vk)
{
	endpoint(vk, VHOST_SCSI_CLEAR_ENDPOINT);
}

static void scsi_close(struct vhost_kernel *vk)
{
	(void)vk;
}

const struct vhost_kind vhost_kind_scsi = {
	.virtio_type = VIRTIO_SCSI,
	.node = "/dev/vhost-scsi",
	.module = "vhost_scsi",
	.queues = 3,
	.served = 3,
	.carried = VIRTIO_BIT(VIRTIO_F_VERSION_1) | VIRTIO_BIT(VIRTIO_RING_F_INDIRECT_DESC) |
		   VIRTIO_BIT(VIRTIO_RING_F_EVENT_IDX) | VIRTIO_BIT(VIRTIO_F_IN_ORDER) |
		   VIRTIO_BIT(SCSI_HOTPLUG),
	.open = scsi_open,
	.negotiate = scsi_negotiate,
	.start = scsi_start,
	.stop = scsi_stop,
	.close = scsi_close,
};
