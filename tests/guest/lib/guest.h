// SPDX-License-Identifier: BSD-2-Clause
// A runtime for tiny guests: no operating system, one address space, every test a function.
//
// A guest defines guest_main(), which calls tests_run(); the machine is powered off when that returns.
// Interrupts are off but within WAIT(), so that handlers run where a test expects them.  Waiting is always
// `hlt` and never spinning: a host that interprets kernel mode runs few instructions in a millisecond.
// Nothing here uses SSE, popcnt, cmpxchg16b or int n.
#ifndef GUEST_H
#define GUEST_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define CPUS_MAX     16

// ---- instructions
// -----------------------------------------------------------------------------------------------

static inline void outb(uint16_t port, uint8_t v)
{
	__asm__ volatile("outb %0, %1" ::"a"(v), "Nd"(port) : "memory");
}
static inline void outw(uint16_t port, uint16_t v)
{
	__asm__ volatile("outw %0, %1" ::"a"(v), "Nd"(port) : "memory");
}
static inline void outl(uint16_t port, uint32_t v)
{
	__asm__ volatile("outl %0, %1" ::"a"(v), "Nd"(port) : "memory");
}

static inline uint8_t inb(uint16_t port)
{
	uint8_t v;
	__asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port) : "memory");
	return v;
}

static inline uint16_t inw(uint16_t port)
{
	uint16_t v;
	__asm__ volatile("inw %1, %0" : "=a"(v) : "Nd"(port) : "memory");
	return v;
}

static inline uint32_t inl(uint16_t port)
{
	uint32_t v;
	__asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port) : "memory");
	return v;
}

#define MMIO_ACCESSORS(bits)                                                                                \
	static inline uint##bits##_t read##bits(uint64_t gpa)                                               \
	{                                                                                                   \
		uint##bits##_t v;                                                                           \
		__asm__ volatile("mov %1, %0" : "=r"(v) : "m"(*(volatile uint##bits##_t *)gpa) : "memory"); \
		return v;                                                                                   \
	}                                                                                                   \
	static inline void write##bits(uint64_t gpa, uint##bits##_t v)                                      \
	{                                                                                                   \
		__asm__ volatile("mov %1, %0" : "=m"(*(volatile uint##bits##_t *)gpa) : "r"(v) : "memory"); \
	}
MMIO_ACCESSORS(8)
MMIO_ACCESSORS(16)
MMIO_ACCESSORS(32)
MMIO_ACCESSORS(64)

// An access of `size` bytes (1, 2, 4 or 8).
uint64_t mmio_read(uint64_t gpa, unsigned size);
void mmio_write(uint64_t gpa, unsigned size, uint64_t v);

struct cpuid {
	uint32_t a, b, c, d;
};

static inline struct cpuid cpuid(uint32_t leaf, uint32_t sub)
{
	struct cpuid r;
	__asm__ volatile("cpuid" : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d) : "a"(leaf), "c"(sub));
	return r;
}

static inline void barrier(void)
{
	__asm__ volatile("mfence" ::: "memory");
}
static inline void cli(void)
{
	__asm__ volatile("cli" ::: "memory");
}
static inline void halt_once(void)
{
	__asm__ volatile("sti; hlt; cli" ::: "memory");
}

__attribute__((noreturn)) static inline void halt_forever(void)
{
	for (;;)
		__asm__ volatile("cli; hlt");
}

// ---- text and results
// -------------------------------------------------------------------------------------------

// %s %c %u %d %x %lu %lx %%, and a width with leading zeros for numbers.
__attribute__((format(printf, 1, 2))) void print(const char *fmt, ...);
void print_v(const char *fmt, va_list ap);
// The next line of the serial port, without its newline; false if none came within `ms`.
bool read_line(char *buf, size_t room, unsigned ms);

struct test {
	const char *name;
	void (*run)(void);
};

void guest_main(void); // the guest's own
void tests_run(const struct test *tests, size_t count);
__attribute__((format(printf, 3, 4))) void test_fail(const char *file, int line, const char *fmt, ...);
__attribute__((format(printf, 1, 2))) void test_skip(const char *fmt, ...);
bool test_failed(void);
__attribute__((noreturn)) void power_off(void);
__attribute__((noreturn, format(printf, 1, 2))) void panic(const char *fmt, ...);

#define FAIL(...) test_fail(__FILE__, __LINE__, __VA_ARGS__)
// These end the function that they stand in.
#define CHECK(c)                        \
	do {                            \
		if (!(c)) {             \
			FAIL("%s", #c); \
			return;         \
		}                       \
	} while (0)
#define CHECK_EQ(got, want)                                                \
	do {                                                               \
		uint64_t got_ = (uint64_t)(got), want_ = (uint64_t)(want); \
		if (got_ != want_) {                                       \
			FAIL("%s is %lx, not %lx", #got, got_, want_);     \
			return;                                            \
		}                                                          \
	} while (0)

void *memset(void *p, int c, size_t n);
void *memcpy(void *to, const void *from, size_t n);
int memcmp(const void *a, const void *b, size_t n);
size_t strlen(const char *s);
int strcmp(const char *a, const char *b);
bool starts_with(const char *s, const char *prefix);

// Zeroed memory, given back when the test ends.
void *alloc(size_t size, size_t align);

// ---- what the monitor hands over
// --------------------------------------------------------------------------------

struct memory_range {
	uint64_t gpa, size;
	uint32_t type; // 1: RAM
};

struct boot_info {
	bool pvh;
	const char *cmdline;
	uint64_t initrd_gpa, initrd_size, rsdp_gpa;
	unsigned range_count;
	struct memory_range range[16];
};

extern struct boot_info boot;
// The value of NAME=VALUE on the command line; `otherwise` if it is not there.
uint64_t option(const char *name, uint64_t otherwise);
bool option_is(const char *name, const char *value);

// ---- interrupts and processors
// ----------------------------------------------------------------------------------

#define LAPIC		 0xfee00000ul
#define IOAPIC		 0xfec00000ul
#define VECTOR_TIMER	 0x20
#define VECTOR_FIRST	 0x30 // free for tests up to 0xef
#define VECTOR_WAKE	 0xf0
#define MSI_ADDRESS(cpu) (0xfee00000ul | (uint64_t)(cpu) << 12)

extern volatile uint32_t irq_count[256]; // how often each vector came, on whichever CPU
extern volatile uint32_t irq_cpu[256];	 // and on which it came last
extern void (*irq_hook[256])(void);	 // called by the handler, interrupts off

unsigned cpu_index(void); // its APIC id
void irq_clear(void);
void ioapic_route(unsigned pin, unsigned vector, unsigned cpu, bool level);
void ioapic_mask(unsigned pin);
void ipi_send(unsigned cpu, unsigned vector);

// Starts CPU 1 to `count` - 1, which wait for work; false if one does not answer.
bool cpus_start(unsigned count);
extern volatile uint32_t cpus_online;
// Has a CPU call fn(arg); cpu_wait() ends when it has returned.
void cpu_run(unsigned cpu, void (*fn)(void *arg), void *arg);
bool cpu_wait(unsigned cpu, unsigned ms);

// Halts until the next interrupt, for a millisecond at most.  True if that has passed.
bool tick(void);
void sleep_ms(unsigned ms);

// Waits until `cond` is true, for `ms` at most: its value.
#define WAIT(cond, ms)                       \
	({                                   \
		unsigned left_ = (ms);       \
		timer_restart();             \
		while (!(cond) && left_ > 0) \
			left_ -= tick();     \
		(cond);                      \
	})
void timer_restart(void);

#endif
