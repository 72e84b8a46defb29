/* test_neurons.c - matrices by neuron give back what was stored, and sums over active neurons are the
 * products that rows give. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "devices/cpu/selftest.h"
#include "devices/neurons.h"
#include "tests/kernel_test.h"

/* A matrix by row in random bytes (scales stay small numbers), and the same by neuron. */
typedef struct matrix {
    gguf_type type;
    uint32_t in_n, out_n;
    uint64_t row_bytes, bytes;
    uint8_t *rows;
    guarded stored;
} matrix;

static void put_half(uint8_t *p, float x) {
    uint16_t h = ref_f32_to_f16(x);
    memcpy(p, &h, sizeof h);
}

static void fill(uint8_t *w, gguf_type type, uint64_t bytes, random_state *r) {
    uint32_t block_bytes = gguf_type_get(type)->block_bytes;
    for (uint64_t i = 0; i < bytes; i++) w[i] = (uint8_t)random_u64(r);
    for (uint8_t *b = w; b < w + bytes; b += block_bytes) {
        float d = 0.01f * (1.5f + random_float(r));
        uint16_t brain = ref_f32_to_bf16(random_float(r));
        switch ((int)type) {
        case GGUF_F32: d = random_float(r), memcpy(b, &d, 4); break;
        case GGUF_F16: put_half(b, random_float(r)); break;
        case GGUF_BF16: memcpy(b, &brain, 2); break;
        default: kernel_set_scales(b, type, type == GGUF_Q6_K || type == GGUF_Q3_K ? -d : d);
        }
    }
}

static matrix matrix_make(gguf_type type, uint32_t in_n, uint32_t out_n, random_state *r) {
    matrix m = {.type = type, .in_n = in_n, .out_n = out_n, .row_bytes = gguf_row_bytes(type, in_n)};
    m.bytes = m.row_bytes * out_n;
    m.rows = malloc(m.bytes);
    cr_assert_not_null(m.rows);
    fill(m.rows, type, m.bytes, r);
    m.stored = guarded_alloc(m.bytes, 1, false);
    neurons_form f;
    cr_assert(neurons_form_of(type, out_n, &f));
    cr_assert_eq(neurons_group_bytes(f, out_n) * (in_n / f.group_n), m.bytes, "the same size");
    for (uint32_t o = 0; o < out_n; o += 64)
        neurons_store(m.stored.data, m.rows, m.row_bytes, type, in_n, out_n, o,
                      out_n - o < 64 ? out_n - o : 64);
    return m;
}

static void matrix_free(matrix *m) {
    free(m->rows);
    guarded_free(&m->stored);
}

Test(neurons, rows_come_back_bit_for_bit) {
    static const uint32_t ranges[][2] = {{0, 96}, {0, 16}, {16, 16}, {5, 1}, {30, 7}, {40, 56}};
    random_state r = {7};
    for (size_t t = 0; t < ALL_TYPES; t++) {
        matrix m = matrix_make(all_types[t], 512, 96, &r);
        for (size_t i = 0; i < COUNT_OF(ranges); i++) {
            uint32_t from = ranges[i][0], n = ranges[i][1];
            guarded back = guarded_alloc(n * m.row_bytes, 1, i % 2);
            neurons_restore(back.data, m.stored.data, m.row_bytes, m.type, m.in_n, m.out_n, from, n);
            cr_assert_eq(memcmp(back.data, m.rows + from * m.row_bytes, n * m.row_bytes), 0,
                         "%s rows %u to %u", gguf_type_get(m.type)->name, from, from + n);
            guarded_free(&back);
        }
        matrix_free(&m);
    }
}

/* Tiles of rows [from, from + n) from the stored matrix give the products, bit for bit, that tiles of the
 * restored rows give. */
static void check_tiles(const cpu_kernels *k, const matrix *m, uint32_t from, uint32_t n, random_state *r) {
    const cpu_matmul *mm = &k->matmul[m->type];
    const size_t stride = round_up(mm->tile_bytes(m->in_n), CPU_ALIGN);
    const size_t tile_n = (n + mm->tile_rows - 1) / mm->tile_rows, y_n = mm->tile_rows * mm->panel_cols;
    guarded tiles = guarded_alloc(tile_n * stride, CPU_ALIGN, false);
    guarded tile = guarded_alloc(stride, CPU_ALIGN, true);
    uint8_t *panel = aligned_alloc(CPU_ALIGN, round_up(mm->panel_bytes(m->in_n), CPU_ALIGN));
    float *x = malloc(mm->panel_cols * m->in_n * sizeof *x), *y = malloc(2 * y_n * sizeof *y);
    cr_assert(panel && x && y);
    random_floats(r, x, mm->panel_cols * m->in_n);
    mm->panel_pack(panel, x, m->in_n, mm->panel_cols, m->in_n);
    mm->neuron_tiles(tiles.data, stride, m->stored.data, m->out_n, from, n, m->in_n);
    for (uint32_t at = 0; at < n; at += (uint32_t)mm->tile_rows) {
        const uint32_t row_n = n - at < mm->tile_rows ? n - at : (uint32_t)mm->tile_rows;
        mm->tile_unpack(tile.data, m->rows + (from + at) * m->row_bytes, m->row_bytes, row_n, m->in_n);
        mm->tile_mul(y, mm->tile_rows, tile.data, panel, m->in_n);
        mm->tile_mul(y + y_n, mm->tile_rows, tiles.data + at / mm->tile_rows * stride, panel, m->in_n);
        for (size_t c = 0; c < mm->panel_cols; c++)
            cr_assert_eq(memcmp(y + c * mm->tile_rows, y + y_n + c * mm->tile_rows, row_n * sizeof *y), 0,
                         "%s %s: rows %u to %u of [%u][%u], column %zu", k->isa, gguf_type_get(m->type)->name,
                         from + at, from + at + row_n, m->out_n, m->in_n, c);
    }
    free(panel);
    free(x);
    free(y);
    guarded_free(&tiles);
    guarded_free(&tile);
}

Test(neurons, tiles_are_those_of_rows) {
    static const uint32_t outs[] = {32, 64, 96, 192}, ins[] = {256, 768};
    cpu_kernels tables[KERNEL_TABLES_MAX];
    const size_t table_n = kernel_tables(tables);
    random_state r = {13};
    for (size_t t = 0; t < ALL_TYPES; t++)
        for (size_t i = 0; i < COUNT_OF(outs) * COUNT_OF(ins); i++) {
            uint32_t out_n = outs[i / COUNT_OF(ins)], in_n = ins[i % COUNT_OF(ins)];
            bool floats = gguf_type_get(all_types[t])->block_n == 1;
            if (floats) in_n -= 1 + (uint32_t)random_below(&r, 100), out_n -= (uint32_t)random_below(&r, 31);
            matrix m = matrix_make(all_types[t], in_n, out_n, &r);
            for (size_t k = 0; k < table_n; k++)
                for (uint32_t from = 0, n; from < out_n; from += n) {
                    n = CPU_NEURON_ROWS * (1 + (uint32_t)random_below(&r, 3));
                    if (n > out_n - from) n = out_n - from;
                    check_tiles(&tables[k], &m, from, n, &r);
                }
            matrix_free(&m);
        }
}

Test(neurons, fast_stores_move_the_same_bytes) {
    cpu_kernels tables[KERNEL_TABLES_MAX];
    const size_t table_n = kernel_tables(tables);
    random_state r = {17};
    for (size_t t = 0; t < ALL_TYPES; t++)
        for (int i = 0; i < 6; i++) {
            bool floats = gguf_type_get(all_types[t])->block_n == 1;
            uint32_t in_n = 256 * (1 + (uint32_t)random_below(&r, 3));
            uint32_t out_n = 32 * (1 + (uint32_t)random_below(&r, 6));
            if (floats && i) in_n -= (uint32_t)random_below(&r, 250), out_n -= (uint32_t)random_below(&r, 31);
            matrix m = matrix_make(all_types[t], in_n, out_n, &r);
            for (size_t k = 0; k < table_n; k++) {
                guarded rows = guarded_alloc(m.bytes, 1, i % 2), stored = guarded_alloc(m.bytes, 1, i % 2);
                memcpy(rows.data, m.rows, m.bytes);
                for (uint32_t from = 0, n; from < out_n; from += n) {
                    n = 32 * (1 + (uint32_t)random_below(&r, 4));
                    if (n > out_n - from) n = out_n - from;
                    tables[k].neuron_store(stored.data, rows.data, m.row_bytes, m.type, in_n, out_n, from, n);
                }
                cr_assert_eq(memcmp(stored.data, m.stored.data, m.bytes), 0, "%s %s [%u][%u]", tables[k].isa,
                             gguf_type_get(m.type)->name, out_n, in_n);
                guarded_free(&rows);
                guarded_free(&stored);
            }
            matrix_free(&m);
        }
}

Test(neurons, types_without_a_form_say_so) {
    neurons_form f;
    cr_expect_not(neurons_form_of(GGUF_Q8_0, 50, &f), "outputs that fill no run");
    cr_expect(neurons_form_of(GGUF_F16, 50, &f));
    cr_expect_not(neurons_form_of(GGUF_I64, 64, &f));
}

/* Neurons of an inactive group, of a lone one, of crowded ones: `share` of 256. */
static size_t choose(uint32_t *neuron, uint32_t in_n, unsigned share, random_state *r) {
    size_t n = 0;
    for (uint32_t i = 0; i < in_n; i++)
        if (random_below(r, 256) < share && i / 32 % 5 != 2) neuron[n++] = i;
    return n;
}

/* Activations as kernels.h has it. */
static void pack(cpu_active *a, float *x, int8_t *q, float *d, uint32_t group_n) {
    for (size_t i = 0; i < a->n; i++) {
        float max = 0;
        for (size_t j = 0; j < a->n; j++)
            if (a->neuron[j] / group_n == a->neuron[i] / group_n) max = fmaxf(max, fabsf(x[j]));
        d[a->neuron[i] / group_n] = max / 127.0f;
        q[i] = (int8_t)nearbyintf(x[i] * (127.0f / max));
    }
    a->q = q;
    a->d = d;
}

static void check_sum(const cpu_kernels *k, const matrix *m, unsigned share, random_state *r) {
    enum { IN_MAX = 1024, OUT_MAX = CPU_NEURON_OUTPUTS_MAX };
    uint32_t neuron[IN_MAX];
    float x[IN_MAX], d[IN_MAX], dense[IN_MAX] = {0}, want[OUT_MAX], whole[OUT_MAX];
    int8_t q[IN_MAX];
    cr_assert(m->in_n <= IN_MAX && m->out_n <= OUT_MAX);
    cpu_active a = {.n = choose(neuron, m->in_n, share, r), .neuron = neuron, .x = x};
    for (size_t i = 0; i < a.n; i++) dense[neuron[i]] = x[i] = random_float(r) + 1;
    if (a.n && m->type == GGUF_Q8_0) x[0] = dense[neuron[0]] = -1.5f;
    neurons_form f;
    cr_assert(neurons_form_of(m->type, m->out_n, &f));
    if (f.group_n > 1) {
        pack(&a, x, q, d, f.group_n);
        ref_gemv_int(want, m->rows, m->row_bytes, m->out_n, dense, m->in_n, m->type);
    } else {
        ref_gemv_float(want, m->rows, m->row_bytes, m->out_n, dense, m->in_n, m->type);
    }
    k->neuron_sum[m->type](whole, m->stored.data, m->out_n, 0, m->out_n, &a);
    double difference = 0, size = 0;
    for (uint32_t o = 0; o < m->out_n; o++) {
        difference += ((double)whole[o] - want[o]) * ((double)whole[o] - want[o]);
        size += (double)want[o] * want[o];
    }
    cr_assert(sqrt(difference) <= 1e-5 * sqrt(size), "%s %s, %zu of %u neurons: relative error %.2g", k->isa,
              gguf_type_get(m->type)->name, a.n, m->in_n, sqrt(difference / size));
    for (uint32_t from = 0, n; from < m->out_n; from += n) { /* any cut gives the same bits */
        n = from == 0 ? 32 : m->out_n - from < 64 ? m->out_n - from : 64;
        float *piece = canary_alloc(n);
        k->neuron_sum[m->type](piece, m->stored.data, m->out_n, from, n, &a);
        cr_assert_eq(memcmp(piece, whole + from, n * sizeof *piece), 0, "%s %s outputs %u to %u", k->isa,
                     gguf_type_get(m->type)->name, from, from + n);
        canary_check_free(piece, n, "neuron_sum");
    }
}

Test(neurons, sums_are_the_products_of_rows) {
    cpu_kernels tables[KERNEL_TABLES_MAX];
    const size_t table_n = kernel_tables(tables);
    static const unsigned shares[] = {0, 1, 9, 60, 256};
    random_state r = {11};
    for (size_t t = 0; t < ALL_TYPES; t++) {
        for (size_t s = 0; s < COUNT_OF(shares); s++) {
            matrix m = matrix_make(all_types[t], s % 2 ? 256 : 1024, s % 2 ? 192 : 96, &r);
            for (size_t k = 0; k < table_n; k++) check_sum(&tables[k], &m, shares[s], &r);
            matrix_free(&m);
        }
    }
    for (size_t t = 0; t < 6; t++) { /* floats that fill no register, and as many as a call takes */
        matrix m = matrix_make(all_types[t / 2], 77, t % 2 ? CPU_NEURON_OUTPUTS_MAX : 50, &r);
        for (size_t k = 0; k < table_n; k++) check_sum(&tables[k], &m, 100, &r);
        matrix_free(&m);
    }
}

/* Equal products, whose sum in one chain is off by 4e-4 of it. */
Test(neurons, sums_of_many_neurons_are_rounded_less_often) {
    enum { N = 28672, OUT = 40 };
    static float w[N * OUT], x[N];
    static uint32_t neuron[N];
    for (uint32_t i = 0; i < N; i++) neuron[i] = i, x[i] = 3.0f;
    for (uint32_t i = 0; i < N * OUT; i++) w[i] = 0.01f;
    const cpu_active a = {.n = N, .neuron = neuron, .x = x};
    cpu_kernels tables[KERNEL_TABLES_MAX];
    for (size_t t = kernel_tables(tables); t-- > 0;) {
        float y[OUT];
        tables[t].neuron_sum[GGUF_F32](y, (const uint8_t *)w, OUT, 0, OUT, &a);
        for (size_t o = 0; o < OUT; o++)
            cr_assert_float_eq(y[o], N * 0.03f, 5e-5f * N * 0.03f, "%s: %.9g", tables[t].isa, (double)y[o]);
    }
}

static void multiply_nothing(float *y, size_t y_stride, const void *tile, const void *panel, size_t k) {
    (void)y, (void)y_stride, (void)tile, (void)panel, (void)k;
}

Test(neurons, self_test_finds_wrong_kernels) {
    cpu_kernels tables[KERNEL_TABLES_MAX];
    const size_t table_n = kernel_tables(tables);
    for (size_t i = 0; i < table_n; i++) {
        hotset_error err = {0};
        for (int type = 0; type < GGUF_TYPE_MAX; type++)
            if (tables[i].matmul[type].act_bytes)
                cr_expect_eq(cpu_selftest(&tables[i], (gguf_type)type, &err), HOTSET_OK, "%s: %s",
                             tables[i].isa, err.message);
        cpu_kernels wrong = tables[i];
        wrong.neuron_sum[GGUF_Q4_0] = tables[i].neuron_sum[GGUF_Q8_0];
        cr_expect_eq(cpu_selftest(&wrong, GGUF_Q4_0, &err), HOTSET_E_DEVICE);
        cr_expect(strstr(err.message, "wrong Q4_0 sums over neurons"), "%s", err.message);
        wrong = tables[i];
        wrong.matmul[GGUF_F16].neuron_tiles = tables[i].matmul[GGUF_BF16].neuron_tiles;
        cr_expect_eq(cpu_selftest(&wrong, GGUF_F16, &err), HOTSET_E_DEVICE);
        cr_expect(strstr(err.message, "wrong F16 tiles by neuron"), "%s", err.message);
        wrong = tables[i];
        wrong.matmul[GGUF_F32].tile_mul = multiply_nothing;
        cr_expect_eq(cpu_selftest(&wrong, GGUF_F32, &err), HOTSET_E_DEVICE);
        cr_expect(strstr(err.message, "wrong F32 tiles (relative"), "%s", err.message);
        cr_expect_eq(cpu_selftest(&wrong, GGUF_Q4_0, &err), HOTSET_E_DEVICE);
        cr_expect(strstr(err.message, "wrong Q4_0 tiles by row"), "%s", err.message);
        wrong = tables[i]; /* IQ4_NL's blocks are laid out as Q4_0's, so that only values differ */
        wrong.row_sum[GGUF_Q4_0] = tables[i].row_sum[GGUF_IQ4_NL];
        cr_expect_eq(cpu_selftest(&wrong, GGUF_Q4_0, &err), HOTSET_E_DEVICE);
        cr_expect(strstr(err.message, "wrong Q4_0 sums by row"), "%s", err.message);
        wrong = tables[i];
        wrong.row_tile[GGUF_Q4_0] = tables[i].row_tile[GGUF_IQ4_NL];
        cr_expect_eq(cpu_selftest(&wrong, GGUF_Q4_0, &err), HOTSET_E_DEVICE);
        cr_expect(strstr(err.message, "wrong Q4_0 tiles by row"), "%s", err.message);
        if (!tables[i].lanes[GGUF_Q4_0].act_bytes) continue;
        wrong = tables[i];
        wrong.lanes[GGUF_Q4_0].act_pack = tables[i].lanes[GGUF_Q4_K].act_pack;
        cr_expect_eq(cpu_selftest(&wrong, GGUF_Q4_0, &err), HOTSET_E_DEVICE);
        cr_expect(strstr(err.message, "wrong Q4_0 products of interleaved rows"), "%s", err.message);
        wrong = tables[i];
        wrong.lanes[GGUF_Q4_0].tile_unpack = tables[i].matmul[GGUF_Q4_0].tile_unpack;
        cr_expect_eq(cpu_selftest(&wrong, GGUF_Q4_0, &err), HOTSET_E_DEVICE);
        cr_expect(strstr(err.message, "wrong Q4_0 tiles of interleaved rows"), "%s", err.message);
    }
}
