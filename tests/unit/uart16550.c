// SPDX-License-Identifier: BSD-2-Clause
// The serial port from the guest's side; the host's side is a pipe.
#include "vmm/uart16550.h"
#include "tests/unit/child.h"
#include "tests/unit/test.h"
#include "vmm/bus.h"

#include <linux/serial_reg.h>
#include <pthread.h>
#include <sched.h>
#include <time.h>

static struct console console;
static struct uart16550 uart;
static struct bus bus;
static struct loop loop;
static struct err err;
static bool line;
static unsigned edges;
static int feed; // what the user types goes in here

static void on_line(void *owner, bool high)
{
	line = high;
	edges++;
	(void)owner;
}

// A port with standard input and output of its own: two pipes.
static int saved[2], out;

static int start(void)
{
	int in[2], from[2];
	edges = 0;
	line = false;
	for (int i = 0; i < 2; i++)
		saved[i] = dup(i);
	if (loop_init(&loop) < 0 || pipe(in) < 0 || pipe(from) < 0)
		return -1;
	dup2(in[0], 0);
	fflush(stdout);
	dup2(from[1], 1);
	close(in[0]);
	close(from[1]);
	feed = in[1];
	out = from[0];
	fcntl(out, F_SETFL, O_NONBLOCK);
	bus_init(&bus);
	if (console_open(&console, "stdio", &err) < 0)
		return -1;
	uart_init(&uart, &console, 0x3f8, on_line, NULL);
	return bus_add(&bus, &uart.range) < 0 || console_start(&console, &loop, &err) < 0 ? -1 : 0;
}

static void finish(void)
{
	console_close(&console);
	uart_destroy(&uart);
	bus_destroy(&bus);
	loop_destroy(&loop);
	for (int i = 0; i < 2; i++) {
		dup2(saved[i], i);
		close(saved[i]);
	}
	if (feed >= 0)
		close(feed);
	close(out);
}

static uint8_t in(unsigned reg)
{
	uint64_t val = 0;
	bus_read(&bus, 0x3f8 + reg, 1, &val);
	return (uint8_t)val;
}

static void outb(unsigned reg, uint8_t val)
{
	bus_write(&bus, 0x3f8 + reg, 1, val);
}

static void type(const char *s)
{
	if (write(feed, s, strlen(s)) < 0)
		abort();
}

static void turn(void)
{
	for (int i = 0; i < 20 && loop_once(&loop, 0) > 0; i++)
		;
}

// All that the guest can read now, FIFO by FIFO.
static const char *read_all(void)
{
	static char text[4096];
	size_t n = 0;
	for (turn(); in(UART_LSR)&UART_LSR_DR; turn())
		text[n++] = (char)in(UART_RX);
	text[n] = '\0';
	return text;
}

// Checks are made after finish(): it gives standard output back.
TEST(registers_after_reset)
{
	static const uint8_t want[] = { 0,
					0,
					UART_IIR_NO_INT,
					0,
					UART_MCR_OUT2,
					UART_LSR_THRE | UART_LSR_TEMT,
					UART_MSR_DCD | UART_MSR_DSR | UART_MSR_CTS,
					0 };
	uint8_t got[8];
	int rc = start();
	for (unsigned i = 0; i < 8; i++)
		got[i] = in(i);
	finish();
	CHECK_EQ(rc, 0);
	for (unsigned i = 0; i < 8; i++)
		CHECK_EQ(got[i], want[i]);
}

TEST(divisor_latch_and_read_only_registers)
{
	start();
	outb(UART_LCR, UART_LCR_DLAB | 3);
	uint8_t dll = in(UART_DLL);
	outb(UART_DLL, 0x34);
	outb(UART_DLM, 0x12);
	uint8_t low = in(UART_DLL), high = in(UART_DLM);
	outb(UART_LCR, 3);
	uint8_t ier = in(UART_IER), lcr = in(UART_LCR);
	outb(UART_LSR, 0xff);
	outb(UART_MSR, 0xff);
	uint8_t lsr = in(UART_LSR), msr = in(UART_MSR);
	outb(UART_SCR, 0xa5);
	outb(UART_IER, 0xf0);
	outb(UART_MCR, 0xe0);
	uint8_t scr = in(UART_SCR), ier_high = in(UART_IER), mcr = in(UART_MCR);
	finish();
	CHECK_EQ(dll, 12);
	CHECK_EQ(low, 0x34);
	CHECK_EQ(high, 0x12);
	CHECK_EQ(ier, 0);
	CHECK_EQ(lcr, 3);
	CHECK_EQ(lsr, 0x60);
	CHECK_EQ(msr, 0xb0);
	CHECK_EQ(scr, 0xa5);
	CHECK_EQ(ier_high, 0);
	CHECK_EQ(mcr, 0);
}

TEST(wide_accesses_have_no_effect)
{
	start();
	uint64_t v2 = 0, v4 = 0;
	bus_write(&bus, 0x3f8 + UART_SCR - 1, 2, 0x5555);
	bool b2 = bus_read(&bus, 0x3f8 + UART_LCR, 2, &v2);
	bool b4 = bus_read(&bus, 0x3f8, 4, &v4);
	uint8_t scr = in(UART_SCR);
	finish();
	CHECK(b2 && b4);
	CHECK_EQ(v2, 0xffff);
	CHECK_EQ(v4, 0xffffffff);
	CHECK_EQ(scr, 0);
}

// How Linux tells a 16550A: the modem outputs come back in loop-back mode.
TEST(loop_back)
{
	start();
	outb(UART_MCR, UART_MCR_LOOP | UART_MCR_RTS | UART_MCR_OUT2);
	uint8_t msr = in(UART_MSR)&0xf0;
	outb(UART_MCR, UART_MCR_LOOP | UART_MCR_DTR | UART_MCR_OUT1);
	uint8_t other = in(UART_MSR)&0xf0;
	outb(UART_TX, 'l');
	bool there = in(UART_LSR)&UART_LSR_DR;
	uint8_t back = in(UART_RX);
	for (int i = 0; i < 40; i++)
		outb(UART_TX, (uint8_t)i); // more than the FIFO holds: lost
	unsigned n = 0;
	while (in(UART_LSR)&UART_LSR_DR)
		n += in(UART_RX) == n;
	outb(UART_MCR, UART_MCR_OUT2);
	outb(UART_TX, 'o');
	outb(UART_TX, '\n');
	char sent[16] = "";
	loop_once(&loop, 500); // a line that began with a lone character appears with the timer
	ssize_t len = read(out, sent, sizeof(sent));
	finish();
	CHECK_EQ(msr, 0x90);
	CHECK_EQ(other, 0x60);
	CHECK(there);
	CHECK_EQ(back, 'l');
	CHECK_EQ(n, UART_FIFO);
	CHECK_EQ(len, 2);
	CHECK(memcmp(sent, "o\n", 2) == 0);
}

TEST(transmitter_interrupt)
{
	start();
	bool seen[6];
	uint8_t id[3];
	outb(UART_IER, UART_IER_THRI);
	seen[0] = line;
	id[0] = in(UART_IIR);
	seen[1] = line; // reading it was the acknowledgement
	id[1] = in(UART_IIR);
	outb(UART_TX, 'a');
	seen[2] = line;
	outb(UART_IER, 0);
	seen[3] = line;
	outb(UART_IER, UART_IER_THRI);
	seen[4] = line;
	in(UART_LSR); // no acknowledgement
	seen[5] = line;
	id[2] = in(UART_IIR);
	finish();
	CHECK(seen[0] && !seen[1] && seen[2] && !seen[3] && seen[4] && seen[5]);
	CHECK_EQ(id[0], UART_IIR_THRI);
	CHECK_EQ(id[1], UART_IIR_NO_INT);
	CHECK_EQ(id[2], UART_IIR_THRI);
}

TEST(receiver_interrupt)
{
	start();
	outb(UART_FCR, UART_FCR_ENABLE_FIFO);
	type("ab");
	turn();
	bool before = line;
	outb(UART_IER, UART_IER_RDI | UART_IER_THRI);
	bool high = line;
	uint8_t id = in(UART_IIR), a = in(UART_RX);
	bool still = line;
	uint8_t b = in(UART_RX), id2 = in(UART_IIR), id3 = in(UART_IIR), empty = in(UART_RX);
	bool after = line;
	finish();
	CHECK(!before && high && still && !after);
	CHECK_EQ(id, UART_IIR_RDI | 0xc0); // comes before the transmitter's
	CHECK_EQ(a, 'a');
	CHECK_EQ(b, 'b');
	CHECK_EQ(id2, UART_IIR_THRI | 0xc0);
	CHECK_EQ(id3, UART_IIR_NO_INT | 0xc0);
	CHECK_EQ(empty, 0);
}

static const char poem[] = "What is typed faster than it is read waits in the pipe, all of it, and in order.";

TEST(input_waits_while_the_fifo_is_full)
{
	start();
	type(poem);
	turn();
	bool muted = console.muted;
	unsigned held = uart.fifo_len;
	const char *got = read_all();
	bool unmuted = !console.muted;
	finish();
	CHECK(muted);
	CHECK_EQ(held, UART_FIFO);
	CHECK_STR(got, poem);
	CHECK(unmuted);
}

TEST(input_behind_a_hang_up_is_not_lost)
{
	start();
	type(poem);
	turn();
	close(feed); // printf ... | minivmm
	feed = -1;
	turn();
	const char *got = read_all();
	turn();
	bool gone = !console.in_source.added;
	finish();
	CHECK_STR(got, poem);
	CHECK(gone);
}

TEST(clearing_the_fifo_lets_input_go_on)
{
	start();
	type("0123456789abcdef");
	turn();
	type("the rest");
	turn();
	bool muted = console.muted;
	outb(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_CLEAR_RCVR);
	const char *got = read_all();
	finish();
	CHECK(muted);
	CHECK_STR(got, "the rest");
}

TEST(reset_lets_input_go_on)
{
	start();
	outb(UART_IER, UART_IER_RDI);
	type("0123456789abcdef");
	turn();
	type("next boot");
	turn();
	uart_reset(&uart);
	uint8_t ier = in(UART_IER);
	const char *got = read_all();
	finish();
	CHECK_EQ(ier, 0);
	CHECK_STR(got, "next boot");
}

static void *guest_reads(void *arg)
{
	size_t *count = arg;
	char c = 0;
	while (c != '$') {
		if (!(in(UART_LSR)&UART_LSR_DR)) {
			sched_yield();
			continue;
		}
		c = (char)in(UART_RX);
		++*count;
	}
	return NULL;
}

static int64_t own_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

// The guest reads while the loop types: neither waits for the other for ever.
TEST(flood_of_input)
{
	enum { TOTAL = 20000 };
	static char text[TOTAL + 1];
	size_t count = 0;
	pthread_t guest;
	memset(text, 'x', TOTAL - 1);
	text[TOTAL - 1] = '$';
	start();
	pthread_create(&guest, NULL, guest_reads, &count);
	type(text);
	// By processor time, which other work on this machine does not use up; one that waits for ever meets the suite's limit.
	const int64_t end = own_ms() + 2500;
	while (own_ms() < end && pthread_tryjoin_np(guest, NULL) != 0)
		loop_once(&loop, 1);
	finish();
	CHECK_EQ(count, TOTAL);
}
