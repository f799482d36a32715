// SPDX-License-Identifier: BSD-2-Clause
// minivmm-rng: random numbers of the host, for any VMM.
//
// The command line and the SDK's callbacks; requests are devices/entropy/virtio_rng.c's.
#include "devices/entropy/virtio_rng.h"
#include "devices/sdk/dev.h"
#include "vmm/base/check.h"
#include "vmm/base/virtio_id.h"

static struct vrng rng;
static uint64_t rate;

static const struct vdev_option options[] = {
	{ "rate", "BYTES", "give out at most so many bytes a second (default: no limit)" },
	{ NULL, NULL, NULL },
};

static const struct sandbox_rule rules[] = {
	SANDBOX_CALL(getrandom, "what the device is for"),
	SANDBOX_RARE(timerfd_settime, "a driver that has used up its --rate waits"),
};

static int rng_option(struct vdev *d, const char *name, const char *value, struct err *e)
{
	(void)d;
	return vdev_number(name, value, 1, VRNG_RATE_MAX, &rate, e);
}

static int rng_open(struct vdev *d, struct err *e)
{
	d->queue_count = 1;
	d->queue_size_max = VQ_SIZE_MAX;
	return vrng_init(&rng, d, rate, e);
}

static void rng_kick(struct vdev *d, struct vq *q)
{
	(void)d;
	vrng_kick(&rng, q);
}

static void rng_close(struct vdev *d)
{
	(void)d;
	vrng_destroy(&rng);
}

static const struct vdev_ops ops = {
	.program = "minivmm-rng",
	.summary = "Random numbers of the host.",
	.capabilities = "{\"type\": \"rng\", \"features\": []}",
	.virtio_type = VIRTIO_RNG,
	.options = options,
	.rules = rules,
	.rule_count = ARRAY_LEN(rules),
	.option = rng_option,
	.open = rng_open,
	.kick = rng_kick,
	.close = rng_close,
};

int main(int argc, char **argv)
{
	return vdev_main(&ops, argc, argv);
}
