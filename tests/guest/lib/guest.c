// SPDX-License-Identifier: BSD-2-Clause
// Text, results, memory, and what the monitor hands over.
#include "guest.h"

#include "cpu.h"

#define COM1	  0x3f8
#define COM1_LSR  (COM1 + 5)
#define LSR_READY 1

#define PORT_SLEEP 0x600
#define SLEEP_S5   0x34

// ---- the C library's
// ------------------------------------------------------------------------------------------

void *memset(void *p, int c, size_t n)
{
	void *to = p;
	uint64_t all = 0x0101010101010101ul * (uint8_t)c;
	size_t words = n / 8;
	__asm__ volatile("rep stosq" : "+D"(to), "+c"(words) : "a"(all) : "memory");
	n %= 8;
	__asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(c) : "memory");
	return p;
}

void *memcpy(void *to, const void *from, size_t n)
{
	void *p = to;
	size_t words = n / 8;
	__asm__ volatile("rep movsq" : "+D"(p), "+S"(from), "+c"(words)::"memory");
	n %= 8;
	__asm__ volatile("rep movsb" : "+D"(p), "+S"(from), "+c"(n)::"memory");
	return to;
}

int memcmp(const void *a, const void *b, size_t n)
{
	const uint8_t *x = a, *y = b;
	for (; n >= 8 && *(const uint64_t *)x == *(const uint64_t *)y; n -= 8)
		x += 8, y += 8;
	for (; n > 0; n--, x++, y++)
		if (*x != *y)
			return *x < *y ? -1 : 1;
	return 0;
}

size_t strlen(const char *s)
{
	size_t n = 0;
	while (s[n])
		n++;
	return n;
}

int strcmp(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return (uint8_t)*a - (uint8_t)*b;
}

bool starts_with(const char *s, const char *prefix)
{
	while (*prefix)
		if (*s++ != *prefix++)
			return false;
	return true;
}

uint64_t mmio_read(uint64_t gpa, unsigned size)
{
	return size == 1 ? read8(gpa) : size == 2 ? read16(gpa) : size == 4 ? read32(gpa) : read64(gpa);
}

void mmio_write(uint64_t gpa, unsigned size, uint64_t v)
{
	if (size == 1)
		write8(gpa, (uint8_t)v);
	else if (size == 2)
		write16(gpa, (uint16_t)v);
	else if (size == 4)
		write32(gpa, (uint32_t)v);
	else
		write64(gpa, v);
}

// ---- text
// -------------------------------------------------------------------------------------------------------

static void print_char(char c)
{
	outb(COM1, (uint8_t)c);
}

static void print_number(uint64_t v, unsigned base, unsigned width)
{
	char digits[24];
	unsigned n = 0;
	do {
		digits[n++] = "0123456789abcdef"[v % base];
		v /= base;
	} while (v);
	for (; width > n; width--)
		print_char('0');
	while (n > 0)
		print_char(digits[--n]);
}

void print_v(const char *fmt, va_list ap)
{
	for (; *fmt; fmt++) {
		unsigned width = 0;
		bool is_long = false;
		if (*fmt != '%') {
			print_char(*fmt);
			continue;
		}
		for (fmt++; *fmt >= '0' && *fmt <= '9'; fmt++)
			width = width * 10 + (unsigned)(*fmt - '0');
		for (; *fmt == 'l'; fmt++)
			is_long = true;
		if (*fmt == 's') {
			for (const char *s = va_arg(ap, const char *); *s; s++)
				print_char(*s);
		} else if (*fmt == 'c') {
			print_char((char)va_arg(ap, int));
		} else if (*fmt == 'd') {
			int64_t v = is_long ? va_arg(ap, int64_t) : va_arg(ap, int);
			if (v < 0)
				print_char('-');
			print_number(v < 0 ? (uint64_t)-v : (uint64_t)v, 10, width);
		} else if (*fmt == 'u' || *fmt == 'x') {
			uint64_t v = is_long ? va_arg(ap, uint64_t) : va_arg(ap, unsigned);
			print_number(v, *fmt == 'u' ? 10 : 16, width);
		} else {
			print_char(*fmt);
		}
	}
}

void print(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	print_v(fmt, ap);
	va_end(ap);
}

bool read_line(char *buf, size_t room, unsigned ms)
{
	size_t n = 0;
	for (;;) {
		if (!WAIT(inb(COM1_LSR) & LSR_READY, ms))
			return false;
		char c = (char)inb(COM1);
		if (c == '\n')
			break;
		if (n + 1 < room)
			buf[n++] = c;
	}
	buf[n] = '\0';
	return true;
}

// ---- results
// ----------------------------------------------------------------------------------------------------

static struct {
	const char *name;
	bool failed, skipped;
	unsigned passed_count, failed_count, skipped_count;
} now;

void power_off(void)
{
	outb(PORT_SLEEP, SLEEP_S5);
	halt_forever();
}

static const char *base_name(const char *file)
{
	const char *base = file;
	for (; *file; file++)
		if (*file == '/')
			base = file + 1;
	return base;
}

void test_fail(const char *file, int line, const char *fmt, ...)
{
	va_list ap;
	print("FAIL %s:%d %s: ", base_name(file), line, now.name ? now.name : "-");
	va_start(ap, fmt);
	print_v(fmt, ap);
	va_end(ap);
	print("\n");
	now.failed = true;
}

void test_skip(const char *fmt, ...)
{
	va_list ap;
	print("SKIP %s: ", now.name);
	va_start(ap, fmt);
	print_v(fmt, ap);
	va_end(ap);
	print("\n");
	now.skipped = true;
}

bool test_failed(void)
{
	return now.failed;
}

void panic(const char *fmt, ...)
{
	va_list ap;
	print("FAIL %s: ", now.name ? now.name : "-");
	va_start(ap, fmt);
	print_v(fmt, ap);
	va_end(ap);
	print("\n%u passed, %u failed, %u skipped\n", now.passed_count, now.failed_count + 1,
	      now.skipped_count);
	power_off();
}

static size_t heap_used, heap_floor;

void tests_run(const struct test *tests, size_t count)
{
	heap_floor = heap_used; // what was set up before the tests stays
	for (size_t i = 0; i < count; i++) {
		now.name = tests[i].name;
		now.failed = now.skipped = false;
		heap_used = heap_floor;
		sleep_ms(1); // what the test before left pending
		irq_clear();
		tests[i].run();
		if (now.failed) {
			now.failed_count++;
		} else if (now.skipped) {
			now.skipped_count++;
		} else {
			now.passed_count++;
			print("PASS %s\n", now.name);
		}
	}
	now.name = NULL;
}

// ---- memory
// -----------------------------------------------------------------------------------------------------

static uint8_t heap[1 << 20] __attribute__((aligned(4096)));

void *alloc(size_t size, size_t align)
{
	size_t at = (heap_used + align - 1) & ~(align - 1);
	if (at + size > sizeof(heap))
		panic("out of memory");
	heap_used = at + size;
	return memset(heap + at, 0, size);
}

// ---- what the monitor hands over
// --------------------------------------------------------------------------------

struct boot_info boot;
extern uint64_t boot_pvh, boot_zero_page;

static uint64_t get(uint64_t gpa, unsigned size)
{
	uint64_t v = 0;
	memcpy(&v, (const void *)gpa, size);
	return v;
}

static void range_add(uint64_t gpa, uint64_t size, uint32_t type)
{
	if (boot.range_count < ARRAY_LEN(boot.range))
		boot.range[boot.range_count++] = (struct memory_range){ gpa, size, type };
}

// struct hvm_start_info, version 1
static void read_pvh(uint64_t p)
{
	if (get(p, 4) != 0x336ec578 || get(p + 4, 4) != 1)
		panic("no PVH start information at %lx", p);
	boot.pvh = true;
	boot.cmdline = (const char *)get(p + 24, 8);
	boot.rsdp_gpa = get(p + 32, 8);
	if (get(p + 12, 4) == 1) {
		boot.initrd_gpa = get(get(p + 16, 8), 8);
		boot.initrd_size = get(get(p + 16, 8) + 8, 8);
	}
	uint64_t map = get(p + 40, 8);
	for (uint64_t i = 0; i < get(p + 48, 4); i++)
		range_add(get(map + 24 * i, 8), get(map + 24 * i + 8, 8),
			  (uint32_t)get(map + 24 * i + 16, 4));
}

// struct boot_params of Linux
static void read_zero_page(uint64_t p)
{
	if (get(p + 0x202, 4) != 0x53726448)
		panic("no boot parameters at %lx", p);
	boot.cmdline = (const char *)(get(p + 0x228, 4) | get(p + 0x0c8, 4) << 32);
	boot.rsdp_gpa = get(p + 0x070, 8);
	boot.initrd_gpa = get(p + 0x218, 4) | get(p + 0x0c0, 4) << 32;
	boot.initrd_size = get(p + 0x21c, 4) | get(p + 0x0c4, 4) << 32;
	for (uint64_t i = 0; i < get(p + 0x1e8, 1); i++)
		range_add(get(p + 0x2d0 + 20 * i, 8), get(p + 0x2d8 + 20 * i, 8),
			  (uint32_t)get(p + 0x2e0 + 20 * i, 4));
}

// Where VALUE of NAME=VALUE begins.
static const char *option_find(const char *name)
{
	size_t len = strlen(name);
	for (const char *s = boot.cmdline; *s; s++)
		if ((s == boot.cmdline || s[-1] == ' ') && starts_with(s, name) && s[len] == '=')
			return s + len + 1;
	return NULL;
}

uint64_t option(const char *name, uint64_t otherwise)
{
	const char *s = option_find(name);
	uint64_t v = 0;
	if (!s)
		return otherwise;
	for (; *s >= '0' && *s <= '9'; s++)
		v = v * 10 + (uint64_t)(*s - '0');
	return v;
}

bool option_is(const char *name, const char *value)
{
	const char *s = option_find(name);
	size_t len = strlen(value);
	return s && starts_with(s, value) && (s[len] == ' ' || s[len] == '\0');
}

void guest_start(void);
void guest_start(void)
{
	outb(COM1 + 1, 0);
	if (boot_pvh)
		read_pvh(boot_pvh);
	else
		read_zero_page(boot_zero_page);
	cpu_init_first();
	guest_main();
	if (now.passed_count + now.failed_count + now.skipped_count)
		print("%u passed, %u failed, %u skipped\n", now.passed_count, now.failed_count,
		      now.skipped_count);
	power_off();
}
