// SPDX-License-Identifier: BSD-2-Clause
// What tests with a scripted peer of either protocol need: time, descriptors in messages, RAM for a guest.
#ifndef MINIVMM_TESTS_FAULT_PEER_H
#define MINIVMM_TESTS_FAULT_PEER_H

#include "tests/unit/count_fds.h"
#include "vmm/base/deadline.h"
#include "vmm/base/loop.h"
#include "vmm/memmap.h"

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

// ---- time ----------------------------------------------------------------------------------------------------------

static inline int64_t ms_since(deadline_ns start)
{
	return (deadline_now() - start) / NS_PER_MS;
}

// The time of this thread: without what it spent ready to run while all processors had other work (where the kernel tells), so that
// "late" means late by its own doing.
static inline deadline_ns own_now(void)
{
	long long ran = 0, waited = 0;
	FILE *f = fopen("/proc/thread-self/schedstat", "re");
	if (f && fscanf(f, "%lld %lld", &ran, &waited) != 2)
		waited = 0;
	if (f)
		fclose(f);
	return deadline_now() - waited;
}

static inline int64_t own_ms_since(deadline_ns own_start)
{
	return (own_now() - own_start) / NS_PER_MS;
}

// ---- what both sides have ------------------------------------------------------------------------------------------

static inline void peer_send_to(int sock, const void *buf, size_t len, const int *fds, unsigned fd_count)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * 253)];
	} c;
	memset(&c, 0, sizeof(c));
	char *copy = malloc(len ? len : 1);
	if (!copy)
		abort();
	if (len)
		memcpy(copy, buf, len);
	struct iovec iov = { .iov_base = copy, .iov_len = len };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	if (fd_count) {
		m.msg_control = c.bytes;
		m.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
		c.align.cmsg_level = SOL_SOCKET;
		c.align.cmsg_type = SCM_RIGHTS;
		c.align.cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
		memcpy(CMSG_DATA(&c.align), fds, sizeof(int) * fd_count);
	}
	ssize_t n = sendmsg(sock, &m, MSG_NOSIGNAL);
	(void)n; // one that is gone is seen by the test by other means
	free(copy);
}

#define PEER_FDS_MAX 64 // that one message brings

// False: the other end is gone.  Without `fds` there is none to come.
static inline bool peer_read_from(int sock, void *buf, size_t len, int *fds, unsigned *fd_count)
{
	for (size_t done = 0; done < len;) {
		union {
			struct cmsghdr align;
			char bytes[CMSG_SPACE(sizeof(int) * PEER_FDS_MAX)];
		} c;
		struct iovec iov = { .iov_base = (char *)buf + done, .iov_len = len - done };
		struct msghdr m = { .msg_iov = &iov,
				    .msg_iovlen = 1,
				    .msg_control = c.bytes,
				    .msg_controllen = sizeof(c.bytes) };
		struct pollfd pfd = { .fd = sock, .events = POLLIN };
		if (poll(&pfd, 1, 20000) <= 0)
			return false;
		ssize_t n = recvmsg(sock, &m, MSG_CMSG_CLOEXEC);
		if (n <= 0)
			return false;
		struct cmsghdr *cm = CMSG_FIRSTHDR(&m);
		if (cm && cm->cmsg_type == SCM_RIGHTS && fds) {
			size_t k = (cm->cmsg_len - CMSG_LEN(0)) / sizeof(int);
			memcpy(fds + *fd_count, CMSG_DATA(cm), k * sizeof(int));
			*fd_count += (unsigned)k;
		}
		done += (size_t)n;
	}
	return true;
}

// Runs the loop until `*what` is not 0 or the time is over; false then.
static inline bool loop_until(struct loop *l, const unsigned *what, int ms)
{
	deadline_ns end = deadline_in_ms(ms);
	while (*what == 0 && deadline_left_ms(end) > 0)
		loop_once(l, deadline_left_ms(end));
	return *what != 0;
}

#define FRONT_REGION 0x200000u

// RAM for a guest: one memfd in two regions of that size.
static inline struct mem_table front_memory(void)
{
	int fd = memfd_create("ram", MFD_CLOEXEC);
	if (fd < 0 || ftruncate(fd, 2 * FRONT_REGION) < 0)
		abort();
	char *hva = mmap(NULL, 2 * FRONT_REGION, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (hva == MAP_FAILED)
		abort();
	return (struct mem_table){ .count = 2,
				   .region = { { .gpa = 0, .size = FRONT_REGION, .hva = hva, .fd = fd },
					       { .gpa = 0x100000000,
						 .size = FRONT_REGION,
						 .hva = hva + FRONT_REGION,
						 .fd = fd,
						 .fd_offset = FRONT_REGION } } };
}

static inline void front_memory_free(struct mem_table *t)
{
	munmap(t->region[0].hva, 2 * (size_t)FRONT_REGION);
	close(t->region[0].fd);
}

#endif
