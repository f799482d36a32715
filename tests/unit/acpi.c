// SPDX-License-Identifier: BSD-2-Clause
// ACPI tables: found from the RSDP as a guest would, checksums, lengths, bounds; and what ACPICA's compiler
// makes of them.
#include "firmware/acpi.h"
#include "firmware/layout_x86.h"
#include "firmware/le.h"
#include "tests/unit/test.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdarg.h>
#include <sys/wait.h>
#include <unistd.h>

static const struct acpi_machine machine = {
	.cpu_count = 4,
	.lapic_gpa = 0xfee00000,
	.ioapic_gpa = 0xfec00000,
	.ecam_gpa = 0xe0000000,
	.bus_count = 1,
	.pci_io = { 0x1000, 0xf000 },
	.pci_mmio32 = { 0xc0000000, 0x20000000 },
	.pci_mmio64 = { UINT64_C(0x4000000000), UINT64_C(0x4000000000) },
	.com1_port = 0x3f8,
	.com1_gsi = 4,
	.rtc_port = 0x70,
	.rtc_gsi = 8,
	.rtc_century = 0x32,
	.reset_port = 0x600,
	.reset_value = 6,
	.sleep_control = 0x601,
	.sleep_status = 0x602,
	.event_port = 0x603,
	.event_gsi = 9,
};

static uint8_t area[LAYOUT_ACPI_SIZE];

static bool sums_to_zero(const uint8_t *p, size_t len)
{
	uint8_t sum = 0;
	while (len-- > 0)
		sum = (uint8_t)(sum + *p++);
	return sum == 0;
}

// The table at a guest address, if it is one and whole.
static const uint8_t *table_at(uint64_t gpa, const char *signature)
{
	uint64_t off = gpa - LAYOUT_ACPI;
	if (gpa < LAYOUT_ACPI || off > sizeof(area) - 36)
		return NULL;
	const uint8_t *p = area + off;
	size_t len = le32(p + 4);
	if (off % 16 || len < 36 || len > sizeof(area) - off || (signature && memcmp(p, signature, 4) != 0))
		return NULL;
	return sums_to_zero(p, len) ? p : NULL;
}

// From the RSDP at the start of `area`; "DSDT" by way of the FADT.
static const uint8_t *table_find(const char *signature)
{
	if (memcmp(area, "RSD PTR ", 8) != 0 || !sums_to_zero(area, 20) || !sums_to_zero(area, 36) ||
	    area[15] != 2)
		return NULL;
	const uint8_t *xsdt = table_at(le64(area + 24), "XSDT");
	for (size_t at = 36; xsdt && at < le32(xsdt + 4); at += 8) {
		const uint8_t *p = table_at(le64(xsdt + at), NULL);
		if (!p)
			return NULL;
		if (memcmp(p, signature, 4) == 0)
			return p;
		if (strcmp(signature, "DSDT") == 0 && memcmp(p, "FACP", 4) == 0)
			return table_at(le64(p + 140), "DSDT");
	}
	return NULL;
}

static int build(const struct acpi_machine *m, size_t room)
{
	uint64_t rsdp = 0;
	memset(area, 0xee, sizeof(area));
	int rc = acpi_build(m, area, room, LAYOUT_ACPI, &rsdp, NULL);
	return rc ? rc : rsdp == LAYOUT_ACPI ? 0 : -EFAULT;
}

TEST(tables_are_found_and_whole)
{
	CHECK_EQ(build(&machine, sizeof(area)), 0);
	CHECK(table_find("FACP"));
	CHECK(table_find("APIC"));
	CHECK(table_find("MCFG"));
	CHECK(table_find("DSDT"));
}

TEST(fadt_fields)
{
	CHECK_EQ(build(&machine, sizeof(area)), 0);
	const uint8_t *p = table_find("FACP");
	CHECK(p);
	CHECK_EQ(le32(p + 4), 276);
	CHECK_EQ(p[8], 6);
	CHECK_EQ(le32(p + 112) >> 20 & 1, 1); // HW_REDUCED_ACPI
	CHECK_EQ(le32(p + 112) >> 10 & 1, 1); // RESET_REG_SUP
	CHECK_EQ(le16(p + 109) & 2, 0);	      // no 8042
	CHECK_EQ(le16(p + 109) & 0x20, 0);    // CMOS RTC there
	CHECK_EQ(le32(p + 116), 0x01000801);  // I/O, 8 bits, byte access
	CHECK_EQ(le64(p + 120), 0x600);
	CHECK_EQ(p[128], 6);
	CHECK_EQ(le32(p + 244), 0x01000801);
	CHECK_EQ(le64(p + 248), 0x601);
	CHECK_EQ(le64(p + 260), 0x602);
	CHECK_EQ(le32(p + 40), le64(p + 140));
	CHECK_EQ(p[108], 0x32);
}

static void madt_count(unsigned cpus, unsigned *small, unsigned *large, unsigned *other, bool *good)
{
	struct acpi_machine m = machine;
	m.cpu_count = cpus;
	*small = *large = *other = 0;
	*good = build(&m, sizeof(area)) == 0;
	const uint8_t *p = table_find("APIC");
	for (uint32_t at = 44; *good && p && at < le32(p + 4); at += p[at + 1]) {
		*good = p[at + 1] >= 6 && at + p[at + 1] <= le32(p + 4);
		if (p[at] == 0)
			*good &= p[at + 3] == *small && p[at + 2] == *small && p[at + 4] == 1, ++*small;
		else if (p[at] == 9)
			*good &= le32(p + at + 4) == 255 + *large && le32(p + at + 12) == 255 + *large,
				++*large;
		else
			++*other;
	}
	*good &= p != NULL;
}

TEST(madt_lists_every_cpu)
{
	static const unsigned counts[] = { 1, 2, 254, 255, 256, 2000, 4096 };
	for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
		unsigned small, large, other;
		bool good;
		madt_count(counts[i], &small, &large, &other, &good);
		CHECK(good);
		CHECK_EQ(small, counts[i] < 255 ? counts[i] : 255);
		CHECK_EQ(small + large, counts[i]);
		CHECK_EQ(other, large ? 3 : 2); // IOAPIC, NMI, x2APIC NMI
	}
}

TEST(mcfg_covers_the_buses)
{
	struct acpi_machine m = machine;
	m.bus_count = 3;
	CHECK_EQ(build(&m, sizeof(area)), 0);
	const uint8_t *p = table_find("MCFG");
	CHECK(p);
	CHECK_EQ(le32(p + 4), 60);
	CHECK_EQ(le64(p + 44), 0xe0000000);
	CHECK_EQ(p[54], 0);
	CHECK_EQ(p[55], 2);
}

TEST(every_room_too_small_is_refused)
{
	CHECK_EQ(build(&machine, sizeof(area)), 0);
	size_t need = sizeof(area);
	while (need > 0 && area[need - 1] == 0xee)
		need--;
	CHECK(need < 2048);
	CHECK_EQ(build(&machine, need), 0);
	for (size_t room = 0; room < need; room++) {
		CHECK_EQ(build(&machine, room), -ENOSPC);
		for (size_t i = room; i < need + 64; i++)
			CHECK_EQ(area[i], 0xee);
	}
}

static bool dsdt_names(const char *name)
{
	const uint8_t *p = table_find("DSDT");
	for (size_t i = 0; p && i + 4 <= le32(p + 4); i++)
		if (memcmp(p + i, name, 4) == 0)
			return true;
	return false;
}

TEST(hot_plug_costs_a_machine_without_it_nothing)
{
	struct acpi_machine m = machine;
	CHECK_EQ(build(&m, sizeof(area)), 0);
	const uint32_t len = le32(table_find("DSDT") + 4);
	CHECK(!dsdt_names("_EJ0") && !dsdt_names("HPRG") && !dsdt_names("HPEV") && !dsdt_names("_OST"));
	m.hotplug_port = 0x604; // of no slot: no register
	CHECK_EQ(build(&m, sizeof(area)), 0);
	CHECK_EQ(le32(table_find("DSDT") + 4), len);
	m.hotplug_slots = 0xfffffffe;
	CHECK_EQ(build(&m, sizeof(area)), 0);
	CHECK(dsdt_names("_EJ0") && dsdt_names("S01_") && dsdt_names("S1F_"));
	CHECK(le32(table_find("DSDT") + 4) < len + 31 * 64 + 128);
}

// Runs a program in `dir` with its output in `dir`/log; its exit status, or -1 if there is no such program.
static int run(const char *dir, ...)
{
	char *argv[8], log[128];
	va_list ap;
	va_start(ap, dir);
	for (size_t n = 0; n < 8 && (argv[n] = va_arg(ap, char *)); n++)
		;
	va_end(ap);
	snprintf(log, sizeof(log), "%s/log", dir);
	posix_spawn_file_actions_t fa;
	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_addopen(&fa, 1, log, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	posix_spawn_file_actions_adddup2(&fa, 1, 2);
	pid_t pid;
	int status = -1, rc = posix_spawnp(&pid, argv[0], &fa, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&fa);
	if (rc || waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		return -1;
	return WEXITSTATUS(status);
}

static bool file_write(const char *path, const uint8_t *p, size_t len)
{
	FILE *f = fopen(path, "w");
	if (!f)
		return false;
	bool good = fwrite(p, 1, len, f) == len;
	return fclose(f) == 0 && good;
}

static size_t file_read(const char *path, uint8_t *p, size_t room)
{
	FILE *f = fopen(path, "r");
	if (!f)
		return 0;
	size_t n = fread(p, 1, room, f);
	fclose(f);
	return n;
}

static const char *const dsdt_has[] = {
	"EisaId (\"PNP0A08\")",
	"EisaId (\"PNP0A03\")",
	"EisaId (\"PNP0C02\")",
	"EisaId (\"PNP0501\")",
	"EisaId (\"PNP0B00\")",
	"EisaId (\"PNP0C0C\")",
	"\"ACPI0013\"",
	"ResourceTemplate ()",
	"WordBusNumber (ResourceProducer",
	"Memory32Fixed (",
	"0xE0000000,",
	"DWordMemory (ResourceProducer",
	"0xDFFFFFFF,",
	"Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive",
	"SystemIO, 0x0603",
	"EVTS,   8",
	"ToUUID (\"33db4d5b-1ff7-401c-9657-7441c03dd766\")",
	"Notify (PWRB, 0x80)",
	"Package (0x04)",
};

// What there is of it if functions may be unplugged, here those of slots 1, 4 and 31.
static const char *const hotplug_has[] = {
	"SystemIO, 0x0604, 0x04",
	"DWordAcc, NoLock, WriteAsZeros",
	"HPRG,   32",
	"Device (S01)",
	"Device (S04)",
	"Device (S1F)",
	"Name (_ADR, 0x001F0000)",
	"Name (_SUN, 0x1F)",
	"Method (_EJ0, 1, Serialized)",
	"HPRG = 0x80000000",
	"Method (_OST, 3, Serialized)",
	"\\_SB.PCI0.HPEV ()",
	"Notify (PCI0, Zero)",
	"Notify (S01, 0x03)",
	"Notify (S04, 0x03)",
	"Notify (S1F, 0x03)",
};

static unsigned found_in(const char *text, const char *const *words, size_t count)
{
	unsigned n = 0;
	for (size_t i = 0; i < count; i++) {
		if (strstr(text, words[i]))
			n++;
		else
			printf("not there: %s\n", words[i]);
	}
	return n;
}

// True if ACPICA takes the table apart and puts it together again without a complaint, byte for byte (the
// header names its writer).
static bool round_trip(const char *dir, const char *signature, bool hotplug)
{
	static uint8_t back[LAYOUT_ACPI_SIZE];
	static char log[65536];
	char aml[64], dsl[64], out[64], path[128];
	const uint8_t *p = table_find(signature);
	if (!p)
		return false;
	snprintf(aml, sizeof(aml), "%s/%s.dat", dir, signature);
	snprintf(dsl, sizeof(dsl), "%s/%s.dsl", dir, signature);
	snprintf(out, sizeof(out), "%s/%s-again", dir, signature);
	if (!file_write(aml, p, le32(p + 4)) || run(dir, "iasl", "-d", aml, NULL) != 0 ||
	    run(dir, "iasl", "-oa", "-p", out, dsl, NULL) != 0)
		return false;
	snprintf(path, sizeof(path), "%s/log", dir);
	log[file_read(path, (uint8_t *)log, sizeof(log) - 1)] = '\0';
	if (strcmp(signature, "DSDT") == 0) {
		if (!strstr(log, "0 Errors, 0 Warnings"))
			return false;
		// A resource list with a wrong byte in it comes back as a plain buffer.
		log[file_read(dsl, (uint8_t *)log, sizeof(log) - 1)] = '\0';
		if (strstr(log, "Buffer ("))
			return false;
		const size_t all = sizeof(dsdt_has) / sizeof(dsdt_has[0]),
			     more = sizeof(hotplug_has) / sizeof(hotplug_has[0]);
		if (found_in(log, dsdt_has, all) != all ||
		    (hotplug && found_in(log, hotplug_has, more) != more))
			return false;
	}
	snprintf(path, sizeof(path), "%s.aml", out);
	size_t n = file_read(path, back, sizeof(back));
	return n == le32(p + 4) && memcmp(back + 36, p + 36, n - 36) == 0;
}

TEST(acpica_agrees)
{
	static const char *const signatures[] = { "DSDT", "FACP", "APIC", "MCFG" };
	char dir[] = "/tmp/minivmm-acpi.XXXXXX";
	bool good = true;
	CHECK(mkdtemp(dir));
	if (run(dir, "iasl", "-v", NULL) < 0) {
		run(dir, "rm", "-r", dir, NULL);
		SKIP("iasl is not installed (Debian: acpica-tools)");
	}
	struct acpi_machine m = machine;
	m.cpu_count = 300;
	for (unsigned variant = 0; variant < 2; variant++) {
		good = good && build(&m, sizeof(area)) == 0;
		for (size_t i = 0; good && i < 4; i++)
			good = round_trip(dir, signatures[i], variant == 1);
		m.hotplug_slots = 0x80000012;
		m.hotplug_port = 0x604;
		m.pci_mmio64.size = 0;
		m.pci_io.size = 0;
		m.bus_count = 16;
	}
	if (!good)
		printf("left for inspection: %s\n", dir);
	else
		run(dir, "rm", "-r", dir, NULL);
	CHECK(good);
}
