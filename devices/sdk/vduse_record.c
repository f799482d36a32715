// SPDX-License-Identifier: BSD-2-Clause
#include "devices/sdk/vduse_impl.h"
#include "vmm/base/check.h"

#include <string.h>

_Static_assert(sizeof(struct vduse_head) <= VDUSE_HEAD_LEN, "record");

static const char magic[16] = "minivmm-vduse-1";

int vduse_record_open(struct vduse_record *r, const char *path, uint32_t queue_count, uint32_t queue_size,
		      struct err *e)
{
	struct record_file file;
	const uint64_t region_len = MAX(inflight_region_len((uint16_t)queue_size, false),
					inflight_region_len((uint16_t)queue_size, true));
	int rc = record_file_open(&file, path, (size_t)(VDUSE_HEAD_LEN + queue_count * region_len), e);
	if (rc == 0)
		*r = (struct vduse_record){ .file = file, .head = file.map, .region_len = region_len };
	return rc;
}

void vduse_record_close(struct vduse_record *r)
{
	record_file_close(&r->file);
	r->head = NULL;
}

struct inflight_region *vduse_record_queue(const struct vduse_record *r, unsigned queue)
{
	return (struct inflight_region *)(void *)((uint8_t *)r->head + VDUSE_HEAD_LEN +
						  queue * r->region_len);
}

bool vduse_record_matches(const struct vduse_record *r, const struct vduse_head *is)
{
	const struct vduse_head *h = r->head;
	return memcmp(h->magic, magic, sizeof(magic)) == 0 &&
	       memcmp(h->name, is->name, sizeof(h->name)) == 0 && h->type == is->type &&
	       h->queue_count == is->queue_count && h->queue_size == is->queue_size &&
	       h->config_len == is->config_len && h->features == is->features;
}

static void forget(struct vduse_record *r)
{
	for (unsigned i = 0; i < r->head->queue_count; i++)
		vduse_record_queue(r, i)->version = 0;
	record_barrier();
}

void vduse_record_begin(struct vduse_record *r, const struct vduse_head *is)
{
	memset(r->head, 0, sizeof(*r->head));
	record_barrier();
	*r->head = *is;
	r->head->status = 0;
	forget(r);
	memcpy(r->head->magic, magic, sizeof(magic));
}

void vduse_record_status(struct vduse_record *r, uint8_t status)
{
	const bool ran = r->head->status & VIRTIO_CONFIG_S_DRIVER_OK,
		   runs = status & VIRTIO_CONFIG_S_DRIVER_OK;
	if (!ran && runs)
		forget(r);
	r->head->status = status;
	record_barrier();
	if (ran && !runs)
		forget(r);
}
