// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/pci_func.h"

#include "vmm/base/check.h"
#include "vmm/base/err.h"
#include "vmm/base/log.h"
#include "vmm/memmap.h"
#include "vmm/pci_host.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <string.h>

#define EVENTS_NONE 0u

// ---- locking ----------------------------------------------------------------------------------------------------

void pci_func_lock(struct pci_func *f)
{
	pthread_mutex_lock(&f->lock);
}

void pci_func_unlock(struct pci_func *f)
{
	do {
		unsigned bits = atomic_exchange(&f->events, EVENTS_NONE);
		if (bits)
			f->ops->event(f, bits);
		pthread_mutex_unlock(&f->lock);
		// Posted after the exchange and before the unlock: its poster found the lock taken and left it to us.
	} while (atomic_load(&f->events) && pthread_mutex_trylock(&f->lock) == 0);
}

void pci_func_post(struct pci_func *f, unsigned bits)
{
	atomic_fetch_or(&f->events, bits);
	if (pthread_mutex_trylock(&f->lock) == 0)
		pci_func_unlock(f);
}

const char *pci_func_state(struct pci_func *f)
{
	if (!f->ops->state)
		return "-";
	if (pthread_mutex_trylock(&f->lock) != 0)
		return "busy";
	const char *state = f->ops->state(f);
	pci_func_unlock(f);
	return state;
}

// ---- BARs -------------------------------------------------------------------------------------------------------

// The address bits of a register, all ones above 32.
static uint64_t bar_mask(const struct pci_bar *bar)
{
	return bar->is_rom ? PCI_ROM_ADDRESS_MASK : ~(bar->is_io ? UINT64_C(3) : UINT64_C(15));
}

// The address that the guest has written; sizing leaves the low bits of the size at 0.
static uint64_t bar_address(const struct pci_func *f, unsigned index)
{
	const struct pci_bar *bar = &f->bar[index];
	unsigned offset = pci_bar_register(index);
	uint64_t v = pci_config_get32(f, offset) & bar_mask(bar);
	if (bar->is_64bit)
		v |= (uint64_t)pci_config_get32(f, offset + 4) << 32;
	return v;
}

static bool bar_decoded(const struct pci_func *f, const struct pci_bar *bar)
{
	if (bar->is_rom && !(f->config[PCI_ROM_ADDRESS] & PCI_ROM_ADDRESS_ENABLE))
		return false;
	return pci_config_get16(f, PCI_COMMAND) & (bar->is_io ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY);
}

static struct bus *bar_bus(const struct pci_func *f, const struct pci_bar *bar)
{
	return bar->is_io ? f->host->pio : f->host->mmio;
}

static void bar_unmap(struct pci_func *f, unsigned index)
{
	struct pci_bar *bar = &f->bar[index];
	if (!bar->mapped)
		return;
	f->ops->bar_moved(f, index, bar->range.start, false);
	bus_remove(bar_bus(f, bar), &bar->range);
	bar->mapped = false;
}

static void bar_map(struct pci_func *f, unsigned index, uint64_t gpa)
{
	struct pci_bar *bar = &f->bar[index];
	const struct pci_host *h = f->host;
	bool legal = bar->is_io ? pci_window_holds(&h->window_io, gpa, bar->size)
				: pci_window_holds(&h->window32, gpa, bar->size) ||
					  (bar->is_64bit && pci_window_holds(&h->window64, gpa, bar->size));
	int rc = -ERANGE;
	if (legal) {
		bar->range.start = gpa;
		rc = bus_add(bar_bus(f, bar), &bar->range);
	}
	if (rc < 0) {
		log_limited(LOG_INFO, "%s: BAR %u not mapped at %#llx: %s", f->id, index,
			    (unsigned long long)gpa,
			    legal ? err_text(-rc) : "outside the host bridge's windows");
		return;
	}
	bar->mapped = true;
	f->ops->bar_moved(f, index, gpa, true);
}

// Makes the bus agree with the configuration space.
static void bars_update(struct pci_func *f)
{
	for (unsigned i = 0; i < PCI_BARS; i++) {
		struct pci_bar *bar = &f->bar[i];
		if (bar->size == 0)
			continue;
		bool want = bar_decoded(f, bar);
		uint64_t gpa = bar_address(f, i);
		if (bar->mapped && (!want || bar->range.start != gpa))
			bar_unmap(f, i);
		if (want && !bar->mapped)
			bar_map(f, i, gpa);
	}
}

static void bar_range_read(struct bus_range *r, uint64_t offset, unsigned size, uint64_t *val)
{
	struct pci_bar *bar = CONTAINER_OF(r, struct pci_bar, range);
	struct pci_func *f = bar->func;
	pci_func_lock(f);
	f->ops->bar_read(f, (unsigned)(bar - f->bar), offset, size, val);
	pci_func_unlock(f);
}

static void bar_range_write(struct bus_range *r, uint64_t offset, unsigned size, uint64_t val)
{
	struct pci_bar *bar = CONTAINER_OF(r, struct pci_bar, range);
	struct pci_func *f = bar->func;
	pci_func_lock(f);
	f->ops->bar_write(f, (unsigned)(bar - f->bar), offset, size, val);
	pci_func_unlock(f);
}

static bool bar_range_fault(struct bus_range *r)
{
	struct pci_bar *bar = CONTAINER_OF(r, struct pci_bar, range);
	struct pci_func *f = bar->func;
	if (!f->ops->bar_lost)
		return false;
	pci_func_lock(f);
	f->ops->bar_lost(f, (unsigned)(bar - f->bar));
	pci_func_unlock(f);
	return true;
}

static void add_bar(struct pci_func *f, unsigned index, struct pci_bar bar, uint32_t flags)
{
	const unsigned offset = pci_bar_register(index);
	const uint64_t mask = ~(bar.size - 1) | (bar.is_rom ? PCI_ROM_ADDRESS_ENABLE : 0u);
	bar.func = f;
	bar.range = (struct bus_range){ .size = bar.size,
					.name = f->id,
					.read = bar_range_read,
					.write = bar_range_write,
					.fault = bar_range_fault };
	f->bar[index] = bar;
	pci_config_set32(f, offset, flags);
	for (unsigned i = 0; i < (bar.is_64bit ? 8u : 4u); i++)
		f->writable[offset + i] = (uint8_t)(mask >> (8 * i));
	f->writable[PCI_COMMAND] |= bar.is_io ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY;
}

void pci_func_add_bar(struct pci_func *f, unsigned index, uint64_t size, bool is_64bit, bool prefetch)
{
	add_bar(f, index, (struct pci_bar){ .size = size, .is_64bit = is_64bit, .prefetch = prefetch },
		(is_64bit ? PCI_BASE_ADDRESS_MEM_TYPE_64 : 0u) |
			(prefetch ? PCI_BASE_ADDRESS_MEM_PREFETCH : 0u));
}

void pci_func_add_io_bar(struct pci_func *f, unsigned index, uint64_t size)
{
	add_bar(f, index, (struct pci_bar){ .size = size, .is_io = true }, PCI_BASE_ADDRESS_SPACE_IO);
}

void pci_func_add_rom(struct pci_func *f, uint64_t size)
{
	add_bar(f, PCI_ROM_BAR, (struct pci_bar){ .size = size, .is_rom = true }, 0);
}

// ---- configuration space ----------------------------------------------------------------------------------------

uint32_t pci_func_config_read(struct pci_func *f, unsigned offset, unsigned size)
{
	uint32_t val = 0;
	for (unsigned i = 0; i < size && offset < PCI_CONFIG_SIZE; i++)
		val |= (uint32_t)f->config[offset + i] << (8 * i);
	f->ops->config_read(f, offset, size, &val);
	return val;
}

void pci_func_config_write(struct pci_func *f, unsigned offset, unsigned size, uint32_t val)
{
	for (unsigned i = 0; i < size && offset < PCI_CONFIG_SIZE; i++) {
		uint8_t mask = f->writable[offset + i];
		uint8_t byte = (uint8_t)(val >> (8 * i));
		f->config[offset + i] = (uint8_t)((f->config[offset + i] & ~mask) | (byte & mask));
	}
	if (range_overlaps(offset, size, PCI_COMMAND, 2) ||
	    range_overlaps(offset, size, PCI_BASE_ADDRESS_0, sizeof(uint32_t) * PCI_ROM_BAR) ||
	    range_overlaps(offset, size, PCI_ROM_ADDRESS, sizeof(uint32_t)))
		bars_update(f);
	f->ops->config_write(f, offset, size, val);
}

// ---- functions --------------------------------------------------------------------------------------------------

void pci_func_init(struct pci_func *f, const struct pci_func_ops *ops, const char *id, uint16_t vendor,
		   uint16_t device, uint32_t class_code)
{
	*f = (struct pci_func){
		.ops = ops, .id = id, .next_cap = PCI_STD_HEADER_SIZEOF, .config_size = PCI_CONFIG_SIZE
	};
	pthread_mutex_init(&f->lock, NULL);
	pci_config_set16(f, PCI_VENDOR_ID, vendor);
	pci_config_set16(f, PCI_DEVICE_ID, device);
	pci_config_set32(f, PCI_CLASS_REVISION, class_code << 8);
	f->writable[PCI_COMMAND] = PCI_COMMAND_MASTER;
	f->writable[PCI_COMMAND + 1] = PCI_COMMAND_INTX_DISABLE >> 8;
	f->writable[PCI_CACHE_LINE_SIZE] = 0xff;
	f->writable[PCI_INTERRUPT_LINE] = 0xff;
}

void pci_func_set_subsystem(struct pci_func *f, uint16_t vendor, uint16_t device)
{
	pci_config_set16(f, PCI_SUBSYSTEM_VENDOR_ID, vendor);
	pci_config_set16(f, PCI_SUBSYSTEM_ID, device);
}

void pci_func_add_intx(struct pci_func *f)
{
	f->config[PCI_INTERRUPT_PIN] = 1;
}

uint32_t pci_func_intx_gsi(const struct pci_func *f)
{
	return f->host->intx_first + f->slot % f->host->intx_count;
}

unsigned pci_func_memory_slot(const struct pci_func *f)
{
	return MEM_REGIONS_MAX + f->slot * PCI_MEMORY_SLOTS;
}

unsigned pci_func_add_capability(struct pci_func *f, uint8_t id, unsigned len)
{
	unsigned offset = f->next_cap;
	f->config[offset + PCI_CAP_LIST_ID] = id;
	f->config[f->last_cap ? f->last_cap : PCI_CAPABILITY_LIST] = (uint8_t)offset;
	f->last_cap = offset + PCI_CAP_LIST_NEXT;
	f->next_cap = (unsigned)align_up(offset + len, 4);
	f->config[PCI_STATUS] |= PCI_STATUS_CAP_LIST;
	return offset;
}

void pci_func_unmap_bars(struct pci_func *f)
{
	for (unsigned i = 0; i < PCI_BARS; i++)
		bar_unmap(f, i);
}

void pci_func_reset(struct pci_func *f)
{
	pci_func_unmap_bars(f);
	memcpy(f->config, f->initial, sizeof(f->config));
	f->ops->reset(f);
}
