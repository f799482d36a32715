// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/terminal.h"

#include "vmm/base/check.h"

#include <signal.h>
#include <stdlib.h>
#include <termios.h>

static struct termios terminal_saved;
static volatile sig_atomic_t terminal_fd = -1;

bool terminal_make_raw(int fd, struct termios *old)
{
	struct termios t;
	if (tcgetattr(fd, &t) < 0)
		return false;
	if (old)
		*old = t;
	cfmakeraw(&t);
	t.c_oflag |= OPOST | ONLCR; // our own log lines share the screen
	tcsetattr(fd, TCSANOW, &t);
	return true;
}

void terminal_restore(void)
{
	if (terminal_fd < 0)
		return;
	tcsetattr(terminal_fd, TCSANOW, &terminal_saved);
	terminal_fd = -1;
}

static void fatal_signal(int number)
{
	terminal_restore();
	raise(number); // SA_RESETHAND: now it ends us
}

bool terminal_take(int fd)
{
	static const int fatal[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT };
	if (!terminal_make_raw(fd, &terminal_saved))
		return false;
	terminal_fd = fd;
	atexit(terminal_restore);
	for (size_t i = 0; i < ARRAY_LEN(fatal); i++) {
		struct sigaction sa = { .sa_handler = fatal_signal, .sa_flags = (int)SA_RESETHAND };
		sigaction(fatal[i], &sa, NULL);
	}
	return true;
}
