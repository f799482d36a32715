// SPDX-License-Identifier: BSD-2-Clause
// Guest memory as a device process maps it: what is accepted as a region, and the one translation.
#include "devices/sdk/guest_mem.h"
#include "tests/unit/test.h"
#include "vmm/base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE UINT64_C(4096)
#define GPA  UINT64_C(0x100000)
#define UVA  UINT64_C(0x5500000000)

static int memory(uint64_t len)
{
	int fd = memfd_create("guest", MFD_CLOEXEC);
	if (fd >= 0 && ftruncate(fd, (off_t)len) < 0)
		fd_close(&fd);
	return fd;
}

TEST(both_spaces_lead_to_the_same_byte)
{
	struct guest_mem m = { 0 };
	FD_AUTO fd = memory(4 * PAGE);
	CHECK_EQ(guest_mem_add(&m, fd, PAGE, GPA, UVA, 2 * PAGE), 0);
	CHECK_EQ(pwrite(fd, "x", 1, (off_t)(2 * PAGE + 5)), 1);
	uint8_t *p = guest_mem_at(&m, GUEST_PHYSICAL, GPA + PAGE + 5, 1);
	CHECK(p && *p == 'x');
	CHECK(guest_mem_at(&m, GUEST_USER, UVA + PAGE + 5, 1) == p);
	CHECK(!guest_mem_at(&m, GUEST_USER, GPA, 1));
	guest_mem_clear(&m);
}

TEST(edges)
{
	struct guest_mem m = { 0 };
	FD_AUTO fd = memory(2 * PAGE);
	CHECK_EQ(guest_mem_add(&m, fd, 0, GPA, UVA, 2 * PAGE), 0);
	CHECK(guest_mem_at(&m, GUEST_PHYSICAL, GPA, 2 * PAGE));
	CHECK(guest_mem_at(&m, GUEST_PHYSICAL, GPA + 2 * PAGE - 1, 1));
	CHECK(!guest_mem_at(&m, GUEST_PHYSICAL, GPA + 2 * PAGE - 1, 2));
	CHECK(!guest_mem_at(&m, GUEST_PHYSICAL, GPA + 2 * PAGE, 1));
	CHECK(!guest_mem_at(&m, GUEST_PHYSICAL, GPA - 1, 1));
	CHECK(!guest_mem_at(&m, GUEST_PHYSICAL, GPA, UINT64_MAX));
	CHECK(!guest_mem_at(&m, GUEST_PHYSICAL, UINT64_MAX, 2));
	CHECK(!guest_mem_at(&m, GUEST_PHYSICAL, GPA, 0));
	guest_mem_clear(&m);
	CHECK(!guest_mem_at(&m, GUEST_PHYSICAL, GPA, 1));
}

TEST(a_range_over_two_regions_is_two_pieces)
{
	struct guest_mem m = { 0 };
	FD_AUTO a = memory(PAGE);
	FD_AUTO b = memory(PAGE);
	CHECK_EQ(guest_mem_add(&m, b, 0, GPA + PAGE, UVA + 16 * PAGE, PAGE), 0);
	CHECK_EQ(guest_mem_add(&m, a, 0, GPA, UVA, PAGE), 0);
	struct iovec iov[2];
	CHECK_EQ(guest_mem_iov(&m, GUEST_READ, GPA + PAGE - 3, 10, iov, 2), 2);
	CHECK_EQ(iov[0].iov_len, 3);
	CHECK_EQ(iov[1].iov_len, 7);
	CHECK(iov[1].iov_base == guest_mem_at(&m, GUEST_PHYSICAL, GPA + PAGE, 7));
	CHECK_EQ(guest_mem_iov(&m, GUEST_READ, GPA + PAGE - 3, 10, iov, 1), -ENOBUFS);
	CHECK_EQ(guest_mem_iov(&m, GUEST_READ, GPA + PAGE - 3, PAGE + 4, iov, 2), -EFAULT);
	CHECK(!guest_mem_at(&m, GUEST_PHYSICAL, GPA + PAGE - 3, 10)); // not in one piece
	guest_mem_clear(&m);
}

TEST(what_is_no_memory_file)
{
	struct guest_mem m = { 0 };
	int fds[2];
	CHECK_EQ(pipe(fds), 0);
	FD_AUTO dir = open("/", O_RDONLY | O_DIRECTORY);
	FD_AUTO path = open("/dev/null", O_PATH);
	FD_AUTO fd = memory(PAGE);
	char name[64];
	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	FD_AUTO readonly = open(name, O_RDONLY);
	CHECK(readonly >= 0);
	CHECK(guest_mem_add(&m, dir, 0, GPA, UVA, PAGE) < 0);
	CHECK(guest_mem_add(&m, path, 0, GPA, UVA, PAGE) < 0);
	CHECK(guest_mem_add(&m, readonly, 0, GPA, UVA, PAGE) < 0);
	CHECK(guest_mem_add(&m, fds[0], 0, GPA, UVA, PAGE) < 0);
	CHECK(guest_mem_add(&m, fds[1], 0, GPA, UVA, PAGE) < 0);
	CHECK(guest_mem_add(&m, -1, 0, GPA, UVA, PAGE) < 0);
	CHECK_EQ(m.count, 0);
	fd_close_all(fds, 2);
}

TEST(what_the_file_does_not_cover)
{
	struct guest_mem m = { 0 };
	FD_AUTO fd = memory(2 * PAGE);
	CHECK_EQ(guest_mem_add(&m, fd, 0, GPA, UVA, 2 * PAGE + 1), -ERANGE);
	CHECK_EQ(guest_mem_add(&m, fd, PAGE, GPA, UVA, 2 * PAGE), -ERANGE);
	CHECK_EQ(guest_mem_add(&m, fd, UINT64_MAX - PAGE + 1, GPA, UVA, 2 * PAGE), -ERANGE);
	CHECK_EQ(guest_mem_add(&m, fd, 0, GPA, UVA, 0), -ERANGE);
	CHECK_EQ(guest_mem_add(&m, fd, 0, GPA, UVA, UINT64_MAX), -ERANGE);
	CHECK_EQ(guest_mem_add(&m, fd, 0, UINT64_MAX - PAGE + 1, UVA, 2 * PAGE), -ERANGE);
	CHECK_EQ(guest_mem_add(&m, fd, 0, GPA, UINT64_MAX - PAGE + 1, 2 * PAGE), -ERANGE);
	CHECK_EQ(m.count, 0);
}

TEST(regions_do_not_overlap_in_either_space)
{
	struct guest_mem m = { 0 };
	FD_AUTO fd = memory(4 * PAGE);
	CHECK_EQ(guest_mem_add(&m, fd, 0, GPA, UVA, 2 * PAGE), 0);
	CHECK_EQ(guest_mem_add(&m, fd, 0, GPA + PAGE, UVA + 8 * PAGE, 2 * PAGE), -EEXIST);
	CHECK_EQ(guest_mem_add(&m, fd, 0, GPA + 8 * PAGE, UVA + PAGE, 2 * PAGE), -EEXIST);
	CHECK_EQ(guest_mem_add(&m, fd, 0, GPA + 2 * PAGE, UVA + 2 * PAGE, 2 * PAGE), 0);
	guest_mem_clear(&m);
}

TEST(removal_names_the_region_exactly)
{
	struct guest_mem m = { 0 };
	FD_AUTO fd = memory(4 * PAGE);
	CHECK_EQ(guest_mem_add(&m, fd, 0, GPA, UVA, PAGE), 0);
	CHECK_EQ(guest_mem_add(&m, fd, PAGE, GPA + PAGE, UVA + PAGE, PAGE), 0);
	CHECK_EQ(guest_mem_remove(&m, GPA, UVA, 2 * PAGE), -ENOENT);
	CHECK_EQ(guest_mem_remove(&m, GPA, UVA + PAGE, PAGE), -ENOENT);
	CHECK_EQ(guest_mem_remove(&m, GPA, UVA, PAGE), 0);
	CHECK(!guest_mem_at(&m, GUEST_PHYSICAL, GPA, 1));
	CHECK(guest_mem_at(&m, GUEST_PHYSICAL, GPA + PAGE, 1));
	guest_mem_clear(&m);
}

TEST(a_region_need_not_start_at_a_page_of_the_file)
{
	struct guest_mem m = { 0 };
	FD_AUTO fd = memory(2 * PAGE);
	CHECK_EQ(pwrite(fd, "y", 1, 100), 1);
	CHECK_EQ(guest_mem_add(&m, fd, 100, GPA, UVA, PAGE), 0);
	uint8_t *p = guest_mem_at(&m, GUEST_PHYSICAL, GPA, PAGE);
	CHECK(p && *p == 'y');
	guest_mem_clear(&m);
}

TEST(there_is_an_end_to_the_table)
{
	struct guest_mem m = { 0 };
	FD_AUTO fd = memory(PAGE);
	for (unsigned i = 0; i < GUEST_REGIONS_MAX; i++)
		CHECK_EQ(guest_mem_add(&m, fd, 0, GPA + i * PAGE, UVA + i * PAGE, PAGE), 0);
	CHECK_EQ(guest_mem_add(&m, fd, 0, 0, 0, PAGE), -ENOSPC);
	guest_mem_clear(&m);
}
