/* profile.c - activation profiles of models: whether one serves a model, and recording one. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "engine/executor.h"
#include "engine/planning.h"
#include "engine/tokenizer.h"

struct hotset_profile {
    activation_profile *counts;
};

_Static_assert((int)HOTSET_PROFILE_WEIGHTS_DIFFER == (int)ACTIVATION_WEIGHTS_DIFFER &&
                   (int)HOTSET_PROFILE_CORPUS_AGAIN == (int)ACTIVATION_CORPUS_AGAIN,
               "notes are passed on as they are");
_Static_assert((int)HOTSET_NO_UNITS == (int)ACTIVATION_NONE &&
                   (int)HOTSET_NEURONS == (int)ACTIVATION_NEURONS &&
                   (int)HOTSET_EXPERTS == (int)ACTIVATION_EXPERTS &&
                   (int)HOTSET_SIZES == (int)ACTIVATION_SIZES,
               "kinds are passed on as they are");

/* ---- Life ------------------------------------------------------------------------------------------- */

static hotset_status make(activation_profile **out, const hotset_model *m, hotset_error *err) {
    activation_facts facts = {
        .name = m->shape.name, .function = m->shape.activation, .layer_n = m->shape.layer_n};
    activation_units *units;
    HOTSET_TRY(model_fingerprints(m, &facts.shape, &facts.weights, err));
    HOTSET_TRY(base_calloc(&units, facts.layer_n, sizeof *units, "the layers of a profile", err));
    for (uint32_t i = 0; i < facts.layer_n; i++) units[i] = tally_units(m, i);
    facts.layer = units;
    hotset_status status = activation_make(out, &facts, err);
    free(units);
    return status;
}

/* Whether the profile serves the model: a profile of equal shape has equal layers, but what is counted of
 * them depends on the activation function, which no shape names. */
static hotset_status match(const activation_profile *p, const hotset_model *m, unsigned *notes,
                           hotset_error *err) {
    uint64_t shape, values;
    bool weights_differ;
    HOTSET_TRY(model_fingerprints(m, &shape, &values, err));
    HOTSET_TRY(activation_match(p, shape, values, &weights_differ, err));
    if (strcmp(p->function, m->shape.activation) != 0)
        return hotset_fail(err, HOTSET_E_ARGUMENT,
                           "the profile is of the FFN activation %s, the model runs with %s", p->function,
                           m->shape.activation);
    for (uint32_t i = 0; i < m->shape.layer_n; i++) {
        activation_units units = tally_units(m, i);
        if (i >= p->layer_n || p->layer[i].kind != units.kind || p->layer[i].unit_n != units.unit_n)
            return hotset_fail(err, HOTSET_E_ARGUMENT,
                               "the profile's layer %u has not the %u units of the model", i, units.unit_n);
    }
    if (notes && weights_differ) *notes |= HOTSET_PROFILE_WEIGHTS_DIFFER;
    return HOTSET_OK;
}

hotset_status hotset_profile_open(hotset_profile **out, const hotset_model *m, const char *path,
                                  unsigned *notes, hotset_error *err) {
    *out = NULL;
    if (!m && !path) return hotset_fail(err, HOTSET_E_ARGUMENT, "a profile of neither a model nor a file");
    hotset_profile *p;
    HOTSET_TRY(base_calloc(&p, 1, sizeof *p, "a profile", err));
    hotset_status status = path ? activation_read(&p->counts, path, err) : make(&p->counts, m, err);
    if (!status && path && m) status = match(p->counts, m, notes, err);
    if (status)
        hotset_profile_free(p);
    else
        *out = p;
    return status;
}

hotset_status profile_counts(const activation_profile **out, const hotset_profile *p, const hotset_model *m,
                             hotset_error *err) {
    *out = p->counts;
    return match(p->counts, m, NULL, err);
}

bool hotset_profile_is(const char *path) {
    gguf *file;
    gguf_string architecture = {0};
    if (gguf_open(&file, path, NULL)) return false;
    bool found = gguf_get_string(file, "general.architecture", &architecture, NULL, NULL) == HOTSET_OK &&
                 gguf_string_is(architecture, "hotset.activation");
    gguf_free(file);
    return found;
}

void hotset_profile_free(hotset_profile *p) {
    if (!p) return;
    activation_free(p->counts);
    free(p);
}

hotset_status hotset_profile_write(const hotset_profile *p, const char *path, hotset_error *err) {
    return activation_write(p->counts, path, err);
}

hotset_status hotset_profile_merge(hotset_profile *into, const hotset_profile *from, unsigned *notes,
                                   hotset_error *err) {
    unsigned found = 0;
    HOTSET_TRY(activation_merge(into->counts, from->counts, &found, err));
    if (notes) *notes |= found;
    return HOTSET_OK;
}

/* ---- Recording -------------------------------------------------------------------------------------- */

typedef struct recording {
    const hotset_corpus *corpus;
    uint64_t hash;
    hotset_session *session;
    hotset_engine *engine;
    activation_recorder *recorder;
    int32_t *token; /* [token_n] of the corpus, without BOS */
    size_t token_n;
    int32_t bos;          /* -1: texts do not begin with one */
    int32_t *text;        /* [context_n] */
    size_t seen_n, all_n; /* tokens, with BOS */
    hotset_progress_fn *progress;
    void *cookie;
} recording;

static hotset_status tokenize(recording *r, hotset_error *err) {
    const hotset_tokenizer *t = r->engine->model->tokenizer;
    const hotset_corpus *c = r->corpus;
    if (!t)
        return hotset_fail(err, HOTSET_E_UNSUPPORTED, "the model cannot read text: %s",
                           r->engine->model->tokenizer_error.message);
    size_t token_n;
    HOTSET_TRY(hotset_tokenize(t, c->text, c->text_bytes, 0, NULL, 0, &r->token_n, err));
    HOTSET_TRY(base_calloc(&r->token, r->token_n + 1, sizeof *r->token, "the tokens of a corpus", err));
    HOTSET_TRY(hotset_tokenize(t, c->text, c->text_bytes, 0, r->token, r->token_n, &token_n, err));
    int32_t first = -1;
    HOTSET_TRY(hotset_tokenize(t, "", 0, HOTSET_TOKENIZE_BOS, &first, 1, &token_n, err));
    r->bos = token_n && first == hotset_tokenizer_bos(t) ? first : -1;
    return HOTSET_OK;
}

/* The number of tokens to see: with a BOS before each text's worth of the corpus. */
static size_t tokens_to_see(const recording *r, size_t context_n) {
    size_t own_n = context_n - (r->bos >= 0), text_n = (r->token_n + own_n - 1) / own_n;
    size_t all_n = r->token_n + (r->bos >= 0 ? text_n : 0);
    return r->corpus->token_max && r->corpus->token_max < all_n ? r->corpus->token_max : all_n;
}

/* Evaluates one text, step by step. */
static hotset_status evaluate(recording *r, size_t text_n, hotset_error *err) {
    size_t batch_n = r->engine->plan.options.batch_n;
    hotset_session_truncate(r->session, 0);
    for (size_t at = 0; at < text_n;) {
        size_t n = min_u64(text_n - at, batch_n);
        if (r->progress && r->progress(r->cookie, r->seen_n, r->all_n))
            return hotset_fail(err, HOTSET_E_CANCELLED, "cancelled after %zu of %zu tokens", r->seen_n,
                               r->all_n);
        if (hotset_session_append(r->session, r->text + at, n, NULL, NULL)) {
            const hotset_error *why = hotset_session_error(r->session);
            return hotset_fail(err, why->status, "%s", why->message);
        }
        at += n;
        r->seen_n += n;
    }
    return HOTSET_OK;
}

/* One text of the corpus, counted as far as it gets. */
static hotset_status record_text(recording *r, size_t text_n, hotset_error *err) {
    hotset_error end_err = {0};
    HOTSET_TRY(activation_begin_text(r->recorder, r->hash, r->corpus->name ? r->corpus->name : "", err));
    hotset_status status = evaluate(r, text_n, err);
    hotset_status end = activation_end_text(r->recorder, &end_err);
    assert(end == HOTSET_OK); /* every layer sees every row of a step */
    return status;
}

/* A recorder that counts in the numbers of the original model, however the file is sorted. */
static hotset_status open_recorder(recording *r, activation_profile *p, hotset_error *err) {
    const hotset_model *m = r->engine->model;
    HOTSET_TRY(activation_recorder_open(&r->recorder, p, err));
    for (uint32_t i = 0; i < m->shape.layer_n; i++)
        activation_recorder_number(r->recorder, i, m->layer[i].order);
    return HOTSET_OK;
}

static hotset_status record_all(recording *r, hotset_error *err) {
    size_t context_n = r->engine->plan.options.context_n, bos_n = r->bos >= 0;
    if (context_n <= bos_n)
        return hotset_fail(err, HOTSET_E_ARGUMENT, "a context of %zu tokens has no room for text", context_n);
    r->all_n = tokens_to_see(r, context_n);
    HOTSET_TRY(base_calloc(&r->text, context_n, sizeof *r->text, "a text", err));
    if (bos_n) r->text[0] = r->bos;
    for (size_t at = 0; r->seen_n < r->all_n;) {
        size_t text_n = min_u64(context_n, r->all_n - r->seen_n);
        memcpy(r->text + bos_n, r->token + at, (text_n - bos_n) * sizeof *r->text);
        HOTSET_TRY(record_text(r, text_n, err));
        at += text_n - bos_n;
    }
    if (r->progress) (void)r->progress(r->cookie, r->seen_n, r->all_n);
    return HOTSET_OK;
}

hotset_status hotset_profile_record(hotset_profile *p, hotset_session *session, const hotset_corpus *corpus,
                                    hotset_progress_fn *progress, void *cookie, hotset_error *err) {
    recording r = {.corpus = corpus,
                   .hash = XXH3_64bits(corpus->text, corpus->text_bytes),
                   .session = session,
                   .engine = session_engine(session),
                   .progress = progress,
                   .cookie = cookie};
    if (!r.engine->plan.options.record || r.engine->plan.options.sparsity == HOTSET_SPARSITY_PREDICT)
        return hotset_fail(err, HOTSET_E_ARGUMENT, "the engine's plan does not record activations");
    unsigned notes = 0;
    HOTSET_TRY(match(p->counts, r.engine->model, &notes, err));
    if (notes & HOTSET_PROFILE_WEIGHTS_DIFFER)
        return hotset_fail(
            err, HOTSET_E_ARGUMENT,
            "the profile is of a model with other weights; record into one of its own and merge");
    hotset_status status = tokenize(&r, err);
    if (!status) status = open_recorder(&r, p->counts, err);
    if (!status) {
        r.engine->recorder = r.recorder;
        status = record_all(&r, err);
        r.engine->recorder = NULL;
        hotset_session_truncate(session, 0);
    }
    activation_recorder_free(r.recorder);
    free(r.token);
    free(r.text);
    return status;
}

/* ---- What it says ----------------------------------------------------------------------------------- */

hotset_profile_facts hotset_profile_get(const hotset_profile *p) {
    const activation_profile *a = p->counts;
    hotset_profile_facts facts = {.model = a->model->name,
                                  .activation = a->function,
                                  .shape = a->shape,
                                  .weights = a->model->weights,
                                  .model_n = a->model_n,
                                  .corpus_n = a->corpus_n,
                                  .layer_n = a->layer_n,
                                  .token_n = a->token_n};
    memcpy(facts.window_n, a->window_n, sizeof facts.window_n);
    return facts;
}

_Static_assert(sizeof(((hotset_profile_facts *)0)->window_n) == sizeof(((activation_profile *)0)->window_n),
               "as many windows as the file has");

hotset_profile_layer hotset_profile_get_layer(const hotset_profile *p, uint32_t layer_i) {
    assert(layer_i < p->counts->layer_n);
    const activation_layer *l = &p->counts->layer[layer_i];
    bool experts = l->kind == ACTIVATION_EXPERTS, counted = experts || l->kind == ACTIVATION_NEURONS;
    return (hotset_profile_layer){.kind = (hotset_units)l->kind,
                                  .unit_n = l->unit_n,
                                  .count = l->count,
                                  .mass = l->mass,
                                  .union_n = counted ? l->union_n : NULL,
                                  .reuse_n = experts ? l->reuse_n : NULL,
                                  .size_n = l->kind == ACTIVATION_SIZES ? l->size_n : NULL};
}

const char *hotset_profile_get_corpus(const hotset_profile *p, uint32_t corpus_i, int64_t *token_n) {
    assert(corpus_i < p->counts->corpus_n);
    if (token_n) *token_n = p->counts->corpus[corpus_i].token_n;
    return p->counts->corpus[corpus_i].name;
}
