// SPDX-License-Identifier: BSD-2-Clause
// `minivmm probe` against back-ends good and bad.
#include "tests/unit/test.h"

#include "bridges/probe.h"
#include "tests/fault/vu_peer.h"

static struct peer p;
static char report[16384];
static struct err e;

// Probes `p`, which is set up already; `out` stays empty after a failure.
static int probe(uint16_t virtio_type, int ms)
{
	char name[32];
	snprintf(name, sizeof(name), "fd:%d", p.front);
	const struct probe_params params = { .socket = name,
					     .virtio_type = virtio_type,
					     .carried = ~(PEER_BIT(34) | PEER_BIT(24)),
					     .control_ms = ms };
	memset(report, 0, sizeof(report));
	e.text[0] = '\0';
	FILE *out = fmemopen(report, sizeof(report), "w");
	if (!out)
		abort();
	peer_start(&p);
	int rc = probe_run(&params, out, &e);
	fclose(out);
	close(p.front); // the probe had a copy
	atomic_store(&p.release, true);
	peer_join(&p);
	peer_free(&p);
	return rc;
}

static bool says(const char *line)
{
	const char *at = strstr(report, line);
	if (!at)
		printf("\"%s\" is missing in:\n%s%s\n", line, report, e.text);
	return at && (at == report || at[-1] == '\n');
}

TEST(a_disk_is_described)
{
	const unsigned fds = count_fds();
	peer_init(&p);
	p.features |= PEER_BIT(34) | PEER_BIT(24) | PEER_BIT(26) | PEER_BIT(9) | PEER_BIT(22);
	p.protocol |= PEER_BIT(8) | PEER_BIT(12) | PEER_BIT(15) | PEER_BIT(40);
	CHECK_EQ(probe(2, 3000), 1);
	CHECK(says("protocol   0 MQ                       used: "));
	CHECK(says("protocol   1 LOG_SHMFD                not offered\n"));
	CHECK(says("protocol   8 PAGEFAULT                not used: "));
	CHECK(says("protocol  12 INFLIGHT_SHMFD           used: "));
	CHECK(says("protocol  22 SHMEM                    not offered\n"));
	CHECK(says("protocol  40 ?                        not used: "));
	CHECK(says("virtio     9 FLUSH                    used: "));
	CHECK(says("virtio    22 ?                        used: "));
	CHECK(says("virtio    24 NOTIFY_ON_EMPTY          not used: "));
	CHECK(says("virtio    26 LOG_ALL                  not used: "));
	CHECK(says("virtio    32 VERSION_1                used: "));
	CHECK(says("virtio    34 RING_PACKED              not used: "));
	CHECK(says("queues    it has up to 4, 4 would be used\n"));
	CHECK(says("memory    up to 32 regions, "));
	CHECK(says("config    60 bytes\n"));
	CHECK(says("verdict   minivmm would use it\n"));
	CHECK_EQ(count_fds(), fds);
}

TEST(nothing_is_changed_by_asking)
{
	peer_init(&p);
	p.protocol = UINT64_MAX;
	struct peer_message *log = p.log;
	// The log goes with the peer: looked at while it is there.
	char name[32];
	snprintf(name, sizeof(name), "fd:%d", p.front);
	const struct probe_params params = { .socket = name, .virtio_type = 2, .carried = UINT64_MAX };
	FILE *out = fopen("/dev/null", "w");
	CHECK(out);
	peer_start(&p);
	CHECK_EQ(probe_run(&params, out, &e), 1);
	fclose(out);
	close(p.front);
	peer_join(&p);
	for (unsigned i = 0; i < p.count; i++) {
		const uint32_t r = log[i].h.request;
		CHECK(r == VHOST_USER_SET_OWNER || r == VHOST_USER_GET_FEATURES ||
		      r == VHOST_USER_GET_PROTOCOL_FEATURES || r == VHOST_USER_SET_PROTOCOL_FEATURES ||
		      r == VHOST_USER_GET_QUEUE_NUM || r == VHOST_USER_GET_MAX_MEM_SLOTS ||
		      r == VHOST_USER_GET_CONFIG || r == VHOST_USER_GET_SHMEM_CONFIG);
		CHECK_EQ(log[i].fds, 0);
	}
	peer_free(&p);
}

TEST(shared_memory_is_summed_up)
{
	peer_init(&p);
	p.protocol |= PEER_BIT(10) | PEER_BIT(22);
	p.shared.count = 2;
	p.shared.size[1] = 0x10000;
	p.shared.size[200] = 0x2000;
	CHECK_EQ(probe(2, 3000), 1);
	CHECK(says("protocol  22 SHMEM                    used: where `shared_memory` allows it"));
	CHECK(says("shared    2 regions of memory, 73728 bytes for `shared_memory` to allow\n"));
	// Sizes that no computer has.
	peer_init(&p);
	p.protocol |= PEER_BIT(10) | PEER_BIT(22);
	p.shared.size[0] = p.shared.size[1] = UINT64_MAX - 4095;
	CHECK_EQ(probe(2, 3000), 1);
	CHECK(says("shared    2 regions of memory, 18446744073709551615 bytes"));
}

TEST(without_a_type_its_features_have_no_names)
{
	peer_init(&p);
	CHECK_EQ(probe(0, 3000), 1);
	CHECK(says("virtio    12 ?                        used: "));
	CHECK(says("virtio    28 INDIRECT_DESC            used: "));
	CHECK(says("queues    it has up to 4; how many are used is for the type to say (--virtio)\n"));
	CHECK(says("config    256 bytes are shown when it is asked for all\n"));
}

TEST(a_network_device_without_a_control_queue)
{
	peer_init(&p);
	p.features = PEER_BIT(32) | PEER_BIT(30) | PEER_BIT(17) | PEER_BIT(15);
	p.queue_num = 2;
	CHECK_EQ(probe(1, 3000), 1);
	CHECK(says("virtio    15 MRG_RXBUF                used: "));
	CHECK(says("virtio    17 CTRL_VQ                  not used: it needs a control queue"));
	CHECK(says("queues    it has up to 2, 2 would be used\n"));
}

TEST(what_would_be_refused_is_said)
{
	const struct {
		uint64_t features, protocol, queues, slots;
		uint16_t type;
		const char *refused;
	} cases[] = {
		{ PEER_BIT(32), 0, 4, 8, 4, "refused   it has no protocol features" },
		{ PEER_BIT(30), 0, 4, 8, 4, "refused   it offers legacy virtio only" },
		{ PEER_BIT(32) | PEER_BIT(30), 8, 4, 8, 2,
		  "refused   a blk device cannot do without its conf" },
		{ PEER_BIT(32) | PEER_BIT(30), 1, 0, 8, 4, "refused   it says that it has no queues" },
		{ PEER_BIT(32) | PEER_BIT(30), 1 << 15, 4, 0, 4,
		  "refused   it says that it takes no memory" },
		{ PEER_BIT(32) | PEER_BIT(30), 1 << 9, 4, 8, 20,
		  "refused   a crypto device has all of its 201 queues or none" },
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		peer_init(&p);
		p.features = cases[i].features;
		p.protocol = cases[i].protocol;
		p.queue_num = cases[i].queues;
		p.mem_slots = cases[i].slots;
		p.config[4] = 200; // of a crypto device, the data queues
		CHECK_EQ(probe(cases[i].type, 3000), 0);
		CHECK(says(cases[i].refused));
		CHECK(says("verdict   minivmm would refuse it\n"));
	}
}

static bool refuse_config(struct peer *peer, const struct peer_message *m)
{
	struct vhost_user_config c;
	memcpy(&c, m->payload, sizeof(c));
	if (m->h.request == VHOST_USER_GET_CONFIG && (int)c.len > peer->fault_arg)
		peer_reply(peer, m->h.request, NULL, 0);
	else
		peer_answer(peer, m);
	return true;
}

TEST(a_configuration_that_is_too_short)
{
	peer_init(&p);
	p.every = true;
	p.fault = refuse_config;
	p.fault_arg = 10;
	CHECK_EQ(probe(2, 3000), 0);
	CHECK(says("config    10 bytes\n"));
	CHECK(says("refused   a blk device with these features has 60 bytes of configuration space\n"));
}

static bool be_mute(struct peer *peer, const struct peer_message *m)
{
	(void)m;
	while (!atomic_load(&peer->release))
		usleep(1000);
	return false;
}

static bool hang_up(struct peer *peer, const struct peer_message *m)
{
	(void)peer;
	(void)m;
	return false;
}

static bool answer_wrongly(struct peer *peer, const struct peer_message *m)
{
	const uint64_t value = 0;
	peer_reply(peer, m->h.request + 1, &value, 8);
	return true;
}

static bool bring_descriptors(struct peer *peer, const struct peer_message *m)
{
	struct {
		struct vhost_user_header h;
		uint8_t value[16];
	} reply = { .h = { m->h.request, 5, 8 } };
	const int fds[2] = { 0, 1 };
	peer_send_fds(peer, &reply, 20, fds, 2);
	return true;
}

TEST(mute_and_broken_back_ends_are_one_line)
{
	static const uint32_t at[] = { VHOST_USER_GET_FEATURES, VHOST_USER_GET_PROTOCOL_FEATURES,
				       VHOST_USER_GET_QUEUE_NUM, VHOST_USER_GET_MAX_MEM_SLOTS,
				       VHOST_USER_GET_CONFIG };
	static const struct {
		bool (*fault)(struct peer *peer, const struct peer_message *m);
		const char *text;
	} faults[] = {
		{ be_mute, "does not answer" },
		{ hang_up, "closed its connection" },
		{ answer_wrongly, "broke the protocol" },
		{ bring_descriptors, "sent descriptors where none are due" },
	};
	for (size_t i = 0; i < ARRAY_LEN(at); i++)
		for (size_t k = 0; k < ARRAY_LEN(faults); k++) {
			const unsigned fds = count_fds();
			peer_init(&p);
			p.protocol |= VHOST_USER_PF_BIT(CONFIGURE_MEM_SLOTS);
			p.at = at[i];
			p.fault = faults[k].fault;
			const deadline_ns start = own_now();
			CHECK(probe(2, faults[k].fault == be_mute ? 150 : 3000) < 0);
			CHECK(own_ms_since(start) < 2000);
			CHECK_STR(report, "");
			CHECK(strstr(e.text, faults[k].text) && strstr(e.text, "VHOST_USER_GET_"));
			CHECK(strstr(e.text, "probe: the back-end ") && !strchr(e.text, '\n'));
			CHECK_EQ(count_fds(), fds);
		}
}

TEST(nobody_there)
{
	const struct probe_params params = { .socket = "/nonexistent/socket", .control_ms = 100 };
	CHECK_EQ(-probe_run(&params, stdout, &e), ENOENT);
	CHECK(strstr(e.text, "/nonexistent/socket"));
}
