// SPDX-License-Identifier: BSD-2-Clause
// G29: accesses to every port and to every hole in memory.
#include "lib/pci.h"

// What ends or restarts the machine, types on the console, or would be waited for.
static bool spared(unsigned port, unsigned size)
{
	for (unsigned p = port; p < port + size; p++)
		if ((p >= 0x3f8 && p <= 0x3ff) || p == 0x64 || p == 0x600 || p == 0x602)
			return true;
	return false;
}

static void g29_reads(void)
{
	unsigned odd = 0;
	for (unsigned port = 0; port < 0x10000; port++) {
		uint8_t v = inb((uint16_t)port);
		odd += port > 0xd00 && v != 0xff;
	}
	for (unsigned port = 0; port < 0x10000; port += 61) {
		inw((uint16_t)port);
		inl((uint16_t)port);
	}
	CHECK_EQ(odd, 0);
}

static void g29_writes(void)
{
	for (unsigned port = 0; port < 0x10000; port++) {
		if (!spared(port, 1))
			outb((uint16_t)port, 0x5a);
		if (port % 61 == 0 && !spared(port, 2))
			outw((uint16_t)port, 0xa55a);
		if (port % 61 == 0 && !spared(port, 4))
			outl((uint16_t)port, 0xa55aa55a);
	}
	// Wider accesses to what is there byte by byte.
	outw(0x64, 0xfefe);
	outl(0x600, 0x34343434);
	outw(0x602, 0x0101);
	outw(0x3f8, 0x4141);
	outl(0x3f8, 0x41414141);
	outb(0x21, 0xff); // the 8259s as before
	outb(0xa1, 0xff);
	CHECK(config_read32(0, 0) == 0x00081b36);
}

static void g29_strings(void)
{
	static uint8_t buf[4096];
	static const uint16_t ports[] = { 0x80, 0x70, 0x60, 0x1000, 0xcfc, 0xfffc, 0xffff };
	for (unsigned i = 0; i < ARRAY_LEN(ports); i++) {
		void *p = buf;
		uint64_t n = 512;
		__asm__ volatile("rep insb" : "+D"(p), "+c"(n) : "d"(ports[i]) : "memory");
		p = buf, n = 512;
		__asm__ volatile("rep insl" : "+D"(p), "+c"(n) : "d"(ports[i]) : "memory");
		CHECK_EQ(n, 0);
		const void *s = buf;
		n = 512;
		__asm__ volatile("rep outsw" : "+S"(s), "+c"(n) : "d"(ports[i]) : "memory");
		CHECK_EQ(n, 0);
	}
	uint64_t n = 16;
	const void *s = "REP to the console\n";
	n = 19;
	__asm__ volatile("rep outsb" : "+S"(s), "+c"(n) : "d"(0x3f8) : "memory");
	CHECK_EQ(n, 0);
}

static void g29_holes(void)
{
	const uint64_t holes[] = { option("memory", 64) << 20,
				   0x7ffff000,
				   0xbffff000,
				   0xdffff000,
				   0xe8100000,
				   0xf0000000,
				   0xfd000000,
				   0xfec01000,
				   0xfed00000,
				   0xfee01000,
				   0xfeff8000,
				   0xfffff000,
				   0x100000000,
				   0x1fffff000 };
	for (unsigned i = 0; i < ARRAY_LEN(holes); i++)
		for (uint64_t at = holes[i]; at < holes[i] + 0x1000; at += 0x3f9)
			for (unsigned size = 1; size <= 8; size *= 2) {
				mmio_write(at, size, 0x1122334455667788);
				uint64_t ones = size == 8 ? ~0ul : (1ul << 8 * size) - 1;
				if (mmio_read(at, size) != ones) {
					FAIL("%u bytes at %lx read %lx", size, at, mmio_read(at, size));
					return;
				}
			}
}

static void g29_flood(void)
{
	for (unsigned i = 0; i < 5000; i++) {
		outb(0x5000, 1);
		write32(0xf0000000, i);
	}
	CHECK_EQ(inb(0x5000), 0xff);
}

static const struct test tests[] = {
	{ "G29 every port read", g29_reads },
	{ "G29 every port written", g29_writes },
	{ "G29 string instructions on ports", g29_strings },
	{ "G29 holes in the memory map", g29_holes },
	{ "G29 a flood of accesses to nothing", g29_flood },
};

void guest_main(void)
{
	tests_run(tests, ARRAY_LEN(tests));
}
