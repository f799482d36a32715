// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/config_reader.h"

#include "vmm/base/check.h"

#include <stdarg.h>
#include <string.h>

#define QUOTED_MAX 64  // bytes of a text in a message
#define ERRORS_MAX 100 // lines of one run

void config_complain(struct config_reader *r, unsigned line, unsigned column, const char *fmt, ...)
{
	if (r->error_count++ >= ERRORS_MAX)
		return;
	if (line)
		fprintf(r->errors, "%s:%u:%u: ", r->file, line, column);
	else
		fprintf(r->errors, "--set %s: ", r->overrides[column]);
	if (r->object[0])
		fprintf(r->errors, "%s: ", r->object);
	va_list ap;
	va_start(ap, fmt);
	vfprintf(r->errors, fmt, ap);
	va_end(ap);
	fputc('\n', r->errors);
	if (r->error_count == ERRORS_MAX)
		fprintf(r->errors, "%s: more errors are not shown\n", r->file);
}

void *config_kept(struct config_reader *r, void *p)
{
	r->no_memory |= p == NULL;
	return p;
}

const char *config_quote(struct config_reader *r, const struct toml_text *t)
{
	size_t len = MIN(t->len, QUOTED_MAX), n = 0;
	char *out = arena_alloc(r->arena, len * 6 + 6);
	if (!out)
		return "\"?\"";
	while (len < t->len && len > 0 && ((unsigned char)t->bytes[len] & 0xc0) == 0x80)
		len--;
	out[n++] = '"';
	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)t->bytes[i],
			      next = i + 1 < len ? (unsigned char)t->bytes[i + 1] : 0;
		bool c1 = c == 0xc2 && next < 0xa0; // terminals obey U+0080 to U+009F, too
		if (c < 0x20 || c == 0x7f || c1) {
			n += (size_t)snprintf(out + n, 7, "\\u%04X", c1 ? next : c);
			i += c1;
		} else {
			out[n++] = (char)c;
		}
	}
	memcpy(out + n, len < t->len ? "...\"" : "\"", len < t->len ? 5 : 2);
	return out;
}
