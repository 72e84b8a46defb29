/* products.h - what LINEAR and EXPERTS have in common, between matvec.cu (few rows), matmul.cu (many) and
 * neurons.cu (few rows of matrices stored by neuron or by row).
 *
 * Both are products of vectors with matrices: a row's one vector, or one for each expert that it uses. Lists
 * of active neurons are followed by few rows only: SELECT of this device decides against them in lists made
 * for more (neurons.cu), whose kernels therefore need not know them.
 */
#ifndef HOTSET_GPU_PRODUCTS_H
#define HOTSET_GPU_PRODUCTS_H

#include "devices/gpu/dequant.h"

#ifdef __cplusplus

enum {
    GPU_FEW_ROWS = 8,       /* rows that share one walk through the weights */
    GPU_FEW_USES = 4,       /* of an expert, on average, until which it is walked for each */
    GPU_GRID_Y_MAX = 65535, /* blocks in the second direction */
    GPU_PLANE_FORMS = 2     /* activations by blocks of 32 and of 256 */
};

/* ---- The operation, for the host ---- */

typedef struct gpu_product {
    const device_op *op;
    device_rows x, id; /* id absent: one matrix */
    bool x_per_use;
    uint32_t used_n, part_n, in_n;
    const device_linear_part *part;
    const device_choice *choice;
} gpu_product;

static inline gpu_product gpu_product_of(const device_op *op) {
    gpu_product p = {};
    p.op = op;
    if (op->kind == DEVICE_OP_LINEAR) {
        p.x = op->linear.x;
        p.used_n = 1;
        p.part_n = op->linear.part_n;
        p.part = op->linear.part;
        p.choice = &op->linear.choice;
    } else if (op->kind == DEVICE_OP_EXPERTS) {
        p.x = op->experts.x;
        p.id = op->experts.id;
        p.x_per_use = op->experts.x_per_use;
        p.used_n = op->experts.used_n;
        p.part_n = op->experts.part_n;
        p.part = op->experts.part;
        p.choice = &op->experts.choice;
    }
    p.in_n = p.part[0].w.in_n;
    return p;
}

/* Whether so many rows go through the weights vector by vector. Experts do until each is used by a few of
 * them: a tile is mostly empty before. */
static inline bool gpu_few(uint32_t row_max, uint32_t used_n, uint32_t unit_n) {
    return row_max <= GPU_FEW_ROWS || (uint64_t)row_max * used_n <= (uint64_t)GPU_FEW_USES * unit_n;
}
static inline bool gpu_is_few(const gpu_product *p) {
    return gpu_few(p->op->row_max, p->used_n, p->part[0].w.unit_n);
}
static inline bool gpu_is_float(gguf_type type) {
    return type == GGUF_F32 || type == GGUF_F16 || type == GGUF_BF16;
}
/* Matrices that neurons.cu sums: down of few rows. */
static inline bool gpu_by_sums(const gpu_product *p, const device_matrix *m) {
    return m->order != NEURONS_BY_OUTPUT && gpu_is_few(p);
}
/* Values that share a scale in the activations that a matrix takes, 0: it takes floats. */
static inline uint32_t gpu_act_block(const device_matrix *m) {
    if (gpu_is_float(m->type) || m->order == NEURONS_BY_ROW) return 0;
    return m->type == GGUF_Q8_0 || m->type == GGUF_Q4_0 ? 32 : GPU_SUPER;
}
/* Vectors of the operation's input, and of its outputs. */
static inline uint32_t gpu_input_max(const gpu_product *p) {
    return p->x_per_use ? p->op->row_max * p->used_n : p->op->row_max;
}
static inline uint32_t gpu_use_max(const gpu_product *p) { return p->op->row_max * p->used_n; }
static inline uint32_t gpu_pieces(uint32_t n, uint32_t per_piece) { return (n + per_piece - 1) / per_piece; }
static inline uint64_t gpu_up(uint64_t bytes) { return (bytes + GPU_ALIGN - 1) / GPU_ALIGN * GPU_ALIGN; }

/* Where the parts of an operation's workspace begin. */
typedef struct gpu_layout {
    bool form[GPU_PLANE_FORMS]; /* some part takes these activations */
    uint64_t planes[GPU_PLANE_FORMS], groups, sums, bytes;
} gpu_layout;

static inline uint64_t gpu_planes_bytes(uint64_t vector_n, uint32_t k) {
    return gpu_up(vector_n * k) + 2 * gpu_up(vector_n * (k / GPU_GROUP) * 4);
}

gpu_layout gpu_layout_of(const gpu_product *p);
static inline gpu_planes gpu_planes_at(const gpu_product *p, const gpu_layout *l, uint8_t *workspace,
                                       uint32_t block_n) {
    const uint64_t n = gpu_input_max(p);
    uint8_t *at = workspace + l->planes[block_n == GPU_SUPER], *d = at + gpu_up(n * p->in_n);
    gpu_planes planes = {(int8_t *)at, (float *)d, (uint32_t *)(d + gpu_up(n * (p->in_n / GPU_GROUP) * 4)),
                         p->in_n};
    return planes;
}

/* matmul.cu: all parts of an operation of many rows; bytes behind the planes. */
uint64_t gpu_groups_bytes(const gpu_product *p);
void gpu_matmul_launch(const gpu_call *call, const gpu_product *p, const gpu_layout *l);
/* neurons.cu: the operation's only part. */
uint64_t gpu_sums_bytes(const gpu_product *p);
void gpu_sums_launch(const gpu_call *call, const gpu_product *p, const gpu_layout *l);

/* ---- The operation, for kernels ---- */

/* The vectors: number i belongs to row i / used_n. */
typedef struct gpu_uses {
    const device_step *step;
    bool outputs, x_per_use;
    uint32_t used_n, in_n, neuron_n;
    gpu_rows x, id;
    const uint32_t *verdict; /* NULL: no choice */
    gpu_rows list;
} gpu_uses;

static inline gpu_uses gpu_uses_of(const gpu_call *call, const gpu_product *p) {
    const device_matrix *m = &p->part[0].w;
    gpu_uses u = {call->step,
                  p->op->outputs,
                  p->x_per_use,
                  p->used_n,
                  p->in_n,
                  m->order == NEURONS_BY_OUTPUT ? m->out_n : m->in_n,
                  gpu_rows_of(p->x),
                  gpu_rows_of(p->id),
                  (const uint32_t *)gpu_at(p->choice->verdict),
                  gpu_rows_of(p->choice->list)};
    return u;
}

GPU_DEVICE uint32_t gpu_use_n(const gpu_uses &u) { return gpu_row_n(u.step, u.outputs) * u.used_n; }
/* Vector i's input: its number among inputs, and where it stands. */
GPU_DEVICE uint32_t gpu_input_of(const gpu_uses &u, uint32_t i) { return u.x_per_use ? i : i / u.used_n; }
GPU_DEVICE const float *gpu_input(const gpu_uses &u, uint32_t input) {
    if (!u.x_per_use) return gpu_row(u.x, input);
    return gpu_row(u.x, input / u.used_n) + (size_t)(input % u.used_n) * u.in_n;
}
GPU_DEVICE uint32_t gpu_unit_of(const gpu_uses &u, uint32_t i) {
    if (!u.id.at) return 0;
    return (uint32_t)((const int32_t *)gpu_row(u.id, i / u.used_n))[i % u.used_n];
}
/* Its list of active neurons, NULL: all. */
GPU_DEVICE const uint32_t *gpu_list_of(const gpu_uses &u, uint32_t i) {
    if (!u.verdict || !*u.verdict) return NULL;
    return (const uint32_t *)gpu_row(u.list, i / u.used_n) + (size_t)(i % u.used_n) * (u.neuron_n + 1);
}

/* One matrix as kernels take it. */
typedef struct gpu_part {
    gpu_matrix w;
    const float *bias;
    gpu_rows y;
    bool accumulate, wide; /* wide: rows of floats begin at multiples of 16 bytes, and are as long */
} gpu_part;

static inline gpu_part gpu_part_of(const device_linear_part *part) {
    gpu_part p = {gpu_matrix_of(&part->w), (const float *)gpu_at(part->bias), gpu_rows_of(part->y),
                  part->accumulate, false};
    if (part->w.order == NEURONS_BY_NEURON && gpu_is_float(part->w.type)) /* a neuron's row, then */
        p.w.row_bytes = gguf_row_bytes(part->w.type, p.w.out_n);
    p.wide = (uintptr_t)p.w.data % 16 == 0 && p.w.row_bytes % 16 == 0 &&
             (part->w.order == NEURONS_BY_OUTPUT ? p.w.in_n : p.w.out_n) % 8 == 0;
    return p;
}

/* Output o of vector i: y = bias + product, or y += it. */
GPU_DEVICE void gpu_finish(const gpu_part &p, const gpu_uses &u, uint32_t i, uint32_t unit, uint32_t o,
                           float product) {
    float *y = gpu_row(p.y, i / u.used_n) + (size_t)(i % u.used_n) * p.w.out_n + o;
    if (p.bias) product += p.bias[(size_t)unit * p.w.out_n + o];
    *y = p.accumulate ? *y + product : product;
}

/* The same of an absent expert. */
GPU_DEVICE void gpu_nothing(const gpu_part &p, const gpu_uses &u, uint32_t i, uint32_t o) {
    gpu_row(p.y, i / u.used_n)[(size_t)(i % u.used_n) * p.w.out_n + o] = 0;
}

/* Calls f<TYPE>(...) for a weight type that the GPU knows. */
#define GPU_BY_TYPE(type, f, ...)                                                                            \
    switch ((int)(type)) {                                                                                   \
    case GGUF_F32: f<GGUF_F32>(__VA_ARGS__); break;                                                          \
    case GGUF_F16: f<GGUF_F16>(__VA_ARGS__); break;                                                          \
    case GGUF_BF16: f<GGUF_BF16>(__VA_ARGS__); break;                                                        \
    case GGUF_Q8_0: f<GGUF_Q8_0>(__VA_ARGS__); break;                                                        \
    case GGUF_Q4_0: f<GGUF_Q4_0>(__VA_ARGS__); break;                                                        \
    case GGUF_Q4_K: f<GGUF_Q4_K>(__VA_ARGS__); break;                                                        \
    case GGUF_Q6_K: f<GGUF_Q6_K>(__VA_ARGS__); break;                                                        \
    default: break;                                                                                          \
    }
#define GPU_BY_BLOCK_TYPE(type, f, ...)                                                                      \
    switch ((int)(type)) {                                                                                   \
    case GGUF_Q8_0: f<GGUF_Q8_0>(__VA_ARGS__); break;                                                        \
    case GGUF_Q4_0: f<GGUF_Q4_0>(__VA_ARGS__); break;                                                        \
    case GGUF_Q4_K: f<GGUF_Q4_K>(__VA_ARGS__); break;                                                        \
    case GGUF_Q6_K: f<GGUF_Q6_K>(__VA_ARGS__); break;                                                        \
    default: break;                                                                                          \
    }
#define GPU_BY_FLOAT_TYPE(type, f, ...)                                                                      \
    switch ((int)(type)) {                                                                                   \
    case GGUF_F32: f<GGUF_F32>(__VA_ARGS__); break;                                                          \
    case GGUF_F16: f<GGUF_F16>(__VA_ARGS__); break;                                                          \
    case GGUF_BF16: f<GGUF_BF16>(__VA_ARGS__); break;                                                        \
    default: break;                                                                                          \
    }

#endif
#endif
