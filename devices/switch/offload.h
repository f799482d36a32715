// SPDX-License-Identifier: BSD-2-Clause
// What a receiver's driver would not do itself: a checksum that was left open, segments of a large TCP frame.
//
// Works on a frame that lies in one piece in memory of ours; numbers in it are a guest's and checked here.
#ifndef MINIVMM_SWITCH_OFFLOAD_H
#define MINIVMM_SWITCH_OFFLOAD_H

#include "devices/net/header.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#define OFFLOAD_SEGMENTS_MAX \
	128 // of one frame: 65535 bytes in those of the least MTU that hosts must take, 576

// Puts the checksum where the header says; csum_start + csum_offset + 2 <= len was checked.
void offload_checksum(uint8_t *frame, uint32_t len, const struct virtio_net_hdr_v1 *h);

// Calls `emit` for each segment, a frame of two pieces and `len` bytes with its checksums.  False: this is no TCP frame in IPv4 or
// IPv6 (with no extension header) that can be cut at gso_size; nothing was emitted.
bool offload_segment(const uint8_t *frame, uint32_t len, const struct virtio_net_hdr_v1 *h,
		     void (*emit)(void *to, const struct iovec iov[2], uint32_t len), void *to);

#endif
