// SPDX-License-Identifier: BSD-2-Clause
// What the files of passthrough share: passthrough.c (the function's life), passthrough_config.c, passthrough_caps.c, passthrough_bar.c,
// passthrough_irq.c, passthrough_plug.c, passthrough_return.c.
// All of it runs under the function's lock unless it says otherwise.
#ifndef MINIVMM_BRIDGES_PASSTHROUGH_IMPL_H
#define MINIVMM_BRIDGES_PASSTHROUGH_IMPL_H

#include "bridges/passthrough.h"
#include "vmm/base/loop.h"
#include "vmm/msix.h"
#include "vmm/pci_func.h"

#include <linux/pci_regs.h>
#include <linux/vfio.h>

// Posted to the function (pci_func_post).
#define PT_EVENT_DIED	1u
#define PT_EVENT_FAILED 2u  // the device's error interrupt
#define PT_EVENT_WANTED 4u  // its host wants it back
#define PT_EVENT_INTX	8u  // INTx was raised, and is passed on by hand
#define PT_EVENT_LATE	16u // the guest had its time to let go of the device
#define PT_EVENT_GONE	32u // what carried it does not come back

#define PT_COMMAND_UNKNOWN UINT16_MAX

#define PT_AREAS_MAX	 24 // of one BAR: what a carrier may say, less the pages of MSI-X
#define PT_DOORBELLS_MAX 64 // of all BARs
#define PT_EXT_CAPS_MAX	 8

// A piece of a BAR that the guest reaches without an exit.
struct pt_area {
	uint64_t offset, size; // pages
	void *hva;	       // ours to unmap
	bool shown;	       // a KVM memory slot at the BAR's place
	bool readonly;
};

struct pt_doorbell {
	struct vfio_doorbell place;
	unsigned bar;
	bool shown;
};

struct pt_map {
	unsigned slot_count;
	struct pt_bar_map {
		unsigned slot; // of the first area, from pci_func_memory_slot() on
		unsigned count;
		struct pt_area area[PT_AREAS_MAX];
	} bar[PCI_BARS];
};

// MSI or MSI-X: the guest's table, and what the device knows of it.
struct pt_vectors {
	struct msix table; // count 0: the device has no such interrupts
	unsigned index;	   // VFIO_PCI_MSI_IRQ_INDEX or _MSIX_
	unsigned cap;	   // offset in the configuration space
	bool noresize;
	unsigned armed; // vectors that the device was told of; 0: it is disabled
	bool *given;	// by vector: it has our eventfd
};

struct pt_ext_cap {
	uint16_t offset, len;
	uint32_t header; // as the guest sees it
	bool writable;
};

struct passthrough {
	struct pci_func func;
	struct vfio_link *link; // NULL: given back
	struct passthrough_host host;
	bool dead;
	uint8_t frozen[PCI_CONFIG_SIZE]; // the shadow when it died
	bool mapped;			 // the device has guest RAM
	bool ending;			 // it is about to be freed: a link that returns now is late
	bool asleep;			 // D1 to D3: it has no BARs

	// ---- passthrough_config.c
	uint32_t config_size;		      // of the device's region
	uint16_t command;		      // as the device was last told
	uint8_t from_device[PCI_CONFIG_SIZE]; // 1: reads are the device's answer and not the shadow's
	uint8_t to_device[PCI_CONFIG_SIZE];   // bits that writes carry to the device
	unsigned pm_cap, express_cap, af_cap;
	unsigned ext_count;
	struct pt_ext_cap ext[PT_EXT_CAPS_MAX];

	// ---- passthrough_bar.c
	uint64_t bar_size[PCI_BARS]; // of the device's regions, 0: none
	struct pt_map map;
	unsigned table_bar, pba_bar; // of MSI-X
	uint64_t table_offset, pba_offset;
	unsigned doorbell_count;
	struct pt_doorbell doorbell[PT_DOORBELLS_MAX];

	// ---- passthrough_irq.c
	struct pt_vectors msi, msix;
	int *fds; // room for a call's
	bool has_intx, intx_on;
	bool intx_by_hand;			 // the device takes no eventfd to unmask
	bool intx_raised;			 // by hand, and the guest has not touched the device since
	int intx_done;				 // eventfd: the guest ended the interrupt
	struct loop_source intx, failed, wanted; // eventfds; -1: none

	// ---- passthrough_plug.c
	bool leaving;		 // the guest was asked to let go of it
	struct loop_source late; // a timer; -1: none
	bool gone;		 // for good
	bool awaited;		 // a thread waits until the guest has seen it go
	int looked;		 // eventfd, for that thread; -1: none
};

static inline struct passthrough *pt_of(struct pci_func *f)
{
	return (struct passthrough *)(void *)((char *)f - offsetof(struct passthrough, func));
}

// ---- passthrough.c

// Whether the device can be asked for anything.
static inline bool pt_alive(const struct passthrough *pt)
{
	return !pt->dead;
}
// The device is gone as far as the guest can see, which still has what it set up.  Any thread; waits for nobody.
void pt_die(struct passthrough *pt, const char *why);
// The same without a line in the log.
void pt_cut(struct passthrough *pt);
// All of guest RAM.
int pt_dma_map(struct passthrough *pt, struct err *e);
void pt_dma_unmap(struct passthrough *pt);

// ---- passthrough_config.c

// Reads the device's space and builds the guest's.  Before pt_bars_init(), which adds the BARs.
int pt_config_init(struct passthrough *pt, struct err *e);
void pt_config_read(struct pci_func *f, unsigned offset, unsigned size, uint32_t *val);
void pt_config_write(struct pci_func *f, unsigned offset, unsigned size, uint32_t val);
// Tells the device of the command register as the guest has set it, if it does not know.
void pt_command_carry(struct passthrough *pt);
// The device has been reset: its command register is 0, and it is awake.
void pt_config_reset(struct passthrough *pt);
// Tells it all that the shadow keeps for it.
void pt_config_carry(struct passthrough *pt);
int pt_device_read(struct passthrough *pt, unsigned offset, void *buf, unsigned len);

// ---- passthrough_caps.c

int pt_capabilities_show(struct passthrough *pt, struct err *e);
int pt_extended_show(struct passthrough *pt, struct err *e);
unsigned pt_msi_len(const struct pci_func *f, unsigned at);

// ---- passthrough_plug.c

// After pt_irqs_init().
int pt_plug_init(struct passthrough *pt, struct err *e);
void pt_plug_free(struct passthrough *pt);
// PT_EVENT_WANTED, PT_EVENT_LATE.
void pt_plug_wanted(struct passthrough *pt);
void pt_plug_late(struct passthrough *pt);
// PT_EVENT_GONE.
void pt_plug_gone(struct passthrough *pt);
// Has the guest see a function go that is dead: true if it has, false if it did not look in time, or cannot.  Waits, without
// the lock, unless the machine ends.  Not on a vCPU's thread nor the loop's.
bool pt_plug_pull(struct passthrough *pt);
// The machine ends: pt_plug_pull() returns.
void pt_plug_end(struct passthrough *pt);
void pt_hotplug(struct pci_func *f, enum pci_hotplug_end end);

// ---- passthrough_return.c

// struct vfio_link_events.returned.
int pt_returned(void *owner, struct err *e);

// ---- passthrough_bar.c

int pt_bars_init(struct passthrough *pt, struct err *e);
void pt_bars_free(struct passthrough *pt);
void pt_bar_read(struct pci_func *f, unsigned bar, uint64_t offset, unsigned size, uint64_t *val);
void pt_bar_write(struct pci_func *f, unsigned bar, uint64_t offset, unsigned size, uint64_t val);
void pt_bar_moved(struct pci_func *f, unsigned bar, uint64_t gpa, bool mapped);
// Takes what is mapped away from the guest, which then exits at each access; and gives it back, where the BAR is and if the
// device is awake.
void pt_bars_hide(struct passthrough *pt);
void pt_bars_show(struct passthrough *pt);
// The link returned and its descriptors are others.  While nothing is shown.
int pt_bars_again(struct passthrough *pt, struct err *e);

// ---- passthrough_map.c

// Maps what may be mapped of these regions.  What is not there is trapped, if there is still a device.
void pt_map_fill(struct passthrough *pt, struct pt_map *m, const struct vfio_region regions[PCI_BARS]);
void pt_map_free(struct pt_map *m);

// ---- passthrough_irq.c

// After pt_config_init().
int pt_irqs_init(struct passthrough *pt, struct err *e);
void pt_irqs_free(struct passthrough *pt);
// Has the device signal what the guest wants signalled, by what the shadow says now.
void pt_irqs_sync(struct passthrough *pt);
// The guest wrote to a vector of the MSI-X table.
void pt_irqs_table_write(struct passthrough *pt, uint64_t offset, unsigned size, uint64_t val);
uint64_t pt_irqs_pba_read(struct passthrough *pt, uint64_t offset, unsigned size);
// The guest wrote to the MSI capability, or to Message Control of MSI-X.
void pt_irqs_msi_write(struct passthrough *pt);
void pt_irqs_msix_write(struct passthrough *pt);
void pt_irqs_intx_raised(struct passthrough *pt);
// The guest reached the device through a BAR.
void pt_irqs_touched(struct passthrough *pt);
// The device has given up its eventfds, or gives them up here, and nothing signals the guest.  What that has set up is kept in the shadow
// and in the tables: pt_irqs_msi_write() and pt_irqs_msix_write() begin again.
void pt_irqs_stop(struct passthrough *pt);
// That, and as after power-on.
void pt_irqs_reset(struct passthrough *pt);
// Raises all vectors that are in use: some may have been lost, and drivers bear one too many.
void pt_irqs_raise(struct passthrough *pt);

// How many the device has, of those that signal an eventfd; all of it in *irq.
int pt_irq_ask(const struct passthrough *pt, unsigned index, struct vfio_irq *irq);

// ---- passthrough_intx.c

int pt_intx_init(struct passthrough *pt, struct err *e);
bool pt_intx_wanted(const struct passthrough *pt);
// By what the shadow says now.
void pt_intx_sync(struct passthrough *pt);
void pt_intx_stop(struct passthrough *pt, bool tell);

#endif
