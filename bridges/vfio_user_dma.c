// SPDX-License-Identifier: BSD-2-Clause
// The server's own commands: it reads and writes guest memory by message.
//
// Data go straight between the socket and guest memory, by mem_table_ptr() over what is mapped for this device and nothing else.  One
// command at a time, so a flood of them waits in the socket.
#include "bridges/vfio_user_impl.h"
#include "vmm/base/check.h"
#include "vmm/base/log.h"

#include <errno.h>
#include <string.h>

int vfu_mapped_add(struct vfio_user *v, const struct mem_region *r)
{
	int rc = -ENOSPC;
	pthread_mutex_lock(&v->dma_lock);
	if (v->mapped.count < MEM_REGIONS_MAX) {
		v->mapped.region[v->mapped.count++] = *r;
		rc = 0;
	}
	pthread_mutex_unlock(&v->dma_lock);
	return rc;
}

void vfu_mapped_remove(struct vfio_user *v, uint64_t gpa, uint64_t size)
{
	pthread_mutex_lock(&v->dma_lock);
	struct mem_table *t = &v->mapped;
	for (unsigned i = 0; i < t->count; i++) {
		if (t->region[i].gpa != gpa || t->region[i].size != size)
			continue;
		memmove(&t->region[i], &t->region[i + 1], sizeof(t->region[0]) * (t->count - i - 1));
		t->count--;
		break;
	}
	pthread_mutex_unlock(&v->dma_lock);
}

// Reads and forgets what follows.
static bool drain(struct vfu_link *l, int sock, uint64_t len)
{
	uint8_t scratch[4096];
	while (len) {
		const size_t n = len < sizeof(scratch) ? (size_t)len : sizeof(scratch);
		if (!vfu_serve_recv(l, sock, scratch, n))
			return false;
		len -= n;
	}
	return true;
}

// With the DMA lock.
static void access(struct vfio_user *v, int sock, const struct vfio_user_header *h,
		   const struct vfio_user_dma_access *a)
{
	const bool write = h->command == VFIO_USER_DMA_WRITE;
	void *at = a->count && a->count <= VFU_DATA_MAX ? mem_table_ptr(&v->mapped, a->iova, a->count) : NULL;
	if (!at) {
		log_limited(LOG_WARN,
			    "%s: the server %s memory at %#llx, %llu bytes, that is not mapped for it",
			    v->link.id, write ? "writes" : "reads", (unsigned long long)a->iova,
			    (unsigned long long)a->count);
		if (!write || drain(&v->io, sock, a->count))
			vfu_serve_reply(&v->io, sock, h, EFAULT, NULL, 0, NULL, 0);
		return;
	}
	if (!write)
		vfu_serve_reply(&v->io, sock, h, 0, a, sizeof(*a), at, a->count);
	else if (vfu_serve_recv(&v->io, sock, at, a->count))
		vfu_serve_reply(&v->io, sock, h, 0, a, sizeof(*a), NULL, 0);
}

void vfu_serve(struct vfu_link *l, int sock, const struct vfio_user_header *h)
{
	struct vfio_user *v = CONTAINER_OF(l, struct vfio_user, io);
	const struct vfio_user_row *row = vfio_user_row(h->command);
	const char *wrong = vfio_user_command_error(h, row, true, VFU_DATA_MAX);
	const uint32_t len = h->size - VFIO_USER_HEADER_LEN;
	const bool unknown = !row && h->size >= VFIO_USER_HEADER_LEN && len <= VFIO_USER_DATA_XFER_SIZE_MIN;
	if (wrong && !unknown) {
		vfu_broken(l, "broke the protocol (its command %u: %s)", h->command, wrong);
		return;
	}
	if (!row) {
		if (drain(l, sock, len))
			vfu_serve_reply(l, sock, h, ENOSYS, NULL, 0, NULL, 0);
		return;
	}
	struct vfio_user_dma_access a;
	if (!vfu_serve_recv(l, sock, &a, sizeof(a)))
		return;
	if (h->command == VFIO_USER_DMA_WRITE && a.count != len - sizeof(a)) {
		vfu_broken(l, "broke the protocol (its %s: count is not that of the data)", row->name);
		return;
	}
	pthread_mutex_lock(&v->dma_lock);
	access(v, sock, h, &a);
	pthread_mutex_unlock(&v->dma_lock);
}
