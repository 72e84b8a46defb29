/* neurons.cu - skipping: SELECT, and products of few rows with matrices stored by neuron or by row.
 *
 * Such a product adds up the rows of active neurons. Neurons are cut into chunks by number, not by place in
 * the list, and chunks are added in order: a neuron with an activation of zero changes no bit, so that
 * skipping gives the bits of the dense sum, and nothing depends on the grid.
 */
#include "devices/gpu/by_neuron.h"

enum {
    LIST_BLOCK = 1024,
    DECIDE_BLOCK = 256,
    BLOCK = 256,
    WARPS = BLOCK / GPU_WARP,
    SLICE = 8 * GPU_WARP,      /* outputs of a block, 8 for each lane */
    CHUNK = 512,               /* neurons of a block */
    PARTS = CHUNK / GPU_GROUP, /* of 32 neurons, shared out among its warps */
    SUPER_PARTS = GPU_SUPER / GPU_GROUP
};

/* ---- SELECT ---- */

/* Weight bytes of one matrix that a list leaves out: by neuron, and by group of neurons. */
typedef struct spared {
    uint32_t group_n;
    uint64_t neuron_bytes, header_bytes;
} spared;

struct select_args {
    const device_step *step;
    gpu_rows x, list;
    uint32_t *verdict;
    uint64_t *skipped;
    uint32_t n, per_row, spared_n;
    float threshold;
    bool outputs, scored, narrow, few, units;
    spared part[DEVICE_BANK_MAX];
};

GPU_DEVICE uint32_t *select_list(const select_args &a, uint32_t i) {
    return (uint32_t *)gpu_row(a.list, i / a.per_row) + (size_t)(i % a.per_row) * (a.n + 1);
}

/* One block for each vector: active neurons in rising order. */
GPU_KERNEL(LIST_BLOCK) list_active(const select_args a) {
    struct counts {
        uint32_t n[LIST_BLOCK / GPU_WARP];
    };
    GPU_SHARED(counts, s);
    const uint32_t i = blockIdx.x, lane = threadIdx.x % GPU_WARP, warp = threadIdx.x / GPU_WARP;
    if (i >= gpu_row_n(a.step, a.outputs) * a.per_row) return;
    if (a.narrow && !*a.verdict) return;
    const float *x = gpu_row(a.x, i / a.per_row) + (size_t)(i % a.per_row) * a.n;
    uint32_t *list = select_list(a, i), found = 0;
    const uint32_t n = a.narrow ? list[0] : a.n;
    for (uint32_t first = 0; first < n; first += LIST_BLOCK) {
        const uint32_t j = first + threadIdx.x;
        uint32_t neuron = 0;
        bool keep = false;
        if (j < n) {
            neuron = a.narrow ? list[1 + j] : j;
            keep = a.scored && !a.narrow ? x[neuron] >= a.threshold : x[neuron] > 0;
        }
        const uint32_t mask = GPU_BALLOT(keep);
        if (lane == 0) s.n[warp] = GPU_POPCOUNT(mask);
        GPU_SYNC(); /* a narrower list is written to where it was read, too */
        uint32_t before = found;
        for (uint32_t w = 0; w < LIST_BLOCK / GPU_WARP; w++) {
            if (w < warp) before += s.n[w];
            found += s.n[w];
        }
        if (keep) list[1 + before + GPU_POPCOUNT(mask & (((uint32_t)1 << lane) - 1))] = neuron;
        GPU_SYNC();
    }
    if (threadIdx.x == 0) list[0] = found;
}

/* The sum over a block of DECIDE_BLOCK threads, for its first thread. */
GPU_DEVICE uint64_t block_total(uint64_t part[DECIDE_BLOCK], uint64_t x) {
    GPU_SYNC();
    part[threadIdx.x] = x;
    GPU_SYNC();
    uint64_t total = 0;
    if (threadIdx.x == 0)
        for (uint32_t i = 0; i < DECIDE_BLOCK; i++) total += part[i];
    return total;
}

/* This thread's share of the bytes that one vector's list leaves out of one matrix. */
GPU_DEVICE uint64_t spared_bytes(const spared &m, const uint32_t *list, uint32_t n) {
    uint64_t bytes = 0;
    for (uint32_t j = threadIdx.x; j < list[0]; j += DECIDE_BLOCK) {
        bytes -= m.neuron_bytes;
        if (m.header_bytes && (j == 0 || list[1 + j] / m.group_n != list[j] / m.group_n))
            bytes -= m.header_bytes;
    }
    if (threadIdx.x == 0) bytes += n * m.neuron_bytes + n / m.group_n * m.header_bytes;
    return bytes;
}

/* One block. Few rows are bound by the bytes that they walk: each listed neuron is walked once for each of
 * them, those of a dense FFN once for all; experts' are walked for each use. More rows than that go through
 * tiles, which are made for all neurons, and have no lists. */
GPU_KERNEL(DECIDE_BLOCK) decide(const select_args a) {
    struct totals {
        uint64_t part[DECIDE_BLOCK];
        uint32_t skip;
    };
    GPU_SHARED(totals, s);
    const uint32_t row_n = gpu_row_n(a.step, a.outputs), vector_n = row_n * a.per_row;
    if (!a.few && !a.narrow && threadIdx.x == 0) *a.verdict = 0;
    if (!a.few || (a.narrow && !*a.verdict)) return;
    uint64_t active = 0;
    for (uint32_t i = threadIdx.x; i < vector_n; i += DECIDE_BLOCK) active += select_list(a, i)[0];
    active = block_total(s.part, active);
    if (threadIdx.x == 0) {
        const bool pays = active <= (uint64_t)a.n * (a.units ? vector_n : 1);
        s.skip = a.narrow || pays;
        if (!a.narrow) *a.verdict = pays;
    }
    GPU_SYNC();
    if (!s.skip || row_n != 1) return;
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < vector_n; i++)
        for (uint32_t m = 0; m < a.spared_n; m++) bytes += spared_bytes(a.part[m], select_list(a, i), a.n);
    bytes = block_total(s.part, bytes);
    if (threadIdx.x == 0) *a.skipped += bytes;
}

static spared spared_of(const device_matrix *m) {
    spared s = {1, m->row_bytes, 0};
    neurons_form f;
    if (m->order != NEURONS_BY_NEURON) return s;
    if (!neurons_form_of(m->type, m->out_n, &f)) {
        s.neuron_bytes = 0;
        return s;
    }
    s.group_n = f.group_n;
    s.neuron_bytes = neurons_row_bytes(f, m->out_n);
    s.header_bytes = neurons_header_bytes(f, m->out_n);
    return s;
}

static void select_launch(const gpu_call *call, const device_op *op) {
    select_args a;
    memset(&a, 0, sizeof a);
    a.step = call->step;
    a.x = gpu_rows_of(op->select.x);
    a.list = gpu_rows_of(op->select.choice.list);
    a.verdict = (uint32_t *)gpu_at(op->select.choice.verdict);
    a.skipped = (uint64_t *)gpu_at(op->select.skipped);
    a.n = op->select.n;
    a.per_row = op->select.per_row;
    a.spared_n = op->select.spared_n;
    a.threshold = op->select.threshold;
    a.outputs = op->outputs;
    a.scored = op->select.scored;
    a.narrow = op->select.narrow;
    a.few = gpu_few(op->row_max, a.per_row, op->select.part_n ? op->select.part[0].unit_n : 0);
    a.units = op->select.part_n > 0 && op->select.part[0].unit_n > 0;
    for (uint32_t i = 0; i < a.spared_n; i++) a.part[i] = spared_of(&op->select.part[i]);
    if (a.few) GPU_LAUNCH(list_active, dim3(op->row_max * a.per_row), LIST_BLOCK, call->stream, a);
    GPU_LAUNCH(decide, dim3(1), DECIDE_BLOCK, call->stream, a);
}

/* ---- Sums over active neurons ---- */

struct sums_args {
    gpu_uses u;
    gpu_part part;
    uint32_t part_n, chunk_n,
        group_n;     /* parts of 32 neurons; neurons that share an activation's scale, 1: floats */
    uint32_t *start; /* [vector][part_n + 1]: places in the list where parts begin */
    int8_t *q;       /* [vector][in_n], in the order of the list */
    float *d;        /* [vector][in_n / group_n] */
    float *partial;  /* [vector][chunk_n][out_n] */
};

GPU_DEVICE uint32_t first_from(const uint32_t *neuron, uint32_t n, uint32_t from) {
    uint32_t low = 0, high = n;
    while (low < high) {
        const uint32_t middle = (low + high) / 2;
        if (neuron[middle] < from)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Activations [from, to) of one group of neurons by the rule of devices/cpu/kernels.h, the others being zero.
 */
GPU_DEVICE void pack_group(const sums_args &a, uint32_t i, uint32_t group, const float *x, uint32_t from,
                           uint32_t to) {
    float max = 0;
    for (uint32_t j = from + threadIdx.x % GPU_WARP; j < to; j += GPU_WARP) max = fmaxf(max, fabsf(x[j]));
    max = gpu_warp_max(max);
    float inverse = 127.0f / max;
    if (!(inverse <= 3.402823466e+38f)) inverse = 0;
    int8_t *q = a.q + (size_t)i * a.u.in_n;
    for (uint32_t j = from + threadIdx.x % GPU_WARP; j < to; j += GPU_WARP)
        q[j] = (int8_t)rintf(x[j] * inverse);
    if (threadIdx.x % GPU_WARP == 0) a.d[(size_t)i * (a.u.in_n / a.group_n) + group] = max / 127.0f;
}

/* A warp for 256 neurons: where their parts begin, and their activations. */
GPU_KERNEL(BLOCK) prepare_sums(const sums_args a) {
    const uint32_t i = blockIdx.y, lane = threadIdx.x % GPU_WARP;
    if (i >= gpu_use_n(a.u)) return;
    const uint32_t part = (blockIdx.x * WARPS + threadIdx.x / GPU_WARP) * SUPER_PARTS;
    if (part >= a.part_n) return; /* with its whole warp */
    const uint32_t *list = gpu_list_of(a.u, i), n = list ? list[0] : a.u.in_n;
    const uint32_t neuron = (part + lane) * GPU_GROUP;
    uint32_t at = 0;
    if (lane <= SUPER_PARTS) at = list ? first_from(list + 1, n, neuron) : neuron < n ? neuron : n;
    if (lane <= SUPER_PARTS && part + lane <= a.part_n && (lane < SUPER_PARTS || part + lane == a.part_n))
        a.start[(size_t)i * (a.part_n + 1) + part + lane] = at;
    if (a.group_n == 1) return;
    const float *x = gpu_input(a.u, gpu_input_of(a.u, i));
    const uint32_t parts = a.group_n / GPU_GROUP;
    for (uint32_t j = 0; j < SUPER_PARTS; j += parts) {
        const uint32_t from = GPU_SHUFFLE(at, j), to = GPU_SHUFFLE(at, j + parts);
        if (part + j < a.part_n) pack_group(a, i, (part + j) / parts, x, from, to);
    }
}

/* Which output of a slice is number e of a lane's eight. */
template <bool BYTES> GPU_DEVICE uint32_t place_of(uint32_t lane, uint32_t e) {
    return BYTES ? lane / 4 * 32 + 4 * (lane % 4) + e % 4 + 16 * (e / 4) : 8 * lane + e;
}

/* Adds the neurons at places [from, to) of the list, all of part number `part`: block types by neuron. */
template <gguf_type T>
GPU_DEVICE void add_bytes(float sum[8], const sums_args &a, uint32_t i, const uint8_t *data,
                          const uint32_t *list, uint32_t part, uint32_t from, uint32_t to, uint32_t first) {
    const uint32_t out_n = a.part.w.out_n, group_n = gpu_neuron_group_n<T>(), lane = threadIdx.x % GPU_WARP;
    const uint32_t group = part * GPU_GROUP / group_n, run = first / 32 + lane / 4;
    const uint8_t *at = gpu_neuron_group<T>(data, out_n, group);
    const int8_t *q = a.q + (size_t)i * a.u.in_n;
    int dot[8], high[8], q_sum = 0, q_high = 0;
    if (run >= out_n / 32) return;
    GPU_UNROLL
    for (uint32_t e = 0; e < 8; e++) dot[e] = high[e] = 0;
    for (uint32_t j = from; j < to; j++) {
        const uint32_t neuron = list ? list[1 + j] : j;
        const int x = q[j];
        const gpu_8 w =
            gpu_neuron_quants<T>(at + gpu_neuron_bytes<T>(out_n) * (neuron % group_n), out_n, run, lane % 4);
        const int x_high = T == GGUF_Q6_K && neuron % 32 >= 16 ? x : 0; /* whose scales are others */
        q_sum += x - x_high;
        q_high += x_high;
        GPU_UNROLL
        for (uint32_t e = 0; e < 8; e++) {
            dot[e] += (x - x_high) * gpu_byte(w.w[e / 4], e % 4);
            if (T == GGUF_Q6_K) high[e] += x_high * gpu_byte(w.w[e / 4], e % 4);
        }
    }
    const float d = a.d[(size_t)i * (a.u.in_n / group_n) + group];
    GPU_UNROLL
    for (uint32_t e = 0; e < 8; e++) {
        float scale[2], min;
        gpu_neuron_scales<T>(scale, &min, at, out_n, part % (group_n / GPU_GROUP),
                             first + place_of<true>(lane, e));
        float value = scale[0] * (float)(dot[e] - gpu_neuron_offset<T>() * q_sum);
        if (T == GGUF_Q6_K) value = fmaf(scale[1], (float)(high[e] - gpu_neuron_offset<T>() * q_high), value);
        if (T == GGUF_Q4_K) value = fmaf(-min, (float)q_sum, value);
        sum[e] = fmaf(d, value, sum[e]);
    }
}

/* The same for floats, and blocks by row. */
template <gguf_type T>
GPU_DEVICE void add_values(float sum[8], const sums_args &a, uint32_t i, const uint8_t *data,
                           const uint32_t *list, uint32_t from, uint32_t to, uint32_t first) {
    const float *x = gpu_input(a.u, gpu_input_of(a.u, i));
    const uint32_t o = first + 8 * (threadIdx.x % GPU_WARP);
    if (o >= a.part.w.out_n) return;
    for (uint32_t j = from; j < to; j++) {
        float w[GPU_VALUES];
        gpu_values_8<T>(w, data + a.part.w.row_bytes * (list ? list[1 + j] : j), o, a.part.w.out_n,
                        a.part.wide);
        GPU_UNROLL
        for (uint32_t e = 0; e < 8; e++) sum[e] = fmaf(x[j], w[e], sum[e]);
    }
}

/* One slice of outputs, one chunk of neurons, one vector: the chunk's parts go round the warps. */
template <gguf_type T, bool BYTES> GPU_KERNEL(BLOCK) sum_chunk(const sums_args a) {
    struct partials {
        float of[WARPS][SLICE];
    };
    GPU_SHARED(partials, s);
    const uint32_t i = blockIdx.z, chunk = blockIdx.y, first = blockIdx.x * SLICE;
    if (i >= gpu_use_n(a.u)) return;
    const uint32_t lane = threadIdx.x % GPU_WARP, warp = threadIdx.x / GPU_WARP;
    const uint8_t *data = gpu_unit(a.part.w, gpu_unit_of(a.u, i));
    const uint32_t *list = gpu_list_of(a.u, i), *start = a.start + (size_t)i * (a.part_n + 1);
    float sum[8];
    GPU_UNROLL
    for (uint32_t e = 0; e < 8; e++) sum[e] = 0;
    for (uint32_t p = warp; data && p < PARTS && chunk * PARTS + p < a.part_n; p += WARPS) {
        const uint32_t part = chunk * PARTS + p, from = start[part], to = start[part + 1];
        if (from == to) continue;
        if (BYTES)
            add_bytes<T>(sum, a, i, data, list, part, from, to, first);
        else
            add_values<T>(sum, a, i, data, list, from, to, first);
    }
    GPU_UNROLL
    for (uint32_t e = 0; e < 8; e++) s.of[warp][place_of<BYTES>(lane, e)] = sum[e];
    GPU_SYNC();
    const uint32_t o = first + threadIdx.x;
    if (o >= a.part.w.out_n) return;
    float total = 0;
    for (uint32_t w = 0; w < WARPS; w++) total += s.of[w][threadIdx.x];
    a.partial[((size_t)i * a.chunk_n + chunk) * a.part.w.out_n + o] = total;
}

GPU_KERNEL(BLOCK) add_chunks(const sums_args a) {
    const uint32_t i = blockIdx.y, o = blockIdx.x * BLOCK + threadIdx.x, out_n = a.part.w.out_n;
    if (i >= gpu_use_n(a.u) || o >= out_n) return;
    const float *partial = a.partial + (size_t)i * a.chunk_n * out_n + o;
    float sum = 0;
    for (uint32_t c = 0; c < a.chunk_n; c++) sum += partial[(size_t)c * out_n];
    if (gpu_unit(a.part.w, gpu_unit_of(a.u, i)))
        gpu_finish(a.part, a.u, i, gpu_unit_of(a.u, i), o, sum);
    else
        gpu_nothing(a.part, a.u, i, o);
}

/* ---- Launches ---- */

static uint32_t part_n_of(const gpu_product *p) { return gpu_pieces(p->in_n, GPU_GROUP); }

/* Bytes of the four arrays of sums_args, each aligned. */
typedef struct sums_room {
    uint64_t start, q, d, partial;
} sums_room;

static sums_room sums_room_of(const gpu_product *p) {
    const uint64_t n = gpu_use_max(p), group_n = gpu_act_block(&p->part[0].w);
    sums_room r = {gpu_up(n * (part_n_of(p) + 1) * 4), 0, 0, 0};
    if (group_n) {
        r.q = gpu_up(n * p->in_n);
        r.d = gpu_up(n * (p->in_n / group_n) * 4);
    }
    r.partial = gpu_up(n * gpu_pieces(p->in_n, CHUNK) * p->part[0].w.out_n * 4);
    return r;
}

uint64_t gpu_sums_bytes(const gpu_product *p) {
    const sums_room r = sums_room_of(p);
    return r.start + r.q + r.d + r.partial;
}

template <gguf_type T> static void bytes_launch(const gpu_call *call, const dim3 grid, const sums_args a) {
    GPU_LAUNCH((sum_chunk<T, true>), grid, BLOCK, call->stream, a);
}
template <gguf_type T> static void values_launch(const gpu_call *call, const dim3 grid, const sums_args a) {
    GPU_LAUNCH((sum_chunk<T, false>), grid, BLOCK, call->stream, a);
}

void gpu_sums_launch(const gpu_call *call, const gpu_product *p, const gpu_layout *l) {
    const device_matrix *m = &p->part[0].w;
    const sums_room r = sums_room_of(p);
    const uint32_t n = gpu_use_max(p), block_n = gpu_act_block(m);
    uint8_t *at = call->workspace + l->sums;
    sums_args a;
    memset(&a, 0, sizeof a);
    a.u = gpu_uses_of(call, p);
    a.part = gpu_part_of(&p->part[0]);
    a.part_n = part_n_of(p);
    a.chunk_n = gpu_pieces(p->in_n, CHUNK);
    a.group_n = block_n ? block_n : 1;
    a.start = (uint32_t *)at;
    a.q = (int8_t *)(at + r.start);
    a.d = (float *)(at + r.start + r.q);
    a.partial = (float *)(at + r.start + r.q + r.d);
    GPU_LAUNCH(prepare_sums, dim3(gpu_pieces(a.part_n, SUPER_PARTS * WARPS), n), BLOCK, call->stream, a);
    const dim3 grid(gpu_pieces(m->out_n, SLICE), a.chunk_n, n);
    if (block_n) {
        GPU_BY_BLOCK_TYPE(m->type, bytes_launch, call, grid, a)
    } else {
        GPU_BY_TYPE(m->type, values_launch, call, grid, a)
    }
    GPU_LAUNCH(add_chunks, dim3(gpu_pieces(m->out_n, BLOCK), n), BLOCK, call->stream, a);
}

GPU_TABLE gpu_family gpu_select = {NULL, NULL, select_launch};
