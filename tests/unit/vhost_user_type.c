// SPDX-License-Identifier: BSD-2-Clause
// Every virtio device type over vhost-user: a back-end of that type, and what the front-end makes of it.
#include "tests/unit/test.h"

#include "bridges/backend.h"
#include "bridges/vhost_user_type.h"
#include "tests/fault/vu_peer.h"

#define FEATURES(...) (PEER_BIT(32) | PEER_BIT(30) | (uint64_t)(__VA_ARGS__))

// Shows its configuration space up to `fault_arg` bytes and refuses more, with a short or an empty answer.
static bool refuse_beyond(struct peer *p, const struct peer_message *m)
{
	struct vhost_user_config c;
	memcpy(&c, m->payload, sizeof(c));
	if (m->h.request != VHOST_USER_GET_CONFIG || (int)(c.off + c.len) <= p->fault_arg)
		peer_answer(p, m);
	else
		peer_reply(p, m->h.request, &c, p->fault_arg % 2 ? VHOST_USER_CONFIG_HEAD : 0);
	return true;
}

// Shows what it has, however much is asked for.
static bool show_less(struct peer *p, const struct peer_message *m)
{
	struct vhost_user_config c;
	memcpy(&c, m->payload, sizeof(c));
	if (m->h.request != VHOST_USER_GET_CONFIG) {
		peer_answer(p, m);
		return true;
	}
	c.len = c.off < (uint32_t)p->fault_arg ? MIN(c.len, (uint32_t)p->fault_arg - c.off) : 0;
	memcpy(c.data, p->config + c.off, c.len);
	peer_reply(p, m->h.request, &c, VHOST_USER_CONFIG_HEAD + c.len);
	return true;
}

struct device {
	struct peer p;
	struct loop loop;
	struct backend *b;
	struct err e;
	int rc;
	unsigned questions; // about its configuration space, once it is closed
};

static void device_init(struct device *d, uint64_t features, int config_len)
{
	memset(d, 0, sizeof(*d));
	peer_init(&d->p);
	d->p.features = features;
	d->p.protocol &= ~VHOST_USER_PF_BIT(MQ);
	d->p.every = true;
	d->p.fault = refuse_beyond;
	d->p.fault_arg = config_len;
	d->p.config_len = sizeof(d->p.config);
	memset(d->p.config, 0, sizeof(d->p.config));
}

static void device_open(struct device *d, uint16_t type, uint16_t queues)
{
	d->rc = loop_init(&d->loop);
	const struct vhost_user_params params = { .id = "dev0",
						  .peer = "p",
						  .virtio_type = type,
						  .queues = queues,
						  .sock = d->p.front,
						  .loop = &d->loop,
						  .start_deadline = deadline_in_ms(3000) };
	peer_start(&d->p);
	d->rc = vhost_user_open(&d->b, &params, &d->e);
}

static void device_close(struct device *d)
{
	if (d->rc == 0)
		d->b->ops->close(d->b);
	loop_destroy(&d->loop);
	peer_join(&d->p);
	for (unsigned i = 0; i < d->p.count; i++)
		d->questions += d->p.log[i].h.request == VHOST_USER_GET_CONFIG;
	peer_free(&d->p);
}

TEST(each_type_has_its_queues_and_its_configuration)
{
	const struct {
		uint16_t type;
		uint64_t features;
		uint16_t config_len, queues;
	} cases[] = {
		{ 1, 0, 6, 2 },
		{ 1, PEER_BIT(16) | PEER_BIT(5), 8, 2 },
		{ 1, PEER_BIT(3), 12, 2 },
		{ 1, PEER_BIT(63), 17, 2 },
		{ 2, 0, 36, 1 },
		{ 2, PEER_BIT(13) | PEER_BIT(14), 60, 1 },
		{ 2, PEER_BIT(17), 96, 1 },
		{ 3, 0, 0, 2 },
		{ 3, PEER_BIT(0), 4, 2 },
		{ 3, PEER_BIT(2), 12, 2 },
		{ 4, 0, 0, 1 },
		{ 5, 0, 8, 5 },
		{ 5, PEER_BIT(4), 16, 5 },
		{ 7, 0, 0, 2 },
		{ 8, 0, 36, 3 },
		{ 11, 0, 0, 2 },
		{ 16, PEER_BIT(1), 16, 2 },
		{ 16, PEER_BIT(5), 20, 2 },
		{ 17, 0, 0, 2 },
		{ 18, 0, 136, 2 },
		{ 19, 0, 8, 3 },
		{ 20, 0, 56, 2 },
		{ 23, 0, 36, 2 },
		{ 23, PEER_BIT(6), 40, 2 },
		{ 24, 0, 56, 1 },
		{ 25, 0, 12, 4 },
		{ 25, PEER_BIT(0), 16, 4 },
		{ 26, 0, 40, 2 },
		{ 26, PEER_BIT(0), 44, 2 },
		{ 27, 0, 16, 1 },
		{ 28, 0, 3, 1 },
		{ 29, 0, 0, 2 },
		{ 32, 0, 0, 2 },
		{ 33, 0, 0, 1 },
		{ 34, PEER_BIT(0), 0, 1 },
		{ 36, PEER_BIT(0), 2, 3 },
		{ 41, PEER_BIT(0), 8, 2 },
		{ 45, 0, 32, 1 },
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct device d;
		uint8_t config[256] = { 0 };
		device_init(&d, FEATURES(cases[i].features), cases[i].config_len);
		// Not where a number of queues may stand: that is another test's.
		const bool marked = cases[i].config_len && cases[i].type != 2 && cases[i].type != 26;
		if (marked)
			d.p.config[cases[i].config_len - 1] = 0xa5;
		device_open(&d, cases[i].type, 0);
		if (d.rc < 0)
			printf("type %u: %s\n", cases[i].type, d.e.text);
		CHECK_EQ(d.rc, 0);
		CHECK_EQ(d.b->virtio_type, cases[i].type);
		CHECK_EQ(d.b->config_len, cases[i].config_len);
		CHECK_EQ(d.b->queue_count, cases[i].queues);
		CHECK_EQ(d.b->ops->config_read(d.b, 0, config, d.b->config_len), 0);
		if (marked)
			CHECK_EQ(config[cases[i].config_len - 1], 0xa5);
		device_close(&d);
		CHECK_EQ(d.questions, cases[i].config_len != 0);
	}
}

TEST(a_length_that_nobody_specified_is_found_out)
{
	const uint16_t types[] = { 9, 12, 21, 30, 40, 63 };
	const int lengths[] = { 0,   1,	  2,   3,   7,	 8,   31,  64,	100, 127,
				128, 129, 254, 255, 256, 257, 300, 512, 600, 1000 };
	for (size_t i = 0; i < ARRAY_LEN(types); i++)
		for (size_t k = 0; k < ARRAY_LEN(lengths); k++)
			for (int honest = 0; honest < 2; honest++) {
				struct device d;
				uint8_t config[1024];
				device_init(&d, FEATURES(0), lengths[k]);
				for (unsigned n = 0; n < 1000; n++)
					d.p.config[n] = (uint8_t)(n + 1 + n / 256);
				d.p.fault = honest ? show_less : refuse_beyond;
				device_open(&d, types[i], 0);
				CHECK_EQ(d.rc, 0);
				CHECK_EQ(d.b->config_len, lengths[k]);
				CHECK_EQ(d.b->ops->config_read(d.b, 0, config, d.b->config_len), 0);
				CHECK_EQ(memcmp(config, d.p.config, (size_t)lengths[k]), 0);
				device_close(&d);
				CHECK(d.questions <= 9 * (unsigned)(lengths[k] / 256 + 1));
			}
}

static bool say_more(struct peer *p, const struct peer_message *m)
{
	struct vhost_user_config c;
	memcpy(&c, m->payload, sizeof(c));
	if (m->h.request != VHOST_USER_GET_CONFIG) {
		peer_answer(p, m);
		return true;
	}
	if (p->fault_arg)
		c.off = 4;
	else
		c.len = 200;
	peer_reply(p, m->h.request, &c, VHOST_USER_CONFIG_HEAD + 8);
	return true;
}

TEST(an_answer_that_contradicts_itself_is_refused)
{
	for (int other_place = 0; other_place < 2; other_place++) {
		struct device d;
		device_init(&d, FEATURES(0), other_place);
		d.p.fault = say_more;
		device_open(&d, 21, 0);
		CHECK(d.rc < 0);
		CHECK(strstr(d.e.text, "GET_CONFIG"));
		device_close(&d);
	}
}

TEST(queues_are_what_the_configuration_counts)
{
	const struct {
		uint16_t type;
		uint64_t features;
		uint8_t off;
		uint32_t counted;
		uint16_t wanted, queues;
		uint32_t shown;
	} cases[] = {
		{ 3, PEER_BIT(1), 4, 5, 0, 12, 5 }, // console: ports 0 to 4, and control
		{ 3, PEER_BIT(1), 4, 5, 6, 6, 2 },  // cut to two ports
		{ 3, PEER_BIT(1), 4, 1000, 0, 64, 31 },
		{ 8, 0, 0, 4, 0, 6, 4 }, // scsi
		{ 8, 0, 0, UINT32_MAX, 0, 64, 62 },
		{ 8, 0, 0, 4, 3, 3, 1 },
		{ 20, 0, 4, 3, 0, 4, 3 },  // crypto
		{ 26, 0, 36, 4, 0, 5, 4 }, // fs
		{ 26, 0, 36, 4, 2, 2, 1 },
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct device d;
		uint32_t shown = 0;
		device_init(&d, FEATURES(cases[i].features), 256);
		memcpy(d.p.config + cases[i].off, &cases[i].counted, 4);
		device_open(&d, cases[i].type, cases[i].wanted);
		if (d.rc < 0)
			printf("%s\n", d.e.text);
		CHECK_EQ(d.rc, 0);
		CHECK_EQ(d.b->queue_count, cases[i].queues);
		CHECK_EQ(d.b->ops->config_read(d.b, cases[i].off, &shown, 4), 0);
		CHECK_EQ(shown, cases[i].shown);
		device_close(&d);
	}
}

TEST(a_control_queue_at_the_end_is_not_cut_off)
{
	const uint32_t counted[] = { 3, 3, 64 };
	const uint16_t wanted[] = { 2, 5, 0 };
	for (size_t i = 0; i < ARRAY_LEN(counted); i++) {
		struct device d;
		device_init(&d, FEATURES(0), 256);
		memcpy(d.p.config + 4, &counted[i], 4);
		device_open(&d, 20, wanted[i]);
		CHECK_EQ(-d.rc, EINVAL);
		CHECK(strstr(d.e.text, "all of its queues or none"));
		device_close(&d);
	}
}

TEST(without_a_configuration_only_types_that_need_none)
{
	for (uint16_t type = 1; type <= 63; type++) {
		const struct vu_type *t = vu_type_of(type);
		struct device d;
		device_init(&d, FEATURES(0), 0);
		d.p.protocol &= ~VHOST_USER_PF_BIT(CONFIG);
		device_open(&d, type, 0);
		CHECK_EQ(d.rc < 0, t && t->needs_config);
		if (d.rc < 0)
			CHECK(strstr(d.e.text, "VHOST_USER_PROTOCOL_F_CONFIG") && strstr(d.e.text, t->name));
		else
			CHECK_EQ(d.b->config_len, type == 1 ? 6 : 0); // not asked for, and there: drivers look
		device_close(&d);
		CHECK_EQ(d.questions, 0);
	}
}

TEST(a_network_device_without_a_configuration_offers_nothing_that_stands_there)
{
	const uint64_t plain = FEATURES(1 | 1 << 7 | 1 << 15), there = 1 << 3 | 1 << 5 | 1 << 16 | 1 << 17 | 1 << 21 | 1 << 22;
	struct device d;
	uint64_t offered = 0;
	uint8_t shown[6] = { 1, 1, 1, 1, 1, 1 };
	device_init(&d, plain | there, 256); // with more queues than commands would need
	d.p.protocol &= ~VHOST_USER_PF_BIT(CONFIG);
	device_open(&d, 1, 0);
	CHECK_EQ(d.rc, 0);
	CHECK_EQ(d.b->ops->features(d.b, &offered), 0);
	CHECK_EQ(offered & (plain | there) & 0xffffff, plain & 0xffffff);
	CHECK_EQ(d.b->queue_count, 2);
	CHECK_EQ(d.b->ops->config_read(d.b, 0, shown, 6), 0);
	CHECK(memcmp(shown, (uint8_t[6]){ 0 }, 6) == 0);
	CHECK_EQ(d.b->ops->config_write(d.b, 0, (uint8_t[6]){ 2, 3, 4, 5, 6, 7 }, 6), 0);
	CHECK_EQ(d.b->ops->config_read(d.b, 0, shown, 6), 0);
	CHECK(memcmp(shown, (uint8_t[6]){ 0 }, 6) == 0);
	device_close(&d);
	CHECK_EQ(d.questions, 0);
}

TEST(rows_are_consistent_with_themselves)
{
	for (uint16_t type = 0; type < 200; type++) {
		const struct vu_type *t = vu_type_of(type);
		CHECK(vu_type_config_len(type, UINT64_MAX) <= 256);
		if (!t)
			continue;
		CHECK(t->queues >= 1 && t->queues <= VU_QUEUES_MAX);
		if (t->config_unknown)
			CHECK_EQ(vu_type_config_len(type, UINT64_MAX), 0);
		if (t->queues_bit)
			CHECK((t->queues_width == 2 || t->queues_width == 4) && t->queues_each > 0 &&
			      vu_type_config_len(type, UINT64_MAX) >= t->queues_off + t->queues_width);
	}
	CHECK_STR(vu_type_feature_name(2, 9), "FLUSH");
	CHECK_STR(vu_type_feature_name(1, 63), "SPEED_DUPLEX");
	CHECK_STR(vu_type_feature_name(40000, 32), "VERSION_1");
	CHECK(!vu_type_feature_name(2, 63) && !vu_type_feature_name(40000, 0) &&
	      !vu_type_feature_name(1, 49));
}
