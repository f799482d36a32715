// SPDX-License-Identifier: BSD-2-Clause
// Commands of an interface whose packets the kernel moves: what they do to the queues of a tap, in a process that may be another one
// than before.
#include "tests/unit/test.h"

#include "devices/net/pairs.h"
#include "tests/unit/driver.h"
#include "tests/unit/fake_vhost.h"
#include "vmm/base/log.h"

#include <fcntl.h>

#define PAIRS	  3
#define CONTROL	  (2 * PAIRS)
#define BIT(name) NET_BIT(VIRTIO_NET_F_##name)
#define FEATURES                                                                                 \
	(NET_BIT(VIRTIO_F_VERSION_1) | BIT(CTRL_VQ) | BIT(MQ) | BIT(CTRL_RX) | BIT(GUEST_CSUM) | \
	 BIT(GUEST_TSO4) | BIT(CTRL_GUEST_OFFLOADS))
#define ANSWER_AT 0x800

static struct driver driver;
static struct vdev d;
static struct vq q[CONTROL + 1];
static struct net_pairs pairs;
static int tap[PAIRS]; // numbers of descriptors

static bool program_starts(uint64_t features)
{
	const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	memset(&pairs, 0, sizeof(pairs));
	memset(&d, 0, sizeof(d));
	memset(q, 0, sizeof(q));
	pairs.count = PAIRS;
	for (unsigned i = 0; i < PAIRS; i++) {
		// The same numbers as before: the queues of the tap are what they were.
		tap[i] = tap[i] ? fcntl(null, F_DUPFD_CLOEXEC, tap[i]) : fcntl(null, F_DUPFD_CLOEXEC, 20);
		pairs.tap[i] = (struct tap){ .fd = tap[i], .name = "tap", .multi_queue = true };
	}
	close(null);
	net_pairs_init(&pairs, &d);
	d.queues = q;
	for (unsigned i = 0; i < d.queue_count; i++)
		q[i] = (struct vq){ .index = (uint16_t)i, .enabled = true, .call_fd = -1, .err_fd = -1 };
	net_pairs_start(&pairs, features);
	const unsigned at = features & BIT(MQ) ? CONTROL : 2;
	return driver_open(&driver) &&
	       guest_mem_add(&d.mem, driver.fd, 0, DRIVER_GPA, DRIVER_UVA, DRIVER_MEM) == 0 &&
	       vq_start(&q[at], &d.mem, &driver.place, features) == 0;
}

static void program_ends(void)
{
	guest_mem_clear(&d.mem);
	net_pairs_destroy(&pairs);
	driver_close(&driver);
}

static void set_up(void)
{
	log_init("net", LOG_ERROR);
	fake_reset();
	memset(tap, 0, sizeof(tap));
}

// The device's answer, or 0xee: there is none.
static uint8_t command(unsigned queue, const void *bytes, size_t len)
{
	memcpy(driver.ram + DRIVER_DATA, bytes, len);
	driver.ram[DRIVER_DATA + ANSWER_AT] = 0xee;
	driver_desc(&driver, 0, DRIVER_DATA, (uint32_t)len, VRING_DESC_F_NEXT, 1);
	driver_desc(&driver, 1, DRIVER_DATA + ANSWER_AT, 1, VRING_DESC_F_WRITE, 0);
	driver_offer(&driver, 0);
	net_pairs_kick(&pairs, &d, &q[queue]);
	return driver.ram[DRIVER_DATA + ANSWER_AT];
}
#define COMMAND(queue, bytes) command(queue, bytes, sizeof(bytes) - 1)

static unsigned detached(void)
{
	unsigned bits = 0;
	for (unsigned i = 0; i < PAIRS; i++)
		bits |= (unsigned)fake.detached[tap[i]] << i;
	return bits;
}

TEST(commands_attach_and_detach_queues_of_the_tap)
{
	set_up();
	CHECK(program_starts(FEATURES));
	CHECK_EQ(d.queue_count, CONTROL + 1);
	CHECK_EQ(pairs.config.max_virtqueue_pairs, PAIRS);
	CHECK_EQ(d.features & BIT(CTRL_MAC_ADDR), 0);
	CHECK_EQ(COMMAND(CONTROL, "\4\0\1\0"), VIRTIO_NET_OK);
	CHECK_EQ(detached(), 6);
	CHECK_EQ(COMMAND(CONTROL, "\4\0\2\0"), VIRTIO_NET_OK);
	CHECK_EQ(detached(), 4);
	CHECK_EQ(COMMAND(CONTROL, "\4\0\3\0"), VIRTIO_NET_OK);
	CHECK_EQ(detached(), 0);
	CHECK_EQ(COMMAND(CONTROL, "\4\0\4\0"), VIRTIO_NET_ERR);
	CHECK_EQ(COMMAND(CONTROL, "\4\0\0\0"), VIRTIO_NET_ERR);
	CHECK_EQ(COMMAND(CONTROL, "\1\1\2\0\0\0\0\7"), VIRTIO_NET_ERR); // an address
	CHECK_EQ(COMMAND(CONTROL, "\0\0\1"), VIRTIO_NET_OK);		// promiscuous
	CHECK_EQ(detached(), 0);
	CHECK_EQ(driver.used->idx, 7);
	program_ends();
}

TEST(one_that_was_killed_is_followed_by_one_that_knows_nothing)
{
	set_up();
	CHECK(program_starts(FEATURES));
	CHECK_EQ(COMMAND(CONTROL, "\4\0\2\0"), VIRTIO_NET_OK);
	program_ends();
	fake.calls = 0;
	CHECK(program_starts(FEATURES));
	CHECK_EQ(fake.calls, 0); // the data go on: nothing of the tap is touched
	CHECK_EQ(detached(), 4);
	CHECK_EQ(COMMAND(CONTROL, "\4\0\2\0"),
		 VIRTIO_NET_OK); // which the other one had begun, for all it knows
	CHECK_EQ(detached(), 4);
	CHECK_EQ(COMMAND(CONTROL, "\4\0\1\0"), VIRTIO_NET_OK);
	CHECK_EQ(detached(), 6);
	program_ends();
}

TEST(offloads_are_the_taps)
{
	set_up();
	CHECK(program_starts(FEATURES));
	CHECK_EQ(COMMAND(CONTROL, "\5\0\x82\0\0\0\0\0\0\0"), VIRTIO_NET_OK); // GUEST_CSUM, GUEST_TSO4
	CHECK_EQ(fake.offload, TUN_F_CSUM | TUN_F_TSO4);
	CHECK_EQ(COMMAND(CONTROL, "\5\0\2\1\0\0\0\0\0\0"), VIRTIO_NET_ERR); // GUEST_TSO6: not negotiated
	CHECK_EQ(fake.offload, TUN_F_CSUM | TUN_F_TSO4);
	CHECK_EQ(COMMAND(CONTROL, "\5\0\0\0\0\0\0\0\0\0"), VIRTIO_NET_OK);
	CHECK_EQ(fake.offload, 0);
	fake.fail_request = TUNSETOFFLOAD;
	CHECK_EQ(COMMAND(CONTROL, "\5\0\2\0\0\0\0\0\0\0"), VIRTIO_NET_ERR);
	fake.fail_request = TUNSETQUEUE;
	CHECK_EQ(COMMAND(CONTROL, "\4\0\3\0"), VIRTIO_NET_ERR);
	program_ends();
}

TEST(without_pairs_the_commands_follow_the_first_and_nothing_else_is_looked_at)
{
	set_up();
	CHECK(program_starts(FEATURES & ~BIT(MQ)));
	CHECK_EQ(COMMAND(2, "\0\0\1"), VIRTIO_NET_OK);
	CHECK_EQ(COMMAND(2, "\4\0\2\0"), VIRTIO_NET_ERR);
	program_ends();
	CHECK(program_starts(FEATURES));
	for (unsigned i = 0; i < CONTROL; i++)
		CHECK_EQ(COMMAND(i, "\4\0\2\0"), 0xee);
	CHECK_EQ(fake.calls, 0);
	program_ends();
}
