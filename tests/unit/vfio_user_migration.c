// SPDX-License-Identifier: BSD-2-Clause
// A function that moves: the states that a vfio-user client leads it through, what it takes along, what no function takes over, and
// the log of the pages that it wrote.  One of registers, interrupts and a shared page, and a virtio device.
#include "tests/unit/vfio_user_client.h"
#include "vmm/base/log.h"
#include "vmm/base/virtio_pci_regs.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/virtio_ring.h>

#define VECTORS	  3
#define PAGE	  0x1000u
#define RAM_LEN	  0x20000u
#define STATE_MAX (128u << 10)
#define STOP	  VFIO_DEVICE_STATE_STOP
#define RUNNING	  VFIO_DEVICE_STATE_RUNNING
#define STOP_COPY VFIO_DEVICE_STATE_STOP_COPY
#define RESUMING  VFIO_DEVICE_STATE_RESUMING
#define ERROR	  VFIO_DEVICE_STATE_ERROR

#define MUST(x)                             \
	do {                                \
		if (!(x)) {                 \
			printf("%s\n", #x); \
			abort();            \
		}                           \
	} while (0)

static int ram_fd = -1;
static uint8_t *ram;

// ---- a function: BAR 0 of registers and a shared page, a doorbell; BAR 4 for MSI-X ---------------------------------

static struct {
	uint64_t reg;
	unsigned rung, resets, drains;
	bool stopped, refuses;
	uint8_t *page;
} fn;

static uint64_t fn_read(struct pdev *p, unsigned bar, uint64_t offset, unsigned size)
{
	(void)p;
	(void)bar;
	return offset >= PAGE ? fn.page[offset - PAGE] : fn.reg & size_mask(size);
}

static void fn_write(struct pdev *p, unsigned bar, uint64_t offset, unsigned size, uint64_t val)
{
	CHECK(!p->stopped);
	(void)size;
	if (bar == 0 && offset >= PAGE)
		fn.page[offset - PAGE] = (uint8_t)val;
	else if (bar == 0)
		fn.reg = val;
}

static void fn_doorbell(struct pdev *p, unsigned index)
{
	(void)index;
	CHECK(!p->stopped);
	fn.rung++;
}

static void fn_reset(struct pdev *p)
{
	(void)p;
	fn.resets++;
	fn.reg = 0;
}

static void fn_drain(struct pdev *p)
{
	(void)p;
	fn.drains++;
}

static void fn_memory_changed(struct pdev *p)
{
	fn.stopped = p->stopped;
}

static size_t fn_save(struct pdev *p, void *to)
{
	MUST(p->stopped);
	memcpy(to, &fn.reg, sizeof(fn.reg));
	return sizeof(fn.reg);
}

static int fn_load(struct pdev *p, const void *from, size_t len)
{
	MUST(p->stopped);
	if (len != sizeof(fn.reg) || fn.refuses)
		return -EINVAL;
	memcpy(&fn.reg, from, len);
	return 0;
}

static const struct pdev_ops fn_ops = {
	.bar_read = fn_read,
	.bar_write = fn_write,
	.doorbell = fn_doorbell,
	.reset = fn_reset,
	.drain = fn_drain,
	.memory_changed = fn_memory_changed,
	.save = fn_save,
	.load = fn_load,
};

static struct pdev_ops fn_stays_ops;
static const struct vdev_ops pci_ops = { .program = "test", .pci = &fn_ops };

static void function_make(uint16_t device, bool moves)
{
	struct err e;
	log_init("test", LOG_ERROR);
	d = (struct vdev){ .ops = &pci_ops };
	memset(&fn, 0, sizeof(fn));
	fn_stays_ops = fn_ops;
	fn_stays_ops.save = NULL;
	if (loop_init(&d.loop) < 0 || pdev_create(&d.pci, &d, moves ? &fn_ops : &fn_stays_ops, &e) < 0)
		abort();
	pdev_set_identity(d.pci, 0x1234, device, 0xff0000, 7);
	pdev_add_bar(d.pci, 0, 0x2000, false);
	pdev_add_bar(d.pci, 4, 0x1000, true);
	pdev_add_intx(d.pci);
	pdev_add_msix(d.pci, VECTORS, 4, 0, 0x800);
	pdev_add_doorbell(d.pci, 0, 0x10, 4);
	if (pdev_share(d.pci, 0, PAGE, PAGE, &fn.page, &e) < 0)
		abort();
	client_connect();
	hello();
}

static void function_open(void)
{
	function_make(0x5678, true);
}

static void function_close(void)
{
	client_leave();
	CHECK(!d.pci->stopped && !d.pci->dirty);
	pdev_destroy(d.pci);
	loop_destroy(&d.loop);
}

// ---- what a client asks for ----------------------------------------------------------------------------------------

static int feature(uint32_t flags, const void *data, size_t len)
{
	struct {
		struct vfio_user_device_feature f;
		uint8_t data[4096];
	} m = { .f = { sizeof(m), flags } };
	memcpy(m.data, len ? data : &m, len);
	return ask(VFIO_USER_DEVICE_FEATURE, &m, sizeof(m.f) + len);
}

static int go(uint32_t state)
{
	const struct vfio_device_feature_mig_state m = { .device_state = state, .data_fd = -1 };
	return feature(VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE | VFIO_DEVICE_FEATURE_SET, &m, sizeof(m));
}

static uint32_t is(void)
{
	struct vfio_device_feature_mig_state m;
	MUST(feature(VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE | VFIO_DEVICE_FEATURE_GET, NULL, 0) == 0);
	MUST(a.h.size == 16 + 8 + sizeof(m));
	memcpy(&m, a.bytes + 8, sizeof(m));
	MUST(m.data_fd == -1);
	return m.device_state;
}

static uint8_t state[STATE_MAX];

// Reads all of it, `piece` bytes at a time; the state is STOP_COPY.
static size_t state_read(uint32_t piece)
{
	size_t len = 0;
	struct vfio_user_mig_data m = { .argsz = 8 + piece, .size = piece };
	do {
		if (ask(VFIO_USER_MIG_DATA_READ, &m, sizeof(m)) != 0)
			abort();
		memcpy(&m, a.bytes, sizeof(m));
		MUST(a.h.size == 16 + 8 + m.size);
		MUST(m.argsz == 8 + m.size);
		memcpy(state + len, a.bytes + 8, m.size);
		len += m.size;
		m.argsz = 8 + piece;
	} while (m.size == piece);
	return len;
}

static int write_piece(const uint8_t *from, uint32_t len, uint32_t said)
{
	struct {
		struct vfio_user_mig_data m;
		uint8_t data[4096];
	} m = { .m = { 8, said } };
	memcpy(m.data, from, len);
	return ask(VFIO_USER_MIG_DATA_WRITE, &m, sizeof(m.m) + len);
}

static void state_write(size_t len)
{
	for (size_t at = 0; at < len; at += 1000)
		if (write_piece(state + at, (uint32_t)MIN(len - at, (size_t)1000),
				(uint32_t)MIN(len - at, (size_t)1000)) != 0)
			abort();
}

static int state_give(size_t len)
{
	MUST(go(RESUMING) == 0);
	state_write(len);
	return go(STOP);
}

// ---- features -------------------------------------------------------------------------------------------------------

TEST(which_features_there_are)
{
	const uint32_t get = VFIO_DEVICE_FEATURE_GET, set = VFIO_DEVICE_FEATURE_SET,
		       probe = VFIO_DEVICE_FEATURE_PROBE;
	const uint32_t can[9] = { [1] = get, [2] = get | set, [6] = set, [7] = set, [8] = get };
	function_open();
	for (uint32_t i = 0; i < 12; i++) {
		const uint32_t ways = i < 9 ? can[i] : 0;
		CHECK_EQ(feature(i | probe, NULL, 0), ways ? 0 : ENOTTY);
		CHECK_EQ(feature(i | probe | get, NULL, 0), ways & get ? 0 : ways ? EINVAL : ENOTTY);
		CHECK_EQ(feature(i | probe | set, NULL, 0), ways & set ? 0 : ways ? EINVAL : ENOTTY);
		CHECK_EQ(feature(i | probe | set | get, NULL, 0), ways == (get | set) ? 0
								  : ways	      ? EINVAL
										      : ENOTTY);
		CHECK_EQ(feature(i, NULL, 0), ways ? EINVAL : ENOTTY); // neither
		CHECK_EQ(feature(i | get | set, NULL, 0), ways ? EINVAL : ENOTTY);
	}
	CHECK_EQ(feature(VFIO_DEVICE_FEATURE_MIGRATION | get, NULL, 0), 0);
	uint64_t flags;
	memcpy(&flags, a.bytes + 8, sizeof(flags));
	CHECK_EQ(flags, VFIO_MIGRATION_STOP_COPY);
	uint32_t argsz;
	memcpy(&argsz, a.bytes, sizeof(argsz));
	CHECK_EQ(argsz, 16);
	CHECK_EQ(feature(1u << 19 | 1 | probe, NULL, 0), EINVAL);
	// No room for the answer.
	struct vfio_user_device_feature f = { 15, VFIO_DEVICE_FEATURE_MIGRATION | get };
	CHECK_EQ(ask(VFIO_USER_DEVICE_FEATURE, &f, sizeof(f)), EINVAL);
	f.argsz = 7;
	CHECK_EQ(ask(VFIO_USER_DEVICE_FEATURE, &f, sizeof(f)), EINVAL);
	CHECK_EQ(is(), RUNNING);
	function_close();
}

TEST(a_function_that_cannot_be_moved)
{
	function_make(0x5678, false);
	CHECK_EQ(feature(VFIO_DEVICE_FEATURE_MIGRATION | VFIO_DEVICE_FEATURE_PROBE, NULL, 0), ENOTTY);
	CHECK_EQ(go(STOP), ENOTTY);
	CHECK(!d.pci->stopped);
	client_leave();
	client_connect();
	CHECK_EQ(version("{\"capabilities\":{\"migration\":{\"pgsize\":4096}}}"), 0);
	CHECK(!strstr((const char *)a.bytes + 4, "migration"));
	function_close();
}

TEST(the_capability_is_for_clients_that_propose_it)
{
	function_open();
	CHECK(!strstr((const char *)a.bytes + 4, "migration"));
	client_leave();
	client_connect();
	CHECK_EQ(version("{\"capabilities\":{\"migration\":{\"pgsize\":4096}}}"), 0);
	CHECK(strstr((const char *)a.bytes + 4, "\"migration\":{\"pgsize\":4096,\"max_bitmap_size\":2048}"));
	function_close();
}

// ---- states ---------------------------------------------------------------------------------------------------------

TEST(each_arc_and_each_that_is_none)
{
	const uint32_t states[] = { STOP, RUNNING, STOP_COPY, RESUMING };
	for (unsigned from = 0; from < ARRAY_LEN(states); from++)
		for (unsigned to = 0; to < ARRAY_LEN(states); to++) {
			function_open();
			CHECK_EQ(go(states[from]), 0);
			CHECK_EQ(is(), states[from]);
			CHECK_EQ(d.pci->stopped, states[from] != RUNNING);
			// What was given is nothing, which is no state.
			const bool fails = states[from] == RESUMING && states[to] != RESUMING;
			CHECK_EQ(go(states[to]), fails ? EINVAL : 0);
			CHECK_EQ(is(), fails ? (uint32_t)ERROR : states[to]);
			CHECK_EQ(d.pci->stopped, fails || states[to] != RUNNING);
			CHECK_EQ(fn.stopped, d.pci->stopped);
			function_close();
		}
	const uint32_t none[] = { ERROR, 5, 6, 7, 8, UINT32_MAX };
	for (unsigned from = 0; from < ARRAY_LEN(states); from++)
		for (unsigned to = 0; to < ARRAY_LEN(none); to++) {
			function_open();
			CHECK_EQ(go(states[from]), 0);
			CHECK_EQ(go(none[to]), EINVAL);
			CHECK_EQ(is(), states[from]);
			function_close();
		}
	function_open();
	const uint64_t half = STOP;
	CHECK_EQ(feature(VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE | VFIO_DEVICE_FEATURE_SET, &half, 4), EINVAL);
	CHECK_EQ(feature(VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE | VFIO_DEVICE_FEATURE_SET, NULL, 0), EINVAL);
	CHECK_EQ(is(), RUNNING);
	function_close();
}

TEST(from_error_only_a_reset_helps)
{
	function_open();
	CHECK_EQ(put(0, 0, 8, 77), 0);
	CHECK_EQ(go(RESUMING), 0);
	CHECK_EQ(go(RUNNING), EINVAL);
	CHECK_EQ(is(), ERROR);
	for (uint32_t to = ERROR; to <= RESUMING; to++) {
		CHECK_EQ(go(to), EINVAL);
		CHECK_EQ(is(), ERROR);
	}
	CHECK_EQ(put(0, 0, 8, 78), EBUSY);
	CHECK(fn.stopped);
	CHECK_EQ(ask(VFIO_USER_DEVICE_RESET, NULL, 0), 0);
	CHECK_EQ(is(), RUNNING);
	CHECK(!fn.stopped); // it was told
	CHECK_EQ(put(0, 0, 8, 78), 0);
	CHECK_EQ(get(0, 0, 8), 78);
	// A reset ends what is under way, too.
	CHECK_EQ(go(RESUMING), 0);
	CHECK_EQ(ask(VFIO_USER_DEVICE_RESET, NULL, 0), 0);
	CHECK_EQ(is(), RUNNING);
	CHECK_EQ(write_piece(state, 8, 8), EINVAL);
	// And the next client finds one that runs.
	CHECK_EQ(go(STOP), 0);
	client_leave();
	client_connect();
	hello();
	CHECK_EQ(is(), RUNNING);
	function_close();
}

TEST(what_is_stopped_does_nothing_and_loses_nothing)
{
	function_open();
	FD_AUTO e = fd_eventfd();
	FD_AUTO pin = fd_eventfd();
	CHECK_EQ(set_irqs(VFIO_PCI_MSIX_IRQ_INDEX, SET_EVENTFD, 1, 1, &e, 1), 0);
	CHECK_EQ(set_irqs(VFIO_PCI_INTX_IRQ_INDEX, SET_EVENTFD, 0, 1, &pin, 1), 0);
	struct vfio_user_region_io_fds q = { .argsz = 4096 };
	CHECK_EQ(ask(VFIO_USER_DEVICE_GET_REGION_IO_FDS, &q, sizeof(q)), 0);
	FD_AUTO bell = msg_fds_take_one(&a.fds);
	CHECK_EQ(put(0, 0, 8, 5), 0);
	CHECK_EQ(go(STOP), 0);
	CHECK_EQ(fn.drains, 1);
	fd_event_signal(bell);
	turn();
	pdev_interrupt(d.pci, 1);
	pdev_set_intx(d.pci, true);
	CHECK_EQ(put(0, 0, 8, 6), EBUSY);
	CHECK_EQ(put(0, 0x10, 4, 1), EBUSY);
	CHECK_EQ(get(0, 0, 8), 5);
	CHECK_EQ(put(CONFIG, PCI_COMMAND, 2, PCI_COMMAND_MEMORY), 0);
	CHECK_EQ(put(4, 16, 8, 0xfee00000), 0);
	CHECK_EQ(put(4, 44, 8, 0), EBUSY); // half of it behind the table
	CHECK_EQ(get(4, 0x800, 8), 2);	   // pending
	CHECK(!fd_event_take(e) && !fd_event_take(pin));
	CHECK_EQ(fn.rung, 0);
	CHECK_EQ(go(RUNNING), 0);
	CHECK(fd_event_take(e));
	CHECK(fd_event_take(pin));
	CHECK_EQ(fn.rung, 1);
	CHECK_EQ(get(CONFIG, PCI_COMMAND, 2), PCI_COMMAND_MEMORY);
	function_close();
}

// ---- the state of a function ----------------------------------------------------------------------------------------

// What the tests below move: everything that a function of that kind has.
static size_t state_made(void)
{
	function_open();
	pdev_interrupt(d.pci, 2);
	pdev_set_intx(d.pci, true);
	MUST(put(0, 0, 8, 0x1122334455667788) == 0);
	MUST(put(0, PAGE + 7, 1, 0x5a) == 0);
	MUST(put(CONFIG, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER) == 0);
	MUST(put(CONFIG, PCI_BASE_ADDRESS_0, 4, 0xe0000000) == 0);
	MUST(put(4, 16, 8, 0xfee01000) == 0);
	MUST(put(4, 28, 4, 0) == 0);
	MUST(go(STOP_COPY) == 0);
	const size_t len = state_read(100);
	MUST(write_piece(state, 8, 8) == EINVAL);
	MUST(go(RUNNING) == 0);
	function_close();
	return len;
}

TEST(a_function_moves)
{
	const size_t len = state_made();
	function_open();
	FD_AUTO e = fd_eventfd();
	FD_AUTO pin = fd_eventfd();
	// The client sets interrupts before or after: nothing comes until it runs.
	CHECK_EQ(set_irqs(VFIO_PCI_MSIX_IRQ_INDEX, SET_EVENTFD, 2, 1, &e, 1), 0);
	CHECK_EQ(go(RESUMING), 0);
	CHECK_EQ(fn.resets, 0);
	state_write(len);
	CHECK_EQ(go(STOP), 0);
	CHECK_EQ(is(), STOP);
	CHECK_EQ(set_irqs(VFIO_PCI_INTX_IRQ_INDEX, SET_EVENTFD, 0, 1, &pin, 1), 0);
	CHECK_EQ(get(0, 0, 8), 0x1122334455667788);
	CHECK_EQ(get(0, PAGE + 7, 1), 0x5a);
	CHECK_EQ(get(CONFIG, PCI_COMMAND, 2), PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	CHECK_EQ(get(CONFIG, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT, PCI_STATUS_INTERRUPT);
	CHECK_EQ(get(CONFIG, PCI_BASE_ADDRESS_0, 4), 0xe0000000);
	CHECK_EQ(get(4, 16, 8), 0xfee01000);
	CHECK_EQ(get(4, 28, 4), 0);
	CHECK_EQ(get(4, 12, 4), 1);
	CHECK_EQ(get(4, 0x800, 8), 4);
	CHECK(!fd_event_take(e) && !fd_event_take(pin));
	CHECK_EQ(go(RUNNING), 0);
	CHECK(fd_event_take(e));
	CHECK(fd_event_take(pin));
	// What it says of itself then is what it was told, but for the interrupt that has been delivered.
	static uint8_t before[STATE_MAX];
	memcpy(before, state, len);
	CHECK_EQ(go(STOP_COPY), 0);
	CHECK_EQ(state_read(4000), len);
	unsigned others = 0;
	for (size_t i = 0; i < len; i++)
		others += state[i] != before[i];
	CHECK_EQ(others, 1);
	function_close();
}

// The guest rang before it was stopped, and the server hears of the state first.
TEST(a_doorbell_that_is_heard_late_moves_along)
{
	const struct {
		struct vfio_user_device_feature f;
		struct vfio_device_feature_mig_state m;
	} ask_for = { { sizeof(ask_for), VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE | VFIO_DEVICE_FEATURE_SET },
		      { STOP_COPY, -1 } };
	function_open();
	struct vfio_user_region_io_fds q = { .argsz = 4096 };
	CHECK_EQ(ask(VFIO_USER_DEVICE_GET_REGION_IO_FDS, &q, sizeof(q)), 0);
	FD_AUTO bell = msg_fds_take_one(&a.fds);
	post(VFIO_USER_DEVICE_FEATURE, &ask_for, sizeof(ask_for), NULL, 0, 0);
	fd_event_signal(bell);
	turn();
	CHECK_EQ(hear(), 0);
	// Said again as it was asked for, which a client may look at.
	CHECK_EQ(a.h.size, 16 + sizeof(ask_for));
	CHECK(memcmp(a.bytes, &ask_for, sizeof(ask_for)) == 0);
	CHECK_EQ(fn.rung, 0);
	const size_t len = state_read(4096);
	function_close();
	function_open();
	CHECK_EQ(state_give(len), 0);
	CHECK_EQ(go(RUNNING), 0);
	CHECK_EQ(fn.rung, 1);
	function_close();
}

TEST(reading_and_writing_the_state)
{
	const size_t len = state_made();
	CHECK(len > 4096);
	function_open();
	struct vfio_user_mig_data m = { .argsz = 8 + 16, .size = 16 };
	for (uint32_t s = STOP; s <= RESUMING; s++) {
		CHECK_EQ(go(s), 0);
		CHECK_EQ(ask(VFIO_USER_MIG_DATA_READ, &m, sizeof(m)), s == STOP_COPY ? 0 : EINVAL);
		CHECK_EQ(write_piece(state, 8, 8), s == RESUMING ? 0 : EINVAL);
	}
	CHECK_EQ(ask(VFIO_USER_DEVICE_RESET, NULL, 0), 0);
	CHECK_EQ(go(STOP_COPY), 0);
	m.argsz--;
	CHECK_EQ(ask(VFIO_USER_MIG_DATA_READ, &m, sizeof(m)), EINVAL);
	m = (struct vfio_user_mig_data){ .argsz = UINT32_MAX, .size = 4097 };
	CHECK_EQ(ask(VFIO_USER_MIG_DATA_READ, &m, sizeof(m)), EINVAL);
	m = (struct vfio_user_mig_data){ .argsz = 4, .size = UINT32_MAX };
	CHECK_EQ(ask(VFIO_USER_MIG_DATA_READ, &m, sizeof(m)), EINVAL);
	state_read(4096);
	m = (struct vfio_user_mig_data){ .argsz = 16, .size = 8 };
	CHECK_EQ(ask(VFIO_USER_MIG_DATA_READ, &m, sizeof(m)), 0); // behind its end
	CHECK_EQ(a.h.size, 16 + 8);
	CHECK_EQ(go(RESUMING), 0);
	CHECK_EQ(write_piece(state, 8, 9), EINVAL);
	CHECK_EQ(write_piece(state, 8, 7), EINVAL);
	CHECK_EQ(write_piece(state, 0, 0), 0);
	// More than any state of this function has.
	unsigned n = 0;
	while (n < STATE_MAX / 4096 + 1 && write_piece(state, 4096, 4096) == 0)
		n++;
	CHECK_EQ(a.h.error, EMSGSIZE);
	CHECK(n < STATE_MAX / 4096);
	CHECK(alive());
	CHECK_EQ(go(STOP), EINVAL);
	CHECK_EQ(is(), ERROR);
	function_close();
}

TEST(a_state_that_is_none)
{
	const size_t len = state_made();
	static uint8_t good[STATE_MAX];
	memcpy(good, state, len);
	const size_t lens[] = { 0, 1, 100, len - 1, len + 1 };
	for (unsigned i = 0; i < ARRAY_LEN(lens); i++) {
		function_open();
		CHECK_EQ(put(0, 0, 8, 99), 0);
		CHECK_EQ(state_give(lens[i]), EINVAL);
		CHECK_EQ(is(), ERROR);
		CHECK_EQ(ask(VFIO_USER_DEVICE_RESET, NULL, 0), 0);
		function_close();
	}
	// Each byte of its head, bit by bit: taken and told again the same, or refused.
	function_open();
	for (size_t i = 0; i < 320; i++)
		for (unsigned bit = 0; bit < 8; bit++) {
			memcpy(state, good, len);
			state[i] ^= (uint8_t)(1u << bit);
			if (state_give(len) != 0) {
				CHECK_EQ(is(), ERROR);
				CHECK_EQ(ask(VFIO_USER_DEVICE_RESET, NULL, 0), 0);
				CHECK_EQ(get(0, 0, 8), 0);
				continue;
			}
			CHECK_EQ(is(), STOP);
			const uint8_t was = state[i];
			CHECK_EQ(go(STOP_COPY), 0);
			CHECK_EQ(state_read(4096), len);
			CHECK_EQ(state[i], was);
			CHECK_EQ(go(STOP), 0);
		}
	// The device's own word.
	memcpy(state, good, len);
	fn.refuses = true;
	CHECK_EQ(state_give(len), EINVAL);
	CHECK_EQ(is(), ERROR);
	CHECK_EQ(get(CONFIG, PCI_COMMAND, 2), 0); // as after power-on
	CHECK_EQ(get(4, 16, 8), 0);
	function_close();
	// Another function's.
	function_make(0x5679, true);
	memcpy(state, good, len);
	CHECK_EQ(state_give(len), EINVAL);
	function_close();
}

// ---- the log of pages -----------------------------------------------------------------------------------------------

static int log_start(uint64_t page_size, uint32_t ranges, const uint64_t *range, size_t len)
{
	uint64_t data[2 + 8] = { page_size, ranges };
	memcpy(data + 2, ranges ? range : data, len);
	return feature(VFIO_DEVICE_FEATURE_DMA_LOGGING_START | VFIO_DEVICE_FEATURE_SET, data, 16 + len);
}

static int log_stop(void)
{
	return feature(VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP | VFIO_DEVICE_FEATURE_SET, NULL, 0);
}

static int report_rc(uint64_t iova, uint64_t len, uint64_t page_size)
{
	const uint64_t data[3] = { iova, len, page_size };
	return feature(VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT | VFIO_DEVICE_FEATURE_GET, data, sizeof(data));
}

static uint64_t report(uint64_t iova, uint64_t len, uint64_t page_size)
{
	uint64_t bits = UINT64_MAX;
	MUST(report_rc(iova, len, page_size) == 0);
	MUST(a.h.size == 16 + 8 + 24 + 8);
	memcpy(&bits, a.bytes + 8 + 24, sizeof(bits));
	return bits;
}

TEST(pages_that_were_written)
{
	function_open();
	FD_AUTO fd = memory(RAM_LEN);
	CHECK_EQ(map(0x100000, RAM_LEN, 3, fd, 0), 0);
	CHECK_EQ(report_rc(0x100000, RAM_LEN, PAGE), EINVAL);
	CHECK_EQ(log_stop(), EINVAL);
	uint8_t bytes[3 * PAGE] = { 0 };
	CHECK_EQ(pdev_dma_write(d.pci, 0x100000, bytes, 1), 0); // before it
	const uint64_t range[2] = { 0x100000, RAM_LEN };
	CHECK_EQ(log_start(0x200000, 1, range, sizeof(range)), 0);
	uint64_t said;
	memcpy(&said, a.bytes + 8, sizeof(said));
	CHECK_EQ(said, PAGE); // what it is kept in
	CHECK_EQ(log_start(PAGE, 0, NULL, 0), EBUSY);
	CHECK_EQ(report(0x100000, RAM_LEN, PAGE), 0);
	CHECK_EQ(pdev_dma_write(d.pci, 0x101fff, bytes, 2), 0);
	CHECK_EQ(pdev_dma_read(d.pci, 0x104000, bytes, 2), 0);
	uint8_t *at = pdev_memory(d.pci, 0x105800, PAGE);
	pdev_wrote(d.pci, at, PAGE);
	pdev_wrote(d.pci, bytes, sizeof(bytes)); // no memory of the guest's
	CHECK_EQ(report(0x102000, 2 * PAGE, PAGE), 1);
	CHECK_EQ(report(0x100000, RAM_LEN, PAGE),
		 1u << 1 | 1u << 5 | 1u << 6); // and what was asked for is gone
	CHECK_EQ(report(0x100000, RAM_LEN, PAGE), 0);
	CHECK_EQ(pdev_dma_write(d.pci, 0x100000, bytes, sizeof(bytes)), 0);
	CHECK_EQ(pdev_dma_write(d.pci, 0x110000, bytes, 1), 0);
	CHECK_EQ(report(0x100000, RAM_LEN, 0x4000), 1 | 1u << 4);
	CHECK_EQ(report_rc(0x100000, RAM_LEN, 0x1001), EINVAL);
	CHECK_EQ(report_rc(0x100000, RAM_LEN, 0x800), EINVAL);
	CHECK_EQ(report_rc(0x100000, RAM_LEN, 0), EINVAL);
	CHECK_EQ(report_rc(0x100800, RAM_LEN, PAGE), EINVAL);
	CHECK_EQ(report_rc(0x100000, 0, PAGE), EINVAL);
	CHECK_EQ(report_rc(0, UINT64_C(2048) * 8 * PAGE, PAGE), 0);
	CHECK_EQ(a.h.size, 16 + 8 + 24 + 2048);
	CHECK_EQ(report_rc(0, UINT64_C(2048) * 8 * PAGE + PAGE, PAGE), EINVAL);
	CHECK_EQ(report_rc(UINT64_MAX - 0xfff, 2 * PAGE, PAGE), EINVAL);
	CHECK_EQ(report_rc(0, UINT64_MAX & ~UINT64_C(0xfff), UINT64_C(1) << 60), EINVAL);
	CHECK_EQ(report(UINT64_C(1) << 50, RAM_LEN, PAGE), 0);
	// What the log could not say anything of is not taken.
	CHECK_EQ(map(UINT64_C(1) << 40, PAGE, 3, fd, 0), ERANGE);
	CHECK_EQ(log_stop(), 0);
	CHECK_EQ(report_rc(0x100000, RAM_LEN, PAGE), EINVAL);
	CHECK_EQ(map(UINT64_C(1) << 40, PAGE, 3, fd, 0), 0);
	CHECK_EQ(log_start(PAGE, 0, NULL, 0), ERANGE);
	CHECK_EQ(unmap(UINT64_C(1) << 40, PAGE, 0), 0);
	CHECK_EQ(map(UINT64_C(1) << 40, PAGE, 3, -1, 0), 0);
	CHECK_EQ(log_start(PAGE, 0, NULL, 0), ERANGE);
	CHECK_EQ(unmap(UINT64_C(1) << 40, PAGE, 0), 0);
	CHECK_EQ(log_start(0, 0, NULL, 0), EINVAL);
	CHECK_EQ(log_start(PAGE, 2, range, sizeof(range)), EINVAL);
	CHECK_EQ(log_start(PAGE, UINT32_MAX, range, sizeof(range)), EINVAL);
	const uint64_t wraps[2] = { UINT64_MAX, 2 };
	CHECK_EQ(log_start(PAGE, 1, wraps, sizeof(wraps)), EINVAL);
	CHECK_EQ(log_start(PAGE, 0, NULL, 0), 0);
	function_close(); // with the log
}

// ---- a virtio device ------------------------------------------------------------------------------------------------

#define DESC  0x0000u
#define AVAIL 0x1000u
#define USED  0x2000u
#define DATA  0x3000u

static struct {
	unsigned starts, stops;
	uint8_t config[8], told;
	bool load_refuses, resumed;
	struct vq queue[2];
	uint8_t resume; // what start() goes on from
} dev;

static int dev_start(struct vdev *v, uint64_t features)
{
	(void)v;
	(void)features;
	dev.starts++;
	dev.told = dev.resume;
	dev.resume = 0;
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
	CHECK(!v->pci->stopped && dev.starts > dev.stops);
	dev.resumed = q->resumed;
	while (vq_pop(q, &c, iov, 4) > 0)
		vq_push(q, c.head, 1);
	vq_publish(q);
}

static int dev_config_write(struct vdev *v, uint32_t off, const void *p, uint32_t len)
{
	(void)v;
	(void)off;
	(void)len;
	memcpy(&dev.told, p, 1);
	return 0;
}

static size_t dev_save(struct vdev *v, void *to)
{
	(void)v;
	memset(to, dev.told, 10);
	return 10;
}

static int dev_load(struct vdev *v, const void *from, size_t len)
{
	(void)v;
	if (len && (len != 10 || dev.load_refuses))
		return -EINVAL;
	dev.resume = len ? *(const uint8_t *)from : 0;
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
	if (ram_fd < 0) {
		ram_fd = memory(RAM_LEN);
		ram = mmap(NULL, RAM_LEN, PROT_READ | PROT_WRITE, MAP_SHARED, ram_fd, 0);
	}
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
	loop_destroy(&d.loop);
}

static void driver_start(void)
{
	memset(ram, 0, RAM_LEN);
	put(0, VC_DEVICE_STATUS, 1, VS_ACKNOWLEDGE);
	put(0, VC_DEVICE_STATUS, 1, VS_ACKNOWLEDGE | VS_DRIVER);
	put(0, VC_DRIVER_FEATURE_SELECT, 4, 1);
	put(0, VC_DRIVER_FEATURE, 4, (VF_VERSION_1 | VF_RING_RESET) >> 32);
	put(0, VC_DEVICE_STATUS, 1, VS_ACKNOWLEDGE | VS_DRIVER | VS_FEATURES_OK);
	put(0, VC_CONFIG_MSIX_VECTOR, 2, 0);
	put(0, VC_QUEUE_SELECT, 2, 1);
	put(0, VC_QUEUE_SIZE, 2, 8);
	put(0, VC_QUEUE_MSIX_VECTOR, 2, 2);
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

static int kick(void)
{
	return put(0, VP_NOTIFY + VP_NOTIFY_STEP, 2, 1);
}

static uint16_t used_idx(void)
{
	return ((const struct vring_used *)(const void *)(ram + USED))->idx;
}

static size_t virtio_state_made(void)
{
	virtio_open();
	driver_start();
	offer();
	MUST(kick() == 0);
	MUST(used_idx() == 1);
	MUST(put(0, VP_DEVICE, 1, 42) == 0);
	MUST(go(STOP) == 0);
	MUST(dev.stops == 1);
	MUST(!dev.queue[1].running);
	offer();
	MUST(kick() == EBUSY);
	MUST(go(STOP_COPY) == 0);
	const size_t len = state_read(4096);
	MUST(used_idx() == 1);
	return len;
}

TEST(a_virtio_device_stops_and_goes_on)
{
	virtio_state_made();
	CHECK_EQ(go(RUNNING), 0);
	CHECK_EQ(dev.starts, 2);
	CHECK_EQ(dev.told, 42);
	CHECK(dev.resumed);
	CHECK_EQ(used_idx(), 2); // what came meanwhile
	offer();
	CHECK_EQ(kick(), 0);
	CHECK_EQ(used_idx(), 3);
	virtio_close();
}

TEST(a_virtio_device_moves)
{
	const size_t len = virtio_state_made();
	virtio_close();
	virtio_open();
	FD_AUTO e = fd_eventfd();
	CHECK_EQ(state_give(len), 0);
	CHECK_EQ(get(0, VC_DEVICE_STATUS, 1), 15);
	CHECK_EQ(get(0, VC_QUEUE_SELECT, 2), 1);
	CHECK_EQ(get(0, VC_QUEUE_ENABLE, 2), 1);
	CHECK_EQ(get(0, VC_QUEUE_DEVICE, 8), USED);
	CHECK_EQ(get(0, VC_QUEUE_MSIX_VECTOR, 2), 2);
	CHECK_EQ(get(0, VC_DRIVER_FEATURE, 4), (VF_VERSION_1 | VF_RING_RESET) >> 32);
	CHECK_EQ(dev.starts, 0);
	CHECK_EQ(set_irqs(VFIO_PCI_MSIX_IRQ_INDEX, SET_EVENTFD, 2, 1, &e, 1), 0);
	CHECK_EQ(used_idx(), 1);
	CHECK_EQ(go(RUNNING), 0);
	CHECK_EQ(dev.starts, 1);
	CHECK_EQ(dev.told, 42);
	CHECK_EQ(used_idx(), 2);
	CHECK(fd_event_take(e));
	offer();
	CHECK_EQ(kick(), 0);
	CHECK_EQ(used_idx(), 3);
	CHECK(fd_event_take(e));
	put(0, VC_DEVICE_STATUS, 1, 0);
	driver_start();
	CHECK_EQ(dev.told, 0); // nothing is left of it
	virtio_close();
}

// Memory may come after the device goes on: who has used the queue before is not forgotten over that.
TEST(a_virtio_device_moves_before_its_memory_does)
{
	const size_t len = virtio_state_made();
	virtio_close();
	virtio_open();
	CHECK_EQ(unmap(0, RAM_LEN, 0), 0);
	CHECK_EQ(state_give(len), 0);
	CHECK_EQ(go(RUNNING), 0);
	CHECK_EQ(used_idx(), 1);
	CHECK_EQ(map(0, RAM_LEN, 3, ram_fd, 0), 0);
	CHECK_EQ(used_idx(), 2);
	CHECK(dev.resumed);
	// Of one that this device has run there is nothing to be remembered.
	CHECK_EQ(unmap(0, RAM_LEN, 0), 0);
	CHECK_EQ(map(0, RAM_LEN, 3, ram_fd, 0), 0);
	CHECK(!dev.resumed);
	virtio_close();
}

// It needs a reset on the other side, too, and then nothing of what it was told is left to tell.
TEST(a_virtio_device_that_broke_moves)
{
	virtio_open();
	driver_start();
	CHECK_EQ(put(0, VP_DEVICE, 1, 42), 0);
	client_leave();
	client_connect();
	hello();
	CHECK_EQ(map(0, RAM_LEN, 3, ram_fd, 0), 0);
	put(0, VC_QUEUE_SELECT, 2, 1);
	put(0, VC_QUEUE_RESET, 2, 1);
	put(0, VC_QUEUE_SIZE, 2, 8);
	put(0, VC_QUEUE_DESC, 8, RAM_LEN);
	put(0, VC_QUEUE_ENABLE, 2, 1);
	CHECK_EQ(get(0, VC_DEVICE_STATUS, 1), 15 | VS_NEEDS_RESET);
	CHECK_EQ(go(STOP_COPY), 0);
	const size_t len = state_read(4096);
	virtio_close();
	virtio_open();
	CHECK_EQ(state_give(len), 0);
	CHECK_EQ(go(RUNNING), 0);
	CHECK_EQ(get(0, VC_DEVICE_STATUS, 1), 15 | VS_NEEDS_RESET);
	virtio_close();
}

TEST(a_virtio_device_moves_before_its_driver_came)
{
	virtio_open();
	put(0, VC_DEVICE_STATUS, 1, VS_ACKNOWLEDGE);
	CHECK_EQ(go(STOP_COPY), 0);
	const size_t len = state_read(1000);
	virtio_close();
	virtio_open();
	CHECK_EQ(state_give(len), 0);
	CHECK_EQ(go(RUNNING), 0);
	CHECK_EQ(get(0, VC_DEVICE_STATUS, 1), VS_ACKNOWLEDGE);
	driver_start();
	offer();
	CHECK_EQ(kick(), 0);
	CHECK_EQ(used_idx(), 1);
	virtio_close();
}

TEST(a_virtio_state_that_is_none)
{
	const size_t len = virtio_state_made();
	static uint8_t good[STATE_MAX];
	memcpy(good, state, len);
	virtio_close();
	virtio_open();
	// Every bit of it: taken, then it runs, or refused, then a reset helps.  Whatever is taken breaks no more than itself.
	unsigned taken = 0, refused = 0;
	for (size_t i = 0; i < len; i++) {
		memcpy(state, good, len);
		state[i] ^= (uint8_t)(1u << i % 8);
		if (state_give(len) == 0) {
			taken++;
			CHECK_EQ(go(RUNNING), 0);
			offer();
			CHECK_EQ(kick(), 0);
		} else {
			refused++;
			CHECK_EQ(is(), ERROR);
		}
		CHECK_EQ(ask(VFIO_USER_DEVICE_RESET, NULL, 0), 0);
		CHECK_EQ(get(0, VC_DEVICE_STATUS, 1), 0);
		driver_start();
		offer();
		CHECK_EQ(kick(), 0);
		CHECK_EQ(used_idx(), 1);
		CHECK_EQ(ask(VFIO_USER_DEVICE_RESET, NULL, 0), 0);
	}
	CHECK(taken > 0 && refused > 100);
	// What the device says of its own part.
	memcpy(state, good, len);
	dev.load_refuses = true;
	CHECK_EQ(state_give(len), EINVAL);
	CHECK_EQ(is(), ERROR);
	CHECK_EQ(get(0, VC_DEVICE_STATUS, 1), 0);
	virtio_close();
}

// Field by field, by their places in struct fn_state (virtio_fn_state.c), which lies behind the function's own part.
TEST(what_is_wrong_with_a_virtio_state)
{
	const size_t mine = 320 + 17 * 3, queue = mine + 32, live = queue + 40;
	const struct {
		size_t at;
		unsigned size;
		uint64_t val;
	} wrong[] = {
		{ mine - 1, 1, 2 },	      // an interrupt that is pending twice
		{ mine, 8, UINT64_MAX },      // features that are not offered
		{ mine, 8, 0 },		      // VERSION_1 is missing
		{ mine + 8, 4, 1 },	      // queues
		{ mine + 8, 4, 3 },	      //
		{ mine + 12, 4, 9 },	      // bytes of the device's
		{ mine + 12, 4, UINT32_MAX }, //
		{ mine + 26, 2, 3 },	      // a vector
		{ mine + 28, 1, 0 },	      // states that the status does not go with
		{ mine + 28, 1, 1 },	      //
		{ mine + 28, 1, 3 },	      //
		{ mine + 28, 1, 4 },	      //
		{ mine + 29, 1, 7 },	      // without FEATURES_OK
		{ mine + 29, 1, 11 },	      // without DRIVER_OK
		{ mine + 29, 1, 0x1f },	      // a bit that there is not
		{ mine + 29, 1, 0x4f },	      // NEEDS_RESET
		{ mine + 30, 1, 4 },	      // the ISR
		{ live + 24, 4, 0x10000 },    // where to go on
		{ live + 28, 2, 0 },	      // entries
		{ live + 28, 2, 7 },	      //
		{ live + 28, 2, 32 },	      //
		{ live + 30, 2, 3 },	      // a vector
		{ live + 32, 1, 2 },	      // flags that are none
		{ live + 33, 1, 2 },	      //
		{ live + 34, 1, 2 },	      //
		{ live + 32, 1, 0 },	      // live and not enabled
		{ queue + 34, 1, 1 },	      //
		{ live + 35, 1, 1 },	      // what stands for nothing
		{ live + 40, 1, 1 },	      // a queue that there is not
		{ live + 40 * 63 - 1, 1, 1 },
		{ live + 40 * 63 + 8, 1, 43 }, // nothing else: the device's own
	};
	const size_t len = virtio_state_made();
	static uint8_t good[STATE_MAX];
	memcpy(good, state, len);
	virtio_close();
	virtio_open();
	CHECK_EQ(len, live + 40 * 63 + 10);
	for (unsigned i = 0; i < ARRAY_LEN(wrong); i++) {
		const bool taken = i == ARRAY_LEN(wrong) - 1;
		memcpy(state, good, len);
		CHECK(memcmp(state + wrong[i].at, &wrong[i].val, wrong[i].size) != 0);
		memcpy(state + wrong[i].at, &wrong[i].val, wrong[i].size);
		if (state_give(len) != (taken ? 0 : EINVAL)) {
			printf("number %u\n", i);
			CHECK(false);
		}
		CHECK_EQ(is(), taken ? (uint32_t)STOP : ERROR);
		CHECK_EQ(ask(VFIO_USER_DEVICE_RESET, NULL, 0), 0);
	}
	virtio_close();
}

TEST(what_a_queue_writes_is_noted)
{
	virtio_open();
	driver_start();
	offer();
	CHECK_EQ(kick(), 0);
	CHECK_EQ(log_start(PAGE, 0, NULL, 0), 0);
	CHECK_EQ(report(0, RAM_LEN, PAGE), 0);
	offer();
	CHECK_EQ(kick(), 0);
	CHECK_EQ(report(0, RAM_LEN, PAGE), 1u << USED / PAGE | 1u << DATA / PAGE);
	CHECK_EQ(report(0, RAM_LEN, PAGE), 0);
	CHECK_EQ(go(STOP), 0);
	offer();
	CHECK_EQ(go(RUNNING), 0);
	CHECK_EQ(report(0, RAM_LEN, PAGE), 1u << USED / PAGE | 1u << DATA / PAGE);
	CHECK_EQ(log_stop(), 0);
	CHECK(!dev.queue[1].dirty);
	offer();
	CHECK_EQ(kick(), 0);
	CHECK_EQ(used_idx(), 4);
	CHECK_EQ(log_start(PAGE, 0, NULL, 0), 0);
	client_leave(); // with the log
	client_connect();
	hello();
	CHECK_EQ(map(0, RAM_LEN, 3, ram_fd, 0), 0);
	offer();
	CHECK_EQ(kick(), 0);
	CHECK_EQ(used_idx(), 5);
	virtio_close();
}
