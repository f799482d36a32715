// SPDX-License-Identifier: BSD-2-Clause
// The MSI-X table: what the guest's accesses do, and that a vector is bound in KVM exactly when the guest wants it.
#include "vmm/msix.h"
#include "tests/unit/child.h"
#include "tests/unit/fake_kvm.h"
#include "tests/unit/test.h"
#include "vmm/base/fd.h"

#include <sys/resource.h>

#define LAPIC	UINT64_C(0xfee00000)
#define ENABLED MSIX_CONTROL_ENABLE
#define VECTORS 70 // more than one word of pending bits

static struct kvm kvm = { .fd = -1, .vm_fd = -1 };
static struct irq irq;
static struct msix m;
static struct err err;

static int start(unsigned count)
{
	fake_reset();
	int rc = irq_init(&irq, &kvm, &err);
	return rc < 0 ? rc : msix_init(&m, "dev0", &irq, count, &err);
}

static bool finish(void)
{
	msix_destroy(&m);
	irq_destroy(&irq);
	return fake.irqfd_count == 0 && fake.mistakes == 0;
}

static void vector_set(unsigned i, uint64_t address, uint32_t data, uint32_t control)
{
	msix_table_write(&m, i * 16ull, 4, address & 0xffffffff);
	msix_table_write(&m, i * 16ull + 4, 4, address >> 32);
	msix_table_write(&m, i * 16ull + 8, 4, data);
	msix_table_write(&m, i * 16ull + 12, 4, control);
}

static bool pending(unsigned i)
{
	return msix_pba_read(&m, i / 64 * 8, 8) >> (i % 64) & 1;
}

TEST(count_is_checked)
{
	fake_reset();
	CHECK_EQ(irq_init(&irq, &kvm, &err), 0);
	CHECK_EQ(msix_init(&m, "dev0", &irq, 0, &err), (unsigned long long)-EINVAL);
	CHECK_EQ(msix_init(&m, "dev0", &irq, MSIX_VECTORS_MAX + 1, &err), (unsigned long long)-EINVAL);
	CHECK_STR(err.text, "dev0: 2049 MSI-X vectors; 1 to 2048 are possible");
	msix_destroy(&m);
	// G21: GSIs end at the start of the machine, with a sentence.
	struct msix many[4];
	unsigned made = 0;
	while (made < 4 && msix_init(&many[made], "many", &irq, 1024, &err) == 0)
		made++;
	CHECK_EQ(made, 3);
	CHECK_STR(err.text, "many: no room for 1024 more interrupt vectors (fewer queues need fewer)");
	msix_destroy(&many[3]);
	while (made-- > 0)
		msix_destroy(&many[made]);
	irq_destroy(&irq);
}

TEST(after_power_on)
{
	CHECK_EQ(start(3), 0);
	CHECK_EQ(msix_table_size(&m), 48);
	CHECK_EQ(msix_pba_size(&m), 8);
	for (unsigned i = 0; i < 3; i++) {
		CHECK_EQ(msix_table_read(&m, i * 16, 8), 0);
		CHECK_EQ(msix_table_read(&m, i * 16 + 8, 8), UINT64_C(1) << 32); // masked
	}
	CHECK_EQ(msix_pba_read(&m, 0, 8), 0);
	CHECK(finish());
}

TEST(table_accesses_of_every_size_and_place)
{
	CHECK_EQ(start(2), 0);
	msix_table_write(&m, 0, 8, UINT64_C(0x1122334455667788));
	CHECK_EQ(msix_table_read(&m, 0, 8), UINT64_C(0x1122334455667788));
	CHECK_EQ(msix_table_read(&m, 0, 4), 0x55667788);
	CHECK_EQ(msix_table_read(&m, 4, 4), 0x11223344);
	msix_table_write(&m, 4, 4, 0xaabbccdd);
	CHECK_EQ(msix_table_read(&m, 0, 8), UINT64_C(0xaabbccdd55667788));
	msix_table_write(&m, 0, 4, 0xffffffff); // bits 1-0 of an address are 0
	CHECK_EQ(msix_table_read(&m, 0, 4), 0xfffffffc);
	msix_table_write(&m, 8, 8,
			 UINT64_C(0xffffffff12345678)); // of the vector control only the mask bit is there
	CHECK_EQ(msix_table_read(&m, 8, 8), UINT64_C(0x112345678));
	msix_table_write(&m, 12, 4, 0xfffffffe);
	CHECK_EQ(msix_table_read(&m, 12, 4), 0);
	CHECK_EQ(msix_table_read(&m, 8, 4), 0x12345678);

	uint64_t before[4];
	for (unsigned i = 0; i < 4; i++)
		before[i] = msix_table_read(&m, i * 8, 8);
	for (unsigned size = 0; size <= 16; size++)
		for (uint64_t offset = 0; offset < 64; offset++) {
			bool good = (size == 4 || size == 8) && offset % size == 0 && offset + size <= 32;
			if (good)
				continue;
			msix_table_write(&m, offset, size, 0x5a5a5a5a5a5a5a5a);
			CHECK_EQ(msix_table_read(&m, offset, size), 0);
		}
	msix_table_write(&m, UINT64_MAX - 3, 4, 1);
	CHECK_EQ(msix_table_read(&m, UINT64_MAX - 7, 8), 0);
	for (unsigned i = 0; i < 4; i++)
		CHECK_EQ(msix_table_read(&m, i * 8, 8), before[i]);
	CHECK(finish());
}

TEST(pba_accesses)
{
	CHECK_EQ(start(VECTORS), 0);
	CHECK_EQ(msix_pba_size(&m), 16);
	static const unsigned raised[] = { 0, 31, 32, 63, 64, 69 };
	for (size_t i = 0; i < sizeof(raised) / sizeof(raised[0]); i++)
		msix_signal(&m, raised[i]);
	CHECK_EQ(msix_pba_read(&m, 0, 8), UINT64_C(0x8000000180000001));
	CHECK_EQ(msix_pba_read(&m, 0, 4), 0x80000001);
	CHECK_EQ(msix_pba_read(&m, 4, 4), 0x80000001);
	CHECK_EQ(msix_pba_read(&m, 8, 8), 0x21);
	CHECK_EQ(msix_pba_read(&m, 12, 4), 0);
	CHECK_EQ(msix_pba_read(&m, 16, 4), 0);
	CHECK_EQ(msix_pba_read(&m, 4, 8), 0);
	CHECK_EQ(msix_pba_read(&m, 0, 2), 0);
	CHECK_EQ(msix_pba_read(&m, 1, 4), 0);
	CHECK_EQ(msix_pba_read(&m, 0, 1), 0);
	CHECK(finish());
}

// Bound if and only if: enabled, the function not masked, the vector not masked, and somebody raises it.
TEST(bound_exactly_when_the_guest_wants_it)
{
	for (unsigned bits = 0; bits < 16; bits++) {
		bool enabled = bits & 1, function_masked = bits & 2, masked = bits & 4, used = bits & 8;
		CHECK_EQ(start(1), 0);
		int fd = used ? msix_eventfd(&m, 0) : -1;
		vector_set(0, LAPIC, 0x31, masked);
		msix_control_write(&m, (uint16_t)((enabled ? MSIX_CONTROL_ENABLE : 0) |
						  (function_masked ? MSIX_CONTROL_MASK : 0)));
		bool want = enabled && !function_masked && !masked && used;
		CHECK_EQ(fake.irqfd_count, want);
		if (want) {
			CHECK_EQ(fake.irqfd[0].fd, fd);
			CHECK_EQ(fake.irqfd[0].where, IRQ_MSI_FIRST);
			CHECK_EQ(fake_route(IRQ_MSI_FIRST)->u.msi.data, 0x31);
		} else {
			CHECK_EQ(fake.route_sets, 0);
		}
		CHECK(finish());
	}
}

TEST(pending_while_masked_is_kept)
{
	CHECK_EQ(start(2), 0);
	int fd = msix_eventfd(&m, 1);
	vector_set(1, LAPIC, 0x41, 0);
	msix_control_write(&m, ENABLED);
	CHECK_EQ(fake.irqfd_count, 1);
	msix_table_write(&m, 1 * 16 + 12, 4, 1);
	CHECK_EQ(fake.irqfd_count, 0);
	CHECK(!pending(1));
	msix_signal(&m, 1);
	CHECK(pending(1) && !pending(0));
	msix_control_write(&m, ENABLED | MSIX_CONTROL_MASK);
	msix_table_write(&m, 1 * 16 + 12, 4, 0);
	CHECK(pending(1));
	// Bound with the count still in the eventfd: KVM delivers it then.
	msix_control_write(&m, ENABLED);
	CHECK_EQ(fake.irqfd_count, 1);
	CHECK(fd_event_pending(fd));
	CHECK(!pending(1));
	CHECK(finish());
}

// The back-end has the vector's eventfd, too: an interrupt of ours through it does not wait for that to have room.
TEST(a_vector_that_would_wait)
{
	const uint64_t full = UINT64_MAX - 1;
	CHECK_EQ(fd_peer_signals_open(&err), 0);
	CHECK_EQ(start(2), 0);
	int fd = msix_eventfd(&m, 0);
	CHECK_EQ(write(fd, &full, sizeof(full)), sizeof(full));
	CHECK_EQ(fcntl(fd, F_SETFL, 0), 0);
	alarm(10);
	msix_signal(&m, 0);
	msix_signal(&m, 0);
	alarm(0);
	CHECK(pending(0));
	msix_reset(&m);
	CHECK(!pending(0));
	CHECK(finish());
}

TEST(rewritten_while_unmasked)
{
	CHECK_EQ(start(1), 0);
	int fd = msix_eventfd(&m, 0);
	vector_set(0, LAPIC | 0x1000, 0x41, 0);
	msix_control_write(&m, ENABLED);
	for (uint32_t i = 0; i < 1000; i++) {
		msix_table_write(&m, 0, 4, LAPIC | i % 256 << 12);
		msix_table_write(&m, 8, 4, i);
		CHECK_EQ(fake.irqfd_count, 1);
		CHECK_EQ(fake_route(IRQ_MSI_FIRST)->u.msi.data, i);
		CHECK_EQ(fake_route(IRQ_MSI_FIRST)->u.msi.address_lo, LAPIC | i % 256 << 12);
	}
	CHECK_EQ(msix_eventfd(&m, 0), fd); // its number stays
	CHECK_EQ(fake.route_count, 24 + 16 + 1);
	CHECK(finish());
}

TEST(mask_storm)
{
	CHECK_EQ(start(8), 0);
	for (unsigned i = 0; i < 8; i++) {
		CHECK(msix_eventfd(&m, i) >= 0);
		vector_set(i, LAPIC, 0x30 + i, 0);
	}
	msix_control_write(&m, ENABLED);
	unsigned calls = fake.calls;
	for (unsigned i = 0; i < 4000; i++) {
		if (i % 100 == 50)
			msix_control_write(&m, ENABLED | (i % 200 == 50 ? MSIX_CONTROL_MASK : 0));
		msix_table_write(&m, i % 8 * 16 + 12, 4, i / 8 % 2);
		if (i % 16 == 0)
			msix_signal(&m, i % 8);
	}
	CHECK(fake.calls - calls <= 4000 + 40 * 8); // one call a change at most: routes are not set again
	CHECK_EQ(fake.route_sets, 8);
	msix_control_write(&m, ENABLED);
	for (unsigned i = 0; i < 8; i++)
		msix_table_write(&m, i * 16 + 12, 4, 0);
	CHECK_EQ(fake.irqfd_count, 8);
	CHECK_EQ(fake.route_count, 24 + 16 + 8);
	CHECK(finish());
}

TEST(bad_addresses_cost_the_guest_that_interrupt_only)
{
	CHECK_EQ(start(2), 0);
	CHECK(msix_eventfd(&m, 0) >= 0 && msix_eventfd(&m, 1) >= 0);
	capture();
	vector_set(0, 0x1000, 0x41, 0);
	vector_set(1, LAPIC, 0x42, 0);
	msix_control_write(&m, ENABLED);
	for (int i = 0; i < 1000; i++)
		msix_table_write(&m, 8, 4, (uint64_t)i);
	unsigned lines = 0;
	for (const char *p = captured(); (p = strchr(p, '\n')); p++)
		lines++;
	CHECK(lines >= 1 && lines <= 7);
	CHECK_EQ(fake.irqfd_count, 1);
	CHECK_EQ(msix_take_error(&m), 0);
	msix_signal(&m, 0);
	CHECK(pending(0));
	vector_set(0, LAPIC, 0x41, 0); // mended: delivered
	CHECK_EQ(fake.irqfd_count, 2);
	vector_set(1, 0x1000, 0x41, 0); // and away from under the irqfd
	CHECK_EQ(fake.irqfd_count, 1);
	CHECK(finish());
}

// K04: what KVM refuses is told to the owner, and tried again when the vector is asked for.
TEST(kvm_refuses)
{
	static const unsigned long requests[] = { KVM_IRQFD, KVM_SET_GSI_ROUTING };
	static const int errors[] = { EMFILE, ENOSPC, EEXIST, ENOMEM, EBUSY };
	for (size_t r = 0; r < 2; r++)
		for (size_t i = 0; i < 5; i++) {
			CHECK_EQ(start(1), 0);
			CHECK(msix_eventfd(&m, 0) >= 0);
			fake.fail_request = requests[r];
			fake.fail_error = errors[i];
			capture();
			vector_set(0, LAPIC, 0x31, 0);
			msix_control_write(&m, ENABLED);
			captured();
			CHECK_EQ(fake.irqfd_count, 0);
			CHECK_EQ(msix_take_error(&m), (unsigned long long)-errors[i]);
			CHECK_EQ(msix_take_error(&m), 0);
			fake.fail_request = 0;
			CHECK(msix_eventfd(&m, 0) >= 0);
			CHECK_EQ(fake.irqfd_count, 1);
			CHECK_EQ(msix_take_error(&m), 0);
			CHECK(finish());
		}
}

TEST(reset)
{
	CHECK_EQ(start(2), 0);
	int fd = msix_eventfd(&m, 0);
	vector_set(0, LAPIC, 0x31, 0);
	vector_set(1, LAPIC, 0x32, 1);
	msix_control_write(&m, ENABLED);
	msix_signal(&m, 1);
	CHECK(pending(1));
	msix_reset(&m);
	CHECK_EQ(fake.irqfd_count, 0);
	CHECK(!pending(1));
	CHECK_EQ(msix_table_read(&m, 0, 8), 0);
	CHECK_EQ(msix_table_read(&m, 12, 4), 1);
	CHECK_EQ(msix_eventfd(&m, 0), fd);
	CHECK_EQ(fake.irqfd_count, 0); // disabled
	CHECK(finish());
}

TEST(vectors_that_do_not_exist)
{
	CHECK_EQ(start(2), 0);
	CHECK_EQ(msix_eventfd(&m, 2), (unsigned long long)-EINVAL);
	CHECK_EQ(msix_eventfd(&m, MSIX_NO_VECTOR), (unsigned long long)-EINVAL);
	msix_signal(&m, 2);
	msix_signal(&m, UINT32_MAX);
	CHECK(finish());
}

static int without_descriptors(void)
{
	const struct rlimit none = { 0, 0 };
	if (start(1) < 0 || setrlimit(RLIMIT_NOFILE, &none) < 0)
		return 1;
	if (msix_eventfd(&m, 0) != -EMFILE)
		return 2;
	msix_signal(&m, 0); // lost, and nothing else
	return finish() ? 0 : 3;
}

TEST(no_descriptor_is_left)
{
	CHECK_EQ(in_fork(without_descriptors), 0);
}

TEST(descriptors_do_not_leak)
{
	uint64_t before = fds_open();
	for (int i = 0; i < 20; i++) {
		CHECK_EQ(start(VECTORS), 0);
		for (unsigned v = 0; v < VECTORS; v++)
			CHECK(msix_eventfd(&m, v) >= 0);
		msix_control_write(&m, ENABLED);
		CHECK(finish());
	}
	CHECK_EQ(fds_open(), before);
}
