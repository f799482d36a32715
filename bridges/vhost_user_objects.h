// SPDX-License-Identifier: BSD-2-Clause
// Objects that vhost-user back-ends share with each other (SHARED_OBJECT): which of them has which.
//
// A back-end says that it has an object (a UUID); another one asks for it, and gets the descriptor (a dma-buf, or a memfd) that the owner
// hands over when it is asked in turn.  The list is the machine's and the loop's thread's; the owner is asked by its own thread
// (vhost_user_again.c), since an answer takes time.  An object goes with the connection that brought it.
#ifndef MINIVMM_BRIDGES_VHOST_USER_OBJECTS_H
#define MINIVMM_BRIDGES_VHOST_USER_OBJECTS_H

#include "bridges/vhost_user_wire.h"

#define VU_OBJECTS_MAX 256
#define VU_OBJECTS_OF  32 // one back-end

struct vhost_user;

struct vu_objects {
	unsigned count;
	struct {
		struct vhost_user_uuid uuid;
		struct vhost_user *owner;
	} object[VU_OBJECTS_MAX];
};

#endif
