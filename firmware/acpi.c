// SPDX-License-Identifier: BSD-2-Clause
#include "firmware/acpi.h"

#include "firmware/dsdt.h"
#include "firmware/le.h"
#include "vmm/base/check.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define HEADER_SIZE 36
#define RSDP_SIZE   36
#define FADT_SIZE   276
#define TABLE_ALIGN 16

#define OEM_ID	     "MINVMM"
#define OEM_TABLE_ID "MINIVMM "
#define CREATOR_ID   "MVMM"

// FADT, §5.2.9
#define FADT_DSDT	    40
#define FADT_LVL2_LATENCY   96
#define FADT_LVL3_LATENCY   98
#define FADT_CENTURY	    108
#define FADT_IAPC_BOOT_ARCH 109
#define FADT_FLAGS	    112
#define FADT_RESET_REG	    116
#define FADT_RESET_VALUE    128
#define FADT_MINOR_VERSION  131
#define FADT_X_DSDT	    140
#define FADT_SLEEP_CONTROL  244
#define FADT_SLEEP_STATUS   256

#define BOOT_ARCH_LEGACY_DEVICES (1 << 0) // a serial port; no 8042
#define BOOT_ARCH_NO_VGA	 (1 << 2)
#define BOOT_ARCH_NO_ASPM	 (1 << 4)

#define FLAG_WBINVD	     (1u << 0)
#define FLAG_PROC_C1	     (1u << 2)
#define FLAG_PWR_BUTTON	     (1u << 4) // none in fixed hardware
#define FLAG_SLP_BUTTON	     (1u << 5) // likewise
#define FLAG_FIX_RTC	     (1u << 6) // no RTC wake status in fixed hardware
#define FLAG_RESET_REG_SUP   (1u << 10)
#define FLAG_HEADLESS	     (1u << 12)
#define FLAG_HW_REDUCED_ACPI (1u << 20)

#define LAPIC_IDS 255 // those from here on have no place in a local APIC entry

// Space being filled with one table after the other.
struct tables {
	uint8_t *buf;
	size_t room, len;
	uint64_t gpa;
	uint64_t list[4]; // gpa of what the XSDT names
	unsigned list_len;
};

static uint8_t checksum(const uint8_t *p, size_t len)
{
	unsigned sum = 0;
	for (size_t i = 0; i < len; i++)
		sum += p[i];
	return (uint8_t)-sum;
}

// Zeroed bytes at the end of what there is, or NULL.
static uint8_t *take(struct tables *t, size_t len)
{
	size_t at = (size_t)align_up(t->len, TABLE_ALIGN);
	if (!range_in(at, len, t->room))
		return NULL;
	t->len = at + len;
	return memset(t->buf + at, 0, len);
}

static uint64_t gpa_of(const struct tables *t, const uint8_t *p)
{
	return t->gpa + (uint64_t)(p - t->buf);
}

// Writes the header of a table whose body is complete (§5.2.6).
static void seal(uint8_t *table, const char *signature, uint8_t revision, size_t len)
{
	memcpy(table, signature, 4);
	le32_put(table + 4, (uint32_t)len);
	table[8] = revision;
	table[9] = 0;
	memcpy(table + 10, OEM_ID, 6);
	memcpy(table + 16, OEM_TABLE_ID, 8);
	le32_put(table + 24, 1);
	memcpy(table + 28, CREATOR_ID, 4);
	le32_put(table + 32, 1);
	table[9] = checksum(table, len);
}

static bool dsdt_build(struct tables *t, const struct acpi_machine *m, uint64_t *dsdt_gpa)
{
	uint8_t *p = take(t, HEADER_SIZE);
	struct aml a;
	if (!p)
		return false;
	aml_init(&a, p + HEADER_SIZE, t->room - t->len);
	dsdt_write(&a, m);
	if (aml_failed(&a))
		return false;
	t->len += a.len;
	seal(p, "DSDT", 2, HEADER_SIZE + a.len);
	*dsdt_gpa = gpa_of(t, p);
	return true;
}

// Generic Address Structure of a one-byte port (§5.2.3.2).
static void port_register(uint8_t *p, uint16_t port)
{
	p[0] = 1; // I/O space
	p[1] = 8; // bits
	p[3] = 1; // byte access
	le64_put(p + 4, port);
}

static bool fadt_build(struct tables *t, const struct acpi_machine *m, uint64_t dsdt_gpa)
{
	uint8_t *p = take(t, FADT_SIZE);
	if (!p)
		return false;
	if (dsdt_gpa <= UINT32_MAX)
		le32_put(p + FADT_DSDT, (uint32_t)dsdt_gpa);
	le64_put(p + FADT_X_DSDT, dsdt_gpa);
	le16_put(p + FADT_LVL2_LATENCY, 101);  // more than 100: no C2
	le16_put(p + FADT_LVL3_LATENCY, 1001); // more than 1000: no C3
	p[FADT_CENTURY] = m->rtc_century;
	le16_put(p + FADT_IAPC_BOOT_ARCH, BOOT_ARCH_LEGACY_DEVICES | BOOT_ARCH_NO_VGA | BOOT_ARCH_NO_ASPM);
	le32_put(p + FADT_FLAGS, FLAG_WBINVD | FLAG_PROC_C1 | FLAG_PWR_BUTTON | FLAG_SLP_BUTTON |
					 FLAG_FIX_RTC | FLAG_RESET_REG_SUP | FLAG_HEADLESS |
					 FLAG_HW_REDUCED_ACPI);
	port_register(p + FADT_RESET_REG, m->reset_port);
	p[FADT_RESET_VALUE] = m->reset_value;
	p[FADT_MINOR_VERSION] = 4;
	port_register(p + FADT_SLEEP_CONTROL, m->sleep_control);
	port_register(p + FADT_SLEEP_STATUS, m->sleep_status);
	seal(p, "FACP", 6, FADT_SIZE);
	t->list[t->list_len++] = gpa_of(t, p);
	return true;
}

// MADT, §5.2.12.  Processors are enabled, and their NMI comes in at LINT1.
static bool madt_build(struct tables *t, const struct acpi_machine *m)
{
	const size_t head = HEADER_SIZE + 8, lapic = 8, x2apic = 16, ioapic = 12, nmi = 6, x2apic_nmi = 12;
	size_t small = MIN(m->cpu_count, LAPIC_IDS), large = m->cpu_count - small;
	size_t len = head + small * lapic + large * x2apic + ioapic + nmi + (large ? x2apic_nmi : 0);
	uint8_t *table = take(t, len), *p = table;
	if (!table)
		return false;
	le32_put(p + HEADER_SIZE, m->lapic_gpa);
	p += head;
	for (uint32_t id = 0; id < m->cpu_count; id++) {
		if (id < LAPIC_IDS) {
			p[1] = 8;
			p[2] = p[3] = (uint8_t)id;
			p[4] = 1;
		} else {
			p[0] = 9;
			p[1] = 16;
			le32_put(p + 4, id);
			p[8] = 1;
			le32_put(p + 12, id);
		}
		p += p[1];
	}
	p[0] = 1;
	p[1] = 12;
	le32_put(p + 4, m->ioapic_gpa);
	p += ioapic;
	p[0] = 4;
	p[1] = 6;
	p[2] = 0xff; // all processors
	p[5] = 1;
	p += nmi;
	if (large) {
		p[0] = 10;
		p[1] = 12;
		le32_put(p + 4, UINT32_MAX);
		p[8] = 1;
		p += x2apic_nmi;
	}
	assert(p == table + len);
	seal(table, "APIC", 5, len);
	t->list[t->list_len++] = gpa_of(t, table);
	return true;
}

// PCI Firmware 3.3 §4.1.2
static bool mcfg_build(struct tables *t, const struct acpi_machine *m)
{
	const size_t len = HEADER_SIZE + 8 + 16;
	uint8_t *p = take(t, len);
	if (!p)
		return false;
	le64_put(p + HEADER_SIZE + 8, m->ecam_gpa);
	p[HEADER_SIZE + 8 + 11] = (uint8_t)(m->bus_count - 1);
	seal(p, "MCFG", 1, len);
	t->list[t->list_len++] = gpa_of(t, p);
	return true;
}

static bool xsdt_build(struct tables *t, uint64_t *xsdt_gpa)
{
	size_t len = HEADER_SIZE + 8 * t->list_len;
	uint8_t *p = take(t, len);
	if (!p)
		return false;
	for (unsigned i = 0; i < t->list_len; i++)
		le64_put(p + HEADER_SIZE + (size_t)8 * i, t->list[i]);
	seal(p, "XSDT", 1, len);
	*xsdt_gpa = gpa_of(t, p);
	return true;
}

// §5.2.5.3
static void rsdp_write(uint8_t *p, uint64_t xsdt_gpa)
{
	memcpy(p, "RSD PTR ", 8);
	memcpy(p + 9, OEM_ID, 6);
	p[15] = 2;
	le32_put(p + 20, RSDP_SIZE);
	le64_put(p + 24, xsdt_gpa);
	p[8] = checksum(p, 20);
	p[32] = checksum(p, RSDP_SIZE);
}

int acpi_build(const struct acpi_machine *m, void *buf, size_t room, uint64_t gpa, uint64_t *rsdp_gpa,
	       struct err *e)
{
	assert(m->cpu_count > 0 && m->bus_count > 0 && m->bus_count <= 256 && gpa % TABLE_ALIGN == 0);
	assert(range_in(m->ecam_gpa, (uint64_t)m->bus_count << 20, UINT64_C(1) << 32));
	assert(range_in(m->pci_mmio32.gpa, m->pci_mmio32.size, UINT64_C(1) << 32));
	assert(range_in(m->pci_mmio64.gpa, m->pci_mmio64.size, UINT64_MAX));
	assert(range_in(m->pci_io.gpa, m->pci_io.size, 0x10000));

	struct tables t = { .buf = buf, .room = room, .gpa = gpa };
	uint64_t dsdt_gpa = 0, xsdt_gpa = 0;
	uint8_t *rsdp = take(&t, RSDP_SIZE);
	if (!rsdp || !dsdt_build(&t, m, &dsdt_gpa) || !fadt_build(&t, m, dsdt_gpa) || !madt_build(&t, m) ||
	    !mcfg_build(&t, m) || !xsdt_build(&t, &xsdt_gpa))
		return err_set(e, ENOSPC, "ACPI tables for %u CPUs do not fit in %zu KiB", m->cpu_count,
			       room >> 10);
	rsdp_write(rsdp, xsdt_gpa);
	*rsdp_gpa = gpa;
	return 0;
}
