// SPDX-License-Identifier: BSD-2-Clause
// A learning Ethernet switch whose ports are virtio-net devices (virtio 1.2 §5.1), one for each front-end that connects, and a tap.
//
// Owned by devices/switch.c, which has the command line.  serve.c takes connections and decides when to look and when to sleep; port.c is
// a port's device and its buffers; forward.c says where a frame goes; uplink.c is the tap; guard.c survives memory that a
// front-end takes away.  One thread (vmm/base/bin.h has others, which only close descriptors).
//
// A frame is copied once, from its sender's memory to each receiver's, at once or never: a receiver without buffers loses it, and
// a sender never waits.  Only what a receiver's driver cannot take as it is (a checksum left open, a large TCP frame) goes
// through memory of ours, where the switch does that work, and so does what comes from the tap.
#ifndef MINIVMM_SWITCH_H
#define MINIVMM_SWITCH_H

#include "devices/net/header.h"
#include "devices/sdk/carrier.h"
#include "devices/sdk/dev.h"
#include "devices/sdk/poller.h"
#include "devices/switch/mac_table.h"
#include "vmm/base/tap.h"

#include <stdbool.h>
#include <stdint.h>

#define SWITCH_PORTS_MAX (MAC_PORTS_MAX - 1) // of front-ends; the table's last number is the tap's
#define SWITCH_UPLINK	 SWITCH_PORTS_MAX
// Bytes of guest memory of a port: so that no front-end uses up the addresses that others' has to be mapped at.
#define SWITCH_MEMORY ((UINT64_C(1) << 46) / (SWITCH_PORTS_MAX + 1))
#define SWITCH_SEGS   256	   // of one buffer
#define SWITCH_BUFFER (1u << 20)   // bytes of one buffer: all of it may have to be noted as written
#define SWITCH_MERGE  512	   // buffers of one frame
#define SWITCH_BUDGET 64	   // frames of a port in a round,
#define SWITCH_WORK   (512u << 10) // or so many bytes copied for it, each copy counted as SWITCH_COPY more
#define SWITCH_COPY   512u
#define SWITCH_LOOK   64u   // and so much for each look at a receiver's buffer
#define SWITCH_FLOOD  10000 // frames a second that a port may send to all ports

enum { SWITCH_RX, SWITCH_TX, SWITCH_QUEUES };

struct switch_counts {
	uint64_t sent, received;    // by the guest, from the guest's point of view
	uint64_t wrong;		    // not a frame, or a header that asks for what was not negotiated
	uint64_t not_learned;	    // an address of another port's
	uint64_t flooded, withheld; // frames to all ports; such frames beyond what is allowed
	uint64_t no_buffer;	    // lost: this port had none
	uint64_t worked_on;	    // checksums and segments that the switch made for this port
};

struct port {
	struct vdev d;
	struct vswitch *sw;
	struct session *session; // NULL: the port is free
	struct loop_source events;
	struct vq queue[SWITCH_QUEUES];
	struct virtio_net_config config;
	uint64_t features; // 0: no driver
	unsigned number, header_len;
	bool mem_lost;	      // by guard.c: the front-end took memory away
	deadline_ns since;    // when it connected
	deadline_ns flood_at; // when the next frame to all ports is due at the allowed rate
	struct switch_counts counts;
};

// A frame on its way.
struct frame {
	struct virtio_net_hdr_v1 h; // settled
	const struct iovec *iov;    // without the header
	unsigned count;
	uint32_t len;
	unsigned from; // port
	bool linear;   // it lies in sw->linear too, its checksum done unless it is to be segmented
};

struct uplink {
	struct tap tap; // fd -1: there is none
	struct loop_source source;
	bool ready; // it may have frames
	struct switch_counts counts;
	uint8_t buffer[NET_HEADER_MAX + NET_FRAME_MAX];
};

struct vswitch {
	struct vdev *d; // the program's: loop and options
	const struct carrier *carrier;
	struct port *port[SWITCH_PORTS_MAX]; // NULL: free
	uint16_t ports_max;		     // allowed
	unsigned ports_used;		     // port[] from here on are free
	unsigned first;			     // whose turn it is in the next round
	unsigned made;			     // ports ever, for addresses
	uint32_t looks;			     // at receivers' buffers, ever
	uint8_t mac[4];			     // beginning of the addresses given to ports
	uint16_t mtu, queue_size;
	uint64_t flood; // frames a second, 0: any number
	struct poller poller;
	bool dedicated; // look for ever while there is a driver
	bool mem_lost;	// some port's
	deadline_ns now;
	struct uplink uplink;
	struct mac_table table;
	struct vq_chain merged[SWITCH_MERGE];
	struct iovec from_iov[SWITCH_SEGS + 1], to_iov[2 * SWITCH_SEGS + SWITCH_MERGE];
	uint8_t linear[NET_FRAME_MAX];
};

// ---- serve.c ----------------------------------------------------------------------------------------------------

// vdev_ops.serve.
int switch_serve(struct vswitch *sw, const struct carrier *c, int sock, bool listening, const bool *stop);

// One round over all ports and the tap: true if there was anything to do.
bool switch_round(struct vswitch *sw);

// ---- port.c -----------------------------------------------------------------------------------------------------

// A port for a front-end on a connected socket (consumed).  NULL: logged.
struct port *port_open(struct vswitch *sw, int sock);
void port_close(struct port *p);

// Moves what its driver has sent, a bounded batch.  True: there was something.
bool port_transmit(struct port *p);

// Gives a frame to the driver.  Counts what is lost.
void port_deliver(struct port *p, struct frame *f);

// ---- forward.c --------------------------------------------------------------------------------------------------

// Sends a frame where it belongs.  The work that it was, in bytes.
uint32_t forward(struct vswitch *sw, struct frame *f);

// ---- uplink.c ---------------------------------------------------------------------------------------------------

int uplink_open(struct vswitch *sw, const char *tap, struct err *e);
void uplink_close(struct vswitch *sw);
bool uplink_receive(struct vswitch *sw);
void uplink_deliver(struct vswitch *sw, const struct frame *f);

// ---- guard.c ----------------------------------------------------------------------------------------------------

// From now on memory that a front-end takes away (it truncates its file) reads as zeros, and its port is marked.
void guard_install(struct vswitch *sw);

#endif
