// SPDX-License-Identifier: BSD-2-Clause
// Writes ACPI Machine Language (ACPI 6.4 §20) into a buffer of fixed size.
//
// Whatever does not fit is dropped and remembered: check aml_failed() once, at the end.  Things that nest
// (scopes, devices, methods, packages, fields, resource lists, conditions) are opened by an aml_*_begin() and
// closed by aml_end(), which puts the length in front.  Names are four characters, padded with "_" by the
// caller.
#ifndef MINIVMM_FIRMWARE_AML_H
#define MINIVMM_FIRMWARE_AML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AML_DEPTH_MAX 12

struct aml {
	uint8_t *buf;
	size_t room, len;
	bool failed;
	unsigned depth;
	struct aml_open {
		size_t at;	// where the length goes
		bool resources; // a buffer whose size goes behind the length
	} open[AML_DEPTH_MAX];
};

void aml_init(struct aml *a, void *buf, size_t room);

// True if the buffer or AML_DEPTH_MAX was too small, or begins and ends do not match.
bool aml_failed(const struct aml *a);

// Closes what was opened last.
void aml_end(struct aml *a);

// ---- named objects ----
void aml_scope_begin(struct aml *a, const char *name); // below the root: "_SB_" is \_SB_
void aml_device_begin(struct aml *a, const char *name);
void aml_method_begin(struct aml *a, const char *name, unsigned arg_count); // serialized
void aml_name(struct aml *a, const char *name); // Name (name, ...): a value has to follow
void aml_io_region(struct aml *a, const char *name, uint16_t port,
		   uint8_t length);			 // OperationRegion in I/O space
void aml_field_begin(struct aml *a, const char *region); // byte accesses, no lock, rest written as zeros
void aml_dword_field_begin(struct aml *a, const char *region);	    // the same in accesses of 32 bits
void aml_field_bits(struct aml *a, const char *name, uint8_t bits); // < 64

// ---- values ----
void aml_int(struct aml *a, uint64_t v);
void aml_string(struct aml *a, const char *s);
void aml_eisa_id(struct aml *a, const char *id);	   // "PNP0A08"
void aml_bytes(struct aml *a, const void *p, uint8_t len); // Buffer
void aml_package_begin(struct aml *a, uint8_t count);

// ---- statements and terms; operands follow in the order of the specification, the target last ----
enum aml_op {
	AML_STORE = 0x70,
	AML_AND = 0x7b,
	AML_OR = 0x7d,
	AML_LEQUAL = 0x93,
	AML_NOTIFY = 0x86,
	AML_CREATE_DWORD_FIELD = 0x8a,
	AML_RETURN = 0xa4,
	AML_LOCAL0 = 0x60,
	AML_ARG0 = 0x68,
	AML_ARG1 = 0x69,
	AML_ARG3 = 0x6b,
	AML_LNOT = 0x92,
	AML_NO_TARGET = 0x00, // a result that goes nowhere but into the expression
};
void aml_op(struct aml *a, enum aml_op op);
void aml_ref(struct aml *a, const char *name);
void aml_path(struct aml *a, const char *names); // from the root, more than two: "_SB_PCI0_OSC"
void aml_if_begin(struct aml *a);		 // the predicate follows, then the statements

// ---- resource templates (ACPI 6.4 §6.4) ----
void aml_resources_begin(struct aml *a); // as a value; aml_end() writes the end tag
void aml_io(struct aml *a, uint16_t port, uint8_t count);
void aml_interrupt(struct aml *a, uint32_t gsi); // edge, active high, exclusive
void aml_memory32(struct aml *a, uint32_t gpa, uint32_t size);
void aml_bus_range(struct aml *a, uint8_t first, uint8_t last);
void aml_io_range(struct aml *a, uint16_t first, uint16_t last);
void aml_memory32_range(struct aml *a, uint32_t gpa, uint32_t size); // size > 0
void aml_memory64_range(struct aml *a, uint64_t gpa, uint64_t size);

#endif
