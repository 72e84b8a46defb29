/* synthetic_machines.c - the synthetic machines of profiles/machines, derived from datasheets by the rules
 * below: a plain program. It fails where a file in the tree is not what the rules give; with --write it
 * writes the files.
 *
 * One efficiency per kind of device and kind of work, fixed before any plan was made with them; where they
 * come from stands beside each. What is not measured anywhere is marked "assumed".
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "profiles/machine.h"

#define GIB ((uint64_t)1 << 30)

/* ---- Rules ---- */

/* The CPU. Dense streams of plain rows reach 0.9 to 1.0 of a read loop, and that about 0.85 of the DRAM's
 * datasheet. Sparse rows: GB/s per core by row size, with prefetch; sums: by bits of a weight. Together never
 * more than the part of the dense stream below. */
static const double cpu_dense = 0.80, cpu_sparse_max = 0.90, cpu_sums_by_row = 0.80;
static const uint32_t cpu_row_bytes[] = {1024, 2048, 4096};
static const double cpu_listed_core[] = {12e9, 16e9, 21e9};
/* Operations per core and Hz of products with 512 rows; AVX2, AVX-512 with VNNI; and the parts of it with 8
 * and 64 rows. Half of the float peak for attention. */
static const double cpu_int8_op[] = {40, 90}, cpu_float_op[] = {19, 19};
static const double cpu_rows_8 = 0.5, cpu_rows_64 = 0.9, cpu_attend = 0.5;
/* Seconds of a submission and an operation, neurons and floats per second: as measured on a server's core. */
static const double cpu_submit_s = 10e-6, cpu_operation_s = 1e-6, cpu_select = 0.5e9, cpu_vector = 5e9;
static const double cpu_mapped = 0.8; /* 4 KiB pages against 2 MiB pages */

/* GPUs. Vector products reach 0.85 to 0.98 of the read ceiling; sparse ones are assumed. Products: a portable
 * kernel of 4-byte dot products at 0.45 of that peak with 512 rows. */
static const double gpu_dense = 0.85, gpu_sums = 0.60, gpu_attend_read = 0.60, gpu_attend_op = 0.30;
static const uint32_t gpu_row_bytes[] = {1024, 2048};
static const double gpu_listed[] = {0.50, 0.65};
static const double gpu_rows_512 = 0.45, gpu_rows_64 = 0.30, gpu_rows_8_memory = 0.80;
static const double gpu_select = 10e9, gpu_vector = 50e9; /* assumed */
static const double cuda_operation_s = 2.5e-6,
                    cuda_submit_s = 8e-6;                           /* launch 1.3 to 3 us, with wait 4 to 7 */
static const double hip_operation_s = 5e-6, hip_submit_s = 15e-6;   /* assumed: twice that */
static const double cuda_handover_s = 3e-6, hip_handover_s = 10e-6; /* flags in pinned memory; host-driven */
static const uint64_t gpu_reserved_bytes = 768 << 20;               /* context and kernels, display */

/* Links: 0.74 (Gen4) to 0.87 (Gen5) of the datasheet were measured for copies of pinned memory, half of that
 * for pageable. A copy cannot be faster than the host's memory, and both together share it. */
static const double link_pinned = 0.80, link_pageable = 0.55, link_latency_s = 10e-6;
static const double host_memory = 0.85;

#define RULES                                                                                                \
    "Derived by tests/synthetic_machines.c from datasheets. CPU: dense streams 0.80 of the DRAM's "          \
    "bandwidth, listed rows 12, 16, 21 GB/s per core for rows of 1, 2, 4 KiB, sums over neurons 10 to 24 "   \
    "GB/s per core by bits per weight, neither above 0.90 of the dense stream. GPU: dense streams 0.85 of "  \
    "the memory's bandwidth, listed rows 0.50 and 0.65 (1, 2 KiB), sums 0.60, products 0.45 of the peak of " \
    "4-byte dot products with 512 rows. Links: pinned copies 0.80 of the datasheet, pageable 0.55 of that, " \
    "never more than the DRAM gives."

typedef struct cpu_sheet {
    const char *model;
    bool avx512;
    uint32_t core_n, hardware_thread_n;
    double hz;          /* with all cores at work */
    double bytes_per_s; /* of the DRAM */
    uint64_t memory_bytes;
    double file_bytes_per_s; /* half of the SSD's datasheet */
} cpu_sheet;

typedef struct gpu_sheet {
    const char *model, *instructions;
    machine_kind kind;
    uint64_t memory_bytes;
    double bytes_per_s, dot_op_per_s, float_op_per_s; /* memory, peaks of 4-byte dot products and of F32 */
    double link_bytes_per_s;                          /* datasheet, each direction */
} gpu_sheet;

/* Performance cores alone where there are two kinds. */
static const cpu_sheet ddr4 = {"AMD Ryzen 5 5600", false, 6, 12, 4.2e9, 51.2e9, 32 * GIB, 1.75e9};
static const cpu_sheet ddr5 = {"AMD Ryzen 7 7700", true, 8, 16, 4.9e9, 96e9, 64 * GIB, 3.5e9};
/* the two of the PowerInfer paper (arXiv 2312.12456) */
static const cpu_sheet pc_high = {"Intel Core i9-13900K", false, 8, 16, 5.0e9, 67.2e9, 192 * GIB, 3.5e9};
static const cpu_sheet pc_low = {"Intel Core i7-12700K", false, 8, 16, 4.7e9, 38.4e9, 64 * GIB, 1.75e9};
static const cpu_sheet small = {"AMD Ryzen 5 5600", false, 6, 12, 4.2e9, 51.2e9, 4 * GIB, 1.75e9};

/* Dot products: 512 operations per multiprocessor and cycle. */
static const gpu_sheet rtx3060 = {
    "NVIDIA GeForce RTX 3060", "sm_86", MACHINE_CUDA, 12 * GIB, 360e9, 25.5e12, 12.7e12, 31.5e9};
static const gpu_sheet rtx4070 = {
    "NVIDIA GeForce RTX 4070", "sm_89", MACHINE_CUDA, 12 * GIB, 504e9, 58.3e12, 29.1e12, 31.5e9};
static const gpu_sheet rtx4090 = {
    "NVIDIA GeForce RTX 4090", "sm_89", MACHINE_CUDA, 24 * GIB, 1008e9, 165e12, 82.6e12, 31.5e9};
static const gpu_sheet rtx5090 = {
    "NVIDIA GeForce RTX 5090", "sm_120", MACHINE_CUDA, 32 * GIB, 1792e9, 209e12, 104.8e12, 63e9};
static const gpu_sheet rx7900xtx = {
    "AMD Radeon RX 7900 XTX", "gfx1100", MACHINE_HIP, 24 * GIB, 960e9, 123e12, 30.7e12, 31.5e9};
static const gpu_sheet rtx2080ti = {
    "NVIDIA GeForce RTX 2080 Ti", "sm_75", MACHINE_CUDA, 11 * GIB, 616e9, 53.8e12, 13.4e12, 15.75e9};
static const gpu_sheet pro6000 = {
    "NVIDIA RTX PRO 6000", "sm_120", MACHINE_CUDA, 96 * GIB, 1792e9, 246e12, 125e12, 63e9};
/* slower than the DDR5 beside it */
static const gpu_sheet gt1030 = {
    "NVIDIA GeForce GT 1030", "sm_61", MACHINE_CUDA, 2 * GIB, 48e9, 2.3e12, 1.1e12, 3.9e9};
static const gpu_sheet tiny = {
    "a card with 1 GiB", "sm_75", MACHINE_CUDA, 1 * GIB, 80e9, 5e12, 2.5e12, 15.75e9};

static const struct {
    const char *name;
    const cpu_sheet *cpu;
    const gpu_sheet *gpu[2];
} machines[] = {
    {"cpu-ddr4", &ddr4, {NULL, NULL}},
    {"cpu-ddr5", &ddr5, {NULL, NULL}},
    {"rtx3060-ddr4", &ddr4, {&rtx3060, NULL}},
    {"rtx3060-ddr5", &ddr5, {&rtx3060, NULL}},
    {"rtx4070-ddr4", &ddr4, {&rtx4070, NULL}},
    {"rtx4070-ddr5", &ddr5, {&rtx4070, NULL}},
    {"rtx4090-ddr4", &ddr4, {&rtx4090, NULL}},
    {"rtx4090-ddr5", &ddr5, {&rtx4090, NULL}},
    {"rtx5090-ddr4", &ddr4, {&rtx5090, NULL}},
    {"rtx5090-ddr5", &ddr5, {&rtx5090, NULL}},
    {"rx7900xtx-ddr4", &ddr4, {&rx7900xtx, NULL}},
    {"rx7900xtx-ddr5", &ddr5, {&rx7900xtx, NULL}},
    {"rtx4070-rx7900xtx-ddr5", &ddr5, {&rtx4070, &rx7900xtx}},
    {"powerinfer-pc-high", &pc_high, {&rtx4090, NULL}},
    {"powerinfer-pc-low", &pc_low, {&rtx2080ti, NULL}},
    {"slow-gpu", &ddr5, {&gt1030, NULL}},
    {"all-fits", &ddr5, {&pro6000, NULL}},
    {"nothing-fits", &small, {&tiny, NULL}},
};

/* Types, and what a core makes of sums over neurons. */
static const struct {
    gguf_type type;
    double sums_core;
} types[] = {
    {GGUF_F32, 24e9},  {GGUF_F16, 20e9},  {GGUF_BF16, 20e9}, {GGUF_Q4_0, 10e9},  {GGUF_Q8_0, 18e9},
    {GGUF_Q4_K, 10e9}, {GGUF_Q5_K, 11e9}, {GGUF_Q6_K, 12e9}, {GGUF_MXFP4, 10e9},
};

/* ---- Profiles by these rules ---- */

/* A curve of this share alone serves all shares. */
enum { ALL = MACHINE_SHARE_N - 1 };

static machine_rate rate(double value) { return (machine_rate){machine_round(value), 0}; }

static void add(machine_curve *c, uint32_t at, double value) {
    c->at[c->n] = at;
    c->rate[c->n++] = rate(value);
}

static bool is_float(gguf_type type) { return gguf_type_get(type)->block_n == 1; }

/* Operations of one row per byte of weights. */
static double op_per_byte(gguf_type type) {
    const gguf_type_info *info = gguf_type_get(type);
    return 2.0 * info->block_n / info->block_bytes;
}

static void add_products(machine_curve *c, double row_1, double row_8, double row_64, double row_512) {
    add(c, 1, row_1);
    add(c, 8, fmin(row_8, 8 * row_1));
    add(c, 64, fmin(row_64, 64 * row_1));
    add(c, 512, fmin(row_512, 512 * row_1));
}

static void fill_cpu_type(machine_weights *w, const cpu_sheet *s, gguf_type type, double sums_core) {
    double dense = cpu_dense * s->bytes_per_s, sparse_max = cpu_sparse_max * dense;
    double sums = fmin(s->core_n * sums_core, sparse_max);
    double op = (is_float(type) ? cpu_float_op : cpu_int8_op)[s->avx512] * s->core_n * s->hz;
    add(&w->access[MACHINE_DENSE][ALL], 2048, dense);
    for (size_t i = 0; i < COUNT_OF(cpu_row_bytes); i++)
        for (int share = 0; share < ALL; share++)
            add(&w->access[MACHINE_LISTED][share], cpu_row_bytes[i],
                fmin(s->core_n * cpu_listed_core[i], sparse_max));
    add(&w->access[MACHINE_LISTED][ALL], 2048, sparse_max);
    add(&w->access[MACHINE_SUMS][ALL], 2048, sums);
    if (!is_float(type)) add(&w->access[MACHINE_SUMS_BY_ROW][ALL], 2048, cpu_sums_by_row * sums);
    add_products(&w->products, dense * op_per_byte(type), cpu_rows_8 * op, cpu_rows_64 * op, op);
}

static void fill_cpu(machine_device *d, const cpu_sheet *s) {
    double dense = cpu_dense * s->bytes_per_s, float_op = cpu_float_op[s->avx512] * s->core_n * s->hz;
    snprintf(d->name, sizeof d->name, "cpu");
    snprintf(d->model, sizeof d->model, "%s", s->model);
    snprintf(d->instructions, sizeof d->instructions, "%s", s->avx512 ? "avx512" : "avx2");
    d->kind = MACHINE_CPU;
    d->capacity_bytes = s->memory_bytes;
    d->free_bytes = s->memory_bytes / 8 * 7;
    d->alignment_bytes = 64;
    d->processor = (machine_processor){1, s->core_n, s->hardware_thread_n, s->core_n, {0}};
    d->submit_s = rate(cpu_submit_s);
    d->operation_s = rate(cpu_operation_s);
    d->select_items_per_s = rate(cpu_select);
    d->vector_items_per_s = rate(cpu_vector);
    d->mapped_factor = rate(cpu_mapped);
    for (int i = 0; i <= MACHINE_STATE_F32; i++) /* of Q8_0 no sheet says more than machine_attend_s */
        d->attention[i] = (machine_attention){rate(dense), rate(cpu_attend * float_op)};
    for (size_t i = 0; i < COUNT_OF(types); i++)
        fill_cpu_type(&d->weights[types[i].type], s, types[i].type, types[i].sums_core);
}

static void fill_gpu_type(machine_weights *w, const gpu_sheet *s, gguf_type type) {
    double dense = gpu_dense * s->bytes_per_s, sums = gpu_sums * s->bytes_per_s;
    double peak = is_float(type) ? s->float_op_per_s : s->dot_op_per_s, row_1 = dense * op_per_byte(type);
    add(&w->access[MACHINE_DENSE][ALL], 2048, dense);
    for (size_t i = 0; i < COUNT_OF(gpu_row_bytes); i++)
        add(&w->access[MACHINE_LISTED][ALL], gpu_row_bytes[i], gpu_listed[i] * s->bytes_per_s);
    add(&w->access[MACHINE_SUMS][ALL], 2048, sums);
    if (!is_float(type)) add(&w->access[MACHINE_SUMS_BY_ROW][ALL], 2048, sums);
    add_products(&w->products, row_1, fmin(gpu_rows_8_memory * 8 * row_1, gpu_rows_64 * peak),
                 gpu_rows_64 * peak, gpu_rows_512 * peak);
}

static void fill_gpu(machine_device *d, const gpu_sheet *s, uint32_t number) {
    bool cuda = s->kind == MACHINE_CUDA;
    snprintf(d->name, sizeof d->name, "%s%u", machine_kind_name(s->kind), number);
    snprintf(d->model, sizeof d->model, "%s", s->model);
    snprintf(d->instructions, sizeof d->instructions, "%s", s->instructions);
    d->kind = s->kind;
    d->capacity_bytes = s->memory_bytes;
    d->free_bytes = s->memory_bytes - gpu_reserved_bytes;
    d->alignment_bytes = 256;
    d->submit_s = rate(cuda ? cuda_submit_s : hip_submit_s);
    d->operation_s = rate(cuda ? cuda_operation_s : hip_operation_s);
    d->select_items_per_s = rate(gpu_select);
    d->vector_items_per_s = rate(gpu_vector);
    for (int i = 0; i <= MACHINE_STATE_F32; i++) /* of Q8_0 no sheet says more than machine_attend_s */
        d->attention[i] = (machine_attention){rate(gpu_attend_read * s->bytes_per_s),
                                              rate(gpu_attend_op * s->float_op_per_s)};
    for (size_t i = 0; i < COUNT_OF(types); i++) fill_gpu_type(&d->weights[types[i].type], s, types[i].type);
}

static machine_link link_of(uint32_t from_i, uint32_t to_i, const gpu_sheet *g, const cpu_sheet *c) {
    double memory = host_memory * c->bytes_per_s, pinned = fmin(link_pinned * g->link_bytes_per_s, memory);
    double shared = fmin(1, memory / (pinned + cpu_dense * c->bytes_per_s));
    return (machine_link){.from_i = from_i,
                          .to_i = to_i,
                          .pinned_bytes_per_s = rate(pinned),
                          .pageable_bytes_per_s = rate(link_pageable * pinned),
                          .latency_s = rate(link_latency_s),
                          .handover_s = rate(g->kind == MACHINE_CUDA ? cuda_handover_s : hip_handover_s),
                          .copy_factor = rate(shared),
                          .stream_factor = rate(shared)};
}

/* Aborts on what can only be a mistake in the tables. */
static machine_profile *make(size_t machine_i) {
    const cpu_sheet *cpu = machines[machine_i].cpu;
    const gpu_sheet *const *gpu = machines[machine_i].gpu;
    uint32_t gpu_n = !gpu[0] ? 0 : !gpu[1] ? 1 : 2, link_i = 0;
    hotset_error err = {0};
    machine_profile *p;
    if (machine_make(&p, 1 + gpu_n, 2 * gpu_n, &err)) {
        fprintf(stderr, "%s: %s\n", machines[machine_i].name, err.message);
        exit(1);
    }
    fill_cpu(&p->device[0], cpu);
    for (uint32_t i = 0; i < gpu_n; i++) fill_gpu(&p->device[1 + i], gpu[i], 0);
    for (uint32_t i = 0; i < gpu_n; i++) p->link[link_i++] = link_of(0, 1 + i, gpu[i], cpu);
    for (uint32_t i = 0; i < gpu_n; i++) p->link[link_i++] = link_of(1 + i, 0, gpu[i], cpu);
    p->file_read_bytes_per_s = rate(cpu->file_bytes_per_s);
    p->provenance.synthetic = true;
    snprintf(p->provenance.made_by, sizeof p->provenance.made_by, "synthetic_machines");
    snprintf(p->provenance.note, sizeof p->provenance.note, "%s", RULES);
    return p;
}

/* ---- Files ---- */

typedef struct comparison {
    const char *data;
    size_t bytes, at;
    bool differs;
} comparison;

static void compare(void *cookie, const char *text, size_t bytes) {
    comparison *c = cookie;
    if (c->differs) return;
    c->differs = bytes > c->bytes - c->at || memcmp(c->data + c->at, text, bytes) != 0;
    if (!c->differs) c->at += bytes;
}

static hotset_status check_file(const machine_profile *p, const char *path, hotset_error *err) {
    file_map map;
    HOTSET_TRY(file_map_open(&map, path, err));
    comparison c = {.data = (const char *)map.data, .bytes = map.bytes};
    hotset_status status = machine_print(p, compare, &c, err);
    file_map_close(&map);
    if (!status && (c.differs || c.at != c.bytes))
        status =
            hotset_fail(err, HOTSET_E_FORMAT,
                        "%s: is not what the rules give, from byte %zu on (--write writes it)", path, c.at);
    return status;
}

int main(int argc, char **argv) {
    bool write = argc > 1 && !strcmp(argv[1], "--write");
    int failed = 0;
    for (size_t i = 0; i < COUNT_OF(machines); i++) {
        char path[4096];
        hotset_error err = {0};
        machine_profile *p = make(i);
        snprintf(path, sizeof path, HOTSET_SOURCE_DIR "/profiles/machines/%s.json", machines[i].name);
        if (write ? machine_write(p, path, &err) : check_file(p, path, &err)) {
            fprintf(stderr, "%s\n", err.message);
            failed = 1;
        }
        machine_free(p);
    }
    return failed;
}
