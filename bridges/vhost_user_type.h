// SPDX-License-Identifier: BSD-2-Clause
// What has to be known of a virtio device type before its back-end can be asked: a table, without state.
//
// Used by the handshake (vhost_user_open.c), by the operations (vhost_user.c) and by probe.c.  A type
// without a row is served all the same: one queue unless somebody says more, and a configuration space whose
// length is found out by asking.
#ifndef MINIVMM_BRIDGES_VHOST_USER_TYPE_H
#define MINIVMM_BRIDGES_VHOST_USER_TYPE_H

#include <stdbool.h>
#include <stdint.h>

struct vu_type {
	uint16_t virtio_type; // virtio 1.2 §5
	const char *name;
	uint8_t queues;	     // when nobody says
	bool needs_config;   // useless without PF_CONFIG
	bool config_unknown; // no specification says how long its configuration space is
	bool fixed_queues;   // their meaning depends on their number: all of them, or none
	bool keeps_order; // gives requests back in the order of their making, and one done twice does no harm
	// Where the configuration space counts something that has queues of its own, or bit 0: nowhere.
	uint8_t queues_bit;   // the feature with which it does, or VU_ALWAYS
	uint8_t queues_off;   // where
	uint8_t queues_width; // 2 or 4 bytes
	uint8_t queues_base;  // queues beside those counted
	uint8_t queues_each;  // queues for each
};

#define VU_ALWAYS     64
#define VU_QUEUES_MAX 64 // more is cut down to this

// The row of a type, or NULL.
const struct vu_type *vu_type_of(uint16_t virtio_type);

// Whether the length of the configuration space has to be found out; `t` may be NULL.
static inline bool vu_type_config_unknown(const struct vu_type *t)
{
	return !t || t->config_unknown;
}

// Up to where the configuration space of a known type reaches with these features, at most 256.
uint16_t vu_type_config_len(uint16_t virtio_type, uint64_t features);

// For a back-end that shows no configuration space: what its features are without those that say something there.
uint64_t vu_type_without_config(uint16_t virtio_type, uint64_t features);

// How many queues the device has of its own: by what its configuration space counts, else by its type.
// `wanted`: by the configuration file, 0 for nothing.  *most is what the back-end says that it has (UINT64_MAX:
// it says nothing) and may become less; from *features go those that need a queue that is not there.
uint64_t vu_type_queues(uint16_t virtio_type, uint16_t wanted, uint64_t *features, const uint8_t *config,
			uint32_t config_len, uint64_t *most);
// Makes the configuration space say `queues`, which is what the driver gets.  `t` may be NULL.
void vu_type_queues_show(const struct vu_type *t, uint16_t queues, uint8_t *config, uint32_t config_len);

// The name of a feature bit: of the type for bits 0 to 23 and 50 up, else of the transport.  NULL: unknown.
const char *vu_type_feature_name(uint16_t virtio_type, unsigned bit);

#endif
