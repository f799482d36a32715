// SPDX-License-Identifier: BSD-2-Clause
// The keys of a table: an AA tree (Andersson 1993) threaded through the values, so that no order of keys is slow.  toml.c's own.
#ifndef MINIVMM_BASE_TOML_INDEX_H
#define MINIVMM_BASE_TOML_INDEX_H

#include "vmm/base/toml.h"

// The value of that key, or NULL.
struct toml_value *toml_index_find(struct toml_value *root, const struct toml_text *key);
// Adds a value whose key is not there; returns the new root.
struct toml_value *toml_index_insert(struct toml_value *root, struct toml_value *v);

#endif
