// SPDX-License-Identifier: BSD-2-Clause
// The first exchange: which version both ends speak, and what each can take.
#include "devices/sdk/vfio_user_impl.h"
#include "vmm/base/log.h"

#include <errno.h>
#include <stdio.h>

int vfs_on_version(struct vfs *s, struct vfs_request *rq)
{
	struct vfio_user_version v = VFS_GET(rq, struct vfio_user_version);
	struct vfio_user_caps caps;
	if (s->versioned || v.major != VFIO_USER_MAJOR)
		return -EPROTO;
	const char *wrong =
		vfio_user_caps_read(&caps, (const char *)rq->payload + sizeof(v), rq->len - sizeof(v));
	if (wrong) {
		log_limited(LOG_WARN, "the client's capabilities: %s", wrong);
		return -EINVAL;
	}
	if (caps.twin_socket && caps.max_msg_fds > 0) {
		int rc = vfs_twin_make(s);
		if (rc < 0)
			return rc;
		rq->reply_fd[rq->reply_fd_count++] = s->twin_theirs;
	}
	s->client_xfer = (uint32_t)MIN(caps.max_data_xfer_size, VFS_DMA_MAX);
	s->client_fds = (unsigned)MIN(caps.max_msg_fds, VFIO_USER_FDS_MAX);
	s->versioned = true;
	v.minor = MIN(v.minor, VFIO_USER_MINOR);
	VFS_REPLY(rq, v);
	char migration[80]; // of older minors
	snprintf(migration, sizeof(migration), ",\"migration\":{\"pgsize\":%u,\"max_bitmap_size\":%u}",
		 VFIO_USER_DEFAULT_PGSIZES, VFS_BITMAP_MAX);
	// Limits are what this end takes; what changes the protocol is named if the client proposed it.
	int n = snprintf(
		(char *)rq->reply + sizeof(v), sizeof(rq->reply) - sizeof(v),
		"{\"capabilities\":{\"max_msg_fds\":%u,\"max_data_xfer_size\":%u,\"max_dma_maps\":%u,"
		"\"pgsizes\":%u%s%s%s}}",
		VFS_FDS_MAX, VFS_XFER_MAX, (unsigned)VFS_MAPS_MAX, VFIO_USER_DEFAULT_PGSIZES,
		caps.write_multiple ? ",\"write_multiple\":true" : "",
		caps.migration && pdev_state_offered(s->p) ? migration : "",
		s->twin >= 0 ? ",\"twin_socket\":{\"supported\":true,\"fd_index\":0}" : "");
	rq->reply_len += (size_t)n + 1;
	return 0;
}
