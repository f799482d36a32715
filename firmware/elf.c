// SPDX-License-Identifier: BSD-2-Clause
#include "firmware/elf.h"

#include "firmware/layout_x86.h"
#include "firmware/le.h"

#include <elf.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define SEGMENTS_MAX 64
#define NOTES_MAX    256
#define PVH_NOTE     18 // XEN_ELFNOTE_PHYS32_ENTRY

// Linux has nothing in an ELF file to tell these; they are the constants of its x86 bzImages.
#define CMDLINE_MAX 2047
#define INITRD_END  UINT64_C(0x80000000)

bool elf_recognise(const uint8_t *head, size_t len)
{
	return len >= SELFMAG && memcmp(head, ELFMAG, SELFMAG) == 0;
}

static int header_check(const struct boot_file *f, const Elf64_Ehdr *h, struct err *e)
{
	if (h->e_ident[EI_CLASS] != ELFCLASS64 || h->e_ident[EI_DATA] != ELFDATA2LSB ||
	    h->e_machine != EM_X86_64)
		return boot_file_refuse(f, e, "this ELF file is not for x86_64");
	if (h->e_type != ET_EXEC)
		return boot_file_refuse(f, e, "ELF type %u: a kernel is an executable (2)", h->e_type);
	if (h->e_phentsize != sizeof(Elf64_Phdr))
		return boot_file_refuse(f, e, "bad header: program headers of %u bytes", h->e_phentsize);
	if (h->e_phnum == 0 || h->e_phnum > SEGMENTS_MAX)
		return boot_file_refuse(f, e, "bad header: %u segments, 1 to %u are possible", h->e_phnum,
					SEGMENTS_MAX);
	return 0;
}

static int segment_check(const struct boot_file *f, const Elf64_Phdr *p, unsigned i, uint64_t ram_size,
			 struct err *e)
{
	if (p->p_filesz > p->p_memsz)
		return boot_file_refuse(f, e,
					"segment %u: more bytes in the file (%#" PRIx64
					") than in memory (%#" PRIx64 ")",
					i, p->p_filesz, p->p_memsz);
	if (!range_in(p->p_offset, p->p_filesz, f->size))
		return boot_file_refuse(f, e, "the file is cut short: segment %u is not all there", i);
	if (!range_in(p->p_paddr, p->p_memsz, ram_size))
		return boot_file_refuse(f, e,
					"segment %u: %#" PRIx64 " bytes at address %#" PRIx64
					", but RAM ends at %#" PRIx64 " (vm.memory)",
					i, p->p_memsz, p->p_paddr, ram_size);
	if (p->p_paddr < LAYOUT_LOW_FREE ||
	    range_overlaps(p->p_paddr, p->p_memsz, LAYOUT_LOW_END, LAYOUT_HIGH - LAYOUT_LOW_END))
		return boot_file_refuse(
			f, e, "segment %u: address %#" PRIx64 " is taken by the boot data or reserved", i,
			p->p_paddr);
	return 0;
}

// Fills in the memory that the kernel occupies.
static int segments_check(const struct boot_file *f, const Elf64_Phdr *ph, unsigned count, uint64_t ram_size,
			  struct kernel *k, struct err *e)
{
	k->start = UINT64_MAX;
	k->end = 0;
	for (unsigned i = 0; i < count; i++) {
		if (ph[i].p_type != PT_LOAD || (ph[i].p_memsz == 0 && ph[i].p_filesz == 0))
			continue;
		int rc = segment_check(f, &ph[i], i, ram_size, e);
		if (rc)
			return rc;
		for (unsigned j = 0; j < i; j++)
			if (ph[j].p_type == PT_LOAD &&
			    range_overlaps(ph[i].p_paddr, ph[i].p_memsz, ph[j].p_paddr, ph[j].p_memsz))
				return boot_file_refuse(f, e, "segments %u and %u overlap", j, i);
		k->start = MIN(k->start, ph[i].p_paddr);
		k->end = MAX(k->end, ph[i].p_paddr + ph[i].p_memsz);
	}
	if (k->end == 0)
		return boot_file_refuse(f, e, "nothing to load: no PT_LOAD segment");
	return 0;
}

// Looks for the PVH note in one PT_NOTE segment.  *found is left alone if there is none.
static int note_scan(const struct boot_file *f, const Elf64_Phdr *p, uint64_t *entry, bool *found,
		     struct err *e)
{
	uint64_t align = p->p_align == 8 ? 8 : 4;
	uint64_t off = p->p_offset, left = p->p_filesz;
	for (unsigned n = 0; left >= sizeof(Elf64_Nhdr) && n < NOTES_MAX; n++) {
		uint8_t raw[sizeof(Elf64_Nhdr) + 4];
		uint64_t head_len = MIN(left, sizeof(raw));
		int rc = boot_file_read(f, off, raw, head_len, e);
		if (rc)
			return rc;
		uint64_t name_len = le32(raw), desc_len = le32(raw + 4);
		uint64_t desc_off = align_up(sizeof(Elf64_Nhdr) + name_len, align);
		uint64_t len = align_up(desc_off + desc_len, align);
		if (!range_in(desc_off, desc_len, left))
			return boot_file_refuse(f, e, "a note runs over the end of its segment");
		if (le32(raw + 8) == PVH_NOTE && name_len == 4 && head_len == sizeof(raw) &&
		    memcmp(raw + sizeof(Elf64_Nhdr), "Xen", 4) == 0) {
			uint8_t desc[8] = { 0 };
			if (desc_len != 4 && desc_len != 8)
				return boot_file_refuse(f, e, "bad PVH note: an entry of %" PRIu64 " bytes",
							desc_len);
			*found = true;
			rc = boot_file_read(f, off + desc_off, desc, desc_len, e);
			*entry = le64(desc);
			return rc;
		}
		off += MIN(len, left);
		left -= MIN(len, left);
	}
	return 0;
}

static int entry_find(const struct boot_file *f, const Elf64_Ehdr *h, const Elf64_Phdr *ph, struct kernel *k,
		      struct err *e)
{
	bool pvh = false;
	k->entry = h->e_entry;
	for (unsigned i = 0; i < h->e_phnum && !pvh; i++) {
		if (ph[i].p_type != PT_NOTE)
			continue;
		if (!range_in(ph[i].p_offset, ph[i].p_filesz, f->size))
			return boot_file_refuse(f, e, "the file is cut short: segment %u is not all there",
						i);
		int rc = note_scan(f, &ph[i], &k->entry, &pvh, e);
		if (rc)
			return rc;
	}
	k->mode = pvh ? BOOT_PVH32 : BOOT_LINUX64;
	for (unsigned i = 0; i < h->e_phnum; i++)
		if (ph[i].p_type == PT_LOAD && k->entry >= ph[i].p_paddr &&
		    k->entry - ph[i].p_paddr < ph[i].p_filesz)
			return 0;
	return boot_file_refuse(f, e, "the %s entry %#" PRIx64 " lies in no loaded segment",
				pvh ? "PVH" : "64-bit", k->entry);
}

int elf_load(struct kernel *k, const struct boot_file *f, const uint8_t *head, size_t len,
	     const struct guest_ram *ram, struct err *e)
{
	Elf64_Ehdr h;
	Elf64_Phdr ph[SEGMENTS_MAX];
	if (len < sizeof(h))
		return boot_file_refuse(f, e, "the file is cut short: it ends within the ELF header");
	memcpy(&h, head, sizeof(h));
	int rc = header_check(f, &h, e);
	if (rc)
		return rc;
	uint64_t ph_len = (uint64_t)h.e_phnum * sizeof(ph[0]);
	if (!range_in(h.e_phoff, ph_len, f->size))
		return boot_file_refuse(f, e, "the file is cut short: no program headers at %#" PRIx64,
					h.e_phoff);
	rc = boot_file_read(f, h.e_phoff, ph, ph_len, e);
	if (!rc)
		rc = segments_check(f, ph, h.e_phnum, ram->low_size, k, e);
	if (!rc)
		rc = entry_find(f, &h, ph, k, e);
	for (unsigned i = 0; !rc && i < h.e_phnum; i++)
		if (ph[i].p_type == PT_LOAD && ph[i].p_filesz)
			rc = boot_file_load(f, ph[i].p_offset, ram, ph[i].p_paddr, ph[i].p_filesz, e);
	k->initrd_end = INITRD_END;
	k->cmdline_max = CMDLINE_MAX;
	k->header_len = 0;
	return rc;
}
