// SPDX-License-Identifier: BSD-2-Clause
// The CMOS clock against the C library's calendar; the host's clock is this program's.
#include "arch/x86_64/cmos.h"
#include "tests/unit/test.h"

#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int64_t now_is; // 0: the real one

int clock_gettime(clockid_t id, struct timespec *ts)
{
	if (id != CLOCK_REALTIME || now_is == 0)
		return (int)syscall(SYS_clock_gettime, id, ts);
	*ts = (struct timespec){ .tv_sec = now_is };
	return 0;
}

static struct cmos cmos;
static struct bus bus;

static void start(void)
{
	cmos_init(&cmos, 0x70);
	bus_init(&bus);
	bus_add(&bus, &cmos.range);
}

static uint8_t get(uint8_t reg)
{
	uint64_t val;
	bus_write(&bus, 0x70, 1, reg);
	bus_read(&bus, 0x71, 1, &val);
	return (uint8_t)val;
}

static void set(uint8_t reg, uint8_t val)
{
	bus_write(&bus, 0x70, 1, reg);
	bus_write(&bus, 0x71, 1, val);
}

static int bcd(int v)
{
	return v / 10 << 4 | v % 10;
}

static bool agrees(int64_t when, bool binary)
{
	time_t t = now_is = when;
	struct tm tm;
	gmtime_r(&t, &tm);
	const struct {
		uint8_t reg;
		int value;
	} want[] = {
		{ 0x00, tm.tm_sec },	    { 0x02, tm.tm_min },
		{ 0x04, tm.tm_hour },	    { 0x06, tm.tm_wday + 1 },
		{ 0x07, tm.tm_mday },	    { 0x08, tm.tm_mon + 1 },
		{ 0x09, tm.tm_year % 100 }, { 0x32, tm.tm_year / 100 + 19 },
	};
	bool good = true;
	for (size_t i = 0; i < sizeof(want) / sizeof(want[0]); i++) {
		int got = get(want[i].reg), expected = binary ? want[i].value : bcd(want[i].value);
		if (got != expected) {
			printf("%lld: register %#x is %#x, expected %#x\n", (long long)when, want[i].reg, got,
			       expected);
			good = false;
		}
	}
	now_is = 0;
	return good;
}

#define DAY 86400

TEST(every_day_from_1970_to_2200)
{
	start();
	for (int64_t day = 0; day < 84000; day++) {
		set(0x0b, day % 2 ? 4 : 0);
		CHECK(agrees(day * DAY + 1 + day * 7919 % (DAY - 1), day % 2));
	}
}

TEST(ends_of_days_in_leap_years)
{
	static const int64_t days[] = { 951782400,   // 29 February 2000
					1709164800,  // 29 February 2024
					4107456000,  // 28 February 2100, the next day is 1 March
					13574476800, // 29 February 2400
					1735603200 };
	start();
	for (size_t i = 0; i < sizeof(days) / sizeof(days[0]); i++)
		for (int64_t second = -2; second <= DAY + 2;
		     second += second < 3 || second > DAY - 3 ? 1 : 1021) {
			set(0x0b, 0);
			CHECK(agrees(days[i] + second, false));
			set(0x0b, 4);
			CHECK(agrees(days[i] + second, true));
		}
}

TEST(status_registers)
{
	start();
	CHECK_EQ(get(0x0a) & 0x80, 0); // never "update in progress": a reader does not wait
	CHECK_EQ(get(0x0b), 0x02);
	CHECK_EQ(get(0x0c), 0);
	CHECK_EQ(get(0x0d), 0x80);
	set(0x0b, 0xff); // no alarm, no periodic interrupt, always 24 hours
	CHECK_EQ(get(0x0b), 0x06);
	set(0x0b, 0x00);
	CHECK_EQ(get(0x0b), 0x02);
}

TEST(memory_and_what_is_not)
{
	start();
	set(0x40, 0xa5);
	CHECK_EQ(get(0x40), 0xa5);
	CHECK_EQ(get(0xc0), 0xa5); // bit 7 of the index is the NMI mask
	now_is = 1000000000;
	set(0x00, 0x11);
	CHECK_EQ(get(0x00), 0x40); // the clock is the host's: 01:46:40
	now_is = 0;
	uint64_t val;
	CHECK(bus_read(&bus, 0x70, 1, &val));
	CHECK_EQ(val, 0xff);
	CHECK(bus_read(&bus, 0x70, 2, &val));
	CHECK_EQ(val, 0xffff);
	CHECK(bus_write(&bus, 0x70, 2, 0x1140));
	CHECK_EQ(get(0x40), 0xa5);
}
