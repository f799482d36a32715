// SPDX-License-Identifier: BSD-2-Clause
// What the keys of a device say about each other, and about other devices: when each of them has been read.
#include "vmm/config_value.h"

#include "vmm/base/check.h"
#include "vmm/base/fd.h"
#include "vmm/base/virtio_id.h"

#include <stddef.h>
#include <string.h>

static void check_builtin(struct config_reader *r, const struct toml_value *t, const struct device_config *d)
{
	const uint16_t most = d->virtio_type == VIRTIO_NET   ? CONFIG_NET_PAIRS_MAX
			      : d->virtio_type == VIRTIO_BLK ? CONFIG_BLK_QUEUES_MAX
							     : 1;
	static const uint16_t ours[] = { VIRTIO_BLK, VIRTIO_NET, VIRTIO_RNG, VIRTIO_CONSOLE, VIRTIO_VSOCK };
	bool is_ours = d->virtio_type == 0; // which has been complained about
	for (unsigned i = 0; i < ARRAY_LEN(ours); i++)
		is_ours |= d->virtio_type == ours[i];
	if (!is_ours)
		config_complain_value(
			r, toml_get(t, "virtio"),
			"minivmm has no program of its own for \"%s\" yet; use via = \"vhost-user\"",
			d->virtio_name);
	else if (d->virtio_type && d->queues > most)
		config_complain_value(r, toml_get(t, "queues"),
				      "queues = %u: a \"%s\" of ours has at most %u", d->queues,
				      d->virtio_name, most);
	if (d->tap && d->queues > 1 && strncmp(d->tap, "fd:", 3) == 0)
		config_complain_value(r, toml_get(t, "tap"),
				      "a descriptor is one queue; for more, name the tap");
}

// By its name; one that only has the name gets no more of the host than any other.
static bool program_is_ours(const struct device_config *d)
{
	const char *program = d->exec ? d->exec[0] : "", *slash = strrchr(program, '/');
	return strncmp(slash ? slash + 1 : program, "minivmm-", 8) == 0;
}

// Whoever is at the other end of a socket: vhost-user, vfio-user.
static void check_peer(struct config_reader *r, const struct toml_value *t, struct device_config *d)
{
	const struct toml_value *socket = toml_get(t, "socket"), *exec = toml_get(t, "exec");
	const struct toml_value *sandbox = toml_get(t, "sandbox"), *paths = toml_get(t, "paths");
	const struct toml_value *reconnect = toml_get(t, "reconnect"), *restart = toml_get(t, "restart");
	const struct toml_value *listen = toml_get(t, "listen"), *limits = toml_get(t, "limits");
	if (!socket && !exec && !listen)
		config_complain(r, t->line, t->column, "key \"socket\"%s or \"exec\" is missing",
				d->via == VIA_VHOST_USER ? ", \"listen\"" : "");
	if (socket && exec)
		config_complain_key(r, exec, "\"socket\" and \"exec\" exclude each other");
	if (listen && (socket || exec))
		config_complain_key(r, listen, "\"listen\" and \"%s\" exclude each other",
				    socket ? "socket" : "exec");
	if (reconnect && exec)
		config_complain_key(r, reconnect, "\"reconnect\" does not go with \"exec\"; write restart =");
	if (restart && !exec)
		config_complain_key(r, restart, "\"restart\" goes with \"exec\" only; write reconnect =");
	if (sandbox && !exec)
		config_complain_key(r, sandbox, "key \"sandbox\" goes with \"exec\" only");
	if (paths && !exec)
		config_complain_key(r, paths, "key \"paths\" goes with \"exec\" only");
	else if (paths && d->sandbox && strcmp(d->sandbox, "none") == 0)
		config_complain_key(r, paths, "without a sandbox every path is in sight");
	if (limits && !exec)
		config_complain_key(r, limits, "key \"limits\" goes with \"exec\" only");
	if (exec && !sandbox)
		d->sandbox = program_is_ours(d) ? "minivmm" : "default";
	if (d->learn && toml_get(t, "restart") && d->restart != RESTART_NEVER)
		config_complain_key(r, toml_get(t, "restart"),
				    "one that is learned from runs once: restart = \"never\"");
	if (d->learn)
		d->restart = RESTART_NEVER;
}

static void check_pairs(struct config_reader *r, const struct toml_value *t, const struct device_config *d)
{
	static const char *const keys[] = { "tap", "path" };
	if (d->queues > CONFIG_NET_PAIRS_MAX)
		config_complain_value(r, toml_get(t, "queues"), "queues = %u: over vhost at most %d pairs",
				      d->queues, CONFIG_NET_PAIRS_MAX);
	for (unsigned i = 0; i < ARRAY_LEN(keys) && d->queues > 1; i++) {
		const struct toml_value *v = toml_get(t, keys[i]);
		if (v && v->type == TOML_STRING && fd_is_reference(v->string.bytes))
			config_complain_value(r, v, "a descriptor is of one pair; for more, write the %s",
					      i == 0 ? "tap's name" : "node's path");
	}
}

static void check_vhost(struct config_reader *r, const struct toml_value *t, const struct device_config *d)
{
	if (d->virtio_type && d->virtio_type != VIRTIO_NET && d->virtio_type != VIRTIO_SCSI &&
	    d->virtio_type != VIRTIO_VSOCK)
		config_complain_value(r, toml_get(t, "virtio"),
				      "kernel vhost has no \"%s\"; net, scsi and vsock are possible",
				      d->virtio_name);
	else if (d->virtio_type == VIRTIO_NET)
		check_pairs(r, t, d);
	else if (d->virtio_type && d->virtio_type != VIRTIO_NET && d->queues)
		config_complain_key(r, toml_get(t, "queues"),
				    "over vhost the queues of a \"%s\" are not to be chosen", d->virtio_name);
}

// "0000:" is the domain that is meant where there is none.
static const char *without_domain(const char *host)
{
	return strncmp(host, "0000:", 5) == 0 && strlen(host) > 7 ? host + 5 : host;
}

static void check_vfio(struct config_reader *r, const struct toml_value *t, const struct vm_config *c,
		       const struct device_config *d)
{
	static const char *const names[] = { "host", "mdev", "sysfsdev", "cdev" };
	const char *first = NULL;
	for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
		const struct toml_value *v = toml_get(t, names[i]);
		if (v && first)
			config_complain_key(r, v, "\"%s\" and \"%s\" exclude each other", first, names[i]);
		first = first ? first : v ? names[i] : NULL;
	}
	if (!first)
		config_complain(r, t->line, t->column,
				"key \"host\", \"mdev\", \"sysfsdev\" or \"cdev\" is missing");
	for (const struct device_config *o = c->devices; d->host && o < d; o++)
		if (o->host && strcmp(without_domain(o->host), without_domain(d->host)) == 0)
			config_complain_value(r, toml_get(t, "host"), "host is the device in line %u already",
					      o->place.line);
}

static void check_among_others(struct config_reader *r, const struct toml_value *t, const struct vm_config *c,
			       const struct device_config *d)
{
	const struct device_config *same_id = NULL, *same_slot = NULL;
	for (const struct device_config *o = c->devices; o < d; o++) {
		if (!same_id && d->id && o->id && strcmp(d->id, o->id) == 0)
			same_id = o;
		if (!same_slot && d->slot >= 0 && d->slot == o->slot)
			same_slot = o;
	}
	if (same_id)
		config_complain_value(r, toml_get(t, "id"), "the id is taken by the device in line %u",
				      same_id->place.line);
	if (same_slot)
		config_complain_value(r, toml_get(t, "slot"), "slot %d is taken by the device in line %u",
				      d->slot, same_slot->place.line);
}

static bool may_be_descriptor(const struct config_key *k)
{
	return k->store == config_store_path || k->offset == offsetof(struct device_config, tap);
}

// A descriptor is one device's: a connection has one reader, and a lock on an image does not hold against who has the same file open.
static void check_descriptors(struct config_reader *r, const struct toml_value *t, const struct vm_config *c,
			      const struct device_config *d)
{
	for (const struct toml_value *v = t->children.first; v; v = v->next) {
		const struct config_key *k = config_key_find("device", &v->key);
		if (!k || !may_be_descriptor(k) || v->type != TOML_STRING ||
		    !fd_is_reference(v->string.bytes))
			continue;
		for (const struct device_config *o = c->devices; o < d; o++) {
			const void *at = (const char *)o + k->offset;
			const char *theirs = *(const char *const *)at;
			if (theirs && strcmp(theirs, v->string.bytes) == 0 && !(d->readonly && o->readonly))
				config_complain_value(r, v, "%s is of the device in line %u already",
						      config_value_quote(r, theirs), o->place.line);
		}
	}
}

void config_check_device(struct config_reader *r, const struct toml_value *t, const struct vm_config *c,
			 struct device_config *d)
{
	if (d->via == VIA_VHOST_USER || d->via == VIA_VFIO_USER)
		check_peer(r, t, d);
	else if (d->via == VIA_VHOST)
		check_vhost(r, t, d);
	else if (d->via == VIA_VFIO)
		check_vfio(r, t, c, d);
	else if (!toml_get(t, "via"))
		check_builtin(r, t, d);
	check_among_others(r, t, c, d);
	check_descriptors(r, t, c, d);
}
