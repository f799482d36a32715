// SPDX-License-Identifier: BSD-2-Clause
#include "bridges/vhost_user_features.h"

#include "bridges/vhost_user_wire.h"

// clang-format off
static const struct vu_protocol_feature features[VHOST_USER_PF_COUNT] = {
	[VHOST_USER_PF_MQ] = { "MQ", "the number of queues is asked for" },
	[VHOST_USER_PF_LOG_SHMFD] = { "LOG_SHMFD", "dirty pages are for migration, which is not done" },
	[VHOST_USER_PF_RARP] = { "RARP", "announces a guest that was migrated, which is not done" },
	[VHOST_USER_PF_REPLY_ACK] = { "REPLY_ACK", "what matters is acknowledged" },
	[VHOST_USER_PF_NET_MTU] = { "NET_MTU", "the back-end is told of an mtu in the configuration" },
	[VHOST_USER_PF_BACKEND_REQ] = { "BACKEND_REQ", "changes of the configuration are heard" },
	[VHOST_USER_PF_CROSS_ENDIAN] = { "CROSS_ENDIAN", "virtio 1.0 has one byte order" },
	[VHOST_USER_PF_CRYPTO_SESSION] = { "CRYPTO_SESSION", "the back-end serves the control queue, where the driver makes its sessions" },
	[VHOST_USER_PF_PAGEFAULT] = { "PAGEFAULT", "for post-copy migration, which is not done" },
	[VHOST_USER_PF_CONFIG] = { "CONFIG", "the driver sees its configuration space" },
	[VHOST_USER_PF_BACKEND_SEND_FD] = { "BACKEND_SEND_FD", "doorbell pages and shared memory come as descriptors" },
	[VHOST_USER_PF_HOST_NOTIFIER] = { "HOST_NOTIFIER", "where `host_notifier = true`, the back-end's doorbell pages are the guest's" },
	[VHOST_USER_PF_INFLIGHT_SHMFD] = { "INFLIGHT_SHMFD", "requests under way survive a back-end that dies" },
	[VHOST_USER_PF_RESET_DEVICE] = { "RESET_DEVICE", "the driver's reset reaches the device" },
	[VHOST_USER_PF_INBAND_NOTIFICATIONS] = { "INBAND_NOTIFICATIONS", "doorbells and interrupts are eventfds, which the kernel serves" },
	[VHOST_USER_PF_CONFIGURE_MEM_SLOTS] = { "CONFIGURE_MEM_SLOTS", "memory is given region by region" },
	[VHOST_USER_PF_STATUS] = { "STATUS", "the driver's status reaches the device" },
	[VHOST_USER_PF_XEN_MMAP] = { "XEN_MMAP", "for Xen" },
	[VHOST_USER_PF_SHARED_OBJECT] = { "SHARED_OBJECT", "one device's buffers are found by others, by their UUID" },
	[VHOST_USER_PF_DEVICE_STATE] = { "DEVICE_STATE", "for migration, which is not done" },
	[VHOST_USER_PF_GET_VRING_BASE_INFLIGHT] = { "GET_VRING_BASE_INFLIGHT", "for requests that are gone on with elsewhere; after a stop of ours, which is a reset or the end, nobody does" },
	[VHOST_USER_PF_GPA_ADDRESSES] = { "GPA_ADDRESSES", "rings and memory have one address, the guest's" },
	[VHOST_USER_PF_SHMEM] = { "SHMEM", "where `shared_memory` allows it, the back-end's memory is the driver's shared memory regions" },
	[VHOST_USER_PF_GET_VRING_BASE_SKIP_DRAIN] = { "GET_VRING_BASE_SKIP_DRAIN", "for migration, which is not done" },
};
// clang-format on

const struct vu_protocol_feature *vu_protocol_feature(unsigned bit)
{
	static const struct vu_protocol_feature unknown = { "?", "it is in no specification that we know" };
	return bit < VHOST_USER_PF_COUNT ? &features[bit] : &unknown;
}
