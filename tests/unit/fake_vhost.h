// SPDX-License-Identifier: BSD-2-Clause
// A kernel with vhost, in memory: this program's own ioctl() and write(), which answer for any character device (/dev/null will do) and
// keep a log of what was asked.  All other requests are passed on.
#ifndef MINIVMM_TESTS_UNIT_FAKE_VHOST_H
#define MINIVMM_TESTS_UNIT_FAKE_VHOST_H

#include <errno.h>
#include <linux/if_tun.h>
#include <linux/vhost.h>
#include <net/if.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef VHOST_VDPA_RESUME // Linux 6.3
#define VHOST_VDPA_RESUME _IO(VHOST_VIRTIO, 0x7E)
#endif

#define FAKE_FDS 128

static struct fake_vhost {
	char log[8192];		   // names with spaces between
	unsigned calls, fail_call; // the n-th fails, from 1
	unsigned long fail_request;
	int fail_error;
	int watched; // writes to this descriptor are mappings

	uint64_t features, taken, kernel; // vhost features, and those of the IOTLB
	uint64_t cid;
	unsigned offload;
	int header, abi;
	int backend[2];
	int fd; // of the request at hand; all that follows by descriptor
	int bound[FAKE_FDS][2];
	bool multi_queue, detached[FAKE_FDS];
	uint8_t status;
	uint32_t type, queues, config_len, spaces, groups;
	uint16_t ring;
	uint64_t iova_last;
	uint8_t status_lost; // bits that the device never shows
	int err_fd, config_fd;
	struct vhost_vring_addr addr[4];
	struct vhost_vring_state base[4];
	unsigned regions;
	struct vhost_memory_region region[16];
	unsigned maps, unmaps;
	struct vhost_iotlb_msg map[16];
} fake;

static void fake_reset(void)
{
	memset(&fake, 0, sizeof(fake));
	fake.features = ~UINT64_C(0);
	fake.fail_error = EIO;
	fake.watched = fake.err_fd = fake.config_fd = -1;
	fake.backend[0] = fake.backend[1] = -2;
	memset(fake.bound, -1, sizeof(fake.bound));
	fake.type = 2;
	fake.queues = 1;
	fake.spaces = 2;
	fake.groups = 1;
	fake.config_len = 60;
	fake.ring = 128;
	fake.iova_last = UINT64_MAX;
	fake.kernel = 0x2 | 0x4 | 0x8 | 0x10 | 0x20 | 0x40 | 0x100;
}

static void fake_note(const char *name)
{
	const size_t n = strlen(fake.log);
	snprintf(fake.log + n, sizeof(fake.log) - n, "%s%s", n ? " " : "", name);
}

static void fake_memory(const struct vhost_memory *m)
{
	fake.regions = m->nregions;
	memcpy(fake.region, m->regions, m->nregions * sizeof(m->regions[0]));
}

// The answer of the device; -1 with errno, or 0.
static int fake_answer(unsigned long request, void *arg)
{
	struct vhost_vring_state *state = arg;
	struct vhost_vring_file *file = arg;
	struct vhost_vring_addr *addr = arg;
	struct vhost_vdpa_config *config = arg;
	struct ifreq *ifr = arg;
#define CASE(request_) \
	case request_: \
		fake_note(#request_);
	switch (request) {
		CASE(VHOST_SET_OWNER)
		break;
		CASE(VHOST_GET_FEATURES)
		memcpy(arg, &fake.features, 8);
		break;
		CASE(VHOST_SET_FEATURES)
		memcpy(&fake.taken, arg, 8);
		break;
		CASE(VHOST_GET_BACKEND_FEATURES)
		memcpy(arg, &fake.kernel, 8);
		break;
		CASE(VHOST_SET_BACKEND_FEATURES)
		break;
		CASE(VHOST_SET_MEM_TABLE)
		fake_memory(arg);
		break;
		CASE(VHOST_SET_VRING_NUM)
		break;
		CASE(VHOST_SET_VRING_BASE)
		fake.base[state->index] = *state;
		break;
		CASE(VHOST_GET_VRING_BASE)
		state->num = fake.base[state->index].num + 7;
		break;
		CASE(VHOST_SET_VRING_ADDR)
		fake.addr[addr->index] = *addr;
		break;
		CASE(VHOST_SET_VRING_KICK)
		break;
		CASE(VHOST_SET_VRING_CALL)
		break;
		CASE(VHOST_SET_VRING_ERR)
		fake.err_fd = file->fd;
		break;
		CASE(VHOST_NET_SET_BACKEND)
		fake.backend[file->index] = fake.bound[fake.fd][file->index] = file->fd;
		break;
		CASE(VHOST_VSOCK_SET_GUEST_CID)
		memcpy(&fake.cid, arg, 8);
		break;
		CASE(VHOST_VSOCK_SET_RUNNING)
		fake_note(*(int *)arg ? "on" : "off");
		break;
		CASE(VHOST_SCSI_GET_ABI_VERSION)
		memcpy(arg, &fake.abi, sizeof(int));
		break;
		CASE(VHOST_SCSI_SET_ENDPOINT)
		fake_note(((struct vhost_scsi_target *)arg)->vhost_wwpn);
		break;
		CASE(VHOST_SCSI_CLEAR_ENDPOINT)
		break;
		CASE(VHOST_VDPA_GET_DEVICE_ID)
		memcpy(arg, &fake.type, 4);
		break;
		CASE(VHOST_VDPA_GET_STATUS)
		*(uint8_t *)arg = (uint8_t)(fake.status & ~fake.status_lost);
		break;
		CASE(VHOST_VDPA_SET_STATUS)
		fake.status = *(uint8_t *)arg;
		break;
		CASE(VHOST_VDPA_GET_CONFIG)
		memset(config->buf, 0xc0, config->len);
		break;
		CASE(VHOST_VDPA_SET_CONFIG)
		break;
		CASE(VHOST_VDPA_SET_VRING_ENABLE)
		break;
		CASE(VHOST_VDPA_GET_VRING_NUM)
		memcpy(arg, &fake.ring, 2);
		break;
		CASE(VHOST_VDPA_SET_CONFIG_CALL)
		fake.config_fd = *(int *)arg;
		break;
		CASE(VHOST_VDPA_GET_IOVA_RANGE)
		memcpy(arg, &(struct vhost_vdpa_iova_range){ 0, fake.iova_last }, 16);
		break;
		CASE(VHOST_VDPA_GET_CONFIG_SIZE)
		memcpy(arg, &fake.config_len, 4);
		break;
		CASE(VHOST_VDPA_GET_VQS_COUNT)
		memcpy(arg, &fake.queues, 4);
		break;
		CASE(VHOST_VDPA_GET_GROUP_NUM)
		memcpy(arg, &fake.groups, 4);
		break;
		CASE(VHOST_VDPA_GET_AS_NUM)
		memcpy(arg, &fake.spaces, 4);
		break;
		CASE(VHOST_VDPA_SET_GROUP_ASID)
		break;
		CASE(VHOST_VDPA_SUSPEND)
		break;
		CASE(VHOST_VDPA_RESUME)
		break;
		CASE(TUNGETIFF)
		memset(ifr, 0, sizeof(*ifr));
		memcpy(ifr->ifr_name, "no-such-if", 11);
		ifr->ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
		if (fake.multi_queue)
			ifr->ifr_flags |= IFF_MULTI_QUEUE;
		break;
		CASE(TUNSETQUEUE)
		if (fake.detached[fake.fd] == (ifr->ifr_flags == IFF_DETACH_QUEUE)) {
			errno = EINVAL;
			return -1;
		}
		fake.detached[fake.fd] = ifr->ifr_flags == IFF_DETACH_QUEUE;
		break;
		CASE(TUNSETOFFLOAD)
		fake.offload = (unsigned)(uintptr_t)arg;
		break;
		CASE(TUNSETVNETHDRSZ)
		fake.header = *(int *)arg;
		break;
	default:
		errno = ENOTTY;
		return -1;
	}
	return 0;
}

int ioctl(int fd, unsigned long request, ...)
{
	va_list ap;
	va_start(ap, request);
	void *arg = va_arg(ap, void *);
	va_end(ap);
	if (_IOC_TYPE(request) != VHOST_VIRTIO &&
	    !(_IOC_TYPE(request) == 'T' && _IOC_NR(request) >= 200 && _IOC_NR(request) < 230))
		return (int)syscall(SYS_ioctl, fd, request, arg);
	fake.calls++;
	fake.fd = fd;
	if (fake.calls == fake.fail_call || request == fake.fail_request || fd < 0 || fd >= FAKE_FDS) {
		errno = fake.fail_error;
		return -1;
	}
	return fake_answer(request, arg);
}

ssize_t write(int fd, const void *bytes, size_t len)
{
	struct vhost_msg_v2 m;
	if (fd != fake.watched || len != sizeof(m))
		return syscall(SYS_write, fd, bytes, len);
	memcpy(&m, bytes, len);
	fake.calls++;
	if (fake.calls == fake.fail_call || fake.fail_request == m.iotlb.type) {
		errno = fake.fail_error;
		return -1;
	}
	fake_note(m.iotlb.type == VHOST_IOTLB_BATCH_BEGIN  ? "BEGIN"
		  : m.iotlb.type == VHOST_IOTLB_BATCH_END  ? "END"
		  : m.iotlb.type == VHOST_IOTLB_UPDATE	   ? "MAP"
		  : m.iotlb.type == VHOST_IOTLB_INVALIDATE ? "UNMAP"
							   : "?");
	if (m.iotlb.type == VHOST_IOTLB_UPDATE)
		fake.map[fake.maps++ % 16] = m.iotlb;
	fake.unmaps += m.iotlb.type == VHOST_IOTLB_INVALIDATE;
	return (ssize_t)len;
}

#endif
