// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/jail_elf.h"

#include "vmm/base/check.h"
#include "vmm/base/fd.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PHDRS_MAX   64
#define DYNAMIC_MAX (64u << 10)
#define STRINGS_MAX (4u << 20)
#define FOLDERS_MAX 32
#define WORD_MAX    256

struct folders { // where libraries are looked for, besides what a file itself says
	const char *path[FOLDERS_MAX];
	unsigned count;
};

struct elf {
	int fd;
	const char *path;
	Elf64_Ehdr head;
	Elf64_Phdr phdr[PHDRS_MAX];
	Elf64_Dyn *dynamic;
	size_t dynamic_count;
	char *strings; // NUL behind
	size_t strings_len;
};

static bool read_at(int fd, uint64_t offset, void *to, size_t len)
{
	return offset <= INT64_MAX && pread(fd, to, len, (off_t)offset) == (ssize_t)len;
}

// The file offset of an address, or UINT64_MAX.
static uint64_t elf_offset(const struct elf *f, uint64_t address, uint64_t len)
{
	for (unsigned i = 0; i < f->head.e_phnum; i++) {
		const Elf64_Phdr *p = &f->phdr[i];
		if (p->p_type == PT_LOAD && address >= p->p_vaddr &&
		    range_in(address - p->p_vaddr, len, p->p_filesz))
			return p->p_offset + (address - p->p_vaddr);
	}
	return UINT64_MAX;
}

static const Elf64_Phdr *elf_segment(const struct elf *f, uint32_t type)
{
	for (unsigned i = 0; i < f->head.e_phnum; i++)
		if (f->phdr[i].p_type == type)
			return &f->phdr[i];
	return NULL;
}

static void elf_close(struct elf *f)
{
	free(f->dynamic);
	free(f->strings);
	fd_close(&f->fd);
}

static uint64_t elf_tag(const struct elf *f, int64_t tag)
{
	for (size_t i = 0; i < f->dynamic_count; i++)
		if (f->dynamic[i].d_tag == tag)
			return f->dynamic[i].d_un.d_val;
	return UINT64_MAX;
}

static const char *elf_string(const struct elf *f, uint64_t offset)
{
	return offset < f->strings_len ? f->strings + offset : NULL;
}

static bool elf_read_dynamic(struct elf *f)
{
	const Elf64_Phdr *p = elf_segment(f, PT_DYNAMIC);
	if (!p)
		return true; // linked statically
	if (p->p_filesz > DYNAMIC_MAX)
		return false;
	f->dynamic_count = (size_t)p->p_filesz / sizeof(*f->dynamic);
	f->dynamic = calloc(f->dynamic_count + 1, sizeof(*f->dynamic));
	if (!f->dynamic || !read_at(f->fd, p->p_offset, f->dynamic, f->dynamic_count * sizeof(*f->dynamic)))
		return false;
	uint64_t len = elf_tag(f, DT_STRSZ), offset = elf_tag(f, DT_STRTAB);
	if (len > STRINGS_MAX || (offset = elf_offset(f, offset, len)) == UINT64_MAX)
		return false;
	f->strings = calloc(1, (size_t)len + 1);
	f->strings_len = (size_t)len;
	return f->strings && read_at(f->fd, offset, f->strings, f->strings_len);
}

// False: not there, or not one for this machine's loader.
static bool elf_open(struct elf *f, const char *path)
{
	struct stat st;
	*f = (struct elf){ .fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), .path = path };
	const Elf64_Ehdr *h = &f->head;
	if (f->fd < 0)
		return false;
	if (fstat(f->fd, &st) == 0 && S_ISREG(st.st_mode) && read_at(f->fd, 0, &f->head, sizeof(f->head)) &&
	    memcmp(h->e_ident, ELFMAG, SELFMAG) == 0 && h->e_ident[EI_CLASS] == ELFCLASS64 &&
	    h->e_phentsize == sizeof(Elf64_Phdr) && h->e_phnum <= PHDRS_MAX &&
	    read_at(f->fd, h->e_phoff, f->phdr, h->e_phnum * sizeof(Elf64_Phdr)) && elf_read_dynamic(f))
		return true;
	elf_close(f);
	return false;
}

// ---- where the loader looks ------------------------------------------------------------------------------------

static void folder_add(struct folders *f, struct arena *a, const char *path, size_t len)
{
	char *copy = f->count < FOLDERS_MAX && len ? arena_copy(a, path, len) : NULL;
	if (copy)
		f->path[f->count++] = copy;
}

// "/usr/local/lib" or "include /etc/ld.so.conf.d/*.conf" a line; the latter one level deep, as every distribution has it.
static void folders_read(struct folders *f, struct arena *a, const char *path, bool include)
{
	char line[WORD_MAX];
	FILE *in = fopen(path, "re");
	while (in && fgets(line, sizeof(line), in)) {
		size_t len = strcspn(line, " \t\r\n#:,=");
		glob_t found;
		if (line[0] == '/')
			folder_add(f, a, line, len);
		if (!include || strncmp(line, "include ", 8) != 0)
			continue;
		line[strcspn(line, "\r\n#")] = '\0';
		if (glob(line + 8, 0, NULL, &found) != 0)
			continue;
		for (size_t i = 0; i < found.gl_pathc; i++)
			folders_read(f, a, found.gl_pathv[i], false);
		globfree(&found);
	}
	if (in)
		fclose(in);
}

static void folders_find(struct folders *f, struct arena *a)
{
	static const char *const usual[] = {
#if defined(__x86_64__)
		"/lib/x86_64-linux-gnu",
		"/usr/lib/x86_64-linux-gnu",
#elif defined(__aarch64__)
		"/lib/aarch64-linux-gnu",
		"/usr/lib/aarch64-linux-gnu",
#endif
		"/lib64",
		"/usr/lib64",
		"/lib",
		"/usr/lib",
		"/usr/local/lib",
	};
	for (unsigned i = 0; i < ARRAY_LEN(usual); i++)
		folder_add(f, a, usual[i], strlen(usual[i]));
	folders_read(f, a, "/etc/ld.so.conf", true);
}

// A DT_RUNPATH: folders with colons between, $ORIGIN is the file's own.
static void folders_of_file(struct folders *f, struct arena *a, const struct elf *e, int64_t tag)
{
	const char *list = elf_string(e, elf_tag(e, tag));
	for (; list && *list; list += strcspn(list, ":"), list += *list == ':') {
		const char *rest = strncmp(list, "$ORIGIN", 7) == 0	? list + 7
				   : strncmp(list, "${ORIGIN}", 9) == 0 ? list + 9
									: NULL;
		const size_t len = strcspn(list, ":");
		if (!rest) {
			folder_add(f, a, list, len);
			continue;
		}
		const char *slash = strrchr(e->path, '/');
		const char *full = arena_printf(a, "%.*s%.*s", (int)(slash - e->path), e->path,
						(int)(list + len - rest), rest);
		folder_add(f, a, full ? full : "", full ? strlen(full) : 0);
	}
}

// ---- the closure -----------------------------------------------------------------------------------------------

static int need_path(struct elf_needs *n, const char *path, struct err *e)
{
	for (unsigned i = 0; path && i < n->count; i++)
		if (strcmp(n->path[i], path) == 0)
			return 0;
	if (!path)
		return err_sys(e, ENOMEM, "find the libraries");
	if (n->count == ELF_NEEDS_MAX)
		return err_set(e, E2BIG, "find the libraries: more than %d files", ELF_NEEDS_MAX);
	n->path[n->count++] = path;
	return 0;
}

static bool fits(const struct elf *of, const char *path)
{
	struct elf f;
	if (!elf_open(&f, path))
		return false;
	bool same = f.head.e_machine == of->head.e_machine;
	elf_close(&f);
	return same;
}

static int need_library(struct elf_needs *n, struct arena *a, const struct elf *of,
			const struct folders *const list[], unsigned lists, const char *name, struct err *e)
{
	if (strchr(name, '/'))
		return name[0] == '/' && fits(of, name) ? need_path(n, arena_copy(a, name, strlen(name)), e)
							: 0;
	for (unsigned l = 0; l < lists; l++)
		for (unsigned i = 0; i < list[l]->count; i++) {
			char *path = arena_printf(a, "%s/%s", list[l]->path[i], name);
			if (path && fits(of, path))
				return need_path(n, path, e);
		}
	return 0;
}

static int need_all_of(struct elf_needs *n, struct arena *a, const struct elf *f,
		       const struct folders *system, struct folders *inherited, struct err *e)
{
	char interpreter[WORD_MAX] = "";
	const Elf64_Phdr *p = elf_segment(f, PT_INTERP);
	int rc = 0;
	if (p && p->p_filesz < sizeof(interpreter) &&
	    read_at(f->fd, p->p_offset, interpreter, (size_t)p->p_filesz) && interpreter[0] == '/')
		rc = need_path(n, arena_copy(a, interpreter, strlen(interpreter)), e);
	struct folders own = { .count = 0 };
	folders_of_file(&own, a, f, DT_RUNPATH);
	folders_of_file(inherited, a, f, DT_RPATH);
	const struct folders *const lists[] = { &own, inherited, system };
	for (size_t i = 0; rc == 0 && i < f->dynamic_count; i++) {
		const char *name =
			f->dynamic[i].d_tag == DT_NEEDED ? elf_string(f, f->dynamic[i].d_un.d_val) : NULL;
		if (name)
			rc = need_library(n, a, f, lists, ARRAY_LEN(lists), name, e);
	}
	return rc;
}

// "#!/usr/bin/env python3" as well.
static const char *script_interpreter(struct arena *a, const char *path)
{
	static const char *const folders[] = { "/usr/local/bin", "/usr/bin", "/bin" };
	char line[WORD_MAX] = "", *rest = NULL;
	FD_AUTO fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 || read(fd, line, sizeof(line) - 1) < 3 || line[0] != '#' || line[1] != '!')
		return NULL;
	line[strcspn(line, "\n")] = '\0';
	const char *name = strtok_r(line + 2, " \t", &rest);
	if (!name || name[0] != '/')
		return NULL;
	const char *base = strrchr(name, '/') + 1, *word = strtok_r(NULL, " \t", &rest);
	for (unsigned i = 0; word && strcmp(base, "env") == 0 && i < ARRAY_LEN(folders); i++) {
		char *found = arena_printf(a, "%s/%s", folders[i], word);
		if (found && access(found, X_OK) == 0)
			return found;
	}
	return arena_copy(a, name, strlen(name));
}

int elf_needs_add(struct elf_needs *n, struct arena *a, const char *program, struct err *e)
{
	struct folders system = { .count = 0 }, inherited = { .count = 0 };
	const char *interpreter = script_interpreter(a, program);
	unsigned next = n->count;
	folders_find(&system, a);
	int rc = need_path(n, program, e);
	if (rc == 0 && interpreter)
		rc = need_path(n, interpreter, e);
	if (rc == 0 && interpreter && access("/usr/bin/env", X_OK) == 0)
		rc = need_path(n, "/usr/bin/env", e);
	for (; rc == 0 && next < n->count; next++) {
		struct elf f;
		if (!elf_open(&f, n->path[next]))
			continue;
		rc = need_all_of(n, a, &f, &system, &inherited, e);
		elf_close(&f);
	}
	return rc;
}
