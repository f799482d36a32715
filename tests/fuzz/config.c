// SPDX-License-Identifier: BSD-2-Clause
// Any bytes as a configuration file, and behind a line "%%" as texts of --set: accepted means that what the
// monitor relies on holds; refused means that something was said and nothing is left.
#include "vmm/config.h"
#include "vmm/base/check.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SETS_MAX 8

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool good)
{
	if (!good)
		abort();
}

static void check_device(const struct vm_config *c, const struct device_config *d)
{
	must(d->id && strlen(d->id) >= 1 && strlen(d->id) <= CONFIG_ID_MAX);
	must(d->virtio_type >= 1 && d->virtio_type <= 63 && d->virtio_name);
	must(d->slot == -1 || (d->slot >= 1 && d->slot <= 31));
	must(d->queue_size == 0 || is_power_of_two(d->queue_size));
	if (d->via == VIA_BUILTIN)
		must(d->image && d->image[0] && !d->socket && !d->exec &&
		     (!d->serial || strlen(d->serial) <= 20));
	else
		must(d->via == VIA_VHOST_USER && !d->image && !d->socket == (d->exec != NULL));
	if (d->exec)
		must(d->exec[0] && d->exec[0][0] && d->sandbox && d->sandbox[0]);
	for (const struct device_config *o = c->devices; o < d; o++)
		must(strcmp(o->id, d->id) != 0 && (d->slot < 0 || o->slot != d->slot));
}

static void check_machine(const struct vm_config *c)
{
	must(c->name && c->name[0] && c->cpus >= 1 && c->cpus <= 4096);
	must(c->memory > 0 && c->memory <= UINT64_C(64) << 40 &&
	     c->memory % memmap_page_size(c->backing) == 0);
	must(c->kernel && c->kernel[0] && c->cmdline && c->serial_to &&
	     c->device_count <= CONFIG_DEVICES_MAX);
	for (unsigned i = 0; i < c->device_count; i++)
		check_device(c, &c->devices[i]);
}

// Cuts the text into lines; returns their number.
static unsigned split_lines(char *text, const char **lines)
{
	unsigned count = 0;
	while (text && *text && count < SETS_MAX) {
		lines[count++] = text;
		text = strchr(text, '\n');
		if (text)
			*text++ = '\0';
	}
	return count;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char mark[] = "\n%%\n";
	const uint8_t *split = size ? memmem(data, size, mark, strlen(mark)) : NULL;
	size_t text_len = split ? (size_t)(split - data) + 1 : size;
	char *sets_text = split ? strndup((const char *)split + strlen(mark), size - text_len - 3) : NULL;
	const char *sets[SETS_MAX];
	unsigned set_count = split_lines(sets_text, sets);

	int fd = memfd_create("config", MFD_CLOEXEC);
	must(fd >= 0 && write(fd, data, text_len) == (ssize_t)text_len && lseek(fd, 0, SEEK_SET) == 0);
	char path[32], *printed = NULL;
	size_t printed_len;
	snprintf(path, sizeof(path), "fd:%d", fd);
	FILE *errors = open_memstream(&printed, &printed_len);
	must(errors != NULL);
	struct vm_config c;
	int r = config_read(&c, path, sets, set_count, errors);
	fclose(errors);
	if (r == 0)
		check_machine(&c);
	else
		must(!c.storage && !c.devices);
	must((r != 0) == (printed_len != 0));
	config_free(&c);
	free(printed);
	free(sets_text);
	close(fd);
	return 0;
}
