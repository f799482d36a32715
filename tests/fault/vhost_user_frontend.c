// SPDX-License-Identifier: BSD-2-Clause
// The SDK's vhost-user server and the block device against front-ends, good and bad.
//
// Each test talks over a socketpair to a thread that serves a small disk.  After each, whatever was sent: the
// server has ended, nothing is in flight, no memory is mapped, and the process has as many descriptors as before.
#include "tests/fault/vu_front.h"

// ---- front-ends that keep the rules -----------------------------------------------------------------------------

SERVED(a_disk_is_served, {
	CHECK(queue_up());
	for (unsigned i = 0; i < 50; i++)
		CHECK(disk_works());
})

SERVED(counts_and_configuration, {
	uint64_t v;
	CHECK(negotiate());
	CHECK(get_u64(VHOST_USER_GET_QUEUE_NUM, &v));
	CHECK_EQ(v, 2);
	CHECK(get_u64(VHOST_USER_GET_MAX_MEM_SLOTS, &v));
	CHECK_EQ(v, GUEST_REGIONS_MAX);
	struct vhost_user_config c = { .off = 0, .len = 8 };
	CHECK_EQ(send_raw(VHOST_USER_GET_CONFIG, VHOST_USER_VERSION, 20, &c, 20, NULL, 0), 0);
	CHECK(reply(VHOST_USER_GET_CONFIG, &c, 20));
	uint64_t capacity;
	memcpy(&capacity, c.data, 8);
	CHECK_EQ(capacity, IMAGE_SIZE / 512);
	// Beyond what there is: zeros.  Beyond what can be: no payload.
	c = (struct vhost_user_config){ .off = 200, .len = 56, .data = { 1 } };
	CHECK_EQ(send_raw(VHOST_USER_GET_CONFIG, VHOST_USER_VERSION, 68, &c, 68, NULL, 0), 0);
	CHECK(reply(VHOST_USER_GET_CONFIG, &c, 68));
	CHECK_EQ(c.data[0], 0);
	c = (struct vhost_user_config){ .off = 0xfffffff0, .len = 32 };
	CHECK_EQ(send_raw(VHOST_USER_GET_CONFIG, VHOST_USER_VERSION, 44, &c, 44, NULL, 0), 0);
	CHECK(reply(VHOST_USER_GET_CONFIG, &c, 0));
	c = (struct vhost_user_config){ .off = offsetof(struct virtio_blk_config, wce), .len = 1 };
	CHECK_EQ(set(VHOST_USER_SET_CONFIG, &c, 13, NULL, 0), 0);
	c = (struct vhost_user_config){ .off = 0, .len = 8 };
	CHECK_EQ(set(VHOST_USER_SET_CONFIG, &c, 20, NULL, 0), 1);
})

SERVED(stop_and_go_on, {
	CHECK(queue_up());
	CHECK(disk_works());
	struct vhost_user_vring_state s = { .index = 0 };
	CHECK_EQ(send_raw(VHOST_USER_GET_VRING_BASE, VHOST_USER_VERSION, 8, &s, 8, NULL, 0), 0);
	CHECK(reply(VHOST_USER_GET_VRING_BASE, &s, 8));
	CHECK_EQ(s.num, 1);
	fd_event_signal(fx.kick); // nobody listens
	usleep(20000);
	CHECK_EQ(fx.dr.used->idx, 1);
	CHECK_EQ(set_state(VHOST_USER_SET_VRING_BASE, 0, s.num), 0);
	CHECK_EQ(set_fd(VHOST_USER_SET_VRING_KICK, 0, fx.kick), 0);
	CHECK(disk_works());
	CHECK_EQ(fx.dr.used->idx, 2);
})

SERVED(memory_changes_under_a_running_queue, {
	CHECK(queue_up());
	CHECK(disk_works());
	CHECK_EQ(share_memory(), 0); // the same again
	CHECK(disk_works());
	struct vhost_user_mem_reg more = { .region = { .gpa = 0x1000, .size = 4096, .user = 0x1000 } };
	CHECK_EQ(set(VHOST_USER_ADD_MEM_REG, &more, sizeof(more), &fx.dr.fd, 1), 0);
	CHECK(disk_works());
	CHECK_EQ(set(VHOST_USER_REM_MEM_REG, &more, sizeof(more), &fx.dr.fd, 1),
		 0); // with a descriptor, as old ones do
	CHECK_EQ(set(VHOST_USER_REM_MEM_REG, &more, sizeof(more), NULL, 0), 1);
	CHECK(disk_works());
})

SERVED(descriptors_are_replaced_while_running, {
	CHECK(queue_up());
	for (unsigned i = 0; i < 100; i++) {
		CHECK_EQ(set_fd(VHOST_USER_SET_VRING_CALL, 0, fx.call), 0);
		CHECK_EQ(set_fd(VHOST_USER_SET_VRING_KICK, 0, fx.kick), 0);
		CHECK_EQ(set_fd(VHOST_USER_SET_VRING_ERR, 0, i % 2 ? fx.err : -1), 0);
		CHECK(disk_works());
	}
})

SERVED(status_and_reset, {
	uint64_t v;
	CHECK(queue_up());
	CHECK_EQ(set_u64(VHOST_USER_SET_STATUS, 15), 0);
	CHECK(get_u64(VHOST_USER_GET_STATUS, &v));
	CHECK_EQ(v, 15);
	// A driver that breaks the rules: the error eventfd, and NEEDS_RESET.
	driver_desc(&fx.dr, 0, DRIVER_DATA, 16, VRING_DESC_F_NEXT, 0);
	driver_offer(&fx.dr, 0);
	fd_event_signal(fx.kick);
	CHECK(wait_for(fx.err));
	CHECK(get_u64(VHOST_USER_GET_STATUS, &v));
	CHECK_EQ(v, 15 | VIRTIO_CONFIG_S_NEEDS_RESET);
	CHECK_EQ(set_u64(VHOST_USER_SET_STATUS, 0), 0);
	CHECK(get_u64(VHOST_USER_GET_STATUS, &v));
	CHECK_EQ(v, 0);
	fx.dr.avail->idx = fx.dr.used->idx = 0;
	CHECK_EQ(set_state(VHOST_USER_SET_VRING_BASE, 0, 0), 0);
	CHECK_EQ(set_fd(VHOST_USER_SET_VRING_KICK, 0, fx.kick), 0);
	CHECK_EQ(set_state(VHOST_USER_SET_VRING_ENABLE, 0, 1), 0);
	CHECK(disk_works());
	CHECK_EQ(set(VHOST_USER_RESET_DEVICE, NULL, 0, NULL, 0), 0);
})

// Two requests that somebody took and did not finish; the back-end does them, and keeps the record.
SERVED(a_record_of_what_is_in_flight, {
	CHECK(negotiate());
	struct vhost_user_inflight i = { .queue_count = 2, .queue_size = DRIVER_SIZE };
	struct vhost_user_header h;
	struct msg_fds fds = { 0 };
	CHECK_EQ(send_raw(VHOST_USER_GET_INFLIGHT_FD, VHOST_USER_VERSION, sizeof(i), &i, sizeof(i), NULL, 0),
		 0);
	CHECK_EQ(msg_recv(fx.sock, &h, sizeof(h), &fds, deadline_in_ms(2000)), 0);
	CHECK_EQ(msg_recv(fx.sock, &i, sizeof(i), &fds, deadline_in_ms(2000)), 0);
	FD_AUTO fd = msg_fds_take_one(&fds);
	CHECK(fd >= 0);
	CHECK_EQ(i.mmap_size, 2 * inflight_region_len(DRIVER_SIZE, false));
	struct inflight_region *g = mmap(NULL, i.mmap_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(g != MAP_FAILED);
	g->version = 1;
	g->desc_count = DRIVER_SIZE;
	g->desc[0] = (struct inflight_desc){ .inflight = 1, .counter = 7 };
	CHECK_EQ(set(VHOST_USER_SET_INFLIGHT_FD, &i, sizeof(i), &fx.kick, 1), 1); // no memory
	struct vhost_user_inflight more = i;
	more.queue_count = 3;
	CHECK_EQ(set(VHOST_USER_SET_INFLIGHT_FD, &more, sizeof(more), &fd, 1), 1);
	more = i;
	more.queue_size = 64; // longer than the file
	more.mmap_size = UINT64_MAX;
	CHECK_EQ(set(VHOST_USER_SET_INFLIGHT_FD, &more, sizeof(more), &fd, 1), 1);
	more = i;
	more.mmap_offset = UINT64_MAX - 4095;
	CHECK_EQ(set(VHOST_USER_SET_INFLIGHT_FD, &more, sizeof(more), &fd, 1), 1);
	CHECK_EQ(set(VHOST_USER_SET_INFLIGHT_FD, &i, sizeof(i), &fd, 1), 0);
	// The request in the record is header, data, status from descriptor 0 on; offered once, and taken, long ago.
	driver_desc(&fx.dr, 0, DRIVER_DATA, 16, VRING_DESC_F_NEXT, 1);
	driver_desc(&fx.dr, 1, DRIVER_DATA + 512, 512, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 2);
	driver_desc(&fx.dr, 2, DRIVER_DATA + 1024, 1, VRING_DESC_F_WRITE, 0);
	fx.dr.ram[DRIVER_DATA + 1024] = 0xee;
	driver_offer(&fx.dr, 0);
	CHECK(ring_up());
	CHECK(wait_for(fx.call));
	CHECK_EQ(fx.dr.ram[DRIVER_DATA + 1024], VIRTIO_BLK_S_OK);
	CHECK_EQ(fx.dr.used->idx, 1);
	CHECK_EQ(g->desc[0].inflight, 0);
	CHECK(disk_works());
	CHECK_EQ(g->used_idx, 2);
	CHECK_EQ(set(VHOST_USER_SET_INFLIGHT_FD, &i, sizeof(i), &fd, 1), 1); // not under a running ring
	munmap(g, i.mmap_size);
})

// Its layout is that of the rings it was made for: a driver with packed ones, whose entries are longer, has none.
SERVED(a_record_of_rings_of_the_other_format, {
	CHECK(negotiate());
	const uint64_t len = inflight_region_len(64, false);
	struct vhost_user_inflight i = { .queue_count = 1, .queue_size = 64, .mmap_size = len };
	FD_AUTO fd = memfd_create("record", MFD_CLOEXEC);
	CHECK_EQ(ftruncate(fd, 4096), 0);
	const uint8_t *behind = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
	CHECK(behind != MAP_FAILED);
	CHECK_EQ(set(VHOST_USER_SET_INFLIGHT_FD, &i, sizeof(i), &fd, 1), 0);
	CHECK_EQ(set_u64(VHOST_USER_SET_FEATURES, FEATURES | UINT64_C(1) << VIRTIO_F_RING_PACKED), 0);
	fx.dr.place.avail = DRIVER_UVA + DRIVER_DATA;
	fx.dr.place.used = DRIVER_UVA + DRIVER_DATA + 64;
	CHECK_EQ(share_memory(), 0);
	CHECK_EQ(set_state(VHOST_USER_SET_VRING_NUM, 0, 64), 0);
	CHECK_EQ(set_state(VHOST_USER_SET_VRING_BASE, 0, 0x8000), 0);
	CHECK_EQ(set_addresses(0), 0);
	CHECK_EQ(set_fd(VHOST_USER_SET_VRING_KICK, 0, fx.kick), 0);
	CHECK_EQ(set_state(VHOST_USER_SET_VRING_ENABLE, 0, 1), 0);
	for (uint64_t at = len; at < 4096; at++)
		CHECK_EQ(behind[at], 0);
	munmap((void *)(uintptr_t)behind, 4096);
})

// Without protocol features a ring is enabled as soon as it is started.
SERVED(an_old_front_end, {
	uint64_t f = FEATURES & ~PF_VIRTIO_BIT;
	struct vhost_user_vring_state n = { 0, DRIVER_SIZE };
	struct vhost_user_mem_table m = {
		.count = 1, .region = { { .gpa = DRIVER_GPA, .size = DRIVER_MEM, .user = DRIVER_UVA } }
	};
	struct vhost_user_vring_addr a = { .desc_user = fx.dr.place.desc,
					   .avail_user = fx.dr.place.avail,
					   .used_user = fx.dr.place.used };
	uint64_t zero = 0;
	CHECK_EQ(send_raw(VHOST_USER_SET_FEATURES, VHOST_USER_VERSION, 8, &f, 8, NULL, 0), 0);
	CHECK_EQ(send_raw(VHOST_USER_SET_VRING_KICK, VHOST_USER_VERSION, 8, &zero, 8, &fx.kick, 1), 0);
	CHECK_EQ(send_raw(VHOST_USER_SET_VRING_CALL, VHOST_USER_VERSION, 8, &zero, 8, &fx.call, 1), 0);
	CHECK_EQ(send_raw(VHOST_USER_SET_MEM_TABLE, VHOST_USER_VERSION, 40, &m, 40, &fx.dr.fd, 1), 0);
	CHECK_EQ(send_raw(VHOST_USER_SET_VRING_NUM, VHOST_USER_VERSION, 8, &n, 8, NULL, 0), 0);
	CHECK_EQ(send_raw(VHOST_USER_SET_VRING_ADDR, VHOST_USER_VERSION, 40, &a, 40, NULL, 0), 0);
	uint64_t v;
	CHECK(get_u64(VHOST_USER_GET_FEATURES, &v)); // all of the above has been read
	CHECK(disk_works());
})

SERVED(a_kick_before_the_ring_is_complete, {
	CHECK(negotiate());
	CHECK_EQ(share_memory(), 0);
	CHECK_EQ(set_state(VHOST_USER_SET_VRING_ENABLE, 0, 1), 0);
	fd_event_signal(fx.kick);
	CHECK_EQ(set_fd(VHOST_USER_SET_VRING_KICK, 0, fx.kick), 0);
	CHECK_EQ(set_fd(VHOST_USER_SET_VRING_CALL, 0, fx.call), 0);
	usleep(10000);
	CHECK_EQ(set_addresses(0), 0);
	CHECK_EQ(set_state(VHOST_USER_SET_VRING_NUM, 0, DRIVER_SIZE), 0);
	CHECK(disk_works());
})

// ---- refused, and the connection goes on ------------------------------------------------------------------------

SERVED(values_that_are_refused, {
	CHECK(negotiate());
	CHECK_EQ(set_u64(VHOST_USER_SET_FEATURES, UINT64_C(1) << 63), 1);
	CHECK_EQ(set_u64(VHOST_USER_SET_PROTOCOL_FEATURES, UINT64_C(1) << 40), 1);
	CHECK_EQ(set_u64(VHOST_USER_SET_STATUS, 256), 1);
	CHECK_EQ(set_state(VHOST_USER_SET_VRING_NUM, 0, 0), 1);
	CHECK_EQ(set_state(VHOST_USER_SET_VRING_NUM, 0, 3), 1);
	CHECK_EQ(set_state(VHOST_USER_SET_VRING_NUM, 0, 128), 1);
	CHECK_EQ(set_state(VHOST_USER_SET_VRING_NUM, 2, 16), 1);
	CHECK_EQ(set_state(VHOST_USER_SET_VRING_NUM, UINT32_MAX, 16), 1);
	CHECK_EQ(set_state(VHOST_USER_SET_VRING_BASE, 0, 65536), 1);
	CHECK_EQ(set_state(VHOST_USER_SET_VRING_ENABLE, 0, 2), 1);
	CHECK_EQ(set_state(VHOST_USER_SET_VRING_ENABLE, 9, 1), 1);
	CHECK_EQ(set_addresses(2), 1);
	CHECK_EQ(set_fd(VHOST_USER_SET_VRING_KICK, 7, fx.kick), 1);
	CHECK_EQ(set_fd(VHOST_USER_SET_VRING_KICK, 0, -1), 1);	     // polling
	CHECK_EQ(set_fd(VHOST_USER_SET_VRING_KICK, 0, fx.dr.fd), 1); // no eventfd
	CHECK_EQ(set_fd(VHOST_USER_SET_VRING_CALL, 255, fx.call), 1);
	uint64_t both = VHOST_USER_VRING_NO_FD;
	CHECK_EQ(set(VHOST_USER_SET_VRING_CALL, &both, 8, &fx.call, 1), 1);
	uint64_t neither = 0;
	CHECK_EQ(set(VHOST_USER_SET_VRING_CALL, &neither, 8, NULL, 0), 1);
})

SERVED(memory_tables_that_are_refused, {
	CHECK(negotiate());
	struct vhost_user_mem_table m = {
		.count = 2,
		.region = { { .gpa = DRIVER_GPA, .size = DRIVER_MEM, .user = DRIVER_UVA },
			    { .gpa = DRIVER_GPA, .size = DRIVER_MEM, .user = DRIVER_UVA } }
	};
	int two[] = { fx.dr.fd, fx.dr.fd };
	CHECK_EQ(set(VHOST_USER_SET_MEM_TABLE, &m, 72, two, 2), 1); // overlap
	CHECK_EQ(set(VHOST_USER_SET_MEM_TABLE, &m, 72, two, 1), 1); // a descriptor is missing
	CHECK_EQ(set(VHOST_USER_SET_MEM_TABLE, &m, 40, two, 2), 1); // a region is missing
	m.count = UINT32_MAX;
	CHECK_EQ(set(VHOST_USER_SET_MEM_TABLE, &m, 72, two, 2), 1);
	m.count = 1;
	m.region[0].size = DRIVER_MEM + 1;
	CHECK_EQ(set(VHOST_USER_SET_MEM_TABLE, &m, 40, two, 1), 1);
	m.region[0].size = UINT64_MAX;
	CHECK_EQ(set(VHOST_USER_SET_MEM_TABLE, &m, 40, two, 1), 1);
	m.region[0].size = DRIVER_MEM;
	m.region[0].fd_offset = UINT64_MAX - 4095;
	CHECK_EQ(set(VHOST_USER_SET_MEM_TABLE, &m, 40, two, 1), 1);
	m.region[0].fd_offset = 0;
	CHECK_EQ(set(VHOST_USER_SET_MEM_TABLE, &m, 40, &fx.kick, 1), 1); // no memory
	CHECK_EQ(set(VHOST_USER_SET_MEM_TABLE, &m, 40, two, 1), 0);
	m.count = 0;
	CHECK_EQ(set(VHOST_USER_SET_MEM_TABLE, &m, 8, NULL, 0), 0);
})

SERVED(rings_outside_memory, {
	CHECK(negotiate());
	CHECK_EQ(share_memory(), 0);
	CHECK_EQ(set_state(VHOST_USER_SET_VRING_NUM, 0, DRIVER_SIZE), 0);
	fx.dr.place.used = DRIVER_UVA + DRIVER_MEM - 4;
	CHECK_EQ(set_addresses(0), 0);
	CHECK_EQ(set_fd(VHOST_USER_SET_VRING_KICK, 0, fx.kick), 0);
	CHECK_EQ(set_state(VHOST_USER_SET_VRING_ENABLE, 0, 1), 1);
	fd_event_signal(fx.kick);
	usleep(10000);
	uint64_t v;
	CHECK(get_u64(VHOST_USER_GET_STATUS, &v));
	CHECK_EQ(v, VIRTIO_CONFIG_S_NEEDS_RESET);
})

SERVED(changes_that_a_running_ring_does_not_take, {
	CHECK(queue_up());
	CHECK(disk_works());
	CHECK_EQ(set_state(VHOST_USER_SET_VRING_NUM, 0, 32), 1);
	CHECK_EQ(set_state(VHOST_USER_SET_VRING_BASE, 0, 9), 1);
	CHECK_EQ(set_u64(VHOST_USER_SET_FEATURES, PF_VIRTIO_BIT), 1);
	fx.dr.place.used += 1;
	CHECK_EQ(set_addresses(0), 1);
	CHECK(disk_works());
	CHECK_EQ(fx.dr.used->idx, 2); // it has gone on where it was
	// Its memory is taken away: the ring stops, the connection stays.
	struct vhost_user_mem_table none = { .count = 0 };
	CHECK_EQ(set(VHOST_USER_SET_MEM_TABLE, &none, 8, NULL, 0), 0);
	fd_event_signal(fx.kick);
	uint64_t v;
	CHECK(get_u64(VHOST_USER_GET_STATUS, &v));
	CHECK_EQ(v, VIRTIO_CONFIG_S_NEEDS_RESET);
})

// ---- dropped ----------------------------------------------------------------------------------------------------

#define DROPPED(name, ...)          \
	SERVED(name, {              \
		CHECK(negotiate()); \
		__VA_ARGS__;        \
		CHECK(closed());    \
	})

DROPPED(wrong_version, send_raw(VHOST_USER_GET_FEATURES, 2, 0, NULL, 0, NULL, 0))
DROPPED(a_reply_where_a_request_is_due, send_raw(VHOST_USER_GET_FEATURES, 5, 0, NULL, 0, NULL, 0))
DROPPED(unknown_request, send_raw(99, 1, 0, NULL, 0, NULL, 0))
DROPPED(request_zero, send_raw(0, 1, 0, NULL, 0, NULL, 0))
DROPPED(request_of_a_feature_that_is_not_offered,
	send_raw(VHOST_USER_SEND_RARP, 1, 8, "12345678", 8, NULL, 0))
DROPPED(postcopy_is_not_offered, send_raw(VHOST_USER_POSTCOPY_ADVISE, 1, 0, NULL, 0, NULL, 0))
DROPPED(iotlb_without_an_iommu,
	send_raw(VHOST_USER_IOTLB_MSG, 1, 32, "12345678901234567890123456789012", 32, NULL, 0))
DROPPED(size_too_small, send_raw(VHOST_USER_SET_FEATURES, 1, 4, "1234", 4, NULL, 0))
DROPPED(size_too_large, send_raw(VHOST_USER_SET_FEATURES, 1, 16, "1234567812345678", 16, NULL, 0))
DROPPED(size_absurd, send_raw(VHOST_USER_SET_FEATURES, 1, UINT32_MAX, NULL, 0, NULL, 0))
DROPPED(descriptors_where_none_are_due,
	send_raw(VHOST_USER_GET_FEATURES, 1, 0, NULL, 0, (int[]){ fx.kick, fx.call }, 2))
DROPPED(descriptor_missing,
	send_raw(VHOST_USER_ADD_MEM_REG, 1, 40, &(struct vhost_user_mem_reg){ 0 }, 40, NULL, 0))
DROPPED(a_refusal_without_reply_ack,
	send_raw(VHOST_USER_SET_VRING_NUM, 1, 8, &(struct vhost_user_vring_state){ 0, 3 }, 8, NULL, 0))
DROPPED(bad_index_where_a_reply_is_due,
	send_raw(VHOST_USER_GET_VRING_BASE, 1, 8, &(struct vhost_user_vring_state){ 2, 0 }, 8, NULL, 0))
DROPPED(end_within_a_header, CHECK_EQ(send(fx.sock, "abc", 3, MSG_NOSIGNAL), 3); shutdown(fx.sock, SHUT_WR))
DROPPED(end_within_a_payload, send_raw(VHOST_USER_SET_FEATURES, 1, 8, "1234", 4, NULL, 0);
	shutdown(fx.sock, SHUT_WR))
DROPPED(half_a_message_and_silence, CHECK_EQ(send(fx.sock, "abc", 3, MSG_NOSIGNAL), 3)) // 2 s

SERVED(more_descriptors_than_a_message_can_have, {
	union {
		char bytes[CMSG_SPACE(40 * sizeof(int))];
		struct cmsghdr align;
	} c = { { 0 } };
	struct vhost_user_header h = { .request = VHOST_USER_SET_MEM_TABLE, .flags = 1, .size = 8 };
	struct iovec iov = { &h, sizeof(h) };
	struct msghdr m = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof(c)
	};
	*CMSG_FIRSTHDR(&m) = (struct cmsghdr){ .cmsg_level = SOL_SOCKET,
					       .cmsg_type = SCM_RIGHTS,
					       .cmsg_len = CMSG_LEN(40 * sizeof(int)) };
	for (size_t i = 0; i < 40; i++)
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(&m)) + i * sizeof(int), &fx.kick, sizeof(int));
	CHECK(negotiate());
	CHECK_EQ(sendmsg(fx.sock, &m, MSG_NOSIGNAL), sizeof(h));
	CHECK(closed());
})

SERVED(gone_with_requests_in_flight, {
	CHECK(queue_up());
	CHECK(disk_works());
	struct virtio_blk_outhdr h = { .type = VIRTIO_BLK_T_OUT };
	memcpy(fx.dr.ram + DRIVER_DATA, &h, sizeof(h));
	for (unsigned i = 0; i < DRIVER_SIZE - 3; i++) {
		driver_desc(&fx.dr, 0, DRIVER_DATA, 16, VRING_DESC_F_NEXT, 1);
		driver_desc(&fx.dr, 1, DRIVER_DATA + 512, 65536, VRING_DESC_F_NEXT, 2);
		driver_desc(&fx.dr, 2, DRIVER_DATA + 1024, 1, VRING_DESC_F_WRITE, 0);
		driver_offer(&fx.dr, 0);
	}
	fd_event_signal(fx.kick);
})

SERVED(gone_at_once, {})

TEST(comes_and_goes_many_times)
{
	for (unsigned i = 0; i < 50 && !test_failed; i++) {
		CHECK(set_up());
		if (i % 3)
			CHECK(queue_up());
		if (i % 3 == 2)
			CHECK(disk_works());
		tear_down();
	}
}
