// SPDX-License-Identifier: BSD-2-Clause
// vhost-vdpa: what a device is asked and told, in which order, and what becomes of its answers.
#include "tests/unit/test.h"

#include "bridges/vhost_vdpa.h"
#include "tests/unit/fake_vhost.h"
#include "vmm/base/fd.h"
#include "vmm/base/loop.h"
#include "vmm/config.h"

#include <fcntl.h>

#define VERSION_1 (UINT64_C(1) << 32)
#define PLATFORM  (UINT64_C(1) << 33)
#define STATUS	  "VHOST_VDPA_SET_STATUS VHOST_VDPA_GET_STATUS"
#define SETUP                                                                                 \
	"VHOST_SET_VRING_NUM VHOST_SET_VRING_BASE VHOST_SET_VRING_ADDR VHOST_SET_VRING_CALL " \
	"VHOST_SET_VRING_ERR VHOST_SET_VRING_KICK VHOST_VDPA_SET_VRING_ENABLE"
#define CLEAR "VHOST_GET_VRING_BASE VHOST_SET_VRING_KICK VHOST_SET_VRING_CALL VHOST_SET_VRING_ERR"

static uint8_t ram[1 << 16];
static const struct mem_table table = { .count = 2,
					.region = {
						{ .gpa = 0, .size = 0x4000, .hva = ram },
						{ .gpa = 0x100000, .size = 0x4000, .hva = ram + 0x8000 } } };
static struct loop loop;
static struct backend *b;
static struct err e;
static unsigned changes;
static struct device_config cfg;

static void config_changed(void *owner)
{
	(void)owner;
	changes++;
}

static int lowest_fd(void)
{
	int fd = dup(0);
	close(fd);
	return fd;
}

static void set_up(void)
{
	static bool once;
	if (!once)
		loop_init(&loop);
	once = true;
	fake_reset();
	b = NULL;
	changes = 0;
	e.text[0] = '\0';
	cfg = (struct device_config){ .id = "d", .via = VIA_VHOST_VDPA, .path = "/dev/null" };
	fake.watched = lowest_fd(); // the node is the first that is opened
}

static int open_it(void)
{
	return vhost_vdpa_open(&b, &cfg, &loop, &table, &e);
}

TEST(a_device_says_what_it_is_and_gets_its_memory_in_one_batch)
{
	uint64_t offered;
	uint8_t config[60] = { 0 };
	set_up();
	CHECK_EQ(open_it(), 0);
	CHECK_STR(fake.log,
		  "VHOST_VDPA_GET_DEVICE_ID VHOST_GET_FEATURES VHOST_SET_OWNER VHOST_GET_BACKEND_FEATURES "
		  "VHOST_SET_BACKEND_FEATURES VHOST_VDPA_GET_VQS_COUNT VHOST_VDPA_GET_VRING_NUM "
		  "VHOST_VDPA_GET_CONFIG_SIZE VHOST_VDPA_GET_IOVA_RANGE VHOST_VDPA_GET_GROUP_NUM "
		  "VHOST_VDPA_SET_CONFIG_CALL BEGIN MAP MAP END");
	CHECK(fake.map[1].iova == 0x100000 && fake.map[1].size == 0x4000 &&
	      fake.map[1].perm == VHOST_ACCESS_RW);
	CHECK_EQ(fake.map[1].uaddr, (uintptr_t)(ram + 0x8000));
	CHECK(b->virtio_type == 2 && b->queue_count == 1 && b->queue_size_max == 128 && b->config_len == 60);
	CHECK_EQ(b->ops->features(b, &offered), 0);
	CHECK_EQ(offered & (PLATFORM | UINT64_C(1) << 40), 0);
	CHECK_EQ(b->ops->config_read(b, 4, config, 40), 0);
	CHECK(config[39] == 0xc0 && config[40] == 0);
	b->ops->close(b);
}

TEST(start_and_stop_with_a_device_that_suspends_and_one_that_does_not)
{
	for (unsigned suspends = 0; suspends < 2; suspends++) {
		uint32_t base;
		struct vring_cfg ring = { .size = 64,
					  .desc_gpa = 0x1000,
					  .avail_gpa = 0x2000,
					  .used_gpa = 0x3000,
					  .kick_fd = 100,
					  .call_fd = -1 };
		set_up();
		if (!suspends)
			fake.kernel &= ~UINT64_C(0x10);
		CHECK_EQ(open_it(), 0);
		fake.log[0] = '\0';
		CHECK_EQ(b->ops->negotiate(b, VERSION_1), 0);
		CHECK_STR(fake.log,
			  STATUS " " STATUS " VHOST_SET_FEATURES " STATUS " VHOST_VDPA_SET_GROUP_ASID");
		CHECK_EQ(fake.taken, VERSION_1 | PLATFORM);
		fake.log[0] = '\0';
		CHECK_EQ(b->ops->memory(b, &table), 0);
		CHECK_EQ(b->ops->queue_start(b, 0, &ring), 0);
		CHECK_EQ(b->ops->run(b, true), 0);
		CHECK_STR(fake.log, SETUP " " STATUS); // the memory is there since it was opened
		CHECK_EQ(fake.addr[0].desc_user_addr, 0x1000);
		CHECK_EQ(fake.status, 15);
		fake.log[0] = '\0';
		CHECK_EQ(b->ops->queue_stop(b, 0, &base), 0);
		CHECK_EQ(b->ops->run(b, false), 0);
		CHECK_STR(fake.log,
			  suspends ? "VHOST_VDPA_SUSPEND " CLEAR " " STATUS : STATUS " " CLEAR " " STATUS);
		CHECK_EQ(fake.status, 0);
		b->ops->close(b);
	}
}

TEST(a_device_whose_reset_forgets_its_memory_is_told_again)
{
	set_up();
	fake.kernel &= ~UINT64_C(0x100);
	CHECK_EQ(open_it(), 0);
	fake.log[0] = '\0';
	CHECK_EQ(b->ops->run(b, false), 0);
	CHECK_STR(fake.log, STATUS " BEGIN UNMAP UNMAP MAP MAP END");
	b->ops->close(b);
}

TEST(status_bits_that_are_never_set_are_refusals) // B29
{
	set_up();
	CHECK_EQ(open_it(), 0);
	fake.status_lost = 8;
	CHECK_EQ(b->ops->negotiate(b, VERSION_1), -EIO);
	fake.status_lost = 4;
	CHECK_EQ(b->ops->negotiate(b, VERSION_1), 0);
	CHECK_EQ(b->ops->run(b, true), -EIO);
	b->ops->close(b);
}

TEST(a_configuration_interrupt_is_passed_on)
{
	static const struct backend_events events = { .config_changed = config_changed };
	set_up();
	CHECK_EQ(open_it(), 0);
	b->events = &events;
	fd_event_signal(fake.config_fd);
	loop_once(&loop, 0);
	loop_once(&loop, 0);
	CHECK_EQ(changes, 1);
	b->ops->close(b);
}

#define CHECK_REFUSED(prepare, sentence)                           \
	do {                                                       \
		set_up();                                          \
		const int lowest = lowest_fd();                    \
		prepare;                                           \
		CHECK(open_it() < 0);                              \
		CHECK(strstr(e.text, "d: /dev/null: ") == e.text); \
		if (!strstr(e.text, sentence))                     \
			printf("%s\n", e.text);                    \
		CHECK(strstr(e.text, sentence));                   \
		CHECK_EQ(lowest_fd(), lowest);                     \
	} while (0)

TEST(what_cannot_be_used_is_refused_with_the_mend)
{
	CHECK_REFUSED(fake.fail_request = VHOST_VDPA_GET_DEVICE_ID;
		      fake.fail_error = ENOTTY, "not a vhost-vdpa device");
	CHECK_REFUSED(fake.type = 0, "virtio type 0");
	CHECK_REFUSED(fake.type = 64, "virtio type 64");
	CHECK_REFUSED((cfg.virtio_type = 1, cfg.virtio_name = "net"),
		      "virtio = \"net\", but it is a blk (2)");
	CHECK_REFUSED(fake.features = PLATFORM, "legacy");
	CHECK_REFUSED(fake.kernel = 0, "newer kernel");
	CHECK_REFUSED(fake.queues = 0, "it has 0 queues");
	CHECK_REFUSED(fake.queues = 65, "it has 65 queues");
	CHECK_REFUSED(cfg.queues = 3, "queues = 3, but it has 1");
	CHECK_REFUSED(cfg.queue_size = 256, "queue_size = 256, but it has at most 128");
	CHECK_REFUSED(fake.ring = 0, "no entries");
	CHECK_REFUSED(fake.config_len = 5000, "5000 bytes");
	CHECK_REFUSED(fake.iova_last = 0x100fff, "give the guest less");
	CHECK_REFUSED(fake.fail_request = VHOST_SET_OWNER; fake.fail_error = EBUSY, "one descriptor");
	CHECK_REFUSED(fake.fail_request = VHOST_IOTLB_UPDATE; fake.fail_error = ENOMEM, "RLIMIT_MEMLOCK");
	CHECK_REFUSED(fake.fail_request = VHOST_IOTLB_UPDATE;
		      fake.fail_error = EINVAL, "map the guest's memory: ");
}

TEST(every_call_of_an_open_may_fail)
{
	unsigned failures = 0;
	bool all = false;
	for (unsigned n = 1; !all; n++) {
		set_up();
		const int lowest = lowest_fd();
		fake.fail_call = n;
		all = open_it() == 0;
		failures += !all;
		CHECK(all || *e.text);
		if (all)
			b->ops->close(b);
		CHECK_EQ(lowest_fd(), lowest);
	}
	CHECK_EQ(failures, 11 + 4);
}
