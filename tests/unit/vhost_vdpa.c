// SPDX-License-Identifier: BSD-2-Clause
// vhost-vdpa: what a device is asked and told, in which order, and what becomes of its answers.
#include "tests/unit/test.h"

#include "bridges/vhost_vdpa.h"
#include "tests/unit/fake_vhost.h"
#include "vmm/base/fd.h"
#include "vmm/base/loop.h"
#include "vmm/config.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>

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
static unsigned changes, failures, deaths;
static rlim_t memlock;
static struct device_config cfg;

static void config_changed(void *owner)
{
	(void)owner;
	changes++;
}

static void queue_failed(void *owner)
{
	(void)owner;
	failures++;
}

static void died(void *owner, const char *why)
{
	(void)owner;
	CHECK(strstr(why, "removed"));
	deaths++;
}

static const struct backend_events events = { .config_changed = config_changed,
					      .queue_failed = queue_failed,
					      .died = died };

// A process that may not raise its limit.
int getrlimit(__rlimit_resource_t which, struct rlimit *r)
{
	if (which != RLIMIT_MEMLOCK)
		return (int)syscall(SYS_prlimit64, 0, which, NULL, r);
	*r = (struct rlimit){ memlock, memlock };
	return 0;
}
int setrlimit(__rlimit_resource_t which, const struct rlimit *r)
{
	if (which != RLIMIT_MEMLOCK)
		return (int)syscall(SYS_prlimit64, 0, which, r, NULL);
	errno = EPERM;
	return -1;
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
	changes = failures = deaths = 0;
	memlock = RLIM_INFINITY;
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
	CHECK_STR(
		fake.log,
		"VHOST_VDPA_GET_DEVICE_ID VHOST_GET_FEATURES VHOST_SET_OWNER VHOST_GET_BACKEND_FEATURES "
		"VHOST_SET_BACKEND_FEATURES VHOST_VDPA_GET_VQS_COUNT VHOST_VDPA_GET_VRING_NUM "
		"VHOST_VDPA_GET_CONFIG_SIZE VHOST_VDPA_GET_IOVA_RANGE VHOST_VDPA_GET_AS_NUM VHOST_VDPA_GET_GROUP_NUM "
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

// Only a device that can go on afterwards is suspended, and only one that runs.
TEST(a_pause_and_its_end)
{
	for (unsigned resumes = 0; resumes < 2; resumes++) {
		uint32_t base;
		struct vring_cfg ring = { .size = 64,
					  .desc_gpa = 0x1000,
					  .avail_gpa = 0x2000,
					  .used_gpa = 0x3000,
					  .kick_fd = 100,
					  .call_fd = -1 };
		set_up();
		if (!resumes)
			fake.kernel &= ~UINT64_C(0x20);
		CHECK_EQ(open_it(), 0);
		fake.log[0] = '\0';
		CHECK_EQ(b->ops->pause(b, true), 0);
		CHECK_EQ(b->ops->pause(b, false), 0);
		CHECK_STR(fake.log, "");
		CHECK_EQ(b->ops->negotiate(b, VERSION_1), 0);
		CHECK_EQ(b->ops->memory(b, &table), 0);
		CHECK_EQ(b->ops->queue_start(b, 0, &ring), 0);
		CHECK_EQ(b->ops->run(b, true), 0);
		fake.log[0] = '\0';
		CHECK_EQ(b->ops->pause(b, true), 0);
		CHECK_EQ(b->ops->pause(b, true), 0);
		CHECK_EQ(b->ops->pause(b, false), 0);
		CHECK_STR(fake.log, resumes ? "VHOST_VDPA_SUSPEND VHOST_VDPA_RESUME" : "");
		// The end of a machine that is paused: it stands already.
		CHECK_EQ(b->ops->pause(b, true), 0);
		fake.log[0] = '\0';
		CHECK_EQ(b->ops->queue_stop(b, 0, &base), 0);
		CHECK_EQ(b->ops->run(b, false), 0);
		CHECK_STR(fake.log, resumes ? CLEAR " " STATUS : "VHOST_VDPA_SUSPEND " CLEAR " " STATUS);
		// After its reset nothing is left of the pause.
		CHECK_EQ(b->ops->pause(b, false), 0);
		CHECK_EQ(strstr(fake.log, "RESUME") != NULL, 0);
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

// The kernel's VDUSE keeps what it was told after the close of the node, and who drives the device next would be served from there.
TEST(at_its_close_a_device_forgets_its_memory)
{
	set_up();
	CHECK_EQ(open_it(), 0);
	fake.log[0] = '\0';
	b->ops->close(b);
	CHECK_STR(fake.log, "BEGIN UNMAP UNMAP END");

	set_up();
	CHECK_EQ(open_it(), 0);
	CHECK_EQ(b->ops->negotiate(b, VERSION_1), 0);
	CHECK_EQ(b->ops->run(b, true), 0);
	fake.log[0] = '\0';
	b->ops->close(b);
	CHECK_STR(fake.log, STATUS " BEGIN UNMAP UNMAP END"); // not under its rings
	CHECK_EQ(fake.status, 0);
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
	set_up();
	CHECK_EQ(open_it(), 0);
	b->events = &events;
	fd_event_signal(fake.config_fd);
	loop_once(&loop, 0);
	loop_once(&loop, 0);
	CHECK_EQ(changes, 1);
	b->ops->close(b);
}

TEST(address_spaces_are_chosen_where_there_are_some)
{
	for (unsigned spaces = 1; spaces <= 2; spaces++) {
		set_up();
		fake.spaces = spaces;
		fake.groups = 3;
		CHECK_EQ(open_it(), 0);
		fake.log[0] = '\0';
		CHECK_EQ(b->ops->negotiate(b, VERSION_1), 0);
		CHECK_STR(strstr(fake.log, "FEATURES "),
			  spaces == 1 ? "FEATURES " STATUS
				      : "FEATURES " STATUS " VHOST_VDPA_SET_GROUP_ASID "
					"VHOST_VDPA_SET_GROUP_ASID VHOST_VDPA_SET_GROUP_ASID");
		b->ops->close(b);
	}
}

TEST(a_device_that_gives_up_is_found_when_its_configuration_is_read) // B29
{
	uint8_t byte;
	set_up();
	CHECK_EQ(open_it(), 0);
	b->events = &events;
	CHECK_EQ(b->ops->negotiate(b, VERSION_1), 0);
	CHECK_EQ(b->ops->run(b, true), 0);
	CHECK_EQ(b->ops->config_read(b, 0, &byte, 1), 0);
	CHECK_EQ(failures, 0);
	fake.status |= 0x40;
	CHECK_EQ(b->ops->config_read(b, 0, &byte, 1), 0);
	CHECK_EQ(failures, 1);
	b->ops->close(b);
}

TEST(a_device_with_doorbell_pages_shows_one_for_each_queue)
{
	set_up();
	CHECK_EQ(open_it(), 0);
	CHECK(!b->doorbell_pages && !b->doorbell_fixed); // /dev/null cannot be mapped
	b->ops->close(b);
	set_up();
	cfg.path = "/dev/zero";
	fake.queues = 3;
	CHECK_EQ(open_it(), 0);
	CHECK(b->doorbell_pages);
	*(volatile uint16_t *)b->doorbell_fixed[0] = 1;
	CHECK(b->doorbell_fixed[0] != b->doorbell_fixed[1] && b->doorbell_fixed[1] != b->doorbell_fixed[2]);
	b->ops->close(b);
}

static bool fd_is(int fd, const char *what)
{
	char path[32], to[64] = "";
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return readlink(path, to, sizeof(to) - 1) > 0 && strstr(to, what);
}

TEST(a_device_that_is_removed_is_dead_and_let_go_of)
{
	uint8_t byte;
	uint32_t base;
	uint64_t any;
	set_up();
	// A node that can be taken away by anybody: a terminal's, when its other end is closed.
	int other = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	CHECK(other >= 0 && unlockpt(other) == 0);
	fake.watched = lowest_fd();
	const int lowest = fake.watched;
	cfg.path = ptsname(other);
	CHECK_EQ(open_it(), 0);
	b->events = &events;
	CHECK_EQ(vhost_vdpa_keep(b, NULL, &e), 0);
	CHECK_EQ(b->ops->negotiate(b, VERSION_1), 0);
	CHECK_EQ(fchmod(lowest, 0600), 0);
	loop_once(&loop, 0);
	CHECK_EQ(deaths, 0); // its rights have changed
	close(other);
	CHECK_EQ(fchmod(lowest, 0640), 0);
	loop_once(&loop, 0);
	loop_once(&loop, 0);
	CHECK_EQ(deaths, 1);
	for (unsigned i = 0; i < 1000 && !fd_is(lowest, "eventfd"); i++)
		usleep(10000);
	CHECK(fd_is(lowest, "eventfd"));
	fake.log[0] = '\0';
	CHECK_EQ(b->ops->features(b, &any), 0);
	CHECK_EQ(b->ops->negotiate(b, VERSION_1), -EPIPE);
	CHECK_EQ(b->ops->config_read(b, 0, &byte, 1), -EPIPE);
	CHECK_EQ(b->ops->config_write(b, 0, &byte, 1), -EPIPE);
	CHECK_EQ(b->ops->memory(b, &table), -EPIPE);
	CHECK_EQ(b->ops->queue_start(b, 0, &(struct vring_cfg){ .size = 8 }), -EPIPE);
	CHECK_EQ(b->ops->queue_stop(b, 0, &base), -EPIPE);
	CHECK_EQ(b->ops->run(b, true), -EPIPE);
	CHECK_EQ(b->ops->run(b, false), -EPIPE);
	b->ops->close(b);
	CHECK_STR(fake.log, "");
	CHECK_EQ(deaths, 1);
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
	CHECK_REFUSED(fake.fail_request = VHOST_IOTLB_UPDATE; fake.fail_error = EFAULT;
		      memlock = 1 << 16, "RLIMIT_MEMLOCK does not allow it (ulimit -l 1056");
	CHECK_REFUSED(fake.fail_request = VHOST_IOTLB_UPDATE;
		      fake.fail_error = EFAULT, "map the guest's memory for it: ");
}

TEST(every_call_of_an_open_may_fail)
{
	unsigned refusals = 0;
	bool all = false;
	for (unsigned n = 1; !all; n++) {
		set_up();
		const int lowest = lowest_fd();
		fake.fail_call = n;
		all = open_it() == 0;
		refusals += !all;
		CHECK(all || *e.text);
		if (all)
			b->ops->close(b);
		CHECK_EQ(lowest_fd(), lowest);
	}
	CHECK_EQ(refusals, 12 + 4);
}
