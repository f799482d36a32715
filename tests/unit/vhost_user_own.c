// SPDX-License-Identifier: BSD-2-Clause
// What the configuration file says of a device behind vhost-user (an MTU, a tag), configuration spaces beyond 256 bytes, and
// addresses that are the guest's.
#include "tests/unit/test.h"

#include "bridges/backend.h"
#include "tests/fault/vu_peer.h"
#include "vmm/base/fd.h"

#define FEATURES(...) (PEER_BIT(32) | PEER_BIT(30) | (uint64_t)(__VA_ARGS__))
#define NET_MTU	      PEER_BIT(3)
#define NET_MAC	      PEER_BIT(5)
#define NET_STATUS    PEER_BIT(16)

static void open_as(struct front *f, struct peer *p, uint16_t type, struct vhost_user_own own)
{
	memset(f, 0, sizeof(*f));
	f->rc = loop_init(&f->loop);
	const struct vhost_user_params params = { .id = "dev0",
						  .peer = "peer.sock",
						  .virtio_type = type,
						  .own = own,
						  .sock = p->front,
						  .loop = &f->loop,
						  .start_deadline = deadline_in_ms(3000) };
	peer_start(p);
	f->rc = vhost_user_open(&f->b, &params, &f->e);
	if (f->rc == 0) {
		f->b->events = &front_events;
		f->b->owner = f;
	}
}

static void end(struct front *f, struct peer *p)
{
	front_close(f);
	peer_join(p);
}

static const struct peer_message *find(const struct peer *p, uint32_t request)
{
	for (unsigned i = 0; i < p->count; i++)
		if (p->log[i].h.request == request)
			return &p->log[i];
	return NULL;
}

TEST(an_mtu_is_shown_and_told)
{
	struct peer p;
	struct front f;
	peer_init(&p);
	p.features = FEATURES(NET_MTU | NET_MAC | NET_STATUS);
	p.protocol |= VHOST_USER_PF_BIT(NET_MTU);
	p.config[0] = 0x52;
	p.config[10] = 99;
	open_as(&f, &p, 1, (struct vhost_user_own){ .mtu = 1400 });
	CHECK_EQ(f.rc, 0);
	uint16_t mtu = 0;
	uint8_t mac = 0;
	uint64_t told = 0;
	CHECK_EQ(f.b->ops->config_read(f.b, 10, &mtu, 2), 0);
	CHECK_EQ(f.b->ops->config_read(f.b, 0, &mac, 1), 0);
	CHECK_EQ(mtu, 1400);
	CHECK_EQ(mac, 0x52); // the rest is the back-end's
	CHECK_EQ(f.b->ops->negotiate(f.b, PEER_BIT(32) | NET_MTU), 0);
	f.b->ops->config_write(f.b, 0, &mac, 1); // makes it be read again
	CHECK_EQ(f.b->ops->config_read(f.b, 10, &mtu, 2), 0);
	CHECK_EQ(mtu, 1400);
	end(&f, &p);
	CHECK(find(&p, VHOST_USER_NET_SET_MTU));
	memcpy(&told, find(&p, VHOST_USER_NET_SET_MTU)->payload, 8);
	CHECK_EQ(told, 1400);
	CHECK(find(&p, VHOST_USER_NET_SET_MTU) > find(&p, VHOST_USER_SET_FEATURES));
	peer_free(&p);
}

TEST(an_mtu_that_the_driver_does_not_want_is_not_told)
{
	struct peer p;
	struct front f;
	peer_init(&p);
	p.features = FEATURES(NET_MTU);
	p.protocol |= VHOST_USER_PF_BIT(NET_MTU);
	open_as(&f, &p, 1, (struct vhost_user_own){ .mtu = 1400 });
	CHECK_EQ(f.rc, 0);
	CHECK_EQ(f.b->ops->negotiate(f.b, PEER_BIT(32)), 0);
	end(&f, &p);
	CHECK(!find(&p, VHOST_USER_NET_SET_MTU));
	peer_free(&p);
}

TEST(an_mtu_that_is_refused_fails_the_negotiation)
{
	struct peer p;
	struct front f;
	peer_init(&p);
	p.features = FEATURES(NET_MTU);
	p.protocol |= VHOST_USER_PF_BIT(NET_MTU);
	p.nack_of = VHOST_USER_NET_SET_MTU;
	open_as(&f, &p, 1, (struct vhost_user_own){ .mtu = 9000 });
	CHECK_EQ(f.rc, 0);
	CHECK_EQ(f.b->ops->negotiate(f.b, PEER_BIT(32) | NET_MTU), -EIO);
	CHECK_EQ(f.b->ops->negotiate(f.b, PEER_BIT(32)), 0); // without, it goes on
	end(&f, &p);
	peer_free(&p);
}

TEST(an_mtu_for_one_that_takes_none_is_an_error)
{
	for (int i = 0; i < 2; i++) {
		struct peer p;
		struct front f;
		peer_init(&p);
		p.features = FEATURES(i ? NET_MTU : 0);
		p.protocol |= i ? 0 : VHOST_USER_PF_BIT(NET_MTU);
		open_as(&f, &p, 1, (struct vhost_user_own){ .mtu = 1400 });
		CHECK(f.rc < 0);
		CHECK(strstr(f.e.text, "dev0: ") && strstr(f.e.text, "leave mtu out"));
		end(&f, &p);
		peer_free(&p);
	}
}

// As DPDK's: a back-end that leaves all of the configuration space to its front-end.
TEST(an_mtu_without_a_configuration_space)
{
	struct peer p;
	struct front f;
	uint8_t config[12];
	peer_init(&p);
	p.features = FEATURES(NET_MTU | NET_MAC | NET_STATUS);
	p.protocol = (p.protocol & ~VHOST_USER_PF_BIT(CONFIG)) | VHOST_USER_PF_BIT(NET_MTU);
	open_as(&f, &p, 1, (struct vhost_user_own){ .mtu = 1400 });
	CHECK_EQ(f.rc, 0);
	uint64_t offered;
	CHECK_EQ(f.b->ops->features(f.b, &offered), 0);
	CHECK_EQ(offered & (NET_MTU | NET_MAC | NET_STATUS),
		 NET_MTU); // nobody has an address or a link to show
	CHECK_EQ(f.b->config_len, 12);
	CHECK_EQ(f.b->ops->config_read(f.b, 0, config, 12), 0);
	CHECK(config[10] == (1400 & 0xff) && config[11] == 1400 >> 8 && config[0] == 0);
	end(&f, &p);
	CHECK(!find(&p, VHOST_USER_GET_CONFIG));
	peer_free(&p);
}

// As virtiofsd's.
TEST(a_tag_without_a_configuration_space)
{
	struct peer p;
	struct front f;
	uint8_t config[40];
	peer_init(&p);
	p.features = FEATURES(0);
	p.protocol &= ~VHOST_USER_PF_BIT(CONFIG);
	open_as(&f, &p, 26, (struct vhost_user_own){ .tag = "share" });
	CHECK_EQ(f.rc, 0);
	CHECK_EQ(f.b->config_len, 40);
	CHECK_EQ(f.b->queue_count, 2);
	CHECK_EQ(f.b->ops->config_read(f.b, 0, config, 40), 0);
	CHECK(memcmp(config, "share\0", 6) == 0 && config[35] == 0 &&
	      config[36] == 1); // and one request queue
	end(&f, &p);
	peer_free(&p);

	peer_init(&p);
	p.features = FEATURES(0);
	p.protocol &= ~VHOST_USER_PF_BIT(CONFIG);
	open_as(&f, &p, 26, (struct vhost_user_own){ 0 });
	CHECK(f.rc < 0);
	CHECK(strstr(f.e.text, "write tag = "));
	end(&f, &p);
	peer_free(&p);
}

TEST(a_tag_in_place_of_the_back_ends)
{
	struct peer p;
	struct front f;
	uint8_t config[40];
	peer_init(&p);
	p.features = FEATURES(0);
	memcpy(p.config, "what-it-says", 13);
	p.config[36] = 3;
	open_as(&f, &p, 26, (struct vhost_user_own){ .tag = "ours" });
	CHECK_EQ(f.rc, 0);
	CHECK_EQ(f.b->queue_count, 4);
	CHECK_EQ(f.b->ops->config_read(f.b, 0, config, 40), 0);
	CHECK(memcmp(config, "ours\0\0\0\0\0\0\0\0", 12) == 0 && config[36] == 3);
	end(&f, &p);
	peer_free(&p);
}

TEST(a_long_configuration_space_is_read_and_written_in_pieces)
{
	struct peer p;
	struct front f;
	uint8_t config[700];
	peer_init(&p);
	p.features = FEATURES(0);
	p.protocol &= ~VHOST_USER_PF_BIT(MQ);
	p.config_len = 700;
	for (unsigned i = 0; i < 700; i++)
		p.config[i] = (uint8_t)(i * 7 + i / 256);
	open_as(&f, &p, 63, (struct vhost_user_own){ 0 });
	CHECK_EQ(f.rc, 0);
	CHECK_EQ(f.b->config_len, 700);
	CHECK_EQ(f.b->ops->config_read(f.b, 0, config, 700), 0);
	CHECK_EQ(memcmp(config, p.config, 700), 0);
	CHECK_EQ(f.b->ops->config_write(f.b, 690, "abcd", 4), 0);
	CHECK_EQ(f.b->ops->config_read(f.b, 688, config, 8), 0); // read again, from it
	CHECK_EQ(memcmp(config, p.config + 688, 8), 0);
	CHECK(f.b->ops->config_read(f.b, 699, config, 2) < 0);
	end(&f, &p);
	const struct peer_message *m = find(&p, VHOST_USER_SET_CONFIG);
	CHECK(m);
	struct vhost_user_config c;
	memcpy(&c, m->payload, sizeof(c));
	CHECK(c.off == 690 && c.len == 4 && memcmp(c.data, "abcd", 4) == 0);
	peer_free(&p);
}

// What some back-ends do with an offset that they do not know: zeros, or the start again.
static bool start_again(struct peer *p, const struct peer_message *m)
{
	struct vhost_user_config c;
	if (m->h.request != VHOST_USER_GET_CONFIG) {
		peer_answer(p, m);
		return true;
	}
	memcpy(&c, m->payload, sizeof(c));
	memset(c.data, 0, sizeof(c.data));
	if (p->fault_arg || c.off == 0)
		memcpy(c.data, p->config, c.len);
	peer_reply(p, m->h.request, &c, VHOST_USER_CONFIG_HEAD + c.len);
	return true;
}

TEST(pieces_that_say_nothing_new_end_it)
{
	for (int i = 0; i < 2; i++) {
		struct peer p;
		struct front f;
		peer_init(&p);
		p.features = FEATURES(0);
		p.protocol &= ~VHOST_USER_PF_BIT(MQ);
		p.every = true;
		p.fault = start_again;
		p.fault_arg = i;
		open_as(&f, &p, 63, (struct vhost_user_own){ 0 });
		CHECK_EQ(f.rc, 0);
		CHECK_EQ(f.b->config_len, 256);
		end(&f, &p);
		peer_free(&p);
	}
}

static bool endless(struct peer *p, const struct peer_message *m)
{
	struct vhost_user_config c;
	if (m->h.request != VHOST_USER_GET_CONFIG) {
		peer_answer(p, m);
		return true;
	}
	memcpy(&c, m->payload, sizeof(c));
	memset(c.data, (int)(c.off >> 8) + 1, sizeof(c.data));
	peer_reply(p, m->h.request, &c, VHOST_USER_CONFIG_HEAD + c.len);
	return true;
}

TEST(a_configuration_space_without_end_is_cut)
{
	struct peer p;
	struct front f;
	uint8_t byte;
	peer_init(&p);
	p.features = FEATURES(0);
	p.protocol &= ~VHOST_USER_PF_BIT(MQ);
	p.every = true;
	p.fault = endless;
	open_as(&f, &p, 63, (struct vhost_user_own){ 0 });
	CHECK_EQ(f.rc, 0);
	CHECK_EQ(f.b->config_len, 4096);
	CHECK_EQ(f.b->ops->config_read(f.b, 4095, &byte, 1), 0);
	CHECK_EQ(byte, 16);
	end(&f, &p);
	peer_free(&p);
}

TEST(guest_addresses_where_the_back_end_takes_them)
{
	for (int gpa = 0; gpa < 2; gpa++) {
		struct peer p;
		struct front f;
		peer_init(&p);
		p.protocol |= gpa ? VHOST_USER_PF_BIT(GPA_ADDRESSES) : 0;
		open_as(&f, &p, 2, (struct vhost_user_own){ 0 });
		CHECK_EQ(f.rc, 0);
		const struct mem_table ram = front_memory();
		int kick = fd_eventfd(), call = fd_eventfd();
		CHECK_EQ(front_run(&f, &ram, kick, call), 0);
		end(&f, &p);
		struct vhost_user_mem_table t;
		struct vhost_user_vring_addr a;
		const struct peer_message *table = find(&p, VHOST_USER_SET_MEM_TABLE),
					  *address = find(&p, VHOST_USER_SET_VRING_ADDR);
		CHECK(table && address);
		memcpy(&t, table->payload, sizeof(t));
		memcpy(&a, address->payload, sizeof(a));
		for (unsigned i = 0; i < t.count; i++)
			CHECK_EQ(t.region[i].user == t.region[i].gpa, gpa);
		CHECK_EQ(a.desc_user >= UINT64_C(1) << 44, !gpa);
		peer_free(&p);
		close(kick);
		close(call);
		munmap(ram.region[0].hva, 0x200000);
		close(ram.region[0].fd);
	}
}
