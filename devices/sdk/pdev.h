// SPDX-License-Identifier: BSD-2-Clause
// What an author writes of a device that is no virtio device: one PCI function, served over vfio-user.
//
// The program around it is any device's (dev.h: struct vdev_ops with .pci set, options, open(), rules, close()); open() describes the
// function with the calls below, and struct pdev_ops is called for what a client does to it.  The virtio devices of the SDK are
// such a function, too (virtio_pci_fn.c).  One thread.  Offsets and sizes are checked before an operation sees them; what
// the guest says by them is hostile.
#ifndef MINIVMM_SDK_PDEV_H
#define MINIVMM_SDK_PDEV_H

#include "vmm/base/err.h"
#include "vmm/base/loop.h"

#include <stdbool.h>
#include <stdint.h>

#define PDEV_BARS	   6
#define PDEV_CONFIG_SIZE   256
#define PDEV_VECTORS_MAX   128
#define PDEV_DOORBELLS_MAX 64
#define PDEV_STATE_MAX	   65536

struct vdev;
struct pdev;
struct dirty_log;

// Each may be left out; a BAR without bar_read reads as zeros.
struct pdev_ops {
	// size is 1, 2, 4 or 8 and offset a multiple of it, within the BAR.
	uint64_t (*bar_read)(struct pdev *p, unsigned bar, uint64_t offset, unsigned size);
	void (*bar_write)(struct pdev *p, unsigned bar, uint64_t offset, unsigned size, uint64_t val);
	// A doorbell of pdev_add_doorbell() was rung, perhaps more than once; index: in the order in which they were added.
	void (*doorbell)(struct pdev *p, unsigned index);
	// p->again was set: what else was due has been seen to.
	void (*again)(struct pdev *p);
	// Configuration space is about to be read, or was written: p->config is what it says (then: the new value, within p->writable).
	void (*config)(struct pdev *p, unsigned offset, unsigned size, bool written);
	// Returns when no memory of the guest is in use: some of it is about to go.
	void (*drain)(struct pdev *p);
	// Guest memory is another one than before: pointers into it are to be looked up again.  While p->stopped is set there is none: nothing
	// is to be begun until this is called again without it.
	void (*memory_changed)(struct pdev *p);
	// As after power-on; config and interrupts have been reset already.
	void (*reset)(struct pdev *p);
	// A client came, or went (false): its memory is gone, the device's state is kept for the next one.
	void (*attached)(struct pdev *p, bool on);
	// The client set or took back MSI-X vectors.
	void (*vectors_changed)(struct pdev *p);
	// For a guest that moves, both or neither.  save: what the driver told the device and it could not find out again, at most PDEV_STATE_MAX
	// bytes; how many.  It is stopped and drained.  load: checks such a state, which may be anything, and takes it over, just after
	// a reset and before it is started.  0, or -errno: this is no state of such a device (it is reset then).  Configuration space, the
	// MSI-X table, the pin's level and memory of pdev_share() are moved by the SDK.
	size_t (*save)(struct pdev *p, void *to);
	int (*load)(struct pdev *p, const void *from, size_t len);
};

struct pdev_bar {
	uint64_t size; // power of two, >= 16; 0: none
	bool io, is_64bit;
	// What the client may map for its guest, [map_offset, map_offset + map_len) of the BAR, at the same place of map_fd; -1: nothing.
	int map_fd;
	uint64_t map_offset, map_len;
	void *mapped; // by the device
};

struct pdev_doorbell {
	struct loop_source source; // an eventfd, of one client only
	struct pdev *pdev;
	unsigned bar;
	uint64_t offset;
	uint32_t size; // 0: a write of any size rings it
};

struct pdev_vector {
	int fd; // the client's eventfd, or -1
	bool masked, pending;
};

struct pdev {
	const struct pdev_ops *ops;
	struct vdev *d; // its loop, its guest memory
	void *priv;
	struct pdev_bar bar[PDEV_BARS];
	uint8_t config[PDEV_CONFIG_SIZE];
	uint8_t writable[PDEV_CONFIG_SIZE]; // the bits that the guest may change
	bool again;			    // set by the device: its again() is to be called soon
	bool stopped; // by the client, whose guest may be about to move; the SDK's to change
	// The SDK's.
	uint64_t rung;		 // doorbells, while it was stopped
	struct dirty_log *dirty; // of what is written to guest memory, or NULL; the carrier's
	bool attached, described;
	uint8_t initial[PDEV_CONFIG_SIZE]; // what a reset restores
	unsigned next_cap, last_cap;
	unsigned msix_cap, msix_bar, vector_count;
	uint64_t msix_table_at, msix_pba_at;
	struct pdev_vector vector[PDEV_VECTORS_MAX];
	uint32_t msix_table[PDEV_VECTORS_MAX]
			   [4]; // for clients that keep it here; what interrupts is what they set
	bool intx_level, intx_masked;
	int intx_fd;
	struct loop_source intx_unmask; // the client's eventfd that unmasks, or -1
	unsigned doorbell_count;
	struct pdev_doorbell doorbell[PDEV_DOORBELLS_MAX];
	// Memory that the client did not hand over, by the carrier: at least a byte of it, *got.  NULL: there is no way.
	int (*far)(struct pdev *p, bool write, uint64_t gpa, void *bytes, uint64_t len, uint64_t *got);
	void *client; // the carrier's
};

// ---- describing the function, in open() ---------------------------------------------------------------------------

// Makes the function of a device: it has no BAR, no capability, no interrupt yet.  0, or -errno and the sentence.
int pdev_create(struct pdev **out, struct vdev *d, const struct pdev_ops *ops, struct err *e);
void pdev_destroy(struct pdev *p);

void pdev_set_identity(struct pdev *p, uint16_t vendor, uint16_t device, uint32_t class_code,
		       uint8_t revision);
void pdev_set_subsystem(struct pdev *p, uint16_t vendor, uint16_t device);
// A BAR of memory, or of I/O ports.
void pdev_add_bar(struct pdev *p, unsigned index, uint64_t size, bool is_64bit);
void pdev_add_io_bar(struct pdev *p, unsigned index, uint64_t size);
// `len` bytes for a capability, its id and next pointer included: its offset; the rest is the caller's to fill.
unsigned pdev_add_capability(struct pdev *p, uint8_t id, unsigned len);
// Memory of the device's at [offset, offset + len) of a memory BAR, in pages, that the client may map for its guest; *to: where it
// lies for the device.  It cannot shrink.  A client that does not map it still comes by bar_read and bar_write.  0, or -errno
// and the sentence.
int pdev_share(struct pdev *p, unsigned bar, uint64_t offset, uint64_t len, uint8_t **to, struct err *e);
// The function has an INTx pin.
void pdev_add_intx(struct pdev *p);
// MSI-X with 1 to PDEV_VECTORS_MAX vectors; table and pending bits lie at these places of a BAR, and the SDK serves them.
void pdev_add_msix(struct pdev *p, unsigned count, unsigned bar, uint64_t table_at, uint64_t pba_at);
// A write of `size` bytes (0: any) there rings, by an eventfd if the client can, else by a message.  PDEV_DOORBELLS_MAX at most.
void pdev_add_doorbell(struct pdev *p, unsigned bar, uint64_t offset, uint32_t size);

// ---- while it runs ------------------------------------------------------------------------------------------------

// MSI-X: interrupts through `vector`; nothing happens for one that does not exist.  One that is masked stays pending.
void pdev_interrupt(struct pdev *p, unsigned vector);
// True if the driver uses MSI-X, which then stands for the pin.
bool pdev_msix_on(const struct pdev *p);
// Sets the level of the INTx pin.
void pdev_set_intx(struct pdev *p, bool level);
// Guest memory in one piece, or NULL.  Good until drain() was called.
void *pdev_memory(struct pdev *p, uint64_t gpa, uint64_t len);
// Copies out of guest memory or into it, wherever pieces of it lie; what the client did not hand over by messages, where it can do that,
// which wait for it (2 s at most).  0, or -EFAULT; -EIO: the client is about to be dropped.
int pdev_dma_read(struct pdev *p, uint64_t gpa, void *to, uint64_t len);
int pdev_dma_write(struct pdev *p, uint64_t gpa, const void *from, uint64_t len);
// [at, at + len), in what pdev_memory() gave, was written: to be said after it was, and before the driver may know of it.  (What a
// device with save() does not say is lost to a guest that moves while it runs.)
void pdev_wrote(struct pdev *p, const void *at, uint64_t len);

static inline uint16_t pdev_config_get16(const struct pdev *p, unsigned offset)
{
	return (uint16_t)(p->config[offset] | p->config[offset + 1] << 8);
}

static inline uint32_t pdev_config_get32(const struct pdev *p, unsigned offset)
{
	return pdev_config_get16(p, offset) | (uint32_t)pdev_config_get16(p, offset + 2) << 16;
}

static inline void pdev_config_set16(struct pdev *p, unsigned offset, uint16_t val)
{
	p->config[offset] = (uint8_t)val;
	p->config[offset + 1] = (uint8_t)(val >> 8);
}

static inline void pdev_config_set32(struct pdev *p, unsigned offset, uint32_t val)
{
	pdev_config_set16(p, offset, (uint16_t)val);
	pdev_config_set16(p, offset + 2, (uint16_t)(val >> 16));
}

#endif
