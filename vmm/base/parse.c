// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/base/parse.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

// The digits at the start of the text; *rest is what follows them.
static int leading_digits(const char *text, uint64_t *out, const char **rest)
{
	uint64_t v = 0;
	bool large = false;
	const char *p = text;
	for (; *p >= '0' && *p <= '9'; p++) {
		unsigned d = (unsigned)(*p - '0');
		large = large || v > (UINT64_MAX - d) / 10;
		v = large ? 0 : v * 10 + d;
	}
	*out = v;
	*rest = p;
	return p == text ? -EINVAL : large ? -ERANGE : 0;
}

int parse_uint(const char *text, uint64_t max, uint64_t *out)
{
	const char *rest;
	uint64_t v;
	int r = leading_digits(text, &v, &rest);
	if (r == -EINVAL || *rest != '\0')
		return -EINVAL;
	if (r || v > max)
		return -ERANGE;
	*out = v;
	return 0;
}

int parse_size(const char *text, uint64_t *out)
{
	static const char suffixes[] = "KMGT";
	const char *rest;
	uint64_t v;
	unsigned shift = 0;
	int r = leading_digits(text, &v, &rest);
	if (r == -EINVAL)
		return r;
	if (*rest != '\0') {
		const char *s = strchr(suffixes, *rest++);
		if (!s || *rest != '\0')
			return -EINVAL;
		shift = 10 * (unsigned)(s - suffixes + 1);
	}
	if (r || v > UINT64_MAX >> shift)
		return -ERANGE;
	*out = v << shift;
	return 0;
}

static int hex_digit(char c)
{
	return c >= '0' && c <= '9'   ? c - '0'
	       : c >= 'a' && c <= 'f' ? c - 'a' + 10
	       : c >= 'A' && c <= 'F' ? c - 'A' + 10
				      : -1;
}

int parse_mac(const char *text, uint8_t mac[6])
{
	uint8_t got[6], any = 0;
	for (unsigned i = 0; i < sizeof(got); i++, text += 3) {
		int high = hex_digit(text[0]), low = high < 0 ? -1 : hex_digit(text[1]);
		if (low < 0 || text[2] != (i + 1 < sizeof(got) ? ':' : '\0'))
			return -EINVAL;
		got[i] = (uint8_t)(high << 4 | low);
		any |= got[i];
	}
	if ((got[0] & 1) || any == 0)
		return -EINVAL;
	memcpy(mac, got, sizeof(got));
	return 0;
}

// A number at *text, which is moved behind it, or -1.
static int cpu_number(const char **text)
{
	int n = -1;
	for (; **text >= '0' && **text <= '9' && n <= PARSE_CPUS_MAX; (*text)++)
		n = (n < 0 ? 0 : n * 10) + (**text - '0');
	return n <= PARSE_CPUS_MAX ? n : -1;
}

int parse_cpus(const char *text, uint64_t set[(PARSE_CPUS_MAX + 1) / 64])
{
	memset(set, 0, (PARSE_CPUS_MAX + 1) / 8);
	for (;; text++) {
		int first = cpu_number(&text), last = first;
		if (*text == '-') {
			text++;
			last = cpu_number(&text);
		}
		if (first < 0 || last < first || (*text != ',' && *text != '\0'))
			return -EINVAL;
		for (int i = first; i <= last; i++)
			set[i / 64] |= UINT64_C(1) << (i % 64);
		if (*text == '\0')
			return 0;
	}
}
