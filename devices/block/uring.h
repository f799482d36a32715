// SPDX-License-Identifier: BSD-2-Clause
// An io_uring of one thread, by system calls alone, that can do nothing but what it was made for.
//
// Used by engine.c.  The ring is made disabled, its files registered and its operations restricted (requests must use a
// registered file; nothing can be registered any more), then enabled: all before the sandbox is sealed.
#ifndef MINIVMM_BLOCK_URING_H
#define MINIVMM_BLOCK_URING_H

#include "vmm/base/err.h"

#include <linux/io_uring.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct uring {
	int fd; // readable when there are completions
	unsigned sq_entries, sq_mask, cq_mask;
	unsigned sq_tail; // ours, ahead of the kernel's view by `queued`
	unsigned queued;
	unsigned *k_sq_head, *k_sq_tail, *k_sq_flags, *k_cq_head, *k_cq_tail;
	struct io_uring_sqe *sqes;
	const struct io_uring_cqe *cqes;
	void *rings;
	size_t rings_len, sqes_len;
};

// `entries` requests can be queued at a time, `cq_entries` be in flight.  Allows the listed opcodes on files[0 .. file_count).
// -ENOSYS or -EPERM where the host forbids io_uring.
int uring_open(struct uring *u, unsigned entries, unsigned cq_entries, const int *files, unsigned file_count,
	       const uint8_t *opcodes, unsigned opcode_count);
void uring_close(struct uring *u);

// A cleared entry that goes to the kernel with the next uring_enter(), or NULL if the queue is full.
struct io_uring_sqe *uring_get(struct uring *u);

// Hands over what is queued and lets completions come in; with `wait`, returns when there is at least one.  0 or -errno.
int uring_enter(struct uring *u, bool wait);

// The next completion, if any.
bool uring_reap(struct uring *u, uint64_t *user_data, int32_t *result);

#endif
