// SPDX-License-Identifier: BSD-2-Clause
#include "cpu.h"

#include "guest.h"

#define LAPIC_ID     0x20
#define LAPIC_EOI    0xb0
#define LAPIC_SVR    0xf0
#define LAPIC_ICR    0x300
#define LAPIC_ICR_HI 0x310
#define LAPIC_TIMER  0x320
#define LAPIC_LINT0  0x350
#define LAPIC_COUNT  0x380
#define LAPIC_NOW    0x390
#define LAPIC_DIVIDE 0x3e0

#define ICR_INIT    0x4500
#define ICR_STARTUP 0x4600
#define ICR_PENDING 0x1000
#define SVR_ENABLE  0x1ff
#define MASKED	    0x10000
#define DIVIDE_BY_1 0xb
#define TIMER_HZ    1000000000u // KVM's APIC bus

#define TRAMPOLINE 0x30000ul

struct frame {
	uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
	uint64_t vector, error, rip, cs, rflags, rsp, ss;
};

struct gate {
	uint16_t low, selector, flags, mid;
	uint32_t high, zero;
};

static struct gate idt[256] __attribute__((aligned(16)));
volatile uint32_t irq_count[256], irq_cpu[256];
void (*irq_hook[256])(void);
volatile uint32_t cpus_online;

static struct {
	void (*volatile fn)(void *arg);
	void *arg;
	volatile bool timer;
} cpus[CPUS_MAX];

extern uint8_t trap_stubs[], trampoline[], trampoline_end[];

// ---- interrupts
// -------------------------------------------------------------------------------------------------

unsigned cpu_index(void)
{
	return read32(LAPIC + LAPIC_ID) >> 24;
}

void trap(struct frame *f);
void trap(struct frame *f)
{
	unsigned cpu = cpu_index() % CPUS_MAX;
	if (f->vector < 32) {
		uint64_t cr2;
		__asm__ volatile("mov %%cr2, %0" : "=r"(cr2));
		panic("CPU %u: exception %lu, error %lx, rip %lx, cr2 %lx", cpu, f->vector, f->error, f->rip,
		      cr2);
	}
	__atomic_fetch_add(&irq_count[f->vector], 1, __ATOMIC_SEQ_CST);
	irq_cpu[f->vector] = cpu;
	if (f->vector == VECTOR_TIMER)
		cpus[cpu].timer = true;
	if (irq_hook[f->vector])
		irq_hook[f->vector]();
	if (f->vector != 0xff)
		write32(LAPIC + LAPIC_EOI, 0);
}

void irq_clear(void)
{
	for (unsigned i = 0; i < 256; i++) {
		irq_count[i] = 0;
		irq_hook[i] = NULL;
	}
}

static void idt_fill(void)
{
	for (unsigned i = 0; i < 256; i++) {
		uint64_t stub = (uint64_t)trap_stubs + (uint64_t)16 * i;
		idt[i] = (struct gate){
			.low = (uint16_t)stub,
			.selector = 8,
			.flags = 0x8e00,
			.mid = (uint16_t)(stub >> 16),
			.high = (uint32_t)(stub >> 32),
		};
	}
}

static void cpu_init(void)
{
	struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) p = { sizeof(idt) - 1, (uint64_t)idt };
	__asm__ volatile("lidt %0" ::"m"(p));
	write32(LAPIC + LAPIC_SVR, SVR_ENABLE);
	write32(LAPIC + LAPIC_LINT0, MASKED); // no 8259 here
	write32(LAPIC + LAPIC_DIVIDE, DIVIDE_BY_1);
	write32(LAPIC + LAPIC_TIMER, VECTOR_TIMER);
}

void cpu_init_first(void)
{
	idt_fill();
	cpu_init();
	for (uint16_t pic = 0x21; pic <= 0xa1; pic = (uint16_t)(pic + 0x80))
		outb(pic, 0xff);
	cpus_online = 1;
}

void ioapic_route(unsigned pin, unsigned vector, unsigned cpu, bool level)
{
	write32(IOAPIC, 0x11 + 2 * pin);
	write32(IOAPIC + 0x10, cpu << 24);
	write32(IOAPIC, 0x10 + 2 * pin);
	write32(IOAPIC + 0x10, vector | (level ? 0x8000 : 0));
}

void ioapic_mask(unsigned pin)
{
	write32(IOAPIC, 0x10 + 2 * pin);
	write32(IOAPIC + 0x10, MASKED);
}

// ---- time
// -------------------------------------------------------------------------------------------------------

void timer_restart(void)
{
	cpus[cpu_index() % CPUS_MAX].timer = false;
	write32(LAPIC + LAPIC_COUNT, TIMER_HZ / 1000);
}

bool tick(void)
{
	unsigned cpu = cpu_index() % CPUS_MAX;
	halt_once();
	if (!cpus[cpu].timer)
		return false;
	timer_restart();
	return true;
}

void sleep_ms(unsigned ms)
{
	timer_restart();
	while (ms > 0)
		ms -= tick();
}

// ---- processors
// -------------------------------------------------------------------------------------------------

static void icr_write(unsigned cpu, uint32_t low)
{
	write32(LAPIC + LAPIC_ICR_HI, cpu << 24);
	write32(LAPIC + LAPIC_ICR, low);
	while (read32(LAPIC + LAPIC_ICR) & ICR_PENDING)
		;
}

void ipi_send(unsigned cpu, unsigned vector)
{
	icr_write(cpu, vector);
}

void cpu_start(unsigned cpu);
void cpu_start(unsigned cpu)
{
	cpu_init();
	__atomic_fetch_add(&cpus_online, 1, __ATOMIC_SEQ_CST);
	timer_restart(); // so that tick() never halts for ever
	for (;;) {
		if (cpus[cpu].fn) {
			cpus[cpu].fn(cpus[cpu].arg);
			__atomic_store_n(&cpus[cpu].fn, NULL, __ATOMIC_SEQ_CST);
			ipi_send(0, VECTOR_WAKE);
		}
		halt_once(); // cpu_run() wakes it
	}
}

bool cpus_start(unsigned count)
{
	memcpy((void *)TRAMPOLINE, trampoline, (size_t)(trampoline_end - trampoline));
	for (unsigned cpu = 1; cpu < count; cpu++) {
		icr_write(cpu, ICR_INIT);
		sleep_ms(1);
		icr_write(cpu, ICR_STARTUP | TRAMPOLINE >> 12);
		if (!WAIT(cpus_online > cpu, 100)) {
			icr_write(cpu, ICR_STARTUP | TRAMPOLINE >> 12);
			if (!WAIT(cpus_online > cpu, 1000))
				return false;
		}
	}
	return true;
}

void cpu_run(unsigned cpu, void (*fn)(void *arg), void *arg)
{
	cpus[cpu].arg = arg;
	__atomic_store_n(&cpus[cpu].fn, fn, __ATOMIC_SEQ_CST);
	ipi_send(cpu, VECTOR_WAKE);
}

bool cpu_wait(unsigned cpu, unsigned ms)
{
	return WAIT(!cpus[cpu].fn, ms);
}
