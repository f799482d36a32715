// SPDX-License-Identifier: BSD-2-Clause
#include "devices/nvme/nvme.h"
#include "vmm/base/check.h"

#include <stdio.h>
#include <string.h>

// ---- structures that the driver reads ---------------------------------------------------------------------------------

static void put16(uint8_t *at, uint16_t v)
{
	memcpy(at, &v, sizeof(v));
}

static void put32(uint8_t *at, uint32_t v)
{
	memcpy(at, &v, sizeof(v));
}

static void put64(uint8_t *at, uint64_t v)
{
	memcpy(at, &v, sizeof(v));
}

static void put_text(uint8_t *at, size_t len, const char *text)
{
	memset(at, ' ', len);
	memcpy(at, text, MIN(len, strlen(text)));
}

// §5.15.2.2, figure 251: offsets.
static void identify_controller(const struct nvme *n, uint8_t *to)
{
	char serial[sizeof(n->serial) + 1] = { 0 };
	memcpy(serial, n->serial, sizeof(n->serial));
	put16(to + 0, 0x1af4); // PCI vendor and subsystem
	put16(to + 2, 0x1af4);
	put_text(to + 4, 20, serial);
	put_text(to + 24, 40, "minivmm-nvme");
	put_text(to + 64, 8, MINIVMM_VERSION);
	to[77] = NVME_MDTS;
	put32(to + 80, NVME_VERSION_1_4);
	to[111] = 1;		       // an I/O controller
	put16(to + 256, 1u << 8);      // doorbells in memory
	to[258] = NVME_EVENTS_MAX - 1; // abort commands, event requests: 0's based
	to[259] = NVME_EVENTS_MAX - 1;
	to[260] = 3;	      // one firmware slot, read-only
	to[261] = 4;	      // log pages at offsets
	put16(to + 266, 343); // warning and critical temperature, K
	put16(to + 268, 353);
	to[512] = 0x66; // entries of 64 bytes
	to[513] = 0x44; // and of 16
	put32(to + 516, n->ns_count);
	put16(to + 520, 0x0c); // DSM, Write Zeroes
	to[525] = 7;	       // a volatile write cache; a flush names its namespace, or all
	snprintf((char *)to + 768, 256, "nqn.2024-01.io.github.minivmm:nvme:%.20s", serial);
}

static void identify_namespace(const struct nvme_namespace *ns, uint8_t *to)
{
	const uint64_t blocks = ns->img.size / ns->img.block_size;
	const uint32_t physical = ns->img.physical_block / ns->img.block_size;
	put64(to + 0, blocks);
	put64(to + 8, blocks);
	put64(to + 16, blocks);
	to[24] = 0x10; // NPWG and its like are there
	to[33] = 0x09; // what was deallocated reads as zeros; Write Zeroes may deallocate
	put16(to + 64,
	      (uint16_t)(physical - 1)); // preferred granularity and alignment of writes, of deallocation
	put16(to + 66, (uint16_t)(physical - 1));
	put16(to + 68, (uint16_t)(physical - 1));
	put16(to + 70, (uint16_t)(physical - 1));
	to[99] = ns->img.readonly; // NSATTR: write protected
	to[128 + 2] = (uint8_t)__builtin_ctz(ns->img.block_size);
}

static unsigned identify(struct nvme *n, const struct nvme_command *c, uint8_t *to)
{
	switch (c->cdw10 & 0xff) {
	case 0: // a namespace
		if (c->nsid == 0 || c->nsid > n->ns_count)
			return NVME_INVALID_NAMESPACE | NVME_DNR;
		identify_namespace(&n->ns[c->nsid - 1], to);
		return NVME_OK;
	case 1:
		identify_controller(n, to);
		return NVME_OK;
	case 2: // namespaces behind nsid
		if (c->nsid >= UINT32_MAX - 1)
			return NVME_INVALID_NAMESPACE | NVME_DNR;
		for (uint32_t i = c->nsid; i < n->ns_count; i++, to += 4)
			put32(to, i + 1);
		return NVME_OK;
	case 3: // what identifies a namespace: a UUID made of the serial number and nsid
		if (c->nsid == 0 || c->nsid > n->ns_count)
			return NVME_INVALID_NAMESPACE | NVME_DNR;
		to[0] = 3;
		to[1] = 16;
		memcpy(to + 4, n->serial, 16);
		to[19] ^= (uint8_t)c->nsid;
		return NVME_OK;
	default:
		return NVME_INVALID_FIELD | NVME_DNR;
	}
}

static unsigned log_page(const struct nvme_command *c, uint8_t *to)
{
	switch (c->cdw10 & 0xff) {
	case 1: // errors: none
		return NVME_OK;
	case 2:			    // SMART
		put16(to + 1, 300); // K
		to[3] = 100;	    // spare
		to[4] = 10;	    // its threshold
		return NVME_OK;
	case 3: // firmware
		to[0] = 1;
		put_text(to + 8, 8, MINIVMM_VERSION);
		return NVME_OK;
	default:
		return NVME_INVALID_LOG | NVME_DNR;
	}
}

// Copies [off, off + len) of a page, and zeros behind it, to where the command wants it.
static unsigned data_out(struct nvme *n, const struct nvme_command *c, const uint8_t *page, uint64_t off,
			 uint64_t len)
{
	struct iovec iov[NVME_IOVECS];
	unsigned count;
	if (len > NVME_PAGE || off % 4)
		return NVME_INVALID_FIELD | NVME_DNR;
	unsigned status = nvme_prp(n, c, len, iov, &count);
	for (unsigned i = 0; i < count && status == NVME_OK; i++) {
		const uint64_t there = off < NVME_PAGE ? MIN((uint64_t)iov[i].iov_len, NVME_PAGE - off) : 0;
		memset(iov[i].iov_base, 0, iov[i].iov_len);
		if (there)
			memcpy(iov[i].iov_base, page + off, there);
		pdev_wrote(n->p, iov[i].iov_base, iov[i].iov_len);
		off += iov[i].iov_len;
	}
	return status;
}

// ---- queues -----------------------------------------------------------------------------------------------------------

static bool qid_valid(const struct nvme *n, uint32_t qid)
{
	return qid > 0 && qid <= n->io_queues;
}

static unsigned create_check(const struct nvme *n, const struct nvme_command *c, bool taken)
{
	const uint32_t qid = c->cdw10 & 0xffff, entries = (c->cdw10 >> 16) + 1;
	if (!qid_valid(n, qid) || taken)
		return NVME_INVALID_QID | NVME_DNR;
	if (entries < 2 || entries > NVME_ENTRIES_MAX)
		return NVME_INVALID_QSIZE | NVME_DNR;
	if (!(c->cdw11 & 1)) // not in one piece: CAP.CQR
		return NVME_INVALID_FIELD | NVME_DNR;
	return c->prp1 % NVME_PAGE ? NVME_PRP_OFFSET | NVME_DNR : NVME_OK;
}

static unsigned create_cq(struct nvme *n, const struct nvme_command *c)
{
	const uint32_t qid = c->cdw10 & 0xffff, vector = c->cdw11 >> 16;
	unsigned status = create_check(n, c, qid_valid(n, qid) && n->cq[qid].size);
	if (status)
		return status;
	if (NVME_CC_IOCQES(n->cc) != 4)
		return NVME_INVALID_QSIZE | NVME_DNR;
	if (vector > n->io_queues)
		return NVME_INVALID_VECTOR | NVME_DNR;
	n->cq[qid] = (struct nvme_cq){ .base = c->prp1,
				       .size = (uint16_t)((c->cdw10 >> 16) + 1),
				       .vector = (uint16_t)vector,
				       .phase = true,
				       .interrupts = c->cdw11 & 2 };
	nvme_record_begin(&n->record->cq[qid]);
	nvme_doorbell_begin(n, 2 * qid + 1);
	return NVME_OK;
}

static unsigned create_sq(struct nvme *n, const struct nvme_command *c)
{
	const uint32_t qid = c->cdw10 & 0xffff, cqid = c->cdw11 >> 16;
	unsigned status = create_check(n, c, qid_valid(n, qid) && n->sq[qid].size);
	if (status)
		return status;
	if (NVME_CC_IOSQES(n->cc) != 6)
		return NVME_INVALID_QSIZE | NVME_DNR;
	if (!qid_valid(n, cqid) || !n->cq[cqid].size)
		return NVME_INVALID_CQ | NVME_DNR;
	n->sq[qid] = (struct nvme_sq){ .base = c->prp1,
				       .size = (uint16_t)((c->cdw10 >> 16) + 1),
				       .cqid = (uint16_t)cqid };
	nvme_record_begin(&n->record->sq[qid]);
	nvme_doorbell_begin(n, 2 * qid);
	return NVME_OK;
}

static unsigned delete_sq(struct nvme *n, const struct nvme_command *c)
{
	const uint32_t qid = c->cdw10 & 0xffff;
	if (!qid_valid(n, qid) || !n->sq[qid].size)
		return NVME_INVALID_QID | NVME_DNR;
	n->p->ops->drain(n->p); // what it has under way is completed first
	n->sq[qid].size = 0;
	return NVME_OK;
}

static unsigned delete_cq(struct nvme *n, const struct nvme_command *c)
{
	const uint32_t qid = c->cdw10 & 0xffff;
	if (!qid_valid(n, qid) || !n->cq[qid].size)
		return NVME_INVALID_QID | NVME_DNR;
	for (unsigned i = 1; i <= n->io_queues; i++)
		if (n->sq[i].size && n->sq[i].cqid == qid)
			return NVME_INVALID_DELETION | NVME_DNR;
	n->cq[qid].size = 0;
	return NVME_OK;
}

// ---- features ---------------------------------------------------------------------------------------------------------

static uint32_t feature_default(const struct nvme *n, unsigned id)
{
	switch (id) {
	case NVME_FEATURE_TEMPERATURE:
		return 343;
	case NVME_FEATURE_WRITE_CACHE:
		return 1;
	case NVME_FEATURE_QUEUES:
		return (n->io_queues - 1) * 0x10001;
	default:
		return 0;
	}
}

void nvme_features_reset(struct nvme *n)
{
	for (unsigned i = 0; i < NVME_FEATURES; i++)
		n->feature[i] = feature_default(n, i);
}

static bool feature_known(unsigned id)
{
	return id > 0 && id < NVME_FEATURES && id != 3;
}

static unsigned set_features(struct nvme *n, const struct nvme_command *c, uint32_t *dw0)
{
	const unsigned id = c->cdw10 & 0xff;
	if (c->cdw10 >> 31)
		return NVME_NOT_SAVEABLE | NVME_DNR;
	if (!feature_known(id))
		return NVME_INVALID_FIELD | NVME_DNR;
	if (id == NVME_FEATURE_QUEUES) {
		// Whatever is asked for, this many are there.
		if ((c->cdw11 & 0xffff) == 0xffff || c->cdw11 >> 16 == 0xffff)
			return NVME_INVALID_FIELD | NVME_DNR;
		*dw0 = n->feature[id];
		return NVME_OK;
	}
	if (id == NVME_FEATURE_POWER && c->cdw11 & 0x1f)
		return NVME_INVALID_FIELD | NVME_DNR;
	n->feature[id] = c->cdw11;
	return NVME_OK;
}

static unsigned get_features(struct nvme *n, const struct nvme_command *c, uint32_t *dw0)
{
	const unsigned id = c->cdw10 & 0xff, select = c->cdw10 >> 8 & 7;
	if (!feature_known(id) || select == 2 || select > 3)
		return NVME_INVALID_FIELD | NVME_DNR;
	*dw0 = select == 0 ? n->feature[id] : select == 1 ? feature_default(n, id) : 4 /* changeable */;
	return NVME_OK;
}

// ---- all of them ------------------------------------------------------------------------------------------------------

bool nvme_admin(struct nvme *n, const struct nvme_command *c, unsigned *status, uint32_t *dw0)
{
	uint8_t page[NVME_PAGE] = { 0 };
	*dw0 = 0;
	*status = c->flags & 3 ? NVME_INVALID_FIELD | NVME_DNR : NVME_OK;
	if (*status)
		return true;
	switch (c->opcode) {
	case NVME_DELETE_SQ:
		*status = delete_sq(n, c);
		break;
	case NVME_CREATE_SQ:
		*status = create_sq(n, c);
		break;
	case NVME_DELETE_CQ:
		*status = delete_cq(n, c);
		break;
	case NVME_CREATE_CQ:
		*status = create_cq(n, c);
		break;
	case NVME_IDENTIFY:
		*status = identify(n, c, page);
		if (*status == NVME_OK)
			*status = data_out(n, c, page, 0, NVME_PAGE);
		break;
	case NVME_GET_LOG_PAGE:
		*status = log_page(c, page);
		if (*status == NVME_OK)
			*status = data_out(n, c, page, (uint64_t)c->cdw13 << 32 | c->cdw12,
					   (((uint64_t)(c->cdw11 & 0xffff) << 16 | c->cdw10 >> 16) + 1) * 4);
		break;
	case NVME_SET_FEATURES:
		*status = set_features(n, c, dw0);
		break;
	case NVME_GET_FEATURES:
		*status = get_features(n, c, dw0);
		break;
	case NVME_ABORT:
		*dw0 = 1; // came too late, as it always may
		break;
	case NVME_DOORBELL_BUFFER:
		*status = nvme_doorbells_set(n, c);
		break;
	case NVME_ASYNC_EVENT:
		if (n->event_count < NVME_EVENTS_MAX) {
			n->event_count++;
			return false; // nothing ever happens that it would be told of
		}
		*status = NVME_TOO_MANY_EVENTS | NVME_DNR;
		break;
	default:
		*status = NVME_INVALID_OPCODE | NVME_DNR;
		break;
	}
	return true;
}
