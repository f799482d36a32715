// SPDX-License-Identifier: BSD-2-Clause
#include "devices/sdk/vduse_impl.h"
#include "vmm/base/check.h"
#include "vmm/base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOCK_PAUSE_MS 20

_Static_assert(sizeof(struct vduse_head) <= VDUSE_HEAD_LEN, "record");

static const char magic[16] = "minivmm-vduse-1";

// The compiler may not move writes across: who is killed between two of them must leave them in order.
static void barrier(void)
{
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
}

static int lock(int fd)
{
	const deadline_ns deadline = deadline_in_ms(DEADLINE_CONTROL_MS);
	while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		if (errno != EWOULDBLOCK || !deadline_left_ms(deadline))
			return -errno;
		poll(NULL, 0, LOCK_PAUSE_MS);
	}
	return 0;
}

// Opened and locked.
static int file_open(const char *path, struct stat *st, struct err *e)
{
	for (;;) {
		FD_AUTO fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0600);
		if (fd < 0)
			return err_sys(e, errno, "record %s", path);
		int rc = lock(fd);
		if (rc < 0)
			return rc == -EWOULDBLOCK
				       ? err_set(e, EBUSY, "record %s: another process serves this device",
						 path)
				       : err_sys(e, -rc, "record %s: lock", path);
		if (fstat(fd, st) < 0)
			return err_sys(e, errno, "record %s", path);
		if (!S_ISREG(st->st_mode) || st->st_uid != geteuid() || st->st_mode & 022)
			return err_set(e, EPERM, "record %s: not a file of this user's own", path);
		if (st->st_nlink > 0)
			return fd_steal(&fd);
		// whoever held it removed it
	}
}

int vduse_record_open(struct vduse_record *r, const char *path, uint32_t queue_count, uint32_t queue_size,
		      struct err *e)
{
	struct stat st;
	int rc = file_open(path, &st, e);
	FD_AUTO fd = rc;
	if (rc < 0)
		return rc;
	const uint64_t region_len = MAX(inflight_region_len((uint16_t)queue_size, false),
					inflight_region_len((uint16_t)queue_size, true)),
		       len = VDUSE_HEAD_LEN + queue_count * region_len;
	// All of it is really there: a write to the mapping that finds the disk full would kill us.
	if (ftruncate(fd, (off_t)len) < 0 || (rc = -posix_fallocate(fd, 0, (off_t)len)) < 0)
		return err_sys(e, rc < 0 ? -rc : errno, "record %s: make it %llu bytes long", path,
			       (unsigned long long)len);
	void *p = mmap(NULL, (size_t)len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		return err_sys(e, errno, "record %s: map", path);
	*r = (struct vduse_record){ .head = p,
				    .len = (size_t)len,
				    .region_len = region_len,
				    .fd = fd_steal(&fd),
				    .fresh = st.st_size == 0 };
	return 0;
}

void vduse_record_close(struct vduse_record *r)
{
	if (r->head)
		munmap(r->head, r->len);
	r->head = NULL;
	fd_close(&r->fd);
}

struct inflight_region *vduse_record_queue(const struct vduse_record *r, unsigned queue)
{
	return (struct inflight_region *)(void *)((uint8_t *)r->head + VDUSE_HEAD_LEN +
						  queue * r->region_len);
}

bool vduse_record_matches(const struct vduse_record *r, const struct vduse_head *is)
{
	const struct vduse_head *h = r->head;
	return memcmp(h->magic, magic, sizeof(magic)) == 0 &&
	       memcmp(h->name, is->name, sizeof(h->name)) == 0 && h->type == is->type &&
	       h->queue_count == is->queue_count && h->queue_size == is->queue_size &&
	       h->config_len == is->config_len && h->features == is->features;
}

static void forget(struct vduse_record *r)
{
	for (unsigned i = 0; i < r->head->queue_count; i++)
		vduse_record_queue(r, i)->version = 0;
	barrier();
}

void vduse_record_begin(struct vduse_record *r, const struct vduse_head *is)
{
	memset(r->head, 0, sizeof(*r->head));
	barrier();
	*r->head = *is;
	r->head->status = 0;
	forget(r);
	memcpy(r->head->magic, magic, sizeof(magic));
}

void vduse_record_status(struct vduse_record *r, uint8_t status)
{
	const bool ran = r->head->status & VIRTIO_CONFIG_S_DRIVER_OK,
		   runs = status & VIRTIO_CONFIG_S_DRIVER_OK;
	if (!ran && runs)
		forget(r);
	r->head->status = status;
	barrier();
	if (ran && !runs)
		forget(r);
}
