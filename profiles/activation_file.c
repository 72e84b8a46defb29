/* activation_file.c - activation profiles as GGUF files: written, read back and checked. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "profiles/activation.h"

#define PREFIX "hotset.activation"

enum { FILE_VERSION = 1, TENSOR_NAME_SIZE = 32 };

static const char *const kind_names[ACTIVATION_KIND_COUNT] = {
    [ACTIVATION_NONE] = "none",
    [ACTIVATION_NEURONS] = "neurons",
    [ACTIVATION_EXPERTS] = "experts",
    [ACTIVATION_SIZES] = "sizes",
};

/* ---- Tensors of a layer ----------------------------------------------------------------------------- */

enum { LAYER_TENSOR_N = 5 }; /* of all kinds together */

typedef struct layer_tensor {
    char name[TENSOR_NAME_SIZE];
    int64_t *values;
    uint32_t value_n;
} layer_tensor;

/* Which tensors a layer has, in the order of the file: reader and writer follow this one list. */
static uint32_t list_tensors(layer_tensor list[LAYER_TENSOR_N], activation_layer *l, uint32_t layer_i) {
    uint32_t n = 0;
    bool experts = l->kind == ACTIVATION_EXPERTS;
    const struct {
        const char *name;
        bool present;
        int64_t *values;
        uint32_t value_n;
    } all[LAYER_TENSOR_N] = {
        {"count", experts || l->kind == ACTIVATION_NEURONS, l->count, l->unit_n},
        {"union", experts || l->kind == ACTIVATION_NEURONS, l->union_n, ACTIVATION_WINDOW_N},
        {"router_mass", experts, l->mass, l->unit_n},
        {"reuse", experts, l->reuse_n, ACTIVATION_REUSE_N},
        {"size", l->kind == ACTIVATION_SIZES, l->size_n, ACTIVATION_SIZE_N},
    };
    for (size_t i = 0; i < COUNT_OF(all); i++) {
        if (!all[i].present) continue;
        snprintf(list[n].name, sizeof list[n].name, "blk.%u.%s", layer_i, all[i].name);
        list[n].values = all[i].values;
        list[n++].value_n = all[i].value_n;
    }
    return n;
}

/* ---- Writing ---------------------------------------------------------------------------------------- */

static gguf_string string_of(const char *text) { return (gguf_string){text, strlen(text)}; }

/* The columns of a list, for arrays of one field: room for one item per model, corpus or layer. */
typedef struct columns {
    uint64_t *numbers;
    uint32_t *units;
    gguf_string *names;
} columns;

static hotset_status put_models(gguf_writer *w, const activation_profile *p, columns *c, hotset_error *err) {
    for (uint32_t i = 0; i < p->model_n; i++) {
        c->numbers[i] = p->model[i].weights;
        c->names[i] = string_of(p->model[i].name);
    }
    HOTSET_TRY(gguf_put_array(w, PREFIX ".model.weights", GGUF_KIND_U64, c->numbers, p->model_n, err));
    return gguf_put_array(w, PREFIX ".model.name", GGUF_KIND_STRING, c->names, p->model_n, err);
}

static hotset_status put_corpora(gguf_writer *w, const activation_profile *p, columns *c, hotset_error *err) {
    for (uint32_t i = 0; i < p->corpus_n; i++) {
        c->numbers[i] = p->corpus[i].hash;
        c->names[i] = string_of(p->corpus[i].name);
    }
    HOTSET_TRY(gguf_put_array(w, PREFIX ".corpus.hash", GGUF_KIND_U64, c->numbers, p->corpus_n, err));
    HOTSET_TRY(gguf_put_array(w, PREFIX ".corpus.name", GGUF_KIND_STRING, c->names, p->corpus_n, err));
    for (uint32_t i = 0; i < p->corpus_n; i++) c->numbers[i] = (uint64_t)p->corpus[i].token_n;
    HOTSET_TRY(gguf_put_array(w, PREFIX ".corpus.token_n", GGUF_KIND_U64, c->numbers, p->corpus_n, err));
    for (uint32_t i = 0; i < p->corpus_n; i++) c->numbers[i] = (uint64_t)p->corpus[i].text_n;
    return gguf_put_array(w, PREFIX ".corpus.text_n", GGUF_KIND_U64, c->numbers, p->corpus_n, err);
}

static hotset_status put_keys(gguf_writer *w, const activation_profile *p, columns *c, hotset_error *err) {
    HOTSET_TRY(gguf_put_string(w, "general.architecture", PREFIX, strlen(PREFIX), err));
    HOTSET_TRY(gguf_put_u32(w, PREFIX ".version", FILE_VERSION, err));
    HOTSET_TRY(gguf_put_string(w, PREFIX ".function", p->function, strlen(p->function), err));
    HOTSET_TRY(gguf_put_u64(w, PREFIX ".shape", p->shape, err));
    HOTSET_TRY(put_models(w, p, c, err));
    HOTSET_TRY(put_corpora(w, p, c, err));
    HOTSET_TRY(gguf_put_u64(w, PREFIX ".token_n", (uint64_t)p->token_n, err));
    HOTSET_TRY(gguf_put_u64(w, PREFIX ".chunk_n", (uint64_t)p->chunk_n, err));
    HOTSET_TRY(gguf_put_array(w, PREFIX ".window_n", GGUF_KIND_U64, p->window_n, ACTIVATION_WINDOW_N, err));
    HOTSET_TRY(gguf_put_bool(w, PREFIX ".hot_units", activation_has_hot_units(p), err));
    for (uint32_t i = 0; i < p->layer_n; i++) {
        c->names[i] = string_of(kind_names[p->layer[i].kind]);
        c->units[i] = p->layer[i].unit_n;
    }
    HOTSET_TRY(gguf_put_array(w, PREFIX ".layer.kind", GGUF_KIND_STRING, c->names, p->layer_n, err));
    return gguf_put_array(w, PREFIX ".layer.unit_n", GGUF_KIND_U32, c->units, p->layer_n, err);
}

static hotset_status put_tensors(gguf_writer *w, const activation_profile *p, hotset_error *err) {
    layer_tensor list[LAYER_TENSOR_N];
    for (int data = 0; data < 2; data++) /* all descriptions, then all data */
        for (uint32_t i = 0; i < p->layer_n; i++) {
            uint32_t n = list_tensors(list, &p->layer[i], i);
            for (uint32_t j = 0; j < n; j++) {
                uint64_t dim = list[j].value_n;
                HOTSET_TRY(data ? gguf_put_data(w, list[j].values, dim * sizeof(int64_t), err)
                                : gguf_put_tensor(w, list[j].name, GGUF_I64, 1, &dim, err));
            }
        }
    return HOTSET_OK;
}

static hotset_status columns_alloc(columns *c, const activation_profile *p, hotset_error *err) {
    uint64_t n = max_u64(p->layer_n, max_u64(p->model_n, p->corpus_n));
    HOTSET_TRY(base_calloc(&c->numbers, n, sizeof *c->numbers, "keys of a profile", err));
    HOTSET_TRY(base_calloc(&c->units, n, sizeof *c->units, "keys of a profile", err));
    return base_calloc(&c->names, n, sizeof *c->names, "keys of a profile", err);
}

hotset_status activation_write(const activation_profile *p, const char *path, hotset_error *err) {
    columns c = {0};
    gguf_writer *w = NULL;
    HOTSET_TRY(activation_check(p, err));
    hotset_status status = columns_alloc(&c, p, err);
    if (status == HOTSET_OK) status = gguf_writer_open(&w, path, err);
    if (status == HOTSET_OK) status = put_keys(w, p, &c, err);
    if (status == HOTSET_OK) status = put_tensors(w, p, err);
    if (status == HOTSET_OK)
        status = gguf_writer_commit(w, err);
    else
        gguf_writer_free(w);
    free(c.numbers);
    free(c.units);
    free(c.names);
    return status;
}

/* ---- Keys ------------------------------------------------------------------------------------------- */

/* A key that must be there, with items of this kind, as an array or not. */
static hotset_status key_needed(const gguf *g, const char *name, gguf_kind item_kind, bool array,
                                const gguf_key **out, hotset_error *err) {
    const gguf_key *key = gguf_find_key(g, name);
    if (!key) return hotset_fail(err, HOTSET_E_FORMAT, "key %s is missing", name);
    if (key->item_kind != item_kind || (key->kind == GGUF_KIND_ARRAY) != array)
        return hotset_fail_at(err, HOTSET_E_FORMAT, key->offset_bytes, "key %s is not %s %s", name,
                              array ? "an array of" : "a value of kind", gguf_kind_name(item_kind));
    *out = key;
    return HOTSET_OK;
}

/* The same of an array of exactly so many items. */
static hotset_status array_needed(const gguf *g, const char *name, gguf_kind item_kind, uint64_t item_n,
                                  const gguf_key **out, hotset_error *err) {
    HOTSET_TRY(key_needed(g, name, item_kind, true, out, err));
    if ((*out)->item_n != item_n)
        return hotset_fail_at(err, HOTSET_E_FORMAT, (*out)->offset_bytes,
                              "key %s has %" PRIu64 " items, not %" PRIu64, name, (*out)->item_n, item_n);
    return HOTSET_OK;
}

static uint64_t item_u64(const gguf_key *key, uint64_t i) {
    uint64_t value;
    memcpy(&value, key->data + i * sizeof value, sizeof value);
    return value;
}

/* The length of a list, from the array that leads it. */
static hotset_status list_length(const gguf *g, const char *name, gguf_kind kind, uint64_t max, uint32_t *out,
                                 const gguf_key **key, hotset_error *err) {
    HOTSET_TRY(key_needed(g, name, kind, true, key, err));
    if ((*key)->item_n > max)
        return hotset_fail_at(err, HOTSET_E_FORMAT, (*key)->offset_bytes,
                              "key %s has %" PRIu64 " items, more than %" PRIu64, name, (*key)->item_n, max);
    *out = (uint32_t)(*key)->item_n;
    return HOTSET_OK;
}

/* A U64 as a count; activation_check refuses the negative one that a number beyond 2^63 becomes. */
static hotset_status read_count(const gguf *g, const char *name, int64_t *out, hotset_error *err) {
    const gguf_key *key;
    HOTSET_TRY(key_needed(g, name, GGUF_KIND_U64, false, &key, err));
    *out = (int64_t)item_u64(key, 0);
    return HOTSET_OK;
}

/* The next name of an array of strings, NUL-terminated. */
static hotset_status next_name(const gguf_key *key, uint64_t *cursor, char *name, size_t name_size,
                               hotset_error *err) {
    gguf_string s = gguf_next_string(key, cursor);
    if (s.bytes >= name_size || (s.bytes && memchr(s.data, 0, s.bytes)))
        return hotset_fail_at(
            err, HOTSET_E_FORMAT, key->offset_bytes, "key %.*s: '%.*s' has a NUL or more than %zu bytes",
            gguf_shown_bytes(key->name), key->name.data, gguf_shown_bytes(s), s.data, name_size - 1);
    if (s.bytes) memcpy(name, s.data, s.bytes);
    name[s.bytes] = 0;
    return HOTSET_OK;
}

/* ---- Reading ---------------------------------------------------------------------------------------- */

static hotset_status check_kind_of_file(const gguf *g, hotset_error *err) {
    gguf_string architecture = {0};
    uint32_t version = 0;
    bool found;
    HOTSET_TRY(gguf_get_string(g, "general.architecture", &architecture, &found, err));
    if (!found || !gguf_string_is(architecture, PREFIX))
        return hotset_fail(err, HOTSET_E_FORMAT,
                           "not an activation profile: general.architecture is '%.*s', not " PREFIX,
                           gguf_shown_bytes(architecture), architecture.data ? architecture.data : "");
    HOTSET_TRY(gguf_get_u32(g, PREFIX ".version", &version, &found, err));
    if (!found) return hotset_fail(err, HOTSET_E_FORMAT, "key " PREFIX ".version is missing");
    if (version != FILE_VERSION)
        return hotset_fail(err, HOTSET_E_UNSUPPORTED,
                           "activation profile of version %u, only %d is supported", version, FILE_VERSION);
    return HOTSET_OK;
}

static hotset_status read_models(activation_profile *p, const gguf *g, hotset_error *err) {
    const gguf_key *weights, *names;
    uint64_t cursor = 0;
    HOTSET_TRY(list_length(g, PREFIX ".model.weights", GGUF_KIND_U64, ACTIVATION_MODEL_MAX, &p->model_n,
                           &weights, err));
    HOTSET_TRY(array_needed(g, PREFIX ".model.name", GGUF_KIND_STRING, p->model_n, &names, err));
    HOTSET_TRY(base_calloc(&p->model, p->model_n, sizeof *p->model, "the list of models", err));
    for (uint32_t i = 0; i < p->model_n; i++) {
        p->model[i].weights = item_u64(weights, i);
        HOTSET_TRY(next_name(names, &cursor, p->model[i].name, sizeof p->model[i].name, err));
    }
    return HOTSET_OK;
}

static hotset_status read_corpora(activation_profile *p, const gguf *g, hotset_error *err) {
    const gguf_key *hashes, *names, *tokens, *texts;
    uint64_t cursor = 0;
    HOTSET_TRY(list_length(g, PREFIX ".corpus.hash", GGUF_KIND_U64, ACTIVATION_CORPUS_MAX, &p->corpus_n,
                           &hashes, err));
    HOTSET_TRY(array_needed(g, PREFIX ".corpus.name", GGUF_KIND_STRING, p->corpus_n, &names, err));
    HOTSET_TRY(array_needed(g, PREFIX ".corpus.token_n", GGUF_KIND_U64, p->corpus_n, &tokens, err));
    HOTSET_TRY(array_needed(g, PREFIX ".corpus.text_n", GGUF_KIND_U64, p->corpus_n, &texts, err));
    HOTSET_TRY(base_calloc(&p->corpus, p->corpus_n, sizeof *p->corpus, "the list of corpora", err));
    for (uint32_t i = 0; i < p->corpus_n; i++) {
        activation_corpus *c = &p->corpus[i];
        c->hash = item_u64(hashes, i);
        c->token_n = (int64_t)item_u64(tokens, i);
        c->text_n = (int64_t)item_u64(texts, i);
        HOTSET_TRY(next_name(names, &cursor, c->name, sizeof c->name, err));
    }
    return HOTSET_OK;
}

static hotset_status read_totals(activation_profile *p, const gguf *g, hotset_error *err) {
    const gguf_key *key;
    uint64_t cursor = 0;
    HOTSET_TRY(key_needed(g, PREFIX ".function", GGUF_KIND_STRING, false, &key, err));
    HOTSET_TRY(next_name(key, &cursor, p->function, sizeof p->function, err));
    HOTSET_TRY(key_needed(g, PREFIX ".shape", GGUF_KIND_U64, false, &key, err));
    p->shape = item_u64(key, 0);
    HOTSET_TRY(read_count(g, PREFIX ".token_n", &p->token_n, err));
    HOTSET_TRY(read_count(g, PREFIX ".chunk_n", &p->chunk_n, err));
    HOTSET_TRY(array_needed(g, PREFIX ".window_n", GGUF_KIND_U64, ACTIVATION_WINDOW_N, &key, err));
    memcpy(p->window_n, key->data, sizeof p->window_n);
    return HOTSET_OK;
}

static hotset_status kind_of(activation_kind *out, uint32_t layer_i, gguf_string name, hotset_error *err) {
    for (int k = 0; k < ACTIVATION_KIND_COUNT; k++)
        if (gguf_string_is(name, kind_names[k])) {
            *out = (activation_kind)k;
            return HOTSET_OK;
        }
    return hotset_fail(err, HOTSET_E_FORMAT, "layer %u has unknown kind '%.*s'", layer_i,
                       gguf_shown_bytes(name), name.data);
}

static hotset_status find_tensor(const gguf *g, const layer_tensor *t, const gguf_tensor **out,
                                 hotset_error *err) {
    const gguf_tensor *tensor = gguf_find_tensor(g, t->name);
    if (!tensor) return hotset_fail(err, HOTSET_E_FORMAT, "tensor %s is missing", t->name);
    if (tensor->type != GGUF_I64 || tensor->dim_n != 1 || tensor->dim[0] != t->value_n)
        return hotset_fail_at(err, HOTSET_E_FORMAT, tensor->offset_bytes,
                              "tensor %s is not a row of %u I64 numbers", t->name, t->value_n);
    *out = tensor;
    return HOTSET_OK;
}

/* Finds all tensors before anything is allocated: a file cannot ask for more memory than it has data. */
static hotset_status read_layer(activation_layer *l, uint32_t layer_i, const gguf *g, uint64_t *tensor_n,
                                hotset_error *err) {
    layer_tensor list[LAYER_TENSOR_N];
    const gguf_tensor *found[LAYER_TENSOR_N];
    uint32_t n = list_tensors(list, l, layer_i);
    for (uint32_t j = 0; j < n; j++) HOTSET_TRY(find_tensor(g, &list[j], &found[j], err));
    HOTSET_TRY(activation_layer_alloc(l, err));
    list_tensors(list, l, layer_i);
    for (uint32_t j = 0; j < n; j++) memcpy(list[j].values, found[j]->data, found[j]->bytes);
    *tensor_n += n;
    return HOTSET_OK;
}

static hotset_status read_layers(activation_profile *p, const gguf *g, hotset_error *err) {
    const gguf_key *kinds, *units;
    uint64_t cursor = 0, tensor_n = 0;
    HOTSET_TRY(list_length(g, PREFIX ".layer.kind", GGUF_KIND_STRING, ACTIVATION_LAYER_MAX, &p->layer_n,
                           &kinds, err));
    HOTSET_TRY(array_needed(g, PREFIX ".layer.unit_n", GGUF_KIND_U32, p->layer_n, &units, err));
    HOTSET_TRY(base_calloc(&p->layer, p->layer_n, sizeof *p->layer, "the layers of a profile", err));
    for (uint32_t i = 0; i < p->layer_n; i++) {
        HOTSET_TRY(kind_of(&p->layer[i].kind, i, gguf_next_string(kinds, &cursor), err));
        p->layer[i].unit_n = (uint32_t)gguf_item_i64(units, i);
        HOTSET_TRY(read_layer(&p->layer[i], i, g, &tensor_n, err));
    }
    if (tensor_n != gguf_tensor_n(g))
        return hotset_fail(err, HOTSET_E_FORMAT, "the file has %" PRIu64 " tensors, the profile %" PRIu64,
                           gguf_tensor_n(g), tensor_n);
    return HOTSET_OK;
}

/* What the file says of itself must be what follows from its layers. */
static hotset_status check_hot_units(const activation_profile *p, const gguf *g, hotset_error *err) {
    bool hot = activation_has_hot_units(p);
    const gguf_key *key;
    HOTSET_TRY(key_needed(g, PREFIX ".hot_units", GGUF_KIND_BOOL, false, &key, err));
    if ((gguf_item_i64(key, 0) != 0) != hot)
        return hotset_fail_at(err, HOTSET_E_FORMAT, key->offset_bytes,
                              "key " PREFIX ".hot_units is %s, but the layers %s counts",
                              hot ? "false" : "true", hot ? "have" : "have no");
    return HOTSET_OK;
}

hotset_status activation_parse(activation_profile **out, const gguf *g, hotset_error *err) {
    activation_profile *p;
    *out = NULL;
    HOTSET_TRY(base_calloc(&p, 1, sizeof *p, "an activation profile", err));
    hotset_status status = check_kind_of_file(g, err);
    if (status == HOTSET_OK) status = read_totals(p, g, err);
    if (status == HOTSET_OK) status = read_models(p, g, err);
    if (status == HOTSET_OK) status = read_corpora(p, g, err);
    if (status == HOTSET_OK) status = read_layers(p, g, err);
    if (status == HOTSET_OK) status = check_hot_units(p, g, err);
    if (status == HOTSET_OK) status = activation_check(p, err);
    if (status == HOTSET_OK)
        *out = p;
    else
        activation_free(p);
    return status;
}

hotset_status activation_read(activation_profile **out, const char *path, hotset_error *err) {
    hotset_error failure = {0};
    gguf *g;
    *out = NULL;
    HOTSET_TRY(gguf_open(&g, path, err));
    hotset_status status = activation_parse(out, g, &failure);
    gguf_free(g);
    if (status == HOTSET_OK) return HOTSET_OK;
    return hotset_fail_at(err, status, failure.offset_bytes, "%s: %s", path, failure.message);
}
