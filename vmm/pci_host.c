// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/pci_host.h"

#include "vmm/base/check.h"
#include "vmm/pci_hotplug.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <string.h>

// ---- configuration accesses -------------------------------------------------------------------------------------

// Beyond a function's registers, and in an empty slot, everything reads as ones.
static bool config_valid(const struct pci_func *f, unsigned offset, unsigned size)
{
	return (size == 1 || size == 2 || size == 4) && offset % size == 0 &&
	       range_in(offset, size, f->config_size);
}

static void host_config_read(struct pci_host *h, unsigned slot, unsigned offset, unsigned size, uint64_t *val)
{
	*val = ~UINT64_C(0);
	struct pci_func *f = h->func[slot];
	if (!f || !config_valid(f, offset, size))
		return;
	pci_func_lock(f);
	*val = pci_func_config_read(f, offset, size);
	pci_func_unlock(f);
}

static void host_config_write(struct pci_host *h, unsigned slot, unsigned offset, unsigned size, uint64_t val)
{
	struct pci_func *f = h->func[slot];
	if (!f || !config_valid(f, offset, size))
		return;
	pci_func_lock(f);
	pci_func_config_write(f, offset, size, (uint32_t)val);
	pci_func_unlock(f);
}

// ECAM (PCI Express 4.0 §7.2.2) of one bus: device in bits 19-15, function in 14-12.
#define ECAM_SLOT(o)	 ((unsigned)((o) >> 15) & 31)
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
#define PORT_ENABLE	 UINT32_C(0x80000000)
#define PORT_BUS(a)	 (((a) >> 16) & 0xff)
#define PORT_SLOT(a)	 (((a) >> 11) & 31)
#define PORT_FUNCTION(a) (((a) >> 8) & 7)
#define PORT_DATA	 4

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

// ---- plugging ---------------------------------------------------------------------------------------------------

// Gives a BAR its first address: the next aligned place of a window.  False if none is left.
static bool window_take(const struct pci_window *w, uint64_t *next, uint64_t size, uint64_t *gpa)
{
	uint64_t start = align_up(*next, size);
	if (start < *next || !pci_window_holds(w, start, size))
		return false;
	*gpa = start;
	*next = start + size;
	return true;
}

static int bar_place(struct pci_host *h, struct pci_func *f, unsigned index, struct err *e)
{
	struct pci_bar *bar = &f->bar[index];
	uint64_t gpa;
	bool found;
	if (bar->is_io)
		found = window_take(&h->window_io, &h->next_io, bar->size, &gpa);
	else
		found = (bar->is_64bit && bar->prefetch &&
			 window_take(&h->window64, &h->next64, bar->size, &gpa)) ||
			window_take(&h->window32, &h->next32, bar->size, &gpa) ||
			(bar->is_64bit && window_take(&h->window64, &h->next64, bar->size, &gpa));
	if (!found)
		return err_set(e, ENOSPC, "%s: no room for BAR %u of %llu bytes", f->id, index,
			       (unsigned long long)bar->size);
	bar->address = gpa;
	unsigned offset = pci_bar_register(index);
	pci_config_set32(f, offset, pci_config_get32(f, offset) | (uint32_t)gpa);
	if (bar->is_64bit)
		pci_config_set32(f, offset + 4, (uint32_t)(gpa >> 32));
	return 0;
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
	f->host = h;
	f->slot = (unsigned)slot;
	if (f->config[PCI_INTERRUPT_PIN])
		f->config[PCI_INTERRUPT_LINE] = (uint8_t)pci_func_intx_gsi(f);
	memcpy(f->initial, f->config, sizeof(f->initial));
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
		.intx_count = 1,
		.ecam = { .start = ecam_gpa,
			  .size = PCI_ECAM_BUS_SIZE,
			  .name = "ECAM",
			  .read = ecam_read,
			  .write = ecam_write },
		.port = { .start = 0xcf8,
			  .size = 8,
			  .name = "PCI ports",
			  .read = port_read,
			  .write = port_write },
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

void pci_host_set_intx(struct pci_host *h, uint32_t first, uint32_t count)
{
	h->intx_first = first;
	h->intx_count = count;
}

uint32_t pci_host_intx_slots(const struct pci_host *h)
{
	uint32_t slots = 0;
	for (unsigned i = 0; i < PCI_SLOTS; i++)
		if (h->func[i] && h->func[i]->initial[PCI_INTERRUPT_PIN])
			slots |= UINT32_C(1) << i;
	return slots;
}

// All functions at once: those that never come to an end cost one deadline together, and nobody else's time.
static void ends_begin(struct pci_host *h)
{
	const deadline_ns deadline = deadline_in_ms(DEADLINE_START_MS);
	for (unsigned i = 0; i < PCI_SLOTS; i++) {
		struct pci_func *f = h->func[i];
		if (!f || !f->ops->end_begin)
			continue;
		pci_func_lock(f);
		f->ops->end_begin(f, deadline);
		pci_func_unlock(f);
	}
}

void pci_host_reset(struct pci_host *h)
{
	pthread_mutex_lock(&h->lock);
	h->config_address = 0;
	pthread_mutex_unlock(&h->lock);
	if (h->hotplug)
		pci_hotplug_reset(h->hotplug);
	ends_begin(h);
	for (unsigned i = 0; i < PCI_SLOTS; i++) {
		struct pci_func *f = h->func[i];
		if (!f)
			continue;
		pci_func_lock(f);
		pci_func_reset(f);
		pci_func_unlock(f);
	}
}

void pci_host_pause(struct pci_host *h, bool on)
{
	for (unsigned i = 0; i < PCI_SLOTS; i++) {
		struct pci_func *f = h->func[i];
		if (!f || !f->ops->pause)
			continue;
		pci_func_lock(f);
		f->ops->pause(f, on);
		pci_func_unlock(f);
	}
}

void pci_host_destroy(struct pci_host *h)
{
	ends_begin(h);
	for (unsigned i = PCI_SLOTS; i-- > 0;) {
		struct pci_func *f = h->func[i];
		if (!f)
			continue;
		h->func[i] = NULL;
		pci_func_lock(f); // a thread that waits for its peer is still there
		pci_func_unmap_bars(f);
		pci_func_unlock(f);
		f->ops->destroy(f);
	}
	if (h->mmio)
		bus_remove(h->mmio, &h->ecam);
	if (h->pio)
		bus_remove(h->pio, &h->port);
	pthread_mutex_destroy(&h->lock);
	*h = (struct pci_host){ 0 };
}
