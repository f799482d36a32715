// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/pci.h"

#include "vmm/base/check.h"
#include "vmm/base/log.h"

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

// ---- BARs -------------------------------------------------------------------------------------------------------

static bool window_holds(const struct pci_window *w, uint64_t gpa, uint64_t size)
{
	return gpa >= w->start && range_in(gpa - w->start, size, w->size);
}

// The address that the guest has written; sizing leaves the low bits of the size at 0.
static uint64_t bar_address(const struct pci_func *f, unsigned index)
{
	const struct pci_bar *bar = &f->bar[index];
	unsigned offset = PCI_BASE_ADDRESS_0 + 4 * index;
	uint64_t v = pci_config_get32(f, offset) & ~(bar->is_io ? UINT64_C(3) : UINT64_C(15));
	if (bar->is_64bit)
		v |= (uint64_t)pci_config_get32(f, offset + 4) << 32;
	return v;
}

static bool bar_decoded(const struct pci_func *f, const struct pci_bar *bar)
{
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
	bool legal = bar->is_io ? window_holds(&h->window_io, gpa, bar->size) :
	                          window_holds(&h->window32, gpa, bar->size) ||
	                                  (bar->is_64bit && window_holds(&h->window64, gpa, bar->size));
	int rc = -ERANGE;
	if (legal) {
		bar->range.start = gpa;
		rc = bus_add(bar_bus(f, bar), &bar->range);
	}
	if (rc < 0) {
		log_limited(LOG_INFO, "%s: BAR %u not mapped at %#llx: %s", f->id, index, (unsigned long long)gpa,
		            legal ? strerror(-rc) : "outside the host bridge's windows");
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

void pci_func_add_bar(struct pci_func *f, unsigned index, uint64_t size, bool is_64bit, bool prefetch)
{
	struct pci_bar *bar = &f->bar[index];
	*bar = (struct pci_bar){
		.size = size,
		.is_64bit = is_64bit,
		.prefetch = prefetch,
		.func = f,
		.range = { .size = size, .name = f->id, .read = bar_range_read, .write = bar_range_write },
	};
	unsigned offset = PCI_BASE_ADDRESS_0 + 4 * index;
	uint64_t mask = ~(size - 1);
	uint32_t flags = (is_64bit ? PCI_BASE_ADDRESS_MEM_TYPE_64 : 0u) | (prefetch ? PCI_BASE_ADDRESS_MEM_PREFETCH : 0u);
	pci_config_set32(f, offset, flags);
	for (unsigned i = 0; i < (is_64bit ? 8u : 4u); i++)
		f->writable[offset + i] = (uint8_t)(mask >> (8 * i));
	f->writable[PCI_COMMAND] |= PCI_COMMAND_MEMORY;
}

// Gives a BAR its first address: the next aligned place of a window.  False if none is left.
static bool window_take(const struct pci_window *w, uint64_t *next, uint64_t size, uint64_t *gpa)
{
	uint64_t start = align_up(*next, size);
	if (start < *next || !window_holds(w, start, size))
		return false;
	*gpa = start;
	*next = start + size;
	return true;
}

static int bar_place(struct pci_host *h, struct pci_func *f, unsigned index, struct err *e)
{
	struct pci_bar *bar = &f->bar[index];
	uint64_t gpa;
	if (!(bar->is_64bit && bar->prefetch && window_take(&h->window64, &h->next64, bar->size, &gpa)) &&
	    !window_take(&h->window32, &h->next32, bar->size, &gpa) &&
	    !(bar->is_64bit && window_take(&h->window64, &h->next64, bar->size, &gpa)))
		return err_set(e, ENOSPC, "%s: no room for BAR %u of %llu bytes", f->id, index,
		               (unsigned long long)bar->size);
	bar->address = gpa;
	unsigned offset = PCI_BASE_ADDRESS_0 + 4 * index;
	pci_config_set32(f, offset, pci_config_get32(f, offset) | (uint32_t)gpa);
	if (bar->is_64bit)
		pci_config_set32(f, offset + 4, (uint32_t)(gpa >> 32));
	return 0;
}

// ---- configuration space ----------------------------------------------------------------------------------------

static uint32_t config_read(struct pci_func *f, unsigned offset, unsigned size)
{
	uint32_t val = 0;
	for (unsigned i = 0; i < size; i++)
		val |= (uint32_t)f->config[offset + i] << (8 * i);
	f->ops->config_read(f, offset, size, &val);
	return val;
}

static void config_write(struct pci_func *f, unsigned offset, unsigned size, uint32_t val)
{
	for (unsigned i = 0; i < size; i++) {
		uint8_t mask = f->writable[offset + i];
		uint8_t byte = (uint8_t)(val >> (8 * i));
		f->config[offset + i] = (uint8_t)((f->config[offset + i] & ~mask) | (byte & mask));
	}
	if (range_overlaps(offset, size, PCI_COMMAND, 2) ||
	    range_overlaps(offset, size, PCI_BASE_ADDRESS_0, sizeof(uint32_t) * PCI_BARS))
		bars_update(f);
	f->ops->config_write(f, offset, size, val);
}

// A function's registers end at 256: beyond, and in an empty slot, everything reads as ones.
static bool config_valid(unsigned offset, unsigned size)
{
	return (size == 1 || size == 2 || size == 4) && offset % size == 0 && range_in(offset, size, PCI_CONFIG_SIZE);
}

static void host_config_read(struct pci_host *h, unsigned slot, unsigned offset, unsigned size, uint64_t *val)
{
	*val = ~UINT64_C(0);
	struct pci_func *f = h->func[slot];
	if (!f || !config_valid(offset, size))
		return;
	pci_func_lock(f);
	*val = config_read(f, offset, size);
	pci_func_unlock(f);
}

static void host_config_write(struct pci_host *h, unsigned slot, unsigned offset, unsigned size, uint64_t val)
{
	struct pci_func *f = h->func[slot];
	if (!f || !config_valid(offset, size))
		return;
	pci_func_lock(f);
	config_write(f, offset, size, (uint32_t)val);
	pci_func_unlock(f);
}

// ECAM (PCI Express 4.0 §7.2.2) of one bus: device in bits 19-15, function in 14-12.
#define ECAM_SLOT(o)     ((unsigned)((o) >> 15) & 31)
#define ECAM_FUNCTION(o) ((unsigned)((o) >> 12) & 7)

static void ecam_read(struct bus_range *r, uint64_t offset, unsigned size, uint64_t *val)
{
	struct pci_host *h = CONTAINER_OF(r, struct pci_host, ecam);
	if (ECAM_FUNCTION(offset) == 0)
		host_config_read(h, ECAM_SLOT(offset), (unsigned)offset & 0xfff, size, val);
}

static void ecam_write(struct bus_range *r, uint64_t offset, unsigned size, uint64_t val)
{
	struct pci_host *h = CONTAINER_OF(r, struct pci_host, ecam);
	if (ECAM_FUNCTION(offset) == 0)
		host_config_write(h, ECAM_SLOT(offset), (unsigned)offset & 0xfff, size, val);
}

// Configuration mechanism #1 (PCI 3.0 §3.2.2.3.2): the address at 0xcf8, a window to the register at 0xcfc.
#define PORT_ENABLE     UINT32_C(0x80000000)
#define PORT_BUS(a)     (((a) >> 16) & 0xff)
#define PORT_SLOT(a)    (((a) >> 11) & 31)
#define PORT_FUNCTION(a) (((a) >> 8) & 7)
#define PORT_DATA       4

static bool port_target(struct pci_host *h, uint64_t offset, unsigned *slot, unsigned *reg)
{
	pthread_mutex_lock(&h->lock);
	uint32_t a = h->config_address;
	pthread_mutex_unlock(&h->lock);
	if (offset < PORT_DATA || !(a & PORT_ENABLE) || PORT_BUS(a) || PORT_FUNCTION(a))
		return false;
	*slot = PORT_SLOT(a);
	*reg = (a & 0xfc) + (unsigned)(offset - PORT_DATA);
	return true;
}

static void port_read(struct bus_range *r, uint64_t offset, unsigned size, uint64_t *val)
{
	struct pci_host *h = CONTAINER_OF(r, struct pci_host, port);
	unsigned slot, reg;
	if (offset == 0 && size == 4) {
		pthread_mutex_lock(&h->lock);
		*val = h->config_address;
		pthread_mutex_unlock(&h->lock);
	} else if (port_target(h, offset, &slot, &reg)) {
		host_config_read(h, slot, reg, size, val);
	}
}

static void port_write(struct bus_range *r, uint64_t offset, unsigned size, uint64_t val)
{
	struct pci_host *h = CONTAINER_OF(r, struct pci_host, port);
	unsigned slot, reg;
	if (offset == 0 && size == 4) {
		pthread_mutex_lock(&h->lock);
		h->config_address = (uint32_t)val & (PORT_ENABLE | 0xfffffc);
		pthread_mutex_unlock(&h->lock);
	} else if (port_target(h, offset, &slot, &reg)) {
		host_config_write(h, slot, reg, size, val);
	}
}

// ---- functions --------------------------------------------------------------------------------------------------

void pci_func_init(struct pci_func *f, const struct pci_func_ops *ops, const char *id, uint16_t vendor,
                   uint16_t device, uint32_t class_code)
{
	*f = (struct pci_func){ .ops = ops, .id = id, .next_cap = PCI_STD_HEADER_SIZEOF };
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

static void func_reset(struct pci_func *f)
{
	for (unsigned i = 0; i < PCI_BARS; i++)
		bar_unmap(f, i);
	memcpy(f->config, f->initial, sizeof(f->config));
	f->ops->reset(f);
}

int pci_host_plug(struct pci_host *h, struct pci_func *f, int slot, struct err *e)
{
	if (slot < 0)
		for (slot = 0; slot < PCI_SLOTS && h->func[slot]; slot++)
			;
	if (slot >= PCI_SLOTS)
		return err_set(e, ENOSPC, "%s: all %d PCI slots are taken", f->id, PCI_SLOTS - 1);
	if (h->func[slot])
		return err_set(e, EBUSY, "%s: PCI slot %d is taken by %s", f->id, slot, h->func[slot]->id);
	for (unsigned i = 0; i < PCI_BARS; i++) {
		int rc = f->bar[i].size ? bar_place(h, f, i, e) : 0;
		if (rc < 0)
			return rc;
	}
	memcpy(f->initial, f->config, sizeof(f->initial));
	f->host = h;
	f->slot = (unsigned)slot;
	h->func[slot] = f;
	return 0;
}

// ---- the host bridge --------------------------------------------------------------------------------------------

static void bridge_config_read(struct pci_func *f, unsigned offset, unsigned size, uint32_t *val)
{
	(void)f, (void)offset, (void)size, (void)val;
}

static void bridge_config_write(struct pci_func *f, unsigned offset, unsigned size, uint32_t val)
{
	(void)f, (void)offset, (void)size, (void)val;
}

static void bridge_reset(struct pci_func *f)
{
	(void)f;
}

static const struct pci_func_ops bridge_ops = {
	.config_read = bridge_config_read,
	.config_write = bridge_config_write,
	.reset = bridge_reset,
	.destroy = bridge_reset,
}; // no BARs, no events

#define BRIDGE_VENDOR 0x1b36 // Red Hat; 0x0008 is its generic PCIe host bridge
#define BRIDGE_DEVICE 0x0008
#define BRIDGE_CLASS  0x060000

int pci_host_init(struct pci_host *h, struct bus *mmio, struct bus *pio, uint64_t ecam_gpa,
                  struct pci_window window32, struct pci_window window64, struct pci_window window_io,
                  struct err *e)
{
	*h = (struct pci_host){
		.mmio = mmio,
		.pio = pio,
		.window32 = window32,
		.window64 = window64,
		.window_io = window_io,
		.next32 = window32.start,
		.next64 = window64.start,
		.next_io = window_io.start,
		.ecam = { .start = ecam_gpa, .size = PCI_ECAM_BUS_SIZE, .name = "ECAM", .read = ecam_read, .write = ecam_write },
		.port = { .start = 0xcf8, .size = 8, .name = "PCI ports", .read = port_read, .write = port_write },
	};
	pthread_mutex_init(&h->lock, NULL);
	int rc = bus_add(mmio, &h->ecam);
	if (rc == 0 && pio)
		rc = bus_add(pio, &h->port);
	if (rc < 0)
		return err_sys(e, -rc, "PCI host bridge");
	pci_func_init(&h->bridge, &bridge_ops, "host bridge", BRIDGE_VENDOR, BRIDGE_DEVICE, BRIDGE_CLASS);
	return pci_host_plug(h, &h->bridge, 0, e);
}

void pci_host_reset(struct pci_host *h)
{
	pthread_mutex_lock(&h->lock);
	h->config_address = 0;
	pthread_mutex_unlock(&h->lock);
	for (unsigned i = 0; i < PCI_SLOTS; i++) {
		struct pci_func *f = h->func[i];
		if (!f)
			continue;
		pci_func_lock(f);
		func_reset(f);
		pci_func_unlock(f);
	}
}

void pci_host_destroy(struct pci_host *h)
{
	for (unsigned i = PCI_SLOTS; i-- > 0;) {
		struct pci_func *f = h->func[i];
		if (!f)
			continue;
		h->func[i] = NULL;
		for (unsigned b = 0; b < PCI_BARS; b++)
			bar_unmap(f, b);
		f->ops->destroy(f);
	}
	if (h->mmio)
		bus_remove(h->mmio, &h->ecam);
	if (h->pio)
		bus_remove(h->pio, &h->port);
	pthread_mutex_destroy(&h->lock);
	*h = (struct pci_host){ 0 };
}
