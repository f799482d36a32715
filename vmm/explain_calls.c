// SPDX-License-Identifier: BSD-2-Clause
//
// System calls in `minivmm explain`: a table's text, whoever wrote it, as a list of names or as lines with reasons.
#include "vmm/explain_impl.h"

#include "vmm/base/fd.h"

#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define WIDTH 110

void explain_list_word(struct explain_list *l, const char *word)
{
	char key[72];
	const unsigned len = (unsigned)strlen(word) + 1;
	snprintf(key, sizeof(key), " %s ", word);
	if (strstr(l->seen, key))
		return;
	const size_t used = strlen(l->seen);
	snprintf(l->seen + used, sizeof(l->seen) - used, "%s%s ", used ? "" : " ", word);
	if (l->column == 0 || l->column + len > WIDTH) {
		fprintf(l->out, "%s  %-*s", l->column ? "\n" : "", EXPLAIN_COLUMN - 2,
			l->column ? "" : l->label);
		l->column = EXPLAIN_COLUMN;
	}
	fprintf(l->out, "%s%s", l->column > EXPLAIN_COLUMN ? " " : "", word);
	l->column += len;
}

void explain_list_end(struct explain_list *l)
{
	if (l->column)
		fputc('\n', l->out);
}

// One row of a table as sandbox_print() writes it, without prefix: call, condition, rare, reason.
static void row(struct explain_list *l, char *line, bool reasons)
{
	char *call = line, *condition = strchr(call, '\t');
	char *rare = condition ? strchr(condition + 1, '\t') : NULL;
	char *reason = rare ? strchr(rare + 1, '\t') : NULL;
	if (!reason)
		return;
	*condition++ = *rare = *reason++ = '\0';
	const bool any = strcmp(condition, "-") == 0;
	char word[64];
	snprintf(word, sizeof(word), "%s%s", call,
		 any				     ? ""
		 : strcmp(condition, "refused") == 0 ? "(refused)"
						     : "(...)");
	if (!reasons)
		explain_list_word(l, word);
	else
		fprintf(l->out, "  %-*s%-20s %-34s %s\n", EXPLAIN_COLUMN - 2, l->label, call,
			any ? "" : condition, reason);
}

// Rows of a whole text; only those that begin with `prefix`, which is cut off.
void explain_calls(FILE *out, const char *label, char *text, const char *prefix, bool reasons)
{
	struct explain_list l = { .out = out, .label = label };
	for (char *line = text, *next; line && *line; line = next) {
		next = strchr(line, '\n');
		if (next)
			*next++ = '\0';
		// A row of another prefix has one field more.
		const size_t len = strlen(prefix);
		unsigned tabs = 0;
		for (const char *p = line; *p; p++)
			tabs += *p == '\t';
		if (strncmp(line, prefix, len) == 0 && tabs == (len ? 4u : 3u)) {
			char *copy = strdup(line + len);
			if (copy)
				row(&l, copy, reasons);
			free(copy);
		}
		if (next)
			next[-1] = '\n';
	}
	explain_list_end(&l);
}

char *explain_text_of_rules(const struct profile *p)
{
	const struct sandbox_spec spec = { .program = p->name,
					   .rules = p->rules,
					   .rule_count = p->rule_count };
	char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);
	if (!f)
		return NULL;
	sandbox_print(&spec, "", f);
	fclose(f);
	return text;
}

char *explain_text_of_printer(void (*print)(const char *prefix, FILE *out))
{
	char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);
	if (!f)
		return NULL;
	print("", f);
	fclose(f);
	return text;
}

char *explain_text_of_program(const char *program)
{
	char option[] = "--print-syscalls", *name = strdup(program);
	char *argv[] = { name, option, NULL }, *none[] = { NULL };
	posix_spawn_file_actions_t actions;
	int ends[2];
	pid_t pid;
	char *text = NULL;
	if (!name || pipe(ends) < 0) {
		free(name);
		return NULL;
	}
	FD_AUTO from = ends[0];
	FD_AUTO to = ends[1];
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, to, STDOUT_FILENO);
	posix_spawn_file_actions_addclose(&actions, from);
	const int rc = posix_spawn(&pid, program, &actions, NULL, argv, none);
	posix_spawn_file_actions_destroy(&actions);
	free(name);
	fd_close(&to);
	if (rc != 0)
		return NULL;
	const size_t room = 65536;
	size_t len = 0;
	ssize_t n = (text = calloc(1, room + 1)) ? 1 : 0;
	while (n > 0 && len < room && (n = read(from, text + len, room - len)) > 0)
		len += (size_t)n;
	waitpid(pid, NULL, 0);
	return text;
}

uint64_t explain_limit_in(const char *text, const char *name)
{
	char key[64];
	snprintf(key, sizeof(key), "limit\t%s\t", name);
	const char *at = text ? strstr(text, key) : NULL;
	return at ? strtoull(at + strlen(key), NULL, 10) : PROFILE_NO_LIMIT;
}
