// SPDX-License-Identifier: BSD-2-Clause
// The NVMe controller, killed at each instruction: a process does commands step by step, and for each state that its record and the
// driver's memory take another one is started, which has to do what is left, and nothing twice.
#include "devices/nvme/nvme.h"
#include "devices/sdk/pdev_impl.h"
#include "tests/unit/test.h"
#include "vmm/base/check.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#define RAM_LEN	  0x10000u
#define IMAGE_LEN 32768u
#define ENTRIES	  8u
// Of the driver's memory: submission queues, completion queues, doorbells, data.
#define SQ(q)  (0x1000u * (q))
#define CQ(q)  (0x4000u + 0x1000u * (q))
#define SHADOW 0x8000u
#define EVENTS 0x9000u
#define BUFFER 0xa000u
#define STEPS  4000000

static char record_path[40], again_path[40], image_path[40], copy_path[40];
static char *const paths[] = { record_path, again_path, image_path, copy_path };

// A controller and its driver's memory.
struct side {
	struct vdev d;
	struct nvme n;
	uint8_t *ram;
	unsigned tail[3];
};

static bool paths_make(void)
{
	for (unsigned i = 0; i < ARRAY_LEN(paths); i++) {
		strcpy(paths[i], "/tmp/minivmm-nvme-record-XXXXXX");
		FD_AUTO fd = mkstemp(paths[i]);
		if (fd < 0 || ftruncate(fd, i < 2 ? 0 : IMAGE_LEN) < 0)
			return false;
	}
	return true;
}

static void paths_unmake(void)
{
	for (unsigned i = 0; i < ARRAY_LEN(paths); i++)
		unlink(paths[i]);
}

static void put(struct side *s, uint64_t offset, uint32_t val)
{
	pdev_bar_access(s->d.pci, 0, offset, (uint8_t *)&val, sizeof(val), true);
}

static bool side_open(struct side *s, const char *record, const char *image)
{
	struct err e = { "" };
	int fd = memfd_create("ram", MFD_CLOEXEC);
	memset(s, 0, sizeof(*s));
	s->n.io_queues = 2;
	s->n.ns_count = 1;
	s->n.engine = BLK_ENGINE_SYNC;
	s->n.ns[0].options.path = image;
	s->n.record_path = record;
	if (fd < 0 || ftruncate(fd, RAM_LEN) < 0 || loop_init(&s->d.loop) < 0 ||
	    pdev_create(&s->d.pci, &s->d, &nvme_pci_ops, &e) < 0 || nvme_open(&s->n, &s->d, &e) < 0 ||
	    pdev_attach(s->d.pci) < 0 || guest_mem_add(&s->d.mem, fd, 0, 0, 0, RAM_LEN) < 0) {
		printf("%s\n", e.text);
		return false;
	}
	s->ram = guest_mem_at(&s->d.mem, GUEST_PHYSICAL, 0, RAM_LEN);
	close(fd);
	return s->ram;
}

static void settle(struct side *s)
{
	for (int i = 0; i < 50 && s->d.pci->again; i++) {
		s->d.pci->again = false;
		s->d.pci->ops->again(s->d.pci);
	}
}

static void give(struct side *s, unsigned q, struct nvme_command c)
{
	c.cid = (uint16_t)(0x100 * q + s->tail[q]);
	memcpy(s->ram + SQ(q) + s->tail[q] * sizeof(c), &c, sizeof(c));
	s->tail[q]++;
}

static struct nvme_command create(unsigned opcode, unsigned qid, unsigned at, unsigned cdw11)
{
	return (struct nvme_command){
		.opcode = (uint8_t)opcode, .prp1 = at, .cdw10 = (ENTRIES - 1) << 16 | qid, .cdw11 = cdw11
	};
}

// An admin queue with three commands behind it, and one I/O queue with its doorbell in memory.
static void begin(struct side *s)
{
	put(s, NVME_AQA, (2 * ENTRIES - 1) << 16 | (2 * ENTRIES - 1));
	put(s, NVME_ASQ, SQ(0));
	put(s, NVME_ACQ, CQ(0));
	put(s, NVME_CC, 0x460001);
	give(s, 0, create(NVME_CREATE_CQ, 1, CQ(1), 3 | 1 << 16));
	give(s, 0, create(NVME_CREATE_SQ, 1, SQ(1), 1 | 1 << 16));
	give(s, 0, (struct nvme_command){ .opcode = NVME_DOORBELL_BUFFER, .prp1 = SHADOW, .prp2 = EVENTS });
	put(s, NVME_DOORBELLS, s->tail[0]);
	settle(s);
	for (unsigned i = 0; i < 2 * NVME_PAGE; i++)
		s->ram[BUFFER + i] = (uint8_t)(i / 7);
}

// What the one does that is killed: the other queue is made, a feature set, an event asked for; blocks are written, read, zeroed.
static void commands(struct side *s)
{
	const struct nvme_command io[] = {
		{ .opcode = NVME_WRITE, .nsid = 1, .prp1 = BUFFER, .cdw12 = 7 },
		{ .opcode = NVME_WRITE, .nsid = 1, .prp1 = BUFFER + NVME_PAGE, .cdw10 = 8, .cdw12 = 7 },
		{ .opcode = NVME_READ, .nsid = 1, .prp1 = BUFFER + 2 * NVME_PAGE, .cdw10 = 40, .cdw12 = 7 },
		{ .opcode = NVME_WRITE_ZEROES, .nsid = 1, .cdw10 = 32, .cdw12 = 7 },
		{ .opcode = NVME_FLUSH, .nsid = 1 },
	};
	give(s, 0, create(NVME_CREATE_CQ, 2, CQ(2), 3 | 2 << 16));
	give(s, 0, create(NVME_CREATE_SQ, 2, SQ(2), 1 | 2 << 16));
	give(s, 0, (struct nvme_command){ .opcode = NVME_ASYNC_EVENT });
	give(s, 0,
	     (struct nvme_command){
		     .opcode = NVME_SET_FEATURES, .cdw10 = NVME_FEATURE_TEMPERATURE, .cdw11 = 77 });
	for (unsigned i = 0; i < ARRAY_LEN(io); i++)
		give(s, 1, io[i]);
	memcpy(s->ram + SHADOW + 8, &s->tail[1], 4);
}

static void ring(struct side *s)
{
	put(s, NVME_DOORBELLS, s->tail[0]);
	settle(s);
}

// Entries of a completion queue of `size` that are there, each of a command of its own that did well; -1: else.
static int entries(const struct side *s, unsigned q, unsigned size)
{
	uint32_t cids = 0;
	int count = 0;
	for (unsigned i = 0; i < size; i++) {
		struct nvme_completion c;
		memcpy(&c, s->ram + CQ(q) + i * sizeof(c), sizeof(c));
		if (!(c.status & 1))
			continue;
		const unsigned number = c.cid - 0x100u * q;
		if (c.status >> 1 || number >= size || (cids >> number & 1) || i != (unsigned)count) {
			printf("queue %u, entry %u: command %#x, status %#x\n", q, i, c.cid, c.status >> 1);
			return -1;
		}
		cids |= 1u << number;
		count++;
	}
	return count;
}

static bool file_read(const char *path, void *to, size_t len)
{
	FD_AUTO fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd >= 0 && read(fd, to, len) == (ssize_t)len;
}

static bool file_write(const char *path, const void *from, size_t len)
{
	FD_AUTO fd = open(path, O_WRONLY | O_CLOEXEC | O_TRUNC);
	return fd >= 0 && write(fd, from, len) == (ssize_t)len;
}

// Another one, from this record, this memory, and the image as it is now.
static bool goes_on(const struct side *was, const void *record, const uint8_t *ram)
{
	static struct side s;
	static uint8_t disk[IMAGE_LEN];
	if (!file_read(image_path, disk, sizeof(disk)) || !file_write(copy_path, disk, sizeof(disk)) ||
	    !file_write(again_path, record, sizeof(struct nvme_record)) ||
	    !side_open(&s, again_path, copy_path) || !s.n.away)
		return false;
	memcpy(s.ram, ram, RAM_LEN);
	memcpy(s.tail, was->tail, sizeof(s.tail));
	ring(&s); // as one does that was not answered
	if (!file_read(copy_path, disk, sizeof(disk)))
		return false;
	const int admin = entries(&s, 0, 2 * ENTRIES), io = entries(&s, 1, ENTRIES);
	const bool good = admin == 6 && io == 5 && s.n.sq[2].size == ENTRIES && s.n.cq[2].size == ENTRIES &&
			  s.n.event_count == 1 && s.n.feature[NVME_FEATURE_TEMPERATURE] == 77 &&
			  s.n.sq[0].head == 7 && s.n.sq[1].head == 5 && !s.n.recovers && !s.n.away &&
			  s.n.cq[1].due == 0 && s.n.cq[0].due == 0 &&
			  memcmp(disk, s.ram + BUFFER, (size_t)2 * NVME_PAGE) == 0;
	if (!good)
		printf("admin %d, I/O %d, queue 2 %u/%u, events %u, feature %u, heads %u %u, disk %d\n",
		       admin, io, s.n.sq[2].size, s.n.cq[2].size, s.n.event_count,
		       s.n.feature[NVME_FEATURE_TEMPERATURE], s.n.sq[0].head, s.n.sq[1].head,
		       memcmp(disk, s.ram + BUFFER, (size_t)2 * NVME_PAGE));
	return good;
}

static bool goes_on_elsewhere(const struct side *was, const void *record, const uint8_t *ram)
{
	int status;
	fflush(stdout);
	pid_t pid = fork();
	if (pid == 0) {
		const bool good = goes_on(was, record, ram);
		fflush(stdout);
		_exit(!good);
	}
	return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0;
}

static bool changed(void *copy, const void *now, size_t len)
{
	if (memcmp(copy, now, len) == 0)
		return false;
	memcpy(copy, now, len);
	return true;
}

TEST(killed_at_each_instruction)
{
	static struct side s;
	static struct nvme_record record;
	static uint8_t ram[RAM_LEN];
	int status;
	log_init("nvme_record", LOG_ERROR);
	CHECK(paths_make());
	CHECK(side_open(&s, record_path, image_path));
	begin(&s);
	CHECK_EQ(entries(&s, 0, 2 * ENTRIES), 3);
	commands(&s);
	pid_t pid = fork();
	if (pid == 0) {
		if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
			_exit(77);
		raise(SIGSTOP);
		ring(&s);
		_exit(0);
	}
	CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		SKIP("no ptrace here");
	unsigned steps = 0, states = 0, bad = 0;
	memcpy(&record, s.n.record, sizeof(record));
	memcpy(ram, s.ram, sizeof(ram));
	for (; WIFSTOPPED(status) && steps < STEPS && bad == 0; steps++) {
		if (changed(&record, s.n.record, sizeof(record)) | changed(ram, s.ram, sizeof(ram))) {
			states++;
			bad += !goes_on_elsewhere(&s, &record, ram);
		}
		if (ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) < 0 || waitpid(pid, &status, 0) != pid)
			break;
	}
	if (!WIFEXITED(status))
		kill(pid, SIGKILL);
	printf("%u instructions, %u states\n", steps, states);
	paths_unmake();
	CHECK_EQ(bad, 0);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	CHECK(states > 100);
}

// A command that was taken from a queue which is gone by what is set up now, and a number of a completion queue that there is none of.
TEST(a_record_that_makes_no_sense_is_not_gone_on_with)
{
	static struct side s, t;
	static struct nvme_record r;
	log_init("nvme_record", LOG_ERROR);
	CHECK(paths_make());
	CHECK(side_open(&s, record_path, image_path));
	begin(&s);
	memcpy(&r, s.n.record, sizeof(r));
	struct nvme_set_up *next = &r.set_up[(r.generation + 1) % 2];
	*next = r.set_up[r.generation % 2];
	next->sq[1].size = 0;
	next->sq[1].cqid = UINT16_MAX;
	r.sq[1].done = 1;
	r.slot[0] = (struct nvme_slot){ .state = NVME_SLOT_TAKEN, .sqid = 1 };
	r.slot[NVME_SLOT_ADMIN] =
		(struct nvme_slot){ .state = NVME_SLOT_STAYS, .generation = r.generation + 1 };
	CHECK(file_write(again_path, &r, sizeof(r)));
	CHECK(side_open(&t, again_path, copy_path));
	paths_unmake();
	CHECK(!t.n.away && !t.n.recovers);
	CHECK_EQ(t.n.csts, 0);
}
