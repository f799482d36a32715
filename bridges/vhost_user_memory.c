// SPDX-License-Identifier: BSD-2-Clause
// Guest memory as a vhost-user back-end is told of it: all of it at once, or region by region what changed.
#include "bridges/vhost_user_impl.h"
#include "vmm/base/log.h"

#include <errno.h>

static struct vhost_user_mem_region wire_region(const struct vhost_user *vu, const struct mem_region *r)
{
	return (struct vhost_user_mem_region){
		.gpa = r->gpa,
		.size = r->size,
		.user = r->gpa + vu_user_offset(vu),
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

static void send_slots(struct vu_exchange *x, const struct vhost_user *vu, const struct mem_table *old,
		       const struct mem_table *new)
{
	for (unsigned i = 0; i < old->count; i++) {
		if (table_holds(new, &old->region[i]))
			continue;
		struct vhost_user_mem_reg reg = { .region = wire_region(vu, &old->region[i]) };
		vu_order(x, VHOST_USER_REM_MEM_REG, &reg, sizeof(reg), NULL, 0);
	}
	for (unsigned i = 0; i < new->count; i++) {
		if (table_holds(old, &new->region[i]))
			continue;
		struct vhost_user_mem_reg reg = { .region = wire_region(vu, &new->region[i]) };
		vu_order(x, VHOST_USER_ADD_MEM_REG, &reg, sizeof(reg), &new->region[i].fd, 1);
	}
}

static void send_table(struct vu_exchange *x, const struct vhost_user *vu, const struct mem_table *t)
{
	struct vhost_user_mem_table m = { .count = t->count };
	int fds[VHOST_USER_MEM_TABLE_MAX];
	for (unsigned i = 0; i < t->count; i++) {
		m.region[i] = wire_region(vu, &t->region[i]);
		fds[i] = t->region[i].fd;
	}
	vu_order(x, VHOST_USER_SET_MEM_TABLE, &m, 8 + t->count * sizeof(m.region[0]), fds, t->count);
}

_Static_assert(MEM_REGIONS_MAX <= VHOST_USER_MEM_TABLE_MAX, "all of RAM fits one SET_MEM_TABLE");

int vu_do_memory(struct vhost_user *vu, deadline_ns deadline)
{
	const struct mem_table *t = &vu->memory;
	bool same = t->count == vu->sent.count;
	for (unsigned i = 0; same && i < t->count; i++)
		same = table_holds(&vu->sent, &t->region[i]);
	if (same)
		return vu_link_dead(&vu->link) ? -EPIPE : 0;
	if (t->count > vu->mem_slots) {
		log_limited(LOG_WARN, "%s: guest RAM has %u regions, the back-end takes %llu", vu->backend.id,
			    t->count, (unsigned long long)vu->mem_slots);
		return -E2BIG;
	}
	struct vu_exchange x;
	vu_begin(&x, &vu->link, deadline);
	if (vu_has(vu, VHOST_USER_PF_BIT(CONFIGURE_MEM_SLOTS)))
		send_slots(&x, vu, &vu->sent, t);
	else
		send_table(&x, vu, t);
	int rc = vu_end(&x);
	if (rc == 0)
		vu->sent = *t;
	else if (rc == -EIO && vu_has(vu, VHOST_USER_PF_BIT(CONFIGURE_MEM_SLOTS)))
		vu_link_condemn(&vu->link, "refuses a part of guest memory"); // and nobody knows which it has
	return rc;
}
