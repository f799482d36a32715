// SPDX-License-Identifier: BSD-2-Clause
// Kernels, good and hostile, built in memory and loaded into RAM that has a guard page at both ends.
#include "firmware/boot_x86.h"
#include "firmware/layout_x86.h"
#include "firmware/le.h"
#include "tests/unit/test.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#define MIB	      UINT64_C(0x100000)
#define RAM_SIZE      (32 * MIB)
#define ECAM	      UINT64_C(0xe0000000)
#define RAM_FD_OFFSET 0x5000

static uint8_t image[0x2000]; // the kernel file being made up
static size_t image_len;
static uint8_t *ram; // a mapping of ram_fd
static int ram_fd;
static struct err err;
static struct boot_image out;

static const struct boot_range ecam = { ECAM, MIB };
static struct boot_request request;

static int file_of(const void *p, size_t len)
{
	int fd = memfd_create("test", MFD_CLOEXEC);
	if (fd < 0 || pwrite(fd, p, len, 0) != (ssize_t)len)
		abort();
	return fd;
}

static void ram_renew(void)
{
	const size_t guard = 4096;
	if (!ram) {
		char *p = mmap(NULL, RAM_SIZE + 2 * guard, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		ram_fd = memfd_create("ram", MFD_CLOEXEC);
		if (p == MAP_FAILED || ram_fd < 0 || ftruncate(ram_fd, RAM_FD_OFFSET + RAM_SIZE) ||
		    mmap(p + guard, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, ram_fd,
			 RAM_FD_OFFSET) == MAP_FAILED)
			abort();
		ram = (uint8_t *)p + guard;
	}
	if (madvise(ram, RAM_SIZE, MADV_REMOVE))
		abort();
	request = (struct boot_request){
		.ram = { .low = ram,
			 .low_size = RAM_SIZE,
			 .low_fd = ram_fd,
			 .low_fd_offset = RAM_FD_OFFSET,
			 .high_gpa = UINT64_C(1) << 32,
			 .high_size = 2 * MIB },
		.kernel_fd = -1,
		.kernel_name = "vmlinuz",
		.initrd_fd = -1,
		.initrd_name = "initrd.img",
		.cmdline = "console=ttyS0",
		.rsdp_gpa = LAYOUT_ACPI,
		.reserved = &ecam,
		.reserved_count = 1,
	};
}

// Loads `image` by `request`.
static int load(void)
{
	memset(&err, 0, sizeof(err));
	request.kernel_fd = file_of(image, image_len);
	int rc = firmware_load(&out, &request, &err);
	close(request.kernel_fd);
	return rc;
}

static bool refused(const char *why)
{
	int rc = load();
	bool good = rc == -EINVAL && strstr(err.text, why) && !strchr(err.text, '\n');
	if (!good)
		printf("expected \"%s\", got %d \"%s\"\n", why, rc, err.text);
	return good;
}

#define BZ_CODE	    0x400
#define BZ_CODE_LEN 0x1000

static void bzimage_make(void)
{
	ram_renew();
	memset(image, 0, sizeof(image));
	image_len = BZ_CODE + BZ_CODE_LEN;
	image[0x1f1] = 1;
	le32_put(image + 0x1f4, BZ_CODE_LEN / 16);
	le16_put(image + 0x1fe, 0xaa55);
	image[0x201] = 0x6a;
	memcpy(image + 0x202, "HdrS", 4);
	le16_put(image + 0x206, 0x20f);
	image[0x211] = 1;
	le32_put(image + 0x22c, 0x7fffffff);
	le32_put(image + 0x230, 0x200000);
	image[0x234] = 1;
	le16_put(image + 0x236, 0x3f);
	le32_put(image + 0x238, 2047);
	le64_put(image + 0x258, 16 * MIB);
	le32_put(image + 0x260, 3 * MIB);
	for (size_t i = 0; i < BZ_CODE_LEN; i++)
		image[BZ_CODE + i] = (uint8_t)(i * 7 + i / 256);
}

#define ELF_PHDR  64
#define ELF_CODE  0x200
#define ELF_NOTES 0x800
#define ELF_PADDR UINT64_C(0x200000)
#define ELF_PHNUM 3

static void phdr_put(unsigned i, uint32_t type, uint64_t offset, uint64_t paddr, uint64_t filesz,
		     uint64_t memsz)
{
	Elf64_Phdr p = { .p_type = type,
			 .p_flags = PF_R | PF_X,
			 .p_offset = offset,
			 .p_vaddr = paddr,
			 .p_paddr = paddr,
			 .p_filesz = filesz,
			 .p_memsz = memsz,
			 .p_align = 4 };
	memcpy(image + ELF_PHDR + i * sizeof(p), &p, sizeof(p));
}

static void phdr_field(unsigned i, size_t field, uint64_t v)
{
	le64_put(image + ELF_PHDR + i * sizeof(Elf64_Phdr) + field, v);
}

// Two notes of 0x18 and 0x14 bytes; the second is the PVH entry.
static void elf_make(bool pvh)
{
	ram_renew();
	memset(image, 0, sizeof(image));
	image_len = 0x900;
	Elf64_Ehdr h = { .e_type = ET_EXEC,
			 .e_machine = EM_X86_64,
			 .e_version = EV_CURRENT,
			 .e_entry = ELF_PADDR + 0x10,
			 .e_phoff = ELF_PHDR,
			 .e_ehsize = sizeof(h),
			 .e_phentsize = sizeof(Elf64_Phdr),
			 .e_phnum = ELF_PHNUM };
	memcpy(h.e_ident, ELFMAG, SELFMAG);
	h.e_ident[EI_CLASS] = ELFCLASS64;
	h.e_ident[EI_DATA] = ELFDATA2LSB;
	h.e_ident[EI_VERSION] = EV_CURRENT;
	memcpy(image, &h, sizeof(h));
	phdr_put(0, PT_LOAD, ELF_CODE, ELF_PADDR, 0x400, 0x3000);
	phdr_put(1, PT_LOAD, 0x600, ELF_PADDR + 0x4000, 0x100, 0x100);
	phdr_put(2, pvh ? PT_NOTE : PT_NULL, ELF_NOTES, 0, 0x2c, 0x2c);
	for (size_t i = ELF_CODE; i < ELF_NOTES; i++)
		image[i] = (uint8_t)(i * 5 + i / 256);
	uint8_t *n = image + ELF_NOTES;
	le32_put(n, 5);
	le32_put(n + 4, 1);
	le32_put(n + 8, 18);
	memcpy(n + 12, "Xenon", 5);
	n += 24;
	le32_put(n, 4);
	le32_put(n + 4, 4);
	le32_put(n + 8, 18);
	memcpy(n + 12, "Xen", 4);
	le32_put(n + 16, ELF_PADDR + 0x20);
}

// ---- what a loaded guest finds ----

static bool all_zero(const uint8_t *p, size_t len)
{
	while (len > 0 && *p == 0)
		p++, len--;
	return len == 0;
}

TEST(bzimage_is_entered_in_long_mode)
{
	bzimage_make();
	CHECK_EQ(load(), 0);
	CHECK_EQ(out.mode, BOOT_LINUX64);
	CHECK_EQ(out.rip, 16 * MIB + 0x200);
	CHECK_EQ(out.rsi, LAYOUT_ZERO_PAGE);
	CHECK_EQ(out.kernel_end, 19 * MIB);
	CHECK(memcmp(ram + 16 * MIB, image + BZ_CODE, BZ_CODE_LEN) == 0);
	CHECK(all_zero(ram + 16 * MIB + BZ_CODE_LEN, 4096));
	CHECK_STR((char *)ram + LAYOUT_CMDLINE, "console=ttyS0");
	CHECK_EQ(out.cr0 >> 31, 1);
	CHECK_EQ(out.efer, 0x500);
	CHECK_EQ(out.cr4, 0x20);
}

TEST(zero_page_fields)
{
	static const uint8_t initrd[5000] = { 1, 2, 3 };
	bzimage_make();
	le64_put(image + 0x250, 0x1234); // setup_data is the loader's
	request.initrd_fd = file_of(initrd, sizeof(initrd));
	int rc = load();
	close(request.initrd_fd);
	CHECK_EQ(rc, 0);
	const uint8_t *z = ram + LAYOUT_ZERO_PAGE;
	CHECK(memcmp(z + 0x1f1, image + 0x1f1, 0x210 - 0x1f1) == 0);
	CHECK_EQ(z[0x210], 0xff);
	CHECK_EQ(z[0x211], 1);
	CHECK_EQ(z[0x1ef], 0);
	CHECK_EQ(le64(z + 0x250), 0);
	CHECK_EQ(le64(z + 0x258), 16 * MIB);
	CHECK_EQ(le64(z + 0x70), LAYOUT_ACPI);
	CHECK_EQ(le32(z + 0x228), LAYOUT_CMDLINE);
	CHECK_EQ(le32(z + 0x218), RAM_SIZE - 0x2000);
	CHECK_EQ(le32(z + 0x21c), sizeof(initrd));
	CHECK_EQ(le32(z + 0xc0) | le32(z + 0xc4) | le32(z + 0xc8), 0);
	CHECK(memcmp(ram + RAM_SIZE - 0x2000, initrd, sizeof(initrd)) == 0);
	// What lies behind the header and before the table is empty.
	CHECK(all_zero(z + 0x26c, 0x2d0 - 0x26c));
}

TEST(memory_map_is_ascending)
{
	static const uint64_t want[][3] = { { 0, 0x9fc00, 1 },
					    { 0x9fc00, 0x60400, 2 },
					    { MIB, RAM_SIZE - MIB, 1 },
					    { ECAM, MIB, 2 },
					    { UINT64_C(1) << 32, 2 * MIB, 1 } };
	bzimage_make();
	CHECK_EQ(load(), 0);
	const uint8_t *z = ram + LAYOUT_ZERO_PAGE;
	CHECK_EQ(z[0x1e8], 5);
	for (unsigned i = 0; i < 5; i++) {
		CHECK_EQ(le64(z + 0x2d0 + i * 20), want[i][0]);
		CHECK_EQ(le64(z + 0x2d8 + i * 20), want[i][1]);
		CHECK_EQ(le32(z + 0x2e0 + i * 20), want[i][2]);
	}
	struct boot_range bad = { RAM_SIZE - 4096, 8192 };
	request.reserved = &bad;
	CHECK(refused("memory map: 0x2000 bytes at 0x1fff000 overlap those at 0x100000"));
	bad = (struct boot_range){ UINT64_MAX - 4096, 8192 };
	CHECK(refused("memory map: no place for 0x2000 bytes"));
	struct boot_range many[13];
	for (unsigned i = 0; i < 13; i++)
		many[i] = (struct boot_range){ ECAM + (12 - i) * MIB, MIB };
	request.reserved = many;
	request.reserved_count = 12;
	CHECK_EQ(load(), 0);
	CHECK_EQ(z[0x1e8], 16);
	for (unsigned i = 0; i < 15; i++)
		CHECK(le64(z + 0x2d0 + i * 20) < le64(z + 0x2d0 + (i + 1) * 20));
	request.reserved_count = 13;
	CHECK(refused("memory map: no place for 0x100000 bytes"));
}

TEST(page_tables_map_four_gigabytes)
{
	bzimage_make();
	CHECK_EQ(load(), 0);
	for (uint64_t gpa = 0; gpa < UINT64_C(1) << 32; gpa += 2 * MIB) {
		uint64_t e = le64(ram + out.cr3 + 8 * (gpa >> 39));
		CHECK_EQ(e & 0xfff, 3);
		e = le64(ram + (e & ~UINT64_C(0xfff)) + 8 * (gpa >> 30 & 511));
		CHECK_EQ(e & 0xfff, 3);
		e = le64(ram + (e & ~UINT64_C(0xfff)) + 8 * (gpa >> 21 & 511));
		CHECK_EQ(e, gpa | 0x83);
	}
	CHECK(all_zero(ram + out.cr3 + 8, 4096 - 8));
	CHECK(all_zero(ram + out.cr3 + 4096 + 32, 4096 - 32));
	CHECK(all_zero(ram + 0xf000, 0x1000));
}

TEST(gdt_says_what_the_segments_say)
{
	bzimage_make();
	CHECK_EQ(load(), 0);
	CHECK_EQ(le64(ram + out.gdt_gpa + 0x10), UINT64_C(0x00af9b000000ffff));
	CHECK_EQ(le64(ram + out.gdt_gpa + 0x18), UINT64_C(0x00cf93000000ffff));
	CHECK_EQ(le64(ram + out.gdt_gpa + 0x20), UINT64_C(0x00008b0000000067));
	CHECK(out.cs.l && !out.cs.db);
	elf_make(true);
	CHECK_EQ(load(), 0);
	CHECK_EQ(le64(ram + out.gdt_gpa + 0x10), UINT64_C(0x00cf9b000000ffff));
	CHECK(!out.cs.l && out.cs.db && out.tr.limit == 0x67 && out.tr.type == 0xb);
}

TEST(bzimage_placement)
{
	bzimage_make();
	le64_put(image + 0x258, 0); // relocatable, no preference
	CHECK_EQ(load(), 0);
	CHECK_EQ(out.kernel_gpa, 2 * MIB);
	bzimage_make();
	image[0x234] = 0;
	le32_put(image + 0x230, 3); // of no interest then
	le64_put(image + 0x258, MIB);
	CHECK_EQ(load(), 0);
	CHECK_EQ(out.rip, MIB + 0x200);
	bzimage_make();
	image[0x1f1] = 0; // means 4
	memmove(image + 5 * 512, image + BZ_CODE, 0x800);
	le32_put(image + 0x1f4, 0x80);
	CHECK_EQ(load(), 0);
	CHECK(memcmp(ram + 16 * MIB, image + 5 * 512, 0x800) == 0);
	bzimage_make();
	image_len -= 15; // a paragraph need not be whole
	CHECK_EQ(load(), 0);
}

// Whether the file behind RAM is there, takes nothing or takes all makes no difference to what RAM holds.
TEST(the_file_behind_ram)
{
	static uint8_t initrd[3 * 4096 + 77];
	for (size_t i = 0; i < sizeof(initrd); i++)
		initrd[i] = (uint8_t)(i * 11 + i / 4096);
	int read_only = open("/dev/null", O_RDONLY);
	CHECK(read_only >= 0);
	for (unsigned way = 0; way < 3; way++) {
		bzimage_make();
		request.ram.low_fd = way == 0 ? ram_fd : way == 1 ? read_only : -1;
		request.initrd_fd = file_of(initrd, sizeof(initrd));
		int rc = load();
		close(request.initrd_fd);
		CHECK_EQ(rc, 0);
		CHECK(memcmp(ram + 16 * MIB, image + BZ_CODE, BZ_CODE_LEN) == 0);
		CHECK(memcmp(ram + out.initrd_gpa, initrd, sizeof(initrd)) == 0);
		CHECK(all_zero(ram + out.initrd_gpa + sizeof(initrd), 4096 - 77));
		CHECK(all_zero(ram + 16 * MIB + BZ_CODE_LEN, 2 * MIB));
	}
	close(read_only);
}

TEST(pvh_entry)
{
	static const uint8_t initrd[] = "an initrd";
	elf_make(true);
	request.initrd_fd = file_of(initrd, sizeof(initrd));
	int rc = load();
	close(request.initrd_fd);
	CHECK_EQ(rc, 0);
	CHECK_EQ(out.mode, BOOT_PVH32);
	CHECK_EQ(out.rip, ELF_PADDR + 0x20);
	CHECK_EQ(out.rbx, LAYOUT_PVH_START);
	CHECK_EQ(out.cr0, 0x11);
	CHECK_EQ(out.cr3 | out.cr4 | out.efer, 0);
	const uint8_t *s = ram + out.rbx;
	CHECK_EQ(le32(s), 0x336ec578);
	CHECK_EQ(le32(s + 4), 1);
	CHECK_EQ(le32(s + 12), 1);
	CHECK_STR((char *)ram + le64(s + 24), "console=ttyS0");
	CHECK_EQ(le64(s + 32), LAYOUT_ACPI);
	const uint8_t *module = ram + le64(s + 16), *map = ram + le64(s + 40);
	CHECK_EQ(le64(module + 8), sizeof(initrd));
	CHECK(memcmp(ram + le64(module), initrd, sizeof(initrd)) == 0);
	CHECK_EQ(le32(s + 48), 5);
	CHECK_EQ(le64(map + 24 * 2), MIB);
	CHECK_EQ(le64(map + 24 * 2 + 8), RAM_SIZE - MIB);
	CHECK_EQ(le32(map + 24 * 3 + 16), 2);
}

TEST(elf_segments_lie_at_their_addresses)
{
	elf_make(false);
	CHECK_EQ(load(), 0);
	CHECK_EQ(out.mode, BOOT_LINUX64);
	CHECK_EQ(out.rip, ELF_PADDR + 0x10);
	CHECK_EQ(out.kernel_gpa, ELF_PADDR);
	CHECK_EQ(out.kernel_end, ELF_PADDR + 0x4100);
	CHECK(memcmp(ram + ELF_PADDR, image + ELF_CODE, 0x400) == 0);
	CHECK(all_zero(ram + ELF_PADDR + 0x400, 0x3c00));
	CHECK(memcmp(ram + ELF_PADDR + 0x4000, image + 0x600, 0x100) == 0);
	CHECK(memcmp(ram + LAYOUT_ZERO_PAGE + 0x202, "HdrS", 4) == 0);
	// A small guest may lie below 640 KiB.
	elf_make(false);
	phdr_put(0, PT_LOAD, ELF_CODE, LAYOUT_LOW_FREE, 0x400, 0x400);
	le64_put(image + 24, LAYOUT_LOW_FREE);
	CHECK_EQ(load(), 0);
}

// ---- refusals ----

struct hostile {
	unsigned at, size;
	uint64_t value;
	const char *why;
};

TEST(hostile_bzimage_headers)
{
	static const struct hostile cases[] = {
		{ 0x202, 1, 'h', "neither a bzImage nor an ELF file" },
		{ 0x1fe, 1, 0, "neither a bzImage nor an ELF file" },
		{ 0x206, 2, 0x20b, "boot protocol 2.11 is older" },
		{ 0x206, 2, 0, "boot protocol 0.00 is older" },
		{ 0x201, 1, 0x10, "claims to end at 0x212" },
		{ 0x201, 1, 0xff, "claims to end at 0x301" },
		{ 0x236, 2, 0xfffe, "not a 64-bit kernel" },
		{ 0x211, 1, 0, "zImage" },
		{ 0x1f1, 1, 0xff, "cut short" },
		{ 0x1f4, 4, 0, "0 bytes of code" },
		{ 0x1f4, 4, 0x20, "512 bytes of code" },
		{ 0x1f4, 4, BZ_CODE_LEN / 16 + 1, "cut short" },
		{ 0x1f4, 4, UINT32_MAX, "cut short" },
		{ 0x230, 4, 0, "kernel_alignment 0" },
		{ 0x230, 4, 0x300000, "kernel_alignment 0x300000" },
		{ 0x230, 4, 0x80000000, "kernel_alignment 0x80000000" },
		{ 0x260, 4, UINT32_MAX, "but RAM ends at 0x2000000" },
		{ 0x260, 4, 16 * MIB + 1, "but RAM ends at 0x2000000" },
		{ 0x258, 8, RAM_SIZE - MIB, "but RAM ends at 0x2000000" },
		{ 0x258, 8, RAM_SIZE, "but RAM ends at 0x2000000" },
		{ 0x258, 8, UINT64_MAX, "but RAM ends at 0x2000000" },
		{ 0x258, 8, UINT64_C(0xffffffff00000000), "but RAM ends at 0x2000000" },
		{ 0x238, 4, 12, "the kernel takes at most 12" },
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		bzimage_make();
		le_put(image + cases[i].at, cases[i].size, cases[i].value);
		CHECK(refused(cases[i].why));
	}
	bzimage_make();
	image[0x234] = 0;
	le64_put(image + 0x258, 0x1000);
	CHECK(refused("load address 0x1000 is below 1 MiB"));
}

TEST(hostile_elf_headers)
{
	static const struct hostile cases[] = {
		{ 4, 1, 1, "not for x86_64" },
		{ 5, 1, 2, "not for x86_64" },
		{ 18, 2, 183, "not for x86_64" },
		{ 16, 2, ET_DYN, "ELF type 3" },
		{ 54, 2, 32, "program headers of 32" },
		{ 56, 2, 0, "0 segments" },
		{ 56, 2, 0xffff, "65535 segments" },
		{ 32, 8, UINT64_MAX, "no program headers" },
		{ 32, 8, 0x8f0, "no program headers" },
		{ 24, 8, ELF_PADDR + 0x400, "lies in no loaded segment" },
		{ 24, 8, 0, "lies in no loaded" },
		{ 24, 8, UINT64_MAX, "lies in no loaded segment" },
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		elf_make(false);
		le_put(image + cases[i].at, cases[i].size, cases[i].value);
		CHECK(refused(cases[i].why));
	}
}

TEST(hostile_elf_segments)
{
	static const struct hostile cases[] = {
		{ offsetof(Elf64_Phdr, p_filesz), 0, 0x3001, "more bytes in the file" },
		{ offsetof(Elf64_Phdr, p_memsz), 0, 0, "more bytes in the file" },
		{ offsetof(Elf64_Phdr, p_offset), 0, 0x801, "cut short" },
		{ offsetof(Elf64_Phdr, p_offset), 0, UINT64_MAX, "cut short" },
		{ offsetof(Elf64_Phdr, p_paddr), 0, RAM_SIZE - 0x2fff, "but RAM ends at" },
		{ offsetof(Elf64_Phdr, p_paddr), 0, UINT64_MAX, "but RAM ends at" },
		{ offsetof(Elf64_Phdr, p_memsz), 0, UINT64_MAX, "but RAM ends at" },
		{ offsetof(Elf64_Phdr, p_paddr), 0, 0, "taken by the boot data" },
		{ offsetof(Elf64_Phdr, p_paddr), 0, LAYOUT_LOW_FREE - 1, "taken by the boot data" },
		{ offsetof(Elf64_Phdr, p_paddr), 0, 0x9e000, "taken by the boot data" },
		{ offsetof(Elf64_Phdr, p_paddr), 0, 0xff000, "taken by the boot data" },
		{ offsetof(Elf64_Phdr, p_paddr), 0, ELF_PADDR + 0x1001, "segments 0 and 1 overlap" },
		{ offsetof(Elf64_Phdr, p_paddr), 0, ELF_PADDR + 0x40ff, "segments 0 and 1 overlap" },
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		elf_make(false);
		phdr_field(0, cases[i].at, cases[i].value);
		CHECK(refused(cases[i].why));
	}
	elf_make(false);
	phdr_put(0, PT_NULL, 0, 0, 0, 0);
	phdr_put(1, PT_NULL, 0, 0, 0, 0);
	CHECK(refused("nothing to load"));
}

TEST(hostile_elf_notes)
{
	static const struct hostile cases[] = {
		{ 0, 4, UINT32_MAX, "runs over the end" },
		{ 4, 4, UINT32_MAX, "runs over the end" },
		{ 24 + 4, 4, 5, "runs over the end" },
		{ 24 + 4, 4, 3, "bad PVH note" },
		{ 24 + 4, 4, 0, "bad PVH note" },
		{ 24 + 16, 4, 0x12345678, "PVH entry 0x12345678 lies in no loaded" },
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		elf_make(true);
		le_put(image + ELF_NOTES + cases[i].at, cases[i].size, cases[i].value);
		CHECK(refused(cases[i].why));
	}
	elf_make(true);
	phdr_field(2, offsetof(Elf64_Phdr, p_filesz), 0x200);
	CHECK(refused("cut short: segment 2"));
	// A cut-off header at the end of the segment is no note.
	elf_make(true);
	phdr_field(2, offsetof(Elf64_Phdr, p_filesz), 24 + 11);
	CHECK_EQ(load(), 0);
	CHECK_EQ(out.mode, BOOT_LINUX64);
}

TEST(kernel_cut_at_every_length)
{
	bzimage_make();
	size_t whole = image_len - 15;
	for (image_len = 0; image_len < whole; image_len++) {
		int rc = load();
		CHECK_EQ(rc, -EINVAL);
		const char *why = image_len == 0 ? "empty" : image_len < 0x206 ? "neither" : "cut short";
		CHECK(strstr(err.text, why));
	}
	elf_make(true);
	for (image_len = 0; image_len < 0x800 + 0x2c; image_len++)
		CHECK_EQ(load(), -EINVAL);
	CHECK_EQ(load(), 0);
}

TEST(every_byte_of_the_headers_changed)
{
	static const uint8_t values[] = { 0, 1, 0x7f, 0x80, 0xff };
	for (unsigned kind = 0; kind < 2; kind++) {
		kind ? elf_make(true) : bzimage_make();
		size_t first = kind ? 0 : 0x1f1, last = kind ? ELF_CODE : 0x270;
		for (size_t at = first; at < last; at++) {
			uint8_t was = image[at];
			for (size_t v = 0; v < ARRAY_LEN(values); v++) {
				image[at] = values[v];
				int rc = load();
				if (rc)
					CHECK(rc == -EINVAL &&
					      strncmp(err.text, "kernel vmlinuz: ", 16) == 0);
				else
					CHECK(out.rip >= out.kernel_gpa && out.rip < out.kernel_end &&
					      out.kernel_end <= RAM_SIZE &&
					      out.kernel_gpa >= LAYOUT_LOW_FREE);
			}
			image[at] = was;
		}
	}
}

TEST(initrd_that_does_not_fit)
{
	bzimage_make();
	int fd = file_of("x", 1);
	request.initrd_fd = fd;
	uint64_t room = RAM_SIZE - 19 * MIB;
	CHECK_EQ(ftruncate(fd, (off_t)room), 0);
	CHECK_EQ(load(), 0);
	CHECK_EQ(out.initrd_gpa, 19 * MIB);
	CHECK_EQ(ftruncate(fd, (off_t)room + 1), 0);
	CHECK(refused("initrd initrd.img: its 13631489 bytes do not fit"));
	CHECK_EQ(ftruncate(fd, (off_t)1 << 32), 0);
	CHECK(refused("initrd initrd.img: its 4294967296 bytes do not fit"));
	CHECK_EQ(ftruncate(fd, (off_t)1 << 62), 0);
	CHECK(refused("do not fit"));
	CHECK_EQ(ftruncate(fd, 0), 0);
	CHECK(refused("initrd initrd.img: the file is empty"));
	// initrd_addr_max is the last byte, and holds although RAM goes on.
	CHECK_EQ(ftruncate(fd, 4096), 0);
	le32_put(image + 0x22c, 20 * MIB - 1);
	CHECK_EQ(load(), 0);
	CHECK_EQ(out.initrd_gpa, 20 * MIB - 4096);
	le32_put(image + 0x22c, 18 * MIB);
	CHECK(refused("do not fit"));
	le32_put(image + 0x22c, 0);
	CHECK(refused("do not fit"));
	close(fd);
}

TEST(command_line_length)
{
	static char line[LAYOUT_CMDLINE_SIZE + 8];
	memset(line, 'x', sizeof(line) - 1);
	bzimage_make();
	request.cmdline = line + sizeof(line) - 1 - 2047;
	CHECK_EQ(load(), 0);
	CHECK_EQ(strlen((char *)ram + LAYOUT_CMDLINE), 2047);
	request.cmdline--;
	CHECK(refused("the command line has 2048 bytes, the kernel takes at most 2047"));
	// However much the kernel takes, there is only so much room.
	le32_put(image + 0x238, UINT32_MAX);
	request.cmdline = line;
	CHECK(refused("the kernel takes at most 65535"));
	request.cmdline = line + sizeof(line) - LAYOUT_CMDLINE_SIZE;
	CHECK_EQ(load(), 0);
	CHECK_EQ(ram[LAYOUT_LOW_FREE - 1], 0);
	CHECK_EQ(ram[LAYOUT_LOW_FREE - 2], 'x');
}

TEST(files_of_the_wrong_kind)
{
	bzimage_make();
	request.kernel_fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	CHECK_EQ(firmware_load(&out, &request, &err), -EINVAL);
	CHECK_STR(err.text, "kernel vmlinuz: not a regular file");
	close(request.kernel_fd);
	request.kernel_fd = -1;
	CHECK_EQ(firmware_load(&out, &request, &err), -EBADF);
	CHECK(strstr(err.text, "kernel vmlinuz: "));
	request.initrd_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	CHECK(refused("initrd initrd.img: not a regular file"));
	close(request.initrd_fd);
}

TEST(little_memory)
{
	bzimage_make();
	request.ram.low_size = MIB;
	CHECK(refused("no kernel runs in 1024 KiB"));
	request.ram.low_size = 2 * MIB;
	CHECK(refused("needs 3072 KiB of RAM at address 0x1000000, but RAM ends at 0x200000"));
}
