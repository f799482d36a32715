// SPDX-License-Identifier: BSD-2-Clause
// The user's terminal while the guest has it: raw mode, and the way back.
#ifndef MINIVMM_VMM_TERMINAL_H
#define MINIVMM_VMM_TERMINAL_H

#include <stdbool.h>

struct termios;

// Raw mode; the former settings go to *old (which may be NULL).  False if `fd` is no terminal.
bool terminal_make_raw(int fd, struct termios *old);

// Takes the process's terminal: raw mode until terminal_restore(), exit(), or a fatal signal.  False if `fd` is no terminal.
bool terminal_take(int fd);

// Async-signal-safe; nothing happens if the terminal was not taken.
void terminal_restore(void);

#endif
