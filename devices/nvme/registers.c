// SPDX-License-Identifier: BSD-2-Clause
#include "devices/nvme/nvme.h"

#define TIMEOUT 20 // CAP.TO: 10 s

static uint32_t register_read(const struct nvme *n, uint64_t offset)
{
	const uint64_t cap = (NVME_ENTRIES_MAX - 1) | NVME_CAP_CQR | NVME_CAP_TO(TIMEOUT) | NVME_CAP_CSS_NVM;
	switch (offset) {
	case NVME_CAP:
		return (uint32_t)cap;
	case NVME_CAP + 4:
		return (uint32_t)(cap >> 32);
	case NVME_VS:
		return NVME_VERSION_1_4;
	case NVME_INTMS:
	case NVME_INTMC:
		return n->int_mask;
	case NVME_CC:
		return n->cc;
	case NVME_CSTS:
		return n->csts;
	case NVME_AQA:
		return n->aqa;
	case NVME_ASQ:
		return (uint32_t)n->asq;
	case NVME_ASQ + 4:
		return (uint32_t)(n->asq >> 32);
	case NVME_ACQ:
		return (uint32_t)n->acq;
	case NVME_ACQ + 4:
		return (uint32_t)(n->acq >> 32);
	default:
		return 0;
	}
}

static void half_write(uint64_t *reg, bool high, uint32_t val)
{
	*reg = high ? (uint32_t)*reg | (uint64_t)val << 32 : (*reg & ~(uint64_t)UINT32_MAX) | val;
}

static void register_write(struct nvme *n, uint64_t offset, uint32_t val)
{
	const bool enabled = n->cc & NVME_CC_EN;
	switch (offset) {
	case NVME_INTMS:
		n->int_mask |= val;
		nvme_pin_update(n);
		return;
	case NVME_INTMC:
		n->int_mask &= ~val;
		nvme_pin_update(n);
		return;
	case NVME_CC:
		nvme_configure(n, val);
		return;
	case NVME_AQA:
		n->aqa = enabled ? n->aqa : val & 0x0fff0fff;
		return;
	case NVME_ASQ:
	case NVME_ASQ + 4:
		if (!enabled)
			half_write(&n->asq, offset == NVME_ASQ + 4, val);
		return;
	case NVME_ACQ:
	case NVME_ACQ + 4:
		if (!enabled)
			half_write(&n->acq, offset == NVME_ACQ + 4, val);
		return;
	default:
		break;
	}
	if (offset >= NVME_DOORBELLS && offset < NVME_MSIX_TABLE)
		nvme_rung(n, (unsigned)(offset - NVME_DOORBELLS) / 4, val);
}

uint64_t nvme_bar_read(struct pdev *p, unsigned bar, uint64_t offset, unsigned size)
{
	(void)bar;
	if (size == 8)
		return register_read(p->priv, offset) | (uint64_t)register_read(p->priv, offset + 4) << 32;
	return size == 4 ? register_read(p->priv, offset) : 0;
}

void nvme_bar_write(struct pdev *p, unsigned bar, uint64_t offset, unsigned size, uint64_t val)
{
	(void)bar;
	if (size == 4 || (size == 8 && offset < NVME_REGS_LEN))
		register_write(p->priv, offset, (uint32_t)val);
	if (size == 8 && offset < NVME_REGS_LEN)
		register_write(p->priv, offset + 4, (uint32_t)(val >> 32));
	if (offset < NVME_REGS_LEN)
		nvme_record_set_up(p->priv);
}
