/* kernels.h - the table of CPU kernels: filled with portable C, then overwritten by what an instruction set
 * has.
 *
 * Weight matrices stand as in GGUF: row-major, `row_bytes` apart, any alignment, and nothing may be read
 * outside the rows named. k is the row length in weights, always a multiple of the type's block (1 for
 * floats, 256 for K-quants and IQ4_XS, 32 for the other types).
 *
 * Activations. Quantised products take 8-bit activations. The rule is the same in every implementation and
 * for decode and prefill, so that all of them agree: per block of as many consecutive values as the type's
 * has, a = max|x|, d = a / 127, q = round-to-nearest-even(x * (127 / a)) in float (all q = 0 where a = 0 or
 * 127 / a overflows); non-finite values are the caller's bug. Float weights (F32, F16, BF16) take float
 * activations unchanged. Each implementation may pack these numbers as it likes ("packed activation",
 * "panel"). The exception are tiles of BF16, which round less (cpu_wide).
 */
#ifndef HOTSET_CPU_KERNELS_H
#define HOTSET_CPU_KERNELS_H

#include "profiles/gguf.h"

/* Alignment of every packed activation, panel and tile that callers provide. Float vectors have no alignment.
 */
enum { CPU_ALIGN = 64 };
/* Rows of weights that one call to `gemv` gets at most, so that callers can keep results on the stack. */
enum { CPU_GEMV_ROWS_MAX = 64 };
/* Rows that `dots` takes. Scattered ones come faster from memory the more of them are read, and asked for,
 * side by side: eight at 0.8 of a stream's speed where four come at 0.7 and single ones at 0.3 (8 KB each, 60
 * GB/s). Sums of more would not fit in 32 registers. */
enum { CPU_DOTS = 8 };
/* Rows of a matrix stored by neuron that are unpacked together are a multiple of this one: whole runs of
 * block types, whole tiles. */
enum { CPU_NEURON_ROWS = 32 };

/* Many activation rows where the processor multiplies tiles of pairs of BF16 (CPU_ISA_AMX): a tile
 * of weights (below) is widened to numbers of 16 bits, and meets panels of such numbers.
 *
 * Block types: weights, dequantised, and activations are both rounded to the nearest BF16, by 2^-8 of
 * themselves at most; on average that is 0.0016 of each, where 8-bit activations are off by 0.005 (blocks of
 * 32) to 0.007 (of 256) of their mean size. Floats: an activation is the sum of two in BF16, the second one
 * the rest of the first, rounded; so is a weight, but BF16 itself. Of their products that of two rests is
 * left out: a product is off by 3 * 2^-16 of itself at most.
 *
 * k is a multiple of CPU_WIDE_RUN here, or what is left of a row behind such a multiple. */
typedef struct cpu_wide {
    size_t (*tile_bytes)(size_t k);
    size_t (*panel_bytes)(size_t k); /* panels of a row's parts, one behind the other, are that of the row */
    /* Packs col_n <= CPU_WIDE_COLS activation rows, x_stride floats apart. */
    void (*panel_pack)(void *panel, const float *x, size_t x_stride, size_t col_n, size_t k);
    /* y[c * y_stride + r] = W[r] . x[c], or += where `add`, for CPU_WIDE_ROWS rows and as many columns as the
     * panel was packed with, col_n. Each is summed alone, in the order of k. */
    void (*tile_mul)(float *y, size_t y_stride, const void *tile, const void *panel, size_t col_n, size_t k,
                     bool add);
} cpu_wide;
enum {
    CPU_WIDE_ROWS = 32, /* the tile_rows of types that have it */
    CPU_WIDE_COLS = 32,
    CPU_WIDE_RUN = 2048 /* weights of a row */
};

/* Products of one weight type. */
typedef struct cpu_matmul {
    /* -- one activation row (decode) -- */
    size_t (*act_bytes)(size_t k);
    void (*act_pack)(void *act, const float *x, size_t k);
    /* y[i] = W[i] . x for i < row_n; each row is summed in the same order, whatever row_n is */
    void (*gemv)(float *y, const uint8_t *w, size_t row_bytes, size_t row_n, const void *act, size_t k);
    /* y[i] = row[i] . x of CPU_DOTS rows that may stand anywhere, bit for bit as gemv has them, while memory
     * is asked for the rows at `next`, which may be any addresses. NULL: cpu_dots does it by gemv.
     */
    void (*dots)(float *y, const uint8_t *const *row, const uint8_t *const *next, const void *act, size_t k);

    /* -- many activation rows (prefill): tile_rows weight rows times panel_cols activation rows -- */
    size_t tile_rows, panel_cols; /* fixed per implementation, at most 64 and 64 */
    size_t (*panel_bytes)(size_t k);
    /* Packs col_n <= panel_cols activation rows, x_stride floats apart. */
    void (*panel_pack)(void *panel, const float *x, size_t x_stride, size_t col_n, size_t k);
    size_t (*tile_bytes)(size_t k);
    /* Unpacks row_n <= tile_rows weight rows into a form fit for tile_mul. */
    void (*tile_unpack)(void *tile, const uint8_t *w, size_t row_bytes, size_t row_n, size_t k);
    /* y[c * y_stride + r] = W[r] . x[c] for the rows and columns that the tile and the panel were packed
     * with. What else of the rectangle r < tile_rows, c < panel_cols is written is unspecified: y must have
     * room for all of it. */
    void (*tile_mul)(float *y, size_t y_stride, const void *tile, const void *panel, size_t k);
    /* Unpacks rows [from, from + row_n) of a matrix of out_n rows that is stored by neuron
     * (devices/neurons.h): one tile of tile_rows after the other, tile_stride bytes apart, each fit for the
     * same products, bit for bit, as one that tile_unpack makes of the restored rows. from and row_n are
     * multiples of CPU_NEURON_ROWS, but a float matrix may end anywhere. */
    void (*neuron_tiles)(void *tiles, size_t tile_stride, const uint8_t *stored, size_t out_n, size_t from,
                         size_t row_n, size_t k);
    const cpu_wide *wide; /* NULL: none */
    /* Makes of a tile of k weights a row the one that `wide` multiplies. */
    void (*tile_widen)(void *to, const void *tile, size_t k);
} cpu_matmul;

/* Sets the slots of one activation row. */
static inline void
cpu_set_gemv(cpu_matmul *m, size_t (*act_bytes)(size_t), void (*act_pack)(void *, const float *, size_t),
             void (*gemv)(float *, const uint8_t *, size_t, size_t, const void *, size_t)) {
    m->act_bytes = act_bytes;
    m->act_pack = act_pack;
    m->gemv = gemv;
    m->dots = NULL;
}

/* Sets the slots of many activation rows, keeping those of one. */
static inline void cpu_set_tiles(cpu_matmul *m, cpu_matmul tiles) {
    tiles.act_bytes = m->act_bytes;
    tiles.act_pack = m->act_pack;
    tiles.gemv = m->gemv;
    tiles.dots = m->dots;
    *m = tiles;
}

/* CPU_DOTS rows times an activation row, while others are brought near. */
static inline void cpu_dots(const cpu_matmul *m, float *y, const uint8_t *const *row,
                            const uint8_t *const *next, size_t row_bytes, const void *act, size_t k) {
    if (m->dots) {
        m->dots(y, row, next, act, k);
        return;
    }
    for (size_t i = 0; i < CPU_DOTS; i++) {
        for (size_t at = i * CPU_ALIGN; at < row_bytes; at += CPU_DOTS * CPU_ALIGN)
            for (size_t n = 0; n < CPU_DOTS; n++)
                __builtin_prefetch((const void *)((uintptr_t)next[n] + at), 0, 2);
        m->gemv(y + i, row[i], row_bytes, 1, act, k);
    }
}

/* The same of the first `n` rows of a list of `left`: y of the first min(n, CPU_DOTS), the rest of y is
 * unspecified. */
static inline void cpu_listed_dots(const cpu_matmul *m, float *y, const uint8_t *w, size_t row_bytes,
                                   const uint32_t *list, size_t n, size_t left, const void *act, size_t k) {
    const uint8_t *row[CPU_DOTS], *next[CPU_DOTS];
    for (size_t i = 0; i < CPU_DOTS; i++) {
        row[i] = w + row_bytes * list[i < n ? i : 0];
        next[i] = w + row_bytes * list[CPU_DOTS + i < left ? CPU_DOTS + i : 0];
    }
    cpu_dots(m, y, row, next, row_bytes, act, k);
}

/* Streaming softmax over one run of state rows, for the query heads that share one key/value head, of one
 * token or of several tokens in a row. A token's result does not depend on those that are computed with it,
 * as long as the state is finite.
 *
 * F32 and F16 are multiplied as floats. Where the processor multiplies pairs of BF16 faster
 * (cpu_multiplies_bf16), or tiles of them (CPU_ISA_AMX), numbers of 8 significant bits are: a state
 * in BF16, and by pairs, where the caller allows it and the group has at least CPU_ATTEND_ROUNDED heads, rows
 * in F16, of which those numbers are the nearest ones, 0 below 2^-14. Queries times scale and weights p are
 * then rounded to the nearest even one. That is a step finer than those of activations. Sums are floats.
 *
 * Rows in Q8_0 are multiplied as the bytes they are, by a rule that is again the same in every
 * implementation. A query is an activation: per block of 32 elements 8-bit numbers q with their d, as above;
 * a score is the sum over blocks of d d_k sum(q k). The other factors of values are the weights p_i = exp(s_i
 * - max) with the scales of the values' blocks: per block of 32 elements, w_i = p_i d_v,i; per group of
 * CPU_ATTEND_GROUP positions, counted from the run's first one, seen or not (p_i = 0; the last group may be
 * shorter), a = max w, q = round-to-nearest-even(w * (255 / a)) in float (all q = 0 where a = 0 or 255 / a
 * overflows), and the group gives a / 255 sum(q v). No weight is negative, so that all eight bits are theirs:
 * a step is half of an activation's.
 *
 * A grouped state stands in memory as it is multiplied, so that nothing has to be reordered. Of keys a group
 * is that of CPU_ATTEND_GROUP positions, in F16 [key_n][group], in BF16 [key_n / 2][group][2]. Values in F16
 * are rows, in BF16 pairs of rows: [value_n][2]. In Q8_0 groups are blocks, one after the other, each with
 * the scales [group] first; the numbers of keys, plus 128, are [32 / quad][group][quad] with CPU_ATTEND_QUAD,
 * those of values [group / quad][32][quad]. key_n and value_n are multiples of CPU_ATTEND_UNIT, row_n need
 * not be one of groups, pairs or quads: what stands behind it is without effect, but its memory may be read.
 */
enum {
    CPU_ATTEND_GROUP = 32,    /* positions */
    CPU_ATTEND_UNIT = 16,     /* elements */
    CPU_ATTEND_QUAD = 4,      /* elements of a key, or positions of values */
    CPU_ATTEND_ROUNDED = 3,   /* heads: for fewer, reordering keys takes longer than it saves */
    CPU_ATTEND_ROWS_MAX = 256 /* of a run */
};
typedef struct cpu_attend_args {
    const float *q;      /* of token t at q + t * query_stride: [head_n][key_n], already rotated */
    size_t query_n;      /* tokens, > 0 */
    size_t query_stride; /* in floats */
    size_t seen_n;       /* > 0: token t sees no row from min(row_n, seen_n + t) on, */
    size_t window_n;     /* and where this is not 0, no row before seen_n + t - window_n; but one at least */
    size_t head_n;       /* query heads of the group */
    size_t key_n, value_n;
    const void *key;   /* row i at key + i * key_stride bytes, key_n elements of `state` */
    const void *value; /* row i at value + i * value_stride bytes, value_n elements */
    size_t key_stride, value_stride;
    const void *ahead; /* keys that the caller is likely to pass next, to be brought near; NULL: unknown */
    size_t row_n;      /* state rows, > 0 */
    gguf_type state;   /* rows in F16, F32, or Q8_0, with key_n and value_n multiples of 32, d >= 0; */
    bool grouped;      /* or F16, BF16 or Q8_0 in groups; strides are those of rows as long */
    bool rounded;      /* whether rows in F16 may be rounded */
    float scale;       /* of q . k */
    float softcap;     /* 0: none; else s = softcap * tanh(s / softcap) */
    float *scores;     /* scratch [head_n][row_n] of the reference; unused for Q8_0 */
    float *out;        /* [query_n][head_n][value_n]: sum_i exp(s_i - max) v_i, not divided */
    float *max, *sum;  /* [query_n][head_n]: max_i s_i and sum_i exp(s_i - max) */
} cpu_attend_args;

/* Token t sees the rows [cpu_attend_hidden, cpu_attend_seen). */
static inline size_t cpu_attend_seen(const cpu_attend_args *a, size_t t) {
    return a->seen_n + t < a->row_n ? a->seen_n + t : a->row_n;
}
static inline size_t cpu_attend_hidden(const cpu_attend_args *a, size_t t) {
    return a->window_n && a->seen_n + t > a->window_n ? a->seen_n + t - a->window_n : 0;
}

/* Query i, which are numbered token by token: head h of token t is t * head_n + h. */
static inline const float *cpu_attend_query(const cpu_attend_args *a, size_t i) {
    return a->q + i / a->head_n * a->query_stride + i % a->head_n * a->key_n;
}

/* attend() by what can do one token. */
static inline void cpu_attend_each(const cpu_attend_args *args, void (*one)(const cpu_attend_args *)) {
    for (size_t t = 0; t < args->query_n; t++) {
        cpu_attend_args a = *args;
        a.query_n = 1;
        a.row_n = cpu_attend_seen(args, t);
        a.seen_n += t;
        a.q += t * a.query_stride;
        a.out += t * a.head_n * a.value_n;
        a.max += t * a.head_n;
        a.sum += t * a.head_n;
        if (t) a.ahead = NULL;
        one(&a);
    }
}

typedef enum cpu_activation {
    CPU_ACT_SILU,
    CPU_ACT_GELU,
    CPU_ACT_GELU_TANH,
    CPU_ACT_RELU,
    CPU_ACT_RELU2,
    CPU_ACT_DRELU,
    CPU_ACT_SWIGLU_OAI,
    CPU_ACT_COUNT
} cpu_activation;

/* The active neurons of one vector, for sums over a matrix stored by neuron (devices/neurons.h). Block types
 * meet 8-bit activations by the rule above, made of the vector with zeros for the neurons that are not
 * listed: so the sum is what gemv gives for the whole vector, up to the order of additions. */
typedef struct cpu_active {
    size_t n;
    const uint32_t *neuron; /* [n] rising */
    const float *x;         /* [n] activations (float types, and blocks by row) */
    const int8_t *q;        /* [n] activations in units of their block's d (block types) */
    const float *d;         /* by block of neurons (block types) */
} cpu_active;

/* Outputs of one call of neuron_sum or row_sum at most; block types take them in multiples of 32. Long runs
 * of a neuron come faster from memory than short ones; block types, which ask for theirs in the order of
 * their work, are as fast in shorter ones. */
enum { CPU_NEURON_OUTPUTS_MAX = 4096, CPU_NEURON_BLOCK_OUTPUTS = 1024 };

/* Outputs that a call should take at most. */
static inline size_t cpu_neuron_outputs(gguf_type type) {
    return gguf_type_get(type)->block_n == 1 ? CPU_NEURON_OUTPUTS_MAX : CPU_NEURON_BLOCK_OUTPUTS;
}

typedef struct cpu_kernels {
    const char *isa; /* scalar, avx2, avxvnni, avx512, amx */
    /* Set before an instruction set fills the table: kernels that read a stream ask memory for what comes,
     * because the processor's hardware does not look beyond the end of a page. */
    bool ask_ahead;
    /* Products by gguf_type; act_bytes is NULL for a type that has none. */
    cpu_matmul matmul[GGUF_TYPE_MAX];
    /* The same of rows interleaved (devices/lanes.h), where that is faster: `gemv` and `tile_unpack` take
     * whole groups of LANES_ROWS rows, tiles and panels are those of `matmul`, and there is no neuron_tiles.
     */
    cpu_matmul lanes[GGUF_TYPE_MAX];
    /* One row of weights to floats, by gguf_type; NULL for a type that has none. */
    void (*dequant[GGUF_TYPE_MAX])(float *x, const uint8_t *w, size_t k);
    /* y[o - from] = sum over the active neurons i of x_i w_i[o], for o in [from, from + n); `w` is a matrix
     * of out_n outputs by neuron. Each output is summed alone, in the order of neurons: how outputs are cut
     * into calls changes no bit. NULL for a type that has none. */
    void (*neuron_sum[GGUF_TYPE_MAX])(float *y, const uint8_t *w, size_t out_n, size_t from, size_t n,
                                      const cpu_active *active);
    /* neurons_store of devices/neurons.h, which moves bytes while a model is loaded. */
    void (*neuron_store)(uint8_t *to, const uint8_t *rows, uint64_t row_bytes, gguf_type type, uint32_t in_n,
                         uint32_t out_n, uint32_t from, uint32_t n);
    /* Sums over active neurons, as neuron_sum, for block types by row: row i at w + i * row_bytes holds
     * neuron i's weights for all outputs, and meets the float x. `from` and n are multiples of the type's
     * block. */
    void (*row_sum[GGUF_TYPE_MAX])(float *y, const uint8_t *w, size_t row_bytes, size_t from, size_t n,
                                   const cpu_active *active);
    /* Outputs [from, from + n) of the k neurons of such a matrix, dequantised, as the tile that tile_unpack
     * of F32 would make of them. `from` is a multiple of its tile_rows, n at most that. */
    void (*row_tile[GGUF_TYPE_MAX])(void *tile, const uint8_t *w, size_t row_bytes, size_t from, size_t n,
                                    size_t k);
    /* y = x / sqrt(mean(x^2) + eps) * w; w may be NULL (all ones); y may be x. (RMSNorm, Zhang & Sennrich
     * 2019) */
    void (*rmsnorm)(float *y, const float *x, const float *w, size_t n, float eps);
    /* y = (x - mean) / sqrt(var + eps) * w + b; w may be NULL (all ones), and so may b (all zeros); y may be
     * x. (LayerNorm, Ba et al. 2016) */
    void (*layernorm)(float *y, const float *x, const float *w, const float *b, size_t n, float eps);
    void (*attend)(const cpu_attend_args *args);
    bool attend_groups; /* which takes a grouped state in F16 or Q8_0 */
    bool attend_bf16;   /* which takes one in BF16 */
    bool attend_rounds; /* which rounds rows in F16 where it may */
    /* h = act(gate) * up, or act(gate) when up is NULL; h may be gate or up. DRELU and SWIGLU_OAI:
     * see devices/device.h. */
    void (*activate)(float *h, const float *gate, const float *up, size_t n, cpu_activation kind);
    /* Writes the numbers of those of x[0, n) that are above `bound`, rising, to where[0, n), of which the
     * rest is unspecified then; returns how many they are. */
    size_t (*where_above)(uint32_t *where, const float *x, size_t n, float bound);
    /* y += a * x */
    void (*axpy)(float *y, const float *x, float a, size_t n);
    /* y = a * y + b * x */
    void (*blend)(float *y, const float *x, float a, float b, size_t n);
    /* Rotates n_pairs pairs in place: (x0, x1) -> (x0 c - x1 s, x0 s + x1 c) with (cos, sin)[i] at cs[2i],
     * cs[2i + 1]. adjacent: pair i is (x[2i], x[2i + 1]); else (x[i], x[i + n_pairs]). (RoPE, Su et al. 2021)
     */
    void (*rope)(float *x, const float *cs, size_t pair_n, bool adjacent);
    void (*f32_to_f16)(uint16_t *y, const float *x, size_t n); /* round to nearest even */
    void (*f32_to_bf16)(uint16_t *y, const float *x, size_t n);
    /* Rows of the state in Q8_0, n a multiple of 32: the rule of activations above, with d stored as F16. All
     * implementations give the same bytes. */
    void (*f32_to_q8_0)(uint8_t *y, const float *x, size_t n);

    /* What the machine can do at best, for limits and benchmarks. */
    uint64_t (*read_sum)(const void *p, size_t bytes); /* fastest plain read; result keeps the loads alive. p
                                                          is 64-byte aligned, bytes a multiple of 4096 */
    double (*peak_int8)(size_t iterations,
                        float *sink); /* runs 8-bit multiply-adds from registers; operations done */
    double (*peak_f32)(size_t iterations, float *sink);  /* the same with float FMAs */
    double (*peak_bf16)(size_t iterations, float *sink); /* and with tiles of pairs of BF16; NULL: none */
} cpu_kernels;

/* The references, each filling every slot it can (portable) or overwriting what it does better. The fast ones
 * must be called only where the CPU has the instructions. */
void cpu_kernels_ref(cpu_kernels *k);
void cpu_kernels_avx2(cpu_kernels *k);        /* AVX2, FMA, F16C */
void cpu_kernels_avxvnni(cpu_kernels *k);     /* AVX-VNNI; call avx2 first */
void cpu_kernels_avx512(cpu_kernels *k);      /* AVX-512 F, BW, VL, DQ, VNNI, VBMI; GFNI; call avx2 first */
void cpu_kernels_avx512_bf16(cpu_kernels *k); /* AVX512_BF16; call avx512 first */
void cpu_kernels_amx(cpu_kernels *k);         /* AVX512_BF16, AMX-TILE, AMX-BF16; call avx512 first */

/* Instruction sets, the better ones last. Each includes those before it, but AVX-512 need not come with
 * AVX-VNNI. AMX's are tiles of pairs of BF16, on top of AVX-512. */
typedef enum cpu_isa {
    CPU_ISA_SCALAR,
    CPU_ISA_AVX2,
    CPU_ISA_AVXVNNI,
    CPU_ISA_AVX512,
    CPU_ISA_AMX,
    CPU_ISA_COUNT
} cpu_isa;
/* Whether this processor and operating system have it (CPUID, XCR0), and this build. The system is asked for
 * permission to use AMX. */
bool cpu_isa_here(cpu_isa isa);
/* The best one of them. */
cpu_isa cpu_isa_detect(void);
/* Whether the processor, where it has AVX-512 as above, multiplies pairs of BF16 faster than floats: Intel's
 * (Emerald Rapids) take four times as long for a pair as for a float. */
bool cpu_multiplies_bf16(void);
/* Whether its kernels should ask memory ahead: those of Intel stop at the ends of pages. */
bool cpu_stops_at_pages(void);
const char *cpu_isa_name(cpu_isa isa);
bool cpu_isa_by_name(const char *name, cpu_isa *out);
/* Fills the table for an instruction set, which must be here. */
void cpu_kernels_init(cpu_kernels *k, cpu_isa isa);

/* ---- The float specification (ref.c): what every product means, in double ---- */

/* Float reference of a product: W[i] . x with dequantised weights, accumulated in double. */
void ref_gemv_float(float *y, const uint8_t *w, size_t row_bytes, size_t row_n, const float *x, size_t k,
                    gguf_type type);
/* Integer twin: the same over the 8-bit activations of the rule above (quantised types only), block sums in
 * integers, accumulated in double. Fast kernels must equal it within 1e-5 of sum |w x|. */
void ref_gemv_int(float *y, const uint8_t *w, size_t row_bytes, size_t row_n, const float *x, size_t k,
                  gguf_type type);

/* IEEE binary16 and bfloat16 in plain C. */
float ref_f16_to_f32(uint16_t h);
uint16_t ref_f32_to_f16(float x); /* round to nearest even, overflow to infinity, NaN kept */
float ref_bf16_to_f32(uint16_t h);
uint16_t ref_f32_to_bf16(float x); /* round to nearest even */

#endif
