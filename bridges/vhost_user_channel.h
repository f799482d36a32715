// SPDX-License-Identifier: BSD-2-Clause
// The channel on which a vhost-user back-end asks something of us (SET_BACKEND_REQ_FD).
//
// Lives on the loop's thread and never waits: messages are put together from what is there, a reply that the
// socket does not take at once ends the connection.  However much a back-end sends, it costs CHANNEL_BURST
// messages and one upcall in CHANNEL_PAUSE_MS; the rest waits in the socket.  Used by vhost_user.c only.
#ifndef MINIVMM_BRIDGES_VHOST_USER_CHANNEL_H
#define MINIVMM_BRIDGES_VHOST_USER_CHANNEL_H

#include "bridges/vhost_user_link.h"
#include "vmm/base/loop.h"
#include "vmm/base/msg.h"

#define CHANNEL_BURST	 16
#define CHANNEL_PAUSE_MS 10
#define CHANNEL_PAYLOAD	 256 // more than any request of the table

struct vhost_user_vring_area;
struct vhost_user_shmem_map;
struct vhost_user_uuid;
struct vu_channel;

// What is asked for; on the loop's thread.
struct vu_channel_ops {
	void (*config_changed)(struct vu_channel *c);
	// 0 or -errno; fd: -1, or a descriptor that stays the channel's.
	int (*doorbell_page)(struct vu_channel *c, const struct vhost_user_vring_area *area, int fd);
	int (*shared_map)(struct vu_channel *c, const struct vhost_user_shmem_map *m, int fd);
	int (*shared_unmap)(struct vu_channel *c, const struct vhost_user_shmem_map *m);
	// The same, or 1: it is answered later.
	int (*object)(struct vu_channel *c, uint32_t request, const struct vhost_user_uuid *u);
};

struct vu_channel {
	struct vu_link *link; // is condemned when the channel breaks the protocol
	struct loop_source source, timer;
	unsigned have; // bytes of `in`
	uint8_t in[12 + CHANNEL_PAYLOAD];
	struct msg_fds fds; // that came with these bytes
	bool changed;	    // a configuration change was seen in this burst
	const struct vu_channel_ops *ops;
};

// Makes the channel: returns the back-end's end, to be sent and closed by the caller, or -errno.
int vu_channel_open(struct vu_channel *c, struct vu_link *link, const struct vu_channel_ops *ops);
// 0 or -errno.
int vu_channel_watch(struct vu_channel *c);
// A reply that the request has in any case, whether it was asked for or not: NULL, or why the back-end has to go.  `fd` (or -1) stays the
// caller's.
const char *vu_channel_answer(struct vu_channel *c, uint32_t request, uint64_t code, int fd);
// Good on one that was never opened but zeroed.
void vu_channel_close(struct vu_channel *c);

#endif
