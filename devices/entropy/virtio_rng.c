// SPDX-License-Identifier: BSD-2-Clause
#include "devices/entropy/virtio_rng.h"

#include "vmm/base/check.h"
#include "vmm/base/err.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <sys/random.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define PERIOD_NS (NS_PER_S / VRNG_PERIODS)

// Fills at most `most` bytes.  How many it were, which is less only where the kernel refuses.
static uint32_t fill(const struct iovec *iov, unsigned count, uint64_t most)
{
	uint64_t done = 0;
	for (unsigned i = 0; i < count && done < most; i++) {
		size_t want = (size_t)MIN((uint64_t)iov[i].iov_len, most - done);
		ssize_t n = getrandom(iov[i].iov_base, want, 0);
		if (n < 0)
			log_limited(LOG_WARN, "getrandom: %s", err_text(errno));
		if (n > 0)
			done += (uint64_t)n;
		if (n != (ssize_t)want)
			break;
	}
	return (uint32_t)done;
}

// How many bytes may be given out now; 0 arms the timer.
static uint64_t allowance(struct vrng *r)
{
	if (r->rate == 0)
		return VRNG_TURN_BYTES;
	deadline_ns now = deadline_now();
	if (now >= r->until) {
		r->until = now + PERIOD_NS;
		r->left = MAX(r->rate / VRNG_PERIODS, (uint64_t)1);
	}
	if (r->left == 0 && !r->waiting) {
		int64_t wait = r->until - now;
		struct itimerspec at = { .it_value = { .tv_sec = wait / NS_PER_S,
						       .tv_nsec = wait % NS_PER_S } };
		r->waiting = timerfd_settime(r->timer.fd, 0, &at, NULL) == 0;
	}
	return MIN(r->left, (uint64_t)VRNG_TURN_BYTES);
}

void vrng_kick(struct vrng *r, struct vq *q)
{
	struct vq_chain c;
	uint64_t most = allowance(r);
	vq_notify_disable(q);
	while (most > 0) {
		if (vq_pop(q, &c, r->iov, VRNG_IOVECS) <= 0)
			break;
		// virtio 1.2 §5.4.6.1: buffers are for the device to write.
		if (c.readable || c.writable_len == 0)
			vq_fail(q, "entropy request with a readable buffer");
		uint32_t n = q->failed ? 0 : fill(r->iov, c.writable, most);
		vq_push(q, c.head, n);
		if (n == 0)
			break;
		most -= n;
		r->left -= r->rate ? n : 0;
	}
	vq_publish(q);
	// While the timer runs the driver need not ring.
	if (!r->waiting && vq_notify_enable(q))
		vdev_again(r->d, q);
}

static void period_ends(struct loop_source *s, uint32_t events)
{
	(void)events;
	struct vrng *r = CONTAINER_OF(s, struct vrng, timer);
	uint64_t times;
	if (read(s->fd, &times, sizeof(times)) < 0 && errno != EAGAIN)
		log_limited(LOG_WARN, "timer: %s", err_text(errno));
	r->waiting = false;
	vdev_again(r->d, &r->d->queues[0]);
}

int vrng_init(struct vrng *r, struct vdev *d, uint64_t rate, struct err *e)
{
	*r = (struct vrng){ .d = d, .rate = rate, .timer = { .fd = -1, .ready = period_ends } };
	d->features = VQ_FEATURES | VQ_FEATURE_IN_ORDER;
	uint8_t probe;
	if (getrandom(&probe, sizeof(probe), 0) != sizeof(probe)) // waits, if the host has only just started
		return err_sys(e, errno, "getrandom");
	if (rate == 0)
		return 0;
	r->timer.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	int rc = r->timer.fd < 0 ? -errno : loop_add(&d->loop, &r->timer, EPOLLIN);
	if (rc < 0) {
		err_sys(e, -rc, "timer for --rate");
		fd_close(&r->timer.fd);
	}
	return rc;
}

void vrng_destroy(struct vrng *r)
{
	loop_remove(&r->d->loop, &r->timer);
	fd_close(&r->timer.fd);
}
