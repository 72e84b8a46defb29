/* by_neuron.h - block types stored by neuron (devices/neurons.h), as kernels read them. */
#ifndef HOTSET_GPU_BY_NEURON_H
#define HOTSET_GPU_BY_NEURON_H

#include "devices/gpu/products.h"

#ifdef __cplusplus

/* Neurons that share scales. */
template <gguf_type T> GPU_DEVICE uint32_t gpu_neuron_group_n() {
    return T == GGUF_Q8_0 || T == GGUF_Q4_0 ? 32 : GPU_SUPER;
}
/* Bytes of a neuron's quants, of which those of 4 bits begin its row. */
template <gguf_type T> GPU_DEVICE size_t gpu_neuron_bytes(uint32_t out_n) {
    return T == GGUF_Q8_0 ? (size_t)out_n : T == GGUF_Q6_K ? (size_t)out_n / 4 * 3 : (size_t)out_n / 2;
}
/* Group number g. */
template <gguf_type T>
GPU_DEVICE const uint8_t *gpu_neuron_group(const uint8_t *data, uint32_t out_n, uint32_t g) {
    const size_t header = T == GGUF_Q4_K ? 16 : T == GGUF_Q6_K ? 18 : 2;
    return data + g * (gpu_neuron_group_n<T>() * gpu_neuron_bytes<T>(out_n) + header * out_n);
}

/* Eight quants of a neuron as bytes without offset: outputs 4j .. 4j + 3 of run number `run` and those 16
 * further on. j < 4. */
template <gguf_type T>
GPU_DEVICE gpu_8 gpu_neuron_quants(const uint8_t *neuron, uint32_t out_n, uint32_t run, uint32_t j) {
    gpu_8 q;
    if (T == GGUF_Q8_0) {
        q.w[0] = *(const uint32_t *)(neuron + (size_t)32 * run + 4 * j);
        q.w[1] = *(const uint32_t *)(neuron + (size_t)32 * run + 4 * j + 16);
        return q;
    }
    const uint32_t w = *(const uint32_t *)(neuron + (size_t)16 * run + 4 * j);
    q.w[0] = gpu_nibbles(w, 0);
    q.w[1] = gpu_nibbles(w, 4);
    if (T == GGUF_Q6_K) {
        const uint32_t h = *(const uint32_t *)(neuron + out_n / 2 + (size_t)8 * run + 4 * (j % 2));
        const uint32_t shift = j / 2 * 2;
        q.w[0] |= (h >> shift & 0x03030303u) << 4;
        q.w[1] |= (h >> (shift + 4) & 0x03030303u) << 4;
    }
    return q;
}
/* What has to be taken off such a quant. */
template <gguf_type T> GPU_DEVICE int gpu_neuron_offset() {
    return T == GGUF_Q4_0 ? 8 : T == GGUF_Q6_K ? 32 : 0;
}

/* Scales of output o for both halves of part number `part` (32 neurons) of a group, and its minimum. */
template <gguf_type T>
GPU_DEVICE void gpu_neuron_scales(float scale[2], float *min, const uint8_t *group, uint32_t out_n,
                                  uint32_t part, uint32_t o) {
    const uint8_t *planes = group + gpu_neuron_group_n<T>() * gpu_neuron_bytes<T>(out_n);
    *min = 0;
    if (T == GGUF_Q6_K) {
        const float d = gpu_half_at(planes + (size_t)16 * out_n + 2 * (size_t)o);
        for (uint32_t h = 0; h < 2; h++)
            scale[h] = d * (float)(int8_t)planes[(2 * part + h) * (size_t)out_n + o];
        return;
    }
    scale[0] = scale[1] = gpu_half_at(planes + 2 * (size_t)o);
    if (T != GGUF_Q4_K) return;
    uint32_t s[3] = {0, 0, 0};
    const uint8_t *bytes = planes + (size_t)4 * out_n + o;
    const uint32_t shift = 8 * (part % 4);
    s[0] = (uint32_t)bytes[(size_t)(part % 4) * out_n] << shift;
    s[1] = (uint32_t)bytes[(size_t)(4 + part % 4) * out_n] << shift;
    if (part >= 4) s[2] = (uint32_t)bytes[(size_t)(8 + part % 4) * out_n] << shift;
    float factor;
    gpu_q4_k_scale(s, part, &factor, min);
    scale[0] = scale[1] = scale[0] * factor;
    *min *= gpu_half_at(planes + (size_t)2 * out_n + 2 * (size_t)o);
}

#endif
#endif
