// SPDX-License-Identifier: BSD-2-Clause
// One sentence about why a set-up step failed.
//
// Set-up code takes a `struct err *` and returns 0 or -errno; whoever sees the failure first writes the
// sentence ("disk0: open disk.raw: No such file or directory"), everybody above only passes it on.  main() or a
// device's open() prints it.  Run-time code, which has nobody to pass a sentence to, logs instead (log.h).
#ifndef MINIVMM_BASE_ERR_H
#define MINIVMM_BASE_ERR_H

struct err {
	char text[512]; // truncated, never overrun; empty until set
};

// Writes the sentence.  `error` is a positive errno value, used for the return value only.
// `e` may be NULL.  Returns -error, so that `return err_set(e, EINVAL, ...)` reads well.
__attribute__((format(printf, 3, 4))) int err_set(struct err *e, int error, const char *fmt, ...);

// The same, with ": " and err_text(error) appended.
__attribute__((format(printf, 3, 4))) int err_sys(struct err *e, int error, const char *fmt, ...);

// What an errno value or a signal means, for a person.  strerror() and strsignal() of newer C libraries allocate memory in threads, which
// the seal does not let them.
const char *err_text(int error);
const char *err_signal_text(int signal);

// Puts "prefix: " before a sentence that is already there.  Does nothing for NULL.
__attribute__((format(printf, 2, 3))) void err_prefix(struct err *e, const char *fmt, ...);

#ifdef __clang_analyzer__ // it sees one file at a time, and would follow paths on which an error is 0
#define err_set(...) (err_set(__VA_ARGS__), -1)
#define err_sys(...) (err_sys(__VA_ARGS__), -1)
#endif

#endif
