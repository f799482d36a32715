// SPDX-License-Identifier: BSD-2-Clause
// The vfio-user server, told what a client says: conversations with a PCI function of BARs, doorbells and interrupts, and with a virtio
// device behind the same messages.
#include "tests/unit/vfio_user_client.h"
#include "vmm/base/log.h"
#include "vmm/base/virtio_pci_regs.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/pci_regs.h>
#include <linux/virtio_ring.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define VECTORS 3
#define RAM_LEN 0x20000u

static int64_t now_us; // 0: the clock is the real one

int clock_gettime(clockid_t id, struct timespec *ts)
{
	if (id != CLOCK_MONOTONIC || !now_us)
		return (int)syscall(SYS_clock_gettime, id, ts);
	*ts = (struct timespec){ .tv_sec = now_us / 1000000, .tv_nsec = now_us % 1000000 * 1000 };
	return 0;
}

// ---- a function: BAR 0 of memory, a page of it mapped, with two doorbells; BAR 2 of ports; BAR 4 for MSI-X ----------

struct function {
	uint64_t reg;
	unsigned rung[2], resets, drains, memory_changes, attached, gone;
};

static struct function fn;

static uint64_t fn_read(struct pdev *p, unsigned bar, uint64_t offset, unsigned size)
{
	(void)p;
	return bar == 2 ? 0x40 + offset : fn.reg >> 8 * (offset % 8) & size_mask(size);
}

static void fn_write(struct pdev *p, unsigned bar, uint64_t offset, unsigned size, uint64_t val)
{
	(void)p;
	(void)offset;
	if (bar == 0)
		fn.reg = val | (uint64_t)size << 56;
}

static void fn_doorbell(struct pdev *p, unsigned index)
{
	(void)p;
	fn.rung[index]++;
}

static void fn_reset(struct pdev *p)
{
	(void)p;
	fn.resets++;
}

static void fn_drain(struct pdev *p)
{
	(void)p;
	fn.drains++;
}

static void fn_memory_changed(struct pdev *p)
{
	(void)p;
	fn.memory_changes++;
}

static void fn_attached(struct pdev *p, bool on)
{
	(void)p;
	*(on ? &fn.attached : &fn.gone) += 1;
}

static const struct pdev_ops fn_ops = {
	.bar_read = fn_read,
	.bar_write = fn_write,
	.doorbell = fn_doorbell,
	.reset = fn_reset,
	.drain = fn_drain,
	.memory_changed = fn_memory_changed,
	.attached = fn_attached,
};

static const struct vdev_ops pci_ops = { .program = "test", .pci = &fn_ops };

static void function_open(void)
{
	struct err e;
	log_init("test", LOG_ERROR);
	d = (struct vdev){ .ops = &pci_ops };
	fn = (struct function){ 0 };
	if (loop_init(&d.loop) < 0 || pdev_create(&d.pci, &d, &fn_ops, &e) < 0)
		abort();
	pdev_set_identity(d.pci, 0x1234, 0x5678, 0xff0000, 7);
	pdev_add_bar(d.pci, 0, 0x2000, false);
	d.pci->bar[0].map_fd = memfd_create("bar", MFD_CLOEXEC);
	d.pci->bar[0].map_offset = d.pci->bar[0].map_len = 0x1000;
	pdev_add_io_bar(d.pci, 2, 16);
	pdev_add_bar(d.pci, 4, 0x1000, true);
	pdev_add_intx(d.pci);
	pdev_add_msix(d.pci, VECTORS, 4, 0, 0x800);
	pdev_add_doorbell(d.pci, 0, 0x10, 4);
	pdev_add_doorbell(d.pci, 0, 0x20, 0);
	client_connect();
}

static void function_close(void)
{
	client_leave();
	pdev_destroy(d.pci);
	loop_destroy(&d.loop);
}

// ---- version --------------------------------------------------------------------------------------------------------

TEST(version_is_agreed_on)
{
	function_open();
	CHECK_EQ(version("{\"capabilities\":{\"max_msg_fds\":4}}"), 0);
	uint16_t minor;
	memcpy(&minor, a.bytes + 2, 2);
	CHECK_EQ(minor, 1);
	const char *text = (const char *)a.bytes + 4;
	CHECK_EQ(text[a.h.size - 16 - 4 - 1], 0);
	struct vfio_user_caps caps;
	CHECK(!vfio_user_caps_read(&caps, text, a.h.size - 20));
	CHECK_EQ(caps.max_data_xfer_size, 4096);
	CHECK_EQ(caps.max_msg_fds, 16);
	CHECK(!caps.write_multiple && !caps.twin_socket); // nobody proposed it
	CHECK_EQ(version(NULL), EPROTO);		  // once
	CHECK(!alive());
	function_close();

	function_open();
	CHECK_EQ(version(NULL), 0);
	CHECK(alive());
	function_close();
}

TEST(version_that_is_none_ends_the_connection)
{
	static const char *const bad[] = { "",
					   "{",
					   "[]",
					   "{\"capabilities\":7}",
					   "{\"capabilities\":{\"max_msg_fds\":\"8\"}}",
					   "{\"capabilities\":{\"max_msg_fds\":-1}}",
					   "{\"capabilities\":{\"max_data_xfer_size\":12}}" };
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		function_open();
		int rc = version(bad[i]);
		CHECK(i == 0 ? rc == 0 : rc == EINVAL);
		CHECK_EQ(alive(), i == 0);
		function_close();
	}
	function_open();
	uint8_t major[4] = { 1, 0, 0, 0 };
	CHECK_EQ(ask(VFIO_USER_VERSION, major, 4), EPROTO);
	CHECK(!alive());
	function_close();
	function_open();
	CHECK_EQ(get(CONFIG, 0, 4), UINT64_MAX); // before it
	CHECK(!alive());
	function_close();
}

// ---- framing --------------------------------------------------------------------------------------------------------

TEST(what_is_no_message)
{
	const struct vfio_user_header bad[] = {
		{ .command = VFIO_USER_DEVICE_RESET, .size = 15 },
		{ .command = VFIO_USER_DEVICE_RESET, .size = 0 },
		{ .command = VFIO_USER_DEVICE_RESET, .size = 17 },
		{ .command = VFIO_USER_DEVICE_RESET, .size = UINT32_MAX },
		{ .command = VFIO_USER_DEVICE_RESET, .size = 16, .flags = VFIO_USER_REPLY },
		{ .command = VFIO_USER_DEVICE_RESET, .size = 16, .flags = 0x40 },
		{ .command = VFIO_USER_DEVICE_RESET, .size = 16, .flags = VFIO_USER_ERROR },
		{ .command = VFIO_USER_DMA_READ, .size = 32 },
		{ .command = VFIO_USER_DMA_MAP, .size = 47 },
		{ .command = VFIO_USER_REGION_WRITE, .size = 16 + 16 + 4097 },
		{ .command = 99, .size = 16 + 4097 },
	};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		function_open();
		hello();
		CHECK_EQ(write(client, &bad[i], sizeof(bad[i])), sizeof(bad[i]));
		CHECK(!alive());
		CHECK_EQ(fn.resets, 0);
		function_close();
	}
}

TEST(unknown_commands_are_answered)
{
	function_open();
	hello();
	uint8_t bytes[64] = { 0 };
	CHECK_EQ(ask(99, bytes, sizeof(bytes)), EOPNOTSUPP);
	CHECK_EQ(ask(VFIO_USER_DIRTY_PAGES, bytes, 8), EOPNOTSUPP);
	CHECK_EQ(ask(0, bytes, 0), EOPNOTSUPP);
	CHECK(alive());
	function_close();
}

TEST(no_reply_means_none)
{
	function_open();
	hello();
	say(VFIO_USER_DEVICE_RESET, NULL, 0, NULL, 0, VFIO_USER_NO_REPLY);
	say(99, NULL, 0, NULL, 0, VFIO_USER_NO_REPLY);
	CHECK_EQ(hear(), -1);
	CHECK_EQ(fn.resets, 1);
	CHECK(alive());
	function_close();
}

TEST(a_message_in_pieces_and_one_that_never_ends)
{
	function_open();
	hello();
	struct vfio_user_header h = { .id = 0x4711, .command = VFIO_USER_DEVICE_RESET, .size = 16 };
	for (size_t i = 0; i < sizeof(h); i++) {
		CHECK_EQ(write(client, (uint8_t *)&h + i, 1), 1);
		CHECK(alive());
	}
	CHECK_EQ(hear(), 0);
	CHECK_EQ(fn.resets, 1);
	CHECK_EQ(write(client, &h, 5), 5);
	int ms = -1;
	turn();
	CHECK(carrier_vfio_user.alive(session, &ms));
	CHECK(ms > 0 && ms <= DEADLINE_CONTROL_MS);
	function_close();
}

TEST(descriptors_where_none_are_due)
{
	function_open();
	hello();
	FD_AUTO one = fd_eventfd();
	const int fds[] = { one, one };
	say(VFIO_USER_DEVICE_RESET, NULL, 0, fds, 2, 0);
	CHECK(!alive());
	CHECK_EQ(fn.resets, 0);
	function_close();
	function_open();
	hello();
	struct vfio_user_dma_map m = { sizeof(m), 3, 0, 0, 0x1000 };
	say(VFIO_USER_DMA_MAP, &m, sizeof(m), fds, 2, 0);
	CHECK(!alive());
	function_close();
}

TEST(who_does_not_read_is_left)
{
	function_open();
	hello();
	struct vfio_user_region_access m = { 0, 0, 4096 };
	for (unsigned i = 0; i < 4000 && alive(); i++)
		say(VFIO_USER_REGION_READ, &m, sizeof(m), NULL, 0, 0);
	CHECK(!alive());
	function_close();
}

// ---- the device -----------------------------------------------------------------------------------------------------

TEST(device_and_regions)
{
	function_open();
	hello();
	struct vfio_user_device_info i = { .argsz = sizeof(i) };
	CHECK_EQ(ask(VFIO_USER_DEVICE_GET_INFO, &i, sizeof(i)), 0);
	memcpy(&i, a.bytes, sizeof(i));
	CHECK_EQ(i.flags, VFIO_DEVICE_FLAGS_RESET | VFIO_DEVICE_FLAGS_PCI);
	CHECK_EQ(i.num_regions, VFIO_PCI_NUM_REGIONS);
	CHECK_EQ(i.num_irqs, VFIO_PCI_NUM_IRQS);
	i.argsz = 15;
	CHECK_EQ(ask(VFIO_USER_DEVICE_GET_INFO, &i, sizeof(i)), EINVAL);
	const uint64_t sizes[VFIO_PCI_NUM_REGIONS] = { 0x2000, 0, 16, 0, 0x1000, 0, 0, 256, 0 };
	for (unsigned k = 0; k < VFIO_PCI_NUM_REGIONS; k++) {
		struct vfio_user_region_info r = { .argsz = sizeof(r), .index = k };
		CHECK_EQ(ask(VFIO_USER_DEVICE_GET_REGION_INFO, &r, sizeof(r)), 0);
		CHECK_EQ(a.fds.count, 0);
		memcpy(&r, a.bytes, sizeof(r));
		CHECK_EQ(r.size, sizes[k]);
		CHECK_EQ(r.index, k);
		CHECK_EQ(r.argsz, k == 0 ? 64 : 32);
		CHECK_EQ(r.flags, k == 0 ? 15 : sizes[k] ? 3 : 0);
	}
	struct vfio_user_region_info r = { .argsz = 64 };
	CHECK_EQ(ask(VFIO_USER_DEVICE_GET_REGION_INFO, &r, sizeof(r)), 0);
	CHECK_EQ(a.h.size, 16 + 64);
	CHECK_EQ(a.fds.count, 1);
	struct vfio_region_info_cap_sparse_mmap sparse;
	uint64_t area[2];
	memcpy(&sparse, a.bytes + 32, sizeof(sparse));
	memcpy(area, a.bytes + 48, sizeof(area));
	CHECK_EQ(sparse.header.id, VFIO_REGION_INFO_CAP_SPARSE_MMAP);
	CHECK_EQ(sparse.nr_areas, 1);
	CHECK_EQ(area[0], 0x1000);
	CHECK_EQ(area[1], 0x1000);
	r = (struct vfio_user_region_info){ .argsz = 64, .index = VFIO_PCI_NUM_REGIONS };
	CHECK_EQ(ask(VFIO_USER_DEVICE_GET_REGION_INFO, &r, sizeof(r)), EINVAL);
	r = (struct vfio_user_region_info){ .argsz = 31 };
	CHECK_EQ(ask(VFIO_USER_DEVICE_GET_REGION_INFO, &r, sizeof(r)), EINVAL);
	function_close();
}

TEST(configuration_space)
{
	function_open();
	hello();
	CHECK_EQ(get(CONFIG, 0, 4), 0x56781234);
	CHECK_EQ(get(CONFIG, PCI_REVISION_ID, 1), 7);
	CHECK_EQ(put(CONFIG, 0, 4, 0), 0);
	CHECK_EQ(get(CONFIG, 0, 4), 0x56781234);
	// BARs answer with their size.
	CHECK_EQ(put(CONFIG, PCI_BASE_ADDRESS_0, 4, UINT32_MAX), 0);
	CHECK_EQ(get(CONFIG, PCI_BASE_ADDRESS_0, 4), 0xffffe000);
	CHECK_EQ(put(CONFIG, PCI_BASE_ADDRESS_2, 4, UINT32_MAX), 0);
	CHECK_EQ(get(CONFIG, PCI_BASE_ADDRESS_2, 4), 0xfffffff1);
	CHECK_EQ(put(CONFIG, PCI_BASE_ADDRESS_4, 8, UINT64_MAX), 0);
	CHECK_EQ(get(CONFIG, PCI_BASE_ADDRESS_4, 8), 0xfffffffffffff004);
	CHECK_EQ(put(CONFIG, PCI_COMMAND, 2, 0xffff), 0);
	CHECK_EQ(get(CONFIG, PCI_COMMAND, 2),
		 PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE);
	const unsigned cap = (unsigned)get(CONFIG, PCI_CAPABILITY_LIST, 1);
	CHECK_EQ(get(CONFIG, cap, 1), PCI_CAP_ID_MSIX);
	CHECK_EQ(get(CONFIG, cap + PCI_MSIX_FLAGS, 2), VECTORS - 1);
	CHECK_EQ(put(CONFIG, cap + PCI_MSIX_FLAGS, 2, 0xffff), 0);
	CHECK_EQ(get(CONFIG, cap + PCI_MSIX_FLAGS, 2), 0xc000 | (VECTORS - 1));
	// All of it at once, and beyond.
	CHECK_EQ(get_rc(CONFIG, 0, 256), 0);
	CHECK_EQ(get_rc(CONFIG, 0, 257), EINVAL);
	CHECK_EQ(get_rc(CONFIG, 256, 1), EINVAL);
	CHECK_EQ(get_rc(CONFIG, 0, 0), EINVAL);
	CHECK_EQ(get_rc(CONFIG, UINT64_MAX, 4), EINVAL);
	CHECK_EQ(ask(VFIO_USER_DEVICE_RESET, NULL, 0), 0);
	CHECK_EQ(get(CONFIG, PCI_COMMAND, 2), 0);
	CHECK_EQ(get(CONFIG, PCI_BASE_ADDRESS_0, 4), 0);
	CHECK_EQ(fn.resets, 1);
	function_close();
}

TEST(accesses_to_bars)
{
	function_open();
	hello();
	CHECK_EQ(put(0, 0x100, 4, 0xaabbccdd), 0);
	CHECK_EQ(fn.reg, UINT64_C(4) << 56 | 0xaabbccdd);
	CHECK_EQ(get(0, 0x101, 1), 0xcc);
	CHECK_EQ(get(0, 0x100, 2), 0xccdd);
	CHECK_EQ(get(2, 3, 1), 0x43);
	// What is not aligned comes in pieces that are.
	CHECK_EQ(put(0, 0x103, 2, 0x1234), 0);
	CHECK_EQ(fn.reg, UINT64_C(1) << 56 | 0x12);
	CHECK_EQ(put(0, 0x2000, 1, 0), EINVAL);
	CHECK_EQ(put(0, 0x1fff, 2, 0), EINVAL);
	CHECK_EQ(put(0, UINT64_MAX, 2, 0), EINVAL);
	CHECK_EQ(put(1, 0, 4, 0), EINVAL);
	CHECK_EQ(put(VFIO_PCI_ROM_REGION_INDEX, 0, 4, 0), EINVAL);
	CHECK_EQ(put(UINT32_MAX, 0, 4, 0), EINVAL);
	CHECK_EQ(get_rc(0, 0, 4097), EINVAL);
	CHECK_EQ(get_rc(0, 0, 4096), 0);
	CHECK_EQ(a.h.size, 16 + 16 + 4096);
	struct vfio_user_region_access m[2] = { { 0, 0, 8 } };
	CHECK_EQ(ask(VFIO_USER_REGION_WRITE, m, sizeof(m[0]) + 4), EINVAL); // fewer bytes than it says
	CHECK_EQ(ask(VFIO_USER_REGION_WRITE, m, sizeof(m)), EINVAL);	    // more
	function_close();
}

TEST(many_writes_in_a_message)
{
	function_open();
	hello();
	struct {
		struct vfio_user_write_multi m;
		struct vfio_user_write_one w[4];
	} s = { .m = { 4 } };
	for (unsigned i = 0; i < 4; i++)
		s.w[i] = (struct vfio_user_write_one){ .offset = 0x20, .count = 2 };
	CHECK_EQ(ask(VFIO_USER_REGION_WRITE_MULTI, &s, sizeof(s)), 0);
	CHECK_EQ(a.bytes[0], 4);
	CHECK_EQ(fn.rung[1], 4);
	s.w[2].count = 9;
	CHECK_EQ(ask(VFIO_USER_REGION_WRITE_MULTI, &s, sizeof(s)), 0);
	CHECK_EQ(a.bytes[0], 2); // that many were done
	s.m.count = 5;
	CHECK_EQ(ask(VFIO_USER_REGION_WRITE_MULTI, &s, sizeof(s)), EINVAL);
	s.m.count = UINT64_MAX / 24 + 2;
	CHECK_EQ(ask(VFIO_USER_REGION_WRITE_MULTI, &s, sizeof(s)), EINVAL);
	function_close();
}

// ---- doorbells ------------------------------------------------------------------------------------------------------

TEST(doorbells_by_eventfd_and_by_write)
{
	function_open();
	hello();
	struct vfio_user_region_io_fds q = { .argsz = 16 + 2 * 40 };
	CHECK_EQ(ask(VFIO_USER_DEVICE_GET_REGION_IO_FDS, &q, sizeof(q)), 0);
	CHECK_EQ(a.fds.count, 2);
	struct vfio_user_io_fd sub[2];
	memcpy(sub, a.bytes + 16, sizeof(sub));
	CHECK_EQ(sub[0].offset, 0x10);
	CHECK_EQ(sub[0].size, 4);
	CHECK_EQ(sub[1].offset, 0x20);
	CHECK_EQ(sub[1].size, 0);
	CHECK_EQ(sub[1].fd_index, 1);
	fd_event_signal(a.fds.fd[1]);
	turn();
	CHECK_EQ(fn.rung[1], 1);
	CHECK_EQ(fn.rung[0], 0);
	CHECK_EQ(put(0, 0x10, 4, 1), 0);
	CHECK_EQ(fn.rung[0], 1);
	CHECK_EQ(put(0, 0x10, 2, 1), 0); // not its size
	CHECK_EQ(fn.rung[0], 1);
	CHECK_EQ(put(0, 0x20, 1, 1), 0);
	CHECK_EQ(fn.rung[1], 2);
	// Too small a reply says how much it takes.
	q.argsz = 16 + 40;
	CHECK_EQ(ask(VFIO_USER_DEVICE_GET_REGION_IO_FDS, &q, sizeof(q)), 0);
	memcpy(&q, a.bytes, sizeof(q));
	CHECK_EQ(q.argsz, 96);
	CHECK_EQ(a.h.size, 32);
	CHECK_EQ(a.fds.count, 0);
	// None there.
	q = (struct vfio_user_region_io_fds){ .argsz = 4096, .index = 2 };
	CHECK_EQ(ask(VFIO_USER_DEVICE_GET_REGION_IO_FDS, &q, sizeof(q)), 0);
	memcpy(&q, a.bytes, sizeof(q));
	CHECK_EQ(q.count, 0);
	q = (struct vfio_user_region_io_fds){ .argsz = 4096, .index = 9 };
	CHECK_EQ(ask(VFIO_USER_DEVICE_GET_REGION_IO_FDS, &q, sizeof(q)), EINVAL);
	q = (struct vfio_user_region_io_fds){ .argsz = 4096, .flags = 1 };
	CHECK_EQ(ask(VFIO_USER_DEVICE_GET_REGION_IO_FDS, &q, sizeof(q)), EINVAL);
	q = (struct vfio_user_region_io_fds){ .argsz = 4 };
	CHECK_EQ(ask(VFIO_USER_DEVICE_GET_REGION_IO_FDS, &q, sizeof(q)), EINVAL);
	function_close();
}

TEST(a_client_gets_no_more_descriptors_than_it_takes_and_its_successor_others)
{
	function_open();
	CHECK_EQ(version("{}"), 0);
	struct vfio_user_region_io_fds q = { .argsz = 4096 };
	CHECK_EQ(ask(VFIO_USER_DEVICE_GET_REGION_IO_FDS, &q, sizeof(q)), 0);
	CHECK_EQ(a.fds.count, 1);
	FD_AUTO old = msg_fds_take_one(&a.fds);
	client_leave();
	client_connect();
	hello();
	fd_event_signal(old);
	turn();
	CHECK_EQ(fn.rung[0], 0);
	CHECK_EQ(ask(VFIO_USER_DEVICE_GET_REGION_IO_FDS, &q, sizeof(q)), 0);
	CHECK_EQ(a.fds.count, 2);
	function_close();
}

// ---- interrupts -----------------------------------------------------------------------------------------------------

TEST(which_interrupts_there_are)
{
	function_open();
	hello();
	const uint32_t want[VFIO_PCI_NUM_IRQS][2] = {
		{ 7, 1 }, { 0, 0 }, { 3, VECTORS }, { 0, 0 }, { 0, 0 }
	};
	for (unsigned k = 0; k < VFIO_PCI_NUM_IRQS; k++) {
		struct vfio_user_irq_info i = { .argsz = sizeof(i), .index = k };
		CHECK_EQ(ask(VFIO_USER_DEVICE_GET_IRQ_INFO, &i, sizeof(i)), 0);
		memcpy(&i, a.bytes, sizeof(i));
		CHECK_EQ(i.flags, want[k][0]);
		CHECK_EQ(i.count, want[k][1]);
	}
	struct vfio_user_irq_info i = { .argsz = sizeof(i), .index = VFIO_PCI_NUM_IRQS };
	CHECK_EQ(ask(VFIO_USER_DEVICE_GET_IRQ_INFO, &i, sizeof(i)), EINVAL);
	function_close();
}

TEST(msix_by_eventfd_without_losing_one)
{
	function_open();
	hello();
	FD_AUTO e0 = fd_eventfd();
	FD_AUTO e1 = fd_eventfd();
	const int both[] = { e0, e1 };
	pdev_interrupt(d.pci, 1); // before anybody listens
	pdev_interrupt(d.pci, VECTORS);
	CHECK_EQ(get(4, 0x800, 8), 2);
	CHECK(!pdev_msix_on(d.pci));
	CHECK_EQ(set_irqs(VFIO_PCI_MSIX_IRQ_INDEX, SET_EVENTFD, 0, 2, both, 2), 0);
	CHECK(pdev_msix_on(d.pci));
	CHECK(!fd_event_take(e0));
	CHECK(fd_event_take(e1));
	CHECK_EQ(get(4, 0x800, 8), 0);
	pdev_interrupt(d.pci, 0);
	CHECK(fd_event_take(e0));
	// Masked by the client, shown as pending, delivered when it unmasks.
	CHECK_EQ(set_irqs(VFIO_PCI_MSIX_IRQ_INDEX, VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_MASK, 0, 1,
			  NULL, 0),
		 0);
	pdev_interrupt(d.pci, 0);
	CHECK(!fd_event_take(e0));
	CHECK_EQ(get(4, 0x800, 4), 1);
	CHECK_EQ(set_irqs(VFIO_PCI_MSIX_IRQ_INDEX, VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK, 0, 1,
			  NULL, 0),
		 0);
	CHECK(fd_event_take(e0));
	// The client triggers one itself.
	struct {
		struct vfio_user_irq_set s;
		uint8_t which[VECTORS];
	} t = { { sizeof(t.s), VFIO_IRQ_SET_DATA_BOOL | VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_PCI_MSIX_IRQ_INDEX,
		  0, 2 },
		{ 0, 1 } };
	CHECK_EQ(ask(VFIO_USER_DEVICE_SET_IRQS, &t, sizeof(t.s) + 2), 0);
	CHECK(!fd_event_take(e0));
	CHECK(fd_event_take(e1));
	CHECK_EQ(ask(VFIO_USER_DEVICE_SET_IRQS, &t, sizeof(t.s) + 1), EINVAL);
	CHECK_EQ(ask(VFIO_USER_DEVICE_SET_IRQS, &t, sizeof(t.s) + 3), EINVAL);
	// What is disabled of another kind, which the device has none of, is not these.
	const uint32_t others[] = { VFIO_PCI_MSI_IRQ_INDEX, VFIO_PCI_ERR_IRQ_INDEX, VFIO_PCI_REQ_IRQ_INDEX };
	for (unsigned i = 0; i < ARRAY_LEN(others); i++)
		CHECK_EQ(set_irqs(others[i], SET_NONE, 0, 0, NULL, 0), 0);
	pdev_interrupt(d.pci, 1);
	CHECK(fd_event_take(e1));
	// One is taken back, then all.
	CHECK_EQ(set_irqs(VFIO_PCI_MSIX_IRQ_INDEX, SET_EVENTFD, 0, 1, NULL, 0), 0);
	pdev_interrupt(d.pci, 0);
	CHECK(!fd_event_take(e0));
	CHECK_EQ(set_irqs(VFIO_PCI_MSIX_IRQ_INDEX, SET_NONE, 0, 0, NULL, 0), 0);
	pdev_interrupt(d.pci, 1);
	CHECK(!fd_event_take(e1));
	CHECK(!pdev_msix_on(d.pci));
	function_close();
}

TEST(the_table_of_msix_is_kept)
{
	function_open();
	hello();
	CHECK_EQ(get(4, 12, 4), 1); // masked
	CHECK_EQ(put(4, 16, 8, 0xfee00000), 0);
	CHECK_EQ(get(4, 16, 8), 0xfee00000);
	CHECK_EQ(put(4, 16, 2, 0x1111), 0); // no register is that small
	CHECK_EQ(get(4, 16, 4), 0xfee00000);
	CHECK_EQ(get(4, 16 * VECTORS, 4), 0x0); // behind it: the function's own
	CHECK_EQ(put(4, 0x800, 8, UINT64_MAX), 0);
	CHECK_EQ(get(4, 0x800, 8), 0);
	CHECK_EQ(ask(VFIO_USER_DEVICE_RESET, NULL, 0), 0);
	CHECK_EQ(get(4, 16, 8), 0);
	function_close();
}

TEST(intx_is_a_level_that_masks_itself)
{
	function_open();
	hello();
	FD_AUTO e = fd_eventfd();
	FD_AUTO unmask = fd_eventfd();
	pdev_set_intx(d.pci, true);
	CHECK_EQ(get(CONFIG, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT, PCI_STATUS_INTERRUPT);
	CHECK_EQ(set_irqs(VFIO_PCI_INTX_IRQ_INDEX, SET_EVENTFD, 0, 1, &e, 1), 0);
	CHECK(fd_event_take(e));
	pdev_set_intx(d.pci, true);
	CHECK(!fd_event_take(e));
	// Unmasked while the level is high: again.
	CHECK_EQ(set_irqs(VFIO_PCI_INTX_IRQ_INDEX, VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK, 0, 1,
			  NULL, 0),
		 0);
	CHECK(fd_event_take(e));
	pdev_set_intx(d.pci, false);
	CHECK_EQ(set_irqs(VFIO_PCI_INTX_IRQ_INDEX, VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_UNMASK, 0,
			  1, &unmask, 1),
		 0);
	fd_event_signal(unmask);
	turn();
	CHECK(!fd_event_take(e));
	pdev_set_intx(d.pci, true);
	CHECK(fd_event_take(e));
	fd_event_signal(unmask);
	turn();
	CHECK(fd_event_take(e));
	// The driver's own switch.
	pdev_set_intx(d.pci, false);
	fd_event_signal(unmask);
	turn();
	CHECK_EQ(put(CONFIG, PCI_COMMAND, 2, PCI_COMMAND_INTX_DISABLE), 0);
	pdev_set_intx(d.pci, true);
	CHECK(!fd_event_take(e));
	CHECK_EQ(put(CONFIG, PCI_COMMAND, 2, 0), 0);
	CHECK(fd_event_take(e));
	CHECK_EQ(set_irqs(VFIO_PCI_INTX_IRQ_INDEX, SET_NONE, 0, 0, NULL, 0), 0);
	fd_event_signal(unmask);
	turn();
	CHECK(!fd_event_take(e));
	function_close();
}

TEST(set_irqs_that_makes_no_sense)
{
	function_open();
	hello();
	FD_AUTO e = fd_eventfd();
	FD_AUTO file = memory(4096);
	FD_AUTO null = open("/dev/null", O_WRONLY | O_CLOEXEC);
	const int two[] = { e, e };
	const uint32_t x = VFIO_PCI_MSIX_IRQ_INDEX;
	CHECK_EQ(set_irqs(5, SET_NONE, 0, 0, NULL, 0), EINVAL);
	CHECK_EQ(set_irqs(x, 0, 0, 1, NULL, 0), EINVAL);
	CHECK_EQ(set_irqs(x, SET_NONE | VFIO_IRQ_SET_DATA_BOOL, 0, 1, NULL, 0), EINVAL);
	CHECK_EQ(set_irqs(x, SET_NONE | VFIO_IRQ_SET_ACTION_MASK, 0, 1, NULL, 0), EINVAL);
	CHECK_EQ(set_irqs(x, SET_NONE | 0x40, 0, 1, NULL, 0), EINVAL);
	CHECK_EQ(set_irqs(x, SET_EVENTFD, 0, VECTORS + 1, NULL, 0), EINVAL);
	CHECK_EQ(set_irqs(x, SET_EVENTFD, VECTORS, 1, &e, 1), EINVAL);
	CHECK_EQ(set_irqs(x, SET_EVENTFD, UINT32_MAX, 2, two, 2), EINVAL);
	CHECK_EQ(set_irqs(x, SET_EVENTFD, 0, 1, two, 2), EINVAL);
	CHECK_EQ(set_irqs(x, SET_EVENTFD, 0, 2, two, 1), EINVAL);
	CHECK_EQ(set_irqs(x, SET_EVENTFD, 0, 0, NULL, 0), EINVAL);
	CHECK_EQ(set_irqs(x, SET_NONE, 0, 1, &e, 1), EINVAL);
	CHECK_EQ(set_irqs(VFIO_PCI_MSI_IRQ_INDEX, SET_EVENTFD, 0, 1, &e, 1), EINVAL);
	CHECK_EQ(set_irqs(x, VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_MASK, 0, 1, &e, 1), EOPNOTSUPP);
	CHECK_EQ(set_irqs(x, SET_EVENTFD, 0, 1, &file, 1), EBADF);
	CHECK_EQ(set_irqs(x, SET_EVENTFD, 0, 1, &null, 1), EBADF);
	CHECK(alive());
	function_close();
}

// ---- memory ---------------------------------------------------------------------------------------------------------

TEST(memory_of_the_guest)
{
	function_open();
	hello();
	FD_AUTO ram = memory(RAM_LEN);
	CHECK_EQ(map(0x10000, 0x10000, 3, ram, 0x10000), 0);
	CHECK_EQ(fn.memory_changes, 1);
	uint32_t v = 0x600df00d;
	CHECK_EQ(pdev_dma_write(d.pci, 0x10004, &v, 4), 0);
	CHECK_EQ(pread(ram, &v, 4, 0x10004), 4);
	CHECK_EQ(v, 0x600df00d);
	CHECK_EQ(pdev_dma_read(d.pci, 0x1fffe, &v, 4), -EFAULT);
	CHECK(pdev_memory(d.pci, 0x10000, 0x10000));
	CHECK(!pdev_memory(d.pci, 0x10000, 0x10001));
	CHECK_EQ(map(0x1f000, 0x2000, 3, ram, 0), EEXIST);
	CHECK_EQ(map(0x1f000, 0x2000, 3, -1, 0), EEXIST);
	// Not shared, or not for writing: known, and not used.
	CHECK_EQ(map(0x20000, 0x1000, 3, -1, 0), 0);
	CHECK_EQ(map(0x21000, 0x1000, 1, ram, 0), 0);
	CHECK(!pdev_memory(d.pci, 0x20000, 1) && !pdev_memory(d.pci, 0x21000, 1));
	CHECK_EQ(map(0x20000, 0x1000, 3, ram, 0), EEXIST);
	CHECK_EQ(unmap(0x20000, 0x2000, 0), ENOENT);
	CHECK_EQ(unmap(0x20000, 0x1000, 0), 0);
	CHECK_EQ(unmap(0x20000, 0x1000, 0), ENOENT);
	const unsigned drained = fn.drains;
	CHECK_EQ(unmap(0x10000, 0x10000, 0), 0);
	CHECK_EQ(a.h.size, 16 + 24);
	CHECK_EQ(fn.drains, drained + 1);
	CHECK(!pdev_memory(d.pci, 0x10000, 1));
	CHECK_EQ(map(0x10000, 0x10000, 3, ram, 0), 0);
	CHECK_EQ(unmap(0, 0, VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP), EOPNOTSUPP);
	CHECK_EQ(unmap(0, 0, VFIO_DMA_UNMAP_FLAG_ALL), 0);
	CHECK_EQ(d.mem.count, 0);
	function_close();
}

TEST(memory_that_is_none)
{
	function_open();
	hello();
	FD_AUTO ram = memory(RAM_LEN);
	FD_AUTO e = fd_eventfd();
	FD_AUTO dir = open("/", O_RDONLY | O_CLOEXEC);
	char path[64];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", ram);
	FD_AUTO readonly = open(path, O_RDONLY | O_CLOEXEC);
	CHECK_EQ(map(0, 0, 3, ram, 0), EINVAL);
	CHECK_EQ(map(1, 0x1000, 3, ram, 0), EINVAL);
	CHECK_EQ(map(0, 0x1001, 3, ram, 0), EINVAL);
	CHECK_EQ(map(0, 0x1000, 7, ram, 0), EINVAL);
	CHECK_EQ(map(UINT64_MAX - 0xfff, 0x1000, 3, ram, 0), EINVAL);
	CHECK_EQ(map(UINT64_MAX - 0xfff, 0x2000, 3, ram, 0), EINVAL);
	CHECK_EQ(map(0, 0x1000, 3, ram, RAM_LEN), ERANGE);
	CHECK_EQ(map(0, 0x1000, 3, ram, UINT64_MAX - 0xfff), ERANGE);
	CHECK_EQ(map(0, RAM_LEN + 0x1000, 3, ram, 0), ERANGE);
	CHECK_EQ(map(0, 0x1000, 3, e, 0), EBADF);
	CHECK_EQ(map(0, 0x1000, 3, dir, 0), EBADF);
	CHECK_EQ(map(0, 0x1000, 3, readonly, 0), EBADF);
	CHECK_EQ(d.mem.count, 0);
	struct vfio_user_dma_map m = { 8, 3, 0, 0, 0x1000 };
	CHECK_EQ(ask(VFIO_USER_DMA_MAP, &m, sizeof(m)), EINVAL);
	// As many as were promised, and no more.
	unsigned n = 0;
	while (map(n * UINT64_C(0x1000), 0x1000, 3, n % 2 ? -1 : ram, 0) == 0)
		n++;
	CHECK_EQ(a.h.error, ENOSPC);
	CHECK_EQ(n, GUEST_REGIONS_MAX);
	function_close();
}

TEST(a_client_leaves_and_the_next_finds_the_device_as_it_was)
{
	function_open();
	hello();
	FD_AUTO ram = memory(RAM_LEN);
	FD_AUTO e = fd_eventfd();
	CHECK_EQ(map(0, RAM_LEN, 3, ram, 0), 0);
	CHECK_EQ(set_irqs(VFIO_PCI_MSIX_IRQ_INDEX, SET_EVENTFD, 0, 1, &e, 1), 0);
	CHECK_EQ(put(CONFIG, PCI_COMMAND, 2, PCI_COMMAND_MEMORY), 0);
	client_leave();
	CHECK_EQ(fn.gone, 1);
	CHECK_EQ(d.mem.count, 0);
	pdev_interrupt(d.pci, 0);
	CHECK(!fd_event_take(e));
	client_connect();
	CHECK_EQ(fn.attached, 2);
	hello();
	CHECK_EQ(get(CONFIG, PCI_COMMAND, 2), PCI_COMMAND_MEMORY);
	CHECK_EQ(fn.resets, 0);
	CHECK_EQ(set_irqs(VFIO_PCI_MSIX_IRQ_INDEX, SET_EVENTFD, 0, 1, &e, 1), 0);
	CHECK(fd_event_take(e)); // raised while nobody was there
	function_close();
}

// ---- a virtio device behind it --------------------------------------------------------------------------------------

// Gives back every request, with its first byte as the length that it wrote.
static struct {
	unsigned starts, stops, kicks;
	uint8_t config[8];
	struct vq queue[2];
	size_t loaded;
	bool resumed;
} dev;

static int dev_start(struct vdev *v, uint64_t features)
{
	(void)v;
	(void)features;
	dev.starts++;
	return 0;
}

static void dev_stop(struct vdev *v)
{
	(void)v;
	dev.stops++;
}

static void dev_drain(struct vdev *v, struct vq *q)
{
	(void)v;
	(void)q;
}

static void dev_kick(struct vdev *v, struct vq *q)
{
	struct vq_chain c;
	struct iovec iov[4];
	(void)v;
	CHECK(dev.starts > dev.stops);
	dev.kicks++;
	dev.resumed = q->resumed;
	while (vq_pop(q, &c, iov, 4) > 0)
		vq_push(q, c.head, *(const uint8_t *)iov[0].iov_base);
	vq_publish(q);
}

static int dev_config_write(struct vdev *v, uint32_t off, const void *p, uint32_t len)
{
	(void)v;
	memcpy(dev.config + off, p, len);
	return 0;
}

static size_t dev_save(struct vdev *v, void *to)
{
	(void)v;
	memset(to, 7, 100);
	return 100;
}

static int dev_load(struct vdev *v, const void *from, size_t len)
{
	(void)v;
	dev.loaded = from && *(const uint8_t *)from == 7 ? len : 0;
	return 0;
}

static const struct vdev_ops virtio_ops = {
	.program = "test",
	.virtio_type = 2,
	.start = dev_start,
	.stop = dev_stop,
	.drain = dev_drain,
	.kick = dev_kick,
	.config_write = dev_config_write,
	.state_save = dev_save,
	.state_load = dev_load,
};

#define DESC  0x0000u
#define AVAIL 0x1000u
#define USED  0x2000u
#define DATA  0x3000u

static int ram_fd = -1;
static uint8_t *ram;

static void virtio_open(void)
{
	struct err e;
	log_init("test", LOG_ERROR);
	d = (struct vdev){ .ops = &virtio_ops,
			   .features = VQ_FEATURES,
			   .queue_count = 2,
			   .queue_size_max = 16,
			   .config = dev.config,
			   .config_len = sizeof(dev.config),
			   .queues = dev.queue };
	memset(&dev, 0, sizeof(dev));
	for (unsigned i = 0; i < 2; i++) {
		dev.queue[i].index = (uint16_t)i;
		dev.queue[i].call_fd = dev.queue[i].err_fd = -1;
	}
	ram_fd = memory(RAM_LEN);
	ram = mmap(NULL, RAM_LEN, PROT_READ | PROT_WRITE, MAP_SHARED, ram_fd, 0);
	if (loop_init(&d.loop) < 0 || carrier_vfio_user.prepare(&d, &e) < 0)
		abort();
	client_connect();
	hello();
	if (map(0, RAM_LEN, 3, ram_fd, 0) != 0)
		abort();
}

static void virtio_close(void)
{
	client_leave();
	virtio_fn_destroy(d.pci);
	munmap(ram, RAM_LEN);
	fd_close(&ram_fd);
	loop_destroy(&d.loop);
}

static void driver_start(uint16_t vector)
{
	put(0, VC_DEVICE_STATUS, 1, 0);
	put(0, VC_DEVICE_STATUS, 1, VS_ACKNOWLEDGE);
	put(0, VC_DEVICE_STATUS, 1, VS_ACKNOWLEDGE | VS_DRIVER);
	put(0, VC_DRIVER_FEATURE_SELECT, 4, 1);
	put(0, VC_DRIVER_FEATURE, 4, (VF_VERSION_1 | VF_RING_RESET) >> 32);
	put(0, VC_DEVICE_STATUS, 1, VS_ACKNOWLEDGE | VS_DRIVER | VS_FEATURES_OK);
	put(0, VC_QUEUE_SELECT, 2, 0);
	put(0, VC_QUEUE_SIZE, 2, 8);
	put(0, VC_QUEUE_MSIX_VECTOR, 2, vector);
	put(0, VC_QUEUE_DESC, 8, DESC);
	put(0, VC_QUEUE_DRIVER, 8, AVAIL);
	put(0, VC_QUEUE_DEVICE, 8, USED);
	put(0, VC_QUEUE_ENABLE, 2, 1);
	put(0, VC_DEVICE_STATUS, 1, VS_ACKNOWLEDGE | VS_DRIVER | VS_FEATURES_OK | VS_DRIVER_OK);
}

static void offer(void)
{
	struct vring_avail *avail = (struct vring_avail *)(void *)(ram + AVAIL);
	const struct vring_desc desc = { .addr = DATA, .len = 1, .flags = VRING_DESC_F_WRITE };
	memcpy(ram + DESC, &desc, sizeof(desc));
	avail->ring[avail->idx % 8] = 0;
	avail->idx++;
}

static uint16_t used_idx(void)
{
	return ((const struct vring_used *)(const void *)(ram + USED))->idx;
}

TEST(a_driver_lives_with_a_virtio_device)
{
	virtio_open();
	FD_AUTO e = fd_eventfd();
	CHECK_EQ(get(CONFIG, 0, 4), 0x10421af4);
	CHECK_EQ(get(CONFIG, PCI_CLASS_REVISION, 4), 0x01800001);
	CHECK_EQ(set_irqs(VFIO_PCI_MSIX_IRQ_INDEX, SET_EVENTFD, 1, 1, &e, 1), 0);
	driver_start(1);
	CHECK_EQ(get(0, VC_DEVICE_STATUS, 1), 15);
	CHECK_EQ(dev.starts, 1);
	offer();
	CHECK_EQ(put(0, VP_NOTIFY, 2, 0), 0);
	CHECK_EQ(used_idx(), 1);
	CHECK(fd_event_take(e));
	// By its eventfd.
	struct vfio_user_region_io_fds q = { .argsz = 4096 };
	CHECK_EQ(ask(VFIO_USER_DEVICE_GET_REGION_IO_FDS, &q, sizeof(q)), 0);
	CHECK_EQ(a.fds.count, 2);
	offer();
	fd_event_signal(a.fds.fd[0]);
	turn();
	CHECK_EQ(used_idx(), 2);
	// Its own configuration, and a change of it.
	CHECK_EQ(put(0, VP_DEVICE + 4, 4, 0x11223344), 0);
	CHECK_EQ(get(0, VP_DEVICE, 8), UINT64_C(0x1122334400000000));
	CHECK_EQ(get(0, VP_DEVICE + 8, 4), 0);
	const uint64_t generation = get(0, VC_CONFIG_GENERATION, 1);
	vdev_config_changed(&d);
	CHECK_EQ(get(0, VC_CONFIG_GENERATION, 1), generation + 1);
	// Through the window in configuration space.
	unsigned window = (unsigned)get(CONFIG, PCI_CAPABILITY_LIST, 1);
	while (get(CONFIG, window + 3, 1) != VCAP_PCI)
		window = (unsigned)get(CONFIG, window + 1, 1);
	CHECK_EQ(put(CONFIG, window + VCAP_OFFSET_OFF, 4, VP_DEVICE + 4), 0);
	CHECK_EQ(put(CONFIG, window + VCAP_LENGTH_OFF, 4, 4), 0);
	CHECK_EQ(get(CONFIG, window + VCAP_DATA_OFF, 4), 0x11223344);
	CHECK_EQ(put(CONFIG, window + VCAP_OFFSET_OFF, 4, VP_BAR_SIZE), 0);
	CHECK_EQ(put(CONFIG, window + VCAP_DATA_OFF, 4, 1), 0);
	CHECK_EQ(ask(VFIO_USER_DEVICE_RESET, NULL, 0), 0);
	CHECK_EQ(get(0, VC_DEVICE_STATUS, 1), 0);
	CHECK_EQ(dev.stops, 1);
	CHECK(!dev.queue[0].running);
	virtio_close();
}

TEST(a_driver_without_msix)
{
	virtio_open();
	FD_AUTO e = fd_eventfd();
	CHECK_EQ(set_irqs(VFIO_PCI_INTX_IRQ_INDEX, SET_EVENTFD, 0, 1, &e, 1), 0);
	driver_start(VIRTIO_NO_VECTOR);
	offer();
	CHECK_EQ(put(0, VP_NOTIFY, 2, 0), 0);
	CHECK(fd_event_take(e));
	CHECK_EQ(get(0, VP_ISR, 1), VP_ISR_QUEUE);
	CHECK_EQ(get(0, VP_ISR, 1), 0);
	CHECK_EQ(set_irqs(VFIO_PCI_INTX_IRQ_INDEX, VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK, 0, 1,
			  NULL, 0),
		 0);
	CHECK(!fd_event_take(e));
	vdev_config_changed(&d);
	CHECK(fd_event_take(e));
	CHECK_EQ(get(0, VP_ISR, 1), VP_ISR_CONFIG);
	virtio_close();
}

TEST(rings_that_are_not_in_shared_memory)
{
	virtio_open();
	CHECK_EQ(unmap(0, RAM_LEN, 0), 0);
	CHECK_EQ(map(0, RAM_LEN, 3, -1, 0), 0);
	driver_start(1);
	CHECK_EQ(get(0, VC_DEVICE_STATUS, 1), 15 | VS_NEEDS_RESET);
	CHECK_EQ(dev.starts, 0);
	virtio_close();
}

TEST(a_broken_ring_breaks_the_device_until_reset)
{
	virtio_open();
	driver_start(1);
	((struct vring_avail *)(void *)(ram + AVAIL))->idx = 100;
	CHECK_EQ(put(0, VP_NOTIFY, 2, 0), 0);
	CHECK_EQ(get(0, VC_DEVICE_STATUS, 1), 15 | VS_NEEDS_RESET);
	memset(ram, 0, RAM_LEN);
	driver_start(1);
	offer();
	CHECK_EQ(put(0, VP_NOTIFY, 2, 0), 0);
	CHECK_EQ(used_idx(), 1);
	virtio_close();
}

TEST(memory_comes_back_and_the_queue_goes_on)
{
	virtio_open();
	driver_start(1);
	offer();
	CHECK_EQ(put(0, VP_NOTIFY, 2, 0), 0);
	CHECK_EQ(unmap(0, RAM_LEN, 0), 0);
	CHECK(!dev.queue[0].running);
	offer();
	CHECK_EQ(put(0, VP_NOTIFY, 2, 0), 0);
	CHECK_EQ(used_idx(), 1);
	CHECK_EQ(map(0, 0x2000, 3, ram_fd, 0), 0); // a part of it
	CHECK(!dev.queue[0].running);
	CHECK_EQ(map(0x2000, RAM_LEN - 0x2000, 3, ram_fd, 0x2000), 0);
	CHECK_EQ(used_idx(), 2);
	CHECK(!dev.resumed); // the device was never stopped
	CHECK_EQ(dev.starts, 1);
	virtio_close();
}

TEST(a_client_comes_back_and_the_queue_goes_on_when_it_says_so)
{
	virtio_open();
	FD_AUTO e = fd_eventfd();
	driver_start(1);
	offer();
	CHECK_EQ(put(0, VP_NOTIFY, 2, 0), 0);
	client_leave();
	CHECK_EQ(dev.stops, 1);
	offer();
	client_connect();
	hello();
	CHECK_EQ(get(0, VC_DEVICE_STATUS, 1), 15);
	CHECK_EQ(map(0, RAM_LEN, 3, ram_fd, 0), 0);
	CHECK_EQ(used_idx(), 1); // it may be a new guest, whose driver is yet to reset the device
	CHECK_EQ(dev.starts, 1);
	CHECK_EQ(set_irqs(VFIO_PCI_MSIX_IRQ_INDEX, SET_EVENTFD, 1, 1, &e, 1), 0);
	CHECK_EQ(dev.starts, 2);
	CHECK_EQ(dev.loaded, 100);
	CHECK(dev.resumed);
	CHECK_EQ(used_idx(), 2);
	CHECK(fd_event_take(e));
	// Again, and this time a doorbell is the sign.
	client_leave();
	client_connect();
	hello();
	CHECK_EQ(map(0, RAM_LEN, 3, ram_fd, 0), 0);
	offer();
	CHECK_EQ(put(0, VP_NOTIFY, 2, 0), 0);
	CHECK_EQ(used_idx(), 3);
	// A new guest resets, and nothing of the old one is left.
	client_leave();
	client_connect();
	hello();
	CHECK_EQ(map(0, RAM_LEN, 3, ram_fd, 0), 0);
	CHECK_EQ(ask(VFIO_USER_DEVICE_RESET, NULL, 0), 0);
	offer();
	CHECK_EQ(put(0, VP_NOTIFY, 2, 0), 0);
	CHECK_EQ(used_idx(), 3);
	CHECK_EQ(get(0, VC_QUEUE_ENABLE, 2), 0);
	virtio_close();
}

// What a driver does to a device that it knows is a sign, too: the device goes on before it acts on it.
TEST(a_client_comes_back_and_its_driver_makes_a_queue_anew)
{
	virtio_open();
	driver_start(1);
	for (unsigned i = 0; i < 2; i++) {
		client_leave();
		CHECK_EQ(dev.stops, i + 1);
		client_connect();
		hello();
		CHECK_EQ(map(0, RAM_LEN, 3, ram_fd, 0), 0);
		CHECK_EQ(dev.starts, i + 1);
		if (i == 0) {
			CHECK_EQ(put(0, VP_DEVICE, 1, 5), 0);
			CHECK_EQ(dev.starts, 2);
			CHECK_EQ(dev.config[0], 5);
			continue;
		}
		put(0, VC_QUEUE_RESET, 2, 1);
		put(0, VC_QUEUE_SIZE, 2, 8);
		put(0, VC_QUEUE_DESC, 8, DESC);
		put(0, VC_QUEUE_DRIVER, 8, AVAIL);
		put(0, VC_QUEUE_DEVICE, 8, USED);
		put(0, VC_QUEUE_ENABLE, 2, 1);
	}
	CHECK_EQ(dev.starts, 3);
	CHECK(!dev.resumed);
	offer();
	CHECK_EQ(put(0, VP_NOTIFY, 2, 0), 0);
	CHECK_EQ(used_idx(), 1);
	virtio_close();
}

// A message `us` after the one before: whether the server then looks for the next one.
static bool looks_after(int64_t us)
{
	int ms = 1;
	now_us += us;
	carrier_vfio_user.alive(session, &ms);
	ask(VFIO_USER_DEVICE_RESET, NULL, 0);
	carrier_vfio_user.alive(session, &ms);
	return ms == 0;
}

TEST(within_a_burst_the_next_message_is_looked_for)
{
	struct err e;
	int ms;
	function_open();
	CHECK_EQ(carrier_vfio_user.prepare(&d, &e), 0);
	client_leave();
	now_us = 1000000000;
	client_connect();
	hello();
	CHECK(!looks_after(5000)); // one alone
	if (!looks_after(100)) {
		now_us = 0;
		function_close();
		SKIP("one processor, where nobody looks");
	}
	now_us += 49;
	carrier_vfio_user.alive(session, &ms);
	CHECK_EQ(ms, 0);
	now_us += 1;
	carrier_vfio_user.alive(session, &ms);
	CHECK_EQ(ms, -1); // and then it sleeps
	carrier_vfio_user.alive(session, &ms);
	CHECK_EQ(ms, -1);
	// Bursts that end are not in vain.
	for (unsigned i = 0; i < 100; i++) {
		CHECK(!looks_after(100000));
		CHECK(looks_after(40));
		CHECK(looks_after(40));
	}
	// A client that comes just after, each time, has been kept from its work.
	unsigned looked = 0;
	for (unsigned i = 0; i < 1000; i++)
		looked += looks_after(60);
	CHECK(looked >= 4 && looked < 20);
	now_us = 0;
	function_close();
}

TEST(a_device_that_cannot_be_served_so)
{
	struct err e;
	struct vdev_ops ops = virtio_ops;
	ops.virtio_type = 0;
	d = (struct vdev){ .ops = &ops, .queue_count = 1 };
	CHECK_EQ(carrier_vfio_user.prepare(&d, &e), -EINVAL);
	CHECK(strstr(e.text, "virtio_type"));
	ops.virtio_type = 2;
	d.queue_count = VDEV_QUEUES_MAX + 1;
	CHECK_EQ(carrier_vfio_user.prepare(&d, &e), -EINVAL);
}
