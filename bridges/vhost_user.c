// SPDX-License-Identifier: BSD-2-Clause
// The operations of a vhost-user back-end, each one exchange.  The handshake is in vhost_user_open.c.
#include "bridges/vhost_user_impl.h"
#include "vmm/base/check.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/spawn.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

// What is added to a guest address to make the "user address" that names ring addresses.  Never 0, never a
// pointer of ours, and far above any guest address so that the two cannot be mistaken for each other.
#define MADE_UP_OFFSET (UINT64_C(1) << 44)

// virtio 1.2 §2.1
#define STATUS_ACKNOWLEDGE 1u
#define STATUS_DRIVER	   2u
#define STATUS_DRIVER_OK   4u
#define STATUS_FEATURES_OK 8u

static struct vhost_user *vu_of(struct backend *b)
{
	return CONTAINER_OF(b, struct vhost_user, backend);
}

static bool has(const struct vhost_user *vu, uint64_t bit)
{
	return vu_link_has(&vu->link, bit);
}

static void order_u64(struct vu_exchange *x, uint32_t request, uint64_t value)
{
	vu_order(x, request, &value, sizeof(value), NULL, 0);
}

static void tell_u64(struct vu_exchange *x, uint32_t request, uint64_t value)
{
	vu_tell(x, request, &value, sizeof(value), -1);
}

// A start or stop of the device is many operations with one deadline.
static deadline_ns stop_deadline(const struct vhost_user *vu)
{
	deadline_ns own = deadline_in_ms(vu->stop_ms);
	return vu->backend.deadline ? MIN(own, vu->backend.deadline) : own;
}

// ---- features -----------------------------------------------------------------------------------

static int op_features(struct backend *b, uint64_t *out)
{
	struct vhost_user *vu = vu_of(b);
	*out = vu->offered;
	return 0;
}

static int op_negotiate(struct backend *b, uint64_t features)
{
	struct vhost_user *vu = vu_of(b);
	if (features & ~vu->offered)
		return -EINVAL;
	const bool status = has(vu, VHOST_USER_PF_BIT(STATUS));
	struct vu_exchange x;
	vu_begin(&x, &vu->link, deadline_in_ms(vu->control_ms));
	if (status) {
		tell_u64(&x, VHOST_USER_SET_STATUS, 0);
		tell_u64(&x, VHOST_USER_SET_STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
	}
	// Bit 30 is what makes rings start disabled and SET_VRING_ENABLE meaningful.
	order_u64(&x, VHOST_USER_SET_FEATURES, features | UINT64_C(1) << VHOST_USER_F_PROTOCOL_FEATURES);
	if (status) {
		tell_u64(&x, VHOST_USER_SET_STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK);
		vu_ask(&x, VHOST_USER_GET_STATUS, NULL, 0);
		uint64_t now = vu_answer_u64(&x, VHOST_USER_GET_STATUS);
		if (x.rc == 0 && !(now & STATUS_FEATURES_OK)) {
			x.rc = -EIO;
			x.refused = "the features that the driver took (FEATURES_OK)";
		}
	}
	return vu_end(&x);
}

// ---- configuration space ------------------------------------------------------------------------

void vu_ask_config(struct vu_exchange *x, const struct vhost_user *vu)
{
	const uint32_t len = vu->backend.config_len;
	struct vhost_user_config c = { .len = len };
	vu_ask(x, VHOST_USER_GET_CONFIG, &c, VHOST_USER_CONFIG_HEAD + len);
}

void vu_answer_config(struct vu_exchange *x, struct vhost_user *vu)
{
	const uint32_t len = vu->backend.config_len;
	struct vhost_user_config c = { .off = 0 };
	size_t got = vu_answer(x, VHOST_USER_GET_CONFIG, &c, VHOST_USER_CONFIG_HEAD + len);
	if (x->rc < 0)
		return;
	if (got == 0 || got == VHOST_USER_CONFIG_HEAD) {
		vu_broken(x, "refuses to show the %u bytes of its configuration space", len);
		return;
	}
	if (got != VHOST_USER_CONFIG_HEAD + len || c.off != 0 || c.len != len) {
		vu_broken(x, "broke the protocol (answer to GET_CONFIG: not the range that was asked for)");
		return;
	}
	// The guest has as many queues as we give it, which may be fewer than the back-end could serve.
	if (vu->backend.queue_count)
		vu_type_queues_show(vu->type, vu->backend.queue_count, c.data, len);
	memcpy(vu->config, c.data, len);
}

uint16_t vu_try_config(struct vu_exchange *x, uint8_t *config, uint32_t len)
{
	struct vhost_user_config c = { .len = len };
	vu_ask(x, VHOST_USER_GET_CONFIG, &c, VHOST_USER_CONFIG_HEAD + len);
	size_t got = vu_answer(x, VHOST_USER_GET_CONFIG, &c, sizeof(c));
	if (x->rc < 0 || got <= VHOST_USER_CONFIG_HEAD)
		return 0;
	got -= VHOST_USER_CONFIG_HEAD;
	if (got > len || c.off != 0 || c.len > got) {
		vu_broken(x, "broke the protocol (answer to GET_CONFIG: not the range that was asked for)");
		return 0;
	}
	memcpy(config, c.data, c.len);
	return (uint16_t)c.len;
}

uint16_t vu_find_config(struct vu_exchange *x, uint8_t *config)
{
	uint16_t good = vu_try_config(x, config, VHOST_USER_CONFIG_CHUNK);
	if (good)
		return good;
	uint32_t refused = VHOST_USER_CONFIG_CHUNK;
	while (x->rc == 0 && refused - good > 1) {
		const uint32_t len = (good + refused) / 2;
		const uint16_t shown = vu_try_config(x, config, len);
		if (shown == 0)
			refused = len;
		else if (shown < len)
			return shown;
		else
			good = shown;
	}
	return x->rc == 0 ? good : 0;
}

static int op_config_read(struct backend *b, uint32_t off, void *buf, uint32_t len)
{
	struct vhost_user *vu = vu_of(b);
	if (!range_in(off, len, b->config_len))
		return -EINVAL;
	if (atomic_exchange(&vu->config_stale, false)) {
		struct vu_exchange x;
		vu_begin(&x, &vu->link, deadline_in_ms(vu->control_ms));
		vu_ask_config(&x, vu);
		vu_answer_config(&x, vu);
		int rc = vu_end(&x);
		if (rc < 0) {
			atomic_store(&vu->config_stale, true);
			return rc;
		}
	}
	memcpy(buf, vu->config + off, len);
	return 0;
}

static int op_config_write(struct backend *b, uint32_t off, const void *buf, uint32_t len)
{
	struct vhost_user *vu = vu_of(b);
	if (!range_in(off, len, b->config_len))
		return -EINVAL;
	struct vhost_user_config c = { .off = off, .len = len, .flags = VHOST_USER_CONFIG_WRITABLE };
	memcpy(c.data, buf, len);
	struct vu_exchange x;
	vu_begin(&x, &vu->link, deadline_in_ms(vu->control_ms));
	vu_order(&x, VHOST_USER_SET_CONFIG, &c, VHOST_USER_CONFIG_HEAD + len, NULL, 0);
	int rc = vu_end(&x);
	atomic_store(&vu->config_stale, true);
	return rc;
}

// ---- memory -------------------------------------------------------------------------------------

static struct vhost_user_mem_region wire_region(const struct mem_region *r)
{
	return (struct vhost_user_mem_region){
		.gpa = r->gpa,
		.size = r->size,
		.user = r->gpa + MADE_UP_OFFSET,
		.fd_offset = r->fd_offset,
	};
}

static bool same_region(const struct mem_region *a, const struct mem_region *b)
{
	return a->gpa == b->gpa && a->size == b->size && a->fd == b->fd && a->fd_offset == b->fd_offset;
}

static bool table_holds(const struct mem_table *t, const struct mem_region *r)
{
	for (unsigned i = 0; i < t->count; i++)
		if (same_region(&t->region[i], r))
			return true;
	return false;
}

static void send_slots(struct vu_exchange *x, const struct mem_table *old, const struct mem_table *new)
{
	for (unsigned i = 0; i < old->count; i++) {
		if (table_holds(new, &old->region[i]))
			continue;
		struct vhost_user_mem_reg reg = { .region = wire_region(&old->region[i]) };
		vu_order(x, VHOST_USER_REM_MEM_REG, &reg, sizeof(reg), NULL, 0);
	}
	for (unsigned i = 0; i < new->count; i++) {
		if (table_holds(old, &new->region[i]))
			continue;
		struct vhost_user_mem_reg reg = { .region = wire_region(&new->region[i]) };
		vu_order(x, VHOST_USER_ADD_MEM_REG, &reg, sizeof(reg), &new->region[i].fd, 1);
	}
}

static void send_table(struct vu_exchange *x, const struct mem_table *t)
{
	struct vhost_user_mem_table m = { .count = t->count };
	int fds[VHOST_USER_MEM_TABLE_MAX];
	for (unsigned i = 0; i < t->count; i++) {
		m.region[i] = wire_region(&t->region[i]);
		fds[i] = t->region[i].fd;
	}
	vu_order(x, VHOST_USER_SET_MEM_TABLE, &m, 8 + t->count * sizeof(m.region[0]), fds, t->count);
}

_Static_assert(MEM_REGIONS_MAX <= VHOST_USER_MEM_TABLE_MAX, "all of RAM fits one SET_MEM_TABLE");

static int op_memory(struct backend *b, const struct mem_table *t)
{
	struct vhost_user *vu = vu_of(b);
	bool same = t->count == vu->sent.count;
	for (unsigned i = 0; same && i < t->count; i++)
		same = table_holds(&vu->sent, &t->region[i]);
	if (same)
		return vu_link_dead(&vu->link) ? -EPIPE : 0;
	if (t->count > vu->mem_slots) {
		log_limited(LOG_WARN, "%s: guest RAM has %u regions, the back-end takes %llu", b->id,
			    t->count, (unsigned long long)vu->mem_slots);
		return -E2BIG;
	}
	struct vu_exchange x;
	vu_begin(&x, &vu->link, stop_deadline(vu));
	if (has(vu, VHOST_USER_PF_BIT(CONFIGURE_MEM_SLOTS)))
		send_slots(&x, &vu->sent, t);
	else
		send_table(&x, t);
	int rc = vu_end(&x);
	if (rc == 0)
		vu->sent = *t;
	else if (rc == -EIO && has(vu, VHOST_USER_PF_BIT(CONFIGURE_MEM_SLOTS)))
		vu_link_condemn(&vu->link, "refuses a part of guest memory"); // and nobody knows which it has
	return rc;
}

// ---- queues -------------------------------------------------------------------------------------

static void send_event_fd(struct vu_exchange *x, uint32_t request, unsigned q, int fd, bool must_succeed)
{
	uint64_t value = q | (fd < 0 ? VHOST_USER_VRING_NO_FD : 0);
	if (must_succeed)
		vu_order(x, request, &value, sizeof(value), &fd, fd >= 0);
	else
		vu_tell(x, request, &value, sizeof(value), fd);
}

static void send_enable(struct vu_exchange *x, unsigned q, bool on)
{
	struct vhost_user_vring_state s = { .index = q, .num = on };
	if (on)
		vu_order(x, VHOST_USER_SET_VRING_ENABLE, &s, sizeof(s), NULL, 0);
	else
		vu_tell(x, VHOST_USER_SET_VRING_ENABLE, &s, sizeof(s), -1);
}

static int op_queue_stop(struct backend *b, unsigned q, uint16_t *base)
{
	struct vhost_user *vu = vu_of(b);
	*base = 0;
	if (q >= b->queue_count || !vu->started[q])
		return -EINVAL;
	vu->started[q] = false;
	struct vhost_user_vring_state s = { .index = q };
	struct vu_exchange x;
	vu_begin(&x, &vu->link, stop_deadline(vu));
	vu_ask(&x, VHOST_USER_GET_VRING_BASE, &s, sizeof(s));
	// Only after it is stopped: a ring that runs disabled may drop what it finds.
	send_enable(&x, q, false);
	vu_answer(&x, VHOST_USER_GET_VRING_BASE, &s, sizeof(s));
	if (x.rc == 0 && s.index != q)
		vu_broken(&x, "broke the protocol (answer to GET_VRING_BASE: another queue)");
	if (x.rc == 0)
		*base = (uint16_t)s.num; // of a split ring; the rest is noise
	return vu_end(&x);
}

static int op_queue_start(struct backend *b, unsigned q, const struct vring_cfg *cfg)
{
	struct vhost_user *vu = vu_of(b);
	if (q >= b->queue_count || vu->started[q])
		return -EINVAL;
	const struct vhost_user_vring_state num = { .index = q, .num = cfg->size };
	const struct vhost_user_vring_state base = { .index = q, .num = cfg->base };
	const struct vhost_user_vring_addr addr = {
		.index = q,
		.desc_user = cfg->desc_gpa + MADE_UP_OFFSET,
		.used_user = cfg->used_gpa + MADE_UP_OFFSET,
		.avail_user = cfg->avail_gpa + MADE_UP_OFFSET,
	};
	struct vu_exchange x;
	vu_begin(&x, &vu->link, stop_deadline(vu));
	vu_tell(&x, VHOST_USER_SET_VRING_NUM, &num, sizeof(num), -1);
	vu_tell(&x, VHOST_USER_SET_VRING_BASE, &base, sizeof(base), -1);
	vu_order(&x, VHOST_USER_SET_VRING_ADDR, &addr, sizeof(addr), NULL, 0);
	send_event_fd(&x, VHOST_USER_SET_VRING_ERR, q, vu->err_fd, false);
	send_event_fd(&x, VHOST_USER_SET_VRING_CALL, q, cfg->call_fd, false);
	// The kick starts the ring, so everything else about it comes before.
	send_event_fd(&x, VHOST_USER_SET_VRING_KICK, q, cfg->kick_fd, true);
	if (vu->running)
		send_enable(&x, q, true);
	int rc = vu_end(&x);
	vu->started[q] = rc != -EPIPE;
	if (rc < 0 && vu->started[q]) {
		// It refused a part of the ring and may have taken the rest: nothing of it is to stay in use.
		uint16_t unused;
		op_queue_stop(b, q, &unused);
	}
	return rc;
}

static int device_run(struct vhost_user *vu)
{
	struct vu_exchange x;
	fd_event_take(vu->err_fd); // what an earlier run left
	vu_begin(&x, &vu->link, stop_deadline(vu));
	for (unsigned q = 0; q < vu->backend.queue_count; q++)
		if (vu->started[q])
			send_enable(&x, q, true);
	if (has(vu, VHOST_USER_PF_BIT(STATUS)))
		order_u64(&x, VHOST_USER_SET_STATUS,
			  STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK);
	int rc = vu_end(&x);
	vu->running = rc == 0;
	if (rc == 0)
		loop_modify(vu->link.loop, &vu->err_source, (uint32_t)EPOLLIN | (uint32_t)EPOLLONESHOT);
	return rc;
}

static int device_reset(struct vhost_user *vu)
{
	const bool status = has(vu, VHOST_USER_PF_BIT(STATUS)),
		   reset = has(vu, VHOST_USER_PF_BIT(RESET_DEVICE));
	vu->running = false;
	atomic_store(&vu->config_stale, true); // what the driver wrote there is gone
	if (!status && !reset)
		return vu_link_dead(&vu->link) ? -EPIPE : 0;
	struct vu_exchange x;
	vu_begin(&x, &vu->link, stop_deadline(vu));
	if (status)
		order_u64(&x, VHOST_USER_SET_STATUS, 0);
	if (reset)
		vu_order(&x, VHOST_USER_RESET_DEVICE, NULL, 0, NULL, 0);
	int rc = vu_end(&x);
	// Some back-ends take the memory table for a part of what is reset.  A table may be sent again at no
	// harm; a slot that is still there may not.
	if (reset && !has(vu, VHOST_USER_PF_BIT(CONFIGURE_MEM_SLOTS)))
		vu->sent.count = 0;
	return rc;
}

static int op_run(struct backend *b, bool on)
{
	return on ? device_run(vu_of(b)) : device_reset(vu_of(b));
}

#define CHILD_GRACE_MS 1000

static void op_close(struct backend *b)
{
	struct vhost_user *vu = vu_of(b);
	loop_remove(vu->link.loop, &vu->err_source);
	fd_close(&vu->err_fd);
	vu_channel_close(&vu->channel);
	vu_link_close(&vu->link); // the child sees the end of its socket before it is signalled
	if (vu->child) {
		spawn_stop(vu->child, CHILD_GRACE_MS);
		free(vu->child);
	}
	free(vu);
}

const struct backend_ops vu_ops = {
	.kind = "vhost-user",
	.features = op_features,
	.negotiate = op_negotiate,
	.config_read = op_config_read,
	.config_write = op_config_write,
	.memory = op_memory,
	.queue_start = op_queue_start,
	.queue_stop = op_queue_stop,
	.run = op_run,
	.close = op_close,
};
