// SPDX-License-Identifier: BSD-2-Clause
// Interrupts of a virtio function: delivery, masks, pending bits, and abuse of the table.  Two CPUs, two
// disks.
#include "lib/virtio.h"

static struct vdev disk, other;

// A request whose interrupt is looked for: sent, done, and not waited for by its interrupt.
static bool complete_one(void)
{
	uint32_t id, len;
	blk_fill(&disk.q[0], 0, BLK_FLUSH, 0, NULL, 0);
	vq_offer(&disk.q[0], 0);
	vq_kick(&disk.q[0], 0);
	return vq_take(&disk.q[0], &id, &len, 2000);
}

static uint32_t came(unsigned vector)
{
	return irq_count[vector];
}

static bool pending(unsigned entry)
{
	return read64(disk.msix_pba) >> entry & 1;
}

static void delivery(void)
{
	CHECK(vdev_start(&disk, 0, 1, 16));
	for (unsigned cpu = 0; cpu < 2; cpu++) {
		msix_set(&disk, 1, cpu, 0x60 + cpu);
		CHECK(complete_one());
		CHECK(WAIT(came(0x60 + cpu) == 1, 500));
		CHECK_EQ(irq_cpu[0x60 + cpu], cpu);
	}
	CHECK_EQ(came(0x60), 1);
	CHECK_EQ(pending(1), 0);
}

static void vector_mask(void)
{
	CHECK(vdev_start(&disk, 0, 1, 16));
	msix_mask(&disk, 1, true);
	CHECK(complete_one());
	sleep_ms(2);
	CHECK_EQ(came(disk.vector), 0);
	CHECK(pending(1));
	CHECK(!pending(0));
	msix_mask(&disk, 1, false);
	CHECK(WAIT(came(disk.vector) == 1, 500));
	CHECK(!pending(1));
}

static void function_mask(void)
{
	CHECK(vdev_start(&disk, 0, 1, 16));
	msix_control(&disk, MSIX_ENABLE | MSIX_MASK);
	CHECK(complete_one());
	sleep_ms(2);
	CHECK_EQ(came(disk.vector), 0);
	CHECK(pending(1));
	msix_control(&disk, MSIX_ENABLE);
	CHECK(WAIT(came(disk.vector) == 1, 500));
	CHECK(!pending(1));
}

// Address and data that change under a mask: the pending interrupt goes to the new place.
static void pending_moves(void)
{
	CHECK(vdev_start(&disk, 0, 1, 16));
	msix_mask(&disk, 1, true);
	CHECK(complete_one());
	CHECK(WAIT(pending(1), 500));
	msix_set(&disk, 1, 1, 0x70);
	CHECK(WAIT(came(0x70) == 1, 500));
	CHECK_EQ(irq_cpu[0x70], 1);
	CHECK_EQ(came(disk.vector), 0);
}

static void g17_table(void)
{
	CHECK(vdev_reset(&disk));
	uint64_t last = disk.msix_table + 16ul * (disk.msix_count - 1), end = last + 16;
	write32(last + 8, 0x1234);
	for (unsigned size = 1; size <= 2; size++) {
		mmio_write(last + 8, size, 0xff);
		CHECK_EQ(mmio_read(last + 8, size), 0);
		CHECK_EQ(read32(last + 8), 0x1234);
	}
	write32(last + 6, 0xffffffff);
	write64(last + 4, ~0ul);
	CHECK_EQ(read32(last + 8), 0x1234);
	write64(last + 8, 0x0000000100005678);
	CHECK_EQ(read64(last + 8), 0x0000000100005678);
	write64(last, 0x12345678fee01003);
	CHECK_EQ(read64(last), 0x12345678fee01000);
	CHECK_EQ(read32(last + 12), 1);
	write32(last + 12, 0xffffffff);
	CHECK_EQ(read32(last + 12), 1);
	for (uint64_t at = end; at < disk.bar + 0x10000; at += at < end + 64 ? 4 : 4052) {
		if (at >= disk.msix_pba && at < disk.msix_pba + 8)
			continue;
		write32(at, 0xffffffff);
		CHECK_EQ(read32(at), 0);
	}
	write64(end - 4, ~0ul);
	write64(disk.msix_pba, ~0ul);
	write32(disk.msix_pba, ~0u);
	CHECK_EQ(read64(disk.msix_pba), 0);
	write64(last, 0);
	CHECK(blk_works(&other, 0, 8));
}

static volatile bool storming;
static volatile uint32_t rounds;

static void storm(void *arg)
{
	(void)arg;
	while (storming) {
		msix_mask(&disk, 1, true);
		msix_mask(&disk, 1, false);
		if (rounds % 4 == 0) {
			msix_control(&disk, MSIX_ENABLE | MSIX_MASK);
			msix_control(&disk, MSIX_ENABLE);
		}
		rounds++;
	}
}

// Each completion must be heard of, however often the vector was masked meanwhile.
static void g19_mask_storm(void)
{
	CHECK(vdev_start(&disk, 0, 1, 16));
	storming = true;
	rounds = 0;
	cpu_run(1, storm, NULL);
	unsigned lost = 0;
	for (unsigned i = 0; (i < 100 || rounds < 50) && i < 20000 && !lost; i++) {
		uint32_t before = came(disk.vector);
		blk_fill(&disk.q[0], 0, BLK_FLUSH, 0, NULL, 0);
		vq_offer(&disk.q[0], 0);
		vq_kick(&disk.q[0], 0);
		lost += !WAIT(came(disk.vector) > before, 1000);
		disk.q[0].seen = disk.q[0].used->idx;
	}
	storming = false;
	CHECK(cpu_wait(1, 1000));
	CHECK_EQ(lost, 0);
	CHECK(rounds > 10);
	CHECK(blk_works(&disk, 0, 16));
}

static void rewrite(void *arg)
{
	(void)arg;
	for (; storming; rounds++) {
		write32(disk.msix_table + 16, (uint32_t)MSI_ADDRESS(rounds & 1));
		write32(disk.msix_table + 16 + 8, 0x60 + rounds % 16);
	}
}

static void g19_rewrite(void)
{
	CHECK(vdev_start(&disk, 0, 1, 16));
	storming = true;
	rounds = 0;
	cpu_run(1, rewrite, NULL);
	for (unsigned i = 0; i < 50; i++)
		if (!complete_one())
			break;
	WAIT(rounds > 100, 5000);
	storming = false;
	CHECK(cpu_wait(1, 1000));
	CHECK(rounds > 100);
	unsigned total = 0;
	for (unsigned i = 0; i < 16; i++)
		total += came(0x60 + i);
	CHECK(total > 0);
	msix_set(&disk, 1, 0, 0x80);
	CHECK(complete_one());
	CHECK(WAIT(came(0x80) == 1, 500));
}

static void g20_not_an_apic(void)
{
	static const uint64_t wrong[] = { 0,	      0x1000,	  0xfec00000,  0xfed00000, 0xfef00000,
					  0xe8000000, 0xc0000000, 0x1fee00000, ~3ul };
	CHECK(vdev_start(&disk, 0, 1, 16));
	for (unsigned i = 0; i < ARRAY_LEN(wrong); i++) {
		write64(disk.msix_table + 16, wrong[i]);
		CHECK(complete_one());
		CHECK_EQ(read64(disk.msix_table + 16), wrong[i]);
	}
	static const uint32_t data[] = { 0xffffffff, 0x0000, 0x000f, 0x0700, 0x0500, 0xff00, 0x8000 };
	write64(disk.msix_table + 16, MSI_ADDRESS(15)); // no such CPU
	for (unsigned i = 0; i < ARRAY_LEN(data); i++) {
		write32(disk.msix_table + 16 + 8, data[i]);
		CHECK(complete_one());
	}
	msix_set(&disk, 1, 0, 0x81);
	CHECK(complete_one());
	CHECK(WAIT(came(0x81) >= 1, 500));
	CHECK(blk_works(&other, 0, 8));
}

static const struct test tests[] = {
	{ "MSI-X reaches the CPU that it names", delivery },
	{ "a masked vector is pending, and comes when unmasked", vector_mask },
	{ "a masked function likewise", function_mask },
	{ "a pending interrupt follows its vector", pending_moves },
	{ "G17 MSI-X table and PBA: sizes, ends, writes", g17_table },
	{ "G19 mask storm loses no interrupt", g19_mask_storm },
	{ "G19 address and data rewritten while unmasked", g19_rewrite },
	{ "G20 MSI addresses that are no APIC", g20_not_an_apic },
};

void guest_main(void)
{
	if (!vdev_find(&disk, 0) || !vdev_find(&other, 1) || !vdev_start(&other, 0, 1, 16))
		panic("no disks");
	if (!cpus_start(2))
		panic("no second CPU");
	tests_run(tests, ARRAY_LEN(tests));
}
