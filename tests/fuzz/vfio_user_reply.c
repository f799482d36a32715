// SPDX-License-Identifier: BSD-2-Clause
// A vfio-user server whose replies come from the fuzzer, in front of a client that goes through its whole life: it must end by its
// deadlines, without a crash and without a descriptor left.
//
// For each reply that is due, one byte says how it is made (low two bits: 0 right frame, fuzzed payload; 1 a good reply; 2 raw bytes; 3
// fuzzed header), bit 2 adds descriptors, bit 3 sends a command of the server's first.  After the last byte the server closes.
#include "tests/fault/vfu_peer.h"
#include "tests/fuzz/input.h"

#include "vmm/base/fd.h"
#include "vmm/base/log.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void send_command(struct peer *p)
{
	struct {
		struct vfio_user_header h;
		struct vfio_user_dma_access a;
		uint8_t data[64];
	} out;
	uint8_t len;
	take(&len, 1);
	take(&out.h, sizeof(out.h));
	take(&out.a, sizeof(out.a));
	take(out.data, len % sizeof(out.data));
	if (len & 0x80) { // one that is right but for its address
		out.h.command = VFIO_USER_DMA_READ + (len >> 6 & 1);
		out.h.flags = 0;
		out.a.count = len % sizeof(out.data);
		out.h.size = 32u + (out.h.command == VFIO_USER_DMA_WRITE ? len % sizeof(out.data) : 0);
	}
	const size_t n = out.h.size < 32 + len % sizeof(out.data) ? out.h.size : 32 + len % sizeof(out.data);
	peer_send_to(p->twin >= 0 ? p->twin : p->sock, &out, n, NULL, 0);
}

static bool fuzzed_reply(struct peer *p, const struct peer_message *m)
{
	const struct vfio_user_row *row = vfio_user_row(m->h.command);
	uint8_t how, out[16 + 1024];
	struct vfio_user_header h = { .id = m->h.id,
				      .command = m->h.command,
				      .size = 16u + (row ? row->reply_min : 0),
				      .flags = VFIO_USER_REPLY };
	if ((m->h.flags & VFIO_USER_TYPE_MASK) == VFIO_USER_REPLY)
		return true; // to a command of ours
	if (take(&how, 1) == 0)
		return false;
	if (how & 8)
		send_command(p);
	if ((how & 3) == 1) {
		peer_answer(p, m);
		return true;
	}
	size_t len = 0;
	if ((how & 3) == 2) {
		uint8_t n;
		take(&n, 1);
		take(out, n);
		len = n;
	} else {
		uint8_t more = 0;
		if ((how & 3) == 3)
			take(&h, sizeof(h));
		else if (how & 0x40)
			take(&more, 1);
		h.size += more;
		memcpy(out, &h, sizeof(h));
		len = h.size > 16 ? h.size - 16 < 1024 ? h.size - 16 : 1024 : 0;
		take(out + 16, len);
		len += 16;
	}
	int fds[3] = { p->region_fd[0], 1, 2 };
	peer_send_fds(p, out, len, fds, how & 4 ? 1 + (how >> 4) % 3 : 0);
	return true;
}

// Everything that a machine does with a device, whether it works or not.
static void live(struct front *f, const struct mem_table *ram, int eventfd)
{
	const struct vfio_link_ops *ops = f->l->ops;
	uint8_t bytes[8192];
	struct vfio_region r;
	struct vfio_irq irq;
	struct vfio_doorbell doorbells[8];
	const int fds[3] = { eventfd, -1, eventfd };
	for (unsigned i = 0; i < 12; i++) {
		if (ops->region_info(f->l, i, &r) == 0) {
			for (unsigned k = 0; k < r.area_count; k++)
				if (r.area[k].size == 0 || r.area[k].offset > r.size ||
				    r.area[k].size > r.size - r.area[k].offset)
					abort();
			const int n = ops->region_doorbells(f->l, i, doorbells, 8);
			for (int k = 0; k < n; k++)
				if (doorbells[k].fd < 0 || doorbells[k].offset >= r.size)
					abort();
		}
		ops->irq_info(f->l, i, &irq);
	}
	for (unsigned i = 0; i < ram->count; i++)
		ops->dma_map(f->l, &ram->region[i], NULL);
	ops->region_read(f->l, 7, 0, bytes, 256);
	ops->region_read(f->l, 0, 0, bytes, sizeof(bytes));
	ops->region_write(f->l, 0, 8, bytes, 8, false);
	ops->irq_set(f->l, 2, VFIO_LINK_TRIGGER, 0, 3, fds);
	ops->irq_set(f->l, 0, VFIO_LINK_UNMASK, 0, 1, NULL);
	ops->reset(f->l);
	ops->region_write(f->l, 0, 8, bytes, 8, true);
	ops->dma_unmap(f->l, ram->region[0].gpa, ram->region[0].size);
	for (int i = 0; i < 3; i++)
		loop_once(&f->loop, 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct mem_table ram;
	static int eventfd = -1;
	struct peer p;
	struct front f;
	log_init("fuzz", LOG_ERROR);
	if (eventfd < 0) {
		ram = front_memory();
		eventfd = fd_eventfd();
	}
	front_deadline_ms = 20;
	front_keep_memory = size & 1;
	const unsigned fds = count_fds();
	peer_init(&p);
	peer_add_file(&p, F_SEAL_SHRINK);
	peer_add_doorbells(&p);
	p.offer_twin = size & 2;
	if (p.offer_twin)
		strcpy(p.json, "{\"capabilities\":{\"twin_socket\":{\"supported\":true,\"fd_index\":0}}}");
	p.every = true;
	p.fault = fuzzed_reply;
	input = data;
	left = size;
	front_open(&f, &p);
	if (f.rc == 0) {
		if (vfio_user_serve(f.l, NULL, &f.e) < 0)
			abort();
		live(&f, &ram, eventfd);
	}
	if (f.rc == 0 ? f.died > 1 : f.e.text[0] == '\0')
		abort();
	front_close(&f);
	peer_join(&p);
	peer_free(&p);
	if (count_fds() != fds)
		abort();
	return 0;
}
