// SPDX-License-Identifier: BSD-2-Clause
// The virtio transport register by register, between a fake KVM and a recording back-end, through a real PCI bus.
#include "vmm/virtio_pci.h"
#include "tests/unit/child.h"
#include "tests/unit/fake_backend.h"
#include "tests/unit/fake_kvm.h"
#include "tests/unit/test.h"
#include "vmm/base/fd.h"
#include "vmm/msix.h"
#include "vmm/pci_host.h"
#include "vmm/base/virtio_pci_regs.h"

#include <linux/pci_regs.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/resource.h>

#define ECAM	   UINT64_C(0xe8000000)
#define WIN32	   UINT64_C(0xc0000000)
#define HIGH	   (UINT64_C(1) << 32)
#define LOW	   (UINT64_C(1) << 20)
#define LAPIC	   0xfee00000u
#define CONFIG_LEN 26

static struct bus mmio, pio;
static struct pci_host host;
static struct kvm kvm = { .fd = -1, .vm_fd = -1 };
static struct irq irq;
static struct memmap memory;
static struct fake_backend fb;
static struct err err;
static uint64_t fds_before;
static int hush_null, hush_saved;
static void *const *doorbell_fixed; // of the back-end, at start_with()
static uint64_t features_wanted;    // by negotiate(), beside VERSION_1 and a bit of the device's

__attribute__((constructor)) static void hush_prepare(void)
{
	hush_null = open("/dev/null", O_WRONLY | O_CLOEXEC);
	hush_saved = fcntl(2, F_DUPFD_CLOEXEC, 3);
}

// Log lines that are not looked at.
static void hush(bool on)
{
	dup2(on ? hush_null : hush_saved, 2);
}

static int create(struct pci_func **f)
{
	const struct virtio_pci_host vh = { .kvm = &kvm, .irq = &irq, .memory = &memory };
	return virtio_pci_create(f, &fb.b, &vh, &err);
}

static int start_with(unsigned queues, uint32_t config_len, uint64_t features)
{
	static const struct pci_window win32 = { WIN32, 0x20000000 }, none;
	features_wanted = 0;
	struct pci_func *f;
	fake_reset();
	fds_before = fds_open();
	bus_init(&mmio);
	bus_init(&pio);
	if (memmap_create(&memory, 2 * LOW, MEM_BACKING_MEMFD, LOW, HIGH, &err) < 0 ||
	    irq_init(&irq, &kvm, &err) < 0 ||
	    pci_host_init(&host, &mmio, &pio, ECAM, win32, none, none, &err) < 0)
		return -1;
	fb_init(&fb, &memory, queues, config_len);
	fb.features = features;
	fb.b.doorbell_fixed = doorbell_fixed;
	fb.b.doorbell_pages = doorbell_fixed != NULL;
	int rc = create(&f);
	return rc < 0 ? rc : pci_host_plug(&host, f, 1, &err);
}

static int start(void)
{
	return start_with(4, CONFIG_LEN, UINT64_MAX);
}

// True if nothing is left, nothing was asked that must not be.
static bool finish(void)
{
	pci_host_destroy(&host);
	irq_destroy(&irq);
	memmap_destroy(&memory);
	bus_destroy(&mmio);
	bus_destroy(&pio);
	bool good = fb.closed && fb.mistakes == 0 && fake.mistakes == 0 && fake.irqfd_count == 0 &&
		    fake.doorbell_count == 0 && fds_open() == fds_before;
	if (!good)
		printf("closed %d, back-end mistakes %u, KVM mistakes %u, irqfds %u, doorbells %u, fds %#llx was %#llx\n",
		       fb.closed, fb.mistakes, fake.mistakes, fake.irqfd_count, fake.doorbell_count,
		       (unsigned long long)fds_open(), (unsigned long long)fds_before);
	return good;
}

static uint64_t cfg(unsigned offset, unsigned size)
{
	uint64_t val;
	bus_read(&mmio, ECAM + 0x8000 + offset, size, &val);
	return val;
}

static void cfg_set(unsigned offset, unsigned size, uint64_t val)
{
	bus_write(&mmio, ECAM + 0x8000 + offset, size, val);
}

static uint64_t bar_at = WIN32;

static uint64_t rd(uint64_t offset, unsigned size)
{
	uint64_t val;
	bus_read(&mmio, bar_at + offset, size, &val);
	return val;
}

static void wr(uint64_t offset, unsigned size, uint64_t val)
{
	bus_write(&mmio, bar_at + offset, size, val);
}

static uint8_t status(void)
{
	return (uint8_t)rd(VC_DEVICE_STATUS, 1);
}

static void status_set(uint8_t v)
{
	wr(VC_DEVICE_STATUS, 1, v);
}

static void decode(bool on)
{
	cfg_set(PCI_COMMAND, 2, on ? PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER : 0);
}

static unsigned cap_find(uint8_t id, uint8_t virtio_type)
{
	unsigned at = (unsigned)cfg(PCI_CAPABILITY_LIST, 1);
	for (int i = 0; at && i < 48; i++, at = (unsigned)cfg(at + 1, 1))
		if (cfg(at, 1) == id && (id != PCI_CAP_ID_VNDR || cfg(at + VCAP_TYPE_OFF, 1) == virtio_type))
			return at;
	return 0;
}

static void msix_enable(unsigned vectors)
{
	cfg_set(cap_find(PCI_CAP_ID_MSIX, 0) + PCI_MSIX_FLAGS, 2, MSIX_CONTROL_ENABLE);
	for (unsigned i = 0; i < vectors; i++) {
		wr(VP_MSIX_TABLE + 16 * i, 8, LAPIC);
		wr(VP_MSIX_TABLE + 16 * i + 8, 8, 0x30 + i);
	}
}

static void features_take(uint64_t f)
{
	for (uint32_t i = 0; i < 2; i++) {
		wr(VC_DRIVER_FEATURE_SELECT, 4, i);
		wr(VC_DRIVER_FEATURE, 4, f >> (32 * i) & 0xffffffff);
	}
}

static void negotiate(void)
{
	status_set(0);
	status_set(VS_ACKNOWLEDGE);
	status_set(VS_ACKNOWLEDGE | VS_DRIVER);
	features_take(VF_VERSION_1 | 1 | features_wanted);
	status_set(VS_ACKNOWLEDGE | VS_DRIVER | VS_FEATURES_OK);
}

static void queue_set(unsigned q, uint16_t size, uint64_t desc, uint64_t driver, uint64_t device)
{
	wr(VC_QUEUE_SELECT, 2, q);
	wr(VC_QUEUE_SIZE, 2, size);
	wr(VC_QUEUE_MSIX_VECTOR, 2, q + 1);
	wr(VC_QUEUE_DESC, 8, desc);
	wr(VC_QUEUE_DRIVER, 8, driver);
	wr(VC_QUEUE_DEVICE, 8, device);
	wr(VC_QUEUE_ENABLE, 2, 1);
}

static void queue_good(unsigned q)
{
	uint64_t at = 0x10000 + q * 0x10000;
	queue_set(q, 128, at, at + 0x1000, at + 0x2000);
}

#define RUNNING (VS_ACKNOWLEDGE | VS_DRIVER | VS_FEATURES_OK | VS_DRIVER_OK)

// A driver that does everything right, with two queues of four.
static void run(void)
{
	decode(true);
	negotiate();
	wr(VC_CONFIG_MSIX_VECTOR, 2, 0);
	msix_enable(5);
	queue_good(0);
	queue_good(2);
	fb.log[0] = '\0';
	status_set(RUNNING);
}

static bool config_interrupt_raised(void)
{
	return rd(VP_ISR, 1) == VP_ISR_CONFIG;
}

// ---- being made -------------------------------------------------------------------------------------------------

TEST(refused_when_made)
{
	struct pci_func *f;
	CHECK_EQ(start(), 0);
	struct fake_backend keep = fb;
	static const unsigned queues[] = { 0, VP_QUEUES_MAX + 1, 65535 };
	for (size_t i = 0; i < ARRAY_LEN(queues); i++) {
		fb_init(&fb, &memory, queues[i], 8);
		CHECK_EQ(create(&f), (unsigned long long)-EINVAL);
		CHECK(strstr(err.text, "queues and 8 bytes of configuration; 1 to 1023 and up to 4096") !=
		      NULL);
	}
	fb_init(&fb, &memory, 1, VP_DEVICE_ROOM + 1);
	CHECK_EQ(create(&f), (unsigned long long)-EINVAL);
	static const uint16_t sizes[] = { 0, 3, 255, 65535 };
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		fb_init(&fb, &memory, 1, 8);
		fb.b.queue_size_max = sizes[i];
		CHECK_EQ(create(&f), (unsigned long long)-EINVAL);
		CHECK(strstr(err.text, "a power of two up to 32768 is possible") != NULL);
	}
	static const enum fb_op ops[] = { FB_FEATURES, FB_CONFIG_READ };
	for (size_t i = 0; i < ARRAY_LEN(ops); i++) {
		fb_init(&fb, &memory, 1, 8);
		fb.fail = ops[i];
		CHECK_EQ(create(&f), (unsigned long long)-EIO);
		CHECK_STR(err.text,
			  "dev0: asking the back-end for features and configuration: Input/output error");
		CHECK(!fb.closed); // stays its maker's
	}
	fb = keep;
	CHECK(finish());
}

TEST(identity_and_capabilities)
{
	CHECK_EQ(start(), 0);
	CHECK_EQ(cfg(0, 4), 0x10421af4);
	CHECK_EQ(cfg(PCI_CLASS_REVISION, 4), 0x01800001);
	CHECK_EQ(cfg(PCI_INTERRUPT_PIN, 1), 0); // MSI-X only
	static const struct {
		uint8_t type;
		uint32_t offset, len;
	} want[] = { { VCAP_COMMON, VP_COMMON, VC_SIZE },
		     { VCAP_ISR, VP_ISR, 1 },
		     { VCAP_DEVICE, VP_DEVICE, CONFIG_LEN },
		     { VCAP_NOTIFY, VP_NOTIFY, 16 },
		     { VCAP_PCI, 0, 0 } };
	for (size_t i = 0; i < ARRAY_LEN(want); i++) {
		unsigned c = cap_find(PCI_CAP_ID_VNDR, want[i].type);
		CHECK(c >= 0x40);
		CHECK(cfg(c + 2, 1) >= 16);
		CHECK_EQ(cfg(c + VCAP_OFFSET_OFF, 4), want[i].offset);
		CHECK_EQ(cfg(c + VCAP_LENGTH_OFF, 4), want[i].len);
		CHECK(want[i].offset + want[i].len <= VP_BAR_SIZE);
	}
	CHECK_EQ(cfg(cap_find(PCI_CAP_ID_VNDR, VCAP_NOTIFY) + VCAP_DATA_OFF, 4), VP_NOTIFY_STEP);
	unsigned m = cap_find(PCI_CAP_ID_MSIX, 0);
	CHECK_EQ(cfg(m + PCI_MSIX_FLAGS, 2), 4); // 5 vectors
	CHECK_EQ(cfg(m + PCI_MSIX_TABLE, 4), VP_MSIX_TABLE);
	CHECK_EQ(cfg(m + PCI_MSIX_PBA, 4), VP_MSIX_PBA);
	cfg_set(m + PCI_MSIX_FLAGS, 2, 0xffff); // G02: the table's size is not the guest's
	CHECK_EQ(cfg(m + PCI_MSIX_FLAGS, 2), 0xc004);
	CHECK(finish());
	CHECK_EQ(start_with(1, 0, UINT64_MAX), 0); // no device configuration, no capability for it
	CHECK_EQ(cap_find(PCI_CAP_ID_VNDR, VCAP_DEVICE), 0);
	CHECK(finish());
}

// Before the log has a reason to be brief.
TEST(back_end_dies_by_itself)
{
	CHECK_EQ(start(), 0);
	run();
	fb.dead = true;
	fb.log[0] = '\0';
	capture();
	fb.b.events->died(fb.b.owner, "killed");
	const char *log = captured();
	CHECK_STR(log, "minivmm: dev0: fake back-end: killed\n"
		       "minivmm: dev0: its back-end is gone; the device needs a reset by its driver\n");
	CHECK_EQ(status(), RUNNING | VS_NEEDS_RESET);
	CHECK(config_interrupt_raised());
	CHECK_STR(fb.log, ""); // the loop's thread asks nothing of a back-end
	status_set(0);
	CHECK_STR(fb.log, "stop0 stop2 idle ");
	CHECK_EQ(status(), 0);
	capture();
	fb.b.events->died(fb.b.owner, "again"); // at rest: nothing to break
	captured();
	CHECK_EQ(status(), 0);
	CHECK(finish());
}

// ---- features ---------------------------------------------------------------------------------------------------

TEST(offered_features)
{
	CHECK_EQ(start(), 0);
	decode(true);
	wr(VC_DEVICE_FEATURE_SELECT, 4, 0);
	CHECK_EQ(rd(VC_DEVICE_FEATURE, 4), VF_CARRIED & 0xffffffff);
	wr(VC_DEVICE_FEATURE_SELECT, 4, 1);
	CHECK_EQ(rd(VC_DEVICE_FEATURE, 4), VF_CARRIED >> 32);
	static const uint32_t far[] = { 2, 3, 0x80000000, 0xffffffff };
	for (size_t i = 0; i < ARRAY_LEN(far); i++) {
		wr(VC_DEVICE_FEATURE_SELECT, 4, far[i]);
		CHECK_EQ(rd(VC_DEVICE_FEATURE_SELECT, 4), far[i]);
		CHECK_EQ(rd(VC_DEVICE_FEATURE, 4), 0);
		wr(VC_DRIVER_FEATURE_SELECT, 4, far[i]);
		wr(VC_DRIVER_FEATURE, 4, 0xffffffff);
		CHECK_EQ(rd(VC_DRIVER_FEATURE, 4), 0);
	}
	CHECK(finish());
}

// G12
TEST(features_ok)
{
	static const struct {
		uint64_t offered, taken;
		bool good;
	} cases[] = {
		{ VF_VERSION_1 | 7, VF_VERSION_1 | 7, true },
		{ VF_VERSION_1 | 7, VF_VERSION_1, true },
		{ VF_VERSION_1 | 7, VF_VERSION_1 | 8, false }, // not offered
		{ VF_VERSION_1 | 7, 7, false },		       // not modern
		{ VF_VERSION_1 | 7, 0, false },
		{ 7, VF_VERSION_1 | 7, false },				 // nor the back-end
		{ UINT64_MAX, VF_VERSION_1 | UINT64_C(1) << 39, false }, // not carried: NOTIF_CONFIG_DATA
		{ UINT64_MAX, VF_VERSION_1 | UINT64_C(1) << 41, false }, // nor ADMIN_VQ
		{ UINT64_MAX, VF_VERSION_1 | UINT64_C(1) << 33, true },	 // ACCESS_PLATFORM
		{ UINT64_MAX, VF_VERSION_1 | VF_RING_PACKED, true },
		{ VF_VERSION_1 | 7, VF_VERSION_1 | VF_RING_PACKED, false }, // not offered
		{ UINT64_MAX, VF_VERSION_1 | UINT64_C(1) << 38, true },	    // NOTIFICATION_DATA
		{ UINT64_MAX, VF_VERSION_1 | VF_RING_RESET, true },
		{ UINT64_MAX, VF_VERSION_1 | UINT64_C(1) << 50, true },
		{ UINT64_MAX, UINT64_MAX, false },
		{ UINT64_MAX, VF_CARRIED, true },
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		CHECK_EQ(start_with(2, 8, cases[i].offered), 0);
		decode(true);
		status_set(VS_ACKNOWLEDGE);
		status_set(VS_ACKNOWLEDGE | VS_DRIVER);
		features_take(cases[i].taken);
		status_set(VS_ACKNOWLEDGE | VS_DRIVER | VS_FEATURES_OK);
		CHECK_EQ(status() & VS_FEATURES_OK, cases[i].good ? VS_FEATURES_OK : 0);
		CHECK_EQ(fb.negotiated, cases[i].good ? cases[i].taken : 0);
		CHECK_EQ(fb.log[0] != '\0', cases[i].good); // a bad choice does not even reach the back-end
		CHECK(finish());
	}
}

TEST(features_are_frozen_and_refusable)
{
	CHECK_EQ(start(), 0);
	decode(true);
	features_take(VF_VERSION_1); // before ACKNOWLEDGE
	wr(VC_DRIVER_FEATURE_SELECT, 4, 1);
	CHECK_EQ(rd(VC_DRIVER_FEATURE, 4), 0);
	fb.fail = FB_NEGOTIATE;
	negotiate();
	CHECK_EQ(status(), VS_ACKNOWLEDGE | VS_DRIVER); // the back-end refused this choice
	fb.fail = FB_NONE;
	features_take(VF_VERSION_1 | 2);
	status_set(VS_ACKNOWLEDGE | VS_DRIVER | VS_FEATURES_OK);
	CHECK_EQ(status(), VS_ACKNOWLEDGE | VS_DRIVER | VS_FEATURES_OK);
	features_take(VF_VERSION_1 | 1);
	wr(VC_DRIVER_FEATURE_SELECT, 4, 0);
	CHECK_EQ(rd(VC_DRIVER_FEATURE, 4), 2);
	CHECK_EQ(fb.negotiated, VF_VERSION_1 | 2);
	CHECK(finish());
}

// ---- status -----------------------------------------------------------------------------------------------------

// G13: from each state, every value that can be written.
TEST(status_transitions)
{
	enum { A = VS_ACKNOWLEDGE, D = VS_DRIVER, F = VS_FEATURES_OK, OK = VS_DRIVER_OK };
	static const uint8_t reach[] = { 0, A, A | D, A | D | F, A | D | F | OK };
	CHECK_EQ(start(), 0);
	decode(true);
	for (size_t s = 0; s < ARRAY_LEN(reach); s++)
		for (unsigned v = 0; v < 256; v++) {
			negotiate();
			if (reach[s] & OK)
				status_set(RUNNING);
			else if (!(reach[s] & F)) {
				status_set(0);
				if (reach[s] & A)
					status_set(A);
				if (reach[s] & D) {
					status_set(A | D);
					features_take(VF_VERSION_1);
				}
			}
			uint8_t old = status();
			CHECK_EQ(old, reach[s]);
			status_set((uint8_t)v);
			uint8_t now = status();
			if (v == 0) {
				CHECK_EQ(now, 0);
				continue;
			}
			CHECK_EQ(old & ~now, 0);			   // nothing is cleared but by 0
			CHECK_EQ(now & ~(old | v), 0);			   // nothing appears by itself
			CHECK_EQ(now & (0x10 | 0x20 | VS_NEEDS_RESET), 0); // not the driver's
			CHECK(!(now & D) || (now & A));
			CHECK(!(now & F) || (now & D));
			CHECK(!(now & OK) || (now & F));
			if ((old & ~v) & 0x8f)
				CHECK_EQ(now, old); // bits cleared singly: ignored as a whole
			CHECK_EQ(fb.running, (now & OK) != 0);
		}
	CHECK(finish());
}

TEST(reset_order)
{
	CHECK_EQ(start(), 0);
	run();
	CHECK_STR(fb.log, "memory start0 start2 run ");
	CHECK_EQ(status(), RUNNING);
	CHECK_EQ(fake.doorbell_count, 2);
	fb.log[0] = '\0';
	status_set(0);
	CHECK_EQ(status(), 0); // by then the queues have stopped
	CHECK_STR(fb.log, "stop0 stop2 idle ");
	CHECK_EQ(fake.doorbell_count, 0);
	fb.log[0] = '\0';
	status_set(0);
	CHECK_STR(fb.log, ""); // nothing to stop
	// All is as at first.
	CHECK_EQ(rd(VC_CONFIG_MSIX_VECTOR, 2), MSIX_NO_VECTOR);
	wr(VC_QUEUE_SELECT, 2, 2);
	CHECK_EQ(rd(VC_QUEUE_SIZE, 2), 256);
	CHECK_EQ(rd(VC_QUEUE_ENABLE, 2), 0);
	CHECK_EQ(rd(VC_QUEUE_DESC, 8), 0);
	CHECK_EQ(rd(VC_QUEUE_MSIX_VECTOR, 2), MSIX_NO_VECTOR);
	CHECK(finish());
}

TEST(pages_that_a_back_end_has_from_the_beginning_are_doorbells_of_queues_that_run)
{
	const size_t page = (size_t)sysconf(_SC_PAGESIZE);
	void *pages[4];
	for (unsigned i = 0; i < 4; i++)
		pages[i] = mmap(NULL, page, PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	doorbell_fixed = pages;
	CHECK_EQ(start(), 0);
	doorbell_fixed = NULL;
	const unsigned before = fake.slot_count;
	for (unsigned again = 0; again < 2; again++) {
		run();
		CHECK_EQ(status(), RUNNING);
		CHECK_EQ(fake.slot_count, before + 2);
		CHECK_EQ(fake.slot[before].where, WIN32 + VP_PAGES);
		CHECK_EQ(fake.slot[before + 1].where, WIN32 + VP_PAGES + 2 * page);
		CHECK_EQ(fake.doorbell_count, 2); // behind them
		status_set(0);
		CHECK_EQ(fake.slot_count, before);
	}
	CHECK(finish());
	for (unsigned i = 0; i < 4; i++) {
		*(volatile uint16_t *)pages[i] = 0; // still its own
		munmap(pages[i], page);
	}
}

// G14
TEST(reset_storm)
{
	CHECK_EQ(start(), 0);
	run();
	uint64_t fds = fds_open();
	for (unsigned i = 0; i < 1000; i++) {
		if (i % 3)
			status_set(0);
		run();
		CHECK_EQ(status(), RUNNING);
	}
	CHECK_EQ(fds_open(), fds);
	CHECK_EQ(fake.doorbell_count, 2);
	CHECK(finish()); // while it runs
}

// ---- queues -----------------------------------------------------------------------------------------------------

// G08
TEST(queues_that_do_not_exist)
{
	static const uint16_t far[] = { 4, 5, 8, 255, 256, 1023, 32768, 65535 };
	CHECK_EQ(start(), 0);
	decode(true);
	negotiate();
	CHECK_EQ(rd(VC_NUM_QUEUES, 2), 4);
	for (size_t i = 0; i < ARRAY_LEN(far); i++) {
		queue_set(far[i], 64, 0x1000, 0x2000, 0x3000);
		CHECK_EQ(rd(VC_QUEUE_SELECT, 2), far[i]);
		for (unsigned offset = VC_QUEUE_SIZE; offset < VC_QUEUE_DESC; offset += 2)
			CHECK_EQ(rd(offset, 2), 0);
		for (unsigned offset = VC_QUEUE_DESC; offset < VC_SIZE; offset += 8)
			CHECK_EQ(rd(offset, 8), 0);
	}
	status_set(RUNNING);
	CHECK_STR(fb.log, "negotiate memory run ");
	CHECK(finish());
}

// G09
TEST(queue_sizes)
{
	CHECK_EQ(start(), 0);
	decode(true);
	negotiate();
	wr(VC_QUEUE_SELECT, 2, 0);
	CHECK_EQ(rd(VC_QUEUE_SIZE, 2), 256);
	wr(VC_QUEUE_SIZE, 2, 64);
	for (uint32_t size = 0; size < 65536; size++) {
		wr(VC_QUEUE_SIZE, 2, size);
		bool good = is_power_of_two(size) && size <= 256;
		CHECK_EQ(rd(VC_QUEUE_SIZE, 2), good ? size : 64);
		wr(VC_QUEUE_SIZE, 2, 64);
	}
	CHECK(finish());
}

static bool queue_registers_are(uint16_t size, uint16_t vector, uint16_t enabled, uint64_t desc,
				uint64_t driver, uint64_t device)
{
	return rd(VC_QUEUE_SIZE, 2) == size && rd(VC_QUEUE_MSIX_VECTOR, 2) == vector &&
	       rd(VC_QUEUE_ENABLE, 2) == enabled && rd(VC_QUEUE_DESC, 8) == desc &&
	       rd(VC_QUEUE_DRIVER, 8) == driver && rd(VC_QUEUE_DEVICE, 8) == device;
}

// G10
TEST(queue_registers_are_frozen)
{
	CHECK_EQ(start(), 0);
	decode(true);
	queue_set(0, 64, 0x1000, 0x2000, 0x3000); // before ACKNOWLEDGE
	CHECK(queue_registers_are(256, MSIX_NO_VECTOR, 0, 0, 0, 0));
	negotiate();
	queue_set(0, 64, 0x1000, 0x2000, 0x3000);
	CHECK(queue_registers_are(64, 1, 1, 0x1000, 0x2000, 0x3000));
	queue_set(0, 32, 0x4000, 0x5000, 0x6000); // enabled
	wr(VC_QUEUE_ENABLE, 2, 0);
	CHECK(queue_registers_are(64, 1, 1, 0x1000, 0x2000, 0x3000));
	status_set(RUNNING);
	queue_set(0, 32, 0x4000, 0x5000, 0x6000);
	CHECK(queue_registers_are(64, 1, 1, 0x1000, 0x2000, 0x3000));
	queue_set(1, 32, 0x4000, 0x5000, 0x6000); // not enabled, but the device runs
	CHECK(queue_registers_are(256, MSIX_NO_VECTOR, 0, 0, 0, 0));
	CHECK_EQ(fb.ring[0].size, 64);
	CHECK(!fb.started[1]);
	CHECK(finish());
}

TEST(queue_enable_needs_features_ok_and_1)
{
	CHECK_EQ(start(), 0);
	decode(true);
	status_set(VS_ACKNOWLEDGE);
	status_set(VS_ACKNOWLEDGE | VS_DRIVER);
	wr(VC_QUEUE_ENABLE, 2, 1);
	CHECK_EQ(rd(VC_QUEUE_ENABLE, 2), 0);
	negotiate();
	static const uint16_t no[] = { 0, 2, 3, 0x100, 0xffff };
	for (size_t i = 0; i < ARRAY_LEN(no); i++) {
		wr(VC_QUEUE_ENABLE, 2, no[i]);
		CHECK_EQ(rd(VC_QUEUE_ENABLE, 2), 0);
	}
	CHECK(finish());
}

// §4.1.3.1: each register with its own width; the 64-bit ones in halves, too.
TEST(access_widths)
{
	CHECK_EQ(start(), 0);
	decode(true);
	negotiate();
	wr(VC_QUEUE_DESC, 4, 0x11112222);
	wr(VC_QUEUE_DESC + 4, 4, 0x33334444);
	CHECK_EQ(rd(VC_QUEUE_DESC, 8), UINT64_C(0x3333444411112222));
	CHECK_EQ(rd(VC_QUEUE_DESC + 4, 4), 0x33334444);
	static const unsigned own[VC_SIZE] = {
		[VC_DEVICE_FEATURE_SELECT] = 4, [VC_DEVICE_FEATURE] = 4,
		[VC_DRIVER_FEATURE_SELECT] = 4, [VC_DRIVER_FEATURE] = 4,
		[VC_CONFIG_MSIX_VECTOR] = 2,	[VC_NUM_QUEUES] = 2,
		[VC_DEVICE_STATUS] = 1,		[VC_CONFIG_GENERATION] = 1,
		[VC_QUEUE_SELECT] = 2,		[VC_QUEUE_SIZE] = 2,
		[VC_QUEUE_MSIX_VECTOR] = 2,	[VC_QUEUE_ENABLE] = 2,
		[VC_QUEUE_NOTIFY_OFF] = 2,
	};
	wr(VC_QUEUE_SELECT, 2, 1);
	for (unsigned offset = 0; offset < VC_QUEUE_DESC; offset++)
		for (unsigned size = 1; size <= 8; size++) {
			if (own[offset] == size)
				continue;
			wr(offset, size, UINT64_MAX);
			if (offset + size <= VC_SIZE)
				CHECK_EQ(rd(offset, size), 0);
		}
	for (unsigned offset = VC_QUEUE_DESC; offset < VC_SIZE; offset++)
		for (unsigned size = 1; size <= 8; size++)
			if ((size != 4 && size != 8) || offset % size)
				wr(offset, size, UINT64_MAX);
	CHECK_EQ(status(), VS_ACKNOWLEDGE | VS_DRIVER | VS_FEATURES_OK);
	CHECK(queue_registers_are(256, MSIX_NO_VECTOR, 0, 0, 0, 0));
	CHECK_EQ(rd(VC_QUEUE_SELECT, 2), 1);
	for (unsigned offset = VC_SIZE; offset < VP_ISR; offset++)
		CHECK_EQ(rd(offset, 1), 0);
	CHECK(finish());
}

// G11: each wrong in one thing; nothing of it reaches the back-end.
TEST(rings_are_checked_at_driver_ok)
{
	static const struct {
		uint16_t size;
		uint64_t desc, driver, device;
	} bad[] = {
		{ 128, 0, 0, 0 },		 // no addresses: the parts overlap
		{ 128, 0x1008, 0x3000, 0x5000 }, // misaligned
		{ 128, 0x1000, 0x3001, 0x5000 },
		{ 128, 0x1000, 0x3000, 0x5002 },
		{ 128, LOW, 0x3000, 0x5000 }, // in the hole
		{ 128, 0x1000, LOW, 0x5000 },
		{ 128, 0x1000, 0x3000, LOW },
		{ 128, LOW - 2047 + 15, 0x3000, 0x5000 }, // over the end of a region
		{ 128, LOW - 2032, 0x3000, 0x5000 },
		{ 128, 0x1000, LOW - 260, 0x5000 },
		{ 128, 0x1000, 0x3000, LOW - 1028 },
		{ 128, HIGH - 16, 0x3000, 0x5000 },
		{ 128, HIGH + LOW - 2032, 0x3000, 0x5000 },
		{ 128, WIN32, 0x3000, 0x5000 }, // in the BAR
		{ 128, ECAM, 0x3000, 0x5000 },
		{ 128, UINT64_MAX - 15, 0x3000, 0x5000 }, // wraps
		{ 128, 0x1000, UINT64_MAX - 1, 0x5000 },
		{ 128, 0x1000, 0x3000, UINT64_MAX - 3 },
		{ 128, 0x1000, 0x1000, 0x5000 }, // overlaps
		{ 128, 0x1000, 0x17fe, 0x5000 },
		{ 128, 0x1000, 0x3000, 0x17fc },
		{ 128, 0x1000, 0x3000, 0x3000 },
		{ 128, 0x3000, 0x2ffe, 0x5000 },
		{ 1, 0x1000, 0x1010, 0x1014 },
	};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		CHECK_EQ(start(), 0);
		decode(true);
		negotiate();
		wr(VC_CONFIG_MSIX_VECTOR, 2, 0);
		queue_good(0); // beside a good one
		queue_set(3, bad[i].size, bad[i].desc, bad[i].driver, bad[i].device);
		fb.log[0] = '\0';
		hush(true);
		status_set(RUNNING);
		hush(false);
		if (status() != (RUNNING | VS_NEEDS_RESET))
			printf("case %zu\n", i);
		CHECK_EQ(status(), RUNNING | VS_NEEDS_RESET);
		CHECK_STR(fb.log, "");
		CHECK(config_interrupt_raised());
		CHECK_EQ(fake.doorbell_count, 0);
		run(); // revived
		CHECK_EQ(status(), RUNNING);
		CHECK(finish());
	}
}

TEST(rings_at_the_edges_are_good)
{
	static const struct {
		uint16_t size;
		uint64_t desc, driver, device;
	} good[] = {
		{ 128, 0, 0x800, 0x1000 }, // address 0 is RAM like any other
		{ 128, LOW - 2048, LOW - 4096, LOW - 8192 },
		{ 128, 0x1000, LOW - 262, LOW - 2060 },
		{ 128, HIGH, HIGH + LOW - 262, HIGH + LOW - 2048 - 1030 + 2 }, // 4-aligned
		{ 1, 0x1000, 0x1010, 0x1018 },
		{ 256, 0x1000, 0x2000, 0x2208 },
		{ 128, HIGH + LOW - 2048, 0, 0x200 },
	};
	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		CHECK_EQ(start(), 0);
		decode(true);
		negotiate();
		queue_set(0, good[i].size, good[i].desc, good[i].driver, good[i].device);
		status_set(RUNNING);
		CHECK_EQ(status(), RUNNING);
		CHECK_EQ(fb.ring[0].desc_gpa, good[i].desc);
		CHECK_EQ(fb.ring[0].avail_gpa, good[i].driver);
		CHECK_EQ(fb.ring[0].used_gpa, good[i].device);
		CHECK_EQ(fb.ring[0].base, 0);
		CHECK(finish());
	}
}

// ---- packed rings -----------------------------------------------------------------------------------------------

static int start_packed(void)
{
	int rc = start();
	features_wanted = VF_RING_PACKED;
	decode(true);
	negotiate();
	return rc;
}

TEST(packed_rings_may_be_of_any_size)
{
	CHECK_EQ(start_packed(), 0);
	wr(VC_QUEUE_SIZE, 2, 64);
	for (uint32_t size = 0; size < 65536; size++) {
		wr(VC_QUEUE_SIZE, 2, size);
		CHECK_EQ(rd(VC_QUEUE_SIZE, 2), size > 0 && size <= 256 ? size : 64);
		wr(VC_QUEUE_SIZE, 2, 64);
	}
	// A size that was good before the driver thought again.
	negotiate();
	features_wanted = 0;
	status_set(0);
	status_set(VS_ACKNOWLEDGE);
	status_set(VS_ACKNOWLEDGE | VS_DRIVER);
	features_take(VF_VERSION_1 | VF_RING_PACKED);
	wr(VC_QUEUE_SIZE, 2, 3);
	features_take(VF_VERSION_1);
	status_set(VS_ACKNOWLEDGE | VS_DRIVER | VS_FEATURES_OK);
	wr(VC_QUEUE_DESC, 8, 0x1000);
	wr(VC_QUEUE_DRIVER, 8, 0x2000);
	wr(VC_QUEUE_DEVICE, 8, 0x3000);
	wr(VC_QUEUE_ENABLE, 2, 1);
	hush(true);
	status_set(RUNNING);
	hush(false);
	CHECK_EQ(status(), RUNNING | VS_NEEDS_RESET);
	CHECK(finish());
}

TEST(packed_rings_are_checked_at_driver_ok)
{
	static const struct {
		uint16_t size;
		uint64_t desc, driver, device;
		bool good;
	} rows[] = {
		{ 128, 0x1000, 0x3000, 0x3004, true },
		{ 77, 0x1000, 0x14d0, 0xffc, true }, // all side by side
		{ 128, LOW - 2048, HIGH, HIGH + LOW - 4, true },
		{ 256, 0, 0x1000, 0x2000, true },
		{ 1, 0x1000, 0x1010, 0x1014, true },
		{ 128, 0x1008, 0x3000, 0x5000, false }, // misaligned
		{ 128, 0x1000, 0x3002, 0x5000, false },
		{ 128, 0x1000, 0x3000, 0x5002, false },
		{ 128, LOW - 2032, 0x3000, 0x5000, false }, // over the end of a region
		{ 128, 0x1000, LOW, 0x5000, false },
		{ 128, 0x1000, 0x3000, LOW, false },
		{ 128, WIN32, 0x3000, 0x5000, false },
		{ 128, UINT64_MAX - 15, 0x3000, 0x5000, false }, // wraps
		{ 128, 0x1000, UINT64_MAX - 3, 0x5000, false },
		{ 128, 0x1000, 0x1000, 0x5000, false }, // overlaps
		{ 128, 0x1000, 0x17fc, 0x5000, false },
		{ 128, 0x1000, 0x3000, 0x17fc, false },
		{ 128, 0x1000, 0x3000, 0x3000, false },
	};
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		CHECK_EQ(start_packed(), 0);
		queue_set(1, rows[i].size, rows[i].desc, rows[i].driver, rows[i].device);
		hush(true);
		status_set(RUNNING);
		hush(false);
		if (status() != (rows[i].good ? RUNNING : RUNNING | VS_NEEDS_RESET))
			printf("case %zu\n", i);
		CHECK_EQ(status(), rows[i].good ? RUNNING : RUNNING | VS_NEEDS_RESET);
		CHECK_EQ(fb.started[1], rows[i].good); // where it starts is the fake back-end's to check
		CHECK(finish());
	}
}

// ---- a queue is reset by itself ---------------------------------------------------------------------------------

// §2.6.1, §4.1.4.3.2
TEST(a_queue_is_reset_and_set_up_anew)
{
	CHECK_EQ(start(), 0);
	features_wanted = VF_RING_RESET;
	run();
	fb.log[0] = '\0';
	wr(VC_QUEUE_SELECT, 2, 2);
	wr(VC_QUEUE_RESET, 2, 1);
	CHECK_STR(fb.log, "stop2 "); // that one, and nothing of the device
	CHECK_EQ(rd(VC_QUEUE_RESET, 2), 0);
	CHECK_EQ(fake.doorbell_count, 1);
	CHECK_EQ(fake.doorbell[0].where, WIN32 + VP_NOTIFY);
	CHECK(queue_registers_are(256, MSIX_NO_VECTOR, 0, 0, 0, 0));
	CHECK_EQ(status(), RUNNING);
	wr(VP_NOTIFY + 8, 2, 2);  // goes nowhere
	wr(VC_QUEUE_RESET, 2, 1); // it is reset already
	CHECK_STR(fb.log, "stop2 ");
	queue_set(2, 64, 0x40000, 0x41000, 0x42000);
	CHECK_STR(fb.log, "stop2 start2 ");
	CHECK_EQ(fb.ring[2].size, 64);
	CHECK_EQ(fb.ring[2].desc_gpa, 0x40000);
	CHECK_EQ(fake.doorbell_count, 2);
	CHECK_EQ(rd(VC_QUEUE_ENABLE, 2), 1);
	queue_set(2, 32, 0x50000, 0x51000, 0x52000); // enabled: frozen again
	CHECK(queue_registers_are(64, 3, 1, 0x40000, 0x41000, 0x42000));
	for (unsigned i = 0; i < 200; i++) { // storms
		wr(VC_QUEUE_RESET, 2, 1);
		if (i % 2)
			queue_set(2, 64, 0x40000, 0x41000, 0x42000);
	}
	CHECK_EQ(status(), RUNNING);
	wr(VC_QUEUE_RESET, 2, 1);
	decode(false); // doorbells of the others move, its own is not there
	decode(true);
	CHECK_EQ(fake.doorbell_count, 1);
	CHECK(finish());
}

TEST(what_does_not_reset_a_queue)
{
	CHECK_EQ(start(), 0);
	run(); // RING_RESET was not taken
	wr(VC_QUEUE_SELECT, 2, 0);
	wr(VC_QUEUE_RESET, 2, 1);
	CHECK(fb.started[0]);
	features_wanted = VF_RING_RESET;
	run();
	static const uint16_t no[] = { 0, 2, 3, 0x100, 0xffff };
	wr(VC_QUEUE_SELECT, 2, 0);
	for (size_t i = 0; i < ARRAY_LEN(no); i++)
		wr(VC_QUEUE_RESET, 2, no[i]);
	wr(VC_QUEUE_RESET, 1, 1); // another width
	wr(VC_QUEUE_RESET, 4, 1);
	CHECK(fb.started[0]);
	wr(VC_QUEUE_SELECT, 2, 1); // never enabled
	wr(VC_QUEUE_RESET, 2, 1);
	queue_good(1);
	CHECK_EQ(rd(VC_QUEUE_ENABLE, 2), 0);
	wr(VC_QUEUE_SELECT, 2, 4000);
	wr(VC_QUEUE_RESET, 2, 1);
	CHECK_EQ(status(), RUNNING);
	// While the driver sets up it only forgets what was set up.
	negotiate();
	queue_good(0);
	wr(VC_QUEUE_RESET, 2, 1);
	CHECK(queue_registers_are(256, MSIX_NO_VECTOR, 0, 0, 0, 0));
	queue_good(0);
	status_set(RUNNING);
	CHECK_EQ(status(), RUNNING);
	CHECK(fb.started[0]);
	CHECK(finish());
}

TEST(a_queue_is_set_up_anew_badly)
{
	for (unsigned n = 0; n < 4; n++) {
		CHECK_EQ(start(), 0);
		features_wanted = VF_RING_RESET;
		run();
		wr(VC_QUEUE_SELECT, 2, 0);
		hush(true);
		fb.fail_queue = 0;
		fb.die_on_fail = n == 2;
		if (n == 3)
			fb.fail = FB_STOP;
		wr(VC_QUEUE_RESET, 2, 1);
		CHECK_EQ(status(), RUNNING);
		if (n == 0)
			queue_set(0, 64, 0x40000, 0x40000, 0x42000);
		else if (n < 3)
			fb.fail = FB_START;
		if (n > 0)
			queue_good(0);
		hush(false);
		// A back-end that would not stop it has it stopped all the same, or is dead.
		CHECK_EQ(status(), n == 3 ? RUNNING : RUNNING | VS_NEEDS_RESET);
		CHECK_EQ(fake.doorbell_count, n == 3 ? 2 : 0);
		fb.fail = FB_NONE;
		wr(VC_QUEUE_RESET, 2, 1); // BROKEN: only a reset of the device helps
		if (n < 2) {
			CHECK_EQ(status(), RUNNING | VS_NEEDS_RESET);
			run();
			CHECK_EQ(status(), RUNNING);
		}
		CHECK(finish());
	}
}

// ---- interrupts and doorbells -----------------------------------------------------------------------------------

// G18
TEST(vectors_that_do_not_exist)
{
	static const uint16_t far[] = { 5, 6, 255, 1024, 0x7fff, 0xfffe, 0xffff };
	CHECK_EQ(start(), 0);
	decode(true);
	negotiate();
	for (size_t i = 0; i < ARRAY_LEN(far); i++) {
		wr(VC_CONFIG_MSIX_VECTOR, 2, 4);
		wr(VC_QUEUE_MSIX_VECTOR, 2, 4);
		CHECK_EQ(rd(VC_CONFIG_MSIX_VECTOR, 2), 4);
		CHECK_EQ(rd(VC_QUEUE_MSIX_VECTOR, 2), 4);
		wr(VC_CONFIG_MSIX_VECTOR, 2, far[i]);
		wr(VC_QUEUE_MSIX_VECTOR, 2, far[i]);
		CHECK_EQ(rd(VC_CONFIG_MSIX_VECTOR, 2), MSIX_NO_VECTOR);
		CHECK_EQ(rd(VC_QUEUE_MSIX_VECTOR, 2), MSIX_NO_VECTOR);
	}
	CHECK(finish());
}

TEST(interrupts_reach_kvm)
{
	CHECK_EQ(start(), 0);
	run();
	CHECK_EQ(fake.irqfd_count, 2); // of the vectors in use
	for (unsigned q = 0; q <= 2; q += 2) {
		bool found = false;
		for (unsigned i = 0; i < fake.irqfd_count; i++)
			found |= fake.irqfd[i].fd == fb.ring[q].call_fd &&
				 fake.irqfd[i].where == IRQ_MSI_FIRST + q + 1;
		CHECK(found);
		CHECK_EQ(fake_route(IRQ_MSI_FIRST + q + 1)->u.msi.data, 0x31 + q);
	}
	// Masked: unbound; what the back-end raises meanwhile is pending.
	wr(VP_MSIX_TABLE + 16 + 12, 4, 1);
	CHECK_EQ(fake.irqfd_count, 1);
	fd_event_signal(fb.ring[0].call_fd);
	CHECK_EQ(rd(VP_MSIX_PBA, 8), 2);
	wr(VP_MSIX_PBA, 8, UINT64_MAX); // G17
	CHECK_EQ(rd(VP_MSIX_PBA, 8), 2);
	wr(VP_MSIX_TABLE + 16 + 12, 4, 0);
	CHECK_EQ(fake.irqfd_count, 2);
	CHECK_EQ(rd(VP_MSIX_TABLE + 5 * 16, 4), 0); // past the end
	wr(VP_MSIX_TABLE + 5 * 16, 8, UINT64_MAX);
	CHECK(finish());
	CHECK_EQ(start(), 0); // a queue without a vector
	decode(true);
	negotiate();
	queue_good(0);
	status_set(0);
	negotiate();
	wr(VC_QUEUE_SELECT, 2, 0);
	wr(VC_QUEUE_DESC, 8, 0x1000);
	wr(VC_QUEUE_DRIVER, 8, 0x3000);
	wr(VC_QUEUE_DEVICE, 8, 0x5000);
	wr(VC_QUEUE_ENABLE, 2, 1);
	status_set(RUNNING);
	CHECK_EQ(fb.ring[0].call_fd, (unsigned long long)-1);
	CHECK(finish());
}

// G15
TEST(doorbells)
{
	CHECK_EQ(start(), 0);
	decode(true);
	wr(VP_NOTIFY, 2, 0); // before anything
	run();
	CHECK_EQ(fake.doorbell_count, 2);
	for (unsigned i = 0; i < 2; i++) {
		unsigned q = i * 2;
		CHECK_EQ(fake.doorbell[i].where, WIN32 + VP_NOTIFY + VP_NOTIFY_STEP * q);
		CHECK_EQ(fake.doorbell[i].fd, fb.ring[q].kick_fd);
		CHECK(!fd_event_pending(fb.ring[q].kick_fd));
		wr(VC_QUEUE_SELECT, 2, q);
		CHECK_EQ(rd(VC_QUEUE_NOTIFY_OFF, 2), q);
	}
	// What KVM did not take is passed on.
	wr(VP_NOTIFY + 8, 2, 2);
	CHECK(fd_event_take(fb.ring[2].kick_fd));
	CHECK(!fd_event_pending(fb.ring[0].kick_fd));
	static const unsigned nowhere[] = { 1, 2, 4, 6, 9, 12, 16, 20, 0x800, 0xffc };
	for (size_t i = 0; i < ARRAY_LEN(nowhere); i++)
		wr(VP_NOTIFY + nowhere[i], 2, 0); // a disabled queue, none, between two
	CHECK(!fd_event_pending(fb.ring[0].kick_fd) && !fd_event_pending(fb.ring[2].kick_fd));
	for (unsigned i = 0; i < 100000; i++)
		wr(VP_NOTIFY, 4, i);
	CHECK(fd_event_take(fb.ring[0].kick_fd));
	CHECK_EQ(rd(VP_NOTIFY, 4), 0);
	CHECK(finish());
}

// ---- pages as doorbells ------------------------------------------------------------------------------------------

#define PAGE 4096u

static unsigned mapped(const char *memfd)
{
	char line[256];
	unsigned n = 0;
	FILE *f = fopen("/proc/self/maps", "re");
	while (f && fgets(line, sizeof(line), f))
		n += strstr(line, memfd) != NULL;
	if (f)
		fclose(f);
	return n;
}

static unsigned pages_mapped(void)
{
	return mapped("doorbell page");
}

static void give(unsigned q)
{
	int fd = memfd_create("doorbell page", MFD_CLOEXEC);
	void *page = ftruncate(fd, PAGE) < 0 ? MAP_FAILED
					     : mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	fb.b.events->doorbell_page(fb.b.owner, q, page);
}

static bool page_at(unsigned q, uint64_t gpa)
{
	for (unsigned i = 0; i < fake.slot_count; i++)
		if (fake.slot[i].where == gpa)
			return fake.slot[i].fd ==
			       (int)(MEM_REGIONS_MAX + PCI_MEMORY_SLOTS + q); // of PCI slot 1
	return false;
}

static int start_paged(void)
{
	struct pci_func *f;
	if (start() < 0)
		return -1;
	pci_host_destroy(&host);
	static const struct pci_window win32 = { WIN32, 0x20000000 }, none;
	if (pci_host_init(&host, &mmio, &pio, ECAM, win32, none, none, &err) < 0)
		return -1;
	fb_init(&fb, &memory, 4, CONFIG_LEN);
	fb.features = UINT64_MAX;
	fb.b.doorbell_pages = true;
	int rc = create(&f);
	return rc < 0 ? rc : pci_host_plug(&host, f, 1, &err);
}

TEST(pages_have_room_in_the_bar)
{
	struct pci_func *f;
	CHECK_EQ(start_paged(), 0);
	unsigned cap = cap_find(PCI_CAP_ID_VNDR, VCAP_NOTIFY);
	CHECK_EQ(cfg(cap + VCAP_OFFSET_OFF, 4), VP_PAGES);
	CHECK_EQ(cfg(cap + VCAP_LENGTH_OFF, 4), 4 * PAGE);
	CHECK_EQ(cfg(cap + VCAP_DATA_OFF, 4), PAGE);
	cfg_set(PCI_BASE_ADDRESS_0, 4, 0xffffffff);
	CHECK_EQ(cfg(PCI_BASE_ADDRESS_0, 4) & ~15u, 0xfffe0000u); // 128 KiB
	struct fake_backend keep = fb;
	fb_init(&fb, &memory, VP_PAGED_QUEUES + 1, 8);
	fb.b.doorbell_pages = true;
	CHECK_EQ(create(&f), (unsigned long long)-EINVAL);
	CHECK(strstr(err.text, "for 64 queues at most, it has 65") != NULL);
	fb = keep;
	CHECK(finish());
}

TEST(pages_lie_over_the_doorbells_of_queues_that_run)
{
	bar_at = WIN32;
	CHECK_EQ(start_paged(), 0);
	give(0); // before there is anything
	CHECK(fake.slot_count == 0 && pages_mapped() == 0);
	run();
	CHECK_EQ(fake.doorbell_count, 2);
	CHECK_EQ(fake.doorbell[1].where, WIN32 + VP_PAGES + 2 * PAGE);
	give(2);
	give(1); // a queue that does not run
	CHECK(fake.slot_count == 1 && pages_mapped() == 1 && page_at(2, WIN32 + VP_PAGES + 2 * PAGE));
	CHECK_EQ(fake.doorbell_count, 2); // stays behind it
	CHECK(!fd_event_pending(fb.ring[2].kick_fd));
	give(2); // another: what was rung on the first may have gone unheard
	CHECK(fake.slot_count == 1 && pages_mapped() == 1);
	CHECK(fd_event_take(fb.ring[2].kick_fd));
	fb.b.events->doorbell_page(fb.b.owner, 2, NULL);
	CHECK(fake.slot_count == 0 && pages_mapped() == 0);
	CHECK(fd_event_take(fb.ring[2].kick_fd));
	fb.b.events->doorbell_page(fb.b.owner, 2, NULL); // had none
	CHECK(!fd_event_pending(fb.ring[2].kick_fd));
	wr(VP_PAGES + 2 * PAGE, 2, 2);
	CHECK(fd_event_take(fb.ring[2].kick_fd));
	wr(VP_PAGES + 2 * PAGE + 4, 2, 2);
	wr(VP_NOTIFY + 8, 2, 2);
	CHECK(!fd_event_pending(fb.ring[2].kick_fd));
	CHECK(finish());
}

TEST(pages_follow_the_bar)
{
	bar_at = WIN32;
	CHECK_EQ(start_paged(), 0);
	run();
	give(0);
	give(2);
	for (unsigned i = 1; i < 200; i++) {
		uint64_t to = WIN32 + 0x20000 * (i * 7 % 100);
		cfg_set(PCI_BASE_ADDRESS_0, 4, to);
		CHECK(fake.slot_count == 2 && page_at(0, to + VP_PAGES) &&
		      page_at(2, to + VP_PAGES + 2 * PAGE));
		if (i % 10)
			continue;
		decode(false);
		CHECK_EQ(fake.slot_count, 0);
		give(0); // noted, and shown when there is a place
		CHECK_EQ(fake.slot_count, 0);
		decode(true);
		CHECK_EQ(fake.slot_count, 2);
		CHECK_EQ(pages_mapped(), 2);
	}
	CHECK(finish());
	CHECK_EQ(pages_mapped(), 0);
}

TEST(pages_go_with_their_queue)
{
	bar_at = WIN32;
	CHECK_EQ(start_paged(), 0);
	features_wanted = VF_RING_RESET;
	run();
	give(0);
	give(2);
	wr(VC_QUEUE_SELECT, 2, 2);
	wr(VC_QUEUE_RESET, 2, 1);
	CHECK(fake.slot_count == 1 && pages_mapped() == 1 && page_at(0, WIN32 + VP_PAGES));
	status_set(0);
	CHECK(fake.slot_count == 0 && pages_mapped() == 0);
	run();
	CHECK_EQ(fake.slot_count, 0); // the next start does not have the last one's
	give(0);
	fb.b.events->died(fb.b.owner, "test");
	CHECK_EQ(fake.slot_count, 0);
	CHECK_EQ(fake.doorbell_count, 0);
	give(0); // a broken device takes none
	CHECK(fake.slot_count == 0 && pages_mapped() == 0);
	status_set(0);
	CHECK_EQ(pages_mapped(), 0);
	CHECK(finish());
}

// ---- shared memory -----------------------------------------------------------------------------------------------

#define SHARED_BAR 0x1000000000u

static void *shared_memory_of(uint64_t len)
{
	int fd = memfd_create("shared memory", MFD_CLOEXEC);
	void *p = ftruncate(fd, (off_t)len) < 0 ? MAP_FAILED
						: mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	return p;
}

// As the back-end's bridge: what is not taken stays its own.
static int shared_give(unsigned region, uint64_t offset, uint64_t len)
{
	const struct backend_shared_part part = { .region = region, .offset = offset, .len = len };
	void *hva = shared_memory_of(len ? len : PAGE);
	int rc = fb.b.events->shared_given(fb.b.owner, &part, hva);
	if (rc < 0)
		munmap(hva, len ? len : PAGE);
	return rc;
}

static unsigned shared_take_back(unsigned region, uint64_t offset, uint64_t len)
{
	const struct backend_shared_part part = { .region = region, .offset = offset, .len = len };
	return fb.b.events->shared_withdrawn(fb.b.owner, &part);
}

static bool shared_at(unsigned part, uint64_t gpa)
{
	for (unsigned i = 0; i < fake.slot_count; i++)
		if (fake.slot[i].where == gpa)
			return fake.slot[i].fd == (int)(MEM_REGIONS_MAX + PCI_MEMORY_SLOTS + VP_PAGED_QUEUES +
							part); // of PCI slot 1
	return false;
}

static int start_shared(void)
{
	struct pci_func *f;
	if (start() < 0)
		return -1;
	pci_host_destroy(&host);
	static const struct pci_window win32 = { WIN32, 0x20000000 }, win64 = { SHARED_BAR, SHARED_BAR },
				       none;
	if (pci_host_init(&host, &mmio, &pio, ECAM, win32, win64, none, &err) < 0)
		return -1;
	fb_init(&fb, &memory, 4, CONFIG_LEN);
	fb.features = UINT64_MAX;
	fb.b.shared_count = 2;
	fb.b.shared[0] = (struct backend_shared){ .id = 7, .size = 3 * PAGE };
	fb.b.shared[1] = (struct backend_shared){ .id = 0, .size = 0x180000000 };
	int rc = create(&f);
	return rc < 0 ? rc : pci_host_plug(&host, f, 1, &err);
}

TEST(shared_memory_has_capabilities_and_a_bar)
{
	bar_at = WIN32;
	CHECK_EQ(start_shared(), 0);
	const unsigned first = cap_find(PCI_CAP_ID_VNDR, VCAP_SHARED);
	const unsigned second = (unsigned)cfg(first + 1, 1);
	CHECK(first && second && cfg(second + 1, 1) == 0 && second + VCAP_LEN_64 <= PCI_CONFIG_SIZE);
	const struct {
		unsigned cap, id;
		uint64_t start, size;
	} caps[] = { { first, 7, 0, 3 * PAGE }, { second, 0, 3 * PAGE, 0x180000000 } };
	for (size_t i = 0; i < ARRAY_LEN(caps); i++) {
		CHECK(cfg(caps[i].cap, 1) == PCI_CAP_ID_VNDR && cfg(caps[i].cap + 2, 1) == VCAP_LEN_64);
		CHECK(cfg(caps[i].cap + 4, 1) == 2 && cfg(caps[i].cap + 5, 1) == caps[i].id);
		CHECK_EQ(cfg(caps[i].cap + 8, 4) | cfg(caps[i].cap + 16, 4) << 32, caps[i].start);
		CHECK_EQ(cfg(caps[i].cap + 12, 4) | cfg(caps[i].cap + 20, 4) << 32, caps[i].size);
	}
	CHECK_EQ(cfg(PCI_BASE_ADDRESS_2, 4) & 15, 12); // 64 bits, prefetchable
	CHECK_EQ(cfg(PCI_BASE_ADDRESS_3, 4), SHARED_BAR >> 32);
	cfg_set(PCI_BASE_ADDRESS_3, 4, 0xffffffff);
	CHECK_EQ(cfg(PCI_BASE_ADDRESS_3, 4), 0xfffffffe); // 8 GiB
	// Where nothing is given: all ones, and nobody hears a write.
	uint64_t val;
	cfg_set(PCI_BASE_ADDRESS_3, 4, SHARED_BAR >> 32);
	decode(true);
	bus_write(&mmio, SHARED_BAR + VC_DEVICE_STATUS, 1, VS_ACKNOWLEDGE);
	bus_read(&mmio, SHARED_BAR + VC_DEVICE_STATUS, 4, &val);
	CHECK_EQ(val & UINT32_MAX, UINT32_MAX);
	CHECK_EQ(status(), 0);
	CHECK(finish());
}

TEST(shared_memory_is_where_its_bar_is)
{
	CHECK_EQ(start_shared(), 0);
	CHECK_EQ(shared_give(0, PAGE, 2 * PAGE), 0); // before there is a place
	CHECK_EQ(fake.slot_count, 0);
	decode(true);
	CHECK(fake.slot_count == 1 && shared_at(0, SHARED_BAR + PAGE));
	CHECK_EQ(shared_give(1, 0x170000000, 4 * PAGE), 0);
	CHECK(fake.slot_count == 2 && shared_at(1, SHARED_BAR + 3 * PAGE + 0x170000000));
	for (uint64_t i = 0; i < 50; i++) {
		decode(i % 5 > 0);
		cfg_set(PCI_BASE_ADDRESS_3, 4, (SHARED_BAR >> 32) + 2 * (i % 7));
		decode(true);
		const uint64_t at = SHARED_BAR + (i % 7 << 33);
		CHECK(fake.slot_count == 2 && shared_at(0, at + PAGE) &&
		      shared_at(1, at + 3 * PAGE + 0x170000000));
	}
	decode(false);
	CHECK_EQ(fake.slot_count, 0);
	CHECK(finish());
}

TEST(shared_memory_given_and_withdrawn)
{
	CHECK_EQ(start_shared(), 0);
	decode(true);
	CHECK_EQ(shared_give(0, 0, PAGE), 0);
	CHECK_EQ(-shared_give(0, 0, PAGE), EEXIST);
	CHECK_EQ(-shared_give(0, 0, 2 * PAGE), EEXIST);
	CHECK_EQ(-shared_give(0, 2 * PAGE, 2 * PAGE), EINVAL);
	CHECK_EQ(-shared_give(0, UINT64_MAX - PAGE + 1, PAGE), EINVAL);
	CHECK_EQ(-shared_give(0, PAGE, 0), EINVAL);
	CHECK_EQ(-shared_give(2, 0, PAGE), EINVAL);
	CHECK_EQ(shared_give(0, PAGE, 2 * PAGE), 0);
	// A part is withdrawn as it was given, or not.
	CHECK_EQ(shared_take_back(0, PAGE, PAGE), 0);
	CHECK_EQ(shared_take_back(0, 0, 3 * PAGE), 0);
	CHECK_EQ(shared_take_back(1, PAGE, 2 * PAGE), 0);
	CHECK_EQ(shared_take_back(0, PAGE, 2 * PAGE), 1);
	CHECK_EQ(fake.slot_count, 1);
	CHECK_EQ(shared_give(0, 2 * PAGE, PAGE), 0);
	// No more than there is room for.
	for (unsigned i = 2; i < VP_SHARED_PARTS; i++)
		CHECK_EQ(shared_give(1, i * PAGE, PAGE), 0);
	CHECK_EQ(-shared_give(1, 0, PAGE), ENOSPC);
	CHECK_EQ(fake.slot_count, VP_SHARED_PARTS);
	CHECK_EQ(fb.b.events->shared_withdrawn(fb.b.owner, NULL), VP_SHARED_PARTS);
	CHECK_EQ(fake.slot_count, 0);
	// KVM's refusal is the back-end's.
	fake.fail_request = KVM_SET_USER_MEMORY_REGION;
	hush(true);
	CHECK_EQ(-shared_give(0, 0, PAGE), EIO);
	hush(false);
	fake.fail_request = 0;
	CHECK_EQ(shared_give(0, 0, PAGE), 0);
	// The device's reset ends what is there (vhost-user.rst, SHMEM_MAP).
	run();
	CHECK_EQ(fake.slot_count, 0);
	CHECK_EQ(shared_give(0, 0, PAGE), 0);
	fb.b.events->died(fb.b.owner, "test"); // its bridge withdraws, if its end is that of its memory
	CHECK_EQ(fake.slot_count, 1);
	status_set(0);
	CHECK(fake.slot_count == 0 && mapped("shared memory") == 0);
	CHECK_EQ(shared_give(0, 0, PAGE), 0);
	CHECK(finish());
	CHECK_EQ(mapped("shared memory"), 0);
}

TEST(pages_that_kvm_does_not_take)
{
	bar_at = WIN32;
	CHECK_EQ(start_paged(), 0);
	run();
	fake.fail_request = KVM_SET_USER_MEMORY_REGION;
	hush(true);
	give(0);
	hush(false);
	CHECK(fake.slot_count == 0 && status() == RUNNING);
	wr(VP_PAGES, 2, 0);
	CHECK(fd_event_take(fb.ring[0].kick_fd));
	fake.fail_request = 0;
	decode(false);
	decode(true);
	CHECK_EQ(fake.slot_count, 1); // tried again at the next place
	CHECK(finish());
	CHECK_EQ(pages_mapped(), 0);
}

// G04
TEST(doorbells_follow_the_bar)
{
	CHECK_EQ(start(), 0);
	run();
	for (unsigned i = 1; i < 2000; i++) {
		uint64_t to = WIN32 + 0x10000 * (i * 7 % 100);
		cfg_set(PCI_BASE_ADDRESS_0, 4, to);
		bar_at = to;
		CHECK_EQ(fake.doorbell_count, 2);
		CHECK_EQ(fake.doorbell[0].where, to + VP_NOTIFY);
		CHECK_EQ(fake.doorbell[1].where, to + VP_NOTIFY + 8);
		if (i % 10 == 0) {
			decode(false);
			CHECK_EQ(fake.doorbell_count, 0);
			decode(true);
		}
	}
	// Started while not decoded: there is no doorbell until it is.
	status_set(0);
	negotiate();
	queue_good(0);
	unsigned w = cap_find(PCI_CAP_ID_VNDR, VCAP_PCI);
	decode(false);
	cfg_set(w + VCAP_BAR_OFF, 1, 0);
	cfg_set(w + VCAP_OFFSET_OFF, 4, VC_DEVICE_STATUS);
	cfg_set(w + VCAP_LENGTH_OFF, 4, 1);
	cfg_set(w + VCAP_DATA_OFF, 1, RUNNING);
	CHECK_EQ(cfg(w + VCAP_DATA_OFF, 1), RUNNING);
	CHECK_EQ(fake.doorbell_count, 0);
	decode(true);
	CHECK_EQ(fake.doorbell_count, 1);
	CHECK(finish());
	bar_at = WIN32;
}

// ---- device configuration ---------------------------------------------------------------------------------------

// G16
TEST(device_configuration)
{
	CHECK_EQ(start(), 0);
	decode(true);
	for (unsigned size = 1; size <= 8; size++)
		for (unsigned offset = 0; offset < 64; offset++) {
			uint64_t want = 0;
			for (unsigned i = 0; i < size; i++)
				if (offset + i < CONFIG_LEN)
					want |= (uint64_t)(0x80 + offset + i) << (8 * i);
			CHECK_EQ(rd(VP_DEVICE + offset, size), want);
		}
	CHECK_EQ(rd(VP_DEVICE + VP_DEVICE_ROOM - 1, 1), 0);
	wr(VP_DEVICE, 4, 0); // not before ACKNOWLEDGE
	CHECK_EQ(rd(VP_DEVICE, 4), 0x83828180);
	status_set(VS_ACKNOWLEDGE);
	wr(VP_DEVICE + 24, 4, 0x11223344); // over the end: nothing
	wr(VP_DEVICE + 25, 2, 0);
	wr(VP_DEVICE + 26, 1, 0);
	CHECK_EQ(rd(VP_DEVICE + 24, 4), 0x9998);
	wr(VP_DEVICE + 24, 2, 0xaabb);
	wr(VP_DEVICE + 1, 1, 0x55);
	wr(VP_DEVICE + 8, 8, UINT64_C(0x1122334455667788));
	CHECK_EQ(rd(VP_DEVICE + 24, 2), 0xaabb);
	CHECK_EQ(fb.config[25], 0xaa);
	CHECK_EQ(fb.config[1], 0x55);
	CHECK_EQ(fb.config[8], 0x88);
	wr(VP_DEVICE, 1, 0x80); // of some devices a write chooses what is read next (virtio 1.2 §5.8.4)
	fb.config[16] = 0x42;
	CHECK_EQ(rd(VP_DEVICE + 16, 1), 0x42);
	fb.config[16] = 0x43;
	CHECK_EQ(rd(VP_DEVICE + 16, 1), 0x42); // but nobody is asked without need
	fb.fail = FB_CONFIG_WRITE;
	wr(VP_DEVICE, 1, 0x77);
	CHECK_EQ(rd(VP_DEVICE, 1), 0x80); // what the back-end refused is not shown
	CHECK(finish());
}

TEST(configuration_changes)
{
	CHECK_EQ(start(), 0);
	run();
	uint64_t generation = rd(VC_CONFIG_GENERATION, 1);
	fb.config[0] = 1;
	CHECK_EQ(rd(VP_DEVICE, 1), 0x80); // as last read
	fb.log[0] = '\0';
	fb.b.events->config_changed(fb.b.owner);
	CHECK_STR(fb.log, ""); // the loop's thread asks nothing of a back-end: the driver's CPU does
	CHECK_EQ(rd(VP_DEVICE, 1), 1);
	CHECK_EQ(rd(VC_CONFIG_GENERATION, 1), (generation + 1) & 0xff);
	CHECK_EQ(fake.irqfd_count, 3); // its vector is in use now
	CHECK(config_interrupt_raised());
	CHECK(!config_interrupt_raised()); // read to clear
	fb.fail = FB_CONFIG_READ;
	fb.config[0] = 2;
	fb.b.events->config_changed(fb.b.owner);
	CHECK_EQ(rd(VC_CONFIG_GENERATION, 1), (generation + 2) & 0xff);
	CHECK(config_interrupt_raised());
	CHECK_EQ(rd(VP_DEVICE, 1), 1); // the last that could be read
	fb.fail = FB_NONE;
	status_set(0);
	fb.b.events->config_changed(fb.b.owner); // no interrupt before DRIVER_OK
	CHECK_EQ(rd(VP_DEVICE, 1), 2);
	CHECK(!config_interrupt_raised());
	CHECK(finish());
}

// ---- what goes wrong --------------------------------------------------------------------------------------------

TEST(back_end_refuses_at_each_operation)
{
	static const struct {
		enum fb_op op;
		unsigned queue;
		const char *log;
	} cases[] = {
		{ FB_MEMORY, 0, "memory " },
		{ FB_START, 0, "memory start0 " },
		{ FB_START, 2, "memory start0 start2 stop0 idle " },
		{ FB_RUN, 0, "memory start0 start2 run stop0 stop2 idle " },
	};
	for (unsigned dies = 0; dies < 2; dies++)
		for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
			CHECK_EQ(start(), 0);
			fb.fail = cases[i].op;
			fb.fail_queue = cases[i].queue;
			fb.die_on_fail = dies;
			hush(true);
			run();
			hush(false);
			CHECK_EQ(status(), RUNNING | VS_NEEDS_RESET);
			CHECK_STR(fb.log, cases[i].log);
			CHECK(config_interrupt_raised());
			CHECK_EQ(fake.doorbell_count, 0);
			status_set(RUNNING); // only 0 helps
			queue_good(1);
			CHECK_EQ(status(), RUNNING | VS_NEEDS_RESET);
			status_set(RUNNING | VS_NEEDS_RESET | VS_FAILED);
			CHECK_EQ(status(), RUNNING | VS_NEEDS_RESET | VS_FAILED);
			status_set(0);
			CHECK_EQ(status(), 0);
			fb.fail = FB_NONE;
			hush(true);
			run();
			hush(false);
			// A dead one takes no features any more; the guest sees a device that it cannot use.
			CHECK_EQ(status(), dies ? VS_ACKNOWLEDGE | VS_DRIVER : RUNNING);
			CHECK(finish());
		}
}

TEST(back_end_refuses_or_dies_while_it_is_stopped)
{
	static const struct {
		enum fb_op op;
		unsigned queue;
	} cases[] = { { FB_STOP, 0 }, { FB_STOP, 2 }, { FB_IDLE, 0 } };
	for (unsigned dies = 0; dies < 2; dies++)
		for (unsigned how = 0; how < 3; how++)
			for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
				CHECK_EQ(start(), 0);
				run();
				fb.fail = cases[i].op;
				fb.fail_queue = cases[i].queue;
				fb.die_on_fail = dies;
				fb.log[0] = '\0';
				hush(true);
				if (how == 0)
					status_set(0);
				else if (how == 1)
					pci_host_reset(&host);
				bool good = how == 2 ? finish() : true;
				hush(false);
				CHECK(good);
				CHECK_STR(fb.log, "stop0 stop2 idle "); // once each, whatever they answer
				if (how == 1)
					decode(true);
				if (how < 2)
					CHECK_EQ(status(), 0);
				CHECK(how == 2 || finish());
			}
}

TEST(back_end_stops_a_queue)
{
	CHECK_EQ(start(), 0);
	fb.b.events->queue_failed(fb.b.owner); // not running: nothing
	run();
	CHECK_EQ(status(), RUNNING);
	hush(true);
	fb.b.events->queue_failed(fb.b.owner);
	hush(false);
	CHECK_EQ(status(), RUNNING | VS_NEEDS_RESET);
	CHECK(config_interrupt_raised());
	run();
	CHECK_EQ(status(), RUNNING);
	CHECK(finish());
}

// K04
TEST(kvm_refuses)
{
	static const unsigned long requests[] = { KVM_IOEVENTFD, KVM_IRQFD, KVM_SET_GSI_ROUTING };
	static const int errors[] = { EEXIST, ENOSPC, EMFILE, ENOMEM };
	for (size_t r = 0; r < ARRAY_LEN(requests); r++)
		for (size_t i = 0; i < ARRAY_LEN(errors); i++) {
			CHECK_EQ(start(), 0);
			fake.fail_request = requests[r];
			fake.fail_error = errors[i];
			hush(true);
			run();
			hush(false);
			CHECK_EQ(status(), RUNNING | VS_NEEDS_RESET);
			CHECK_EQ(fake.doorbell_count, 0);
			fake.fail_request = 0;
			run();
			CHECK_EQ(status(), RUNNING);
			CHECK_EQ(fake.doorbell_count, 2);
			CHECK_EQ(fake.irqfd_count, 3); // one is the configuration's, which was raised
			// And while it runs: the BAR moves, a vector is unmasked.
			wr(VP_MSIX_TABLE + 16 + 12, 4, 1);
			decode(false);
			fake.fail_request = requests[r];
			hush(true);
			decode(true);
			wr(VP_MSIX_TABLE + 16 + 8, 4, 0x77);
			wr(VP_MSIX_TABLE + 16 + 12, 4, 0);
			hush(false);
			CHECK_EQ(status(), RUNNING | VS_NEEDS_RESET);
			fake.fail_request = 0;
			status_set(0);
			hush(true);
			bool good = finish();
			hush(false);
			CHECK(good);
		}
}

// R01: no descriptor left at each place that makes one.
static int limited(void)
{
	struct rlimit limit;
	if (start() < 0)
		return 1;
	decode(true);
	getrlimit(RLIMIT_NOFILE, &limit);
	unsigned broken = 0;
	bool ran = false;
	for (unsigned spare = 0; spare < 16 && !ran; spare++) {
		int first_free = dup(0);
		close(first_free);
		limit.rlim_cur = (rlim_t)first_free + spare;
		setrlimit(RLIMIT_NOFILE, &limit);
		run();
		if (status() == (RUNNING | VS_NEEDS_RESET))
			broken++;
		else if (status() == RUNNING)
			ran = true;
		else
			return 2;
		if (!ran)
			status_set(0);
	}
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	if (!ran || broken < 2)
		return 3;
	return finish() ? 0 : 4;
}

TEST(no_descriptor_is_left)
{
	CHECK_EQ(in_fork(limited), 0);
}

// ---- the window (§4.1.4.9) --------------------------------------------------------------------------------------

static void window(unsigned w, uint8_t bar, uint32_t offset, uint32_t len)
{
	cfg_set(w + VCAP_BAR_OFF, 1, bar);
	cfg_set(w + VCAP_OFFSET_OFF, 4, offset);
	cfg_set(w + VCAP_LENGTH_OFF, 4, len);
}

// G07
TEST(window_into_the_bar)
{
	CHECK_EQ(start(), 0);
	unsigned w = cap_find(PCI_CAP_ID_VNDR, VCAP_PCI);
	window(w, 0, VC_NUM_QUEUES, 2); // the BAR is not even decoded
	CHECK_EQ(cfg(w + VCAP_DATA_OFF, 2), 4);
	window(w, 0, VC_DEVICE_STATUS, 1);
	cfg_set(w + VCAP_DATA_OFF, 1, VS_ACKNOWLEDGE);
	CHECK_EQ(cfg(w + VCAP_DATA_OFF, 1), VS_ACKNOWLEDGE);
	window(w, 0, VP_DEVICE, 4);
	CHECK_EQ(cfg(w + VCAP_DATA_OFF, 4), 0x83828180);
	static const struct {
		uint8_t bar;
		uint32_t offset, len;
	} bad[] = {
		{ 1, VC_DEVICE_STATUS, 1 },
		{ 6, 0x14, 1 },
		{ 0xff, 0x14, 1 },
		{ 0, VC_DEVICE_STATUS, 0 },
		{ 0, VC_DEVICE_STATUS, 3 },
		{ 0, 0x10, 8 },
		{ 0, 0x14, 0xffffffff },
		{ 0, VP_BAR_SIZE, 1 },
		{ 0, VP_BAR_SIZE - 1, 2 },
		{ 0, 0xffffffff, 1 },
		{ 0, 0xfffffffc, 4 },
		{ 0, 1, 2 },
		{ 0, 2, 4 },
		{ 0, 0x80000014, 1 },
		{ 0, VP_BAR_SIZE, 4 },
	};
	decode(true);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		window(w, bad[i].bar, bad[i].offset, bad[i].len);
		for (unsigned size = 1; size <= 4; size *= 2) {
			cfg_set(w + VCAP_DATA_OFF, size, 0);
			cfg(w + VCAP_DATA_OFF, size);
		}
		CHECK_EQ(status(), VS_ACKNOWLEDGE);
	}
	window(w, 0, VC_DEVICE_STATUS, 1);
	cfg_set(w + VCAP_DATA_OFF, 4, 0); // not with the length that was set
	cfg_set(w + VCAP_DATA_OFF + 1, 1, 0);
	CHECK_EQ(status(), VS_ACKNOWLEDGE);
	// To the last byte, and the identity of the capability stays.
	window(w, 0, VP_BAR_SIZE - 4, 4);
	CHECK_EQ(cfg(w + VCAP_DATA_OFF, 4), 0);
	cfg_set(w, 4, 0);
	CHECK_EQ(cfg(w, 1), PCI_CAP_ID_VNDR);
	CHECK_EQ(cfg(w + VCAP_TYPE_OFF, 1), VCAP_PCI);
	// A doorbell through it.
	run();
	window(w, 0, VP_NOTIFY + 8, 2);
	cfg_set(w + VCAP_DATA_OFF, 2, 2);
	CHECK(fd_event_take(fb.ring[2].kick_fd));
	CHECK(finish());
}

// A driver may run a device without one queue; if that breaks, the reset still ends what DRIVER_OK began.
TEST(broken_without_a_queue)
{
	CHECK_EQ(start(), 0);
	decode(true);
	for (unsigned i = 0; i < 2; i++) {
		negotiate();
		fb.log[0] = '\0';
		status_set(RUNNING);
		CHECK_STR(fb.log, "memory run ");
		fb.b.events->died(fb.b.owner, "killed");
		CHECK_EQ(status(), RUNNING | VS_NEEDS_RESET);
		fb.log[0] = '\0';
		status_set(0);
		CHECK_STR(fb.log, "idle ");
		status_set(0);
		CHECK_STR(fb.log, "idle ");
	}
	CHECK(finish());
}

TEST(every_byte_of_the_bar_at_every_size)
{
	CHECK_EQ(start(), 0);
	run();
	for (unsigned size = 1; size <= 8; size++)
		for (unsigned offset = 0; offset + size <= VP_BAR_SIZE; offset++)
			rd(offset, size);
	CHECK_EQ(status(), RUNNING);
	hush(true);
	for (unsigned size = 1; size <= 8; size++)
		for (unsigned offset = 0; offset + size <= VP_BAR_SIZE; offset += 1 + offset % 3)
			wr(offset, size, UINT64_C(0x0101010101010101) * (offset + size));
	hush(false);
	CHECK(finish());
}

TEST(reset_of_the_machine)
{
	CHECK_EQ(start(), 0);
	for (unsigned i = 0; i < 5; i++) {
		run();
		CHECK_EQ(status(), RUNNING);
		fb.log[0] = '\0';
		pci_host_reset(&host);
		irq_reset(&irq);
		CHECK_STR(fb.log, "stop0 stop2 idle ");
		CHECK_EQ(fake.irqfd_count + fake.doorbell_count, 0);
		CHECK_EQ(rd(VC_DEVICE_STATUS, 1), 0xff); // not decoded
	}
	CHECK(finish());
}

// ---- threads ----------------------------------------------------------------------------------------------------

static atomic_bool going;

static void *upcalls(void *arg)
{
	(void)arg;
	for (unsigned i = 0; atomic_load(&going); i++) {
		if (i % 50 == 0)
			fb.b.events->queue_failed(fb.b.owner);
		else if (i % 50 == 25)
			fb.b.events->died(fb.b.owner, "for a while");
		else
			fb.b.events->config_changed(fb.b.owner);
		if (i % 10 == 0)
			sched_yield();
	}
	return NULL;
}

static void *bar_mover(void *arg)
{
	(void)arg;
	for (unsigned i = 0; atomic_load(&going); i++) {
		cfg_set(PCI_BASE_ADDRESS_0, 4, WIN32 + 0x10000 * (i % 3));
		cfg_set(PCI_BASE_ADDRESS_0, 4, WIN32);
		decode(true);
		usleep(50);
	}
	return NULL;
}

// The loop's thread calls up while two CPUs drive the device and move it about.
TEST(upcalls_from_another_thread)
{
	pthread_t loop, mover;
	CHECK_EQ(start(), 0);
	hush(true);
	atomic_store(&going, true);
	CHECK_EQ(pthread_create(&loop, NULL, upcalls, NULL), 0);
	CHECK_EQ(pthread_create(&mover, NULL, bar_mover, NULL), 0);
	unsigned ran = 0;
	for (unsigned i = 0; i < 1000 || (ran == 0 && i < 100000); i++) {
		run();
		ran += (status() & VS_DRIVER_OK) != 0 && status() != 0xff;
		wr(VP_MSIX_TABLE + 16 + 12, 4, i % 2);
		wr(VP_NOTIFY, 2, 0);
		rd(VP_MSIX_PBA, 8);
		status_set(0);
	}
	atomic_store(&going, false);
	pthread_join(loop, NULL);
	pthread_join(mover, NULL);
	decode(true);
	status_set(0);
	bool at_rest = status() == 0;
	bool good = finish();
	hush(false);
	CHECK(ran > 0);
	CHECK(at_rest);
	CHECK(good);
}
