/* convert_write.c - writes the converted file: the keys, then window by window the weights in their new
 * places and types. */
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "devices/cpu/kernels.h"
#include "devices/neurons_sort.h"
#include "devices/quantise.h"
#include "tools/convert_layout.h"

enum {
    WINDOW_BYTES = 8 << 20, /* written at once */
    TILE_ROWS = 32          /* of a thread: transposing reads whole cache lines of the old rows */
};

typedef struct writing {
    const convert_layout *layout;
    const convert_job *job;
    convert_output *output;
    gguf_writer *writer;
    cpu_kernels kernels; /* portable: reads back what was written */
    int thread_n;
    uint8_t *window;
    uint8_t *scratch; /* [thread_n][scratch_bytes] */
    uint64_t scratch_bytes;
    uint8_t *rows, *moved; /* a whole matrix by output, for what moves blocks */
    uint64_t done_bytes;
} writing;

/* ---- Keys ------------------------------------------------------------------------------------------- */

/* general.file_type of a file of this type, as other programs name it. */
static uint32_t file_type_of(gguf_type type) {
    switch ((int)type) {
    case GGUF_F32: return 0;
    case GGUF_Q4_0: return 2;
    case GGUF_Q4_1: return 3;
    case GGUF_Q8_0: return 7;
    case GGUF_Q5_0: return 8;
    case GGUF_Q5_1: return 9;
    case GGUF_Q4_K: return 14;
    case GGUF_Q5_K: return 16;
    case GGUF_Q6_K: return 18;
    case GGUF_BF16: return 32;
    case GGUF_MXFP4: return 38;
    default: return 1;
    }
}

static hotset_status put_text(writing *w, const char *name, const char *text, hotset_error *err) {
    return gguf_put_string(w->writer, name, text, strlen(text), err);
}

/* The units' first numbers: those of the old file taken through its own order. */
static hotset_status put_order(writing *w, hotset_error *err) {
    const hotset_model *m = w->job->model;
    uint64_t n = 0, at = 0;
    bool ordered = false;
    for (uint32_t i = 0; i < m->shape.layer_n; i++) {
        ordered = ordered || w->layout->order[i] || m->layer[i].order;
        n += model_unit_n(m, i);
    }
    if (!ordered) return HOTSET_OK;
    uint32_t *all;
    HOTSET_TRY(base_calloc(&all, n, sizeof *all, "the order of neurons", err));
    for (uint32_t i = 0; i < m->shape.layer_n; i++)
        for (uint32_t u = 0; u < model_unit_n(m, i); u++) {
            uint32_t old = w->layout->order[i] ? w->layout->order[i][u] : u;
            all[at++] = m->layer[i].order ? m->layer[i].order[old] : old;
        }
    hotset_status status = gguf_put_array(w->writer, MODEL_ORDER_KEY, GGUF_KIND_U32, all, n, err);
    free(all);
    return status;
}

/* Keys that are written anew; those of a split file go, for the new one is whole. */
static bool is_replaced(const writing *w, gguf_string name, const char *activation_key) {
    static const char *const ours[] = {"hotset.convert.version", "hotset.down.layout", MODEL_ORDER_KEY};
    for (size_t i = 0; i < COUNT_OF(ours); i++)
        if (gguf_string_is(name, ours[i])) return true;
    if (gguf_part_n(w->job->model->file) > 1 && name.bytes > 6 && !memcmp(name.data, "split.", 6))
        return true;
    if (w->job->quantise && gguf_string_is(name, "general.file_type")) return true;
    return w->job->activation && gguf_string_is(name, activation_key);
}

static hotset_status put_keys(writing *w, hotset_error *err) {
    const convert_layout *l = w->layout;
    const gguf *file = w->job->model->file;
    char activation_key[96];
    snprintf(activation_key, sizeof activation_key, "%s.hidden_activation", w->job->model->arch->name);
    for (uint64_t i = 0; i < gguf_key_n(file); i++)
        if (!is_replaced(w, gguf_key_at(file, i)->name, activation_key))
            HOTSET_TRY(gguf_put_key(w->writer, gguf_key_at(file, i), err));
    if (w->job->quantise) {
        HOTSET_TRY(gguf_put_u32(w->writer, "general.file_type", file_type_of(w->job->type), err));
        if (!gguf_find_key(file, "general.quantization_version"))
            HOTSET_TRY(gguf_put_u32(w->writer, "general.quantization_version", 2, err));
    }
    if (w->job->activation) HOTSET_TRY(put_text(w, activation_key, w->job->activation, err));
    HOTSET_TRY(put_text(w, "hotset.convert.version", hotset_version(), err));
    if (l->by_row_n || l->by_neuron_n)
        HOTSET_TRY(put_text(w, "hotset.down.layout", l->by_row_n ? "row" : "neuron", err));
    return put_order(w, err);
}

/* ---- Rows ------------------------------------------------------------------------------------------- */

static bool is_copy(const convert_part *p) {
    return p->type == p->from_type && !p->transposed && !p->item_order;
}

/* Bytes of the rows [first, first + n) in the old file's type; floats only. */
static void gather(const convert_part *p, const uint8_t *from, uint64_t first, uint64_t n, uint8_t *to) {
    const uint32_t item_bytes = gguf_type_get(p->from_type)->block_bytes;
    const uint64_t to_row = p->item_n * item_bytes;
    uint64_t row_step = p->transposed ? item_bytes : p->from_row_bytes;
    uint64_t item_step = p->transposed ? p->from_row_bytes : item_bytes;
    const uint8_t *row[TILE_ROWS];
    for (uint64_t r = 0; r < n; r++)
        row[r] = from + row_step * (p->row_order ? p->row_order[first + r] : first + r);
    for (uint64_t i = 0; i < p->item_n; i++) {
        const uint64_t at = item_step * (p->item_order ? p->item_order[i] : i);
        for (uint64_t r = 0; r < n; r++)
            if (item_bytes == 2)
                memcpy(to + r * to_row + 2 * i, row[r] + at, 2);
            else
                memcpy(to + r * to_row + 4 * i, row[r] + at, 4);
    }
}

/* Turns one row of floats in the old type into the new one. False: a value that this cannot hold. */
static bool change_type(const writing *w, const convert_part *p, const uint8_t *from, uint8_t *to,
                        float *values, convert_error *error) {
    float *back = values + p->item_n;
    double squared = 0, energy = 0;
    w->kernels.dequant[p->from_type](values, from, p->item_n);
    if (!quantise_row(to, values, p->item_n, p->type)) return false;
    w->kernels.dequant[p->type](back, to, p->item_n);
    for (uint64_t i = 0; i < p->item_n; i++) {
        const double e = (double)back[i] - values[i];
        squared += e * e;
        energy += (double)values[i] * values[i];
    }
    error->squared += squared;
    error->energy += energy;
    error->weight_n += p->item_n;
    return true;
}

/* Rows [first, first + n), at most TILE_ROWS, to their place. Returns the number of a row that holds a value
 * beyond the type, or UINT64_MAX. */
static uint64_t make_tile(const writing *w, const convert_part *p, const uint8_t *from, uint64_t first,
                          uint64_t n, uint8_t *to, uint8_t *scratch, convert_error *error) {
    const uint64_t row_bytes = gguf_row_bytes(p->type, p->item_n);
    if (is_copy(p)) {
        for (uint64_t r = 0; r < n; r++)
            memcpy(to + r * row_bytes,
                   from + p->from_row_bytes * (p->row_order ? p->row_order[first + r] : first + r),
                   row_bytes);
        return UINT64_MAX;
    }
    if (p->type == p->from_type) {
        gather(p, from, first, n, to);
        return UINT64_MAX;
    }
    const uint64_t old_bytes = gguf_row_bytes(p->from_type, p->item_n);
    const bool gathered = p->transposed || p->item_order;
    float *values = (float *)(void *)(scratch + round_up(TILE_ROWS * old_bytes, 64));
    if (gathered) gather(p, from, first, n, scratch);
    for (uint64_t r = 0; r < n; r++) {
        const uint8_t *row = scratch + r * old_bytes;
        if (!gathered) row = from + p->from_row_bytes * (p->row_order ? p->row_order[first + r] : first + r);
        if (!change_type(w, p, row, to + r * row_bytes, values, error)) return first + r;
    }
    return UINT64_MAX;
}

static uint64_t tile_scratch_bytes(const convert_part *p) {
    if (p->type == p->from_type) return 0;
    return round_up(TILE_ROWS * gguf_row_bytes(p->from_type, p->item_n), 64) +
           round_up(2 * p->item_n * sizeof(float), 64);
}

static hotset_status put(writing *w, const uint8_t *data, uint64_t bytes, hotset_error *err) {
    HOTSET_TRY(gguf_put_data(w->writer, data, bytes, err));
    w->done_bytes += bytes;
    const convert_output *o = w->output;
    if (o->progress && !o->progress(o->progress_cookie, w->done_bytes, w->layout->bytes))
        return hotset_fail(err, HOTSET_E_CANCELLED, "cancelled");
    return HOTSET_OK;
}

static hotset_status put_whole(writing *w, const uint8_t *data, uint64_t bytes, hotset_error *err) {
    for (uint64_t at = 0; at < bytes; at += WINDOW_BYTES)
        HOTSET_TRY(put(w, data + at, min_u64(WINDOW_BYTES, bytes - at), err));
    return HOTSET_OK;
}

/* Rows of a window in whole tiles, at least one. */
static uint64_t window_rows(const convert_part *p) {
    uint64_t row_bytes = gguf_row_bytes(p->type, p->item_n);
    return max_u64(1, WINDOW_BYTES / row_bytes / TILE_ROWS) * TILE_ROWS;
}

static hotset_status put_rows(writing *w, const convert_part *p, const uint8_t *from, convert_error *error,
                              hotset_error *err) {
    const uint64_t row_bytes = gguf_row_bytes(p->type, p->item_n), window_n = window_rows(p);
    for (uint64_t start = 0; start < p->row_n; start += window_n) {
        uint64_t n = min_u64(window_n, p->row_n - start), bad_row = UINT64_MAX, weight_n = 0;
        double squared = 0, energy = 0;
#pragma omp parallel for schedule(dynamic) num_threads(w->thread_n)                                              \
    reduction(+ : squared, energy, weight_n) reduction(min : bad_row)
        for (uint64_t at = 0; at < n; at += TILE_ROWS) {
            convert_error tile = {0};
            uint64_t bad =
                make_tile(w, p, from, start + at, min_u64(TILE_ROWS, n - at), w->window + at * row_bytes,
                          w->scratch + w->scratch_bytes * (uint64_t)omp_get_thread_num(), &tile);
            bad_row = bad < bad_row ? bad : bad_row;
            squared += tile.squared;
            energy += tile.energy;
            weight_n += tile.weight_n;
        }
        if (bad_row != UINT64_MAX)
            return hotset_fail(err, HOTSET_E_ARGUMENT,
                               "tensor %s, row %llu: a value is not finite, or too large for %s", p->name,
                               (unsigned long long)bad_row, gguf_type_get(p->type)->name);
        error->squared += squared;
        error->energy += energy;
        error->weight_n += weight_n;
        HOTSET_TRY(put(w, w->window, n * row_bytes, err));
    }
    return HOTSET_OK;
}

/* ---- Blocks of down --------------------------------------------------------------------------------- */

/* One matrix: rows by output, their neurons moved, and stored as wanted. */
static hotset_status put_blocks(writing *w, const convert_part *p, const uint8_t *from, hotset_error *err) {
    const uint64_t row_bytes = p->from_row_bytes;
    const uint32_t in_n = (uint32_t)p->item_n, out_n = (uint32_t)p->row_n;
    const uint8_t *result = from;
    if (p->from == NEURONS_BY_NEURON) {
#pragma omp parallel for schedule(dynamic) num_threads(w->thread_n)
        for (uint32_t o = 0; o < out_n; o += NEURONS_RUN)
            neurons_restore(w->rows + row_bytes * o, from, row_bytes, p->type, in_n, out_n, o, NEURONS_RUN);
        result = w->rows;
    }
    if (p->item_order) {
        const uint8_t *rows = result;
#pragma omp parallel for schedule(static) num_threads(w->thread_n)
        for (uint32_t o = 0; o < out_n; o++)
            neurons_permute_row(w->moved + row_bytes * o, rows + row_bytes * o, p->type, in_n, p->item_order);
        result = w->moved;
    }
    if (p->to == NEURONS_BY_NEURON) {
        const uint8_t *rows = result;
        uint8_t *to = result == w->rows ? w->moved : w->rows;
#pragma omp parallel for schedule(dynamic) num_threads(w->thread_n)
        for (uint32_t o = 0; o < out_n; o += NEURONS_RUN)
            neurons_store(to, rows, row_bytes, p->type, in_n, out_n, o, NEURONS_RUN);
        result = to;
    }
    return put_whole(w, result, row_bytes * out_n, err);
}

/* ---- The file --------------------------------------------------------------------------------------- */

static hotset_status put_part(writing *w, const convert_part *p, hotset_error *err) {
    convert_error error = {0}, *all = &w->output->error;
    for (uint32_t u = 0; u < p->unit_n; u++) {
        if (p->blocks)
            HOTSET_TRY(put_blocks(w, p, p->unit[u], err));
        else if (is_copy(p) && !p->row_order)
            HOTSET_TRY(put_whole(w, p->unit[u], convert_part_bytes(p) / p->unit_n, err));
        else
            HOTSET_TRY(put_rows(w, p, p->unit[u], &error, err));
    }
    all->squared += error.squared;
    all->energy += error.energy;
    all->weight_n += error.weight_n;
    if (w->output->tell && error.weight_n) w->output->tell(w->output->tell_cookie, p, &error);
    return HOTSET_OK;
}

static hotset_status alloc(writing *w, hotset_error *err) {
    uint64_t window = 0, matrix = 0;
    for (size_t i = 0; i < w->layout->part_n; i++) {
        const convert_part *p = &w->layout->part[i];
        uint64_t row_bytes = gguf_row_bytes(p->type, p->item_n);
        window = max_u64(window, row_bytes * min_u64(window_rows(p), p->row_n));
        w->scratch_bytes = max_u64(w->scratch_bytes, tile_scratch_bytes(p));
        if (p->blocks) matrix = max_u64(matrix, p->from_row_bytes * p->row_n);
    }
    HOTSET_TRY(base_calloc(&w->window, window + 1, 1, "rows of weights", err));
    HOTSET_TRY(base_calloc(&w->scratch, (uint64_t)w->thread_n, w->scratch_bytes + 1, "rows of floats", err));
    if (!matrix) return HOTSET_OK;
    HOTSET_TRY(base_calloc(&w->rows, matrix, 1, "a down matrix", err));
    return base_calloc(&w->moved, matrix, 1, "a down matrix", err);
}

static hotset_status write_file(writing *w, hotset_error *err) {
    if (gguf_is_powerinfer(w->job->model->file)) gguf_writer_set_powerinfer(w->writer);
    HOTSET_TRY(put_keys(w, err));
    for (size_t i = 0; i < w->layout->part_n; i++) {
        const convert_part *p = &w->layout->part[i];
        HOTSET_TRY(gguf_put_tensor(w->writer, p->name, p->type, p->dim_n, p->dim, err));
    }
    for (size_t i = 0; i < w->layout->part_n; i++) HOTSET_TRY(put_part(w, &w->layout->part[i], err));
    return HOTSET_OK;
}

hotset_status convert_write(const convert_layout *layout, const convert_job *job, convert_output *output,
                            hotset_error *err) {
    writing w = {.layout = layout, .job = job, .output = output};
    w.thread_n = output->thread_n ? (int)output->thread_n : omp_get_max_threads();
    output->error = (convert_error){0};
    cpu_kernels_ref(&w.kernels);
    hotset_status status = alloc(&w, err);
    if (!status) status = gguf_writer_open(&w.writer, output->path, err);
    if (!status) status = write_file(&w, err);
    if (!status) {
        status = gguf_writer_commit(w.writer, err);
        w.writer = NULL;
    }
    gguf_writer_free(w.writer);
    free(w.window);
    free(w.scratch);
    free(w.rows);
    free(w.moved);
    return status;
}
