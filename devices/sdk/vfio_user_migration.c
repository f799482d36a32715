// SPDX-License-Identifier: BSD-2-Clause
// For a guest that moves: DEVICE_FEATURE, by which its client stops the function and asks which pages it wrote, and MIG_DATA_READ and
// MIG_DATA_WRITE, which carry the function's state (pdev_state.c) from one server to another.
//
// The states are those of <linux/vfio.h> without the optional ones.  Each arc between them has STOP at one end, so that any other
// transition is two of them.  A state that is refused leaves the function reset and in ERROR, where only DEVICE_RESET helps.
// The log of pages covers 1 TiB of addresses, and takes memory where something is written.
#include "devices/sdk/vfio_user_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PAGE	       UINT64_C(4096)
#define LOG_ADDRESSES  (UINT64_C(1) << 40)
#define LOG_LEN	       (LOG_ADDRESSES / PAGE / 8)
#define REPORT_LEN_MAX (UINT64_C(1) << 36) // looked through in one turn

// ---- the states ---------------------------------------------------------------------------------------------------

static void data_end(struct vfs_migration *m)
{
	free(m->data);
	m->data = NULL;
	m->len = m->at = m->most = 0;
}

static int data_begin(struct vfs *s)
{
	struct vfs_migration *m = &s->migration;
	m->most = pdev_state_max(s->p);
	m->data = malloc(m->most);
	return m->data ? 0 : -ENOMEM;
}

static int resuming_ends(struct vfs *s)
{
	struct vfs_migration *m = &s->migration;
	int rc = pdev_state_load(s->p, m->data, m->len);
	data_end(m);
	if (rc < 0)
		m->state = VFIO_DEVICE_STATE_ERROR;
	return rc;
}

static int to_stop(struct vfs *s)
{
	struct vfs_migration *m = &s->migration;
	int rc = 0;
	if (m->state == VFIO_DEVICE_STATE_RUNNING)
		pdev_stop(s->p);
	else if (m->state == VFIO_DEVICE_STATE_STOP_COPY)
		data_end(m);
	else if (m->state == VFIO_DEVICE_STATE_RESUMING)
		rc = resuming_ends(s);
	if (rc == 0)
		m->state = VFIO_DEVICE_STATE_STOP;
	return rc;
}

static int state_set(struct vfs *s, uint32_t next)
{
	struct vfs_migration *m = &s->migration;
	int rc = 0;
	if (m->state == VFIO_DEVICE_STATE_ERROR || next < VFIO_DEVICE_STATE_STOP ||
	    next > VFIO_DEVICE_STATE_RESUMING)
		return -EINVAL;
	if (next == (uint32_t)m->state)
		return 0;
	rc = to_stop(s);
	if (rc < 0 || next == VFIO_DEVICE_STATE_STOP)
		return rc;
	if (next == VFIO_DEVICE_STATE_RUNNING)
		pdev_run(s->p);
	else
		rc = data_begin(s);
	if (rc == 0)
		m->state = (enum vfio_device_mig_state)next;
	return rc;
}

// ---- features: each finds *len bytes at `data`, and leaves there what it answers, `room` at most ---------------------

typedef int feature_do(struct vfs *s, uint8_t *data, size_t *len, size_t room);

static int migration_get(struct vfs *s, uint8_t *data, size_t *len, size_t room)
{
	const struct vfio_device_feature_migration m = { .flags = VFIO_MIGRATION_STOP_COPY };
	(void)s;
	(void)room;
	memcpy(data, &m, sizeof(m));
	*len = sizeof(m);
	return 0;
}

static int state_get(struct vfs *s, uint8_t *data, size_t *len, size_t room)
{
	const struct vfio_device_feature_mig_state m = { .device_state = s->migration.state, .data_fd = -1 };
	(void)room;
	memcpy(data, &m, sizeof(m));
	*len = sizeof(m);
	return 0;
}

static int on_state_set(struct vfs *s, uint8_t *data, size_t *len, size_t room)
{
	struct vfio_device_feature_mig_state m;
	(void)room;
	if (*len != sizeof(m))
		return -EINVAL;
	memcpy(&m, data, sizeof(m));
	return state_set(s, m.device_state);
}

static bool loggable(uint64_t iova, uint64_t size)
{
	return range_in(iova, size, LOG_ADDRESSES);
}

static bool all_loggable(const struct vfs *s)
{
	const struct guest_region *r = s->d->mem.region;
	bool all = true;
	for (unsigned i = 0; i < s->d->mem.count; i++)
		all &= loggable(r[i].base[GUEST_PHYSICAL], r[i].len);
	for (unsigned i = 0; i < s->unmapped_count; i++)
		all &= loggable(s->unmapped[i].iova, s->unmapped[i].size);
	return all;
}

bool vfs_loggable(const struct vfs *s, uint64_t iova, uint64_t size)
{
	return !s->migration.log.bits || loggable(iova, size);
}

static void log_changed(struct vfs *s, struct dirty_log *to)
{
	s->p->dirty = to;
	if (s->p->ops->memory_changed)
		s->p->ops->memory_changed(s->p);
}

// The ranges are hints, and everything is noted; they still have to be some.
static bool ranges_valid(const uint8_t *data, size_t len, uint32_t count)
{
	struct vfio_device_feature_dma_logging_range r;
	if (len != (size_t)count * sizeof(r))
		return false;
	for (; count > 0; count--, data += sizeof(r)) {
		memcpy(&r, data, sizeof(r));
		if (!range_in(r.iova, r.length, UINT64_MAX))
			return false;
	}
	return true;
}

static int logging_start(struct vfs *s, uint8_t *data, size_t *len, size_t room)
{
	struct vfs_migration *m = &s->migration;
	const size_t head = 16; // in messages the ranges follow, where the kernel has a pointer to them
	struct vfio_device_feature_dma_logging_control c = { 0 };
	(void)room;
	if (*len < head)
		return -EINVAL;
	memcpy(&c, data, head);
	if (!is_power_of_two(c.page_size) || c.num_ranges > VFIO_USER_FEATURE_MAX ||
	    !ranges_valid(data + head, *len - head, c.num_ranges))
		return -EINVAL;
	if (m->log.bits)
		return -EBUSY;
	if (!all_loggable(s))
		return -ERANGE;
	int rc = dirty_open_own(&m->log, LOG_LEN);
	if (rc < 0)
		return rc;
	log_changed(s, &m->log);
	c.page_size = PAGE;
	memcpy(data, &c, head);
	return 0;
}

static int logging_stop(struct vfs *s, uint8_t *data, size_t *len, size_t room)
{
	(void)data;
	(void)room;
	if (*len != 0 || !s->migration.log.bits)
		return -EINVAL;
	log_changed(s, NULL);
	dirty_close(&s->migration.log);
	return 0;
}

static int logging_report(struct vfs *s, uint8_t *data, size_t *len, size_t room)
{
	struct vfio_device_feature_dma_logging_report r;
	const size_t head = 24; // the bitmap follows, where the kernel has a pointer to it
	if (*len != head)
		return -EINVAL;
	memcpy(&r, data, head);
	if (!is_power_of_two(r.page_size) || r.page_size < PAGE || r.length == 0 ||
	    r.length > REPORT_LEN_MAX || (r.iova | r.length) % PAGE ||
	    !range_in(r.iova, r.length, UINT64_MAX))
		return -EINVAL;
	const uint64_t pages = (r.length + r.page_size - 1) / r.page_size, bytes = align_up(pages, 64) / 8;
	if (!s->migration.log.bits || bytes > VFS_BITMAP_MAX || head + bytes > room)
		return -EINVAL;
	memset(data + head, 0, bytes);
	dirty_take(&s->migration.log, r.iova, r.length, r.page_size, data + head);
	*len = head + bytes;
	return 0;
}

static const struct feature {
	feature_do *get, *set;
} features[] = {
	[VFIO_DEVICE_FEATURE_MIGRATION] = { .get = migration_get },
	[VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE] = { .get = state_get, .set = on_state_set },
	[VFIO_DEVICE_FEATURE_DMA_LOGGING_START] = { .set = logging_start },
	[VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP] = { .set = logging_stop },
	[VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT] = { .get = logging_report },
};

// What the flags ask for: NULL if there is no such feature.
static const struct feature *feature_of(const struct vfs *s, uint32_t flags)
{
	const uint32_t index = flags & VFIO_DEVICE_FEATURE_MASK;
	const bool known = pdev_state_offered(s->p) && index < ARRAY_LEN(features) &&
			   (features[index].get || features[index].set);
	return known ? &features[index] : NULL;
}

int vfs_on_feature(struct vfs *s, struct vfs_request *rq)
{
	const uint32_t ways = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_SET;
	struct vfio_user_device_feature f = VFS_GET(rq, struct vfio_user_device_feature);
	const struct feature *is = feature_of(s, f.flags);
	const uint32_t way = f.flags & ways;
	if (f.flags & ~(VFIO_DEVICE_FEATURE_MASK | ways | VFIO_DEVICE_FEATURE_PROBE) || f.argsz < sizeof(f))
		return -EINVAL;
	if (!is)
		return -ENOTTY;
	if ((way & VFIO_DEVICE_FEATURE_GET && !is->get) || (way & VFIO_DEVICE_FEATURE_SET && !is->set))
		return -EINVAL;
	const bool probe = f.flags & VFIO_DEVICE_FEATURE_PROBE;
	const size_t room = f.argsz - sizeof(f);
	size_t len = probe ? 0 : rq->len - sizeof(f);
	uint8_t *data = rq->reply + sizeof(f);
	int rc = 0;
	if (len > room || len > VFS_XFER_MAX || (!probe && !is_power_of_two(way)))
		return -EINVAL;
	memcpy(data, rq->payload + sizeof(f), len);
	if (!probe)
		rc = (way == VFIO_DEVICE_FEATURE_GET ? is->get : is->set)(s, data, &len, room);
	if (rc == 0 && len > room)
		return -EINVAL;
	if (way == VFIO_DEVICE_FEATURE_GET && !probe)
		f.argsz = (uint32_t)(sizeof(f) + len);
	memcpy(rq->reply, &f, sizeof(f));
	rq->reply_len = sizeof(f) + len;
	return rc;
}

// ---- the data -----------------------------------------------------------------------------------------------------

int vfs_on_mig_read(struct vfs *s, struct vfs_request *rq)
{
	struct vfs_migration *m = &s->migration;
	struct vfio_user_mig_data a = VFS_GET(rq, struct vfio_user_mig_data);
	if (m->state != VFIO_DEVICE_STATE_STOP_COPY || a.size > VFS_XFER_MAX || a.argsz < sizeof(a) ||
	    a.argsz - sizeof(a) < a.size)
		return -EINVAL;
	// Not before: doorbells that rang before it was stopped may be heard after the message that stopped it.
	if (m->len == 0)
		m->len = pdev_state_save(s->p, m->data);
	a.size = (uint32_t)MIN(a.size, m->len - m->at);
	a.argsz = (uint32_t)sizeof(a) + a.size;
	VFS_REPLY(rq, a);
	memcpy(rq->reply + sizeof(a), m->data + m->at, a.size);
	rq->reply_len += a.size;
	m->at += a.size;
	return 0;
}

int vfs_on_mig_write(struct vfs *s, struct vfs_request *rq)
{
	struct vfs_migration *m = &s->migration;
	const struct vfio_user_mig_data a = VFS_GET(rq, struct vfio_user_mig_data);
	if (m->state != VFIO_DEVICE_STATE_RESUMING || a.size != rq->len - sizeof(a))
		return -EINVAL;
	if (a.size > m->most - m->len)
		return -EMSGSIZE;
	memcpy(m->data + m->len, rq->payload + sizeof(a), a.size);
	m->len += a.size;
	return 0;
}

// ---- life ---------------------------------------------------------------------------------------------------------

void vfs_migration_init(struct vfs *s)
{
	s->migration = (struct vfs_migration){ .state = VFIO_DEVICE_STATE_RUNNING, .log.event_fd = -1 };
}

void vfs_migration_reset(struct vfs *s)
{
	data_end(&s->migration);
	if (s->p->stopped)
		pdev_run(s->p);
	s->migration.state = VFIO_DEVICE_STATE_RUNNING;
}

void vfs_migration_close(struct vfs *s)
{
	data_end(&s->migration);
	s->p->dirty = NULL;
	dirty_close(&s->migration.log);
}
