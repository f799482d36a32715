// SPDX-License-Identifier: BSD-2-Clause
// The keys of the configuration, one row each, and how a value becomes a field.  config.c's own; nobody else
// includes this.
#ifndef MINIVMM_VMM_CONFIG_KEY_H
#define MINIVMM_VMM_CONFIG_KEY_H

#include "vmm/base/arena.h"
#include "vmm/base/toml.h"
#include "vmm/config.h"

struct config_reader {
	struct arena *arena;
	const char *file;      // for messages
	const char *directory; // that relative paths in the file start from, with a slash behind; "" for none
	const char *const *overrides; // texts of --set
	FILE *errors;
	unsigned error_count;
	bool no_memory;
	char object[64]; // whose keys are being read: "[vm]", "[device] \"disk0\""
};

struct config_key {
	const char *table;
	const char *name;
	// Checks the value and stores it at `field`, or complains.
	void (*store)(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
		      void *field);
	uint16_t offset, width; // of the field in struct vm_config or struct device_config
	uint16_t vias;		// [device]: bit per enum device_via that the key goes with
	uint16_t needed_by; // [device]: those that cannot do without; elsewhere: not 0 if it cannot be left
			    // out
	uint16_t virtio;    // goes with this device type only; 0: with any
	uint64_t min, max;  // of a number; of a text's length
	const char *const *words; // choices, NULL-terminated; the index is stored
};

extern const struct config_key config_keys[];
extern const unsigned config_key_count;
extern const char *const config_via_names[]; // by enum device_via; "" for VIA_BUILTIN; NULL-terminated

const struct config_key *config_key_find(const char *table, const struct toml_text *name);

// Prints one line: the place, r->object, the sentence.  Line 0 stands for --set, the column then for which.
__attribute__((format(printf, 4, 5))) void config_complain(struct config_reader *r, unsigned line,
							   unsigned column, const char *fmt, ...);
#define config_complain_value(r, v, ...) config_complain(r, (v)->line, (v)->column, __VA_ARGS__)
#define config_complain_key(r, v, ...)	 config_complain(r, (v)->key_line, (v)->key_column, __VA_ARGS__)

// Passes on what came out of the arena, and remembers if it is NULL.
void *config_kept(struct config_reader *r, void *p);

// A text in quotes, fit for a message: no control characters, not endless.
const char *config_quote(struct config_reader *r, const struct toml_text *t);

// True if the text is fit for an id.
bool config_is_id(const char *s);

// "disk0" for a value that is a string; else NULL, and a complaint about its type or a NUL inside.
const char *config_string(struct config_reader *r, const struct config_key *k, const struct toml_value *v);

#endif
