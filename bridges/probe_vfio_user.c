// SPDX-License-Identifier: BSD-2-Clause
// The half of `minivmm probe` that asks vfio-user servers: by the same handshake as a machine's, and then the connection ends.
#include "bridges/probe.h"

#include "bridges/vfio_user_impl.h"
#include "vmm/base/check.h"
#include "vmm/base/msg.h"

#define CONFIG_HEAD 64 // bytes of every configuration space

static const char *const region_names[VFU_REGIONS] = { "BAR 0", "BAR 1", "BAR 2",  "BAR 3",	   "BAR 4",
						       "BAR 5", "ROM",	 "config", "VGA registers" };
static const char *const irq_names[VFU_IRQS] = { "INTx", "MSI", "MSI-X", "error", "request" };

static void say_number(FILE *out, const char *name, uint64_t n, const char *what)
{
	fprintf(out, "offer     %-20s %llu: %s\n", name, (unsigned long long)n, what);
}

static void say_word(FILE *out, const char *name, bool offered, const char *what)
{
	fprintf(out, "offer     %-20s %s\n", name, offered ? what : "not offered");
}

// Whether it could give its function's state to another server.  Some say it in VERSION, some only if they are asked.
static bool moves(struct vfio_user *v)
{
	const struct vfio_user_device_feature ask = { .argsz = sizeof(ask),
						      .flags = VFIO_DEVICE_FEATURE_MIGRATION |
							       VFIO_DEVICE_FEATURE_GET |
							       VFIO_DEVICE_FEATURE_PROBE };
	struct vfio_user_device_feature f = { 0 };
	const int len = vfu_ask(v, &(struct vfu_call){ .command = VFIO_USER_DEVICE_FEATURE,
						       .head = &ask,
						       .head_len = sizeof(ask),
						       .reply = &f,
						       .reply_cap = sizeof(f) });
	return len == sizeof(f) && f.flags == ask.flags;
}

static void say_offers(struct vfio_user *v, FILE *out)
{
	const struct vfio_user_caps *c = &v->said.caps;
	say_number(out, "max_msg_fds", c->max_msg_fds, "so many interrupts are set by one message");
	say_number(out, "max_data_xfer_size", c->max_data_xfer_size, "registers are at most 8 bytes");
	say_number(out, "max_dma_maps", c->max_dma_maps, "a machine needs one or two for its memory");
	say_number(out, "pgsizes", c->pgsizes, "the guest's memory is mapped in pieces of the smallest");
	say_word(out, "twin_socket", v->said.twin, "used: its own commands come on a socket of theirs");
	say_word(out, "write_multiple", c->write_multiple,
		 "not used: each write is acknowledged before the guest goes on");
	say_word(out, "migration", c->migration || moves(v),
		 "its state can be moved; not used: migration is not done");
}

static void say_region(const struct vfio_user *v, unsigned i, FILE *out)
{
	const struct vfio_region *r = &v->said.region[i];
	uint64_t mapped = 0;
	if (!r->size)
		return;
	for (unsigned a = 0; a < r->area_count; a++)
		mapped += r->area[a].size;
	fprintf(out, "region    %-20s %llu bytes%s%s", region_names[i], (unsigned long long)r->size,
		r->readable ? "" : ", not to be read", r->writable ? "" : ", not to be written");
	if (r->fd >= 0 && mapped)
		fprintf(out, ", %llu of them mapped", (unsigned long long)mapped);
	else if (v->said.trapped[i])
		fprintf(out, ", not mapped: %s", v->said.trapped[i]);
	if (i < VFU_BARS && v->said.doorbells[i].count)
		fprintf(out, ", %u eventfds", v->said.doorbells[i].count);
	fputc('\n', out);
}

static void say_irqs(const struct vfio_user *v, FILE *out)
{
	for (unsigned i = 0; i < VFU_IRQS; i++)
		if (v->said.irq[i].count)
			fprintf(out, "interrupt %-20s %u%s\n", irq_names[i], v->said.irq[i].count,
				v->said.irq[i].eventfd ? "" : ", not used: it does not take eventfds");
}

// 1: it would be used, 0: not.
static int say(struct vfio_user *v, const char *socket, FILE *out)
{
	uint8_t config[CONFIG_HEAD];
	const struct vfio_region *space = &v->said.region[VFIO_PCI_CONFIG_REGION_INDEX];
	const bool readable = space->size >= sizeof(config) &&
			      v->link.ops->region_read(&v->link, VFIO_PCI_CONFIG_REGION_INDEX, 0, config,
						       sizeof(config)) == 0;
	fprintf(out, "%s: a vfio-user server, version %u.%u\n", socket, v->said.version.major,
		v->said.version.minor);
	if (readable)
		fprintf(out, "function  %02x%02x:%02x%02x, class %02x%02x%02x%s\n", config[1], config[0],
			config[3], config[2], config[11], config[10], config[9],
			v->link.can_reset ? "" : ", without reset");
	say_offers(v, out);
	for (unsigned i = 0; i < VFU_REGIONS; i++)
		say_region(v, i, out);
	say_irqs(v, out);
	if (!readable)
		fprintf(out, "refused   its configuration space cannot be read\n");
	fprintf(out, "verdict   %s\n", readable ? "minivmm would use it" : "minivmm would refuse it");
	return readable;
}

int probe_vfio_user_run(const struct probe_params *params, FILE *out, struct err *e)
{
	const int64_t ms = params->control_ms ? params->control_ms : DEADLINE_CONTROL_MS;
	struct vfio_link *l;
	struct loop loop;
	const int sock = msg_connect(params->socket, deadline_in_ms(ms), e);
	if (sock < 0)
		return sock;
	int rc = loop_init(&loop);
	if (rc < 0)
		return err_sys(e, -rc, "epoll");
	const struct vfio_user_params p = { .id = "probe",
					    .peer = params->socket,
					    .sock = sock,
					    .loop = &loop,
					    .start_deadline = deadline_in_ms(ms),
					    .control_ms = ms };
	rc = vfio_user_open(&l, &p, e);
	if (rc == 0) {
		rc = say(CONTAINER_OF(l, struct vfio_user, link), params->socket, out);
		l->ops->close(l);
	}
	loop_destroy(&loop);
	return rc;
}
