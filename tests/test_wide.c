/* test_wide.c - products of many rows by tiles of BF16 (cpu_wide in devices/cpu/kernels.h) are those of
 * rounded numbers; and what a job makes of a matrix, run by run and in any order of storage, are these
 * products. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "devices/cpu/selftest.h"
#include "devices/cpu/tiles.h"
#include "devices/lanes.h"
#include "tests/kernel_test.h"
#include "tests/thinned.h"

/* ---- Matrices ------------------------------------------------------------------------------------------ */

/* Finite random weights. */
static void fill(uint8_t *w, gguf_type type, size_t bytes, random_state *r) {
    const size_t block_bytes = gguf_type_get(type)->block_bytes;
    for (size_t i = 0; i < bytes; i++) w[i] = (uint8_t)random_u64(r);
    for (uint8_t *b = w; b < w + bytes; b += block_bytes) {
        const float x = random_float(r);
        const uint16_t half = type == GGUF_F16 ? ref_f32_to_f16(x) : ref_f32_to_bf16(x);
        if (type == GGUF_F32)
            memcpy(b, &x, sizeof x);
        else if (type == GGUF_F16 || type == GGUF_BF16)
            memcpy(b, &half, sizeof half);
        else
            kernel_set_scales(b, type, 0.01f * (1.5f + x));
    }
}

static void *room_of(size_t bytes) {
    void *p = aligned_alloc(CPU_ALIGN, round_up(bytes, CPU_ALIGN));
    cr_assert_not_null(p);
    memset(p, 0xff, bytes); /* NaN: what is not written must not be read */
    return p;
}

/* ---- Kernels ------------------------------------------------------------------------------------------- */

static double rounded(double x) { return (double)ref_bf16_to_f32(ref_f32_to_bf16((float)x)); }

typedef struct wide_case {
    const cpu_kernels *kernels, *reference;
    gguf_type type;
    size_t k, row_n, col_n;
} wide_case;

/* What a product may be off by, of the sum of its terms' sizes: sums of floats; and what floats lose as two
 * numbers (kernels.h). */
static double tolerance_of(gguf_type type) { return gguf_type_get(type)->block_n == 1 ? 0x3p-16 : 4e-6; }

static void check_products(const wide_case *c, const float *y, size_t y_stride, const uint8_t *rows,
                           const float *x, size_t times) {
    const size_t row_bytes = gguf_row_bytes(c->type, c->k);
    const bool blocks = gguf_type_get(c->type)->block_n > 1;
    float *w = room_of(c->k * sizeof *w);
    for (size_t row = 0; row < c->row_n; row++) {
        c->reference->dequant[c->type](w, rows + row * row_bytes, c->k);
        for (size_t col = 0; col < c->col_n; col++) {
            double sum = 0, size = 0;
            for (size_t i = 0; i < c->k; i++) {
                const double a = blocks ? rounded(w[i]) : (double)w[i];
                const double b = blocks ? rounded(x[col * c->k + i]) : (double)x[col * c->k + i];
                sum += a * b;
                size += fabs(a * b);
            }
            const double off = fabs((double)y[col * y_stride + row] - (double)times * sum);
            cr_assert(off <= (double)times * tolerance_of(c->type) * size + 1e-37,
                      "%s %s: k %zu, row %zu of %zu, column %zu of %zu: %.9g is not %.9g", c->kernels->isa,
                      gguf_type_get(c->type)->name, c->k, row, c->row_n, col, c->col_n,
                      (double)y[col * y_stride + row], (double)times * sum);
        }
    }
    free(w);
}

/* y and what a second pass adds to it. */
static void check_case(const wide_case *c, random_state *r) {
    const cpu_matmul *m = &c->kernels->matmul[c->type];
    const size_t row_bytes = gguf_row_bytes(c->type, c->k), y_stride = CPU_WIDE_ROWS + random_below(r, 9);
    const size_t y_n = (c->col_n - 1) * y_stride + CPU_WIDE_ROWS;
    guarded rows = guarded_alloc(row_bytes * c->row_n, 1, random_below(r, 2));
    guarded tile = guarded_alloc(m->tile_bytes(c->k), CPU_ALIGN, false);
    guarded wide = guarded_alloc(m->wide->tile_bytes(c->k), CPU_ALIGN, false);
    guarded panel = guarded_alloc(m->wide->panel_bytes(c->k), CPU_ALIGN, false);
    float *x = canary_alloc(c->k * c->col_n), *y = canary_alloc(y_n);
    fill(rows.data, c->type, row_bytes * c->row_n, r);
    random_floats(r, x, c->k * c->col_n);
    m->tile_unpack(tile.data, rows.data, row_bytes, c->row_n, c->k);
    m->tile_widen(wide.data, tile.data, c->k);
    m->wide->panel_pack(panel.data, x, c->k, c->col_n, c->k);
    for (size_t times = 1; times <= 2; times++) {
        m->wide->tile_mul(y, y_stride, wide.data, panel.data, c->col_n, c->k, times > 1);
        check_products(c, y, y_stride, rows.data, x, times);
    }
    for (size_t col = 0; col + 1 < c->col_n; col++)
        for (size_t i = CPU_WIDE_ROWS; i < y_stride; i++)
            cr_assert_eq(((uint8_t *)(y + col * y_stride + i))[0], 0xa5, "wrote between columns");
    canary_check_free(y, y_n, "products");
    canary_check_free(x, c->k * c->col_n, "activations");
    guarded_free(&rows);
    guarded_free(&tile);
    guarded_free(&wide);
    guarded_free(&panel);
}

/* Tables that have wide tiles. */
static size_t wide_tables(cpu_kernels *tables) {
    const size_t n = kernel_tables_bf16(tables);
    size_t wide_n = 0;
    for (size_t i = 0; i < n; i++)
        if (tables[i].matmul[GGUF_Q4_0].wide) tables[wide_n++] = tables[i];
    if (!wide_n) cr_skip_test("neither AMX nor what its emulation needs");
    return wide_n;
}

Test(wide, products_are_those_of_rounded_numbers) {
    cpu_kernels tables[KERNEL_TABLES_BF16], reference;
    random_state r = {7};
    cpu_kernels_ref(&reference);
    for (size_t t = wide_tables(tables); t-- > 0;) {
        for (size_t i = 0; i < ALL_TYPES; i++) {
            const size_t block_n = gguf_type_get(all_types[i])->block_n;
            for (size_t n = 1; n <= (block_n == 1 ? 67 : 5); n += block_n == 1 ? 3 : 1) {
                const wide_case c = {&tables[t],
                                     &reference,
                                     all_types[i],
                                     n * block_n,
                                     1 + random_below(&r, CPU_WIDE_ROWS),
                                     1 + random_below(&r, CPU_WIDE_COLS)};
                check_case(&c, &r);
            }
            check_case(&(wide_case){&tables[t], &reference, all_types[i], CPU_WIDE_RUN, 3, 17}, &r);
        }
    }
}

/* All products alike, so that a sum in one chain of floats would be off by some 4e-4. */
Test(wide, long_rows_round_as_short_ones) {
    enum { K = 28672 };
    cpu_kernels tables[KERNEL_TABLES_BF16];
    float *x = room_of(K * sizeof *x), *w = room_of(K * sizeof *w), y[CPU_WIDE_ROWS];
    for (size_t i = 0; i < K; i++) x[i] = 3, w[i] = 0.0078125f;
    for (size_t t = wide_tables(tables); t-- > 0;) {
        const cpu_matmul *m = &tables[t].matmul[GGUF_F32];
        void *tile = room_of(m->tile_bytes(K)), *wide = room_of(m->wide->tile_bytes(K)),
             *panel = room_of(m->wide->panel_bytes(K));
        m->tile_unpack(tile, (const uint8_t *)w, K * sizeof *w, 1, K);
        m->tile_widen(wide, tile, K);
        m->wide->panel_pack(panel, x, K, 1, K);
        m->wide->tile_mul(y, CPU_WIDE_ROWS, wide, panel, 1, K, false);
        cr_expect_float_eq(y[0], 672.0f, 672 * 3e-5f, "%s: %.9g", tables[t].isa, (double)y[0]);
        free(tile), free(wide), free(panel);
    }
    free(x), free(w);
}

static void widen_nothing(void *to, const void *tile, size_t k) { (void)to, (void)tile, (void)k; }

Test(wide, self_test_finds_wrong_ones) {
    cpu_kernels tables[KERNEL_TABLES_BF16];
    for (size_t t = wide_tables(tables); t-- > 0;) {
        hotset_error err = {0};
        for (size_t i = 0; i < ALL_TYPES; i++)
            cr_expect_eq(cpu_selftest(&tables[t], all_types[i], &err), HOTSET_OK, "%s", err.message);
        cpu_kernels wrong = tables[t];
        wrong.matmul[GGUF_Q4_0].tile_widen = tables[t].matmul[GGUF_Q5_0].tile_widen; /* another offset */
        cr_expect_eq(cpu_selftest(&wrong, GGUF_Q4_0, &err), HOTSET_E_DEVICE);
        cr_expect(strstr(err.message, "wrong Q4_0 wide tiles (relative"), "%s", err.message);
        wrong = tables[t]; /* one part of two */
        cpu_wide rounding = *wrong.matmul[GGUF_BF16].wide;
        rounding.panel_pack = tables[t].matmul[GGUF_Q4_0].wide->panel_pack;
        wrong.matmul[GGUF_BF16].wide = &rounding;
        cr_expect_eq(cpu_selftest(&wrong, GGUF_BF16, &err), HOTSET_E_DEVICE);
        cr_expect(strstr(err.message, "wrong BF16 wide tiles (relative"), "%s", err.message);
        wrong = tables[t];
        wrong.matmul[GGUF_F32].tile_widen = widen_nothing;
        cr_expect_eq(cpu_selftest(&wrong, GGUF_Q8_0, &err), HOTSET_E_DEVICE);
        cr_expect(strstr(err.message, "wrong Q8_0 wide tiles by row"), "%s", err.message);
    }
}

/* ---- Jobs ---------------------------------------------------------------------------------------------- */

enum { BIAS_AND_SUM = 1, ACTIVATED = 2, USES = 4, ABSENT = 8 }; /* what a job does besides */

typedef struct job_case {
    const cpu_kernels *kernels;
    gguf_type type;
    neurons_order order;
    bool interleaved;
    uint32_t in_n, out_n, col_n, besides;
} job_case;

/* A matrix in its order, and its rows as a table's tiles take them. */
typedef struct stored {
    device_buffer buffer;
    device_linear_part part;
    uint8_t *rows;
    gguf_type rows_type;
    float *bias;
} stored;

/* Rows of floats of what stands neuron by neuron, blocks along the outputs. */
static uint8_t *transposed(const uint8_t *by_row, const job_case *c) {
    cpu_kernels reference;
    cpu_kernels_ref(&reference);
    float *rows = room_of((size_t)c->in_n * c->out_n * sizeof *rows),
          *neuron = room_of(c->out_n * sizeof *neuron);
    for (size_t i = 0; i < c->in_n; i++) {
        reference.dequant[c->type](neuron, by_row + i * gguf_row_bytes(c->type, c->out_n), c->out_n);
        for (size_t o = 0; o < c->out_n; o++) rows[o * c->in_n + i] = neuron[o];
    }
    free(neuron);
    return (uint8_t *)rows;
}

static stored store(const job_case *c, random_state *r) {
    const size_t row_bytes = gguf_row_bytes(c->type, c->order == NEURONS_BY_ROW ? c->out_n : c->in_n);
    const size_t row_n = c->order == NEURONS_BY_ROW ? c->in_n : c->out_n, bytes = row_bytes * row_n;
    stored s = {.rows = room_of(bytes), .rows_type = c->type, .bias = room_of(c->out_n * sizeof *s.bias)};
    random_floats(r, s.bias, c->out_n);
    fill(s.rows, c->type, bytes, r);
    s.buffer.host = room_of(bytes + sizeof(uint64_t));
    const uint64_t absent = DEVICE_ABSENT;
    memcpy((uint8_t *)s.buffer.host + bytes, &absent, sizeof absent);
    s.part.w = (device_matrix){.type = c->type,
                               .in_n = c->in_n,
                               .out_n = c->out_n,
                               .row_bytes = row_bytes,
                               .order = c->order,
                               .interleaved = c->interleaved};
    memcpy(s.buffer.host, s.rows, bytes);
    if (c->order == NEURONS_BY_NEURON)
        neurons_store(s.buffer.host, s.rows, row_bytes, c->type, c->in_n, c->out_n, 0, c->out_n);
    for (size_t i = 0; c->interleaved && i < c->out_n; i += LANES_ROWS)
        lanes_store((uint8_t *)s.buffer.host + i * row_bytes, s.rows + i * row_bytes, row_bytes, c->type,
                    c->in_n);
    if (c->order == NEURONS_BY_ROW) {
        uint8_t *rows = transposed(s.rows, c);
        free(s.rows);
        s.rows = rows;
        s.rows_type = GGUF_F32;
    }
    return s;
}

static void stored_free(stored *s) {
    free(s->buffer.host);
    free(s->rows);
    free(s->bias);
}

/* Products [col_n][out_n], each of a whole row at once. */
static float *products_at_once(const job_case *c, const stored *s, const float *x) {
    const cpu_matmul *m = &c->kernels->matmul[s->rows_type];
    const size_t row_bytes = gguf_row_bytes(s->rows_type, c->in_n);
    void *tile = room_of(m->tile_bytes(c->in_n)), *wide = room_of(m->wide->tile_bytes(c->in_n)),
         *panel = room_of(m->wide->panel_bytes(c->in_n));
    float *all = room_of((size_t)c->col_n * c->out_n * sizeof *all), y[CPU_WIDE_ROWS * CPU_WIDE_COLS];
    for (size_t row = 0; row < c->out_n; row += CPU_WIDE_ROWS) {
        const size_t n = (size_t)min_u64(c->out_n - row, CPU_WIDE_ROWS);
        m->tile_unpack(tile, s->rows + row * row_bytes, row_bytes, n, c->in_n);
        m->tile_widen(wide, tile, c->in_n);
        for (size_t col = 0; col < c->col_n; col += CPU_WIDE_COLS) {
            const size_t col_n = (size_t)min_u64(c->col_n - col, CPU_WIDE_COLS);
            m->wide->panel_pack(panel, x + col * c->in_n, c->in_n, col_n, c->in_n);
            m->wide->tile_mul(y, CPU_WIDE_ROWS, wide, panel, col_n, c->in_n, false);
            for (size_t i = 0; i < col_n; i++)
                memcpy(all + (col + i) * c->out_n + row, y + i * CPU_WIDE_ROWS, n * sizeof *y);
        }
    }
    free(tile), free(wide), free(panel);
    return all;
}

/* What the job should leave in an output that holds `before`. */
static void expect_outputs(const job_case *c, const stored s[2], const float *x, const float *before,
                           float *want) {
    const size_t n = (size_t)c->col_n * c->out_n;
    float *product[2] = {products_at_once(c, &s[0], x), products_at_once(c, &s[1], x)};
    for (size_t i = 0; i < n; i++) {
        const float bias[2] = {s[0].bias[i % c->out_n], s[1].bias[i % c->out_n]};
        want[i] = product[0][i];
        if (c->besides & BIAS_AND_SUM) want[i] = before[i] + (product[0][i] + bias[0]);
        if (c->besides & ABSENT) want[i] = 0;
        product[0][i] += bias[0], product[1][i] += bias[1];
    }
    if (c->besides & ACTIVATED) c->kernels->activate(want, product[0], product[1], n, CPU_ACT_SILU);
    free(product[0]), free(product[1]);
}

static void run_jobs(const job_case *c, stored s[2], const float *x, const uint32_t *use) {
    const cpu_wide *wide = cpu_matmul_of(c->kernels, &s[0].part.w)->wide;
    const device_op activation = {.kind = DEVICE_OP_ACTIVATE,
                                  .activate = {.y = s[0].part.y, .kind = DEVICE_ACT_SILU}};
    const cpu_op op = {.activation = c->besides & ACTIVATED ? &activation : NULL};
    const cpu_worker w = {.kernels = c->kernels, .thread_n = 1};
    const device_linear_part part[2] = {s[0].part, s[1].part};
    const uint64_t panel_bytes = wide->panel_bytes(c->in_n),
                   room_bytes = cpu_job_bytes_max(c->kernels, part, 2);
    uint8_t *panels = room_of(panel_bytes * ((c->col_n + CPU_WIDE_COLS - 1) / CPU_WIDE_COLS));
    guarded room = guarded_alloc(room_bytes, CPU_ALIGN, false);
    for (uint32_t col = 0; col < c->col_n; col += CPU_WIDE_COLS)
        wide->panel_pack(panels + panel_bytes * (col / CPU_WIDE_COLS), x + (size_t)col * c->in_n, c->in_n,
                         min_u64(c->col_n - col, CPU_WIDE_COLS), c->in_n);
    const uint32_t step = cpu_unpack_rows(c->kernels, &part[0].w, 1, true);
    for (uint32_t from = 0; from < c->out_n; from += step) {
        const cpu_tile_job job = {.w = &w,
                                  .part = part,
                                  .from = from,
                                  .panels = panels,
                                  .col_n = c->col_n,
                                  .use = use,
                                  .used_n = use ? 2 : 1,
                                  .wide = true,
                                  .room = room.data};
        cpu_tile_job_run(&job, &op, 2);
    }
    guarded_free(&room);
    free(panels);
}

static void check_job(const job_case *c, random_state *r) {
    const size_t n = (size_t)c->col_n * c->out_n;
    stored s[2] = {store(c, r), store(c, r)};
    float *x = canary_alloc((size_t)c->col_n * c->in_n), *got = canary_alloc(n);
    float *before = room_of(n * sizeof *before), *want = room_of(n * sizeof *want);
    uint32_t *use = room_of((c->col_n + 1) * sizeof *use);
    device_buffer y = {.host = got}, bias[2] = {{.host = s[0].bias}, {.host = s[1].bias}};
    random_floats(r, x, (size_t)c->col_n * c->in_n);
    random_floats(r, before, n);
    memcpy(got, before, n * sizeof *got);
    for (uint32_t i = 0; i < c->col_n; i++) use[i] = c->col_n - 1 - i;
    for (size_t i = 0; i < 2; i++) {
        s[i].part.w.data = (device_ref){.buffer = &s[i].buffer};
        s[i].part.y = (device_rows){.ref = {.buffer = &y}, .stride = c->out_n * (c->besides & USES ? 2 : 1)};
        if (c->besides & (BIAS_AND_SUM | ACTIVATED)) s[i].part.bias = (device_ref){.buffer = &bias[i]};
        s[i].part.accumulate = c->besides & BIAS_AND_SUM;
        if (!(c->besides & ABSENT)) continue;
        s[i].part.w.unit_n = 1;
        s[i].part.w.unit_offset =
            (device_ref){.buffer = &s[i].buffer,
                         .offset = s[i].part.w.row_bytes * (c->order == NEURONS_BY_ROW ? c->in_n : c->out_n)};
    }
    run_jobs(c, s, x, c->besides & USES ? use : NULL);
    expect_outputs(c, s, x, before, want);
    for (uint32_t col = 0; col < c->col_n; col++) {
        const uint32_t at = c->besides & USES ? use[col] : col;
        cr_assert_arr_eq(got + (size_t)at * c->out_n, want + (size_t)col * c->out_n, c->out_n * sizeof *got,
                         "%s %s, order %d%s, %u of %u x %u, besides %u: column %u", c->kernels->isa,
                         gguf_type_get(c->type)->name, (int)c->order, c->interleaved ? ", interleaved" : "",
                         c->col_n, c->out_n, c->in_n, c->besides, col);
    }
    canary_check_free(got, n, "outputs");
    canary_check_free(x, (size_t)c->col_n * c->in_n, "activations");
    free(before), free(want), free(use);
    stored_free(&s[0]), stored_free(&s[1]);
}

/* Rows of two runs, of one, and of floats a length that is no multiple of anything. */
Test(wide, jobs_give_the_products_of_whole_rows) {
    static const uint32_t besides[] = {0, BIAS_AND_SUM, ACTIVATED, USES, ACTIVATED | USES, ABSENT};
    cpu_kernels tables[KERNEL_TABLES_BF16];
    random_state r = {9};
    size_t case_n = 0;
    for (size_t t = wide_tables(tables); t-- > 0;) {
        for (size_t i = 0; i < ALL_TYPES * 4; i++) {
            if (thinned_out(i, 0, 7)) continue;
            const uint32_t block_n = gguf_type_get(all_types[i / 4])->block_n;
            job_case c = {.kernels = &tables[t],
                          .type = all_types[i / 4],
                          .order = (neurons_order)(i % 4 % 3),
                          .interleaved = i % 4 == 3,
                          .in_n = i % 2 ? 256 : CPU_WIDE_RUN + 256,
                          .out_n = 96,
                          .col_n = 16 + (uint32_t)random_below(&r, 30),
                          .besides = besides[case_n++ % COUNT_OF(besides)]};
            if (c.interleaved && block_n == 1) continue;
            if (c.order == NEURONS_BY_ROW && block_n == 1) continue;
            if (c.order == NEURONS_BY_ROW) c.out_n = 256;
            if (c.order == NEURONS_BY_OUTPUT && !c.interleaved) c.out_n = 75;
            if (block_n == 1) c.in_n -= 27;
            check_job(&c, &r);
        }
    }
}

/* More columns than sums are kept of at once. */
Test(wide, jobs_take_many_columns_in_turns) {
    cpu_kernels tables[KERNEL_TABLES_BF16];
    random_state r = {11};
    for (size_t t = wide_tables(tables); t-- > 0;)
        check_job(&(job_case){.kernels = &tables[t],
                              .type = GGUF_Q8_0,
                              .in_n = CPU_WIDE_RUN + 32,
                              .out_n = 33,
                              .col_n = 512 + 40,
                              .besides = ACTIVATED},
                  &r);
}
