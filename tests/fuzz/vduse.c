// SPDX-License-Identifier: BSD-2-Clause
// A kernel and a driver from the fuzzer, before the VDUSE carrier and a disk: messages, queues, answers of the IOTLB, memory, errors of
// ioctls, and deaths of the process in between.  Each message has its one answer, and at the end nothing is in flight, no memory mapped
// and no descriptor more than before.
//
// The input is a row of steps: a byte (enum step) and what that step takes, numbers in this machine's order.  The device's own start (the
// node, the keeper, the record's file) comes before all that and is not here: tests/unit/vduse.c.
#include "devices/sdk/vduse_impl.h"
#include "tests/fuzz/disk.h"
#include "vmm/base/check.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/base/virtio_id.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define QUEUES	   2
#define ENTRIES	   4
#define STEPS_MAX  64
#define DEATHS_MAX 4

enum step { MESSAGE, QUEUE, FEATURES, ENTRY, KICK, WRITE, DEATH, ERRORS, CONFIG, STEPS };

// What a step takes; MESSAGE as VDUSE's own.
struct step_message {
	uint8_t type;
	union {
		struct vduse_vq_state vq_state;
		struct vduse_dev_status s;
		struct vduse_iova_range iova;
	};
} __attribute__((packed));

struct step_queue {
	uint8_t index;
	uint32_t num;
	uint64_t desc, driver, device;
	struct vduse_vq_state_packed state;
	uint8_t ready;
} __attribute__((packed));

struct step_entry {
	uint8_t index, fd;
	uint64_t start, last, offset;
	uint8_t perm, always; // the answer whatever is asked
} __attribute__((packed));

struct step_write {
	uint16_t off;
	uint8_t len;
} __attribute__((packed));

struct step_errors {
	uint8_t count, error;
} __attribute__((packed));

static struct disk k;
static struct vduse *session; // as long as it serves
static int peer = -1;	      // the kernel's end of the node

static struct {
	uint64_t features;
	struct vduse_vq_info info[QUEUES];
	struct step_entry entry[ENTRIES];
	int kick[QUEUES];
	struct step_errors fail;
	int fd[4]; // of memory: the guest's, the guest's to be read only, a smaller one, none at all
} kernel;

// ---- the kernel -------------------------------------------------------------------------------------------------

static int on_iotlb(struct vduse_iotlb_entry *e)
{
	for (unsigned i = 0; i < ENTRIES; i++) {
		const struct step_entry *m = &kernel.entry[i];
		if (!m->perm || (!m->always && (e->start < m->start || e->start > m->last)))
			continue;
		*e = (struct vduse_iotlb_entry){
			.start = m->start, .last = m->last, .offset = m->offset, .perm = m->perm
		};
		return dup(kernel.fd[m->fd & 3]);
	}
	errno = EINVAL;
	return -1;
}

static int on_kickfd(const struct vduse_vq_eventfd *e)
{
	disk_must(e->index < QUEUES, "a queue that is not there");
	kernel.kick[e->index] = e->fd;
	return 0;
}

static int on_info(struct vduse_vq_info *i)
{
	const uint32_t index = i->index;
	disk_must(index < QUEUES, "a queue that is not there");
	*i = kernel.info[index];
	i->index = index;
	return 0;
}

static int on_vduse(unsigned long request, void *arg)
{
	switch (request) {
	case VDUSE_DEV_GET_FEATURES:
		memcpy(arg, &kernel.features, sizeof(kernel.features));
		return 0;
	case VDUSE_VQ_GET_INFO:
		return on_info(arg);
	case VDUSE_VQ_SETUP_KICKFD:
		return on_kickfd(arg);
	case VDUSE_IOTLB_GET_FD:
		return on_iotlb(arg);
	case VDUSE_VQ_INJECT_IRQ:
		disk_must(*(const uint32_t *)arg < QUEUES, "a queue that is not there");
		return 0;
	default:
		disk_must(request == VDUSE_DEV_SET_CONFIG || request == VDUSE_DEV_INJECT_CONFIG_IRQ,
			  "another ioctl");
		return 0;
	}
}

int ioctl(int fd, unsigned long request, ...)
{
	va_list ap;
	va_start(ap, request);
	void *arg = va_arg(ap, void *);
	va_end(ap);
	if (_IOC_TYPE(request) != VDUSE_BASE)
		return (int)syscall(SYS_ioctl, fd, request, arg);
	if (kernel.fail.count) {
		kernel.fail.count--;
		errno = 1 + (kernel.fail.error & 63);
		return -1;
	}
	return on_vduse(request, arg);
}

// ---- the device -------------------------------------------------------------------------------------------------

static int dev_start(struct vdev *d, uint64_t features)
{
	(void)d;
	vblk_start(&k.b, features);
	return 0;
}

static void dev_stop(struct vdev *d)
{
	(void)d;
}

static void dev_kick(struct vdev *d, struct vq *q)
{
	(void)d;
	vblk_kick(&k.b, q);
}

static void dev_drain(struct vdev *d, struct vq *q)
{
	(void)d;
	vblk_drain(&k.b, q);
}

static const struct vdev_ops ops = {
	.program = "fuzz",
	.virtio_type = VIRTIO_BLK,
	.start = dev_start,
	.stop = dev_stop,
	.kick = dev_kick,
	.drain = dev_drain,
};

// In memory, so that it outlives a session here, as the file does a process.
static struct vduse_record record_new(void)
{
	struct vduse_head is = { .type = VIRTIO_BLK,
				 .queue_count = QUEUES,
				 .queue_size = k.d.queue_size_max };
	struct vduse_record r = { .file.fd = -1,
				  .region_len = MAX(inflight_region_len(k.d.queue_size_max, false),
						    inflight_region_len(k.d.queue_size_max, true)) };
	r.file.len = VDUSE_HEAD_LEN + QUEUES * (size_t)r.region_len;
	r.file.map = mmap(NULL, r.file.len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	disk_must(r.file.map != MAP_FAILED, "mmap");
	r.head = r.file.map;
	vduse_record_begin(&r, &is);
	return r;
}

static void session_open(struct vduse_record record, bool found)
{
	int node[2];
	struct vduse *s = calloc(1, sizeof(*s));
	disk_must(s && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, node) == 0,
		  "socketpair");
	*s = (struct vduse){ .d = &k.d,
			     .queue_count = vduse_queues(&k.d),
			     .record = record,
			     .node.fd = -1,
			     .keeper.fd = -1,
			     .name = "f0",
			     .found = found };
	for (unsigned i = 0; i < VDEV_QUEUES_MAX; i++)
		s->ring[i].kick.fd = i < QUEUES ? fd_eventfd() : -1;
	peer = node[0];
	k.d.session = s;
	session = (struct vduse *)carrier_vduse.open(&k.d, node[1]);
	disk_must(session, "not opened");
}

// As SIGKILL does it: what the kernel and the record know is all that is left.
static void session_die(void)
{
	struct vduse *s = session;
	const struct vduse_record record = s->record;
	disk_check(&k);
	guest_mem_clear(&k.d.mem);
	for (unsigned i = 0; i < VDEV_QUEUES_MAX; i++) {
		loop_remove(&k.d.loop, &s->ring[i].kick);
		fd_close(&s->ring[i].kick.fd);
	}
	loop_remove(&k.d.loop, &s->node);
	fd_close(&s->node.fd);
	fd_close(&peer);
	free(s);
	disk_queues_fresh(&k);
	kernel.kick[0] = kernel.kick[1] = -1;
	kernel.fail.count = 0;
	session_open(record, true);
}

// ---- steps ------------------------------------------------------------------------------------------------------

static void turn(void)
{
	int ms;
	for (unsigned i = 0; i < 4; i++) {
		vdev_turn(&k.d, 0);
		disk_must(carrier_vduse.alive((struct session *)session, &ms),
			  "it ended although the kernel did not");
	}
}

static void say(const struct step_message *m, uint32_t id)
{
	struct vduse_dev_request rq = { .type = m->type, .request_id = id };
	struct vduse_dev_response re;
	memcpy(&rq.vq_state, &m->vq_state, sizeof(m->vq_state));
	memcpy(&rq.iova, &m->iova, sizeof(m->iova));
	disk_must(write(peer, &rq, sizeof(rq)) == (ssize_t)sizeof(rq), "message");
	turn();
	disk_must(read(peer, &re, sizeof(re)) == (ssize_t)sizeof(re) && re.request_id == id &&
			  (re.result == VDUSE_REQ_RESULT_OK || re.result == VDUSE_REQ_RESULT_FAILED),
		  "no answer, or another's");
	disk_must(read(peer, &re, sizeof(re)) < 0, "a second answer");
	if (m->type == VDUSE_SET_STATUS && m->s.status == 0)
		disk_must(k.d.mem.count == 0 && !k.q[0].running && !k.q[1].running,
			  "a reset that left something");
}

static void queue_set(const struct step_queue *q)
{
	struct vduse_vq_info *i = &kernel.info[q->index % QUEUES];
	*i = (struct vduse_vq_info){ .num = q->num,
				     .desc_addr = q->desc,
				     .driver_addr = q->driver,
				     .device_addr = q->device,
				     .packed = q->state,
				     .ready = q->ready & 1 };
}

static void kick(unsigned queue)
{
	if (kernel.kick[queue % QUEUES] >= 0)
		fd_event_signal(kernel.kick[queue % QUEUES]);
	turn();
}

// The next `len` bytes of the input to `out`, or false: it ends here.
struct input {
	const uint8_t *at;
	size_t left;
};

static bool take(struct input *in, void *out, size_t len)
{
	if (in->left < len)
		return false;
	memcpy(out, in->at, len);
	in->at += len;
	in->left -= len;
	return true;
}

static bool step(struct input *in, uint32_t n, unsigned *deaths)
{
	uint8_t what;
	union {
		struct step_message message;
		struct step_queue queue;
		struct step_entry entry;
		struct step_write write;
		uint8_t byte;
	} s;
	if (!take(in, &what, 1))
		return false;
	switch ((enum step)(what % STEPS)) {
	case MESSAGE:
		if (!take(in, &s.message, sizeof(s.message)))
			return false;
		say(&s.message, n);
		return true;
	case QUEUE:
		if (!take(in, &s.queue, sizeof(s.queue)))
			return false;
		queue_set(&s.queue);
		return true;
	case FEATURES:
		return take(in, &kernel.features, sizeof(kernel.features));
	case ENTRY:
		if (!take(in, &s.entry, sizeof(s.entry)))
			return false;
		kernel.entry[s.entry.index % ENTRIES] = s.entry;
		return true;
	case KICK:
		if (!take(in, &s.byte, 1))
			return false;
		kick(s.byte);
		return true;
	case WRITE:
		return take(in, &s.write, sizeof(s.write)) &&
		       take(in, k.ram + s.write.off % (GUEST_LEN - UINT8_MAX), s.write.len);
	case DEATH:
		if ((*deaths)++ < DEATHS_MAX)
			session_die();
		return true;
	case ERRORS:
		return take(in, &kernel.fail, sizeof(kernel.fail));
	case CONFIG:
		vdev_config_changed(&k.d);
		return true;
	case STEPS:
		break;
	}
	return false;
}

static void once(void)
{
	char path[32];
	int pipes[2];
	log_init("fuzz", LOG_ERROR);
	disk_open(&k);
	k.d.ops = &ops;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", k.guest_fd);
	kernel.fd[0] = k.guest_fd;
	kernel.fd[1] = open(path, O_RDONLY | O_CLOEXEC);
	kernel.fd[2] = memfd_create("small", MFD_CLOEXEC);
	disk_must(kernel.fd[1] >= 0 && ftruncate(kernel.fd[2], 8192) == 0 && pipe(pipes) == 0, "memory");
	kernel.fd[3] = pipes[0];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	unsigned deaths = 0;
	if (!k.ram)
		once();
	disk_fresh(&k, data, 0);
	kernel.features = 0;
	memset(kernel.info, 0, sizeof(kernel.info));
	memset(kernel.entry, 0, sizeof(kernel.entry));
	kernel.kick[0] = kernel.kick[1] = -1;
	kernel.fail.count = 0;
	int lowest = dup(k.guest_fd);
	close(lowest);
	session_open(record_new(), false);
	for (uint32_t n = 0; n < STEPS_MAX && step(&in, n, &deaths); n++)
		;
	kernel.fail.count = 0;
	turn();
	carrier_vduse.close((struct session *)session);
	fd_close(&peer);
	disk_check(&k);
	disk_must(k.d.mem.count == 0 && !k.q[0].running && !k.q[1].running, "something was left");
	int next = dup(k.guest_fd);
	disk_must(next == lowest, "a descriptor was closed or left");
	close(next);
	return 0;
}
