// SPDX-License-Identifier: BSD-2-Clause
#include "devices/sdk/record_file.h"

#include "vmm/base/deadline.h"
#include "vmm/base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOCK_PAUSE_MS 20

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

int record_file_open(struct record_file *r, const char *path, size_t len, struct err *e)
{
	struct stat st;
	int rc = file_open(path, &st, e);
	FD_AUTO fd = rc;
	if (rc < 0)
		return rc;
	// All of it is really there: a write to the mapping that finds the disk full would kill us.
	if (ftruncate(fd, (off_t)len) < 0 || (rc = -posix_fallocate(fd, 0, (off_t)len)) < 0)
		return err_sys(e, rc < 0 ? -rc : errno, "record %s: make it %zu bytes long", path, len);
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		return err_sys(e, errno, "record %s: map", path);
	*r = (struct record_file){ .map = p, .len = len, .fd = fd_steal(&fd), .fresh = st.st_size == 0 };
	return 0;
}

void record_file_close(struct record_file *r)
{
	if (r->map)
		munmap(r->map, r->len);
	r->map = NULL;
	fd_close(&r->fd);
}
