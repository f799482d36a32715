// SPDX-License-Identifier: BSD-2-Clause
#include "devices/vsock/virtio_vsock.h"

#include "vmm/base/fd.h"

#include <sys/mman.h>

static uint16_t index_of(const struct vsock_conn *c)
{
	return (uint16_t)(c - c->v->conn);
}

void vsock_list_add(struct vsock_conn *c, struct vsock_list *list, unsigned link)
{
	const uint16_t me = index_of(c);
	c->link[link].list = list;
	c->link[link].before = list->last;
	c->link[link].after = 0;
	*(list->last ? &c->v->conn[list->last].link[link].after : &list->first) = me;
	list->last = me;
}

void vsock_list_remove(struct vsock_conn *c, unsigned link)
{
	struct vsock_list *list = c->link[link].list;
	const uint16_t before = c->link[link].before, after = c->link[link].after;
	if (!list)
		return;
	*(before ? &c->v->conn[before].link[link].after : &list->first) = after;
	*(after ? &c->v->conn[after].link[link].before : &list->last) = before;
	c->link[link].list = NULL;
}

// ---- by ports ---------------------------------------------------------------------------------------------------

static uint16_t *bucket_of(struct vsock *v, uint32_t host_port, uint32_t guest_port)
{
	uint64_t key = (uint64_t)host_port << 32 | guest_port;
	return &v->bucket[key * v->secret >> (64 - VSOCK_BUCKETS_BITS)];
}

struct vsock_conn *vsock_conn_find(struct vsock *v, uint32_t host_port, uint32_t guest_port)
{
	for (uint16_t i = *bucket_of(v, host_port, guest_port); i; i = v->conn[i].same_hash)
		if (v->conn[i].host_port == host_port && v->conn[i].guest_port == guest_port)
			return &v->conn[i];
	return NULL;
}

void vsock_conn_key(struct vsock_conn *c, uint32_t host_port, uint32_t guest_port)
{
	uint16_t *bucket = bucket_of(c->v, host_port, guest_port);
	c->host_port = host_port;
	c->guest_port = guest_port;
	c->same_hash = *bucket;
	c->keyed = true;
	*bucket = index_of(c);
}

void vsock_conn_unkey(struct vsock_conn *c)
{
	if (!c->keyed)
		return;
	uint16_t *at = bucket_of(c->v, c->host_port, c->guest_port);
	while (*at != index_of(c))
		at = &c->v->conn[*at].same_hash;
	*at = c->same_hash;
	c->keyed = false;
}

// ---- by time ----------------------------------------------------------------------------------------------------

void vsock_conn_rest(struct vsock_conn *c)
{
	vsock_list_remove(c, LINK_TIME);
}

// All have the same patience, so the list stays in order.
void vsock_conn_hurry(struct vsock_conn *c)
{
	vsock_list_remove(c, LINK_TIME);
	c->deadline = deadline_in_ms(VSOCK_PATIENCE_MS);
	vsock_list_add(c, &c->v->timed, LINK_TIME);
	if (vsock_list_first(c->v, &c->v->timed) == c)
		vsock_host_arm(c->v);
}

// ---- coming and going -------------------------------------------------------------------------------------------

struct vsock_conn *vsock_conn_new(struct vsock *v, enum vsock_state state)
{
	struct vsock_conn *c = vsock_list_first(v, &v->unused);
	if (c)
		vsock_list_remove(c, LINK_WORK);
	else if (v->used_once < VSOCK_CONNS_MAX)
		c = &v->conn[++v->used_once];
	else
		return NULL;
	*c = (struct vsock_conn){ .v = v,
				  .host = { .fd = -1, .ready = vsock_conn_event },
				  .state = (uint8_t)state,
				  .generation = (uint16_t)(c->generation + 1) };
	v->count++;
	vsock_conn_hurry(c);
	return c;
}

void vsock_conn_free(struct vsock_conn *c)
{
	struct vsock *v = c->v;
	vsock_conn_unkey(c);
	loop_remove(&v->d->loop, &c->host);
	fd_close(&c->host.fd);
	if (c->held)
		munmap(c->held, VSOCK_BUF);
	c->held = NULL;
	vsock_list_remove(c, LINK_WORK);
	vsock_list_remove(c, LINK_TIME);
	c->state = VSOCK_FREE;
	vsock_list_add(c, &v->unused, LINK_WORK);
	v->count--;
	vsock_host_accept_again(v);
}
