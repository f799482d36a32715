// SPDX-License-Identifier: BSD-2-Clause
#include "devices/sdk/vhost_user_impl.h"
#include "vmm/base/bin.h"
#include "vmm/base/check.h"
#include "vmm/base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_config.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static int on_get_features(struct server *s, struct request *rq)
{
	vu_reply_u64(rq, s->d->features | PRIVATE_FEATURES);
	return 0;
}

static int on_set_features(struct server *s, struct request *rq)
{
	if (rq->p.u64 & ~(s->d->features | PRIVATE_FEATURES))
		return -EINVAL;
	// The log of dirty pages goes on and off under way.
	if (s->started && (s->features ^ rq->p.u64) & ~(UINT64_C(1) << VHOST_F_LOG_ALL)) {
		for (unsigned i = 0; i < s->d->queue_count; i++)
			if (s->ring[i].vq->running)
				return -EBUSY;
		s->d->ops->stop(s->d);
		s->started = false;
		if (s->record)
			s->record->current = 0; // another driver's
	}
	// A record's entries are those of one format of rings.
	if ((s->features ^ rq->p.u64) & VQ_FEATURE_PACKED)
		vu_log_drop(s);
	s->features = rq->p.u64;
	s->has_features = true;
	vu_dirty_apply(s);
	return 0;
}

static int on_nothing(struct server *s, struct request *rq)
{
	(void)s;
	(void)rq;
	return 0;
}

// The rest, and why not (the README has the whole table): CROSS_ENDIAN, legacy devices only; CRYPTO_SESSION, no device of ours;
// PAGEFAULT, forbidden beside CONFIGURE_MEM_SLOTS; BACKEND_SEND_FD, HOST_NOTIFIER, SHARED_OBJECT, SHMEM, no device has anything to
// share; INBAND_NOTIFICATIONS, nobody asks; XEN_MMAP, no Xen; GET_VRING_BASE_INFLIGHT and SKIP_DRAIN, requests are completed when
// a ring stops.
static uint64_t offered_protocol(const struct server *s)
{
	return VHOST_USER_PF_BIT(MQ) | VHOST_USER_PF_BIT(LOG_SHMFD) | VHOST_USER_PF_BIT(REPLY_ACK) |
	       VHOST_USER_PF_BIT(BACKEND_REQ) | VHOST_USER_PF_BIT(CONFIG) |
	       VHOST_USER_PF_BIT(INFLIGHT_SHMFD) | VHOST_USER_PF_BIT(RESET_DEVICE) |
	       VHOST_USER_PF_BIT(CONFIGURE_MEM_SLOTS) | VHOST_USER_PF_BIT(STATUS) |
	       VHOST_USER_PF_BIT(DEVICE_STATE) | VHOST_USER_PF_BIT(GPA_ADDRESSES) |
	       (s->d->ops->announce ? VHOST_USER_PF_BIT(RARP) : 0) |
	       (s->d->ops->set_mtu ? VHOST_USER_PF_BIT(NET_MTU) : 0);
}

static int on_get_protocol_features(struct server *s, struct request *rq)
{
	vu_reply_u64(rq, offered_protocol(s));
	return 0;
}

static int on_set_protocol_features(struct server *s, struct request *rq)
{
	if (rq->p.u64 & ~offered_protocol(s))
		return -EINVAL;
	s->protocol_features = rq->p.u64;
	return 0;
}

static int on_get_queue_num(struct server *s, struct request *rq)
{
	vu_reply_u64(rq, s->d->queue_count);
	return 0;
}

static int region_add(struct server *s, const struct vhost_user_mem_region *r, int fd)
{
	// With it ring addresses are the guest's, and a region's two addresses are one.
	if (s->protocol_features & VHOST_USER_PF_BIT(GPA_ADDRESSES) && r->user != r->gpa)
		return -EINVAL;
	return guest_mem_add(&s->d->mem, fd, r->fd_offset, r->gpa, r->user, r->size);
}

static int on_set_mem_table(struct server *s, struct request *rq)
{
	const struct vhost_user_mem_table *t = &rq->p.table;
	if (t->count > VHOST_USER_MEM_TABLE_MAX || t->count != rq->fds.count ||
	    rq->h.size != offsetof(struct vhost_user_mem_table, region) + t->count * sizeof(t->region[0]))
		return -EINVAL;
	s->d->ops->drain(s->d, NULL);
	guest_mem_clear(&s->d->mem);
	int rc = 0;
	for (unsigned i = 0; i < t->count && rc == 0; i++)
		rc = region_add(s, &t->region[i], rq->fds.fd[i]);
	if (rc < 0)
		guest_mem_clear(&s->d->mem);
	vu_relocate_all(s);
	return rc;
}

static int on_get_max_mem_slots(struct server *s, struct request *rq)
{
	(void)s;
	vu_reply_u64(rq, GUEST_REGIONS_MAX);
	return 0;
}

static int on_add_mem_reg(struct server *s, struct request *rq)
{
	return region_add(s, &rq->p.reg.region, rq->fds.fd[0]);
}

static int on_rem_mem_reg(struct server *s, struct request *rq)
{
	const struct vhost_user_mem_region *r = &rq->p.reg.region;
	s->d->ops->drain(s->d, NULL);
	int rc = guest_mem_remove(&s->d->mem, r->gpa, r->user, r->size);
	vu_relocate_all(s);
	return rc;
}

static int on_set_vring_num(struct server *s, struct request *rq)
{
	struct ring *r = vu_ring(s, rq->p.state.index);
	uint32_t n = rq->p.state.num;
	if (!r || n > s->d->queue_size_max || !vq_size_valid(n, s->features))
		return -EINVAL;
	if (r->vq->running)
		return r->at.size == n ? 0 : -EBUSY;
	r->at.size = (uint16_t)n;
	r->has_size = true;
	return r->kicked ? vu_ring_start(r) : 0;
}

static int on_set_vring_addr(struct server *s, struct request *rq)
{
	const struct vhost_user_vring_addr *a = &rq->p.addr;
	struct ring *r = vu_ring(s, a->index);
	if (!r || a->flags & ~VHOST_USER_VRING_F_LOG)
		return -EINVAL;
	struct vq_place at = r->at;
	at.desc = a->desc_user;
	at.avail = a->avail_user;
	at.used = a->used_user;
	if (r->vq->running) {
		int rc = vq_relocate(r->vq, &at);
		if (rc < 0)
			return rc;
	}
	r->at = at;
	r->has_addr = true;
	r->used_log_gpa = a->flags & VHOST_USER_VRING_F_LOG ? a->log_gpa : UINT64_MAX;
	vu_dirty_apply(s);
	return r->kicked ? vu_ring_start(r) : 0;
}

static int on_set_vring_base(struct server *s, struct request *rq)
{
	struct ring *r = vu_ring(s, rq->p.state.index);
	if (!r || (!vu_packed(s) && rq->p.state.num > UINT16_MAX))
		return -EINVAL;
	if (r->vq->running)
		return -EBUSY;
	r->at.base = rq->p.state.num;
	return 0;
}

static int on_get_vring_base(struct server *s, struct request *rq)
{
	struct ring *r = vu_ring(s, rq->p.state.index);
	if (!r)
		return -EINVAL;
	vu_ring_stop(r);
	rq->p.state.num = r->at.base;
	rq->reply_len = sizeof(rq->p.state);
	return 0;
}

// The ring and the descriptor of SET_VRING_KICK, _CALL and _ERR; *fd is -1 where the message says so.
static struct ring *vring_fd(struct server *s, struct request *rq, int *fd)
{
	bool none = rq->p.u64 & VHOST_USER_VRING_NO_FD;
	struct ring *r = vu_ring(s, rq->p.u64 & VHOST_USER_VRING_INDEX_MASK);
	if (!r || none != (rq->fds.count == 0))
		return NULL;
	*fd = none ? -1 : msg_fds_take_one(&rq->fds);
	if (*fd >= 0 && fd_peer_event_check(*fd) < 0) {
		s->wrong_fds += bin_put(fd);
		return NULL;
	}
	return r;
}

static int on_set_vring_kick(struct server *s, struct request *rq)
{
	FD_AUTO fd = -1;
	struct ring *r = vring_fd(s, rq, &fd);
	if (!r)
		return -EINVAL;
	if (fd < 0)
		return -EOPNOTSUPP; // would mean to poll memory for ever
	vu_ring_drop_kick(r);
	// Edge-triggered: every signal is an event, and the counter need never be read.
	r->kick.fd = fd;
	int rc = loop_add(&s->d->loop, &r->kick, EPOLLIN | EPOLLET);
	if (rc < 0) {
		r->kick.fd = -1;
		return rc;
	}
	fd_steal(&fd);
	vu_ring_kick(r);
	return 0;
}

static int on_set_vring_call(struct server *s, struct request *rq)
{
	int fd = -1;
	struct ring *r = vring_fd(s, rq, &fd);
	if (!r)
		return -EINVAL;
	fd_close(&r->vq->call_fd);
	r->vq->call_fd = fd;
	return 0;
}

static int on_set_vring_err(struct server *s, struct request *rq)
{
	int fd = -1;
	struct ring *r = vring_fd(s, rq, &fd);
	if (!r)
		return -EINVAL;
	fd_close(&r->vq->err_fd);
	r->vq->err_fd = fd;
	return 0;
}

static int on_set_vring_enable(struct server *s, struct request *rq)
{
	struct ring *r = vu_ring(s, rq->p.state.index);
	if (!r || rq->p.state.num > 1)
		return -EINVAL;
	r->vq->enabled = rq->p.state.num;
	int rc = r->vq->enabled ? vu_ring_start(r) : 0;
	if (rc == 0)
		vu_ring_kick(r);
	return rc;
}

static int on_get_config(struct server *s, struct request *rq)
{
	struct vhost_user_config *c = &rq->p.config;
	uint32_t len = c->len;
	if (rq->h.size != VHOST_USER_CONFIG_HEAD && rq->h.size - VHOST_USER_CONFIG_HEAD != len)
		return -EINVAL;
	const uint32_t all = MAX(s->d->config_len, VHOST_USER_CONFIG_CHUNK);
	if (len > VHOST_USER_CONFIG_CHUNK || !range_in(c->off, len, all))
		return 0; // no payload: the range does not exist
	// Front-ends ask for the length of the layout that they know; what we do not have reads as zeros.
	memset(c->data, 0, len);
	if (c->off < s->d->config_len)
		memcpy(c->data, (const uint8_t *)s->d->config + c->off, MIN(len, s->d->config_len - c->off));
	rq->reply_len = VHOST_USER_CONFIG_HEAD + len;
	return 0;
}

static int on_set_config(struct server *s, struct request *rq)
{
	const struct vhost_user_config *c = &rq->p.config;
	if (rq->h.size - VHOST_USER_CONFIG_HEAD != c->len || !range_in(c->off, c->len, s->d->config_len) ||
	    c->flags > VHOST_USER_CONFIG_MIGRATION)
		return -EINVAL;
	// A guest that moved here: what its driver cannot write is to be what it was.
	if (c->flags == VHOST_USER_CONFIG_MIGRATION &&
	    memcmp((const uint8_t *)s->d->config + c->off, c->data, c->len) == 0)
		return 0;
	return s->d->ops->config_write(s->d, c->off, c->data, c->len);
}

// The first six bytes are the address.
static int on_send_rarp(struct server *s, struct request *rq)
{
	uint8_t mac[6];
	memcpy(mac, rq->p.bytes, sizeof(mac));
	return s->d->ops->announce(s->d, mac);
}

static int on_net_set_mtu(struct server *s, struct request *rq)
{
	return rq->p.u64 == 0 || rq->p.u64 > UINT16_MAX ? -ERANGE
							: s->d->ops->set_mtu(s->d, (uint16_t)rq->p.u64);
}

static int on_get_inflight_fd(struct server *s, struct request *rq)
{
	struct vhost_user_inflight *i = &rq->p.inflight;
	if (i->queue_count == 0 || i->queue_count > s->d->queue_count || i->queue_size > s->d->queue_size_max)
		return -EINVAL;
	const uint64_t len =
		i->queue_count * inflight_region_len(i->queue_size, vu_packed(s)) + vu_state_record_len(s);
	rq->reply_fd = memfd_create("inflight", MFD_CLOEXEC);
	if (rq->reply_fd < 0 || ftruncate(rq->reply_fd, (off_t)len) < 0)
		return -errno;
	i->mmap_size = len;
	i->mmap_offset = 0;
	rq->reply_len = rq->h.size; // 20 or 24 bytes: as the front-end packs it
	return 0;
}

void vu_log_drop(struct server *s)
{
	for (unsigned i = 0; i < s->d->queue_count; i++)
		s->ring[i].at.log = NULL;
	if (s->log)
		munmap(s->log, s->log_len);
	s->log = NULL;
	s->record = NULL;
	s->d->mem.extra[GUEST_INFLIGHT].map = NULL;
}

static int on_set_inflight_fd(struct server *s, struct request *rq)
{
	const struct vhost_user_inflight *in = &rq->p.inflight;
	struct stat st;
	uint64_t region_len = inflight_region_len(in->queue_size, vu_packed(s)),
		 len = in->queue_count * region_len;
	for (unsigned i = 0; i < s->d->queue_count; i++)
		if (s->ring[i].vq->running)
			return -EBUSY;
	vu_log_drop(s);
	if (in->queue_count == 0 || in->queue_count > s->d->queue_count || in->mmap_size < len)
		return -EINVAL;
	if (!guest_mem_allows(&s->d->mem, rq->fds.fd[0]))
		return -EPERM;
	if (fstat(rq->fds.fd[0], &st) < 0)
		return -errno;
	// One that another kind of device made has no room for a state.
	const uint64_t queues_len = len;
	const bool stateful = vu_state_record_len(s) > 0 && in->mmap_size >= len + vu_state_record_len(s);
	if (stateful)
		len += vu_state_record_len(s);
	if (!S_ISREG(st.st_mode) || !range_in(in->mmap_offset, len, (uint64_t)st.st_size))
		return -ERANGE;
	len = align_up(len, guest_mem_align(&st));
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, rq->fds.fd[0], (off_t)in->mmap_offset);
	if (p == MAP_FAILED)
		return -errno;
	s->log = p;
	s->log_len = len;
	s->record = stateful ? (struct state_record *)(void *)(s->log + queues_len) : NULL;
	s->d->mem.extra[GUEST_INFLIGHT].map = p;
	s->d->mem.extra[GUEST_INFLIGHT].len = len;
	for (unsigned i = 0; i < in->queue_count; i++) {
		s->ring[i].at.log = (struct inflight_region *)(void *)(s->log + i * region_len);
		s->ring[i].at.log_size = in->queue_size;
	}
	return 0;
}

static int on_reset_device(struct server *s, struct request *rq)
{
	(void)rq;
	vu_stop_all(s);
	s->status = 0;
	vu_state_forget(s);
	if (s->record)
		s->record->current = 0;
	for (unsigned i = 0; i < s->d->queue_count; i++)
		if (s->ring[i].at.log)
			s->ring[i].at.log->version = 0;
	return 0;
}

static int on_set_status(struct server *s, struct request *rq)
{
	if (rq->p.u64 > UINT8_MAX)
		return -EINVAL;
	if (rq->p.u64 == 0)
		return on_reset_device(s, rq);
	// A driver that wants legacy virtio does not get it (virtio 1.2 §3.1.1).
	if (s->has_features && !(s->features >> VIRTIO_F_VERSION_1 & 1))
		rq->p.u64 &= ~(uint64_t)VIRTIO_CONFIG_S_FEATURES_OK;
	s->status = (uint8_t)(rq->p.u64 | (s->status & VIRTIO_CONFIG_S_NEEDS_RESET));
	return 0;
}

static int on_get_status(struct server *s, struct request *rq)
{
	vu_reply_u64(rq, s->status);
	return 0;
}

// By request number; a hole is a request that belongs to nothing that was offered.
int (*const vu_handlers[VU_HANDLERS])(struct server *s, struct request *rq) = {
	[VHOST_USER_GET_FEATURES] = on_get_features,
	[VHOST_USER_SET_FEATURES] = on_set_features,
	[VHOST_USER_SET_OWNER] = on_nothing,
	[VHOST_USER_RESET_OWNER] = on_nothing, // the specification's advice
	[VHOST_USER_SET_MEM_TABLE] = on_set_mem_table,
	[VHOST_USER_SET_LOG_BASE] = vu_on_set_log_base,
	[VHOST_USER_SET_LOG_FD] = vu_on_set_log_fd,
	[VHOST_USER_SET_VRING_NUM] = on_set_vring_num,
	[VHOST_USER_SET_VRING_ADDR] = on_set_vring_addr,
	[VHOST_USER_SET_VRING_BASE] = on_set_vring_base,
	[VHOST_USER_GET_VRING_BASE] = on_get_vring_base,
	[VHOST_USER_SET_VRING_KICK] = on_set_vring_kick,
	[VHOST_USER_SET_VRING_CALL] = on_set_vring_call,
	[VHOST_USER_SET_VRING_ERR] = on_set_vring_err,
	[VHOST_USER_GET_PROTOCOL_FEATURES] = on_get_protocol_features,
	[VHOST_USER_SET_PROTOCOL_FEATURES] = on_set_protocol_features,
	[VHOST_USER_GET_QUEUE_NUM] = on_get_queue_num,
	[VHOST_USER_SET_VRING_ENABLE] = on_set_vring_enable,
	[VHOST_USER_SEND_RARP] = on_send_rarp,
	[VHOST_USER_NET_SET_MTU] = on_net_set_mtu,
	[VHOST_USER_SET_BACKEND_REQ_FD] = vu_on_set_backend_req_fd,
	[VHOST_USER_GET_CONFIG] = on_get_config,
	[VHOST_USER_SET_CONFIG] = on_set_config,
	[VHOST_USER_GET_INFLIGHT_FD] = on_get_inflight_fd,
	[VHOST_USER_SET_INFLIGHT_FD] = on_set_inflight_fd,
	[VHOST_USER_RESET_DEVICE] = on_reset_device,
	[VHOST_USER_GET_MAX_MEM_SLOTS] = on_get_max_mem_slots,
	[VHOST_USER_ADD_MEM_REG] = on_add_mem_reg,
	[VHOST_USER_REM_MEM_REG] = on_rem_mem_reg,
	[VHOST_USER_SET_STATUS] = on_set_status,
	[VHOST_USER_GET_STATUS] = on_get_status,
	[VHOST_USER_SET_DEVICE_STATE_FD] = vu_on_set_device_state_fd,
	[VHOST_USER_CHECK_DEVICE_STATE] = vu_on_check_device_state,
};
