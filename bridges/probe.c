// SPDX-License-Identifier: BSD-2-Clause
#include "bridges/probe.h"

#include "bridges/vhost_user_features.h"
#include "bridges/vhost_user_impl.h"
#include "vmm/base/check.h"
#include "vmm/base/msg.h"
#include "vmm/base/virtio_id.h"

#include <inttypes.h>
#include <stdarg.h>

#define VIRTIO_F_VERSION_1 32

struct probe {
	const struct probe_params *params;
	const struct vu_type *type; // NULL: not told, or without a row
	struct vu_link link;
	uint64_t features, protocol;
	uint64_t queues, mem_slots; // UINT64_MAX: not told
	struct vhost_user_shmem_config shared;
	uint32_t config_wanted; // by the type's specification
	uint32_t config_len;	// what it shows
	uint8_t config[VU_CONFIG_MAX];
	FILE *out;
	bool refused;
};

// Why a feature that the transport does not carry is not.
static const char *withheld_why(unsigned bit)
{
	switch (bit) {
	case 24:
	case 27:
		return "of legacy virtio";
	case 37:
		return "the function has no virtual functions";
	case 39:
		return "vhost-user has no message that tells the values";
	case 41:
		return "there are no administration queues";
	default:
		return "the transport does not know it";
	}
}

// ---- asking -------------------------------------------------------------------------------------

static void next_exchange(struct probe *p, struct vu_exchange *x)
{
	const int64_t ms = p->params->control_ms ? p->params->control_ms : DEADLINE_CONTROL_MS;
	vu_begin(x, &p->link, deadline_in_ms(ms));
}

static int ask_features(struct probe *p)
{
	struct vu_exchange x;
	next_exchange(p, &x);
	vu_tell(&x, VHOST_USER_SET_OWNER, NULL, 0, -1);
	vu_ask(&x, VHOST_USER_GET_FEATURES, NULL, 0);
	p->features = vu_answer_u64(&x, VHOST_USER_GET_FEATURES);
	// One without them may end the connection when it is asked.
	if (x.rc == 0 && p->features >> VHOST_USER_F_PROTOCOL_FEATURES & 1) {
		vu_ask(&x, VHOST_USER_GET_PROTOCOL_FEATURES, NULL, 0);
		p->protocol = vu_answer_u64(&x, VHOST_USER_GET_PROTOCOL_FEATURES);
	}
	return vu_end(&x);
}

static int ask_limits(struct probe *p)
{
	// The request channel would be handed over only to be closed.
	uint64_t used = p->protocol & VU_PROTOCOL_FEATURES & ~VU_CHANNEL_FEATURES;
	if ((p->protocol & VU_SHARED_FEATURES) != VU_SHARED_FEATURES)
		used &= ~VHOST_USER_PF_BIT(SHMEM);
	struct vu_exchange x;
	next_exchange(p, &x);
	vu_tell(&x, VHOST_USER_SET_PROTOCOL_FEATURES, &used, sizeof(used), -1);
	p->link.protocol_features = used;
	if (used & VHOST_USER_PF_BIT(MQ)) {
		vu_ask(&x, VHOST_USER_GET_QUEUE_NUM, NULL, 0);
		p->queues = vu_answer_u64(&x, VHOST_USER_GET_QUEUE_NUM);
	}
	if (used & VHOST_USER_PF_BIT(CONFIGURE_MEM_SLOTS)) {
		vu_ask(&x, VHOST_USER_GET_MAX_MEM_SLOTS, NULL, 0);
		p->mem_slots = vu_answer_u64(&x, VHOST_USER_GET_MAX_MEM_SLOTS);
	}
	if (used & VHOST_USER_PF_BIT(SHMEM)) {
		vu_ask(&x, VHOST_USER_GET_SHMEM_CONFIG, NULL, 0);
		vu_answer(&x, VHOST_USER_GET_SHMEM_CONFIG, &p->shared, sizeof(p->shared));
	}
	return vu_end(&x);
}

// As the type's specification has it; where that is not known, or refused, as much as there is.
static int ask_config(struct probe *p)
{
	struct vu_exchange x;
	next_exchange(p, &x);
	if (!vu_type_config_unknown(p->type)) {
		p->config_wanted = vu_type_config_len(p->params->virtio_type, p->features);
		if (p->config_wanted)
			p->config_len = vu_try_config(&x, p->config, p->config_wanted);
	}
	if (x.rc == 0 && p->config_len == 0 && (p->config_wanted || vu_type_config_unknown(p->type)))
		p->config_len = vu_find_config(&x, p->config);
	return vu_end(&x);
}

// ---- saying -------------------------------------------------------------------------------------

__attribute__((format(printf, 2, 3))) static void refuse(struct probe *p, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	fputs("refused   ", p->out);
	vfprintf(p->out, fmt, ap);
	fputc('\n', p->out);
	va_end(ap);
	p->refused = true;
}

static void say_protocol(const struct probe *p)
{
	for (unsigned bit = 0; bit < 64; bit++) {
		const bool known = bit < VHOST_USER_PF_COUNT, offered = p->protocol >> bit & 1;
		const bool used = offered && VU_PROTOCOL_FEATURES >> bit & 1;
		const struct vu_protocol_feature *f = vu_protocol_feature(bit);
		if (known && !offered)
			fprintf(p->out, "protocol  %2u %-24s not offered\n", bit, f->name);
		else if (offered)
			fprintf(p->out, "protocol  %2u %-24s %s: %s\n", bit, f->name,
				used ? "used" : "not used", f->why);
	}
}

// `given`: those of the carried ones that are left when the queues are settled.
static void say_virtio(const struct probe *p, uint64_t given)
{
	for (unsigned bit = 0; bit < 64; bit++) {
		const char *name = vu_type_feature_name(p->params->virtio_type, bit);
		if (!(p->features >> bit & 1))
			continue;
		fprintf(p->out, "virtio    %2u %-24s ", bit, name ? name : "?");
		if (bit == VHOST_USER_F_PROTOCOL_FEATURES)
			fputs("used: between the two ends only\n", p->out);
		else if (bit == VHOST_F_LOG_ALL)
			fputs("not used: dirty pages are for migration, which is not done\n", p->out);
		else if (!(p->params->carried >> bit & 1))
			fprintf(p->out, "not used: %s\n", withheld_why(bit));
		else if (!(given >> bit & 1))
			fputs("not used: it needs a control queue, which the back-end does not have\n",
			      p->out);
		else
			fputs("used: the driver may take it\n", p->out);
	}
}

static void say_queues(struct probe *p, uint64_t own, uint64_t most)
{
	fputs("queues    ", p->out);
	if (p->queues == UINT64_MAX)
		fputs("it does not say how many it has", p->out);
	else
		fprintf(p->out, "it has up to %" PRIu64, p->queues);
	if (p->params->virtio_type)
		fprintf(p->out, ", %" PRIu64 " would be used\n", MIN(own, most));
	else
		fprintf(p->out, "; how many are used is for the type to say (--virtio)\n");
	if (p->queues == 0)
		refuse(p, "it says that it has no queues");
	if (p->type && p->type->fixed_queues && own > most)
		refuse(p, "a %s device has all of its %" PRIu64 " queues or none", p->type->name, own);
}

static void say_shared(const struct probe *p)
{
	unsigned n = 0;
	uint64_t sum = 0;
	for (unsigned id = 0; id < VHOST_USER_SHMEM_REGIONS; id++) {
		n += p->shared.size[id] > 0;
		sum = MIN(p->shared.size[id], UINT64_MAX - sum) + sum;
	}
	if (n)
		fprintf(p->out,
			"shared    %u regions of memory, %" PRIu64 " bytes for `shared_memory` to allow\n", n,
			sum);
}

static void say_memory(struct probe *p)
{
	if (p->mem_slots == UINT64_MAX)
		fprintf(p->out, "memory    %d regions in one table, guest RAM has up to %d\n",
			VHOST_USER_MEM_TABLE_MAX, MEM_REGIONS_MAX);
	else
		fprintf(p->out, "memory    up to %" PRIu64 " regions, guest RAM has up to %d\n", p->mem_slots,
			MEM_REGIONS_MAX);
	if (p->mem_slots == 0)
		refuse(p, "it says that it takes no memory");
}

static void say_config(struct probe *p)
{
	if (!(p->protocol & VHOST_USER_PF_BIT(CONFIG))) {
		fputs("config    not shown\n", p->out);
		if (p->type && p->type->needs_config)
			refuse(p,
			       "a %s device cannot do without its configuration space "
			       "(VHOST_USER_PROTOCOL_F_CONFIG)",
			       p->type->name);
	} else if (p->config_wanted > p->config_len) {
		fprintf(p->out, "config    %u bytes\n", p->config_len);
		refuse(p, "a %s device with these features has %u bytes of configuration space",
		       p->type->name, p->config_wanted);
	} else {
		fprintf(p->out, "config    %u bytes%s\n", p->config_len,
			p->params->virtio_type ? "" : " are shown when it is asked for all");
	}
}

static void say(struct probe *p)
{
	const uint16_t number = p->params->virtio_type;
	const char *name = virtio_id_name(number);
	if (number)
		fprintf(p->out, "%s: a vhost-user back-end, as virtio device %u (%s)\n", p->params->socket,
			number, name ? name : "?");
	else
		fprintf(p->out, "%s: a vhost-user back-end; --virtio TYPE tells what it is\n",
			p->params->socket);
	uint64_t given = p->features & p->params->carried;
	if (!p->config_len)
		given = vu_type_without_config(number, given);
	uint64_t most = p->queues;
	const uint64_t own = vu_type_queues(number, 0, &given, p->config, p->config_len, &most);
	say_protocol(p);
	say_virtio(p, given);
	say_queues(p, own, MIN(most, VU_QUEUES_MAX));
	say_memory(p);
	say_shared(p);
	say_config(p);
	if (!(p->features >> VHOST_USER_F_PROTOCOL_FEATURES & 1))
		refuse(p, "it has no protocol features (VHOST_USER_F_PROTOCOL_FEATURES), and so cannot be "
			  "stopped safely");
	if (!(p->features >> VIRTIO_F_VERSION_1 & 1))
		refuse(p, "it offers legacy virtio only (no VIRTIO_F_VERSION_1)");
	fprintf(p->out, "verdict   %s\n", p->refused ? "minivmm would refuse it" : "minivmm would use it");
}

static void died(struct vu_link *l)
{
	(void)l; // the link is in no loop: who asks sees it
}

int probe_run(const struct probe_params *params, FILE *out, struct err *e)
{
	struct probe p = {
		.params = params,
		.type = vu_type_of(params->virtio_type),
		.queues = UINT64_MAX,
		.mem_slots = UINT64_MAX,
		.out = out,
	};
	const int64_t ms = params->control_ms ? params->control_ms : DEADLINE_CONTROL_MS;
	const int sock = msg_connect(params->socket, deadline_in_ms(ms), e);
	if (sock < 0)
		return sock;
	vu_link_init(&p.link, params->socket, sock, NULL, died);
	int rc = ask_features(&p);
	if (rc == 0 && p.protocol)
		rc = ask_limits(&p);
	if (rc == 0 && p.protocol & VHOST_USER_PF_BIT(CONFIG))
		rc = ask_config(&p);
	vu_link_close(&p.link);
	if (rc < 0)
		return err_set(e, -rc, "%s: probe: the back-end %s", params->socket, p.link.why);
	say(&p);
	return !p.refused;
}
