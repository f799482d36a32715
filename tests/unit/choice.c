// SPDX-License-Identifier: BSD-2-Clause
// The table of choices that explain prints: each interface's line says what is so of that interface.
#include "bridges/choice.h"
#include "tests/unit/test.h"
#include "vmm/base/virtio_id.h"

static const char *line(const struct device_config *cfg)
{
	static char text[256];
	struct explain_choice c = choice_of(cfg);
	snprintf(text, sizeof(text), "%s; %s; %s; %s; %s", c.sees, c.reads, c.copies, c.death, c.migrates);
	return text;
}

TEST(ours)
{
	struct device_config d = { .via = VIA_BUILTIN, .virtio_type = VIRTIO_BLK };
	CHECK_STR(line(&d), "that process; program of ours, sealed; 1, page cache; started again; no");
	d.direct = true;
	d.restart = RESTART_NEVER;
	CHECK_STR(line(&d), "that process; program of ours, sealed; 0, O_DIRECT; device dead; no");
	d.virtio_type = VIRTIO_NET;
	d.restart = RESTART_ON_FAILURE;
	CHECK_STR(line(&d), "that process; program of ours, sealed; 1, tap; started again; no");
}

TEST(other_peoples)
{
	char *words[] = { (char *)(uintptr_t) "x", NULL };
	struct device_config d = { .via = VIA_VHOST_USER, .exec = words, .sandbox = "default" };
	CHECK_STR(line(&d), "that process; program, jailed; its affair; started again; no");
	d.sandbox = "none";
	CHECK_STR(line(&d), "that process; program, NOT jailed; its affair; started again; no");
	d = (struct device_config){ .via = VIA_VHOST_USER, .socket = "/x" };
	CHECK_STR(line(&d), "that process; somebody's process; its affair; connected again; no");
	d = (struct device_config){ .via = VIA_VHOST_USER, .listen = "/x", .reconnect_ms = CONFIG_NEVER };
	CHECK_STR(line(&d), "that process; somebody's process; its affair; device dead; no");
}

TEST(kernels)
{
	struct device_config d = { .via = VIA_VHOST, .virtio_type = VIRTIO_NET };
	CHECK_STR(line(&d), "host kernel; host kernel; 1, tap; host dead; no");
	d.queues = 2;
	CHECK_STR(line(&d), "kernel, ours; kernel; commands: ours; 1, tap; host dead; no");
	d.virtio_type = VIRTIO_VSOCK;
	CHECK_STR(line(&d), "host kernel; host kernel; 1, socket; host dead; no");
}

TEST(vdpa)
{
	struct device_config d = { .via = VIA_VHOST_VDPA, .path = "/dev/vhost-vdpa-0" };
	CHECK_STR(line(&d), "that device; device or VDUSE process; its affair; device dead; no");
}
