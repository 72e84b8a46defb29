/* test_kernels.c - the products of every CPU instruction set that this machine has, against the references,
 * and the references against the documented formulas.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "devices/lanes.h"
#include "tests/kernel_test.h"

typedef struct type_facts {
    const char *name;
    size_t block_n, block_bytes, act_n; /* act_n: activations per 8-bit scale; 0 for floats */
} type_facts;

static type_facts facts_of(gguf_type type) {
    const gguf_type_info *info = gguf_type_get(type);
    return (type_facts){info->name, info->block_n, info->block_bytes, info->block_n == 1 ? 0 : info->block_n};
}

/* ---- Weights ---- */

typedef enum weight_mode {
    WEIGHTS_RANDOM,
    WEIGHTS_ZERO,
    WEIGHTS_LOW,
    WEIGHTS_HIGH,
    WEIGHTS_TINY,
    WEIGHTS_HUGE,
    WEIGHTS_MODES
} weight_mode;

static void put_half(uint8_t *p, float x) {
    const uint16_t h = ref_f32_to_f16(x);
    memcpy(p, &h, sizeof h);
}

/* One block, every bit of which may vary; LOW and HIGH have all quants at an end of their range. */
static void fill_block(uint8_t *w, gguf_type type, weight_mode mode, random_state *r) {
    const type_facts f = facts_of(type);
    const int fill = mode == WEIGHTS_LOW ? (type == GGUF_Q8_0 ? 0x80 : 0) : type == GGUF_Q8_0 ? 0x7f : 0xff;
    for (size_t i = 0; i < f.block_bytes; i++)
        w[i] = mode == WEIGHTS_LOW || mode == WEIGHTS_HIGH ? (uint8_t)fill : (uint8_t)random_u64(r);
    float d = 0.01f * (1.5f + random_float(r));
    if (mode == WEIGHTS_ZERO) d = 0;
    if (mode == WEIGHTS_TINY) d = 0x1.8p-23f;
    if (mode == WEIGHTS_HUGE) d = type == GGUF_MXFP4 ? 0x1p106f : 40000; /* what halves can hold, nearly */
    if (random_u64(r) & 1) d = -d;
    switch (type) {
    case GGUF_F32: memcpy(w, &d, sizeof d); break;
    case GGUF_F16: put_half(w, d); break;
    case GGUF_BF16: {
        const uint16_t h = ref_f32_to_bf16(d);
        memcpy(w, &h, sizeof h);
        break;
    }
    case GGUF_Q6_K:
        if (mode == WEIGHTS_LOW || mode == WEIGHTS_HIGH)
            memset(w + 192, mode == WEIGHTS_LOW ? 0x80 : 0x7f, 16);
        /* fall through */
    default: kernel_set_scales(w, type, d);
    }
    if (type == GGUF_MXFP4 && mode == WEIGHTS_RANDOM && random_below(r, 4) == 0) {
        memset(w, 0, f.block_bytes); /* zeros, whatever the scale is: the largest one */
        w[0] = 255;
    }
}

static void fill_rows(uint8_t *w, gguf_type type, size_t row_bytes, size_t row_n, size_t k, weight_mode mode,
                      random_state *r) {
    const type_facts f = facts_of(type);
    for (size_t i = 0; i < row_n; i++) {
        for (size_t b = 0; b < k / f.block_n; b++)
            fill_block(w + i * row_bytes + b * f.block_bytes, type, mode, r);
    }
}

static double weight_at(const uint8_t *row, gguf_type type, size_t i) {
    const type_facts f = facts_of(type);
    return block_value(row + i / f.block_n * f.block_bytes, type, i % f.block_n);
}

/* Sum of |w x|: what errors of a product are measured against. */
static double magnitude(const uint8_t *row, gguf_type type, const float *x, size_t k) {
    double sum = 0;
    for (size_t i = 0; i < k; i++) sum += fabs(weight_at(row, type, i) * (double)x[i]);
    return sum;
}

static void reference(float *y, const uint8_t *w, size_t row_bytes, size_t row_n, const float *x, size_t k,
                      gguf_type type) {
    if (facts_of(type).act_n)
        ref_gemv_int(y, w, row_bytes, row_n, x, k, type);
    else
        ref_gemv_float(y, w, row_bytes, row_n, x, k, type);
}

/* ---- The references themselves ---- */

Test(kernels, dequantised_rows_follow_the_block_layouts) {
    cpu_kernels tables[KERNEL_TABLES_MAX];
    const size_t table_n = kernel_tables(tables);
    random_state r = {1};
    for (size_t t = 0; t < ALL_TYPES * table_n * WEIGHTS_MODES; t++) {
        const gguf_type type = all_types[t % ALL_TYPES];
        const cpu_kernels *kernels = &tables[t / ALL_TYPES % table_n];
        const type_facts f = facts_of(type);
        const size_t k = f.block_n * (f.block_n == 1 ? 77 : 3), bytes = k / f.block_n * f.block_bytes;
        guarded w = guarded_alloc(bytes, 1, false);
        fill_rows(w.data, type, bytes, 1, k, (weight_mode)(t / ALL_TYPES / table_n), &r);
        float *x = canary_alloc(k);
        kernels->dequant[type](x, w.data, k);
        for (size_t i = 0; i < k; i++)
            cr_assert_eq(x[i], (float)weight_at(w.data, type, i), "%s %s weight %zu: %g", kernels->isa,
                         f.name, i, (double)x[i]);
        canary_check_free(x, k, f.name);
        guarded_free(&w);
    }
}

/* Every scale of MXFP4 with every nibble, also that which is no number: dequantised, and as a sum over one
 * neuron. */
Test(kernels, scales_of_mxfp4_are_powers_of_two) {
    static const uint32_t neuron = 0;
    static const float once = 1;
    const cpu_active one = {.n = 1, .neuron = &neuron, .x = &once};
    cpu_kernels tables[KERNEL_TABLES_MAX];
    for (size_t t = kernel_tables(tables); t-- > 0;) {
        for (int e = 0; e < 256; e++) {
            uint8_t block[17] = {(uint8_t)e};
            float x[32], y[32];
            for (size_t i = 0; i < 16; i++) block[1 + i] = (uint8_t)(i | (15 - i) << 4);
            tables[t].dequant[GGUF_MXFP4](x, block, 32);
            tables[t].row_sum[GGUF_MXFP4](y, block, sizeof block, 0, 32, &one);
            for (size_t i = 0; i < 32; i++) {
                const float expected = (float)weight_at(block, GGUF_MXFP4, i);
                cr_assert(x[i] == expected && y[i] == expected, "%s: e %d, weight %zu: %g, %g", tables[t].isa,
                          e, i, (double)x[i], (double)y[i]);
            }
        }
    }
}

/* The 8-bit rule of kernels.h, one value at a time. */
static void quantised_values(double *out, const float *x, size_t k, size_t act_n) {
    for (size_t b = 0; b < k; b += act_n) {
        float a = 0;
        for (size_t i = 0; i < act_n; i++) a = fmaxf(a, fabsf(x[b + i]));
        const float factor = 127.0f / a;
        for (size_t i = 0; i < act_n; i++) {
            const float q = isfinite(factor) ? nearbyintf(x[b + i] * factor) : 0.0f;
            out[b + i] = (double)q * (double)(a / 127.0f);
        }
    }
}

Test(kernels, references_are_sums_of_products) {
    random_state r = {2};
    for (size_t t = 0; t < ALL_TYPES; t++) {
        const gguf_type type = all_types[t];
        const type_facts f = facts_of(type);
        const size_t k = 512, row_n = 5, row_bytes = k / f.block_n * f.block_bytes;
        uint8_t *w = malloc(row_bytes * row_n);
        float x[512], y[5], y_int[5];
        double x_int[512] = {0};
        fill_rows(w, type, row_bytes, row_n, k, WEIGHTS_RANDOM, &r);
        random_floats(&r, x, k);
        ref_gemv_float(y, w, row_bytes, row_n, x, k, type);
        if (f.act_n) {
            quantised_values(x_int, x, k, f.act_n);
            ref_gemv_int(y_int, w, row_bytes, row_n, x, k, type);
        }
        for (size_t i = 0; i < row_n; i++) {
            const uint8_t *row = w + i * row_bytes;
            const double scale = magnitude(row, type, x, k);
            double sum = 0, sum_int = 0;
            for (size_t j = 0; j < k; j++) {
                sum += weight_at(row, type, j) * (double)x[j];
                sum_int += weight_at(row, type, j) * x_int[j];
            }
            cr_assert_float_eq((double)y[i], sum, 1e-6 * scale, "%s row %zu", f.name, i);
            if (f.act_n) cr_assert_float_eq((double)y_int[i], sum_int, 1e-6 * scale, "%s row %zu", f.name, i);
        }
        free(w);
    }
}

/* ---- Products: decode ---- */

typedef enum act_mode {
    ACT_RANDOM,
    ACT_ZERO,
    ACT_MAX,
    ACT_MIN,
    ACT_ALTERNATE,
    ACT_HALVES,
    ACT_TINY,
    ACT_MODES
} act_mode;

static void fill_activations(float *x, size_t k, act_mode mode, random_state *r) {
    for (size_t i = 0; i < k; i++) {
        switch (mode) {
        case ACT_ZERO: x[i] = 0; break;
        case ACT_MAX: x[i] = 3.0f; break;
        case ACT_MIN: x[i] = -3.0f; break;
        case ACT_ALTERNATE: x[i] = i & 1 ? -3.0f : 3.0f; break;
        /* a = 127, so that the quotients are these numbers themselves: ties, which go to even */
        case ACT_HALVES: x[i] = i % 32 == 0 ? 127.0f : (float)(int)random_below(r, 250) - 124.5f; break;
        case ACT_TINY: x[i] = 0x1p-130f * random_float(r); break;
        default: x[i] = random_float(r); break;
        }
    }
}

typedef struct product_case {
    const cpu_kernels *kernels;
    gguf_type type;
    size_t k, row_n, gap_bytes; /* gap_bytes between rows */
    weight_mode weights;
    act_mode activations;
    bool at_start; /* weights begin, not end, at the guard page */
} product_case;

static void check_values(const product_case *c, const float *y, const float *expected, const uint8_t *w,
                         size_t row_bytes, const float *x, const char *what) {
    for (size_t i = 0; i < c->row_n; i++) {
        const double tolerance =
            1e-5 * magnitude(w + i * row_bytes, c->type, x, c->k) + 1e-42; /* subnormal products round */
        cr_assert(fabs((double)y[i] - (double)expected[i]) <= tolerance,
                  "%s %s %s: k %zu, row %zu of %zu, weights %d, activations %d: %.9g is not %.9g", what,
                  c->kernels->isa, facts_of(c->type).name, c->k, i, c->row_n, (int)c->weights,
                  (int)c->activations, (double)y[i], (double)expected[i]);
    }
}

/* Scattered rows, some of them twice, have the bits of gemv's products y; what is asked for may be anywhere.
 */
static void check_dots(const product_case *c, const uint8_t *w, size_t row_bytes, const void *act,
                       const float *y) {
    const cpu_matmul *m = &c->kernels->matmul[c->type];
    for (size_t i = 0; i < c->row_n; i++) {
        const uint8_t *row[CPU_DOTS], *next[CPU_DOTS];
        float *got = canary_alloc(CPU_DOTS);
        for (size_t d = 0; d < CPU_DOTS; d++) {
            row[d] = w + row_bytes * ((i + 3 * d) % c->row_n);
            next[d] = d % 2 ? w : (const uint8_t *)(uintptr_t)(~(uintptr_t)0 / 3 * d);
        }
        cpu_dots(m, got, row, next, row_bytes, act, c->k);
        for (size_t d = 0; d < CPU_DOTS; d++)
            cr_assert_eq(memcmp(got + d, y + (i + 3 * d) % c->row_n, sizeof *y), 0,
                         "%s %s row %zu of %zu, k %zu", c->kernels->isa, facts_of(c->type).name,
                         (i + 3 * d) % c->row_n, c->row_n, c->k);
        canary_check_free(got, CPU_DOTS, facts_of(c->type).name);
    }
}

static void check_gemv(const product_case *c, random_state *r) {
    const type_facts f = facts_of(c->type);
    const cpu_matmul *m = &c->kernels->matmul[c->type];
    const size_t row_bytes = c->k / f.block_n * f.block_bytes + c->gap_bytes;
    guarded w = guarded_alloc(row_bytes * c->row_n - c->gap_bytes, 1, c->at_start);
    guarded act = guarded_alloc(m->act_bytes(c->k), CPU_ALIGN, false);
    guarded x = guarded_alloc(c->k * sizeof(float), sizeof(float), false);
    float *values = (float *)(void *)x.data, *y = canary_alloc(c->row_n), expected[CPU_GEMV_ROWS_MAX];
    fill_rows(w.data, c->type, row_bytes, c->row_n, c->k, c->weights, r);
    fill_activations(values, c->k, c->activations, r);
    m->act_pack(act.data, values, c->k);
    m->gemv(y, w.data, row_bytes, c->row_n, act.data, c->k);
    reference(expected, w.data, row_bytes, c->row_n, values, c->k, c->type);
    check_values(c, y, expected, w.data, row_bytes, values, "gemv");
    for (size_t i = 0; i < c->row_n; i++) { /* a row alone has the same bits */
        m->gemv(expected, w.data + i * row_bytes, row_bytes, 1, act.data, c->k);
        cr_assert_eq(memcmp(expected, y + i, sizeof *y), 0, "%s %s row %zu of %zu, k %zu", c->kernels->isa,
                     f.name, i, c->row_n, c->k);
    }
    check_dots(c, w.data, row_bytes, act.data, y);
    canary_check_free(y, c->row_n, f.name);
    guarded_free(&w);
    guarded_free(&act);
    guarded_free(&x);
}

typedef void check_fn(const product_case *c, random_state *r);

/* Calls `check` for every table and type over lengths, contents and row counts. */
static void for_each_product(check_fn *check) {
    cpu_kernels tables[KERNEL_TABLES_MAX];
    const size_t table_n = kernel_tables(tables);
    random_state r = {3};
    for (size_t t = 0; t < table_n * ALL_TYPES; t++) {
        product_case c = {.kernels = &tables[t / ALL_TYPES], .type = all_types[t % ALL_TYPES]};
        const size_t block_n = facts_of(c.type).block_n, short_n = block_n == 1 ? 70 : block_n == 32 ? 18 : 5;
        for (size_t i = 1; i <= short_n; i++) {
            c.k = i * block_n;
            c.row_n = 1 + random_below(&r, 9);
            c.gap_bytes = random_below(&r, 3) ? 0 : 1 + random_below(&r, 63);
            c.weights = WEIGHTS_RANDOM;
            c.activations = ACT_RANDOM;
            c.at_start = i & 1;
            check(&c, &r);
        }
        for (int mode = 0; mode < WEIGHTS_MODES * ACT_MODES; mode++) {
            c.k = block_n == 1 ? 77 : 3 * block_n;
            c.row_n = 3;
            c.weights = (weight_mode)(mode % WEIGHTS_MODES);
            c.activations = (act_mode)(mode / WEIGHTS_MODES);
            check(&c, &r);
        }
        static const size_t long_k[] = {2048, 4096, 5632};
        for (size_t i = 0; i < COUNT_OF(long_k); i++) {
            c = (product_case){.kernels = c.kernels, .type = c.type, .k = long_k[i], .row_n = 7 + i};
            check(&c, &r);
        }
        c = (product_case){.kernels = c.kernels, .type = c.type, .k = 256, .row_n = CPU_GEMV_ROWS_MAX};
        check(&c, &r);
    }
}

Test(kernels, gemv_equals_the_reference) { for_each_product(check_gemv); }

/* ---- Products: prefill ---- */

/* A tile of c->row_n rows (cut to the tile) times a panel of a random number of columns. */
static void check_tile(const product_case *c, random_state *r) {
    const type_facts f = facts_of(c->type);
    const cpu_matmul *m = &c->kernels->matmul[c->type];
    const size_t row_bytes = c->k / f.block_n * f.block_bytes + c->gap_bytes;
    const size_t row_n = (size_t)min_u64(1 + random_below(r, m->tile_rows), c->row_n);
    const size_t col_n = 1 + random_below(r, m->panel_cols), x_stride = c->k + random_below(r, 5);
    const size_t y_stride = m->tile_rows + random_below(r, 9),
                 y_n = (m->panel_cols - 1) * y_stride + m->tile_rows;
    guarded w = guarded_alloc(row_bytes * row_n - c->gap_bytes, 1, c->at_start);
    guarded x = guarded_alloc(((col_n - 1) * x_stride + c->k) * sizeof(float), sizeof(float), false);
    guarded tile = guarded_alloc(m->tile_bytes(c->k), CPU_ALIGN, false);
    guarded panel = guarded_alloc(m->panel_bytes(c->k), CPU_ALIGN, false);
    float *values = (float *)(void *)x.data, *y = canary_alloc(y_n), expected[64];
    memset(values, 0, ((col_n - 1) * x_stride + c->k) * sizeof(float));
    fill_rows(w.data, c->type, row_bytes, row_n, c->k, c->weights, r);
    for (size_t col = 0; col < col_n; col++)
        fill_activations(values + col * x_stride, c->k, c->activations, r);
    m->panel_pack(panel.data, values, x_stride, col_n, c->k);
    m->tile_unpack(tile.data, w.data, row_bytes, row_n, c->k);
    m->tile_mul(y, y_stride, tile.data, panel.data, c->k);
    product_case cut = *c;
    cut.row_n = row_n;
    for (size_t col = 0; col < col_n; col++) {
        const float *column = values + col * x_stride;
        reference(expected, w.data, row_bytes, row_n, column, c->k, c->type);
        check_values(&cut, y + col * y_stride, expected, w.data, row_bytes, column, "tile_mul");
        for (size_t i = m->tile_rows; i < y_stride && col + 1 < m->panel_cols; i++)
            cr_assert_eq(((uint8_t *)(y + col * y_stride + i))[0], 0xa5, "tile_mul wrote between columns");
    }
    canary_check_free(y, y_n, "tile_mul");
    guarded_free(&w);
    guarded_free(&x);
    guarded_free(&tile);
    guarded_free(&panel);
}

Test(kernels, tile_mul_equals_the_reference) { for_each_product(check_tile); }

/* Equal products, whose sum in one chain is off by 4e-4 of it. */
Test(kernels, long_rows_of_floats_round_as_short_ones) {
    enum { K = 28672, ROW_BYTES = K * sizeof(float) };
    static const gguf_type types[] = {GGUF_F32, GGUF_F16, GGUF_BF16};
    cpu_kernels tables[KERNEL_TABLES_MAX];
    float *x = canary_alloc(K), *w = canary_alloc(K), y[CPU_GEMV_ROWS_MAX * 16];
    for (size_t i = 0; i < K; i++) x[i] = 3.0f;
    for (size_t t = kernel_tables(tables); t-- > 0;) {
        for (size_t i = 0; i < COUNT_OF(types); i++) {
            const cpu_matmul *m = &tables[t].matmul[types[i]];
            float expected;
            for (size_t j = 0; j < K; j++) {
                const uint16_t half = types[i] == GGUF_F16 ? ref_f32_to_f16(0.01f) : ref_f32_to_bf16(0.01f);
                if (types[i] == GGUF_F32)
                    w[j] = 0.01f;
                else
                    memcpy((uint16_t *)(void *)w + j, &half, sizeof half);
            }
            ref_gemv_float(&expected, (uint8_t *)w, ROW_BYTES, 1, x, K, types[i]);
            guarded tile = guarded_alloc(m->tile_bytes(K), CPU_ALIGN, false);
            guarded panel = guarded_alloc(m->panel_bytes(K), CPU_ALIGN, false);
            m->panel_pack(panel.data, x, K, 1, K);
            m->tile_unpack(tile.data, (uint8_t *)w, ROW_BYTES, 1, K);
            m->tile_mul(y, m->tile_rows, tile.data, panel.data, K);
            cr_assert_float_eq(y[0], expected, 1e-5f * expected, "%s %s: %.9g is not %.9g", tables[t].isa,
                               facts_of(types[i]).name, (double)y[0], (double)expected);
            guarded_free(&tile);
            guarded_free(&panel);
        }
    }
    canary_check_free(x, K, "activations");
    canary_check_free(w, K, "weights");
}

/* ---- Products of interleaved rows ---- */

/* Tiles of interleaved rows are those of the rows. */
static void check_tiles_of_lanes(const product_case *c, const uint8_t *rows, const uint8_t *stored,
                                 size_t row_bytes) {
    const cpu_matmul *plain = &c->kernels->matmul[c->type], *m = &c->kernels->lanes[c->type];
    cr_assert_eq(m->tile_rows % LANES_ROWS, 0);
    guarded want = guarded_alloc(plain->tile_bytes(c->k), CPU_ALIGN, false);
    guarded got = guarded_alloc(m->tile_bytes(c->k), CPU_ALIGN, false);
    for (size_t i = 0; i < c->row_n; i += m->tile_rows) {
        const size_t n = c->row_n - i < m->tile_rows ? c->row_n - i : m->tile_rows;
        memset(want.data, 0, plain->tile_bytes(c->k));
        memset(got.data, 0, plain->tile_bytes(c->k));
        plain->tile_unpack(want.data, rows + i * row_bytes, row_bytes, n, c->k);
        m->tile_unpack(got.data, stored + i * row_bytes, row_bytes, n, c->k);
        cr_assert_eq(memcmp(want.data, got.data, plain->tile_bytes(c->k)), 0, "%s %s k %zu", c->kernels->isa,
                     facts_of(c->type).name, c->k);
    }
    guarded_free(&want);
    guarded_free(&got);
}

static void check_lanes(const product_case *given, random_state *r) {
    product_case c = *given;
    const type_facts f = facts_of(c.type);
    const cpu_matmul *m = &c.kernels->lanes[c.type];
    if (!m->act_bytes) return;
    c.row_n = LANES_ROWS * (1 + random_below(r, CPU_GEMV_ROWS_MAX / LANES_ROWS));
    const size_t row_bytes = c.k / f.block_n * f.block_bytes;
    uint8_t *rows = malloc(row_bytes * c.row_n);
    guarded stored = guarded_alloc(row_bytes * c.row_n, 1, c.at_start);
    guarded act = guarded_alloc(m->act_bytes(c.k), CPU_ALIGN, false);
    guarded x = guarded_alloc(c.k * sizeof(float), sizeof(float), false);
    float *values = (float *)(void *)x.data, *y = canary_alloc(c.row_n), expected[CPU_GEMV_ROWS_MAX];
    fill_rows(rows, c.type, row_bytes, c.row_n, c.k, c.weights, r);
    fill_activations(values, c.k, c.activations, r);
    for (size_t i = 0; i < c.row_n; i += LANES_ROWS)
        lanes_store(stored.data + i * row_bytes, rows + i * row_bytes, row_bytes, c.type, (uint32_t)c.k);
    m->act_pack(act.data, values, c.k);
    m->gemv(y, stored.data, row_bytes, c.row_n, act.data, c.k);
    reference(expected, rows, row_bytes, c.row_n, values, c.k, c.type);
    check_values(&c, y, expected, rows, row_bytes, values, "gemv of lanes");
    for (size_t i = 0; i < c.row_n; i += LANES_ROWS) { /* a group alone has the same bits */
        m->gemv(expected, stored.data + i * row_bytes, row_bytes, LANES_ROWS, act.data, c.k);
        cr_assert_eq(memcmp(expected, y + i, LANES_ROWS * sizeof *y), 0, "%s %s rows %zu", c.kernels->isa,
                     f.name, i);
    }
    check_tiles_of_lanes(&c, rows, stored.data, row_bytes);
    canary_check_free(y, c.row_n, f.name);
    guarded_free(&stored);
    guarded_free(&act);
    guarded_free(&x);
    free(rows);
}

Test(kernels, interleaved_rows_equal_the_reference) { for_each_product(check_lanes); }

/* Every table but the portable one interleaves all block types. */
Test(kernels, all_block_types_are_interleaved) {
    cpu_kernels tables[KERNEL_TABLES_MAX];
    for (size_t t = kernel_tables(tables); t-- > 0;)
        for (size_t i = 0; i < ALL_TYPES; i++) {
            const type_facts f = facts_of(all_types[i]);
            const bool can = f.block_n > 1 && strcmp(tables[t].isa, "scalar") != 0;
            cr_assert_eq(tables[t].lanes[all_types[i]].act_bytes != NULL, can, "%s %s", tables[t].isa,
                         f.name);
        }
}

Test(kernels, interleaved_rows_are_the_same_bytes) {
    random_state r = {14};
    for (size_t t = 0; t < ALL_TYPES; t++) {
        const gguf_type type = all_types[t];
        const type_facts f = facts_of(type);
        if (f.block_n == 1) continue;
        const size_t block_n = 5, row_bytes = block_n * f.block_bytes;
        uint8_t *rows = malloc(LANES_ROWS * row_bytes), *part = malloc(row_bytes);
        guarded stored = guarded_alloc(LANES_ROWS * row_bytes, 1, false);
        for (size_t i = 0; i < LANES_ROWS * row_bytes; i++) rows[i] = (uint8_t)random_below(&r, 256);
        lanes_store(stored.data, rows, row_bytes, type, (uint32_t)(block_n * f.block_n));
        for (uint32_t lane = 0; lane < LANES_ROWS; lane++)
            for (size_t b = 0; b < block_n; b++) {
                const size_t n = block_n - b;
                lanes_restore_part(part, stored.data, type, lane, (uint32_t)(b * f.block_n),
                                   (uint32_t)(n * f.block_n));
                cr_assert_eq(memcmp(part, rows + lane * row_bytes + b * f.block_bytes, n * f.block_bytes), 0,
                             "%s row %u block %zu", f.name, lane, b);
            }
        guarded_free(&stored);
        free(rows);
        free(part);
    }
}

Test(kernels, types_without_products_have_empty_slots) {
    cpu_kernels tables[KERNEL_TABLES_MAX];
    for (size_t t = kernel_tables(tables); t-- > 0;) {
        cr_assert_null(tables[t].matmul[GGUF_I32].act_bytes);
        cr_assert_null(tables[t].dequant[GGUF_I32]);
    }
}

/* ---- Halves ---- */

Test(kernels, every_half_survives_a_round_trip) {
    cpu_kernels tables[KERNEL_TABLES_MAX];
    const size_t table_n = kernel_tables(tables);
    for (uint32_t h = 0; h < 65536; h++) {
        const float x = ref_f16_to_f32((uint16_t)h);
        const bool nan = (h & 0x7fff) > 0x7c00;
        cr_assert_eq(isnan(x) != 0, nan, "half %04x", h);
        uint16_t back = ref_f32_to_f16(x);
        cr_assert(nan ? (back & 0x7fff) > 0x7c00 : back == h, "half %04x became %04x", h, back);
        for (size_t t = 0; t < table_n; t++) {
            tables[t].f32_to_f16(&back, &x, 1);
            cr_assert(nan ? (back & 0x7fff) > 0x7c00 : back == h, "%s: half %04x became %04x", tables[t].isa,
                      h, back);
        }
        const float wide = ref_bf16_to_f32((uint16_t)h);
        if (!isnan(wide)) cr_assert_eq(ref_f32_to_bf16(wide), h);
    }
}

/* The half nearest to x among x's neighbours, the even one of two equally near: found by trying, in double.
 */
static bool is_nearest(uint16_t h, float x, float (*to_f32)(uint16_t)) {
    const double error = fabs((double)to_f32(h) - (double)x);
    for (int step = -1; step <= 1; step += 2) {
        const uint16_t neighbour = (uint16_t)(h + step);
        if ((neighbour ^ h) & 0x8000) continue; /* past zero, or past the last NaN */
        const double other = fabs((double)to_f32(neighbour) - (double)x);
        if (other < error || (other == error && (h & 1))) return false;
    }
    return true;
}

Test(kernels, halves_are_rounded_to_nearest_even) {
    cpu_kernels tables[KERNEL_TABLES_MAX];
    const size_t table_n = kernel_tables(tables);
    random_state r = {4};
    enum { N = 20003 };
    static float x[N];
    static uint16_t expected[N], y[N + 1];
    for (size_t i = 0; i < N; i++) {
        /* exponents of all halves, and halves themselves plus exactly a half step */
        const float wide = ldexpf(1.0f + fabsf(random_float(&r)), (int)random_below(&r, 40) - 25);
        const uint16_t h = (uint16_t)random_below(&r, 0x7bff);
        x[i] = i & 1 ? fminf(wide, 65519.0f) : 0.5f * (ref_f16_to_f32(h) + ref_f16_to_f32((uint16_t)(h + 1)));
        if (i & 2) x[i] = -x[i];
        expected[i] = ref_f32_to_f16(x[i]);
        cr_assert(is_nearest(expected[i], x[i], ref_f16_to_f32), "%.9g became %04x", (double)x[i],
                  expected[i]);
        cr_assert(is_nearest(ref_f32_to_bf16(x[i]), x[i], ref_bf16_to_f32), "%.9g", (double)x[i]);
    }
    cr_assert_eq(ref_f32_to_f16(65519.996f), 0x7bff);
    cr_assert_eq(ref_f32_to_f16(65520.0f), 0x7c00);
    cr_assert_eq(ref_f32_to_f16(-INFINITY), 0xfc00);
    for (size_t t = 0; t < table_n; t++) {
        y[N] = 0xa5a5;
        tables[t].f32_to_f16(y, x, N);
        for (size_t i = 0; i < N; i++)
            cr_assert_eq(y[i], expected[i], "%s: %.9g became %04x", tables[t].isa, (double)x[i], y[i]);
        cr_assert_eq(y[N], 0xa5a5);
    }
}

Test(kernels, floats_are_rounded_to_bf16_to_even) {
    enum { N = 2003 };
    cpu_kernels tables[KERNEL_TABLES_MAX + KERNEL_TABLES_BF16];
    size_t table_n = kernel_tables(tables);
    table_n += kernel_tables_bf16(&tables[table_n]);
    random_state r = {5};
    static float x[N];
    for (size_t i = 0; i < N; i++) {
        const float wide = ldexpf(random_float(&r), (int)random_below(&r, 60) - 30);
        const uint16_t h = ref_f32_to_bf16(wide);
        x[i] = i & 1 ? wide : 0.5f * (ref_bf16_to_f32(h) + ref_bf16_to_f32((uint16_t)(h + 1)));
    }
    for (size_t i = 0; i < 40 * table_n; i++) {
        const cpu_kernels *k = &tables[i % table_n];
        const size_t n = i < table_n ? N : 1 + random_below(&r, 70), from = random_below(&r, N - n + 1);
        guarded y = guarded_alloc(n * sizeof(uint16_t), sizeof(uint16_t), i & 1);
        const uint16_t *half = (const uint16_t *)(const void *)y.data;
        k->f32_to_bf16((uint16_t *)(void *)y.data, x + from, n);
        for (size_t j = 0; j < n; j++)
            cr_assert_eq(half[j], ref_f32_to_bf16(x[from + j]), "%s: %.9g became %04x", k->isa,
                         (double)x[from + j], half[j]);
        guarded_free(&y);
    }
}

/* d and quants of one block by the rule of kernels.h, counted a second time. */
static void expect_block(const uint8_t *got, const float *x, const char *isa) {
    float most = 0;
    for (size_t i = 0; i < 32; i++) most = fmaxf(most, fabsf(x[i]));
    const float inverse = 127 / most;
    const uint16_t d = ref_f32_to_f16(most / 127);
    cr_assert_eq(memcmp(got, &d, sizeof d), 0, "%s: d of %g", isa, (double)most);
    for (size_t i = 0; i < 32; i++) {
        const int q = isfinite(inverse) ? (int)rintf(x[i] * inverse) : 0;
        cr_assert_eq((int8_t)got[2 + i], q, "%s: %g of at most %g became %d", isa, (double)x[i], (double)most,
                     (int8_t)got[2 + i]);
    }
}

Test(kernels, state_rows_are_rounded_alike_everywhere) {
    enum { BLOCKS = 9 };
    cpu_kernels tables[KERNEL_TABLES_MAX];
    const size_t table_n = kernel_tables(tables);
    random_state r = {41};
    for (int round = 0; round < 300; round++) {
        const size_t n = 32 * (1 + random_below(&r, BLOCKS));
        guarded in = guarded_alloc(n * sizeof(float), sizeof(float), round & 1);
        float *x = (float *)(void *)in.data;
        for (size_t i = 0; i < n; i += 32) {
            const float size = ldexpf(1, (int)random_below(&r, 60) - 40);
            for (size_t j = 0; j < 32; j++) x[i + j] = size * random_float(&r);
            if (random_below(&r, 8) == 0) memset(x + i, 0, 32 * sizeof *x); /* no step at all */
            if (random_below(&r, 8) == 0) x[i + random_below(&r, 32)] = 127 * size;
            for (size_t j = 0; j < 32 && round % 3 == 0; j++) /* halves between two quants */
                x[i + j] = size * ((float)random_below(&r, 254) - 126.5f);
            if (round % 3 == 0) x[i] = 127 * size;
        }
        for (size_t t = 0; t < table_n; t++) {
            guarded out = guarded_alloc(n / 32 * 34, 2, round & 2);
            tables[t].f32_to_q8_0(out.data, x, n);
            for (size_t i = 0; i < n; i += 32) expect_block(out.data + i / 32 * 34, x + i, tables[t].isa);
            guarded_free(&out);
        }
        guarded_free(&in);
    }
}
