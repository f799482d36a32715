// SPDX-License-Identifier: BSD-2-Clause
#include "devices/sdk/scatter.h"
#include "devices/switch/switch.h"
#include "vmm/base/check.h"

#define FLOOD_BURST_NS (NS_PER_S / 10) // what a port may do at once of what it may do in a second

// Not for others than the next bridge (IEEE 802.1Q, 8.6.3).
static bool is_link_local(uint64_t mac)
{
	return mac >> 4 == UINT64_C(0x0180c200000);
}

// May the port send one more frame to all others?
static bool flood_allowed(struct vswitch *sw, struct port *p)
{
	if (sw->flood == 0)
		return true;
	if (p->flood_at > sw->now + FLOOD_BURST_NS)
		return false;
	p->flood_at = MAX(p->flood_at, sw->now) + NS_PER_S / (int64_t)sw->flood;
	return true;
}

static void deliver(struct vswitch *sw, struct frame *f, unsigned port)
{
	if (port == SWITCH_UPLINK)
		uplink_deliver(sw, f);
	else if (sw->port[port])
		port_deliver(sw->port[port], f);
}

static uint32_t flood(struct vswitch *sw, struct frame *f)
{
	uint32_t work = 0;
	for (unsigned i = 0; i < sw->ports_used; i++) {
		if (i == f->from || !sw->port[i])
			continue;
		port_deliver(sw->port[i], f);
		work += f->len + SWITCH_COPY;
	}
	if (f->from != SWITCH_UPLINK)
		uplink_deliver(sw, f);
	return work + SWITCH_COPY;
}

static uint32_t forward_where(struct vswitch *sw, struct frame *f)
{
	struct port *from = f->from == SWITCH_UPLINK ? NULL : sw->port[f->from];
	struct switch_counts *counts = from ? &from->counts : &sw->uplink.counts;
	uint32_t second = (uint32_t)(sw->now / NS_PER_S);
	uint8_t addresses[12]; // read once; what a sender changes later is the receivers' to see, not ours
	scatter_read(f->iov, f->count, 0, addresses, sizeof(addresses));
	uint64_t to = mac_number(addresses), by = mac_number(addresses + 6);
	if (mac_is_group(by) || by == 0 || is_link_local(to)) {
		counts->wrong++;
		return SWITCH_COPY;
	}
	counts->sent++;
	// A frame in another's name goes where it should: only answers do not come here.
	if (!mac_table_learn(&sw->table, by, f->from, second))
		counts->not_learned++;
	int port = mac_is_group(to) ? -1 : mac_table_find(&sw->table, to, second);
	if (port >= 0) {
		if ((unsigned)port != f->from)
			deliver(sw, f, (unsigned)port);
		return f->len + SWITCH_COPY;
	}
	if (from && !flood_allowed(sw, from)) {
		counts->withheld++;
		return SWITCH_COPY;
	}
	counts->flooded++;
	return flood(sw, f);
}

uint32_t forward(struct vswitch *sw, struct frame *f)
{
	const uint32_t before = sw->looks;
	const uint32_t work = forward_where(sw, f);
	return work + (sw->looks - before) * SWITCH_LOOK;
}
