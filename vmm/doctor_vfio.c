// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/doctor_impl.h"
#include "vmm/base/err.h"

#include <stdlib.h>
#include <string.h>

#define PCI_BRIDGE 0x0604

struct function {
	const char *name; // "0000:01:00.0"
	unsigned vendor, device, class;
	char driver[NAME_MAX + 1]; // "": none
};

static unsigned pci_id(const struct doctor *d, const char *name, const char *what)
{
	char path[PATH_MAX], text[32];
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/%s", name, what);
	return doctor_line(d, path, text, sizeof(text)) ? (unsigned)strtoul(text, NULL, 16) : 0;
}

static bool function_read(const struct doctor *d, const char *name, struct function *f)
{
	char path[PATH_MAX];
	*f = (struct function){ .name = name };
	f->vendor = pci_id(d, name, "vendor");
	f->device = pci_id(d, name, "device");
	f->class = pci_id(d, name, "class") >> 8;
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/driver", name);
	if (!doctor_link(d, path, f->driver))
		f->driver[0] = '\0';
	return f->vendor && f->class != PCI_BRIDGE;
}

struct group {
	const char *number;
	char others[512]; // functions of the group that are not for VFIO yet, with their drivers
	unsigned count;
};

static void member(struct doctor *d, const char *name, void *arg)
{
	struct group *g = arg;
	struct function f;
	if (!function_read(d, name, &f))
		return;
	g->count++;
	size_t used = strlen(g->others);
	if (strcmp(f.driver, "vfio-pci") != 0 && used < sizeof(g->others))
		snprintf(g->others + used, sizeof(g->others) - used, " %s", name);
}

static void candidate(struct doctor *d, const char *name, void *arg)
{
	const struct group *g = arg;
	char node_path[64], mend[sizeof(g->others) + 64];
	struct function f;
	if (!function_read(d, name, &f))
		return;
	snprintf(node_path, sizeof(node_path), "/dev/vfio/%s", g->number);
	int error = doctor_access(d, node_path);
	const bool bound = strcmp(f.driver, "vfio-pci") == 0;
	if (bound && !*g->others && error == 0)
		*mend = '\0';
	else if (*g->others)
		snprintf(mend, sizeof(mend), "minivmm bind%s%s", g->others,
			 f.driver[0] && !bound ? " (the host loses it)" : "");
	else
		snprintf(mend, sizeof(mend), "rights to %s by a udev rule: %s", node_path, err_text(error));
	doctor_say(d, *mend ? ABSENT : GOOD, "pci function", mend,
		   "%s %04x:%04x class %04x, group %s%s, driver %s", name, f.vendor, f.device, f.class,
		   g->number, g->count > 1 ? " with others" : "", f.driver[0] ? f.driver : "none");
}

static void iommu_group(struct doctor *d, const char *number, void *arg)
{
	(void)arg;
	char path[PATH_MAX];
	struct group g = { .number = number };
	snprintf(path, sizeof(path), "/sys/kernel/iommu_groups/%s/devices", number);
	doctor_each(d, path, member, &g);
	doctor_each(d, path, candidate, &g);
}

static void mdev_parent(struct doctor *d, const char *name, void *arg)
{
	(void)arg;
	doctor_say(d, GOOD, "mdev parent", "",
		   "%s: its types are in /sys/class/mdev_bus/%s/mdev_supported_types", name, name);
}

static void mdev_device(struct doctor *d, const char *uuid, void *arg)
{
	(void)arg;
	doctor_say(d, GOOD, "mdev", "", "via = \"vfio\", mdev = \"%s\"", uuid);
}

static void nothing(struct doctor *d, const char *name, void *arg)
{
	(void)arg;
	(void)d;
	(void)name;
}

void doctor_vfio(struct doctor *d)
{
	const unsigned groups = doctor_each(d, "/sys/kernel/iommu_groups", nothing, NULL);
	if (groups == 0)
		doctor_say(d, ABSENT, "iommu",
			   "turn VT-d or AMD-Vi on in the firmware, and intel_iommu=on on Intel's",
			   "no IOMMU groups: no PCI function of the host can be given to a guest");
	else
		doctor_say(d, GOOD, "iommu", "", "%u groups", groups);
	doctor_node(d, "vfio", "/dev/vfio/vfio", "vfio-pci", "via = \"vfio\", by group");
	if (doctor_exists(d, "/dev/iommu"))
		doctor_say(d, GOOD, "iommufd", "", "/dev/iommu: via = \"vfio\", cdev = ...");
	doctor_each(d, "/sys/kernel/iommu_groups", iommu_group, NULL);
	doctor_each(d, "/sys/class/mdev_bus", mdev_parent, NULL);
	doctor_each(d, "/sys/bus/mdev/devices", mdev_device, NULL);
}
