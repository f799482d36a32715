// SPDX-License-Identifier: BSD-2-Clause
// Does I/O on an image: reads, writes, flushes, discards and writes of zeros, many at a time.
//
// Knows no device: a virtio-blk request, and later an NVMe command, embeds a struct blk_io.  Uses io_uring (uring.h), or
// plain system calls where the host forbids that or the image lies in memory anyway.  One thread; nothing is allocated after
// blk_engine_open().
#ifndef MINIVMM_BLOCK_ENGINE_H
#define MINIVMM_BLOCK_ENGINE_H

#include "devices/block/image.h"
#include "devices/block/uring.h"
#include "vmm/base/deadline.h"
#include "vmm/base/err.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

enum blk_op { BLK_READ, BLK_WRITE, BLK_FLUSH, BLK_DISCARD, BLK_ZERO };

enum blk_engine_kind { BLK_ENGINE_AUTO, BLK_ENGINE_URING, BLK_ENGINE_SYNC };

// System calls of a program that has an engine (vmm/base/sandbox.h).
#define BLK_ENGINE_RULES                                                                             \
	SANDBOX_CALL(io_uring_enter, "I/O on the image and nothing else: the ring is restricted"),   \
		SANDBOX_CALL(pread64, "I/O without io_uring: one buffer read"),                      \
		SANDBOX_CALL(preadv, "I/O without io_uring: several buffers read"),                  \
		SANDBOX_CALL(pwrite64, "I/O without io_uring: one buffer written"),                  \
		SANDBOX_CALL(pwritev2, "I/O without io_uring: several buffers written, or durably"), \
		SANDBOX_CALL(fdatasync, "I/O without io_uring: flush"),                              \
		SANDBOX_CALL(fallocate, "I/O without io_uring: discard and write zeros"),            \
		SANDBOX_CALL(fcntl, "the lock on the image is given back")

// What follows "--engine": auto, uring or sync.  0, or -EINVAL and the sentence.
int blk_engine_by_name(const char *name, enum blk_engine_kind *out, struct err *e);

struct blk_io {
	enum blk_op op;
	bool durable;	   // writes, discards, zeros: on stable storage when done
	bool may_unmap;	   // BLK_ZERO: blocks may be given back
	uint64_t off, len; // bytes, within the image
	struct iovec *iov; // reads and writes: adds up to `len`; changed by the engine
	unsigned iov_count;
	void (*done)(struct blk_io *io,
		     int result); // 0 or -errno; may be called by blk_engine_submit() already
	// The engine's.
	uint8_t stage;
	bool buffered; // O_DIRECT did not take it
	uint8_t retries;
};

struct blk_engine {
	const struct blk_image *img;
	bool use_uring;
	struct uring ring;
	unsigned in_flight;	   // submitted and not done
	deadline_ns at_once_after; // when the next write may be tried without io_uring
	const uint8_t *zeros;	   // ENGINE_ZEROS bytes
};

// At most `depth` requests will be in flight.  `img` must outlive the engine.
int blk_engine_open(struct blk_engine *en, const struct blk_image *img, enum blk_engine_kind kind,
		    unsigned depth, struct err *e);
void blk_engine_close(struct blk_engine *en);

// Begins an I/O.  Small ones are only queued until blk_engine_run().
void blk_engine_submit(struct blk_engine *en, struct blk_io *io);

// Starts what is queued and calls done() for what has finished; with `wait`, for at least one if any is in flight.
void blk_engine_run(struct blk_engine *en, bool wait);

// What becomes readable when blk_engine_run() has something to do, or -1.
int blk_engine_fd(const struct blk_engine *en);

#endif
