// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *err_text(int error)
{
#ifdef __GLIBC__
	const char *text = strerrordesc_np(error);
	return text ? text : "unknown error";
#else
	return strerror(error);
#endif
}

const char *err_signal_text(int signal)
{
#ifdef __GLIBC__
	const char *text = sigdescr_np(signal);
	return text ? text : "unknown signal";
#else
	return strsignal(signal);
#endif
}

__attribute__((format(printf, 3, 0))) static void err_write(struct err *e, int error, const char *fmt,
							    va_list ap)
{
	int n = vsnprintf(e->text, sizeof(e->text), fmt, ap);
	if (error == 0 || n < 0 || (size_t)n >= sizeof(e->text))
		return;
	snprintf(e->text + n, sizeof(e->text) - (size_t)n, ": %s%s", err_text(error),
		 error == EMFILE ? " (raise ulimit -n)" : "");
}

int(err_set)(struct err *e, int error, const char *fmt, ...)
{
	if (e) {
		va_list ap;
		va_start(ap, fmt);
		err_write(e, 0, fmt, ap);
		va_end(ap);
	}
	return -error;
}

int(err_sys)(struct err *e, int error, const char *fmt, ...)
{
	if (e) {
		va_list ap;
		va_start(ap, fmt);
		err_write(e, error, fmt, ap);
		va_end(ap);
	}
	return -error;
}

void err_prefix(struct err *e, const char *fmt, ...)
{
	if (!e)
		return;
	struct err old = *e;
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(e->text, sizeof(e->text), fmt, ap);
	va_end(ap);
	if (n >= 0 && (size_t)n < sizeof(e->text))
		snprintf(e->text + n, sizeof(e->text) - (size_t)n, ": %s", old.text);
}
