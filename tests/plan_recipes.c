/* plan_recipes.c - plans made by hand. */
#include "tests/plan_recipes.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define SET(field, text) snprintf(field, sizeof(field), "%s", text)

static const uint64_t MIB = (uint64_t)1 << 20, GIB = (uint64_t)1 << 30;

const plan_recipe recipe_cpu = {.layer_n = 22,
                                .unit_n = 176,
                                .neuron_n = 32,
                                .predicted = true,
                                .measured = true,
                                .gains = true,
                                .name = "TinyLlama 1.1B ReLU"};
const plan_recipe recipe_gpu = {.layer_n = 32,
                                .unit_n = 344,
                                .neuron_n = 32,
                                .gpu_n = 1,
                                .gpu_units = 0.28,
                                .gpu_homes = 32,
                                .predicted = true,
                                .gains = true,
                                .streamed = true,
                                .mapped = true,
                                .name = "ReluLLaMA-7B"};
const plan_recipe recipe_two_gpus = {.layer_n = 48,
                                     .unit_n = 128,
                                     .neuron_n = 768,
                                     .gpu_n = 2,
                                     .experts = true,
                                     .gpu_units = 0.125,
                                     .file_units = 0.25,
                                     .gpu_homes = 40,
                                     .predicted = true,
                                     .measured = true,
                                     .gains = true,
                                     .name = "Qwen3-30B-A3B"};
const plan_recipe recipe_bare = {.layer_n = 2, .unit_n = 8, .neuron_n = 256};
const plan_recipe recipe_many = {.layer_n = 126,
                                 .unit_n = 64,
                                 .neuron_n = 832,
                                 .gpu_n = 1,
                                 .gpu_units = 0.1,
                                 .gpu_homes = 30,
                                 .predicted = true,
                                 .gains = true,
                                 .name = "Llama-3.1-405B"};
const plan_recipe recipe_wide = {
    .layer_n = 1, .unit_n = 1 << 20, .neuron_n = 1, .gpu_n = 1, .gpu_units = 0.25, .predicted = true};

float plan_recipe_use(const plan_recipe *r, uint32_t layer_i, uint32_t unit_i) {
    double at = (unit_i + 0.5) / r->unit_n, skew = 1 + 0.8 * cos(layer_i * 0.7);
    return (float)(0.9 * exp(-(3.5 + skew) * at) * (1 - 0.5 * at));
}

float **plan_recipe_uses(const plan_recipe *r) {
    float **use = calloc(1, r->layer_n * (sizeof *use + (size_t)r->unit_n * sizeof **use));
    cr_assert(use);
    for (uint32_t i = 0; i < r->layer_n; i++) {
        use[i] = (float *)(use + r->layer_n) + (size_t)i * r->unit_n;
        for (uint32_t u = 0; u < r->unit_n; u++) use[i][u] = plan_recipe_use(r, i, u);
    }
    return use;
}

static void set_device(const plan_recipe *r, plan_data *p, uint32_t d, uint64_t unit_n) {
    static const char *const models[] = {"AMD Ryzen 7 7700", "NVIDIA GeForce RTX 4070",
                                         "AMD Radeon RX 7900 XTX"};
    static const char *const names[] = {"cpu", "cuda0", "hip0"};
    static const machine_kind kinds[] = {MACHINE_CPU, MACHINE_CUDA, MACHINE_HIP};
    plan_device *device = &p->device[d];
    plan_ledger *l = &device->ledger;
    uint64_t home_n = 0;
    for (uint32_t i = 0; i < p->layer_n; i++) home_n += p->layer[i].home == d;
    SET(device->name, names[d]);
    SET(device->model, models[d]);
    device->kind = kinds[d];
    device->declared = d == 2;
    l->dense = home_n * 40 * MIB;
    l->state = home_n * 8 * MIB;
    l->units = unit_n * 4096 * (uint64_t)r->neuron_n / 2 * 3;
    l->scratch = 37 * MIB + d;
    l->tables = unit_n * 4;
    if (d == 0) l->embedding = 131 * MIB;
    if (d == p->head) l->head = 131 * MIB;
    if (d == 0 && r->mapped) l->mapped = l->units / 2;
    l->total = l->dense + l->state + l->units + l->scratch + l->tables + l->embedding + l->head - l->mapped;
    device->limit_bytes = (l->total / GIB + 1) * GIB;
}

static void place_units(const plan_recipe *r, plan_layer *l, uint32_t layer_i, uint64_t *unit_n) {
    double all = 0;
    for (uint32_t u = 0; u < r->unit_n; u++) all += plan_recipe_use(r, layer_i, u);
    uint32_t each = (uint32_t)(r->gpu_units * r->unit_n), file = (uint32_t)(r->file_units * r->unit_n);
    for (uint32_t u = 0; u < r->unit_n; u++) {
        double use = plan_recipe_use(r, layer_i, u) / all;
        uint32_t d = each && u / each < r->gpu_n ? 1 + u / each : 0;
        if (u >= r->unit_n - file) {
            l->place[u] = PLAN_IN_FILE;
            l->file_use += use;
        } else {
            l->place[u] = (uint8_t)d;
            l->use[d] += use;
            unit_n[d]++;
        }
    }
}

static double set_times(const plan_recipe *r, plan_data *p) {
    double token_s = 0;
    for (uint32_t i = 0; i < p->layer_n; i++) {
        plan_layer *l = &p->layer[i];
        double most = 0;
        l->send_s = (i ? p->layer[i - 1].home : 0) != l->home ? 18e-6 : 0;
        l->mixer_s = l->home ? 90e-6 : 310e-6;
        l->busy_s[0] = 520e-6 * (l->use[0] + 2 * l->file_use) + 20e-6;
        for (uint32_t d = 1; d < p->device_n; d++)
            if (l->use[d] > 0) l->busy_s[d] = 260e-6 * l->use[d] / d + 25e-6, l->merge_s += 7e-6;
        for (uint32_t d = 0; d < p->device_n; d++) most = fmax(most, l->busy_s[d]);
        l->chunk_s = 0.0125;
        l->streamed = r->streamed && i % 8 != 0;
        token_s += l->send_s + l->mixer_s + most + l->merge_s;
    }
    p->head_s = 410e-6;
    p->submit_s = 12e-6 * p->device_n;
    p->chunk_s = 0.0125 * p->layer_n;
    p->stream_row_n = r->streamed ? 48 : 0;
    return token_s + p->head_s + p->submit_s;
}

static void set_whatifs(const plan_recipe *r, plan_data *p) {
    static const char *const whats[] = {"20 % faster host memory", "1 GiB more on cpu",
                                        "1 GiB more on cuda0"};
    static const double factors[] = {0.93, 0.999, 0.88};
    for (uint32_t i = 0; r->gains && i < 2 + (r->gpu_n > 0); i++) {
        SET(p->gain[p->gain_n].what, whats[i]);
        p->gain[p->gain_n++].token_s = p->token_s * factors[i];
    }
    for (uint32_t i = 0; r->measured && i < 3; i++) {
        plan_measured *m = &p->measured[p->measured_n++];
        SET(m->what, i == 0 ? "exact, copied" : i == 1 ? "exact, mapped" : "all on the CPU");
        m->predicted_s = p->token_s * (1 + 0.1 * i);
        m->measured_s = m->predicted_s * (1.031 + 0.02 * i);
        m->spread = 0.012;
        m->kept = i == 0;
    }
}

plan_data *plan_recipe_make(const plan_recipe *r) {
    uint32_t *unit_ns = calloc(r->layer_n, sizeof *unit_ns);
    uint64_t unit_n[PLAN_DEVICE_MAX] = {0};
    hotset_error err = {0};
    plan_data *p;
    for (uint32_t i = 0; i < r->layer_n; i++) unit_ns[i] = r->unit_n;
    cr_assert_eq(plan_data_make(&p, r->layer_n, unit_ns, &err), HOTSET_OK, "%s", err.message);
    free(unit_ns);
    p->device_n = 1 + r->gpu_n;
    p->head = r->gpu_n && r->gpu_homes ? r->gpu_n : 0;
    for (uint32_t i = 0; i < p->layer_n; i++) {
        plan_layer *l = &p->layer[i];
        uint32_t from_end = p->layer_n - i;
        l->kind = r->experts ? PLAN_EXPERTS : PLAN_NEURONS;
        l->neuron_n = r->neuron_n;
        if (from_end <= r->gpu_homes) l->home = r->gpu_n - (from_end - 1) * r->gpu_n / r->gpu_homes;
        place_units(r, l, i, unit_n);
    }
    for (uint32_t d = 0; d < p->device_n; d++) set_device(r, p, d, unit_n[d]);
    SET(p->made_by, "hotset 0.4.0");
    SET(p->architecture, r->experts ? "qwen3moe" : "llama");
    SET(p->name, r->name ? r->name : "");
    SET(p->activations, r->activations ? r->activations : "wiki.gguf: 100,000 tokens of 3 texts");
    p->shape = 0x0123456789abcdef;
    p->weights = r->name ? 0xfedcba9876543210 : 0;
    p->context_n = 4096;
    p->session_n = 1;
    p->batch_n = 256;
    p->thread_n = 8;
    p->sparsity = r->experts ? PLAN_DENSE : PLAN_EXACT;
    p->memory = r->mapped ? PLAN_MAPPED : PLAN_COPIED;
    if (r->predicted) p->token_s = set_times(r, p);
    set_whatifs(r, p);
    cr_assert_eq(plan_data_check(p, &err), HOTSET_OK, "%s", err.message);
    return p;
}
