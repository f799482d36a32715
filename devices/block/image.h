// SPDX-License-Identifier: BSD-2-Clause
// The raw image behind a disk: a regular file or a block device, opened, measured and locked.
//
// Opened before the sandbox is sealed; the engine does I/O on it.  The format is never probed.
#ifndef MINIVMM_BLOCK_IMAGE_H
#define MINIVMM_BLOCK_IMAGE_H

#include "vmm/base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct blk_image_options {
	const char *path; // or "fd:N"
	bool readonly;
	bool direct;	     // around the page cache
	uint32_t block_size; // 512 or 4096; 0: what suits the image
};

struct blk_image {
	int fd;
	int direct_fd;		 // the same opened with O_DIRECT, or -1
	uint64_t size;		 // bytes, a multiple of block_size
	uint32_t block_size;	 // logical
	uint32_t physical_block; // what is written without read-modify-write; >= block_size
	bool readonly;
	bool in_memory; // I/O never waits for a disk (tmpfs)
};

// The value of --block-size.  0, or -EINVAL and the sentence.
int blk_image_block_size(const char *text, uint32_t *out, struct err *e);

// 0, or -errno and the sentence.  A writable image is locked for us alone, a read-only one together with other readers
// (open file description locks, so that a descriptor handed over keeps the lock of who opened it).
int blk_image_open(struct blk_image *img, const struct blk_image_options *o, struct err *e);
void blk_image_close(struct blk_image *img);

#endif
