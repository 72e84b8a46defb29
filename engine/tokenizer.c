/* tokenizer.c - opens the tokenizer of a GGUF file, and splits text at special tokens before spm.c or bpe.c
 * take over. */
#include "engine/tokenizer.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

static const char TOKENS[] = "tokenizer.ggml.tokens";
static const char TOKEN_TYPES[] = "tokenizer.ggml.token_type";

/* Harmony (gpt-oss) ends a message with <|end|> and goes on; a file that has both of the others speaks it. */
enum { END_OF_MESSAGE, END_RETURN, END_CALL };

/* Tokens that end a generation whatever the file says of them: files name one such token at most, and some
 * forget its type. Only names that no ordinary text contains. */
static const char *const END_NAMES[] = {
    [END_OF_MESSAGE] = "<|end|>",
    [END_RETURN] = "<|return|>",
    [END_CALL] = "<|call|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
};

/* ---- Reading keys ----------------------------------------------------------------------------------- */

hotset_status tokenizer_find_array(const gguf *g, const char *name, bool strings, uint64_t item_n,
                                   const gguf_key **out, hotset_error *err) {
    const gguf_key *key = gguf_find_key(g, name);
    *out = key;
    if (!key) return HOTSET_OK;
    bool is_string = key->item_kind == GGUF_KIND_STRING;
    if (key->kind != GGUF_KIND_ARRAY || is_string != strings || key->item_kind == GGUF_KIND_BOOL)
        return hotset_fail_at(err, HOTSET_E_FORMAT, key->offset_bytes, "key '%s' is not an array of %s", name,
                              strings ? "strings" : "numbers");
    if (item_n && key->item_n != item_n)
        return hotset_fail_at(err, HOTSET_E_FORMAT, key->offset_bytes,
                              "key '%s' has %llu items for %llu tokens", name,
                              (unsigned long long)key->item_n, (unsigned long long)item_n);
    return HOTSET_OK;
}

/* Reads a token id; absent keeps -1. */
static hotset_status read_id(const hotset_tokenizer *t, const gguf *g, const char *name, int32_t *out,
                             hotset_error *err) {
    uint32_t id = 0;
    bool found = false;
    HOTSET_TRY(gguf_get_u32(g, name, &id, &found, err));
    if (found && id >= t->vocab_n)
        return hotset_fail(err, HOTSET_E_FORMAT, "key '%s' is %u, but there are %u tokens", name, id,
                           t->vocab_n);
    *out = found ? (int32_t)id : -1;
    return HOTSET_OK;
}

static hotset_status read_type(const gguf_key *types, uint32_t token, uint8_t *out, hotset_error *err) {
    int64_t type = types ? gguf_item_i64(types, token) : TOKEN_NORMAL;
    if (type < 0 || type >= TOKEN_TYPE_COUNT)
        return hotset_fail_at(err, HOTSET_E_FORMAT, types->offset_bytes,
                              "key '%s': item %u has unknown type %lld", TOKEN_TYPES, token, (long long)type);
    *out = (uint8_t)type;
    return HOTSET_OK;
}

/* ---- Vocabulary ------------------------------------------------------------------------------------- */

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* "<0x0A>" to its byte, or -1. */
static int byte_of_name(gguf_string text) {
    if (text.bytes != 6 || memcmp(text.data, "<0x", 3) != 0 || text.data[5] != '>') return -1;
    int high = hex_digit(text.data[3]), low = hex_digit(text.data[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/* Undoes the file's escapes for one token: fills `entry`, advances *pool_n. */
static hotset_status set_text(hotset_tokenizer *t, bool is_bpe, const gguf_key *tokens, uint32_t token,
                              gguf_string text, uint32_t *pool_n, hotset_error *err) {
    token_entry *entry = &t->entries[token];
    char *out = t->pool + *pool_n;
    size_t bytes = (size_t)text.bytes;
    if (entry->type == TOKEN_BYTE && !is_bpe) {
        int byte = byte_of_name(text);
        if (byte < 0)
            return hotset_fail_at(err, HOTSET_E_FORMAT, tokens->offset_bytes,
                                  "key '%s': item %u ('%.*s') is a byte token, but not <0xXX>", TOKENS, token,
                                  gguf_shown_bytes(text), text.data);
        *out = (char)byte;
        bytes = 1;
        t->byte_tokens[byte] = (int32_t)token;
    } else if (token_is_special(entry->type)) {
        memcpy(out, text.data, bytes);
        /* BPE files may list an added token among the merges too. */
        entry->joinable = is_bpe && entry->type == TOKEN_USER_DEFINED && bytes > 0;
    } else if (is_bpe) {
        entry->joinable = bpe_unescape(text, out, &bytes) && bytes > 0;
        if (!entry->joinable) memcpy(out, text.data, bytes = (size_t)text.bytes);
    } else {
        bytes = spm_unescape(text, out);
        entry->joinable = bytes > 0;
    }
    entry->offset = *pool_n;
    entry->bytes = (uint16_t)bytes;
    *pool_n += (uint32_t)bytes;
    return HOTSET_OK;
}

/* Remembers a token that ends a generation by its name, and gives it the type that such a token has. */
static void note_end(hotset_tokenizer *t, uint32_t token, gguf_string text,
                     int32_t ends[COUNT_OF(END_NAMES)]) {
    for (size_t i = 0; i < COUNT_OF(END_NAMES); i++) {
        if (ends[i] >= 0 || !gguf_string_is(text, END_NAMES[i])) continue;
        ends[i] = (int32_t)token;
        t->entries[token].type = TOKEN_CONTROL;
    }
}

static void add_end(hotset_tokenizer *t, int32_t token) {
    if (token >= 0 && !hotset_tokenizer_is_end(t, token)) t->ends[t->end_n++] = token;
}

/* Counts and bounds the tokens before anything is allocated for them. */
static hotset_status measure_tokens(hotset_tokenizer *t, const gguf_key *tokens, uint64_t *text_bytes,
                                    hotset_error *err) {
    uint64_t cursor = 0;
    *text_bytes = 0;
    if (tokens->item_n == 0 || tokens->item_n > INT32_MAX)
        return hotset_fail_at(err, HOTSET_E_FORMAT, tokens->offset_bytes, "key '%s' has %llu items", TOKENS,
                              (unsigned long long)tokens->item_n);
    t->vocab_n = (uint32_t)tokens->item_n;
    for (uint32_t i = 0; i < t->vocab_n; i++) {
        gguf_string text = gguf_next_string(tokens, &cursor);
        if (text.bytes > TOKENIZER_TOKEN_BYTES_MAX)
            return hotset_fail_at(err, HOTSET_E_FORMAT, tokens->offset_bytes,
                                  "key '%s': item %u has %llu bytes, limit %d", TOKENS, i,
                                  (unsigned long long)text.bytes, TOKENIZER_TOKEN_BYTES_MAX);
        *text_bytes += text.bytes;
    }
    if (*text_bytes > UINT32_MAX)
        return hotset_fail_at(err, HOTSET_E_FORMAT, tokens->offset_bytes,
                              "key '%s' has more than 4 GiB of text", TOKENS);
    return HOTSET_OK;
}

static hotset_status load_tokens(hotset_tokenizer *t, const gguf *g, bool is_bpe, hotset_error *err) {
    const gguf_key *tokens, *types;
    uint64_t cursor = 0, text_bytes;
    uint32_t pool_n = 0;
    int32_t ends[COUNT_OF(END_NAMES)];
    _Static_assert(COUNT_OF(END_NAMES) + 3 <= COUNT_OF(t->ends), "EOS, EOT, EOM and all names fit");
    HOTSET_TRY(tokenizer_find_array(g, TOKENS, true, 0, &tokens, err));
    if (!tokens) return hotset_fail(err, HOTSET_E_FORMAT, "key '%s' is missing", TOKENS);
    HOTSET_TRY(measure_tokens(t, tokens, &text_bytes, err));
    HOTSET_TRY(tokenizer_find_array(g, TOKEN_TYPES, false, t->vocab_n, &types, err));
    HOTSET_TRY(base_calloc(&t->entries, t->vocab_n, sizeof *t->entries, "tokens", err));
    HOTSET_TRY(base_calloc(&t->pool, text_bytes, 1, "the text of tokens", err));
    for (size_t i = 0; i < COUNT_OF(ends); i++) ends[i] = -1;
    for (size_t i = 0; i < COUNT_OF(t->byte_tokens); i++) t->byte_tokens[i] = -1;
    for (uint32_t i = 0; i < t->vocab_n; i++) {
        gguf_string text = gguf_next_string(tokens, &cursor);
        HOTSET_TRY(read_type(types, i, &t->entries[i].type, err));
        note_end(t, i, text, ends);
        HOTSET_TRY(set_text(t, is_bpe, tokens, i, text, &pool_n, err));
    }
    if (ends[END_RETURN] >= 0 && ends[END_CALL] >= 0) ends[END_OF_MESSAGE] = -1;
    for (size_t i = 0; i < COUNT_OF(ends); i++) add_end(t, ends[i]);
    return HOTSET_OK;
}

/* ---- Tokens by text --------------------------------------------------------------------------------- */

static text_slot *find_slot(const hotset_tokenizer *t, const char *text, size_t bytes, uint32_t *tag) {
    uint64_t hash = XXH3_64bits(text, bytes);
    *tag = (uint32_t)(hash >> 32);
    for (uint64_t i = hash;; i++) {
        text_slot *slot = &t->table[i & t->table_mask];
        if (!slot->token_1) return slot;
        const token_entry *entry = &t->entries[slot->token_1 - 1];
        if (slot->tag == *tag && entry->bytes == bytes &&
            !memcmp(tokenizer_entry_text(t, entry), text, bytes))
            return slot;
    }
}

int32_t tokenizer_find(const hotset_tokenizer *t, const char *text, size_t bytes) {
    uint32_t tag;
    return (int32_t)find_slot(t, text, bytes, &tag)->token_1 - 1;
}

/* Enters the joinable tokens that are, or are not, the user's: the vocabulary's own go first and win. */
static void enter_tokens(hotset_tokenizer *t, bool user_defined) {
    for (uint32_t i = 0; i < t->vocab_n; i++) {
        const token_entry *entry = &t->entries[i];
        uint32_t tag;
        if (!entry->joinable || (entry->type == TOKEN_USER_DEFINED) != user_defined) continue;
        text_slot *slot = find_slot(t, tokenizer_entry_text(t, entry), entry->bytes, &tag);
        if (slot->token_1) continue;
        *slot = (text_slot){tag, i + 1};
        if (entry->bytes > t->joined_bytes_max) t->joined_bytes_max = entry->bytes;
    }
}

static hotset_status build_table(hotset_tokenizer *t, bool is_bpe, hotset_error *err) {
    uint64_t slot_n = 16;
    while (slot_n < 2 * (uint64_t)t->vocab_n) slot_n *= 2;
    HOTSET_TRY(base_calloc(&t->table, slot_n, sizeof *t->table, "tokens by text", err));
    t->table_mask = slot_n - 1;
    enter_tokens(t, false);
    enter_tokens(t, true);
    for (unsigned byte = 0; is_bpe && byte < 256; byte++) {
        char text = (char)byte;
        t->byte_tokens[byte] = tokenizer_find(t, &text, 1);
    }
    return HOTSET_OK;
}

/* ---- Special tokens --------------------------------------------------------------------------------- */

static int compare_specials(const void *a, const void *b) {
    const special_entry *x = a, *y = b;
    int order = memcmp(x->text, y->text, x->bytes < y->bytes ? x->bytes : y->bytes);
    if (order) return order;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? -1 : 1;
    return x->token < y->token ? -1 : x->token > y->token;
}

static hotset_status build_specials(hotset_tokenizer *t, hotset_error *err) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->vocab_n; i++)
        n += token_is_special(t->entries[i].type) && t->entries[i].bytes;
    HOTSET_TRY(base_calloc(&t->specials, n, sizeof *t->specials, "special tokens", err));
    for (uint32_t i = 0; i < t->vocab_n; i++) {
        const token_entry *entry = &t->entries[i];
        if (!token_is_special(entry->type) || !entry->bytes) continue;
        t->specials[t->special_n++] =
            (special_entry){tokenizer_entry_text(t, entry), entry->bytes, (int32_t)i};
        t->has_user_defined |= entry->type == TOKEN_USER_DEFINED;
    }
    qsort(t->specials, n, sizeof *t->specials, compare_specials);
    for (uint32_t i = 0; i < n; i++) t->special_start[(uint8_t)t->specials[i].text[0] + 1]++;
    for (size_t byte = 0; byte < 256; byte++) t->special_start[byte + 1] += t->special_start[byte];
    return HOTSET_OK;
}

/* First special of [low, high), all longer than `depth` and equal up to there, whose next byte is at least
 * `byte`. */
static uint32_t special_bound(const hotset_tokenizer *t, uint32_t low, uint32_t high, uint32_t depth,
                              unsigned byte) {
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if ((uint8_t)t->specials[middle].text[depth] < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The longest special token that `text` begins with, NULL when there is none: a walk down the sorted list,
 * narrowed byte by byte. Without `all`, only those of the user. */
static const special_entry *match_special(const hotset_tokenizer *t, const char *text, size_t bytes,
                                          bool all) {
    const special_entry *best = NULL;
    uint32_t low = t->special_start[(uint8_t)text[0]], high = t->special_start[(uint8_t)text[0] + 1];
    for (uint32_t depth = 1; low < high; depth++) {
        for (; low < high && t->specials[low].bytes == depth; low++) {
            bool wanted = all || t->entries[t->specials[low].token].type == TOKEN_USER_DEFINED;
            if (wanted && (!best || best->bytes < depth)) best = &t->specials[low];
        }
        if (depth == bytes) break;
        unsigned byte = (uint8_t)text[depth];
        low = special_bound(t, low, high, depth, byte);
        high = special_bound(t, low, high, depth, byte + 1);
    }
    return best;
}

/* ---- Opening ---------------------------------------------------------------------------------------- */

static hotset_status load_flags(hotset_tokenizer *t, const gguf *g, hotset_error *err) {
    int32_t eot, eom;
    HOTSET_TRY(read_id(t, g, "tokenizer.ggml.bos_token_id", &t->bos, err));
    HOTSET_TRY(read_id(t, g, "tokenizer.ggml.eos_token_id", &t->eos, err));
    HOTSET_TRY(read_id(t, g, "tokenizer.ggml.eot_token_id", &eot, err));
    HOTSET_TRY(read_id(t, g, "tokenizer.ggml.eom_token_id", &eom, err));
    HOTSET_TRY(read_id(t, g, "tokenizer.ggml.unknown_token_id", &t->unknown, err));
    add_end(t, t->eos);
    add_end(t, eot);
    add_end(t, eom);
    HOTSET_TRY(gguf_get_bool(g, "tokenizer.ggml.add_bos_token", &t->add_bos, NULL, err));
    HOTSET_TRY(gguf_get_bool(g, "tokenizer.ggml.add_eos_token", &t->add_eos, NULL, err));
    if (!t->bpe)
        HOTSET_TRY(gguf_get_bool(g, "tokenizer.ggml.add_space_prefix", &t->add_space_prefix, NULL, err));
    return HOTSET_OK;
}

static hotset_status load(hotset_tokenizer *t, const gguf *g, const char *pre, hotset_error *err) {
    gguf_string model;
    bool found;
    HOTSET_TRY(gguf_get_string(g, "tokenizer.ggml.model", &model, &found, err));
    if (!found)
        return hotset_fail(err, HOTSET_E_FORMAT, "key 'tokenizer.ggml.model' is missing: no tokenizer");
    bool is_bpe = gguf_string_is(model, "gpt2");
    if (!is_bpe && !gguf_string_is(model, "llama"))
        return hotset_fail(
            err, HOTSET_E_UNSUPPORTED,
            "key 'tokenizer.ggml.model': tokenizer '%.*s' is not supported (llama and gpt2 are)",
            gguf_shown_bytes(model), model.data);
    if (pre && !is_bpe)
        return hotset_fail(err, HOTSET_E_ARGUMENT,
                           "pre-tokenizer '%s': the file's tokenizer is SentencePiece, which has none", pre);
    HOTSET_TRY(load_tokens(t, g, is_bpe, err));
    HOTSET_TRY(build_table(t, is_bpe, err));
    HOTSET_TRY(build_specials(t, err));
    if (is_bpe) {
        HOTSET_TRY(bpe_load(t, g, pre, err));
    } else {
        t->add_bos = t->add_space_prefix =
            true; /* SentencePiece models expect both unless the file says no */
        HOTSET_TRY(spm_load(t, g, err));
    }
    return load_flags(t, g, err);
}

hotset_status tokenizer_make(hotset_tokenizer **out, const gguf *g, const char *pre, hotset_error *err) {
    hotset_tokenizer *t;
    *out = NULL;
    HOTSET_TRY(base_calloc(&t, 1, sizeof *t, "tokenizer", err));
    hotset_status status = load(t, g, pre, err);
    if (status == HOTSET_OK)
        *out = t;
    else
        hotset_tokenizer_free(t);
    return status;
}

hotset_status hotset_tokenizer_open(hotset_tokenizer **out, const char *path,
                                    const hotset_model_options *options, hotset_error *err) {
    gguf *g;
    if (!out) return hotset_fail(err, HOTSET_E_ARGUMENT, "no place for the tokenizer");
    *out = NULL;
    if (!path) return hotset_fail(err, HOTSET_E_ARGUMENT, "no path");
    HOTSET_TRY(gguf_open(&g, path, err));
    hotset_status status = tokenizer_make(out, g, options ? options->pre : NULL, err);
    gguf_free(g);
    return status;
}

void hotset_tokenizer_free(hotset_tokenizer *t) {
    if (!t) return;
    bpe_free(t->bpe);
    free(t->spm_priorities);
    free(t->specials);
    free(t->table);
    free(t->pool);
    free(t->entries);
    free(t);
}

size_t hotset_tokenizer_vocab_n(const hotset_tokenizer *t) { return t->vocab_n; }
int32_t hotset_tokenizer_bos(const hotset_tokenizer *t) { return t->bos; }
int32_t hotset_tokenizer_eos(const hotset_tokenizer *t) { return t->eos; }

bool hotset_tokenizer_is_end(const hotset_tokenizer *t, int32_t token) {
    for (uint32_t i = 0; i < t->end_n; i++)
        if (t->ends[i] == token) return true;
    return false;
}

/* ---- Tokenizing ------------------------------------------------------------------------------------- */

void tokenizer_emit_byte(tokenizer_work *w, uint8_t byte) {
    int32_t token = w->tokenizer->byte_tokens[byte];
    if (token < 0) token = w->tokenizer->unknown;
    if (token >= 0) tokenizer_emit(w, token);
}

static hotset_status tokenize_stretch(tokenizer_work *w, const char *text, size_t bytes) {
    if (!bytes) return HOTSET_OK;
    return w->tokenizer->bpe ? bpe_tokenize(w, text, bytes) : spm_tokenize(w, text, bytes);
}

/* Special tokens go out as they are, the stretches between them through the tokenizer proper. */
static hotset_status tokenize_all(tokenizer_work *w, const char *text, size_t bytes, bool special) {
    const hotset_tokenizer *t = w->tokenizer;
    size_t start = 0;
    for (size_t i = 0; (special || t->has_user_defined) && i < bytes;) {
        const special_entry *found = match_special(t, text + i, bytes - i, special);
        if (!found) {
            i++;
            continue;
        }
        HOTSET_TRY(tokenize_stretch(w, text + start, i - start));
        tokenizer_emit(w, found->token);
        start = i += found->bytes;
    }
    return tokenize_stretch(w, text + start, bytes - start);
}

hotset_status hotset_tokenize(const hotset_tokenizer *t, const char *text, size_t text_bytes, unsigned flags,
                              int32_t *tokens, size_t token_max, size_t *token_n, hotset_error *err) {
    tokenizer_work w = {.tokenizer = t, .tokens = tokens, .token_max = token_max, .err = err};
    if (!t || !token_n || (!text && text_bytes) || (!tokens && token_max))
        return hotset_fail(err, HOTSET_E_ARGUMENT, "hotset_tokenize: a pointer is missing");
    *token_n = 0;
    if (flags & ~(unsigned)(HOTSET_TOKENIZE_BOS | HOTSET_TOKENIZE_SPECIAL))
        return hotset_fail(err, HOTSET_E_ARGUMENT, "hotset_tokenize: unknown flags %#x", flags);
    if (text_bytes > TOKENIZER_TEXT_BYTES_MAX)
        return hotset_fail(err, HOTSET_E_ARGUMENT, "hotset_tokenize: %zu bytes of text, limit %d", text_bytes,
                           TOKENIZER_TEXT_BYTES_MAX);
    bool ends = flags & HOTSET_TOKENIZE_BOS;
    if (ends && t->add_bos && t->bos >= 0) tokenizer_emit(&w, t->bos);
    if (!text) text = ""; /* no offset may be added to NULL, not even 0 */
    hotset_status status = tokenize_all(&w, text, text_bytes, flags & HOTSET_TOKENIZE_SPECIAL);
    if (ends && t->add_eos && t->eos >= 0) tokenizer_emit(&w, t->eos);
    if (status == HOTSET_OK) *token_n = w.token_n;
    free(w.symbols);
    free(w.pairs);
    free(w.text);
    bpe_matcher_free(w.matcher);
    return status;
}
