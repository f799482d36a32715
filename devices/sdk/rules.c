// SPDX-License-Identifier: BSD-2-Clause
// What the sandbox of a device program allows: the SDK's part, the carrier's and the device's own.
#include "devices/sdk/main_impl.h"
#include "devices/sdk/vduse.h"
#include "vmm/base/bin.h"
#include "vmm/base/check.h"
#include "vmm/base/msg.h"
#include "vmm/base/socket_file.h"

#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>

// What every carrier needs; each has a table of its own besides.
static const struct sandbox_rule sdk_rules[] = {
	SANDBOX_CALL(epoll_wait, "waits for kicks, messages and completions"),
	SANDBOX_RARE(epoll_pwait, "the same, where the C library has no epoll_wait"),
	SANDBOX_CALL(epoll_ctl, "a front-end's eventfds come and go"),
	SANDBOX_CALL(close, "descriptors of a front-end that replaces them or leaves"),
	SANDBOX_RARE(fstat, "size and kind of a memory file"),
	SANDBOX_RARE(newfstatat, "the same by newer C libraries"),
	SANDBOX_CALL_IF(mmap, "guest memory, never executable", 2, PROT_EXEC, 0),
	SANDBOX_CALL(munmap, "guest memory that the front-end takes back"),
	SANDBOX_CALL_IF(madvise, "guest memory stays out of core dumps", 2, UINT32_MAX, MADV_DONTDUMP),
	SANDBOX_RARE(brk, "memory for the front-end of a device with many queues"),
	SANDBOX_CALL(write, "answers to the kernel, and log lines"),
	SANDBOX_CALL(read, "SIGTERM, by signalfd; the kernel's messages"),
};

// Of those that are served over sockets.
static const struct sandbox_rule socket_rules[] = {
	SANDBOX_CALL(recvmsg, "messages of the front-end, with descriptors"),
	SANDBOX_CALL(sendmsg, "replies to the front-end"),
	SANDBOX_CALL(accept4, "the next front-end, on a listening socket"),
	SANDBOX_RARE(poll, "is there room for a reply; a pause after accept4 failed"),
	SANDBOX_CALL(fcntl, "access mode of a memory file"),
	SANDBOX_RARE(memfd_create, "the record of requests in flight, for front-ends that want one"),
	SANDBOX_RARE(ftruncate, "its size"),
};

static const struct carrier *const socket_carriers[] = { &carrier_vhost_user, &carrier_vfio_user };

struct rule_list {
	unsigned count;
	struct sandbox_rule rule[64];
};

static int rules_add(struct rule_list *to, const struct sandbox_rule *from, unsigned count)
{
	if (count > ARRAY_LEN(to->rule) - to->count)
		return -E2BIG;
	for (unsigned i = 0; i < count; i++)
		to->rule[to->count++] = from[i];
	return 0;
}

int sdk_rules_collect(const struct vdev_ops *ops, const struct carrier *carrier, struct sandbox_spec *spec)
{
	static struct rule_list all;
	all.count = 0;
	int rc = rules_add(&all, sdk_rules, ARRAY_LEN(sdk_rules));
	if (rc == 0 && carrier != &carrier_vduse)
		rc = rules_add(&all, socket_rules, ARRAY_LEN(socket_rules));
	for (unsigned i = 0; i < ARRAY_LEN(socket_carriers) && rc == 0 && !carrier; i++)
		rc = rules_add(&all, socket_carriers[i]->rules, socket_carriers[i]->rule_count);
	if (rc == 0 && carrier)
		rc = rules_add(&all, carrier->rules, carrier->rule_count);
	if (rc == 0)
		rc = rules_add(&all, ops->rules, ops->rule_count);
	if (rc < 0)
		return rc;
	*spec = (struct sandbox_spec){
		.program = ops->program,
		.rules = all.rule,
		.rule_count = all.count,
		// Ours, three for each queue (of a PCI function: its vectors and doorbells), those of one message, and the device's.
		.nofile = 64 + 3 * VDEV_QUEUES_MAX + MSG_FDS_MAX + ops->fds_max,
	};
	return 0;
}

void sdk_rules_print(const struct vdev_ops *ops, const struct carrier *c)
{
	struct sandbox_spec spec;
	if (sdk_rules_collect(ops, c, &spec) < 0)
		return;
	sandbox_print(&spec, "", stdout);
	printf("limit\tnofile\t%llu\n", (unsigned long long)spec.nofile);
	if (c == &carrier_vduse)
		vduse_print("keeper\t", stdout);
	else
		socket_file_print("keeper\t", stdout);
	if (ops->serve)
		sandbox_print(&bin_spec, "bin\t", stdout);
	if (ops->aside)
		sandbox_print(ops->aside, "aside\t", stdout);
}
