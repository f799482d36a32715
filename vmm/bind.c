// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/bind.h"

#include "vmm/doctor_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define VFIO_DRIVER "vfio-pci"
#define BRIDGE	    0x0604
#define ADDRESS_MAX 16

struct function {
	char address[ADDRESS_MAX]; // "0000:01:00.0"
	char group[NAME_MAX + 1];  // "": none
	char driver[NAME_MAX + 1]; // "": none
	unsigned class;
};

static void path_of(char path[PATH_MAX], const char *address, const char *what)
{
	snprintf(path, PATH_MAX, "/sys/bus/pci/devices/%s%s%s", address, *what ? "/" : "", what);
}

static bool function_read(struct doctor *d, const char *address, struct function *f)
{
	char path[PATH_MAX], text[32];
	*f = (struct function){ 0 };
	// "01:00.0" is the same as "0000:01:00.0"
	snprintf(f->address, sizeof(f->address), "%s%s", strlen(address) == 7 ? "0000:" : "", address);
	path_of(path, f->address, "class");
	if (strchr(f->address, '/') || !doctor_line(d, path, text, sizeof(text)))
		return false;
	f->class = (unsigned)strtoul(text, NULL, 16) >> 8;
	path_of(path, f->address, "iommu_group");
	doctor_link(d, path, f->group);
	path_of(path, f->address, "driver");
	doctor_link(d, path, f->driver);
	return true;
}

static bool named(const struct bind_params *p, const char *address)
{
	for (unsigned i = 0; i < p->count; i++)
		if (strcmp(p->addresses[i], address) == 0 ||
		    (strlen(p->addresses[i]) == 7 && strcmp(p->addresses[i], address + 5) == 0))
			return true;
	return false;
}

// ---- what the host would lose -----------------------------------------------------------------------------------

#define STACK_MAX 8 // devices on top of each other

struct use {
	const char *mark, *what, *mend; // NULL: it is not in use
	char as[NAME_MAX + 16];
	unsigned depth;
};

struct loss {
	FILE *out;
	const char *what;
	unsigned said;
	char disk[NAME_MAX + 1]; // that is in use
	struct use use;
};

static void lose(struct loss *l, const char *name)
{
	fprintf(l->out, "%s%s %s", l->said ? ", " : "  loses ", l->what, name);
	l->said++;
}

static void lose_named(struct doctor *d, const char *name, void *arg)
{
	(void)d;
	lose(arg, name);
}

// A line of the file begins with that word.
static bool listed(const struct doctor *d, const char *path, const char *word)
{
	char full[PATH_MAX], line[1024];
	snprintf(full, sizeof(full), "%s%s", d->root, path);
	FILE *f = fopen(full, "re");
	bool found = false;
	while (f && !found && fgets(line, sizeof(line), f))
		found = strcspn(line, " \t\n") == strlen(word) && strncmp(line, word, strlen(word)) == 0;
	if (f)
		fclose(f);
	return found;
}

// Whatever it was called then: the file systems' device numbers.
static bool number_mounted(const struct doctor *d, const char *name)
{
	char path[PATH_MAX], number[32], line[1024], *rest;
	snprintf(path, sizeof(path), "/sys/class/block/%s/dev", name);
	if (!doctor_line(d, path, number, sizeof(number)))
		return false;
	snprintf(path, sizeof(path), "%s/proc/self/mountinfo", d->root);
	FILE *f = fopen(path, "re");
	bool found = false;
	while (f && !found && (rest = fgets(line, sizeof(line), f))) {
		const char *word = NULL;
		for (unsigned i = 0; i < 3; i++)
			word = strsep(&rest, " ");
		found = word && strcmp(word, number) == 0;
	}
	if (f)
		fclose(f);
	return found;
}

static bool in_use(const struct doctor *d, const char *name, struct use *u)
{
	if (number_mounted(d, name) || listed(d, "/proc/self/mounts", u->as))
		u->mark = "MOUNTED", u->what = "mounted", u->mend = "unmount";
	else if (listed(d, "/proc/swaps", u->as))
		u->mark = "SWAP", u->what = "swapped to", u->mend = "swapoff";
	return u->what;
}

static void part_look(struct doctor *d, const char *name, void *arg);

// A block device, its parts, and what is built on them (RAID, encryption, LVM): is any of it in use?
static void device_look(struct doctor *d, const char *name, void *arg)
{
	struct use *u = arg;
	char path[PATH_MAX], mapped[NAME_MAX + 1];
	if (u->what || u->depth == STACK_MAX)
		return;
	snprintf(u->as, sizeof(u->as), "/dev/%s", name);
	if (in_use(d, name, u))
		return;
	snprintf(path, sizeof(path), "/sys/class/block/%s/dm/name", name);
	if (doctor_line(d, path, mapped, sizeof(mapped))) {
		snprintf(u->as, sizeof(u->as), "/dev/mapper/%s", mapped);
		if (in_use(d, name, u))
			return;
	}
	u->depth++;
	snprintf(path, sizeof(path), "/sys/class/block/%s", name);
	doctor_each(d, path, part_look, u);
	snprintf(path, sizeof(path), "/sys/class/block/%s/holders", name);
	doctor_each(d, path, device_look, u);
	u->depth--;
}

static void part_look(struct doctor *d, const char *name, void *arg)
{
	char path[PATH_MAX];
	snprintf(path, sizeof(path), "/sys/class/block/%s/partition", name);
	if (doctor_exists(d, path))
		device_look(d, name, arg);
}

static void lose_disk(struct doctor *d, const char *name, void *arg)
{
	struct loss *l = arg;
	struct use u = { .depth = 0 };
	lose(l, name);
	device_look(d, name, &u);
	if (!u.what)
		return;
	fprintf(l->out, " (%s, as %s)", u.mark, u.as);
	snprintf(l->disk, sizeof(l->disk), "%s", name);
	l->use = u;
}

struct owner {
	const char *device; // the function's folder, without links
	struct loss *loss;
};

// A block device whose folder lies below the function's.
static void disk_of(struct doctor *d, const char *name, void *arg)
{
	const struct owner *o = arg;
	char link[PATH_MAX], full[PATH_MAX];
	snprintf(link, sizeof(link), "%s/sys/class/block/%s", d->root, name);
	if (!realpath(link, full) || strncmp(full, o->device, strlen(o->device)) != 0 ||
	    full[strlen(o->device)] != '/')
		return;
	snprintf(link, sizeof(link), "%s/partition", full);
	if (access(link, F_OK) < 0)
		lose_disk(d, name, o->loss);
}

static void show_losses(struct doctor *d, const struct function *f, struct loss *l)
{
	char path[PATH_MAX], link[PATH_MAX], device[PATH_MAX];
	path_of(path, f->address, "net");
	l->what = "network interface";
	doctor_each(d, path, lose_named, l);
	l->what = "disk";
	path_of(path, f->address, "");
	if ((size_t)snprintf(link, sizeof(link), "%s%s", d->root, path) < sizeof(link) &&
	    realpath(link, device)) {
		struct owner o = { .device = device, .loss = l };
		doctor_each(d, "/sys/class/block", disk_of, &o);
	}
}

// ---- the group --------------------------------------------------------------------------------------------------

struct showing {
	const struct bind_params *p;
	char disk[NAME_MAX + 1]; // that is in use
	struct use use;
	char missing[512]; // of the group, that would have to be given, too
};

static void member_show(struct doctor *d, const char *address, void *arg)
{
	struct showing *s = arg;
	struct function f;
	struct loss l = { .out = d->out };
	char path[PATH_MAX], vendor[32] = "", device[32] = "";
	if (!function_read(d, address, &f))
		return;
	path_of(path, address, "vendor");
	doctor_line(d, path, vendor, sizeof(vendor));
	path_of(path, address, "device");
	doctor_line(d, path, device, sizeof(device));
	fprintf(d->out, "  %s  %s:%s  class %04x  driver %s", address, vendor + (*vendor ? 2 : 0),
		device + (*device ? 2 : 0), f.class, f.driver[0] ? f.driver : "none");
	const bool bridge = f.class == BRIDGE, given = strcmp(f.driver, VFIO_DRIVER) == 0;
	if (bridge) {
		fprintf(d->out, "  stays: a bridge\n");
		return;
	}
	if (!given)
		show_losses(d, &f, &l);
	fprintf(d->out, "\n");
	if (l.use.what) {
		snprintf(s->disk, sizeof(s->disk), "%s", l.disk);
		s->use = l.use;
	}
	if (!named(s->p, address) && !given && f.driver[0]) // without a driver it harms nobody
		snprintf(s->missing + strlen(s->missing), sizeof(s->missing) - strlen(s->missing), " %s",
			 address);
}

static int group_show(struct doctor *d, const struct function *f, const struct bind_params *p, struct err *e)
{
	struct showing s = { .p = p };
	char path[PATH_MAX];
	fprintf(d->out, "group %s\n", f->group);
	snprintf(path, sizeof(path), "/sys/kernel/iommu_groups/%s/devices", f->group);
	doctor_each(d, path, member_show, &s);
	if (s.missing[0])
		return err_set(
			e, EBUSY,
			"%s: group %s is given whole or not at all; these have to come along, if they may:%s",
			f->address, f->group, s.missing);
	if (s.use.what)
		return err_set(e, EBUSY, "%s: the disk %s is %s, as %s: %s that first", f->address, s.disk,
			       s.use.what, s.use.as, s.use.mend);
	return 0;
}

// ---- changes ----------------------------------------------------------------------------------------------------

static int sysfs_write(const struct doctor *d, const char *path, const char *text, struct err *e)
{
	char full[PATH_MAX];
	snprintf(full, sizeof(full), "%s%s", d->root, path);
	int fd = open(full, O_WRONLY | O_CLOEXEC);
	int rc = fd < 0 || write(fd, text, strlen(text)) < 0 ? -errno : 0;
	if (fd >= 0)
		close(fd);
	return rc < 0 ? err_sys(e, -rc, "write \"%s\" to %s%s", strcmp(text, "\n") ? text : "", path,
				rc == -EACCES || rc == -EPERM ? " (this takes root)" : "")
		      : 0;
}

// The function's driver is `driver` from now on, or, for "", the one that the host has for it.
static int driver_change(struct doctor *d, struct function *f, const char *driver, struct err *e)
{
	char path[PATH_MAX];
	path_of(path, f->address, "driver_override");
	int rc = sysfs_write(d, path, *driver ? driver : "\n", e);
	path_of(path, f->address, "driver/unbind");
	if (rc == 0 && f->driver[0])
		rc = sysfs_write(d, path, f->address, e);
	if (rc == 0)
		rc = sysfs_write(d, "/sys/bus/pci/drivers_probe", f->address, e);
	if (rc < 0)
		return rc;
	char address[ADDRESS_MAX];
	snprintf(address, sizeof(address), "%s", f->address);
	function_read(d, address, f);
	if (*driver && strcmp(f->driver, driver) != 0)
		return err_set(e, EIO, "%s: it has the driver %s now, not %s (the kernel's log says why)",
			       address, f->driver[0] ? f->driver : "none", driver);
	fprintf(d->out, "%s has the driver %s\n", f->address, f->driver[0] ? f->driver : "none");
	return 0;
}

static int bind_one(struct doctor *d, const struct bind_params *p, const char *address, struct err *e)
{
	struct function f;
	if (!function_read(d, address, &f))
		return err_set(e, ENODEV, "%s: there is no such PCI function (lspci -D)", address);
	if (f.class == BRIDGE)
		return err_set(e, EINVAL, "%s: it is a bridge", f.address);
	if (!f.group[0])
		return err_set(
			e, ENODEV,
			"%s: it is in no IOMMU group: there is no IOMMU, or it is off (minivmm doctor)",
			f.address);
	int rc = group_show(d, &f, p, e);
	if (rc < 0 || p->dry_run)
		return rc;
	if (!doctor_exists(d, "/sys/bus/pci/drivers/" VFIO_DRIVER))
		return err_set(e, ENODEV, "%s: the driver is not loaded: modprobe " VFIO_DRIVER, f.address);
	if (strcmp(f.driver, VFIO_DRIVER) != 0)
		rc = driver_change(d, &f, VFIO_DRIVER, e);
	if (rc == 0)
		fprintf(d->out,
			"via = \"vfio\", host = \"%s\"; who owns /dev/vfio/%s needs no other right (chown it)\n",
			f.address, f.group);
	return rc;
}

static int unbind_one(struct doctor *d, const struct bind_params *p, const char *address, struct err *e)
{
	struct function f;
	if (!function_read(d, address, &f))
		return err_set(e, ENODEV, "%s: there is no such PCI function (lspci -D)", address);
	if (strcmp(f.driver, VFIO_DRIVER) != 0)
		return err_set(e, EINVAL, "%s: its driver is %s, not " VFIO_DRIVER, f.address,
			       f.driver[0] ? f.driver : "none");
	fprintf(d->out, "%s goes back to the host; a machine that has it loses it\n", f.address);
	return p->dry_run ? 0 : driver_change(d, &f, "", e);
}

static int each(const struct bind_params *p, struct err *e,
		int (*one)(struct doctor *d, const struct bind_params *p, const char *address, struct err *e))
{
	struct doctor d = { .root = p->root, .out = p->out };
	int rc = 0;
	for (unsigned i = 0; i < p->count && rc == 0; i++)
		rc = one(&d, p, p->addresses[i], e);
	return rc;
}

int bind_run(const struct bind_params *p, struct err *e)
{
	return each(p, e, bind_one);
}

int unbind_run(const struct bind_params *p, struct err *e)
{
	return each(p, e, unbind_one);
}
