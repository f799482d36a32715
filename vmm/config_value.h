// SPDX-License-Identifier: BSD-2-Clause
// How a value of the configuration becomes a field: one function a kind, each of the form of struct config_key's store().
// config_key.c's table names them.  And what several of them say together, for config.c.  Nobody else includes this.
#ifndef MINIVMM_VMM_CONFIG_VALUE_H
#define MINIVMM_VMM_CONFIG_VALUE_H

#include "vmm/base/suggest.h"
#include "vmm/config_key.h"

#define CONFIG_MEMORY_MAX (UINT64_C(64) << 40) // bytes
#define CONFIG_CPUS_MAX	  4096		       // more than KVM allows anywhere

// One value (config_value.c), arrays and tables (config_value_list.c).
void config_store_text(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
		       void *field);
void config_store_printable(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
			    void *field);
void config_store_mac(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
		      void *field);
void config_store_cpus(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
		       void *field);
void config_store_id(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
		     void *field);
void config_store_path(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
		       void *field);
void config_store_serial_to(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
			    void *field);
void config_store_uint(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
		       void *field);
void config_store_queue_size(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
			     void *field);
void config_store_block_size(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
			     void *field);
void config_store_size(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
		       void *field);
void config_store_bool(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
		       void *field);
void config_store_choice(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
			 void *field);
void config_store_via(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
		      void *field);
void config_store_virtio(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
			 void *field);
void config_store_reconnect(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
			    void *field);
void config_store_pci_address(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
			      void *field);
void config_store_uuid(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
		       void *field);
void config_store_exec(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
		       void *field);
void config_store_sandbox(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
			  void *field);
void config_store_paths(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
			void *field);
void config_store_limits(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
			 void *field);
void config_store_ports(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
			void *field);

// ---- config_device.c ---------------------------------------------------------------------------------------------

// What the keys of a device, all of them read, say about each other and about the devices before it.
void config_check_device(struct config_reader *r, const struct toml_value *t, const struct vm_config *c,
			 struct device_config *d);

// ---- for these functions ------------------------------------------------------------------------------------------

// In quotes for a message.
const char *config_value_quote(struct config_reader *r, const char *s);
// " (did you mean ...?)", or "".
const char *config_did_you_mean(struct config_reader *r, const struct suggest *s);
// True if it is of that type; else a complaint.
bool config_value_is(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
		     enum toml_type due);
// The text of a value that is a string; else NULL, and a complaint about its type or a NUL inside.
const char *config_value_text(struct config_reader *r, const struct config_key *k,
			      const struct toml_value *v);
// A path as the configuration means it: relative to the folder of the file that the value stands in.
const char *config_resolve(struct config_reader *r, const struct toml_value *v, const char *path);

#endif
