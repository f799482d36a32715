// SPDX-License-Identifier: BSD-2-Clause
// A tap interface of the host, seen through the descriptors that carry its packets.
//
// Opened by whoever has the right to (the network device, or the monitor for a device that it starts), used
// by whoever moves packets.  Makes no interface and configures none: names, addresses, bridges and "up" are
// the administrator's.
#ifndef MINIVMM_BASE_TAP_H
#define MINIVMM_BASE_TAP_H

#include "vmm/base/err.h"

#include <net/if.h>
#include <stdbool.h>

// What the reader of a tap can take (TUNSETOFFLOAD).  The values are the kernel's; older headers lack the
// last two.
#define TAP_CSUM 0x01u
#define TAP_TSO4 0x02u
#define TAP_TSO6 0x04u
#define TAP_ECN	 0x08u
#define TAP_UFO	 0x10u
#define TAP_USO4 0x20u
#define TAP_USO6 0x40u

struct tap {
	int fd; // non-blocking; a packet a read or write, each after a virtio-net header
	char name[IF_NAMESIZE];
	bool multi_queue;
};

// One queue of the interface that `name` names, or of the one that is handed over as "fd:N".  `multi_queue`:
// more queues of it will be opened.  0, t->fd then the caller's; or -errno and the sentence.
int tap_open(struct tap *t, const char *name, bool multi_queue, struct err *e);

// Sets what the reader can take (TAP_*), the length of the header (10 or 12), or whether this queue gets
// packets at all (only of a multi-queue tap).  0 or -errno.
int tap_set_offload(const struct tap *t, unsigned offload);
int tap_set_header(const struct tap *t, int len);
int tap_set_queue(const struct tap *t, bool attached);

#endif
