// SPDX-License-Identifier: BSD-2-Clause
#include "firmware/aml.h"

#include "firmware/le.h"

#include <string.h>

#define NAME_OP	      0x08
#define BYTE_PREFIX   0x0a
#define WORD_PREFIX   0x0b
#define DWORD_PREFIX  0x0c
#define STRING_PREFIX 0x0d
#define QWORD_PREFIX  0x0e
#define SCOPE_OP      0x10
#define BUFFER_OP     0x11
#define PACKAGE_OP    0x12
#define METHOD_OP     0x14
#define EXT_PREFIX    0x5b
#define EXT_REGION    0x80
#define EXT_FIELD     0x81
#define EXT_DEVICE    0x82
#define IF_OP	      0xa0
#define ZERO_OP	      0x00
#define ONE_OP	      0x01
#define ROOT_CHAR     '\\'
#define MULTI_NAME    0x2f

#define REGION_SYSTEM_IO    1
#define FIELD_BYTE_ZEROS    0x41 // byte access, no lock, WriteAsZeros
#define FIELD_DWORD_ZEROS   0x43
#define METHOD_SERIALIZED   0x08
#define RESOURCE_END_TAG    0x79
#define RESOURCE_FIXED	    0x0c // minimum and maximum fixed, positive decoding, producer
#define RESOURCE_READ_WRITE 0x01

static void put(struct aml *a, uint64_t v, unsigned size)
{
	if (a->room - a->len < size) {
		a->failed = true;
		return;
	}
	le_put(a->buf + a->len, size, v);
	a->len += size;
}

static void put_bytes(struct aml *a, const void *p, size_t len)
{
	if (a->room - a->len < len) {
		a->failed = true;
		return;
	}
	memcpy(a->buf + a->len, p, len);
	a->len += len;
}

// Puts bytes in front of what was written since `at`.
static void insert(struct aml *a, size_t at, const uint8_t *p, size_t len)
{
	if (a->room - a->len < len) {
		a->failed = true;
		return;
	}
	memmove(a->buf + at + len, a->buf + at, a->len - at);
	memcpy(a->buf + at, p, len);
	a->len += len;
}

void aml_init(struct aml *a, void *buf, size_t room)
{
	*a = (struct aml){ .buf = buf, .room = room };
}

bool aml_failed(const struct aml *a)
{
	return a->failed || a->depth > 0;
}

static void begin(struct aml *a, bool resources)
{
	if (a->depth == AML_DEPTH_MAX) {
		a->failed = true;
		return;
	}
	a->open[a->depth++] = (struct aml_open){ .at = a->len, .resources = resources };
}

// An integer's shortest spelling.  Returns its length, 1 to 9.
static unsigned int_spell(uint8_t *out, uint64_t v)
{
	static const struct {
		uint64_t max;
		uint8_t prefix, size;
	} form[] = { { UINT8_MAX, BYTE_PREFIX, 1 },
		     { UINT16_MAX, WORD_PREFIX, 2 },
		     { UINT32_MAX, DWORD_PREFIX, 4 },
		     { UINT64_MAX, QWORD_PREFIX, 8 } };
	if (v <= 1) {
		out[0] = v ? ONE_OP : ZERO_OP;
		return 1;
	}
	unsigned i = 0;
	while (v > form[i].max)
		i++;
	out[0] = form[i].prefix;
	le_put(out + 1, form[i].size, v);
	return 1u + form[i].size;
}

// PkgLength (§20.2.4) counts itself: one byte up to 63, else a nibble and one to three more bytes.
static void length_insert(struct aml *a, size_t at)
{
	uint8_t out[4] = { 0 };
	size_t content = a->len - at, n = 1;
	if (content + 1 <= 0x3f) {
		out[0] = (uint8_t)(content + 1);
	} else {
		for (n = 2; n < 4 && content + n >= (size_t)1 << (4 + 8 * (n - 1)); n++)
			;
		size_t len = content + n;
		if (len >= (size_t)1 << 28) {
			a->failed = true;
			return;
		}
		out[0] = (uint8_t)((n - 1) << 6 | (len & 0xf));
		le_put(out + 1, (unsigned)n - 1, len >> 4);
	}
	insert(a, at, out, n);
}

void aml_end(struct aml *a)
{
	if (a->depth == 0) {
		a->failed = true;
		return;
	}
	struct aml_open o = a->open[--a->depth];
	if (o.resources) {
		uint8_t size[9] = { 0 };
		put(a, RESOURCE_END_TAG, 2); // checksum 0: not to be checked
		insert(a, o.at, size, int_spell(size, a->len - o.at));
	}
	length_insert(a, o.at);
}

void aml_scope_begin(struct aml *a, const char *name)
{
	put(a, SCOPE_OP, 1);
	begin(a, false);
	put(a, ROOT_CHAR, 1);
	aml_ref(a, name);
}

void aml_device_begin(struct aml *a, const char *name)
{
	put(a, EXT_PREFIX | EXT_DEVICE << 8, 2);
	begin(a, false);
	aml_ref(a, name);
}

void aml_method_begin(struct aml *a, const char *name, unsigned arg_count)
{
	put(a, METHOD_OP, 1);
	begin(a, false);
	aml_ref(a, name);
	put(a, METHOD_SERIALIZED | (arg_count & 7), 1);
}

void aml_name(struct aml *a, const char *name)
{
	put(a, NAME_OP, 1);
	aml_ref(a, name);
}

void aml_io_region(struct aml *a, const char *name, uint16_t port, uint8_t length)
{
	put(a, EXT_PREFIX | EXT_REGION << 8, 2);
	aml_ref(a, name);
	put(a, REGION_SYSTEM_IO, 1);
	aml_int(a, port);
	aml_int(a, length);
}

static void field_begin(struct aml *a, const char *region, uint8_t flags)
{
	put(a, EXT_PREFIX | EXT_FIELD << 8, 2);
	begin(a, false);
	aml_ref(a, region);
	put(a, flags, 1);
}

void aml_field_begin(struct aml *a, const char *region)
{
	field_begin(a, region, FIELD_BYTE_ZEROS);
}

void aml_dword_field_begin(struct aml *a, const char *region)
{
	field_begin(a, region, FIELD_DWORD_ZEROS);
}

void aml_field_bits(struct aml *a, const char *name, uint8_t bits)
{
	aml_ref(a, name);
	put(a, bits & 0x3f, 1);
}

void aml_int(struct aml *a, uint64_t v)
{
	uint8_t out[9] = { 0 };
	put_bytes(a, out, int_spell(out, v));
}

void aml_string(struct aml *a, const char *s)
{
	put(a, STRING_PREFIX, 1);
	put_bytes(a, s, strlen(s) + 1);
}

static unsigned hex_digit(char c)
{
	return (unsigned)(c <= '9' ? c - '0' : c - 'A' + 10);
}

// Three letters of five bits and four hex digits, most significant byte first (§19.3.4).
void aml_eisa_id(struct aml *a, const char *id)
{
	uint32_t v = 0;
	for (unsigned i = 0; i < 3; i++)
		v = v << 5 | ((unsigned)(id[i] - '@') & 0x1f);
	for (unsigned i = 3; i < 7; i++)
		v = v << 4 | (hex_digit(id[i]) & 0xf);
	aml_int(a, __builtin_bswap32(v));
}

void aml_bytes(struct aml *a, const void *p, uint8_t len)
{
	put(a, BUFFER_OP, 1);
	begin(a, false);
	aml_int(a, len);
	put_bytes(a, p, len);
	aml_end(a);
}

void aml_package_begin(struct aml *a, uint8_t count)
{
	put(a, PACKAGE_OP, 1);
	begin(a, false);
	put(a, count, 1);
}

void aml_op(struct aml *a, enum aml_op op)
{
	put(a, op, 1);
}

void aml_ref(struct aml *a, const char *name)
{
	put_bytes(a, name, 4);
}

void aml_path(struct aml *a, const char *names)
{
	const size_t len = strlen(names);
	put(a, ROOT_CHAR, 1);
	put(a, MULTI_NAME, 1);
	put(a, len / 4, 1);
	put_bytes(a, names, len);
}

void aml_if_begin(struct aml *a)
{
	put(a, IF_OP, 1);
	begin(a, false);
}

void aml_resources_begin(struct aml *a)
{
	put(a, BUFFER_OP, 1);
	begin(a, true);
}

void aml_io(struct aml *a, uint16_t port, uint8_t count)
{
	put(a, 0x47, 1);
	put(a, 1, 1); // decodes 16 bits
	put(a, port, 2);
	put(a, port, 2);
	put(a, 1, 1);
	put(a, count, 1);
}

void aml_interrupt(struct aml *a, uint32_t gsi)
{
	put(a, 0x89, 1);
	put(a, 6, 2);
	put(a, 0x03, 1); // consumer, edge
	put(a, 1, 1);
	put(a, gsi, 4);
}

void aml_memory32(struct aml *a, uint32_t gpa, uint32_t size)
{
	put(a, 0x86, 1);
	put(a, 9, 2);
	put(a, RESOURCE_READ_WRITE, 1);
	put(a, gpa, 4);
	put(a, size, 4);
}

// Word, DWord and QWord address space descriptors differ in the width of their five numbers only.
static void address_space(struct aml *a, unsigned width, uint8_t type, uint8_t type_flags, uint64_t first,
			  uint64_t last)
{
	put(a, width == 2 ? 0x88 : width == 4 ? 0x87 : 0x8a, 1);
	put(a, 3 + 5 * width, 2);
	put(a, type, 1);
	put(a, RESOURCE_FIXED, 1);
	put(a, type_flags, 1);
	put(a, 0, width); // granularity
	put(a, first, width);
	put(a, last, width);
	put(a, 0, width); // translation
	put(a, last - first + 1, width);
}

void aml_bus_range(struct aml *a, uint8_t first, uint8_t last)
{
	address_space(a, 2, 2, 0, first, last);
}

void aml_io_range(struct aml *a, uint16_t first, uint16_t last)
{
	address_space(a, 2, 1, 3, first, last); // the entire range, not only ISA aliases
}

// Not marked prefetchable: Linux puts no non-prefetchable BAR into a window that is.
void aml_memory32_range(struct aml *a, uint32_t gpa, uint32_t size)
{
	address_space(a, 4, 0, RESOURCE_READ_WRITE, gpa, gpa + (uint64_t)size - 1);
}

void aml_memory64_range(struct aml *a, uint64_t gpa, uint64_t size)
{
	address_space(a, 8, 0, RESOURCE_READ_WRITE, gpa, gpa + (size - 1));
}
