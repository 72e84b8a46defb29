/* merge.c - joins neighbouring pieces of a word in order of priority: the core of both kinds of tokenizer.
 *
 * Pieces are a linked list inside an array, candidate pairs a binary heap. A pair that one of its pieces has
 * outgrown stays in the heap and is recognised when it comes up, so nothing is ever searched for.
 */
#include "engine/tokenizer.h"

#include <stdlib.h>

hotset_status tokenizer_reserve(void *array_pointer, uint64_t *max, uint64_t n, uint64_t item_bytes,
                                hotset_error *err) {
    void **array = array_pointer;
    if (n <= *max) return HOTSET_OK;
    uint64_t wanted = max_u64(max_u64(n, 2 * *max), 64), bytes;
    void *grown = checked_mul(wanted, item_bytes, &bytes) ? realloc(*array, bytes) : NULL;
    if (!grown)
        return hotset_fail(err, HOTSET_E_MEMORY, "out of memory for tokenizing (%llu x %llu bytes)",
                           (unsigned long long)wanted, (unsigned long long)item_bytes);
    *array = grown;
    *max = wanted;
    return HOTSET_OK;
}

static void sift_down(merge_pair *pairs, uint64_t n, uint64_t hole, merge_pair pair) {
    for (uint64_t child; (child = 2 * hole + 1) < n; hole = child) {
        if (child + 1 < n && pairs[child + 1].key < pairs[child].key) child++;
        if (pair.key <= pairs[child].key) break;
        pairs[hole] = pairs[child];
    }
    pairs[hole] = pair;
}

static void sift_up(merge_pair *pairs, uint64_t hole, merge_pair pair) {
    for (; hole > 0 && pair.key < pairs[(hole - 1) / 2].key; hole = (hole - 1) / 2)
        pairs[hole] = pairs[(hole - 1) / 2];
    pairs[hole] = pair;
}

static merge_pair pop(tokenizer_work *w) {
    merge_pair top = w->pairs[0];
    w->pair_n--;
    if (w->pair_n) sift_down(w->pairs, w->pair_n, 0, w->pairs[w->pair_n]);
    return top;
}

static bool find_pair(const tokenizer_work *w, const char *word, merge_lookup *lookup, uint32_t left,
                      merge_pair *out) {
    const merge_symbol *l = &w->symbols[left];
    if (l->right == MERGE_NONE) return false;
    const merge_symbol *r = &w->symbols[l->right];
    uint32_t priority;
    if (!lookup(w, word, l, r, &priority, &out->token)) return false;
    out->key = (uint64_t)priority << 32 | left;
    out->bytes = l->bytes + r->bytes;
    return true;
}

static hotset_status push(tokenizer_work *w, const char *word, merge_lookup *lookup, uint32_t left) {
    merge_pair pair;
    if (!find_pair(w, word, lookup, left, &pair)) return HOTSET_OK;
    HOTSET_TRY(tokenizer_reserve(&w->pairs, &w->pair_max, w->pair_n + 1, sizeof *w->pairs, w->err));
    sift_up(w->pairs, w->pair_n++, pair);
    return HOTSET_OK;
}

static hotset_status fill(tokenizer_work *w, const char *word, merge_lookup *lookup) {
    uint32_t n = (uint32_t)w->symbol_n;
    for (uint32_t i = 0; i < n; i++) {
        w->symbols[i].left = i ? i - 1 : MERGE_NONE;
        w->symbols[i].right = i + 1 < n ? i + 1 : MERGE_NONE;
    }
    w->pair_n = 0;
    HOTSET_TRY(tokenizer_reserve(&w->pairs, &w->pair_max, n, sizeof *w->pairs, w->err));
    for (uint32_t i = 0; i + 1 < n; i++) w->pair_n += find_pair(w, word, lookup, i, &w->pairs[w->pair_n]);
    for (uint64_t i = w->pair_n / 2; i-- > 0;) sift_down(w->pairs, w->pair_n, i, w->pairs[i]);
    return HOTSET_OK;
}

hotset_status merge_run(tokenizer_work *w, const char *word, merge_lookup *lookup) {
    HOTSET_TRY(fill(w, word, lookup));
    while (w->pair_n) {
        merge_pair pair = pop(w);
        uint32_t left_i = (uint32_t)pair.key;
        merge_symbol *left = &w->symbols[left_i];
        if (!left->bytes || left->right == MERGE_NONE) continue;
        merge_symbol *right = &w->symbols[left->right];
        if (left->bytes + right->bytes != pair.bytes) continue;
        left->bytes = pair.bytes;
        left->token = pair.token;
        left->right = right->right;
        right->bytes = 0;
        if (left->right != MERGE_NONE) w->symbols[left->right].left = left_i;
        if (left->left != MERGE_NONE) HOTSET_TRY(push(w, word, lookup, left->left));
        HOTSET_TRY(push(w, word, lookup, left_i));
    }
    return HOTSET_OK;
}
