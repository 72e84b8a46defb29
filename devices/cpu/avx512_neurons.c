/* avx512_neurons.c - sums over active neurons with 512-bit registers: avx2_neurons.c says how they go.
 *
 * What decides is memory: rows of active neurons are streams too short for the hardware prefetcher, so every
 * line, those of the scales too, is asked for some neurons before it is needed. Block types take a line of
 * each neuron at a time: 64 outputs of Q8_0, 128 of the nibbles. Their sums of four neurons come out in an
 * order of their own, a quarter of a register for each four outputs, and are put in order as floats.
 */
#include "devices/cpu/avx512.h"
#include "devices/neurons.h"

/* ---- Float types ----------------------------------------------------------------------------------------
 */

enum { LOT = 8 /* neurons per pass over the sums */, STEP = 32 /* outputs */ };

/* y[0, n) += x_j w_j over `lot` (a constant) neurons; `next`: those of the pass that follows. */
INLINE void add_lot(float *y, const uint8_t *const *w, const uint8_t *const *next, const float *x, size_t n,
                    const size_t lot, const gguf_type type) {
    const size_t bytes = float_bytes(type);
    __m512 factor[LOT];
    UNROLL for (size_t j = 0; j < lot; j++) factor[j] = _mm512_set1_ps(x[j]);
    for (size_t o = 0; o < n; o += STEP) {
        const __mmask16 low = lanes_left(n - o), high = n - o > 16 ? lanes_left(n - o - 16) : 0;
        __m512 sum[2] = {_mm512_maskz_loadu_ps(low, y + o), _mm512_maskz_loadu_ps(high, y + o + 16)};
        UNROLL for (size_t j = 0; j < lot; j++) {
            UNROLL for (size_t line = 0; line < STEP * bytes; line += LINE)
                prefetch(next[j], o * bytes + line);
            const uint8_t *p = w[j] + o * bytes;
            sum[0] = _mm512_fmadd_ps(load_float(type, p, low), factor[j], sum[0]);
            sum[1] = _mm512_fmadd_ps(load_float(type, p + 16 * bytes, high), factor[j], sum[1]);
        }
        _mm512_mask_storeu_ps(y + o, low, sum[0]);
        _mm512_mask_storeu_ps(y + o + 16, high, sum[1]);
    }
}

INLINE void sum_floats(float *y, const uint8_t *w, size_t out_n, size_t from, size_t n, const cpu_active *a,
                       const gguf_type type) {
    const size_t row_bytes = out_n * float_bytes(type);
    const uint8_t *row[LOT], *next[LOT];
    memset(y, 0, n * sizeof *y);
    w += from * float_bytes(type);
    size_t i = 0;
    for (; i + LOT <= a->n; i += LOT) {
        for (size_t j = 0; j < LOT; j++) {
            const size_t ahead = i + LOT + j < a->n ? i + LOT + j : a->n - 1;
            row[j] = w + row_bytes * a->neuron[i + j];
            next[j] = w + row_bytes * a->neuron[ahead];
        }
        add_lot(y, row, next, a->x + i, n, LOT, type);
    }
    for (; i < a->n; i++) {
        row[0] = w + row_bytes * a->neuron[i];
        add_lot(y, row, row, a->x + i, n, 1, type);
    }
}

/* ---- Block types: neurons under one scale ---------------------------------------------------------------
 */

enum { PART_MAX = 32, PARTS_AHEAD = 2, RING = PARTS_AHEAD + 1 };

/* Active neurons of one part, padded to fours with an activation of zero. */
typedef struct part {
    const uint8_t *neuron[PART_MAX], *planes;
    int32_t q[PART_MAX / 4]; /* four activations each */
    size_t four_n, number;   /* number: of the part in its group */
    float d;
    int32_t sum;         /* of the activations */
    bool first_of_group; /* of those with active neurons */
} part;

/* What tells the block types apart. */
typedef struct block_form {
    gguf_type type;
    size_t group_n, part_n, run_bytes, header_bytes;
    int offset;   /* of the quants as bytes */
    size_t width; /* outputs whose quants fill a line of a neuron */
} block_form;

/* The neurons of the list from i on that belong to one part; returns where the next begins. */
INLINE size_t take_part(part *p, const cpu_active *a, size_t i, const uint8_t *w, size_t out_n,
                        const block_form f) {
    const size_t row_bytes = f.run_bytes * (out_n / NEURONS_RUN), g = a->neuron[i] / f.group_n;
    const size_t number = a->neuron[i] / f.part_n;
    const uint8_t *group = w + (f.group_n * row_bytes + f.header_bytes * out_n) * g;
    int8_t q[PART_MAX];
    size_t n = 0;
    p->planes = group + f.group_n * row_bytes;
    p->number = number % (f.group_n / f.part_n);
    p->first_of_group = i == 0 || a->neuron[i - 1] / f.group_n != g;
    p->d = a->d[g];
    p->sum = 0;
    for (; i < a->n && a->neuron[i] / f.part_n == number; i++, n++) {
        p->neuron[n] = group + row_bytes * (a->neuron[i] % f.group_n);
        q[n] = a->q[i];
        p->sum += q[n];
    }
    p->four_n = (n + 3) / 4;
    for (; n < 4 * p->four_n; n++) q[n] = 0, p->neuron[n] = p->neuron[0];
    memcpy(p->q, q, n);
    return i;
}

INLINE void prefetch_run(const uint8_t *p, size_t bytes) {
    for (size_t line = 0; line < bytes; line += LINE) prefetch(p, line);
}

/* Asks for what a part will need at outputs [from, from + n): share `step` of `step_n`, so that the requests
 * are spread over the work on the part before. Each neuron's lines are asked for one after the other:
 * memory gives neighbours several times faster than lines from all over. */
INLINE void prefetch_part(const part *p, size_t step, size_t step_n, size_t from, size_t n, size_t out_n,
                          const block_form f) {
    const size_t neuron_n = 4 * p->four_n, shift = f.type == GGUF_Q8_0 ? 0 : 1;
    for (size_t i = neuron_n * step / step_n; i < neuron_n * (step + 1) / step_n; i++) {
        prefetch_run(p->neuron[i] + (from >> shift), n >> shift);
        if (f.type == GGUF_Q6_K) prefetch_run(p->neuron[i] + out_n / 2 + from / 4, n / 4);
    }
    if (step > 0) return;
    if (f.type == GGUF_Q6_K) prefetch_run(p->planes + p->number * out_n + from, n);
    if (f.type == GGUF_Q4_K) {
        prefetch_run(p->planes + (4 + p->number) * out_n + from, n);
        prefetch_run(p->planes + (8 + p->number) * out_n + from, n);
    }
    if (!p->first_of_group) return;
    prefetch_run(p->planes + (f.type == GGUF_Q6_K ? 16 * out_n : 0) + 2 * from, 2 * n);
    if (f.type == GGUF_Q4_K) prefetch_run(p->planes + 2 * out_n + 2 * from, 2 * n);
}

/* ---- Block types: integer sums ---------------------------------------------------------------------------
 */

/* Bytes of four neurons side by side: w[j] gets, in quarter c, those of outputs 16c + 4j to 16c + 4j + 3. */
INLINE void interleave_four(__m512i w[4]) {
    const __m512i low_01 = _mm512_unpacklo_epi8(w[0], w[1]), high_01 = _mm512_unpackhi_epi8(w[0], w[1]);
    const __m512i low_23 = _mm512_unpacklo_epi8(w[2], w[3]), high_23 = _mm512_unpackhi_epi8(w[2], w[3]);
    w[0] = _mm512_unpacklo_epi16(low_01, low_23);
    w[1] = _mm512_unpackhi_epi16(low_01, low_23);
    w[2] = _mm512_unpacklo_epi16(high_01, high_23);
    w[3] = _mm512_unpackhi_epi16(high_01, high_23);
}

INLINE void add_products(__m512i sum[4], const __m512i w[4], __m512i q) {
    UNROLL for (size_t j = 0; j < 4; j++) sum[j] = _mm512_dpbusd_epi32(sum[j], w[j], q);
}

/* The upper bits of 4 runs of a neuron, at bits 4 and 5 of each byte: of outputs 0-15 of the runs, or of the
 * others. */
INLINE __m512i upper_bits(__m512i bits, const int half) {
    const __m512i shift = _mm512_broadcast_i32x4(_mm_set_epi64x(4 * half + 2, 4 * half));
    return _mm512_slli_epi16(_mm512_and_si512(_mm512_srlv_epi64(bits, shift), _mm512_set1_epi8(3)), 4);
}

/* Adds four neurons' products at outputs [o, o + width), of which `runs` are there. sum[0-3]: outputs 0-15 of
 * each run (Q8_0: in order), sum[4-7]: 16-31. */
INLINE void add_four(__m512i sum[8], const uint8_t *const *neuron, __m512i q, size_t o, size_t runs,
                     size_t out_n, const block_form f) {
    const size_t run_bytes = f.type == GGUF_Q8_0 ? 32 : 16, bytes = run_bytes * runs;
    const __mmask64 there = bytes < 64 ? ((__mmask64)1 << bytes) - 1 : ~(__mmask64)0;
    __m512i w[4], high[4];
    UNROLL for (size_t i = 0; i < 4; i++) {
        w[i] = _mm512_maskz_loadu_epi8(there, neuron[i] + o / NEURONS_RUN * run_bytes);
        if (f.type == GGUF_Q8_0) w[i] = _mm512_xor_si512(w[i], _mm512_set1_epi8((char)0x80));
        if (f.type != GGUF_Q6_K) continue;
        const __m512i twice = _mm512_set_epi64(3, 3, 2, 2, 1, 1, 0, 0);
        const __mmask64 pairs = ((__mmask64)1 << 8 * runs) - 1;
        const __m512i bits =
            _mm512_permutexvar_epi64(twice, _mm512_maskz_loadu_epi8(pairs, neuron[i] + out_n / 2 + o / 4));
        high[i] = _mm512_or_si512(high_nibbles(w[i]), upper_bits(bits, 1));
        w[i] = _mm512_or_si512(low_nibbles(w[i]), upper_bits(bits, 0));
    }
    interleave_four(w);
    if (f.type == GGUF_Q4_0 || f.type == GGUF_Q4_K) {
        UNROLL for (size_t j = 0; j < 4; j++) {
            high[j] = high_nibbles(w[j]);
            w[j] = low_nibbles(w[j]);
        }
    }
    if (f.type == GGUF_Q6_K) interleave_four(high);
    add_products(sum, w, q);
    if (f.type != GGUF_Q8_0) add_products(sum + 4, high, q);
}

/* Quarter c of s[j] becomes quarter j of s[c]. */
INLINE void exchange_quarters(__m512 s[4]) {
    const __m512 a = _mm512_shuffle_f32x4(s[0], s[1], 0x44), b = _mm512_shuffle_f32x4(s[0], s[1], 0xee);
    const __m512 c = _mm512_shuffle_f32x4(s[2], s[3], 0x44), d = _mm512_shuffle_f32x4(s[2], s[3], 0xee);
    s[0] = _mm512_shuffle_f32x4(a, c, 0x88);
    s[1] = _mm512_shuffle_f32x4(a, c, 0xdd);
    s[2] = _mm512_shuffle_f32x4(b, d, 0x88);
    s[3] = _mm512_shuffle_f32x4(b, d, 0xdd);
}

/* ---- Block types: scales ---------------------------------------------------------------------------------
 */

INLINE __m512 plane_halves(const uint8_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)p)); }
INLINE __m128i plane_bytes(const uint8_t *p) { return _mm_loadu_si128((const void *)p); }

/* Scales and minima of six bits of 16 outputs: devices/quant.h. */
INLINE void numbers_q4_k(__m512 *scale, __m512 *min, const uint8_t *bytes, size_t out_n, size_t number) {
    const __m128i six = _mm_set1_epi8(63), low = _mm_set1_epi8(15), top = _mm_set1_epi8(0x30);
    __m128i s, m;
    if (number < 4) {
        s = _mm_and_si128(plane_bytes(bytes + number * out_n), six);
        m = _mm_and_si128(plane_bytes(bytes + (number + 4) * out_n), six);
    } else {
        const __m128i both = plane_bytes(bytes + (number + 4) * out_n);
        const __m128i s_top = _mm_srli_epi16(plane_bytes(bytes + (number - 4) * out_n), 2);
        const __m128i m_top = _mm_srli_epi16(plane_bytes(bytes + number * out_n), 2);
        s = _mm_or_si128(_mm_and_si128(both, low), _mm_and_si128(s_top, top));
        m = _mm_or_si128(_mm_and_si128(_mm_srli_epi16(both, 4), low), _mm_and_si128(m_top, top));
    }
    *scale = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(s));
    *min = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(m));
}

/* y + the part's sums of 16 outputs with their scales. */
INLINE __m512 add_scaled(__m512 y, __m512 sum, const part *p, size_t out_n, size_t o, const block_form f) {
    const __m512 d = _mm512_set1_ps(p->d);
    if (f.group_n == 32) return _mm512_fmadd_ps(sum, _mm512_mul_ps(plane_halves(p->planes + 2 * o), d), y);
    if (f.type == GGUF_Q6_K) {
        const __m512i scale = _mm512_cvtepi8_epi32(plane_bytes(p->planes + p->number * out_n + o));
        const __m512 all = _mm512_mul_ps(plane_halves(p->planes + 16 * out_n + 2 * o), d);
        return _mm512_fmadd_ps(_mm512_mul_ps(sum, _mm512_cvtepi32_ps(scale)), all, y);
    }
    __m512 scale, min;
    numbers_q4_k(&scale, &min, p->planes + 4 * out_n + o, out_n, p->number);
    const __m512 all = _mm512_mul_ps(plane_halves(p->planes + 2 * o), d);
    const __m512 minus = _mm512_mul_ps(plane_halves(p->planes + 2 * out_n + 2 * o), d);
    y = _mm512_fmadd_ps(_mm512_mul_ps(sum, scale), all, y);
    return _mm512_fnmadd_ps(_mm512_mul_ps(min, _mm512_set1_ps((float)p->sum)), minus, y);
}

/* Adds a part to y[0, 32 runs), the outputs from o on. */
INLINE void add_part(float *y, const part *p, size_t o, size_t runs, size_t out_n, const block_form f) {
    __m512i sum[8];
    __m512 value[8];
    const size_t half_n = f.type == GGUF_Q8_0 ? 1 : 2;
    UNROLL for (size_t j = 0; j < 8; j++) sum[j] = _mm512_set1_epi32(-f.offset * p->sum);
    for (size_t i = 0; i < p->four_n; i++)
        add_four(sum, p->neuron + 4 * i, _mm512_set1_epi32(p->q[i]), o, runs, out_n, f);
    UNROLL for (size_t j = 0; j < 8; j++) value[j] = _mm512_cvtepi32_ps(sum[j]);
    UNROLL for (size_t h = 0; h < half_n; h++) exchange_quarters(value + 4 * h);
    UNROLL for (size_t r = 0; r < f.width / NEURONS_RUN; r++) {
        if (r >= runs) break;
        UNROLL for (size_t h = 0; h < 2; h++) {
            float *at = y + NEURONS_RUN * r + 16 * h;
            const __m512 v = value[half_n == 1 ? 2 * r + h : 4 * h + r];
            _mm512_storeu_ps(at,
                             add_scaled(_mm512_loadu_ps(at), v, p, out_n, o + NEURONS_RUN * r + 16 * h, f));
        }
    }
}

INLINE void sum_blocks(float *y, const uint8_t *w, size_t out_n, size_t from, size_t n, const cpu_active *a,
                       const block_form f) {
    part ring[RING];
    size_t taken = 0, fetched = 0; /* numbers of parts */
    const size_t all_runs = f.width / NEURONS_RUN, step_n = (n + f.width - 1) / f.width;
    memset(y, 0, n * sizeof *y);
    for (size_t i = 0, done = 0; done < taken || i < a->n; done++) {
        for (; i < a->n && taken < done + RING; taken++)
            i = take_part(&ring[taken % RING], a, i, w, out_n, f);
        const part *p = &ring[done % RING];
        for (size_t o = 0; o < n; o += f.width) {
            for (size_t ahead = fetched; ahead < taken; ahead++)
                if (ahead > done) prefetch_part(&ring[ahead % RING], o / f.width, step_n, from, n, out_n, f);
            if (n - o >= f.width)
                add_part(y + o, p, from + o, all_runs, out_n, f);
            else
                add_part(y + o, p, from + o, (n - o) / NEURONS_RUN, out_n, f);
        }
        fetched = taken;
    }
}

/* ---- The slots -------------------------------------------------------------------------------------------
 */

#define FLOAT_SUM(name, type)                                                                                \
    static void neuron_sum_##name(float *y, const uint8_t *w, size_t out_n, size_t from, size_t n,           \
                                  const cpu_active *active) {                                                \
        sum_floats(y, w, out_n, from, n, active, type);                                                      \
    }
#define BLOCK_SUM(name, ...)                                                                                 \
    static void neuron_sum_##name(float *y, const uint8_t *w, size_t out_n, size_t from, size_t n,           \
                                  const cpu_active *active) {                                                \
        sum_blocks(y, w, out_n, from, n, active, (block_form){__VA_ARGS__});                                 \
    }
FLOAT_SUM(f32, GGUF_F32)
FLOAT_SUM(f16, GGUF_F16)
FLOAT_SUM(bf16, GGUF_BF16)
BLOCK_SUM(q8_0, GGUF_Q8_0, 32, 32, 32, 2, 128, 64)
BLOCK_SUM(q4_0, GGUF_Q4_0, 32, 32, 16, 2, 8, 128)
BLOCK_SUM(q4_k, GGUF_Q4_K, 256, 32, 16, 16, 0, 128)
BLOCK_SUM(q6_k, GGUF_Q6_K, 256, 16, 24, 18, 32, 128)

void avx512_neurons(cpu_kernels *k) {
    k->neuron_sum[GGUF_F32] = neuron_sum_f32;
    k->neuron_sum[GGUF_F16] = neuron_sum_f16;
    k->neuron_sum[GGUF_BF16] = neuron_sum_bf16;
    k->neuron_sum[GGUF_Q8_0] = neuron_sum_q8_0;
    k->neuron_sum[GGUF_Q4_0] = neuron_sum_q4_0;
    k->neuron_sum[GGUF_Q4_K] = neuron_sum_q4_k;
    k->neuron_sum[GGUF_Q6_K] = neuron_sum_q6_k;
}
