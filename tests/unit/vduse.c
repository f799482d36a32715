// SPDX-License-Identifier: BSD-2-Clause
// The VDUSE carrier against a kernel in memory: this program's own ioctl() and open().  The node is one end of a socket pair, whose other
// end says what the kernel would.  Its state is shared with the keeper, which is a process of its own.
#include "devices/sdk/vduse_impl.h"
#include "tests/unit/driver.h"
#include "tests/unit/test.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/base/virtio_id.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_net.h>
#include <stdarg.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define QUEUES	 2
#define BIT(n)	 (UINT64_C(1) << (n))
#define GOOD	 (BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_F_ACCESS_PLATFORM))
#define OK_STATE (VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_FEATURES_OK)

// ---- the kernel -------------------------------------------------------------------------------------------------

struct entry {
	uint64_t start, last, offset;
	uint8_t perm;
	int fd;
};

static struct kernel {
	bool no_control, exists, attached, connected, gave_up;
	int create_error, wrong_interrupts; // that many are refused
	struct vduse_dev_config config;
	uint8_t config_bytes[64];
	uint16_t setup[VDEV_QUEUES_MAX];
	uint64_t features;
	struct vduse_vq_info info[QUEUES];
	int kick[QUEUES];
	unsigned irqs[QUEUES], config_irqs, creates, destroys, asked_iotlb;
	unsigned entries;
	struct entry entry[4];
} * k;

static int peer = -1; // the kernel's end of the node

static int fail(int error)
{
	errno = error;
	return -1;
}

static int on_create(const struct vduse_dev_config *c)
{
	if (k->create_error)
		return fail(k->create_error);
	if (k->exists)
		return fail(EEXIST);
	memset(k->info, 0, sizeof(k->info));
	memcpy(&k->config, c, sizeof(*c));
	memcpy(k->config_bytes, c->config, c->config_size);
	k->exists = true;
	k->creates++;
	return 0;
}

static int on_destroy(const char *name)
{
	if (!k->exists || strcmp(name, k->config.name) != 0)
		return fail(EINVAL);
	if (k->attached || k->connected)
		return fail(EBUSY);
	k->exists = false;
	k->destroys++;
	return 0;
}

static int on_iotlb(struct vduse_iotlb_entry *e)
{
	k->asked_iotlb++;
	for (unsigned i = 0; i < k->entries; i++) {
		const struct entry *m = &k->entry[i];
		// an entry that does not even contain what was asked for is the first one's to be: absurd answers
		if (i > 0 && (e->start < m->start || e->start > m->last))
			continue;
		*e = (struct vduse_iotlb_entry){
			.start = m->start, .last = m->last, .offset = m->offset, .perm = m->perm
		};
		return dup(m->fd);
	}
	return fail(EINVAL);
}

static int on_inject(uint32_t q)
{
	if (k->wrong_interrupts > 0) {
		k->wrong_interrupts--;
		return fail(EINVAL);
	}
	k->irqs[q]++;
	return 0;
}

static int on_kickfd(const struct vduse_vq_eventfd *e)
{
	k->kick[e->index] = e->fd;
	return 0;
}

static int on_info(struct vduse_vq_info *i)
{
	const uint32_t index = i->index;
	if (k->gave_up)
		return fail(EPERM);
	*i = k->info[index];
	i->index = index;
	return 0;
}

static int on_config(const struct vduse_config_data *c)
{
	memcpy(k->config_bytes + c->offset, c->buffer, c->length);
	return 0;
}

int ioctl(int fd, unsigned long request, ...)
{
	va_list ap;
	va_start(ap, request);
	void *arg = va_arg(ap, void *);
	va_end(ap);
	switch (request) {
	case VDUSE_SET_API_VERSION:
		return 0;
	case VDUSE_CREATE_DEV:
		return on_create(arg);
	case VDUSE_DESTROY_DEV:
		return on_destroy(arg);
	case VDUSE_VQ_SETUP: {
		const struct vduse_vq_config *c = arg;
		k->setup[c->index] = c->max_size;
		return 0;
	}
	case VDUSE_DEV_GET_FEATURES:
		memcpy(arg, &k->features, sizeof(k->features));
		return 0;
	case VDUSE_VQ_GET_INFO:
		return on_info(arg);
	case VDUSE_VQ_SETUP_KICKFD:
		return on_kickfd(arg);
	case VDUSE_VQ_INJECT_IRQ:
		return on_inject(*(const uint32_t *)arg);
	case VDUSE_IOTLB_GET_FD:
		return on_iotlb(arg);
	case VDUSE_DEV_SET_CONFIG:
		return on_config(arg);
	case VDUSE_DEV_INJECT_CONFIG_IRQ:
		k->config_irqs++;
		return 0;
	default:
		return (int)syscall(SYS_ioctl, fd, request, arg);
	}
}

static int node(void)
{
	int ends[2];
	if (!k->exists)
		return fail(ENOENT);
	if (k->connected)
		return fail(EBUSY);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0)
		return -1;
	fd_close(&peer);
	peer = ends[0];
	k->connected = true;
	return ends[1];
}

int open(const char *path, int flags, ...)
{
	va_list ap;
	va_start(ap, flags);
	mode_t mode = flags & O_CREAT ? va_arg(ap, mode_t) : 0;
	va_end(ap);
	if (strcmp(path, "/dev/vduse/control") == 0)
		return k->no_control ? fail(ENOENT)
				     : (int)syscall(SYS_openat, AT_FDCWD, "/dev/null", O_RDWR | O_CLOEXEC);
	if (strcmp(path, "/dev/vduse/t0") == 0)
		return node();
	return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

// ---- the device -------------------------------------------------------------------------------------------------

static struct vdev d;
static struct driver dr;
static struct err e;
static struct carrier const *const c = &carrier_vduse;
static struct session *session;
static char dir[32], record[64];
static bool hold; // the device keeps what it takes
static unsigned held, served, starts, stops;
static struct vq_chain kept[8];
static uint8_t config[60];

static int dev_start(struct vdev *v, uint64_t features)
{
	(void)v;
	(void)features;
	starts++;
	return 0;
}

static void dev_stop(struct vdev *v)
{
	(void)v;
	stops++;
}

static void dev_kick(struct vdev *v, struct vq *q)
{
	struct iovec iov[8];
	struct vq_chain chain;
	(void)v;
	while (vq_pop(q, &chain, iov, 8) > 0) {
		if (hold) {
			kept[held++] = chain;
			continue;
		}
		if (chain.writable)
			memset(iov[chain.readable].iov_base, 0x77, iov[chain.readable].iov_len);
		served++;
		vq_push(q, chain.head, 1);
	}
	vq_publish(q);
	vq_notify_enable(q);
}

static void dev_drain(struct vdev *v, struct vq *q)
{
	(void)q;
	while (held > 0)
		vq_push(&v->queues[0], kept[--held].head, 1);
	vq_publish(&v->queues[0]);
}

static const struct vdev_ops ops = {
	.program = "vduse-test",
	.virtio_type = VIRTIO_BLK,
	.start = dev_start,
	.stop = dev_stop,
	.kick = dev_kick,
	.drain = dev_drain,
};

static void fresh_device(void)
{
	static struct vq queues[QUEUES + 1];
	loop_destroy(&d.loop);
	d = (struct vdev){ .ops = &ops,
			   .features = VQ_FEATURES | BIT(VIRTIO_BLK_F_CONFIG_WCE) | BIT(VIRTIO_BLK_F_FLUSH),
			   .queue_count = QUEUES,
			   .queue_size_max = 256,
			   .config = config,
			   .config_len = sizeof(config),
			   .queues = queues };
	for (unsigned i = 0; i < QUEUES + 1; i++)
		queues[i] = (struct vq){ .index = (uint16_t)i, .call_fd = -1, .err_fd = -1 };
	loop_init(&d.loop);
	hold = false;
	held = served = starts = stops = 0;
	session = NULL;
}

static void set_up(void)
{
	if (!k)
		k = mmap(NULL, sizeof(*k), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	memset(k, 0, sizeof(*k));
	k->features = GOOD;
	d.loop.epoll_fd = -1;
	fresh_device();
	log_init("vduse", LOG_ERROR);
	snprintf(dir, sizeof(dir), "/tmp/minivmm-vduse.XXXXXX");
	if (!mkdtemp(dir) || !driver_open(&dr))
		abort();
	snprintf(record, sizeof(record), "%s/record", dir);
}

static void tear_down(void)
{
	driver_close(&dr);
	fd_close(&peer);
	loop_destroy(&d.loop);
	if (rmdir(dir) < 0) { // no test leaves its record
		printf("%s: %s\n", dir, strerror(errno));
		test_failed = true;
	}
}

static int opened(void)
{
	const struct vduse_options o = { .name = "t0", .record = record };
	e.text[0] = '\0';
	return vduse_open(&d, &o, &e);
}

static bool bring_up(void)
{
	int fd = opened();
	session = fd < 0 ? NULL : c->open(&d, fd);
	return session;
}

static void turn(void)
{
	int ms;
	for (unsigned i = 0; i < 4; i++) {
		vdev_turn(&d, 0);
		c->alive(session, &ms);
	}
}

// Says it as the kernel, and gives the answer's result, -1: none.
static int say(const struct vduse_dev_request *rq, struct vduse_dev_response *re)
{
	static struct vduse_dev_response none;
	re = re ? re : &none;
	if (write(peer, rq, sizeof(*rq)) != (ssize_t)sizeof(*rq))
		return -1;
	turn();
	return read(peer, re, sizeof(*re)) == (ssize_t)sizeof(*re) && re->request_id == rq->request_id
		       ? (int)re->result
		       : -1;
}

static int say_status(uint8_t status)
{
	return say(
		&(struct vduse_dev_request){ .type = VDUSE_SET_STATUS, .request_id = 7, .s.status = status },
		NULL);
}

static int say_iotlb(uint64_t start, uint64_t last)
{
	return say(&(struct vduse_dev_request){ .type = VDUSE_UPDATE_IOTLB,
						.request_id = 8,
						.iova = { .start = start, .last = last } },
		   NULL);
}

static void memory(uint8_t perm)
{
	k->entries = 1;
	k->entry[0] = (struct entry){
		.start = DRIVER_GPA, .last = DRIVER_GPA + DRIVER_MEM - 1, .perm = perm, .fd = dr.fd
	};
}

static void queue_ready(void)
{
	k->info[0] = (struct vduse_vq_info){ .num = DRIVER_SIZE,
					     .desc_addr = DRIVER_GPA + DRIVER_DESC,
					     .driver_addr = DRIVER_GPA + DRIVER_AVAIL,
					     .device_addr = DRIVER_GPA + DRIVER_USED,
					     .ready = 1 };
}

// A driver that is at work.
static bool driver_up(void)
{
	memory(VDUSE_ACCESS_RW);
	queue_ready();
	return say_status(1) == 0 && say_status(OK_STATE) == 0;
}

static void offer(unsigned head)
{
	driver_desc(&dr, head, DRIVER_DATA + 64 * head, 16, VRING_DESC_F_WRITE, 0);
	driver_offer(&dr, head);
	fd_event_signal(k->kick[0]);
	turn();
}

// As SIGKILL does it: what the kernel and the record know is all that is left.
static void die(void)
{
	struct vduse *s = d.session;
	guest_mem_clear(&d.mem);
	for (unsigned i = 0; i < VDEV_QUEUES_MAX; i++)
		fd_close(&s->ring[i].kick.fd);
	fd_close(&s->keeper.fd);
	fd_close(&s->node.fd);
	vduse_record_close(&s->record);
	free(s);
	k->connected = false;
	fresh_device();
}

static int leave(void)
{
	k->connected = false; // it closes the node before it asks
	return c->close(session);
}

// ---- making it --------------------------------------------------------------------------------------------------

TEST(makes_a_device_of_what_vduse_can_carry)
{
	set_up();
	memset(config, 0x5a, sizeof(config));
	CHECK(bring_up());
	CHECK_STR(k->config.name, "t0");
	CHECK_EQ(k->config.device_id, VIRTIO_BLK);
	CHECK_EQ(k->config.vq_num, QUEUES);
	CHECK_EQ(k->config.vq_align, 4096);
	CHECK_EQ(k->config.config_size, sizeof(config));
	CHECK_EQ(k->config_bytes[59], 0x5a);
	CHECK(k->config.features & BIT(VIRTIO_F_ACCESS_PLATFORM));
	CHECK(k->config.features & BIT(VIRTIO_BLK_F_FLUSH));
	CHECK(!(k->config.features & (BIT(VIRTIO_F_RING_RESET) | BIT(VIRTIO_BLK_F_CONFIG_WCE))));
	CHECK_EQ(k->setup[0], 256);
	CHECK_EQ(k->setup[1], 256);
	CHECK_EQ(leave(), 0);
	CHECK(!k->exists);
	CHECK(access(record, F_OK) < 0);
	tear_down();
}

TEST(a_network_device_has_one_pair_and_no_control_queue)
{
	static struct vdev_ops net;
	net = ops;
	net.virtio_type = VIRTIO_NET;
	set_up();
	d.ops = &net;
	d.queue_count = 3;
	d.features = VQ_FEATURES | BIT(VIRTIO_NET_F_CTRL_VQ) | BIT(VIRTIO_NET_F_MQ) | BIT(VIRTIO_NET_F_MAC);
	CHECK(bring_up());
	CHECK_EQ(k->config.vq_num, 2);
	CHECK(k->config.features & BIT(VIRTIO_NET_F_MAC));
	CHECK(!(k->config.features & (BIT(VIRTIO_NET_F_CTRL_VQ) | BIT(VIRTIO_NET_F_MQ))));
	CHECK_EQ(leave(), 0);
	tear_down();
}

TEST(refusals_are_one_sentence)
{
	static const char *const names[] = { "", ".", "a/b", "control", "../x" };
	set_up();
	for (unsigned i = 0; i < 5; i++) {
		const struct vduse_options o = { .name = names[i], .record = record };
		CHECK_EQ(vduse_open(&d, &o, &e), -EINVAL);
		CHECK(strstr(e.text, "is no name for a device"));
	}
	k->no_control = true;
	CHECK_EQ(opened(), -ENOENT);
	CHECK(strstr(e.text, "modprobe vduse"));
	CHECK(access(record, F_OK) < 0);
	k->no_control = false;
	k->create_error = EINVAL;
	CHECK_EQ(opened(), -EINVAL);
	CHECK(strstr(e.text, "takes none of virtio type 2"));
	k->create_error = EPERM;
	CHECK_EQ(opened(), -EPERM);
	CHECK(strstr(e.text, "CAP_NET_ADMIN"));
	CHECK(access(record, F_OK) < 0);
	CHECK_EQ(symlink("/etc/passwd", record), 0);
	CHECK_EQ(opened(), -ELOOP);
	unlink(record);
	tear_down();
}

TEST(a_device_that_nobody_uses_is_made_anew)
{
	set_up();
	k->exists = true;
	snprintf(k->config.name, sizeof(k->config.name), "t0");
	CHECK(bring_up());
	CHECK_EQ(k->destroys, 1);
	CHECK_EQ(k->creates, 1);
	leave();
	tear_down();
}

TEST(a_device_in_use_is_not_taken_over_without_its_record)
{
	set_up();
	k->exists = k->attached = true;
	CHECK_EQ(opened(), -EEXIST);
	CHECK(strstr(e.text, "nobody knows what was in flight"));
	k->connected = false;
	k->gave_up = true;
	CHECK_EQ(opened(), -EIO);
	CHECK(strstr(e.text, "the kernel gave it up"));
	CHECK(access(record, F_OK) < 0);
	tear_down();
}

TEST(the_record_has_one_holder)
{
	struct vduse_record a, b;
	set_up();
	CHECK_EQ(vduse_record_open(&a, record, 1, 256, &e), 0);
	CHECK_EQ(vduse_record_open(&b, record, 1, 256, &e), -EBUSY);
	CHECK(strstr(e.text, "another process serves this device"));
	vduse_record_close(&a);
	CHECK_EQ(vduse_record_open(&b, record, 1, 256, &e), 0);
	vduse_record_close(&b);
	chmod(record, 0666);
	CHECK_EQ(vduse_record_open(&b, record, 1, 256, &e), -EPERM);
	unlink(record);
	tear_down();
}

// ---- serving ----------------------------------------------------------------------------------------------------

TEST(serves_requests_through_memory_mapped_as_it_comes_up)
{
	set_up();
	CHECK(bring_up());
	CHECK_EQ(k->asked_iotlb, 0);
	CHECK(driver_up());
	CHECK_EQ(starts, 1);
	CHECK_EQ(k->asked_iotlb, 1); // all of it by one question
	offer(3);
	CHECK_EQ(served, 1);
	CHECK_EQ(dr.ram[DRIVER_DATA + 192], 0x77);
	CHECK_EQ(dr.used->idx, 1);
	CHECK_EQ(k->irqs[0], 1);
	CHECK_EQ(say_status(0), 0);
	CHECK_EQ(stops, 1);
	CHECK_EQ(d.mem.count, 0);
	offer(4);
	CHECK_EQ(served, 1); // nobody listens after a reset
	CHECK_EQ(leave(), 0);
	tear_down();
}

TEST(features_that_were_not_offered_are_refused)
{
	set_up();
	CHECK(bring_up());
	k->features = BIT(VIRTIO_F_ACCESS_PLATFORM);
	CHECK_EQ(say_status(VIRTIO_CONFIG_S_FEATURES_OK), VDUSE_REQ_RESULT_FAILED);
	k->features = GOOD | BIT(VIRTIO_F_RING_RESET);
	CHECK_EQ(say_status(VIRTIO_CONFIG_S_FEATURES_OK), VDUSE_REQ_RESULT_FAILED);
	CHECK_EQ(say_status(OK_STATE), VDUSE_REQ_RESULT_FAILED);
	CHECK_EQ(starts, 0);
	k->features = GOOD;
	CHECK_EQ(say_status(VIRTIO_CONFIG_S_FEATURES_OK), 0);
	leave();
	tear_down();
}

TEST(an_interrupt_that_comes_too_early_is_given_again)
{
	int ms;
	set_up();
	CHECK(bring_up());
	CHECK(driver_up());
	k->wrong_interrupts = 20;
	offer(0);
	CHECK_EQ(k->irqs[0], 0);
	for (unsigned i = 0; i < 40 && !k->irqs[0]; i++) {
		CHECK(c->alive(session, &ms));
		CHECK(ms == 1 || k->irqs[0]);
	}
	CHECK_EQ(k->irqs[0], 1);
	CHECK(c->alive(session, &ms));
	CHECK_EQ(ms, -1);
	leave();
	tear_down();
}

TEST(absurd_answers_of_the_iotlb_map_nothing)
{
	int ends[2];
	set_up();
	CHECK_EQ(pipe2(ends, O_CLOEXEC), 0);
	const uint64_t at = DRIVER_GPA, last = at + DRIVER_MEM - 1;
	const struct entry rows[] = {
		{ at + 0x8000, last, 0, VDUSE_ACCESS_RW, dr.fd }, // begins behind what was asked for
		{ 0, at - 1, 0, VDUSE_ACCESS_RW, dr.fd },
		{ last, at, 0, VDUSE_ACCESS_RW, dr.fd },
		{ 0, UINT64_MAX, 0, VDUSE_ACCESS_RW, dr.fd },
		{ at, UINT64_MAX, 0, VDUSE_ACCESS_RW, dr.fd },
		{ at, last + 1, 0, VDUSE_ACCESS_RW, dr.fd },
		{ at, last, UINT64_MAX - 4095, VDUSE_ACCESS_RW, dr.fd },
		{ at, last, UINT64_C(1) << 63, VDUSE_ACCESS_RW, dr.fd },
		{ at, last, 4096, VDUSE_ACCESS_RW, dr.fd },
		{ at, last, 0, 0, dr.fd },
		{ at, last, 0, 0xff, dr.fd },
		{ at, last, 0, VDUSE_ACCESS_RW, ends[0] },
	};
	CHECK(bring_up());
	queue_ready();
	k->entries = 1;
	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		k->entry[0] = rows[i];
		CHECK_EQ(say_status(1), 0);
		int before = dup(0);
		close(before);
		CHECK_EQ(say_status(OK_STATE), 0); // the queue waits for memory
		int after = dup(0);
		close(after);
		CHECK_EQ(after, before); // the descriptor is closed
		CHECK_EQ(d.mem.count, 0);
		CHECK(!d.queues[0].running);
		CHECK_EQ(say_status(0), 0);
	}
	CHECK(driver_up()); // and then it goes
	CHECK(d.queues[0].running);
	leave();
	close(ends[0]);
	close(ends[1]);
	tear_down();
}

TEST(read_only_memory_is_read_and_not_written)
{
	set_up();
	CHECK(bring_up());
	CHECK(driver_up());
	const uint64_t rom = DRIVER_GPA + DRIVER_MEM;
	k->entries = 2;
	k->entry[1] = (struct entry){
		.start = rom, .last = rom + 4095, .offset = 4096, .perm = VDUSE_ACCESS_RO, .fd = dr.fd
	};
	// the first one again in front, but only where it is
	driver_desc(&dr, 0, DRIVER_MEM, 16, VRING_DESC_F_NEXT, 1);
	driver_desc(&dr, 1, DRIVER_DATA, 16, VRING_DESC_F_WRITE, 0);
	k->entry[0] = k->entry[1];
	driver_offer(&dr, 0);
	fd_event_signal(k->kick[0]);
	turn();
	CHECK_EQ(served, 1);
	CHECK_EQ(d.mem.count, 2);
	driver_desc(&dr, 2, DRIVER_MEM, 16, VRING_DESC_F_WRITE, 0);
	driver_offer(&dr, 2);
	fd_event_signal(k->kick[0]);
	turn();
	CHECK_EQ(served, 1);
	CHECK(d.queues[0].failed);
	// no ring lies there either
	CHECK(!guest_mem_at(&d.mem, GUEST_USER, rom, 16));
	leave();
	tear_down();
}

TEST(memory_that_goes_and_comes_back)
{
	set_up();
	CHECK(bring_up());
	CHECK(driver_up());
	offer(0);
	hold = true;
	offer(1);
	CHECK_EQ(held, 1);
	CHECK_EQ(say_iotlb(0, UINT64_MAX), 0); // what was in flight is done, the rings are found again
	CHECK_EQ(dr.used->idx, 2);
	CHECK(d.queues[0].running);
	hold = false;
	k->entries = 0;
	CHECK_EQ(say_iotlb(0, UINT64_MAX), 0);
	CHECK_EQ(d.mem.count, 0);
	CHECK(!d.queues[0].running);
	offer(2);
	CHECK_EQ(dr.used->idx, 2);
	memory(VDUSE_ACCESS_RW);
	CHECK_EQ(say_iotlb(0, 4095), 0);
	turn();
	CHECK_EQ(dr.used->idx, 3); // from where it was, not from the beginning
	CHECK_EQ(served, 2);
	CHECK_EQ(say_iotlb(5, 4), VDUSE_REQ_RESULT_FAILED);
	leave();
	tear_down();
}

TEST(queue_states_and_unknown_messages)
{
	struct vduse_dev_response re;
	struct vduse_dev_request rq = { .type = VDUSE_GET_VQ_STATE, .request_id = 3 };
	set_up();
	CHECK(bring_up());
	k->info[1].split.avail_index = 99;
	CHECK(driver_up());
	offer(0);
	offer(1);
	CHECK_EQ(say(&rq, &re), 0);
	CHECK_EQ(re.vq_state.split.avail_index, 2);
	rq.vq_state.index = 1; // never made ready
	CHECK_EQ(say(&rq, &re), 0);
	CHECK_EQ(re.vq_state.index, 1);
	CHECK_EQ(re.vq_state.split.avail_index, 99);
	rq.vq_state.index = QUEUES;
	CHECK_EQ(say(&rq, &re), VDUSE_REQ_RESULT_FAILED);
	rq.type = 77;
	CHECK_EQ(say(&rq, &re), VDUSE_REQ_RESULT_FAILED);
	leave();
	tear_down();
}

TEST(packed_states_both_ways)
{
	struct vduse_vq_info info = { .packed = { .last_avail_counter = 1,
						  .last_avail_idx = 5,
						  .last_used_counter = 0,
						  .last_used_idx = 0x7fff } };
	uint32_t base = vduse_base_of(&info, true);
	CHECK_EQ(base, 0x7fff8005);
	struct vduse_vq_state st = vduse_state_of(base, true);
	CHECK(memcmp(&st.packed, &info.packed, sizeof(st.packed)) == 0);
}

TEST(configuration_that_changes_is_told)
{
	set_up();
	CHECK(bring_up());
	config[3] = 0x33;
	vdev_config_changed(&d);
	CHECK_EQ(k->config_bytes[3], 0x33);
	CHECK_EQ(k->config_irqs, 1);
	leave();
	CHECK(!d.config_changed);
	tear_down();
}

// ---- ends -------------------------------------------------------------------------------------------------------

TEST(killed_and_started_again_nothing_is_lost)
{
	set_up();
	CHECK(bring_up());
	CHECK(driver_up());
	offer(0);
	hold = true;
	offer(1);
	offer(2);
	CHECK_EQ(held, 2);
	k->attached = true;
	die();
	driver_desc(&dr, 3, DRIVER_DATA, 16, VRING_DESC_F_WRITE, 0);
	driver_offer(&dr, 3); // its kick is lost with the process
	config[0] = 0x44;
	k->irqs[0] = 0;
	CHECK(bring_up());
	CHECK_EQ(k->creates, 1);
	CHECK_EQ(starts, 1);
	turn();
	CHECK_EQ(served, 3); // two again, one new
	CHECK_EQ(dr.used->idx, 4);
	CHECK(k->irqs[0] >= 1);
	CHECK_EQ(k->config_bytes[0], 0x44);
	offer(4);
	CHECK_EQ(served, 4);
	k->attached = false;
	leave();
	CHECK(!k->exists);
	tear_down();
}

TEST(stopped_in_order_while_in_use_and_gone_on_with)
{
	set_up();
	CHECK(bring_up());
	CHECK(driver_up());
	for (unsigned i = 0; i < 5; i++)
		offer(i);
	k->attached = true;
	CHECK_EQ(leave(), 0);
	CHECK(k->exists);
	fresh_device();
	CHECK(bring_up());
	turn();
	CHECK_EQ(served, 0); // not from where the driver once began
	offer(5);
	CHECK_EQ(served, 1);
	CHECK_EQ(dr.used->idx, 6);
	k->attached = false;
	leave();
	tear_down();
}

TEST(a_reset_that_nobody_heard)
{
	set_up();
	CHECK(bring_up());
	CHECK(driver_up());
	offer(0);
	k->attached = true;
	die();
	k->features = 0;
	memset(k->info, 0, sizeof(k->info));
	memset(dr.ram, 0, 0x4000);
	CHECK(bring_up());
	CHECK_EQ(starts, 0);
	k->features = GOOD;
	CHECK(driver_up());
	offer(1);
	CHECK_EQ(served, 1);
	CHECK_EQ(dr.used->idx, 1);
	k->attached = false;
	leave();
	tear_down();
}

TEST(another_device_of_that_name_is_not_taken_over)
{
	set_up();
	CHECK(bring_up());
	k->attached = true;
	die();
	d.queue_size_max = 128;
	CHECK_EQ(opened(), -EEXIST);
	k->connected = false;
	d.queue_size_max = 256;
	CHECK(bring_up()); // which the failure has not spoiled
	k->attached = false;
	leave();
	tear_down();
}

TEST(a_node_that_ends_ends_the_carrier)
{
	int ms;
	set_up();
	CHECK(bring_up());
	CHECK(driver_up());
	k->attached = true;
	fd_close(&peer);
	vdev_turn(&d, 0);
	CHECK(!c->alive(session, &ms));
	CHECK_EQ(leave(), -EIO);
	CHECK(k->exists);
	unlink(record);
	tear_down();
}
