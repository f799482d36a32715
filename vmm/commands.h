// SPDX-License-Identifier: BSD-2-Clause
// What minivmm does besides running a machine and explaining one: probe, ctl, doctor, bind and unbind.  And how it is to be called.
//
// Called by main.c, on the only thread there is then.
#ifndef MINIVMM_COMMANDS_H
#define MINIVMM_COMMANDS_H

enum { EXIT_GOOD = 0, EXIT_MACHINE = 1, EXIT_USAGE = 2 };

// Each prints and returns the exit status.
int usage_help(void);
int usage_error(const char *what, const char *arg);
// What getopt_long() answered to an option that is none or has no value.
int usage_bad_option(int c, char **argv);

// argv[0] is the word.  The exit status, or -1: it is none of these.
int command_run(int argc, char **argv);

#endif
