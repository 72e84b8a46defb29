/* ref_rows.c - down matrices in blocks by row, in plain C: sums over active neurons, and tiles. Both give the
 * same bits. */
#include "devices/cpu/ref.h"

#include <assert.h>

enum { BLOCK_MAX = REF_SUM_OUTPUTS, TILE_ROWS = 16 };

typedef void dequant_fn(float *x, const uint8_t *w, size_t k);

/* Block after block of outputs, in the order of additions that a tile has (ref_quant.c). */
static void row_sum(float *y, const uint8_t *w, size_t row_bytes, size_t from, size_t n, const cpu_active *a,
                    gguf_type type, dequant_fn *dequant) {
    const size_t block_n = gguf_type_get(type)->block_n;
    for (size_t o = 0; o < n; o += block_n) {
        ref_sums s = {0};
        for (size_t j = 0; j < a->n; j++) {
            float block[BLOCK_MAX];
            dequant(block, w + row_bytes * a->neuron[j] + gguf_row_bytes(type, from + o), block_n);
            ref_sums_add(&s, a->neuron[j], a->x[j], block, block_n);
        }
        ref_sums_end(&s, y + o, block_n);
    }
}

/* Tile: rows of floats (ref_quant.c), one per output. */
static void row_tile(float *tile, const uint8_t *w, size_t row_bytes, size_t from, size_t n, size_t k,
                     gguf_type type, dequant_fn *dequant) {
    const size_t block_n = gguf_type_get(type)->block_n, first = from / block_n * block_n;
    assert(from + n <= first + block_n && n <= TILE_ROWS);
    for (size_t i = 0; i < k; i++) {
        float block[BLOCK_MAX];
        dequant(block, w + row_bytes * i + gguf_row_bytes(type, first), block_n);
        for (size_t o = 0; o < n; o++) tile[o * k + i] = block[from - first + o];
    }
}

#define SLOTS(type, TYPE)                                                                                    \
    static void row_sum_##type(float *y, const uint8_t *w, size_t row_bytes, size_t from, size_t n,          \
                               const cpu_active *a) {                                                        \
        row_sum(y, w, row_bytes, from, n, a, GGUF_##TYPE, ref_dequant_##type);                               \
    }                                                                                                        \
    static void row_tile_##type(void *tile, const uint8_t *w, size_t row_bytes, size_t from, size_t n,       \
                                size_t k) {                                                                  \
        row_tile(tile, w, row_bytes, from, n, k, GGUF_##TYPE, ref_dequant_##type);                           \
    }
BLOCK_TYPES(SLOTS)

#define FILL(type, TYPE) k->row_sum[GGUF_##TYPE] = row_sum_##type, k->row_tile[GGUF_##TYPE] = row_tile_##type;

void ref_rows_init(cpu_kernels *k) { BLOCK_TYPES(FILL) }
