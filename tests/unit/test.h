// SPDX-License-Identifier: BSD-2-Clause
// A unit test program: TEST(name) { CHECK(...); } as often as needed, and nothing else.
//
// Each program under tests/unit and tests/fault is linked with every library of the project.  It runs its tests in order, prints a line for
// each that fails and ends with "N passed, N failed, N skipped" (exit 1 if any failed).  With arguments, only tests
// whose name contains one of them run.
#ifndef MINIVMM_TESTS_UNIT_TEST_H
#define MINIVMM_TESTS_UNIT_TEST_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct test {
	const char *name;
	void (*run)(void);
	struct test *next;
};

static struct test *test_first, **test_last = &test_first;
static bool test_failed;
static const char *test_skipped;

#define TEST(name_)                                                             \
	static void test_##name_(void);                                         \
	__attribute__((constructor)) static void test_add_##name_(void)         \
	{                                                                       \
		static struct test t = { .name = #name_, .run = test_##name_ }; \
		*test_last = &t;                                                \
		test_last = &t.next;                                            \
	}                                                                       \
	static void test_##name_(void)

// Says what was expected and leaves the test.
#define CHECK(cond)                                                                               \
	do {                                                                                      \
		if (!(cond)) {                                                                    \
			printf("%s:%d: %s: not true: %s\n", __FILE__, __LINE__, __func__, #cond); \
			test_failed = true;                                                       \
			return;                                                                   \
		}                                                                                 \
	} while (0)

#define CHECK_EQ(a, b)                                                                                       \
	do {                                                                                                 \
		unsigned long long a_ = (unsigned long long)(a), b_ = (unsigned long long)(b);               \
		if (a_ != b_) {                                                                              \
			printf("%s:%d: %s: %s is %#llx, expected %#llx\n", __FILE__, __LINE__, __func__, #a, \
			       a_, b_);                                                                      \
			test_failed = true;                                                                  \
			return;                                                                              \
		}                                                                                            \
	} while (0)

#define CHECK_STR(a, b)                                                                                  \
	do {                                                                                             \
		const char *a_ = (a), *b_ = (b);                                                         \
		if (strcmp(a_, b_) != 0) {                                                               \
			printf("%s:%d: %s: \"%s\", expected \"%s\"\n", __FILE__, __LINE__, __func__, a_, \
			       b_);                                                                      \
			test_failed = true;                                                              \
			return;                                                                          \
		}                                                                                        \
	} while (0)

// Leaves the test as skipped; the reason is printed.
#define SKIP(reason)                     \
	do {                             \
		test_skipped = (reason); \
		return;                  \
	} while (0)

int main(int argc, char **argv)
{
	unsigned passed = 0, failed = 0, skipped = 0;
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (struct test *t = test_first; t; t = t->next) {
		bool wanted = argc < 2;
		for (int i = 1; i < argc; i++)
			wanted |= strstr(t->name, argv[i]) != NULL;
		if (!wanted)
			continue;
		test_failed = false;
		test_skipped = NULL;
		t->run();
		if (test_skipped)
			printf("skip %s: %s\n", t->name, test_skipped);
		if (test_failed)
			printf("FAIL %s\n", t->name);
		*(test_failed ? &failed : test_skipped ? &skipped : &passed) += 1;
	}
	printf("%u passed, %u failed, %u skipped\n", passed, failed, skipped);
	return failed != 0;
}

#endif
