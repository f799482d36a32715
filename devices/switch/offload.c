// SPDX-License-Identifier: BSD-2-Clause
#include "devices/switch/offload.h"

#include "vmm/base/check.h"

#include <string.h>

#define ETH_LEN	     14u
#define ETH_IPV4     0x0800u
#define ETH_IPV6     0x86ddu
#define ETH_VLAN     0x8100u
#define TCP_CSUM_OFF 16u
#define IP_TCP	     6u
#define HEADERS_MAX  (ETH_LEN + 4u + 60u + 60u)

enum { TCP_FIN = 0x01, TCP_PSH = 0x08, TCP_CWR = 0x80 };

static uint32_t get16(const uint8_t *p)
{
	return (uint32_t)p[0] << 8 | p[1];
}

static void put16(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static uint32_t get32(const uint8_t *p)
{
	return get16(p) << 16 | get16(p + 2);
}

static void put32(uint8_t *p, uint32_t v)
{
	put16(p, v >> 16);
	put16(p + 2, v & 0xffff);
}

// Sum of 16-bit words, not folded (RFC 1071); in the byte order of the packet.
static uint64_t sum(const uint8_t *p, size_t len)
{
	uint64_t total = 0;
	for (; len >= 4; p += 4, len -= 4) {
		uint32_t v;
		memcpy(&v, p, sizeof(v));
		total += v;
	}
	uint8_t rest[4] = { 0 };
	memcpy(rest, p, len);
	uint32_t v;
	memcpy(&v, rest, sizeof(v));
	return total + v;
}

static uint16_t fold(uint64_t total)
{
	while (total >> 16)
		total = (total & 0xffff) + (total >> 16);
	return (uint16_t)~total;
}

void offload_checksum(uint8_t *frame, uint32_t len, const struct virtio_net_hdr_v1 *h)
{
	// The field holds the sum over the pseudo header already.
	uint16_t c = fold(sum(frame + h->csum_start, len - h->csum_start));
	// For UDP 0 means that there is none; elsewhere both are the same number.
	if (c == 0)
		c = 0xffff;
	memcpy(frame + h->csum_start + h->csum_offset, &c, sizeof(c));
}

// Where the headers of a frame are.
struct layout {
	uint32_t l3, l4, payload;
	bool v6;
};

static bool layout_find(struct layout *at, const uint8_t *f, uint32_t len)
{
	at->l3 = ETH_LEN;
	if (len < ETH_LEN + 4)
		return false;
	uint32_t type = get16(f + 12);
	if (type == ETH_VLAN) {
		type = get16(f + 16);
		at->l3 += 4;
	}
	at->v6 = type == ETH_IPV6;
	if (len < at->l3 + 40 || (type != ETH_IPV4 && type != ETH_IPV6))
		return false;
	const uint8_t *ip = f + at->l3;
	uint32_t ip_len = at->v6 ? 40 : (ip[0] & 15u) * 4;
	if (ip[0] >> 4 != (at->v6 ? 6 : 4) || ip_len < 20 || ip[at->v6 ? 6 : 9] != IP_TCP)
		return false;
	at->l4 = at->l3 + ip_len;
	if (len < at->l4 + 20)
		return false;
	at->payload = at->l4 + (f[at->l4 + 12] >> 4) * 4u;
	return at->payload >= at->l4 + 20 && at->payload < len;
}

// The headers of the segment at `off` of the payload, `part` bytes of it.
static void segment_header(uint8_t *out, const uint8_t *f, const struct layout *at, uint32_t off,
			   uint32_t part, unsigned number, bool last)
{
	memcpy(out, f, at->payload);
	uint8_t *ip = out + at->l3, *tcp = out + at->l4;
	uint32_t tcp_len = at->payload - at->l4 + part;
	uint64_t pseudo;
	if (at->v6) {
		put16(ip + 4, tcp_len);
		pseudo = sum(ip + 8, 32);
	} else {
		put16(ip + 2, at->l4 - at->l3 + tcp_len);
		put16(ip + 4, get16(ip + 4) + number);
		memset(ip + 10, 0, 2);
		uint16_t c = fold(sum(ip, at->l4 - at->l3));
		memcpy(ip + 10, &c, sizeof(c));
		pseudo = sum(ip + 12, 8);
	}
	uint8_t words[4] = { 0, IP_TCP, (uint8_t)(tcp_len >> 8), (uint8_t)tcp_len };
	put32(tcp + 4, get32(tcp + 4) + off);
	if (!last)
		tcp[13] &= (uint8_t) ~(TCP_FIN | TCP_PSH);
	if (number > 0)
		tcp[13] &= (uint8_t)~TCP_CWR;
	memset(tcp + TCP_CSUM_OFF, 0, 2);
	uint16_t c = fold(pseudo + sum(words, sizeof(words)) + sum(tcp, at->payload - at->l4) +
			  sum(f + at->payload + off, part));
	memcpy(tcp + TCP_CSUM_OFF, &c, sizeof(c));
}

bool offload_segment(const uint8_t *frame, uint32_t len, const struct virtio_net_hdr_v1 *h,
		     void (*emit)(void *to, const struct iovec iov[2], uint32_t len), void *to)
{
	struct layout at;
	if (!layout_find(&at, frame, len) || h->csum_start != at.l4 || h->csum_offset != TCP_CSUM_OFF)
		return false;
	uint32_t rest = len - at.payload, size = h->gso_size, off = 0;
	if ((rest - 1) / size >= OFFLOAD_SEGMENTS_MAX)
		return false;
	uint8_t header[HEADERS_MAX];
	for (unsigned number = 0; off < rest; number++, off += size) {
		uint32_t part = MIN(size, rest - off);
		segment_header(header, frame, &at, off, part, number, off + part == rest);
		const struct iovec iov[2] = {
			{ .iov_base = header, .iov_len = at.payload },
			{ .iov_base = (void *)(uintptr_t)(frame + at.payload + off), .iov_len = part },
		};
		emit(to, iov, at.payload + part);
	}
	return true;
}
