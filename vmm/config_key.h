// SPDX-License-Identifier: BSD-2-Clause
// The keys of the configuration, one row each.  config.c's own; nobody else includes this.
#ifndef MINIVMM_VMM_CONFIG_KEY_H
#define MINIVMM_VMM_CONFIG_KEY_H

#include "vmm/config.h"
#include "vmm/config_reader.h"

struct config_key {
	const char *table;
	const char *name;
	// Checks the value and stores it at `field`, or complains.
	void (*store)(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
		      void *field);
	uint16_t offset, width; // of the field in struct vm_config or struct device_config
	uint16_t vias;		// [device]: bit per enum device_via that the key goes with
	uint16_t needed_by; // [device]: those that cannot do without it; elsewhere: not 0 if it must be there
	uint16_t virtio;    // goes with this device type only; 0: with any
	uint16_t any_type;  // the vias with which `virtio` above means nothing
	uint64_t min, max;  // of a number; of a text's length
	const char *const *words; // choices, NULL-terminated; the index is stored
};

extern const struct config_key config_keys[];
extern const unsigned config_key_count;
extern const char *const config_via_names[]; // by enum device_via; "" for VIA_BUILTIN; NULL-terminated

const struct config_key *config_key_find(const char *table, const struct toml_text *name);

// True if the text is fit for an id.
bool config_is_id(const char *s);

#endif
