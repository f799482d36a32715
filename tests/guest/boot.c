// SPDX-License-Identifier: BSD-2-Clause
// What a kernel finds: memory map, command line, initrd, ACPI, processors, clock, serial port.  Entered by
// PVH, and as boot64 by the 64-bit entry of Linux.
#include "lib/pci.h"

#define COM1 0x3f8

static void memory_map(void)
{
	uint64_t ram = 0, want = option("memory", 0) << 20;
	CHECK(boot.range_count >= 3);
	for (unsigned i = 0; i < boot.range_count; i++) {
		const struct memory_range *r = &boot.range[i];
		CHECK(r->size > 0 && r->gpa + r->size > r->gpa);
		CHECK(i == 0 || boot.range[i - 1].gpa + boot.range[i - 1].size <= r->gpa);
		if (r->type == 1)
			ram += r->size;
	}
	// What lies between 639 KiB and 1 MiB is not called RAM.
	CHECK_EQ(ram, want - (0x100000 - 0x9fc00));
	CHECK_EQ(boot.range[0].gpa, 0);
}

static void ecam_reserved(void)
{
	for (unsigned i = 0; i < boot.range_count; i++)
		if (boot.range[i].gpa <= ECAM_BASE &&
		    boot.range[i].gpa + boot.range[i].size >= ECAM_BASE + 0x100000) {
			CHECK(boot.range[i].type != 1);
			return;
		}
	FAIL("the memory map does not reserve ECAM");
}

static void command_line(void)
{
	CHECK(starts_with(boot.cmdline, "guest=boot "));
	CHECK(option_is("last", "here"));
}

// The harness writes `seq 1 20000`.
static void initrd(void)
{
	CHECK_EQ(boot.initrd_size, option("initrd", 0));
	CHECK(boot.initrd_gpa % 4096 == 0);
	CHECK(memcmp((void *)boot.initrd_gpa, "1\n2\n3\n", 6) == 0);
	CHECK(memcmp((void *)(boot.initrd_gpa + boot.initrd_size - 6), "20000\n", 6) == 0);
}

// ---- ACPI
// -------------------------------------------------------------------------------------------------------

static uint64_t field(uint64_t gpa, unsigned size)
{
	uint64_t v = 0;
	memcpy(&v, (void *)gpa, size);
	return v;
}

static uint8_t sum(uint64_t gpa, uint64_t len)
{
	uint8_t s = 0;
	for (uint64_t i = 0; i < len; i++)
		s = (uint8_t)(s + *(uint8_t *)(gpa + i));
	return s;
}

static uint64_t table(const char *signature)
{
	uint64_t xsdt = field(boot.rsdp_gpa + 24, 8);
	for (uint64_t at = 36; at < field(xsdt + 4, 4); at += 8) {
		uint64_t t = field(xsdt + at, 8);
		if (memcmp((void *)t, signature, 4) == 0)
			return t;
	}
	return 0;
}

static void acpi_checksums(void)
{
	CHECK(memcmp((void *)boot.rsdp_gpa, "RSD PTR ", 8) == 0);
	CHECK_EQ(sum(boot.rsdp_gpa, 20), 0);
	CHECK_EQ(sum(boot.rsdp_gpa, 36), 0);
	uint64_t xsdt = field(boot.rsdp_gpa + 24, 8);
	CHECK(memcmp((void *)xsdt, "XSDT", 4) == 0);
	CHECK_EQ(sum(xsdt, field(xsdt + 4, 4)), 0);
	for (uint64_t at = 36; at < field(xsdt + 4, 4); at += 8) {
		uint64_t t = field(xsdt + at, 8);
		CHECK_EQ(sum(t, field(t + 4, 4)), 0);
	}
	CHECK(table("FACP") && table("APIC") && table("MCFG"));
	uint64_t dsdt = field(table("FACP") + 140, 8);
	CHECK(memcmp((void *)dsdt, "DSDT", 4) == 0);
	CHECK_EQ(sum(dsdt, field(dsdt + 4, 4)), 0);
}

static void acpi_contents(void)
{
	uint64_t madt = table("APIC"), fadt = table("FACP"), mcfg = table("MCFG");
	unsigned cpus = 0, ioapics = 0;
	for (uint64_t at = 44, len = field(madt + 4, 4); at < len; at += field(madt + at + 1, 1)) {
		CHECK(field(madt + at + 1, 1) >= 2);
		if (field(madt + at, 1) == 0)
			CHECK_EQ(field(madt + at + 3, 1), cpus++);
		ioapics += field(madt + at, 1) == 1;
	}
	CHECK_EQ(cpus, option("cpus", 1));
	CHECK_EQ(ioapics, 1);
	CHECK_EQ(field(mcfg + 44, 8), ECAM_BASE);
	CHECK_EQ(field(fadt + 244 + 4, 8), 0x600);
	CHECK_EQ(field(fadt + 116 + 4, 8), 0x602);
}

// ---- processors
// -------------------------------------------------------------------------------------------------

static void cpuid_topology(void)
{
	unsigned cpus = (unsigned)option("cpus", 1);
	struct cpuid one = cpuid(1, 0);
	CHECK_EQ(one.b >> 24, 0);
	CHECK_EQ(one.b >> 16 & 0xff, cpus);
	CHECK(one.c >> 31);
	CHECK(cpus == 1 || one.d & 1u << 28); // with one, a host may say so or not
	if (cpuid(0, 0).a >= 0xb && cpuid(0xb, 0).b) {
		CHECK_EQ(cpuid(0xb, 0).b & 0xffff, 1);
		CHECK_EQ(cpuid(0xb, 1).b & 0xffff, cpus);
		CHECK_EQ(cpuid(0xb, 1).d, 0);
	}
}

static void cpuid_kvm(void)
{
	struct cpuid k = cpuid(0x40000000, 0);
	CHECK_EQ(k.b, 0x4b4d564b); // "KVMKVMKVM"
	CHECK_EQ(k.c, 0x564b4d56);
	CHECK(k.a >= 0x40000001);
	CHECK(cpuid(0x40000001, 0).a & 1u << 3); // kvmclock
	CHECK_EQ(cpuid(0xa, 0).a & 0xff, 0);	 // no performance counters
}

// ---- clock
// ------------------------------------------------------------------------------------------------------

static unsigned cmos(uint8_t reg)
{
	outb(0x70, reg);
	uint8_t v = inb(0x71);
	return (v >> 4) * 10u + (v & 15);
}

static void cmos_date(void)
{
	uint64_t date = option("date", 0), seconds = option("seconds", 0);
	uint64_t now = (cmos(0x32) * 100ul + cmos(9)) * 10000 + cmos(8) * 100ul + cmos(7);
	uint64_t of_day = cmos(4) * 3600ul + cmos(2) * 60ul + cmos(0);
	CHECK((of_day + 86400 - seconds) % 86400 < 30);
	CHECK(now == date || of_day < 30); // midnight passed
	outb(0x70, 0x0d);
	CHECK_EQ(inb(0x71), 0x80);
}

static void cmos_binary(void)
{
	unsigned minutes = cmos(2);
	outb(0x70, 0x0b);
	uint8_t b = inb(0x71);
	CHECK(b & 2);
	outb(0x71, b | 4);
	outb(0x70, 2);
	unsigned binary = inb(0x71);
	outb(0x70, 0x0b);
	outb(0x71, b);
	CHECK(binary - minutes <= 1 || (binary == 0 && minutes == 59));
}

// ---- serial port
// ------------------------------------------------------------------------------------------------

static void serial_loopback(void)
{
	outb(COM1 + 7, 0xa5);
	CHECK_EQ(inb(COM1 + 7), 0xa5);
	outb(COM1 + 4, 0x10);
	outb(COM1, 0x5a);
	bool ready = inb(COM1 + 5) & 1;
	uint8_t back = inb(COM1), modem = inb(COM1 + 6);
	outb(COM1 + 4, 0x1f);
	uint8_t modem_all = inb(COM1 + 6);
	outb(COM1 + 4, 0x08);
	CHECK(ready);
	CHECK_EQ(back, 0x5a);
	CHECK_EQ(modem & 0xf0, 0);
	CHECK_EQ(modem_all & 0xf0, 0xf0);
	outb(COM1 + 3, 0x80); // divisor
	uint8_t low = inb(COM1);
	outb(COM1 + 3, 0x03);
	CHECK_EQ(low, 12);
}

static uint8_t serial_id;

static void serial_irq(void)
{
	serial_id = inb(COM1 + 2) & 0x0f;
	outb(COM1 + 1, 0);
}

static void serial_interrupt(void)
{
	irq_hook[VECTOR_FIRST] = serial_irq;
	ioapic_route(4, VECTOR_FIRST, 0, false);
	outb(COM1 + 1, 2); // transmitter empty: at once
	bool came = WAIT(irq_count[VECTOR_FIRST] > 0, 500);
	ioapic_mask(4);
	outb(COM1 + 1, 0);
	CHECK(came);
	CHECK_EQ(serial_id, 2);
}

static const struct test tests[] = {
	{ "memory map covers all RAM in order", memory_map },
	{ "memory map reserves ECAM", ecam_reserved },
	{ "command line arrives whole", command_line },
	{ "initrd arrives whole", initrd },
	{ "ACPI tables have good checksums", acpi_checksums },
	{ "ACPI names CPUs, ECAM, power registers", acpi_contents },
	{ "CPUID shows the topology", cpuid_topology },
	{ "CPUID shows KVM and no counters", cpuid_kvm },
	{ "CMOS clock has the host's date and time", cmos_date },
	{ "CMOS clock in binary", cmos_binary },
	{ "serial port: scratch, divisor, loop-back", serial_loopback },
	{ "serial port: transmit interrupt by the IOAPIC", serial_interrupt },
};

void guest_main(void)
{
	CHECK_EQ(boot.pvh, option("pvh", 1));
	tests_run(tests, ARRAY_LEN(tests));
}
