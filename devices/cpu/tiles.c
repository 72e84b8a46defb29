/* tiles.c - products of many rows: weights are unpacked to tiles, each of which meets all panels. */
#include "devices/cpu/tiles.h"

#include <string.h>

#include "devices/lanes.h"

enum {
    RECTANGLE_FLOATS = 64 * CPU_PANEL_COLS_MAX, /* products of a tile and a panel */
    WIDE_COLS_MIN = 32,                         /* for fewer columns widening takes longer than it saves */
    WIDE_ROWS_MAX = 128,                        /* of wide tiles, all parts together: 512 KB */
    WIDE_COLS_MAX = 512                         /* whose sums wait for the next run of weights: 256 KB */
};

bool cpu_goes_wide(const cpu_kernels *kernels, const device_matrix *m, uint32_t col_n) {
    return col_n >= WIDE_COLS_MIN && cpu_matmul_of(kernels, m)->wide;
}

/* One tile. Of a matrix stored by neuron as many as fill one or two cache lines of each neuron, for every
 * visit to one costs a look into the page tables (some 30 ns, whether for one line or two). Of wide ones as
 * many as share columns while these come from a farther cache. Fewer where threads would wait for each other.
 */
uint32_t cpu_unpack_rows(const cpu_kernels *kernels, const device_matrix *m, uint32_t thread_n, bool wide) {
    const uint32_t least = (uint32_t)cpu_matmul_of(kernels, m)->tile_rows;
    uint32_t n = least;
    if (m->order == NEURONS_BY_NEURON)
        n = (gguf_type_get(m->type)->block_n > 1 ? 4 : 2) * CPU_NEURON_ROWS;
    else if (wide)
        n = WIDE_ROWS_MAX / 2;
    while (n > CPU_NEURON_ROWS && n > least && m->out_n / n < 4 * thread_n) n /= 2;
    return n;
}

/* What a job's room is divided into. */
typedef struct job_layout {
    uint64_t tiles, wide, products, bytes; /* offsets, and their end */
} job_layout;

static job_layout layout_of(const cpu_kernels *kernels, const device_matrix *m, uint32_t row_n,
                            uint32_t part_n, bool wide) {
    const cpu_matmul *mm = cpu_matmul_of(kernels, m);
    const uint64_t k = wide ? min_u64(m->in_n, CPU_WIDE_RUN) : m->in_n, tile_rows = mm->tile_rows;
    const uint64_t tile_n = (row_n + tile_rows - 1) / tile_rows;
    uint64_t narrow_n = tile_n, columns = CPU_WIDE_COLS;
    if (m->order == NEURONS_BY_OUTPUT) narrow_n = wide ? 1 : part_n;
    if (m->in_n > CPU_WIDE_RUN) columns = WIDE_COLS_MAX;
    job_layout at = {0};
    at.wide = narrow_n * cpu_tile_stride(mm, k);
    at.products = at.wide + (wide ? part_n * tile_n * mm->wide->tile_bytes(k) : 0);
    at.bytes =
        at.products + part_n * sizeof(float) * (wide ? tile_n * CPU_WIDE_ROWS * columns : RECTANGLE_FLOATS);
    return at;
}

uint64_t cpu_job_bytes_max(const cpu_kernels *kernels, const device_linear_part *part, uint32_t part_n) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < part_n; i++)
        for (int wide = cpu_goes_wide(kernels, &part[i].w, UINT32_MAX); wide >= 0; wide--) {
            const uint32_t row_n = cpu_unpack_rows(kernels, &part[i].w, 1, wide);
            bytes = max_u64(bytes, layout_of(kernels, &part[i].w, row_n, part_n > 1 ? 2 : 1, wide).bytes);
        }
    return bytes;
}

/* Where column c stands in an output of the job's rows. */
static float *column_in(const cpu_tile_job *job, device_rows y, uint32_t c) {
    const uint32_t use = job->use ? job->use[c] : c;
    return cpu_row(y, use / job->used_n) + (size_t)(use % job->used_n) * job->part->w.out_n + job->from;
}

void cpu_tiles_make(const cpu_kernels *k, const device_matrix *m, const uint8_t *data, uint32_t from,
                    uint32_t n, uint8_t *tiles) {
    const cpu_matmul *mm = cpu_matmul_of(k, m);
    uint32_t tile_rows = (uint32_t)mm->tile_rows;
    uint64_t stride = cpu_tile_stride(mm, m->in_n);
    switch (m->order) {
    case NEURONS_BY_OUTPUT:
        mm->tile_unpack(tiles, data + m->row_bytes * from, m->row_bytes, n, m->in_n);
        break;
    case NEURONS_BY_NEURON: mm->neuron_tiles(tiles, stride, data, m->out_n, from, n, m->in_n); break;
    case NEURONS_BY_ROW:
        for (uint32_t at = 0; at < n; at += tile_rows)
            k->row_tile[m->type](tiles + stride * (at / tile_rows), data, m->row_bytes, from + at,
                                 min_u64(n - at, tile_rows), m->in_n);
        break;
    }
}

/* The panel that begins with column c. */
static const uint8_t *column_panel(const cpu_tile_job *job, const cpu_matmul *m, uint32_t c) {
    return job->panels + cpu_panel_stride(m, job->part->w.in_n) * (c / m->panel_cols);
}

/* Brings near what is about to be written: row_n floats of each column; columns lie far apart. */
static void ask_for_columns(const cpu_tile_job *job, device_rows y, uint32_t at, uint32_t row_n,
                            uint32_t from, uint32_t n) {
    enum { LINE_FLOATS = CPU_ALIGN / sizeof(float) };
    for (uint32_t c = from; c < from + n; c++)
        for (uint32_t i = 0; i < row_n; i += LINE_FLOATS)
            __builtin_prefetch(column_in(job, y, c) + at + i, 1);
}

/* Asks, with each panel that the columns from `from` on are, for a part of the weights that the next tile is
 * made of: of n rows behind those of this job, where rows stand one behind the other. Any address may be
 * named. */
static void ask_for_next_tile(const cpu_tile_job *job, const device_matrix *m, uint32_t n, uint32_t from,
                              uint32_t panel_cols) {
    if (m->order != NEURONS_BY_OUTPUT) return;
    const uint64_t bytes = m->row_bytes * n, from_byte = bytes * from / job->col_n;
    const uint64_t to_byte = bytes * min_u64(from + panel_cols, job->col_n) / job->col_n;
    const uintptr_t next = (uintptr_t)cpu_unit_data(m, job->unit) + m->row_bytes * (job->from + n);
    for (uint64_t at = round_up(from_byte, CPU_ALIGN); at < to_byte; at += CPU_ALIGN)
        __builtin_prefetch((const void *)(next + at), 0, 2);
}

/* The tile of n rows from number `at` of the job on. */
static void multiply_tile(const cpu_tile_job *job, const uint8_t *tile, float *product, uint32_t at,
                          uint32_t n) {
    const device_matrix *m = &job->part->w;
    const cpu_matmul *mm = cpu_matmul_of(job->w->kernels, m);
    const float *bias = cpu_unit_bias(job->part, job->unit);
    const device_rows y = job->part->y;
    for (uint32_t from = 0; from < job->col_n; from += (uint32_t)mm->panel_cols) {
        const uint32_t col_n = (uint32_t)min_u64(mm->panel_cols, job->col_n - from);
        ask_for_columns(job, y, at, n, from, col_n);
        ask_for_next_tile(job, m, n, from, (uint32_t)mm->panel_cols);
        mm->tile_mul(product, mm->tile_rows, tile, column_panel(job, mm, from), m->in_n);
        for (uint32_t i = 0; i < col_n; i++)
            cpu_finish(column_in(job, y, from + i) + at, product + i * mm->tile_rows,
                       bias ? bias + job->from + at : NULL, n, job->part->accumulate);
    }
}

static void zero_outputs(const cpu_tile_job *job, device_rows y, uint32_t n) {
    for (uint32_t c = 0; c < job->col_n; c++) memset(column_in(job, y, c), 0, n * sizeof(float));
}

static uint32_t job_rows(const cpu_tile_job *job) {
    const device_matrix *m = &job->part->w;
    return (uint32_t)min_u64(m->out_n - job->from,
                             cpu_unpack_rows(job->w->kernels, m, job->w->thread_n, job->wide));
}

static void multiply_tiles(const cpu_tile_job *job) {
    const device_matrix *m = &job->part->w;
    const cpu_matmul *mm = cpu_matmul_of(job->w->kernels, m);
    const uint8_t *data = cpu_unit_data(m, job->unit);
    const uint32_t tile_rows = (uint32_t)mm->tile_rows, n = job_rows(job);
    const job_layout at_room = layout_of(job->w->kernels, m, n, 1, false);
    uint8_t *tiles = job->room + at_room.tiles;
    if (!data) {
        zero_outputs(job, job->part->y, n);
        return;
    }
    cpu_tiles_make(job->w->kernels, m, data, job->from, n, tiles);
    for (uint32_t at = 0; at < n; at += tile_rows)
        multiply_tile(job, tiles + cpu_tile_stride(mm, m->in_n) * (at / tile_rows),
                      (float *)(void *)(job->room + at_room.products), at,
                      n - at < tile_rows ? n - at : tile_rows);
}

/* The product of one column panel with a tile, and its bias, in `product`. */
static void multiply_panel(const cpu_tile_job *job, const device_linear_part *part, const uint8_t *tile,
                           const uint8_t *panel, uint32_t col_n, float *product) {
    const cpu_matmul *mm = cpu_matmul_of(job->w->kernels, &part->w);
    const float *bias = cpu_unit_bias(part, job->unit);
    const uint32_t n = job_rows(job);
    mm->tile_mul(product, mm->tile_rows, tile, panel, part->w.in_n);
    for (uint32_t c = 0; c < col_n && bias; c++, product += mm->tile_rows)
        cpu_finish(product, bias + job->from, NULL, n, true);
}

/* The same tile of gate and of up, or of gate alone, which the activation behind takes: what they give is
 * activated before it leaves the first level of cache, and only the result goes to memory. */
static void multiply_activated(const cpu_tile_job *job, uint32_t part_n, const device_op *activation) {
    const device_linear_part *part = job->part;
    const device_rows y = activation->activate.y;
    const cpu_matmul *mm = cpu_matmul_of(job->w->kernels, &part->w);
    const uint64_t stride = cpu_tile_stride(mm, part->w.in_n);
    const uint32_t n = job_rows(job);
    const job_layout at = layout_of(job->w->kernels, &part->w, n, part_n, false);
    uint8_t *tiles = job->room + at.tiles;
    for (uint32_t i = 0; i < part_n; i++) {
        const uint8_t *data = cpu_unit_data(&part[i].w, job->unit);
        if (!data) {
            zero_outputs(job, y, n);
            return;
        }
        cpu_tiles_make(job->w->kernels, &part[i].w, data, job->from, n, tiles + stride * i);
    }
    float *gate = (float *)(void *)(job->room + at.products),
          *up = part_n > 1 ? gate + RECTANGLE_FLOATS : NULL;
    for (uint32_t from = 0; from < job->col_n; from += (uint32_t)mm->panel_cols) {
        const uint32_t col_n = (uint32_t)min_u64(mm->panel_cols, job->col_n - from);
        const uint8_t *panel = column_panel(job, mm, from);
        ask_for_columns(job, y, 0, n, from, col_n);
        for (uint32_t i = 0; i < part_n; i++)
            ask_for_next_tile(job, &part[i].w, n, from, (uint32_t)mm->panel_cols);
        multiply_panel(job, &part[0], tiles, panel, col_n, gate);
        if (up) multiply_panel(job, &part[1], tiles + stride, panel, col_n, up);
        job->w->kernels->activate(gate, gate, up, mm->tile_rows * col_n,
                                  cpu_activation_of(activation->activate.kind));
        for (uint32_t i = 0; i < col_n; i++)
            memcpy(column_in(job, y, from + i), gate + i * mm->tile_rows, n * sizeof *gate);
    }
}

/* ---- Wide tiles: a run of some rows' weights meets all panels, then the next one ---- */

/* Where weight number k of the row that stands at the matrix's beginning lies. */
static uint64_t weight_offset(const device_matrix *m, uint32_t k) {
    switch (m->order) {
    case NEURONS_BY_OUTPUT: return gguf_row_bytes(m->type, k) * (m->interleaved ? LANES_ROWS : 1);
    case NEURONS_BY_NEURON: return gguf_row_bytes(m->type, k) * m->out_n;
    case NEURONS_BY_ROW: return m->row_bytes * k;
    }
    __builtin_unreachable();
}

/* Weights [k, k + k_n) of the job's n rows. */
static void make_wide(const cpu_tile_job *job, const device_matrix *m, uint32_t k, uint32_t k_n, uint32_t n,
                      uint8_t *tiles, uint8_t *to) {
    const cpu_matmul *mm = cpu_matmul_of(job->w->kernels, m);
    const uint8_t *data = cpu_unit_data(m, job->unit) + weight_offset(m, k);
    const uint32_t step = m->order == NEURONS_BY_NEURON ? n : CPU_WIDE_ROWS;
    device_matrix run = *m;
    run.in_n = k_n;
    for (uint32_t at = 0; at < n; at += CPU_WIDE_ROWS) {
        uint8_t *tile = tiles + cpu_tile_stride(mm, k_n) * (at % step / CPU_WIDE_ROWS);
        if (at % step == 0)
            cpu_tiles_make(job->w->kernels, &run, data, job->from + at, (uint32_t)min_u64(n - at, step),
                           tile);
        mm->tile_widen(to + mm->wide->tile_bytes(k_n) * (at / CPU_WIDE_ROWS), tile, k_n);
    }
}

/* What a panel's columns give, n rows of each part, `stride` floats apart: to its place, or through the
 * activation. */
static void finish_panel(const cpu_tile_job *job, uint32_t part_n, const device_op *activation,
                         float *product, uint32_t stride, uint32_t from, uint32_t col_n) {
    const uint32_t n = job_rows(job);
    for (uint32_t i = 0; i < part_n; i++) {
        const float *bias = cpu_unit_bias(&job->part[i], job->unit);
        if (bias) bias += job->from;
        for (uint32_t c = 0; c < col_n && (bias || !activation); c++) {
            float *column = product + (i * CPU_WIDE_COLS + c) * stride;
            if (activation)
                cpu_finish(column, bias, NULL, n, true);
            else
                cpu_finish(column_in(job, job->part->y, from + c), column, bias, n, job->part->accumulate);
        }
    }
    if (!activation) return;
    job->w->kernels->activate(product, product, part_n > 1 ? product + CPU_WIDE_COLS * stride : NULL,
                              stride * col_n, cpu_activation_of(activation->activate.kind));
    for (uint32_t c = 0; c < col_n; c++)
        memcpy(column_in(job, activation->activate.y, from + c), product + c * stride, n * sizeof *product);
}

static void multiply_wide_columns(const cpu_tile_job *job, uint32_t part_n, const device_op *activation,
                                  uint32_t from, uint32_t to) {
    const device_matrix *m = &job->part->w;
    const cpu_matmul *mm = cpu_matmul_of(job->w->kernels, m);
    const cpu_wide *wide = mm->wide;
    const uint32_t n = job_rows(job), tile_n = (n + CPU_WIDE_ROWS - 1) / CPU_WIDE_ROWS;
    const uint32_t stride = tile_n * CPU_WIDE_ROWS;
    const job_layout at = layout_of(job->w->kernels, m, n, part_n, true);
    for (uint32_t k = 0, k_n; k < m->in_n; k += k_n) {
        k_n = (uint32_t)min_u64(m->in_n - k, CPU_WIDE_RUN);
        const uint64_t tile_bytes = wide->tile_bytes(k_n);
        for (uint32_t i = 0; i < part_n; i++)
            make_wide(job, &job->part[i].w, k, k_n, n, job->room + at.tiles,
                      job->room + at.wide + tile_bytes * tile_n * i);
        for (uint32_t c = from; c < to; c += CPU_WIDE_COLS) {
            const uint32_t col_n = (uint32_t)min_u64(to - c, CPU_WIDE_COLS);
            const uint8_t *panel =
                job->panels + wide->panel_bytes(m->in_n) * (c / CPU_WIDE_COLS) + wide->panel_bytes(k);
            float *product = (float *)(void *)(job->room + at.products);
            if (m->in_n > CPU_WIDE_RUN) product += (size_t)(c - from) * stride * part_n;
            for (uint32_t t = 0; t < tile_n * part_n; t++)
                wide->tile_mul(product + t / tile_n * CPU_WIDE_COLS * stride + t % tile_n * CPU_WIDE_ROWS,
                               stride, job->room + at.wide + tile_bytes * t, panel, col_n, k_n, k > 0);
            if (k + k_n == m->in_n) finish_panel(job, part_n, activation, product, stride, c, col_n);
        }
    }
}

static void multiply_wide(const cpu_tile_job *job, uint32_t part_n, const device_op *activation) {
    const uint32_t most = job->part->w.in_n > CPU_WIDE_RUN ? WIDE_COLS_MAX : job->col_n;
    for (uint32_t i = 0; i < part_n; i++)
        if (!cpu_unit_data(&job->part[i].w, job->unit)) {
            zero_outputs(job, activation ? activation->activate.y : job->part->y, job_rows(job));
            return;
        }
    for (uint32_t from = 0; from < job->col_n; from += most)
        multiply_wide_columns(job, part_n, activation, from, (uint32_t)min_u64(job->col_n, from + most));
}

void cpu_tile_job_run(const cpu_tile_job *job, const cpu_op *op, uint32_t part_n) {
    if (job->wide)
        multiply_wide(job, op->activation ? part_n : 1, op->activation);
    else if (op->activation)
        multiply_activated(job, part_n, op->activation);
    else
        multiply_tiles(job);
}
