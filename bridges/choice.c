// SPDX-License-Identifier: BSD-2-Clause
// What was chosen with a device's interface, for `minivmm explain`: the words of one line of its table.
#include "bridges/choice.h"

#include "bridges/vhost_kernel.h"
#include "vmm/base/virtio_id.h"

#include <string.h>

// How often the processor moves a request's data between the guest's memory and what stands behind our program.
static const char *copies_own(const struct device_config *cfg)
{
	switch (cfg->virtio_type) {
	case VIRTIO_BLK:
		return cfg->direct ? "0, O_DIRECT" : "1, page cache";
	case VIRTIO_NET:
		return "1, tap";
	case VIRTIO_RNG:
		return "0";
	default:
		return "1, socket or file";
	}
}

static const char *copies_kernel(const struct device_config *cfg)
{
	switch (cfg->virtio_type) {
	case VIRTIO_NET:
		return "1, tap";
	case VIRTIO_VSOCK:
		return "1, socket";
	default:
		return "0 or 1, target";
	}
}

static const char *after_death(const struct device_config *cfg)
{
	if (!cfg->socket && !cfg->listen)
		return cfg->restart == RESTART_NEVER ? "device dead" : "started again";
	return cfg->reconnect_ms == CONFIG_NEVER ? "device dead" : "connected again";
}

struct explain_choice choice_of(const struct device_config *cfg)
{
	struct explain_choice c = { .sees = "that process", .copies = "its affair", .migrates = "no" };
	if (cfg->via == VIA_VHOST) {
		const bool pairs = vhost_kernel_has_pairs(cfg);
		c.sees = pairs ? "kernel, ours" : "host kernel";
		c.reads = pairs ? "kernel; commands: ours" : "host kernel";
		c.copies = copies_kernel(cfg);
		c.death = "host dead";
		return c;
	}
	if (cfg->via == VIA_VHOST_VDPA) {
		c.sees = "that device"; // hardware, the kernel or a process: its path does not tell
		c.reads = "device or VDUSE process";
		c.death = "device dead";
		return c;
	}
	if (cfg->via == VIA_VFIO) {
		c.sees = "device, IOMMU";
		c.reads = "the device";
		c.copies = "0, DMA";
		c.death = "device dead";
		return c;
	}
	c.death = after_death(cfg);
	if (cfg->via == VIA_VFIO_USER && cfg->dma == DMA_MESSAGES)
		c.sees = "nobody else";
	if (cfg->via == VIA_BUILTIN) {
		c.reads = "program of ours, sealed";
		c.copies = copies_own(cfg);
	} else if (cfg->exec) {
		c.reads = strcmp(cfg->sandbox, "none") == 0 ? "program, NOT jailed" : "program, jailed";
	} else {
		c.reads = "somebody's process";
	}
	return c;
}
