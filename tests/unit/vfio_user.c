// SPDX-License-Identifier: BSD-2-Clause
// The vfio-user client against a server that behaves: what it asks, what it says, and what it hands on.
#include "tests/unit/test.h"

#include "bridges/vfio_user_impl.h"
#include "tests/fault/vfu_peer.h"
#include "vmm/base/fd.h"

static struct peer p;
static struct front f;

// The nth message with this command, or NULL.
static const struct peer_message *sent(uint16_t command, unsigned nth)
{
	for (unsigned i = 0; i < p.count; i++)
		if (p.log[i].h.command == command && nth-- == 0)
			return &p.log[i];
	return NULL;
}

static void end(void)
{
	front_close(&f);
	peer_join(&p);
}

TEST(the_handshake_asks_once_for_all_that_does_not_change)
{
	const unsigned fds = count_fds();
	peer_init(&p);
	peer_add_file(&p, F_SEAL_SHRINK);
	peer_add_doorbells(&p);
	front_open(&f, &p);
	CHECK_EQ(f.rc, 0);
	const unsigned asked = p.count;
	struct vfio_region r;
	CHECK_EQ(f.l->ops->region_info(f.l, 0, &r), 0);
	CHECK_EQ(r.size, PEER_BAR_SIZE);
	CHECK(r.readable && r.writable && r.fd >= 0);
	CHECK_EQ(r.fd_offset, 0x1000);
	CHECK_EQ(r.area_count, 2);
	CHECK_EQ(r.area[0].offset, 0x1000);
	CHECK_EQ(r.area[1].offset, 0x3000);
	CHECK_EQ(f.l->ops->region_info(f.l, 7, &r), 0);
	CHECK_EQ(r.fd, -1);
	CHECK_EQ(r.area_count, 0);
	CHECK(f.l->ops->region_info(f.l, 1, &r) < 0);
	CHECK(f.l->ops->region_info(f.l, 9, &r) < 0);
	CHECK(f.l->ops->region_info(f.l, 77, &r) < 0);
	struct vfio_irq irq;
	CHECK_EQ(f.l->ops->irq_info(f.l, VFIO_PCI_MSIX_IRQ_INDEX, &irq), 0);
	CHECK_EQ(irq.count, 4);
	CHECK(irq.eventfd && irq.noresize && !irq.automasked);
	CHECK_EQ(f.l->ops->irq_info(f.l, VFIO_PCI_INTX_IRQ_INDEX, &irq), 0);
	CHECK(irq.automasked && !irq.noresize);
	CHECK(f.l->ops->irq_info(f.l, VFIO_PCI_MSI_IRQ_INDEX, &irq) < 0);
	CHECK(f.l->ops->irq_info(f.l, 5, &irq) < 0);
	struct vfio_doorbell d[4];
	CHECK_EQ(f.l->ops->region_doorbells(f.l, 0, d, 4), 2);
	CHECK(d[0].offset == 0x100 && d[0].size == 4 && d[0].match_data && d[0].data == 7 && d[0].fd >= 0);
	CHECK(d[1].offset == 0x104 && d[1].size == 0 && !d[1].match_data && d[1].fd >= 0 &&
	      d[1].fd != d[0].fd);
	CHECK_EQ(f.l->ops->region_doorbells(f.l, 0, d, 1), 1);
	CHECK_EQ(f.l->ops->region_doorbells(f.l, 1, d, 4), 0);
	CHECK_EQ(f.l->ops->region_doorbells(f.l, 7, d, 4), 0);
	CHECK(f.l->can_reset);
	CHECK_EQ(p.count, asked);
	// A doorbell is the server's own eventfd.
	fd_event_signal(d[0].fd);
	CHECK(fd_event_take(p.io_fds[1]));
	end();
	const struct peer_message *v = sent(VFIO_USER_VERSION, 0);
	CHECK(v && v == &p.log[0]);
	struct vfio_user_caps caps;
	CHECK(!vfio_user_caps_read(&caps, (const char *)v->payload + 4, v->h.size - 20));
	CHECK_EQ(caps.max_msg_fds, 32);
	CHECK_EQ(caps.max_data_xfer_size, 1 << 20);
	CHECK(caps.twin_socket && caps.write_multiple && !caps.migration);
	CHECK_EQ(v->payload[v->h.size - 17], 0);
	peer_free(&p);
	CHECK_EQ(count_fds(), fds);
}

TEST(regions_are_read_and_written)
{
	peer_init(&p);
	front_open(&f, &p);
	CHECK_EQ(f.rc, 0);
	uint8_t config[256];
	CHECK_EQ(f.l->ops->region_read(f.l, 7, 0, config, sizeof(config)), 0);
	CHECK(memcmp(config, p.config, sizeof(config)) == 0);
	for (unsigned len = 1; len <= 8; len *= 2) {
		const uint64_t out = UINT64_C(0x8877665544332211);
		uint64_t in = 0;
		CHECK_EQ(f.l->ops->region_write(f.l, 0, 8 * len, &out, len, false), 0);
		CHECK_EQ(f.l->ops->region_read(f.l, 0, 8 * len, &in, len), 0);
		CHECK_EQ(in, len == 8 ? out : out & ((UINT64_C(1) << 8 * len) - 1));
	}
	// What the server refuses is an error, and it lives on.
	uint32_t word = 1;
	CHECK_EQ(f.l->ops->region_read(f.l, 3, 0, &word, 4), -EINVAL);
	CHECK_EQ(f.l->ops->region_write(f.l, 3, 0, &word, 4, false), -EINVAL);
	CHECK_EQ(f.l->ops->region_read(f.l, 0, 0, &word, 4), 0);
	end();
	peer_free(&p);
}

// How many messages with a command were to have no reply.
static unsigned quiet(uint16_t command)
{
	unsigned n = 0;
	for (unsigned i = 0; i < p.count; i++)
		n += p.log[i].h.command == command && p.log[i].h.flags & VFIO_USER_NO_REPLY;
	return n;
}

TEST(writes_to_memory_are_posted_and_all_that_follows_comes_after_them)
{
	for (unsigned thread = 0; thread < 2; thread++) {
		struct mem_table ram = front_memory();
		peer_init(&p);
		front_open(&f, &p);
		CHECK_EQ(f.rc, 0);
		CHECK_EQ(f.l->ops->dma_map(f.l, &ram.region[0], &f.e), 0);
		if (thread)
			CHECK_EQ(vfio_user_serve(f.l, NULL, &f.e), 0);
		const unsigned before = p.count;
		for (uint32_t i = 1; i <= 3; i++)
			CHECK_EQ(f.l->ops->region_write(f.l, 0, 8, &i, 4, true), 0);
		uint32_t in = 0;
		CHECK_EQ(f.l->ops->region_read(f.l, 0, 8, &in, 4), 0);
		CHECK_EQ(in, 3);
		CHECK_EQ(f.l->ops->region_write(f.l, 0, 8, &in, 4, true), 0);
		CHECK_EQ(f.l->ops->reset(f.l), 0);
		CHECK_EQ(f.l->ops->region_write(f.l, 0, 8, &in, 4, true), 0);
		CHECK_EQ(f.l->ops->dma_unmap(f.l, 0, 0x200000), 0);
		CHECK_EQ(f.l->ops->region_write(f.l, 0, 8, &in, 4, true), 0);
		CHECK_EQ(f.l->ops->irq_set(f.l, 2, VFIO_LINK_TRIGGER, 0, 0, NULL), 0);
		CHECK_EQ(f.l->ops->region_write(f.l, 7, 8, &in, 4, false), 0);
		// One that is refused is refused silently, as on a bus.
		CHECK_EQ(f.l->ops->region_write(f.l, 3, 0, &in, 4, true), 0);
		CHECK_EQ(f.l->ops->region_read(f.l, 0, 8, &in, 4), 0);
		end();
		static const uint16_t due[] = {
			VFIO_USER_REGION_WRITE, VFIO_USER_DEVICE_GET_INFO, VFIO_USER_REGION_WRITE,
			VFIO_USER_REGION_WRITE, VFIO_USER_REGION_READ,	   VFIO_USER_REGION_WRITE,
			VFIO_USER_DEVICE_RESET, VFIO_USER_REGION_WRITE,	   VFIO_USER_DMA_UNMAP,
			VFIO_USER_REGION_WRITE, VFIO_USER_DEVICE_SET_IRQS, VFIO_USER_REGION_WRITE,
			VFIO_USER_REGION_WRITE, VFIO_USER_REGION_READ,
		};
		CHECK_EQ(p.count - before, sizeof(due) / sizeof(due[0]));
		for (unsigned i = 0; i < sizeof(due) / sizeof(due[0]); i++)
			CHECK_EQ(p.log[before + i].h.command, due[i]);
		CHECK_EQ(quiet(VFIO_USER_REGION_WRITE), 7);
		CHECK(!(p.log[before + 11].h.flags & VFIO_USER_NO_REPLY)); // the configuration's
		CHECK_EQ(f.died, 0);
		peer_free(&p);
		front_memory_free(&ram);
	}
}

TEST(nothing_is_posted_where_something_else_would_overtake_it)
{
	for (unsigned way = 0; way < 3; way++) {
		const uint32_t word = 7;
		int fd = fd_eventfd();
		peer_init(&p);
		if (way == 0)
			peer_add_file(&p, F_SEAL_SHRINK);
		else if (way == 1)
			peer_add_doorbells(&p);
		front_open(&f, &p);
		CHECK_EQ(f.rc, 0);
		if (way == 2)
			CHECK_EQ(f.l->ops->irq_set(f.l, 0, VFIO_LINK_UNMASK, 0, 1, &fd), 0);
		CHECK_EQ(f.l->ops->region_write(f.l, 0, 8, &word, 4, true), 0);
		CHECK_EQ(f.l->ops->region_write(f.l, 3, 0, &word, 4, true), -EINVAL);
		CHECK_EQ(p.bar[8], 7);
		CHECK_EQ(quiet(VFIO_USER_REGION_WRITE), 0);
		if (way == 2) { // until INTx is given up
			CHECK_EQ(f.l->ops->irq_set(f.l, 0, VFIO_LINK_TRIGGER, 0, 0, NULL), 0);
			CHECK_EQ(f.l->ops->region_write(f.l, 0, 8, &word, 4, true), 0);
		}
		end();
		CHECK_EQ(quiet(VFIO_USER_REGION_WRITE), way == 2);
		peer_free(&p);
		close(fd);
	}
}

TEST(long_reads_go_in_pieces)
{
	peer_init(&p);
	front_open(&f, &p);
	CHECK_EQ(f.rc, 0);
	static uint8_t bar[PEER_BAR_SIZE];
	memset(p.bar, 0x5a, sizeof(p.bar));
	CHECK_EQ(f.l->ops->region_read(f.l, 0, 0, bar, sizeof(bar)), 0);
	CHECK(memcmp(bar, p.bar, sizeof(bar)) == 0);
	end();
	CHECK(sent(VFIO_USER_REGION_READ, 3) && !sent(VFIO_USER_REGION_READ, 4));
	peer_free(&p);
}

// A call may be between its look at the connection and its look at what the server takes while another server is asked for that.
TEST(a_read_of_a_server_of_which_nothing_is_known_ends)
{
	peer_init(&p);
	front_open(&f, &p);
	CHECK_EQ(f.rc, 0);
	uint32_t word = 0;
	struct vfio_user *v = CONTAINER_OF(f.l, struct vfio_user, link);
	v->said.caps.max_data_xfer_size = 0;
	alarm(10);
	CHECK_EQ(f.l->ops->region_read(f.l, 7, 0, &word, 4), -EPIPE);
	alarm(0);
	end();
	peer_free(&p);
}

TEST(eventfds_travel_in_groups_that_the_server_takes)
{
	peer_init(&p); // 2 descriptors a message
	front_open(&f, &p);
	CHECK_EQ(f.rc, 0);
	int fds[4] = { fd_eventfd(), fd_eventfd(), fd_eventfd(), -1 };
	CHECK_EQ(f.l->ops->irq_set(f.l, VFIO_PCI_MSIX_IRQ_INDEX, VFIO_LINK_TRIGGER, 0, 4, fds), 0);
	CHECK(p.trigger[0] >= 0 && p.trigger[1] >= 0 && p.trigger[2] >= 0 && p.trigger[3] < 0);
	fd_event_signal(p.trigger[2]);
	CHECK(!fd_event_take(fds[0]) && !fd_event_take(fds[1]) && fd_event_take(fds[2]));
	CHECK_EQ(f.l->ops->irq_set(f.l, VFIO_PCI_INTX_IRQ_INDEX, VFIO_LINK_UNMASK, 0, 1, fds), 0);
	CHECK(p.unmask >= 0);
	CHECK_EQ(f.l->ops->irq_set(f.l, VFIO_PCI_MSIX_IRQ_INDEX, VFIO_LINK_TRIGGER, 0, 0, NULL), 0);
	CHECK_EQ(f.l->ops->irq_set(f.l, VFIO_PCI_INTX_IRQ_INDEX, VFIO_LINK_UNMASK, 0, 1, NULL), 0);
	CHECK_EQ(f.l->ops->reset(f.l), 0); // behind which both have been read
	end();
	static const struct {
		uint32_t flags, index, start, count;
		unsigned fds;
	} due[] = {
		{ 0x24, 2, 0, 2, 2 }, { 0x24, 2, 2, 1, 1 }, { 0x24, 2, 3, 1, 0 },
		{ 0x14, 0, 0, 1, 1 }, { 0x21, 2, 0, 0, 0 }, { 0x11, 0, 0, 1, 0 },
	};
	for (unsigned i = 0; i < 6; i++) {
		const struct peer_message *m = sent(VFIO_USER_DEVICE_SET_IRQS, i);
		struct vfio_user_irq_set s;
		CHECK(m);
		memcpy(&s, m->payload, sizeof(s));
		CHECK_EQ(m->h.size, 36);
		CHECK_EQ(s.argsz, 20);
		CHECK_EQ(s.flags, due[i].flags);
		CHECK_EQ(s.index, due[i].index);
		CHECK_EQ(s.start, due[i].start);
		CHECK_EQ(s.count, due[i].count);
		CHECK_EQ(m->fds, due[i].fds);
	}
	CHECK(!sent(VFIO_USER_DEVICE_SET_IRQS, 6));
	for (unsigned i = 0; i < 3; i++)
		close(fds[i]);
	peer_free(&p);
}

TEST(memory_is_mapped_with_a_descriptor_or_without)
{
	struct mem_table ram = front_memory();
	for (unsigned keep = 0; keep < 2; keep++) {
		front_keep_memory = keep;
		peer_init(&p);
		front_open(&f, &p);
		CHECK_EQ(f.rc, 0);
		for (unsigned i = 0; i < 2; i++)
			CHECK_EQ(f.l->ops->dma_map(f.l, &ram.region[i], &f.e), 0);
		CHECK_EQ(f.l->ops->dma_unmap(f.l, 0x100000000, 0x200000), 0);
		end();
		for (unsigned i = 0; i < 2; i++) {
			const struct peer_message *m = sent(VFIO_USER_DMA_MAP, i);
			struct vfio_user_dma_map map;
			CHECK(m);
			memcpy(&map, m->payload, sizeof(map));
			CHECK_EQ(map.argsz, 32);
			CHECK_EQ(map.flags, 3);
			CHECK_EQ(map.iova, ram.region[i].gpa);
			CHECK_EQ(map.size, ram.region[i].size);
			CHECK_EQ(map.offset, keep ? 0 : ram.region[i].fd_offset);
			CHECK_EQ(m->fds, !keep);
		}
		CHECK(sent(VFIO_USER_DMA_UNMAP, 0));
		peer_free(&p);
	}
	front_keep_memory = false;
	front_memory_free(&ram);
}

TEST(a_servers_limits_on_memory_are_kept)
{
	struct mem_table ram = front_memory();
	peer_init(&p);
	strcpy(p.json, "{\"capabilities\":{\"max_dma_maps\":1}}");
	front_open(&f, &p);
	CHECK_EQ(f.rc, 0);
	CHECK_EQ(f.l->ops->dma_map(f.l, &ram.region[0], &f.e), 0);
	CHECK_EQ(f.l->ops->dma_map(f.l, &ram.region[1], &f.e), -ENOSPC);
	CHECK(strstr(f.e.text, "takes 1 maps of guest memory, 2 are needed"));
	end();
	peer_free(&p);
	peer_init(&p);
	strcpy(p.json, "{\"capabilities\":{\"pgsizes\":1073741824}}");
	front_open(&f, &p);
	CHECK_EQ(f.l->ops->dma_map(f.l, &ram.region[0], &f.e), -EINVAL);
	CHECK(strstr(f.e.text, "pages of 0x40000000"));
	end();
	peer_free(&p);
	peer_init(&p);
	p.refuse = VFIO_USER_DMA_MAP;
	p.refuse_errno = ENOMEM;
	front_open(&f, &p);
	CHECK_EQ(f.l->ops->dma_map(f.l, &ram.region[0], &f.e), -ENOMEM);
	CHECK(strstr(f.e.text, "Cannot allocate memory"));
	CHECK_EQ(f.l->ops->dma_map(f.l, &ram.region[0], NULL), -ENOMEM);
	end();
	peer_free(&p);
	front_memory_free(&ram);
}

TEST(reset_is_asked_for_where_there_is_one)
{
	peer_init(&p);
	front_open(&f, &p);
	CHECK_EQ(f.l->ops->reset(f.l), 0);
	end();
	CHECK(sent(VFIO_USER_DEVICE_RESET, 0));
	peer_free(&p);
	peer_init(&p);
	p.info.flags = VFIO_DEVICE_FLAGS_PCI;
	front_open(&f, &p);
	CHECK(!f.l->can_reset);
	CHECK_EQ(f.l->ops->reset(f.l), -ENOTSUP);
	end();
	CHECK(!sent(VFIO_USER_DEVICE_RESET, 0));
	peer_free(&p);
}

// ---- with a thread ------------------------------------------------------------------------------

static void *reader(void *arg)
{
	const uint64_t offset = (uint64_t)(uintptr_t)arg * 8;
	for (unsigned i = 0; i < 500; i++) {
		uint64_t out = offset << 32 | i, in = 0;
		if (f.l->ops->region_write(f.l, 0, offset, &out, 8, i % 2) < 0 ||
		    f.l->ops->region_read(f.l, 0, offset, &in, 8) < 0 || in != out)
			return arg;
	}
	return NULL;
}

TEST(many_threads_ask_at_the_same_time)
{
	for (unsigned twin = 0; twin < 2; twin++) {
		pthread_t t[8];
		void *bad[8];
		peer_init(&p);
		p.offer_twin = twin;
		if (twin)
			strcpy(p.json,
			       "{\"capabilities\":{\"twin_socket\":{\"supported\":true,\"fd_index\":0}}}");
		front_open(&f, &p);
		CHECK_EQ(f.rc, 0);
		CHECK_EQ(vfio_user_serve(f.l, NULL, &f.e), 0);
		for (uintptr_t i = 0; i < 8; i++)
			CHECK_EQ(pthread_create(&t[i], NULL, reader, (void *)(i + 1)), 0);
		for (unsigned i = 0; i < 8; i++)
			pthread_join(t[i], &bad[i]);
		for (unsigned i = 0; i < 8; i++)
			CHECK(!bad[i]);
		end();
		peer_free(&p);
	}
}

// Before it answers a read the server reads and writes memory: what it finds is added to what it says.
static bool dma_then_answer(struct peer *s, const struct peer_message *m)
{
	uint32_t word = 0;
	const int sock = s->twin >= 0 ? s->twin : s->sock;
	if (peer_dma(sock, VFIO_USER_DMA_READ, 0x1000, 4, &word) != 0)
		return false;
	word++;
	if (peer_dma(sock, VFIO_USER_DMA_WRITE, 0x1000, 4, &word) != 0)
		return false;
	peer_answer(s, m);
	return true;
}

TEST(a_server_reads_and_writes_memory_before_it_answers)
{
	struct mem_table ram = front_memory();
	// Without a thread, with one, and with a socket of its own for that.
	for (unsigned way = 0; way < 3; way++) {
		uint32_t *word = (uint32_t *)(void *)((char *)ram.region[0].hva + 0x1000);
		*word = 40;
		peer_init(&p);
		p.fault = dma_then_answer;
		p.at = VFIO_USER_REGION_READ;
		p.at_nth = 1;
		p.offer_twin = way == 2;
		if (way == 2)
			strcpy(p.json,
			       "{\"capabilities\":{\"twin_socket\":{\"supported\":true,\"fd_index\":0}}}");
		front_open(&f, &p);
		CHECK_EQ(f.rc, 0);
		CHECK_EQ(f.l->ops->dma_map(f.l, &ram.region[0], &f.e), 0);
		if (way)
			CHECK_EQ(vfio_user_serve(f.l, NULL, &f.e), 0);
		uint32_t in = 0;
		p.config[0] = 7;
		for (unsigned i = 0; i < 3; i++)
			CHECK_EQ(f.l->ops->region_read(f.l, 7, 0, &in, 1), 0);
		CHECK_EQ(in, 7);
		CHECK_EQ(*word, 41);
		end();
		peer_free(&p);
	}
	front_memory_free(&ram);
}

// In one piece: the refusal of a read, and a command or two of the server's own.
static bool refuse_with_commands(struct peer *s, const struct peer_message *m)
{
	const struct vfio_user_dma_access a = { .iova = 0x1000, .count = 4 };
	struct vfio_user_header h = { .id = m->h.id,
				      .command = m->h.command,
				      .size = 16,
				      .flags = VFIO_USER_REPLY | VFIO_USER_ERROR,
				      .error = ENXIO };
	uint8_t out[16 + 2 * 32];
	memcpy(out, &h, 16);
	h = (struct vfio_user_header){ .id = 0x7777, .command = VFIO_USER_DMA_READ, .size = 32 };
	for (int i = 0; i < s->fault_arg; i++) {
		memcpy(out + 16 + 32 * i, &h, 16);
		memcpy(out + 32 + 32 * i, &a, 16);
	}
	peer_send_fds(s, out, 16 + 32 * (size_t)s->fault_arg, NULL, 0);
	for (int left = s->fault_arg; left;) {
		static struct peer_message in;
		if (!peer_read_from(s->sock, &in.h, 16, NULL, NULL) ||
		    !peer_read_from(s->sock, in.payload, in.h.size - 16, NULL, NULL))
			return false;
		if ((in.h.flags & 0xf) != VFIO_USER_REPLY)
			peer_answer(s, &in); // the client goes on meanwhile
		else if (in.h.id != 0x7777 || in.h.size != 36 || in.payload[16] != 0x5a)
			return false;
		else
			left--;
	}
	return true;
}

TEST(what_comes_behind_a_reply_is_not_lost)
{
	struct mem_table ram = front_memory();
	((uint8_t *)ram.region[0].hva)[0x1000] = 0x5a;
	for (unsigned way = 0; way < 6; way++) {
		uint32_t in = 0;
		peer_init(&p);
		p.fault = refuse_with_commands;
		p.fault_arg = way % 3 == 2 ? 2 : 1; // the second of two lies in the socket alone
		p.at = VFIO_USER_REGION_READ;
		p.at_nth = way % 3;
		front_open(&f, &p);
		CHECK_EQ(f.rc, 0);
		CHECK_EQ(f.l->ops->dma_map(f.l, &ram.region[0], &f.e), 0);
		if (way >= 3)
			CHECK_EQ(vfio_user_serve(f.l, NULL, &f.e), 0);
		for (unsigned i = 0; i < 5; i++)
			CHECK_EQ(f.l->ops->region_read(f.l, 7, 0, &in, 4), i == p.at_nth ? -ENXIO : 0);
		CHECK_EQ(in, 0x1234);
		CHECK_EQ(f.died, 0);
		end();
		peer_free(&p);
	}
	front_memory_free(&ram);
}

static uint8_t dma_out[1 << 20], dma_in[1 << 20];
static atomic_int dma_done; // 0: under way, -1: all right, else the line that is wrong

// Returns the line of what is not as it should be, or -1.
static int dma_round(int sock)
{
#define DMA_CHECK(cond)                  \
	do {                             \
		if (!(cond))             \
			return __LINE__; \
	} while (0)
	memset(dma_in, 0, sizeof(dma_in));
	// The largest, to both regions.
	DMA_CHECK(peer_dma(sock, VFIO_USER_DMA_WRITE, 0x100001, sizeof(dma_out) - 1, dma_out) == 0);
	DMA_CHECK(peer_dma(sock, VFIO_USER_DMA_READ, 0x100001, sizeof(dma_in) - 1, dma_in) == 0);
	DMA_CHECK(memcmp(dma_in, dma_out, sizeof(dma_in) - 1) == 0);
	DMA_CHECK(peer_dma(sock, VFIO_USER_DMA_WRITE, 0x100100000, sizeof(dma_out), dma_out) == 0);
	// B24: none of these is a mapping.
	DMA_CHECK(peer_dma(sock, VFIO_USER_DMA_READ, 0x1fffff, 2, dma_in) == EFAULT);
	DMA_CHECK(peer_dma(sock, VFIO_USER_DMA_WRITE, 0x1fffff, 2, dma_out) == EFAULT);
	DMA_CHECK(peer_dma(sock, VFIO_USER_DMA_READ, 0x200000, 1, dma_in) == EFAULT);
	DMA_CHECK(peer_dma(sock, VFIO_USER_DMA_READ, UINT64_MAX, 2, dma_in) == EFAULT);
	DMA_CHECK(peer_dma(sock, VFIO_USER_DMA_READ, UINT64_MAX - 1, 1, dma_in) == EFAULT);
	DMA_CHECK(peer_dma(sock, VFIO_USER_DMA_READ, 0, (1 << 20) + 1, dma_in) == EFAULT);
	DMA_CHECK(peer_dma(sock, VFIO_USER_DMA_READ, 0, UINT64_MAX, dma_in) == EFAULT);
	DMA_CHECK(peer_dma(sock, VFIO_USER_DMA_READ, 0, 0, dma_in) == EFAULT);
	DMA_CHECK(peer_dma(sock, VFIO_USER_DMA_WRITE, 0, 0, dma_in) == EFAULT);
	DMA_CHECK(peer_dma(sock, VFIO_USER_DMA_READ, 0, 1, dma_in) == 0);
	return -1;
}

static bool dma_after_answer(struct peer *s, const struct peer_message *m)
{
	peer_answer(s, m);
	poll(NULL, 0, 20); // until nobody asks for anything
	atomic_store(&dma_done, dma_round(s->sock));
	return true;
}

TEST(a_server_reads_and_writes_memory_on_its_own)
{
	struct mem_table ram = front_memory();
	for (unsigned i = 0; i < sizeof(dma_out); i++)
		dma_out[i] = (uint8_t)(i * 7 + i / 256);
	for (unsigned twin = 0; twin < 2; twin++) {
		peer_init(&p);
		p.offer_twin = twin;
		if (twin)
			strcpy(p.json,
			       "{\"capabilities\":{\"twin_socket\":{\"supported\":true,\"fd_index\":0}}}");
		else
			p.fault = dma_after_answer;
		p.at = VFIO_USER_DEVICE_RESET;
		front_open(&f, &p);
		CHECK_EQ(f.rc, 0);
		memset(ram.region[1].hva, 0, 0x200000);
		atomic_store(&dma_done, 0);
		for (unsigned i = 0; i < 2; i++)
			CHECK_EQ(f.l->ops->dma_map(f.l, &ram.region[i], &f.e), 0);
		CHECK_EQ(vfio_user_serve(f.l, NULL, &f.e), 0);
		if (twin)
			atomic_store(&dma_done, dma_round(p.twin));
		else
			CHECK_EQ(f.l->ops->reset(f.l), 0);
		for (unsigned ms = 0; ms < 3000 && atomic_load(&dma_done) == 0; ms++)
			poll(NULL, 0, 1);
		CHECK_EQ(atomic_load(&dma_done), -1);
		CHECK(memcmp((char *)ram.region[1].hva + 0x100000, dma_out, sizeof(dma_out)) == 0);
		CHECK_EQ(f.l->ops->dma_unmap(f.l, 0x100000000, 0x200000), 0);
		if (twin)
			CHECK_EQ(peer_dma(p.twin, VFIO_USER_DMA_READ, 0x100000000, 1, dma_in), EFAULT);
		uint32_t word;
		CHECK_EQ(f.l->ops->region_read(f.l, 7, 0, &word, 4), 0);
		end();
		peer_free(&p);
	}
	front_memory_free(&ram);
}

TEST(what_is_posted_does_not_wait_and_its_refusal_is_only_logged)
{
	peer_init(&p);
	p.refuse = VFIO_USER_DEVICE_SET_IRQS;
	p.refuse_errno = EINVAL;
	front_open(&f, &p);
	CHECK_EQ(f.rc, 0);
	CHECK_EQ(vfio_user_serve(f.l, NULL, &f.e), 0);
	for (unsigned i = 0; i < 100; i++) {
		uint32_t word;
		CHECK_EQ(f.l->ops->irq_set(f.l, 0, VFIO_LINK_UNMASK, 0, 1, NULL), 0);
		CHECK_EQ(f.l->ops->region_read(f.l, 7, 0, &word, 4), 0);
	}
	end();
	CHECK(sent(VFIO_USER_DEVICE_SET_IRQS, 99));
	CHECK_EQ(f.died, 0);
	peer_free(&p);
}

TEST(an_end_is_told_once_by_the_loop)
{
	for (unsigned way = 0; way < 2; way++) {
		const unsigned fds = count_fds();
		peer_init(&p);
		front_open(&f, &p);
		CHECK_EQ(f.rc, 0);
		CHECK_EQ(vfio_user_serve(f.l, NULL, &f.e), 0);
		shutdown(p.sock, SHUT_RDWR);
		uint32_t word;
		if (way)
			CHECK_EQ(f.l->ops->region_read(f.l, 7, 0, &word, 4), -EPIPE);
		CHECK(loop_until(&f.loop, &f.died, 3000));
		CHECK(strncmp(f.why, "closed its connection", 21) == 0);
		CHECK_EQ(f.l->ops->region_read(f.l, 7, 0, &word, 4), -EPIPE);
		CHECK_EQ(f.l->ops->irq_set(f.l, 0, VFIO_LINK_UNMASK, 0, 1, NULL), -EPIPE);
		CHECK_EQ(f.l->ops->reset(f.l), -EPIPE);
		loop_once(&f.loop, 50);
		CHECK_EQ(f.died, 1);
		end();
		peer_free(&p);
		CHECK_EQ(count_fds(), fds);
	}
}
