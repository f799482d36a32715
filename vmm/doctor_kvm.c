// SPDX-License-Identifier: BSD-2-Clause
#include "arch/arch.h"
#include "vmm/base/err.h"
#include "vmm/base/landlock.h"
#include "vmm/cgroup.h"
#include "vmm/doctor_impl.h"
#include "vmm/kvm.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

// A processor does some thousand million; a kernel without it, that translates or interprets, some million.
#define SLOW_PER_S UINT64_C(50000000)

static void kvm_speed(struct doctor *d, struct kvm *k)
{
	struct err e = { 0 };
	uint64_t per_s = 0;
	int rc = kvm_vm_create(k, &e);
	if (rc == 0)
		rc = arch_kvm_speed(k, &per_s, &e);
	if (rc < 0)
		doctor_say(d, FATAL, "kvm speed", "dmesg may say why",
			   "a guest of three instructions failed: %s", e.text);
	else if (per_s < SLOW_PER_S)
		doctor_say(
			d, LIMITED, "kvm speed",
			"for Linux guests take a host with hardware virtualization, nested if it is a guest itself",
			"%" PRIu64
			" M instructions/s in the guest's kernel mode: this KVM emulates; small guests run, Linux takes forever",
			per_s / 1000000);
	else
		doctor_say(d, GOOD, "kvm speed", "",
			   "%" PRIu64 " M instructions/s in the guest's kernel mode", per_s / 1000000);
}

void doctor_kvm(struct doctor *d)
{
	char path[PATH_MAX];
	struct err e = { 0 };
	struct kvm k;
	snprintf(path, sizeof(path), "%s/dev/kvm", d->root);
	if (kvm_open(&k, path, &e) < 0) {
		doctor_say(d, FATAL, "kvm", "", "%s", e.text);
		return;
	}
	doctor_say(d, GOOD, "kvm", "", "%s: all that minivmm needs; up to %d CPUs", path,
		   kvm_capability(&k, KVM_CAP_MAX_VCPUS));
	kvm_speed(d, &k);
	kvm_close(&k);
}

// ---- memory -----------------------------------------------------------------------------------------------------

static void memlock(struct doctor *d)
{
	struct rlimit r;
	if (getrlimit(RLIMIT_MEMLOCK, &r) < 0)
		return;
	if (r.rlim_cur == RLIM_INFINITY)
		doctor_say(d, GOOD, "memlock", "", "no limit");
	else if (geteuid() == 0)
		doctor_say(d, GOOD, "memlock", "", "%" PRIu64 " kB, which root may exceed",
			   (uint64_t)r.rlim_cur >> 10);
	else
		doctor_say(
			d, ABSENT, "memlock",
			"ulimit -l, /etc/security/limits.d or LimitMEMLOCK=, to the guest's memory and 64 MB more",
			"%" PRIu64 " kB: VFIO and vDPA lock all of a guest's memory",
			(uint64_t)r.rlim_cur >> 10);
}

static void hugepages(struct doctor *d, unsigned kb, const char *size)
{
	char path[PATH_MAX], what[32], mend[160];
	snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/hugepages-%ukB/nr_hugepages", kb);
	const long long all = doctor_number(d, path, -1);
	snprintf(what, sizeof(what), "hugepages %s", size);
	if (all < 0) {
		doctor_say(d, ABSENT, what, "", "this host has none of that size");
		return;
	}
	snprintf(mend, sizeof(mend), "for backing = \"hugetlb-%s\": echo COUNT > %s", size, path);
	snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/hugepages-%ukB/free_hugepages", kb);
	const long long unused = doctor_number(d, path, 0);
	doctor_say(d, unused > 0 ? GOOD : ABSENT, what, unused > 0 ? "" : mend, "%lld of %lld are free",
		   unused, all);
}

void doctor_memory(struct doctor *d)
{
	hugepages(d, 2048, "2M");
	hugepages(d, 1048576, "1G");
	memlock(d);
}

// ---- isolation of devices ---------------------------------------------------------------------------------------

static bool user_namespaces(const struct doctor *d, const char **mend)
{
	*mend = "";
	if (doctor_number(d, "/proc/sys/user/max_user_namespaces", 1) == 0)
		*mend = "sysctl user.max_user_namespaces=10000";
	else if (geteuid() != 0 && doctor_number(d, "/proc/sys/kernel/unprivileged_userns_clone", 1) == 0)
		*mend = "sysctl kernel.unprivileged_userns_clone=1";
	else if (geteuid() != 0 &&
		 doctor_number(d, "/proc/sys/kernel/apparmor_restrict_unprivileged_userns", 0) == 1)
		*mend = "sysctl kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile for minivmm";
	return !**mend;
}

void doctor_isolation(struct doctor *d)
{
	const char *mend;
	struct landlock l;
	if (!doctor_exists(d, "/proc/self/ns/user"))
		doctor_say(d, LIMITED, "namespaces", "another kernel, or insecure = true",
			   "this kernel has no user namespaces: devices of ours cannot be isolated");
	else if (!user_namespaces(d, &mend))
		doctor_say(d, LIMITED, "namespaces", mend,
			   "users may not make any: devices of ours cannot be isolated");
	else
		doctor_say(d, GOOD, "namespaces", "", "each device gets its own");

	if (prctl(PR_GET_SECCOMP) < 0)
		doctor_say(d, LIMITED, "seccomp", "another kernel, or insecure = true", "%s",
			   err_text(errno));
	else
		doctor_say(d, GOOD, "seccomp", "", "system calls can be filtered");

	if (landlock_begin(&l, LANDLOCK_LEAVE_NOTHING) < 0 || l.fd < 0) {
		doctor_say(d, LIMITED, "landlock",
			   "a kernel with CONFIG_SECURITY_LANDLOCK and landlock in lsm=",
			   "not there: namespaces and seccomp alone hold a device");
	} else {
		close(l.fd);
		doctor_say(d, GOOD, "landlock", "", "file rights can be taken away");
	}

	const long long most = doctor_number(d, "/proc/sys/fs/aio-max-nr", 0);
	const long long in_use = doctor_number(d, "/proc/sys/fs/aio-nr", 0);
	if (most == 0)
		doctor_say(d, LIMITED, "async I/O", "a kernel with CONFIG_AIO",
			   "this kernel has none: no minivmm-switch; a back-end could make its guest wait");
	else if (in_use >= most)
		doctor_say(d, LIMITED, "async I/O", "sysctl fs.aio-max-nr=1048576",
			   "all %lld are in use: no minivmm-switch", most);
	else
		doctor_say(d, GOOD, "async I/O", "", "%lld of %lld are in use", in_use, most);

	if (cgroups_possible())
		doctor_say(d, GOOD, "cgroups", "", "limits of devices can be set");
	else
		doctor_say(d, ABSENT, "cgroups",
			   "systemd-run --user --scope -p Delegate=yes ./minivmm ..., or as root",
			   "no cgroup of version 2 is ours to divide: no `limits` for devices");
}
