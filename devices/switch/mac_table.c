// SPDX-License-Identifier: BSD-2-Clause
#include "devices/switch/mac_table.h"

#include <stddef.h>

_Static_assert(MAC_ENTRIES >= MAC_PORTS_MAX * MAC_PER_PORT, "each port has its share");

static uint16_t *bucket_of(struct mac_table *t, uint64_t mac)
{
	uint64_t h = (mac ^ t->key) * UINT64_C(0x9e3779b97f4a7c15);
	h ^= h >> 29;
	h = (h + t->key) * UINT64_C(0xd6e8feb86659fd93);
	return &t->bucket[h >> 52 & (MAC_BUCKETS - 1)];
}

static struct mac_entry *find(struct mac_table *t, uint64_t mac)
{
	for (uint16_t i = *bucket_of(t, mac); i; i = t->entry[i - 1].next)
		if (t->entry[i - 1].mac == mac)
			return &t->entry[i - 1];
	return NULL;
}

static bool too_old(const struct mac_entry *e, uint32_t now)
{
	return !e->pinned && now - e->seen > MAC_AGE_S;
}

static void drop(struct mac_table *t, struct mac_entry *e)
{
	uint16_t number = (uint16_t)(e - t->entry + 1), *link = bucket_of(t, e->mac);
	while (*link != number)
		link = &t->entry[*link - 1].next;
	*link = e->next;
	t->count[e->port]--;
	*e = (struct mac_entry){ .next = t->free };
	t->free = number;
}

// NULL: the port has as many as it may.
static struct mac_entry *add(struct mac_table *t, uint64_t mac, unsigned port)
{
	if (t->count[port] == MAC_PER_PORT)
		return NULL;
	uint16_t number = t->free;
	if (number)
		t->free = t->entry[number - 1].next;
	else
		number = (uint16_t)(++t->made);
	uint16_t *bucket = bucket_of(t, mac);
	struct mac_entry *e = &t->entry[number - 1];
	*e = (struct mac_entry){ .mac = mac, .port = (uint8_t)port, .next = *bucket, .used = true };
	*bucket = number;
	t->count[port]++;
	return e;
}

// Makes room among a port's addresses; looks for it once a second at most.
static void sweep(struct mac_table *t, unsigned port, uint32_t now)
{
	if (t->swept[port] == now)
		return;
	t->swept[port] = now;
	for (unsigned i = 0; i < t->made; i++)
		if (t->entry[i].used && t->entry[i].port == port && too_old(&t->entry[i], now))
			drop(t, &t->entry[i]);
}

int mac_table_find(struct mac_table *t, uint64_t mac, uint32_t now)
{
	struct mac_entry *e = find(t, mac);
	if (!e)
		return -1;
	if (too_old(e, now)) {
		drop(t, e);
		return -1;
	}
	return e->port;
}

bool mac_table_learn(struct mac_table *t, uint64_t mac, unsigned port, uint32_t now)
{
	struct mac_entry *e = find(t, mac);
	if (e && e->port != port) {
		if (e->pinned || now - e->seen <= MAC_HOLD_S)
			return false;
		drop(t, e);
		e = NULL;
	}
	if (!e) {
		if (t->count[port] == MAC_PER_PORT)
			sweep(t, port, now);
		e = add(t, mac, port);
	}
	if (e)
		e->seen = now;
	return true;
}

void mac_table_pin(struct mac_table *t, uint64_t mac, unsigned port)
{
	struct mac_entry *e = find(t, mac);
	if (e)
		drop(t, e);
	e = add(t, mac, port);
	if (e)
		e->pinned = true;
}

void mac_table_forget(struct mac_table *t, unsigned port)
{
	for (unsigned i = 0; i < t->made && t->count[port]; i++)
		if (t->entry[i].used && t->entry[i].port == port)
			drop(t, &t->entry[i]);
	t->swept[port] = 0;
}
