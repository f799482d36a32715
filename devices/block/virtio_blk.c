// SPDX-License-Identifier: BSD-2-Clause
#include "devices/block/virtio_blk.h"

#include "devices/sdk/scatter.h"
#include "vmm/base/check.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

#define SECTOR_SHIFT	  9
#define RANGE_SECTORS_MAX (1u << 21) // of one discard or write of zeros: 1 GiB
#define BIT(n)		  (UINT64_C(1) << (n))

// ---- requests ---------------------------------------------------------------------------------------------------

static struct vblk_request *request_take(struct vblk *b)
{
	struct vblk_request *r = b->free;
	if (r)
		b->free = r->next_free;
	else if (b->request_made < b->request_count)
		r = &b->requests[b->request_made++];
	return r;
}

static void request_release(struct vblk *b, struct vblk_request *r)
{
	r->next_free = b->free;
	b->free = r;
}

// Status byte last, then the used entry.
static void request_finish(struct vblk_request *r, uint8_t status, uint64_t written)
{
	struct vblk *b = r->b;
	struct vq *q = r->q;
	__atomic_store_n(r->status, status, __ATOMIC_RELEASE);
	vq_push(q, r->head, (uint32_t)MIN(written + 1, (uint64_t)UINT32_MAX));
	b->dirty |= BIT(q->index);
	b->worked = true;
	request_release(b, r);
}

static void request_done(struct blk_io *io, int result)
{
	struct vblk_request *r = CONTAINER_OF(io, struct vblk_request, io);
	uint8_t status = result == 0		 ? VIRTIO_BLK_S_OK
			 : result == -EOPNOTSUPP ? VIRTIO_BLK_S_UNSUPP
						 : VIRTIO_BLK_S_IOERR;
	request_finish(r, status, result == 0 ? r->written : 0);
}

static void request_submit(struct vblk_request *r, enum blk_op op)
{
	r->io.op = op;
	r->io.done = request_done;
	r->io.durable = r->b->write_through && op != BLK_READ && op != BLK_FLUSH;
	blk_engine_submit(&r->b->engine, &r->io);
}

// [sector, sector + bytes) on the disk?
static bool sectors_in(const struct vblk *b, uint64_t sector, uint64_t bytes)
{
	return sector <= b->img.size >> SECTOR_SHIFT && range_in(sector << SECTOR_SHIFT, bytes, b->img.size);
}

static void request_rw(struct vblk_request *r, enum blk_op op, uint64_t sector, uint64_t len)
{
	struct vblk *b = r->b;
	if ((op == BLK_WRITE && b->img.readonly) || len % (1u << SECTOR_SHIFT) ||
	    !sectors_in(b, sector, len)) {
		request_finish(r, VIRTIO_BLK_S_IOERR, 0);
		return;
	}
	r->written = op == BLK_READ ? len : 0;
	if (len == 0) {
		request_finish(r, VIRTIO_BLK_S_OK, 0);
		return;
	}
	r->io.off = sector << SECTOR_SHIFT;
	r->io.len = len;
	request_submit(r, op);
}

static void request_get_id(struct vblk_request *r, uint64_t room)
{
	const size_t len = MIN(room, VIRTIO_BLK_ID_BYTES);
	scatter_write(r->io.iov, r->io.iov_count, 0, r->b->serial, len);
	request_finish(r, VIRTIO_BLK_S_OK, len);
}

static void request_range(struct vblk_request *r, enum blk_op op, uint64_t len)
{
	struct vblk *b = r->b;
	struct virtio_blk_discard_write_zeroes range;
	uint32_t flags_known = op == BLK_ZERO ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0;
	if (len !=
	    sizeof(range)) { // more than the one range that the configuration space allows, or no whole one
		request_finish(r, VIRTIO_BLK_S_IOERR, 0);
		return;
	}
	scatter_read(r->io.iov, r->io.iov_count, 0, &range, sizeof(range));
	if (range.flags & ~flags_known) {
		request_finish(r, VIRTIO_BLK_S_UNSUPP, 0);
		return;
	}
	uint64_t bytes = (uint64_t)range.num_sectors << SECTOR_SHIFT;
	if (b->img.readonly || range.num_sectors > RANGE_SECTORS_MAX || !sectors_in(b, range.sector, bytes)) {
		request_finish(r, VIRTIO_BLK_S_IOERR, 0);
		return;
	}
	if (bytes == 0) {
		request_finish(r, VIRTIO_BLK_S_OK, 0);
		return;
	}
	r->io.may_unmap = range.flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
	r->io.off = range.sector << SECTOR_SHIFT;
	r->io.len = bytes;
	request_submit(r, op);
}

static void request_dispatch(struct vblk_request *r, const struct virtio_blk_outhdr *h, uint64_t out_len,
			     uint64_t in_len)
{
	switch (h->type) {
	case VIRTIO_BLK_T_IN:
		request_rw(r, BLK_READ, h->sector, in_len);
		break;
	case VIRTIO_BLK_T_OUT:
		request_rw(r, BLK_WRITE, h->sector, out_len);
		break;
	case VIRTIO_BLK_T_FLUSH:
		request_submit(r, BLK_FLUSH);
		break;
	case VIRTIO_BLK_T_GET_ID:
		request_get_id(r, in_len);
		break;
	case VIRTIO_BLK_T_DISCARD:
		request_range(r, BLK_DISCARD, out_len);
		break;
	case VIRTIO_BLK_T_WRITE_ZEROES:
		request_range(r, BLK_ZERO, out_len);
		break;
	default:
		request_finish(r, VIRTIO_BLK_S_UNSUPP, 0);
		break;
	}
}

// Takes the list apart: header, data, status.  -EPROTO if there is no place for a status.
static int request_begin(struct vblk_request *r, const struct vq_chain *c)
{
	if (c->writable_len == 0) {
		vq_fail(r->q, "block request without room for a status");
		vq_push(r->q, c->head, 0); // counted as given back, seen by nobody
		return -EPROTO;
	}
	unsigned total = c->readable + c->writable;
	struct iovec *last = &r->iov[total - 1];
	r->status = (uint8_t *)last->iov_base + last->iov_len - 1;
	last->iov_len--;
	unsigned writable = c->writable - (last->iov_len == 0);
	uint64_t in_len = c->writable_len - 1, out_len = c->readable_len;
	r->head = c->head;
	r->written = 0;
	r->io.may_unmap = false;

	struct virtio_blk_outhdr h;
	if (out_len < sizeof(h)) {
		request_finish(r, VIRTIO_BLK_S_IOERR, 0);
		return 0;
	}
	scatter_read(r->iov, c->readable, 0, &h, sizeof(h));
	out_len -= sizeof(h);
	bool reads = h.type == VIRTIO_BLK_T_IN || h.type == VIRTIO_BLK_T_GET_ID;
	r->io.iov = reads ? r->iov + c->readable : r->iov;
	r->io.iov_count = reads ? writable : c->readable;
	if (!reads)
		scatter_drop(&r->io.iov, &r->io.iov_count, sizeof(h));
	request_dispatch(r, &h, out_len, in_len);
	return 0;
}

// ---- queues -----------------------------------------------------------------------------------------------------

static void publish(struct vblk *b)
{
	if (b->worked)
		poller_worked(&b->poller);
	b->worked = false;
	while (b->dirty) {
		unsigned i = (unsigned)__builtin_ctzll(b->dirty);
		b->dirty &= b->dirty - 1;
		vq_publish(&b->d->queues[i]);
	}
	if (b->starved && b->free) {
		b->starved = false;
		for (unsigned i = 0; i < b->d->queue_count; i++)
			if (vq_has_more(&b->d->queues[i]))
				vdev_again(b->d, &b->d->queues[i]);
	}
}

void vblk_kick(struct vblk *b, struct vq *q)
{
	vq_notify_disable(q);
	bool more = true;
	for (unsigned budget = q->size; budget > 0 && more; budget--) {
		struct vblk_request *r = request_take(b);
		struct vq_chain c;
		if (!r) {
			b->starved = true;
			break;
		}
		r->b = b;
		r->q = q;
		more = vq_pop(q, &c, r->iov, VBLK_IOVECS) > 0;
		b->worked |= more;
		if (!more || request_begin(r, &c) < 0)
			request_release(b, r);
	}
	blk_engine_run(&b->engine, false);
	publish(b);
	// A starved queue goes on when a request becomes free.
	if (!b->starved && (more || poller_awake(&b->poller) || vq_notify_enable(q)))
		vdev_again(b->d, q);
}

void vblk_complete(struct vblk *b, bool wait)
{
	blk_engine_run(&b->engine, wait);
	publish(b);
}

void vblk_drain(struct vblk *b, const struct vq *q)
{
	while (b->engine.in_flight && (!q || q->in_flight))
		vblk_complete(b, true);
	publish(b);
}

// ---- configuration ----------------------------------------------------------------------------------------------

static uint8_t log2_of(uint32_t power_of_two)
{
	return (uint8_t)__builtin_ctz(power_of_two);
}

int vblk_init(struct vblk *b, struct vdev *d, uint16_t queue_count, uint16_t queue_size, struct err *e)
{
	const struct blk_image *img = &b->img;
	b->d = d;
	b->engine.ring.fd = -1; // until blk_engine_open()
	b->request_count = MIN((unsigned)queue_count * MIN(queue_size, VBLK_DEPTH), VBLK_REQUESTS_MAX);
	void *p = mmap(NULL, b->request_count * sizeof(*b->requests), PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return err_sys(e, errno, "memory for requests");
	b->requests = p;
	b->config = (struct virtio_blk_config){
		.capacity = img->size >> SECTOR_SHIFT,
		.seg_max = MIN(VBLK_SEGS_MAX, MAX(queue_size, 4u) - 2u),
		.blk_size = img->block_size,
		.physical_block_exp = log2_of(img->physical_block / img->block_size),
		.min_io_size = (uint16_t)(img->physical_block / img->block_size),
		.wce = 1,
		.num_queues = queue_count,
		.max_discard_sectors = RANGE_SECTORS_MAX,
		.max_discard_seg = 1,
		.discard_sector_alignment = img->physical_block >> SECTOR_SHIFT,
		.max_write_zeroes_sectors = RANGE_SECTORS_MAX,
		.max_write_zeroes_seg = 1,
		.write_zeroes_may_unmap = 1,
	};
	d->config = &b->config;
	d->config_len = sizeof(b->config);
	d->features = VQ_FEATURES | BIT(VIRTIO_BLK_F_SEG_MAX) | BIT(VIRTIO_BLK_F_BLK_SIZE) |
		      BIT(VIRTIO_BLK_F_TOPOLOGY) | BIT(VIRTIO_BLK_F_FLUSH) | BIT(VIRTIO_BLK_F_CONFIG_WCE) |
		      BIT(VIRTIO_BLK_F_MQ);
	d->features |= img->readonly ? BIT(VIRTIO_BLK_F_RO)
				     : BIT(VIRTIO_BLK_F_DISCARD) | BIT(VIRTIO_BLK_F_WRITE_ZEROES);
	return 0;
}

void vblk_destroy(struct vblk *b)
{
	if (b->requests)
		munmap(b->requests, b->request_count * sizeof(*b->requests));
	b->requests = NULL;
	blk_engine_close(&b->engine);
	blk_image_close(&b->img);
}

void vblk_start(struct vblk *b, uint64_t features)
{
	b->config.wce = !b->was_off;
	b->was_off = false;
	// A driver that cannot flush relies on writes being durable (virtio 1.2 §5.2.6.2).
	b->write_through = !(features & BIT(VIRTIO_BLK_F_FLUSH)) || !b->config.wce;
}

// Another image of that size may be there for a guest that moves; one of another size is another disk.
struct vblk_state {
	uint64_t size;
	uint32_t wce, zero;
};

size_t vblk_state_save(const struct vblk *b, void *to)
{
	const struct vblk_state s = { .size = b->img.size, .wce = b->config.wce };
	memcpy(to, &s, sizeof(s));
	return sizeof(s);
}

int vblk_state_load(struct vblk *b, const void *from, size_t len)
{
	struct vblk_state s;
	b->was_off = false;
	if (len == 0)
		return 0;
	if (len != sizeof(s))
		return -EINVAL;
	memcpy(&s, from, sizeof(s));
	if (s.size != b->img.size || s.wce > 1 || s.zero)
		return -EINVAL;
	b->was_off = !s.wce;
	return 0;
}

int vblk_config_write(struct vblk *b, uint32_t off, const void *p, uint32_t len)
{
	const uint8_t *wce = p;
	if (off != offsetof(struct virtio_blk_config, wce) || len != 1 || *wce > 1)
		return -EINVAL;
	b->config.wce = *wce;
	b->write_through = !*wce;
	vdev_state_changed(b->d);
	return 0;
}
