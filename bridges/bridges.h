// SPDX-License-Identifier: BSD-2-Clause
// From a device of the configuration to a back-end, whatever the interface.
//
// In two halves, so that many devices start side by side: bridge_start() starts or connects and does not wait
// for an answer, bridge_finish() shakes hands.  The device_config, its strings, and the bridge_host outlive
// the back-end.  Main thread, before the loop runs (children die with the thread that started them).
#ifndef MINIVMM_BRIDGES_BRIDGES_H
#define MINIVMM_BRIDGES_BRIDGES_H

#include "bridges/backend.h"
#include "bridges/vfio_ops.h"
#include "bridges/vhost_user_objects.h"
#include "vmm/base/arena.h"
#include "vmm/base/deadline.h"
#include "vmm/base/err.h"
#include "vmm/base/loop.h"
#include "vmm/config.h"
#include "vmm/spawner.h"

#include <stdbool.h>

struct child;
struct kvm;
struct launch;
struct vfio_containers;

// What is needed to have a device back after its end.
struct bridge_kept {
	const struct device_config *cfg;
	struct backend *backend; // or NULL; of kernel vhost, its process's
	struct vfio_link *link;	 // the same
	struct launch *launch;	 // from malloc(), or NULL
	int listener, keeper;	 // or -1: `listen`
	int line;		 // to the spawner, or -1
	int pidfd;		 // of its program; the back-end's
};

struct bridge_host {
	struct loop *loop;
	const char *program_dir;       // where our device programs are looked for first; NULL: in PATH only
	deadline_ns start_deadline;    // one for all devices, so that N mute back-ends cost what one costs
	uint64_t memory;	       // of the guest, bytes: what a limit of a jail leaves room for
	const struct mem_table *ram;   // the same memory, once it is there; NULL before
	struct kvm *kvm;	       // once it is there
	const struct cgroups *cgroups; // of the devices that have limits; NULL: none
	int keeper;		       // who ends other people's programs after us (jail_keeper.h); 0: none
	const struct vm_config *config;
	bool insecure; // start programs although the host refuses to isolate them
	int (*seal_thread)(
		struct err *e); // for the threads that bridges_keep() makes: to wait for a back-end
	int (*seal_carrier)(struct err *e); // to serve the commands of a vfio-user server
	int (*seal_return)(struct err *e);  // and to wait for one
	// bridges.c's own:
	struct bridge_kept kept[CONFIG_DEVICES_MAX];
	unsigned kept_count;
	struct spawner spawner;
	struct vu_objects objects;
	struct vfio_containers *containers; // NULL: no VFIO device yet
	int leave;			    // eventfd: the machine ends
};

// What a bridge ends in, one of the two: a virtio back-end, or a whole PCI function.
struct bridge_end {
	struct backend *backend;
	struct vfio_link *link;
};

// A device between its two halves.
struct bridge_pending {
	struct bridge_host *host;
	const char *peer;    // what to call the other end in messages
	int sock;	     // connected, or -1
	struct child *child; // from malloc(), or NULL
	struct bridge_kept kept;
	const struct device_config *cfg;
};

void bridges_init(struct bridge_host *host);
// When all devices are open and before the machine is sealed: makes the process that starts and connects them again, if one may
// need that.  Called with one thread.
int bridges_spawner(struct bridge_host *host, struct err *e);
// After the seal: the threads that wait for back-ends that went away, and those that serve what a device asks for.
int bridges_keep(struct bridge_host *host, struct err *e);
// Nothing is waited for or started any more; before the back-ends are closed, so that they end side by side.
void bridges_leave(struct bridge_host *host);
// When they are closed.  Good after bridges_init().
void bridges_free(struct bridge_host *host);

// -errno with the sentence set; nothing is left behind then.
int bridge_start(struct bridge_pending *p, const struct device_config *cfg, struct bridge_host *host,
		 struct err *e);
// Uses up *p, whatever it returns.  On success the caller ends what it got by ops->close().
int bridge_finish(struct bridge_end *out, struct bridge_pending *p, struct err *e);
// Instead of bridge_finish(): stops what was started.
void bridge_abandon(struct bridge_pending *p);

// What the device would be, with nothing started or opened.  Texts live in the arena.  -errno with the sentence.  Any thread.
struct explain_device;
int bridge_describe(struct explain_device *d, const struct device_config *cfg, const struct bridge_host *host,
		    struct arena *a, struct err *e);

// "vhost-user" for VIA_VHOST_USER and so on; never NULL for a valid value.
const char *bridge_name(enum device_via via);

#endif
