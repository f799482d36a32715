// SPDX-License-Identifier: BSD-2-Clause
// Guest memory that the client did not hand over: read and written by messages, on a socket of their own (twin_socket).
//
// Only where the client proposes that socket: on the main one its commands may come between a question and its answer.  A copy
// waits for the client, for as long as one exchange may take; one that misses that, or answers something else, is dropped.
#include "devices/sdk/vfio_user_impl.h"
#include "vmm/base/err.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"

#include <errno.h>
#include <sys/socket.h>

#define DMA_ID	    0x4d44u // one at a time
#define REPLY_SHORT 12u	    // of DMA_WRITE, by the specification's text

int vfs_twin_make(struct vfs *s)
{
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	s->twin = pair[0];
	s->twin_theirs = pair[1];
	return 0;
}

void vfs_twin_close(struct vfs *s)
{
	fd_close(&s->twin);
	fd_close(&s->twin_theirs);
}

static int dropped(struct vfs *s, const char *why)
{
	log_limited(LOG_WARN, "client dropped: guest memory by messages: %s", why);
	s->closing = true;
	return -EIO;
}

// The reply's header: 0, -EFAULT: refused; -EIO.
static int reply_receive(struct vfs *s, uint16_t command, uint64_t count, struct vfio_user_header *h,
			 deadline_ns deadline)
{
	const bool write = command == VFIO_USER_DMA_WRITE;
	struct vfio_user_dma_access back = { 0 };
	int rc = msg_recv(s->twin, h, sizeof(*h), NULL, deadline);
	if (rc < 0)
		return dropped(s, err_text(-rc));
	if (h->id != DMA_ID || vfio_user_reply_error(h, command, s->client_xfer))
		return dropped(s, "that is no answer");
	if (h->flags & VFIO_USER_ERROR)
		return -EFAULT;
	const size_t len = h->size - sizeof(*h), head = write ? len : sizeof(back);
	if (write ? len != sizeof(back) && len != REPLY_SHORT : len != sizeof(back) + count)
		return dropped(s, "an answer of the wrong size");
	rc = msg_recv(s->twin, &back, head, NULL, deadline);
	if (rc < 0)
		return dropped(s, err_text(-rc));
	return back.iova != s->dma_iova || (uint32_t)back.count != (uint32_t)count
		       ? dropped(s, "an answer to another question")
		       : 0;
}

// One message each way.
static int exchange(struct vfs *s, bool write, uint64_t iova, void *bytes, uint64_t count)
{
	const deadline_ns deadline = deadline_in_ms(DEADLINE_CONTROL_MS);
	const uint16_t command = write ? VFIO_USER_DMA_WRITE : VFIO_USER_DMA_READ;
	struct vfio_user_dma_access a = { .iova = iova, .count = count };
	struct vfio_user_header h = { .id = DMA_ID, .command = command, .flags = VFIO_USER_COMMAND };
	struct iovec iov[] = { { &h, sizeof(h) }, { &a, sizeof(a) }, { bytes, (size_t)count } };
	h.size = (uint32_t)(sizeof(h) + sizeof(a) + (write ? count : 0));
	s->dma_iova = iova;
	int rc = msg_send(s->twin, iov, write ? 3 : 2, NULL, 0, deadline);
	if (rc < 0)
		return dropped(s, err_text(-rc));
	rc = reply_receive(s, command, count, &h, deadline);
	if (rc < 0 || write)
		return rc;
	rc = msg_recv(s->twin, bytes, (size_t)count, NULL, deadline);
	return rc < 0 ? dropped(s, err_text(-rc)) : 0;
}

static const struct vfs_unmapped *piece_find(const struct vfs *s, uint64_t iova, uint32_t flag)
{
	for (unsigned i = 0; i < s->unmapped_count; i++)
		if (iova >= s->unmapped[i].iova && iova - s->unmapped[i].iova < s->unmapped[i].size)
			return s->unmapped[i].flags & flag ? &s->unmapped[i] : NULL;
	return NULL;
}

int vfs_dma(struct pdev *p, bool write, uint64_t iova, void *bytes, uint64_t len, uint64_t *got)
{
	struct vfs *s = p->client;
	const struct vfs_unmapped *m =
		s && s->twin >= 0 && !s->closing
			? piece_find(s, iova, write ? VFIO_USER_DMA_WRITEABLE : VFIO_USER_DMA_READABLE)
			: NULL;
	if (!m)
		return -EFAULT;
	*got = MIN(MIN(len, m->size - (iova - m->iova)), s->client_xfer);
	return exchange(s, write, iova, bytes, *got);
}
