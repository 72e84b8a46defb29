/* avx2_tiles.h - tiles made of interleaved rows (devices/lanes.h): what avx2_gemm.c and avx2_blocks.c share.
 */
#ifndef HOTSET_CPU_AVX2_TILES_H
#define HOTSET_CPU_AVX2_TILES_H

#include "devices/blocks.h"
#include "devices/cpu/avx2.h"
#include "devices/lanes.h"

/* 16 bytes of each row, four words from offset `at` on, to where the row stands alone. */
AVX2_INLINE void store_words(uint8_t rows[LANES_ROWS][BLOCKS_BYTES_MAX], const uint8_t *lanes, size_t at) {
    AVX2_UNROLL
    for (size_t first = 0; first < LANES_ROWS; first += 8) {
        __m256i v[4], pairs[4];
        AVX2_UNROLL
        for (size_t i = 0; i < 4; i++) v[i] = load_256(lanes + LANES_ROWS * (at + 4 * i) + 4 * first);
        AVX2_UNROLL
        for (size_t i = 0; i < 4; i += 2) {
            pairs[i] = _mm256_unpacklo_epi32(v[i], v[i + 1]);
            pairs[i + 1] = _mm256_unpackhi_epi32(v[i], v[i + 1]);
        }
        AVX2_UNROLL
        for (size_t r = 0; r < 4; r++) { /* one of rows 0 to 3 and one of rows 4 to 7 */
            const __m256i a = pairs[r / 2], b = pairs[2 + r / 2];
            const __m256i two = r % 2 ? _mm256_unpackhi_epi64(a, b) : _mm256_unpacklo_epi64(a, b);
            _mm_storeu_si128((__m128i *)(void *)(rows[first + r] + at), _mm256_castsi256_si128(two));
            _mm_storeu_si128((__m128i *)(void *)(rows[first + 4 + r] + at), _mm256_extracti128_si256(two, 1));
        }
    }
}

/* One block of each row. Its words lie between an odd field of `front` bytes and one at `end`. */
AVX2_INLINE void restore_block(uint8_t rows[LANES_ROWS][BLOCKS_BYTES_MAX], const uint8_t *lanes,
                               const size_t front, const size_t end, const size_t block_bytes) {
    for (size_t at = front; at + 16 < end; at += 16) store_words(rows, lanes, at);
    store_words(rows, lanes, end - 16);
    for (size_t r = 0; r < LANES_ROWS; r++) {
        memcpy(rows[r], lanes + r * front, front);
        memcpy(rows[r] + end, lanes + LANES_ROWS * end + r * (block_bytes - end), block_bytes - end);
    }
}

/* A tile of interleaved rows by way of rows that stand alone, for types whose quants must be put together. */
#define TILE_OF_RESTORED(type, n, front, end)                                                                \
    static void tile_of_lanes_##type(void *tile, const uint8_t *w, size_t row_bytes, size_t row_n,           \
                                     size_t k) {                                                             \
        (void)row_bytes;                                                                                     \
        (void)row_n; /* always all */                                                                        \
        uint8_t rows[LANES_ROWS][BLOCKS_BYTES_MAX];                                                          \
        for (size_t b = 0; b < k / (n); b++, w += LANES_ROWS * sizeof(quant_##type)) {                       \
            restore_block(rows, w, front, end, sizeof(quant_##type));                                        \
            tile_unpack_##type((uint8_t *)tile + tile_bytes_##type(b * (n)), rows[0], sizeof rows[0],        \
                               LANES_ROWS, n);                                                               \
        }                                                                                                    \
    }

/* Products of interleaved rows differ in where tiles come from. */
AVX2_INLINE void set_tiles_of_lanes(cpu_kernels *k, gguf_type type,
                                    void (*tile_unpack)(void *, const uint8_t *, size_t, size_t, size_t)) {
    cpu_matmul *m = &k->lanes[type];
    *m = k->matmul[type];
    m->tile_unpack = tile_unpack;
    m->neuron_tiles = NULL;
}

#endif
