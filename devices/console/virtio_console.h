// SPDX-License-Identifier: BSD-2-Clause
// virtio-console (virtio 1.2 §5.3): a console and other ports of bytes between the guest and the host.
//
// Owned by console.c, which has the command line and the SDK's callbacks.  virtio_console.c has features, configuration space and the
// control queues; port.c moves a port's bytes; host.c has what is at the host's end.
//
// No byte is kept here: what the guest writes stays in its request until the host's end took it, what the host's end sends stays
// there until the guest has a buffer.  So each port waits for itself and none for another, and nothing can grow.  What the guest
// writes while nobody is at the host's end is dropped, as a cable would.
#ifndef MINIVMM_CONSOLE_VIRTIO_CONSOLE_H
#define MINIVMM_CONSOLE_VIRTIO_CONSOLE_H

#include "devices/sdk/dev.h"

#include <linux/virtio_console.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#define VCON_PORTS_MAX	   31 // two queues each, and two for control, of VDEV_QUEUES_MAX
#define VCON_NAME_MAX	   64
#define VCON_SEGS	   256	  // of one request
#define VCON_TURN_REQUESTS 64	  // of a port in one turn
#define VCON_TURN_BYTES	   65536u // and bytes that it may write

enum vcon_kind { VCON_STDIO, VCON_PTY, VCON_SOCKET, VCON_FILE, VCON_FD };

struct vcon;

struct vcon_port {
	struct vcon *c;
	unsigned id;
	char name[VCON_NAME_MAX + 1];

	// The host's end.  Both directions have a descriptor of their own; -1 is none.
	enum vcon_kind kind;
	const char *where; // PATH or "fd:N"
	struct loop_source in, out;
	struct loop_source wait; // for somebody to come: a listening socket, inotify on a pty; for SIGWINCH
	uint32_t in_events;
	int keeper;	// of the socket's file
	bool connected; // somebody is there
	bool in_live;	// `in` says when there is more
	bool out_plain; // always takes what is written: a file
	bool terminal;	// has a size

	// The guest's end.  The queues are NULL while no driver runs.
	struct vq *rx, *tx;
	bool ready, open;		  // as the driver said
	uint8_t tell;			  // control messages that wait for a buffer, each at most once
	uint64_t tx_done;		  // bytes of the request at the head of `tx` that are written already
	uint64_t received, sent, dropped; // bytes
};

// What the driver said of the ports and has yet to hear, for a process that goes on after this one.
struct vcon_state {
	uint32_t port_count;
	uint8_t seen, padding[3];
	struct {
		uint8_t ready, open, tell;
	} port[VCON_PORTS_MAX];
};

struct vcon {
	struct vdev *d;
	struct virtio_console_config config;
	uint64_t features; // negotiated
	bool multiport, seen;
	struct vcon_state *resume; // what the next start goes on from: &resumed, or NULL
	struct vcon_state resumed;
	unsigned port_count;
	struct vcon_port port[VCON_PORTS_MAX];
	struct iovec iov[VCON_SEGS];
};

// ---- virtio_console.c -------------------------------------------------------------------------------------------

// Adds the port that "NAME=TARGET" describes; opens nothing, keeps `text`.  0, or -EINVAL and the sentence.
int vcon_add_port(struct vcon *c, const char *text, struct err *e);

// Opens the ports; features and configuration space.  0 or -errno; destroy also after a failure.
int vcon_init(struct vcon *c, struct vdev *d, struct err *e);
void vcon_destroy(struct vcon *c);

// See vdev_ops.
void vcon_start(struct vcon *c, uint64_t features);
void vcon_kick(struct vcon *c, struct vq *q);
void vcon_stop(struct vcon *c);
size_t vcon_state_save(const struct vcon *c, void *to);
int vcon_state_load(struct vcon *c, const void *from, size_t len);

// Somebody came to or left the host's end of a port.
void vcon_connected(struct vcon_port *p);

// The terminal behind a port has this size.
void vcon_sized(struct vcon_port *p, uint16_t cols, uint16_t rows);

// ---- port.c -----------------------------------------------------------------------------------------------------

void vcon_port_transmit(struct vcon_port *p); // from the guest
void vcon_port_receive(struct vcon_port *p);  // to the guest

// Looks at both queues soon.
void vcon_port_again(struct vcon_port *p);

// The sources of a port that host.c has opened.
void vcon_port_in_ready(struct loop_source *s, uint32_t events);
void vcon_port_out_ready(struct loop_source *s, uint32_t events);

// ---- host.c -----------------------------------------------------------------------------------------------------

// Opens the host's end, before the sandbox.  0 or -errno.
int vcon_host_open(struct vcon_port *p, struct err *e);
void vcon_host_close(struct vcon_port *p);

// `in` is to say when there is something to read, or only when the other end is gone.
void vcon_host_watch(struct vcon_port *p, bool readable);

// There is nobody any more.  What a client of a socket has left to be read stays until the next one comes.
void vcon_host_hangup(struct vcon_port *p);

// Nobody writes to `in` any more; all of it may not be read yet.  Standard output goes on without standard input.
void vcon_host_input_hangup(struct vcon_port *p);

// `in` has come to its end; it is closed where it does not come back.
void vcon_host_input_ends(struct vcon_port *p);

// Waits for somebody to come, where that had to be given up.
void vcon_host_wait(struct vcon_port *p);

// Asks the terminal, if it is one, for its size.
void vcon_host_look(struct vcon_port *p);

#endif
