// SPDX-License-Identifier: BSD-2-Clause
// The machine that the user asked for: TOML in, struct vm_config out, every error with its place.
//
// Reads and checks text only: opens no file but the configuration itself, changes nothing.  All errors of one
// file are reported in one run.  The strings live as long as the struct.
//
// A relative path in a file starts from that file's folder; one in standard input ("-"), in a handed-over
// descriptor or in --set starts from the working directory.  "fd:..." stays as it is, and so does a program
// without a slash in `exec`.
#ifndef MINIVMM_VMM_CONFIG_H
#define MINIVMM_VMM_CONFIG_H

#include "vmm/base/err.h"
#include "vmm/memmap.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define CONFIG_DEVICES_MAX 31 // one bus of 32 slots, less the host bridge
#define CONFIG_ID_MAX	   32 // A-Z a-z 0-9 _ . -

// What our own programs have: pairs of a network device (a descriptor of the tap each), queues of a disk.
#define CONFIG_NET_PAIRS_MAX  16
#define CONFIG_BLK_QUEUES_MAX 64

#define CONFIG_CONSOLE_PORTS_MAX 8 // each may need two descriptors
#define CONFIG_PORT_NAME_MAX	 64

struct cgroup_limits {	 // of a program and all that it starts; 0: none
	uint64_t memory; // bytes
	uint32_t processes;
	uint32_t cpu; // percent of one processor
};

enum device_via {
	VIA_BUILTIN, // no `via`: a device program of ours
	VIA_VHOST_USER,
	VIA_VHOST,	// the kernel's
	VIA_VHOST_VDPA, // and VDUSE
	VIA_VFIO,	// a PCI function, or a mediated device
	VIA_VFIO_USER,
	VIA_COUNT,
};

enum dma_way { DMA_SHARED, DMA_MESSAGES };

enum return_way { RETURN_RESET, RETURN_REPLUG };

enum restart_policy { RESTART_ALWAYS, RESTART_ON_FAILURE, RESTART_NEVER };

#define CONFIG_NEVER (-1)

enum reboot_action { REBOOT_RESTART, REBOOT_EXIT };

struct config_place {
	unsigned line, column; // from 1
};

struct device_config {
	struct config_place place; // of its [[device]]
	const char *id;
	enum device_via via;
	uint16_t virtio_type; // virtio 1.2 §5; 0 only where the interface itself tells
	const char *virtio_name;
	uint16_t queues;     // 0: what the back-end says, else the type's own
	uint16_t queue_size; // 0: default
	int slot;	     // PCI device number, or -1 for the next free one

	// vhost-user: exactly one of the three; vfio-user: of `socket` and `exec`
	const char *socket;  // path or "fd:..."
	const char *listen;  // the same
	char **exec;	     // NULL-terminated, or NULL; "{fd}" in a word stands for the descriptor's number
	const char *sandbox; // of `exec`: a profile's name or file, or "none"; never NULL beside exec
	const char *learn;   // write a profile there instead of enforcing one; or NULL
	char **paths;	     // what its jail shows besides: "PATH" or "PATH:rw", NULL-terminated, or NULL
	struct cgroup_limits limits; // of `exec`

	// What happens when the back-end is gone.
	int64_t reconnect_ms; // `socket`, `listen`: how long it is waited for; 0: for ever; CONFIG_NEVER
	enum restart_policy restart; // programs
	bool host_notifier;	     // vhost-user: the back-end's doorbell pages are mapped for the guest
	uint64_t shared_memory;	     // vhost-user: so much of the back-end's memory may be; 0: none

	// vfio-user
	enum dma_way dma;	   // how the server reaches guest memory
	bool io_fds;		   // it is asked for eventfds to signal writes with
	enum return_way on_return; // what the guest sees of a server that comes back without its state

	// blk, ours
	const char *image;
	bool readonly;
	bool direct;	     // bypass the host's page cache
	uint32_t block_size; // 512 or 4096; 0: 512
	const char *serial;  // at most 20 bytes; NULL: the id
	bool poll;	     // look for requests instead of waiting for kicks
	const char *cpus;    // processors for its program, "2-3,5"; NULL: any

	// net, ours and over vhost; `queues` then counts pairs
	const char *tap; // an interface of the host, or "fd:..."
	const char *mac; // "52:54:00:12:34:56"; NULL: a random one
	uint16_t mtu;	 // 0: the guest is not told (vhost-user: what the back-end says)
	const char *tag; // of a file system; NULL: what the back-end says

	// rng, ours
	uint64_t rate; // bytes a second, 0: no limit

	// console, ours
	char **ports; // "NAME=pty", "NAME=socket:PATH", "NAME=file:PATH", "NAME=fd:..."; NULL-terminated

	// vfio: exactly one of the four
	const char *host;     // "0000:01:00.0", or without "0000:"
	const char *mdev;     // UUID
	const char *sysfsdev; // the device's folder in sysfs
	const char *cdev;     // "/dev/vfio/devices/vfio0", or "fd:..."

	const char *wwpn; // scsi over vhost: the target's name
	// vsock, ours and over vhost
	uint32_t cid;
	// vsock, ours: of the socket for host programs; vhost, vhost-vdpa: the device node, NULL for the type's own.  Or "fd:..."
	const char *path;
};

struct vm_config {
	const char *file; // name for messages
	const char *name;
	uint32_t cpus;	 // > 0
	uint64_t memory; // bytes, a multiple of the backing's page size
	enum mem_backing backing;
	const char *control; // path of the control socket, or NULL
	enum reboot_action on_reboot;
	bool insecure; // vm.insecure = true: run although the host refuses a sandbox

	const char *kernel;  // required
	const char *initrd;  // or NULL
	const char *cmdline; // "" if left out

	const char *serial_to; // "stdio", "pty", "file:PATH", "unix:PATH", "none"

	struct device_config *devices;
	unsigned device_count;
	void *storage; // what the strings live in
};

// Reads `path` ("-" is standard input, "fd:..." a descriptor) and applies each override ("vm.memory=1G",
// "device.disk0.image=x.raw"; a TOML value, or else a bare text; replaces or adds one key).  Prints every
// error as a line to `errors`: "FILE:LINE:COLUMN: [device] "disk0": ...", "--set TEXT: ...".  0, or -EINVAL
// if any was printed; *c is then empty.
int config_read(struct vm_config *c, const char *path, const char *const *overrides, unsigned override_count,
		FILE *errors);
void config_free(struct vm_config *c);

#endif
