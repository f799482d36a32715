// SPDX-License-Identifier: BSD-2-Clause
// Guest RAM: where it lies, what a holder of its descriptor can do to it, and every edge of the one function that makes pointers.
#include "vmm/memmap.h"
#include "tests/unit/child.h"
#include "tests/unit/test.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MIB  UINT64_C(0x100000)
#define HOLE (8 * MIB)
#define HIGH (UINT64_C(1) << 32)

static struct memmap m;
static struct err err;

static int make(uint64_t size)
{
	return memmap_create(&m, size, MEM_BACKING_MEMFD, HOLE, HIGH, &err);
}

TEST(all_below_the_hole)
{
	CHECK_EQ(make(HOLE), 0);
	CHECK_EQ(m.ram.count, 1);
	CHECK_EQ(m.ram.region[0].gpa, 0);
	CHECK_EQ(m.ram.region[0].size, HOLE);
	CHECK_EQ(m.ram.region[0].fd_offset, 0);
	memmap_destroy(&m);
}

TEST(split_at_the_hole)
{
	CHECK_EQ(make(HOLE + 4096), 0);
	CHECK_EQ(m.ram.count, 2);
	CHECK_EQ(m.ram.region[0].size, HOLE);
	CHECK_EQ(m.ram.region[1].gpa, HIGH);
	CHECK_EQ(m.ram.region[1].size, 4096);
	CHECK_EQ(m.ram.region[1].fd_offset, HOLE);
	// One file: the byte above the hole is the file's next one.
	char *top = memmap_ptr(&m, HIGH, 1), byte = 0;
	*top = 'x';
	CHECK_EQ(pread(m.fd, &byte, 1, HOLE), 1);
	CHECK_EQ(byte, 'x');
	memmap_destroy(&m);
}

TEST(pointers_at_every_edge)
{
	static const struct {
		uint64_t gpa, len;
		bool good;
	} cases[] = {
		{ 0, 1, true },
		{ 0, HOLE, true },
		{ 0, HOLE + 1, false },
		{ HOLE - 1, 1, true },
		{ HOLE - 1, 2, false },
		{ HOLE - 8, 8, true },
		{ HOLE - 7, 8, false },
		{ HOLE, 1, false },
		{ HIGH - 1, 1, false },
		{ HIGH - 1, 2, false },
		{ HIGH, 1, true },
		{ HIGH, 4 * MIB, true },
		{ HIGH, 4 * MIB + 1, false },
		{ HIGH + 4 * MIB - 1, 1, true },
		{ HIGH + 4 * MIB, 1, false },
		{ 0, HIGH + 1, false }, // over the hole
		{ UINT64_MAX, 1, false },
		{ UINT64_MAX, UINT64_MAX, false },
		{ UINT64_MAX - 7, 16, false }, // wraps to 8
		{ 8, UINT64_MAX, false },
		{ 8, UINT64_MAX - 7, false }, // wraps to 0
		{ HIGH, UINT64_MAX - HIGH + 1, false },
		{ 1, UINT64_MAX, false },
	};
	CHECK_EQ(make(HOLE + 4 * MIB), 0);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char *p = memmap_ptr(&m, cases[i].gpa, cases[i].len);
		if (!p != !cases[i].good)
			printf("case %zu\n", i);
		CHECK_EQ(p != NULL, cases[i].good);
		if (p)
			p[0] = p[cases[i].len - 1] = 1; // all of it is there
	}
	memmap_destroy(&m);
}

TEST(holders_of_the_descriptor_cannot_resize_it)
{
	CHECK_EQ(make(2 * MIB), 0);
	CHECK(ftruncate(m.fd, 0) < 0 && errno == EPERM);
	CHECK(ftruncate(m.fd, 4096) < 0 && errno == EPERM);
	CHECK(ftruncate(m.fd, 4 * MIB) < 0 && errno == EPERM);
	CHECK(fallocate(m.fd, 0, 2 * MIB, 4096) < 0 && errno == EPERM);
	CHECK(fcntl(m.fd, F_ADD_SEALS, F_SEAL_WRITE) < 0 && errno == EPERM);
	char byte = 1;
	CHECK(pwrite(m.fd, &byte, 1, 2 * MIB) < 0);
	// A hole punched by a back-end reads as zeros, and nobody gets a signal.
	char *p = memmap_ptr(&m, MIB, 4096);
	memset(p, 0x55, 4096);
	CHECK_EQ(fallocate(m.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, MIB, 4096), 0);
	CHECK_EQ(p[0], 0);
	CHECK_EQ(p[4095], 0);
	p[0] = 1;
	memmap_destroy(&m);
}

TEST(clear_gives_zeros_to_all)
{
	CHECK_EQ(make(HOLE + MIB), 0);
	char *other = mmap(NULL, HOLE + MIB, PROT_READ, MAP_SHARED, m.fd, 0);
	CHECK(other != MAP_FAILED);
	char *low = memmap_ptr(&m, 4096, 1), *high = memmap_ptr(&m, HIGH + MIB - 1, 1);
	*low = *high = 7;
	CHECK_EQ(other[4096], 7);
	CHECK_EQ(memmap_clear(&m), 0);
	CHECK_EQ(*low, 0);
	CHECK_EQ(*high, 0);
	CHECK_EQ(other[4096], 0);
	munmap(other, HOLE + MIB);
	memmap_destroy(&m);
}

TEST(pinned_pages_are_cleared_and_stay)
{
	struct stat st;
	CHECK_EQ(make(HOLE + MIB), 0);
	m.pinned = true;
	char *low = memmap_ptr(&m, 4096, 1), *high = memmap_ptr(&m, HIGH + MIB - 1, 1);
	*low = *high = 7;
	CHECK_EQ(memmap_clear(&m), 0);
	CHECK_EQ(*low, 0);
	CHECK_EQ(*high, 0);
	CHECK_EQ(fstat(m.fd, &st), 0);
	CHECK_EQ(st.st_blocks * 512, HOLE + MIB);
	memmap_destroy(&m);
}

TEST(bad_sizes_are_refused)
{
	uint64_t before = fds_open();
	static const uint64_t sizes[] = {
		0, 1, 4095, 4097, UINT64_MAX, UINT64_MAX - 4095, UINT64_C(1) << 63
	};
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		err.text[0] = '\0';
		CHECK(make(sizes[i]) < 0);
		CHECK(strncmp(err.text, "guest RAM: ", 11) == 0);
		CHECK_EQ(m.ram.count, 0);
		CHECK_EQ(m.fd, (unsigned long long)-1);
	}
	CHECK_EQ(make((UINT64_C(1) << 62)), (unsigned long long)-ENOMEM); // fits no address space
	CHECK(strstr(err.text, "map") != NULL);
	CHECK_EQ(fds_open(), before);
}

static unsigned long free_huge_pages(void)
{
	unsigned long n = 0;
	FILE *f = fopen("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "r");
	if (f && fscanf(f, "%lu", &n) != 1)
		n = 0;
	if (f)
		fclose(f);
	return n;
}

TEST(huge_pages_that_are_not_there_are_refused_with_the_mend)
{
	uint64_t before = fds_open();
	uint64_t size = (free_huge_pages() + 4096) * 2 * MIB;
	CHECK(memmap_create(&m, size, MEM_BACKING_HUGETLB_2M, UINT64_C(3) << 30, HIGH, &err) < 0);
	CHECK(strstr(err.text, "/proc/sys/vm/nr_hugepages") != NULL);
	CHECK_EQ(fds_open(), before);
	CHECK(memmap_create(&m, 3 * MIB, MEM_BACKING_HUGETLB_2M, UINT64_C(3) << 30, HIGH, &err) == -EINVAL);
	CHECK(strstr(err.text, "multiple of the page size 2097152") != NULL);
	CHECK_EQ(memmap_page_size(MEM_BACKING_MEMFD), 4096);
	CHECK_EQ(memmap_page_size(MEM_BACKING_HUGETLB_1G), 1024 * MIB);
}

TEST(huge_pages_are_taken_again_after_a_clear)
{
	if (free_huge_pages() < 1)
		SKIP("this host has no free 2 MiB pages (/proc/sys/vm/nr_hugepages)");
	CHECK_EQ(memmap_create(&m, 2 * MIB, MEM_BACKING_HUGETLB_2M, UINT64_C(3) << 30, HIGH, &err), 0);
	unsigned long held = free_huge_pages();
	char *p = memmap_ptr(&m, 0, 1);
	*p = 1;
	CHECK_EQ(memmap_clear(&m), 0);
	CHECK_EQ(*p, 0);
	CHECK_EQ(free_huge_pages(), held);
	memmap_destroy(&m);
}

TEST(destroy_leaves_nothing)
{
	uint64_t before = fds_open();
	for (int i = 0; i < 100; i++) {
		CHECK_EQ(make(HOLE + MIB), 0);
		memmap_destroy(&m);
		memmap_destroy(&m);
	}
	CHECK_EQ(fds_open(), before);
	CHECK(memmap_ptr(&m, 0, 1) == NULL);
}
