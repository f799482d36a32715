// SPDX-License-Identifier: BSD-2-Clause
// The device's state: what its driver told it, and what a process that goes on in its place could not find out.
//
// It is a header that names the program and what the device's state_save() writes, and it goes two ways.  By DEVICE_STATE, for a
// guest that moves, through the front-end's pipe: a save is one write, small enough for any fresh pipe; a load is read as it comes
// and checked when the front-end asks whether it was good.  And by the record of requests in flight, for a process that is
// killed: behind the queues' parts of that memory lie two places for a state, written by turns, so that one is always whole.
// Nothing here waits; what comes from the record is copied once and checked like anything from a peer.
#include "devices/sdk/vhost_user_impl.h"
#include "vmm/base/bin.h"
#include "vmm/base/err.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

// ---- what it looks like -------------------------------------------------------------------------------------------

struct state_header { // in the byte order of the host, as all of the protocol
	char magic[8];
	char program[24];
	uint32_t len; // of what follows
};

static void header_fill(const struct vdev *d, struct state_header *h, size_t len)
{
	*h = (struct state_header){ .magic = "vdevst1", .len = (uint32_t)len };
	memcpy(h->program, d->ops->program, MIN(strlen(d->ops->program), sizeof(h->program)));
}

_Static_assert(sizeof(struct state_header) <= STATE_MAX - VDEV_STATE_MAX, "room for it");

// ---- by DEVICE_STATE -----------------------------------------------------------------------------------------------

static void transfer_end(struct server *s)
{
	struct transfer *t = &s->transfer;
	loop_remove(&s->d->loop, &t->source);
	bin_put(&t->source.fd);
}

// With its header; how many bytes.
static size_t state_write(const struct server *s, uint8_t to[STATE_MAX])
{
	struct state_header h;
	size_t len = 0;
	if (s->started && s->d->ops->state_save)
		len = s->d->ops->state_save(s->d, to + sizeof(h));
	header_fill(s->d, &h, len);
	memcpy(to, &h, sizeof(h));
	return len + sizeof(h);
}

// Kernels before 6.4 can tell no pipe not to; later ones all but those with a name, which are refused then.
static bool pipes_wait;

int vu_state_prepare(struct vdev *d, struct err *e)
{
	int ends[2];
	uint8_t byte;
	(void)d;
	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
		return err_sys(e, errno, "pipe");
	const struct iovec iov = { .iov_base = &byte, .iov_len = 1 };
	pipes_wait = syscall(SYS_preadv2, ends[0], &iov, 1, -1L, -1L, RWF_NOWAIT) < 0 && errno == EOPNOTSUPP;
	fd_close_all(ends, 2);
	return 0;
}

// O_NONBLOCK is the open file's: the front-end has it, too, and may take it away at any moment.
static ssize_t now(long call, int pipe, void *bytes, size_t len)
{
	const struct iovec iov = { .iov_base = bytes, .iov_len = len };
	long n = syscall(call, pipe, &iov, 1, -1L, -1L, RWF_NOWAIT);
	if (n < 0 && errno == EOPNOTSUPP && pipes_wait)
		n = call == SYS_preadv2 ? read(pipe, bytes, len) : write(pipe, bytes, len);
	return n;
}

static int save(struct server *s, int pipe)
{
	struct transfer *t = &s->transfer;
	const size_t len = state_write(s, t->bytes);
	ssize_t n = now(SYS_pwritev2, pipe, t->bytes, len);
	t->failed = n != (ssize_t)len;
	return t->failed ? -EIO : 0;
}

// Reads what is there.  0: the end; -EAGAIN: there may be more; else it failed.
static int load_more(struct transfer *t)
{
	for (;;) {
		uint8_t spare; // beyond what any state of ours is
		const bool full = t->len == sizeof(t->bytes);
		ssize_t n = now(SYS_preadv2, t->source.fd, full ? &spare : t->bytes + t->len,
				full ? 1 : sizeof(t->bytes) - t->len);
		if (n == 0)
			return 0;
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (full)
			return -EMSGSIZE;
		t->len += (size_t)n;
	}
}

static void load_step(struct server *s)
{
	int rc = load_more(&s->transfer);
	if (rc == -EAGAIN)
		return;
	s->transfer.ended = true;
	s->transfer.failed = rc < 0;
	transfer_end(s);
}

static void load_ready(struct loop_source *src, uint32_t events)
{
	(void)events;
	load_step(CONTAINER_OF(src, struct server, transfer.source));
}

// Whether that is a state of this device; the next start goes on from it then.
static int state_take(struct server *s, const uint8_t *bytes, size_t len)
{
	struct state_header want, got;
	if (len < sizeof(got))
		return -EINVAL;
	memcpy(&got, bytes, sizeof(got));
	header_fill(s->d, &want, len - sizeof(got));
	if (memcmp(&got, &want, sizeof(got)) != 0)
		return -EINVAL;
	// A device that had not been started has none, and some never have.
	if (want.len == 0)
		return 0;
	int rc = s->d->ops->state_load ? s->d->ops->state_load(s->d, bytes + sizeof(got), want.len) : -EINVAL;
	s->state_given |= rc == 0;
	return rc;
}

int vu_on_set_device_state_fd(struct server *s, struct request *rq)
{
	const struct vhost_user_device_state p = rq->p.state_fd;
	struct transfer *t = &s->transfer;
	int fd = msg_fds_take_one(&rq->fds);
	int flags = fcntl(fd, F_GETFL), rc = 0;
	transfer_end(s);
	t->loading = t->ended = t->failed = false;
	t->len = 0;
	if (p.direction > VHOST_USER_STATE_LOAD || p.phase != 0)
		rc = -EINVAL;
	for (unsigned i = 0; i < s->d->queue_count && rc == 0; i++)
		rc = s->ring[i].vq->running ? -EBUSY : 0;
	if (rc == 0 && (flags < 0 || (fcntl(fd, F_GETPIPE_SZ) < 0 && !vu_is_socket(fd)) ||
			fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0))
		rc = -EBADF;
	if (rc == 0 && p.direction == VHOST_USER_STATE_SAVE) {
		rc = save(s, fd);
	} else if (rc == 0) {
		t->loading = true;
		t->source.fd = fd_steal(&fd);
		rc = loop_add(&s->d->loop, &t->source, EPOLLIN);
		if (rc < 0)
			transfer_end(s);
	}
	t->failed |= rc < 0;
	bin_put(&fd);
	if (rc < 0)
		log_limited(LOG_WARN, "the device's state: %s", err_text(-rc));
	vu_reply_u64(rq, VHOST_USER_STATE_NO_FD | (rc < 0));
	return 0;
}

int vu_on_check_device_state(struct server *s, struct request *rq)
{
	struct transfer *t = &s->transfer;
	int rc = t->failed ? -EIO : 0;
	if (t->loading) {
		// A front-end asks after it closed its end, so the end is there to be read.
		if (!t->ended)
			load_step(s);
		rc = !t->ended ? -EAGAIN : t->failed ? -EINVAL : state_take(s, t->bytes, t->len);
		transfer_end(s);
		t->loading = false;
	}
	if (rc < 0)
		log_limited(LOG_WARN, "the device's state: %s",
			    rc == -EINVAL ? "it is no state of this device" : err_text(-rc));
	vu_reply_u64(rq, rc < 0);
	return 0;
}

// ---- in the record ------------------------------------------------------------------------------------------------

uint64_t vu_state_record_len(const struct server *s)
{
	return s->d->ops->state_save ? sizeof(struct state_record) : 0;
}

static void state_changed(struct vdev *d)
{
	struct server *s = d->session;
	struct state_record *r = s->record;
	if (!r || !s->started)
		return;
	const uint32_t next = r->current == 1 ? 2 : 1;
	struct state_slot *slot = &r->slot[next - 1];
	uint8_t bytes[STATE_MAX];
	const size_t len = state_write(s, bytes);
	memcpy(slot->bytes, bytes, len);
	slot->len = (uint32_t)len;
	__atomic_store_n(&r->current, next, __ATOMIC_RELEASE);
}

// For the first start since the front-end came: one that it gave by DEVICE_STATE is newer.
void vu_state_recall(struct server *s)
{
	const struct state_record *r = s->record;
	if (!r || s->state_given)
		return;
	const uint32_t current = __atomic_load_n(&r->current, __ATOMIC_ACQUIRE);
	if (current < 1 || current > 2)
		return;
	uint8_t bytes[STATE_MAX];
	const uint32_t len = __atomic_load_n(&r->slot[current - 1].len, __ATOMIC_RELAXED);
	memcpy(bytes, r->slot[current - 1].bytes, MIN(len, sizeof(bytes)));
	if (len > sizeof(bytes) || state_take(s, bytes, len) < 0)
		log_limited(LOG_WARN, "the record holds no state of this device");
}

// ---- both ---------------------------------------------------------------------------------------------------------

void vu_state_forget(struct server *s)
{
	if (s->d->ops->state_load)
		s->d->ops->state_load(s->d, NULL, 0);
	s->state_given = false;
}

void vu_state_init(struct server *s)
{
	s->transfer.source = (struct loop_source){ .fd = -1, .ready = load_ready };
	s->d->state_changed = state_changed;
}

void vu_state_close(struct server *s)
{
	transfer_end(s);
	vu_state_forget(s);
}
