// SPDX-License-Identifier: BSD-2-Clause
// What a device author writes: one struct vdev_ops and a main() that calls vdev_main().
//
// A device is a program of its own.  It cannot tell which interface serves it (carrier.h) nor which VMM drives it.
// Everything runs on one thread.  In order: option() for each of the device's own options, open() (the only
// place that touches paths), the sandbox is sealed, then for each front-end that connects
// start() ... kick() ... drain() ... stop().  What a driver wrote is hostile until checked; virtq.h
// and guest_mem.h have checked what they give out.
#ifndef MINIVMM_SDK_DEV_H
#define MINIVMM_SDK_DEV_H

#include "devices/sdk/guest_mem.h"
#include "devices/sdk/virtq.h"
#include "vmm/base/err.h"
#include "vmm/base/loop.h"
#include "vmm/base/sandbox.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VDEV_QUEUES_MAX 64

struct vdev;
struct pdev;
struct pdev_ops;
struct carrier;

// A command line option of the device: "--name VALUE" or "--name=VALUE"; without `value` a flag.
struct vdev_option {
	const char *name;
	const char *value; // what the value is, for --help: "PATH"; NULL for a flag
	const char *help;  // NULL: an alias, not shown
};

// start and all after it but kick may be left out: there is nothing to do then, and configuration space is read-only.
struct vdev_ops {
	const char *program;		   // "minivmm-blk"
	const char *summary;		   // one line for --help
	const char *capabilities;	   // what --print-capabilities prints (vhost-user.json)
	const struct vdev_option *options; // ends with a NULL name
	const struct sandbox_rule *rules;  // system calls beyond those of the SDK
	unsigned rule_count;
	unsigned fds_max; // descriptors that the device may ever have open, whatever its options
	const struct sandbox_spec *aside; // of a process beside the device's (vmm/base/aside.h), or NULL
	uint16_t virtio_type;		  // virtio 1.2 §5; needed to be served over vfio-user
	const struct pdev_ops
		*pci; // this is no virtio device but a PCI function of its own (pdev.h), or NULL

	// One option was given; value is NULL for a flag.  0 or -errno and the sentence.
	int (*option)(struct vdev *d, const char *name, const char *value, struct err *e);
	// Opens everything that the device will ever need and fills in the "device" part of struct vdev.
	int (*open)(struct vdev *d, struct err *e);
	// The driver settled the features; queues start after this.  0 or -errno: refused.
	int (*start)(struct vdev *d, uint64_t features);
	// There may be requests in the queue.  Takes at most about a queue's worth, then calls vdev_again() if there are more.
	void (*kick)(struct vdev *d, struct vq *q);
	// Returns when nothing of `q` (NULL: of no queue) is in flight.
	void (*drain)(struct vdev *d, struct vq *q);
	// The device is reset or its front-end gone; nothing is in flight, no queue runs.
	void (*stop)(struct vdev *d);
	// The program ends; frees what open() made.
	void (*close)(struct vdev *d);
	// The driver wrote configuration space; within config_len.  d->config is the device's to change.
	int (*config_write)(struct vdev *d, uint32_t off, const void *p, uint32_t len);
	// For a device that serves many front-ends at a time (carrier.h), with a struct vdev of its own for each: the whole life after
	// the seal.  `sock` is listening or connected, *stop is set by a source in d->loop.  0, or -errno: the event loop failed.
	// Left out, as it mostly is, the SDK serves them one after the other.
	int (*serve)(struct vdev *d, const struct carrier *c, int sock, bool listening, const bool *stop);
	// For a guest that moves to another host, and for a process that goes on after this one was killed: writes what its driver
	// told the device, and what a new process could not find out again, to `to`: at most VDEV_STATE_MAX bytes.  How many.
	// Between start() and stop(); requests may be in flight.
	size_t (*state_save)(struct vdev *d, void *to);
	// Checks such a state, which may be anything, and keeps it: the next start() goes on from there instead of afresh.  `len` 0: forget it.
	// 0 or -errno: this is no state of such a device.
	int (*state_load)(struct vdev *d, const void *from, size_t len);
	// Of network devices only.  The network is to learn that `mac` is here now; the MTU that the driver is to be told, 0 for the
	// device's own again.  -errno: not possible.
	int (*announce)(struct vdev *d, const uint8_t mac[6]);
	int (*set_mtu)(struct vdev *d, uint16_t mtu);
};

#define VDEV_STATE_MAX 4000

struct vdev {
	const struct vdev_ops *ops;
	// The device's, set by open().
	void *priv;
	uint64_t features;	 // offered, VERSION_1 and the ring features included
	uint16_t queue_count;	 // <= VDEV_QUEUES_MAX
	uint16_t queue_size_max; // power of two, <= VQ_SIZE_MAX
	void *config;		 // configuration space; on a change of its own: vdev_config_changed()
	uint32_t config_len;
	struct pdev *pci; // of a PCI function: there before open(), which describes it (pdev.h)
	// The SDK's.
	struct loop loop; // the device adds its own sources here, from open() on
	struct guest_mem mem;
	struct vq *queues;			// queue_count of them
	uint64_t negotiated;			// valid from start() to stop()
	uint64_t again;				// a bit for each queue that wants another kick()
	void (*config_changed)(struct vdev *d); // the carrier's, while a front-end is connected
	void (*state_changed)(struct vdev *d);	// the same
	void *session;				// the same
};

// The whole of main().
int vdev_main(const struct vdev_ops *ops, int argc, char **argv);

// A number in [min, max] for option().  0, or -EINVAL and the sentence.
int vdev_number(const char *name, const char *text, uint64_t min, uint64_t max, uint64_t *out, struct err *e);
int vdev_number16(const char *name, const char *text, uint16_t min, uint16_t max, uint16_t *out,
		  struct err *e);
// The value of --queue-size.
int vdev_queue_size(const char *text, uint16_t *out, struct err *e);

// kick(q) will be called again soon, after what else is due.
static inline void vdev_again(struct vdev *d, const struct vq *q)
{
	d->again |= UINT64_C(1) << q->index;
}

// The device changed its configuration space of its own accord: the driver is told, if anybody can tell it.
static inline void vdev_config_changed(struct vdev *d)
{
	if (d->config_changed)
		d->config_changed(d);
}

// What state_save() would write is another now.  Before the driver sees its command done: what it was told is then remembered
// whenever the process is killed, as far as its front-end keeps a record for it.
static inline void vdev_state_changed(struct vdev *d)
{
	if (d->state_changed)
		d->state_changed(d);
}

// Delivers events that are ready within `timeout_ms`, then the due kicks.  For carriers.
int vdev_turn(struct vdev *d, int timeout_ms);

#endif
