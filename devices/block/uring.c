// SPDX-License-Identifier: BSD-2-Clause
#include "devices/block/uring.h"

#include "vmm/base/check.h"
#include "vmm/base/fd.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static int sys_setup(unsigned entries, struct io_uring_params *p)
{
	long rc = syscall(SYS_io_uring_setup, entries, p);
	return rc < 0 ? -errno : (int)rc;
}

static int sys_register(int fd, unsigned op, const void *arg, unsigned count)
{
	return syscall(SYS_io_uring_register, fd, op, arg, count) < 0 ? -errno : 0;
}

// The best that the kernel has.  IORING_SETUP_DEFER_TASKRUN would be better yet, but a completion of its worker threads
// does not wake who waits for the ring by epoll.
static int ring_create(unsigned entries, unsigned cq_entries, struct io_uring_params *p)
{
	static const unsigned wishes[] = {
		IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN, // 6.0
		IORING_SETUP_COOP_TASKRUN,				// 5.19
		0,
	};
	int rc = -EINVAL;
	for (unsigned i = 0; i < ARRAY_LEN(wishes) && rc == -EINVAL; i++) {
		*p = (struct io_uring_params){
			.flags = IORING_SETUP_R_DISABLED | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP |
				 wishes[i],
			.cq_entries = cq_entries,
		};
		rc = sys_setup(entries, p);
	}
	return rc;
}

static unsigned *at(void *base, uint32_t off)
{
	return (unsigned *)(void *)((uint8_t *)base + off);
}

static int ring_map(struct uring *u, const struct io_uring_params *p)
{
	if (!(p->features & IORING_FEAT_SINGLE_MMAP) || !(p->features & IORING_FEAT_NODROP))
		return -ENOSYS;
	size_t sq = p->sq_off.array + p->sq_entries * sizeof(unsigned);
	size_t cq = p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe);
	u->rings_len = MAX(sq, cq);
	u->rings = mmap(NULL, u->rings_len, PROT_READ | PROT_WRITE, MAP_SHARED, u->fd, IORING_OFF_SQ_RING);
	if (u->rings == MAP_FAILED) {
		u->rings = NULL;
		return -errno;
	}
	u->sqes_len = p->sq_entries * sizeof(struct io_uring_sqe);
	void *sqes = mmap(NULL, u->sqes_len, PROT_READ | PROT_WRITE, MAP_SHARED, u->fd, IORING_OFF_SQES);
	if (sqes == MAP_FAILED)
		return -errno;
	u->sqes = sqes;
	u->sq_entries = p->sq_entries;
	u->sq_mask = *at(u->rings, p->sq_off.ring_mask);
	u->cq_mask = *at(u->rings, p->cq_off.ring_mask);
	u->k_sq_head = at(u->rings, p->sq_off.head);
	u->k_sq_tail = at(u->rings, p->sq_off.tail);
	u->k_sq_flags = at(u->rings, p->sq_off.flags);
	u->k_cq_head = at(u->rings, p->cq_off.head);
	u->k_cq_tail = at(u->rings, p->cq_off.tail);
	u->cqes = (const void *)((uint8_t *)u->rings + p->cq_off.cqes);
	unsigned *array = at(u->rings, p->sq_off.array);
	for (unsigned i = 0; i < u->sq_entries; i++)
		array[i] = i;
	u->sq_tail = *u->k_sq_tail;
	return 0;
}

static int ring_restrict(struct uring *u, const int *files, unsigned file_count, const uint8_t *opcodes,
			 unsigned n)
{
	struct io_uring_restriction r[16] = { 0 };
	if (n + 2 > ARRAY_LEN(r))
		return -E2BIG;
	for (unsigned i = 0; i < n; i++) {
		r[i].opcode = IORING_RESTRICTION_SQE_OP;
		r[i].sqe_op = opcodes[i];
	}
	r[n].opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED;
	r[n].sqe_flags = IOSQE_FIXED_FILE;
	r[n + 1].opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED;
	r[n + 1].sqe_flags = IOSQE_FIXED_FILE;
	int rc = sys_register(u->fd, IORING_REGISTER_FILES, files, file_count);
	if (rc == 0)
		rc = sys_register(u->fd, IORING_REGISTER_RESTRICTIONS, r, n + 2);
	if (rc == 0)
		rc = sys_register(u->fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
	return rc;
}

int uring_open(struct uring *u, unsigned entries, unsigned cq_entries, const int *files, unsigned file_count,
	       const uint8_t *opcodes, unsigned opcode_count)
{
	struct io_uring_params p;
	*u = (struct uring){ .fd = ring_create(entries, cq_entries, &p) };
	if (u->fd < 0)
		return u->fd;
	int rc = ring_map(u, &p);
	if (rc == 0)
		rc = ring_restrict(u, files, file_count, opcodes, opcode_count);
	if (rc < 0)
		uring_close(u);
	return rc;
}

void uring_close(struct uring *u)
{
	if (u->sqes)
		munmap(u->sqes, u->sqes_len);
	if (u->rings)
		munmap(u->rings, u->rings_len);
	u->sqes = NULL;
	u->rings = NULL;
	fd_close(&u->fd);
}

struct io_uring_sqe *uring_get(struct uring *u)
{
	if (u->sq_tail - __atomic_load_n(u->k_sq_head, __ATOMIC_ACQUIRE) == u->sq_entries)
		return NULL;
	struct io_uring_sqe *sqe = &u->sqes[u->sq_tail++ & u->sq_mask];
	u->queued++;
	memset(sqe, 0, sizeof(*sqe));
	return sqe;
}

int uring_enter(struct uring *u, bool wait)
{
	__atomic_store_n(u->k_sq_tail, u->sq_tail, __ATOMIC_RELEASE);
	long rc =
		syscall(SYS_io_uring_enter, u->fd, u->queued, wait ? 1 : 0, IORING_ENTER_GETEVENTS, NULL, 0);
	if (rc < 0)
		return errno == EINTR ? 0 : -errno;
	u->queued -= (unsigned)rc;
	return 0;
}

bool uring_reap(struct uring *u, uint64_t *user_data, int32_t *result)
{
	unsigned head = *u->k_cq_head;
	if (head == __atomic_load_n(u->k_cq_tail, __ATOMIC_ACQUIRE))
		return false;
	const struct io_uring_cqe *cqe = &u->cqes[head & u->cq_mask];
	*user_data = cqe->user_data;
	*result = cqe->res;
	__atomic_store_n(u->k_cq_head, head + 1, __ATOMIC_RELEASE);
	return true;
}
