// SPDX-License-Identifier: BSD-2-Clause
// virtio-blk requests (virtio 1.2 §5.2) between a virtqueue and the block engine.
//
// Owned by blk.c, which has the command line and the SDK's callbacks.  Parses what a driver queued, hands it to the engine, writes data
// length and status back.  Never sees a message of a VMM, opens nothing.
#ifndef MINIVMM_BLOCK_VIRTIO_BLK_H
#define MINIVMM_BLOCK_VIRTIO_BLK_H

#include "devices/block/engine.h"
#include "devices/sdk/dev.h"
#include "devices/sdk/poller.h"
#include "devices/sdk/virtq.h"

#include <linux/virtio_blk.h>
#include <stdbool.h>
#include <stdint.h>

#define VBLK_SEGS_MAX	  126		      // offered to the driver as seg_max
#define VBLK_IOVECS	  (VBLK_SEGS_MAX + 6) // header, status, and some that cross a region or split the header
#define VBLK_DEPTH	  256		      // requests in flight for each queue; more wait in the queue
#define VBLK_REQUESTS_MAX 1024		      // for all of them

struct vblk_request {
	struct blk_io io;
	struct vblk *b;
	struct vq *q;
	struct vblk_request *next_free;
	uint8_t *status;  // in guest memory
	uint64_t written; // bytes of the writable part before the status, once the I/O is done
	uint16_t head;
	struct iovec iov[VBLK_IOVECS];
};

struct vblk {
	struct vdev *d;
	struct blk_image img;
	struct blk_engine engine;
	struct virtio_blk_config config;
	char serial[VIRTIO_BLK_ID_BYTES];
	bool was_off;	    // the next start() goes on with a cache that the driver had turned off
	bool write_through; // every write is durable when its status says OK
	bool starved;	    // a queue waits for a free request
	bool worked;	    // a request came or went
	struct poller poller;
	uint64_t dirty; // queues with used entries to publish
	struct vblk_request *free;
	struct vblk_request *requests; // request_count of them; pages are touched as depth needs them
	unsigned request_count, request_made;
};

// Memory for the requests, features and configuration space.  The image and the engine stand already.
int vblk_init(struct vblk *b, struct vdev *d, uint16_t queue_count, uint16_t queue_size, struct err *e);
void vblk_destroy(struct vblk *b);

// The driver's features.
void vblk_start(struct vblk *b, uint64_t features);

// Serves what is in the queue, see vdev_ops.kick.
void vblk_kick(struct vblk *b, struct vq *q);

// Collects completions; with `wait`, at least one.
void vblk_complete(struct vblk *b, bool wait);

// Returns when nothing of `q` (NULL: nothing at all) is in flight.
void vblk_drain(struct vblk *b, const struct vq *q);

// struct vdev_ops: what the driver said of the cache, and which image it knows.
size_t vblk_state_save(const struct vblk *b, void *to);
int vblk_state_load(struct vblk *b, const void *from, size_t len);

// A write to configuration space.  0 or -errno.
int vblk_config_write(struct vblk *b, uint32_t off, const void *p, uint32_t len);

#endif
