/* activation_record.c - counts activations while a model runs: bitmaps in, sums out. */
#include "profiles/activation.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(ACTIVATION_CHUNK_TOKENS % (1 << (ACTIVATION_WINDOW_N - 1)) == 0,
               "then no window is open at the end of a full chunk");
_Static_assert(1 << (ACTIVATION_REUSE_N - 1) == ACTIVATION_CHUNK_TOKENS,
               "distances in a chunk end with the last bin");

/* What a layer remembers of the text. */
typedef struct layer_past {
    uint32_t token_n; /* added so far */
    uint32_t word_n;
    uint64_t *bits;    /* [word_n] units of the token being added */
    uint64_t *pending; /* [ACTIVATION_WINDOW_N - 1][word_n] row k: the union of the first half, of 2^k tokens,
                          of an open window of 2^(k+1) tokens */
    uint16_t *last;    /* [unit_n] place of the last use in the chunk, from 1 on; 0: not used yet. EXPERTS */
    const uint32_t *number; /* [unit_n] of a unit in the profile, borrowed; NULL: its own. Only sums per unit
                               need it: what is above has the units as they are added */
} layer_past;

struct activation_recorder {
    activation_profile *profile; /* borrowed */
    activation_corpus *corpus;   /* of the open text; NULL: none is open */
    layer_past *layer;           /* [profile->layer_n] */
};

/* ---- Life ------------------------------------------------------------------------------------------- */

static hotset_status past_alloc(layer_past *past, const activation_layer *layer, hotset_error *err) {
    if (!layer->count) return HOTSET_OK;
    past->word_n = activation_word_n(layer->unit_n);
    HOTSET_TRY(base_calloc(&past->bits, past->word_n, sizeof *past->bits, "a bitmap of units", err));
    HOTSET_TRY(base_calloc(&past->pending, (uint64_t)past->word_n * (ACTIVATION_WINDOW_N - 1),
                           sizeof *past->pending, "unions of units", err));
    if (layer->kind == ACTIVATION_EXPERTS)
        HOTSET_TRY(base_calloc(&past->last, layer->unit_n, sizeof *past->last, "last uses of experts", err));
    return HOTSET_OK;
}

hotset_status activation_recorder_open(activation_recorder **out, activation_profile *profile,
                                       hotset_error *err) {
    activation_recorder *r;
    *out = NULL;
    HOTSET_TRY(base_calloc(&r, 1, sizeof *r, "a recorder of activations", err));
    r->profile = profile;
    hotset_status status = base_calloc(&r->layer, profile->layer_n, sizeof *r->layer, "a recorder", err);
    for (uint32_t i = 0; i < profile->layer_n && status == HOTSET_OK; i++)
        status = past_alloc(&r->layer[i], &profile->layer[i], err);
    if (status == HOTSET_OK)
        *out = r;
    else
        activation_recorder_free(r);
    return status;
}

void activation_recorder_free(activation_recorder *r) {
    if (!r) return;
    for (uint32_t i = 0; r->layer && i < r->profile->layer_n; i++) {
        free(r->layer[i].bits);
        free(r->layer[i].pending);
        free(r->layer[i].last);
    }
    free(r->layer);
    free(r);
}

void activation_recorder_number(activation_recorder *r, uint32_t layer_i, const uint32_t *number) {
    assert(!r->corpus && layer_i < r->profile->layer_n);
    r->layer[layer_i].number = number;
}

/* ---- Texts ------------------------------------------------------------------------------------------ */

hotset_status activation_begin_text(activation_recorder *r, uint64_t hash, const char *name,
                                    hotset_error *err) {
    activation_profile *p = r->profile;
    assert(!r->corpus);
    /* room for any text, so that nothing can overflow while it is recorded */
    if (p->token_n > ACTIVATION_TOKEN_MAX - UINT32_MAX || activation_text_n(p) == ACTIVATION_TOKEN_MAX)
        return hotset_fail(err, HOTSET_E_ARGUMENT,
                           "the profile has %" PRId64 " tokens; a further text could exceed %" PRId64,
                           p->token_n, ACTIVATION_TOKEN_MAX);
    HOTSET_TRY(activation_add_corpus(p, hash, name, &r->corpus, err));
    r->corpus->text_n++;
    for (uint32_t i = 0; i < p->layer_n; i++) r->layer[i].token_n = 0;
    return HOTSET_OK;
}

hotset_status activation_end_text(activation_recorder *r, hotset_error *err) {
    activation_profile *p = r->profile;
    activation_corpus *corpus = r->corpus;
    uint32_t token_n = 0, first_i = p->layer_n;
    assert(corpus);
    r->corpus = NULL;
    for (uint32_t i = 0; i < p->layer_n; i++) {
        if (p->layer[i].kind == ACTIVATION_NONE) continue;
        if (first_i == p->layer_n) {
            first_i = i;
            token_n = r->layer[i].token_n;
        }
        if (r->layer[i].token_n != token_n)
            return hotset_fail(err, HOTSET_E_ARGUMENT,
                               "layer %u saw %u tokens of a text of '%s', layer %u saw %u", first_i, token_n,
                               corpus->name, i, r->layer[i].token_n);
    }
    corpus->token_n += token_n;
    p->token_n += token_n;
    p->chunk_n += ((int64_t)token_n + ACTIVATION_CHUNK_TOKENS - 1) / ACTIVATION_CHUNK_TOKENS;
    for (int k = 0; k < ACTIVATION_WINDOW_N; k++) p->window_n[k] += token_n >> k;
    return HOTSET_OK;
}

/* ---- Tokens ----------------------------------------------------------------------------------------- */

/* The layer to count in, which must be of this kind; *past is what it remembers. */
static activation_layer *begin_token(activation_recorder *r, uint32_t layer_i, activation_kind kind,
                                     layer_past **past) {
    assert(r->corpus && layer_i < r->profile->layer_n && r->profile->layer[layer_i].kind == kind);
    *past = &r->layer[layer_i];
    assert((*past)->token_n < UINT32_MAX);
    return &r->profile->layer[layer_i];
}

/* A unit's place in the profile. */
static uint32_t place_of(const layer_past *past, uint32_t unit_i) {
    return past->number ? past->number[unit_i] : unit_i;
}

static int64_t count_bits(const uint64_t *bits, uint32_t word_n) {
    int64_t n = 0;
    for (uint32_t i = 0; i < word_n; i++) n += __builtin_popcountll(bits[i]);
    return n;
}

/* Ends a token whose units are in past->bits (which it overwrites) and number `active_n`. Like a carry in a
 * binary counter of tokens: a second half joins the first one that waits for it, and their union is again a
 * half. So a token costs two unions at most on average. */
static void close_windows(activation_layer *layer, layer_past *past, int64_t active_n) {
    uint32_t place = past->token_n++ % ACTIVATION_CHUNK_TOKENS, k = 0;
    layer->union_n[0] += active_n;
    for (; k < ACTIVATION_WINDOW_N - 1 && place >> k & 1; k++) {
        const uint64_t *first = past->pending + (size_t)k * past->word_n;
        for (uint32_t i = 0; i < past->word_n; i++) past->bits[i] |= first[i];
        layer->union_n[k + 1] += count_bits(past->bits, past->word_n);
    }
    if (k < ACTIVATION_WINDOW_N - 1)
        memcpy(past->pending + (size_t)k * past->word_n, past->bits, past->word_n * sizeof *past->bits);
}

void activation_add_bits(activation_recorder *r, uint32_t layer_i, const uint64_t *bits) {
    layer_past *past;
    activation_layer *layer = begin_token(r, layer_i, ACTIVATION_NEURONS, &past);
    int64_t active_n = 0;
    assert(layer->unit_n % 64 == 0 || bits[past->word_n - 1] >> layer->unit_n % 64 == 0);
    for (uint32_t i = 0; i < past->word_n; i++)
        for (uint64_t left = bits[i]; left; left &= left - 1, active_n++)
            layer->count[place_of(past, i * 64 + (uint32_t)__builtin_ctzll(left))]++;
    memcpy(past->bits, bits, past->word_n * sizeof *bits);
    close_windows(layer, past, active_n);
}

/* Counts a use of a unit and marks it in the token's bitmap; false where it was marked already. */
static bool use_unit(activation_layer *layer, layer_past *past, uint32_t unit_i) {
    uint64_t *word = &past->bits[unit_i / 64], bit = (uint64_t)1 << unit_i % 64;
    if (*word & bit) return false;
    *word |= bit;
    layer->count[place_of(past, unit_i)]++;
    return true;
}

void activation_add_list(activation_recorder *r, uint32_t layer_i, const uint32_t *ids, uint32_t id_n) {
    layer_past *past;
    activation_layer *layer = begin_token(r, layer_i, ACTIVATION_NEURONS, &past);
    memset(past->bits, 0, past->word_n * sizeof *past->bits);
    for (uint32_t i = 0; i < id_n; i++) {
        assert(ids[i] < layer->unit_n);
        bool first = use_unit(layer, past, ids[i]);
        assert(first);
    }
    close_windows(layer, past, id_n);
}

/* A router weight in units of 2^-20, rounded to nearest, halves to even. */
static int64_t mass_of(float weight) {
    float mass = weight * (1 << ACTIVATION_MASS_BITS);
    if (!(mass > 0)) return 0;
    return mass < ACTIVATION_MASS_MAX ? llrintf(mass) : ACTIVATION_MASS_MAX;
}

/* 0 for a first use, else 1 + floor(log2(distance)). */
static uint32_t reuse_bin(uint32_t last, uint32_t now) {
    return last ? 32 - (uint32_t)__builtin_clz(now - last) : 0;
}

void activation_add_experts(activation_recorder *r, uint32_t layer_i, const uint32_t *ids,
                            const float *weights, uint32_t id_n) {
    layer_past *past;
    activation_layer *layer = begin_token(r, layer_i, ACTIVATION_EXPERTS, &past);
    uint32_t now = past->token_n % ACTIVATION_CHUNK_TOKENS + 1, used_n = 0;
    if (now == 1) memset(past->last, 0, layer->unit_n * sizeof *past->last);
    memset(past->bits, 0, past->word_n * sizeof *past->bits);
    for (uint32_t i = 0; i < id_n; i++) {
        uint32_t id = ids[i];
        assert(id < layer->unit_n);
        if (!use_unit(layer, past, id)) continue;
        used_n++;
        layer->mass[place_of(past, id)] += mass_of(weights[i]);
        layer->reuse_n[reuse_bin(past->last[id], now)]++;
        past->last[id] = (uint16_t)now;
    }
    close_windows(layer, past, used_n);
}

void activation_add_sizes(activation_recorder *r, uint32_t layer_i, const float *values) {
    layer_past *past;
    activation_layer *layer = begin_token(r, layer_i, ACTIVATION_SIZES, &past);
    for (uint32_t i = 0; i < layer->unit_n; i++) layer->size_n[activation_size_bin(values[i])]++;
    past->token_n++;
}

void activation_add_binned(activation_recorder *r, uint32_t layer_i, const uint32_t *binned) {
    layer_past *past;
    activation_layer *layer = begin_token(r, layer_i, ACTIVATION_SIZES, &past);
    for (uint32_t k = 0; k < ACTIVATION_SIZE_N; k++) layer->size_n[k] += binned[k];
    past->token_n++;
}
