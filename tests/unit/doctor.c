// SPDX-License-Identifier: BSD-2-Clause
// The doctor's report about a host that is a folder: /sys, /dev, /proc and /lib/modules as kernels show them.
#include "vmm/doctor.h"
#include "tests/unit/host_folder.h"
#include "tests/unit/test.h"

#include <sys/utsname.h>

static char report[16384];

static bool module_in(const char *list, const char *text)
{
	char path[256];
	struct utsname u;
	uname(&u);
	snprintf(path, sizeof(path), "/lib/modules/%s/%s", u.release, list);
	return host_file(path, text);
}

static bool function(const char *name, const char *class, const char *driver, const char *group)
{
	char path[256], target[256];
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/vendor", name);
	bool good = host_file(path, "0x8086\n");
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/device", name);
	good &= host_file(path, "0x10d3\n");
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/class", name);
	good &= host_file(path, class);
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/driver", name);
	snprintf(target, sizeof(target), "../../../bus/pci/drivers/%s", driver);
	good &= !*driver || host_link(path, target);
	snprintf(path, sizeof(path), "/sys/kernel/iommu_groups/%s/devices/%s", group, name);
	snprintf(target, sizeof(target), "../../../../bus/pci/devices/%s", name);
	return good && host_link(path, target);
}

static bool run(void)
{
	FILE *out = fmemopen(report, sizeof(report), "w");
	bool can = doctor_run(root, out);
	fclose(out);
	return can;
}

// Whether the report has these lines.
static bool says(const char *line)
{
	char whole[600];
	snprintf(whole, sizeof(whole), "\n%s\n", line);
	if (strstr(report, whole))
		return true;
	printf("not said: %s\n%s", line, report);
	return false;
}

TEST(a_host_without_anything)
{
	CHECK(mkdtemp(root));
	CHECK(!run());
	CHECK(strncmp(report, "NO kvm            open /tmp/minivmm-host-", 40) == 0);
	CHECK(strstr(
		report,
		"/dev/kvm: No such file or directory (load kvm_intel or kvm_amd; is virtualization on in the firmware?)\n"));
	CHECK(says("-  hugepages 2M   this host has none of that size"));
	CHECK(says(
		"!  namespaces     this kernel has no user namespaces: devices of ours cannot be isolated\n"
		"                  -> another kernel, or insecure = true"));
	CHECK(says(
		"!  async I/O      this kernel has none: no minivmm-switch; a back-end could make its guest wait\n"
		"                  -> a kernel with CONFIG_AIO"));
	CHECK(says("-  vhost-net      no /dev/vhost-net: via = \"vhost\", virtio = \"net\"\n"
		   "                  -> this kernel has no module vhost_net: another kernel"));
	CHECK(says(
		"-  vdpa           no vDPA bus\n                  -> this kernel has no module vhost_vdpa: another kernel"));
	CHECK(says("No machine can run here: see the lines that begin with NO."));
	host_end();
}

TEST(what_is_no_kvm)
{
	CHECK(mkdtemp(root));
	CHECK(host_file("/dev/kvm", ""));
	CHECK(!run());
	CHECK(strstr(report, "/dev/kvm: it is not KVM: Inappropriate ioctl for device\n"));
	host_end();
}

TEST(nodes_and_modules)
{
	CHECK(mkdtemp(root));
	CHECK(host_file("/dev/net/tun", "") && host_file("/dev/vhost-net", ""));
	CHECK(host_file("/proc/self/status", "Name:\tx\nCapEff:\t0000000000000000\n"));
	// A name within a longer one, one among what another needs, one with dashes, and compressed.
	CHECK(module_in(
		"modules.dep",
		"kernel/drivers/vhost/vhost_scsi.ko.xz: kernel/x/vhost_net.ko.xz kernel/x/vduse.ko.xz\n"
		"kernel/drivers/my_vhost_vsock.ko:\nkernel/drivers/vfio/pci/vfio-pci.ko.zst:\n"));
	CHECK(module_in("modules.builtin", "kernel/drivers/vhost/vhost_vsock.ko\n"));
	run();
	CHECK(says("ok vhost-net      /dev/vhost-net: via = \"vhost\", virtio = \"net\""));
	CHECK(says("-  tap rights     no CAP_NET_ADMIN: only a tap that is made for this user can be used\n"
		   "                  -> as root: ip tuntap add tap0 mode tap vnet_hdr user $(id -un)"));
	CHECK(says("                  -> modprobe vhost_scsi"));
	CHECK(says(
		"                  -> vhost_vsock is in the kernel, its node is not in /dev: ask whoever made this /dev"));
	CHECK(says("                  -> this kernel has no module vduse: another kernel"));
	CHECK(says("                  -> modprobe vfio-pci"));
	host_end();
}

TEST(hugepages_namespaces_and_asynchronous_io)
{
	CHECK(mkdtemp(root));
	CHECK(host_file("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "8\n"));
	CHECK(host_file("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "3\n"));
	CHECK(host_file("/proc/self/ns/user", ""));
	CHECK(host_file("/proc/sys/user/max_user_namespaces", "0\n"));
	CHECK(host_file("/proc/sys/fs/aio-max-nr", "65536\n") && host_file("/proc/sys/fs/aio-nr", "65536\n"));
	run();
	CHECK(says("!  async I/O      all 65536 are in use: no minivmm-switch\n"
		   "                  -> sysctl fs.aio-max-nr=1048576"));
	CHECK(host_file("/proc/sys/fs/aio-nr", "7\n"));
	CHECK(says("ok hugepages 2M   3 of 8 are free"));
	CHECK(says("!  namespaces     users may not make any: devices of ours cannot be isolated\n"
		   "                  -> sysctl user.max_user_namespaces=10000"));
	CHECK(host_file("/proc/sys/user/max_user_namespaces", "63000\n"));
	CHECK(host_file("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "0\n"));
	run();
	CHECK(says("ok namespaces     each device gets its own"));
	CHECK(says("ok async I/O      7 of 65536 are in use"));
	CHECK(says("-  hugepages 2M   0 of 8 are free\n"
		   "                  -> for backing = \"hugetlb-2M\": echo COUNT > "
		   "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"));
	host_end();
}

TEST(vdpa_devices)
{
	CHECK(mkdtemp(root));
	CHECK(host_file("/sys/bus/vdpa/devices/.keep", ""));
	run();
	CHECK(says("-  vdpa           a vDPA bus without vhost_vdpa\n"
		   "                  -> this kernel has no module vhost_vdpa: another kernel"));
	CHECK(host_file("/sys/bus/vdpa/drivers/vhost_vdpa/bind", ""));
	run();
	CHECK(says("-  vdpa           no vDPA device yet\n"
		   "                  -> vdpa mgmtdev show; vdpa dev add name NAME mgmtdev ..."));
	CHECK(host_link("/sys/bus/vdpa/devices/a0/driver", "../../../bus/vdpa/drivers/vhost_vdpa"));
	CHECK(host_file("/sys/bus/vdpa/devices/a0/vhost-vdpa-12/dev", ""));
	CHECK(host_file("/dev/vhost-vdpa-12", ""));
	CHECK(host_link("/sys/bus/vdpa/devices/b1/driver", "../../../bus/vdpa/drivers/virtio_vdpa"));
	CHECK(host_file("/sys/bus/vdpa/devices/c2/x", ""));
	run();
	CHECK(says("ok vdpa device    a0: via = \"vhost-vdpa\", path = \"/dev/vhost-vdpa-12\""));
	CHECK(says(
		"-  vdpa device    b1 is the host's own (driver virtio_vdpa)\n"
		"                  -> echo b1 > /sys/bus/vdpa/devices/b1/driver/unbind; echo b1 > /sys/bus/vdpa/drivers/vhost_vdpa/bind"));
	CHECK(says(
		"-  vdpa device    c2 has no driver\n"
		"                  -> modprobe vhost_vdpa; echo c2 > /sys/bus/vdpa/drivers/vhost_vdpa/bind"));
	host_end();
}

TEST(iommu_groups)
{
	CHECK(mkdtemp(root));
	CHECK(function("0000:00:01.0", "0x060400\n", "pcieport", "1"));
	CHECK(function("0000:01:00.0", "0x020000\n", "e1000e", "1"));
	CHECK(function("0000:02:00.0", "0x010802\n", "vfio-pci", "2"));
	CHECK(function("0000:02:00.1", "0x010802\n", "", "2"));
	CHECK(function("0000:03:00.0", "0x020000\n", "vfio-pci", "10"));
	CHECK(function("0000:04:00.0", "0x020000\n", "vfio-pci", "11"));
	CHECK(host_file("/dev/vfio/10", "") && host_file("/dev/iommu", ""));
	CHECK(host_file("/sys/class/mdev_bus/mtty/x", ""));
	CHECK(host_file("/sys/bus/mdev/devices/83b8f4f2-509f-382f-3c1e-e6bfe0fa1001/x", ""));
	run();
	CHECK(says("ok iommu          4 groups"));
	CHECK(says("ok iommufd        /dev/iommu: via = \"vfio\", cdev = ..."));
	CHECK(says("-  pci function   0000:01:00.0 8086:10d3 class 0200, group 1, driver e1000e\n"
		   "                  -> minivmm bind 0000:01:00.0 (the host loses it)"));
	CHECK(says(
		"-  pci function   0000:02:00.0 8086:10d3 class 0108, group 2 with others, driver vfio-pci\n"
		"                  -> minivmm bind 0000:02:00.1"));
	CHECK(says("ok pci function   0000:03:00.0 8086:10d3 class 0200, group 10, driver vfio-pci"));
	CHECK(says("-  pci function   0000:04:00.0 8086:10d3 class 0200, group 11, driver vfio-pci\n"
		   "                  -> rights to /dev/vfio/11 by a udev rule: No such file or directory"));
	CHECK(!strstr(report, "0000:00:01.0"));
	CHECK(strstr(report, "group 2 with others") < strstr(report, "group 10"));
	CHECK(says("ok mdev parent    mtty: its types are in /sys/class/mdev_bus/mtty/mdev_supported_types"));
	CHECK(says("ok mdev           via = \"vfio\", mdev = \"83b8f4f2-509f-382f-3c1e-e6bfe0fa1001\""));
	host_end();
}
