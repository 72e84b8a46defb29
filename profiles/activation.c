/* activation.c - activation profiles in memory: made, checked, compared, merged. */
#include "profiles/activation.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- Life ------------------------------------------------------------------------------------------- */

/* Copies what fits of a name, never half a UTF-8 character. */
static void copy_name(char name[ACTIVATION_NAME_BYTES], const char *text) {
    size_t bytes = strnlen(text, ACTIVATION_NAME_BYTES);
    if (bytes == ACTIVATION_NAME_BYTES) {
        bytes--;
        while (bytes && ((unsigned char)text[bytes] & 0xC0) == 0x80) bytes--;
    }
    memset(name, 0, ACTIVATION_NAME_BYTES);
    memcpy(name, text, bytes);
}

static bool counts_units(activation_kind kind) {
    return kind == ACTIVATION_NEURONS || kind == ACTIVATION_EXPERTS;
}

hotset_status activation_layer_alloc(activation_layer *layer, hotset_error *err) {
    if (counts_units(layer->kind))
        HOTSET_TRY(base_calloc(&layer->count, layer->unit_n, sizeof *layer->count, "activation counts", err));
    if (layer->kind == ACTIVATION_EXPERTS)
        HOTSET_TRY(base_calloc(&layer->mass, layer->unit_n, sizeof *layer->mass, "router weights", err));
    return HOTSET_OK;
}

static hotset_status check_units(uint32_t layer_i, activation_kind kind, uint32_t unit_n,
                                 hotset_status status, hotset_error *err) {
    if ((unsigned)kind >= ACTIVATION_KIND_COUNT)
        return hotset_fail(err, status, "layer %u has unknown kind %u", layer_i, (unsigned)kind);
    uint32_t unit_min = kind == ACTIVATION_NONE ? 0 : 1;
    uint32_t unit_max = kind == ACTIVATION_NONE ? 0 : ACTIVATION_UNIT_MAX;
    if (unit_n < unit_min || unit_n > unit_max)
        return hotset_fail(err, status, "layer %u has %u units, not %u to %u", layer_i, unit_n, unit_min,
                           unit_max);
    return HOTSET_OK;
}

static hotset_status check_head(const char *function, uint32_t layer_n, hotset_status status,
                                hotset_error *err) {
    size_t bytes = strnlen(function, ACTIVATION_FUNCTION_BYTES);
    if (bytes < 1 || bytes >= ACTIVATION_FUNCTION_BYTES)
        return hotset_fail(err, status, "the name of the activation function has not 1 to %d bytes",
                           ACTIVATION_FUNCTION_BYTES - 1);
    if (layer_n < 1 || layer_n > ACTIVATION_LAYER_MAX)
        return hotset_fail(err, status, "the profile has %u layers, not 1 to %d", layer_n,
                           ACTIVATION_LAYER_MAX);
    return HOTSET_OK;
}

static hotset_status fill(activation_profile *p, const activation_facts *facts, hotset_error *err) {
    p->shape = facts->shape;
    memcpy(p->function, facts->function, strlen(facts->function));
    HOTSET_TRY(base_calloc(&p->model, 1, sizeof *p->model, "the profiled model", err));
    p->model_n = 1;
    p->model->weights = facts->weights;
    copy_name(p->model->name, facts->name ? facts->name : "");
    HOTSET_TRY(base_calloc(&p->layer, facts->layer_n, sizeof *p->layer, "the layers of a profile", err));
    p->layer_n = facts->layer_n;
    for (uint32_t i = 0; i < p->layer_n; i++) {
        p->layer[i].kind = facts->layer[i].kind;
        p->layer[i].unit_n = facts->layer[i].unit_n;
        HOTSET_TRY(activation_layer_alloc(&p->layer[i], err));
    }
    return HOTSET_OK;
}

hotset_status activation_make(activation_profile **out, const activation_facts *facts, hotset_error *err) {
    activation_profile *p;
    *out = NULL;
    HOTSET_TRY(check_head(facts->function, facts->layer_n, HOTSET_E_ARGUMENT, err));
    for (uint32_t i = 0; i < facts->layer_n; i++)
        HOTSET_TRY(check_units(i, facts->layer[i].kind, facts->layer[i].unit_n, HOTSET_E_ARGUMENT, err));
    HOTSET_TRY(base_calloc(&p, 1, sizeof *p, "an activation profile", err));
    hotset_status status = fill(p, facts, err);
    if (status == HOTSET_OK)
        *out = p;
    else
        activation_free(p);
    return status;
}

void activation_free(activation_profile *p) {
    if (!p) return;
    for (uint32_t i = 0; p->layer && i < p->layer_n; i++) {
        free(p->layer[i].count);
        free(p->layer[i].mass);
    }
    free(p->layer);
    free(p->model);
    free(p->corpus);
    free(p);
}

int64_t activation_text_n(const activation_profile *p) {
    int64_t text_n = 0;
    for (uint32_t i = 0; i < p->corpus_n; i++) text_n += p->corpus[i].text_n;
    return text_n;
}

bool activation_has_hot_units(const activation_profile *p) {
    for (uint32_t i = 0; i < p->layer_n; i++)
        if (counts_units(p->layer[i].kind)) return true;
    return false;
}

/* Of two names of one corpus the first, so that merging does not depend on the order. */
static void choose_name(activation_corpus *corpus, const char name[ACTIVATION_NAME_BYTES]) {
    if (strcmp(name, corpus->name) < 0) memcpy(corpus->name, name, ACTIVATION_NAME_BYTES);
}

hotset_status activation_add_corpus(activation_profile *p, uint64_t hash, const char *name,
                                    activation_corpus **out, hotset_error *err) {
    activation_corpus corpus = {.hash = hash};
    uint32_t at = 0;
    copy_name(corpus.name, name);
    while (at < p->corpus_n && p->corpus[at].hash < hash) at++;
    if (at < p->corpus_n && p->corpus[at].hash == hash) {
        choose_name(&p->corpus[at], corpus.name);
    } else {
        if (p->corpus_n == ACTIVATION_CORPUS_MAX)
            return hotset_fail(err, HOTSET_E_ARGUMENT, "the profile would have more than %d corpora",
                               ACTIVATION_CORPUS_MAX);
        activation_corpus *grown = reallocarray(p->corpus, p->corpus_n + 1, sizeof *grown);
        if (!grown) return hotset_fail(err, HOTSET_E_MEMORY, "out of memory for the list of corpora");
        memmove(grown + at + 1, grown + at, (p->corpus_n - at) * sizeof *grown);
        grown[at] = corpus;
        p->corpus = grown;
        p->corpus_n++;
    }
    *out = &p->corpus[at];
    return HOTSET_OK;
}

/* ---- Checking --------------------------------------------------------------------------------------- */

static int compare_models(const activation_model *a, const activation_model *b) {
    if (a->weights != b->weights) return a->weights < b->weights ? -1 : 1;
    return strcmp(a->name, b->name);
}

static bool ends_with_nul(const char name[ACTIVATION_NAME_BYTES]) {
    return memchr(name, 0, ACTIVATION_NAME_BYTES) != NULL;
}

static hotset_status check_models(const activation_profile *p, hotset_error *err) {
    if (p->model_n < 1 || p->model_n > ACTIVATION_MODEL_MAX)
        return hotset_fail(err, HOTSET_E_FORMAT, "the profile has %u models, not 1 to %d", p->model_n,
                           ACTIVATION_MODEL_MAX);
    for (uint32_t i = 0; i < p->model_n; i++) {
        if (!ends_with_nul(p->model[i].name))
            return hotset_fail(err, HOTSET_E_FORMAT, "the name of model %u is too long", i);
        if (i > 0 && compare_models(&p->model[i - 1], &p->model[i]) >= 0)
            return hotset_fail(err, HOTSET_E_FORMAT, "model %u is not in ascending order", i);
    }
    return HOTSET_OK;
}

static hotset_status check_corpora(const activation_profile *p, hotset_error *err) {
    int64_t token_left = p->token_n, text_left = ACTIVATION_TOKEN_MAX;
    if (p->corpus_n > ACTIVATION_CORPUS_MAX)
        return hotset_fail(err, HOTSET_E_FORMAT, "the profile has %u corpora, more than %d", p->corpus_n,
                           ACTIVATION_CORPUS_MAX);
    for (uint32_t i = 0; i < p->corpus_n; i++) {
        const activation_corpus *c = &p->corpus[i];
        if (!ends_with_nul(c->name))
            return hotset_fail(err, HOTSET_E_FORMAT, "the name of corpus %u is too long", i);
        if (i > 0 && p->corpus[i - 1].hash >= c->hash)
            return hotset_fail(err, HOTSET_E_FORMAT, "corpus %u is not in ascending order of hashes", i);
        if (c->text_n < 1 || c->text_n > text_left)
            return hotset_fail(err, HOTSET_E_FORMAT, "corpus %u has %" PRId64 " texts, not 1 to %" PRId64, i,
                               c->text_n, text_left);
        if (c->token_n < 0 || c->token_n > token_left)
            return hotset_fail(err, HOTSET_E_FORMAT,
                               "corpus %u has %" PRId64 " tokens, of the profile's %" PRId64
                               " tokens only %" PRId64 " are left",
                               i, c->token_n, p->token_n, token_left);
        text_left -= c->text_n;
        token_left -= c->token_n;
    }
    if (token_left)
        return hotset_fail(err, HOTSET_E_FORMAT, "%" PRId64 " of %" PRId64 " tokens are of no corpus",
                           token_left, p->token_n);
    return HOTSET_OK;
}

/* Chunks and windows are as many as some division of the tokens into the texts would give. A text of n tokens
 * has floor(n / w) windows of w tokens, since chunks are full of windows but for the last. */
static hotset_status check_windows(const activation_profile *p, hotset_error *err) {
    int64_t text_n = activation_text_n(p);
    int64_t chunk_min = (p->token_n + ACTIVATION_CHUNK_TOKENS - 1) / ACTIVATION_CHUNK_TOKENS;
    int64_t chunk_max =
        (int64_t)min_u64((uint64_t)p->token_n, (uint64_t)(p->token_n / ACTIVATION_CHUNK_TOKENS + text_n));
    if (p->chunk_n < chunk_min || p->chunk_n > chunk_max)
        return hotset_fail(err, HOTSET_E_FORMAT, "chunk_n is %" PRId64 ", not %" PRId64 " to %" PRId64,
                           p->chunk_n, chunk_min, chunk_max);
    if (p->window_n[0] != p->token_n)
        return hotset_fail(err, HOTSET_E_FORMAT,
                           "there are %" PRId64 " windows of 1 token, but %" PRId64 " tokens", p->window_n[0],
                           p->token_n);
    for (int k = 1; k < ACTIVATION_WINDOW_N; k++) {
        int64_t max = p->window_n[k - 1] / 2;
        int64_t least = p->window_n[k - 1] - text_n; /* of the halves: one can be left over in each text */
        if (p->window_n[k] < 0 || p->window_n[k] > max || 2 * p->window_n[k] < least)
            return hotset_fail(err, HOTSET_E_FORMAT,
                               "there are %" PRId64 " windows of %d tokens, not %" PRId64 " to %" PRId64,
                               p->window_n[k], 1 << k, least > 0 ? (least + 1) / 2 : 0, max);
    }
    return HOTSET_OK;
}

/* A union has no more units than its two halves together, no fewer than half of that, and no more than there
 * are. Halves left over at the end of a text have at most unit_n units each. */
static hotset_status check_unions(const activation_profile *p, uint32_t layer_i, hotset_error *err) {
    const activation_layer *l = &p->layer[layer_i];
    for (int k = 1; k < ACTIVATION_WINDOW_N; k++) {
        int64_t left_over = p->window_n[k - 1] - 2 * p->window_n[k];
        int64_t least = l->union_n[k - 1] - left_over * l->unit_n;
        int64_t max = (int64_t)min_u64((uint64_t)l->union_n[k - 1], (uint64_t)p->window_n[k] * l->unit_n);
        if (l->union_n[k] < 0 || l->union_n[k] > max || 2 * l->union_n[k] < least)
            return hotset_fail(err, HOTSET_E_FORMAT,
                               "layer %u: the unions of %d tokens have %" PRId64 " units, not %" PRId64
                               " to %" PRId64,
                               layer_i, 1 << k, l->union_n[k], least > 0 ? (least + 1) / 2 : 0, max);
    }
    return HOTSET_OK;
}

static hotset_status check_counts(const activation_profile *p, uint32_t layer_i, hotset_error *err) {
    const activation_layer *l = &p->layer[layer_i];
    int64_t sum = 0;
    for (uint32_t i = 0; i < l->unit_n; i++) {
        if (l->count[i] < 0 || l->count[i] > p->token_n)
            return hotset_fail(err, HOTSET_E_FORMAT,
                               "layer %u: the count of unit %u is %" PRId64 ", not 0 to %" PRId64, layer_i, i,
                               l->count[i], p->token_n);
        sum += l->count[i];
    }
    if (sum != l->union_n[0])
        return hotset_fail(err, HOTSET_E_FORMAT,
                           "layer %u: counts add up to %" PRId64 ", active units to %" PRId64, layer_i, sum,
                           l->union_n[0]);
    return HOTSET_OK;
}

static hotset_status check_experts(const activation_profile *p, uint32_t layer_i, hotset_error *err) {
    const activation_layer *l = &p->layer[layer_i];
    int64_t used_n = 0, left = l->union_n[0];
    for (uint32_t i = 0; i < l->unit_n; i++) {
        used_n += l->count[i] > 0;
        if (l->mass[i] < 0 || l->mass[i] > l->count[i] * ACTIVATION_MASS_MAX)
            return hotset_fail(err, HOTSET_E_FORMAT,
                               "layer %u: the router mass of unit %u is %" PRId64 ", not 0 to %" PRId64,
                               layer_i, i, l->mass[i], l->count[i] * ACTIVATION_MASS_MAX);
    }
    for (int k = 0; k < ACTIVATION_REUSE_N; k++) {
        if (l->reuse_n[k] < 0 || l->reuse_n[k] > left)
            return hotset_fail(err, HOTSET_E_FORMAT,
                               "layer %u: reuse bin %d has %" PRId64 " uses, of %" PRId64
                               " active units %" PRId64 " are left",
                               layer_i, k, l->reuse_n[k], l->union_n[0], left);
        left -= l->reuse_n[k];
    }
    if (left)
        return hotset_fail(err, HOTSET_E_FORMAT,
                           "layer %u: %" PRId64 " of %" PRId64 " active units are in no reuse bin", layer_i,
                           left, l->union_n[0]);
    if (l->reuse_n[0] < used_n || l->reuse_n[0] > p->chunk_n * l->unit_n)
        return hotset_fail(err, HOTSET_E_FORMAT,
                           "layer %u: %" PRId64 " first uses, not %" PRId64 " to %" PRId64, layer_i,
                           l->reuse_n[0], used_n, p->chunk_n * l->unit_n);
    return HOTSET_OK;
}

static hotset_status check_sizes(const activation_profile *p, uint32_t layer_i, hotset_error *err) {
    const activation_layer *l = &p->layer[layer_i];
    int64_t left = p->token_n * l->unit_n;
    for (int k = 0; k < ACTIVATION_SIZE_N; k++) {
        if (l->size_n[k] < 0 || l->size_n[k] > left)
            return hotset_fail(err, HOTSET_E_FORMAT,
                               "layer %u: size bin %d has %" PRId64 " activations, of %" PRId64 " %" PRId64
                               " are left",
                               layer_i, k, l->size_n[k], p->token_n * l->unit_n, left);
        left -= l->size_n[k];
    }
    if (left)
        return hotset_fail(err, HOTSET_E_FORMAT,
                           "layer %u: %" PRId64 " of %" PRId64 " activations are in no size bin", layer_i,
                           left, p->token_n * l->unit_n);
    return HOTSET_OK;
}

hotset_status activation_check(const activation_profile *p, hotset_error *err) {
    HOTSET_TRY(check_head(p->function, p->layer_n, HOTSET_E_FORMAT, err));
    for (uint32_t i = 0; i < p->layer_n; i++)
        HOTSET_TRY(check_units(i, p->layer[i].kind, p->layer[i].unit_n, HOTSET_E_FORMAT, err));
    if (p->token_n < 0 || p->token_n > ACTIVATION_TOKEN_MAX)
        return hotset_fail(err, HOTSET_E_FORMAT, "token_n is %" PRId64 ", not 0 to %" PRId64, p->token_n,
                           ACTIVATION_TOKEN_MAX);
    HOTSET_TRY(check_models(p, err));
    HOTSET_TRY(check_corpora(p, err));
    HOTSET_TRY(check_windows(p, err));
    for (uint32_t i = 0; i < p->layer_n; i++) {
        activation_kind kind = p->layer[i].kind;
        if (counts_units(kind)) {
            HOTSET_TRY(check_counts(p, i, err));
            HOTSET_TRY(check_unions(p, i, err));
        }
        if (kind == ACTIVATION_EXPERTS) HOTSET_TRY(check_experts(p, i, err));
        if (kind == ACTIVATION_SIZES) HOTSET_TRY(check_sizes(p, i, err));
    }
    return HOTSET_OK;
}

/* ---- Comparing and merging -------------------------------------------------------------------------- */

hotset_status activation_match(const activation_profile *p, uint64_t shape, uint64_t weights,
                               bool *weights_differ, hotset_error *err) {
    if (p->shape != shape)
        return hotset_fail(err, HOTSET_E_ARGUMENT,
                           "the profile is of a model of another shape: fingerprint %016" PRIx64
                           ", the model has %016" PRIx64,
                           p->shape, shape);
    *weights_differ = false;
    for (uint32_t i = 0; i < p->model_n; i++) *weights_differ |= p->model[i].weights != weights;
    return HOTSET_OK;
}

static hotset_status compare_layers(const activation_profile *a, const activation_profile *b,
                                    hotset_error *err) {
    if (a->shape != b->shape)
        return hotset_fail(err, HOTSET_E_ARGUMENT,
                           "the profiles are of models of different shapes: fingerprints %016" PRIx64
                           " and %016" PRIx64,
                           a->shape, b->shape);
    if (strcmp(a->function, b->function) != 0)
        return hotset_fail(err, HOTSET_E_ARGUMENT,
                           "the profiles are of different activation functions: %s and %s", a->function,
                           b->function);
    if (a->layer_n != b->layer_n)
        return hotset_fail(err, HOTSET_E_ARGUMENT, "the profiles have %u and %u layers", a->layer_n,
                           b->layer_n);
    for (uint32_t i = 0; i < a->layer_n; i++) {
        const activation_layer *l = &a->layer[i], *m = &b->layer[i];
        if (l->kind != m->kind)
            return hotset_fail(err, HOTSET_E_ARGUMENT, "layer %u is of different kinds in the profiles", i);
        if (l->unit_n != m->unit_n)
            return hotset_fail(err, HOTSET_E_ARGUMENT,
                               "layer %u has %u units in one profile, %u in the other", i, l->unit_n,
                               m->unit_n);
    }
    return HOTSET_OK;
}

/* The union of both lists of models, in order: [*n] at *out. */
static hotset_status join_models(const activation_profile *a, const activation_profile *b,
                                 activation_model **out, uint32_t *n, hotset_error *err) {
    uint32_t i = 0, j = 0;
    *n = 0;
    HOTSET_TRY(base_calloc(out, (uint64_t)a->model_n + b->model_n, sizeof **out, "the list of models", err));
    while (i < a->model_n || j < b->model_n) {
        int order = i == a->model_n ? 1 : j == b->model_n ? -1 : compare_models(&a->model[i], &b->model[j]);
        (*out)[(*n)++] = order <= 0 ? a->model[i] : b->model[j];
        i += order <= 0;
        j += order >= 0;
    }
    if (*n > ACTIVATION_MODEL_MAX)
        return hotset_fail(err, HOTSET_E_ARGUMENT, "the merged profile would have %u models, more than %d",
                           *n, ACTIVATION_MODEL_MAX);
    return HOTSET_OK;
}

/* The same of corpora; those in both add up. */
static hotset_status join_corpora(const activation_profile *a, const activation_profile *b,
                                  activation_corpus **out, uint32_t *n, hotset_error *err) {
    uint32_t i = 0, j = 0;
    *n = 0;
    HOTSET_TRY(
        base_calloc(out, (uint64_t)a->corpus_n + b->corpus_n + 1, sizeof **out, "the list of corpora", err));
    while (i < a->corpus_n || j < b->corpus_n) {
        bool from_a = j == b->corpus_n || (i < a->corpus_n && a->corpus[i].hash <= b->corpus[j].hash);
        activation_corpus corpus = from_a ? a->corpus[i++] : b->corpus[j++];
        if (from_a && j < b->corpus_n && b->corpus[j].hash == corpus.hash) {
            choose_name(&corpus, b->corpus[j].name);
            corpus.token_n += b->corpus[j].token_n;
            corpus.text_n += b->corpus[j++].text_n;
        }
        (*out)[(*n)++] = corpus;
    }
    if (*n > ACTIVATION_CORPUS_MAX)
        return hotset_fail(err, HOTSET_E_ARGUMENT, "the merged profile would have %u corpora, more than %d",
                           *n, ACTIVATION_CORPUS_MAX);
    return HOTSET_OK;
}

static void add_all(int64_t *into, const int64_t *from, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) into[i] += from[i];
}

static void add_layer(activation_layer *into, const activation_layer *from) {
    if (into->count) add_all(into->count, from->count, into->unit_n);
    if (into->mass) add_all(into->mass, from->mass, into->unit_n);
    add_all(into->union_n, from->union_n, ACTIVATION_WINDOW_N);
    add_all(into->reuse_n, from->reuse_n, ACTIVATION_REUSE_N);
    add_all(into->size_n, from->size_n, ACTIVATION_SIZE_N);
}

/* Whether the profiles are of models whose weights are not all the same; `all` are the models of both. */
static bool weights_differ(const activation_model *all, uint32_t model_n) {
    return all[0].weights != all[model_n - 1].weights; /* in ascending order */
}

hotset_status activation_merge(activation_profile *into, const activation_profile *from, unsigned *notes,
                               hotset_error *err) {
    activation_model *model = NULL;
    activation_corpus *corpus = NULL;
    uint32_t model_n, corpus_n;
    assert(into != from);
    HOTSET_TRY(compare_layers(into, from, err));
    if (into->token_n + from->token_n > ACTIVATION_TOKEN_MAX ||
        activation_text_n(into) + activation_text_n(from) > ACTIVATION_TOKEN_MAX)
        return hotset_fail(err, HOTSET_E_ARGUMENT,
                           "the merged profile would have more than %" PRId64 " tokens or texts",
                           ACTIVATION_TOKEN_MAX);
    hotset_status status = join_models(into, from, &model, &model_n, err);
    if (status == HOTSET_OK) status = join_corpora(into, from, &corpus, &corpus_n, err);
    if (status != HOTSET_OK) {
        free(model);
        free(corpus);
        return status;
    }
    if (notes)
        *notes = (weights_differ(model, model_n) ? ACTIVATION_WEIGHTS_DIFFER : 0u) |
                 (corpus_n < into->corpus_n + from->corpus_n ? ACTIVATION_CORPUS_AGAIN : 0u);
    free(into->model);
    free(into->corpus);
    into->model = model;
    into->model_n = model_n;
    into->corpus = corpus;
    into->corpus_n = corpus_n;
    into->token_n += from->token_n;
    into->chunk_n += from->chunk_n;
    add_all(into->window_n, from->window_n, ACTIVATION_WINDOW_N);
    for (uint32_t i = 0; i < into->layer_n; i++) add_layer(&into->layer[i], &from->layer[i]);
    return HOTSET_OK;
}
