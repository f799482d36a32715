// SPDX-License-Identifier: BSD-2-Clause
// How a vhost-user back-end comes back.
//
// A thread of the back-end's own waits for its death (vhost_user_death.c), gets a new connection (again.h), shakes hands, and, holding
// the lock, says again what the driver has set up; the loop then watches the new connection.  So a CPU of the guest waits for no longer
// than the exchanges that start its rings.
#include "bridges/vhost_user_impl.h"
#include "vmm/base/check.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/spawn.h"

#include <errno.h>
#include <stdio.h>

// ---- a connection -----------------------------------------------------------------------------------------------

static void connection_drop(struct vhost_user *vu)
{
	vu_channel_close(&vu->channel);
	vu_link_close(&vu->link);
	if (vu->child)
		spawn_stop(vu->child, 0);
}

// ---- what it is told --------------------------------------------------------------------------------------------

// The configuration space as the new one shows it, and what the driver has written there: 1 if the guest has to be told.
static int replay_config(struct vhost_user *vu, const uint8_t *config, deadline_ns deadline)
{
	const uint32_t len = vu->backend.config_len;
	bool changed = false;
	for (uint32_t i = 0; i < len; i++) {
		if (vu->written[i / 8] >> i % 8 & 1)
			continue;
		changed |= vu->config[i] != config[i];
		vu->config[i] = config[i];
	}
	for (uint32_t i = 0, end; i < len; i = end + 1) {
		for (end = i; end < len && (vu->written[end / 8] >> end % 8 & 1); end++)
			;
		int rc = end == i ? 0 : vu_do_config_write(vu, i, vu->config + i, end - i, deadline);
		if (rc == -EPIPE)
			return rc;
	}
	return changed;
}

// 1 if not even a record tells where the rings are.
static int replay_queues(struct vhost_user *vu, deadline_ns deadline)
{
	bool any = false;
	int rc = 0;
	for (unsigned q = 0; q < vu->backend.queue_count; q++)
		any |= vu->ring[q].started;
	if (!any)
		return 0;
	const bool recorded = vu->inflight.fd >= 0;
	rc = vu_do_inflight(vu, deadline);
	if (rc < 0)
		return rc;
	for (unsigned pass = 0; pass < 2; pass++)
		for (unsigned q = 0; rc == 0 && q < vu->backend.queue_count; q++) {
			uint32_t base;
			if (!vu->ring[q].started)
				continue;
			// A record that is new knows no more than the ring.
			const int fd = vu->inflight.fd;
			vu->inflight.fd = recorded ? fd : -1;
			const bool known = vu_queue_base(vu, q, &base);
			vu->inflight.fd = fd;
			vu->ring[q].trace = vu_queue_trace(vu, q);
			rc = !known ? 1 : pass ? vu_do_queue_start(vu, q, base, deadline) : 0;
		}
	return rc;
}

// Says again what the driver has set up.  With the lock.  0; 1: the device needs a reset; -errno.
static int replay(struct vhost_user *vu, const uint8_t *config, unsigned *posts)
{
	const deadline_ns deadline = deadline_in_ms(vu->control_ms);
	int rc = 0;
	if (vu->negotiated && (vu->features & ~vu->link.features))
		return -EAGAIN; // the driver has come while we shook hands
	if (vu->negotiated)
		rc = vu_do_negotiate(vu, deadline);
	if (rc == 0 && (rc = replay_config(vu, config, deadline)) == 1) {
		*posts |= VU_POST_CONFIG;
		rc = 0;
	}
	vu->live = true;
	if (rc < 0 || !vu->negotiated)
		return rc;
	if (atomic_load(&vu->shared_lost))
		return 1; // the driver may be looking at it
	if (vu->memory.count)
		rc = vu_do_memory(vu, deadline);
	if (rc == 0)
		rc = replay_queues(vu, deadline);
	if (rc == 0 && vu->running)
		rc = vu_do_run(vu, deadline);
	return rc;
}

// A doorbell that the dead one had heard is lost, and so may be its interrupt.
static void wake_both_ends(struct vhost_user *vu)
{
	for (unsigned q = 0; q < vu->backend.queue_count; q++) {
		const struct vu_ring *r = &vu->ring[q];
		if (!r->started)
			continue;
		fd_peer_signal(r->cfg.kick_fd);
		if (r->cfg.call_fd >= 0)
			fd_peer_signal(r->cfg.call_fd);
	}
}

static int take_over(struct vhost_user *vu, const uint8_t *config, struct err *e)
{
	unsigned posts = VU_POST_WATCH;
	pthread_mutex_lock(&vu->lock);
	int rc = replay(vu, config, &posts);
	if (rc == 1 || rc == -EIO || rc == -E2BIG) {
		log_limited(
			LOG_WARN,
			"%s: requests were under way, its memory was shared with the driver, or it refuses "
			"a part of what the driver had set up",
			vu->backend.id);
		vu->live = false;
		posts |= VU_POST_FAILED;
		rc = 0;
	}
	if (rc == 0) {
		vu->connected = true;
		vu->answered = false;
		vu->again.back = deadline_now();
		if (vu->live)
			wake_both_ends(vu);
		vu_again_post(vu, posts);
	}
	if (rc < 0)
		vu_queues_lost(vu);
	pthread_mutex_unlock(&vu->lock);
	return rc < 0 ? err_set(e, -rc, "%s: %s: the back-end %s", vu->backend.id, vu->peer,
				rc == -EPIPE ? vu->link.why : "changed")
		      : 0;
}

// ---- the thread -------------------------------------------------------------------------------------------------

// One attempt on a connection that is there.
static int attempt(struct vhost_user *vu, int sock, struct err *e)
{
	uint8_t config[VU_CONFIG_MAX];
	vu->sent.count = 0;
	vu_link_init(&vu->link, vu->backend.id, sock, vu->link.loop, vu_link_lost);
	int rc = vu_shake_again(vu, config, deadline_in_ms(vu->control_ms), e);
	if (rc == 0)
		rc = take_over(vu, config, e);
	if (rc < 0)
		connection_drop(vu);
	return rc;
}

// The old connection is closed; what was known of its memory with it.
static void begin_wait(struct vhost_user *vu)
{
	struct again *a = &vu->again;
	pthread_mutex_lock(&vu->lock);
	vu->connected = vu->live = false;
	vu_link_close(&vu->link);
	vu_queues_lost(vu);
	bool served = vu->answered || a->since - a->back >= AGAIN_SERVED_MS * NS_PER_MS;
	for (unsigned q = 0; q < vu->backend.queue_count && vu->running; q++)
		served |= vu->ring[q].started && vu_queue_trace(vu, q) != vu->ring[q].trace;
	pthread_mutex_unlock(&vu->lock);
	if (served)
		a->tries = 0;
}

// True: connected.  False: the end, of the machine or of the waiting.
static bool recover(struct vhost_user *vu)
{
	struct again *a = &vu->again;
	const deadline_ns since = a->since; // the loop's again as soon as there is a connection
	struct err e;
	begin_wait(vu);
	atomic_store(&vu->backend.away, true);
	for (;;) {
		int sock;
		int rc = again_connect(a, vu->child, &sock, &e);
		if (rc == -ECANCELED)
			return false;
		if (rc == -ETIMEDOUT || rc == -EPIPE) {
			snprintf(vu->death.reason, sizeof(vu->death.reason), "%s", e.text);
			fd_close(&a->how.line); // or it would be connected some day, and not served
			atomic_store(&vu->backend.away, false);
			vu_again_post(vu, VU_POST_GONE);
			return false;
		}
		if (rc == 0 && attempt(vu, sock, &e) == 0)
			break;
		if (rc < 0)
			err_prefix(&e, "%s", vu->backend.id);
		log_limited(LOG_WARN, "%s; %s", e.text, again_next_step(&a->how));
	}
	atomic_store(&vu->backend.away, false);
	log_limited(LOG_WARN, "%s: %s is back after %lld ms", vu->backend.id, vu->peer,
		    (long long)((a->back - since) / NS_PER_MS));
	return true;
}

static bool serve(void *arg)
{
	struct vhost_user *vu = arg;
	// What others asked for came before its end, and is not left without an answer.
	const bool down = atomic_exchange(&vu->death.down, false);
	vu_objects_serve(vu);
	return !down || recover(vu);
}

int vhost_user_keep(struct backend *b, const struct again_how *how, struct err *e)
{
	struct vhost_user *vu = CONTAINER_OF(b, struct vhost_user, backend);
	return again_begin(&vu->again, how, b->id, serve, vu, e);
}

void vu_again_close(struct vhost_user *vu)
{
	again_end(&vu->again);
	if (vu->death.wake.fd >= 0)
		loop_remove(vu->link.loop, &vu->death.wake);
	fd_close(&vu->death.wake.fd);
}
