// SPDX-License-Identifier: BSD-2-Clause
// virtio-vsock (virtio 1.2 §5.10): stream connections between programs of the guest and AF_UNIX sockets of the host.
//
// Owned by vsock.c, which has the command line and the SDK's callbacks.  virtio_vsock.c has the queues; conn.c what becomes of one
// connection; table.c finds, lists and times them; host.c has the host's end: the listening socket, the CONNECT line, and connector.c's
// process, which connects for us.
//
// What bounds it: VSOCK_CONNS_MAX connections in all; each holds at most VSOCK_BUF bytes from the guest, and only while its host end
// takes none; of what the host sends nothing is held, it is read straight into the guest's buffers, when the guest has some and has
// room.  An answer that belongs to no connection waits in a ring of VSOCK_REFUSALS; while that is full the guest's packets wait.
// Work for one packet does not depend on the number of connections.
#ifndef MINIVMM_VSOCK_VIRTIO_VSOCK_H
#define MINIVMM_VSOCK_VIRTIO_VSOCK_H

#include "devices/sdk/dev.h"
#include "devices/vsock/flow.h"
#include "vmm/base/deadline.h"

#include <linux/virtio_vsock.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#define VSOCK_F_STREAM	   0 // virtio 1.2 §5.10.3; Linux's header has no name for it
#define VSOCK_HOST_CID	   2u
#define VSOCK_CID_MIN	   3u
#define VSOCK_CID_MAX	   0xfffffffeu
#define VSOCK_PORT_FIRST   0x40000000u // of those that we give to host programs
#define VSOCK_CONNS_MAX	   1024u
#define VSOCK_REFUSALS	   128u	  // a power of two
#define VSOCK_PACKET_MAX   65536u // payload of a packet to the guest
#define VSOCK_SEGS	   256	  // of one request
#define VSOCK_TURN	   64u	  // requests in one turn
#define VSOCK_ASKED_MAX	   64u	  // connections that the connector is asked for at a time
#define VSOCK_PATIENCE_MS  10000  // for each step of a connection's beginning and end
#define VSOCK_RETRY_MS	   20	  // after a listener whose queue was full
#define VSOCK_HELLO_MAX	   32u	  // bytes of "CONNECT PORT\n"
#define VSOCK_BUCKETS_BITS 10

enum vsock_state {
	VSOCK_FREE,
	VSOCK_HELLO,	  // a host program has still to say CONNECT
	VSOCK_REQUESTED,  // the guest has to answer a host program
	VSOCK_CONNECTING, // the connector has to connect for the guest
	VSOCK_OPEN,
	VSOCK_CLOSING,	// the host's end is gone; the guest has been told, and has to answer
	VSOCK_DRAINING, // gone for the guest; the host's end has still to read what it sent
	VSOCK_DEAD,	// the guest is to hear of the end
};

// What the guest has to hear, each at most once, in this order; data comes after all of it.
enum vsock_tell {
	TELL_RST = 1,
	TELL_REQUEST = 2,
	TELL_RESPONSE = 4,
	TELL_SHUTDOWN = 8,
	TELL_CREDIT = 16,
	TELL_ASK_CREDIT = 32,
};

enum { LINK_WORK, LINK_TIME, LINK_COUNT };

struct vsock_list {
	uint16_t first, last; // 0: none
};

struct vsock;

struct vsock_conn {
	struct vsock *v;
	struct loop_source host; // its end at the host, or -1
	uint32_t host_port, guest_port;
	uint8_t state;
	uint8_t tell;
	uint8_t guest_shut, host_shut; // VIRTIO_VSOCK_SHUTDOWN_*: what each side gave up
	bool keyed;		       // found by its ports
	bool readable;		       // the host's end may have data
	bool gone;		       // the host's end is closed in both directions
	bool blocked;		       // it takes no more data; waiting for EPOLLOUT
	bool asked;		       // for credit, since there was some
	uint16_t generation;
	struct flow flow;
	uint8_t *held; // VSOCK_BUF bytes, positions are counts modulo that; NULL when nothing is
	deadline_ns deadline;
	uint16_t same_hash;
	struct {
		struct vsock_list *list; // NULL: in none
		uint16_t before, after;
	} link[LINK_COUNT];
};

struct refusal {
	uint64_t cid; // that the guest wanted
	uint32_t host_port, guest_port;
	uint16_t type;
};

struct vsock {
	struct vdev *d;
	struct virtio_vsock_config config;
	bool running;	 // a driver does
	uint8_t seen;	 // queues that have been looked at since it does
	bool tell_reset; // the driver has to hear TRANSPORT_RESET
	bool tx_waits;	 // for room among the refusals
	bool accepts;	 // `listener` is watched
	uint64_t secret; // a guest must not choose what shares a hash
	uint32_t next_port;
	struct loop_source listener, connector, timer;
	int keeper;			     // of the socket's file
	unsigned asked;			     // of the connector
	deadline_ns ask_again, accept_again; // 0: at once
	struct vsock_list ready;	     // by LINK_WORK: something for the guest
	struct vsock_list ask;		     // by LINK_WORK: the connector is to be asked
	struct vsock_list timed;	     // by LINK_TIME, in the order of their deadlines
	struct vsock_list unused;	     // by LINK_WORK
	unsigned used_once, count;	     // entries of conn[] that ever were; that are
	uint16_t bucket[1u << VSOCK_BUCKETS_BITS];
	uint32_t refusal_first, refusal_next;
	struct refusal refusal[VSOCK_REFUSALS];
	struct iovec iov[VSOCK_SEGS], part[VSOCK_SEGS];
	struct vsock_conn conn[VSOCK_CONNS_MAX + 1]; // [0] is none; pages of those never used cost nothing
};

// ---- virtio_vsock.c ---------------------------------------------------------------------------------------------

struct vsock_options {
	uint32_t cid;
	const char *path; // of the listening socket, or "fd:..."
};

// Opens everything.  0 or -errno and the sentence; destroy also after a failure.
int vsock_init(struct vsock *v, struct vdev *d, const struct vsock_options *o, struct err *e);
void vsock_destroy(struct vsock *v);

// Answers a packet that belongs to no connection.  There is room for one while the guest's packets are looked at.
void vsock_refuse(struct vsock *v, uint64_t cid, uint32_t host_port, uint32_t guest_port, uint16_t type);

// See vdev_ops.
void vsock_start(struct vsock *v);
void vsock_kick(struct vsock *v, struct vq *q);
void vsock_stop(struct vsock *v);

// ---- table.c ----------------------------------------------------------------------------------------------------

void vsock_list_add(struct vsock_conn *c, struct vsock_list *list, unsigned link);
void vsock_list_remove(struct vsock_conn *c, unsigned link);
static inline struct vsock_conn *vsock_list_first(struct vsock *v, const struct vsock_list *list)
{
	return list->first ? &v->conn[list->first] : NULL;
}

// A new connection in that state with the time that this may take, or NULL: there are too many.
struct vsock_conn *vsock_conn_new(struct vsock *v, enum vsock_state state);

// Lets go of it, whatever it has.
void vsock_conn_free(struct vsock_conn *c);

struct vsock_conn *vsock_conn_find(struct vsock *v, uint32_t host_port, uint32_t guest_port);
void vsock_conn_key(struct vsock_conn *c, uint32_t host_port, uint32_t guest_port); // which nobody has
void vsock_conn_unkey(struct vsock_conn *c);

// The step that it is at may take VSOCK_PATIENCE_MS from now; may take any time.
void vsock_conn_hurry(struct vsock_conn *c);
void vsock_conn_rest(struct vsock_conn *c);

// ---- conn.c -----------------------------------------------------------------------------------------------------

// A packet of the guest for this connection.  iov[0 .. count): its payload of h->len bytes.
void vsock_conn_packet(struct vsock_conn *c, const struct virtio_vsock_hdr *h, struct iovec *iov,
		       unsigned count);

// It has something new for the guest; puts it on the list of those.
void vsock_conn_ready(struct vsock_conn *c);
void vsock_conn_tell(struct vsock_conn *c, unsigned what);

// Reads what the host has sent into iov, as the guest's credit allows.  Bytes read, or 0 and there is nothing now.
uint32_t vsock_conn_read(struct vsock_conn *c, struct iovec *iov, unsigned count);

// `what` has been told.
void vsock_conn_told(struct vsock_conn *c, unsigned what);

// The connection is no more; the guest hears of it if it knew it.
void vsock_conn_reset(struct vsock_conn *c);

void vsock_conn_late(struct vsock_conn *c);		       // its patience is at an end
void vsock_conn_event(struct loop_source *s, uint32_t events); // of its host end
void vsock_conn_connected(struct vsock_conn *c, int fd);       // which it takes over
int vsock_conn_watch(struct vsock_conn *c, int fd); // adds it to the loop; 0 or -errno, fd still the caller's

// ---- host.c -----------------------------------------------------------------------------------------------------

void vsock_host_ready(struct vsock *v); // nothing open yet
int vsock_host_open(struct vsock *v, const char *path, struct err *e);
void vsock_host_close(struct vsock *v);

// What a host program that has still to say CONNECT has said; whether it may say more.
void vsock_host_hello(struct vsock_conn *c, bool more);

// Asks the connector for those in `ask`.
void vsock_host_ask(struct vsock *v);

// Takes connections again, after one has gone.
void vsock_host_accept_again(struct vsock *v);

// Sets the timer to whatever is due first.
void vsock_host_arm(struct vsock *v);

// ---- connector.c ------------------------------------------------------------------------------------------------

struct connector_ask {
	uint32_t id, port;
};
struct connector_answer {
	uint32_t id;
	int32_t error; // 0: a descriptor comes along, connected and non-blocking
};

// Starts the process that connects to PATH_PORT of `path`, and to nothing else.  A SOCK_SEQPACKET descriptor, or -errno and the sentence.
int connector_start(const char *path, struct err *e);

extern const struct sandbox_spec connector_spec; // its table

#endif
