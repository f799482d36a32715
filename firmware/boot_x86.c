// SPDX-License-Identifier: BSD-2-Clause
#include "firmware/boot_x86.h"

#include "firmware/bzimage.h"
#include "firmware/elf.h"
#include "firmware/layout_x86.h"
#include "firmware/le.h"
#include "firmware/pvh.h"
#include "firmware/zeropage.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define PAGE_SIZE UINT64_C(4096)

#define CR0_PE	 0x01u
#define CR0_ET	 0x10u
#define CR0_PG	 0x80000000u
#define CR4_PAE	 0x20u
#define EFER_LME 0x100u
#define EFER_LMA 0x400u

// Linux wants its code segment at 0x10 and its data segment at 0x18 (boot.rst, "64-bit boot protocol").
#define SELECTOR_CODE 0x10
#define SELECTOR_DATA 0x18
#define SELECTOR_TASK 0x20
#define GDT_SIZE      0x30 // a 64-bit TSS descriptor takes two places

#define TYPE_CODE 0xb // execute, read, accessed
#define TYPE_DATA 0x3 // read, write, accessed
#define TYPE_TASK 0xb // busy TSS

// What lies below LAYOUT_RAM_MIN is there: firmware_load() has seen to it.
static void *low_ptr(const struct guest_ram *ram, uint64_t gpa, uint64_t len)
{
	void *p = guest_ram_ptr(ram, gpa, len);
	assert(p);
	return p;
}

static int kernel_load(struct kernel *k, const struct boot_request *rq, struct err *e)
{
	struct boot_file f = { .fd = rq->kernel_fd, .what = "kernel", .name = rq->kernel_name };
	uint8_t head[SETUP_HEADER_LIMIT] = { 0 };
	int rc = boot_file_size(&f, e);
	if (rc)
		return rc;
	size_t len = (size_t)MIN(f.size, (uint64_t)sizeof(head));
	rc = boot_file_read(&f, 0, head, len, e);
	if (rc)
		return rc;
	if (elf_recognise(head, len))
		return elf_load(k, &f, head, len, &rq->ram, e);
	if (bzimage_recognise(head, len))
		return bzimage_load(k, &f, head, len, &rq->ram, e);
	return boot_file_refuse(
		&f, e, "neither a bzImage nor an ELF file, so not an x86 kernel (or a compressed one)");
}

// As high as it may be, so that the kernel has one piece of memory to grow in.
static int initrd_load(struct handover *h, const struct kernel *k, const struct boot_request *rq,
		       struct err *e)
{
	struct boot_file f = { .fd = rq->initrd_fd, .what = "initrd", .name = rq->initrd_name };
	if (f.fd < 0)
		return 0;
	int rc = boot_file_size(&f, e);
	if (rc)
		return rc;
	uint64_t floor = MAX(k->end, LAYOUT_HIGH), top = MIN(k->initrd_end, rq->ram.low_size);
	uint64_t gpa = f.size < top ? (top - f.size) & ~(PAGE_SIZE - 1) : 0;
	if (gpa < floor)
		return boot_file_refuse(&f, e,
					"its %" PRIu64 " bytes do not fit between the kernel's end, %#" PRIx64
					", and %#" PRIx64,
					f.size, floor, top);
	h->initrd_gpa = gpa;
	h->initrd_size = f.size;
	return boot_file_load(&f, 0, &rq->ram, gpa, f.size, e);
}

static int cmdline_write(struct handover *h, const struct kernel *k, const struct boot_request *rq,
			 struct err *e)
{
	size_t len = strlen(rq->cmdline);
	uint64_t max = MIN((uint64_t)k->cmdline_max, LAYOUT_CMDLINE_SIZE - 1);
	if (len > max)
		return err_set(e, EINVAL,
			       "kernel %s: the command line has %zu bytes, the kernel takes at most %" PRIu64,
			       rq->kernel_name, len, max);
	memcpy(low_ptr(&rq->ram, LAYOUT_CMDLINE, len + 1), rq->cmdline, len + 1);
	h->cmdline_gpa = LAYOUT_CMDLINE;
	return 0;
}

// PML4, PDPT and four directories of 2 MiB pages: the first 4 GiB at their own addresses, without asking for
// 1 GiB pages of the CPU.
static void page_tables_write(const struct guest_ram *ram)
{
	const uint64_t present_write = 3, large = 0x80;
	uint8_t *pml4 = low_ptr(ram, LAYOUT_PAGE_TABLES, 6 * PAGE_SIZE);
	uint8_t *pdpt = pml4 + PAGE_SIZE, *pd = pdpt + PAGE_SIZE;
	le64_put(pml4, (LAYOUT_PAGE_TABLES + PAGE_SIZE) | present_write);
	for (unsigned i = 0; i < 4; i++)
		le64_put(pdpt + (size_t)8 * i, (LAYOUT_PAGE_TABLES + (2 + i) * PAGE_SIZE) | present_write);
	for (uint64_t i = 0; i < UINT64_C(4) * 512; i++)
		le64_put(pd + 8 * i, i << 21 | large | present_write);
}

static void descriptor_write(uint8_t *gdt, const struct boot_segment *s)
{
	uint64_t limit = s->g ? s->limit >> 12 : s->limit;
	uint64_t d = (limit & 0xffff) | (uint64_t)(s->base & 0xffffff) << 16 | (uint64_t)s->type << 40 |
		     (uint64_t)s->s << 44 | UINT64_C(1) << 47 | (limit >> 16 & 0xf) << 48 |
		     (uint64_t)s->l << 53 | (uint64_t)s->db << 54 | (uint64_t)s->g << 55 |
		     (uint64_t)(s->base >> 24) << 56;
	le64_put(gdt + s->selector, d);
}

static void segments_write(struct boot_image *out, const struct guest_ram *ram)
{
	bool long_mode = out->mode == BOOT_LINUX64;
	out->cs = (struct boot_segment){ .selector = SELECTOR_CODE,
					 .limit = UINT32_MAX,
					 .type = TYPE_CODE,
					 .s = true,
					 .l = long_mode,
					 .db = !long_mode,
					 .g = true };
	out->data = (struct boot_segment){ .selector = SELECTOR_DATA,
					   .limit = UINT32_MAX,
					   .type = TYPE_DATA,
					   .s = true,
					   .db = true,
					   .g = true };
	out->tr = (struct boot_segment){ .selector = SELECTOR_TASK, .limit = 0x67, .type = TYPE_TASK };
	out->gdt_gpa = LAYOUT_GDT;
	out->gdt_limit = GDT_SIZE - 1;
	uint8_t *gdt = low_ptr(ram, LAYOUT_GDT, GDT_SIZE);
	memset(gdt, 0, GDT_SIZE);
	descriptor_write(gdt, &out->cs);
	descriptor_write(gdt, &out->data);
	descriptor_write(gdt, &out->tr);
}

static void entry_write(struct boot_image *out, const struct kernel *k, const struct handover *h,
			const struct e820_map *map, const struct guest_ram *ram)
{
	out->mode = k->mode;
	out->rip = k->entry;
	out->cr0 = CR0_PE | CR0_ET;
	if (k->mode == BOOT_LINUX64) {
		zeropage_write(low_ptr(ram, LAYOUT_ZERO_PAGE, ZERO_PAGE_SIZE), k, h, map);
		page_tables_write(ram);
		out->rsi = LAYOUT_ZERO_PAGE;
		out->cr0 |= CR0_PG;
		out->cr3 = LAYOUT_PAGE_TABLES;
		out->cr4 = CR4_PAE;
		out->efer = EFER_LME | EFER_LMA;
	} else {
		pvh_write(low_ptr(ram, LAYOUT_PVH_START, PVH_SIZE), LAYOUT_PVH_START, h, map);
		out->rbx = LAYOUT_PVH_START;
	}
	segments_write(out, ram);
}

int firmware_load(struct boot_image *out, const struct boot_request *rq, struct err *e)
{
	struct e820_map map;
	struct kernel k = { 0 };
	struct handover h = { .rsdp_gpa = rq->rsdp_gpa };

	*out = (struct boot_image){ 0 };
	if (rq->ram.low_size < LAYOUT_RAM_MIN)
		return err_set(e, EINVAL, "kernel %s: no kernel runs in %" PRIu64 " KiB of memory",
			       rq->kernel_name, rq->ram.low_size >> 10);
	int rc = e820_build(&map, &rq->ram, rq->reserved, rq->reserved_count, e);
	if (!rc)
		rc = kernel_load(&k, rq, e);
	if (!rc)
		rc = initrd_load(&h, &k, rq, e);
	if (!rc)
		rc = cmdline_write(&h, &k, rq, e);
	if (rc)
		return rc;
	entry_write(out, &k, &h, &map, &rq->ram);
	out->kernel_gpa = k.start;
	out->kernel_end = k.end;
	out->initrd_gpa = h.initrd_gpa;
	out->initrd_size = h.initrd_size;
	return 0;
}
