// SPDX-License-Identifier: BSD-2-Clause
// The handshake: what the server is, and all that it says of itself once.
#include "bridges/vfio_user_impl.h"
#include "vmm/base/check.h"
#include "vmm/base/err.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/spawn.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LAST_WORDS_START_MS 500
#define ENDED_WAIT_MS	    20 // a connection ends a moment before its process

// ---- VERSION ------------------------------------------------------------------------------------

static const char *twin_of(struct vfio_user *v, struct msg_fds *fds)
{
	int domain = 0, type = 0;
	socklen_t len = sizeof(domain), type_len = sizeof(type);
	if (!v->said.caps.twin_socket)
		return fds->count ? "descriptors without a twin socket" : NULL;
	if (!v->said.caps.has_fd_index || v->said.caps.fd_index >= fds->count)
		return "a twin socket that did not come along";
	const int fd = fds->fd[v->said.caps.fd_index];
	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0 || domain != AF_UNIX ||
	    getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_len) < 0 || type != SOCK_STREAM)
		return "a twin socket that is none";
	vfu_link_twin(&v->io, fd_steal(&fds->fd[v->said.caps.fd_index]));
	return NULL;
}

static const char *read_version(struct vfio_user *v, const uint8_t *bytes, size_t len, struct msg_fds *fds)
{
	memcpy(&v->said.version, bytes, sizeof(v->said.version));
	if (v->said.version.major != VFIO_USER_MAJOR)
		return "another major version";
	if (v->said.version.minor > VFIO_USER_MINOR)
		return "a later minor version than was proposed";
	union {
		const uint8_t *bytes;
		const char *text;
	} json = { .bytes = bytes + sizeof(v->said.version) };
	const char *wrong = vfio_user_caps_read(&v->said.caps, json.text, len - sizeof(v->said.version));
	return wrong ? wrong : twin_of(v, fds);
}

int vfu_negotiate(struct vfio_user *v, deadline_ns deadline)
{
	const struct vfio_user_version ours = { .major = VFIO_USER_MAJOR, .minor = VFIO_USER_MINOR };
	uint8_t bytes[VFIO_USER_VERSION_LEN + VFIO_USER_JSON_MAX] = { 0 };
	char json[256];
	struct msg_fds fds = { .count = 0 };
	const int text_len = snprintf(json, sizeof(json),
				      "{\"capabilities\":{\"max_msg_fds\":%d,\"max_data_xfer_size\":%u,"
				      "\"twin_socket\":{\"supported\":true},\"write_multiple\":true}}",
				      MSG_FDS_MAX, VFU_DATA_MAX);
	int len = vfu_call(&v->io, &(struct vfu_call){ .command = VFIO_USER_VERSION,
						       .head = &ours,
						       .head_len = sizeof(ours),
						       .data = json,
						       .data_len = (size_t)text_len + 1,
						       .reply = bytes,
						       .reply_cap = sizeof(bytes),
						       .reply_fds = &fds,
						       .deadline = deadline });
	if (len < 0)
		return len;
	const char *wrong = read_version(v, bytes, (size_t)len, &fds);
	for (unsigned i = 0; i < fds.count; i++)
		fd_close(&fds.fd[i]);
	if (!wrong)
		return 0;
	vfu_broken(&v->io, "is of no use (its VERSION: %s)", wrong);
	return -EPIPE;
}

// ---- the device ---------------------------------------------------------------------------------

static int ask_irq(struct vfio_user *v, unsigned index, deadline_ns deadline)
{
	const struct vfio_user_irq_info ask = { .argsz = sizeof(ask), .index = index };
	struct vfio_user_irq_info i = { 0 };
	int len = vfu_call(&v->io, &(struct vfu_call){ .command = VFIO_USER_DEVICE_GET_IRQ_INFO,
						       .head = &ask,
						       .head_len = sizeof(ask),
						       .reply = &i,
						       .reply_cap = sizeof(i),
						       .deadline = deadline });
	if (len == -EPIPE)
		return len;
	if (len < 0)
		return 0; // it has none of that kind
	if (i.index != index) {
		vfu_broken(&v->io, "describes its interrupts %u wrongly: it is about others", index);
		return -EPIPE;
	}
	v->said.irq[index] = (struct vfio_irq){ .count = i.count,
						.eventfd = i.flags & VFIO_IRQ_INFO_EVENTFD,
						.automasked = i.flags & VFIO_IRQ_INFO_AUTOMASKED,
						.noresize = i.flags & VFIO_IRQ_INFO_NORESIZE };
	return 0;
}

static const char *check_device(const struct vfio_user_device_info *d)
{
	if (!(d->flags & VFIO_DEVICE_FLAGS_PCI))
		return "it is no PCI device";
	if (d->num_regions <= VFIO_PCI_CONFIG_REGION_INDEX)
		return "it has no region of its configuration space";
	if (d->num_regions > VFU_REGIONS_SANE)
		return "it has more regions than a device can have";
	if (d->num_irqs > VFU_IRQS_SANE)
		return "it has more kinds of interrupts than there are";
	return NULL;
}

static int ask_device(struct vfio_user *v, struct vfio_user_device_info *d, deadline_ns deadline)
{
	const struct vfio_user_device_info ask = { .argsz = sizeof(ask) };
	int len = vfu_call(&v->io, &(struct vfu_call){ .command = VFIO_USER_DEVICE_GET_INFO,
						       .head = &ask,
						       .head_len = sizeof(ask),
						       .reply = d,
						       .reply_cap = sizeof(*d),
						       .deadline = deadline });
	if (len < 0)
		return len;
	const char *wrong = check_device(d);
	if (!wrong)
		return 0;
	vfu_broken(&v->io, "is of no use: %s", wrong);
	return -EPIPE;
}

int vfu_ask_all(struct vfio_user *v, deadline_ns deadline)
{
	struct vfio_user_device_info d = { 0 };
	int rc = ask_device(v, &d, deadline);
	if (rc < 0)
		return rc;
	v->said.can_reset = v->link.can_reset = d.flags & VFIO_DEVICE_FLAGS_RESET;
	for (unsigned i = 0; i < MIN(d.num_regions, VFU_REGIONS) && rc != -EPIPE; i++)
		rc = vfu_ask_region(v, i, deadline);
	for (unsigned i = 0; i < MIN(d.num_irqs, VFU_IRQS) && rc != -EPIPE; i++)
		rc = ask_irq(v, i, deadline);
	for (unsigned i = 0; i < VFU_BARS && !v->no_doorbells && rc != -EPIPE; i++)
		if (v->said.region[i].size)
			rc = vfu_ask_doorbells(v, i, deadline);
	for (unsigned i = 0; i < VFU_BARS; i++)
		v->said.bypassed |= v->said.region[i].fd >= 0 || v->said.doorbells[i].count;
	return rc == -EPIPE ? rc : 0;
}

void vfu_said_init(struct vfu_said *s)
{
	*s = (struct vfu_said){ .twin = false };
	for (unsigned i = 0; i < VFU_REGIONS; i++)
		s->region[i].fd = -1;
}

void vfu_said_free(struct vfu_said *s)
{
	for (unsigned i = 0; i < VFU_REGIONS; i++)
		fd_close(&s->region[i].fd);
	for (unsigned i = 0; i < VFU_BARS; i++) {
		msg_fds_close(&s->doorbells[i].fds);
		s->doorbells[i].count = 0;
	}
}

// ---- open ---------------------------------------------------------------------------------------

// Why the handshake failed, after it has ended.
static int handshake_failed(struct vfio_user *v, int rc, deadline_ns deadline, struct err *e)
{
	// One that is mute but alive has had its time already.
	const int wait_ms = deadline_left_ms(deadline) ? LAST_WORDS_START_MS : 0;
	const char *words = v->child ? spawn_last_words(v->child, wait_ms) : "";
	const size_t name_len = strlen(v->peer);
	char how[128];
	v->told = true; // by the sentence
	if (strncmp(words, v->peer, name_len) == 0 && strncmp(words + name_len, ": ", 2) == 0)
		words += name_len + 2;
	if (rc != -EPIPE)
		return err_set(e, -rc, "%s: handshake with %s: the server refuses it: %s", v->link.id,
			       v->peer, err_text(-rc));
	// What a sandbox kills says nothing itself.
	if (v->child && spawn_ended(v->child, ENDED_WAIT_MS, how, sizeof(how)) &&
	    strncmp(how, "killed", 6) == 0)
		return err_set(e, EPIPE, "%s: %s: %s%s%s", v->link.id, v->peer, how,
			       *words ? "; its last words: " : "", words);
	if (*words)
		return err_set(e, EPIPE, "%s: %s: %s", v->link.id, v->peer, words);
	return err_set(e, EPIPE, "%s: handshake with %s: the server %s", v->link.id, v->peer, v->io.why);
}

static void say(const struct vfio_user *v)
{
	log_debug("%s: %s: vfio-user %u.%u, %llu descriptors, %llu bytes, %llu maps%s%s", v->link.id, v->peer,
		  v->said.version.major, v->said.version.minor, (unsigned long long)v->said.caps.max_msg_fds,
		  (unsigned long long)v->said.caps.max_data_xfer_size,
		  (unsigned long long)v->said.caps.max_dma_maps, v->said.twin ? ", twin socket" : "",
		  v->said.caps.write_multiple ? ", several writes at a time" : "");
	for (unsigned i = 0; i < VFU_REGIONS; i++)
		if (v->said.trapped[i])
			log_info("%s: region %u is not mapped, each access goes to %s: %s", v->link.id, i,
				 v->peer, v->said.trapped[i]);
}

static int handshake(struct vfio_user *v, const struct vfio_user_params *p, struct err *e)
{
	int rc = vfu_negotiate(v, p->start_deadline);
	v->said.twin = v->io.twin >= 0;
	if (rc == 0)
		rc = vfu_ask_all(v, p->start_deadline);
	if (rc < 0)
		return handshake_failed(v, rc, p->start_deadline, e);
	say(v);
	return 0;
}

static struct vfio_user *make(const struct vfio_user_params *p)
{
	struct vfio_user *v = calloc(1, sizeof(*v));
	if (!v)
		return NULL;
	v->link = (struct vfio_link){ .ops = &vfu_ops, .id = p->id, .replug = p->replug };
	v->peer = p->peer;
	v->control_ms = p->control_ms ? p->control_ms : DEADLINE_CONTROL_MS;
	v->reset_ms = p->reset_ms ? p->reset_ms : DEADLINE_START_MS;
	v->keep_memory = p->keep_memory;
	v->no_doorbells = p->no_doorbells;
	v->child = p->child;
	v->loop = p->loop;
	v->again = AGAIN_INIT;
	vfu_said_init(&v->said);
	pthread_mutex_init(&v->dma_lock, NULL);
	return v;
}

int vfio_user_open(struct vfio_link **out, const struct vfio_user_params *p, struct err *e)
{
	struct vfio_user *v = make(p);
	if (!v) {
		int sock = p->sock;
		fd_close(&sock);
		if (p->child)
			spawn_stop(p->child, 0);
		free(p->child);
		return err_sys(e, ENOMEM, "%s", p->id);
	}
	int rc = vfu_link_init(&v->io, p->id, p->sock);
	v->io.control_ms = v->control_ms;
	v->io.serve = vfu_serve;
	vfu_link_budget(&v->io, p->start_deadline - deadline_now());
	if (rc < 0)
		err_sys(e, -rc, "%s: eventfd", p->id);
	else
		rc = handshake(v, p, e);
	atomic_store(&v->live, rc == 0);
	if (rc == 0)
		rc = vfu_watch(v, e);
	if (rc < 0) {
		vfu_ops.close(&v->link);
		return rc;
	}
	*out = &v->link;
	return 0;
}
