// SPDX-License-Identifier: BSD-2-Clause
#include "bridges/vhost_user_objects.h"

#include "bridges/vhost_user_impl.h"
#include "vmm/base/check.h"
#include "vmm/base/err.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"

#include <errno.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

// ---- the list; on the loop's thread -------------------------------------------------------------------------------

// The place of an object, or `count`.
static unsigned object_find(const struct vu_objects *o, const struct vhost_user_uuid *u)
{
	unsigned i = 0;
	while (i < o->count && memcmp(&o->object[i].uuid, u, sizeof(*u)) != 0)
		i++;
	return i;
}

static int object_add(struct vhost_user *vu, const struct vhost_user_uuid *u)
{
	static const struct vhost_user_uuid nil;
	struct vu_objects *o = vu->objects;
	unsigned own = 0;
	for (unsigned i = 0; i < o->count; i++)
		own += o->object[i].owner == vu;
	if (memcmp(u, &nil, sizeof(nil)) == 0 || object_find(o, u) < o->count)
		return -EEXIST;
	// Somebody has to ask it for them.
	if (own == VU_OBJECTS_OF || o->count == VU_OBJECTS_MAX || !vu->again.has_thread)
		return -ENOSPC;
	o->object[o->count].uuid = *u;
	o->object[o->count++].owner = vu;
	return 0;
}

static int object_remove(struct vhost_user *vu, const struct vhost_user_uuid *u)
{
	struct vu_objects *o = vu->objects;
	const unsigned i = object_find(o, u);
	if (i == o->count || o->object[i].owner != vu)
		return -ENOENT;
	o->object[i] = o->object[--o->count];
	return 0;
}

// 1: it will be answered.
static int object_look_up(struct vhost_user *vu, const struct vhost_user_uuid *u)
{
	const unsigned i = object_find(vu->objects, u);
	struct vhost_user *owner = i < vu->objects->count ? vu->objects->object[i].owner : NULL;
	// One that waits for an answer itself may not hear a question: it is not to die of another's.
	if (!owner || owner == vu || vu->asks || owner->asks)
		return -EBUSY;
	for (unsigned k = 0; k < VU_LOOKUPS; k++) {
		struct vu_lookup *l = &owner->lookup[k];
		if (atomic_load(&l->state) != VU_LOOKUP_NONE)
			continue;
		l->uuid = *u;
		l->asker = vu;
		vu->asks = l;
		atomic_store(&l->state, VU_LOOKUP_ASKED);
		fd_event_signal(owner->again.lost);
		return 1;
	}
	return -EBUSY;
}

int vu_object_request(struct vu_channel *c, uint32_t request, const struct vhost_user_uuid *u)
{
	struct vhost_user *vu = CONTAINER_OF(c, struct vhost_user, channel);
	int rc = request == VHOST_USER_BACKEND_SHARED_OBJECT_ADD      ? object_add(vu, u)
		 : request == VHOST_USER_BACKEND_SHARED_OBJECT_REMOVE ? object_remove(vu, u)
								      : object_look_up(vu, u);
	if (rc < 0)
		log_limited(LOG_INFO, "%s: the back-end's request for a shared object is refused (%s)",
			    vu->backend.id, err_text(-rc));
	return rc;
}

void vu_objects_end(struct vhost_user *vu)
{
	struct vu_objects *o = vu->objects;
	for (unsigned i = o ? o->count : 0; i-- > 0;)
		if (o->object[i].owner == vu)
			o->object[i] = o->object[--o->count];
	if (vu->asks)
		vu->asks->asker = NULL;
	vu->asks = NULL;
}

// What may be handed on: memory, and nothing that opens a way.
static bool is_memory(int fd)
{
	struct stat st;
	struct statfs fs;
	return fstat(fd, &st) == 0 && fstatfs(fd, &fs) == 0 &&
	       (fs.f_type == DMA_BUF_MAGIC || (fs.f_type == TMPFS_MAGIC && S_ISREG(st.st_mode)));
}

void vu_objects_answer(struct vhost_user *vu)
{
	for (unsigned i = 0; i < VU_LOOKUPS; i++) {
		struct vu_lookup *l = &vu->lookup[i];
		if (atomic_load(&l->state) != VU_LOOKUP_DONE)
			continue;
		const bool good = l->fd >= 0 && is_memory(l->fd);
		if (l->asker) {
			const char *why =
				vu_channel_answer(&l->asker->channel, VHOST_USER_BACKEND_SHARED_OBJECT_LOOKUP,
						  !good, good ? l->fd : -1);
			if (why && l->asker->channel.source.added) // one may give its channel up
				vu_link_condemn(&l->asker->link, why);
			l->asker->asks = NULL;
		}
		fd_close(&l->fd);
		l->asker = NULL;
		atomic_store(&l->state, VU_LOOKUP_NONE);
	}
}

void vu_objects_close(struct vhost_user *vu)
{
	vu_objects_end(vu);
	for (unsigned i = 0; i < VU_LOOKUPS; i++) {
		struct vu_lookup *l = &vu->lookup[i];
		if (atomic_load(&l->state) == VU_LOOKUP_DONE)
			fd_close(&l->fd);
		if (l->asker)
			l->asker->asks = NULL;
	}
}

// ---- the owner's thread ---------------------------------------------------------------------------------------------

static int object_get(struct vhost_user *vu, const struct vhost_user_uuid *u)
{
	uint8_t unused[16]; // a reply may say again which it is
	int fd = -1;
	pthread_mutex_lock(&vu->lock);
	if (vu->connected && !vu->stopping) {
		struct vu_exchange x;
		vu_begin(&x, &vu->link, deadline_in_ms(vu->control_ms));
		vu_ask(&x, VHOST_USER_GET_SHARED_OBJECT, u, sizeof(*u));
		vu_answer_fd(&x, VHOST_USER_GET_SHARED_OBJECT, unused, sizeof(unused), &fd);
		vu_end(&x);
	}
	pthread_mutex_unlock(&vu->lock);
	return fd;
}

void vu_objects_serve(struct vhost_user *vu)
{
	for (unsigned i = 0; i < VU_LOOKUPS; i++) {
		struct vu_lookup *l = &vu->lookup[i];
		if (atomic_load(&l->state) != VU_LOOKUP_ASKED)
			continue;
		l->fd = object_get(vu, &l->uuid);
		atomic_store(&l->state, VU_LOOKUP_DONE);
		vu_again_post(vu, VU_POST_OBJECT);
	}
}
