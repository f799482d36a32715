// SPDX-License-Identifier: BSD-2-Clause
// A 16550A serial port: the guest's side.  Eight registers, a receive FIFO of 16 bytes, a transmitter that is always ready.
#ifndef MINIVMM_VMM_UART16550_H
#define MINIVMM_VMM_UART16550_H

#include "vmm/bus.h"
#include "vmm/console.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define UART_FIFO      16
#define UART_REGISTERS 8

struct uart16550 {
	struct bus_range range;
	struct console *console;
	void (*irq)(void *owner, bool high); // level of the interrupt line; with the lock held
	void *owner;

	pthread_mutex_t lock; // of the rest
	uint8_t ier, fcr, lcr, mcr, scr, dll, dlm;
	bool thr_empty; // the transmitter-empty interrupt is due
	bool high;	// the line
	uint8_t fifo[UART_FIFO];
	unsigned fifo_len;
};

// Becomes the owner of the console's input.  The caller adds u->range to a bus.
void uart_init(struct uart16550 *u, struct console *c, uint64_t start, void (*irq)(void *owner, bool high),
	       void *owner);
void uart_destroy(struct uart16550 *u);
void uart_reset(struct uart16550 *u);

#endif
