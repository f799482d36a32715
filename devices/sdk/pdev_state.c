// SPDX-License-Identifier: BSD-2-Clause
// The state of a PCI function that is stopped, as one record: what a guest that moves takes along.
//
// A header, the MSI-X table, which vectors are pending, memory that the function shares with its client, and what the device's save()
// writes.  Bits of configuration space that no guest can change are part of it and must be the same on both sides: by them a
// function is known (identity, BARs, capabilities).  In the byte order of the host, as all of the protocol.  A record that is
// loaded may be anything; state_check() is the one place that looks at it, and nothing changes before it has.
#include "devices/sdk/dev.h"
#include "devices/sdk/pdev_impl.h"
#include "vmm/base/check.h"
#include "vmm/base/log.h"

#include <assert.h>
#include <errno.h>
#include <linux/pci_regs.h>
#include <string.h>

#define VECTOR_LEN ((size_t)16)

static const char magic[8] = "pdevst1";

struct pdev_state {
	char magic[8];
	char program[24];
	uint32_t vectors;
	uint32_t intx_level;
	uint64_t shared_len; // of all BARs
	uint64_t rung;	     // doorbells, while it was stopped
	uint64_t device_len; // what follows all else
	uint8_t config[PDEV_CONFIG_SIZE];
};

bool pdev_state_offered(const struct pdev *p)
{
	return p->ops->save && p->ops->load;
}

static uint64_t shared_len(const struct pdev *p)
{
	uint64_t len = 0;
	for (unsigned i = 0; i < PDEV_BARS; i++)
		len += p->bar[i].mapped ? p->bar[i].map_len : 0;
	return len;
}

// All but the device's part.
static size_t fixed_len(const struct pdev *p)
{
	return sizeof(struct pdev_state) + p->vector_count * (VECTOR_LEN + 1) + (size_t)shared_len(p);
}

size_t pdev_state_max(const struct pdev *p)
{
	return fixed_len(p) + PDEV_STATE_MAX;
}

static void header_fill(const struct pdev *p, struct pdev_state *s, uint64_t device_len)
{
	const char *program = p->d->ops->program;
	*s = (struct pdev_state){ .vectors = p->vector_count,
				  .intx_level = p->intx_level,
				  .shared_len = shared_len(p),
				  .rung = p->rung,
				  .device_len = device_len };
	memcpy(s->magic, magic, sizeof(magic));
	memcpy(s->program, program, MIN(strlen(program), sizeof(s->program)));
	for (unsigned i = 0; i < PDEV_CONFIG_SIZE; i++)
		s->config[i] = (uint8_t)((p->config[i] & p->writable[i]) | (p->initial[i] & ~p->writable[i]));
}

size_t pdev_state_save(struct pdev *p, uint8_t *to)
{
	struct pdev_state s;
	uint8_t *at = to + sizeof(s);
	memcpy(at, p->msix_table, p->vector_count * VECTOR_LEN);
	at += p->vector_count * VECTOR_LEN;
	for (unsigned i = 0; i < p->vector_count; i++)
		*at++ = p->vector[i].pending;
	for (unsigned i = 0; i < PDEV_BARS; i++) {
		if (!p->bar[i].mapped)
			continue;
		memcpy(at, p->bar[i].mapped, p->bar[i].map_len);
		at += p->bar[i].map_len;
	}
	const size_t device_len = p->ops->save(p, at);
	assert(device_len <= PDEV_STATE_MAX);
	header_fill(p, &s, device_len);
	memcpy(to, &s, sizeof(s));
	return fixed_len(p) + device_len;
}

// NULL, or what is wrong with it in a few words.
static const char *state_check(const struct pdev *p, const struct pdev_state *s, const uint8_t *from,
			       size_t len)
{
	struct pdev_state mine;
	if (len < sizeof(*s))
		return "it is cut short";
	header_fill(p, &mine, s->device_len);
	if (memcmp(s->magic, mine.magic, sizeof(mine.magic)) != 0)
		return "it is no state, or of another version";
	if (memcmp(s->program, mine.program, sizeof(mine.program)) != 0)
		return "it is another program's";
	for (unsigned i = 0; i < PDEV_CONFIG_SIZE; i++)
		if ((s->config[i] ^ p->initial[i]) & ~p->writable[i])
			return "its configuration space is another function's";
	if (s->vectors != mine.vectors || s->shared_len != mine.shared_len ||
	    s->device_len > PDEV_STATE_MAX || len != fixed_len(p) + s->device_len)
		return "it is too short or too long";
	if (s->intx_level > (p->initial[PCI_INTERRUPT_PIN] != 0) ||
	    (p->doorbell_count < 64 && s->rung >> p->doorbell_count))
		return "an interrupt or a doorbell that there is not";
	// The table is storage, whatever it says.
	const uint8_t *pending = from + sizeof(*s) + p->vector_count * VECTOR_LEN;
	for (unsigned i = 0; i < p->vector_count; i++)
		if (pending[i] > 1)
			return "an interrupt is neither pending nor not";
	return NULL;
}

static int state_apply(struct pdev *p, const struct pdev_state *s, const uint8_t *at)
{
	memcpy(p->config, s->config, sizeof(p->config));
	memcpy(p->msix_table, at, p->vector_count * VECTOR_LEN);
	at += p->vector_count * VECTOR_LEN;
	for (unsigned i = 0; i < p->vector_count; i++)
		p->vector[i].pending = *at++;
	for (unsigned i = 0; i < PDEV_BARS; i++) {
		if (!p->bar[i].mapped)
			continue;
		memcpy(p->bar[i].mapped, at, p->bar[i].map_len);
		at += p->bar[i].map_len;
	}
	int rc = p->ops->load(p, at, (size_t)s->device_len);
	if (rc < 0)
		return rc;
	p->rung = s->rung;
	pdev_set_intx(p, s->intx_level);
	return 0;
}

int pdev_state_load(struct pdev *p, const uint8_t *from, size_t len)
{
	struct pdev_state s = { 0 };
	memcpy(&s, from, MIN(len, sizeof(s)));
	const char *wrong = state_check(p, &s, from, len);
	pdev_reset(p);
	if (!wrong && state_apply(p, &s, from + sizeof(s)) < 0) {
		wrong = "the device does not know it";
		pdev_reset(p);
	}
	if (wrong)
		log_limited(LOG_WARN, "a state for this function: %s; it needs a reset", wrong);
	return wrong ? -EINVAL : 0;
}
