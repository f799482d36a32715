// SPDX-License-Identifier: BSD-2-Clause
// The machine's life, in the role that do=WORD on the command line names; the harness acts from outside and
// looks at how it ends.
#include "lib/virtio.h"

#define BOOTS_REGISTER 0x40 // a byte of CMOS memory, which outlives a reset
#define SCRATCH	       ((volatile uint64_t *)0x800000)

static struct vdev disk, other;

static void say(const char *line)
{
	print("%s\n", line);
}

static unsigned boots(void)
{
	outb(0x70, BOOTS_REGISTER);
	unsigned n = inb(0x71);
	outb(0x70, BOOTS_REGISTER);
	outb(0x71, (uint8_t)(n + 1));
	return n;
}

static void triple_fault(void)
{
	struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) none = { 0, 0 };
	__asm__ volatile("lidt %0; ud2" ::"m"(none));
}

static void reset_by(uint64_t how)
{
	if (how == 0)
		outb(0x64, 0xfe);
	else if (how == 1)
		outb(0x602, 1);
	else
		triple_fault();
}

static void reset_arg(void *how)
{
	reset_by((uint64_t)how);
}

// ---- resets
// -----------------------------------------------------------------------------------------------------

static void after_reset(void)
{
	CHECK_EQ(SCRATCH[0], 0);
	CHECK_EQ(SCRATCH[1 << 17], 0);
	CHECK_EQ(cpus_online, 1);
	CHECK_EQ(read32(LAPIC + 0xf0) & 0x100, 0x100);
	CHECK_EQ(inb(0x3ff), 0); // the serial port's scratch register
	CHECK_EQ(inl(0xcf8), 0);
	CHECK_EQ(config_read16(1, PCI_COMMAND), 0);
	CHECK_EQ(bar_get(1, 0), option("bar", 0xc0000000));
	CHECK_EQ(config_read8(1, 0x3c), 0);
	CHECK(vdev_find(&disk, 0));
	CHECK_EQ(vdev_status(&disk), 0);
	CHECK_EQ(read32(disk.msix_table + 16), 0);
	CHECK_EQ(read32(disk.msix_table + 28), 1);
	vdev_select(&disk, 0);
	CHECK_EQ(read16(disk.common + VC_QUEUE_ENABLE), 0);
	CHECK_EQ(read64(disk.common + VC_QUEUE_DESC), 0);
	CHECK(vdev_start(&disk, 0, 1, 16));
	CHECK(blk_works(&disk, 0, 8));
	CHECK(cpus_start((unsigned)option("cpus", 1)));
}

static const struct test after_reset_tests[] = { { "after a reset RAM and devices are as new",
						   after_reset } };

// Dirties all that a reset has to clean, in the middle of I/O, then resets.
static void do_reboot(void)
{
	static uint8_t data[4096];
	unsigned n = boots();
	print("boot %u\n", n);
	if (n > 0)
		tests_run(after_reset_tests, 1);
	if (n == option("times", 1))
		return;
	if (n == 0 && (!vdev_find(&disk, 0) || !cpus_start((unsigned)option("cpus", 1)) ||
		       !vdev_start(&disk, 0, 1, 16)))
		panic("the first boot found no disk or no CPUs");
	SCRATCH[0] = SCRATCH[1 << 17] = 0x1234;
	outb(0x3ff, 0x77);
	config_write8(disk.slot, 0x3c, 11);
	bar_set(disk.slot, 0, bar_get(disk.slot, 0) + 0x200000);
	vdev_locate(&disk);
	for (uint16_t i = 0; i < 4; i++) {
		blk_fill(&disk.q[0], (uint16_t)(3 * i), BLK_OUT, 64, data, 4096);
		vq_offer(&disk.q[0], (uint16_t)(3 * i));
	}
	vq_kick(&disk.q[0], 0);
	// Every CPU at the same time: one reset comes of it.
	if (option("all", 0))
		for (unsigned i = 1; i < option("cpus", 1); i++)
			cpu_run(i, reset_arg, (void *)option("by", 0));
	reset_by(option("by", 0));
	halt_forever();
}

// ---- events and ends
// --------------------------------------------------------------------------------------------

#define EVENTS 0x603

static void do_button(void)
{
	ioapic_route(9, VECTOR_FIRST, 0, false);
	for (unsigned i = 0; i < option("times", 1); i++) {
		say("ready");
		if (!WAIT(irq_count[VECTOR_FIRST] > i, 5000)) {
			FAIL("no interrupt");
			return;
		}
		uint8_t events = inb(EVENTS);
		if (events != 1 || inb(EVENTS) != 0) {
			FAIL("event register: %x", events);
			return;
		}
		say("pressed");
	}
	if (option("ignore", 0))
		halt_forever();
}

static void do_crash(void)
{
	say("crashing");
	if (option_is("by", "jump")) // to where no code can be
		((void (*)(void))0xd0000000)();
	if (option_is("by", "halt"))
		halt_forever();
	if (option_is("by", "spin"))
		for (;;)
			__asm__ volatile("");
}

static void do_wait(void)
{
	say("ready");
	for (;;)
		sleep_ms(1000);
}

// Bytes to the console until the end of time, or count=N of them.
static void do_flood(void)
{
	for (uint64_t i = 0, n = option("count", 0); n == 0 || i < n; i++)
		outb(0x3f8, (uint8_t)(i % 64 == 63 ? '\n' : 'a' + i % 26));
	print("\nflooded\n");
	if (option("linger", 0)) {
		char line[8];
		write32(0xf0000000, 0); // the log shows that this point is reached
		read_line(line, sizeof(line), 10000);
	}
}

// Takes `count` bytes from the console: their number and sum.
static void do_drink(void)
{
	uint64_t n = 0, sum = 0;
	say("ready");
	while (n < option("count", 0) && WAIT(inb(0x3fd) & 1, 3000))
		for (; inb(0x3fd) & 1; n++)
			sum += inb(0x3f8);
	print("drank %lu bytes, sum %lu\n", n, sum);
}

static uint32_t rx_bytes;
static char rx_line[64];

static void rx_irq(void)
{
	while (inb(0x3fd) & 1)
		if (rx_bytes < sizeof(rx_line) - 1)
			rx_line[rx_bytes++] = (char)inb(0x3f8);
}

static void do_echo(void)
{
	irq_hook[VECTOR_FIRST] = rx_irq;
	ioapic_route(4, VECTOR_FIRST, 0, false);
	outb(0x3f9, 1);
	say("ready");
	if (WAIT(rx_bytes && rx_line[rx_bytes - 1] == '\n', 3000))
		print("heard %s", rx_line);
}

// ---- a device that dies
// -----------------------------------------------------------------------------------------

static bool start_disks(void)
{
	return vdev_find(&disk, 0) && vdev_find(&other, 1) && vdev_start(&disk, F_BLK_FLUSH, 1, 16) &&
	       vdev_start(&other, 0, 1, 16) && blk_works(&disk, 0, 8) && blk_works(&other, 0, 8);
}

static void dead_disk(void)
{
	CHECK(start_disks());
	irq_clear();
	if (option_is("when", "busy")) {
		// Requests without pause until it is dead.
		static uint8_t data[4096];
		say("ready");
		for (uint16_t i = 0; !(vdev_status(&disk) & S_NEEDS_RESET); i++) {
			uint32_t id, len;
			blk_fill(&disk.q[0], 0, i % 2 ? BLK_IN : BLK_OUT, 64, data, 4096);
			vq_offer(&disk.q[0], 0);
			vq_kick(&disk.q[0], 0);
			if (!vq_take(&disk.q[0], &id, &len, 20) &&
			    !WAIT(vdev_status(&disk) & S_NEEDS_RESET, 3000))
				break;
		}
	} else {
		say("ready");
	}
	CHECK(WAIT(irq_count[disk.vector - 1] > 0, 5000));
	CHECK(vdev_status(&disk) & S_NEEDS_RESET);
	CHECK(blk_works(&other, 0, 8));
	CHECK(vdev_reset(&disk));
	CHECK(!vdev_negotiate(&disk, 0)); // FEATURES_OK stays off
	CHECK(vdev_reset(&disk));
	CHECK(blk_works(&other, 0, 16));
}

// Resets, while the device does not answer: done by the deadline, after which it is dead, or another has come.
static void stalled_disk(void)
{
	char line[16];
	CHECK(start_disks());
	say("ready");
	CHECK(read_line(line, sizeof(line), 5000));
	vdev_set_status(&disk, 0);
	say("reset");
	CHECK_EQ(vdev_status(&disk), 0);
	if (option("again", 0)) {
		CHECK(vdev_start(&disk, F_BLK_FLUSH, 1, 16));
		CHECK(blk_works(&disk, 0, 8));
	} else {
		CHECK(!vdev_negotiate(&disk, 0));
	}
	CHECK(blk_works(&other, 0, 8));
}

// The device stalls and goes on: I/O waits, and nothing is lost.
static void paused_disk(void)
{
	char line[16];
	uint32_t id, len;
	CHECK(start_disks());
	say("ready");
	CHECK(read_line(line, sizeof(line), 5000));
	volatile uint8_t *status = blk_fill(&disk.q[0], 0, BLK_FLUSH, 0, NULL, 0);
	vq_offer(&disk.q[0], 0);
	vq_kick(&disk.q[0], 0);
	CHECK(!vq_take(&disk.q[0], &id, &len, 50));
	CHECK(blk_works(&other, 0, 8));
	say("waiting");
	CHECK(vq_take(&disk.q[0], &id, &len, 5000));
	CHECK_EQ(*status, BLK_OK);
	CHECK(blk_works(&disk, 0, 8));
}

// ---- a device that dies again and again
// -----------------------------------------------------------------------------------------

#define SLOTS	   8
#define SLOT_BYTES 1024
#define GAP_US	   3000 // a pause between two requests that is worth a line, unless gap=N says

static uint64_t cycles(void)
{
	uint32_t lo, hi;
	__asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
	return (uint64_t)hi << 32 | lo;
}

static struct slot {
	uint32_t data[SLOT_BYTES / 4];
	uint32_t round;
	bool reading;
	volatile uint8_t *status;
} slots[SLOTS];

static void slot_offer(struct slot *s)
{
	const uint16_t n = (uint16_t)(s - slots);
	for (unsigned i = 0; i < SLOT_BYTES / 4; i += 16)
		s->data[i] = s->reading ? 0 : s->round * SLOTS * 1024 + n * 1024 + i;
	s->status = blk_fill(&disk.q[0], (uint16_t)(3 * n), s->reading ? BLK_IN : BLK_OUT,
			     (uint64_t)n * (SLOT_BYTES / 512), s->data, SLOT_BYTES);
	vq_offer(&disk.q[0], (uint16_t)(3 * n));
}

// What was written is what is read, however often the device died in between.
static bool slot_done(struct slot *s)
{
	const uint32_t n = (uint32_t)(s - slots);
	if (*s->status != BLK_OK)
		return false;
	for (unsigned i = 0; s->reading && i < SLOT_BYTES / 4; i += 16)
		if (s->data[i] != s->round * SLOTS * 1024 + n * 1024 + i)
			return false;
	s->round += s->reading;
	s->reading = !s->reading;
	return true;
}

// Requests without pause, each written block read back, until a byte comes from the console.  An interrupt that is lost would not be
// noticed by who polls, so each wait ends with one.
static void killed_disk(void)
{
	uint64_t per_us, last, begin = cycles(), shown = option("gap", GAP_US);
	uint32_t rounds = 0;
	sleep_ms(100);
	per_us = (cycles() - begin) / 100000;
	CHECK(vdev_find(&disk, 0) && vdev_start(&disk, 0, 1, 32));
	for (unsigned i = 0; i < SLOTS; i++)
		slot_offer(&slots[i]);
	vq_kick(&disk.q[0], 0);
	last = cycles();
	say("ready");
	for (bool more = true; more;) {
		uint32_t id, len;
		for (unsigned i = 0; i < SLOTS; i++) {
			if (!vq_take(&disk.q[0], &id, &len, 10000)) {
				FAIL("round %u: a request is lost, status %x", rounds, vdev_status(&disk));
				return;
			}
			const uint64_t gap = (cycles() - last) / per_us;
			if (gap > shown)
				print("gap %lu\n", gap);
			if (id % 3 || id / 3 >= SLOTS || !slot_done(&slots[id / 3])) {
				FAIL("round %u: request %u gave what was not written", rounds, id);
				return;
			}
			slot_offer(&slots[id / 3]);
			vq_kick(&disk.q[0], 0);
			last = cycles();
		}
		more = rounds++ % 8 || !(inb(0x3fd) & 1);
	}
	print("%u rounds\n", rounds);
	CHECK_EQ(vdev_status(&disk), S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK | S_DRIVER_OK);
}

// A request for which a device that died twice in a row, and is tried again after seconds, has the time.
static bool blk_works_at_last(struct vdev *v)
{
	uint32_t id, len;
	volatile uint8_t *status = blk_fill(&v->q[0], 0, BLK_IN, 8, slots[0].data, 512);
	vq_offer(&v->q[0], 0);
	vq_kick(&v->q[0], 0);
	return vq_take(&v->q[0], &id, &len, 20000) && *status == BLK_OK;
}

// The device dies while it is reset and started, over and over.
static void killed_resetting_disk(void)
{
	unsigned n = 0;
	CHECK(vdev_find(&disk, 0));
	say("ready");
	for (; !(inb(0x3fd) & 1); n++) {
		CHECK(vdev_start(&disk, 0, 1 + n % 2, 16));
		CHECK(n % 4 || blk_works_at_last(&disk));
	}
	CHECK(vdev_start(&disk, 0, 1, 16));
	CHECK(blk_works_at_last(&disk));
	print("%u resets\n", n);
}

static void reset_storm(void)
{
	char line[16];
	CHECK(start_disks());
	CHECK(vdev_start(&disk, 0, 2, 16)); // a vector keeps its descriptor from its first use on
	CHECK(vdev_start(&disk, 0, 1, 16));
	say("ready");
	CHECK(read_line(line, sizeof(line), 5000));
	for (unsigned i = 1; i <= 60; i++) {
		CHECK(vdev_start(&disk, 0, 1 + i % 2, 16));
		CHECK(i % 16 || blk_works(&disk, 0, 8));
	}
	say("stormed");
	CHECK(read_line(line, sizeof(line), 5000));
	CHECK(blk_works(&other, 0, 8));
}

static const struct test killed_tests[] = { { "P02 a device that is killed again and again loses nothing",
					      killed_disk } };
static const struct test resetting_tests[] = { { "P02 a device killed while it is reset and started",
						 killed_resetting_disk } };
static const struct test storm_tests[] = { { "G14 sixty resets and starts", reset_storm } };
static const struct test dead_tests[] = { { "a dead device asks for a reset, the rest goes on", dead_disk } };
static const struct test stalled_tests[] = { { "G14 reset of a device that stalls", stalled_disk } };
static const struct test paused_tests[] = { { "P03 a device that pauses loses nothing", paused_disk } };

// ---- many functions
// ---------------------------------------------------------------------------------------------

static void many_functions(void)
{
	static struct vdev v[31];
	unsigned count = (unsigned)option("disks", 31), vectors = 0;
	for (unsigned i = 0; i < count; i++) {
		CHECK(vdev_find(&v[i], i));
		v[i].vector = VECTOR_FIRST + 1 + 4 * i;
		CHECK_EQ(v[i].queue_count, option("queues", 64));
		vectors += v[i].msix_count;
	}
	CHECK_EQ(vectors, count * (option("queues", 64) + 1));
	for (unsigned i = 0; i < count; i++)
		CHECK(vdev_start(&v[i], 0, 2, 2));
	// Every vector of the last one: each gets its route.
	for (unsigned i = 0; i < v[count - 1].msix_count; i++)
		msix_set(&v[count - 1], i, 0, VECTOR_FIRST);
	for (unsigned i = 0; i < count; i++)
		CHECK(vdev_status(&v[i]) == (S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK | S_DRIVER_OK));
	for (unsigned i = 0; i < count; i++)
		CHECK(vdev_reset(&v[i]));
}

static const struct test many_tests[] = { { "G21 31 functions with 2015 vectors", many_functions } };

static const struct {
	const char *word;
	void (*run)(void);
	const struct test *test;
} roles[] = {
	{ "reboot", do_reboot, NULL },	    { "button", do_button, NULL },
	{ "crash", do_crash, NULL },	    { "wait", do_wait, NULL },
	{ "flood", do_flood, NULL },	    { "drink", do_drink, NULL },
	{ "echo", do_echo, NULL },	    { "dead", NULL, dead_tests },
	{ "stalled", NULL, stalled_tests }, { "paused", NULL, paused_tests },
	{ "many", NULL, many_tests },	    { "storm", NULL, storm_tests },
	{ "killed", NULL, killed_tests },   { "resetting", NULL, resetting_tests },
};

void guest_main(void)
{
	for (unsigned i = 0; i < ARRAY_LEN(roles); i++)
		if (option_is("do", roles[i].word)) {
			if (roles[i].test)
				tests_run(roles[i].test, 1);
			else
				roles[i].run();
			return;
		}
}
