// SPDX-License-Identifier: BSD-2-Clause
// Guest RAM at guest addresses: messages written to the device, in one batch where it takes one.
#include "bridges/vhost_vdpa_impl.h"

#include <errno.h>
#include <unistd.h>

static int say(const struct vhost_vdpa *v, const struct vhost_iotlb_msg *iotlb)
{
	struct vhost_msg_v2 m = { .type = VHOST_IOTLB_MSG_V2, .iotlb = *iotlb };
	ssize_t n = write(v->fd, &m, sizeof(m));
	return n == (ssize_t)sizeof(m) ? 0 : n < 0 ? -errno : -EIO;
}

static int batch(const struct vhost_vdpa *v, uint8_t type)
{
	const struct vhost_iotlb_msg m = { .type = type };
	return vdpa_has(v, VDPA_F_BATCH) ? say(v, &m) : 0;
}

static int unmap_all(struct vhost_vdpa *v)
{
	int rc = 0;
	for (unsigned i = v->mapped.count; i-- > 0;) {
		const struct vhost_iotlb_msg m = { .iova = v->mapped.region[i].gpa,
						   .size = v->mapped.region[i].size,
						   .type = VHOST_IOTLB_INVALIDATE };
		int one = say(v, &m);
		rc = rc < 0 ? rc : one;
	}
	v->mapped.count = 0;
	return rc;
}

static int map_all(struct vhost_vdpa *v, const struct mem_table *t)
{
	for (unsigned i = 0; i < t->count; i++) {
		const struct mem_region *r = &t->region[i];
		const struct vhost_iotlb_msg m = { .iova = r->gpa,
						   .size = r->size,
						   .uaddr = (uint64_t)(uintptr_t)r->hva,
						   .perm = VHOST_ACCESS_RW,
						   .type = VHOST_IOTLB_UPDATE };
		if (r->gpa < v->iova_first || r->gpa + (r->size - 1) > v->iova_last)
			return -ERANGE;
		int rc = say(v, &m);
		if (rc < 0)
			return rc;
		v->mapped.region[v->mapped.count++] = *r;
	}
	return 0;
}

static int map_anew(struct vhost_vdpa *v, const struct mem_table *t)
{
	int rc = batch(v, VHOST_IOTLB_BATCH_BEGIN);
	if (rc == 0)
		unmap_all(v);
	if (rc == 0)
		rc = map_all(v, t);
	int end = batch(v, VHOST_IOTLB_BATCH_END);
	return rc < 0 ? rc : end;
}

static bool same(const struct mem_table *a, const struct mem_table *b)
{
	bool same = a->count == b->count;
	for (unsigned i = 0; same && i < a->count; i++)
		same = a->region[i].gpa == b->region[i].gpa && a->region[i].size == b->region[i].size &&
		       a->region[i].hva == b->region[i].hva;
	return same;
}

int vdpa_map(struct vhost_vdpa *v, const struct mem_table *t)
{
	return same(&v->mapped, t) ? 0 : map_anew(v, t);
}

int vdpa_map_after_reset(struct vhost_vdpa *v)
{
	const struct mem_table again = v->mapped;
	return vdpa_has(v, VDPA_F_PERSIST) || again.count == 0 ? 0 : map_anew(v, &again);
}
