// SPDX-License-Identifier: BSD-2-Clause
// The JSON reader, with a peer's capabilities behind it: whatever the bytes, each path is a text of bounded length, containers come before
// what is in them, and a text that is taken once is taken again with its final NUL.
#include "vmm/base/json.h"
#include "bridges/vfio_user_wire.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *see(void *arg, const struct json_value *v)
{
	unsigned *count = arg, depth = 0;
	const size_t len = strnlen(v->path, JSON_PATH_MAX);
	for (size_t i = 0; i < len; i++)
		depth += v->path[i] == '.';
	if (len == JSON_PATH_MAX || depth > JSON_DEPTH_MAX || (*count == 0) != (len == 0))
		abort();
	if (v->natural && v->kind != JSON_NUMBER)
		abort();
	++*count;
	return NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	unsigned count = 0;
	struct vfio_user_caps caps;
	char *copy = malloc(size + 1); // of exactly that length first, so that a read too far is seen
	char *exact = malloc(size ? size : 1);
	if (!copy || !exact)
		abort();
	memcpy(exact, data, size);
	memcpy(copy, data, size);
	copy[size] = '\0';
	const char *wrong = json_read(exact, size, see, &count);
	if (!wrong && count == 0)
		abort();
	const char *caps_wrong = vfio_user_caps_read(&caps, exact, size);
	if (size && exact[size - 1] != '\0' && !caps_wrong != !vfio_user_caps_read(&caps, copy, size + 1))
		abort();
	if (!caps_wrong && (caps.max_data_xfer_size < 4096 || caps.max_dma_maps == 0 || caps.pgsizes == 0))
		abort();
	free(exact);
	free(copy);
	return 0;
}
