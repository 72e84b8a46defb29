/* matvec.cu - LINEAR and EXPERTS for up to GPU_FEW_ROWS rows: one walk through the weights, a warp per weight
 * row. Also makes the 8-bit activations of all products.
 *
 * Lane l takes pieces l, l + 32, ... of a row, and the lanes are added in a fixed order: so a product has the
 * same bits whatever the number of rows, and whether its weight row was listed or one of all.
 */
#include "devices/gpu/products.h"

enum {
    BLOCK = 128,
    ROWS = BLOCK / GPU_WARP, /* weight rows of a block */
    PACK_BLOCK = 256,
    PACK_VALUES = PACK_BLOCK * 8 /* of a block of pack */
};

/* ---- Activations of 8 bits ---- */

struct pack_args {
    gpu_uses u;
    gpu_planes to;
    uint32_t block_n; /* values that share a scale: 32 or 256 */
};

/* Eight values for each lane, 256 for a warp. The rule of devices/cpu/kernels.h, whose bits these are. */
GPU_KERNEL(PACK_BLOCK) pack(const pack_args a) {
    const uint32_t input = blockIdx.x, k = a.to.k, at = blockIdx.y * PACK_VALUES + threadIdx.x * 8;
    if (input >= (a.u.x_per_use ? gpu_use_n(a.u) : gpu_row_n(a.u.step, a.u.outputs))) return;
    const float *x = gpu_input(a.u, input);
    float v[8], max = 0;
    GPU_UNROLL
    for (uint32_t i = 0; i < 8; i++) {
        v[i] = at < k ? x[at + i] : 0; /* k is a multiple of 32 */
        max = fmaxf(max, fabsf(v[i]));
    }
    max = fmaxf(max, GPU_SHUFFLE_XOR(max, 1));
    max = fmaxf(max, GPU_SHUFFLE_XOR(max, 2));
    if (a.block_n == GPU_SUPER)
        for (int mask = 4; mask < GPU_WARP; mask *= 2) max = fmaxf(max, GPU_SHUFFLE_XOR(max, mask));
    float inverse = 127.0f / max;
    if (!(inverse <= 3.402823466e+38f)) inverse = 0;
    gpu_8 q = {{0, 0}};
    int sum = 0;
    GPU_UNROLL
    for (uint32_t i = 0; i < 8; i++) {
        const int rounded = (int)rintf(v[i] * inverse);
        q.w[i / 4] |= (uint32_t)(rounded & 255) << i % 4 * 8;
        sum += rounded;
    }
    sum += GPU_SHUFFLE_XOR(sum, 1);
    const int other = GPU_SHUFFLE_XOR(sum, 2);
    if (at >= k) return;
    *(gpu_8 *)(a.to.q + (size_t)input * k + at) = q;
    if (threadIdx.x % 4 != 0) return;
    const size_t group = (size_t)input * (k / GPU_GROUP) + at / GPU_GROUP;
    a.to.d[group] = max / 127.0f;
    a.to.sum[group] = (uint32_t)(sum & 0xFFFF) | (uint32_t)other << 16;
}

static void pack_launch(const gpu_call *call, const gpu_product *p, const gpu_layout *l) {
    static const uint32_t block_n[GPU_PLANE_FORMS] = {32, GPU_SUPER};
    for (int i = 0; i < GPU_PLANE_FORMS; i++) {
        if (!l->form[i]) continue;
        const pack_args a = {gpu_uses_of(call, p), gpu_planes_at(p, l, call->workspace, block_n[i]),
                             block_n[i]};
        GPU_LAUNCH(pack, dim3(gpu_input_max(p), gpu_pieces(p->in_n, PACK_VALUES)), PACK_BLOCK, call->stream,
                   a);
    }
}

/* ---- Products of one weight row ---- */

/* What the weights meet: planes for block types, else the inputs themselves. */
typedef struct inputs {
    gpu_uses u;
    gpu_planes planes;
    bool wide; /* inputs begin at multiples of 16 bytes */
} inputs;

/* sum[c] = this lane's share of the row times input first + c, for c < n. */
template <gguf_type T, int N>
GPU_DEVICE void walk_row(float sum[N], const uint8_t *row, const inputs &in, bool wide, uint32_t first,
                         uint32_t n) {
    const uint32_t k = in.u.in_n, lane = threadIdx.x % GPU_WARP;
    GPU_UNROLL
    for (uint32_t c = 0; c < N; c++) sum[c] = 0;
    if (T == GGUF_F32 || T == GGUF_F16 || T == GGUF_BF16) {
        for (uint32_t at = GPU_VALUES * lane; at < k; at += GPU_VALUES * GPU_WARP) {
            float w[GPU_VALUES], x[GPU_VALUES];
            gpu_values_8<T>(w, row, at, k, wide);
            GPU_UNROLL
            for (uint32_t c = 0; c < N; c++) {
                if (c >= n) continue;
                gpu_values_8<GGUF_F32>(x, (const uint8_t *)gpu_input(in.u, first + c), at, k, in.wide);
                GPU_UNROLL
                for (uint32_t i = 0; i < GPU_VALUES; i++) sum[c] = fmaf(w[i], x[i], sum[c]);
            }
        }
    } else {
        for (uint32_t p = lane; p < k / gpu_piece_weights<T>(); p += GPU_WARP) {
            const gpu_piece piece = gpu_piece_at<T>(row, p);
            GPU_UNROLL
            for (uint32_t c = 0; c < N; c++)
                if (c < n) sum[c] = gpu_piece_dot<T>(piece, gpu_act_at(in.planes, first + c), p, sum[c]);
        }
    }
}

/* Parts of one weight type, which share their input. */
struct matvec_args {
    inputs in;
    uint32_t part_n;
    gpu_part part[DEVICE_LINEAR_MAX];
    uint32_t first_block[DEVICE_LINEAR_MAX]; /* of matvec */
    bool only_listed;                        /* matvec_each: what is dense has been left to matvec */
};

/* ---- Dense: all rows of one matrix, or of up to three ---- */

template <gguf_type T, int N> GPU_KERNEL(BLOCK) matvec(const matvec_args a) {
    uint32_t i = 0;
    while (i + 1 < a.part_n && blockIdx.x >= a.first_block[i + 1]) i++;
    const gpu_part &part = a.part[i];
    const uint32_t o = (blockIdx.x - a.first_block[i]) * ROWS + threadIdx.x / GPU_WARP;
    const uint32_t n = gpu_row_n(a.in.u.step, a.in.u.outputs);
    if (a.in.u.verdict && *a.in.u.verdict) return;
    if (o >= part.w.out_n) return; /* with its whole warp */
    float sum[N];
    walk_row<T, N>(sum, part.w.data + part.w.row_bytes * o, a.in, part.wide, 0, n);
    GPU_UNROLL
    for (uint32_t c = 0; c < N; c++) {
        const float total = gpu_warp_sum(sum[c]);
        if (c < n && threadIdx.x % GPU_WARP == c) gpu_finish(part, a.in.u, c, 0, o, total);
    }
}

/* ---- Each vector by itself: listed rows, and rows of the experts that it uses ---- */

template <gguf_type T> GPU_KERNEL(BLOCK) matvec_each(const matvec_args a) {
    const uint32_t use_n = gpu_use_n(a.in.u);
    const gpu_part &part = a.part[blockIdx.z];
    if (a.only_listed && !*a.in.u.verdict) return;
    for (uint32_t i = blockIdx.y; i < use_n; i += gridDim.y) {
        const uint32_t *list = gpu_list_of(a.in.u, i), unit = gpu_unit_of(a.in.u, i);
        const uint32_t n = list ? list[0] : part.w.out_n;
        const uint8_t *data = gpu_unit(part.w, unit);
        for (uint32_t j = blockIdx.x * ROWS + threadIdx.x / GPU_WARP; j < n; j += gridDim.x * ROWS) {
            const uint32_t o = list ? list[1 + j] : j;
            float sum[1];
            if (!data) {
                if (threadIdx.x % GPU_WARP == 0) gpu_nothing(part, a.in.u, i, o);
                continue;
            }
            walk_row<T, 1>(sum, data + part.w.row_bytes * o, a.in, part.wide, gpu_input_of(a.in.u, i), 1);
            const float total = gpu_warp_sum(sum[0]);
            if (threadIdx.x % GPU_WARP == 0) gpu_finish(part, a.in.u, i, unit, o, total);
        }
    }
}

/* ---- Launches ---- */

template <gguf_type T>
static void each_launch(const gpu_call *call, const gpu_product *p, const matvec_args a) {
    uint32_t out_n = 0;
    for (uint32_t i = 0; i < a.part_n; i++) out_n = a.part[i].w.out_n > out_n ? a.part[i].w.out_n : out_n;
    uint32_t blocks = gpu_pieces(out_n, ROWS), most = 16 * call->multiprocessor_n, turns = gpu_use_max(p);
    if (p->choice->verdict.buffer && blocks > most) blocks = most; /* most of them would find nothing */
    if (turns > GPU_GRID_Y_MAX) turns = GPU_GRID_Y_MAX;
    GPU_LAUNCH(matvec_each<T>, dim3(blocks, turns, a.part_n), BLOCK, call->stream, a);
}

template <gguf_type T>
static void dense_launch(const gpu_call *call, const gpu_product *p, const matvec_args a) {
    uint32_t blocks = 0;
    for (uint32_t i = 0; i < a.part_n; i++) blocks += gpu_pieces(a.part[i].w.out_n, ROWS);
    if (p->op->row_max == 1)
        GPU_LAUNCH((matvec<T, 1>), dim3(blocks), BLOCK, call->stream, a);
    else if (p->op->row_max == 2)
        GPU_LAUNCH((matvec<T, 2>), dim3(blocks), BLOCK, call->stream, a);
    else if (p->op->row_max <= 4)
        GPU_LAUNCH((matvec<T, 4>), dim3(blocks), BLOCK, call->stream, a);
    else
        GPU_LAUNCH((matvec<T, GPU_FEW_ROWS>), dim3(blocks), BLOCK, call->stream, a);
}

/* The parts that have the type of part i. */
static matvec_args parts_of(const gpu_call *call, const gpu_product *p, const gpu_layout *l, uint32_t i) {
    const device_matrix *m = &p->part[i].w;
    matvec_args a;
    memset(&a, 0, sizeof a);
    a.in.u = gpu_uses_of(call, p);
    if (gpu_act_block(m)) a.in.planes = gpu_planes_at(p, l, call->workspace, gpu_act_block(m));
    a.in.wide = (uintptr_t)a.in.u.x.at % 16 == 0 && a.in.u.x.stride % 4 == 0 && p->in_n % 8 == 0;
    uint32_t blocks = 0;
    for (uint32_t j = i; j < p->part_n; j++) {
        if (p->part[j].w.type != m->type) continue;
        a.first_block[a.part_n] = blocks;
        a.part[a.part_n++] = gpu_part_of(&p->part[j]);
        blocks += gpu_pieces(p->part[j].w.out_n, ROWS);
    }
    return a;
}

/* Parts of one type go together. A list is followed by one row's vector even if it should say all; more rows
 * would walk all weights again for each, so that these have both kernels, one of which ends at once. */
static void few_rows_launch(const gpu_call *call, const gpu_product *p, const gpu_layout *l) {
    for (uint32_t i = 0; i < p->part_n; i++) {
        const device_matrix *m = &p->part[i].w;
        bool done = false;
        for (uint32_t j = 0; j < i; j++) done |= p->part[j].w.type == m->type;
        if (done) continue;
        matvec_args a = parts_of(call, p, l, i);
        const bool listed = p->choice->verdict.buffer != NULL;
        const bool dense = !m->unit_n && (!listed || p->op->row_max > 1);
        a.only_listed = listed && dense;
        if (dense) { GPU_BY_TYPE(m->type, dense_launch, call, p, a) }
        if (listed || m->unit_n) { GPU_BY_TYPE(m->type, each_launch, call, p, a) }
    }
}

/* ---- The families ---- */

gpu_layout gpu_layout_of(const gpu_product *p) {
    gpu_layout l;
    memset(&l, 0, sizeof l);
    for (uint32_t i = 0; i < p->part_n; i++) {
        const uint32_t block_n = gpu_act_block(&p->part[i].w);
        if (block_n && !gpu_by_sums(p, &p->part[i].w)) l.form[block_n == GPU_SUPER] = true;
    }
    for (int i = 0; i < GPU_PLANE_FORMS; i++) {
        l.planes[i] = l.bytes;
        if (l.form[i]) l.bytes += gpu_planes_bytes(gpu_input_max(p), p->in_n);
    }
    l.groups = l.bytes;
    if (!gpu_is_few(p)) l.bytes += gpu_up(gpu_groups_bytes(p));
    l.sums = l.bytes;
    if (gpu_by_sums(p, &p->part[0].w)) l.bytes += gpu_up(gpu_sums_bytes(p));
    return l;
}

static const char *order_name(neurons_order order) {
    return order == NEURONS_BY_NEURON ? "weights by neuron" : "weights by row";
}

static hotset_status check(const device_op *op, hotset_error *err) {
    const gpu_product p = gpu_product_of(op);
    for (uint32_t i = 0; i < p.part_n; i++) {
        const device_matrix *m = &p.part[i].w;
        const char *name = gguf_type_get(m->type)->name;
        if (!gpu_is_float(m->type) && m->type != GGUF_Q8_0 && m->type != GGUF_Q4_0 && m->type != GGUF_Q4_K &&
            m->type != GGUF_Q6_K)
            return gpu_unsupported(err, op, "weights of type", name);
        if (m->order != NEURONS_BY_OUTPUT && p.part_n > 1)
            return gpu_unsupported(err, op, order_name(m->order), "beside others");
        if (!gpu_is_float(m->type) && (m->type == GGUF_Q4_K || m->order == NEURONS_BY_NEURON) && !m->unit_n &&
            m->data.offset % 16)
            return gpu_unsupported(err, op, "odd addresses of weights of type", name);
    }
    return HOTSET_OK;
}

static uint64_t workspace_bytes(const device_op *op) {
    const gpu_product p = gpu_product_of(op);
    return gpu_layout_of(&p).bytes;
}

static void launch(const gpu_call *call, const device_op *op) {
    const gpu_product p = gpu_product_of(op);
    const gpu_layout l = gpu_layout_of(&p);
    if (gpu_by_sums(&p, &p.part[0].w)) {
        gpu_sums_launch(call, &p, &l);
        return;
    }
    pack_launch(call, &p, &l);
    if (gpu_is_few(&p))
        few_rows_launch(call, &p, &l);
    else
        gpu_matmul_launch(call, &p, &l);
}

GPU_TABLE gpu_family gpu_linear = {check, workspace_bytes, launch};
GPU_TABLE gpu_family gpu_experts = {check, workspace_bytes, launch};
