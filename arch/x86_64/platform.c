// SPDX-License-Identifier: BSD-2-Clause
#include "arch/x86_64/platform.h"

#include "arch/x86_64/layout.h"
#include "firmware/acpi.h"
#include "firmware/layout_x86.h"
#include "vmm/base/check.h"
#include "vmm/config.h"
#include "vmm/pci_hotplug.h"

#include <cpuid.h>
#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

// ---- address map ------------------------------------------------------------------------------------------------

static unsigned physical_bits(void)
{
	unsigned a, b, c, d;
	if (!__get_cpuid(0x80000008, &a, &b, &c, &d))
		return 36;
	return a & 0xff;
}

int arch_layout_plan(struct arch_layout *out, uint64_t ram_size, struct err *e)
{
	const uint64_t step = UINT64_C(1) << 32;
	unsigned bits = physical_bits();
	uint64_t end = bits >= 52 ? UINT64_C(1) << 52 : UINT64_C(1) << bits;
	uint64_t high = ram_size > X86_HOLE_START ? ram_size - X86_HOLE_START : 0;
	if (high > end - X86_HIGH_START || (high && end <= X86_HIGH_START))
		return err_set(e, E2BIG,
			       "vm.memory: %llu MiB do not fit this processor's %u physical address bits",
			       (unsigned long long)(ram_size >> 20), bits);
	uint64_t start = align_up(X86_HIGH_START + high, step);
	uint64_t room = start < end ? end - start : 0;
	*out = (struct arch_layout){
		.ram_hole_start = X86_HOLE_START,
		.ram_high_start = X86_HIGH_START,
		.ecam_gpa = X86_ECAM,
		.window32 = { X86_HOLE_START, X86_WINDOW32_SIZE },
		.window64 = { start, MIN(room, X86_WINDOW64_MAX) },
		.window_io = { X86_PCI_IO_START, X86_PCI_IO_SIZE },
		.intx_first = X86_GSI_INTX,
		.intx_count = X86_INTX_PINS,
		.hotplug_port = X86_PORT_HOTPLUG,
	};
	return 0;
}

unsigned arch_pin_routes(struct kvm_irq_routing_entry *entries, unsigned room)
{
	unsigned n = 0;
	for (unsigned pin = 0; pin < 24 && n + 2 <= room; pin++) {
		entries[n] = (struct kvm_irq_routing_entry){ .gsi = pin, .type = KVM_IRQ_ROUTING_IRQCHIP };
		entries[n].u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
		entries[n++].u.irqchip.pin = pin;
		if (pin >= 16)
			continue;
		entries[n] = (struct kvm_irq_routing_entry){ .gsi = pin, .type = KVM_IRQ_ROUTING_IRQCHIP };
		entries[n].u.irqchip.irqchip = pin < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE;
		entries[n++].u.irqchip.pin = pin % 8;
	}
	return n;
}

// ---- power ------------------------------------------------------------------------------------------------------

static void power_read(struct bus_range *r, uint64_t offset, unsigned size, uint64_t *val)
{
	struct arch *a = CONTAINER_OF(r, struct arch, power);
	*val = 0;
	if (size == 1 && offset == X86_PORT_EVENT - X86_PORT_SLEEP_CONTROL)
		*val = atomic_exchange(&a->events, 0);
}

static void power_write(struct bus_range *r, uint64_t offset, unsigned size, uint64_t val)
{
	struct arch *a = CONTAINER_OF(r, struct arch, power);
	if (size != 1)
		return;
	if (offset == 0 && val == ACPI_SLEEP_S5)
		vm_post_event(a->vm, VM_POWEROFF);
	else if (offset == X86_PORT_RESET - X86_PORT_SLEEP_CONTROL && val == X86_RESET_VALUE)
		vm_post_event(a->vm, VM_REBOOT);
}

static void event_raise(struct vm *vm, unsigned bits)
{
	atomic_fetch_or(&vm->arch->events, bits);
	irq_pin_pulse(&vm->irq, X86_GSI_EVENT);
}

void arch_power_button(struct vm *vm)
{
	event_raise(vm, ACPI_EVENT_POWER_BUTTON);
}

void arch_pci_event(struct vm *vm)
{
	event_raise(vm, ACPI_EVENT_PCI);
}

// The keyboard controller exists for its reset line only: command 0xfe pulses it.
#define I8042_COMMAND 4
#define I8042_RESET   0xfe

static void i8042_read(struct bus_range *r, uint64_t offset, unsigned size, uint64_t *val)
{
	(void)r, (void)offset, (void)size;
	*val = 0;
}

static void i8042_write(struct bus_range *r, uint64_t offset, unsigned size, uint64_t val)
{
	struct arch *a = CONTAINER_OF(r, struct arch, i8042);
	if (size == 1 && offset == I8042_COMMAND && val == I8042_RESET)
		vm_post_event(a->vm, VM_REBOOT);
}

// ---- the platform -----------------------------------------------------------------------------------------------

static void uart_irq(void *owner, bool high)
{
	struct arch *a = owner;
	irq_pin_set(&a->vm->irq, X86_GSI_COM1, high);
}

// More APIC ids than 8 bits hold: MSIs carry them in KVM's extended format.
static bool wide_destinations(const struct vm *vm)
{
	return vm->config->cpus > 255;
}

int arch_create(struct vm *vm, struct err *e)
{
	struct arch *a = calloc(1, sizeof(*a));
	if (!a)
		return err_set(e, ENOMEM, "out of memory");
	a->vm = vm;
	vm->arch = a;
	vm->irq.wide_destinations = wide_destinations(vm);
	uart_init(&a->uart, &vm->console, X86_PORT_COM1, uart_irq, a);
	cmos_init(&a->cmos, X86_PORT_CMOS);
	a->i8042 = (struct bus_range){
		.start = X86_PORT_I8042, .size = 5, .name = "i8042", .read = i8042_read, .write = i8042_write
	};
	a->power = (struct bus_range){ .start = X86_PORT_SLEEP_CONTROL,
				       .size = X86_PORT_POWER_SIZE,
				       .name = "power",
				       .read = power_read,
				       .write = power_write };
	struct bus_range *all[] = { &a->uart.range, &a->cmos.range, &a->i8042, &a->power };
	for (size_t i = 0; i < ARRAY_LEN(all); i++) {
		int rc = bus_add(&vm->pio, all[i]);
		if (rc < 0)
			return err_sys(e, -rc, "%s", all[i]->name);
	}
	return 0;
}

void arch_destroy(struct vm *vm)
{
	struct arch *a = vm->arch;
	if (!a)
		return;
	bus_remove(&vm->pio, &a->uart.range);
	bus_remove(&vm->pio, &a->cmos.range);
	bus_remove(&vm->pio, &a->i8042);
	bus_remove(&vm->pio, &a->power);
	uart_destroy(&a->uart);
	cmos_destroy(&a->cmos);
	free(a->cpuid);
	free(a);
	vm->arch = NULL;
}

void arch_reset(struct vm *vm)
{
	uart_reset(&vm->arch->uart);
	atomic_store(&vm->arch->events, 0);
}

#ifndef KVM_PMU_CAP_DISABLE
#define KVM_PMU_CAP_DISABLE 1
#endif

int arch_vm_setup(struct vm *vm, struct err *e)
{
	const struct kvm *k = &vm->kvm;
	uint64_t identity = X86_IDENTITY_MAP;
	if (ioctl(k->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity) < 0)
		return err_sys(e, errno, "KVM_SET_IDENTITY_MAP_ADDR");
	if (ioctl(k->vm_fd, KVM_SET_TSS_ADDR, X86_TSS) < 0)
		return err_sys(e, errno, "KVM_SET_TSS_ADDR");
	if (ioctl(k->vm_fd, KVM_CREATE_IRQCHIP, 0) < 0)
		return err_sys(e, errno, "KVM_CREATE_IRQCHIP");
	if (wide_destinations(vm)) {
		struct kvm_enable_cap cap = {
			.cap = KVM_CAP_X2APIC_API,
			.args = { KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK },
		};
		if (ioctl(k->vm_fd, KVM_ENABLE_CAP, &cap) < 0)
			return err_sys(e, errno, "vm.cpus: more than 255 CPUs need KVM_CAP_X2APIC_API");
	}
	// No performance counters: a guest that finds them keeps some running, at the price of an exit now and then.
	struct kvm_enable_cap pmu = { .cap = KVM_CAP_PMU_CAPABILITY, .args = { KVM_PMU_CAP_DISABLE } };
	if (kvm_capability(k, KVM_CAP_PMU_CAPABILITY) & KVM_PMU_CAP_DISABLE)
		ioctl(k->vm_fd, KVM_ENABLE_CAP, &pmu);
	return 0;
}

// ---- what the guest finds ---------------------------------------------------------------------------------------

static struct acpi_window acpi_window_of(struct pci_window w)
{
	return (struct acpi_window){ .gpa = w.start, .size = w.size };
}

static int tables_write(struct vm *vm, uint64_t *rsdp, struct err *e)
{
	const struct arch_layout *l = &vm->layout;
	const struct acpi_machine m = {
		.cpu_count = vm->config->cpus,
		.lapic_gpa = X86_LAPIC,
		.ioapic_gpa = X86_IOAPIC,
		.ecam_gpa = l->ecam_gpa,
		.bus_count = 1,
		.pci_io = acpi_window_of(l->window_io),
		.pci_mmio32 = acpi_window_of(l->window32),
		.pci_mmio64 = acpi_window_of(l->window64),
		.com1_port = X86_PORT_COM1,
		.com1_gsi = X86_GSI_COM1,
		.rtc_port = X86_PORT_CMOS,
		.rtc_gsi = X86_GSI_RTC,
		.rtc_century = CMOS_CENTURY,
		.reset_port = X86_PORT_RESET,
		.reset_value = X86_RESET_VALUE,
		.sleep_control = X86_PORT_SLEEP_CONTROL,
		.sleep_status = X86_PORT_SLEEP_STATUS,
		.event_port = X86_PORT_EVENT,
		.event_gsi = X86_GSI_EVENT,
		.intx_slots = pci_host_intx_slots(&vm->pci),
		.intx_first = l->intx_first,
		.intx_count = l->intx_count,
		.hotplug_slots = pci_hotplug_slots(&vm->pci),
		.hotplug_port = l->hotplug_port,
	};
	void *room = memmap_ptr(&vm->memory, LAYOUT_ACPI, LAYOUT_ACPI_SIZE);
	if (!room)
		return err_set(e, EINVAL, "vm.memory: too little to start a kernel in");
	return acpi_build(&m, room, LAYOUT_ACPI_SIZE, LAYOUT_ACPI, rsdp, e);
}

// Firmware would lie there, and a kernel that jumps to it wants the machine reset.  Linux with EFI built in does: hardware-reduced
// ACPI makes it expect EFI's reset service, and where there is none this jump is its next and last means.
static int reset_vector_write(struct vm *vm, struct err *e)
{
	static const uint8_t code[] = {
		0xba,
		X86_PORT_RESET & 0xff,
		X86_PORT_RESET >> 8, // mov $port, %dx
		0xb0,
		X86_RESET_VALUE, // mov $value, %al
		0xee,		 // out %al, %dx
		0xfa,
		0xf4,
		0xeb,
		0xfd, // cli; 1: hlt; jmp 1b
	};
	_Static_assert(sizeof(code) <= 16, "the vector ends at 1 MiB");
	void *p = memmap_ptr(&vm->memory, LAYOUT_RESET_VECTOR, sizeof(code));
	if (!p)
		return err_set(e, EINVAL, "vm.memory: too little to start a kernel in");
	memcpy(p, code, sizeof(code));
	return 0;
}

int arch_boot_load(struct vm *vm, struct err *e)
{
	const struct vm_config *c = vm->config;
	const struct mem_table *ram = &vm->memory.ram;
	const struct boot_range reserved[] = { { vm->layout.ecam_gpa, PCI_ECAM_BUS_SIZE } };
	uint64_t rsdp = 0;
	int rc = tables_write(vm, &rsdp, e);
	if (rc == 0)
		rc = reset_vector_write(vm, e);
	if (rc < 0)
		return rc;
	struct boot_request rq = {
		.ram = { .low = ram->region[0].hva,
			 .low_size = ram->region[0].size,
			 .low_fd = ram->region[0].fd,
			 .low_fd_offset = ram->region[0].fd_offset },
		.kernel_fd = vm->kernel_fd,
		.kernel_name = c->kernel,
		.initrd_fd = vm->initrd_fd,
		.initrd_name = c->initrd,
		.cmdline = c->cmdline,
		.rsdp_gpa = rsdp,
		.reserved = reserved,
		.reserved_count = ARRAY_LEN(reserved),
	};
	if (ram->count > 1) {
		rq.ram.high_gpa = ram->region[1].gpa;
		rq.ram.high_size = ram->region[1].size;
	}
	return firmware_load(&vm->arch->boot, &rq, e);
}
