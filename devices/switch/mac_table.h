// SPDX-License-Identifier: BSD-2-Clause
// Which address was last seen on which port of a switch.
//
// Fixed in size: each port has so many addresses and no more, so that one that makes addresses up neither pushes others' out
// nor makes the table grow; addresses beyond are just not learned.  An address that the switch itself gave to a port is pinned there;
// one that was learned moves to another port when its owner has not used it for a while.  Seconds are the caller's clock.
#ifndef MINIVMM_SWITCH_MAC_TABLE_H
#define MINIVMM_SWITCH_MAC_TABLE_H

#include <stdbool.h>
#include <stdint.h>

#define MAC_PORTS_MAX 64
#define MAC_PER_PORT  64   // addresses of a port
#define MAC_ENTRIES   4096 // MAC_PORTS_MAX * MAC_PER_PORT
#define MAC_BUCKETS   4096
#define MAC_AGE_S     300 // without a frame an address is forgotten,
#define MAC_HOLD_S    5	  // and after this long without one another port can have it

struct mac_entry {
	uint64_t mac;  // as mac_number() makes it
	uint32_t seen; // second
	uint16_t next; // in its bucket or among the free ones: index + 1, 0: none
	uint8_t port;
	bool used, pinned;
};

struct mac_table {
	uint64_t key; // secret: nobody can choose addresses of one bucket
	unsigned made;
	uint16_t free;
	uint16_t count[MAC_PORTS_MAX];
	uint32_t swept[MAC_PORTS_MAX]; // when its old addresses were last looked for
	uint16_t bucket[MAC_BUCKETS];
	struct mac_entry entry[MAC_ENTRIES];
};

// The table is zeros to begin with, but for `key`.

static inline uint64_t mac_number(const uint8_t mac[6])
{
	uint64_t n = 0;
	for (unsigned i = 0; i < 6; i++)
		n = n << 8 | mac[i];
	return n;
}

static inline bool mac_is_group(uint64_t mac)
{
	return mac >> 40 & 1;
}

// The port, or -1.
int mac_table_find(struct mac_table *t, uint64_t mac, uint32_t now);

// A frame from `mac` came in at `port`.  False: it is another port's, which nobody else may speak for.
bool mac_table_learn(struct mac_table *t, uint64_t mac, unsigned port, uint32_t now);

// The address is this port's for good.
void mac_table_pin(struct mac_table *t, uint64_t mac, unsigned port);

// The port is gone, and all that it had.
void mac_table_forget(struct mac_table *t, unsigned port);

#endif
