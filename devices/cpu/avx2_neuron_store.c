/* avx2_neuron_store.c - AVX2: from rows to neurons while a model is loaded. devices/neurons.c says what goes
 * where; here 32 rows of 16 bytes at a time are transposed in registers.
 */
#include "devices/cpu/avx2.h"
#include "devices/neurons.h"
#include "devices/quant.h"

#include <stddef.h>

/* ---- Blocks ---- */

/* 16 bytes at p of each of 32 rows: out[i] gets byte i of all of them. A round of unpacking rotates the
 * number that tells a byte's row and place by one bit, so four transpose. */
AVX2_INLINE void transpose_run(__m256i out[16], const uint8_t *p, uint64_t row_bytes) {
    __m256i v[16];
    AVX2_UNROLL
    for (uint64_t r = 0; r < 16; r++)
        v[r] = _mm256_set_m128i(load_128(p + (r + 16) * row_bytes), load_128(p + r * row_bytes));
    AVX2_UNROLL
    for (int round = 0; round < 4; round++) {
        AVX2_UNROLL
        for (int i = 0; i < 8; i++) {
            out[2 * i] = _mm256_unpacklo_epi8(v[i], v[i + 8]);
            out[2 * i + 1] = _mm256_unpackhi_epi8(v[i], v[i + 8]);
        }
        memcpy(v, out, sizeof v);
    }
}

/* Where the quants of a run go: neuron i's at `at` + i * row_bytes. */
typedef struct place {
    uint8_t *at;
    uint64_t row_bytes;
} place;

AVX2_INLINE void store_32(place to, uint64_t i, __m256i v) {
    _mm256_storeu_si256((__m256i *)(void *)(to.at + i * to.row_bytes), v);
}

/* The low nibbles of 32 outputs as 16 bytes. */
AVX2_INLINE void store_nibbles(place to, uint64_t i, __m256i v) {
    const __m128i mask = _mm_set1_epi8(15);
    const __m128i low = _mm_and_si128(_mm256_castsi256_si128(v), mask);
    const __m128i high = _mm_and_si128(_mm256_extracti128_si256(v, 1), mask);
    _mm_storeu_si128((__m128i *)(void *)(to.at + i * to.row_bytes),
                     _mm_or_si128(low, _mm_slli_epi16(high, 4)));
}

/* 16 bytes of packed nibbles of each row: neurons from `low` on, and from `high` on. */
AVX2_INLINE void store_packed(place to, const uint8_t *p, uint64_t row_bytes, uint64_t low, uint64_t high) {
    __m256i v[16];
    transpose_run(v, p, row_bytes);
    for (uint64_t i = 0; i < 16; i++) {
        store_nibbles(to, low + i, v[i]);
        store_nibbles(to, high + i, _mm256_srli_epi16(v[i], 4));
    }
}

/* The two bits at `shift` of 32 outputs as 8 bytes: those of outputs j, j + 8, j + 16 and j + 24 in byte j.
 */
AVX2_INLINE void store_bits(place to, uint64_t i, __m256i v, int shift) {
    const __m256i bits = _mm256_and_si256(_mm256_srli_epi16(v, shift), _mm256_set1_epi8(3));
    const __m256i placed = _mm256_sllv_epi64(bits, _mm256_setr_epi64x(0, 2, 4, 6));
    const __m128i half = _mm_or_si128(_mm256_castsi256_si128(placed), _mm256_extracti128_si256(placed, 1));
    _mm_storel_epi64((__m128i *)(void *)(to.at + i * to.row_bytes),
                     _mm_or_si128(half, _mm_unpackhi_epi64(half, half)));
}

/* Halves of 32 rows to their plane. */
AVX2_INLINE void store_halves(uint8_t *plane, const uint8_t *p, uint64_t row_bytes) {
    for (uint64_t r = 0; r < NEURONS_RUN; r++) memcpy(plane + 2 * r, p + r * row_bytes, 2);
}

/* 16 bytes of 32 rows to planes of plane_bytes each, less the first `skip` bytes. */
AVX2_INLINE void store_planes(uint8_t *planes, uint64_t plane_bytes, const uint8_t *p, uint64_t row_bytes,
                              uint64_t skip) {
    __m256i v[16];
    transpose_run(v, p, row_bytes);
    for (uint64_t i = skip; i < 16; i++) store_32((place){planes, plane_bytes}, i - skip, v[i]);
}

/* One block of 32 rows, which begin at p, to outputs [o, o + 32) of their group. */
AVX2_INLINE void store_block(uint8_t *group, const uint8_t *p, uint64_t row_bytes, gguf_type type,
                             neurons_form f, uint32_t out_n, uint32_t o) {
    const uint64_t neuron_bytes = neurons_row_bytes(f, out_n);
    uint8_t *planes = group + f.group_n * neuron_bytes;
    const place to = {group + (type == GGUF_Q8_0 ? o : o / 2), neuron_bytes};
    switch ((int)type) {
    case GGUF_Q8_0:
        for (uint64_t half = 0; half < 2; half++) {
            __m256i v[16];
            transpose_run(v, p + offsetof(quant_q8_0, q) + 16 * half, row_bytes);
            for (uint64_t i = 0; i < 16; i++) store_32(to, 16 * half + i, v[i]);
        }
        store_halves(planes + 2 * o, p, row_bytes);
        break;
    case GGUF_Q4_0:
        store_packed(to, p + offsetof(quant_q4_0, q), row_bytes, 0, 16);
        store_halves(planes + 2 * o, p, row_bytes);
        break;
    case GGUF_Q4_K:
        for (uint64_t c = 0; c < 8; c++) {
            const uint64_t low = c / 2 * 64 + c % 2 * 16;
            store_packed(to, p + offsetof(quant_q4_k, q) + 16 * c, row_bytes, low, low + 32);
        }
        store_halves(planes + 2 * o, p, row_bytes);
        store_halves(planes + 2 * (out_n + o), p + offsetof(quant_q4_k, dmin), row_bytes);
        store_planes(planes + 4 * (uint64_t)out_n + o, out_n, p, row_bytes, offsetof(quant_q4_k, scales));
        break;
    default: /* Q6_K */
        for (uint64_t c = 0; c < 8; c++) {
            const uint64_t low = c / 4 * 128 + c % 4 * 16;
            store_packed(to, p + 16 * c, row_bytes, low, low + 64);
        }
        for (uint64_t c = 0; c < 4; c++) {
            const place bits = {group + out_n / 2 + o / 4, neuron_bytes};
            __m256i v[16];
            transpose_run(v, p + offsetof(quant_q6_k, qh) + 16 * c, row_bytes);
            for (int run = 0; run < 4; run++)
                for (uint64_t i = 0; i < 16; i++)
                    store_bits(bits, c / 2 * 128 + 32 * (uint64_t)run + c % 2 * 16 + i, v[i], 2 * run);
        }
        store_planes(planes + o, out_n, p + offsetof(quant_q6_k, scales), row_bytes, 0);
        store_halves(planes + 16 * (uint64_t)out_n + 2 * o, p + offsetof(quant_q6_k, d), row_bytes);
    }
}

/* ---- Floats ---- */

/* Eight rows of eight 16-bit numbers: element j of row i becomes element i of row j. */
AVX2_INLINE void transpose_halves(__m128i v[8]) {
    __m128i next[8];
    AVX2_UNROLL
    for (int round = 0; round < 3; round++) {
        AVX2_UNROLL
        for (int i = 0; i < 4; i++) {
            next[2 * i] = _mm_unpacklo_epi16(v[i], v[i + 4]);
            next[2 * i + 1] = _mm_unpackhi_epi16(v[i], v[i + 4]);
        }
        memcpy(v, next, sizeof next);
    }
}

/* Eight rows' next eight weights, to eight neurons. */
AVX2_INLINE void store_8x8(uint8_t *to, uint64_t to_stride, const uint8_t *p, uint64_t row_bytes,
                           const uint32_t item_bytes) {
    __m128i half[8];
    __m256i word[8];
    AVX2_UNROLL
    for (uint64_t r = 0; r < 8; r++) {
        if (item_bytes == 2)
            half[r] = load_128(p + r * row_bytes);
        else
            word[r] = load_256(p + r * row_bytes);
    }
    if (item_bytes == 2)
        transpose_halves(half);
    else
        transpose_8x8(word);
    AVX2_UNROLL
    for (uint64_t i = 0; i < 8; i++) {
        if (item_bytes == 2)
            _mm_storeu_si128((__m128i *)(void *)(to + i * to_stride), half[i]);
        else
            _mm256_storeu_si256((__m256i *)(void *)(to + i * to_stride), word[i]);
    }
}

/* Rows [0, n) from p; what fills no 8 x 8 is moved number by number. */
AVX2_INLINE void store_floats(uint8_t *to, uint64_t to_stride, const uint8_t *p, uint64_t row_bytes,
                              uint64_t in_n, uint64_t n, const uint32_t item_bytes) {
    for (uint64_t i = 0; i < in_n; i += 8)
        for (uint64_t o = 0; o < n; o += 8) {
            uint8_t *there = to + i * to_stride + o * item_bytes;
            const uint8_t *here = p + o * row_bytes + i * item_bytes;
            if (in_n - i >= 8 && n - o >= 8) {
                store_8x8(there, to_stride, here, row_bytes, item_bytes);
                continue;
            }
            for (uint64_t r = 0; r < 8 && o + r < n; r++)
                for (uint64_t j = 0; j < 8 && i + j < in_n; j++)
                    memcpy(there + j * to_stride + r * item_bytes, here + r * row_bytes + j * item_bytes,
                           item_bytes);
        }
}

/* ---- The slot ---- */

/* All runs of a group before the next: so lines of neurons fill up while they are in the cache. */
#define STORE_BLOCKS(name, type)                                                                             \
    static void store_##name(uint8_t *to, const uint8_t *rows, uint64_t row_bytes, neurons_form f,           \
                             uint32_t in_n, uint32_t out_n, uint32_t from, uint32_t n) {                     \
        const uint64_t group_bytes = neurons_group_bytes(f, out_n);                                          \
        const uint64_t block_bytes = gguf_type_get(type)->block_bytes;                                       \
        for (uint64_t g = 0; g < in_n / f.group_n; g++)                                                      \
            for (uint32_t o = from; o < from + n; o += NEURONS_RUN)                                          \
                store_block(to + group_bytes * g, rows + row_bytes * o + block_bytes * g, row_bytes, type,   \
                            f, out_n, o);                                                                    \
    }
STORE_BLOCKS(q8_0, GGUF_Q8_0)
STORE_BLOCKS(q4_0, GGUF_Q4_0)
STORE_BLOCKS(q4_k, GGUF_Q4_K)
STORE_BLOCKS(q6_k, GGUF_Q6_K)

static void neuron_store(uint8_t *to, const uint8_t *rows, uint64_t row_bytes, gguf_type type, uint32_t in_n,
                         uint32_t out_n, uint32_t from, uint32_t n) {
    neurons_form f;
    if (!neurons_form_of(type, out_n, &f)) return;
    const uint64_t stride = (uint64_t)out_n * f.run_bytes; /* floats: of neurons */
    switch ((int)type) {
    case GGUF_Q8_0: store_q8_0(to, rows, row_bytes, f, in_n, out_n, from, n); break;
    case GGUF_Q4_0: store_q4_0(to, rows, row_bytes, f, in_n, out_n, from, n); break;
    case GGUF_Q4_K: store_q4_k(to, rows, row_bytes, f, in_n, out_n, from, n); break;
    case GGUF_Q6_K: store_q6_k(to, rows, row_bytes, f, in_n, out_n, from, n); break;
    case GGUF_F32:
        store_floats(to + (uint64_t)from * 4, stride, rows + row_bytes * from, row_bytes, in_n, n, 4);
        break;
    case GGUF_F16:
    case GGUF_BF16:
        store_floats(to + (uint64_t)from * 2, stride, rows + row_bytes * from, row_bytes, in_n, n, 2);
        break;
    default: neurons_store(to, rows, row_bytes, type, in_n, out_n, from, n);
    }
}

void cpu_avx2_neuron_store_init(cpu_kernels *k) { k->neuron_store = neuron_store; }
