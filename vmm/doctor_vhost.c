// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/doctor_impl.h"
#include "vmm/base/err.h"

#include <stdlib.h>
#include <string.h>

static bool may_admin_network(const struct doctor *d)
{
	char line[256], path[PATH_MAX];
	unsigned long long caps = 0;
	snprintf(path, sizeof(path), "%s/proc/self/status", d->root);
	FILE *f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (strncmp(line, "CapEff:", 7) == 0)
			caps = strtoull(line + 7, NULL, 16);
	if (f)
		fclose(f);
	return caps >> 12 & 1; // CAP_NET_ADMIN
}

void doctor_vhost(struct doctor *d)
{
	if (doctor_node(d, "tap", "/dev/net/tun", "tun", "taps, for net devices") && !may_admin_network(d))
		doctor_say(d, ABSENT, "tap rights",
			   "as root: ip tuntap add tap0 mode tap vnet_hdr user $(id -un)",
			   "no CAP_NET_ADMIN: only a tap that is made for this user can be used");
	doctor_node(d, "vhost-net", "/dev/vhost-net", "vhost_net", "via = \"vhost\", virtio = \"net\"");
	doctor_node(d, "vhost-vsock", "/dev/vhost-vsock", "vhost_vsock",
		    "via = \"vhost\", virtio = \"vsock\"");
	doctor_node(d, "vhost-scsi", "/dev/vhost-scsi", "vhost_scsi", "via = \"vhost\", virtio = \"scsi\"");
}

// ---- vDPA -------------------------------------------------------------------------------------------------------

static bool vdpa_node(const struct doctor *d, const char *name, char *path, size_t room)
{
	char dir[PATH_MAX];
	for (unsigned i = 0; i < 1024; i++) {
		snprintf(dir, sizeof(dir), "/sys/bus/vdpa/devices/%s/vhost-vdpa-%u", name, i);
		snprintf(path, room, "/dev/vhost-vdpa-%u", i);
		if (doctor_exists(d, dir))
			return true;
	}
	return false;
}

static void vdpa_device(struct doctor *d, const char *name, void *arg)
{
	(void)arg;
	char path[PATH_MAX], driver[NAME_MAX + 1], mend[2 * NAME_MAX + 256];
	snprintf(path, sizeof(path), "/sys/bus/vdpa/devices/%s/driver", name);
	if (!doctor_link(d, path, driver)) {
		snprintf(mend, sizeof(mend),
			 "modprobe vhost_vdpa; echo %s > /sys/bus/vdpa/drivers/vhost_vdpa/bind", name);
		doctor_say(d, ABSENT, "vdpa device", mend, "%s has no driver", name);
	} else if (strcmp(driver, "vhost_vdpa") != 0) {
		snprintf(
			mend, sizeof(mend),
			"echo %s > /sys/bus/vdpa/devices/%s/driver/unbind; echo %s > /sys/bus/vdpa/drivers/vhost_vdpa/bind",
			name, name, name);
		doctor_say(d, ABSENT, "vdpa device", mend, "%s is the host's own (driver %s)", name, driver);
	} else if (!vdpa_node(d, name, path, sizeof(path))) {
		doctor_say(d, ABSENT, "vdpa device", "", "%s has vhost_vdpa and no node", name);
	} else {
		int error = doctor_access(d, path);
		doctor_say(d, error ? ABSENT : GOOD, "vdpa device", error ? "its rights by a udev rule" : "",
			   "%s: via = \"vhost-vdpa\", path = \"%s\"%s%s", name, path, error ? ": " : "",
			   error ? err_text(error) : "");
	}
}

void doctor_vdpa(struct doctor *d)
{
	char mend[256];
	if (!doctor_exists(d, "/sys/bus/vdpa"))
		doctor_say(d, ABSENT, "vdpa", doctor_module(d, "vhost_vdpa", mend, sizeof(mend)),
			   "no vDPA bus");
	else if (!doctor_exists(d, "/sys/bus/vdpa/drivers/vhost_vdpa"))
		doctor_say(d, ABSENT, "vdpa", doctor_module(d, "vhost_vdpa", mend, sizeof(mend)),
			   "a vDPA bus without vhost_vdpa");
	else if (doctor_each(d, "/sys/bus/vdpa/devices", vdpa_device, NULL) == 0)
		doctor_say(d, ABSENT, "vdpa", "vdpa mgmtdev show; vdpa dev add name NAME mgmtdev ...",
			   "no vDPA device yet");
	doctor_node(d, "vduse", "/dev/vduse/control", "vduse", "device programs with --vduse NAME");
}
