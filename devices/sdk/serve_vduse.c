// SPDX-License-Identifier: BSD-2-Clause
// The VDUSE carrier at work: the kernel's messages, the device's start and stop, the way to the end.
//
// Called by main.c with the node that vduse_open() opened.  The kernel is trusted, the driver behind it is not: each number that comes from
// there is checked where it is used, by the virtqueues' code as for any carrier.  Answers a message when it is acted on.
#include "devices/sdk/vduse_impl.h"
#include "vmm/base/check.h"
#include "vmm/base/err.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"

#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define OWED_MS	  1	// until an interrupt is tried again
#define REMOVE_MS 60000 // the host writes back what it has for a disk before that goes

// ---- the driver's status ----------------------------------------------------------------------------------------

static bool features_good(const struct vduse *s, uint64_t features)
{
	const uint64_t must = UINT64_C(1) << VIRTIO_F_VERSION_1 | UINT64_C(1) << VIRTIO_F_ACCESS_PLATFORM;
	return (features & must) == must && !(features & ~vduse_features(s->d));
}

static int features_read(const struct vduse *s, uint64_t *features)
{
	if (ioctl(s->node.fd, VDUSE_DEV_GET_FEATURES, features) < 0)
		return -errno;
	if (features_good(s, *features))
		return 0;
	log_limited(LOG_WARN, "%s: the driver wants features %#llx", s->name, (unsigned long long)*features);
	return -EINVAL;
}

static int device_start(struct vduse *s, uint64_t features)
{
	s->features =
		features & ~(UINT64_C(1) << VIRTIO_F_ACCESS_PLATFORM); // the IOTLB is between the two ends
	int rc = s->d->ops->start(s->d, s->features);
	if (rc < 0)
		return rc;
	s->d->negotiated = s->features;
	s->started = true;
	// A queue that cannot be started, or is not ready yet, is looked at again when it is kicked.
	for (unsigned i = 0; i < s->queue_count && rc == 0; i++) {
		rc = vduse_ring_watch(&s->ring[i]);
		if (rc == 0)
			vduse_ring_start(&s->ring[i]);
	}
	return rc;
}

static void device_stop(struct vduse *s)
{
	s->d->ops->drain(s->d, NULL);
	for (unsigned i = 0; i < s->queue_count; i++)
		vduse_ring_leave(&s->ring[i]);
	s->d->again = 0;
	if (s->started)
		s->d->ops->stop(s->d);
	s->started = false;
	guest_mem_clear(&s->d->mem);
}

static int on_set_status(struct vduse *s, uint8_t status)
{
	uint64_t features;
	log_debug("%s: status %#x", s->name, status);
	if (status == 0) {
		device_stop(s);
		vduse_record_status(&s->record, 0);
		return 0;
	}
	if (s->started || !(status & (VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_FEATURES_OK)))
		return 0;
	int rc = features_read(s, &features);
	if (rc == 0 && status & VIRTIO_CONFIG_S_DRIVER_OK)
		vduse_record_status(&s->record,
				    status); // the start follows, and what is taken then is in the record
	return rc;
}

// Once the kernel has its answer: a network driver holds the lock on all interfaces while it waits for that, which starting a tap takes, too.
static int start_due(struct vduse *s)
{
	uint64_t features;
	if (s->started || !vduse_running(s))
		return 0;
	int rc = features_read(s, &features);
	if (rc == 0)
		rc = device_start(s, features);
	if (rc < 0) {
		log_limited(LOG_WARN, "%s: cannot be started: %s", s->name, err_text(-rc));
		device_stop(s);
		vduse_record_status(&s->record, 0);
	}
	return rc;
}

static int on_get_vq_state(struct vduse *s, uint32_t index, struct vduse_vq_state *out)
{
	if (index >= s->queue_count)
		return -EINVAL;
	struct vduse_ring *r = &s->ring[index];
	const bool packed = s->features & VQ_FEATURE_PACKED;
	if (r->vq->running) {
		s->d->ops->drain(s->d, r->vq);
		*out = vduse_state_of(vq_base(r->vq), packed);
		vdev_again(s->d, r->vq);
	} else {
		struct vduse_vq_info info = { .index = index };
		if (ioctl(s->node.fd, VDUSE_VQ_GET_INFO, &info) < 0)
			return -errno;
		*out = vduse_state_of(vduse_base_of(&info, packed), packed);
	}
	out->index = index;
	return 0;
}

// ---- messages ---------------------------------------------------------------------------------------------------

static int act(struct vduse *s, const struct vduse_dev_request *rq, struct vduse_dev_response *re)
{
	switch (rq->type) {
	case VDUSE_GET_VQ_STATE:
		return on_get_vq_state(s, rq->vq_state.index, &re->vq_state);
	case VDUSE_SET_STATUS:
		return on_set_status(s, rq->s.status);
	case VDUSE_UPDATE_IOTLB:
		return vduse_iotlb_update(s, &rq->iova);
	default:
		return -EOPNOTSUPP;
	}
}

static void end(struct vduse *s, int error)
{
	s->closing = true;
	if (!s->error)
		s->error = error;
}

static void node_ready(struct loop_source *src, uint32_t events)
{
	struct vduse *s = CONTAINER_OF(src, struct vduse, node);
	struct vduse_dev_request rq;
	ssize_t n = read(src->fd, &rq, sizeof(rq));
	if (n < 0 && (errno == EAGAIN || errno == EINTR) && !(events & (EPOLLERR | EPOLLHUP)))
		return;
	if (n != (ssize_t)sizeof(rq)) {
		log_error("%s: the kernel gave this device up, for a message was not answered in time "
			  "(/sys/class/vduse/%s/msg_timeout): vdpa dev del %s, and start again",
			  s->name, s->name, s->name);
		s->broken = true;
		end(s, EIO);
		return;
	}
	struct vduse_dev_response re = { .request_id = rq.request_id };
	int rc = act(s, &rq, &re);
	if (rc < 0) {
		log_limited(LOG_WARN, "%s: message %u of the kernel refused: %s", s->name, rq.type,
			    err_text(-rc));
		re.result = VDUSE_REQ_RESULT_FAILED;
	}
	// ENOENT: who asked was killed meanwhile.
	if (write(src->fd, &re, sizeof(re)) != (ssize_t)sizeof(re) && errno != ENOENT) {
		log_error("%s: answer to the kernel: %s", s->name, err_text(errno));
		s->broken = true;
		end(s, EIO);
		return;
	}
	start_due(s);
}

// ---- configuration space ----------------------------------------------------------------------------------------

static int config_set(const struct vduse *s)
{
	union {
		struct vduse_config_data head;
		uint8_t bytes[offsetof(struct vduse_config_data, buffer) + VDUSE_HEAD_LEN];
	} c;
	const struct vdev *d = s->d;
	if (d->config_len == 0)
		return 0;
	c.head = (struct vduse_config_data){ .offset = 0, .length = d->config_len };
	memcpy(c.bytes + offsetof(struct vduse_config_data, buffer), d->config, d->config_len);
	return ioctl(s->node.fd, VDUSE_DEV_SET_CONFIG, &c) < 0 ? -errno : 0;
}

static void config_changed(struct vdev *d)
{
	const struct vduse *s = d->session;
	int rc = config_set(s);
	if (rc < 0)
		log_limited(LOG_WARN, "%s: new configuration: %s", s->name, err_text(-rc));
	else
		ioctl(s->node.fd,
		      VDUSE_DEV_INJECT_CONFIG_IRQ); // EINVAL: no driver yet, which will read it anyway
}

// ---- the keeper -------------------------------------------------------------------------------------------------

static bool keeper_ask(struct vduse *s, enum vduse_ask what)
{
	const uint8_t byte = (uint8_t)what;
	s->ask = what;
	s->asked = s->keeper.fd >= 0 && write(s->keeper.fd, &byte, sizeof(byte)) == sizeof(byte);
	return s->asked;
}

static void keeper_ready(struct loop_source *src, uint32_t events)
{
	(void)events;
	struct vduse *s = CONTAINER_OF(src, struct vduse, keeper);
	int answer;
	s->asked = false;
	if (read(src->fd, &answer, sizeof(answer)) != (ssize_t)sizeof(answer)) {
		loop_remove(&s->d->loop, src);
		fd_close(&src->fd);
		answer = ESRCH;
	}
	s->answer = answer;
	if (s->ask == VDUSE_SERVING && answer > 0) {
		log_error("--vdpa-add: vDPA device %s: %s%s", s->name, err_text(answer),
			  answer == EPERM ? " (needs CAP_NET_ADMIN)" : "");
		end(s, answer);
	}
}

// The keeper's answer, while the device goes on: its driver has to be told of its end, which takes the device.
static int keeper_await(struct vduse *s)
{
	const deadline_ns deadline = deadline_in_ms(REMOVE_MS);
	int left, rc = 0;
	while (s->asked && rc >= 0 && (left = deadline_left_ms(deadline)) > 0) {
		if (vduse_interrupts_owed(s))
			left = OWED_MS;
		rc = vdev_turn(s->d, left);
	}
	return s->asked ? ETIMEDOUT : s->answer;
}

// ---- the carrier ------------------------------------------------------------------------------------------------

static int take_over(struct vduse *s)
{
	int rc = config_set(s); // an image may have grown
	if (rc < 0 || !vduse_running(s))
		return rc;
	uint64_t features;
	if (ioctl(s->node.fd, VDUSE_DEV_GET_FEATURES, &features) < 0)
		return -errno;
	if (!features_good(s, features)) { // reset while nobody was there
		vduse_record_status(&s->record, 0);
		return 0;
	}
	rc = start_due(s);
	for (unsigned i = 0; i < s->queue_count && rc == 0; i++)
		if (s->ring[i].vq->running)
			vduse_ring_interrupt(s->ring[i].vq); // one may have been due
	log_info("%s: taken over", s->name);
	return rc;
}

static void session_free(struct vduse *s)
{
	struct loop *l = &s->d->loop;
	s->d->config_changed = NULL;
	s->d->mem.missing = NULL;
	s->d->session = NULL;
	for (unsigned i = 0; i < VDEV_QUEUES_MAX; i++) {
		loop_remove(l, &s->ring[i].kick);
		fd_close(&s->ring[i].kick.fd);
	}
	loop_remove(l, &s->keeper);
	fd_close(&s->keeper.fd);
	loop_remove(l, &s->node);
	fd_close(&s->node.fd);
	vduse_record_close(&s->record);
	free(s);
}

static struct session *vduse_session_open(struct vdev *d, int fd)
{
	struct vduse *s = d->session;
	s->node = (struct loop_source){ .fd = fd, .ready = node_ready };
	s->keeper.ready = keeper_ready;
	d->mem.missing = vduse_iova_missing;
	d->config_changed = config_changed;
	for (unsigned i = 0; i < s->queue_count; i++) {
		s->ring[i].s = s;
		s->ring[i].vq = &d->queues[i];
		d->queues[i].carrier = &s->ring[i];
		d->queues[i].on_call = vduse_ring_interrupt;
	}
	int rc = loop_add(&d->loop, &s->node, EPOLLIN);
	if (rc == 0 && s->keeper.fd >= 0)
		rc = loop_add(&d->loop, &s->keeper, EPOLLIN);
	if (rc == 0 && s->found)
		rc = take_over(s);
	if (rc < 0) {
		log_error("%s: %s", s->name, err_text(-rc));
		device_stop(s);
		session_free(s);
		return NULL;
	}
	keeper_ask(s, VDUSE_SERVING);
	return (struct session *)s;
}

static bool vduse_session_alive(struct session *session, int *wake_ms)
{
	struct vduse *s = (struct vduse *)session;
	*wake_ms = vduse_interrupts_owed(s) ? OWED_MS : -1;
	return !s->closing;
}

// The kernel's device goes with us if nobody uses it.
static void leave(struct vduse *s)
{
	const bool failed = s->closing; // --vdpa-add: there is nothing to remove, and the rest goes
	int rc = s->broken ? EIO : keeper_await(s); // what was asked before
	if (failed && !s->broken)
		rc = 0;
	else if (rc == 0)
		rc = keeper_ask(s, VDUSE_REMOVE) ? keeper_await(s) : ESRCH;
	device_stop(s);
	loop_remove(&s->d->loop, &s->node);
	fd_close(&s->node.fd);
	if (s->broken)
		return;
	loop_remove(&s->d->loop, &s->keeper);
	struct pollfd answer = { .fd = s->keeper.fd, .events = POLLIN };
	int destroyed = ESRCH;
	if (rc == 0 && keeper_ask(s, VDUSE_DESTROY) && poll(&answer, 1, DEADLINE_CONTROL_MS) == 1 &&
	    read(s->keeper.fd, &destroyed, sizeof(destroyed)) == (ssize_t)sizeof(destroyed))
		rc = destroyed;
	if (rc == EBUSY)
		log_warn("%s stays, for it is in use: start this program again to go on with it", s->name);
	else if (rc > 0)
		log_warn("%s stays: %s", s->name, err_text(rc));
}

static int vduse_session_close(struct session *session)
{
	struct vduse *s = (struct vduse *)session;
	leave(s);
	int error = s->error;
	session_free(s);
	return -error;
}

static const struct sandbox_rule rules[] = {
	SANDBOX_IOCTL(VDUSE_IOTLB_GET_FD, "memory that the driver points to, as it comes up"),
	SANDBOX_IOCTL(VDUSE_DEV_GET_FEATURES, "what the driver negotiated"),
	SANDBOX_IOCTL(VDUSE_VQ_GET_INFO, "where a queue's rings are"),
	SANDBOX_IOCTL(VDUSE_VQ_SETUP_KICKFD, "the eventfd that tells of requests"),
	SANDBOX_IOCTL(VDUSE_VQ_INJECT_IRQ, "interrupts of a queue"),
	SANDBOX_RARE_IOCTL(VDUSE_DEV_SET_CONFIG,
			   "configuration space that changes; all of it after a restart"),
	SANDBOX_RARE_IOCTL(VDUSE_DEV_INJECT_CONFIG_IRQ, "and the driver is told"),
};

const struct carrier carrier_vduse = {
	.rules = rules,
	.rule_count = ARRAY_LEN(rules),
	.open = vduse_session_open,
	.alive = vduse_session_alive,
	.close = vduse_session_close,
};
