// SPDX-License-Identifier: BSD-2-Clause
// What the files of the vhost-vdpa bridge share: vhost_vdpa.c (operations), vhost_vdpa_open.c (what the device is), vhost_vdpa_iotlb.c
// (which memory it sees), vhost_vdpa_gone.c (its removal).
#ifndef MINIVMM_BRIDGES_VHOST_VDPA_IMPL_H
#define MINIVMM_BRIDGES_VHOST_VDPA_IMPL_H

#include "bridges/vhost_dev.h"
#include "bridges/vhost_vdpa.h"
#include "vmm/base/loop.h"

#include <linux/vhost.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

// The kernel's values (VHOST_BACKEND_F_*); older headers lack some.
#define VDPA_F_MSG_V2		      1u
#define VDPA_F_BATCH		      2u
#define VDPA_F_ASID		      3u
#define VDPA_F_SUSPEND		      4u
#define VDPA_F_RESUME		      5u
#define VDPA_F_ENABLE_AFTER_DRIVER_OK 6u
#define VDPA_F_PERSIST		      8u

#ifndef VHOST_VDPA_RESUME // Linux 6.3
#define VHOST_VDPA_RESUME _IO(VHOST_VIRTIO, 0x7E)
#endif

#define VDPA_BIT(n) (UINT64_C(1) << (n))

#define VDPA_QUEUES_MAX 64
#define VDPA_CONFIG_MAX 4096

// Its removal while it is in use.
struct vdpa_gone {
	struct loop_source node; // inotify
	atomic_bool is;
	int let_go; // eventfd: removed, or closed here
	pthread_t thread;
	bool has_thread;
	int (*seal)(struct err *e);
};

struct vhost_vdpa {
	struct backend backend;
	const char *path;
	int fd;
	struct loop *loop;
	struct loop_source config_source; // eventfd: the configuration space has changed
	uint64_t offered;
	uint64_t kernel; // VDPA_F_* that both sides have
	uint64_t iova_first, iova_last;
	uint32_t groups;
	struct mem_table mapped;
	struct vdpa_gone gone;
	bool doorbells;			 // it has a page for each queue
	void *doorbell[VDPA_QUEUES_MAX]; // from its opening to its close
	bool running;			 // DRIVER_OK was taken
	bool standing;			 // suspended or reset, its rings are not looked at
	bool translated; // addresses are IOMMU's of the host, or looked up: the driver is not told
	uint64_t set;	 // bit per queue that was set up
};

static inline bool vdpa_has(const struct vhost_vdpa *v, unsigned feature)
{
	return v->kernel >> feature & 1;
}

extern const struct backend_ops vdpa_ops;

// Makes the device see exactly the table: nothing of an earlier one is left.  0 or -errno; then it may see a part.
int vdpa_map(struct vhost_vdpa *v, const struct mem_table *t);
// The device's own reset may have dropped its mappings: says them again if so.
int vdpa_map_after_reset(struct vhost_vdpa *v);

// Looks for the device's removal from now on.  vdpa_gone_close(): before its descriptor is closed; good after a failure.
int vdpa_gone_watch(struct vhost_vdpa *v, struct err *e);
void vdpa_gone_close(struct vhost_vdpa *v);

#endif
