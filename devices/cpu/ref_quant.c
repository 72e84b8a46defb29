/* ref_quant.c - what weights and their products mean, in plain C: halves, blocks, the references in double,
 * and the portable products.
 *
 * All quantised types become one form here (devices/blocks.h): groups of 32 weights with their small
 * integers, one scale and one minimum per half group. Every scale is exact in a float (11 bits of a half
 * times at most 8), so this loses nothing.
 */
#include "devices/cpu/ref.h"
#include "devices/neurons.h"
#include "devices/quant.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <string.h>

enum { GROUP = 32, BLOCK_GROUPS_MAX = 8 };

typedef struct weight_group { /* weight i is scale[i / 16] * q[i] - min[i / 16] */
    float scale[2], min[2];
    int8_t q[GROUP];
} weight_group;

typedef struct act_group { /* activation i is d * q[i] */
    float d;
    int32_t sum[2]; /* of the halves of q */
    int8_t q[GROUP];
} act_group;

/* ---- Halves ------------------------------------------------------------------------------------------ */

static float float_of_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint32_t bits_of_float(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

float ref_f16_to_f32(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = h & 0x7fff;
    if (rest < 0x0400)
        return float_of_bits(sign | bits_of_float((float)rest * 0x1p-24f)); /* zero, subnormal */
    if (rest < 0x7c00) return float_of_bits(sign | ((rest << 13) + 0x38000000));
    return float_of_bits(sign | 0x7f800000 | (rest & 0x3ff) << 13);
}

uint16_t ref_f32_to_f16(float x) {
    const uint32_t bits = bits_of_float(x), rest = bits & 0x7fffffff;
    const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    if (rest > 0x7f800000) return (uint16_t)(sign | 0x7e00 | (rest >> 13 & 0x1ff));
    if (rest >= 0x477ff000) return (uint16_t)(sign | 0x7c00); /* 65520 and more round to infinity */
    if (rest < 0x38800000) {
        /* Below 2^-14 a half counts in units of 2^-24, which is what a float in [0.5, 1) does: the sum
         * rounds. */
        const float rounded = float_of_bits(rest) + 0.5f;
        return (uint16_t)(sign | (bits_of_float(rounded) - bits_of_float(0.5f)));
    }
    return (uint16_t)(sign | (rest - 0x38000000 + 0xfff + (rest >> 13 & 1)) >> 13);
}

float ref_bf16_to_f32(uint16_t h) { return float_of_bits((uint32_t)h << 16); }

uint16_t ref_f32_to_bf16(float x) {
    const uint32_t bits = bits_of_float(x);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* ---- Blocks to groups -------------------------------------------------------------------------------- */

static float half_at(const uint8_t *p) {
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return ref_f16_to_f32(h);
}

/* 2^(e - 128), exactly: the values are doubled. */
static float half_power(uint8_t e) {
    if (e == 255) e = 254;
    return float_of_bits(e < 2 ? 0x00200000u << e : (uint32_t)(e - 1) << 23);
}

void ref_scales(float *d, float *dmin, const uint8_t *block, gguf_type type) {
    *dmin = 0;
    switch ((int)type) {
    case GGUF_MXFP4: *d = half_power(block[0]); break;
    case GGUF_Q2_K:
        *d = half_at(block + offsetof(quant_q2_k, d));
        *dmin = half_at(block + offsetof(quant_q2_k, dmin));
        break;
    case GGUF_Q3_K: *d = half_at(block + offsetof(quant_q3_k, d)); break;
    case GGUF_Q6_K: *d = half_at(block + offsetof(quant_q6_k, d)); break;
    default:
        *d = half_at(block);
        if (blocks_form_of(type)->has_min) *dmin = half_at(block + 2);
    }
}

static size_t group_n_of(gguf_type type) { return blocks_form_of(type)->block_n / GROUP; }

/* One block. */
static void unpack(weight_group *g, const uint8_t *w, gguf_type type) {
    const blocks_form *f = blocks_form_of(type);
    uint8_t q[BLOCKS_WEIGHTS_MAX];
    float d, dmin;
    blocks_split(q, w, type);
    ref_scales(&d, &dmin, w, type);
    for (uint32_t i = 0; i < f->block_n; i += 16) {
        const blocks_part part = blocks_part_of(w, type, i / f->part_n);
        g[i / GROUP].scale[i / 16 % 2] = d * (float)part.scale;
        g[i / GROUP].min[i / 16 % 2] = f->has_min ? dmin * (float)part.min : 0;
    }
    for (uint32_t j = 0; j < f->block_n / GROUP; j++)
        for (uint32_t i = 0; i < GROUP; i++)
            g[j].q[i] = f->values ? f->values[q[GROUP * j + i]] : (int8_t)(q[GROUP * j + i] - f->offset);
}

/* ---- Dequantisation ---------------------------------------------------------------------------------- */

static void dequant_blocks(float *x, const uint8_t *w, size_t k, gguf_type type) {
    const size_t group_n = group_n_of(type);
    weight_group g[BLOCK_GROUPS_MAX];
    for (; k > 0; k -= group_n * GROUP, w += blocks_form_of(type)->block_bytes) {
        unpack(g, w, type);
        for (size_t j = 0; j < group_n; j++, x += GROUP) {
            for (int i = 0; i < GROUP; i++) x[i] = g[j].scale[i / 16] * (float)g[j].q[i] - g[j].min[i / 16];
        }
    }
}

#define DEQUANT(type, TYPE)                                                                                  \
    void ref_dequant_##type(float *x, const uint8_t *w, size_t k) { dequant_blocks(x, w, k, GGUF_##TYPE); }
BLOCK_TYPES(DEQUANT)

static void dequant_f32(float *x, const uint8_t *w, size_t k) { memcpy(x, w, k * sizeof *x); }

static void dequant_f16(float *x, const uint8_t *w, size_t k) {
    for (size_t i = 0; i < k; i++) {
        uint16_t h;
        memcpy(&h, w + 2 * i, sizeof h);
        x[i] = ref_f16_to_f32(h);
    }
}

static void dequant_bf16(float *x, const uint8_t *w, size_t k) {
    for (size_t i = 0; i < k; i++) {
        uint16_t h;
        memcpy(&h, w + 2 * i, sizeof h);
        x[i] = ref_bf16_to_f32(h);
    }
}

typedef void dequant_fn(float *x, const uint8_t *w, size_t k);

static dequant_fn *dequant_of(gguf_type type) {
    switch (type) {
    case GGUF_F32: return dequant_f32;
    case GGUF_F16: return dequant_f16;
    case GGUF_BF16: return dequant_bf16;
#define CASE(type, TYPE)                                                                                     \
    case GGUF_##TYPE: return ref_dequant_##type;
        BLOCK_TYPES(CASE)
    default: return NULL;
    }
}

/* ---- Dot products ------------------------------------------------------------------------------------ */

double ref_dot_total(const double part[REF_DOT_PARTS]) {
    return ((part[0] + part[4]) + (part[1] + part[5])) + ((part[2] + part[6]) + (part[3] + part[7]));
}

/* At most REF_DOT_PIECE products. */
static double dot_piece(const float *a, const float *b, size_t n) {
    double part[REF_DOT_PARTS] = {0};
    size_t i = 0;
    for (; i + REF_DOT_PARTS <= n; i += REF_DOT_PARTS) {
        for (size_t j = 0; j < REF_DOT_PARTS; j++) part[j] += (double)a[i + j] * (double)b[i + j];
    }
    for (size_t j = 0; i < n; i++, j++) part[j] += (double)a[i] * (double)b[i];
    return ref_dot_total(part);
}

static double dot_float(const float *a, const float *b, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i += REF_DOT_PIECE)
        sum += dot_piece(a + i, b + i, n - i < REF_DOT_PIECE ? n - i : REF_DOT_PIECE);
    return sum;
}

static int32_t dot_half_group(const int8_t *a, const int8_t *b) {
    int32_t sum = 0;
    for (int i = 0; i < GROUP / 2; i++) sum += a[i] * b[i];
    return sum;
}

double ref_scaled(const float scale[2], const float min[2], const int32_t product[2], const int32_t sum[2]) {
    const double low = (double)scale[0] * product[0], high = (double)scale[1] * product[1];
    return low + high - ((double)min[0] * sum[0] + (double)min[1] * sum[1]);
}

static double dot_group(const weight_group *w, const act_group *x) {
    const int32_t product[2] = {dot_half_group(w->q, x->q),
                                dot_half_group(w->q + GROUP / 2, x->q + GROUP / 2)};
    return (double)x->d * ref_scaled(w->scale, w->min, product, x->sum);
}

/* Rounds to nearest even by adding 1.5 * 2^23: below 2^22 the sum's low bits are the integer. */
static int32_t round_to_int(float x) {
    return (int32_t)(bits_of_float(x + 0x1.8p23f) - bits_of_float(0x1.8p23f));
}

/* One block of activations by the rule of kernels.h. */
static void quantise_block(act_group *a, const float *x, size_t group_n) {
    float max = 0;
    for (size_t i = 0; i < group_n * GROUP; i++) max = fabsf(x[i]) > max ? fabsf(x[i]) : max;
    const float d = max / 127.0f;
    float inverse = 127.0f / max;
    if (!(inverse <= FLT_MAX)) inverse = 0;
    for (size_t j = 0; j < group_n; j++, x += GROUP) {
        a[j].d = d;
        a[j].sum[0] = a[j].sum[1] = 0;
        for (int i = 0; i < GROUP; i++) {
            a[j].q[i] = (int8_t)round_to_int(x[i] * inverse);
            a[j].sum[i / 16] += a[j].q[i];
        }
    }
}

static void f32_to_q8_0(uint8_t *y, const float *x, size_t n) {
    for (size_t i = 0; i < n; i += GROUP, y += sizeof(quant_q8_0)) {
        act_group a;
        quant_q8_0 b;
        quantise_block(&a, x + i, 1);
        b.d = ref_f32_to_f16(a.d);
        memcpy(b.q, a.q, sizeof b.q);
        memcpy(y, &b, sizeof b);
    }
}

static double dot_blocks(const uint8_t *w, const act_group *x, size_t block_n, gguf_type type) {
    const blocks_form *f = blocks_form_of(type);
    weight_group g[BLOCK_GROUPS_MAX];
    double sum = 0;
    for (size_t b = 0; b < block_n; b++, w += f->block_bytes) {
        unpack(g, w, type);
        for (size_t j = 0; j < f->block_n / GROUP; j++) sum += dot_group(&g[j], x++);
    }
    return sum;
}

/* ---- The references ---------------------------------------------------------------------------------- */

void ref_gemv_float(float *y, const uint8_t *w, size_t row_bytes, size_t row_n, const float *x, size_t k,
                    gguf_type type) {
    dequant_fn *dequant = dequant_of(type);
    assert(dequant);
    const size_t block_n = gguf_type_get(type)->block_n, block_bytes = gguf_type_get(type)->block_bytes;
    for (size_t r = 0; r < row_n; r++, w += row_bytes) {
        float piece[REF_DOT_PIECE];
        double sum = 0;
        for (size_t i = 0; i < k;) {
            const size_t n = k - i < COUNT_OF(piece) ? k - i : COUNT_OF(piece);
            dequant(piece, w + i / block_n * block_bytes, n);
            sum += dot_piece(piece, x + i, n);
            i += n;
        }
        y[r] = (float)sum;
    }
}

void ref_gemv_int(float *y, const uint8_t *w, size_t row_bytes, size_t row_n, const float *x, size_t k,
                  gguf_type type) {
    const blocks_form *f = blocks_form_of(type);
    assert(f);
    const size_t block_n = f->block_n;
    for (size_t r = 0; r < row_n; r++, w += row_bytes) {
        act_group a[BLOCK_GROUPS_MAX];
        double sum = 0;
        for (size_t b = 0; b < k / block_n; b++) {
            quantise_block(a, x + b * block_n, block_n / GROUP);
            sum += dot_blocks(w + b * f->block_bytes, a, 1, type);
        }
        y[r] = (float)sum;
    }
}

/* ---- Portable products of quantised types ------------------------------------------------------------
 * Packed activation: act_group[k / 32]. Panel: one after the other. Tile: weight_group[k / 32] per row. */

enum { TILE_ROWS = 16, PANEL_COLS = 16 };

static size_t act_bytes(size_t k) { return k / GROUP * sizeof(act_group); }

static void act_pack(act_group *a, const float *x, size_t k, size_t group_n) {
    for (size_t j = 0; j < k / GROUP; j += group_n) quantise_block(a + j, x + j * GROUP, group_n);
}

static void act_pack_32(void *act, const float *x, size_t k) { act_pack(act, x, k, 1); }
static void act_pack_256(void *act, const float *x, size_t k) { act_pack(act, x, k, 8); }

static size_t panel_bytes(size_t k) { return PANEL_COLS * act_bytes(k); }

static void panel_pack_32(void *panel, const float *x, size_t x_stride, size_t col_n, size_t k) {
    for (size_t c = 0; c < col_n; c++) act_pack((act_group *)panel + c * (k / GROUP), x + c * x_stride, k, 1);
}

static void panel_pack_256(void *panel, const float *x, size_t x_stride, size_t col_n, size_t k) {
    for (size_t c = 0; c < col_n; c++) act_pack((act_group *)panel + c * (k / GROUP), x + c * x_stride, k, 8);
}

static size_t tile_bytes(size_t k) { return TILE_ROWS * (k / GROUP) * sizeof(weight_group); }

static void tile_mul(float *y, size_t y_stride, const void *tile, const void *panel, size_t k) {
    const size_t group_n = k / GROUP;
    for (size_t c = 0; c < PANEL_COLS; c++) {
        for (size_t r = 0; r < TILE_ROWS; r++) {
            const weight_group *w = (const weight_group *)tile + r * group_n;
            const act_group *x = (const act_group *)panel + c * group_n;
            double sum = 0;
            for (size_t j = 0; j < group_n; j++) sum += dot_group(w + j, x + j);
            y[c * y_stride + r] = (float)sum;
        }
    }
}

static void tile_unpack(void *tile, const uint8_t *w, size_t row_bytes, size_t row_n, size_t k,
                        gguf_type type) {
    const blocks_form *f = blocks_form_of(type);
    weight_group *g = tile;
    for (size_t r = 0; r < row_n; r++)
        for (size_t b = 0; b < k / f->block_n; b++, g += f->block_n / GROUP)
            unpack(g, w + r * row_bytes + b * f->block_bytes, type);
}

/* Tiles of restored rows: whole rows of a block at a time. */
static void neuron_tiles(void *tiles, size_t tile_stride, const uint8_t *stored, size_t out_n, size_t from,
                         size_t row_n, size_t k, gguf_type type) {
    const blocks_form *b = blocks_form_of(type);
    neurons_form f;
    bool known = neurons_form_of(type, (uint32_t)out_n, &f);
    assert(known && f.group_n == b->block_n);
    for (size_t r = 0; r < row_n; r += TILE_ROWS) {
        weight_group *tile = (void *)((uint8_t *)tiles + r / TILE_ROWS * tile_stride);
        for (size_t i = 0; i < k / b->block_n; i++) {
            uint8_t rows[TILE_ROWS * BLOCKS_BYTES_MAX];
            const size_t n = row_n - r < TILE_ROWS ? row_n - r : TILE_ROWS;
            neurons_restore(rows, stored + neurons_group_bytes(f, (uint32_t)out_n) * i, b->block_bytes, type,
                            b->block_n, (uint32_t)out_n, (uint32_t)(from + r), (uint32_t)n);
            for (size_t j = 0; j < n; j++)
                unpack(tile + (j * k + i * b->block_n) / GROUP, rows + j * b->block_bytes, type);
        }
    }
}

/* The slots that differ by type. */
#define QUANT_SLOTS(type, TYPE)                                                                              \
    static void gemv_##type(float *y, const uint8_t *w, size_t row_bytes, size_t row_n, const void *act,     \
                            size_t k) {                                                                      \
        const size_t block_n = group_n_of(GGUF_##TYPE) * GROUP;                                              \
        for (size_t r = 0; r < row_n; r++)                                                                   \
            y[r] = (float)dot_blocks(w + r * row_bytes, act, k / block_n, GGUF_##TYPE);                      \
    }                                                                                                        \
    static void tile_unpack_##type(void *tile, const uint8_t *w, size_t row_bytes, size_t row_n, size_t k) { \
        tile_unpack(tile, w, row_bytes, row_n, k, GGUF_##TYPE);                                              \
    }                                                                                                        \
    static void neuron_tiles_##type(void *tiles, size_t tile_stride, const uint8_t *stored, size_t out_n,    \
                                    size_t from, size_t row_n, size_t k) {                                   \
        neuron_tiles(tiles, tile_stride, stored, out_n, from, row_n, k, GGUF_##TYPE);                        \
    }
BLOCK_TYPES(QUANT_SLOTS)

/* ---- Portable products of float types ----------------------------------------------------------------
 * Packed activation: the floats. Panel and tile: rows of floats. */

static size_t float_act_bytes(size_t k) { return k * sizeof(float); }
static void float_act_pack(void *act, const float *x, size_t k) { memcpy(act, x, k * sizeof *x); }
static size_t float_panel_bytes(size_t k) { return PANEL_COLS * k * sizeof(float); }
static size_t float_tile_bytes(size_t k) { return TILE_ROWS * k * sizeof(float); }

static void float_panel_pack(void *panel, const float *x, size_t x_stride, size_t col_n, size_t k) {
    for (size_t c = 0; c < col_n; c++) memcpy((float *)panel + c * k, x + c * x_stride, k * sizeof *x);
}

static void float_tile_mul(float *y, size_t y_stride, const void *tile, const void *panel, size_t k) {
    for (size_t c = 0; c < PANEL_COLS; c++) {
        for (size_t r = 0; r < TILE_ROWS; r++)
            y[c * y_stride + r] =
                (float)dot_float((const float *)tile + r * k, (const float *)panel + c * k, k);
    }
}

#define FLOAT_SLOTS(type, TYPE)                                                                              \
    static void gemv_##type(float *y, const uint8_t *w, size_t row_bytes, size_t row_n, const void *act,     \
                            size_t k) {                                                                      \
        ref_gemv_float(y, w, row_bytes, row_n, act, k, GGUF_##TYPE);                                         \
    }                                                                                                        \
    static void tile_unpack_##type(void *tile, const uint8_t *w, size_t row_bytes, size_t row_n, size_t k) { \
        for (size_t r = 0; r < row_n; r++) dequant_##type((float *)tile + r * k, w + r * row_bytes, k);      \
    }                                                                                                        \
    static void neuron_tiles_##type(void *tiles, size_t tile_stride, const uint8_t *stored, size_t out_n,    \
                                    size_t from, size_t row_n, size_t k) {                                   \
        const size_t bytes = gguf_type_get(GGUF_##TYPE)->block_bytes;                                        \
        for (size_t r = 0; r < row_n; r++) {                                                                 \
            float *row = (float *)(void *)((uint8_t *)tiles + r / TILE_ROWS * tile_stride);                  \
            for (size_t i = 0; i < k; i++)                                                                   \
                dequant_##type(row + r % TILE_ROWS * k + i, stored + (i * out_n + from + r) * bytes, 1);     \
        }                                                                                                    \
    }
FLOAT_SLOTS(f32, F32)
FLOAT_SLOTS(f16, F16)
FLOAT_SLOTS(bf16, BF16)

#define QUANT_MATMUL(type, TYPE)                                                                             \
    k->matmul[GGUF_##TYPE] =                                                                                 \
        (cpu_matmul){.act_bytes = act_bytes,                                                                 \
                     .act_pack = group_n_of(GGUF_##TYPE) == 1 ? act_pack_32 : act_pack_256,                  \
                     .gemv = gemv_##type,                                                                    \
                     .tile_rows = TILE_ROWS,                                                                 \
                     .panel_cols = PANEL_COLS,                                                               \
                     .panel_bytes = panel_bytes,                                                             \
                     .panel_pack = group_n_of(GGUF_##TYPE) == 1 ? panel_pack_32 : panel_pack_256,            \
                     .tile_bytes = tile_bytes,                                                               \
                     .tile_unpack = tile_unpack_##type,                                                      \
                     .tile_mul = tile_mul,                                                                   \
                     .neuron_tiles = neuron_tiles_##type};
#define FLOAT_MATMUL(type)                                                                                   \
    (cpu_matmul) {                                                                                           \
        .act_bytes = float_act_bytes, .act_pack = float_act_pack, .gemv = gemv_##type,                       \
        .tile_rows = TILE_ROWS, .panel_cols = PANEL_COLS, .panel_bytes = float_panel_bytes,                  \
        .panel_pack = float_panel_pack, .tile_bytes = float_tile_bytes, .tile_unpack = tile_unpack_##type,   \
        .tile_mul = float_tile_mul, .neuron_tiles = neuron_tiles_##type                                      \
    }

void ref_products_init(cpu_kernels *k) {
    for (int type = 0; type < GGUF_TYPE_MAX; type++) k->dequant[type] = dequant_of((gguf_type)type);
    k->matmul[GGUF_F32] = FLOAT_MATMUL(f32);
    k->matmul[GGUF_F16] = FLOAT_MATMUL(f16);
    k->matmul[GGUF_BF16] = FLOAT_MATMUL(bf16);
    BLOCK_TYPES(QUANT_MATMUL)
    k->f32_to_q8_0 = f32_to_q8_0;
}
