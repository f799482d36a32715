// SPDX-License-Identifier: BSD-2-Clause
// A carrier in memory behind bridges/vfio_ops.h: a PCI device with all kinds of capabilities, BARs and interrupts, which notes what it is
// asked and refuses what it is told to refuse.  Includes fake_kvm.h, whose memory slots it looks at.
#ifndef MINIVMM_TESTS_UNIT_FAKE_VFIO_H
#define MINIVMM_TESTS_UNIT_FAKE_VFIO_H

#include "bridges/vfio_ops.h"
#include "tests/unit/fake_kvm.h"
#include "vmm/base/check.h"
#include "vmm/memmap.h"

#include <fcntl.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <pthread.h>
#include <stdlib.h>

#define FV_REGIONS 9
#define FV_VECTORS 256
#define FV_MAPS	   8

// Where its capabilities are.
#define FV_PM	 0x40
#define FV_MSI	 0x50
#define FV_EXP	 0x70
#define FV_MSIX	 0xb0
#define FV_VNDR	 0xc0
#define FV_EA	 0xd0
#define FV_AER	 0x100
#define FV_DSN	 0x140
#define FV_SRIOV 0x160
#define FV_VSEC	 0x200

#define FV_MSIX_COUNT 80
#define FV_TABLE      0x1000 // in BAR 3
#define FV_PBA	      0x2000

struct fake_link {
	struct vfio_link link;
	uint8_t config[4096];
	struct vfio_region region[FV_REGIONS];
	uint8_t *memory[FV_REGIONS]; // of the BARs
	struct vfio_irq irq[5];
	int fd[5][FV_VECTORS]; // what each vector signals, -1: nothing
	int unmask_fd;
	bool refuses_unmask_fd;
	unsigned most_vectors; // that its host has, 0: as many as it shows
	int dma_fails_at;      // the n-th mapping, from 1
	unsigned dma_count, dma_calls, dma_mistakes;
	uint64_t dma[FV_MAPS];
	bool fails_access, dead, reset_fails;
	unsigned reads, writes, resets, closes, irq_calls, disables[5], unmasks, config_writes;
	unsigned last_index, last_len;
	uint64_t last_offset, last_val;
	bool last_posted;
	uint16_t command; // as last written
	unsigned command_writes;
	unsigned slots_when_off; // KVM's slots when COMMAND.MEM was last written as 0
	unsigned slots_when_on;
	unsigned slots_when_reset;
	uint16_t command_when_reset;
	struct vfio_doorbell doorbell;
	bool has_doorbell; // in BAR 1
	bool has_thread;   // which close() waits for
	pthread_t thread;
};

static inline struct fake_link *fv_of(struct vfio_link *l)
{
	return CONTAINER_OF(l, struct fake_link, link);
}

static inline int fv_region_info(struct vfio_link *l, unsigned index, struct vfio_region *out)
{
	if (index >= FV_REGIONS || !fv_of(l)->region[index].size)
		return -ENOENT;
	*out = fv_of(l)->region[index];
	return 0;
}

static inline int fv_irq_info(struct vfio_link *l, unsigned index, struct vfio_irq *out)
{
	if (index >= 5)
		return -ENOENT;
	*out = fv_of(l)->irq[index];
	return 0;
}

static inline uint8_t *fv_bytes(struct fake_link *f, unsigned index, uint64_t offset, size_t len)
{
	uint64_t size = index < FV_REGIONS ? f->region[index].size : 0;
	uint8_t *p = index == VFIO_PCI_CONFIG_REGION_INDEX ? f->config
		     : index < FV_REGIONS		   ? f->memory[index]
							   : NULL;
	if (!p || !range_in(offset, len, size))
		abort();
	return p + offset;
}

static inline int fv_region_read(struct vfio_link *l, unsigned index, uint64_t offset, void *buf, size_t len)
{
	struct fake_link *f = fv_of(l);
	f->reads++;
	if (f->dead || f->fails_access)
		return f->dead ? -EPIPE : -EIO;
	memcpy(buf, fv_bytes(f, index, offset, len), len);
	return 0;
}

static inline unsigned fv_slots(void)
{
	unsigned n = 0;
	for (unsigned i = 0; i < fake.slot_count; i++)
		n += fake.slot[i].fd >= MEM_REGIONS_MAX;
	return n;
}

static inline int fv_region_write(struct vfio_link *l, unsigned index, uint64_t offset, const void *buf,
				  size_t len, bool posted)
{
	struct fake_link *f = fv_of(l);
	f->writes++;
	f->last_posted = posted;
	if (f->dead || f->fails_access)
		return f->dead ? -EPIPE : -EIO;
	f->last_index = index;
	f->last_offset = offset;
	f->last_len = (unsigned)len;
	f->last_val = 0;
	memcpy(&f->last_val, buf, MIN(len, sizeof(f->last_val)));
	memcpy(fv_bytes(f, index, offset, len), buf, len);
	if (index != VFIO_PCI_CONFIG_REGION_INDEX)
		return 0;
	f->config_writes++;
	if (offset == FV_MSIX + PCI_MSIX_FLAGS) // the number of vectors is not to be written
		f->config[offset] = FV_MSIX_COUNT - 1;
	if (offset == PCI_COMMAND) {
		f->command = (uint16_t)f->last_val;
		f->command_writes++;
		if (f->command & PCI_COMMAND_MEMORY)
			f->slots_when_on = fv_slots();
		else
			f->slots_when_off = fv_slots();
	}
	return 0;
}

static inline int fv_region_doorbells(struct vfio_link *l, unsigned index, struct vfio_doorbell *out,
				      unsigned room)
{
	struct fake_link *f = fv_of(l);
	if (!f->has_doorbell || index != 1 || room == 0)
		return 0;
	out[0] = f->doorbell;
	return 1;
}

static inline int fv_irq_set(struct vfio_link *l, unsigned index, enum vfio_irq_action action, unsigned start,
			     unsigned count, const int *fds)
{
	struct fake_link *f = fv_of(l);
	f->irq_calls++;
	if (f->dead)
		return -EPIPE;
	if (index >= 5 || !range_in(start, count, FV_VECTORS) || start + count > f->irq[index].count)
		return -EINVAL;
	if (action == VFIO_LINK_UNMASK && fds) {
		if (f->refuses_unmask_fd)
			return -ENOTTY;
		f->unmask_fd = fds[0];
		return 0;
	}
	if (action == VFIO_LINK_UNMASK) {
		f->unmasks++;
		return 0;
	}
	if (!fds && count == 0) {
		for (unsigned i = 0; i < FV_VECTORS; i++)
			f->fd[index][i] = -1;
		if (index == VFIO_PCI_INTX_IRQ_INDEX)
			f->unmask_fd = -1;
		f->disables[index]++;
	}
	if (fds && f->most_vectors && start + count > f->most_vectors)
		return -ENOSPC;
	for (unsigned i = 0; fds && i < count; i++)
		f->fd[index][start + i] = fds[i];
	return 0;
}

static inline int fv_dma_map(struct vfio_link *l, const struct mem_region *r, struct err *e)
{
	struct fake_link *f = fv_of(l);
	if ((int)++f->dma_calls == f->dma_fails_at)
		return err_set(e, ENOMEM, "%s: raise ulimit -l by %llu KiB", l->id,
			       (unsigned long long)r->size >> 10);
	if (f->dma_count == FV_MAPS)
		abort();
	f->dma[f->dma_count++] = r->gpa;
	return 0;
}

static inline int fv_dma_unmap(struct vfio_link *l, uint64_t gpa, uint64_t size)
{
	struct fake_link *f = fv_of(l);
	(void)size;
	if (f->dma_count == 0 || f->dma[f->dma_count - 1] != gpa) // in reverse
		f->dma_mistakes++;
	else
		f->dma_count--;
	return f->dead ? -EPIPE : 0;
}

static inline int fv_reset(struct vfio_link *l)
{
	struct fake_link *f = fv_of(l);
	f->resets++;
	f->slots_when_reset = fv_slots();
	f->command_when_reset = f->command;
	f->config[PCI_COMMAND] = f->config[PCI_COMMAND + 1] = 0;
	return f->dead ? -EPIPE : f->reset_fails ? -EIO : 0;
}

static inline void fv_close(struct vfio_link *l)
{
	fv_of(l)->closes++;
	if (fv_of(l)->has_thread)
		pthread_join(fv_of(l)->thread, NULL);
}

static const struct vfio_link_ops fv_ops = {
	.kind = "fake",
	.region_info = fv_region_info,
	.region_read = fv_region_read,
	.region_write = fv_region_write,
	.region_doorbells = fv_region_doorbells,
	.irq_info = fv_irq_info,
	.irq_set = fv_irq_set,
	.dma_map = fv_dma_map,
	.dma_unmap = fv_dma_unmap,
	.reset = fv_reset,
	.close = fv_close,
};

static inline void fv_put16(struct fake_link *f, unsigned at, unsigned v)
{
	f->config[at] = (uint8_t)v;
	f->config[at + 1] = (uint8_t)(v >> 8);
}

static inline void fv_put32(struct fake_link *f, unsigned at, uint32_t v)
{
	fv_put16(f, at, v & 0xffff);
	fv_put16(f, at + 2, v >> 16);
}

static inline void fv_capability(struct fake_link *f, unsigned at, unsigned id, unsigned next)
{
	f->config[at] = (uint8_t)id;
	f->config[at + 1] = (uint8_t)next;
}

static inline void fv_region(struct fake_link *f, unsigned index, uint64_t size, bool mappable)
{
	int fd = -1;
	if (mappable) {
		fd = memfd_create("bar", MFD_CLOEXEC | MFD_ALLOW_SEALING);
		if (fd < 0 || ftruncate(fd, (off_t)size) < 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) < 0)
			abort();
		f->memory[index] = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	} else {
		f->memory[index] = calloc(1, (size_t)size);
	}
	f->region[index] = (struct vfio_region){
		.size = size,
		.readable = true,
		.writable = index != VFIO_PCI_ROM_REGION_INDEX,
		.fd = fd,
		.area_count = mappable,
		.area = { { .offset = 0, .size = size } },
	};
}

// A device as it comes; a test changes what it likes before it is made a function.
static inline void fv_init(struct fake_link *f)
{
	*f = (struct fake_link){ .link = { .ops = &fv_ops, .id = "dev0", .can_reset = true },
				 .unmask_fd = -1 };
	memset(f->fd, 0xff, sizeof(f->fd));
	fv_put32(f, PCI_VENDOR_ID, 0x10d38086);
	fv_put32(f, PCI_CLASS_REVISION, 0x02000003);
	fv_put16(f, PCI_STATUS, PCI_STATUS_CAP_LIST | PCI_STATUS_INTERRUPT);
	f->config[PCI_HEADER_TYPE] = 0x80; // of several functions, on its host
	fv_put32(f, PCI_SUBSYSTEM_VENDOR_ID, 0x00018086);
	f->config[PCI_CAPABILITY_LIST] = FV_PM;
	f->config[PCI_INTERRUPT_PIN] = 3;
	f->config[0x3e] = 0x11;

	fv_capability(f, FV_PM, PCI_CAP_ID_PM, FV_MSI);
	fv_put16(f, FV_PM + PCI_PM_PMC, 0xfe03); // PME from all states, D1, D2
	fv_put16(f, FV_PM + PCI_PM_CTRL, PCI_PM_CTRL_PME_ENABLE | PCI_PM_CTRL_NO_SOFT_RESET);
	fv_capability(f, FV_MSI, PCI_CAP_ID_MSI, FV_EXP);
	fv_put16(f, FV_MSI + PCI_MSI_FLAGS,
		 PCI_MSI_FLAGS_64BIT | PCI_MSI_FLAGS_MASKBIT | 2 << 1); // 4 vectors
	fv_capability(f, FV_EXP, PCI_CAP_ID_EXP, FV_EA);
	fv_put16(f, FV_EXP + PCI_EXP_FLAGS, 2 | 9 << 9); // an endpoint
	fv_put32(f, FV_EXP + PCI_EXP_DEVCAP, PCI_EXP_DEVCAP_FLR | PCI_EXP_DEVCAP_PHANTOM | 1);
	fv_put16(f, FV_EXP + PCI_EXP_DEVCTL, 0x2810);
	fv_put32(f, FV_EXP + PCI_EXP_LNKCAP, 0x00477c11);
	fv_capability(f, FV_EA, PCI_CAP_ID_EA, FV_MSIX);
	fv_put16(f, FV_EA + 2, 0x1111);
	fv_capability(f, FV_MSIX, PCI_CAP_ID_MSIX, FV_VNDR);
	fv_put16(f, FV_MSIX + PCI_MSIX_FLAGS, FV_MSIX_COUNT - 1);
	fv_put32(f, FV_MSIX + PCI_MSIX_TABLE, FV_TABLE | 3);
	fv_put32(f, FV_MSIX + PCI_MSIX_PBA, FV_PBA | 3);
	fv_capability(f, FV_VNDR, PCI_CAP_ID_VNDR, 0);
	fv_put32(f, FV_VNDR + 4, 0x5a5a5a5a);

	fv_put32(f, FV_AER, 0x00010001 | FV_DSN << 20);
	fv_put32(f, FV_DSN, 0x00010003 | FV_SRIOV << 20);
	fv_put32(f, FV_DSN + 4, 0x12345678);
	fv_put32(f, FV_SRIOV, 0x00010010 | FV_VSEC << 20);
	fv_put32(f, FV_VSEC, 0x0001000b);
	fv_put32(f, FV_VSEC + 4, 0x01000001); // 16 bytes

	fv_region(f, 0, 0x20000, true);
	fv_region(f, 1, 0x80, false);
	fv_region(f, 2, 0x20, false);
	f->config[PCI_BASE_ADDRESS_2] = PCI_BASE_ADDRESS_SPACE_IO;
	fv_region(f, 3, 0x4000, true);
	f->config[PCI_BASE_ADDRESS_3] = PCI_BASE_ADDRESS_MEM_TYPE_64 | PCI_BASE_ADDRESS_MEM_PREFETCH;
	fv_region(f, VFIO_PCI_ROM_REGION_INDEX, 0xc00, false);
	f->region[VFIO_PCI_CONFIG_REGION_INDEX] =
		(struct vfio_region){ .size = 4096, .readable = true, .writable = true, .fd = -1 };

	f->irq[VFIO_PCI_INTX_IRQ_INDEX] =
		(struct vfio_irq){ .count = 1, .eventfd = true, .automasked = true };
	f->irq[VFIO_PCI_MSI_IRQ_INDEX] = (struct vfio_irq){ .count = 4, .eventfd = true, .noresize = true };
	f->irq[VFIO_PCI_MSIX_IRQ_INDEX] =
		(struct vfio_irq){ .count = FV_MSIX_COUNT, .eventfd = true, .noresize = true };
	f->irq[VFIO_PCI_ERR_IRQ_INDEX] = f->irq[VFIO_PCI_REQ_IRQ_INDEX] =
		(struct vfio_irq){ .count = 1, .eventfd = true };
}

static inline void fv_free(struct fake_link *f)
{
	for (unsigned i = 0; i < FV_REGIONS; i++) {
		if (f->region[i].size && f->region[i].fd >= 0) {
			munmap(f->memory[i], (size_t)f->region[i].size);
			close(f->region[i].fd);
		} else {
			free(f->memory[i]);
		}
	}
}

#endif
