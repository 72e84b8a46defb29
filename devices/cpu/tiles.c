/* tiles.c - products of many rows: weights are unpacked to tiles, each of which meets all panels. */
#include "devices/cpu/tiles.h"

#include <string.h>

/* Weight rows that are unpacked at a time: one tile. Of a matrix stored by neuron as many as fill one or two
 * cache lines of each neuron, for every visit to one costs a look into the page tables (some 30 ns, whether
 * for one line or two); fewer where threads would wait for each other. */
uint32_t cpu_unpack_rows(const cpu_kernels *kernels, const device_matrix *m, uint32_t thread_n) {
    if (m->order != NEURONS_BY_NEURON) return (uint32_t)cpu_matmul_of(kernels, m)->tile_rows;
    uint32_t n = (gguf_type_get(m->type)->block_n > 1 ? 4 : 2) * CPU_NEURON_ROWS;
    while (n > CPU_NEURON_ROWS && m->out_n / n < 4 * thread_n) n /= 2;
    return n;
}

uint64_t cpu_tiles_bytes_max(const cpu_kernels *kernels, const device_linear_part *part, uint32_t part_n) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < part_n; i++) {
        const cpu_matmul *m = cpu_matmul_of(kernels, &part[i].w);
        uint64_t tile_n = (cpu_unpack_rows(kernels, &part[i].w, 1) + m->tile_rows - 1) / m->tile_rows;
        if (part[i].w.order == NEURONS_BY_OUTPUT && part_n == 2) tile_n = 2; /* for multiply_activated */
        bytes = max_u64(bytes, tile_n * cpu_tile_stride(m, part[i].w.in_n));
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
static void multiply_tile(const cpu_tile_job *job, const uint8_t *tile, uint32_t at, uint32_t n) {
    const device_matrix *m = &job->part->w;
    const cpu_matmul *mm = cpu_matmul_of(job->w->kernels, m);
    const float *bias = cpu_unit_bias(job->part, job->unit);
    const device_rows y = job->part->y;
    for (uint32_t from = 0; from < job->col_n; from += (uint32_t)mm->panel_cols) {
        const uint32_t col_n = (uint32_t)min_u64(mm->panel_cols, job->col_n - from);
        ask_for_columns(job, y, at, n, from, col_n);
        ask_for_next_tile(job, m, n, from, (uint32_t)mm->panel_cols);
        mm->tile_mul(job->rectangle, mm->tile_rows, tile, column_panel(job, mm, from), m->in_n);
        for (uint32_t i = 0; i < col_n; i++)
            cpu_finish(column_in(job, y, from + i) + at, job->rectangle + i * mm->tile_rows,
                       bias ? bias + job->from + at : NULL, n, job->part->accumulate);
    }
}

static void zero_outputs(const cpu_tile_job *job, device_rows y, uint32_t n) {
    for (uint32_t c = 0; c < job->col_n; c++) memset(column_in(job, y, c), 0, n * sizeof(float));
}

static uint32_t job_rows(const cpu_tile_job *job) {
    const device_matrix *m = &job->part->w;
    return (uint32_t)min_u64(m->out_n - job->from, cpu_unpack_rows(job->w->kernels, m, job->w->thread_n));
}

static void multiply_tiles(const cpu_tile_job *job) {
    const device_matrix *m = &job->part->w;
    const cpu_matmul *mm = cpu_matmul_of(job->w->kernels, m);
    const uint8_t *data = cpu_unit_data(m, job->unit);
    const uint32_t tile_rows = (uint32_t)mm->tile_rows, n = job_rows(job);
    if (!data) {
        zero_outputs(job, job->part->y, n);
        return;
    }
    cpu_tiles_make(job->w->kernels, m, data, job->from, n, job->tiles);
    for (uint32_t at = 0; at < n; at += tile_rows)
        multiply_tile(job, job->tiles + cpu_tile_stride(mm, m->in_n) * (at / tile_rows), at,
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
    for (uint32_t i = 0; i < part_n; i++) {
        const uint8_t *data = cpu_unit_data(&part[i].w, job->unit);
        if (!data) {
            zero_outputs(job, y, n);
            return;
        }
        cpu_tiles_make(job->w->kernels, &part[i].w, data, job->from, n, job->tiles + stride * i);
    }
    float *gate = job->rectangle, *up = part_n > 1 ? gate + CPU_RECTANGLE_FLOATS : NULL;
    for (uint32_t from = 0; from < job->col_n; from += (uint32_t)mm->panel_cols) {
        const uint32_t col_n = (uint32_t)min_u64(mm->panel_cols, job->col_n - from);
        const uint8_t *panel = column_panel(job, mm, from);
        ask_for_columns(job, y, 0, n, from, col_n);
        for (uint32_t i = 0; i < part_n; i++)
            ask_for_next_tile(job, &part[i].w, n, from, (uint32_t)mm->panel_cols);
        multiply_panel(job, &part[0], job->tiles, panel, col_n, gate);
        if (up) multiply_panel(job, &part[1], job->tiles + stride, panel, col_n, up);
        job->w->kernels->activate(gate, gate, up, mm->tile_rows * col_n,
                                  cpu_activation_of(activation->activate.kind));
        for (uint32_t i = 0; i < col_n; i++)
            memcpy(column_in(job, y, from + i), gate + i * mm->tile_rows, n * sizeof *gate);
    }
}

void cpu_tile_job_run(const cpu_tile_job *job, const cpu_op *op, uint32_t part_n) {
    if (op->activation)
        multiply_activated(job, part_n, op->activation);
    else
        multiply_tiles(job);
}
