// SPDX-License-Identifier: BSD-2-Clause
#include "devices/block/engine.h"

#include "vmm/base/check.h"
#include "vmm/base/err.h"
#include "vmm/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ENGINE_ZEROS   (128u << 10)
#define ENGINE_RETRIES 8

// A write to the page cache is mostly a copy, and far cheaper done at once than by one of io_uring's workers, where a file
// system without non-blocking writes (ext4) sends it.  One that had to wait, for dirty pages or a journal, shows that this is not
// the time: the next go to the workers for a while, so that the loop is held up once in that while at most.
#define AT_ONCE_LEN_MAX (64u << 10)
#define AT_ONCE_SLOW_NS (1 * NS_PER_MS)
#define AT_ONCE_REST_NS (100 * NS_PER_MS)

// An I/O is a row of steps, each one system call or one io_uring entry.
enum stage {
	STAGE_MAIN,  // what was asked for
	STAGE_RANGE, // zeros by FALLOC_FL_ZERO_RANGE, where a hole was refused
	STAGE_WRITE, // zeros by writing them
	STAGE_SYNC,  // make it durable
};

struct step {
	uint8_t opcode; // IORING_OP_*
	uint8_t file;	// index of engine_file()
	uint32_t len;	// bytes, or iovecs
	uint32_t flags; // of the operation
	uint64_t off, range;
	const void *buf;
};

static int engine_file(const struct blk_engine *en, unsigned file)
{
	return file ? en->img->direct_fd : en->img->fd;
}

static bool suits_direct(const struct blk_io *io)
{
	uint64_t bits = io->off | io->len;
	for (unsigned i = 0; i < io->iov_count; i++)
		bits |= (uintptr_t)io->iov[i].iov_base | io->iov[i].iov_len;
	return (bits & 511) == 0;
}

static void step_rw(const struct blk_engine *en, struct blk_io *io, struct step *s)
{
	bool one = io->iov_count == 1, write = io->op == BLK_WRITE;
	s->opcode =
		write ? (one ? IORING_OP_WRITE : IORING_OP_WRITEV) : (one ? IORING_OP_READ : IORING_OP_READV);
	s->buf = one ? io->iov->iov_base : io->iov;
	s->len = one ? (uint32_t)MIN(io->iov->iov_len, (size_t)1 << 30) : io->iov_count;
	s->flags = write && io->durable ? RWF_DSYNC : 0;
	s->file = en->img->direct_fd >= 0 && !io->buffered && suits_direct(io);
}

static void step_next(const struct blk_engine *en, struct blk_io *io, struct step *s)
{
	*s = (struct step){ .off = io->off, .range = io->len };
	if (io->stage == STAGE_SYNC || io->op == BLK_FLUSH) {
		s->opcode = IORING_OP_FSYNC;
		s->flags = IORING_FSYNC_DATASYNC;
		s->off = s->range = 0;
	} else if (io->op == BLK_READ || io->op == BLK_WRITE) {
		step_rw(en, io, s);
	} else if (io->stage == STAGE_WRITE) {
		s->opcode = IORING_OP_WRITE;
		s->buf = en->zeros;
		s->len = (uint32_t)MIN(io->len, (uint64_t)ENGINE_ZEROS);
	} else {
		bool punch = io->op == BLK_DISCARD || (io->stage == STAGE_MAIN && io->may_unmap);
		s->opcode = IORING_OP_FALLOCATE;
		s->len = FALLOC_FL_KEEP_SIZE | (punch ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);
	}
}

// Drops the first `n` bytes of what is left to transfer.
static void io_advance(struct blk_io *io, uint64_t n)
{
	io->off += n;
	io->len -= n;
	if (io->op != BLK_READ && io->op != BLK_WRITE)
		return;
	while (n > 0 && n >= io->iov->iov_len) {
		n -= io->iov->iov_len;
		io->iov++;
		io->iov_count--;
	}
	if (n > 0) {
		io->iov->iov_base = (uint8_t *)io->iov->iov_base + n;
		io->iov->iov_len -= n;
	}
}

enum { IO_AGAIN = 1 };

static int transferred(const struct blk_engine *en, struct blk_io *io, int res)
{
	if ((res == -EINTR || res == -EAGAIN) && io->retries++ < ENGINE_RETRIES)
		return IO_AGAIN;
	if (res == -EINVAL && en->img->direct_fd >= 0 && !io->buffered) {
		io->buffered = true;
		return IO_AGAIN;
	}
	if (res <= 0)
		return res < 0 ? res : -EIO; // the image became shorter under us
	if ((uint64_t)res > io->len)
		return -EIO;
	io_advance(io, (uint64_t)res);
	return io->len > 0 ? IO_AGAIN : 0;
}

static int zeroed(struct blk_io *io, int res)
{
	if (res != -EOPNOTSUPP && res != -ENOSYS)
		return res;
	if (io->op == BLK_DISCARD)
		return 0; // a hint
	io->stage = io->stage == STAGE_MAIN && io->may_unmap ? STAGE_RANGE : STAGE_WRITE;
	return IO_AGAIN;
}

// What a step's result means: IO_AGAIN if another step is due, else the result of the whole.
static int step_done(const struct blk_engine *en, struct blk_io *io, int res)
{
	if (io->stage == STAGE_SYNC || io->op == BLK_FLUSH)
		return res;
	bool rw = io->op == BLK_READ || io->op == BLK_WRITE;
	int rc = rw || io->stage == STAGE_WRITE ? transferred(en, io, res) : zeroed(io, res);
	if (rc == 0 && io->durable && !rw) {
		io->stage = STAGE_SYNC;
		return IO_AGAIN;
	}
	return rc;
}

// pwritev2(2) by its number: musl has no wrapper before 1.2.5.  The offset is cut in two only on 32-bit machines.
static ssize_t write_flagged(int fd, const struct iovec *iov, uint32_t count, off_t off, uint32_t flags)
{
	return syscall(SYS_pwritev2, fd, iov, (unsigned long)count, off, 0, flags);
}

static int step_run(const struct blk_engine *en, const struct step *s)
{
	int fd = engine_file(en, s->file);
	off_t off = (off_t)s->off;
	struct iovec one = { .iov_base = (void *)(uintptr_t)s->buf, .iov_len = s->len };
	ssize_t n;
	switch (s->opcode) {
	case IORING_OP_READ:
		n = pread(fd, one.iov_base, s->len, off);
		break;
	case IORING_OP_READV:
		n = preadv(fd, s->buf, (int)s->len, off);
		break;
	case IORING_OP_WRITE:
		n = s->flags ? write_flagged(fd, &one, 1, off, s->flags) : pwrite(fd, s->buf, s->len, off);
		break;
	case IORING_OP_WRITEV:
		n = write_flagged(fd, s->buf, s->len, off, s->flags);
		break;
	case IORING_OP_FALLOCATE:
		n = fallocate(fd, (int)s->len, off, (off_t)s->range);
		break;
	default:
		n = fdatasync(fd);
		break;
	}
	return n < 0 ? -errno : (int)MIN(n, (ssize_t)INT32_MAX);
}

static void step_queue(struct blk_engine *en, const struct step *s, struct blk_io *io)
{
	struct io_uring_sqe *sqe;
	while (!(sqe = uring_get(&en->ring)))
		uring_enter(&en->ring, false);
	sqe->opcode = s->opcode;
	sqe->flags = IOSQE_FIXED_FILE;
	sqe->fd = s->file;
	sqe->off = s->off;
	sqe->len = s->len;
	// fallocate(2) has its length where others have their buffer.
	sqe->addr = s->opcode == IORING_OP_FALLOCATE ? s->range : (uintptr_t)s->buf;
	sqe->fsync_flags = s->flags; // one union: rw_flags
	sqe->user_data = (uintptr_t)io;
}

// A write that is done at once although there is io_uring: false, or true and its result.
static bool step_at_once(struct blk_engine *en, const struct blk_io *io, const struct step *s, int *res)
{
	if (io->op != BLK_WRITE || io->durable || io->len > AT_ONCE_LEN_MAX || en->img->direct_fd >= 0)
		return false;
	deadline_ns begin = deadline_now();
	if (begin < en->at_once_after)
		return false;
	*res = step_run(en, s);
	deadline_ns end = deadline_now();
	if (end - begin > AT_ONCE_SLOW_NS)
		en->at_once_after = end + AT_ONCE_REST_NS;
	return true;
}

// Does steps until one is on its way or the whole is done.
static void io_continue(struct blk_engine *en, struct blk_io *io)
{
	struct step s;
	for (;;) {
		int res;
		step_next(en, io, &s);
		if (!en->use_uring) {
			res = step_run(en, &s);
		} else if (!step_at_once(en, io, &s, &res)) {
			step_queue(en, &s, io);
			return;
		}
		int rc = step_done(en, io, res);
		if (rc == IO_AGAIN)
			continue;
		en->in_flight--;
		io->done(io, rc);
		return;
	}
}

void blk_engine_submit(struct blk_engine *en, struct blk_io *io)
{
	io->stage = STAGE_MAIN;
	io->buffered = false;
	io->retries = 0;
	en->in_flight++;
	io_continue(en, io);
}

void blk_engine_run(struct blk_engine *en, bool wait)
{
	if (!en->use_uring || en->in_flight == 0)
		return;
	do {
		int rc = uring_enter(&en->ring, wait);
		if (rc < 0)
			log_limited(LOG_ERROR, "io_uring_enter: %s", err_text(-rc));
		uint64_t data;
		int32_t res;
		while (uring_reap(&en->ring, &data, &res)) {
			struct blk_io *io = (struct blk_io *)(uintptr_t)data;
			int done = step_done(en, io, res);
			if (done == IO_AGAIN) {
				io_continue(en, io);
				continue;
			}
			en->in_flight--;
			wait = false;
			io->done(io, done);
		}
	} while (en->ring.queued || (wait && en->in_flight));
}

int blk_engine_fd(const struct blk_engine *en)
{
	return en->use_uring ? en->ring.fd : -1;
}

int blk_engine_by_name(const char *name, enum blk_engine_kind *out, struct err *e)
{
	static const char *const names[] = { "auto", "uring", "sync" };
	for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
		if (strcmp(name, names[i]) == 0) {
			*out = (enum blk_engine_kind)i;
			return 0;
		}
	}
	return err_set(e, EINVAL, "--engine: \"%s\" is none of auto, uring, sync", name);
}

int blk_engine_open(struct blk_engine *en, const struct blk_image *img, enum blk_engine_kind kind,
		    unsigned depth, struct err *e)
{
	static const uint8_t opcodes[] = { IORING_OP_READ,   IORING_OP_READV, IORING_OP_WRITE,
					   IORING_OP_WRITEV, IORING_OP_FSYNC, IORING_OP_FALLOCATE };
	*en = (struct blk_engine){ .img = img, .ring.fd = -1 };
	void *zeros = mmap(NULL, ENGINE_ZEROS, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (zeros == MAP_FAILED)
		return err_sys(e, errno, "memory for the block engine");
	en->zeros = zeros;
	if (kind == BLK_ENGINE_SYNC || (kind == BLK_ENGINE_AUTO && img->in_memory)) {
		log_info("engine: plain system calls%s", img->in_memory ? " (the image lies in memory)" : "");
		return 0;
	}
	int files[] = { img->fd, img->direct_fd };
	int rc = uring_open(&en->ring, MIN(depth, 64u), depth, files, img->direct_fd >= 0 ? 2 : 1, opcodes,
			    ARRAY_LEN(opcodes));
	if (rc < 0 && kind == BLK_ENGINE_URING)
		return err_sys(e, -rc, "io_uring");
	en->use_uring = rc == 0;
	log_info("engine: %s%s",
		 rc == 0 ? "io_uring" : "plain system calls; io_uring: ", rc == 0 ? "" : err_text(-rc));
	return 0;
}

void blk_engine_close(struct blk_engine *en)
{
	uring_close(&en->ring);
	if (en->zeros)
		munmap((void *)(uintptr_t)en->zeros, ENGINE_ZEROS);
	en->zeros = NULL;
}
