// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/uart16550.h"

#include "vmm/base/check.h"

#include <linux/serial_reg.h>
#include <string.h>

#define MCR_LOOP_OUT (UART_MCR_DTR | UART_MCR_RTS | UART_MCR_OUT1 | UART_MCR_OUT2)
#define IER_BITS     0x0f
#define IIR_FIFO     0xc0

static uint8_t interrupt_id(const struct uart16550 *u)
{
	if ((u->ier & UART_IER_RDI) && u->fifo_len)
		return UART_IIR_RDI;
	if ((u->ier & UART_IER_THRI) && u->thr_empty)
		return UART_IIR_THRI;
	return UART_IIR_NO_INT;
}

static void line_update(struct uart16550 *u)
{
	bool high = interrupt_id(u) != UART_IIR_NO_INT;
	if (high == u->high)
		return;
	u->high = high;
	u->irq(u->owner, high);
}

static void fifo_put(struct uart16550 *u, uint8_t byte)
{
	if (u->fifo_len < UART_FIFO)
		u->fifo[u->fifo_len++] = byte;
}

static uint8_t fifo_take(struct uart16550 *u)
{
	if (u->fifo_len == 0)
		return 0;
	uint8_t byte = u->fifo[0];
	memmove(u->fifo, u->fifo + 1, --u->fifo_len);
	return byte;
}

// Loop-back (MCR bit 4): the modem outputs come back as inputs, what is sent is received.
static uint8_t modem_status(const struct uart16550 *u)
{
	if (!(u->mcr & UART_MCR_LOOP))
		return UART_MSR_DCD | UART_MSR_DSR | UART_MSR_CTS;
	return (uint8_t)((u->mcr & UART_MCR_RTS ? UART_MSR_CTS : 0) |
			 (u->mcr & UART_MCR_DTR ? UART_MSR_DSR : 0) |
			 (u->mcr & UART_MCR_OUT1 ? UART_MSR_RI : 0) |
			 (u->mcr & UART_MCR_OUT2 ? UART_MSR_DCD : 0));
}

static uint8_t register_read(struct uart16550 *u, unsigned reg)
{
	bool dlab = u->lcr & UART_LCR_DLAB;
	uint8_t id;
	switch (reg) {
	case UART_RX:
		return dlab ? u->dll : fifo_take(u);
	case UART_IER:
		return dlab ? u->dlm : u->ier;
	case UART_IIR:
		id = interrupt_id(u);
		if (id == UART_IIR_THRI)
			u->thr_empty = false; // reading it is the acknowledgement
		return (uint8_t)(id | (u->fcr & UART_FCR_ENABLE_FIFO ? IIR_FIFO : 0));
	case UART_LCR:
		return u->lcr;
	case UART_MCR:
		return u->mcr;
	case UART_LSR:
		return (uint8_t)(UART_LSR_THRE | UART_LSR_TEMT | (u->fifo_len ? UART_LSR_DR : 0));
	case UART_MSR:
		return modem_status(u);
	default:
		return u->scr;
	}
}

static void transmit(struct uart16550 *u, uint8_t byte)
{
	u->thr_empty = true;
	if (u->mcr & UART_MCR_LOOP)
		fifo_put(u, byte);
	else
		console_write(u->console, &byte, 1);
}

static void register_write(struct uart16550 *u, unsigned reg, uint8_t val)
{
	bool dlab = u->lcr & UART_LCR_DLAB;
	switch (reg) {
	case UART_TX:
		if (dlab)
			u->dll = val;
		else
			transmit(u, val);
		return;
	case UART_IER:
		if (dlab) {
			u->dlm = val;
			return;
		}
		if ((val & ~u->ier) & UART_IER_THRI)
			u->thr_empty = true; // enabling it with an empty transmitter raises it at once
		u->ier = val & IER_BITS;
		return;
	case UART_FCR:
		u->fcr = val;
		if (val & UART_FCR_CLEAR_RCVR)
			u->fifo_len = 0;
		return;
	case UART_LCR:
		u->lcr = val;
		return;
	case UART_MCR:
		u->mcr = val & (MCR_LOOP_OUT | UART_MCR_LOOP);
		return;
	case UART_SCR:
		u->scr = val;
		return;
	default:
		return; // LSR, MSR: read-only
	}
}

static void uart_read(struct bus_range *r, uint64_t offset, unsigned size, uint64_t *val)
{
	struct uart16550 *u = CONTAINER_OF(r, struct uart16550, range);
	if (size != 1)
		return;
	pthread_mutex_lock(&u->lock);
	*val = register_read(u, (unsigned)offset);
	line_update(u);
	bool room = u->fifo_len < UART_FIFO;
	pthread_mutex_unlock(&u->lock);
	if (offset == UART_RX && room)
		console_unmute(u->console);
}

static void uart_write(struct bus_range *r, uint64_t offset, unsigned size, uint64_t val)
{
	struct uart16550 *u = CONTAINER_OF(r, struct uart16550, range);
	if (size != 1)
		return;
	pthread_mutex_lock(&u->lock);
	register_write(u, (unsigned)offset, (uint8_t)val);
	line_update(u);
	bool room = u->fifo_len < UART_FIFO;
	pthread_mutex_unlock(&u->lock);
	if (offset == UART_FCR && room) // it may just have been emptied
		console_unmute(u->console);
}

// From the console, on the loop's thread.  With no bytes: how many would be taken.
static size_t uart_input(void *owner, const uint8_t *bytes, size_t len)
{
	struct uart16550 *u = owner;
	pthread_mutex_lock(&u->lock);
	size_t taken = UART_FIFO - u->fifo_len;
	if (bytes) {
		taken = MIN(taken, len);
		for (size_t i = 0; i < taken; i++)
			fifo_put(u, bytes[i]);
		line_update(u);
	}
	pthread_mutex_unlock(&u->lock);
	return taken;
}

void uart_reset(struct uart16550 *u)
{
	pthread_mutex_lock(&u->lock);
	u->ier = u->fcr = u->lcr = u->scr = 0;
	u->mcr = UART_MCR_OUT2;
	u->dll = 12; // 9600 baud: what firmware leaves behind
	u->dlm = 0;
	u->thr_empty = u->high = false;
	u->fifo_len = 0;
	pthread_mutex_unlock(&u->lock);
	console_unmute(u->console);
}

void uart_init(struct uart16550 *u, struct console *c, uint64_t start, void (*irq)(void *owner, bool high),
	       void *owner)
{
	*u = (struct uart16550){
		.range = { .start = start,
			   .size = UART_REGISTERS,
			   .name = "serial",
			   .read = uart_read,
			   .write = uart_write },
		.console = c,
		.irq = irq,
		.owner = owner,
	};
	pthread_mutex_init(&u->lock, NULL);
	uart_reset(u);
	c->input = uart_input;
	c->owner = u;
}

void uart_destroy(struct uart16550 *u)
{
	pthread_mutex_destroy(&u->lock);
}
