/* avx512_attend_tiles.c - streaming softmax over a grouped state in BF16, with products of tiles (the rule:
 * kernels.h). Needs AVX512_BF16, AMX-TILE and AMX-BF16 besides.
 *
 * A tile has 16 rows of 16 words. The state is in the order in which tiles are multiplied: a row of the
 * second factor is a word of 16 positions of a key, or of 16 elements of a value; the rows of the first one
 * are queries, or the weights of queries. For 16 queries a tile takes TDPBF16PS 17 cycles (Emerald Rapids);
 * it would be 256 of VDPBF16PS.
 */
#include "devices/cpu/avx512_amx.h"
#include "devices/cpu/avx512_attend_groups.h"
#include "devices/cpu/avx512_bf16.h"

/* Tiles: sums of two vectors and the factors of queries, for TILE queries and once more for the last ones of
 * a call, which are fewer; two of the state. */
enum { OF_TILE = 3, OF_REST = 3, OF_STATE = 2 };

/* The last words, fewer than a tile, zeros behind them. */
static void take_last(uint32_t to[TILE][TILE], const uint8_t *at, size_t step, size_t n, bool half) {
    memset(to, 0, TILE * sizeof *to);
    for (size_t w = 0; w < n; w++) memcpy(to[w], at + w * step, sizeof *to);
    if (!half) return;
    for (size_t i = 0; i < TILE; i++) to[n - 1][i] &= 0xffff;
}

/* Adds up to a tile of words, two vectors or one. Instructions name tiles by number, hence no functions. */
#define MULTIPLY_TILE(SUM_0, SUM_1, X, x, x_stride, at_0, at_1, step, two)                                   \
    do {                                                                                                     \
        MEMORY_IS_READ();                                                                                    \
        _tile_loadd(X, x, sizeof(float) * (x_stride));                                                       \
        _tile_loadd(6, at_0, step);                                                                          \
        if (two) _tile_loadd(7, at_1, step);                                                                 \
        _tile_dpbf16ps(SUM_0, X, 6);                                                                         \
        if (two) _tile_dpbf16ps(SUM_1, X, 7);                                                                \
    } while (0)

/* Asks for as much as is multiplied from word w on. */
INLINE void ask_tile(const uint8_t *ahead, size_t w, const size_t vector_n) {
    ask_next(ahead, w * vector_n * LINE, TILE * vector_n * LINE);
}

#define PRODUCTS(name, SUM_0, SUM_1, X)                                                                      \
    INLINE void name(float *out, size_t out_stride, bool fresh, const float *x, size_t x_stride,             \
                     const factors *v, const bool two) {                                                     \
        const size_t whole_n = (v->n - v->half) / TILE * TILE, vector_n = two ? 2 : 1;                       \
        const uint8_t *at = v->at;                                                                           \
        _tile_zero(SUM_0);                                                                                   \
        if (two) _tile_zero(SUM_1);                                                                          \
        if (!fresh) {                                                                                        \
            MEMORY_IS_READ();                                                                                \
            _tile_loadd(SUM_0, out, sizeof(float) * out_stride);                                             \
            if (two) _tile_loadd(SUM_1, out + TILE, sizeof(float) * out_stride);                             \
        }                                                                                                    \
        for (size_t w = 0; w < whole_n; w += TILE, at += TILE * v->step) {                                   \
            MULTIPLY_TILE(SUM_0, SUM_1, X, x + w, x_stride, at, at + LINE, v->step, two);                    \
            if (v->ahead) ask_tile(v->ahead, w, vector_n);                                                   \
        }                                                                                                    \
        if (whole_n < v->n) {                                                                                \
            _Alignas(LINE) uint32_t last[2][TILE][TILE];                                                     \
            for (size_t j = 0; j < vector_n; j++)                                                            \
                take_last(last[j], at + j * LINE, v->step, v->n - whole_n, v->half);                         \
            MULTIPLY_TILE(SUM_0, SUM_1, X, x + whole_n, x_stride, last[0], last[1], LINE, two);              \
        }                                                                                                    \
        _tile_stored(SUM_0, out, sizeof(float) * out_stride);                                                \
        if (two) _tile_stored(SUM_1, out + TILE, sizeof(float) * out_stride);                                \
        MEMORY_IS_READ();                                                                                    \
    }

PRODUCTS(products_of_tile, 0, 1, 2)
PRODUCTS(products_of_rest, 3, 4, 5)

static void multiply_tiles(float *out, size_t out_stride, bool fresh, const float *x, size_t x_stride,
                           const factors *v, size_t query_n, size_t vector_n) {
    if (query_n == TILE && vector_n == 2)
        products_of_tile(out, out_stride, fresh, x, x_stride, v, true);
    else if (query_n == TILE)
        products_of_tile(out, out_stride, fresh, x, x_stride, v, false);
    else if (vector_n == 2)
        products_of_rest(out, out_stride, fresh, x, x_stride, v, true);
    else
        products_of_rest(out, out_stride, fresh, x, x_stride, v, false);
}

/* Tiles for calls with `rest` queries more than whole tiles. */
static void configure(size_t rest) {
    tile_config c = {.palette = 1};
    for (size_t i = 0; i < OF_TILE + OF_REST + OF_STATE; i++) {
        const bool of_rest = i >= OF_TILE && i < OF_TILE + OF_REST;
        c.row_n[i] = (uint8_t)(of_rest ? rest : TILE);
        c.row_bytes[i] = c.row_n[i] ? LINE : 0;
    }
    MEMORY_IS_READ();
    _tile_loadconfig(&c);
}

static void attend(const cpu_attend_args *args) {
    if (args->state != GGUF_BF16) {
        avx512_attend_by_type(args);
        return;
    }
    configure(args->query_n * args->head_n % TILE);
    attend_groups(args, (group_form){.bytes = sizeof(uint16_t),
                                     .per_word = 2,
                                     .vector_bytes = LINE,
                                     .pack = round_pairs,
                                     .words = pair_floats,
                                     .by_tiles = multiply_tiles});
    _tile_release(); /* else the system keeps saving them */
}

void cpu_kernels_amx(cpu_kernels *k) {
    avx512_gemm_wide(k);
    k->attend = attend;
    k->attend_bf16 = true;
    k->attend_rounds = false;
    k->f32_to_bf16 = f32_to_bf16;
}
