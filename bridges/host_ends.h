// SPDX-License-Identifier: BSD-2-Clause
// The host's ends of minivmm-console and minivmm-vsock: opened by the monitor, handed over as descriptors.
//
// So neither program needs a path.  Of a listening socket's file the keeper (vmm/base/socket_file.h) is handed over, too, which
// nobody has to know: the file goes when the last who holds that descriptor is gone.  Called by builtin.c, during set-up, on one thread.
#ifndef MINIVMM_BRIDGES_HOST_ENDS_H
#define MINIVMM_BRIDGES_HOST_ENDS_H

#include "vmm/base/err.h"
#include "vmm/config.h"

#define HOST_ENDS_MAX (2 * CONFIG_CONSOLE_PORTS_MAX)

// Appends what it opened to fd[*count ...], which has room for HOST_ENDS_MAX; the caller's, also after a failure.  0 or -errno.
int host_ends_open_ports(int *fd, unsigned *count, const struct device_config *cfg, struct err *e);
int host_ends_open_vsock(int *fd, unsigned *count, const struct device_config *cfg, struct err *e);

// What the program is told of a port, "NAME=socket:fd:5".  *next: the number of the next descriptor that it was handed.
void host_ends_port_word(char *word, size_t size, const char *port, int *next);

#endif
