// SPDX-License-Identifier: BSD-2-Clause
#include "firmware/e820.h"

#include "firmware/layout_x86.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

static int e820_add(struct e820_map *m, uint64_t gpa, uint64_t size, uint32_t type, struct err *e)
{
	if (size == 0)
		return 0;
	if (!range_in(gpa, size, UINT64_MAX) || m->count == E820_MAX)
		return err_set(e, EINVAL, "memory map: no place for %#" PRIx64 " bytes at %#" PRIx64, size,
			       gpa);
	unsigned at = m->count;
	for (unsigned i = 0; i < m->count; i++) {
		if (range_overlaps(m->entry[i].gpa, m->entry[i].size, gpa, size))
			return err_set(e, EINVAL,
				       "memory map: %#" PRIx64 " bytes at %#" PRIx64
				       " overlap those at %#" PRIx64,
				       size, gpa, m->entry[i].gpa);
		if (at == m->count && gpa < m->entry[i].gpa)
			at = i;
	}
	memmove(&m->entry[at + 1], &m->entry[at], (m->count - at) * sizeof(m->entry[0]));
	m->entry[at] = (struct e820_entry){ .gpa = gpa, .size = size, .type = type };
	m->count++;
	return 0;
}

int e820_build(struct e820_map *m, const struct guest_ram *ram, const struct boot_range *reserved,
	       unsigned reserved_count, struct err *e)
{
	m->count = 0;
	int rc = e820_add(m, 0, LAYOUT_LOW_END, E820_RAM, e);
	if (!rc)
		rc = e820_add(m, LAYOUT_LOW_END, LAYOUT_HIGH - LAYOUT_LOW_END, E820_RESERVED, e);
	if (!rc)
		rc = e820_add(m, LAYOUT_HIGH, ram->low_size - LAYOUT_HIGH, E820_RAM, e);
	if (!rc)
		rc = e820_add(m, ram->high_gpa, ram->high_size, E820_RAM, e);
	for (unsigned i = 0; !rc && i < reserved_count; i++)
		rc = e820_add(m, reserved[i].gpa, reserved[i].size, E820_RESERVED, e);
	return rc;
}
