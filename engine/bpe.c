/* bpe.c - byte-level BPE: inside a word, the pair of neighbours that stands first in the list of merges is
 * joined first.
 *
 * Sennrich et al. (2016); over bytes: Radford et al., GPT-2 (2019). Files spell bytes as printable characters
 * (GPT-2's byte map); here tokens are bytes, and merges a table from a pair of token ids to the rank and the
 * joined token.
 */
#include "engine/tokenizer.h"

#include <stdlib.h>
#include <string.h>

static const char MERGES[] = "tokenizer.ggml.merges";

typedef struct merge_slot {
    uint32_t left_1, right; /* token ids, the left one plus 1; 0: free */
    uint32_t rank;
    int32_t token;
} merge_slot;

struct bpe_model {
    bpe_pre *pre;
    merge_slot *slots; /* open addressing */
    uint64_t slot_mask;
};

/* ---- GPT-2's byte map ------------------------------------------------------------------------------- */

/* Bytes that stand for themselves; the others take U+0100, U+0101 ... in order. */
static bool is_own_character(uint32_t byte) {
    return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || (byte >= 0xAE && byte <= 0xFF);
}

/* The byte that a character of a token stands for, or -1. */
static int byte_of_character(uint32_t character) {
    if (character < 0x100) return is_own_character(character) ? (int)character : -1;
    if (character <= 0x120) { /* 00-20 */
        return (int)(character - 0x100);
    }
    if (character <= 0x142) return (int)(character - 0x121 + 0x7F); /* 7F-A0 */
    return character == 0x143 ? 0xAD : -1;
}

bool bpe_unescape(gguf_string text, char *out, size_t *out_bytes) {
    size_t n = 0;
    for (uint64_t i = 0; i < text.bytes;) {
        uint32_t first = (uint8_t)text.data[i], character = first;
        int bytes = tokenizer_utf8(text.data + i, (size_t)(text.bytes - i));
        if (bytes <= 0 || bytes > 2) return false;
        if (bytes == 2) character = (first & 0x1F) << 6 | ((uint8_t)text.data[i + 1] & 0x3F);
        int byte = byte_of_character(character);
        if (byte < 0) return false;
        out[n++] = (char)byte;
        i += (uint64_t)bytes;
    }
    *out_bytes = n;
    return true;
}

/* ---- Merges ----------------------------------------------------------------------------------------- */

/* The slot that holds a pair, or the free one where it belongs. */
static merge_slot *find_slot(const bpe_model *model, uint32_t left, uint32_t right) {
    uint64_t hash = ((uint64_t)left << 32 | right) * UINT64_C(0x9E3779B97F4A7C15);
    hash = (hash ^ hash >> 32) * UINT64_C(0xD6E8FEB86659FD93);
    for (uint64_t i = hash >> 32;; i++) {
        merge_slot *slot = &model->slots[i & model->slot_mask];
        if (!slot->left_1 || (slot->left_1 == left + 1 && slot->right == right)) return slot;
    }
}

static hotset_status add_merge(const hotset_tokenizer *t, bpe_model *model, const gguf_key *key,
                               uint32_t rank, gguf_string merge, hotset_error *err) {
    char joined[2 * TOKENIZER_TOKEN_BYTES_MAX];
    size_t left_bytes = 0, right_bytes = 0;
    const char *space = merge.bytes ? memchr(merge.data, ' ', (size_t)merge.bytes) : NULL;
    bool fits = space && merge.bytes <= sizeof joined;
    uint64_t split = fits ? (uint64_t)(space - merge.data) : 0;
    if (!fits || !bpe_unescape((gguf_string){merge.data, split}, joined, &left_bytes) || !left_bytes ||
        !bpe_unescape((gguf_string){space + 1, merge.bytes - split - 1}, joined + left_bytes, &right_bytes) ||
        !right_bytes)
        return hotset_fail_at(err, HOTSET_E_FORMAT, key->offset_bytes,
                              "key '%s': item %u ('%.*s') is not two tokens with one space between", MERGES,
                              rank, gguf_shown_bytes(merge), merge.data);
    int32_t left = tokenizer_find(t, joined, left_bytes);
    int32_t right = tokenizer_find(t, joined + left_bytes, right_bytes);
    int32_t token = tokenizer_find(t, joined, left_bytes + right_bytes);
    if (left < 0 || right < 0 || token < 0)
        return hotset_fail_at(
            err, HOTSET_E_FORMAT, key->offset_bytes,
            "key '%s': item %u ('%.*s') names or makes a token that tokenizer.ggml.tokens lacks", MERGES,
            rank, gguf_shown_bytes(merge), merge.data);
    merge_slot *slot = find_slot(model, (uint32_t)left, (uint32_t)right);
    if (!slot->left_1) *slot = (merge_slot){(uint32_t)left + 1, (uint32_t)right, rank, token};
    return HOTSET_OK;
}

static hotset_status load_merges(const hotset_tokenizer *t, bpe_model *model, const gguf *g,
                                 hotset_error *err) {
    const gguf_key *key;
    uint64_t cursor = 0, slot_n = 16;
    HOTSET_TRY(tokenizer_find_array(g, MERGES, true, 0, &key, err));
    if (!key)
        return hotset_fail(err, HOTSET_E_FORMAT, "key '%s' is missing (byte-level BPE needs it)", MERGES);
    if (key->item_n >= INT32_MAX)
        return hotset_fail_at(err, HOTSET_E_FORMAT, key->offset_bytes, "key '%s' has too many items", MERGES);
    while (slot_n < 2 * key->item_n) slot_n *= 2;
    HOTSET_TRY(base_calloc(&model->slots, slot_n, sizeof *model->slots, "merges", err));
    model->slot_mask = slot_n - 1;
    for (uint32_t i = 0; i < key->item_n; i++)
        HOTSET_TRY(add_merge(t, model, key, i, gguf_next_string(key, &cursor), err));
    return HOTSET_OK;
}

hotset_status bpe_load(hotset_tokenizer *t, const gguf *g, const char *asked, hotset_error *err) {
    gguf_string pre = {"default", sizeof "default" - 1};
    HOTSET_TRY(base_calloc(&t->bpe, 1, sizeof *t->bpe, "merges", err));
    HOTSET_TRY(gguf_get_string(g, "tokenizer.ggml.pre", &pre, NULL, err));
    if (asked) pre = (gguf_string){asked, strlen(asked)};
    HOTSET_TRY(bpe_pre_open(&t->bpe->pre, pre, asked, err));
    t->add_bos = bpe_pre_adds_bos(t->bpe->pre);
    return load_merges(t, t->bpe, g, err);
}

void bpe_free(bpe_model *model) {
    if (!model) return;
    bpe_pre_free(model->pre);
    free(model->slots);
    free(model);
}

/* ---- Tokenizing ------------------------------------------------------------------------------------- */

static bool lookup(const tokenizer_work *w, const char *word, const merge_symbol *left,
                   const merge_symbol *right, uint32_t *priority, int32_t *token) {
    (void)word;
    if (left->token < 0 || right->token < 0) return false;
    const merge_slot *slot = find_slot(w->tokenizer->bpe, (uint32_t)left->token, (uint32_t)right->token);
    if (!slot->left_1) return false;
    *priority = slot->rank;
    *token = slot->token;
    return true;
}

static hotset_status tokenize_word(void *cookie, const char *word, size_t bytes) {
    tokenizer_work *w = cookie;
    const hotset_tokenizer *t = w->tokenizer;
    if (bpe_pre_whole_words(t->bpe->pre)) {
        int32_t token = tokenizer_find(t, word, bytes);
        if (token >= 0) {
            tokenizer_emit(w, token);
            return HOTSET_OK;
        }
    }
    HOTSET_TRY(tokenizer_reserve(&w->symbols, &w->symbol_max, bytes, sizeof *w->symbols, w->err));
    w->symbol_n = bytes;
    for (size_t i = 0; i < bytes; i++)
        w->symbols[i] =
            (merge_symbol){.offset = (uint32_t)i, .bytes = 1, .token = t->byte_tokens[(uint8_t)word[i]]};
    HOTSET_TRY(merge_run(w, word, lookup));
    for (uint32_t i = 0; i != MERGE_NONE; i = merge_next(w, i)) {
        const merge_symbol *s = &w->symbols[i];
        if (s->token >= 0)
            tokenizer_emit(w, s->token);
        else
            tokenizer_emit_byte(w, (uint8_t)word[s->offset]);
    }
    return HOTSET_OK;
}

/* Bytes of the valid UTF-8 at the beginning of `text`. */
static size_t valid_bytes(const char *text, size_t bytes) {
    size_t i = 0;
    while (i < bytes) {
        int n = tokenizer_utf8(text + i, bytes - i);
        if (n <= 0) break;
        i += (size_t)n;
    }
    return i;
}

/* Copies `text` to the work with U+FFFD for what is not UTF-8; returns the bytes. */
static hotset_status replace_invalid(tokenizer_work *w, const char *text, size_t bytes, size_t *out_bytes) {
    size_t n = 0;
    HOTSET_TRY(tokenizer_reserve(&w->text, &w->text_max, 3 * (uint64_t)bytes, 1, w->err));
    for (size_t i = 0; i < bytes;) {
        size_t valid = valid_bytes(text + i, bytes - i);
        memcpy(w->text + n, text + i, valid);
        n += valid;
        i += valid;
        if (i == bytes) break;
        int bad = tokenizer_utf8(text + i, bytes - i);
        memcpy(w->text + n, "\xEF\xBF\xBD", 3);
        n += 3;
        i += bad ? (size_t)-bad : bytes - i;
    }
    *out_bytes = n;
    return HOTSET_OK;
}

hotset_status bpe_tokenize(tokenizer_work *w, const char *text, size_t bytes) {
    if (valid_bytes(text, bytes) < bytes) { /* the expressions take nothing but UTF-8 */
        HOTSET_TRY(replace_invalid(w, text, bytes, &bytes));
        text = w->text;
    }
    if (!w->matcher) HOTSET_TRY(bpe_matcher_open(&w->matcher, w->err));
    return bpe_pre_split(w->tokenizer->bpe->pre, w->matcher, text, bytes, tokenize_word, w, w->err);
}
