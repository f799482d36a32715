// SPDX-License-Identifier: BSD-2-Clause
// minivmm bind and unbind on a host that is a folder: what is shown, what is written, what is refused.
#include "vmm/bind.h"
#include "tests/unit/host_folder.h"
#include "tests/unit/test.h"

#include <errno.h>
#include <unistd.h>

static char report[4096];
static struct err err;

static const char *content(const char *path)
{
	static char text[64];
	FILE *f = fopen(host_place(path), "re");
	size_t n = f ? fread(text, 1, sizeof(text) - 1, f) : 0;
	text[n] = '\0';
	if (f)
		fclose(f);
	return text;
}

// A function; what a driver's folder holds are files here, into which the kernel's words go.
static bool function(const char *address, const char *class, const char *driver)
{
	char path[256], target[256];
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/class", address);
	bool good = host_file(path, class);
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/vendor", address);
	good &= host_file(path, "0x8086\n");
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/device", address);
	good &= host_file(path, "0x10d3\n");
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/driver_override", address);
	good &= host_file(path, "");
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/iommu_group", address);
	good &= symlink("../../../../kernel/iommu_groups/7", host_place(path)) == 0;
	snprintf(path, sizeof(path), "/sys/kernel/iommu_groups/7/devices/%s", address);
	good &= host_file(path, "");
	if (!driver)
		return good;
	snprintf(path, sizeof(path), "/sys/bus/pci/drivers/%s/unbind", driver);
	good &= host_file(path, "");
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/driver", address);
	snprintf(target, sizeof(target), "../../drivers/%s", driver);
	return good && symlink(target, host_place(path)) == 0;
}

static bool host(void)
{
	err.text[0] = '\0';
	return mkdtemp(root) && function("0000:01:00.0", "0x020000\n", "e1000e") &&
	       function("0000:00:1c.0", "0x060400\n", "pcieport") &&
	       host_file("/sys/bus/pci/devices/0000:01:00.0/net/eth3/mtu", "") &&
	       host_file("/sys/bus/pci/drivers_probe", "") &&
	       host_file("/sys/bus/pci/drivers/vfio-pci/new_id", "");
}

static int run(bool bind, bool dry, const char *a, const char *b)
{
	const char *const addresses[] = { a, b };
	FILE *out = fmemopen(report, sizeof(report), "w");
	const struct bind_params p = {
		.root = root, .out = out, .dry_run = dry, .addresses = addresses, .count = b ? 2 : 1
	};
	report[0] = '\0';
	int rc = bind ? bind_run(&p, &err) : unbind_run(&p, &err);
	fclose(out);
	return rc;
}

TEST(shown_with_its_group_and_what_is_lost)
{
	CHECK(host());
	CHECK_EQ(run(true, true, "01:00.0", NULL), 0);
	CHECK_STR(report,
		  "group 7\n"
		  "  0000:00:1c.0  8086:10d3  class 0604  driver pcieport  stays: a bridge\n"
		  "  0000:01:00.0  8086:10d3  class 0200  driver e1000e  loses network interface eth3\n");
	CHECK_STR(content("/sys/bus/pci/devices/0000:01:00.0/driver_override"), "");
	CHECK_STR(content("/sys/bus/pci/drivers_probe"), "");
	host_end();
}

TEST(the_kernel_is_told)
{
	CHECK(host());
	CHECK(run(true, false, "0000:01:00.0", NULL) < 0); // for this kernel does nothing
	CHECK_STR(err.text,
		  "0000:01:00.0: it has the driver e1000e now, not vfio-pci (the kernel's log says why)");
	CHECK_STR(content("/sys/bus/pci/devices/0000:01:00.0/driver_override"), "vfio-pci");
	CHECK_STR(content("/sys/bus/pci/drivers/e1000e/unbind"), "0000:01:00.0");
	CHECK_STR(content("/sys/bus/pci/drivers_probe"), "0000:01:00.0");
	host_end();
}

TEST(a_group_is_given_whole)
{
	CHECK(host());
	CHECK(function("0000:01:00.1", "0x0c0330\n", "xhci_hcd"));
	CHECK(function("0000:01:00.2", "0x0c0330\n", NULL)); // harms nobody
	CHECK(function("0000:01:00.3", "0x0c0330\n", "vfio-pci"));
	CHECK_EQ(run(true, false, "0000:01:00.0", NULL), -EBUSY);
	CHECK_STR(err.text,
		  "0000:01:00.0: group 7 is given whole or not at all; these have to come along, if they "
		  "may: 0000:01:00.1");
	CHECK_STR(content("/sys/bus/pci/drivers/e1000e/unbind"), "");
	CHECK_EQ(run(true, true, "0000:01:00.0", "01:00.1"), 0);
	host_end();
}

#define DISK "/bus/pci/devices/0000:01:00.0/nvme/nvme0/nvme0n1"

// One disk with a partition below the function, and others that are not its.
static bool disk(void)
{
	return host() && host_file("/sys" DISK "/size", "8") &&
	       host_file("/sys" DISK "/nvme0n1p1/partition", "1") &&
	       host_file("/sys/class/block/x/size", "8") &&
	       host_link("/sys/class/block/nvme0n1", "../.." DISK) &&
	       host_link("/sys/class/block/nvme0n1p1", "../.." DISK "/nvme0n1p1") &&
	       host_file("/proc/swaps", "Filename\t\t\t\tType\t\tSize\n") &&
	       host_file("/proc/self/mounts", "/dev/sda1 / ext4 rw 0 0\n/dev/nvme0n10 /x ext4 rw 0 0\n");
}

TEST(a_mounted_disk_stays)
{
	CHECK(disk());
	CHECK_EQ(run(true, true, "0000:01:00.0", NULL), 0);
	CHECK(strstr(report, "loses network interface eth3, disk nvme0n1\n"));
	CHECK(host_file("/proc/self/mounts", "/dev/sda1 / ext4 rw 0 0\n/dev/nvme0n1p1 /srv ext4 rw 0 0\n"));
	CHECK_EQ(run(true, false, "0000:01:00.0", NULL), -EBUSY);
	CHECK_STR(err.text,
		  "0000:01:00.0: the disk nvme0n1 is mounted, as /dev/nvme0n1p1: unmount that first");
	CHECK(strstr(report, "disk nvme0n1 (MOUNTED, as /dev/nvme0n1p1)"));
	CHECK(host_file("/proc/self/mounts", "/dev/nvme0n1 /srv ext4 rw 0 0\n"));
	CHECK_EQ(run(true, true, "0000:01:00.0", NULL), -EBUSY);
	CHECK_STR(err.text, "0000:01:00.0: the disk nvme0n1 is mounted, as /dev/nvme0n1: unmount that first");
	// by its number, for a kernel that found its root itself calls that /dev/root
	CHECK(host_file("/proc/self/mounts", "/dev/root / ext4 rw 0 0\n"));
	CHECK(host_file("/sys" DISK "/nvme0n1p1/dev", "259:1\n"));
	CHECK(host_file("/proc/self/mountinfo", "21 1 259:12 / / rw - ext4 /dev/root rw\n"));
	CHECK_EQ(run(true, true, "0000:01:00.0", NULL), 0);
	CHECK(host_file("/proc/self/mountinfo", "21 1 259:1 / / rw - ext4 /dev/root rw\n"));
	CHECK_EQ(run(true, true, "0000:01:00.0", NULL), -EBUSY);
	CHECK_STR(err.text,
		  "0000:01:00.0: the disk nvme0n1 is mounted, as /dev/nvme0n1p1: unmount that first");
	host_end();
}

TEST(a_disk_stays_that_is_below_what_is_mounted)
{
	CHECK(disk());
	// a volume of LVM's, on encryption, on a RAID, on the partition
	CHECK(host_file("/sys" DISK "/nvme0n1p1/holders/md0", "") &&
	      host_file("/sys/class/block/md0/holders/dm-0", ""));
	CHECK(host_file("/sys/class/block/dm-0/holders/dm-1", ""));
	CHECK(host_file("/sys/class/block/dm-0/dm/name", "crypt\n"));
	CHECK(host_file("/sys/class/block/dm-1/dm/name", "vg-root\n"));
	CHECK_EQ(run(true, true, "0000:01:00.0", NULL), 0);
	CHECK(strstr(report, "disk nvme0n1\n"));
	CHECK(host_file("/proc/self/mounts", "/dev/mapper/vg-root / ext4 rw 0 0\n"));
	CHECK_EQ(run(true, false, "0000:01:00.0", NULL), -EBUSY);
	CHECK_STR(err.text,
		  "0000:01:00.0: the disk nvme0n1 is mounted, as /dev/mapper/vg-root: unmount that first");
	CHECK(host_file("/proc/self/mounts", "/dev/sda1 / ext4 rw 0 0\n"));
	CHECK(host_file("/proc/swaps", "Filename\t\t\t\tType\t\tSize\n/dev/dm-1    partition\t999420\n"));
	CHECK_EQ(run(true, false, "0000:01:00.0", NULL), -EBUSY);
	CHECK_STR(err.text, "0000:01:00.0: the disk nvme0n1 is swapped to, as /dev/dm-1: swapoff that first");
	CHECK(strstr(report, "disk nvme0n1 (SWAP, as /dev/dm-1)"));
	// a partition of the RAID
	CHECK(host_file("/proc/swaps", ""));
	CHECK(host_file("/sys/class/block/md0/md0p2/partition", "2") &&
	      host_file("/sys/class/block/md0p2/partition", "2"));
	CHECK_EQ(run(true, true, "0000:01:00.0", NULL), 0);
	CHECK(host_file("/proc/self/mounts", "/dev/md0p2 /srv ext4 rw 0 0\n"));
	CHECK_EQ(run(true, true, "0000:01:00.0", NULL), -EBUSY);
	// what holds itself, which no kernel shows
	CHECK(host_file("/proc/self/mounts", ""));
	CHECK(host_file("/sys/class/block/dm-1/holders/dm-0", ""));
	CHECK_EQ(run(true, true, "0000:01:00.0", NULL), 0);
	host_end();
}

TEST(refusals)
{
	CHECK(host());
	CHECK_EQ(run(true, false, "0000:02:00.0", NULL), -ENODEV);
	CHECK_STR(err.text, "0000:02:00.0: there is no such PCI function (lspci -D)");
	CHECK_EQ(run(true, false, "../../../x", NULL), -ENODEV);
	CHECK_EQ(run(true, false, "0000:00:1c.0", NULL), -EINVAL);
	CHECK_STR(err.text, "0000:00:1c.0: it is a bridge");
	unlink(host_place("/sys/bus/pci/devices/0000:01:00.0/iommu_group"));
	CHECK_EQ(run(true, false, "0000:01:00.0", NULL), -ENODEV);
	CHECK_STR(err.text,
		  "0000:01:00.0: it is in no IOMMU group: there is no IOMMU, or it is off (minivmm doctor)");
	CHECK_EQ(run(false, false, "0000:01:00.0", NULL), -EINVAL);
	CHECK_STR(err.text, "0000:01:00.0: its driver is e1000e, not vfio-pci");
	host_end();
	CHECK(host());
	remove(host_place("/sys/bus/pci/drivers/vfio-pci/new_id"));
	remove(host_place("/sys/bus/pci/drivers/vfio-pci"));
	CHECK_EQ(run(true, false, "0000:01:00.0", NULL), -ENODEV);
	CHECK_STR(err.text, "0000:01:00.0: the driver is not loaded: modprobe vfio-pci");
	host_end();
}

TEST(and_back)
{
	CHECK(host());
	CHECK(function("0000:01:00.3", "0x0c0330\n", "vfio-pci"));
	CHECK_EQ(run(false, true, "0000:01:00.3", NULL), 0);
	CHECK_STR(content("/sys/bus/pci/drivers/vfio-pci/unbind"), "");
	CHECK_EQ(run(false, false, "0000:01:00.3", NULL), 0);
	CHECK_STR(content("/sys/bus/pci/drivers/vfio-pci/unbind"), "0000:01:00.3");
	CHECK_STR(content("/sys/bus/pci/devices/0000:01:00.3/driver_override"), "\n");
	host_end();
}
