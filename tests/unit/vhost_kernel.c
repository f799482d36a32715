// SPDX-License-Identifier: BSD-2-Clause
// Kernel vhost: what is asked of the kernel, in which order, and what a refusal leads to.
#include "tests/unit/test.h"

#include "bridges/vhost_kernel.h"
#include "tests/unit/fake_vhost.h"
#include "vmm/base/fd.h"
#include "vmm/base/loop.h"
#include "vmm/config.h"

#include <fcntl.h>
#include <linux/virtio_net.h>

#define VERSION_1 (UINT64_C(1) << 32)
#define SETUP                                                                                 \
	"VHOST_SET_VRING_NUM VHOST_SET_VRING_BASE VHOST_SET_VRING_ADDR VHOST_SET_VRING_CALL " \
	"VHOST_SET_VRING_ERR VHOST_SET_VRING_KICK"
#define CLEAR "VHOST_GET_VRING_BASE VHOST_SET_VRING_KICK VHOST_SET_VRING_CALL VHOST_SET_VRING_ERR"

static uint8_t ram[1 << 16];
static struct mem_table table; // two pieces side by side, then a hole
static struct loop loop;
static struct backend *b;
static struct err e;
static unsigned failed_queues;
static char node[16];
static int node_fd = -1;

static void queue_failed(void *owner)
{
	(void)owner;
	failed_queues++;
}

static void set_up(void)
{
	static bool once;
	if (!once) {
		loop_init(&loop);
		node_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
		snprintf(node, sizeof(node), "fd:%d", node_fd);
		once = true;
	}
	fake_reset();
	b = NULL;
	failed_queues = 0;
	e.text[0] = '\0';
	table = (struct mem_table){ .count = 3,
				    .region = { { .gpa = 0, .size = 0x4000, .hva = ram },
						{ .gpa = 0x4000, .size = 0x4000, .hva = ram + 0x4000 },
						{ .gpa = 0x100000, .size = 0x4000, .hva = ram + 0x8000 } } };
}

static int open_net(const struct mem_table *t)
{
	static struct device_config cfg;
	cfg = (struct device_config){ .id = "n",
				      .via = VIA_VHOST,
				      .virtio_type = 1,
				      .virtio_name = "net",
				      .path = node,
				      .tap = node,
				      .mac = "52:54:00:00:00:07",
				      .mtu = 1400 };
	return vhost_kernel_open(&b, &cfg, &loop, t, NULL, &e);
}

static int open_vsock(void)
{
	static struct device_config cfg;
	cfg = (struct device_config){ .id = "v",
				      .via = VIA_VHOST,
				      .virtio_type = 19,
				      .virtio_name = "vsock",
				      .path = node,
				      .cid = 42 };
	return vhost_kernel_open(&b, &cfg, &loop, NULL, NULL, &e);
}

static struct vring_cfg ring(void)
{
	return (struct vring_cfg){ .size = 64,
				   .desc_gpa = 0x1000,
				   .avail_gpa = 0x5000,
				   .used_gpa = 0x100000,
				   .kick_fd = 100,
				   .call_fd = 101 };
}

static int start(unsigned queues)
{
	const struct vring_cfg cfg = ring();
	int rc = b->ops->memory(b, &table);
	for (unsigned q = 0; q < queues && rc == 0; q++)
		rc = b->ops->queue_start(b, q, &cfg);
	return rc == 0 ? b->ops->run(b, true) : rc;
}

static int open_fds(void)
{
	int n = 0;
	for (int fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

TEST(net_is_set_up_started_and_stopped_in_order)
{
	uint64_t offered = 0;
	uint32_t base = 0;
	uint8_t config[12];
	set_up();
	CHECK_EQ(open_net(&table), 0);
	CHECK_EQ(b->queue_count, 2);
	CHECK_EQ(fake.header, 12);
	CHECK_EQ(fake.regions, 2);
	CHECK(fake.region[0].memory_size == 0x8000 && fake.region[1].guest_phys_addr == 0x100000);
	CHECK_EQ(fake.region[1].userspace_addr, (uintptr_t)(ram + 0x8000));
	CHECK_EQ(b->config_len, 12);
	CHECK_EQ(b->ops->config_read(b, 0, config, 12), 0);
	CHECK(memcmp(config, "\x52\x54\x00\x00\x00\x07\x01\x00\x01\x00\x78\x05", 12) == 0);
	CHECK_EQ(b->ops->features(b, &offered), 0);
	// Neither logging, nor the kernel's own header, nor queues by themselves, nor addresses that are looked up.
	CHECK_EQ(offered & (UINT64_C(1) << 26 | UINT64_C(1) << 27 | UINT64_C(1) << 33 | UINT64_C(1) << 40),
		 0);

	CHECK_EQ(b->ops->negotiate(b, VERSION_1 | 1 << VIRTIO_NET_F_MAC | 1 << VIRTIO_NET_F_GUEST_CSUM |
					      1 << VIRTIO_NET_F_GUEST_TSO6 | 1 << VIRTIO_NET_F_MRG_RXBUF),
		 0);
	CHECK_EQ(fake.taken, VERSION_1 | 1 << VIRTIO_NET_F_MRG_RXBUF);
	CHECK_EQ(fake.offload, TUN_F_CSUM | TUN_F_TSO6);
	fake.log[0] = '\0';
	CHECK_EQ(start(2), 0);
	CHECK_STR(fake.log,
		  "VHOST_SET_MEM_TABLE " SETUP " " SETUP " VHOST_NET_SET_BACKEND VHOST_NET_SET_BACKEND");
	CHECK_EQ(fake.addr[1].desc_user_addr, (uintptr_t)(ram + 0x1000));
	CHECK_EQ(fake.addr[1].avail_user_addr, (uintptr_t)(ram + 0x5000));
	CHECK_EQ(fake.addr[1].used_user_addr, (uintptr_t)(ram + 0x8000));
	CHECK(fake.backend[0] >= 0 && fake.backend[0] == fake.backend[1]);

	fake.log[0] = '\0';
	CHECK_EQ(b->ops->queue_stop(b, 0, &base), 0);
	CHECK_EQ(base, 7);
	CHECK_EQ(b->ops->queue_stop(b, 1, &base), 0);
	CHECK_EQ(b->ops->run(b, false), 0);
	CHECK_STR(fake.log, "VHOST_NET_SET_BACKEND VHOST_NET_SET_BACKEND " CLEAR " " CLEAR);
	CHECK(fake.backend[0] == -1 && fake.backend[1] == -1);
	b->ops->close(b);
}

TEST(vsock_has_two_queues_for_the_kernel_and_one_for_nobody)
{
	uint32_t base = 1;
	uint64_t cid = 0;
	set_up();
	CHECK_EQ(open_vsock(), 0);
	CHECK_EQ(b->queue_count, 3);
	CHECK_EQ(fake.cid, 42);
	CHECK_EQ(b->ops->config_read(b, 0, &cid, 8), 0);
	CHECK_EQ(cid, 42);
	CHECK_EQ(b->ops->negotiate(b, VERSION_1), 0);
	fake.log[0] = '\0';
	CHECK_EQ(start(3), 0);
	CHECK_STR(fake.log, "VHOST_SET_MEM_TABLE " SETUP " " SETUP " VHOST_VSOCK_SET_RUNNING on");
	fake.log[0] = '\0';
	CHECK_EQ(b->ops->queue_stop(b, 2, &base), 0);
	CHECK_EQ(base, 0);
	CHECK_STR(fake.log, "VHOST_VSOCK_SET_RUNNING off");
	b->ops->close(b);
}

TEST(refusals_when_it_is_opened_have_their_sentences) // K05
{
	static const struct {
		unsigned long request;
		int error;
		const char *sentence;
	} cases[] = {
		{ VHOST_SET_OWNER, EBUSY, "it has an owner already: one descriptor serves one machine" },
		{ VHOST_SET_OWNER, ENOTTY, "not a device of the vhost family" },
		{ VHOST_SET_MEM_TABLE, E2BIG,
		  "it takes fewer than the 3 regions of this guest's memory "
		  "(raise /sys/module/vhost/parameters/max_mem_regions)" },
		{ VHOST_GET_FEATURES, EFAULT, "VHOST_GET_FEATURES: Bad address" },
		{ TUNGETIFF, EINVAL, "the descriptor is not a tap's: Invalid argument" },
		{ TUNSETVNETHDRSZ, EINVAL, "tap no-such-if: TUNSETVNETHDRSZ: Invalid argument" },
	};
	set_up();
	const int before = open_fds();
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		set_up();
		fake.fail_request = cases[i].request;
		fake.fail_error = cases[i].error;
		CHECK(open_net(&table) < 0);
		CHECK(strncmp(e.text, "n: ", 3) == 0 && strstr(e.text, cases[i].sentence));
		CHECK_EQ(open_fds(), before);
	}
	set_up();
	fake.features = 0;
	CHECK(open_net(&table) == -ENOTSUP && strstr(e.text, "legacy"));
	set_up();
	fake.fail_request = VHOST_VSOCK_SET_GUEST_CID;
	fake.fail_error = EADDRINUSE;
	CHECK_EQ(open_vsock(), -EADDRINUSE);
	CHECK_STR(e.text, "v: cid = 42: another machine of this host has it");
	CHECK_EQ(open_fds(), before);
}

TEST(refusals_while_it_runs_are_told_and_leave_nothing_running) // K05
{
	set_up();
	CHECK_EQ(open_net(&table), 0);
	fake.fail_request = VHOST_SET_FEATURES;
	CHECK_EQ(b->ops->negotiate(b, VERSION_1), -EIO);
	CHECK_EQ(b->ops->negotiate(b, VERSION_1 | UINT64_C(1) << 33), -EINVAL);
	fake.fail_request = VHOST_SET_MEM_TABLE;
	fake.fail_error = E2BIG;
	CHECK_EQ(b->ops->memory(b, &table), -E2BIG);
	b->ops->close(b);
}

TEST(each_call_of_a_start_may_fail)
{
	set_up();
	const int before = open_fds();
	unsigned n = 1, failures = 0;
	for (bool all = false; !all; n++) {
		uint32_t base;
		set_up();
		CHECK_EQ(open_net(&table), 0);
		CHECK_EQ(b->ops->negotiate(b, VERSION_1), 0);
		fake.fail_call = fake.calls + n;
		all = start(2) == 0;
		failures += !all;
		fake.fail_call = 0;
		b->ops->queue_stop(b, 0, &base);
		b->ops->queue_stop(b, 1, &base);
		CHECK_EQ(b->ops->run(b, false), 0);
		CHECK(fake.backend[0] < 0 && fake.backend[1] < 0);
		CHECK_EQ(start(2), 0);
		b->ops->close(b);
		CHECK(fake.backend[0] == -1 && fake.backend[1] == -1);
		CHECK_EQ(open_fds(), before);
	}
	CHECK_EQ(failures, 1 + 6 + 6 + 2);
}

TEST(a_ring_that_breaks_the_rules_is_told_once)
{
	static const struct backend_events events = { .queue_failed = queue_failed };
	set_up();
	CHECK_EQ(open_net(&table), 0);
	b->events = &events;
	CHECK_EQ(b->ops->negotiate(b, VERSION_1), 0);
	CHECK_EQ(start(2), 0);
	for (unsigned i = 0; i < 3; i++) {
		fd_event_signal(fake.err_fd);
		loop_once(&loop, 0);
	}
	CHECK_EQ(failed_queues, 1);
	b->ops->close(b);
}

TEST(scsi_is_refused_for_its_abi_and_for_a_target_that_is_not_there)
{
	static struct device_config cfg;
	cfg = (struct device_config){ .id = "s",
				      .via = VIA_VHOST,
				      .virtio_type = 8,
				      .virtio_name = "scsi",
				      .path = node,
				      .wwpn = "naa.0" };
	set_up();
	const int before = open_fds();
	fake.abi = 2;
	CHECK_EQ(vhost_kernel_open(&b, &cfg, &loop, NULL, NULL, &e), -ENOTSUP);
	CHECK(strstr(e.text, "ABI version 2, minivmm knows 1"));
	set_up();
	CHECK_EQ(vhost_kernel_open(&b, &cfg, &loop, NULL, NULL, &e), -ENOENT);
	CHECK(strstr(e.text, "s: wwpn = naa.0: there is no such target (mkdir -p "));
	cfg.wwpn = "../vhost";
	set_up();
	CHECK_EQ(vhost_kernel_open(&b, &cfg, &loop, NULL, NULL, &e), -EINVAL);
	CHECK_EQ(open_fds(), before);
}

// ---- several pairs ----------------------------------------------------------------------------------------------

#define COMMANDS (UINT64_C(1) << VIRTIO_NET_F_CTRL_VQ | UINT64_C(1) << VIRTIO_NET_F_MQ)
#define PAIRS	 2

// The process for commands, which writes into the same log as the kernel.
static struct control {
	struct backend b;
	uint64_t features, negotiated;
	const char *fails; // the operation that is refused
	unsigned queue, closed, mistakes;
} control;

static int control_does(const char *what)
{
	fake_note(what);
	return control.fails && strcmp(what, control.fails) == 0 ? -EPIPE : 0;
}

static int control_features(struct backend *c, uint64_t *out)
{
	(void)c;
	*out = control.features;
	return 0;
}

static int control_negotiate(struct backend *c, uint64_t features)
{
	(void)c;
	control.negotiated = features;
	return control_does("negotiate");
}

static int control_memory(struct backend *c, const struct mem_table *t)
{
	(void)c;
	control.mistakes += t->count != 3;
	return control_does("memory");
}

static int control_queue_start(struct backend *c, unsigned q, const struct vring_cfg *cfg)
{
	(void)c;
	control.mistakes += cfg->desc_gpa != 0x1000;
	control.queue = q;
	return control_does("start");
}

static int control_queue_stop(struct backend *c, unsigned q, uint32_t *base)
{
	(void)c;
	control.mistakes += q != control.queue;
	*base = 42;
	return control_does("stop");
}

static int control_run(struct backend *c, bool on)
{
	control.mistakes += c->deadline != b->deadline;
	return control_does(on ? "on" : "off");
}

static bool control_stop_begin(struct backend *c)
{
	(void)c;
	control_does("begin");
	return true;
}

static void control_close(struct backend *c)
{
	(void)c;
	control.closed++;
}

static const struct backend_ops control_ops = {
	.kind = "fake",
	.features = control_features,
	.negotiate = control_negotiate,
	.memory = control_memory,
	.queue_start = control_queue_start,
	.queue_stop = control_queue_stop,
	.run = control_run,
	.stop_begin = control_stop_begin,
	.close = control_close,
};

static void set_up_pairs(void)
{
	set_up();
	fake.multi_queue = true;
	control = (struct control){ .b = { .ops = &control_ops, .queue_count = 2 * PAIRS + 1 },
				    // as of a program that has all kinds of rings but this one
				    .features = ~(UINT64_C(1) << 35) };
}

static int open_pairs(void)
{
	static struct device_config cfg;
	static int tap[PAIRS] = { -1, -1 };
	const struct vhost_kernel_pairs pairs = { .count = PAIRS, .tap = tap, .control = &control.b };
	for (unsigned i = 0; i < PAIRS; i++)
		tap[i] = tap[i] < 0 ? fcntl(node_fd, F_DUPFD_CLOEXEC, 3) : tap[i];
	cfg = (struct device_config){ .id = "n",
				      .via = VIA_VHOST,
				      .virtio_type = 1,
				      .virtio_name = "net",
				      .path = node,
				      .tap = "tap0",
				      .queues = PAIRS };
	return vhost_kernel_open(&b, &cfg, &loop, &table, &pairs, &e);
}

static unsigned bound(void)
{
	unsigned n = 0;
	for (int fd = 0; fd < FAKE_FDS; fd++)
		for (unsigned q = 0; q < 2; q++)
			n += fake.bound[fd][q] >= 0;
	return n;
}

static unsigned detached(void)
{
	unsigned n = 0;
	for (int fd = 0; fd < FAKE_FDS; fd++)
		n += fake.detached[fd];
	return n;
}

TEST(pairs_are_the_kernels_and_commands_a_processs)
{
	uint64_t offered = 0;
	uint32_t base = 0;
	uint16_t pairs = 0;
	int taps[2 * PAIRS], n = 0;
	set_up_pairs();
	CHECK_EQ(open_pairs(), 0);
	CHECK_EQ(b->queue_count, 2 * PAIRS + 1);
	CHECK_EQ(b->ops->config_read(b, 8, &pairs, 2), 0);
	CHECK_EQ(pairs, PAIRS);
	CHECK_EQ(detached(), PAIRS - 1);
	CHECK_EQ(b->ops->features(b, &offered), 0);
	CHECK_EQ(offered & COMMANDS, COMMANDS);
	CHECK(offered & UINT64_C(1) << VIRTIO_NET_F_CTRL_GUEST_OFFLOADS);
	CHECK(offered & UINT64_C(1) << 29 && offered & UINT64_C(1) << VIRTIO_NET_F_GUEST_TSO4);
	// What one of the two cannot: IN_ORDER, packed rings, an address that configuration space would have to show.
	CHECK_EQ(offered &
			 (UINT64_C(1) << 35 | UINT64_C(1) << 34 | UINT64_C(1) << VIRTIO_NET_F_CTRL_MAC_ADDR),
		 0);

	fake.log[0] = '\0';
	CHECK_EQ(b->ops->negotiate(b, VERSION_1 | COMMANDS), 0);
	CHECK_STR(fake.log, "VHOST_SET_FEATURES VHOST_SET_FEATURES TUNSETOFFLOAD negotiate");
	CHECK_EQ(fake.taken, VERSION_1);
	CHECK_EQ(control.negotiated, VERSION_1 | COMMANDS);
	b->deadline = 77;
	memset(fake.detached, 0, sizeof(fake.detached)); // as the driver before left them
	fake.log[0] = '\0';
	CHECK_EQ(start(2 * PAIRS + 1), 0);
	CHECK_STR(fake.log, "VHOST_SET_MEM_TABLE VHOST_SET_MEM_TABLE memory " SETUP " " SETUP " " SETUP
			    " " SETUP " start TUNSETQUEUE VHOST_NET_SET_BACKEND VHOST_NET_SET_BACKEND "
			    "VHOST_NET_SET_BACKEND VHOST_NET_SET_BACKEND on");
	CHECK_EQ(control.queue, 2 * PAIRS);
	CHECK_EQ(bound(), 2 * PAIRS);
	CHECK_EQ(detached(), PAIRS - 1);
	for (int fd = 0; fd < FAKE_FDS; fd++)
		for (int q = 0; q < 2 && n < 2 * PAIRS; q++)
			if (fake.bound[fd][q] >= 0)
				taps[n++] = fake.bound[fd][q];
	CHECK(n == 4 && taps[0] == taps[1] && taps[2] == taps[3] && taps[0] != taps[2]);
	CHECK(!fake.detached[taps[0]] && fake.detached[taps[2]]);

	fake.log[0] = '\0';
	CHECK(b->ops->stop_begin(b));
	for (unsigned q = 0; q < 2 * PAIRS; q++)
		CHECK_EQ(b->ops->queue_stop(b, q, &base), 0);
	CHECK_EQ(b->ops->queue_stop(b, 2 * PAIRS, &base), 0);
	CHECK_EQ(base, 42);
	CHECK_EQ(b->ops->run(b, false), 0);
	CHECK_STR(fake.log, "begin VHOST_NET_SET_BACKEND VHOST_NET_SET_BACKEND VHOST_NET_SET_BACKEND "
			    "VHOST_NET_SET_BACKEND " CLEAR " " CLEAR " " CLEAR " " CLEAR " stop off");
	CHECK_EQ(bound(), 0);
	b->ops->close(b);
	CHECK_EQ(control.closed, 1);
	CHECK_EQ(control.mistakes, 0);
}

TEST(a_driver_without_pairs_has_its_commands_behind_the_first_and_one_without_commands_none)
{
	set_up_pairs();
	CHECK_EQ(open_pairs(), 0);
	CHECK_EQ(b->ops->negotiate(b, VERSION_1 | UINT64_C(1) << VIRTIO_NET_F_CTRL_VQ), 0);
	CHECK_EQ(start(2 * PAIRS + 1), 0); // of which the last two are nobody's
	CHECK_EQ(control.queue, 2);
	CHECK_EQ(bound(), 2);
	uint32_t base;
	for (unsigned q = 0; q < 2 * PAIRS + 1; q++)
		CHECK_EQ(b->ops->queue_stop(b, q, &base), 0);
	CHECK_EQ(b->ops->run(b, false), 0);

	fake.log[0] = '\0';
	CHECK_EQ(b->ops->negotiate(b, VERSION_1), 0);
	CHECK_EQ(start(2 * PAIRS + 1), 0);
	CHECK(!b->ops->stop_begin(b));
	CHECK_STR(fake.log, "VHOST_SET_FEATURES VHOST_SET_FEATURES TUNSETOFFLOAD VHOST_SET_MEM_TABLE "
			    "VHOST_SET_MEM_TABLE " SETUP " " SETUP
			    " TUNSETQUEUE VHOST_NET_SET_BACKEND VHOST_NET_SET_BACKEND");
	CHECK_EQ(bound(), 2);
	b->ops->close(b);
	CHECK_EQ(bound(), 0);
}

TEST(each_call_of_a_start_with_pairs_may_fail)
{
	static const char *const steps[] = { "negotiate", "memory", "start", "on" };
	set_up_pairs();
	CHECK_EQ(open_pairs(), 0);
	b->ops->close(b);
	const int before = open_fds();
	unsigned n = 1, failures = 0;
	for (bool all = false; !all; n++) {
		uint32_t base;
		set_up_pairs();
		CHECK_EQ(open_pairs(), 0);
		fake.fail_call = fake.calls + n;
		all = b->ops->negotiate(b, VERSION_1 | COMMANDS) == 0 && start(2 * PAIRS + 1) == 0;
		all &= fake.calls < fake.fail_call;
		failures += !all;
		fake.fail_call = 0;
		for (unsigned q = 0; q < 2 * PAIRS + 1; q++)
			b->ops->queue_stop(b, q, &base);
		CHECK_EQ(b->ops->run(b, false), 0);
		CHECK_EQ(bound(), 0);
		b->ops->close(b);
		CHECK_EQ(open_fds(), before);
	}
	// TUNSETQUEUE fails of a tap that was deleted: no reason not to start.
	CHECK_EQ(failures, 2 + 1 + 2 + 4 * 6 + 1 + 4);
	for (unsigned i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
		set_up_pairs();
		CHECK_EQ(open_pairs(), 0);
		control.fails = steps[i];
		CHECK((b->ops->negotiate(b, VERSION_1 | COMMANDS) || start(2 * PAIRS + 1)) != 0);
		b->ops->close(b);
		CHECK_EQ(bound(), 0);
		CHECK_EQ(control.closed, 1);
		CHECK_EQ(open_fds(), before);
	}
}

static unsigned deaths;

static void died(void *owner, const char *why)
{
	CHECK_STR(owner, "owner");
	CHECK_STR(why, "killed");
	deaths++;
}

TEST(what_becomes_of_the_process_becomes_of_the_device)
{
	static const struct backend_events events = { .queue_failed = queue_failed, .died = died };
	char owner[] = "owner";
	set_up_pairs();
	CHECK_EQ(open_pairs(), 0);
	control.b.events->died(control.b.owner, "killed"); // nobody hears it yet
	b->events = &events;
	b->owner = owner;
	control.b.events->died(control.b.owner, "killed");
	CHECK_EQ(deaths, 1);
	control.b.events->queue_failed(control.b.owner);
	CHECK_EQ(failed_queues, 1);
	b->ops->close(b);
}

TEST(pairs_that_cannot_be_opened_leave_nothing)
{
	set_up_pairs();
	const int before = open_fds();
	control.features &= ~COMMANDS;
	CHECK_EQ(open_pairs(), -ENOTSUP);
	CHECK_STR(e.text, "n: minivmm-net-control: it is not of this version of minivmm");
	CHECK_EQ(control.closed, 1);
	set_up_pairs();
	control.b.queue_count = 2;
	CHECK_EQ(open_pairs(), -ENOTSUP);
	set_up_pairs();
	fake.multi_queue = false;
	CHECK_EQ(open_pairs(), -EINVAL);
	CHECK(strstr(e.text, "is not opened with IFF_MULTI_QUEUE"));
	CHECK_EQ(control.closed, 1);
	set_up_pairs();
	fake.fail_request = VHOST_SET_OWNER;
	CHECK(open_pairs() < 0);
	CHECK_EQ(control.closed, 1);
	CHECK_EQ(open_fds(), before);
}
