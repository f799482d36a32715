// SPDX-License-Identifier: BSD-2-Clause
// What the configuration is made of: numbers, sizes, device type names, suggestions, the arena.
#include "tests/unit/test.h"

#include "vmm/base/arena.h"
#include "vmm/base/check.h"
#include "vmm/base/parse.h"
#include "vmm/base/suggest.h"
#include "vmm/base/virtio_id.h"

#include <errno.h>

TEST(unsigned_numbers)
{
	static const struct {
		const char *text;
		uint64_t max;
		int want;
		uint64_t value;
	} cases[] = {
		{ "0", 0, 0, 0 },
		{ "007", 7, 0, 7 },
		{ "8", 7, -ERANGE, 0 },
		{ "18446744073709551615", UINT64_MAX, 0, UINT64_MAX },
		{ "18446744073709551616", UINT64_MAX, -ERANGE, 0 },
		{ "18446744073709551626", UINT64_MAX, -ERANGE, 0 },
		{ "99999999999999999999999999", UINT64_MAX, -ERANGE, 0 },
		{ "99999999999999999999999999x", UINT64_MAX, -EINVAL, 0 },
		{ "", 9, -EINVAL, 0 },
		{ "-1", 9, -EINVAL, 0 },
		{ "+1", 9, -EINVAL, 0 },
		{ " 1", 9, -EINVAL, 0 },
		{ "1 ", 9, -EINVAL, 0 },
		{ "0x1", 9, -EINVAL, 0 },
		{ "1K", UINT64_MAX, -EINVAL, 0 },
	};
	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		uint64_t v = 12345;
		CHECK(parse_uint(cases[i].text, cases[i].max, &v) == cases[i].want);
		CHECK_EQ(v, cases[i].want ? 12345 : cases[i].value);
	}
}

TEST(sizes)
{
	static const struct {
		const char *text;
		int want;
		uint64_t value;
	} cases[] = {
		{ "0", 0, 0 },
		{ "1", 0, 1 },
		{ "1K", 0, UINT64_C(1) << 10 },
		{ "1M", 0, UINT64_C(1) << 20 },
		{ "1G", 0, UINT64_C(1) << 30 },
		{ "1T", 0, UINT64_C(1) << 40 },
		{ "16777215T", 0, UINT64_C(16777215) << 40 },
		{ "16777216T", -ERANGE, 0 },
		{ "18014398509481983K", 0, UINT64_C(18014398509481983) << 10 },
		{ "18014398509481984K", -ERANGE, 0 },
		{ "18446744073709551615", 0, UINT64_MAX },
		{ "18446744073709551616", -ERANGE, 0 },
		{ "18446744073709551616M", -ERANGE, 0 },
		{ "18446744073709551616X", -EINVAL, 0 },
		{ "", -EINVAL, 0 },
		{ "K", -EINVAL, 0 },
		{ "1k", -EINVAL, 0 },
		{ "1KB", -EINVAL, 0 },
		{ "1 K", -EINVAL, 0 },
		{ "-1K", -EINVAL, 0 },
		{ "1P", -EINVAL, 0 },
	};
	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		uint64_t v = 12345;
		CHECK(parse_size(cases[i].text, &v) == cases[i].want);
		CHECK_EQ(v, cases[i].want ? 12345 : cases[i].value);
	}
}

TEST(device_type_names)
{
	static const struct {
		const char *name;
		uint16_t type;
	} known[] = { { "net", 1 },	   { "blk", 2 },    { "console", 3 },	{ "rng", 4 },
		      { "balloon", 5 },	   { "scsi", 8 },   { "9p", 9 },	{ "gpu", 16 },
		      { "input", 18 },	   { "vsock", 19 }, { "crypto", 20 },	{ "iommu", 23 },
		      { "mem", 24 },	   { "sound", 25 }, { "fs", 26 },	{ "pmem", 27 },
		      { "scmi", 32 },	   { "i2c", 34 },   { "watchdog", 35 }, { "can", 36 },
		      { "bluetooth", 40 }, { "gpio", 41 } };
	for (unsigned i = 0; i < ARRAY_LEN(known); i++)
		CHECK_EQ(virtio_id_by_name(known[i].name), known[i].type);
	unsigned names = 0;
	for (unsigned i = 0; i <= UINT16_MAX; i++) {
		const char *name = virtio_id_name((uint16_t)i);
		if (name)
			CHECK_EQ(virtio_id_by_name(name), i); // each name once
		names += name != NULL;
	}
	CHECK(names >= ARRAY_LEN(known));
	CHECK(!virtio_id_name(0) && !virtio_id_name(VIRTIO_TYPE_MAX + 1));
	CHECK_EQ(virtio_id_by_name(""), 0);
	CHECK_EQ(virtio_id_by_name("BLK"), 0);
	CHECK_EQ(virtio_id_by_name("blk0"), 0);
}

static const char *suggestion(const char *word)
{
	static const char *const known[] = { "image",  "id",   "socket", "queues", "queue_size", "to",
					     "kernel", "name", "memory", "blk",	   "net" };
	struct suggest s = { .word = word };
	for (unsigned i = 0; i < ARRAY_LEN(known); i++)
		suggest_offer(&s, known[i]);
	return s.best ? s.best : "";
}

TEST(suggestions)
{
	static const char *const cases[][2] = {
		{ "imgae", "image" },
		{ "imag", "image" },
		{ "images", "image" },
		{ "omage", "image" },
		{ "kernal", "kernel" },
		{ "krenle", "kernel" },
		{ "queue", "queues" },
		{ "queuesize", "queue_size" },
		{ "ID", "" },
		{ "ids", "id" },
		{ "i", "id" },
		{ "x", "" },
		{ "", "" },
		{ "completely", "" },
		{ "ram", "memory" },
		{ "nam", "name" },
		{ "block", "blk" },
		{ "virtio-net", "net" },
		{ "virtio-nets", "" },
		{ "qeueus", "queues" },
		{ "sockettttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttt", "" },
	};
	for (unsigned i = 0; i < ARRAY_LEN(cases); i++)
		CHECK_STR(suggestion(cases[i][0]), cases[i][1]);
}

TEST(lists_of_processors)
{
	static const char *const wrong[] = { "",    "-",    "1-",	   "-1",    ",1",
					     "1,",  "1,,2", "3-2",	   " 1",    "1 - 2",
					     "0x1", "1024", "99999999999", "1-2-3", "all" };
	uint64_t set[16];
	for (unsigned i = 0; i < ARRAY_LEN(wrong); i++)
		CHECK_EQ(parse_cpus(wrong[i], set), -EINVAL);
	CHECK_EQ(parse_cpus("0", set), 0);
	CHECK_EQ(set[0], 1);
	CHECK_EQ(parse_cpus("2-3,5,63-64,1023", set), 0);
	CHECK_EQ(set[0], UINT64_C(1) << 63 | 0x2c);
	CHECK_EQ(set[1], 1);
	CHECK_EQ(set[15], UINT64_C(1) << 63);
	for (unsigned i = 2; i < 15; i++)
		CHECK_EQ(set[i], 0);
}

TEST(arena_memory_is_zeroed_aligned_and_apart)
{
	static const size_t sizes[] = { 0, 1, 7, 16, 100, 4000, 5000, 1 << 20 };
	struct arena a = { 0 };
	unsigned char *got[64];
	for (unsigned i = 0; i < ARRAY_LEN(got); i++) {
		size_t size = sizes[i % ARRAY_LEN(sizes)];
		got[i] = arena_alloc(&a, size);
		CHECK(got[i]);
		CHECK_EQ((uintptr_t)got[i] % _Alignof(max_align_t), 0);
		for (size_t k = 0; k < size; k++)
			CHECK_EQ(got[i][k], 0);
		memset(got[i], (int)i + 1, size);
	}
	for (unsigned i = 0; i < ARRAY_LEN(got); i++)
		for (size_t k = 0; k < sizes[i % ARRAY_LEN(sizes)]; k++)
			CHECK_EQ(got[i][k], i + 1);
	CHECK(!arena_alloc(&a, SIZE_MAX));
	CHECK(!arena_alloc(&a, SIZE_MAX - 8));
	const char *copy = arena_copy(&a, "abc", 2), *text = arena_printf(&a, "%s-%d", "x", 7);
	CHECK_STR(copy, "ab");
	CHECK_STR(text, "x-7");
	arena_free(&a);
	CHECK(!a.blocks && !a.next && !a.left);
	arena_free(&a);
}
