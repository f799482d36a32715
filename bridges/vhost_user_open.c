// SPDX-License-Identifier: BSD-2-Clause
// The handshake, in two round trips, and what a back-end must bring to be taken.
#include "bridges/vhost_user_impl.h"
#include "vmm/base/check.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/base/virtio_id.h"
#include "vmm/spawn.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define QUEUE_SIZE_DEFAULT  256
#define QUEUE_SIZE_LIMIT    32768 // virtio 1.2 §2.7
#define VIRTIO_F_VERSION_1  (UINT64_C(1) << 32)
#define VIRTIO_NET_F_MTU    3
#define LAST_WORDS_START_MS 500
#define ENDED_WAIT_MS	    20 // a connection ends a moment before its process

// ---- upcalls ------------------------------------------------------------------------------------

// Armed for one event by ops->run(): a back-end that signals without end is heard once.
static void queue_failed(struct loop_source *s, uint32_t events)
{
	(void)events;
	struct vhost_user *vu = CONTAINER_OF(s, struct vhost_user, err_source);
	if (!fd_event_take(s->fd))
		return;
	log_limited(LOG_WARN, "%s: the back-end reports an error on a queue", vu->backend.id);
	if (vu->backend.events && vu->backend.events->queue_failed)
		vu->backend.events->queue_failed(vu->backend.owner);
}

// ---- handshake ----------------------------------------------------------------------------------

// Why an exchange of the handshake failed, after it has ended.
static int handshake_failed(struct vhost_user *vu, const struct vu_exchange *x, struct err *e)
{
	// One that is mute but alive has had its time already.
	const int wait_ms = deadline_left_ms(x->deadline) ? LAST_WORDS_START_MS : 0;
	const char *words = vu->child ? spawn_last_words(vu->child, wait_ms) : "";
	const size_t name_len = strlen(vu->peer);
	if (strncmp(words, vu->peer, name_len) == 0 && strncmp(words + name_len, ": ", 2) == 0)
		words += name_len + 2; // our own programs begin their lines with their name
	char how[128];
	// What a sandbox kills says nothing itself.
	if (x->rc == -EPIPE && vu->child && spawn_ended(vu->child, ENDED_WAIT_MS, how, sizeof(how)) &&
	    strncmp(how, "killed", 6) == 0)
		return err_set(e, EPIPE, "%s: %s: %s%s%s", vu->backend.id, vu->peer, how,
			       *words ? "; its last words: " : "", words);
	if (*words && x->rc == -EPIPE)
		return err_set(e, EPIPE, "%s: %s: %s", vu->backend.id, vu->peer, words);
	if (x->refused)
		return err_set(e, EIO, "%s: handshake with %s: it refuses %s", vu->backend.id, vu->peer,
			       x->refused);
	return err_set(e, EPIPE, "%s: handshake with %s: the back-end %s", vu->backend.id, vu->peer,
		       vu->link.why);
}

static int check_offer(const struct vhost_user *vu, struct err *e)
{
	const char *id = vu->backend.id;
	if (!(vu->link.features >> VHOST_USER_F_PROTOCOL_FEATURES & 1))
		return err_set(
			e, ENOTSUP,
			"%s: handshake with %s: the back-end has no protocol features "
			"(VHOST_USER_F_PROTOCOL_FEATURES), and so cannot be stopped safely; use a newer one",
			id, vu->peer);
	if (!(vu->link.features & VIRTIO_F_VERSION_1))
		return err_set(
			e, ENOTSUP,
			"%s: handshake with %s: the back-end offers legacy virtio only (no VIRTIO_F_VERSION_1); "
			"use one that speaks virtio 1.0",
			id, vu->peer);
	return 0;
}

// First round trip: what it is.
static int ask_features(struct vhost_user *vu, deadline_ns deadline, uint64_t *protocol, struct err *e)
{
	struct vu_exchange x;
	vu_begin(&x, &vu->link, deadline);
	vu_tell(&x, VHOST_USER_SET_OWNER, NULL, 0, -1);
	vu_ask(&x, VHOST_USER_GET_FEATURES, NULL, 0);
	// Good only if the features say so; one that does not say so is not taken anyway, whatever it answers
	// here.
	vu_ask(&x, VHOST_USER_GET_PROTOCOL_FEATURES, NULL, 0);
	vu->link.features = vu_answer_u64(&x, VHOST_USER_GET_FEATURES);
	int rc = x.rc == 0 ? check_offer(vu, e) : 0;
	if (rc < 0)
		vu_broken(&x, "is not usable");
	*protocol = vu_answer_u64(&x, VHOST_USER_GET_PROTOCOL_FEATURES);
	if (vu_end(&x) < 0 && rc == 0)
		rc = handshake_failed(vu, &x, e);
	return rc;
}

// Its memory in the guest is for the configuration to allow.
static uint64_t protocol_taken(const struct vhost_user *vu, uint64_t offered)
{
	uint64_t taken = offered & VU_PROTOCOL_FEATURES;
	if (!vu->own.host_notifier || (offered & VU_DOORBELL_FEATURES) != VU_DOORBELL_FEATURES)
		taken &= ~VHOST_USER_PF_BIT(HOST_NOTIFIER);
	if (!vu->own.shared_memory || (offered & VU_SHARED_FEATURES) != VU_SHARED_FEATURES)
		taken &= ~VHOST_USER_PF_BIT(SHMEM);
	if (!vu->objects || !(offered & VHOST_USER_PF_BIT(BACKEND_REQ)))
		taken &= ~VHOST_USER_PF_BIT(SHARED_OBJECT);
	if (!(taken & (VHOST_USER_PF_BIT(HOST_NOTIFIER) | VHOST_USER_PF_BIT(SHMEM))))
		taken &= ~VHOST_USER_PF_BIT(BACKEND_SEND_FD);
	return taken;
}

static int choose_protocol(struct vhost_user *vu, uint64_t offered, struct err *e)
{
	const uint16_t type = vu->backend.virtio_type;
	vu->link.protocol_features = protocol_taken(vu, offered);
	if (vu->own.host_notifier && !vu_has(vu, VHOST_USER_PF_BIT(HOST_NOTIFIER)))
		return err_set(
			e, ENOTSUP,
			"%s: handshake with %s: host_notifier = true, but the back-end has no doorbell pages "
			"(VHOST_USER_PROTOCOL_F_HOST_NOTIFIER, with BACKEND_REQ, BACKEND_SEND_FD and "
			"REPLY_ACK); leave host_notifier out",
			vu->backend.id, vu->peer);
	if (vu->own.shared_memory && !vu_has(vu, VHOST_USER_PF_BIT(SHMEM)))
		return err_set(
			e, ENOTSUP,
			"%s: handshake with %s: shared_memory is allowed, but the back-end has none "
			"(VHOST_USER_PROTOCOL_F_SHMEM, with BACKEND_REQ and BACKEND_SEND_FD)%s; leave shared_memory out",
			vu->backend.id, vu->peer,
			vu_has(vu, VHOST_USER_PF_BIT(GPA_ADDRESSES))
				? ", or is so old that it means it by bit 21, which is GPA_ADDRESSES"
				: "");
	// Drivers insist on a configuration space where their type has one: without CONFIG it is ours, zeros for the most part.
	vu->config_own = !vu_has(vu, VHOST_USER_PF_BIT(CONFIG));
	const uint64_t mtu = vu->own.mtu ? vu->offered & UINT64_C(1) << VIRTIO_NET_F_MTU : 0;
	if (vu->config_own)
		vu->offered = vu_type_without_config(type, vu->offered) | mtu;
	if (vu->own.mtu && (!vu_has(vu, VHOST_USER_PF_BIT(NET_MTU)) || !mtu))
		return err_set(e, ENOTSUP,
			       "%s: handshake with %s: mtu = %u, but the back-end takes none from us "
			       "(VHOST_USER_PROTOCOL_F_NET_MTU and VIRTIO_NET_F_MTU); leave mtu out",
			       vu->backend.id, vu->peer, vu->own.mtu);
	vu->backend.config_len = vu_type_config_len(type, vu->offered);
	if (vu->config_own && !vu_config_is_ours(vu) && vu->type && vu->type->needs_config)
		return err_set(e, ENOTSUP,
			       "%s: handshake with %s: the back-end does not show its configuration space "
			       "(VHOST_USER_PROTOCOL_F_CONFIG), which a %s device cannot do without; %s",
			       vu->backend.id, vu->peer, vu->type->name,
			       type == VIRTIO_FS ? "write tag = and the name that the guest mounts"
						 : "use one that does");
	return 0;
}

// Settles how many queues the device has; `most` is what the back-end said, or UINT64_MAX.
static int choose_queues(struct vhost_user *vu, uint64_t most, uint16_t wanted, struct err *e)
{
	const struct vu_type *t = vu->type;
	const char *id = vu->backend.id;
	const uint64_t own = vu_type_queues(vu->backend.virtio_type, wanted, &vu->offered, vu->config,
					    vu->backend.config_len, &most);
	if (most == 0)
		return err_set(e, EPROTO, "%s: handshake with %s: the back-end says that it has no queues",
			       id, vu->peer);
	most = MIN(most, VU_QUEUES_MAX);
	if (wanted > most)
		return err_set(e, EINVAL, "%s: queues = %u, but %s has %llu: write at most that", id, wanted,
			       vu->peer, (unsigned long long)most);
	if (t && t->fixed_queues && (own > most || (wanted && wanted != own)))
		return err_set(e, EINVAL,
			       "%s: %s has %llu queues, %u are wanted and up to %llu possible: a %s device "
			       "has all of its queues or none",
			       id, vu->peer, (unsigned long long)own, wanted, (unsigned long long)most,
			       t->name);
	vu->backend.queue_count = (uint16_t)(wanted ? wanted : MIN(own, most));
	vu_type_queues_show(t, vu->backend.queue_count, vu->config, vu->backend.config_len);
	return 0;
}

static const struct vu_channel_ops channel_ops = {
	.config_changed = vu_config_changed,
	.doorbell_page = vu_doorbell_page,
	.shared_map = vu_shared_map,
	.shared_unmap = vu_shared_unmap,
	.object = vu_object_request,
};

// What a back-end says of itself.
struct offer {
	uint64_t queues; // how many it has, or UINT64_MAX
	unsigned shared_count;
	struct backend_shared shared[BACKEND_SHARED_MAX];
};

// Second round trip: what is used of it.
static int settle(struct vhost_user *vu, uint8_t *config, struct offer *o, deadline_ns deadline,
		  struct err *e)
{
	struct vhost_user_shmem_config shared;
	size_t shared_len = 0;
	const uint64_t protocol = vu->link.protocol_features;
	FD_AUTO theirs = -1;
	if (vu_has(vu, VHOST_USER_PF_BIT(BACKEND_REQ))) {
		theirs = vu_channel_open(&vu->channel, &vu->link, &channel_ops);
		if (theirs < 0)
			return err_sys(e, -theirs, "%s: make a request channel", vu->backend.id);
	}
	struct vu_exchange x;
	vu_begin(&x, &vu->link, deadline);
	vu_tell(&x, VHOST_USER_SET_PROTOCOL_FEATURES, &protocol, sizeof(protocol), -1);
	if (vu_has(vu, VHOST_USER_PF_BIT(MQ)))
		vu_ask(&x, VHOST_USER_GET_QUEUE_NUM, NULL, 0);
	if (vu_has(vu, VHOST_USER_PF_BIT(CONFIGURE_MEM_SLOTS)))
		vu_ask(&x, VHOST_USER_GET_MAX_MEM_SLOTS, NULL, 0);
	if (vu_has(vu, VHOST_USER_PF_BIT(SHMEM)))
		vu_ask(&x, VHOST_USER_GET_SHMEM_CONFIG, NULL, 0);
	if (!vu->config_own)
		vu_ask_config(&x, vu);
	if (theirs >= 0)
		vu_order(&x, VHOST_USER_SET_BACKEND_REQ_FD, NULL, 0, &theirs, 1);
	*o = (struct offer){ .queues = UINT64_MAX };
	vu->mem_slots = UINT64_MAX;
	if (vu_has(vu, VHOST_USER_PF_BIT(MQ)))
		o->queues = vu_answer_u64(&x, VHOST_USER_GET_QUEUE_NUM);
	if (vu_has(vu, VHOST_USER_PF_BIT(CONFIGURE_MEM_SLOTS)))
		vu->mem_slots = vu_answer_u64(&x, VHOST_USER_GET_MAX_MEM_SLOTS);
	if (vu_has(vu, VHOST_USER_PF_BIT(SHMEM)))
		shared_len = vu_answer(&x, VHOST_USER_GET_SHMEM_CONFIG, &shared, sizeof(shared));
	if (vu->config_own)
		vu_config_own(vu, config);
	else
		vu_answer_config(&x, vu, config);
	if (vu_end(&x) < 0)
		return handshake_failed(vu, &x, e);
	if (vu->mem_slots == 0)
		return err_set(e, EPROTO, "%s: handshake with %s: the back-end says that it takes no memory",
			       vu->backend.id, vu->peer);
	return vu_has(vu, VHOST_USER_PF_BIT(SHMEM))
		       ? vu_shared_check(vu, &shared, shared_len, o->shared, &o->shared_count, e)
		       : 0;
}

static int find_config(struct vhost_user *vu, deadline_ns deadline, struct err *e)
{
	struct vu_exchange x;
	if (!vu_has(vu, VHOST_USER_PF_BIT(CONFIG)) || !vu_type_config_unknown(vu->type))
		return 0;
	vu_begin(&x, &vu->link, deadline);
	vu->backend.config_len = vu_find_config(&x, vu->config);
	vu_config_own(vu, vu->config);
	return vu_end(&x) < 0 ? handshake_failed(vu, &x, e) : 0;
}

static int watch(struct vhost_user *vu, struct err *e)
{
	int rc = vu_link_watch(&vu->link);
	if (rc == 0)
		rc = vu_channel_watch(&vu->channel);
	if (rc == 0)
		rc = loop_add(vu->link.loop, &vu->err_source, (uint32_t)EPOLLIN | (uint32_t)EPOLLONESHOT);
	if (rc == 0)
		rc = vu_again_watch(vu);
	if (rc == 0 && vu->child)
		rc = spawn_watch(vu->child, vu->link.loop, vu_child_exited, vu);
	return rc < 0 ? err_sys(e, -rc, "%s: watch the back-end", vu->backend.id) : 0;
}

static int handshake(struct vhost_user *vu, const struct vhost_user_params *p, struct err *e)
{
	uint64_t protocol = 0;
	struct offer o = { 0 };
	int rc = vu->err_fd < 0 ? vu->err_fd : vu_again_init(vu);
	if (rc < 0)
		err_sys(e, -rc, "%s: make an eventfd", p->id);
	if (rc == 0)
		rc = ask_features(vu, p->start_deadline, &protocol, e);
	vu->offered = vu->link.features & ~VU_PRIVATE_FEATURES;
	if (rc == 0)
		rc = choose_protocol(vu, protocol, e);
	if (rc == 0)
		rc = settle(vu, vu->config, &o, p->start_deadline, e);
	if (rc == 0)
		rc = find_config(vu, p->start_deadline, e);
	if (rc == 0)
		rc = choose_queues(vu, o.queues, p->queues, e);
	vu->backend.shared_count = o.shared_count;
	memcpy(vu->backend.shared, o.shared, sizeof(o.shared));
	vu->connected = vu->live = true;
	return rc < 0 ? rc : watch(vu, e);
}

// ---- again --------------------------------------------------------------------------------------

static int check_features(const struct vhost_user *vu, uint64_t taken, struct err *e)
{
	const uint64_t missing = taken & ~vu->link.features;
	unsigned bit = 0;
	if (!missing)
		return check_offer(vu, e);
	while (!(missing >> bit & 1))
		bit++;
	const char *name = vu_type_feature_name(vu->backend.virtio_type, bit);
	return err_set(e, ENOTSUP,
		       "%s: %s is not the device that it was: the guest's driver uses feature %u (%s), "
		       "which it does not offer any more",
		       vu->backend.id, vu->peer, bit, name ? name : "no name");
}

int vu_shake_again(struct vhost_user *vu, uint8_t *config, deadline_ns deadline, struct err *e)
{
	uint64_t protocol = 0;
	struct offer o;
	pthread_mutex_lock(&vu->lock);
	const uint64_t taken = vu->negotiated ? vu->features : 0;
	pthread_mutex_unlock(&vu->lock);
	int rc = ask_features(vu, deadline, &protocol, e);
	if (rc == 0)
		rc = check_features(vu, taken, e);
	if (rc < 0)
		return rc;
	vu->link.protocol_features = protocol_taken(vu, protocol);
	if (vu->backend.config_len && !vu->config_own && !vu_has(vu, VHOST_USER_PF_BIT(CONFIG)))
		return err_set(
			e, ENOTSUP,
			"%s: %s is not the device that it was: it does not show its configuration space",
			vu->backend.id, vu->peer);
	rc = settle(vu, config, &o, deadline, e);
	if (rc < 0)
		return rc;
	if (o.queues < vu->backend.queue_count)
		return err_set(e, ENOTSUP,
			       "%s: %s is not the device that it was: it has %llu queues, the guest has %u",
			       vu->backend.id, vu->peer, (unsigned long long)o.queues,
			       vu->backend.queue_count);
	if (!vu_shared_same(&vu->backend, o.shared, o.shared_count))
		return err_set(e, ENOTSUP,
			       "%s: %s is not the device that it was: its shared memory is another",
			       vu->backend.id, vu->peer);
	return 0;
}

static void vu_init(struct vhost_user *vu, const struct vhost_user_params *p)
{
	*vu = (struct vhost_user){
		.backend = {
			.ops = &vu_ops,
			.id = p->id,
			.virtio_type = p->virtio_type,
			.queue_size_max = p->queue_size ? p->queue_size : QUEUE_SIZE_DEFAULT,
			.doorbell_pages = p->own.host_notifier,
		},
		.peer = p->peer,
		.own = p->own,
		.objects = p->objects,
		.type = vu_type_of(p->virtio_type),
		.child = p->child,
		.control_ms = p->control_ms ? p->control_ms : DEADLINE_CONTROL_MS,
		.stop_ms = p->stop_ms ? p->stop_ms : DEADLINE_START_MS,
		.mem_slots = UINT64_MAX,
		.err_fd = fd_eventfd(),
		.inflight.fd = -1,
		.again = AGAIN_INIT,
		.death.wake.fd = -1,
	};
	vu->again.child_up = p->child != NULL;
	pthread_mutex_init(&vu->lock, NULL);
	vu->err_source = (struct loop_source){ .fd = vu->err_fd, .ready = queue_failed };
	vu_link_init(&vu->link, p->id, p->sock, p->loop, vu_link_lost);
}

int vhost_user_open(struct backend **out, const struct vhost_user_params *p, struct err *e)
{
	struct vhost_user *vu = malloc(sizeof(*vu));
	if (!vu) {
		int sock = p->sock;
		fd_close(&sock);
		if (p->child)
			spawn_stop(p->child, 0);
		free(p->child);
		return err_sys(e, ENOMEM, "%s", p->id);
	}
	vu_init(vu, p);
	int rc;
	if (!is_power_of_two(vu->backend.queue_size_max) || vu->backend.queue_size_max > QUEUE_SIZE_LIMIT)
		rc = err_set(e, EINVAL, "%s: queue_size = %u is not a power of two up to %u", p->id,
			     vu->backend.queue_size_max, QUEUE_SIZE_LIMIT);
	else
		rc = handshake(vu, p, e);
	if (rc < 0) {
		vu_ops.close(&vu->backend);
		return rc;
	}
	*out = &vu->backend;
	return 0;
}
