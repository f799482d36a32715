// SPDX-License-Identifier: BSD-2-Clause
// Credit of one connection (virtio 1.2 §5.10.6.3): arithmetic only, no I/O.
//
// All counters are bytes since the connection began, modulo 2^32, so only differences mean anything.
#ifndef MINIVMM_VSOCK_FLOW_H
#define MINIVMM_VSOCK_FLOW_H

#include <stdbool.h>
#include <stdint.h>

#define VSOCK_BUF (128u << 10) // what the guest may send ahead; a power of two

struct flow {
	// From the guest: received, passed on, and what of that the guest has been told.
	uint32_t rx_cnt, fwd_cnt, told_cnt;
	// To the guest: sent, and what it said of its buffer.
	uint32_t tx_cnt, peer_alloc, peer_fwd;
};

// What has been received and not yet passed on.
static inline uint32_t flow_held(const struct flow *f)
{
	return f->rx_cnt - f->fwd_cnt;
}

// `len` bytes came.  False: more than the guest was allowed.
static inline bool flow_receive(struct flow *f, uint32_t len)
{
	if ((uint64_t)(uint32_t)(f->rx_cnt - f->told_cnt) + len > VSOCK_BUF)
		return false;
	f->rx_cnt += len;
	return true;
}

// True when the guest should be told of progress that it may be waiting for.
static inline bool flow_stale(const struct flow *f)
{
	return f->fwd_cnt - f->told_cnt >= VSOCK_BUF / 2;
}

// A header of the guest had these.  Headers may overtake one another in a guest with several CPUs, so a count that lies behind
// what is known says nothing new; one beyond what was sent is a lie that would only stop the liar.
static inline void flow_heard(struct flow *f, uint32_t buf_alloc, uint32_t fwd_cnt)
{
	if (fwd_cnt - f->peer_fwd <= f->tx_cnt - f->peer_fwd)
		f->peer_fwd = fwd_cnt;
	f->peer_alloc = buf_alloc;
}

// How many bytes may be sent.  A guest may make its buffer smaller than what is under way.
static inline uint32_t flow_credit(const struct flow *f)
{
	uint32_t under_way = f->tx_cnt - f->peer_fwd;
	return under_way < f->peer_alloc ? f->peer_alloc - under_way : 0;
}

#endif
