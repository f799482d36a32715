// SPDX-License-Identifier: BSD-2-Clause
#include "arch/x86_64/cpuid.h"

#include <errno.h>
#include <linux/kvm.h>
#include <linux/kvm_para.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#define ENTRIES_FIRST 128
#define ENTRIES_MAX   1024
#define ENTRIES_OURS  2

// Feature bits that depend on the machine and not on the host.
#define L1_ECX_TSC_DEADLINE (1u << 24)
#define L1_ECX_HYPERVISOR   (1u << 31)
#define L1_EDX_HTT	    (1u << 28)
#define L81_ECX_CMP_LEGACY  (1u << 1)
#define L81_ECX_PERFCTR	    (1u << 23 | 1u << 24 | 1u << 28) // core, northbridge and last-level-cache counters
#define TOPOLOGY_SMT	    1u
#define TOPOLOGY_CORE	    2u
#ifndef KVM_FEATURE_MSI_EXT_DEST_ID
#define KVM_FEATURE_MSI_EXT_DEST_ID 15
#endif

// KVM may list a topology leaf's sub-leaf 0 alone, which says "no topology"; the level of cores is ours to add.
static void add_core_level(struct kvm_cpuid2 *list, uint32_t function)
{
	bool found[2] = { false, false };
	for (unsigned i = 0; i < list->nent; i++)
		if (list->entries[i].function == function && list->entries[i].index < 2)
			found[list->entries[i].index] = true;
	if (found[0] && !found[1])
		list->entries[list->nent++] = (struct kvm_cpuid_entry2){
			.function = function, .index = 1, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX
		};
}

int cpuid_host(const struct kvm *k, struct kvm_cpuid2 **out, struct err *e)
{
	for (unsigned room = ENTRIES_FIRST; room <= ENTRIES_MAX; room *= 2) {
		struct kvm_cpuid2 *list =
			calloc(1, sizeof(*list) + (room + ENTRIES_OURS) * sizeof(list->entries[0]));
		if (!list)
			return err_set(e, ENOMEM, "out of memory");
		list->nent = room;
		if (ioctl(k->fd, KVM_GET_SUPPORTED_CPUID, list) == 0) {
			add_core_level(list, 0xb);
			add_core_level(list, 0x1f);
			*out = list;
			return 0;
		}
		int error = errno;
		free(list);
		if (error != E2BIG)
			return err_sys(e, error, "KVM_GET_SUPPORTED_CPUID");
	}
	return err_set(e, E2BIG, "KVM_GET_SUPPORTED_CPUID: more than %d entries", ENTRIES_MAX);
}

// Bits that an APIC id needs: ceil(log2(cpus)).
static unsigned id_bits(unsigned cpus)
{
	unsigned bits = 0;
	while (bits < 31 && (1u << bits) < cpus)
		bits++;
	return bits;
}

static uint32_t field(uint32_t reg, unsigned shift, unsigned width, uint32_t val)
{
	uint32_t mask = ((1u << width) - 1) << shift;
	return (reg & ~mask) | ((val << shift) & mask);
}

static uint32_t capped(uint32_t val, uint32_t max)
{
	return val < max ? val : max;
}

// Leaf 0xb and 0x1f: how an x2APIC id is cut into thread, core and package.
static void set_topology(struct kvm_cpuid_entry2 *x, const struct cpuid_topology *t)
{
	x->eax = x->ebx = 0;
	x->ecx = x->index & 0xff;
	x->edx = t->index;
	if (x->index == 0) {
		x->ebx = 1;
		x->ecx |= TOPOLOGY_SMT << 8;
	} else if (x->index == 1) {
		x->eax = id_bits(t->cpus);
		x->ebx = t->cpus & 0xffff;
		x->ecx |= TOPOLOGY_CORE << 8;
	}
}

// Intel's and AMD's cache leaves have one format: the last level is shared by all, the others are a core's own.
static void set_cache(struct kvm_cpuid_entry2 *x, const struct cpuid_topology *t, bool intel)
{
	uint32_t type = x->eax & 31, level = x->eax >> 5 & 7;
	if (type == 0)
		return;
	uint32_t all = (1u << id_bits(t->cpus)) - 1;
	x->eax = field(x->eax, 14, 12, level >= 3 ? capped(all, 0xfff) : 0);
	if (intel)
		x->eax = field(x->eax, 26, 6, capped(all, 63));
}

static void set_entry(struct kvm_cpuid_entry2 *x, const struct cpuid_topology *t)
{
	switch (x->function) {
	case 0x1:
		x->ebx = field(x->ebx, 24, 8, t->index & 0xff);
		x->ebx = field(x->ebx, 16, 8, capped(t->cpus, 255));
		x->edx = t->cpus > 1 ? x->edx | L1_EDX_HTT : x->edx & ~L1_EDX_HTT;
		x->ecx |= L1_ECX_HYPERVISOR | (t->tsc_deadline ? L1_ECX_TSC_DEADLINE : 0);
		return;
	case 0x4:
		set_cache(x, t, true);
		return;
	case 0xa:
		x->eax = x->ebx = x->ecx = x->edx = 0; // no performance counters, see arch_vm_setup()
		return;
	case 0xb:
	case 0x1f:
		set_topology(x, t);
		return;
	case KVM_CPUID_FEATURES:
		if (t->cpus > 255)
			x->eax |= 1u << KVM_FEATURE_MSI_EXT_DEST_ID;
		return;
	case 0x80000001:
		x->ecx = t->cpus > 1 ? x->ecx | L81_ECX_CMP_LEGACY : x->ecx & ~L81_ECX_CMP_LEGACY;
		x->ecx &= ~L81_ECX_PERFCTR;
		return;
	case 0x80000008:
		x->ecx = field(x->ecx, 0, 8, capped(t->cpus - 1, 255));
		x->ecx = field(x->ecx, 12, 4, id_bits(t->cpus));
		return;
	case 0x8000001d:
		set_cache(x, t, false);
		return;
	case 0x8000001e:
		x->eax = t->index;
		x->ebx = t->index & 0xff; // one thread a core
		x->ecx = 0;		  // one node
		return;
	case 0x80000022:
		x->eax = x->ebx = x->ecx = x->edx = 0;
		return;
	default:
		return;
	}
}

// CMP_LEGACY says "cores, not threads" on AMD's processors and nothing on Intel's.
static bool is_amd(const struct kvm_cpuid2 *list)
{
	for (unsigned i = 0; i < list->nent; i++)
		if (list->entries[i].function == 0)
			return list->entries[i].ebx == 0x68747541 ||
			       list->entries[i].ebx == 0x6f677948; // "Auth", "Hygo"
	return false;
}

void cpuid_personalize(struct kvm_cpuid2 *list, const struct cpuid_topology *t)
{
	bool amd = is_amd(list);
	for (unsigned i = 0; i < list->nent; i++) {
		struct kvm_cpuid_entry2 *x = &list->entries[i];
		bool amd_only = x->function == 0x80000001 || x->function == 0x80000008;
		if (amd || !amd_only)
			set_entry(x, t);
	}
}
