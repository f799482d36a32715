// SPDX-License-Identifier: BSD-2-Clause
#include "devices/block/image.h"

#include "vmm/base/check.h"
#include "vmm/base/deadline.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

// A process that was killed keeps its lock until the kernel has finished the I/O that was in its io_uring.
#define LOCK_WAIT_MS 1000

int blk_image_block_size(const char *text, uint32_t *out, struct err *e)
{
	if (strcmp(text, "512") != 0 && strcmp(text, "4096") != 0)
		return err_set(e, EINVAL, "--block-size: \"%s\" is neither 512 nor 4096", text);
	*out = text[0] == '5' ? 512 : 4096;
	return 0;
}

static int image_lock(int fd, bool readonly, const char *path, struct err *e)
{
	struct flock l = { .l_type = readonly ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET };
	deadline_ns deadline = deadline_in_ms(LOCK_WAIT_MS);
	while (fcntl(fd, F_OFD_SETLK, &l) < 0) {
		if ((errno != EAGAIN && errno != EACCES) || deadline_left_ms(deadline) == 0)
			goto refused;
		nanosleep(&(struct timespec){ .tv_nsec = 10 * NS_PER_MS }, NULL);
	}
	return 0;
refused:
	if (errno != EAGAIN && errno != EACCES)
		return err_sys(e, errno, "lock %s", path);
	return err_set(e, EBUSY, "image %s is in use by another process (%s)", path,
		       readonly ? "one that writes to it" : "a writable image is locked for one user");
}

static int image_measure(struct blk_image *img, const struct blk_image_options *o, struct err *e)
{
	struct stat st;
	if (fstat(img->fd, &st) < 0)
		return err_sys(e, errno, "fstat %s", o->path);
	const char *kind = S_ISDIR(st.st_mode)	  ? "a directory"
			   : S_ISFIFO(st.st_mode) ? "a FIFO"
			   : S_ISSOCK(st.st_mode) ? "a socket"
			   : S_ISCHR(st.st_mode)  ? "a character device"
						  : NULL;
	if (kind)
		return err_set(e, EINVAL, "image %s is %s; only regular files and block devices will do",
			       o->path, kind);
	int logical = 512;
	unsigned physical = 4096;
	if (S_ISBLK(st.st_mode) &&
	    (ioctl(img->fd, BLKSSZGET, &logical) < 0 || ioctl(img->fd, BLKPBSZGET, &physical) < 0))
		return err_sys(e, errno, "block size of %s", o->path);
	off_t end = lseek(img->fd, 0, SEEK_END);
	if (end < 0)
		return err_sys(e, errno, "size of %s", o->path);
	img->size = (uint64_t)end;
	img->block_size = o->block_size ? o->block_size : (uint32_t)logical;
	if (img->block_size < (uint32_t)logical)
		return err_set(e, EINVAL, "image %s has blocks of %d bytes, not %u", o->path, logical,
			       img->block_size);
	img->physical_block = is_power_of_two(physical) ? MAX(img->block_size, physical) : img->block_size;
	if (img->size == 0 || img->size % img->block_size)
		return err_set(e, EINVAL, "image %s: its size, %llu bytes, is not a multiple of %u", o->path,
			       (unsigned long long)img->size, img->block_size);
	struct statfs fs;
	img->in_memory = S_ISREG(st.st_mode) && fstatfs(img->fd, &fs) == 0 &&
			 (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC);
	return 0;
}

// A second description of the same file, so that requests whose buffers do not suit O_DIRECT still find a way.
static int image_open_direct(struct blk_image *img, const struct blk_image_options *o, struct err *e)
{
	char link[32];
	snprintf(link, sizeof(link), "/proc/self/fd/%d", img->fd);
	img->direct_fd = open(link, (o->readonly ? O_RDONLY : O_RDWR) | O_DIRECT | O_CLOEXEC);
	return img->direct_fd < 0 ? err_sys(e, errno, "open %s around the page cache", o->path) : 0;
}

// Nothing follows from what an image holds, but who meant a qcow2 file should hear of it.
static void image_warn(int fd, const char *name)
{
	static const char *const formats[][2] = { { "QFI\xfb", "qcow2" },
						  { "KDMV", "VMDK" },
						  { "vhdxfile", "VHDX" } };
	char head[8] = { 0 };
	if (pread(fd, head, sizeof(head), 0) < 0)
		return;
	for (unsigned i = 0; i < ARRAY_LEN(formats); i++)
		if (memcmp(head, formats[i][0], strlen(formats[i][0])) == 0)
			log_warn("image %s begins as a %s file does, and is served as the raw bytes that it "
				 "is (qemu-storage-daemon serves its contents)",
				 name, formats[i][1]);
}

// A handed-over descriptor's number means nothing to the user: messages name its file.
static void image_name(const char *path, int fd, char *name, size_t room)
{
	char link[32];
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	ssize_t n = fd_is_reference(path) ? readlink(link, name, room - 1) : -1;
	if (n > 0)
		name[n] = '\0';
	else
		snprintf(name, room, "%s", path);
}

int blk_image_open(struct blk_image *img, const struct blk_image_options *asked, struct err *e)
{
	// O_NONBLOCK: a FIFO in its place is to be refused, not waited for.
	int fd = fd_open_path(asked->path, (asked->readonly ? O_RDONLY : O_RDWR) | O_NONBLOCK, e);
	if (fd < 0)
		return fd;
	char name[256];
	struct blk_image_options named = *asked;
	const struct blk_image_options *o = &named;
	image_name(asked->path, fd, name, sizeof(name));
	named.path = name;
	*img = (struct blk_image){ .fd = fd, .direct_fd = -1, .readonly = o->readonly };
	image_warn(fd, name);
	int rc = image_measure(img, o, e);
	if (rc == 0)
		rc = image_lock(fd, o->readonly, o->path, e);
	if (rc == 0 && o->direct)
		rc = image_open_direct(img, o, e);
	if (rc == 0 && fcntl(fd, F_SETFL, 0) < 0)
		rc = err_sys(e, errno, "fcntl %s", o->path);
	if (rc < 0)
		blk_image_close(img);
	return rc;
}

void blk_image_close(struct blk_image *img)
{
	// At once, not when an io_uring has let go of the file.
	struct flock l = { .l_type = F_UNLCK, .l_whence = SEEK_SET };
	if (img->fd >= 0)
		fcntl(img->fd, F_OFD_SETLK, &l);
	fd_close(&img->fd);
	fd_close(&img->direct_fd);
}
