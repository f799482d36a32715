// SPDX-License-Identifier: BSD-2-Clause
#include "firmware/dsdt.h"

#include <string.h>

#define STA_PRESENT_ENABLED_SHOWN_WORKING 0x0f
#define NOTIFY_BUS_CHECK		  0
#define NOTIFY_EJECT_REQUEST		  3
#define NOTIFY_BUTTON_PRESSED		  0x80

// _OSC for PCI host bridges (PCI Firmware 3.3 §4.5.1): power management events, error reporting, the
// capability structure and latency tolerance are the guest's.  Native hot-plug is not granted: there is no
// slot that has it.
#define OSC_GRANTED	     0x3c
#define OSC_UNKNOWN_UUID     0x04
#define OSC_UNKNOWN_REVISION 0x08
#define OSC_MASKED	     0x10

// 33db4d5b-1ff7-401c-9657-7441c03dd766, as ToUUID() lays it out
static const uint8_t osc_uuid[16] = { 0x5b, 0x4d, 0xdb, 0x33, 0xf7, 0x1f, 0x1c, 0x40,
				      0x96, 0x57, 0x74, 0x41, 0xc0, 0x3d, 0xd7, 0x66 };

static void dword_field(struct aml *a, enum aml_op buffer, unsigned at, const char *name)
{
	aml_op(a, AML_CREATE_DWORD_FIELD);
	aml_op(a, buffer);
	aml_int(a, at);
	aml_ref(a, name);
}

// name |= bits
static void or_into(struct aml *a, const char *name, unsigned bits)
{
	aml_op(a, AML_OR);
	aml_ref(a, name);
	aml_int(a, bits);
	aml_ref(a, name);
}

static void not_equal(struct aml *a, enum aml_op left)
{
	aml_op(a, AML_LNOT);
	aml_op(a, AML_LEQUAL);
	aml_op(a, left);
}

static void return_arg3(struct aml *a)
{
	aml_op(a, AML_RETURN);
	aml_op(a, AML_ARG3);
}

static void osc_write(struct aml *a)
{
	aml_method_begin(a, "_OSC", 4);
	dword_field(a, AML_ARG3, 0, "CDW1");

	aml_if_begin(a);
	not_equal(a, AML_ARG0);
	aml_bytes(a, osc_uuid, sizeof(osc_uuid));
	or_into(a, "CDW1", OSC_UNKNOWN_UUID);
	return_arg3(a);
	aml_end(a);

	aml_if_begin(a);
	not_equal(a, AML_ARG1);
	aml_int(a, 1);
	or_into(a, "CDW1", OSC_UNKNOWN_REVISION);
	return_arg3(a);
	aml_end(a);

	dword_field(a, AML_ARG3, 8, "CDW3");
	aml_op(a, AML_AND);
	aml_ref(a, "CDW3");
	aml_int(a, OSC_GRANTED);
	aml_op(a, AML_LOCAL0);
	aml_if_begin(a);
	not_equal(a, AML_LOCAL0);
	aml_ref(a, "CDW3");
	or_into(a, "CDW1", OSC_MASKED);
	aml_end(a);
	aml_op(a, AML_STORE);
	aml_op(a, AML_LOCAL0);
	aml_ref(a, "CDW3");
	return_arg3(a);
	aml_end(a);
}

static void named_int(struct aml *a, const char *name, uint64_t v)
{
	aml_name(a, name);
	aml_int(a, v);
}

static void named_id(struct aml *a, const char *name, const char *id)
{
	aml_name(a, name);
	aml_eisa_id(a, id);
}

// _PRT (ACPI 6.4 §6.2.13): the interrupt pins, for the slots that use one.
static void intx_routes_write(struct aml *a, const struct acpi_machine *m)
{
	unsigned slots = 0;
	for (uint32_t left = m->intx_slots; left; left &= left - 1)
		slots++;
	if (!slots)
		return;
	aml_name(a, "_PRT");
	aml_package_begin(a, (uint8_t)slots);
	for (unsigned slot = 0; slot < 32; slot++) {
		if (!(m->intx_slots & UINT32_C(1) << slot))
			continue;
		aml_package_begin(a, 4);
		aml_int(a, slot << 16 | 0xffff); // any function
		aml_int(a, 0);			 // INTA
		aml_int(a, 0);			 // no link device: the number that follows is the GSI
		aml_int(a, m->intx_first + slot % m->intx_count);
		aml_end(a);
	}
	aml_end(a);
}

// If (Local0 & bit) Notify (device, value)
static void event_write(struct aml *a, uint32_t bit, const char *device, unsigned value)
{
	aml_if_begin(a);
	aml_op(a, AML_AND);
	aml_op(a, AML_LOCAL0);
	aml_int(a, bit);
	aml_op(a, AML_NO_TARGET);
	aml_op(a, AML_NOTIFY);
	aml_ref(a, device);
	aml_int(a, value);
	aml_end(a);
}

static void store_into_register(struct aml *a, uint32_t bits)
{
	aml_op(a, AML_STORE);
	aml_int(a, bits);
	aml_ref(a, "HPRG");
}

static void slot_name(char name[5], unsigned slot)
{
	static const char hex[] = "0123456789ABCDEF";
	memcpy(name, (const char[]){ 'S', hex[slot >> 4], hex[slot & 15], '_', '\0' }, 5);
}

static void slot_write(struct aml *a, unsigned slot)
{
	char name[5];
	slot_name(name, slot);
	aml_device_begin(a, name);
	named_int(a, "_ADR", slot << 16);
	named_int(a, "_SUN", slot);
	aml_method_begin(a, "_EJ0", 1);
	store_into_register(a, ACPI_HOTPLUG_SLOT(slot));
	aml_end(a);
	aml_end(a);
}

// Slots have no _STA: whether there is a function says its vendor ID, to Linux, too.  That the bus has been looked at comes by _OST, which is
// evaluated when the work of a notification is over (ACPI 6.4 §6.3.5).
static void hotplug_write(struct aml *a, const struct acpi_machine *m)
{
	char name[5];
	if (!m->hotplug_slots)
		return;
	aml_io_region(a, "HPPT", m->hotplug_port, 4);
	aml_dword_field_begin(a, "HPPT");
	aml_field_bits(a, "HPRG", 32);
	aml_end(a);
	for (unsigned slot = 1; slot < 32; slot++)
		if (m->hotplug_slots & ACPI_HOTPLUG_SLOT(slot))
			slot_write(a, slot);

	aml_method_begin(a, "_OST", 3);
	aml_if_begin(a);
	aml_op(a, AML_LEQUAL);
	aml_op(a, AML_ARG0);
	aml_int(a, NOTIFY_BUS_CHECK);
	store_into_register(a, ACPI_HOTPLUG_LOOK);
	aml_end(a);
	aml_end(a);

	aml_method_begin(a, "HPEV", 0);
	aml_op(a, AML_STORE);
	aml_ref(a, "HPRG");
	aml_op(a, AML_LOCAL0);
	event_write(a, ACPI_HOTPLUG_LOOK, "PCI0", NOTIFY_BUS_CHECK);
	for (unsigned slot = 1; slot < 32; slot++) {
		slot_name(name, slot);
		if (m->hotplug_slots & ACPI_HOTPLUG_SLOT(slot))
			event_write(a, ACPI_HOTPLUG_SLOT(slot), name, NOTIFY_EJECT_REQUEST);
	}
	aml_end(a);
}

static void pci_write(struct aml *a, const struct acpi_machine *m)
{
	aml_device_begin(a, "PCI0");
	named_id(a, "_HID", "PNP0A08");
	named_id(a, "_CID", "PNP0A03");
	named_int(a, "_SEG", 0);
	named_int(a, "_BBN", 0);
	named_int(a, "_UID", 0);
	aml_name(a, "_CRS");
	aml_resources_begin(a);
	aml_bus_range(a, 0, (uint8_t)(m->bus_count - 1));
	aml_io(a, 0xcf8, 8);
	if (m->pci_io.size)
		aml_io_range(a, (uint16_t)m->pci_io.gpa, (uint16_t)(m->pci_io.gpa + m->pci_io.size - 1));
	if (m->pci_mmio32.size)
		aml_memory32_range(a, (uint32_t)m->pci_mmio32.gpa, (uint32_t)m->pci_mmio32.size);
	if (m->pci_mmio64.size)
		aml_memory64_range(a, m->pci_mmio64.gpa, m->pci_mmio64.size);
	aml_end(a);
	intx_routes_write(a, m);
	osc_write(a);
	hotplug_write(a, m);
	aml_end(a);
}

// Linux believes the MCFG only if ECAM is reserved here, too.
static void reserved_write(struct aml *a, const struct acpi_machine *m)
{
	aml_device_begin(a, "RESV");
	named_id(a, "_HID", "PNP0C02");
	named_int(a, "_UID", 0);
	aml_name(a, "_CRS");
	aml_resources_begin(a);
	aml_memory32(a, (uint32_t)m->ecam_gpa, m->bus_count << 20);
	aml_io(a, m->reset_port, 1);
	aml_io(a, m->sleep_control, 1);
	aml_io(a, m->sleep_status, 1);
	aml_io(a, m->event_port, 1);
	if (m->hotplug_slots)
		aml_io(a, m->hotplug_port, 4);
	aml_end(a);
	aml_end(a);
}

static void isa_device_write(struct aml *a, const char *name, const char *id, unsigned uid, uint16_t port,
			     uint8_t ports, uint32_t gsi)
{
	aml_device_begin(a, name);
	named_id(a, "_HID", id);
	named_int(a, "_UID", uid);
	named_int(a, "_STA", STA_PRESENT_ENABLED_SHOWN_WORKING);
	aml_name(a, "_CRS");
	aml_resources_begin(a);
	aml_io(a, port, ports);
	aml_interrupt(a, gsi);
	aml_end(a);
	aml_end(a);
}

static void events_write(struct aml *a, const struct acpi_machine *m)
{
	aml_device_begin(a, "PWRB");
	named_id(a, "_HID", "PNP0C0C");
	named_int(a, "_UID", 0);
	aml_end(a);

	aml_device_begin(a, "GED_");
	aml_name(a, "_HID");
	aml_string(a, "ACPI0013");
	named_int(a, "_UID", 0);
	aml_name(a, "_CRS");
	aml_resources_begin(a);
	aml_interrupt(a, m->event_gsi);
	aml_end(a);
	aml_io_region(a, "EVTR", m->event_port, 1);
	aml_field_begin(a, "EVTR");
	aml_field_bits(a, "EVTS", 8);
	aml_end(a);
	// The register is read once: that clears it, and an event that comes later raises the interrupt
	// again.
	aml_method_begin(a, "_EVT", 1);
	aml_op(a, AML_STORE);
	aml_ref(a, "EVTS");
	aml_op(a, AML_LOCAL0);
	event_write(a, ACPI_EVENT_POWER_BUTTON, "PWRB", NOTIFY_BUTTON_PRESSED);
	if (m->hotplug_slots) {
		aml_if_begin(a);
		aml_op(a, AML_AND);
		aml_op(a, AML_LOCAL0);
		aml_int(a, ACPI_EVENT_PCI);
		aml_op(a, AML_NO_TARGET);
		aml_path(a, "_SB_PCI0HPEV");
		aml_end(a);
	}
	aml_end(a);
	aml_end(a);
}

void dsdt_write(struct aml *a, const struct acpi_machine *m)
{
	aml_scope_begin(a, "_SB_");
	pci_write(a, m);
	reserved_write(a, m);
	isa_device_write(a, "COM1", "PNP0501", 1, m->com1_port, 8, m->com1_gsi);
	isa_device_write(a, "RTC_", "PNP0B00", 0, m->rtc_port, 2, m->rtc_gsi);
	events_write(a, m);
	aml_end(a);

	aml_name(a, "_S5_");
	aml_package_begin(a, 4);
	for (unsigned i = 0; i < 4; i++)
		aml_int(a, i < 2 ? ACPI_SLEEP_S5 >> 2 & 7 : 0);
	aml_end(a);
}
