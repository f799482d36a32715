// SPDX-License-Identifier: BSD-2-Clause
// Commands to a vfio-user server and their replies, by message id; the server's own commands; and its death.
//
// Any number of threads call at the same time.  One of those that wait reads the socket, for all of them: a call costs no switch to
// another thread of ours.  A command of the server's that comes in between is handed to the link's own thread, which then
// reads until nobody waits any more; that thread also reads what comes while nobody waits.  Before it exists the one who waits
// serves commands, too.  Used by vfio_user*.c and probe.c.
#ifndef MINIVMM_BRIDGES_VFIO_USER_LINK_H
#define MINIVMM_BRIDGES_VFIO_USER_LINK_H

#include "bridges/vfio_user_wire.h"
#include "vmm/base/deadline.h"
#include "vmm/base/err.h"
#include "vmm/base/look.h"
#include "vmm/base/loop.h"
#include "vmm/base/msg.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VFU_REPLY_MAX	8192u	   // payload of the longest reply that we ask for
#define VFU_DATA_MAX	(1u << 20) // data of one message that we take
#define VFU_NO_BUDGET	INT64_MAX
#define VFU_LOOK_US	50  // for a reply, before sleeping
#define VFU_AHEAD_MAX	64u // replies up to this length are taken in one piece
#define VFU_PENDING_MAX 16
#define VFU_POSTS_MAX	8
#define VFU_POST_LEN	24

struct vfu_pending {
	bool used, done;
	bool posted; // nobody waits; its reply, if one comes, is looked at for an error
	uint16_t id, command;
	int error; // 0 or the server's, -errno
	deadline_ns deadline;
	void *buf;
	size_t cap, len;
	struct msg_fds *fds; // or NULL: none are due
};

struct vfu_post {
	uint16_t command, len;
	uint8_t payload[VFU_POST_LEN];
};

enum vfu_reader { VFU_NOBODY, VFU_WAITER, VFU_THREAD };

struct vfu_link {
	const char *id;
	int sock, twin; // twin: where the server's commands come; -1: among its replies
	int64_t control_ms;
	// A command of the server's, whose header was read from `sock`; ends it by a reply or by vfu_broken().
	void (*serve)(struct vfu_link *l, int sock, const struct vfio_user_header *h);
	int died_fd; // eventfd, signalled once when the link is dead

	pthread_mutex_t send_lock; // a whole message; taken before `lock`
	pthread_mutex_t lock;	   // never held while something is sent or received
	pthread_cond_t changed;
	bool dead;
	char why[256];	   // one clause, "closed its connection"
	int64_t budget_ns; // what all calls together may still take; VFU_NO_BUDGET: each its own deadline
	uint16_t next_id;
	unsigned callers; // whose calls wait for replies
	unsigned senders; // who send what has none
	enum vfu_reader reader;
	bool handed; // to the thread: a command's header
	struct vfio_user_header command;
	struct vfu_pending pending[VFU_PENDING_MAX];
	unsigned post_count;
	struct vfu_post post[VFU_POSTS_MAX];
	// The reader's:
	uint8_t reply[VFU_REPLY_MAX];
	uint8_t ahead[VFU_AHEAD_MAX]; // received, not taken yet
	unsigned ahead_at, ahead_len;
	struct look look;

	bool has_thread, leave;
	int fresh; // vfu_link_renew()'s for the thread, or -1
	pthread_t thread;
	struct loop loop; // the thread's
	struct loop_source main_source, twin_source, wake;
	uint32_t watched; // of main_source; 0: what it was armed for has come
	int (*seal)(struct err *e);
};

// Takes over the socket.  0 or -errno; vfu_link_close() is good after both.
int vfu_link_init(struct vfu_link *l, const char *id, int sock);
// From now on all calls together may take that long, however many there are; VFU_NO_BUDGET: each its own deadline, as in the beginning.
void vfu_link_budget(struct vfu_link *l, int64_t ns);
// Makes the thread.  From now on calls have no budget.  `seal` is what it calls first; NULL: nothing.
int vfu_link_start(struct vfu_link *l, int (*seal)(struct err *e), struct err *e);
// A dead link with a thread goes on with another connection, which it takes over whatever comes of it: as new, but for its thread.  Waits
// for those that are still in a call.  0; -EPIPE: the link is about to be closed; -ETIMEDOUT.
int vfu_link_renew(struct vfu_link *l, int sock);
// The socket on which the server's commands come from now on.
void vfu_link_twin(struct vfu_link *l, int twin);
// Ends the connection for good: calls return at once, vfu_link_renew() refuses.
void vfu_link_end(struct vfu_link *l);
// That, joins the thread, and closes the sockets.
void vfu_link_close(struct vfu_link *l);

bool vfu_link_dead(struct vfu_link *l);
// The peer broke the protocol, or is of no use: the connection ends.  The first clause is kept.  Any thread.
__attribute__((format(printf, 2, 3))) void vfu_broken(struct vfu_link *l, const char *fmt, ...);

struct vfu_call {
	uint16_t command;
	const void *head, *data; // the payload, in two parts
	size_t head_len, data_len;
	const int *fds; // travel along, stay the caller's
	unsigned fd_count;
	void *reply; // room for the reply's payload
	size_t reply_cap;
	struct msg_fds *reply_fds; // the caller's afterwards; NULL: none are due
	deadline_ns deadline;	   // 0: control_ms
};
// Sends a command and waits for its reply.  The length of its payload; -EPIPE: the server is dead; else -errno as the server says.
int vfu_call(struct vfu_link *l, const struct vfu_call *c);
// Sends a command that shall not be answered, and waits for room in the socket alone.  Commands that begin later are sent later.  0, or
// -EPIPE: the server is dead.
int vfu_send(struct vfu_link *l, const struct vfu_call *c);
// The same to a server that may answer it all the same: waits for the reply to another command behind it.  1: it did.
int vfu_send_tried(struct vfu_link *l, const struct vfu_call *c);
// Sends one, soon, whose reply is only looked at for an error, which is logged.  Waits for nothing.  Commands of vfu_call() that begin
// later are sent later.  0, or -EPIPE.  Any thread.
int vfu_post(struct vfu_link *l, uint16_t command, const void *payload, size_t len);

// For `serve`: the rest of the command, and the reply.  False: the link is dead.
bool vfu_serve_recv(struct vfu_link *l, int sock, void *buf, size_t len);
bool vfu_serve_reply(struct vfu_link *l, int sock, const struct vfio_user_header *to, int error,
		     const void *head, size_t head_len, const void *data, size_t data_len);

// ---- between vfio_user_link.c (life, the thread), vfio_user_call.c and vfio_user_recv.c (messages)

#define VFU_ARMED_END ((uint32_t)EPOLLRDHUP | (uint32_t)EPOLLONESHOT)
#define VFU_ARMED     (VFU_ARMED_END | (uint32_t)EPOLLIN | (uint32_t)EPOLLPRI)
#define VFU_DISARMED  ((uint32_t)EPOLLONESHOT)

const char *vfu_name_of(uint16_t command);
struct timespec vfu_when(deadline_ns deadline);
// With the lock: marks the link dead; what the thread watches of the main socket; the command with an id.
__attribute__((format(printf, 2, 3))) void vfu_die_locked(struct vfu_link *l, const char *fmt, ...);
void vfu_watch_main(struct vfu_link *l);
struct vfu_pending *vfu_pending_of(struct vfu_link *l, uint16_t id);
// What msg_recv() said.
void vfu_receive_failed(struct vfu_link *l, int rc);
// With the send lock.
void vfu_flush_posts(struct vfu_link *l);
// For who has the reader's role.  One message of the main socket; who waits for a reply of his own (`mine`) hands a command to the thread.
void vfu_receive(struct vfu_link *l, deadline_ns deadline, const struct vfu_pending *mine);
// Exactly `len` bytes of it, as msg_recv().
int vfu_take(struct vfu_link *l, void *buf, size_t len, struct msg_fds *fds, deadline_ns deadline);
// Whether more was received than was taken: epoll does not tell of that.
static inline bool vfu_ahead(const struct vfu_link *l)
{
	return l->ahead_at < l->ahead_len;
}

#endif
