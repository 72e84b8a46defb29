/* planning.c - machines and problems for tests of the planner. */
#include "tests/planning.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>

const planning_device planning_cpu = {.bytes_per_s = 60e9,
                                      .listed = 0.9,
                                      .sums = 0.8,
                                      .listed_at_low = 1,
                                      .op_per_s = 1.5e12,
                                      .operation_s = 1e-6,
                                      .submit_s = 5e-6};
const planning_device planning_gpu = {.bytes_per_s = 850e9,
                                      .listed = 0.8,
                                      .sums = 0.7,
                                      .listed_at_low = 1,
                                      .op_per_s = 60e12,
                                      .operation_s = 2.5e-6,
                                      .submit_s = 10e-6,
                                      .link_bytes_per_s = 23e9,
                                      .link_latency_s = 6e-6};

static machine_curve level(double rate) { return (machine_curve){.n = 1, .at = {4096}, .rate = {{rate, 0}}}; }

static void fill_device(machine_device *d, const planning_device *from, uint32_t i) {
    snprintf(d->name, sizeof d->name, i ? "cuda%u" : "cpu", i - 1);
    snprintf(d->model, sizeof d->model, "synthetic");
    snprintf(d->instructions, sizeof d->instructions, "none");
    d->kind = i ? MACHINE_CUDA : MACHINE_CPU;
    d->capacity_bytes = d->free_bytes = (uint64_t)1 << 40;
    d->alignment_bytes = 1;
    if (!i)
        d->processor =
            (machine_processor){.package_n = 1, .core_n = 8, .hardware_thread_n = 8, .thread_n = 8};
    for (uint32_t t = 0; t < GGUF_TYPE_MAX; t++) {
        if (!gguf_type_get(t)) continue;
        machine_weights *w = &d->weights[t];
        w->access[MACHINE_DENSE][MACHINE_SHARE_N - 1] = level(from->bytes_per_s);
        for (uint32_t k = 0; k < MACHINE_SHARE_N; k++) {
            double share = machine_share_percent[k] / 100.0;
            double at = from->listed_at_low + (1 - from->listed_at_low) * (share - 0.1) / 0.9;
            w->access[MACHINE_LISTED][k] = level(from->bytes_per_s * from->listed * at);
            w->access[MACHINE_SUMS][k] = level(from->bytes_per_s * from->sums * at);
            w->access[MACHINE_SUMS_BY_ROW][k] = level(from->bytes_per_s * from->sums * at);
        }
        w->products = level(from->op_per_s);
    }
    for (uint32_t k = 0; k < MACHINE_STATE_COUNT; k++)
        d->attention[k] = (machine_attention){{from->bytes_per_s * 0.6, 0}, {from->op_per_s * 0.3, 0}};
    d->select_items_per_s = (machine_rate){from->bytes_per_s / 8, 0};
    d->vector_items_per_s = (machine_rate){from->bytes_per_s / 16, 0};
    d->operation_s = (machine_rate){from->operation_s, 0};
    d->submit_s = (machine_rate){from->submit_s, 0};
}

machine_profile *planning_machine(const planning_device *device, uint32_t device_n) {
    hotset_error err = {0};
    machine_profile *m;
    cr_assert_eq(machine_make(&m, device_n, 2 * (device_n - 1), &err), HOTSET_OK, "%s", err.message);
    snprintf(m->provenance.made_by, sizeof m->provenance.made_by, "planning.c");
    m->provenance.synthetic = true;
    m->file_read_bytes_per_s = (machine_rate){3e9, 0};
    for (uint32_t i = 0; i < device_n; i++) fill_device(&m->device[i], &device[i], i);
    for (uint32_t i = 1, n = 0; i < device_n; i++) m->link[n++] = (machine_link){.from_i = 0, .to_i = i};
    for (uint32_t i = 1, n = device_n - 1; i < device_n; i++)
        m->link[n++] = (machine_link){.from_i = i, .to_i = 0};
    for (uint32_t k = 0; k < m->link_n; k++) {
        machine_link *l = &m->link[k];
        const planning_device *gpu = &device[l->from_i ? l->from_i : l->to_i];
        l->pinned_bytes_per_s = (machine_rate){gpu->link_bytes_per_s, 0};
        l->latency_s = l->handover_s = (machine_rate){gpu->link_latency_s / 2, 0};
        l->copy_factor = l->stream_factor = (machine_rate){0.9, 0};
    }
    cr_assert_eq(machine_check(m, &err), HOTSET_OK, "%s", err.message);
    return m;
}

/* splitmix64 */
static uint64_t next(planning_random *r) {
    uint64_t z = r->state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

double planning_uniform(planning_random *r, double low, double high) {
    return low + (high - low) * (double)(next(r) >> 11) * 0x1p-53;
}

uint32_t planning_below(planning_random *r, uint32_t n) { return (uint32_t)(planning_uniform(r, 0, 1) * n); }

machine_profile *planning_small_machine(planning_random *r, uint32_t gpu_max, bool level_rates) {
    planning_device d[PROBLEM_DEVICE_MAX];
    uint32_t n = 2 + planning_below(r, gpu_max);
    for (uint32_t i = 0; i < n; i++) {
        d[i] = i ? planning_gpu : planning_cpu;
        d[i].bytes_per_s *= planning_uniform(r, 0.4, 1.6);
        d[i].listed = planning_uniform(r, 0.5, 1);
        d[i].sums = planning_uniform(r, 0.5, 1);
        if (!level_rates) d[i].listed_at_low = planning_uniform(r, 0.4, 1);
        d[i].op_per_s *= planning_uniform(r, 0.5, 2);
        d[i].link_bytes_per_s *= planning_uniform(r, 0.3, 2);
        d[i].link_latency_s *= planning_uniform(r, 0.3, 2);
    }
    return planning_machine(d, n);
}

uint64_t planning_bytes(const problem *p) {
    uint64_t all = p->head.bytes + p->embedding_bytes + p->rotary_bytes;
    for (uint32_t i = 0; i < p->layer_n; i++) {
        const problem_layer *l = &p->layer[i];
        const problem_ffn *f = &l->ffn;
        all += l->shared.bytes + l->mixer_vector_bytes + l->ffn_vector_bytes + l->state_bytes + f->fc1.bytes;
        for (uint32_t k = 0; k < l->mixer_n; k++) all += l->mixer[k].bytes;
        all += f->unit_n * (f->gate.bytes + f->up.bytes + f->down.bytes + f->fc2.bytes);
        if (f->group_n) all += ((uint64_t)f->unit_n * f->neuron_n / f->group_n + 1) * f->scale_bytes;
    }
    return all;
}

/* A use of random skew and mean, in random order. */
static void random_use(planning_random *r, problem_ffn *f) {
    double skew = planning_uniform(r, 0, 1.2), mean = planning_uniform(r, 0.02, 0.4);
    if (f->kind == PROBLEM_DENSE) return;
    for (uint32_t i = 0; i < f->unit_n; i++)
        f->use[i] = (float)fmin(1, mean * f->unit_n * pow(i + 1.0, -skew) / f->unit_n * (1 + 2 * skew));
    for (uint32_t i = f->unit_n; i-- > 1;) {
        uint32_t j = planning_below(r, i + 1);
        float swapped = f->use[i];
        f->use[i] = f->use[j];
        f->use[j] = swapped;
    }
}

problem *planning_small(planning_random *r, const machine_profile *machine) {
    static const problem_ffn_kind kinds[] = {PROBLEM_DENSE, PROBLEM_EXACT, PROBLEM_PREDICTED};
    problem_shape s = {.layer_n = 1 + planning_below(r, 8),
                       .embd_n = 1024 * (1 + planning_below(r, 4)),
                       .vocab_n = 8000 + planning_below(r, 60000),
                       .head_n = 16,
                       .head_kv_n = 4,
                       .key_n = 128,
                       .value_n = 128,
                       .gated = planning_below(r, 4) > 0,
                       .dense_kind = kinds[planning_below(r, 3)],
                       .predictor_rank = 256,
                       .unit_neuron_n = 64 * (1 + planning_below(r, 6)),
                       .mixer_type = GGUF_F16,
                       .ffn_type = GGUF_F16,
                       .head_type = GGUF_F16,
                       .predictor_type = GGUF_F16,
                       .context_n = 2048 * (1 + planning_below(r, 4)),
                       .session_n = 1,
                       .batch_n = 256,
                       .state_type = MACHINE_STATE_F16};
    s.ff_n = s.unit_neuron_n * (4 + planning_below(r, 29));
    if (planning_below(r, 2)) {
        s.expert_n = 4 + planning_below(r, 29);
        s.expert_used_n = 1 + planning_below(r, 3);
        s.ff_expert_n = 64 * (1 + planning_below(r, 12));
        s.ff_shared_n = planning_below(r, 2) * 512;
        s.dense_layer_n = planning_below(r, s.layer_n);
    }
    s.tied = s.vocab_n % 3 == 0;
    hotset_error err = {0};
    problem *p;
    problem_assumption assumed = {.active = 0.1, .skew = 0.5, .expert_skew = 0.3};
    cr_assert_eq(problem_make(&p, &s, machine, NULL, &assumed, &err), HOTSET_OK, "%s", err.message);
    for (uint32_t i = 0; i < p->layer_n; i++) random_use(r, &p->layer[i].ffn);
    uint64_t all = planning_bytes(p);
    for (uint32_t d = 0; d < p->device_n; d++) {
        p->device[d].scratch_bytes = 1 << 20;
        p->device[d].limit_bytes =
            d ? (uint64_t)((double)all * planning_uniform(r, 0.05, 1.1)) + (2 << 20) : 4 * all;
    }
    return p;
}
