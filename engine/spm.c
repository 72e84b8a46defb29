/* spm.c - SentencePiece's BPE: the neighbours whose joined text has the best score are joined first.
 *
 * Kudo and Richardson, "SentencePiece" (2018). Text is split into characters; a character that no token has
 * is spelled by its bytes. The rules that are not in a vocabulary (a space before every stretch of text,
 * U+2581 in the input is a space) are those of the models' own tokenizer, so that ids agree with training.
 */
#include "engine/tokenizer.h"

#include <math.h>
#include <string.h>

static const char SPACE_MARK[] = "\xE2\x96\x81"; /* U+2581 */
enum { SPACE_MARK_BYTES = sizeof SPACE_MARK - 1 };

/* Writes `text` with every space mark turned into a space; returns the bytes. */
static size_t marks_to_spaces(const char *text, size_t bytes, char *out) {
    size_t n = 0;
    for (size_t i = 0; i < bytes;) {
        if (bytes - i >= SPACE_MARK_BYTES && !memcmp(text + i, SPACE_MARK, SPACE_MARK_BYTES)) {
            out[n++] = ' ';
            i += SPACE_MARK_BYTES;
        } else {
            out[n++] = text[i++];
        }
    }
    return n;
}

size_t spm_unescape(gguf_string text, char *out) {
    return marks_to_spaces(text.data, (size_t)text.bytes, out);
}

/* Maps floats to integers in falling order: the bits of IEEE numbers of one sign are ordered already. */
static uint32_t falling_order(float score) {
    uint32_t bits;
    score += 0.0f; /* -0 becomes +0 */
    memcpy(&bits, &score, sizeof bits);
    return bits >> 31 ? bits : ~(bits | UINT32_C(1) << 31);
}

static bool has_inner_space(const char *text, size_t bytes) {
    for (size_t i = 1; i < bytes; i++)
        if (text[i] == ' ' && text[i - 1] != ' ') return true;
    return false;
}

hotset_status spm_load(hotset_tokenizer *t, const gguf *g, hotset_error *err) {
    const gguf_key *scores;
    HOTSET_TRY(tokenizer_find_array(g, "tokenizer.ggml.scores", false, t->vocab_n, &scores, err));
    if (!scores)
        return hotset_fail(err, HOTSET_E_FORMAT,
                           "key 'tokenizer.ggml.scores' is missing (SentencePiece needs it)");
    HOTSET_TRY(base_calloc(&t->spm_priorities, t->vocab_n, sizeof *t->spm_priorities, "token scores", err));
    t->spm_by_word = true;
    for (uint32_t i = 0; i < t->vocab_n; i++) {
        double score = gguf_item_f64(scores, i);
        if (isnan(score))
            return hotset_fail_at(err, HOTSET_E_FORMAT, scores->offset_bytes,
                                  "key 'tokenizer.ggml.scores': item %u is not a number", i);
        t->spm_priorities[i] = falling_order((float)score);
        const token_entry *entry = &t->entries[i];
        if (entry->joinable && has_inner_space(tokenizer_entry_text(t, entry), entry->bytes))
            t->spm_by_word = false;
    }
    return HOTSET_OK;
}

static bool lookup(const tokenizer_work *w, const char *word, const merge_symbol *left,
                   const merge_symbol *right, uint32_t *priority, int32_t *token) {
    uint32_t bytes = left->bytes + right->bytes;
    if (bytes > w->tokenizer->joined_bytes_max) return false;
    *token = tokenizer_find(w->tokenizer, word + left->offset, bytes);
    if (*token < 0) return false;
    *priority = w->tokenizer->spm_priorities[*token];
    return true;
}

static hotset_status tokenize_word(tokenizer_work *w, const char *word, size_t bytes) {
    HOTSET_TRY(tokenizer_reserve(&w->symbols, &w->symbol_max, bytes, sizeof *w->symbols, w->err));
    w->symbol_n = 0;
    for (size_t i = 0; i < bytes;) {
        int n = tokenizer_utf8(word + i, bytes - i);
        if (n <= 0) n = 1; /* not UTF-8: byte by byte */
        w->symbols[w->symbol_n++] =
            (merge_symbol){.offset = (uint32_t)i,
                           .bytes = (uint32_t)n,
                           .token = tokenizer_find(w->tokenizer, word + i, (size_t)n)};
        i += (size_t)n;
    }
    HOTSET_TRY(merge_run(w, word, lookup));
    for (uint32_t i = 0; i != MERGE_NONE; i = merge_next(w, i)) {
        const merge_symbol *s = &w->symbols[i];
        if (s->token >= 0)
            tokenizer_emit(w, s->token);
        else
            for (uint32_t b = 0; b < s->bytes; b++) tokenizer_emit_byte(w, (uint8_t)word[s->offset + b]);
    }
    return HOTSET_OK;
}

hotset_status spm_tokenize(tokenizer_work *w, const char *text, size_t bytes) {
    const hotset_tokenizer *t = w->tokenizer;
    HOTSET_TRY(tokenizer_reserve(&w->text, &w->text_max, (uint64_t)bytes + 1, 1, w->err));
    size_t prefix = t->add_space_prefix ? 1 : 0;
    if (prefix) w->text[0] = ' ';
    size_t n = prefix + marks_to_spaces(text, bytes, w->text + prefix);
    for (size_t start = 0, end; start < n; start = end) {
        for (end = start + 1; end < n; end++)
            if (t->spm_by_word && w->text[end] == ' ' && w->text[end - 1] != ' ') break;
        HOTSET_TRY(tokenize_word(w, w->text + start, end - start));
    }
    return HOTSET_OK;
}
