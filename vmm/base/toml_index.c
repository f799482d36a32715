// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/base/toml_index.h"

#include <string.h>

static int key_compare(const struct toml_text *a, const struct toml_text *b)
{
	if (a->len != b->len)
		return a->len < b->len ? -1 : 1;
	return a->len ? memcmp(a->bytes, b->bytes, a->len) : 0;
}

struct toml_value *toml_index_find(struct toml_value *v, const struct toml_text *key)
{
	while (v) {
		int order = key_compare(key, &v->key);
		if (order == 0)
			return v;
		v = order < 0 ? v->left : v->right;
	}
	return NULL;
}

static struct toml_value *index_skew(struct toml_value *v)
{
	struct toml_value *l = v->left;
	if (!l || l->level != v->level)
		return v;
	v->left = l->right;
	l->right = v;
	return l;
}

static struct toml_value *index_split(struct toml_value *v)
{
	struct toml_value *r = v->right;
	if (!r || !r->right || r->right->level != v->level)
		return v;
	v->right = r->left;
	r->left = v;
	r->level++;
	return r;
}

// Recursion as deep as the tree: at most 2 log2(keys).
struct toml_value *toml_index_insert(struct toml_value *root, struct toml_value *v)
{
	if (!root) {
		v->left = v->right = NULL;
		v->level = 1;
		return v;
	}
	if (key_compare(&v->key, &root->key) < 0)
		root->left = toml_index_insert(root->left, v);
	else
		root->right = toml_index_insert(root->right, v);
	return index_split(index_skew(root));
}
