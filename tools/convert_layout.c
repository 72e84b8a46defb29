/* convert_layout.c - from the tensors of the old file to those of the new one. */
#include "tools/convert_layout.h"

#include <fnmatch.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "devices/neurons_sort.h"
#include "devices/quantise.h"

typedef struct layouting {
    convert_layout *out;
    const convert_job *job;
    const hotset_model *model;
    hotset_text_fn *note;
    void *cookie;
    hotset_error *err;
} layouting;

/* What a tensor of the old file is. */
typedef struct tensor_place {
    const arch_tensor *row; /* NULL: not one that Hotset computes with */
    bool in_layer;
    uint32_t layer_i;
    bool alone;        /* one expert's tensor of an old file ... */
    uint32_t expert_i; /* ... of this one */
    const char *name;  /* without "blk.N."; in the arena */
} tensor_place;

static void note(const layouting *l, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void note(const layouting *l, const char *format, ...) {
    char text[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (l->note) l->note(l->cookie, text, strlen(text));
}

static hotset_status no_memory(hotset_error *err) {
    return hotset_fail(err, HOTSET_E_MEMORY, "out of memory for the layout of the new file");
}

static bool is_float(gguf_type type) { return gguf_type_get(type)->block_n == 1; }

/* ---- Which tensor it is ---- */

static bool is_expert_name(const char *pattern, const char *name, uint32_t *expert_i) {
    char again[72];
    if (!pattern || sscanf(name, pattern, expert_i) != 1) return false;
    snprintf(again, sizeof again, pattern, *expert_i);
    return strcmp(again, name) == 0;
}

static hotset_status find_place(layouting *l, const gguf_tensor *t, tensor_place *place) {
    const char *name = arena_text(&l->out->arena, t->name.data, t->name.bytes);
    int prefix = 0;
    *place = (tensor_place){.name = name};
    if (!name) return no_memory(l->err);
    if (sscanf(name, "blk.%u.%n", &place->layer_i, &prefix) == 1 && prefix > 0 &&
        place->layer_i < l->model->shape.layer_n) {
        place->in_layer = true;
        place->name += prefix;
    }
    for (size_t i = 0; i < arch_tensor_n && !place->row; i++) {
        const arch_tensor *row = &arch_tensors[i];
        if ((row->role >= ARCH_LAYER_ROLES) != place->in_layer || !arch_means(l->model->arch, row)) continue;
        place->alone = is_expert_name(row->per_unit, place->name, &place->expert_i) &&
                       place->expert_i < l->model->shape.expert_n;
        if (place->alone || strcmp(row->name, place->name) == 0) place->row = row;
    }
    return HOTSET_OK;
}

static bool is_down(const tensor_place *place) {
    return place->row && (place->row->role == ARCH_FFN_DOWN || place->row->role == ARCH_EXPERT_DOWN);
}

/* ---- Types ---- */

/* `wanted`, or the nearest type whose blocks make up a row. */
static gguf_type fitting_type(gguf_type wanted, uint64_t item_n) {
    if (item_n % gguf_type_get(wanted)->block_n == 0) return wanted;
    return item_n % gguf_type_get(GGUF_Q8_0)->block_n ? GGUF_F16 : GGUF_Q8_0;
}

static bool may_quantise(const layouting *l, const tensor_place *place, const gguf_tensor *t) {
    if (!l->job->quantise || t->dim_n < 2) return false;
    return place->row && place->row->matrix && place->row->role != ARCH_ROUTER &&
           place->row->role != ARCH_POSITIONS;
}

/* The head decides between tokens: types of fewer than 6 bits leave it 6, as usual quantisers do. */
static gguf_type wanted_type(const layouting *l, const tensor_place *place, const char *name) {
    for (size_t i = 0; i < l->job->keep_n; i++) {
        convert_keep *keep = &l->job->keep[i];
        if (fnmatch(keep->pattern, name, 0) != 0) continue;
        keep->used = true;
        return keep->type;
    }
    const gguf_type_info *info = gguf_type_get(l->job->type);
    bool head = place->row &&
                (place->row->role == ARCH_OUTPUT || (place->row->role == ARCH_EMBED && l->model->shape.tied));
    return head && info->block_bytes * 8 < info->block_n * 6.5 ? GGUF_Q6_K : l->job->type;
}

/* Sets the type of a part whose item_n is known. */
static hotset_status choose_type(layouting *l, const tensor_place *place, const gguf_tensor *t,
                                 convert_part *p) {
    p->type = p->from_type;
    if (!may_quantise(l, place, t)) return HOTSET_OK;
    if (!is_float(p->from_type))
        return hotset_fail(l->err, HOTSET_E_ARGUMENT,
                           "tensor %.64s is %s already: --type needs a model in F32, F16 or BF16 (quantising "
                           "twice adds the errors of both)",
                           p->name, gguf_type_get(p->from_type)->name);
    gguf_type wanted = wanted_type(l, place, p->name);
    p->type = fitting_type(wanted, p->item_n);
    if (p->type == wanted) return HOTSET_OK;
    for (size_t i = 0; i < l->out->part_n; i++) /* said once for all rows of this length */
        if (l->out->part[i].item_n == p->item_n && l->out->part[i].type == p->type &&
            l->out->part[i].type != l->out->part[i].from_type)
            return HOTSET_OK;
    note(l, "rows of %llu weights (%s) are no whole blocks of %s: they become %s",
         (unsigned long long)p->item_n, p->name, gguf_type_get(wanted)->name, gguf_type_get(p->type)->name);
    return HOTSET_OK;
}

/* ---- Orders ---- */

/* What the neurons of a layer's down matrix share in the old file, where new scales are not computed. */
static neurons_sharing sharing_of(const model_layer *layer) {
    const model_tensor *down = &layer->tensor[ARCH_FFN_DOWN];
    if (layer->experts) return (neurons_sharing){1, 1};
    return neurons_sharing_of(down->type, down->order);
}

static bool is_identity(const uint32_t *order, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        if (order[i] != i) return false;
    return true;
}

static hotset_status sort_layer(layouting *l, uint32_t layer_i) {
    const activation_layer *counts = &l->job->profile->layer[layer_i];
    const model_layer *layer = &l->model->layer[layer_i];
    uint32_t n = model_unit_n(l->model, layer_i);
    if (counts->kind != (layer->experts ? ACTIVATION_EXPERTS : ACTIVATION_NEURONS)) return HOTSET_OK;
    if (layer->experts && l->model->router.group_n) return HOTSET_OK; /* the router needs its neighbours */
    uint32_t *order = arena_alloc(&l->out->arena, n, sizeof *order);
    if (!order) return no_memory(l->err);
    HOTSET_TRY(neurons_sort(order, counts->count, n, sharing_of(layer), l->err));
    l->out->sorted_n++;
    if (is_identity(order, n)) return HOTSET_OK;
    l->out->order[layer_i] = order;
    l->out->changed = true;
    return HOTSET_OK;
}

static hotset_status sort_layers(layouting *l) {
    uint32_t layer_n = l->model->shape.layer_n;
    l->out->order = arena_alloc(&l->out->arena, layer_n, sizeof *l->out->order);
    if (!l->out->order) return no_memory(l->err);
    if (!l->job->profile) return HOTSET_OK;
    neurons_sharing tightest = {1, 1};
    for (uint32_t i = 0; i < layer_n; i++) {
        HOTSET_TRY(sort_layer(l, i));
        neurons_sharing s = sharing_of(&l->model->layer[i]);
        if (s.group_n > tightest.group_n) tightest = s;
    }
    if (tightest.group_n > 1)
        note(l,
             "neurons of a block of down share its scales: they are sorted in groups of %u, and inside these "
             "in parts of %u",
             tightest.group_n, tightest.part_n);
    return HOTSET_OK;
}

/* Numbers of units: what stands in the file, where a tensor nobody knows could have them too. */
static hotset_status refuse_unknown(layouting *l, const tensor_place *place, const gguf_tensor *t) {
    if (!place->in_layer || place->row || !l->out->order[place->layer_i]) return HOTSET_OK;
    for (uint32_t d = 0; d < t->dim_n; d++)
        if (t->dim[d] == model_unit_n(l->model, place->layer_i))
            return hotset_fail(l->err, HOTSET_E_ARGUMENT,
                               "tensor %.*s is not known, and may have the order of the neurons that "
                               "--profile would change",
                               (int)min_u64(t->name.bytes, 64), t->name.data);
    return HOTSET_OK;
}

/* ---- Tensors ---- */

static hotset_status add_units(layouting *l, convert_part *p, uint32_t unit_n) {
    p->unit_n = unit_n;
    p->unit = arena_alloc(&l->out->arena, unit_n, sizeof *p->unit);
    return p->unit ? HOTSET_OK : no_memory(l->err);
}

static void count_part(layouting *l, const convert_part *p) {
    l->out->bytes += convert_part_bytes(p);
    if (p->type != p->from_type) l->out->changed = true;
    l->out->part_n++;
}

/* Anything but down: the tensor as it stands, its rows, elements or experts in the new order. */
static hotset_status add_plain(layouting *l, const tensor_place *place, const gguf_tensor *t) {
    convert_part *p = &l->out->part[l->out->part_n];
    const uint32_t *order = place->in_layer ? l->out->order[place->layer_i] : NULL;
    bool experts = place->in_layer && l->model->layer[place->layer_i].experts, rows = false, units = false;
    bool halves = false;
    snprintf(p->name, sizeof p->name, "%.*s", (int)t->name.bytes, t->name.data);
    p->dim_n = t->dim_n;
    memcpy(p->dim, t->dim, sizeof p->dim);
    p->from_type = t->type;
    switch (place->row ? (int)place->row->role : -1) {
    case ARCH_FFN_GATE:
    case ARCH_FFN_GATE_BIAS:
    case ARCH_FFN_UP:
    case ARCH_FFN_UP_BIAS:
    case ARCH_PREDICTOR_OUT: rows = !experts; break;
    case ARCH_ROUTER:
    case ARCH_ROUTER_BIAS:
    case ARCH_ROUTER_CHOICE_BIAS:
    case ARCH_EXPERT_GATE_BIAS:
    case ARCH_EXPERT_UP_BIAS:
    case ARCH_EXPERT_DOWN_BIAS: rows = experts; break;
    case ARCH_FFN_GATE_UP: rows = halves = true; break;
    case ARCH_EXPERT_GATE_UP:
    case ARCH_EXPERT_GATE:
    case ARCH_EXPERT_UP: units = true; break;
    default: break;
    }
    bool elements = rows && t->dim_n == 1; /* a row of each is one element */
    uint32_t unit_n = units && !place->alone ? (uint32_t)t->dim[2] : halves ? 2 : 1;
    p->item_n = elements ? 1 : t->dim[0];
    p->row_n = t->element_n / p->item_n / unit_n;
    p->from_row_bytes = elements ? gguf_row_bytes(t->type, 1) : t->row_bytes;
    p->row_order = rows ? order : NULL;
    if (p->row_order && p->row_n != model_unit_n(l->model, place->layer_i))
        return hotset_fail(l->err, HOTSET_E_FORMAT, "tensor %s has %llu rows for %u neurons", p->name,
                           (unsigned long long)p->row_n, model_unit_n(l->model, place->layer_i));
    HOTSET_TRY(choose_type(l, place, t, p));
    HOTSET_TRY(add_units(l, p, unit_n));
    for (uint32_t u = 0; u < unit_n; u++)
        p->unit[u] = t->data + t->bytes / unit_n * (units && order && !place->alone ? order[u] : u);
    if (units && order && place->alone)
        p->unit[0] = l->model->layer[place->layer_i].tensor[place->row->role].unit[order[place->expert_i]];
    count_part(l, p);
    return HOTSET_OK;
}

/* How a down matrix is to stand; float types by neuron have the name and shape of those by row. */
static neurons_order wanted_order(const layouting *l, const model_tensor *t) {
    const convert_job *job = l->job;
    neurons_form f;
    if (job->keep_down) return NEURONS_BY_OUTPUT;
    if (!l->out->zeros) return job->quantise ? NEURONS_BY_OUTPUT : t->order;
    if (job->quantise || t->order == NEURONS_BY_ROW) return NEURONS_BY_ROW;
    return neurons_form_of(t->type, t->out_n, &f) ? NEURONS_BY_NEURON : NEURONS_BY_OUTPUT;
}

static void name_down(convert_part *p, uint32_t layer_i, bool experts, neurons_order to) {
    const char *stem = experts ? "ffn_down_exps" : "ffn_down";
    bool rows = to == NEURONS_BY_ROW || (to == NEURONS_BY_NEURON && is_float(p->type));
    snprintf(p->name, sizeof p->name, "blk.%u.%s%s.weight", layer_i, stem,
             rows                      ? "_t"
             : to == NEURONS_BY_OUTPUT ? ""
                                       : "_neuron");
}

/* Rows and items of the new matrix, and how the old one is read for them. */
static void shape_down(convert_part *p, const model_tensor *t, neurons_order to, const uint32_t *order) {
    bool from_neurons = t->order == NEURONS_BY_ROW || (t->order == NEURONS_BY_NEURON && is_float(t->type));
    bool to_neurons = to == NEURONS_BY_ROW || (to == NEURONS_BY_NEURON && is_float(t->type));
    p->blocks = !is_float(t->type) && t->order != NEURONS_BY_ROW && (order || t->order != to);
    p->from = t->order;
    p->to = to;
    p->row_n = to_neurons ? t->in_n : t->out_n;
    p->item_n = to_neurons ? t->out_n : t->in_n;
    p->transposed = from_neurons != to_neurons;
    p->from_row_bytes = gguf_row_bytes(t->type, from_neurons ? t->out_n : t->in_n);
    p->row_order = to_neurons ? order : NULL;
    p->item_order = to_neurons ? NULL : order;
}

static hotset_status add_down(layouting *l, const tensor_place *place, const gguf_tensor *file_tensor) {
    convert_part *p = &l->out->part[l->out->part_n];
    const model_layer *layer = &l->model->layer[place->layer_i];
    const model_tensor *t = &layer->tensor[place->row->role];
    const uint32_t *order = l->out->order[place->layer_i];
    neurons_order to = wanted_order(l, t);
    snprintf(p->name, sizeof p->name, "%.*s", (int)file_tensor->name.bytes, file_tensor->name.data);
    if (t->order == NEURONS_BY_ROW && to == NEURONS_BY_OUTPUT)
        return hotset_fail(
            l->err, HOTSET_E_ARGUMENT,
            "tensor %s has its blocks along the outputs: --keep-down cannot put it back without "
            "quantising it again",
            p->name);
    if (l->out->zeros && !l->job->keep_down && !l->job->quantise && to == NEURONS_BY_OUTPUT)
        note(l, "%s stays by output: %u outputs of %s are no whole runs of %d", p->name, t->out_n,
             gguf_type_get(t->type)->name, NEURONS_RUN);
    p->from_type = t->type;
    shape_down(p, t, to, layer->experts ? NULL : order);
    HOTSET_TRY(choose_type(l, place, file_tensor, p));
    bool by_neuron = to == NEURONS_BY_NEURON || (to == NEURONS_BY_ROW && is_float(p->type));
    l->out->by_neuron_n += by_neuron;
    l->out->by_row_n += to == NEURONS_BY_ROW && !is_float(p->type);
    bool stacked = t->unit_n > 0 && (!place->alone || to != NEURONS_BY_OUTPUT);
    if (!place->alone || stacked) name_down(p, place->layer_i, layer->experts, to);
    if (to != t->order && !(by_neuron && t->order == NEURONS_BY_NEURON)) l->out->changed = true;
    p->dim[0] = p->item_n;
    p->dim[1] = p->row_n;
    p->dim[2] = stacked ? t->unit_n : 1;
    p->dim[3] = 1;
    p->dim_n = stacked ? 3 : 2;
    HOTSET_TRY(add_units(l, p, stacked ? t->unit_n : 1));
    for (uint32_t u = 0; u < p->unit_n; u++) {
        uint32_t from = stacked ? u : place->expert_i; /* 0 of a dense layer's */
        p->unit[u] = t->unit_n ? t->unit[layer->experts && order ? order[from] : from] : t->data;
    }
    count_part(l, p);
    return HOTSET_OK;
}

/* ---- The file ---- */

/* Down matrices that nobody reads, because another name comes first, and experts that go into one tensor. */
static bool is_left_out(const layouting *l, const tensor_place *place, const gguf_tensor *t) {
    const model_tensor *view = &l->model->layer[place->layer_i].tensor[place->row->role];
    if (place->alone) return place->expert_i > 0 && wanted_order(l, view) != NEURONS_BY_OUTPUT;
    return (view->unit_n ? view->unit[0] : view->data) != t->data;
}

static hotset_status add_tensors(layouting *l) {
    const gguf *file = l->model->file;
    HOTSET_TRY(base_calloc(&l->out->part, gguf_tensor_n(file) + 1, sizeof *l->out->part,
                           "the tensors of the new file", l->err));
    for (uint64_t i = 0; i < gguf_tensor_n(file); i++) {
        const gguf_tensor *t = gguf_tensor_at(file, i);
        tensor_place place;
        HOTSET_TRY(find_place(l, t, &place));
        HOTSET_TRY(refuse_unknown(l, &place, t));
        if (!is_down(&place))
            HOTSET_TRY(add_plain(l, &place, t));
        else if (!is_left_out(l, &place, t))
            HOTSET_TRY(add_down(l, &place, t));
    }
    return HOTSET_OK;
}

hotset_status convert_lay_out(convert_layout *out, const convert_job *job, hotset_text_fn *note_fn,
                              void *cookie, hotset_error *err) {
    layouting l = {out, job, job->model, note_fn, cookie, err};
    *out = (convert_layout){0};
    out->zeros = job->model->activation == ARCH_ACT_RELU || job->model->activation == ARCH_ACT_RELU2 ||
                 job->model->activation == ARCH_ACT_DRELU;
    out->changed = job->activation != NULL;
    HOTSET_TRY(sort_layers(&l));
    return add_tensors(&l);
}

void convert_layout_free(convert_layout *layout) {
    arena_free(&layout->arena);
    free(layout->part);
    *layout = (convert_layout){0};
}
