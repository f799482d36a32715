// SPDX-License-Identifier: BSD-2-Clause
// Reads and writes of a server's regions: those that wait for their reply, and posted writes.
//
// On a bus a device's writes stay in order, and its reads push them.  Messages of one socket do, too; an eventfd or a mapped page is
// a way past it.  So a write to memory is posted (NO_REPLY) where messages are the only way to the device, and waits for its reply
// elsewhere.  Called by passthrough.c.
#include "bridges/vfio_user_impl.h"
#include "vmm/base/check.h"
#include "vmm/base/log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static int access_failed(struct vfio_user *v, int rc, bool write, unsigned index, uint64_t offset, size_t len)
{
	char what[64];
	snprintf(what, sizeof(what), "a %s of %zu bytes at %#llx of region %u", write ? "write" : "read", len,
		 (unsigned long long)offset, index);
	return vfu_refused(v, rc, what);
}

// ---- reads --------------------------------------------------------------------------------------

// One message; `len` fits in its reply.
static int read_piece(struct vfio_user *v, unsigned index, uint64_t offset, uint8_t *buf, size_t len)
{
	const struct vfio_user_region_access want = { .offset = offset,
						      .region = index,
						      .count = (uint32_t)len };
	struct {
		struct vfio_user_region_access head;
		uint8_t data[VFU_REPLY_MAX - sizeof(struct vfio_user_region_access)];
	} reply;
	reply.head = (struct vfio_user_region_access){ 0 };
	int n = vfu_ask(v, &(struct vfu_call){ .command = VFIO_USER_REGION_READ,
					       .head = &want,
					       .head_len = sizeof(want),
					       .reply = &reply,
					       .reply_cap = sizeof(reply.head) + len });
	if (n < 0)
		return n;
	if (reply.head.count != (size_t)n - sizeof(reply.head) || reply.head.offset != offset ||
	    reply.head.region != index) {
		vfu_broken(&v->io, "broke the protocol (reply to REGION_READ: it is not what was asked for)");
		return -EPIPE;
	}
	if (reply.head.count != len)
		return -EIO;
	memcpy(buf, reply.data, len);
	return 0;
}

int vfu_region_read(struct vfio_link *l, unsigned index, uint64_t offset, void *buf, size_t len)
{
	struct vfio_user *v = CONTAINER_OF(l, struct vfio_user, link);
	if (!atomic_load(&v->live))
		return -EPIPE;
	const uint64_t most = MIN(v->said.caps.max_data_xfer_size, VFIO_USER_DATA_XFER_SIZE_MIN);
	uint8_t *to = buf;
	if (!most) // it is gone, and who comes for it is being asked
		return -EPIPE;
	for (size_t done = 0; done < len;) {
		const size_t n = MIN(len - done, most);
		int rc = read_piece(v, index, offset + done, to + done, n);
		if (rc < 0)
			return access_failed(v, rc, false, index, offset + done, n);
		done += n;
	}
	return 0;
}

// ---- writes -------------------------------------------------------------------------------------

static bool may_post(struct vfio_user *v, unsigned index)
{
	// With an eventfd for the end of INTx that end would come before the write which takes back its reason.
	return index < VFU_BARS && !v->said.bypassed && !atomic_load(&v->intx_eventfd) &&
	       atomic_load(&v->posts) != VFU_POSTS_ANSWERED;
}

static int write_posted(struct vfio_user *v, const struct vfu_call *c)
{
	if (!atomic_load(&v->live))
		return -EPIPE;
	if (atomic_load(&v->posts) == VFU_POSTS_HONOURED)
		return vfu_send(&v->io, c);
	int rc = vfu_send_tried(&v->io, c);
	if (rc < 0)
		return rc;
	if (rc)
		log_info("%s: %s answers writes that ask for no reply; each waits for it from now on",
			 v->link.id, v->peer);
	atomic_store(&v->posts, rc ? VFU_POSTS_ANSWERED : VFU_POSTS_HONOURED);
	return 0;
}

static int write_answered(struct vfio_user *v, const struct vfu_call *c,
			  const struct vfio_user_region_access *want)
{
	struct vfio_user_region_access done = { 0 };
	struct vfu_call answered = *c;
	answered.reply = &done;
	answered.reply_cap = sizeof(done);
	int rc = vfu_ask(v, &answered);
	if (rc < 0)
		return rc;
	if (done.offset != want->offset || done.region != want->region) {
		vfu_broken(&v->io,
			   "broke the protocol (reply to REGION_WRITE: it is not what was asked for)");
		return -EPIPE;
	}
	// Older servers say 0 where they mean all of it.
	return done.count != want->count && done.count != 0 ? -EIO : 0;
}

int vfu_region_write(struct vfio_link *l, unsigned index, uint64_t offset, const void *buf, size_t len,
		     bool posted)
{
	struct vfio_user *v = CONTAINER_OF(l, struct vfio_user, link);
	const struct vfio_user_region_access want = { .offset = offset,
						      .region = index,
						      .count = (uint32_t)len };
	const struct vfu_call c = { .command = VFIO_USER_REGION_WRITE,
				    .head = &want,
				    .head_len = sizeof(want),
				    .data = buf,
				    .data_len = len };
	int rc = posted && may_post(v, index) ? write_posted(v, &c) : write_answered(v, &c, &want);
	return rc < 0 ? access_failed(v, rc, true, index, offset, len) : 0;
}
