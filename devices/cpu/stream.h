/* stream.h - weights that are read one after the other, for processors whose hardware fetches them ahead, and
 * for those where kernels must ask (cpu_kernels.ask_ahead): what the kernels of one activation row share.
 * Where the hardware fetches, kernels that compute much for each line still may ask for what it leaves to
 * them, far ahead: the faster the memory, the more it leaves. x86-64 only.
 */
#ifndef HOTSET_CPU_STREAM_H
#define HOTSET_CPU_STREAM_H

#include "devices/cpu/kernels.h"
#include "devices/lanes.h"

#define STREAM_INLINE static inline __attribute__((always_inline))

/* Where a kernel takes rows as the file has them, longer ones than this are walked in lockstep: their
 * activations leave the first level of cache while the weights stream through it. */
enum { K_ALONE = 4096 };

/* What a kernel asks for: a constant. */
typedef enum stream_asks { ASK_NOTHING, ASK_FAR, ASK_FAR_AND_NEAR } stream_asks;

/* Asks memory for what stands some KB behind p, into the second level of cache, and from there, later, into
 * the first. Any address will do. Not by __builtin_prefetch: compilers gather those of a block in one burst,
 * which memory cannot take. */
STREAM_INLINE void stream_ask(const uint8_t *p, const stream_asks asks) {
    enum { FAR = 8192, NEAR = 2048 };
    if (asks >= ASK_FAR) __asm__ volatile("prefetcht1 %0" : : "m"(*(const char *)((uintptr_t)p + FAR)));
    if (asks >= ASK_FAR_AND_NEAR)
        __asm__ volatile("prefetcht0 %0" : : "m"(*(const char *)((uintptr_t)p + NEAR)));
}
/* Holds a vector that was loaded between the requests around it. */
#ifndef STREAM_KEEP /* the emulation of AVX-512 (tests) has structures for vectors */
#define STREAM_KEEP(v) __asm__ volatile("" : "+v"(v))
#endif

/* Where interleaved rows are read, block by block. */
typedef struct row_stream {
    const uint8_t *at;
    stream_asks asks; /* with every field for what stands behind it */
} row_stream;

/* The field that stands at offset `at` of a row, for all rows. */
STREAM_INLINE const uint8_t *stream_field(row_stream w, size_t at) {
    const uint8_t *p = w.at + LANES_ROWS * at;
    stream_ask(p, w.asks);
    return p;
}

/* gemv_TYPE, which asks as `usual` says, and gemv_asking_TYPE, of `rows` that multiply the rows at the
 * row_stream w. */
#define STREAM_GEMV_ASKING(type, usual, rows)                                                                \
    STREAM_INLINE void gemv_stream_##type(float *y, row_stream w, size_t row_bytes, size_t row_n,            \
                                          const void *act, size_t k) {                                       \
        for (size_t r = 0; r < row_n; r += LANES_ROWS, y += LANES_ROWS, w.at += LANES_ROWS * row_bytes)      \
            rows;                                                                                            \
    }                                                                                                        \
    static void gemv_##type(float *y, const uint8_t *w, size_t row_bytes, size_t row_n, const void *act,     \
                            size_t k) {                                                                      \
        gemv_stream_##type(y, (row_stream){w, usual}, row_bytes, row_n, act, k);                             \
    }                                                                                                        \
    static void gemv_asking_##type(float *y, const uint8_t *w, size_t row_bytes, size_t row_n,               \
                                   const void *act, size_t k) {                                              \
        gemv_stream_##type(y, (row_stream){w, ASK_FAR_AND_NEAR}, row_bytes, row_n, act, k);                  \
    }
#define STREAM_GEMV(type, rows) STREAM_GEMV_ASKING(type, ASK_NOTHING, rows)
#define STREAM_SET(type, TYPE, act_bytes)                                                                    \
    cpu_set_gemv(&k->lanes[GGUF_##TYPE], act_bytes, pack_##type,                                             \
                 k->ask_ahead ? gemv_asking_##type : gemv_##type);

#endif
