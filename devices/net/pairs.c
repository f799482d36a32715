// SPDX-License-Identifier: BSD-2-Clause
#include "devices/net/pairs.h"

#include "vmm/base/err.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"

#include <errno.h>
#include <stddef.h>

// The kernel spreads packets over the attached queues; the first one stays (virtio 1.2 §5.1.6.5.5: one pair at least).  It refuses to
// attach one that is, and then there is nothing to do: who gave the order before may have been killed.
static int set_pairs(void *owner, uint16_t pairs)
{
	struct net_pairs *p = owner;
	for (unsigned i = 1; i < p->count; i++) {
		const bool attach = i < pairs;
		int rc = tap_set_queue(&p->tap[i], attach);
		if (rc < 0 && rc != -EINVAL) {
			log_limited(LOG_WARN, "tap %s: %s queue %u: %s", p->tap[i].name,
				    attach ? "attach" : "detach", i, err_text(-rc));
			return rc;
		}
	}
	return 0;
}

static int set_offloads(void *owner, uint64_t guest_offloads)
{
	const struct net_pairs *p = owner;
	return tap_set_offload(&p->tap[0], net_offload_tap(guest_offloads));
}

void net_pairs_init(struct net_pairs *p, struct vdev *d)
{
	// The driver's address is configuration space, which is shown by whoever has the other queues: no command for it here.
	p->commands = (struct net_control){
		.owner = p, .pairs_max = p->count, .pairs = set_pairs, .offloads = set_offloads
	};
	p->config = (struct virtio_net_config){ .max_virtqueue_pairs = p->count };
	d->config = &p->config;
	d->config_len = offsetof(struct virtio_net_config, mtu);
	d->queue_count = (uint16_t)(2 * p->count + 1);
	d->queue_size_max = VQ_SIZE_MAX;
	d->features = VQ_FEATURES | VQ_FEATURE_IN_ORDER | NET_BIT(VIRTIO_NET_F_CTRL_VQ) |
		      NET_BIT(VIRTIO_NET_F_CTRL_RX) | NET_BIT(VIRTIO_NET_F_CTRL_RX_EXTRA) |
		      NET_BIT(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) | NET_BIT(VIRTIO_NET_F_MQ) |
		      net_offload_features(UINT32_MAX);
}

void net_pairs_destroy(struct net_pairs *p)
{
	for (unsigned i = 0; i < p->count; i++)
		fd_close(&p->tap[i].fd);
	p->count = 0;
}

void net_pairs_start(struct net_pairs *p, uint64_t features)
{
	p->commands.features = features;
	p->control = features & NET_BIT(VIRTIO_NET_F_MQ) ? 2u * p->count : 2;
}

void net_pairs_kick(struct net_pairs *p, struct vdev *d, struct vq *q)
{
	if (q->index == p->control)
		net_control_serve(&p->commands, d, q, p->iov);
}
