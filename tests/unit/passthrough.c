// SPDX-License-Identifier: BSD-2-Clause
// Passthrough functions over a carrier in memory: what the guest sees and what reaches the device, mapped BARs, interrupts of each kind,
// death and return, and the devices that are refused.
#include "bridges/passthrough.h"
#include "tests/unit/count_fds.h"
#include "tests/unit/fake_vfio.h"
#include "tests/unit/test.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/base/loop.h"
#include "vmm/irq.h"
#include "vmm/kvm.h"
#include "vmm/msix.h"
#include "vmm/pci_host.h"
#include "vmm/pci_hotplug.h"


#define ECAM  UINT64_C(0xe8000000)
#define WIN32 UINT64_C(0xc0000000)
#define WIN64 UINT64_C(0x4000000000)
#define PINS  16
#define D3HOT 3

static struct bus mmio, pio;
static struct pci_host host;
static struct loop loop;
static struct kvm kvm;
static struct irq irq;
static struct memmap memory;
static struct pci_hotplug hotplug;
static struct fake_link dev;
static struct pci_func *func;
static struct err err;
static int64_t guest_ms;

static void prepare(void)
{
	log_init("test", LOG_ERROR);
	guest_ms = 100;
	fv_init(&dev);
}

// What is around the function; the function itself is made by create().
static void surround(void)
{
	static const struct pci_window win32 = { WIN32, 0x20000000 }, win64 = { WIN64, UINT64_C(1) << 36 },
				       io = { 0x1000, 0xf000 };
	fake_reset();
	kvm = (struct kvm){ .fd = -1, .vm_fd = memfd_create("vm", MFD_CLOEXEC), .vfio_fd = -1 };
	memory = (struct memmap){ .fd = -1, .size = 0x30000000 };
	memory.ram = (struct mem_table){
		.count = 2,
		.region = { { .gpa = 0, .size = 0x20000000, .fd = -1 },
			    { .gpa = UINT64_C(1) << 32, .size = 0x10000000, .fd = -1 } },
	};
	bus_init(&mmio);
	bus_init(&pio);
	if (loop_init(&loop) < 0 || irq_init(&irq, &kvm, &err) < 0 ||
	    pci_host_init(&host, &mmio, &pio, ECAM, win32, win64, io, &err) < 0)
		abort();
	pci_host_set_intx(&host, PINS, 8);
}

static int create(void)
{
	const struct passthrough_host h = {
		.kvm = &kvm, .irq = &irq, .loop = &loop, .memory = &memory, .guest_ms = guest_ms
	};
	err.text[0] = '\0';
	int rc = passthrough_create(&func, &dev.link, &h, &err);
	return rc < 0 ? rc : pci_host_plug(&host, func, 1, &err);
}

static int start(void)
{
	surround();
	return create();
}

// True if nothing is left, of memory slots, doorbells, interrupts and mappings.
static bool finish(void)
{
	pci_host_destroy(&host);
	pci_hotplug_stop(&hotplug);
	irq_destroy(&irq);
	loop_destroy(&loop);
	bus_destroy(&mmio);
	bus_destroy(&pio);
	close(kvm.vm_fd);
	fv_free(&dev);
	return !fake.mistakes && !fake.slot_count && !fake.irqfd_count && !fake.doorbell_count &&
	       !dev.dma_count && !dev.dma_mistakes;
}

static uint64_t config_read(unsigned offset, unsigned size)
{
	uint64_t val;
	bus_read(&mmio, ECAM + 0x8000 + offset, size, &val);
	return val;
}

static void config_write(unsigned offset, unsigned size, uint64_t val)
{
	bus_write(&mmio, ECAM + 0x8000 + offset, size, val);
}

static uint64_t bar_gpa(unsigned bar)
{
	uint64_t gpa = config_read(0x10 + 4 * bar, 4) & ~UINT64_C(15);
	return bar == 3 ? gpa | config_read(0x20, 4) << 32 : gpa;
}

static void command(uint16_t val)
{
	config_write(PCI_COMMAND, 2, val);
}

#define ON (PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER)

// ---- configuration space ----------------------------------------------------------------------------------------

TEST(identity_is_the_devices_own)
{
	prepare();
	CHECK_EQ(start(), 0);
	CHECK_EQ(config_read(PCI_VENDOR_ID, 4), 0x10d38086);
	CHECK_EQ(config_read(PCI_CLASS_REVISION, 4), 0x02000003);
	CHECK_EQ(config_read(PCI_SUBSYSTEM_VENDOR_ID, 4), 0x00018086);
	CHECK_EQ(config_read(PCI_HEADER_TYPE, 1), 0); // one function is what the guest gets
	CHECK_EQ(config_read(PCI_INTERRUPT_PIN, 1), 1);
	CHECK_EQ(config_read(PCI_INTERRUPT_LINE, 1), PINS + 1);
	CHECK_EQ(config_read(0x3e, 1), 0x11);
	CHECK_EQ(config_read(PCI_STATUS, 2), PCI_STATUS_CAP_LIST | PCI_STATUS_INTERRUPT);
	CHECK_EQ(config_read(PCI_COMMAND, 2), 0);
	CHECK_EQ(dev.command, 0);
	CHECK(finish());
}

TEST(capabilities_keep_their_places_and_lose_what_the_guest_cannot_have)
{
	static const uint8_t want[] = { FV_PM, FV_MSI, FV_EXP, FV_MSIX, FV_VNDR };
	prepare();
	CHECK_EQ(start(), 0);
	unsigned at = PCI_CAPABILITY_LIST - 1;
	for (unsigned i = 0; i < ARRAY_LEN(want); i++) {
		at = (unsigned)config_read(at + 1, 1);
		CHECK_EQ(at, want[i]);
	}
	CHECK_EQ(config_read(at + 1, 1), 0);
	CHECK_EQ(config_read(FV_EA, 4), 0); // left out
	CHECK_EQ(config_read(FV_PM + PCI_PM_PMC, 2), 0x0603);
	CHECK_EQ(config_read(FV_PM + PCI_PM_CTRL, 2), PCI_PM_CTRL_NO_SOFT_RESET);
	CHECK_EQ(config_read(FV_EXP + PCI_EXP_FLAGS, 2), 2 | PCI_EXP_TYPE_RC_END << 4);
	CHECK_EQ(config_read(FV_EXP + PCI_EXP_DEVCAP, 4), PCI_EXP_DEVCAP_FLR | 1);
	CHECK_EQ(config_read(FV_EXP + PCI_EXP_LNKCAP, 4), 0);
	CHECK_EQ(config_read(FV_VNDR + 4, 4), 0x5a5a5a5a);

	// From 0x100 on: the list begins with nothing, and SR-IOV and AER are not in it.
	CHECK_EQ(config_read(FV_AER, 4), (uint32_t)FV_DSN << 20);
	CHECK_EQ(config_read(FV_DSN, 4), 0x00010003 | (uint32_t)FV_VSEC << 20);
	CHECK_EQ(config_read(FV_DSN + 4, 4), 0x12345678);
	CHECK_EQ(config_read(FV_SRIOV, 4), 0);
	CHECK_EQ(config_read(FV_VSEC, 4), 0x0001000b);
	CHECK_EQ(config_read(FV_VSEC + 2, 2), 1);
	CHECK_EQ(config_read(FV_AER + 4, 4), 0);
	CHECK_EQ(config_read(0xffc, 4), 0);
	CHECK(finish());
}

// Each access may take a server as long as its deadline.
TEST(as_many_capabilities_as_there_is_room_for)
{
	prepare();
	for (unsigned at = 0x100; at < 0xffc; at += 4)
		fv_put32(&dev, at, 0x00010019 | (at + 4) << 20);
	CHECK_EQ(start(), 0);
	CHECK(dev.reads < 20);
	CHECK(finish());
}

TEST(without_extended_capabilities_and_without_express)
{
	prepare();
	fv_put32(&dev, 0x100, 0);
	CHECK_EQ(start(), 0);
	CHECK_EQ(config_read(0x100, 4), 0);
	CHECK(finish());
	prepare();
	dev.config[FV_MSI + 1] = FV_MSIX;
	CHECK_EQ(start(), 0);
	CHECK_EQ(config_read(0x100, 4), 0xffffffff); // such a device has 256 bytes
	CHECK(finish());
	prepare();
	fv_put16(&dev, PCI_STATUS, 0);
	dev.irq[VFIO_PCI_INTX_IRQ_INDEX].count = 0;
	CHECK_EQ(start(), 0);
	CHECK_EQ(config_read(PCI_CAPABILITY_LIST, 1), 0);
	CHECK_EQ(config_read(PCI_INTERRUPT_PIN, 1), 0);
	CHECK(finish());
}

TEST(configuration_space_that_ends_early)
{
	prepare();
	dev.region[VFIO_PCI_CONFIG_REGION_INDEX].size = 255;
	dev.config[FV_EXP + 1] = FV_MSIX; // what is left out hides all up to the next one
	fv_put32(&dev, 0xfc, 0x01020304);
	fv_put32(&dev, 0xf8, 0x05060708);
	CHECK_EQ(start(), 0);
	CHECK_EQ(config_read(0xf8, 4), 0x05060708);
	CHECK_EQ(config_read(0xfc, 4), 0); // the carrier in memory would abort
	config_write(0xfc, 4, 7);
	CHECK_EQ(config_read(0x100, 4), 0xffffffff);
	CHECK(finish());
}

// G32
TEST(only_allowed_bits_reach_the_device)
{
	prepare();
	CHECK_EQ(start(), 0);
	const unsigned writes = dev.config_writes;
	for (unsigned offset = 0x10; offset < 0x40; offset += 4)
		config_write(offset, 4, 0xffffffff); // BARs, ROM, capability pointer, interrupt line
	config_write(PCI_VENDOR_ID, 4, 0);
	config_write(PCI_CLASS_REVISION, 4, 0);
	config_write(FV_MSIX + PCI_MSIX_TABLE, 4, 0);
	config_write(FV_MSIX + PCI_MSIX_PBA, 4, 0);
	config_write(FV_PM, 2, 0xffff);
	config_write(FV_EXP, 4, 0xffffffff);
	config_write(FV_EXP + PCI_EXP_LNKCTL, 2, 0xffff);
	config_write(FV_EA, 4, 0xffffffff);
	config_write(FV_DSN + 4, 4, 0);
	config_write(FV_SRIOV + 8, 4, 0xffffffff);
	CHECK_EQ(dev.config_writes, writes);
	CHECK_EQ(config_read(FV_MSIX + PCI_MSIX_TABLE, 4), FV_TABLE | 3);
	CHECK_EQ(config_read(PCI_CAPABILITY_LIST, 1), FV_PM);

	command(0xffff);
	CHECK_EQ(dev.command, ON | PCI_COMMAND_INTX_DISABLE);
	command(0);
	config_write(FV_EXP + PCI_EXP_DEVCTL, 2, 0x5fef); // read requests of 4096 bytes, no relaxed ordering
	CHECK_EQ(dev.config[FV_EXP + PCI_EXP_DEVCTL] | dev.config[FV_EXP + PCI_EXP_DEVCTL + 1] << 8, 0x5800);
	CHECK_EQ(config_read(FV_EXP + PCI_EXP_DEVCTL, 2), 0x59ef);
	config_write(FV_MSIX + PCI_MSIX_FLAGS, 2, 0x4fff);
	CHECK_EQ(dev.last_offset, FV_MSIX + PCI_MSIX_FLAGS);
	CHECK_EQ(dev.last_val, 0x4000);
	config_write(FV_VNDR + 4, 4, 0x11223344); // is the device's
	CHECK_EQ(dev.last_offset, FV_VNDR + 4);
	CHECK_EQ(dev.last_val, 0x11223344);
	config_write(FV_VSEC + 8, 4, 7);
	CHECK_EQ(dev.last_offset, FV_VSEC + 8);
	config_write(FV_VSEC + 4, 4, 7); // its length
	CHECK_EQ(dev.last_offset, FV_VSEC + 8);
	CHECK(finish());
}

// B21, B23, and what else makes no sense
static bool refused(const char *sentence)
{
	unsigned fds;
	surround();
	fds = count_fds();
	int rc = create();
	bool good = rc < 0 && strstr(err.text, "dev0: ") == err.text && strstr(err.text, sentence) &&
		    count_fds() == fds && dev.closes == 0;
	if (!good)
		printf("said: %d %s\n", rc, err.text);
	return finish() && good;
}

TEST(devices_that_are_refused)
{
	prepare();
	dev.config[FV_VNDR + 1] = FV_MSI;
	CHECK(refused("runs in a circle at 0x50"));
	prepare();
	dev.config[FV_VNDR + 1] = FV_VNDR;
	CHECK(refused("runs in a circle at 0xc0"));
	prepare();
	dev.config[FV_VNDR + 1] = 0x10;
	CHECK(refused("leads into the header at 0x10"));
	prepare();
	fv_put32(&dev, FV_VSEC, 0x0001000b | FV_DSN << 20);
	CHECK(refused("extended capabilities runs in a circle at 0x140"));
	prepare();
	fv_put32(&dev, FV_VSEC, 0x0001000b | 0x40u << 20);
	CHECK(refused("extended capabilities leads into the header at 0x40"));
	prepare();
	dev.config[PCI_HEADER_TYPE] = 1;
	CHECK(refused("no endpoint (header type 0x1, vendor 8086)"));
	prepare();
	fv_put16(&dev, PCI_VENDOR_ID, 0xffff);
	CHECK(refused("no endpoint"));
	prepare();
	dev.region[VFIO_PCI_CONFIG_REGION_INDEX].size = 63;
	CHECK(refused("no PCI configuration space"));
	prepare();
	dev.fails_access = true;
	CHECK(refused("read its configuration space: Input/output error"));
}

TEST(bars_that_are_refused)
{
	static const uint64_t sizes[] = { 0x60, 8, 1, UINT64_C(1) << 45, UINT64_C(1) << 63, UINT64_MAX };
	for (unsigned i = 0; i < ARRAY_LEN(sizes); i++) {
		prepare();
		dev.region[1].size = sizes[i];
		CHECK(refused("BAR 1 of "));
	}
	prepare();
	dev.region[2].size = 0x2000; // ports
	CHECK(refused("BAR 2 of 8192 bytes"));
	prepare();
	fv_region(&dev, 5, 0x100, false);
	dev.config[PCI_BASE_ADDRESS_5] = PCI_BASE_ADDRESS_MEM_TYPE_64;
	CHECK(refused("BAR 5 has 64 bits"));
	prepare();
	fv_region(&dev, 4, 0x100, false);
	CHECK(refused("BAR 4 lies in the upper half"));
	prepare();
	fv_put32(&dev, FV_MSIX + PCI_MSIX_TABLE, 0x3c00 | 3); // 80 rows end behind it
	CHECK(refused("its MSI-X table (BAR 3, 0x3c00)"));
	prepare();
	fv_put32(&dev, FV_MSIX + PCI_MSIX_TABLE, 7);
	CHECK(refused("its MSI-X table (BAR 7, 0)"));
	prepare();
	fv_put32(&dev, FV_MSIX + PCI_MSIX_PBA, (FV_TABLE + 0x100) | 3);
	CHECK(refused("or in each other"));
	prepare();
	dev.irq[VFIO_PCI_MSIX_IRQ_INDEX].count = FV_MSIX_COUNT - 1;
	CHECK(refused("it shows 80 MSI-X vectors and can signal 79"));
	prepare();
	dev.irq[VFIO_PCI_MSI_IRQ_INDEX].count = 0;
	CHECK(refused("it shows 4 MSI vectors and can signal 0"));
	prepare();
	dev.has_doorbell = true;
	dev.doorbell = (struct vfio_doorbell){ .offset = 0x7e, .size = 4, .fd = 0 };
	CHECK(refused("BAR 1: a doorbell at 0x7e"));
}

// K06
TEST(memory_that_cannot_be_mapped)
{
	prepare();
	dev.dma_fails_at = 2;
	CHECK(refused("raise ulimit -l by 262144 KiB"));
	CHECK_EQ(dev.dma_calls, 2);
}

TEST(interrupts_without_number_are_clamped)
{
	prepare();
	dev.irq[VFIO_PCI_MSIX_IRQ_INDEX].count = UINT32_MAX;
	dev.irq[VFIO_PCI_INTX_IRQ_INDEX].count = 0x80000000;
	CHECK_EQ(start(), 0);
	CHECK(finish());
}

// ---- BARs -------------------------------------------------------------------------------------------------------

// The guest addresses of this function's memory slots, sorted by the order of their making.
static bool shown_at(uint64_t gpa)
{
	for (unsigned i = 0; i < fake.slot_count; i++)
		if (fake.slot[i].fd >= MEM_REGIONS_MAX && fake.slot[i].where == gpa)
			return true;
	return false;
}

TEST(bars_are_mapped_but_for_the_pages_of_msix)
{
	prepare();
	CHECK_EQ(start(), 0);
	CHECK_EQ(fake.slot_count, 0);
	command(ON);
	CHECK_EQ(dev.slots_when_on, 0); // the device decodes before the guest can reach it
	CHECK_EQ(fv_slots(), 3);
	CHECK(shown_at(bar_gpa(0)));
	CHECK(shown_at(bar_gpa(3)));
	CHECK(shown_at(bar_gpa(3) + 0x3000));
	CHECK(bar_gpa(3) >= WIN64); // prefetchable, and has the bits
	command(PCI_COMMAND_IO);
	CHECK_EQ(dev.slots_when_off, 0); // CVE-2020-12888
	CHECK_EQ(fv_slots(), 0);
	CHECK(finish());
}

TEST(sparse_areas)
{
	prepare();
	dev.region[0].area_count = 3;
	dev.region[0].area[0] = (struct vfio_area){ 0x1800, 0x1000 };		    // no whole page
	dev.region[0].area[1] = (struct vfio_area){ 0x4800, 0x2000 };		    // one
	dev.region[0].area[2] = (struct vfio_area){ 0x1f000, UINT64_MAX - 0x1000 }; // beyond
	CHECK_EQ(start(), 0);
	command(ON);
	CHECK(shown_at(bar_gpa(0) + 0x5000));
	CHECK_EQ(fv_slots(), 3);
	CHECK(finish());
}

// B20
TEST(files_that_may_shrink_are_trapped)
{
	static const char message[] = "data";
	uint64_t val = 0;
	prepare();
	int fd = memfd_create("bar", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	CHECK(fd >= 0 && ftruncate(fd, 0x20000) == 0);
	const int sealed = dev.region[0].fd;
	dev.region[0].fd = fd;
	memcpy(dev.memory[0], message, sizeof(message));
	CHECK_EQ(start(), 0);
	command(ON);
	CHECK_EQ(fv_slots(), 2); // those of BAR 3
	bus_read(&mmio, bar_gpa(0), 4, &val);
	CHECK_EQ(val, 0x61746164);
	dev.region[0].fd = sealed;
	CHECK(finish());
	close(fd);
	// Beyond the end of a sealed one.
	prepare();
	dev.region[0].fd_offset = 0x1000;
	CHECK_EQ(start(), 0);
	command(ON);
	CHECK_EQ(fv_slots(), 2);
	CHECK(finish());
}

// G04
TEST(moved_ten_thousand_times)
{
	prepare();
	CHECK_EQ(start(), 0);
	command(ON);
	const uint64_t home = bar_gpa(0);
	for (unsigned i = 0; i < 10000; i++) {
		const uint32_t gpa = (uint32_t)(WIN32 + 0x100000 + (i * 7919 % 4000) * 0x20000);
		config_write(PCI_BASE_ADDRESS_0, 4, gpa);
		CHECK_EQ(shown_at(gpa), true);
		CHECK_EQ(fv_slots(), 3);
		if (i % 3 == 0) {
			command(0);
			CHECK_EQ(dev.slots_when_off, 0);
			command(ON);
		}
	}
	config_write(PCI_BASE_ADDRESS_0, 4, 0xffffffff); // sized
	CHECK_EQ(config_read(PCI_BASE_ADDRESS_0, 4), 0xfffe0000);
	CHECK_EQ(fv_slots(), 2);
	config_write(PCI_BASE_ADDRESS_0, 4, 0xe8000000); // over ECAM (G03)
	CHECK_EQ(fv_slots(), 2);
	config_write(PCI_BASE_ADDRESS_0, 4, home);
	CHECK_EQ(fv_slots(), 3);
	config_write(PCI_BASE_ADDRESS_3 + 4, 4, 0x7fffffff); // G05: half of an address
	CHECK_EQ(fv_slots(), 1);
	CHECK(finish());
}

// G06, B22
TEST(accesses_that_exit)
{
	uint64_t val;
	prepare();
	for (unsigned i = 0; i < 0x80; i++)
		dev.memory[1][i] = (uint8_t)i;
	CHECK_EQ(start(), 0);
	command(ON);
	const uint64_t gpa = bar_gpa(1);
	bus_read(&mmio, gpa + 8, 8, &val);
	CHECK_EQ(val, UINT64_C(0x0f0e0d0c0b0a0908));
	dev.reads = 0;
	bus_read(&mmio, gpa + 5, 4, &val); // in pieces of 1, 2 and 1
	CHECK_EQ(val, 0x08070605);
	CHECK_EQ(dev.reads, 3);
	CHECK(!bus_read(&mmio, gpa + 0x7e, 4, &val)); // across its end
	CHECK_EQ(val, 0xffffffff);
	bus_write(&mmio, gpa + 2, 2, 0xabcd);
	CHECK_EQ(dev.memory[1][2] | dev.memory[1][3] << 8, 0xabcd);
	CHECK(dev.last_posted);
	dev.fails_access = true;
	bus_read(&mmio, gpa, 4, &val);
	CHECK_EQ(val, 0xffffffff);
	bus_write(&mmio, gpa, 4, 0);
	dev.fails_access = false;
	// Ports, and a ROM whose image is shorter than its BAR.
	const uint64_t port = config_read(PCI_BASE_ADDRESS_2, 4);
	CHECK_EQ(port & 3, PCI_BASE_ADDRESS_SPACE_IO);
	CHECK(port >= 0x1000);
	bus_write(&pio, (port & ~3u) + 4, 4, 0x01020304);
	CHECK_EQ(dev.memory[2][4], 4);
	CHECK(!dev.last_posted);
	bus_write(&mmio, gpa, 4, 0);
	CHECK(dev.last_posted);
	dev.config_writes = 0;
	command(0);
	CHECK(dev.config_writes && !dev.last_posted);
	command(ON);
	config_write(PCI_ROM_ADDRESS, 4, 0xffffffff);
	CHECK_EQ(config_read(PCI_ROM_ADDRESS, 4), 0xfffff001);
	config_write(PCI_ROM_ADDRESS, 4, (WIN32 + 0x1000000) | PCI_ROM_ADDRESS_ENABLE);
	dev.memory[VFIO_PCI_ROM_REGION_INDEX][0] = 0x55;
	bus_read(&mmio, WIN32 + 0x1000000, 1, &val);
	CHECK_EQ(val, 0x55);
	bus_read(&mmio, WIN32 + 0x1000000 + 0xc00, 4, &val);
	CHECK_EQ(val, 0xffffffff);
	CHECK(finish());
}

TEST(doorbells_follow_their_bar)
{
	prepare();
	dev.has_doorbell = true;
	dev.doorbell = (struct vfio_doorbell){
		.offset = 0x40, .size = 4, .match_data = true, .data = 7, .fd = fd_eventfd()
	};
	CHECK_EQ(start(), 0);
	CHECK_EQ(fake.doorbell_count, 0);
	command(ON);
	CHECK_EQ(fake.doorbell_count, 1);
	CHECK_EQ(fake.doorbell[0].where, bar_gpa(1) + 0x40);
	// Those that come here nevertheless, or do not match, are writes as any other.  The eventfd is its server's, which may have made it
	// one that waits.
	const uint64_t full = UINT64_MAX - 1;
	CHECK_EQ(write(dev.doorbell.fd, &full, sizeof(full)), sizeof(full));
	CHECK_EQ(fcntl(dev.doorbell.fd, F_SETFL, 0), 0);
	alarm(10);
	bus_write(&mmio, bar_gpa(1) + 0x40, 4, 7);
	CHECK_EQ(dev.memory[1][0x40], 7);
	bus_write(&mmio, bar_gpa(1) + 0x40, 4, 8);
	CHECK_EQ(dev.memory[1][0x40], 8);
	alarm(0);
	command(0);
	CHECK_EQ(fake.doorbell_count, 0);
	CHECK(finish());
	close(dev.doorbell.fd);
}

// G33
TEST(asleep_it_has_no_bars)
{
	uint64_t val;
	prepare();
	CHECK_EQ(start(), 0);
	command(ON);
	const uint64_t bar0 = bar_gpa(0), bar1 = bar_gpa(1);
	config_write(FV_PM + PCI_PM_CTRL, 2, D3HOT);
	CHECK_EQ(fv_slots(), 0);
	CHECK_EQ(dev.dma_count, 2);
	CHECK_EQ(dev.last_offset, FV_PM + PCI_PM_CTRL);
	CHECK_EQ(dev.last_val, D3HOT);
	bus_read(&mmio, bar1, 4, &val);
	CHECK_EQ(val, 0xffffffff);
	config_write(PCI_BASE_ADDRESS_0, 4, bar0 + 0x100000);
	CHECK_EQ(fv_slots(), 0);
	dev.command = 0;
	config_write(FV_PM + PCI_PM_CTRL, 2, 0);
	CHECK_EQ(dev.command, ON); // told again: it may have forgotten
	CHECK_EQ(fv_slots(), 3);
	CHECK(shown_at(bar0 + 0x100000));
	CHECK(finish());
	prepare();
	fv_put16(&dev, FV_PM + PCI_PM_PMC, 3); // has no D1
	CHECK_EQ(start(), 0);
	config_write(FV_PM + PCI_PM_CTRL, 2, 1);
	CHECK_EQ(config_read(FV_PM + PCI_PM_CTRL, 2) & 3, 0);
	CHECK(finish());
}

TEST(function_level_reset)
{
	prepare();
	CHECK_EQ(start(), 0);
	const uint64_t home = bar_gpa(0);
	command(ON);
	config_write(PCI_BASE_ADDRESS_0, 4, home + 0x100000);
	config_write(FV_MSIX + PCI_MSIX_FLAGS, 2, 0x8000);
	config_write(FV_EXP + PCI_EXP_DEVCTL, 2, 0x8000);
	CHECK_EQ(dev.resets, 1);
	CHECK_EQ(dev.slots_when_reset, 0);
	CHECK_EQ(dev.command_when_reset, 0); // its DMA ended first
	CHECK_EQ(dev.disables[VFIO_PCI_MSIX_IRQ_INDEX], 1);
	CHECK_EQ(dev.dma_count, 2);
	CHECK_EQ(config_read(PCI_COMMAND, 2), 0);
	CHECK_EQ(bar_gpa(0), home);
	CHECK_EQ(config_read(FV_MSIX + PCI_MSIX_FLAGS, 2), FV_MSIX_COUNT - 1);
	command(ON);
	CHECK_EQ(dev.command, ON);
	CHECK_EQ(fv_slots(), 3);
	// The machine's reset is the same; one that has none is left as it is.
	dev.link.can_reset = false;
	pci_host_reset(&host);
	CHECK_EQ(dev.resets, 1);
	CHECK_EQ(dev.command, 0);
	CHECK_EQ(fv_slots(), 0);
	CHECK(finish());
	prepare();
	dev.link.can_reset = false;
	CHECK_EQ(start(), 0);
	CHECK_EQ(config_read(FV_EXP + PCI_EXP_DEVCAP, 4) & PCI_EXP_DEVCAP_FLR, 0);
	config_write(FV_EXP + PCI_EXP_DEVCTL, 2, 0x8000);
	CHECK_EQ(dev.resets, 0);
	CHECK(finish());
}

// ---- interrupts -------------------------------------------------------------------------------------------------

static uint64_t row(unsigned vector)
{
	return bar_gpa(3) + FV_TABLE + vector * 16;
}

static void vector_write(unsigned vector, uint32_t data, bool masked)
{
	bus_write(&mmio, row(vector), 8, 0xfee00000);
	bus_write(&mmio, row(vector) + 8, 4, data);
	bus_write(&mmio, row(vector) + 12, 4, masked);
}

TEST(msix_vectors_are_given_when_they_are_unmasked)
{
	int *fd = dev.fd[VFIO_PCI_MSIX_IRQ_INDEX];
	prepare();
	CHECK_EQ(start(), 0);
	command(ON | PCI_COMMAND_INTX_DISABLE);
	config_write(FV_MSIX + PCI_MSIX_FLAGS, 2, 0xc000);
	CHECK_EQ(dev.irq_calls > 0, true);
	for (unsigned i = 0; i < FV_MSIX_COUNT; i++)
		CHECK_EQ(fd[i], -1);
	vector_write(0, 0x41, false);
	vector_write(1, 0x42, true);
	CHECK_EQ(fd[0], -1); // the function is masked
	config_write(FV_MSIX + PCI_MSIX_FLAGS, 2, 0x8000);
	CHECK(fd[0] >= 0);
	CHECK_EQ(fd[1], -1);
	CHECK_EQ(fake.irqfd_count, 1);
	vector_write(1, 0x42, false);
	CHECK(fd[1] >= 0 && fd[1] != fd[0]);
	CHECK_EQ(fake.irqfd_count, 2);
	CHECK_EQ(dev.disables[VFIO_PCI_MSIX_IRQ_INDEX], 0); // those two were foreseen
	// Masked again: the device goes on, and its signal is what is pending.
	vector_write(1, 0x42, true);
	CHECK_EQ(fake.irqfd_count, 1);
	fd_event_signal(fd[1]);
	uint64_t pending;
	bus_read(&mmio, bar_gpa(3) + FV_PBA, 8, &pending);
	CHECK_EQ(pending, 2);
	// One that was never unmasked is pending in the device itself.
	dev.memory[3][FV_PBA] = 0x05;
	bus_read(&mmio, bar_gpa(3) + FV_PBA, 4, &pending);
	CHECK_EQ(pending, 6);
	vector_write(1, 0x42, false);
	bus_read(&mmio, bar_gpa(3) + FV_PBA, 4, &pending);
	CHECK_EQ(pending, 4);
	config_write(FV_MSIX + PCI_MSIX_FLAGS, 2, 0);
	CHECK_EQ(dev.disables[VFIO_PCI_MSIX_IRQ_INDEX], 1);
	CHECK_EQ(fake.irqfd_count, 0);
	CHECK(finish());
}

TEST(msix_vectors_beyond_the_first_lose_none)
{
	int *fd = dev.fd[VFIO_PCI_MSIX_IRQ_INDEX];
	for (unsigned resizable = 0; resizable < 2; resizable++) {
		prepare();
		dev.irq[VFIO_PCI_MSIX_IRQ_INDEX].noresize = !resizable;
		CHECK_EQ(start(), 0);
		command(ON);
		vector_write(3, 0x43, false);
		config_write(FV_MSIX + PCI_MSIX_FLAGS, 2, 0x8000);
		const int old = fd[3];
		CHECK(old >= 0);
		fd_event_take(old);
		vector_write(70, 0x44, false);
		CHECK(fd[70] >= 0);
		CHECK_EQ(fd[3], old);
		CHECK_EQ(dev.disables[VFIO_PCI_MSIX_IRQ_INDEX], !resizable);
		CHECK_EQ(fd_event_take(old), !resizable); // what may have come while all were disabled
		CHECK(finish());
	}
}

// A device whose host has fewer vectors than it shows, or that says so: those that it has go on.
TEST(msix_vectors_beyond_the_first_refused)
{
	int *fd = dev.fd[VFIO_PCI_MSIX_IRQ_INDEX];
	for (unsigned dead = 0; dead < 2; dead++) {
		prepare();
		dev.most_vectors = 64;
		CHECK_EQ(start(), 0);
		command(ON);
		vector_write(3, 0x43, false);
		config_write(FV_MSIX + PCI_MSIX_FLAGS, 2, 0x8000);
		CHECK(fd[3] >= 0);
		config_write(FV_MSIX + PCI_MSIX_FLAGS, 2, 0xc000);
		for (unsigned i = 70; i < 74; i++)
			vector_write(i, 0x44, false);
		dev.dead = dead;
		config_write(FV_MSIX + PCI_MSIX_FLAGS, 2, 0x8000); // several at once
		CHECK(dead || fd[3] >= 0);
		CHECK_EQ(fd[70], -1);
		vector_write(75, 0x44, false);
		CHECK(dead || fd[3] >= 0);
		dev.dead = false;
		CHECK(finish());
	}
}

TEST(msix_table_and_its_neighbours)
{
	uint64_t val;
	prepare();
	CHECK_EQ(start(), 0);
	command(ON);
	memset(dev.memory[3] + FV_TABLE, 0x77, 0x1000);
	bus_write(&mmio, row(79) + 8, 4, 0x99);
	bus_read(&mmio, row(79) + 8, 4, &val);
	CHECK_EQ(val, 0x99);
	CHECK_EQ(dev.memory[3][FV_TABLE + 79 * 16 + 8], 0x77); // the device's own is the host's
	bus_read(&mmio, row(80), 4, &val);		       // other registers in that page
	CHECK_EQ(val, 0x77777777);
	bus_write(&mmio, row(80), 4, 1);
	CHECK_EQ(dev.memory[3][FV_TABLE + 80 * 16], 1);
	bus_read(&mmio, row(80) - 4, 8, &val); // half and half
	CHECK_EQ(val, ~UINT64_C(0));
	bus_write(&mmio, row(80) - 4, 8, 0);
	CHECK_EQ(dev.memory[3][FV_TABLE + 80 * 16], 1);
	bus_write(&mmio, bar_gpa(3) + FV_PBA, 8, ~UINT64_C(0));
	CHECK_EQ(dev.memory[3][FV_PBA], 0);
	CHECK(finish());
}

TEST(msi_vectors_differ_in_their_low_bits)
{
	int *fd = dev.fd[VFIO_PCI_MSI_IRQ_INDEX];
	prepare();
	CHECK_EQ(start(), 0);
	command(ON | PCI_COMMAND_INTX_DISABLE);
	config_write(FV_MSI + PCI_MSI_ADDRESS_LO, 4, 0xfee01003);
	CHECK_EQ(config_read(FV_MSI + PCI_MSI_ADDRESS_LO, 4), 0xfee01000);
	config_write(FV_MSI + PCI_MSI_ADDRESS_HI, 4, 0);
	config_write(FV_MSI + PCI_MSI_DATA_64, 2, 0x4043);
	config_write(FV_MSI + PCI_MSI_FLAGS, 2, PCI_MSI_FLAGS_ENABLE | 1 << 4); // two of four
	CHECK(fd[0] >= 0 && fd[1] >= 0);
	CHECK_EQ(fd[2], -1);
	CHECK_EQ(fake.irqfd_count, 2);
	const uint32_t gsi = (uint32_t)fake.irqfd[0].where;
	CHECK_EQ(fake_route(gsi)->u.msi.data, 0x4042);
	CHECK_EQ(fake_route(gsi + 1)->u.msi.data, 0x4043);
	CHECK_EQ(fake_route(gsi)->u.msi.address_lo, 0xfee01000);
	config_write(FV_MSI + PCI_MSI_DATA_64, 2, 0x4050); // moved to another CPU while enabled
	CHECK_EQ(fake_route(gsi)->u.msi.data, 0x4050);
	config_write(FV_MSI + PCI_MSI_MASK_64, 4, 2);
	CHECK_EQ(fake.irqfd_count, 1);
	config_write(FV_MSI + PCI_MSI_MASK_64, 4, 0);
	CHECK_EQ(fake.irqfd_count, 2);
	config_write(FV_MSI + PCI_MSI_FLAGS, 2, 0);
	CHECK_EQ(fake.irqfd_count, 0);
	CHECK_EQ(dev.disables[VFIO_PCI_MSI_IRQ_INDEX], 1);
	CHECK(finish());
}

TEST(msi_asked_for_more_than_there_are)
{
	prepare();
	CHECK_EQ(start(), 0);
	config_write(FV_MSI + PCI_MSI_ADDRESS_LO, 4, 0xfee00000);
	config_write(FV_MSI + PCI_MSI_FLAGS, 2, PCI_MSI_FLAGS_ENABLE | 7 << 4);
	CHECK(fake.irqfd_count <= 4);
	CHECK(finish());
}

TEST(intx_is_a_level_of_the_slots_pin)
{
	int *fd = dev.fd[VFIO_PCI_INTX_IRQ_INDEX];
	prepare();
	CHECK_EQ(start(), 0);
	CHECK_EQ(fd[0], -1);
	command(ON);
	CHECK(fd[0] >= 0);
	CHECK_EQ(fake.irqfd_count, 1);
	CHECK_EQ(fake.irqfd[0].fd, fd[0]);
	CHECK_EQ(fake.irqfd[0].where, PINS + 1);
	CHECK(dev.unmask_fd >= 0 && dev.unmask_fd != fd[0]);
	command(ON | PCI_COMMAND_INTX_DISABLE);
	CHECK_EQ(fd[0], -1);
	CHECK_EQ(fake.irqfd_count, 0);
	command(ON);
	config_write(FV_MSIX + PCI_MSIX_FLAGS, 2, 0x8000); // one kind at a time
	CHECK_EQ(fd[0], -1);
	config_write(FV_MSIX + PCI_MSIX_FLAGS, 2, 0);
	CHECK(fd[0] >= 0);
	command(0);
	CHECK_EQ(fd[0], -1);
	CHECK(finish());
}

TEST(intx_of_a_device_that_takes_no_eventfd_to_unmask)
{
	uint64_t val;
	prepare();
	dev.refuses_unmask_fd = true;
	CHECK_EQ(start(), 0);
	command(ON);
	CHECK_EQ(fake.irqfd_count, 0); // not KVM's, but the loop's
	CHECK_EQ(fv_slots(), 3);
	const int level = dev.fd[VFIO_PCI_INTX_IRQ_INDEX][0];
	fd_event_signal(level);
	CHECK(loop_once(&loop, 1000) > 0);
	CHECK_EQ(fake.pin[PINS + 1], 1);
	CHECK_EQ(fv_slots(), 0); // so that the handler's first access is seen
	CHECK_EQ(dev.unmasks, 0);
	bus_read(&mmio, bar_gpa(0), 4, &val);
	CHECK_EQ(fake.pin[PINS + 1], 0);
	CHECK_EQ(dev.unmasks, 1);
	CHECK_EQ(fv_slots(), 3);
	// Raised when it is switched off: the pin does not stay.
	fd_event_signal(level);
	CHECK(loop_once(&loop, 1000) > 0);
	command(ON | PCI_COMMAND_INTX_DISABLE);
	CHECK_EQ(fake.pin[PINS + 1], 0);
	CHECK_EQ(fv_slots(), 3);
	fd_event_signal(level);
	CHECK_EQ(loop_once(&loop, 0), 0);
	CHECK_EQ(dev.unmasks, 1);
	CHECK(finish());
}

// ---- death ------------------------------------------------------------------------------------------------------

static bool is_dead(void)
{
	uint64_t val = 0;
	const uint64_t bar1 = WIN32 + 0x20000;
	bus_read(&mmio, bar1, 4, &val);
	config_write(FV_VNDR + 4, 4, 0);
	config_write(FV_MSIX + PCI_MSIX_FLAGS, 2, 0x8000);
	return val == 0xffffffff && config_read(0, 4) == 0xffffffff && config_read(0x100, 4) == 0xffffffff &&
	       fv_slots() == 0 && fake.irqfd_count == 0;
}

TEST(error_interrupt)
{
	prepare();
	dev.refuses_unmask_fd = true;
	CHECK_EQ(start(), 0);
	command(ON);
	fd_event_signal(dev.fd[VFIO_PCI_INTX_IRQ_INDEX][0]); // with its pin held
	CHECK(loop_once(&loop, 1000) > 0);
	CHECK_EQ(fake.pin[PINS + 1], 1);
	CHECK(dev.fd[VFIO_PCI_ERR_IRQ_INDEX][0] >= 0);
	fd_event_signal(dev.fd[VFIO_PCI_ERR_IRQ_INDEX][0]);
	CHECK(loop_once(&loop, 1000) > 0);
	CHECK(is_dead());
	CHECK_EQ(fake.pin[PINS + 1], 0);
	CHECK_EQ(dev.closes, 0);
	pci_host_reset(&host);
	CHECK(is_dead()); // for good
	CHECK_EQ(dev.resets, 0);
	CHECK(finish());
	CHECK_EQ(dev.closes, 1);
}

TEST(request_interrupt_gives_the_device_back)
{
	prepare();
	dev.link.pins_memory = true;
	CHECK_EQ(start(), 0);
	command(ON);
	fd_event_signal(dev.fd[VFIO_PCI_REQ_IRQ_INDEX][0]);
	CHECK(loop_once(&loop, 1000) > 0);
	CHECK_EQ(dev.closes, 1);
	CHECK_EQ(dev.dma_count, 0);
	CHECK(is_dead());
	pci_host_reset(&host);
	CHECK(is_dead());
	CHECK(finish());
	CHECK_EQ(dev.closes, 1);
}

#define HOTPLUG 0x604
#define SLOT	2u // slot 1's bit

static void raise_nothing(void *owner)
{
	(void)owner;
}

static int start_hotplug(void)
{
	const struct pci_hotplug_place place = { .bus = &pio, .at = HOTPLUG, .raise = raise_nothing };
	int rc = start();
	return rc < 0 ? rc : pci_hotplug_start(&hotplug, &host, &place, &loop, &err);
}

static uint64_t hotplug_read(void)
{
	uint64_t val;
	bus_read(&pio, HOTPLUG, 4, &val);
	return val;
}

static bool nothing_decodes(void)
{
	for (unsigned i = 0; i < PCI_BARS; i++)
		if (func->bar[i].mapped)
			return false;
	return true;
}

TEST(request_interrupt_has_the_guest_eject_it)
{
	prepare();
	dev.link.pins_memory = true;
	CHECK_EQ(start_hotplug(), 0);
	command(ON);
	const uint64_t bar3 = bar_gpa(3);
	for (unsigned i = 0; i < 2; i++) { // it is asked once
		fd_event_signal(dev.fd[VFIO_PCI_REQ_IRQ_INDEX][0]);
		while (loop_once(&loop, 0) > 0)
			;
		CHECK_EQ(dev.closes, 0);
		CHECK(shown_at(bar3));
		CHECK_EQ(hotplug_read(), i ? 0 : SLOT);
	}
	bus_write(&pio, HOTPLUG, 4, ~UINT64_C(0) & ~SLOT); // other slots
	CHECK_EQ(dev.closes, 0);
	bus_write(&pio, HOTPLUG, 4, SLOT);
	CHECK_EQ(dev.closes, 1);
	CHECK_EQ(dev.dma_count, 0);
	CHECK(is_dead() && nothing_decodes());
	CHECK_EQ(loop_once(&loop, 200), 0); // and no timer
	for (unsigned i = 0; i < 3; i++)
		bus_write(&pio, HOTPLUG, 4, ~UINT64_C(0));
	CHECK_EQ(dev.closes, 1);
	pci_host_reset(&host);
	CHECK(is_dead());
	CHECK(finish());
	CHECK_EQ(dev.closes, 1);
}

TEST(guest_that_ejects_too_late)
{
	prepare();
	dev.link.pins_memory = true;
	CHECK_EQ(start_hotplug(), 0);
	command(ON);
	fd_event_signal(dev.fd[VFIO_PCI_REQ_IRQ_INDEX][0]);
	while (dev.closes == 0 && loop_once(&loop, 1000) > 0)
		;
	CHECK_EQ(dev.closes, 1);
	CHECK(is_dead());
	bus_write(&pio, HOTPLUG, 4, SLOT);
	CHECK(is_dead() && nothing_decodes());
	CHECK(finish());
	CHECK_EQ(dev.closes, 1);
}

TEST(guest_that_is_reset_instead)
{
	prepare();
	dev.link.pins_memory = true;
	CHECK_EQ(start_hotplug(), 0);
	command(ON);
	fd_event_signal(dev.fd[VFIO_PCI_REQ_IRQ_INDEX][0]);
	CHECK(loop_once(&loop, 1000) > 0);
	CHECK_EQ(dev.closes, 0);
	pci_host_reset(&host);
	CHECK_EQ(dev.closes, 1);
	CHECK(is_dead());
	CHECK(finish());
}

TEST(guest_that_ejects_unasked)
{
	prepare();
	dev.link.pins_memory = true;
	CHECK_EQ(start_hotplug(), 0);
	command(ON);
	const unsigned before = dev.resets;
	bus_write(&pio, HOTPLUG, 4, ~UINT64_C(0));
	CHECK_EQ(dev.resets, before + 1);
	CHECK_EQ(dev.closes, 0);
	CHECK(nothing_decodes() && fv_slots() == 0);
	CHECK_EQ(config_read(PCI_COMMAND, 2), 0);
	CHECK_EQ(config_read(0, 4), 0x10d38086); // it stays, and may be taken again
	command(ON);
	CHECK_EQ(fv_slots(), 3);
	fd_event_signal(dev.fd[VFIO_PCI_REQ_IRQ_INDEX][0]);
	CHECK(loop_once(&loop, 1000) > 0);
	bus_write(&pio, HOTPLUG, 4, SLOT);
	CHECK_EQ(dev.closes, 1);
	CHECK(finish());
}

// A server's link has a thread and sources in the loop: whichever thread holds the lock may not close it while they are at work.
TEST(request_interrupt_is_not_for_servers)
{
	prepare();
	CHECK_EQ(start(), 0);
	command(ON);
	CHECK(dev.fd[VFIO_PCI_ERR_IRQ_INDEX][0] >= 0);
	CHECK_EQ(dev.fd[VFIO_PCI_REQ_IRQ_INDEX][0], -1);
	CHECK(finish());
}

// B20: the page behind a mapped BAR is gone when a vCPU touches it.
TEST(memory_of_a_bar_that_is_lost)
{
	prepare();
	CHECK_EQ(start(), 0);
	command(ON);
	CHECK_EQ(fv_slots(), 3);
	CHECK(!bus_fault(&mmio, 0x1000)); // not this function's
	CHECK(!bus_fault(&mmio, ECAM));
	CHECK(bus_fault(&mmio, bar_gpa(3) + 0x3004));
	CHECK(is_dead());
	CHECK(finish());
}

static void dies(void)
{
	dev.dead = true;
	dev.link.events->died(dev.link.owner, "it is gone");
}

static int returns(void)
{
	struct err e;
	dev.dead = false;
	dev.dma_count = 0; // of the connection before
	memset(dev.fd[VFIO_PCI_MSIX_IRQ_INDEX], 0xff, sizeof(dev.fd[0]));
	return dev.link.events->returned(dev.link.owner, &e);
}

// The guest keeps what it has set up of the configuration space, whether the device has its state or not.
TEST(carrier_that_dies_and_returns)
{
	const uint64_t row = FV_TABLE;
	for (unsigned kept = 0; kept < 2; kept++) {
		prepare();
		CHECK_EQ(start(), 0);
		command(ON);
		config_write(PCI_BASE_ADDRESS_0, 4, bar_gpa(0) + 0x100000);
		const uint64_t home = bar_gpa(0);
		config_write(FV_MSIX + PCI_MSIX_FLAGS, 2, 0x8000);
		bus_write(&mmio, bar_gpa(3) + row, 4, 0xfee00000);
		bus_write(&mmio, bar_gpa(3) + row + 12, 4, 0);
		const unsigned resets = dev.resets;
		for (unsigned round = 0; round < 3; round++) {
			dies();
			CHECK(is_dead());
			config_write(FV_MSIX + PCI_MSIX_FLAGS, 2, 0x4000); // nobody is there to hear it
			if (!kept)
				dev.config[PCI_COMMAND] = 0;
			CHECK_EQ(returns(), 0);
			CHECK_EQ(config_read(0, 4), 0x10d38086);
			CHECK_EQ(dev.resets - resets, kept ? 0 : round + 1);
			CHECK_EQ(config_read(PCI_COMMAND, 2), ON);
			CHECK_EQ(dev.config[PCI_COMMAND], ON);
			CHECK_EQ(config_read(FV_MSIX + PCI_MSIX_FLAGS, 2), 0x8000 | (FV_MSIX_COUNT - 1));
			CHECK_EQ(dev.config[FV_MSIX + PCI_MSIX_FLAGS + 1], 0x80);
			CHECK(dev.fd[VFIO_PCI_MSIX_IRQ_INDEX][0] >= 0);
			CHECK_EQ(dev.dma_count, 2);
			CHECK_EQ(fv_slots(), 3);
			CHECK(shown_at(home));
		}
		CHECK(finish());
	}
}

// A reset while it is dead is a reset of the one that returns, also if that kept its state.
TEST(carrier_that_returns_after_a_reset_of_the_guest)
{
	prepare();
	CHECK_EQ(start(), 0);
	command(ON);
	dies();
	pci_host_reset(&host);
	CHECK_EQ(dev.resets, 0);
	CHECK_EQ(returns(), 0);
	CHECK_EQ(dev.resets, 1);
	CHECK_EQ(config_read(PCI_COMMAND, 2), 0);
	CHECK_EQ(dev.config[PCI_COMMAND], 0);
	command(ON);
	CHECK_EQ(fv_slots(), 3);
	CHECK(finish());
}

TEST(carrier_that_returns_as_another_device)
{
	static const struct {
		unsigned at;
		uint8_t val;
	} others[] = { { PCI_DEVICE_ID, 0xd4 },		{ PCI_CLASS_REVISION + 3, 1 },
		       { PCI_SUBSYSTEM_VENDOR_ID, 1 },	{ FV_MSIX + PCI_MSIX_FLAGS, FV_MSIX_COUNT },
		       { FV_MSIX + PCI_MSIX_PBA, 4 },	{ FV_MSI, 0 },
		       { FV_MSIX + PCI_MSIX_TABLE, 2 }, { FV_PM, 0 } };
	for (unsigned i = 0; i < ARRAY_LEN(others); i++) {
		prepare();
		CHECK_EQ(start(), 0);
		command(ON);
		dies();
		dev.config[others[i].at] = others[i].val;
		CHECK_EQ(returns(), -ENODEV);
		CHECK(is_dead());
		CHECK_EQ(dev.dma_count, 0);
		CHECK(finish());
	}
}

// What fails on the way leaves it dead, and the next one is as good as ever.
TEST(carrier_that_fails_while_it_returns)
{
	prepare();
	CHECK_EQ(start(), 0);
	command(ON);
	dies();
	dev.dma_fails_at = (int)dev.dma_calls + 2;
	CHECK_EQ(returns(), -EAGAIN);
	CHECK(is_dead());
	CHECK_EQ(dev.dma_count, 0);
	dev.reset_fails = true;
	dev.config[PCI_COMMAND] = 0;
	CHECK_EQ(returns(), -EAGAIN);
	CHECK(is_dead());
	dev.fails_access = true;
	CHECK_EQ(returns(), -EAGAIN);
	dev.fails_access = dev.reset_fails = false;
	CHECK_EQ(returns(), 0);
	CHECK_EQ(config_read(PCI_COMMAND, 2), ON);
	CHECK_EQ(fv_slots(), 3);
	CHECK(finish());
}

// ---- plugged in anew --------------------------------------------------------------------------------------------

static int returned;

static void *return_run(void *arg)
{
	(void)arg;
	returned = returns();
	return NULL;
}

// Begins to return, and comes to the point where the guest has to look.
static bool begins_to_return(void)
{
	dev.config[PCI_COMMAND] = 0;
	dev.has_thread = pthread_create(&dev.thread, NULL, return_run, NULL) == 0;
	return dev.has_thread && loop_once(&loop, 10000) > 0;
}

static int ends_to_return(void)
{
	pthread_join(dev.thread, NULL);
	dev.has_thread = false;
	return returned;
}

static int start_replug(void)
{
	prepare();
	dev.link.replug = true;
	guest_ms = 20000;
	return start_hotplug();
}

TEST(carrier_that_returns_without_its_state_is_a_new_one)
{
	CHECK_EQ(start_replug(), 0);
	const uint64_t home = bar_gpa(0);
	for (unsigned round = 0; round < 3; round++) {
		command(ON);
		config_write(PCI_BASE_ADDRESS_0, 4, home + 0x100000);
		config_write(FV_MSIX + PCI_MSIX_FLAGS, 2, 0x8000);
		dies();
		CHECK(is_dead());
		CHECK_EQ(hotplug_read(), 0); // it may come back as it was
		CHECK(begins_to_return());
		CHECK(is_dead());
		bus_write(&pio, HOTPLUG, 4, 1); // a look of which nobody spoke
		CHECK(is_dead());
		CHECK_EQ(hotplug_read(), 1);
		CHECK(is_dead());
		bus_write(&pio, HOTPLUG, 4, 1);
		CHECK_EQ(ends_to_return(), 0);
		CHECK_EQ(config_read(0, 4), 0x10d38086);
		CHECK_EQ(config_read(PCI_COMMAND, 2), 0);
		CHECK_EQ(config_read(FV_MSIX + PCI_MSIX_FLAGS, 2), FV_MSIX_COUNT - 1);
		CHECK_EQ(bar_gpa(0), home);
		CHECK(nothing_decodes() && fv_slots() == 0 && fake.irqfd_count == 0);
		CHECK_EQ(dev.dma_count, 2);
		CHECK(loop_once(&loop, 1000) > 0);
		CHECK_EQ(hotplug_read(), 1);
		bus_write(&pio, HOTPLUG, 4, 1);
		CHECK_EQ(config_read(0, 4), 0x10d38086);
		command(ON);
		CHECK(shown_at(home));
	}
	CHECK(finish());
}

TEST(carrier_that_returns_with_its_state_goes_on_without_a_word)
{
	CHECK_EQ(start_replug(), 0);
	command(ON);
	dies();
	CHECK_EQ(returns(), 0);
	CHECK_EQ(hotplug_read(), 0);
	CHECK_EQ(config_read(PCI_COMMAND, 2), ON);
	CHECK_EQ(fv_slots(), 3);
	CHECK(finish());
}

TEST(guest_that_does_not_look)
{
	prepare();
	dev.link.replug = true;
	CHECK_EQ(start_hotplug(), 0);
	command(ON);
	dies();
	dev.config[PCI_COMMAND] = 0;
	CHECK_EQ(returns(), 0); // as after a reset
	CHECK_EQ(config_read(PCI_COMMAND, 2), ON);
	CHECK_EQ(fv_slots(), 3);
	CHECK_EQ(hotplug_read(), 1); // too late
	bus_write(&pio, HOTPLUG, 4, 1);
	CHECK_EQ(config_read(PCI_COMMAND, 2), ON);
	CHECK(finish());
}

TEST(guest_that_is_reset_instead_of_looking)
{
	CHECK_EQ(start_replug(), 0);
	command(ON);
	dies();
	CHECK(begins_to_return());
	pci_host_reset(&host);
	CHECK_EQ(ends_to_return(), 0);
	CHECK_EQ(config_read(0, 4), 0x10d38086);
	CHECK_EQ(config_read(PCI_COMMAND, 2), 0);
	CHECK(finish());
}

TEST(machine_that_ends_before_the_guest_looks)
{
	CHECK_EQ(start_replug(), 0);
	command(ON);
	dies();
	CHECK(begins_to_return());
	CHECK(finish()); // whose close() waits for the thread
	CHECK_EQ(returned, -ECANCELED);
}

TEST(carrier_that_is_gone_for_good)
{
	CHECK_EQ(start_replug(), 0);
	command(ON);
	dies();
	dev.link.events->gone(dev.link.owner);
	CHECK_EQ(hotplug_read(), 1);
	CHECK(!nothing_decodes());
	bus_write(&pio, HOTPLUG, 4, 1);
	CHECK(is_dead() && nothing_decodes());
	CHECK(finish());

	prepare(); // one that is reset, and not plugged in anew
	CHECK_EQ(start_hotplug(), 0);
	command(ON);
	dies();
	dev.link.events->gone(dev.link.owner);
	CHECK_EQ(hotplug_read(), 0);
	CHECK(is_dead());
	CHECK(finish());
}
