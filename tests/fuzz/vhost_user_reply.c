// SPDX-License-Identifier: BSD-2-Clause
// A vhost-user back-end whose answers come from the fuzzer, in front of a front-end that goes through its
// whole life: it must end by its deadlines, without a crash and without a descriptor left.
//
// For each answer that is due, one byte says how it is made (low two bits: 0 right frame, fuzzed payload; 1 a
// good answer; 2 raw bytes; 3 fuzzed header), bit 2 adds descriptors, bit 3 sends bytes on the request
// channel first.  After the last byte the back-end closes.
#include "tests/fault/vu_peer.h"
#include "tests/fuzz/input.h"

#include "bridges/backend.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void send_on_channel(struct peer *p)
{
	uint8_t len, bytes[64];
	take(&len, 1);
	len %= sizeof(bytes);
	take(bytes, len);
	if (p->channel >= 0 && len)
		send(p->channel, bytes, len, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static bool fuzzed_answer(struct peer *p, const struct peer_message *m)
{
	const struct vhost_user_row *row = vhost_user_request_row(m->h.request);
	uint8_t how, out[12 + 512];
	struct vhost_user_header h = { m->h.request, 5, row ? row->reply_min : 0 };
	if (!(m->h.flags & VHOST_USER_NEED_REPLY) && (!row || row->reply != VHOST_USER_REPLY_DEFINED)) {
		peer_answer(p, m); // silent, but keeps the status
		return true;
	}
	if (take(&how, 1) == 0)
		return false;
	if (how & 8)
		send_on_channel(p);
	if ((how & 3) == 1) {
		peer_answer(p, m);
		return true;
	}
	size_t len = 0;
	if ((how & 3) == 3)
		take(&h, sizeof(h));
	else if (m->h.request == VHOST_USER_GET_CONFIG)
		h.size = m->h.size;
	if ((how & 3) == 2) {
		uint8_t n;
		take(&n, 1);
		take(out, n);
		len = n;
	} else {
		memcpy(out, &h, sizeof(h));
		len = h.size < 512 ? h.size : 512;
		take(out + 12, len);
		len += 12;
	}
	int fds[3] = { 0, 1, 2 };
	peer_send_fds(p, out, len, fds, how & 4 ? 1 + (how >> 4) % 3 : 0);
	return true;
}

// Everything that a machine does with a back-end, whether it works or not.
static void live(struct front *f, const struct mem_table *ram, int kick)
{
	const struct backend_ops *ops = f->b->ops;
	uint8_t bytes[4096];
	uint32_t base;
	for (int round = 0; round < 2; round++) {
		front_run(f, ram, kick, round ? kick : -1);
		ops->config_write(f->b, 0, "x", f->b->config_len ? 1 : 0);
		ops->config_read(f->b, 0, bytes, f->b->config_len);
		for (int i = 0; i < 3; i++)
			loop_once(&f->loop, 0);
		ops->queue_stop(f->b, 0, &base);
		ops->run(f->b, false);
	}
	for (int i = 0; i < 3; i++)
		loop_once(&f->loop, 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct mem_table ram;
	static int kick = -1;
	struct peer p;
	struct front f;
	log_init("fuzz", LOG_ERROR);
	if (kick < 0) {
		ram = front_memory();
		kick = fd_eventfd();
	}
	front_deadline_ms = 20;
	// By the input's length: a disk, or a type that nobody knows, a network device that is told its MTU, a file system's tag.
	static const uint16_t types[] = { 2, 2, 63, 1, 26 };
	front_type = types[size % 5];
	front_own = (struct vhost_user_own){ .tag = front_type == 26 ? "tag" : NULL,
					     .mtu = front_type == 1 ? 1400 : 0 };
	unsigned fds = count_fds();
	peer_init(&p);
	p.every = true;
	p.fault = fuzzed_answer;
	p.protocol = UINT64_MAX;
	input = data;
	left = size;
	front_open(&f, &p);
	if (f.rc == 0)
		live(&f, &ram, kick);
	if (f.rc == 0 ? f.died > 1 : f.e.text[0] == '\0')
		abort();
	front_close(&f);
	peer_join(&p);
	peer_free(&p);
	if (count_fds() != fds)
		abort();
	return 0;
}
