// SPDX-License-Identifier: BSD-2-Clause
// What vfio_user.c and vfio_user_access.c (operations), vfio_user_open.c (handshake), vfio_user_region.c (what a server says of its regions),
// vfio_user_dma.c (its own commands), vfio_user_death.c, vfio_user_again.c and probe_vfio_user.c share.
#ifndef MINIVMM_BRIDGES_VFIO_USER_IMPL_H
#define MINIVMM_BRIDGES_VFIO_USER_IMPL_H

#include "bridges/again.h"
#include "bridges/vfio_user.h"
#include "bridges/vfio_user_link.h"
#include "vmm/memmap.h"

#include <linux/vfio.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define VFU_REGIONS	  VFIO_PCI_NUM_REGIONS
#define VFU_IRQS	  VFIO_PCI_NUM_IRQS
#define VFU_REGIONS_SANE  64 // that a server may say it has; those beyond VFU_REGIONS are its own affair
#define VFU_IRQS_SANE	  64
#define VFU_BARS	  6
#define VFU_DOORBELLS_MAX VFIO_USER_IO_FDS_MAX // of one region

// The eventfds of a region.
struct vfu_doorbells {
	struct msg_fds fds;
	unsigned count;
	struct vfio_doorbell doorbell[VFU_DOORBELLS_MAX];
};

// What a server says of itself once, in the handshake.
struct vfu_said {
	struct vfio_user_version version;
	struct vfio_user_caps caps;
	bool twin; // negotiated
	struct vfio_region region[VFU_REGIONS];
	const char *trapped[VFU_REGIONS]; // why a region that could have been mapped is not
	struct vfu_doorbells doorbells[VFU_BARS];
	struct vfio_irq irq[VFU_IRQS];
	bool can_reset;
	bool bypassed; // messages are not the only way to it: there are eventfds, or pages that are mapped
};

// Whether it keeps to it that a posted write (NO_REPLY) has no reply; not all servers there are do.
enum vfu_posts { VFU_POSTS_UNTRIED, VFU_POSTS_HONOURED, VFU_POSTS_ANSWERED };

struct vfio_user {
	struct vfio_link link;
	struct vfu_link io;
	const char *peer;
	int64_t control_ms, reset_ms;
	bool keep_memory, no_doorbells;
	struct vfu_said said;
	atomic_bool live;	  // the server below is the one that the owner knows
	atomic_bool answered;	  // an access, since it was connected
	atomic_int posts;	  // enum vfu_posts, of this connection
	atomic_bool intx_eventfd; // it has one for the end of INTx

	pthread_mutex_t dma_lock; // held during an access by message
	struct mem_table mapped;

	struct loop *loop;
	struct loop_source died; // io.died_fd
	bool told;		 // of its death: the loop's thread's
	struct child *child;	 // or NULL
	char how[128];		 // its end, once it is known
	struct again again;
	atomic_bool fresh; // to the loop, from the thread: there is another connection to watch
};

// ---- vfio_user_open.c

// VERSION.  0; -EPIPE with io.why set; the server's -errno.
int vfu_negotiate(struct vfio_user *v, deadline_ns deadline);
// The rest of what is asked for; the same.
int vfu_ask_all(struct vfio_user *v, deadline_ns deadline);
void vfu_said_init(struct vfu_said *s);
// Gives up what was received.
void vfu_said_free(struct vfu_said *s);

// ---- vfio_user_region.c

// 0; -EPIPE: dead, for which a reply that makes no sense is a reason; the server's -errno.
int vfu_ask_region(struct vfio_user *v, unsigned index, deadline_ns deadline);
int vfu_ask_doorbells(struct vfio_user *v, unsigned index, deadline_ns deadline);

// ---- vfio_user_dma.c

// vfu_link.serve.
void vfu_serve(struct vfu_link *l, int sock, const struct vfio_user_header *h);
// 0 or -ENOSPC.
int vfu_mapped_add(struct vfio_user *v, const struct mem_region *r);
void vfu_mapped_remove(struct vfio_user *v, uint64_t gpa, uint64_t size);

// ---- vfio_user_access.c

int vfu_region_read(struct vfio_link *l, unsigned index, uint64_t offset, void *buf, size_t len);
int vfu_region_write(struct vfio_link *l, unsigned index, uint64_t offset, const void *buf, size_t len,
		     bool posted);

// ---- vfio_user.c

// A call for the owner: a server that is not the one it knows, not yet or not any more, hears nothing of it.
int vfu_ask(struct vfio_user *v, const struct vfu_call *c);
// Logs what was refused, if its caller does not.  A dead one was told once.  `rc`.
int vfu_refused(struct vfio_user *v, int rc, const char *what);
extern const struct vfio_link_ops vfu_ops;

// ---- vfio_user_death.c

// The loop hears of the server's end from here on.
int vfu_watch(struct vfio_user *v, struct err *e);
// Its owner hears that no server is waited for.  Any thread.
void vfu_gone(struct vfio_user *v);

// ---- vfio_user_again.c

void vfu_again_close(struct vfio_user *v);

#endif
