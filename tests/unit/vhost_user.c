// SPDX-License-Identifier: BSD-2-Clause
// What the front-end says to a well-behaved back-end, message by message.
#include "tests/unit/test.h"

#include "bridges/backend.h"
#include "tests/fault/vu_peer.h"
#include "vmm/base/fd.h"

#include <sys/eventfd.h>

// The names of messages [from, p->count) in one line, "!" behind those that ask for an acknowledgement.
static const char *said(const struct peer *p, unsigned from)
{
	static char text[2048];
	size_t n = 0;
	text[0] = '\0';
	for (unsigned i = from; i < p->count; i++) {
		const struct vhost_user_row *row = vhost_user_request_row(p->log[i].h.request);
		n += (size_t)snprintf(text + n, sizeof(text) - n, "%s%s%s", n ? " " : "",
				      row ? row->name + 11 : "?",
				      p->log[i].h.flags & VHOST_USER_NEED_REPLY ? "!" : "");
	}
	return text;
}

static const struct peer_message *find(const struct peer *p, uint32_t request)
{
	for (unsigned i = 0; i < p->count; i++)
		if (p->log[i].h.request == request)
			return &p->log[i];
	return NULL;
}

TEST(every_row_of_the_table_is_consistent)
{
	unsigned rows = 0;
	for (uint32_t r = 0; r < 300; r++) {
		const struct vhost_user_row *row[2] = { vhost_user_request_row(r),
							vhost_user_backend_row(r) };
		for (int k = 0; k < 2; k++) {
			if (!row[k])
				continue;
			rows++;
			CHECK(row[k]->size_min <= row[k]->size_max &&
			      row[k]->size_max <= VHOST_USER_PAYLOAD_MAX);
			CHECK(row[k]->reply_min <= row[k]->reply_max &&
			      row[k]->reply_max <= VHOST_USER_PAYLOAD_MAX);
			CHECK(row[k]->fds_min <= row[k]->fds_max);
			CHECK(row[k]->reply == VHOST_USER_REPLY_DEFINED || row[k]->reply_max == 8);
			CHECK(row[k]->feature < VHOST_USER_PF_COUNT || row[k]->feature == VHOST_USER_PF_NONE);
		}
	}
	CHECK_EQ(rows, 45 + 10);
	CHECK(!vhost_user_request_row(0) && !vhost_user_request_row(UINT32_MAX));
}

TEST(requests_are_judged_by_their_rows)
{
	const struct {
		struct vhost_user_header h;
		uint64_t features;
		bool good;
	} cases[] = {
		{ { VHOST_USER_GET_FEATURES, 1, 0 }, 0, true },
		{ { VHOST_USER_GET_FEATURES, 9, 0 }, 0, true },
		{ { VHOST_USER_GET_FEATURES, 1, 8 }, 0, false },
		{ { VHOST_USER_GET_FEATURES, 2, 0 }, 0, false },
		{ { VHOST_USER_GET_FEATURES, 5, 0 }, 0, false },
		{ { VHOST_USER_GET_FEATURES, 0x11, 0 }, 0, false },
		{ { VHOST_USER_SET_MEM_TABLE, 1, 7 }, 0, false },
		{ { VHOST_USER_SET_MEM_TABLE, 1, 8 + 8 * 32 + 1 }, 0, false },
		{ { VHOST_USER_SET_MEM_TABLE, 1, 8 + 2 * 32 }, 0, true },
		{ { VHOST_USER_GET_CONFIG, 1, 20 }, 0, false },
		{ { VHOST_USER_GET_CONFIG, 1, 20 }, VHOST_USER_PF_BIT(CONFIG), true },
		{ { 45, 1, 0 }, UINT64_MAX, false },
		{ { 0, 1, 0 }, UINT64_MAX, false },
		{ { UINT32_MAX, 1, UINT32_MAX }, UINT64_MAX, false },
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const struct vhost_user_row *row = vhost_user_request_row(cases[i].h.request);
		CHECK_EQ(vhost_user_request_error(&cases[i].h, row, cases[i].features) == NULL,
			 cases[i].good);
	}
	const struct vhost_user_row *kick = vhost_user_request_row(VHOST_USER_SET_VRING_KICK);
	const struct vhost_user_row *add = vhost_user_request_row(VHOST_USER_ADD_MEM_REG);
	CHECK(!vhost_user_request_fds_error(kick, 0) && !vhost_user_request_fds_error(kick, 1));
	CHECK(vhost_user_request_fds_error(kick, 2) && vhost_user_request_fds_error(add, 0));
}

TEST(handshake_takes_what_is_offered)
{
	struct peer p;
	struct front f;
	unsigned fds = count_fds();
	peer_init(&p);
	front_open(&f, &p);
	CHECK_EQ(f.rc, 0);
	uint64_t features;
	uint8_t config[60];
	CHECK_EQ(f.b->ops->features(f.b, &features), 0);
	CHECK_EQ(features, p.features & ~PEER_BIT(30));
	CHECK_EQ(f.b->queue_count, 4);
	CHECK_EQ(f.b->queue_size_max, 256);
	CHECK_EQ(f.b->config_len, 60);
	CHECK_EQ(f.b->ops->config_read(f.b, 0, config, 60), 0);
	CHECK(memcmp(config, p.config, 60) == 0);
	CHECK(f.b->ops->config_read(f.b, 59, config, 2) < 0);
	front_close(&f);
	peer_join(&p);
	CHECK_STR(said(&p, 0),
		  "SET_OWNER GET_FEATURES GET_PROTOCOL_FEATURES SET_PROTOCOL_FEATURES GET_QUEUE_NUM "
		  "GET_CONFIG SET_BACKEND_REQ_FD!");
	uint64_t taken;
	memcpy(&taken, find(&p, VHOST_USER_SET_PROTOCOL_FEATURES)->payload, 8);
	CHECK_EQ(taken, PEER_PROTOCOL);
	peer_free(&p);
	CHECK_EQ(count_fds(), fds);
}

// Besides unknown ones: those of which the README's table says "not used", such as GET_VRING_BASE_INFLIGHT and SKIP_DRAIN.
TEST(protocol_features_that_are_unknown_or_not_used_are_left_alone)
{
	struct peer p;
	struct front f;
	peer_init(&p);
	p.protocol = UINT64_MAX;
	front_open(&f, &p);
	CHECK_EQ(f.rc, 0);
	front_close(&f);
	peer_join(&p);
	uint64_t taken;
	memcpy(&taken, find(&p, VHOST_USER_SET_PROTOCOL_FEATURES)->payload, 8);
	CHECK_EQ(taken, PEER_PROTOCOL | VHOST_USER_PF_BIT(INFLIGHT_SHMFD) | VHOST_USER_PF_BIT(RESET_DEVICE) |
				VHOST_USER_PF_BIT(CONFIGURE_MEM_SLOTS) | VHOST_USER_PF_BIT(STATUS) |
				VHOST_USER_PF_BIT(NET_MTU) | VHOST_USER_PF_BIT(GPA_ADDRESSES));
	peer_free(&p);
}

TEST(start_and_stop_in_order)
{
	struct peer p;
	struct front f;
	unsigned fds = count_fds();
	peer_init(&p);
	p.vring_base = 77;
	front_open(&f, &p);
	CHECK_EQ(f.rc, 0);
	struct mem_table ram = front_memory();
	int kick = fd_eventfd(), call = fd_eventfd();
	CHECK_EQ(front_run(&f, &ram, kick, call), 0);
	unsigned from = 7;
	unsigned started = p.count;
	uint32_t base = 0;
	CHECK_EQ(f.b->ops->queue_stop(f.b, 0, &base), 0);
	CHECK_EQ(base, 77);
	CHECK_EQ(f.b->ops->run(f.b, false), 0);
	CHECK(f.b->ops->queue_stop(f.b, 0, &base) < 0);
	// A second start, with the table that the back-end has already.
	CHECK_EQ(front_run(&f, &ram, kick, -1), 0);
	CHECK_EQ(f.died, 0);
	front_close(&f);
	peer_join(&p);

	unsigned total = p.count;
	p.count = started;
	CHECK_STR(said(&p, from), "SET_FEATURES! SET_MEM_TABLE! SET_VRING_NUM SET_VRING_BASE SET_VRING_ADDR! "
				  "SET_VRING_ERR SET_VRING_CALL SET_VRING_KICK! SET_VRING_ENABLE!");
	p.count = total;
	CHECK_STR(
		said(&p, started),
		"GET_VRING_BASE SET_VRING_ENABLE SET_FEATURES! SET_VRING_NUM SET_VRING_BASE SET_VRING_ADDR! "
		"SET_VRING_ERR SET_VRING_CALL SET_VRING_KICK! SET_VRING_ENABLE!");

	uint64_t taken;
	memcpy(&taken, find(&p, VHOST_USER_SET_FEATURES)->payload, 8);
	CHECK_EQ(taken, PEER_BIT(32) | PEER_BIT(30) | PEER_BIT(28));
	struct vhost_user_mem_table t;
	const struct peer_message *m = find(&p, VHOST_USER_SET_MEM_TABLE);
	memcpy(&t, m->payload, sizeof(t));
	CHECK_EQ(m->fds, 2);
	CHECK_EQ(m->h.size, 8 + 2 * 32);
	CHECK_EQ(t.count, 2);
	CHECK_EQ(t.region[1].gpa, 0x100000000);
	CHECK_EQ(t.region[1].fd_offset, FRONT_REGION);
	CHECK(t.region[0].user != 0 && t.region[0].user % 4096 == 0);
	const uint64_t made_up = t.region[0].user;
	CHECK_EQ(t.region[1].user, made_up + 0x100000000);
	struct vhost_user_vring_addr a;
	memcpy(&a, find(&p, VHOST_USER_SET_VRING_ADDR)->payload, sizeof(a));
	CHECK_EQ(a.desc_user, made_up + 0x1000);
	CHECK_EQ(a.avail_user, made_up + 0x2000);
	CHECK_EQ(a.used_user, made_up + 0x100003000);
	CHECK_EQ(find(&p, VHOST_USER_SET_VRING_CALL)->fds, 1);
	CHECK_EQ(p.log[total - 3].fds, 0);
	uint64_t no_call;
	memcpy(&no_call, p.log[total - 3].payload, 8);
	CHECK_EQ(no_call, VHOST_USER_VRING_NO_FD);
	peer_free(&p);
	close(kick);
	close(call);
	close(ram.region[0].fd);
	CHECK_EQ(count_fds(), fds);
}

TEST(packed_rings_and_access_platform)
{
	struct peer p;
	struct front f;
	peer_init(&p);
	p.features |= PEER_BIT(33) | PEER_BIT(34) | PEER_BIT(38) | PEER_BIT(40);
	p.vring_base = 0x80058003;
	front_open(&f, &p);
	CHECK_EQ(f.rc, 0);
	struct mem_table ram = front_memory();
	int kick = fd_eventfd();
	const struct vring_cfg cfg = { .size = 77,
				       .base = VRING_BASE_PACKED,
				       .desc_gpa = 0x1000,
				       .avail_gpa = 0x2000,
				       .used_gpa = 0x3000,
				       .kick_fd = kick,
				       .call_fd = -1 };
	const uint64_t taken = PEER_BIT(32) | PEER_BIT(33) | PEER_BIT(34) | PEER_BIT(38) | PEER_BIT(40);
	CHECK_EQ(f.b->ops->negotiate(f.b, taken), 0);
	CHECK_EQ(f.b->ops->memory(f.b, &ram), 0);
	CHECK_EQ(f.b->ops->queue_start(f.b, 0, &cfg), 0);
	CHECK_EQ(f.b->ops->run(f.b, true), 0);
	uint32_t base = 0;
	CHECK_EQ(f.b->ops->queue_stop(f.b, 0, &base), 0); // while the device runs: a queue that is reset
	CHECK_EQ(base, 0x80058003);
	CHECK_EQ(f.b->ops->queue_start(f.b, 0, &cfg), 0);
	front_close(&f);
	peer_join(&p);
	uint64_t told;
	memcpy(&told, find(&p, VHOST_USER_SET_FEATURES)->payload, sizeof(told));
	CHECK_EQ(told, (taken | PEER_BIT(30)) & ~PEER_BIT(33)); // there is no IOMMU to ask
	struct vhost_user_vring_state s;
	memcpy(&s, find(&p, VHOST_USER_SET_VRING_BASE)->payload, sizeof(s));
	CHECK_EQ(s.num, 0x80008000);
	memcpy(&s, find(&p, VHOST_USER_SET_VRING_NUM)->payload, sizeof(s));
	CHECK_EQ(s.num, 77);
	peer_free(&p);
	close(kick);
	close(ram.region[0].fd);
}

TEST(reset_with_status_and_slots)
{
	struct peer p;
	struct front f;
	peer_init(&p);
	p.protocol |= VHOST_USER_PF_BIT(STATUS) | VHOST_USER_PF_BIT(RESET_DEVICE) |
		      VHOST_USER_PF_BIT(CONFIGURE_MEM_SLOTS);
	front_open(&f, &p);
	CHECK_EQ(f.rc, 0);
	struct mem_table ram = front_memory();
	int kick = fd_eventfd();
	CHECK_EQ(front_run(&f, &ram, kick, -1), 0);
	unsigned started = p.count;
	CHECK_EQ(p.status, 1 | 2 | 4 | 8);
	uint32_t base;
	CHECK_EQ(f.b->ops->queue_stop(f.b, 0, &base), 0);
	CHECK_EQ(f.b->ops->run(f.b, false), 0);
	CHECK_EQ(p.status, 0);
	unsigned reset = p.count;
	CHECK_EQ(f.b->ops->memory(f.b, &ram), 0);
	CHECK_EQ(p.count, reset); // the slots are there still
	ram.count = 1;
	CHECK_EQ(f.b->ops->memory(f.b, &ram), 0);
	front_close(&f);
	peer_join(&p);
	unsigned total = p.count;
	p.count = started;
	CHECK_STR(said(&p, 8),
		  "SET_STATUS SET_STATUS SET_FEATURES! SET_STATUS GET_STATUS ADD_MEM_REG! ADD_MEM_REG! "
		  "SET_VRING_NUM SET_VRING_BASE SET_VRING_ADDR! SET_VRING_ERR SET_VRING_CALL SET_VRING_KICK! "
		  "SET_VRING_ENABLE! SET_STATUS!");
	p.count = total;
	CHECK_STR(said(&p, started),
		  "GET_VRING_BASE SET_VRING_ENABLE SET_STATUS! RESET_DEVICE! REM_MEM_REG!");
	peer_free(&p);
	close(kick);
	close(ram.region[0].fd);
}

TEST(a_table_is_sent_again_after_reset_device)
{
	struct peer p;
	struct front f;
	peer_init(&p);
	p.protocol |= VHOST_USER_PF_BIT(RESET_DEVICE);
	front_open(&f, &p);
	CHECK_EQ(f.rc, 0);
	struct mem_table ram = front_memory();
	CHECK_EQ(f.b->ops->memory(f.b, &ram), 0);
	CHECK_EQ(f.b->ops->memory(f.b, &ram), 0);
	CHECK_EQ(f.b->ops->run(f.b, false), 0);
	CHECK_EQ(f.b->ops->memory(f.b, &ram), 0);
	front_close(&f);
	peer_join(&p);
	CHECK_STR(said(&p, 7), "SET_MEM_TABLE! RESET_DEVICE! SET_MEM_TABLE!");
	peer_free(&p);
	close(ram.region[0].fd);
}

TEST(without_reply_ack_a_question_follows)
{
	struct peer p;
	struct front f;
	peer_init(&p);
	p.protocol = VHOST_USER_PF_BIT(CONFIG);
	front_open(&f, &p);
	CHECK_EQ(f.rc, 0);
	CHECK_EQ(f.b->ops->negotiate(f.b, PEER_BIT(32)), 0);
	uint8_t wce = 1;
	CHECK_EQ(f.b->ops->config_write(f.b, 32, &wce, 1), 0);
	front_close(&f);
	peer_join(&p);
	CHECK_STR(
		said(&p, 0),
		"SET_OWNER GET_FEATURES GET_PROTOCOL_FEATURES SET_PROTOCOL_FEATURES GET_CONFIG SET_FEATURES "
		"GET_FEATURES SET_CONFIG GET_FEATURES");
	struct vhost_user_config c;
	memcpy(&c, find(&p, VHOST_USER_SET_CONFIG)->payload, sizeof(c));
	CHECK_EQ(c.off, 32);
	CHECK_EQ(c.len, 1);
	CHECK_EQ(c.flags, 0);
	CHECK_EQ(c.data[0], 1);
	peer_free(&p);
}

TEST(config_is_asked_for_once_until_it_changes)
{
	struct peer p;
	struct front f;
	peer_init(&p);
	front_open(&f, &p);
	CHECK_EQ(f.rc, 0);
	uint8_t buf[8];
	for (int i = 0; i < 5; i++)
		CHECK_EQ(f.b->ops->config_read(f.b, 0, buf, 8), 0);
	unsigned before = p.count;
	CHECK_EQ(before, 7);
	p.config[1] = 16;
	const struct vhost_user_header h = { VHOST_USER_BACKEND_CONFIG_CHANGE_MSG, 1 | 8, 0 };
	CHECK_EQ(write(p.channel, &h, sizeof(h)), sizeof(h));
	CHECK(loop_until(&f.loop, &f.changed, 1000));
	struct {
		struct vhost_user_header h;
		uint8_t code[8];
	} reply;
	CHECK_EQ(read(p.channel, &reply, 20), 20);
	CHECK_EQ(reply.h.flags, 5);
	CHECK_EQ(reply.code[0], 0);
	CHECK_EQ(f.b->ops->config_read(f.b, 0, buf, 8), 0);
	CHECK_EQ(buf[1], 16);
	CHECK_EQ(f.b->ops->config_read(f.b, 0, buf, 8), 0);
	CHECK_EQ(p.count, before + 1);
	front_close(&f);
	peer_join(&p);
	peer_free(&p);
}

TEST(refusals_are_not_death)
{
	struct peer p;
	struct front f;
	peer_init(&p);
	p.nack_of = VHOST_USER_SET_FEATURES;
	front_open(&f, &p);
	CHECK_EQ(f.rc, 0);
	CHECK_EQ(-f.b->ops->negotiate(f.b, PEER_BIT(32)), EIO);
	CHECK_EQ(-f.b->ops->negotiate(f.b, PEER_BIT(5)), EINVAL);
	p.nack_of = 0;
	CHECK_EQ(f.b->ops->negotiate(f.b, PEER_BIT(32)), 0);
	front_close(&f);
	peer_join(&p);
	peer_free(&p);
}

TEST(a_refused_ring_is_not_left_half_started)
{
	struct peer p;
	struct front f;
	peer_init(&p);
	p.nack_of = VHOST_USER_SET_VRING_ADDR;
	front_open(&f, &p);
	CHECK_EQ(f.rc, 0);
	struct mem_table ram = front_memory();
	int kick = fd_eventfd();
	CHECK_EQ(-front_run(&f, &ram, kick, -1), EIO);
	front_close(&f);
	peer_join(&p);
	CHECK_STR(said(&p, p.count - 2), "GET_VRING_BASE SET_VRING_ENABLE");
	peer_free(&p);
	close(kick);
	close(ram.region[0].fd);
}

TEST(a_refused_slot_is_death)
{
	struct peer p;
	struct front f;
	peer_init(&p);
	p.protocol |= VHOST_USER_PF_BIT(CONFIGURE_MEM_SLOTS);
	p.nack_of = VHOST_USER_ADD_MEM_REG;
	front_open(&f, &p);
	CHECK_EQ(f.rc, 0);
	struct mem_table ram = front_memory();
	CHECK_EQ(-f.b->ops->memory(f.b, &ram), EIO);
	CHECK_EQ(-f.b->ops->memory(f.b, &ram), EPIPE);
	CHECK(loop_until(&f.loop, &f.died, 1000));
	CHECK_STR(f.why, "refuses a part of guest memory");
	front_close(&f);
	peer_join(&p);
	peer_free(&p);
	close(ram.region[0].fd);
}

TEST(features_ok_must_be_accepted)
{
	struct peer p;
	struct front f;
	peer_init(&p);
	p.protocol |= VHOST_USER_PF_BIT(STATUS);
	p.status_mask = 0xff & ~8u;
	front_open(&f, &p);
	CHECK_EQ(f.rc, 0);
	CHECK_EQ(-f.b->ops->negotiate(f.b, PEER_BIT(32)), EIO);
	p.status_mask = 0xff;
	CHECK_EQ(f.b->ops->negotiate(f.b, PEER_BIT(32)), 0);
	front_close(&f);
	peer_join(&p);
	peer_free(&p);
}

TEST(queue_errors_are_told_once)
{
	struct peer p;
	struct front f;
	peer_init(&p);
	front_open(&f, &p);
	CHECK_EQ(f.rc, 0);
	struct mem_table ram = front_memory();
	int kick = fd_eventfd();
	CHECK_EQ(front_run(&f, &ram, kick, -1), 0);
	CHECK_EQ(find(&p, VHOST_USER_SET_VRING_ERR)->fds, 1);
	uint64_t one = 1;
	for (int i = 0; i < 3; i++) {
		CHECK_EQ(write(p.err, &one, 8), 8);
		loop_once(&f.loop, 10);
	}
	CHECK_EQ(f.failed, 1);
	// Nothing of the old run is heard in the next one.
	uint32_t base;
	CHECK_EQ(f.b->ops->queue_stop(f.b, 0, &base), 0);
	CHECK_EQ(f.b->ops->run(f.b, false), 0);
	CHECK_EQ(front_run(&f, &ram, kick, -1), 0);
	loop_once(&f.loop, 10);
	CHECK_EQ(f.failed, 1);
	CHECK_EQ(write(p.err, &one, 8), 8);
	CHECK(loop_once(&f.loop, 1000) >= 0);
	CHECK_EQ(f.failed, 2);
	front_close(&f);
	peer_join(&p);
	peer_free(&p);
	close(kick);
	close(ram.region[0].fd);
}

TEST(queues_as_written_or_as_the_back_end_says)
{
	const struct {
		uint16_t wanted, in_config;
		uint64_t most;
		bool mq;
		int count; // -1: refused
	} cases[] = {
		{ 0, 4, 4, true, 4 },	       { 2, 4, 4, true, 2 },	      { 5, 4, 4, true, -1 },
		{ 0, 4, 4, false, 1 },	       { 2, 4, 4, false, -1 },	      { 0, 4, 0, true, -1 },
		{ 0, 4, 65535, true, 4 },      { 0, 65535, 65535, true, 64 }, { 0, 0, 8, true, 1 },
		{ 0, 4, UINT64_MAX, true, 4 },
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct peer p;
		peer_init(&p);
		p.queue_num = cases[i].most;
		memcpy(p.config + 34, &cases[i].in_config, 2);
		if (!cases[i].mq)
			p.features &= ~PEER_BIT(12);
		struct loop loop;
		CHECK_EQ(loop_init(&loop), 0);
		const struct vhost_user_params params = { .id = "disk0",
							  .peer = "p",
							  .virtio_type = 2,
							  .sock = p.front,
							  .loop = &loop,
							  .queues = cases[i].wanted,
							  .start_deadline = deadline_in_ms(2000) };
		struct backend *b;
		struct err e = { "" };
		peer_start(&p);
		int rc = vhost_user_open(&b, &params, &e);
		CHECK_EQ(rc < 0, cases[i].count < 0);
		if (rc == 0) {
			uint16_t shown;
			CHECK_EQ(b->queue_count, cases[i].count);
			CHECK_EQ(b->ops->config_read(b, 34, &shown, 2), 0);
			CHECK_EQ(shown, cases[i].count);
			b->ops->close(b);
		} else {
			CHECK(strstr(e.text, "disk0") && strstr(e.text, "queues"));
		}
		loop_destroy(&loop);
		peer_join(&p);
		peer_free(&p);
	}
}

// A back-end that has no queue for commands leaves them to its front-end, whatever it offers.
TEST(network_queues_with_and_without_commands)
{
	const uint64_t commands = PEER_BIT(17) | PEER_BIT(18) | PEER_BIT(22) | PEER_BIT(23),
		       others = PEER_BIT(0) | PEER_BIT(15);
	const struct {
		uint64_t offered, most;
		uint16_t wanted, pairs;
		unsigned count;
		bool kept;
	} cases[] = {
		{ commands, 9, 0, 4, 9, true },	     { commands, 100, 0, 4, 9, true },
		{ commands, 8, 0, 4, 2, false },     { commands, 4, 0, 4, 2, false },
		{ commands, 1, 0, 1, 1, false },     { PEER_BIT(17), 3, 0, 0, 3, true },
		{ PEER_BIT(17), 2, 0, 0, 2, false }, { 0, 2, 0, 0, 2, true },
		{ commands, 9, 2, 4, 2, false },     { commands, 65535, 0, 100, 2, false },
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct peer p;
		peer_init(&p);
		p.queue_num = cases[i].most;
		p.features = (p.features & ~PEER_BIT(12)) | cases[i].offered | others;
		memcpy(p.config + 8, &cases[i].pairs, 2);
		struct loop loop;
		CHECK_EQ(loop_init(&loop), 0);
		const struct vhost_user_params params = { .id = "net0",
							  .peer = "p",
							  .virtio_type = 1,
							  .sock = p.front,
							  .loop = &loop,
							  .queues = cases[i].wanted,
							  .start_deadline = deadline_in_ms(2000) };
		struct backend *b;
		struct err e = { "" };
		uint64_t features;
		peer_start(&p);
		CHECK_EQ(vhost_user_open(&b, &params, &e), 0);
		CHECK_EQ(b->queue_count, cases[i].count);
		CHECK_EQ(b->ops->features(b, &features), 0);
		CHECK_EQ(features & (commands | others), (cases[i].kept ? cases[i].offered : 0) | others);
		b->ops->close(b);
		loop_destroy(&loop);
		peer_join(&p);
		peer_free(&p);
	}
}
