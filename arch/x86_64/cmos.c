// SPDX-License-Identifier: BSD-2-Clause
#include "arch/x86_64/cmos.h"

#include "vmm/base/check.h"

#include <stdbool.h>
#include <time.h>

// Registers of the MC146818.
enum {
	CMOS_SECONDS = 0x00,
	CMOS_MINUTES = 0x02,
	CMOS_HOURS = 0x04,
	CMOS_DAY_OF_WEEK = 0x06,
	CMOS_DAY_OF_MONTH = 0x07,
	CMOS_MONTH = 0x08,
	CMOS_YEAR = 0x09,
	CMOS_STATUS_A = 0x0a,
	CMOS_STATUS_B = 0x0b,
	CMOS_STATUS_C = 0x0c,
	CMOS_STATUS_D = 0x0d,
};

#define STATUS_A_32KHZ	0x26 // divider and rate as firmware sets them; never "update in progress"
#define STATUS_B_24H	0x02
#define STATUS_B_BINARY 0x04
#define STATUS_D_VALID	0x80
#define INDEX_MASK	0x7f // bit 7 is the NMI mask

static uint8_t clock_value(const struct cmos *c, int value)
{
	if (c->ram[CMOS_STATUS_B] & STATUS_B_BINARY)
		return (uint8_t)value;
	return (uint8_t)((value / 10 % 10) << 4 | value % 10);
}

struct civil_time {
	int year, month, day, weekday, hour, minute, second;
};

// UTC of a time since 1970.  Not gmtime_r(): the C library's opens the time zone file and allocates at its first call.
static struct civil_time civil_of(int64_t seconds)
{
	static const int before_month[] = { 0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365 };
	int64_t days = seconds / 86400, rest = seconds % 86400;
	struct civil_time t = {
		.weekday = (int)((days + 4) % 7),
		.hour = (int)(rest / 3600),
		.minute = (int)(rest / 60 % 60),
		.second = (int)(rest % 60),
	};
	for (t.year = 1970;; t.year++) {
		bool leap = t.year % 4 == 0 && (t.year % 100 != 0 || t.year % 400 == 0);
		if (days < 365 + leap) {
			for (t.month = 12; t.month > 1; t.month--)
				if (days >= before_month[t.month - 1] + (leap && t.month > 2))
					break;
			t.day = (int)days - before_month[t.month - 1] - (leap && t.month > 2) + 1;
			return t;
		}
		days -= 365 + leap;
	}
}

static uint8_t cmos_get(const struct cmos *c)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	struct civil_time t = civil_of(now.tv_sec);
	switch (c->index) {
	case CMOS_SECONDS:
		return clock_value(c, t.second);
	case CMOS_MINUTES:
		return clock_value(c, t.minute);
	case CMOS_HOURS:
		return clock_value(c, t.hour);
	case CMOS_DAY_OF_WEEK:
		return clock_value(c, t.weekday + 1);
	case CMOS_DAY_OF_MONTH:
		return clock_value(c, t.day);
	case CMOS_MONTH:
		return clock_value(c, t.month);
	case CMOS_YEAR:
		return clock_value(c, t.year % 100);
	case CMOS_CENTURY:
		return clock_value(c, t.year / 100);
	case CMOS_STATUS_A:
		return STATUS_A_32KHZ;
	case CMOS_STATUS_C:
		return 0;
	case CMOS_STATUS_D:
		return STATUS_D_VALID;
	default:
		return c->ram[c->index];
	}
}

static void cmos_read(struct bus_range *r, uint64_t offset, unsigned size, uint64_t *val)
{
	struct cmos *c = CONTAINER_OF(r, struct cmos, range);
	if (size != 1)
		return;
	pthread_mutex_lock(&c->lock);
	if (offset == 1)
		*val = cmos_get(c);
	pthread_mutex_unlock(&c->lock);
}

static void cmos_write(struct bus_range *r, uint64_t offset, unsigned size, uint64_t val)
{
	struct cmos *c = CONTAINER_OF(r, struct cmos, range);
	if (size != 1)
		return;
	pthread_mutex_lock(&c->lock);
	if (offset == 0)
		c->index = (uint8_t)val & INDEX_MASK;
	else if (c->index == CMOS_STATUS_B)
		c->ram[CMOS_STATUS_B] = (uint8_t)((val & STATUS_B_BINARY) | STATUS_B_24H);
	else
		c->ram[c->index] = (uint8_t)val;
	pthread_mutex_unlock(&c->lock);
}

void cmos_init(struct cmos *c, uint64_t port)
{
	*c = (struct cmos){
		.range = { .start = port,
			   .size = 2,
			   .name = "CMOS clock",
			   .read = cmos_read,
			   .write = cmos_write },
	};
	c->ram[CMOS_STATUS_B] = STATUS_B_24H;
	pthread_mutex_init(&c->lock, NULL);
}

void cmos_destroy(struct cmos *c)
{
	pthread_mutex_destroy(&c->lock);
}
