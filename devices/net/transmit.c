// SPDX-License-Identifier: BSD-2-Clause
#include "devices/net/virtio_net.h"
#include "devices/sdk/scatter.h"
#include "vmm/base/err.h"
#include "vmm/base/log.h"

#include <errno.h>

// One packet to the tap.  False: the tap takes no more for now.
static bool send_one(struct vnet_pair *p, const struct vq_chain *c)
{
	struct vnet *n = p->n;
	struct virtio_net_hdr_v1 h = { .flags = 0 };
	struct iovec *iov = n->iov + 1;
	unsigned count = c->readable;
	if (c->readable_len < n->header_len) {
		n->counts.tx_dropped++;
		return true;
	}
	// The kernel gets our copy: what was checked is what it sees.
	scatter_read(iov, count, 0, &h, n->header_len);
	scatter_drop(&iov, &count, n->header_len);
	if (!net_header_settle(&h, n->features, c->readable_len - n->header_len)) {
		log_limited(LOG_DEBUG, "packet with a wrong header dropped");
		n->counts.tx_dropped++;
		return true;
	}
	*--iov = (struct iovec){ .iov_base = &h, .iov_len = n->header_len };
	if (writev(p->tap.fd, iov, (int)count + 1) >= 0) {
		n->counts.tx++;
		return true;
	}
	if (errno == EAGAIN)
		return false;
	n->counts.tx_dropped++;
	if (!vnet_tap_gone(p, errno))
		log_limited(LOG_DEBUG, "packet refused by the kernel: %s", err_text(errno));
	return true;
}

void vnet_transmit(struct vnet_pair *p)
{
	struct vq *q = p->tx;
	struct vq_chain c;
	bool ready = vnet_pair_ready(p), full = false, more = true;
	vq_notify_disable(q);
	for (unsigned budget = VNET_BUDGET; budget > 0 && more && !full; budget--) {
		more = vq_pop(q, &c, p->n->iov + 1, VNET_SEGS) > 0;
		if (!more)
			break;
		if (c.writable)
			vq_fail(q, "packet to be sent with a writable buffer");
		else if (!ready)
			p->n->counts.tx_dropped++;
		else
			full = !send_one(p, &c);
		if (full)
			vq_unpop(q, &c);
		else
			vq_push(q, c.head, 0);
	}
	vq_publish(q);
	vnet_pair_watch(p, EPOLLOUT, full);
	if (!full && (more || vq_notify_enable(q)))
		vdev_again(p->n->d, q);
}
