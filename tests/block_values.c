/* block_values.c - what weights mean, written down from the descriptions of the formats one weight at a time,
 * with nothing of the library. */
#include "tests/block_values.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const gguf_type all_types[ALL_TYPES] = {GGUF_F32,  GGUF_F16,  GGUF_BF16,   GGUF_Q8_0,  GGUF_Q4_0, GGUF_Q4_1,
                                        GGUF_Q5_0, GGUF_Q5_1, GGUF_IQ4_NL, GGUF_MXFP4, GGUF_Q2_K, GGUF_Q3_K,
                                        GGUF_Q4_K, GGUF_Q5_K, GGUF_Q6_K,   GGUF_IQ4_XS};

/* IEEE 754 binary16: sign, 5 bits of exponent (bias 15), 10 of fraction. Exact, and no call: tests ask for it
 * often. */
static double half_of(const uint8_t *p) {
    const unsigned bits = p[0] | (unsigned)p[1] << 8, exponent = bits >> 10 & 31, fraction = bits & 1023;
    const double sign = bits & 0x8000 ? -1 : 1;
    if (exponent == 31) return fraction ? (double)NAN : sign * (double)INFINITY;
    if (exponent == 0) return sign * fraction * 0x1p-24;
    return sign * (1024 + fraction) * 0x1p-25 * (1u << exponent);
}

static double single_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return (double)x;
}

static int nibble_of(const uint8_t *q, size_t i) { return i < 16 ? q[i] & 15 : q[i - 16] >> 4; }

static int five_bits_of(const uint8_t *high, const uint8_t *q, size_t i) {
    uint32_t bits;
    memcpy(&bits, high, sizeof bits);
    return nibble_of(q, i) + (bits >> i & 1 ? 16 : 0);
}

static double e2m1_of(int q) {
    const int exponent = q >> 1 & 3, mantissa = q & 1;
    const double size = exponent ? ldexp(1 + 0.5 * mantissa, exponent - 1) : 0.5 * mantissa;
    return q & 8 ? -size : size;
}

static double weight_of_32(const uint8_t *w, gguf_type type, size_t i) {
    static const int codebook[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                     1,    13,   25,  38,  53,  69,  89,  113};
    switch (type) {
    case GGUF_Q8_0: return half_of(w) * (int8_t)w[2 + i];
    case GGUF_Q4_0: return half_of(w) * (nibble_of(w + 2, i) - 8);
    case GGUF_Q4_1: return half_of(w) * nibble_of(w + 4, i) + half_of(w + 2);
    case GGUF_Q5_0: return half_of(w) * (five_bits_of(w + 2, w + 6, i) - 16);
    case GGUF_Q5_1: return half_of(w) * five_bits_of(w + 4, w + 8, i) + half_of(w + 2);
    case GGUF_IQ4_NL: return half_of(w) * codebook[nibble_of(w + 2, i)];
    case GGUF_MXFP4: return ldexp(e2m1_of(nibble_of(w + 1, i)), (w[0] < 255 ? w[0] : 254) - 127);
    case GGUF_IQ4_XS: { /* group i / 32 of 256 */
        const size_t j = i / 32;
        const int low = w[4 + j / 2] >> (j % 2 ? 4 : 0) & 15, high = (w[2] | w[3] << 8) >> 2 * j & 3;
        return half_of(w) * (low + 16 * high - 32) * codebook[nibble_of(w + 8 + 16 * j, i % 32)];
    }
    default: abort();
    }
}

static double weight_of_k(const uint8_t *w, gguf_type type, size_t i) {
    const size_t half = i / 128, l = i % 32, run = i % 128 / 32, j = i / 32, part = i / 16;
    if (type == GGUF_Q2_K) {
        const int q = w[16 + 32 * half + l] >> 2 * run & 3;
        return half_of(w + 80) * (w[part] & 15) * q - half_of(w + 82) * (w[part] >> 4);
    }
    if (type == GGUF_Q3_K) {
        const uint8_t *s = w + 96;
        const int q = (w[32 + 32 * half + l] >> 2 * run & 3) - (w[l] >> j & 1 ? 0 : 4);
        const int low = part < 8 ? s[part] & 15 : s[part - 8] >> 4,
                  high = s[8 + part % 4] >> 2 * (part / 4) & 3;
        return half_of(w + 108) * ((low | high << 4) - 32) * q;
    }
    if (type == GGUF_Q6_K) {
        const uint8_t ql = w[64 * half + l + (run % 2) * 32], qh = w[128 + 32 * half + l];
        const int q = ((run < 2 ? ql & 15 : ql >> 4) | (qh >> (2 * run) & 3) << 4) - 32;
        return half_of(w + 208) * (int8_t)w[192 + part] * q;
    }
    const uint8_t *s = w + 4, *low = type == GGUF_Q4_K ? w + 16 : w + 48;
    const int scale = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
    const int min = j < 4 ? s[j + 4] & 63 : (s[j + 4] >> 4) | (s[j] >> 6) << 4;
    int q = low[j / 2 * 32 + l] >> (j % 2 ? 4 : 0) & 15;
    if (type == GGUF_Q5_K) q += w[16 + l] >> j & 1 ? 16 : 0;
    return half_of(w) * scale * q - half_of(w + 2) * min;
}

double block_value(const uint8_t *w, gguf_type type, size_t i) {
    switch (type) {
    case GGUF_F32: return single_of(w[0] | w[1] << 8 | w[2] << 16 | (uint32_t)w[3] << 24);
    case GGUF_F16: return half_of(w);
    case GGUF_BF16: return single_of((uint32_t)(w[0] | w[1] << 8) << 16);
    case GGUF_Q2_K:
    case GGUF_Q3_K:
    case GGUF_Q4_K:
    case GGUF_Q5_K:
    case GGUF_Q6_K: return weight_of_k(w, type, i);
    default: return weight_of_32(w, type, i);
    }
}
