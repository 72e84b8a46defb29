/* test_rows.c - sums and tiles of matrices in blocks by row are what their weights, dequantised, give. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "devices/cpu/ref.h"
#include "tests/kernel_test.h"

static const struct {
    gguf_type type;
    void (*dequant)(float *x, const uint8_t *w, size_t k);
} types[] = {
#define TYPE(type, TYPE) {GGUF_##TYPE, ref_dequant_##type},
    BLOCK_TYPES(TYPE)
#undef TYPE
};

/* in_n rows of out_n random weights, and the same as floats. */
typedef struct matrix {
    gguf_type type;
    size_t in_n, out_n, row_bytes;
    guarded data;
    float *weight; /* [in_n][out_n] */
} matrix;

static matrix matrix_make(size_t type_i, size_t in_n, size_t out_n, bool at_start, random_state *r) {
    const gguf_type type = types[type_i].type;
    matrix m = {.type = type, .in_n = in_n, .out_n = out_n, .row_bytes = gguf_row_bytes(type, out_n)};
    m.data = guarded_alloc(in_n * m.row_bytes, 1, at_start);
    m.weight = malloc(in_n * out_n * sizeof *m.weight);
    cr_assert_not_null(m.weight);
    for (size_t i = 0; i < in_n * m.row_bytes; i++) m.data.data[i] = (uint8_t)random_u64(r);
    for (size_t i = 0; i < in_n * m.row_bytes; i += gguf_type_get(type)->block_bytes) {
        uint8_t *block = m.data.data + i;
        const float d = 0.01f * (1.5f + random_float(r));
        kernel_set_scales(block, type, d);
    }
    for (size_t i = 0; i < in_n; i++)
        types[type_i].dequant(m.weight + i * out_n, m.data.data + i * m.row_bytes, out_n);
    return m;
}

static void matrix_free(matrix *m) {
    free(m->weight);
    guarded_free(&m->data);
}

enum { IN_MAX = 512, OUT_MAX = 1536 };

static void check_sum(const cpu_kernels *k, const matrix *m, size_t share, random_state *r) {
    uint32_t neuron[IN_MAX];
    float x[IN_MAX], whole[OUT_MAX];
    double want[OUT_MAX] = {0}, size[OUT_MAX] = {0};
    const char *name = gguf_type_get(m->type)->name;
    const size_t block_n = gguf_type_get(m->type)->block_n;
    cpu_active a = {.neuron = neuron, .x = x};
    for (size_t i = 0; i < m->in_n; i++) {
        if (random_below(r, 256) >= share) continue;
        neuron[a.n] = (uint32_t)i;
        x[a.n] = random_float(r);
        for (size_t o = 0; o < m->out_n; o++) {
            const double product = (double)x[a.n] * (double)m->weight[i * m->out_n + o];
            want[o] += product;
            size[o] += fabs(product);
        }
        a.n++;
    }
    for (size_t from = 0, n; from < m->out_n; from += n) {
        n = m->out_n - from < CPU_NEURON_OUTPUTS_MAX ? m->out_n - from : CPU_NEURON_OUTPUTS_MAX;
        k->row_sum[m->type](whole + from, m->data.data, m->row_bytes, from, n, &a);
    }
    for (size_t o = 0; o < m->out_n; o++)
        cr_assert(fabs((double)whole[o] - want[o]) <= 2e-6 * size[o] + 1e-30,
                  "%s %s, %zu of %zu rows, output %zu: %g is not %g", k->isa, name, a.n, m->in_n, o,
                  (double)whole[o], want[o]);
    for (size_t from = 0, n; from < m->out_n; from += n) { /* any cut gives the same bits */
        n = block_n * (1 + random_below(r, 3));
        if (n > m->out_n - from) n = m->out_n - from;
        float *piece = canary_alloc(n);
        k->row_sum[m->type](piece, m->data.data, m->row_bytes, from, n, &a);
        cr_assert_eq(memcmp(piece, whole + from, n * sizeof *piece), 0, "%s %s outputs %zu to %zu", k->isa,
                     name, from, from + n);
        canary_check_free(piece, n, "row_sum");
    }
}

Test(rows, sums_are_those_of_the_weights) {
    cpu_kernels tables[KERNEL_TABLES_MAX];
    const size_t table_n = kernel_tables(tables);
    static const size_t shares[] = {0, 1, 9, 60, 256};
    random_state r = {13};
    for (size_t t = 0; t < COUNT_OF(types); t++) {
        const size_t block_n = gguf_type_get(types[t].type)->block_n;
        for (size_t i = 0; i < 4 * COUNT_OF(shares); i++) {
            const size_t out_n = block_n * (1 + random_below(&r, OUT_MAX / block_n));
            matrix m = matrix_make(t, 1 + random_below(&r, IN_MAX), out_n, i % 2, &r);
            for (size_t k = 0; k < table_n; k++) check_sum(&tables[k], &m, shares[i / 4], &r);
            matrix_free(&m);
        }
    }
}

/* A tile of outputs, multiplied with a panel, gives the sums over all neurons. */
static void check_tile(const cpu_kernels *k, const matrix *m, size_t from) {
    const cpu_matmul *f = &k->matmul[GGUF_F32];
    const size_t n = m->out_n - from < f->tile_rows ? m->out_n - from : f->tile_rows, cols = f->panel_cols;
    void *tile = aligned_alloc(CPU_ALIGN, round_up(f->tile_bytes(m->in_n), CPU_ALIGN));
    void *panel = aligned_alloc(CPU_ALIGN, round_up(f->panel_bytes(m->in_n), CPU_ALIGN));
    void *same = aligned_alloc(CPU_ALIGN, round_up(f->tile_bytes(m->in_n), CPU_ALIGN));
    float *rows = malloc(n * m->in_n * sizeof *rows), *x = malloc(cols * m->in_n * sizeof *x);
    float *got = malloc(f->tile_rows * cols * sizeof *got),
          *want = malloc(f->tile_rows * cols * sizeof *want);
    cr_assert(tile && panel && same && rows && x && got && want);
    random_state r = {17};
    random_floats(&r, x, cols * m->in_n);
    for (size_t o = 0; o < n; o++)
        for (size_t i = 0; i < m->in_n; i++) rows[o * m->in_n + i] = m->weight[i * m->out_n + from + o];
    f->panel_pack(panel, x, m->in_n, cols, m->in_n);
    f->tile_unpack(same, (const uint8_t *)rows, m->in_n * sizeof *rows, n, m->in_n);
    f->tile_mul(want, f->tile_rows, same, panel, m->in_n);
    k->row_tile[m->type](tile, m->data.data, m->row_bytes, from, n, m->in_n);
    f->tile_mul(got, f->tile_rows, tile, panel, m->in_n);
    for (size_t c = 0; c < cols; c++)
        for (size_t o = 0; o < n; o++) {
            const float a = got[c * f->tile_rows + o], b = want[c * f->tile_rows + o];
            cr_assert(fabsf(a - b) <= 1e-5f * (float)m->in_n, "%s %s output %zu: %g is not %g", k->isa,
                      gguf_type_get(m->type)->name, from + o, (double)a, (double)b);
        }
    free(tile), free(panel), free(same), free(rows), free(x), free(got), free(want);
}

Test(rows, tiles_are_those_of_the_weights) {
    cpu_kernels tables[KERNEL_TABLES_MAX];
    const size_t table_n = kernel_tables(tables);
    random_state r = {19};
    for (size_t t = 0; t < COUNT_OF(types); t++) {
        const size_t block_n = gguf_type_get(types[t].type)->block_n;
        for (int i = 0; i < 6; i++) {
            matrix m =
                matrix_make(t, 1 + random_below(&r, 70), block_n * (1 + random_below(&r, 2)), i % 2, &r);
            for (size_t k = 0; k < table_n; k++)
                for (size_t from = 0; from < m.out_n; from += tables[k].matmul[GGUF_F32].tile_rows)
                    check_tile(&tables[k], &m, from);
            matrix_free(&m);
        }
    }
}
