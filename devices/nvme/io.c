// SPDX-License-Identifier: BSD-2-Clause
#include "devices/nvme/nvme.h"
#include "vmm/base/check.h"

#include <errno.h>
#include <string.h>

// ---- PRPs, §4.3 -----------------------------------------------------------------------------------------------------

// One page, or the first part of one; pieces that lie side by side here are one.
static bool piece_add(struct nvme *n, uint64_t gpa, uint64_t len, struct iovec *iov, unsigned *count)
{
	uint8_t *at = pdev_memory(n->p, gpa, len);
	struct iovec *last = *count ? &iov[*count - 1] : NULL;
	if (!at)
		return false;
	if (last && (uint8_t *)last->iov_base + last->iov_len == at) {
		last->iov_len += len;
		return true;
	}
	if (*count == NVME_IOVECS)
		return false;
	iov[(*count)++] = (struct iovec){ .iov_base = at, .iov_len = len };
	return true;
}

// The list that PRP2 points to, page for page: the last entry of a page that is not the last one points to the next page.
static unsigned list_walk(struct nvme *n, uint64_t list, uint64_t len, struct iovec *iov, unsigned *count)
{
	while (len > 0) {
		uint64_t entry;
		if (list % 8)
			return NVME_PRP_OFFSET | NVME_DNR;
		if (pdev_dma_read(n->p, list, &entry, sizeof(entry)) < 0)
			return NVME_TRANSFER_ERROR;
		list += 8;
		if (list % NVME_PAGE == 0 && len > NVME_PAGE) {
			if (entry % NVME_PAGE)
				return NVME_PRP_OFFSET | NVME_DNR;
			list = entry; // 511 entries of it come first, so that `len` ends any chain
			continue;
		}
		const uint64_t part = MIN(len, (uint64_t)NVME_PAGE);
		if (entry % NVME_PAGE)
			return NVME_PRP_OFFSET | NVME_DNR;
		if (!piece_add(n, entry, part, iov, count))
			return NVME_TRANSFER_ERROR;
		len -= part;
	}
	return NVME_OK;
}

unsigned nvme_prp(struct nvme *n, const struct nvme_command *c, uint64_t len, struct iovec *iov,
		  unsigned *count)
{
	const uint64_t first = MIN(len, NVME_PAGE - c->prp1 % NVME_PAGE);
	*count = 0;
	if (c->flags & 0xc0)
		return NVME_INVALID_FIELD | NVME_DNR; // SGLs
	if (c->prp1 % 4)
		return NVME_PRP_OFFSET | NVME_DNR;
	if (first && !piece_add(n, c->prp1, first, iov, count))
		return NVME_TRANSFER_ERROR;
	len -= first;
	if (len > NVME_PAGE)
		return list_walk(n, c->prp2, len, iov, count);
	if (len == 0)
		return NVME_OK;
	if (c->prp2 % NVME_PAGE)
		return NVME_PRP_OFFSET | NVME_DNR;
	return piece_add(n, c->prp2, len, iov, count) ? NVME_OK : NVME_TRANSFER_ERROR;
}

// ---- commands -------------------------------------------------------------------------------------------------------

static void request_end(struct nvme_request *r, unsigned status)
{
	struct nvme *n = r->ns->nvme;
	const uint16_t sqid = r->sqid, cid = r->cid;
	const unsigned slot = (unsigned)(r - n->request);
	r->next_free = n->free;
	n->free = r;
	nvme_complete(n, slot, sqid, cid, status, 0);
}

static unsigned status_of(const struct blk_io *io, int result)
{
	if (result == 0)
		return NVME_OK;
	return result == -EOPNOTSUPP ? NVME_INVALID_OPCODE | NVME_DNR
	       : io->op == BLK_READ  ? NVME_READ_ERROR
				     : NVME_WRITE_FAULT;
}

static void io_done(struct blk_io *io, int result)
{
	const struct nvme_request *r = CONTAINER_OF(io, struct nvme_request, io);
	for (unsigned i = 0; i < r->iov_count && io->op == BLK_READ; i++)
		pdev_wrote(r->ns->nvme->p, r->iov[i].iov_base, r->iov[i].iov_len);
	request_end(CONTAINER_OF(io, struct nvme_request, io), status_of(io, result));
}

static void submit(struct nvme_request *r, enum blk_op op, bool durable)
{
	const struct nvme *n = r->ns->nvme;
	r->io.op = op;
	r->io.done = io_done;
	r->io.durable =
		durable || (op != BLK_READ && op != BLK_FLUSH && !(n->feature[NVME_FEATURE_WRITE_CACHE] & 1));
	blk_engine_submit(&r->ns->engine, &r->io);
}

// [lba, lba + blocks) in bytes of the image.
static bool place(const struct nvme_namespace *ns, uint64_t lba, uint64_t blocks, uint64_t *off,
		  uint64_t *len)
{
	const uint64_t total = ns->img.size / ns->img.block_size;
	if (!range_in(lba, blocks, total))
		return false;
	*off = lba * ns->img.block_size;
	*len = blocks * ns->img.block_size;
	return true;
}

static unsigned read_write(struct nvme *n, struct nvme_request *r, const struct nvme_command *c)
{
	const bool write = c->opcode == NVME_WRITE;
	if (write && r->ns->img.readonly)
		return NVME_WRITE_PROTECTED | NVME_DNR;
	if (!place(r->ns, (uint64_t)c->cdw11 << 32 | c->cdw10, (c->cdw12 & 0xffff) + UINT64_C(1), &r->io.off,
		   &r->io.len))
		return NVME_LBA_RANGE | NVME_DNR;
	if (r->io.len > (uint64_t)NVME_PAGE << NVME_MDTS)
		return NVME_INVALID_FIELD | NVME_DNR;
	unsigned status = nvme_prp(n, c, r->io.len, r->iov, &r->iov_count);
	if (status)
		return status;
	r->io.iov = r->iov;
	r->io.iov_count = r->iov_count;
	submit(r, write ? BLK_WRITE : BLK_READ, write && c->cdw12 & NVME_RW_FUA);
	return NVME_OK;
}

static unsigned write_zeroes(struct nvme_request *r, const struct nvme_command *c)
{
	if (r->ns->img.readonly)
		return NVME_WRITE_PROTECTED | NVME_DNR;
	if (!place(r->ns, (uint64_t)c->cdw11 << 32 | c->cdw10, (c->cdw12 & 0xffff) + UINT64_C(1), &r->io.off,
		   &r->io.len))
		return NVME_LBA_RANGE | NVME_DNR;
	r->io.may_unmap = c->cdw12 & NVME_WZ_DEALLOCATE;
	submit(r, BLK_ZERO, c->cdw12 & NVME_RW_FUA);
	return NVME_OK;
}

// ---- dataset management: one range after the other ------------------------------------------------------------------

static void dsm_done(struct blk_io *io, int result);

// Copies the request's next range out of guest memory.
static void range_read(const struct nvme_request *r, struct nvme_dsm_range *to)
{
	size_t at = r->range * sizeof(*to), left = sizeof(*to), done = 0;
	for (unsigned i = 0; i < r->iov_count && left; i++) {
		if (at >= r->iov[i].iov_len) {
			at -= r->iov[i].iov_len;
			continue;
		}
		const size_t n = MIN(left, r->iov[i].iov_len - at);
		memcpy((uint8_t *)to + done, (const uint8_t *)r->iov[i].iov_base + at, n);
		done += n;
		left -= n;
		at = 0;
	}
}

static void dsm_step(struct nvme_request *r)
{
	struct nvme_dsm_range range = { 0 };
	while (r->range < r->ranges) {
		range_read(r, &range);
		r->range++;
		if (!place(r->ns, range.lba, range.blocks, &r->io.off, &r->io.len)) {
			request_end(r, NVME_LBA_RANGE | NVME_DNR);
			return;
		}
		if (r->io.len == 0)
			continue;
		r->io.op = BLK_DISCARD;
		r->io.done = dsm_done;
		r->io.durable = false;
		blk_engine_submit(&r->ns->engine, &r->io);
		return;
	}
	request_end(r, NVME_OK);
}

// Deallocation is advice: an image that cannot give back blocks has taken it.
static void dsm_done(struct blk_io *io, int result)
{
	struct nvme_request *r = CONTAINER_OF(io, struct nvme_request, io);
	if (result < 0 && result != -EOPNOTSUPP)
		request_end(r, NVME_WRITE_FAULT);
	else
		dsm_step(r);
}

static unsigned dataset_management(struct nvme *n, struct nvme_request *r, const struct nvme_command *c)
{
	if (r->ns->img.readonly)
		return NVME_WRITE_PROTECTED | NVME_DNR;
	r->range = 0;
	r->ranges = c->cdw11 & NVME_DSM_DEALLOCATE ? (c->cdw10 & 0xff) + 1 : 0;
	unsigned status = nvme_prp(n, c, r->ranges * sizeof(struct nvme_dsm_range), r->iov, &r->iov_count);
	if (status)
		return status;
	dsm_step(r);
	return NVME_OK;
}

void nvme_io(struct nvme *n, struct nvme_request *r, const struct nvme_command *c)
{
	unsigned status = NVME_INVALID_OPCODE | NVME_DNR;
	const bool all = c->opcode == NVME_FLUSH && c->nsid == UINT32_MAX && n->ns_count == 1;
	r->ns = &n->ns[0];
	r->io.may_unmap = false;
	r->io.iov_count = 0;
	if (!all && (c->nsid == 0 || c->nsid > n->ns_count)) {
		request_end(r, NVME_INVALID_NAMESPACE | NVME_DNR);
		return;
	}
	r->ns = all ? &n->ns[0] : &n->ns[c->nsid - 1];
	if (c->flags & 3) {
		status = NVME_INVALID_FIELD | NVME_DNR; // fused
	} else if (c->opcode == NVME_FLUSH) {
		status = NVME_OK;
		submit(r, BLK_FLUSH, false);
	} else if (c->opcode == NVME_READ || c->opcode == NVME_WRITE) {
		status = read_write(n, r, c);
	} else if (c->opcode == NVME_WRITE_ZEROES) {
		status = write_zeroes(r, c);
	} else if (c->opcode == NVME_DSM) {
		status = dataset_management(n, r, c);
	}
	if (status)
		request_end(r, status);
}
