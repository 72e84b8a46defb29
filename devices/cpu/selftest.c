/* selftest.c - a known-answer test of the kernels in use. */
#include "devices/cpu/selftest.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "devices/quant.h"

enum { ROW_N = 4, K = 512, ROW_BYTES_MAX = K * 4 };

static uint64_t next_random(uint64_t *state) { /* splitmix64 */
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static float next_float(uint64_t *state) { return (float)(next_random(state) >> 40) / (float)(1 << 23) - 1; }

/* Random quants with every scale of a block set to the same harmless number. */
static void fill_blocks(uint8_t *w, uint64_t bytes, gguf_type type, uint64_t *state) {
    const gguf_type_info *info = gguf_type_get(type);
    uint16_t scale = ref_f32_to_f16(0.01f);
    for (uint64_t i = 0; i < bytes; i++) w[i] = (uint8_t)next_random(state);
    for (uint8_t *block = w; block < w + bytes; block += info->block_bytes) {
        if (type == GGUF_Q6_K)
            memcpy(block + offsetof(quant_q6_k, d), &scale, 2);
        else
            memcpy(block, &scale, 2);
        if (type == GGUF_Q4_K) memcpy(block + offsetof(quant_q4_k, dmin), &scale, 2);
    }
}

static void fill_floats(uint8_t *w, uint64_t n, gguf_type type, uint64_t *state) {
    for (uint64_t i = 0; i < n; i++) {
        float x = next_float(state);
        uint16_t half = type == GGUF_F16 ? ref_f32_to_f16(x) : ref_f32_to_bf16(x);
        if (type == GGUF_F32)
            memcpy(w + 4 * i, &x, 4);
        else
            memcpy(w + 2 * i, &half, 2);
    }
}

static hotset_status test_type(const cpu_kernels *k, gguf_type type, uint8_t *w, void *act,
                               hotset_error *err) {
    uint64_t state = type, row_bytes = gguf_row_bytes(type, K);
    bool quantised = gguf_type_get(type)->block_n > 1;
    float x[K], got[ROW_N], want[ROW_N];
    for (int i = 0; i < K; i++) x[i] = next_float(&state);
    if (quantised)
        fill_blocks(w, row_bytes * ROW_N, type, &state);
    else
        fill_floats(w, ROW_N * K, type, &state);
    k->matmul[type].act_pack(act, x, K);
    k->matmul[type].gemv(got, w, row_bytes, ROW_N, act, K);
    if (quantised)
        ref_gemv_int(want, w, row_bytes, ROW_N, x, K, type);
    else
        ref_gemv_float(want, w, row_bytes, ROW_N, x, K, type);
    double difference = 0, norm = 0;
    for (int i = 0; i < ROW_N; i++) {
        difference += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
        norm += (double)want[i] * want[i];
    }
    if (sqrt(difference) <= 1e-5 * sqrt(norm)) return HOTSET_OK;
    return hotset_fail(err, HOTSET_E_DEVICE,
                       "cpu: the %s kernels compute wrong %s products (relative error %.1e)", k->isa,
                       gguf_type_get(type)->name, sqrt(difference / norm));
}

hotset_status cpu_selftest(const cpu_kernels *k, hotset_error *err) {
    uint64_t act_bytes = 0;
    for (int type = 0; type < GGUF_TYPE_MAX; type++)
        if (k->matmul[type].act_bytes) act_bytes = max_u64(act_bytes, k->matmul[type].act_bytes(K));
    uint8_t *memory = aligned_alloc(CPU_ALIGN, round_up(act_bytes, CPU_ALIGN) + ROW_N * ROW_BYTES_MAX);
    if (!memory) return hotset_fail(err, HOTSET_E_MEMORY, "out of memory for the CPU's self-test");
    hotset_status status = HOTSET_OK;
    for (int type = 0; type < GGUF_TYPE_MAX && !status; type++)
        if (k->matmul[type].act_bytes)
            status = test_type(k, (gguf_type)type, memory + round_up(act_bytes, CPU_ALIGN), memory, err);
    free(memory);
    return status;
}
