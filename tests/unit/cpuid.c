// SPDX-License-Identifier: BSD-2-Clause
// What each processor says of the machine, read back as an operating system reads it.
#include "arch/x86_64/cpuid.h"
#include "tests/unit/fake_kvm.h"
#include "tests/unit/test.h"

#include <linux/kvm_para.h>

#define INDEXED KVM_CPUID_FLAG_SIGNIFCANT_INDEX

static const struct kvm kvm = { .fd = -1, .vm_fd = -1 };
static struct err err;
static struct kvm_cpuid2 *host, *list;

static void host_add(uint32_t function, uint32_t index, uint32_t flags, uint32_t eax, uint32_t ebx,
		     uint32_t ecx, uint32_t edx)
{
	host->entries[host->nent++] = (struct kvm_cpuid_entry2){ .function = function,
								 .index = index,
								 .flags = flags,
								 .eax = eax,
								 .ebx = ebx,
								 .ecx = ecx,
								 .edx = edx };
}

static void host_new(void)
{
	fake_reset();
	free(host);
	host = calloc(1, sizeof(*host) + 600 * sizeof(host->entries[0]));
	if (!host)
		abort();
	fake.cpuid = host;
}

// As newer kernels list it: of the topology leaves sub-leaf 0 only.
static void host_intel(bool levels)
{
	host_new();
	host_add(0, 0, 0, 0x1f, 0x756e6547, 0x6c65746e, 0x49656e69);
	host_add(1, 0, 0, 0xa0671, 0x07100800, 0x01202000, 0x1f8bfbff);
	host_add(4, 0, INDEXED, 0x1c004121, 0x02c0003f, 63, 0);
	host_add(4, 1, INDEXED, 0x1c004122, 0x01c0003f, 63, 0);
	host_add(4, 2, INDEXED, 0x1c004143, 0x03c0003f, 1023, 0);
	host_add(4, 3, INDEXED, 0x1c1fc163, 0x03c0003f, 0x7fff, 4);
	host_add(4, 4, INDEXED, 0, 0, 0, 0);
	host_add(0xa, 0, 0, 0x08300805, 0, 0, 0x8604);
	for (uint32_t f = 0xb; f <= 0x1f; f += 0x14)
		for (uint32_t i = 0; i < (levels ? 3 : 1); i++)
			host_add(f, i, INDEXED, 0x77, 0x77, 0x77, 0x77);
	host_add(KVM_CPUID_SIGNATURE, 0, 0, KVM_CPUID_FEATURES, 0x4b4d564b, 0x564b4d56, 0x4d);
	host_add(KVM_CPUID_FEATURES, 0, 0, 0x01007efb, 0, 0, 0);
	host_add(0x80000001, 0, 0, 0, 0, 0x121, 0x2c100800);
	host_add(0x80000008, 0, 0, 0x3930, 0, 0, 0);
}

static void host_amd(void)
{
	host_new();
	host_add(0, 0, 0, 0x10, 0x68747541, 0x444d4163, 0x69746e65);
	host_add(1, 0, 0, 0x830f10, 0x00400800, 0x7ed8320b, 0x178bfbff);
	host_add(0xb, 0, INDEXED, 1, 2, 0x100, 9);
	host_add(0xb, 1, INDEXED, 7, 0x80, 0x201, 9);
	host_add(KVM_CPUID_FEATURES, 0, 0, 0x01007efb, 0, 0, 0);
	host_add(0x80000001, 0, 0, 0, 0, 0x75c237ff, 0x2fd3fbff);
	host_add(0x80000008, 0, 0, 0x3030, 0, 0x707f, 0);
	host_add(0x8000001d, 0, INDEXED, 0x00004121, 0x01c0003f, 63, 0);
	host_add(0x8000001d, 3, INDEXED, 0x0001c163, 0x03c0003f, 0x3fff, 1);
	host_add(0x8000001e, 0, 0, 5, 0x0105, 0x0300, 0);
	host_add(0x80000022, 0, 0, 1, 0x2140206, 0, 0);
}

static bool personalize(unsigned cpus, unsigned index)
{
	const struct cpuid_topology t = { .cpus = cpus, .index = index, .tsc_deadline = true };
	if (!list && cpuid_host(&kvm, &list, &err) < 0)
		return false;
	cpuid_personalize(list, &t);
	return true;
}

static void done(void)
{
	free(list);
	list = NULL;
}

static const struct kvm_cpuid_entry2 *leaf(uint32_t function, uint32_t index)
{
	static const struct kvm_cpuid_entry2 none;
	for (unsigned i = 0; i < list->nent; i++)
		if (list->entries[i].function == function && list->entries[i].index == index)
			return &list->entries[i];
	return &none;
}

// Leaf 0xb or 0x1f as Intel's manual says: shift each level's APIC id bits away until the package is left.
static bool topology_reads(uint32_t function, unsigned cpus, unsigned index)
{
	const struct kvm_cpuid_entry2 *smt = leaf(function, 0), *core = leaf(function, 1);
	return (smt->flags & INDEXED) && (core->flags & INDEXED) && smt->edx == index && core->edx == index &&
	       (smt->ecx >> 8 & 0xff) == 1 && (core->ecx >> 8 & 0xff) == 2 && (smt->ecx & 0xff) == 0 &&
	       (core->ecx & 0xff) == 1 && (smt->eax & 31) == 0 && (smt->ebx & 0xffff) == 1 &&
	       (core->ebx & 0xffff) == cpus && index >> (core->eax & 31) == 0 &&
	       (cpus - 1) >> (core->eax & 31) == 0 &&
	       (core->eax & 31 ? (cpus - 1) >> ((core->eax & 31) - 1) != 0 : cpus == 1) &&
	       (leaf(function, 2)->ecx >> 8 & 0xff) == 0; // no further level
}

TEST(topology_on_intel)
{
	for (unsigned levels = 0; levels < 2; levels++) {
		host_intel(levels);
		for (unsigned cpus = 1; cpus <= 300; cpus++)
			for (unsigned n = 0; n < 3; n++) {
				unsigned index = n == 0 ? 0 : n == 1 ? cpus / 2 : cpus - 1;
				CHECK(personalize(cpus, index));
				CHECK(topology_reads(0xb, cpus, index));
				CHECK(topology_reads(0x1f, cpus, index));
				const struct kvm_cpuid_entry2 *one = leaf(1, 0);
				CHECK_EQ(one->ebx >> 24, index & 0xff);
				CHECK_EQ(one->ebx >> 16 & 0xff, cpus > 255 ? 255 : cpus);
				CHECK_EQ(one->ebx & 0xffff, 0x0800);
				CHECK_EQ(one->edx >> 28 & 1, cpus > 1);
				CHECK_EQ(one->ecx >> 31, 1);
				CHECK_EQ(one->ecx >> 24 & 1, 1);
			}
		done();
	}
}

TEST(topology_on_amd)
{
	host_amd();
	for (unsigned cpus = 1; cpus <= 300; cpus++) {
		unsigned index = cpus - 1;
		CHECK(personalize(cpus, index));
		CHECK(topology_reads(0xb, cpus, index));
		const struct kvm_cpuid_entry2 *x = leaf(0x80000008, 0);
		CHECK_EQ(x->ecx & 0xff, cpus > 256 ? 255 : cpus - 1);
		CHECK((cpus - 1) >> (x->ecx >> 12 & 15) == 0);
		CHECK_EQ(x->eax, 0x3030);
		CHECK_EQ(leaf(0x80000001, 0)->ecx >> 1 & 1, cpus > 1); // CMP_LEGACY: cores, not threads
		CHECK_EQ(leaf(0x80000001, 0)->ecx & (1u << 23 | 1u << 24 | 1u << 28), 0);
		x = leaf(0x8000001e, 0);
		CHECK_EQ(x->eax, index);
		CHECK_EQ(x->ebx, index & 0xff);
		CHECK_EQ(x->ecx, 0);
		x = leaf(0x8000001d, 0);
		CHECK_EQ(x->eax, 0x121); // a core's own
		CHECK_EQ(leaf(0x8000001d, 3)->eax & 0x3fff, 0x0163);
		CHECK(leaf(0x8000001d, 3)->eax >> 14 >= cpus - 1); // everybody's
	}
	done();
}

TEST(caches_on_intel)
{
	host_intel(false);
	for (unsigned cpus = 1; cpus <= 300; cpus++) {
		CHECK(personalize(cpus, 0));
		for (unsigned i = 0; i < 3; i++)
			CHECK_EQ(leaf(4, i)->eax >> 14 & 0xfff, 0);
		CHECK((leaf(4, 3)->eax >> 14 & 0xfff) >= cpus - 1);
		unsigned cores = leaf(4, 3)->eax >> 26;
		CHECK(cores >= (cpus > 64 ? 63 : cpus - 1));
		CHECK_EQ(leaf(4, 4)->eax, 0);
		CHECK_EQ(leaf(4, 3)->eax & 0x3fff, 0x0163);
		CHECK_EQ(leaf(4, 3)->ecx, 0x7fff);
	}
	done();
}

TEST(what_no_guest_gets)
{
	host_intel(false);
	CHECK(personalize(4, 0));
	CHECK_EQ(leaf(0xa, 0)->eax | leaf(0xa, 0)->edx, 0);
	CHECK_EQ(leaf(0x80000001, 0)->ecx, 0x121); // Intel's: not ours to change
	CHECK_EQ(leaf(0x80000008, 0)->ecx, 0);
	CHECK_EQ(leaf(KVM_CPUID_FEATURES, 0)->eax >> 15 & 1, 0);
	CHECK(personalize(256, 255));
	CHECK_EQ(leaf(KVM_CPUID_FEATURES, 0)->eax >> 15 & 1, 1); // MSI_EXT_DEST_ID
	done();
	host_amd();
	CHECK(personalize(4, 0));
	CHECK_EQ(leaf(0x80000022, 0)->eax | leaf(0x80000022, 0)->ebx, 0);
	done();
}

TEST(hosts_with_long_lists)
{
	host_intel(false);
	while (host->nent < 500)
		host_add(0xd, host->nent, INDEXED, 1, 2, 3, 4);
	CHECK(personalize(2, 1));
	CHECK_EQ(list->nent, 502); // the core levels came after
	CHECK(topology_reads(0x1f, 2, 1));
	done();
	// Just full: the two of ours still have room.
	host->nent = 128;
	CHECK(personalize(2, 1));
	CHECK_EQ(list->nent, 130);
	done();
}

TEST(hosts_that_refuse)
{
	host_intel(false);
	fake.fail_request = KVM_GET_SUPPORTED_CPUID;
	fake.fail_error = E2BIG;
	CHECK(!personalize(1, 0));
	CHECK_STR(err.text, "KVM_GET_SUPPORTED_CPUID: more than 1024 entries");
	CHECK_EQ(fake.calls, 4);
	fake.fail_error = EPERM;
	CHECK(!personalize(1, 0));
	CHECK_STR(err.text, "KVM_GET_SUPPORTED_CPUID: Operation not permitted");
	fake_reset();
	free(host);
	host = NULL;
}
