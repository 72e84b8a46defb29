/* dequant.h - blocks of weights in kernels: to floats, and to small integers for dot products of 4 bytes.
 *
 * Layouts: devices/quant.h. Blocks of Q8_0, Q4_0 and Q6_K stand at even addresses only, so that their words
 * are put together from 2-byte loads; Q4_K at multiples of 16, matrices beginning at the device's alignment.
 */
#ifndef HOTSET_GPU_DEQUANT_H
#define HOTSET_GPU_DEQUANT_H

#include "devices/gpu/kernels.h"

#ifdef __cplusplus

/* What one load takes. */
struct alignas(8) gpu_8 {
    uint32_t w[2];
};
struct alignas(16) gpu_16 {
    uint32_t w[4];
};

enum {
    GPU_GROUP = 32,  /* weights of a group: the smallest block */
    GPU_VALUES = 8,  /* floats that one lane takes at a time */
    GPU_SUPER = 256, /* weights of a K-quant's block */
    GPU_BLOCK_Q8_0 = 34,
    GPU_BLOCK_Q4_0 = 18,
    GPU_BLOCK_Q4_K = 144,
    GPU_BLOCK_Q6_K = 210
};

/* ---- Loads and bytes ---- */

/* 4 bytes at an even address. */
GPU_DEVICE uint32_t gpu_word_even(const uint8_t *p) {
    const uint16_t *half = (const uint16_t *)p;
    return half[0] | (uint32_t)half[1] << 16;
}
GPU_DEVICE float gpu_half_at(const uint8_t *p) { return GPU_HALF_TO_FLOAT(*(const uint16_t *)p); }
/* Four bytes below 128, less `offset` in each: signed bytes. No byte borrows from its neighbour. */
GPU_DEVICE uint32_t gpu_bytes_minus(uint32_t bytes, uint32_t offset) {
    return ((bytes | 0x80808080u) - offset * 0x01010101u) ^ 0x80808080u;
}
GPU_DEVICE uint32_t gpu_nibbles(uint32_t word, uint32_t shift) { return word >> shift & 0x0F0F0F0Fu; }
GPU_DEVICE int gpu_byte(uint32_t word, uint32_t i) { return (int)(int8_t)(word >> 8 * i); }

/* The 6-bit scale and minimum of group j of a Q4_K block from the 12 bytes that hold them all. */
GPU_DEVICE void gpu_q4_k_scale(const uint32_t s[3], uint32_t j, float *scale, float *min) {
    const uint32_t shift = 8 * (j % 4);
    if (j < 4) {
        *scale = (float)(s[0] >> shift & 63);
        *min = (float)(s[1] >> shift & 63);
    } else {
        *scale = (float)((s[2] >> shift & 15) | (s[0] >> (shift + 6) & 3) << 4);
        *min = (float)((s[2] >> (shift + 4) & 15) | (s[1] >> (shift + 6) & 3) << 4);
    }
}

/* ---- Activations of 8 bits ----
 * By the rule of devices/cpu/kernels.h, in planes, so that 16 of them are one load. */

typedef struct gpu_planes {
    int8_t *q;     /* [vector][k] */
    float *d;      /* [vector][k / 32], also where a block is 256 */
    uint32_t *sum; /* [vector][k / 32]: sums of q over both halves of 16, as two int16_t */
    uint32_t k;
} gpu_planes;

typedef struct gpu_act {
    const int8_t *q;
    const float *d;
    const uint32_t *sum;
} gpu_act;

GPU_DEVICE gpu_act gpu_act_at(const gpu_planes planes, uint32_t vector) {
    const size_t group = (size_t)vector * (planes.k / GPU_GROUP);
    gpu_act a = {planes.q + (size_t)vector * planes.k, planes.d + group, planes.sum + group};
    return a;
}
GPU_DEVICE int gpu_half_sum(uint32_t sums, uint32_t half) { return (int)(int16_t)(sums >> 16 * half); }

/* ---- Pieces: weights that stand together in memory, for the dot products of few rows ----
 * Q8_0: half a block, so that lanes beside each other share the lines that they load. Q4_0: a block. Q4_K: 16
 * bytes, whose nibbles belong to two groups. Q6_K: 8 weights of each of four groups, whose bits share bytes.
 */

template <gguf_type T> GPU_DEVICE uint32_t gpu_piece_weights() { return T == GGUF_Q8_0 ? 16 : 32; }

typedef struct gpu_piece {
    uint32_t w[8];
    float scale[4], min[2];
} gpu_piece;

GPU_DEVICE void gpu_piece_q6_k(gpu_piece *e, const uint8_t *block, uint32_t j) {
    const uint32_t half = j / 4, l = 8 * (j % 4);
    const uint8_t *low = block + 64 * half + l, *high = block + 128 + 32 * half + l;
    const float d = gpu_half_at(block + 208);
    GPU_UNROLL
    for (uint32_t i = 0; i < 2; i++) {
        const uint32_t a = gpu_word_even(low + 4 * i), b = gpu_word_even(low + 32 + 4 * i);
        const uint32_t h = gpu_word_even(high + 4 * i);
        e->w[i] = gpu_bytes_minus(gpu_nibbles(a, 0) | (h & 0x03030303u) << 4, 32);
        e->w[2 + i] = gpu_bytes_minus(gpu_nibbles(b, 0) | (h >> 2 & 0x03030303u) << 4, 32);
        e->w[4 + i] = gpu_bytes_minus(gpu_nibbles(a, 4) | (h >> 4 & 0x03030303u) << 4, 32);
        e->w[6 + i] = gpu_bytes_minus(gpu_nibbles(b, 4) | (h >> 6 & 0x03030303u) << 4, 32);
    }
    GPU_UNROLL
    for (uint32_t i = 0; i < 4; i++) e->scale[i] = d * (float)(int8_t)block[192 + 8 * half + 2 * i + l / 16];
}

/* Piece number p of a row. */
template <gguf_type T> GPU_DEVICE gpu_piece gpu_piece_at(const uint8_t *row, uint32_t p) {
    gpu_piece e;
    if (T == GGUF_Q8_0) {
        const uint8_t *block = row + (size_t)GPU_BLOCK_Q8_0 * (p / 2);
        e.scale[0] = gpu_half_at(block);
        GPU_UNROLL
        for (uint32_t i = 0; i < 4; i++) e.w[i] = gpu_word_even(block + 2 + 16 * (p % 2) + 4 * i);
    } else if (T == GGUF_Q4_0) {
        const uint8_t *block = row + (size_t)GPU_BLOCK_Q4_0 * p;
        e.scale[0] = gpu_half_at(block);
        GPU_UNROLL
        for (uint32_t i = 0; i < 4; i++) {
            const uint32_t w = gpu_word_even(block + 2 + 4 * i);
            e.w[i] = gpu_nibbles(w, 0);
            e.w[4 + i] = gpu_nibbles(w, 4);
        }
    } else if (T == GGUF_Q4_K) {
        const uint8_t *block = row + (size_t)GPU_BLOCK_Q4_K * (p / 8);
        const gpu_16 header = *(const gpu_16 *)block, q = *(const gpu_16 *)(block + 16 + 16 * (p % 8));
        const float d = GPU_HALF_TO_FLOAT((uint16_t)header.w[0]);
        const float d_min = GPU_HALF_TO_FLOAT((uint16_t)(header.w[0] >> 16));
        GPU_UNROLL
        for (uint32_t i = 0; i < 2; i++) {
            float scale, min;
            gpu_q4_k_scale(header.w + 1, p % 8 / 2 * 2 + i, &scale, &min);
            e.scale[i] = d * scale;
            e.min[i] = d_min * min;
        }
        GPU_UNROLL
        for (uint32_t i = 0; i < 4; i++) {
            e.w[i] = gpu_nibbles(q.w[i], 0);
            e.w[4 + i] = gpu_nibbles(q.w[i], 4);
        }
    } else {
        gpu_piece_q6_k(&e, row + (size_t)GPU_BLOCK_Q6_K * (p / 8), p % 8);
    }
    return e;
}

GPU_DEVICE int gpu_dot_16(const uint32_t *w, const int8_t *q) {
    const gpu_16 x = *(const gpu_16 *)q;
    int dot = 0;
    GPU_UNROLL
    for (uint32_t i = 0; i < 4; i++) dot = GPU_DOT4(w[i], x.w[i], dot);
    return dot;
}

/* sum + piece p times the activations of its weights. */
template <gguf_type T>
GPU_DEVICE float gpu_piece_dot(const gpu_piece &e, const gpu_act a, uint32_t p, float sum) {
    if (T == GGUF_Q8_0)
        return fmaf(e.scale[0] * a.d[p / 2], (float)gpu_dot_16(e.w, a.q + (size_t)16 * p), sum);
    if (T == GGUF_Q4_0) {
        const int8_t *q = a.q + (size_t)GPU_GROUP * p;
        const int dot = gpu_dot_16(e.w, q) + gpu_dot_16(e.w + 4, q + 16);
        const int offset = 8 * (gpu_half_sum(a.sum[p], 0) + gpu_half_sum(a.sum[p], 1));
        return fmaf(e.scale[0] * a.d[p], (float)(dot - offset), sum);
    }
    const uint32_t block = p / 8, j = p % 8;
    float part;
    if (T == GGUF_Q4_K) {
        const uint32_t group = 8 * block + j / 2 * 2, half = j % 2;
        const int8_t *q = a.q + (size_t)GPU_GROUP * group + 16 * half;
        part = fmaf(e.scale[0], (float)gpu_dot_16(e.w, q), e.scale[1] * (float)gpu_dot_16(e.w + 4, q + 32));
        part = fmaf(-e.min[0], (float)gpu_half_sum(a.sum[group], half), part);
        part = fmaf(-e.min[1], (float)gpu_half_sum(a.sum[group + 1], half), part);
    } else {
        const int8_t *q = a.q + (size_t)GPU_SUPER * block + 128 * (j / 4) + 8 * (j % 4);
        part = 0;
        GPU_UNROLL
        for (uint32_t i = 0; i < 4; i++) {
            const gpu_8 x = *(const gpu_8 *)(q + 32 * i);
            part = fmaf(e.scale[i], (float)GPU_DOT4(e.w[2 * i + 1], x.w[1], GPU_DOT4(e.w[2 * i], x.w[0], 0)),
                        part);
        }
    }
    return fmaf(a.d[8 * block], part, sum);
}

/* ---- Groups: 32 neighbours of a row as signed bytes, for the tiles of many rows ----
 * Weight i is scale[i / 16] * q[i] - min. */

typedef struct gpu_group {
    uint32_t w[8];
    float scale[2], min;
} gpu_group;

GPU_DEVICE void gpu_group_q6_k(gpu_group *e, const uint8_t *block, uint32_t j) {
    const uint8_t *low = block + j / 4 * 64 + j % 2 * 32, *high = block + 128 + j / 4 * 32;
    const uint32_t low_shift = j % 4 / 2 * 4, high_shift = j % 4 * 2;
    const float d = gpu_half_at(block + 208);
    GPU_UNROLL
    for (uint32_t i = 0; i < 8; i++) {
        const uint32_t h = gpu_word_even(high + 4 * i) >> high_shift & 0x03030303u;
        e->w[i] = gpu_bytes_minus(gpu_nibbles(gpu_word_even(low + 4 * i), low_shift) | h << 4, 32);
    }
    e->scale[0] = d * (float)(int8_t)block[192 + 2 * j];
    e->scale[1] = d * (float)(int8_t)block[192 + 2 * j + 1];
}

/* Group number g of a row. */
template <gguf_type T> GPU_DEVICE gpu_group gpu_group_at(const uint8_t *row, uint32_t g) {
    gpu_group e;
    e.min = 0;
    if (T == GGUF_Q8_0) {
        const uint8_t *block = row + (size_t)GPU_BLOCK_Q8_0 * g;
        GPU_UNROLL
        for (uint32_t i = 0; i < 8; i++) e.w[i] = gpu_word_even(block + 2 + 4 * i);
        e.scale[0] = e.scale[1] = gpu_half_at(block);
    } else if (T == GGUF_Q4_0) {
        const gpu_piece p = gpu_piece_at<T>(row, g);
        GPU_UNROLL
        for (uint32_t i = 0; i < 8; i++) e.w[i] = gpu_bytes_minus(p.w[i], 8);
        e.scale[0] = e.scale[1] = p.scale[0];
    } else if (T == GGUF_Q4_K) {
        const uint8_t *block = row + (size_t)GPU_BLOCK_Q4_K * (g / 8);
        const gpu_16 header = *(const gpu_16 *)block;
        const gpu_16 *q = (const gpu_16 *)(block + 16 + g % 8 / 2 * 32);
        float scale, min;
        gpu_q4_k_scale(header.w + 1, g % 8, &scale, &min);
        e.scale[0] = e.scale[1] = GPU_HALF_TO_FLOAT((uint16_t)header.w[0]) * scale;
        e.min = GPU_HALF_TO_FLOAT((uint16_t)(header.w[0] >> 16)) * min;
        GPU_UNROLL
        for (uint32_t i = 0; i < 8; i++) e.w[i] = gpu_nibbles(q[i / 4].w[i % 4], g % 2 * 4);
    } else {
        gpu_group_q6_k(&e, row + (size_t)GPU_BLOCK_Q6_K * (g / 8), g % 8);
    }
    return e;
}

/* ---- Eight neighbours of a row as floats ---- */

/* Also of Q8_0, whose rows attention reads. */
template <gguf_type T> GPU_DEVICE float gpu_float_at(const uint8_t *row, size_t i) {
    if (T == GGUF_F32) return ((const float *)row)[i];
    if (T == GGUF_Q8_0) {
        const uint8_t *block = row + i / 32 * GPU_BLOCK_Q8_0;
        return gpu_half_at(block) * (float)(int8_t)block[2 + i % 32];
    }
    const uint16_t bits = ((const uint16_t *)row)[i];
    return T == GGUF_F16 ? GPU_HALF_TO_FLOAT(bits) : GPU_FLOAT_OF_BITS((uint32_t)bits << 16);
}

/* wide: the row begins at a multiple of 16 bytes and has all eight. */
template <gguf_type T>
GPU_DEVICE void gpu_floats_8(float v[GPU_VALUES], const uint8_t *row, uint32_t at, uint32_t n, bool wide) {
    if (!wide) {
        GPU_UNROLL
        for (uint32_t i = 0; i < GPU_VALUES; i++) v[i] = at + i < n ? gpu_float_at<T>(row, at + i) : 0;
    } else if (T == GGUF_F32) {
        const gpu_16 *p = (const gpu_16 *)(row + (size_t)4 * at);
        const gpu_16 a = p[0], b = p[1];
        GPU_UNROLL
        for (uint32_t i = 0; i < 4; i++) {
            v[i] = GPU_FLOAT_OF_BITS(a.w[i]);
            v[4 + i] = GPU_FLOAT_OF_BITS(b.w[i]);
        }
    } else {
        const gpu_16 a = *(const gpu_16 *)(row + (size_t)2 * at);
        GPU_UNROLL
        for (uint32_t i = 0; i < GPU_VALUES; i++) {
            const uint32_t bits = a.w[i / 2] >> 16 * (i % 2) & 0xFFFFu;
            v[i] = T == GGUF_F16 ? GPU_HALF_TO_FLOAT((uint16_t)bits) : GPU_FLOAT_OF_BITS(bits << 16);
        }
    }
}

/* Weights [at, at + 8) of a row of n; at is a multiple of 8, and what lies past the row is 0. `wide`: float
 * rows begin at multiples of 16 bytes and n is a multiple of 8. */
template <gguf_type T>
GPU_DEVICE void gpu_values_8(float v[GPU_VALUES], const uint8_t *row, uint32_t at, uint32_t n, bool wide) {
    if (T == GGUF_F32 || T == GGUF_F16 || T == GGUF_BF16) {
        gpu_floats_8<T>(v, row, at, n, wide);
        return;
    }
    uint32_t w[2];
    float scale, min = 0;
    if (T == GGUF_Q8_0) {
        const uint8_t *block = row + (size_t)GPU_BLOCK_Q8_0 * (at / 32);
        scale = gpu_half_at(block);
        for (uint32_t i = 0; i < 2; i++) w[i] = gpu_word_even(block + 2 + at % 32 + 4 * i);
    } else if (T == GGUF_Q4_0) {
        const uint8_t *block = row + (size_t)GPU_BLOCK_Q4_0 * (at / 32);
        scale = gpu_half_at(block);
        for (uint32_t i = 0; i < 2; i++)
            w[i] =
                gpu_bytes_minus(gpu_nibbles(gpu_word_even(block + 2 + at % 16 + 4 * i), at % 32 / 16 * 4), 8);
    } else if (T == GGUF_Q4_K) {
        const uint8_t *block = row + (size_t)GPU_BLOCK_Q4_K * (at / 256);
        const uint32_t j = at % 256 / 32;
        const gpu_16 header = *(const gpu_16 *)block;
        const gpu_8 q = *(const gpu_8 *)(block + 16 + j / 2 * 32 + at % 32);
        gpu_q4_k_scale(header.w + 1, j, &scale, &min);
        scale *= GPU_HALF_TO_FLOAT((uint16_t)header.w[0]);
        min *= GPU_HALF_TO_FLOAT((uint16_t)(header.w[0] >> 16));
        for (uint32_t i = 0; i < 2; i++) w[i] = gpu_nibbles(q.w[i], j % 2 * 4);
    } else {
        const uint8_t *block = row + (size_t)GPU_BLOCK_Q6_K * (at / 256);
        const uint32_t j = at % 256 / 32, l = at % 32;
        const uint8_t *low = block + j / 4 * 64 + j % 2 * 32 + l, *high = block + 128 + j / 4 * 32 + l;
        scale = gpu_half_at(block + 208) * (float)(int8_t)block[192 + at % 256 / 16];
        for (uint32_t i = 0; i < 2; i++) {
            const uint32_t h = gpu_word_even(high + 4 * i) >> j % 4 * 2 & 0x03030303u;
            w[i] = gpu_bytes_minus(gpu_nibbles(gpu_word_even(low + 4 * i), j % 4 / 2 * 4) | h << 4, 32);
        }
    }
    GPU_UNROLL
    for (uint32_t i = 0; i < GPU_VALUES; i++) v[i] = scale * (float)gpu_byte(w[i / 4], i % 4) - min;
}

#endif
#endif
