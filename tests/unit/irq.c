// SPDX-License-Identifier: BSD-2-Clause
// GSIs and routes, in front of a KVM that keeps what it was told.
#include "vmm/irq.h"
#include "tests/unit/fake_kvm.h"
#include "tests/unit/test.h"

static struct kvm kvm = { .fd = -1, .vm_fd = -1 };
static struct irq irq;
static struct err err;

static int start(void)
{
	fake_reset();
	return irq_init(&irq, &kvm, &err);
}

#define LAPIC UINT64_C(0xfee00000)

TEST(gsis_are_allotted_once_and_end)
{
	CHECK_EQ(start(), 0);
	CHECK_EQ(irq_msi_allot(&irq, 0), (unsigned long long)-ENOSPC);
	CHECK_EQ(irq_msi_allot(&irq, 1), IRQ_MSI_FIRST);
	CHECK_EQ(irq_msi_allot(&irq, 100), IRQ_MSI_FIRST + 1);
	CHECK_EQ(irq_msi_allot(&irq, IRQ_GSI_MAX), (unsigned long long)-ENOSPC);
	CHECK_EQ(irq_msi_allot(&irq, UINT32_MAX), (unsigned long long)-ENOSPC);
	CHECK_EQ(irq_msi_allot(&irq, IRQ_GSI_MAX - IRQ_MSI_FIRST - 101), IRQ_MSI_FIRST + 101);
	CHECK_EQ(irq_msi_allot(&irq, 1), (unsigned long long)-ENOSPC);
	irq_destroy(&irq);
}

TEST(routes_reach_kvm_with_the_pins)
{
	CHECK_EQ(start(), 0);
	int gsi = irq_msi_allot(&irq, 2);
	CHECK_EQ(irq_msi_route(&irq, (uint32_t)gsi, LAPIC | 0x1000, 0x4021), 0);
	CHECK_EQ(fake.route_sets, 1);
	CHECK_EQ(fake.route_count, 24 + 16 + 1);
	const struct kvm_irq_routing_entry *r = fake_route((uint32_t)gsi);
	CHECK(r != NULL);
	CHECK_EQ(r->u.msi.address_lo, 0xfee01000);
	CHECK_EQ(r->u.msi.address_hi, 0);
	CHECK_EQ(r->u.msi.data, 0x4021);
	CHECK_EQ(irq_msi_route(&irq, (uint32_t)gsi, LAPIC | 0x1000, 0x4021),
		 0); // nothing new: KVM is not asked
	CHECK_EQ(fake.route_sets, 1);
	CHECK_EQ(irq_msi_route(&irq, (uint32_t)gsi, LAPIC | 0x1000, 0x4022), 0);
	CHECK_EQ(fake.route_count, 24 + 16 + 1); // in its place
	CHECK_EQ(fake_route((uint32_t)gsi)->u.msi.data, 0x4022);
	CHECK_EQ(irq_msi_route(&irq, (uint32_t)gsi + 1, LAPIC, 0x30), 0);
	CHECK_EQ(fake.route_count, 24 + 16 + 2);
	irq_reset(&irq);
	CHECK_EQ(irq_msi_route(&irq, (uint32_t)gsi, LAPIC, 0x31), 0);
	CHECK_EQ(fake.route_count, 24 + 16 + 1); // the others are forgotten
	irq_destroy(&irq);
}

TEST(every_gsi_has_room_for_its_route)
{
	CHECK_EQ(start(), 0);
	unsigned count = 3000;
	int first = irq_msi_allot(&irq, count);
	CHECK(first > 0);
	for (unsigned i = 0; i < count; i += 7)
		CHECK_EQ(irq_msi_route(&irq, (uint32_t)first + i, LAPIC | i % 256 << 12, i), 0);
	for (unsigned i = 0; i < count; i += 7)
		CHECK_EQ(fake_route((uint32_t)first + i)->u.msi.data, i);
	CHECK_EQ(fake.mistakes, 0);
	irq_destroy(&irq);
}

TEST(addresses_that_are_no_lapic_never_reach_kvm)
{
	static const uint64_t bad[] = { 0,	    4,		 0xfed00000, 0xfef00000,
					0xfec00000, 0x1fee00000, UINT64_MAX, UINT64_C(0xfee0000000000000) };
	CHECK_EQ(start(), 0);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		CHECK_EQ(irq_msi_route(&irq, 24, bad[i], 0x21), (unsigned long long)-EINVAL);
	CHECK_EQ(fake.calls, 0);
	CHECK_EQ(irq_msi_route(&irq, 24, 0xfeefffff & ~3u, 0xffffffff), 0); // garbage below is the guest's
	irq_destroy(&irq);
}

// A table is refused as a whole: the bad entry must not stay in it, and asking again must ask KVM again.
TEST(a_refused_route_is_rolled_back)
{
	CHECK_EQ(start(), 0);
	CHECK_EQ(irq_msi_route(&irq, 24, LAPIC, 1), 0);
	unsigned count = fake.route_count;
	fake.fail_request = KVM_SET_GSI_ROUTING;
	fake.fail_error = ENOMEM;
	CHECK_EQ(irq_msi_route(&irq, 24, LAPIC, 2), (unsigned long long)-ENOMEM);
	CHECK_EQ(irq_msi_route(&irq, 25, LAPIC, 3), (unsigned long long)-ENOMEM);
	CHECK_EQ(irq_msi_route(&irq, 25, LAPIC, 3), (unsigned long long)-ENOMEM);
	fake.fail_request = 0;
	CHECK_EQ(irq_msi_route(&irq, 26, LAPIC, 4), 0);
	CHECK_EQ(fake.route_count, count + 1);
	CHECK_EQ(fake_route(24)->u.msi.data, 1);
	CHECK(fake_route(25) == NULL);
	CHECK_EQ(irq_msi_route(&irq, 25, LAPIC, 3), 0);
	CHECK_EQ(fake_route(25)->u.msi.data, 3);
	irq_destroy(&irq);
}

// Destination bits 14-8 come in address bits 11-5 (KVM_FEATURE_MSI_EXT_DEST_ID) and go to KVM's bits 63-40.
TEST(wide_destinations)
{
	CHECK_EQ(start(), 0);
	irq.wide_destinations = true;
	for (uint32_t cpu = 0; cpu < 32768; cpu += 129) {
		uint64_t address = LAPIC | (cpu & 0xff) << 12 | (cpu >> 8) << 5;
		CHECK_EQ(irq_msi_route(&irq, 24, address, 0x40), 0);
		const struct kvm_irq_routing_entry *r = fake_route(24);
		uint32_t destination =
			(r->u.msi.address_lo >> 12 & 0xff) | (r->u.msi.address_hi & 0xffffff00);
		CHECK_EQ(destination, cpu);
		CHECK_EQ(r->u.msi.address_lo & 0xfe0, 0);
		CHECK_EQ(r->u.msi.address_hi & 0xff, 0);
	}
	CHECK_EQ(fake.mistakes, 0);
	irq_destroy(&irq);
}

TEST(pins)
{
	CHECK_EQ(start(), 0);
	irq_pin_set(&irq, 4, true);
	CHECK_EQ(fake.pin[4], 1);
	irq_pin_set(&irq, 4, false);
	CHECK_EQ(fake.pin[4], 0);
	irq_pin_pulse(&irq, 9);
	CHECK_EQ(fake.pin[9], 0);
	CHECK_EQ(fake.pins_set, 4);
	irq_destroy(&irq);
}
