/* attend.cu - attention of few rows (decode) and of many (prefill).
 *
 * Few: a row's positions are cut into runs of RUN from the first that it sees; a block takes one run and the
 * query heads of one key/value head, and a second kernel folds the runs in their order. Many: tiles of 32
 * rows and 32 positions with a streaming softmax (Milakov & Gimelshein 2018; Dao et al. 2022). Tiles begin at
 * multiples of 32 and change nothing in rows that do not see them. So in both a row's bits depend on that row
 * only.
 */
#include "devices/gpu/products.h"

enum {
    RUN = 256, /* positions of a run */
    RUN_BLOCK = 128,
    RUN_WARPS = RUN_BLOCK / GPU_WARP,
    RUN_ROWS = 16, /* rows that are few */
    HEADS = 8,     /* query heads of a block */
    KEY_MAX = 512, /* elements of a key or a value */
    VALUES = 64,   /* of a value that a warp adds up at a time */
    TILE_BLOCK = 256,
    TILE = 32, /* rows and positions of a tile */
    WARP_ROWS = TILE / (TILE_BLOCK / GPU_WARP),
    PIECE = 128,              /* elements of keys and values that stand in shared memory */
    PIECE_STRIDE = PIECE + 4, /* 8 lanes' loads of 16 bytes meet all banks */
    LANE_VALUES = PIECE / GPU_WARP
};

struct attend_args {
    const device_step *step;
    const device_row *row;
    gpu_rows q, y;
    const uint8_t *key, *value;
    uint64_t key_slot_bytes, value_slot_bytes;
    uint32_t head_n, head_kv_n, key_n, value_n, window_n, context_n, run_max;
    float scale, softcap;
    const float *sinks;                 /* [head_n], NULL: none */
    bool outputs, wide_key, wide_value; /* wide: rows of the state begin at multiples of 16 bytes */
    float *partial;                     /* [row][head][run_max][value_n + 2] */
};

GPU_DEVICE uint32_t first_seen(const attend_args &a, uint32_t position) {
    const uint32_t n = position + 1;
    return a.window_n && n > a.window_n ? n - a.window_n : 0;
}
/* Where the state of one head and position stands. */
template <gguf_type T>
GPU_DEVICE const uint8_t *state_at(const uint8_t *state, uint64_t slot_bytes, uint32_t slot,
                                   uint32_t context_n, uint32_t head_kv, uint32_t position, uint32_t n) {
    const uint64_t row_i = (uint64_t)head_kv * context_n + position;
    const uint64_t row_bytes = T == GGUF_Q8_0 ? n / 32 * GPU_BLOCK_Q8_0 : n * (T == GGUF_F16 ? 2 : 4);
    return state + slot_bytes * slot + row_i * row_bytes;
}
GPU_DEVICE float capped(const attend_args &a, float score) {
    score *= a.scale;
    return a.softcap != 0 ? a.softcap * gpu_tanh(score / a.softcap) : score;
}

/* What outputs are multiplied with; a sink is one score more in the softmax. */
GPU_DEVICE float share_of(const attend_args &a, uint32_t head, float max, float sum) {
    if (!a.sinks) return 1 / sum;
    const float sink = a.sinks[head], all = fmaxf(max, sink), share = gpu_exp(max - all);
    return share / fmaf(sum, share, gpu_exp(sink - all));
}

/* ---- Few rows ---- */

struct run_shared {
    float q[HEADS][KEY_MAX];
    float p[HEADS][RUN]; /* scores, then their exponentials */
    float part[RUN_WARPS][HEADS][VALUES];
};

/* What one block works on. */
typedef struct run_job {
    uint32_t row, slot, from, n, head_kv, head,
        heads; /* positions [from, from + n), query heads from `head` */
} run_job;

/* Scores of all positions: 8 lanes share one, each takes 8 elements of every 64. */
template <gguf_type T> GPU_DEVICE void run_scores(run_shared &s, const attend_args &a, const run_job &job) {
    const uint32_t lane = threadIdx.x % GPU_WARP, warp = threadIdx.x / GPU_WARP;
    for (uint32_t base = 4 * warp; base < job.n; base += 4 * RUN_WARPS) {
        const uint32_t j = base + lane / 8;
        float dot[HEADS];
        GPU_UNROLL
        for (uint32_t h = 0; h < HEADS; h++) dot[h] = 0;
        const uint8_t *key = state_at<T>(a.key, a.key_slot_bytes, job.slot, a.context_n, job.head_kv,
                                         job.from + (j < job.n ? j : 0), a.key_n);
        for (uint32_t at = 8 * (lane % 8); at < a.key_n; at += 64) {
            float k[GPU_VALUES];
            gpu_values_8<T>(k, key, at, a.key_n, a.wide_key);
            GPU_UNROLL
            for (uint32_t h = 0; h < HEADS; h++) {
                if (h >= job.heads) continue;
                GPU_UNROLL
                for (uint32_t i = 0; i < GPU_VALUES; i++) dot[h] = fmaf(k[i], s.q[h][at + i], dot[h]);
            }
        }
        GPU_UNROLL
        for (uint32_t h = 0; h < HEADS; h++) {
            if (h >= job.heads) continue; /* alike in the whole block */
            for (int mask = 1; mask < 8; mask *= 2) dot[h] += GPU_SHUFFLE_XOR(dot[h], mask);
            if (lane % 8 == h && j < job.n) s.p[h][j] = capped(a, dot[h]);
        }
    }
}

/* p = exp(score - max); max and sum go to the partial result. A warp for each head in turn. */
GPU_DEVICE void run_softmax(run_shared &s, const attend_args &a, const run_job &job, float *partial,
                            size_t stride) {
    const uint32_t lane = threadIdx.x % GPU_WARP;
    for (uint32_t h = threadIdx.x / GPU_WARP; h < job.heads; h += RUN_WARPS) {
        float max = -INFINITY, sum = 0;
        for (uint32_t j = lane; j < job.n; j += GPU_WARP) max = fmaxf(max, s.p[h][j]);
        max = gpu_warp_max(max);
        for (uint32_t j = lane; j < job.n; j += GPU_WARP) {
            s.p[h][j] = gpu_exp(s.p[h][j] - max);
            sum += s.p[h][j];
        }
        sum = gpu_warp_sum(sum);
        if (lane != 0) continue;
        partial[h * stride + a.value_n] = max;
        partial[h * stride + a.value_n + 1] = sum;
    }
}

/* Warps take turns at positions, lanes at elements. */
template <gguf_type T>
GPU_DEVICE void run_values(run_shared &s, const attend_args &a, const run_job &job, float *partial,
                           size_t stride) {
    const uint32_t lane = threadIdx.x % GPU_WARP, warp = threadIdx.x / GPU_WARP;
    for (uint32_t d = 0; d < a.value_n; d += VALUES) {
        float sum[HEADS][2];
        GPU_UNROLL
        for (uint32_t h = 0; h < HEADS; h++) sum[h][0] = sum[h][1] = 0;
        for (uint32_t j = warp; j < job.n; j += RUN_WARPS) {
            const uint8_t *value = state_at<T>(a.value, a.value_slot_bytes, job.slot, a.context_n,
                                               job.head_kv, job.from + j, a.value_n);
            float v[2];
            GPU_UNROLL
            for (uint32_t i = 0; i < 2; i++) {
                const uint32_t at = d + lane + GPU_WARP * i;
                v[i] = at < a.value_n ? gpu_float_at<T>(value, at) : 0;
            }
            GPU_UNROLL
            for (uint32_t h = 0; h < HEADS; h++) {
                if (h >= job.heads) continue;
                const float p = s.p[h][j];
                sum[h][0] = fmaf(p, v[0], sum[h][0]);
                sum[h][1] = fmaf(p, v[1], sum[h][1]);
            }
        }
        GPU_UNROLL
        for (uint32_t h = 0; h < HEADS; h++)
            for (uint32_t i = 0; i < 2; i++) s.part[warp][h][lane + GPU_WARP * i] = sum[h][i];
        GPU_SYNC();
        for (uint32_t e = threadIdx.x; e < job.heads * VALUES; e += RUN_BLOCK) {
            const uint32_t h = e / VALUES, at = e % VALUES;
            float total = 0;
            for (uint32_t w = 0; w < RUN_WARPS; w++) total += s.part[w][h][at];
            if (d + at < a.value_n) partial[h * stride + d + at] = total;
        }
        GPU_SYNC();
    }
}

template <gguf_type T> GPU_KERNEL(RUN_BLOCK) attend_run(const attend_args a) {
    GPU_SHARED(run_shared, s);
    const uint32_t group_n = a.head_n / a.head_kv_n, turns = (group_n + HEADS - 1) / HEADS, r = blockIdx.z;
    if (r >= gpu_row_n(a.step, a.outputs)) return;
    const uint32_t position = (uint32_t)a.row[r].position, first = (blockIdx.y % turns) * HEADS;
    run_job job = {
        r, (uint32_t)a.row[r].slot, first_seen(a, position) + blockIdx.x * RUN, 0, blockIdx.y / turns, 0, 0};
    if (job.from > position) return;
    job.n = position + 1 - job.from < RUN ? position + 1 - job.from : (uint32_t)RUN;
    job.head = job.head_kv * group_n + first;
    job.heads = group_n - first < HEADS ? group_n - first : (uint32_t)HEADS;
    const float *q = gpu_row(a.q, r) + (size_t)job.head * a.key_n;
    const uint32_t padded = (a.key_n + 7) / 8 * 8;
    for (uint32_t i = threadIdx.x; i < job.heads * padded; i += RUN_BLOCK) {
        const uint32_t h = i / padded, at = i % padded;
        s.q[h][at] = at < a.key_n ? q[(size_t)h * a.key_n + at] : 0;
    }
    GPU_SYNC();
    const size_t stride = (size_t)a.run_max * (a.value_n + 2); /* from one head to the next */
    float *partial =
        a.partial + ((size_t)r * a.head_n + job.head) * stride + (size_t)blockIdx.x * (a.value_n + 2);
    run_scores<T>(s, a, job);
    GPU_SYNC();
    run_softmax(s, a, job, partial, stride);
    GPU_SYNC();
    run_values<T>(s, a, job, partial, stride);
}

/* One block for each row and head: softmax over the union of the runs. */
GPU_KERNEL(RUN_BLOCK) fold_runs(const attend_args a) {
    const uint32_t head = blockIdx.x, r = blockIdx.y, stride = a.value_n + 2;
    if (r >= gpu_row_n(a.step, a.outputs)) return;
    const uint32_t position = (uint32_t)a.row[r].position;
    const uint32_t run_n = (position + 1 - first_seen(a, position) + RUN - 1) / RUN;
    const float *partial = a.partial + ((size_t)r * a.head_n + head) * a.run_max * stride;
    float max = -INFINITY, sum = 0;
    for (uint32_t i = 0; i < run_n; i++) max = fmaxf(max, partial[(size_t)i * stride + a.value_n]);
    for (uint32_t i = 0; i < run_n; i++) {
        const float *run = partial + (size_t)i * stride + a.value_n;
        sum = fmaf(run[1], gpu_exp(run[0] - max), sum);
    }
    float *y = gpu_row(a.y, r) + (size_t)head * a.value_n;
    const float share = share_of(a, head, max, sum);
    for (uint32_t d = threadIdx.x; d < a.value_n; d += RUN_BLOCK) {
        float total = 0;
        for (uint32_t i = 0; i < run_n; i++) {
            const float *run = partial + (size_t)i * stride;
            total = fmaf(run[d], gpu_exp(run[a.value_n] - max), total);
        }
        y[d] = total * share;
    }
}

/* ---- Many rows ---- */

struct alignas(16) tile_shared {
    float q[TILE][PIECE_STRIDE], state[TILE][PIECE_STRIDE]; /* keys, then values */
    float p[TILE][TILE];
    uint32_t position[TILE], first[TILE], slot[TILE];
};

/* Rows [begin, end) of the tile belong to one session, whose positions [low, high) they see. */
typedef struct segment {
    uint32_t begin, end, low, high;
} segment;

GPU_DEVICE segment segment_at(const tile_shared &s, uint32_t begin, uint32_t row_n) {
    segment g = {begin, begin, s.first[begin], 0};
    for (; g.end < row_n && s.slot[g.end] == s.slot[begin]; g.end++) {
        if (s.first[g.end] < g.low) g.low = s.first[g.end];
        if (s.position[g.end] + 1 > g.high) g.high = s.position[g.end] + 1;
    }
    return g;
}

/* Elements [piece, piece + PIECE) of one head of the tile's queries. */
GPU_DEVICE void load_queries(tile_shared &s, const attend_args &a, uint32_t first_row, uint32_t row_n,
                             uint32_t head, uint32_t piece) {
    for (uint32_t i = threadIdx.x; i < TILE * PIECE; i += TILE_BLOCK) {
        const uint32_t r = i / PIECE, at = piece + i % PIECE;
        const bool there = r < row_n && at < a.key_n;
        s.q[r][i % PIECE] = there ? gpu_row(a.q, first_row + r)[(size_t)head * a.key_n + at] : 0;
    }
}

/* The same of keys or values (n elements) at positions from `base` on; what lies past `high` is 0. */
template <gguf_type T>
GPU_DEVICE void load_state(tile_shared &s, const attend_args &a, const segment &g, bool values,
                           uint32_t head_kv, uint32_t base, uint32_t piece) {
    const uint8_t *state = values ? a.value : a.key;
    const uint64_t slot_bytes = values ? a.value_slot_bytes : a.key_slot_bytes;
    const uint32_t n = values ? a.value_n : a.key_n;
    for (uint32_t i = threadIdx.x; i < TILE * PIECE / GPU_VALUES; i += TILE_BLOCK) {
        const uint32_t j = i / (PIECE / GPU_VALUES), at = i % (PIECE / GPU_VALUES) * GPU_VALUES;
        float v[GPU_VALUES];
        if (base + j < g.high && piece + at < n) {
            const uint8_t *row =
                state_at<T>(state, slot_bytes, s.slot[g.begin], a.context_n, head_kv, base + j, n);
            gpu_values_8<T>(v, row, piece + at, n, values ? a.wide_value : a.wide_key);
        } else {
            GPU_UNROLL
            for (uint32_t e = 0; e < GPU_VALUES; e++) v[e] = 0;
        }
        GPU_UNROLL
        for (uint32_t e = 0; e < GPU_VALUES; e++) s.state[j][at + e] = v[e];
    }
}

struct alignas(16) floats_4 { /* one load */
    float at[4];
};

/* score[i] += this lane's position times row i of this warp, over one piece. */
GPU_DEVICE void add_scores(float score[WARP_ROWS], const tile_shared &s, uint32_t n) {
    const uint32_t lane = threadIdx.x % GPU_WARP, first = threadIdx.x / GPU_WARP * WARP_ROWS;
    for (uint32_t d = 0; d < n; d += 4) {
        const floats_4 k = *(const floats_4 *)&s.state[lane][d];
        GPU_UNROLL
        for (uint32_t i = 0; i < WARP_ROWS; i++) {
            const floats_4 q = *(const floats_4 *)&s.q[first + i][d];
            GPU_UNROLL
            for (uint32_t e = 0; e < 4; e++) score[i] = fmaf(q.at[e], k.at[e], score[i]);
        }
    }
}

/* What a warp has of its rows so far; lanes share out the elements of `out`. */
template <int PIECES> struct streams {
    float max[WARP_ROWS], sum[WARP_ROWS], out[WARP_ROWS][PIECES * LANE_VALUES];
};

/* Takes the scores of a tile in: p for the values, and what was summed before to the new maximum. */
template <int PIECES>
GPU_DEVICE void take_scores(tile_shared &s, streams<PIECES> &t, const attend_args &a, const segment &g,
                            uint32_t base, const float score[WARP_ROWS]) {
    const uint32_t lane = threadIdx.x % GPU_WARP, first = threadIdx.x / GPU_WARP * WARP_ROWS;
    GPU_UNROLL
    for (uint32_t i = 0; i < WARP_ROWS; i++) {
        const uint32_t r = first + i, j = base + lane;
        const bool seen = r >= g.begin && r < g.end && j >= s.first[r] && j <= s.position[r];
        const float x = seen ? capped(a, score[i]) : -INFINITY;
        const float max = fmaxf(t.max[i], gpu_warp_max(x));
        const float factor = t.max[i] == max ? 1 : gpu_exp(t.max[i] - max);
        const float p = seen ? gpu_exp(x - max) : 0;
        t.sum[i] = fmaf(t.sum[i], factor, gpu_warp_sum(p));
        t.max[i] = max;
        s.p[r][lane] = p;
        GPU_UNROLL
        for (uint32_t e = 0; e < PIECES * LANE_VALUES; e++) t.out[i][e] *= factor;
    }
}

/* One piece of the tile's values. */
GPU_DEVICE void add_values(float out[WARP_ROWS][LANE_VALUES], const tile_shared &s) {
    const uint32_t lane = threadIdx.x % GPU_WARP, first = threadIdx.x / GPU_WARP * WARP_ROWS;
    for (uint32_t j = 0; j < TILE; j++) {
        float v[LANE_VALUES];
        GPU_UNROLL
        for (uint32_t e = 0; e < LANE_VALUES; e++) v[e] = s.state[j][lane + GPU_WARP * e];
        GPU_UNROLL
        for (uint32_t i = 0; i < WARP_ROWS; i++) {
            const float p = s.p[first + i][j];
            GPU_UNROLL
            for (uint32_t e = 0; e < LANE_VALUES; e++) out[i][e] = fmaf(p, v[e], out[i][e]);
        }
    }
}

/* Positions [base, base + TILE) for one session's rows. Begins and ends with nobody reading shared memory. */
template <gguf_type T, int PIECES>
GPU_DEVICE void attend_positions(tile_shared &s, streams<PIECES> &t, const attend_args &a, const segment &g,
                                 uint32_t first_row, uint32_t row_n, uint32_t base) {
    const uint32_t head = blockIdx.y, head_kv = head / (a.head_n / a.head_kv_n);
    float score[WARP_ROWS];
    GPU_UNROLL
    for (uint32_t i = 0; i < WARP_ROWS; i++) score[i] = 0;
    for (uint32_t piece = 0; piece < a.key_n; piece += PIECE) {
        if (PIECES > 1) load_queries(s, a, first_row, row_n, head, piece);
        load_state<T>(s, a, g, false, head_kv, base, piece);
        GPU_SYNC();
        add_scores(score, s, a.key_n - piece < PIECE ? (a.key_n - piece + 3) / 4 * 4 : (uint32_t)PIECE);
        GPU_SYNC();
    }
    take_scores<PIECES>(s, t, a, g, base, score);
    GPU_UNROLL
    for (uint32_t piece = 0; piece < PIECES; piece++) {
        if (piece * PIECE >= a.value_n) continue;
        load_state<T>(s, a, g, true, head_kv, base, piece * PIECE);
        GPU_SYNC();
        float out[WARP_ROWS][LANE_VALUES];
        GPU_UNROLL
        for (uint32_t i = 0; i < WARP_ROWS; i++) {
            GPU_UNROLL
            for (uint32_t e = 0; e < LANE_VALUES; e++) out[i][e] = t.out[i][piece * LANE_VALUES + e];
        }
        add_values(out, s);
        GPU_UNROLL
        for (uint32_t i = 0; i < WARP_ROWS; i++) {
            GPU_UNROLL
            for (uint32_t e = 0; e < LANE_VALUES; e++) t.out[i][piece * LANE_VALUES + e] = out[i][e];
        }
        GPU_SYNC();
    }
}

template <int PIECES>
GPU_DEVICE void write_rows(const streams<PIECES> &t, const attend_args &a, uint32_t first_row,
                           uint32_t row_n) {
    const uint32_t lane = threadIdx.x % GPU_WARP, first = threadIdx.x / GPU_WARP * WARP_ROWS;
    GPU_UNROLL
    for (uint32_t i = 0; i < WARP_ROWS; i++) {
        if (first + i >= row_n) continue;
        float *y = gpu_row(a.y, first_row + first + i) + (size_t)blockIdx.y * a.value_n;
        const float share = share_of(a, blockIdx.y, t.max[i], t.sum[i]);
        GPU_UNROLL
        for (uint32_t e = 0; e < PIECES * LANE_VALUES; e++) {
            const uint32_t at = e / LANE_VALUES * PIECE + e % LANE_VALUES * GPU_WARP + lane;
            if (at < a.value_n) y[at] = t.out[i][e] * share;
        }
    }
}

/* One tile of rows and one head. PIECES: of the longer of key and value. */
template <gguf_type T, int PIECES> GPU_KERNEL(TILE_BLOCK) attend_tile(const attend_args a) {
    GPU_SHARED(tile_shared, s);
    const uint32_t first_row = blockIdx.x * TILE, total = gpu_row_n(a.step, a.outputs);
    if (first_row >= total) return;
    const uint32_t row_n = total - first_row < TILE ? total - first_row : (uint32_t)TILE;
    if (threadIdx.x < row_n) {
        const device_row row = a.row[first_row + threadIdx.x];
        s.position[threadIdx.x] = (uint32_t)row.position;
        s.first[threadIdx.x] = first_seen(a, (uint32_t)row.position);
        s.slot[threadIdx.x] = (uint32_t)row.slot;
    }
    if (PIECES == 1) load_queries(s, a, first_row, row_n, blockIdx.y, 0);
    streams<PIECES> t;
    GPU_UNROLL
    for (uint32_t i = 0; i < WARP_ROWS; i++) {
        t.max[i] = -INFINITY;
        t.sum[i] = 0;
        GPU_UNROLL
        for (uint32_t e = 0; e < PIECES * LANE_VALUES; e++) t.out[i][e] = 0;
    }
    GPU_SYNC();
    for (uint32_t begin = 0; begin < row_n;) {
        const segment g = segment_at(s, begin, row_n);
        for (uint32_t base = g.low / TILE * TILE; base < g.high; base += TILE)
            attend_positions<T, PIECES>(s, t, a, g, first_row, row_n, base);
        begin = g.end;
    }
    write_rows<PIECES>(t, a, first_row, row_n);
}

/* ---- The family ---- */

static uint32_t larger(uint32_t a, uint32_t b) { return a > b ? a : b; }

static hotset_status check(const device_op *op, hotset_error *err) {
    if (op->attend.value_step && op->attend.value_step != op->attend.value_n)
        return gpu_unsupported(err, op, "latent", "attention");
    if (op->attend.key_n > KEY_MAX || op->attend.value_n > KEY_MAX)
        return gpu_unsupported(err, op, "heads of more than", "512 elements");
    return HOTSET_OK;
}

static uint32_t run_max_of(const device_op *op) {
    const uint32_t window = op->attend.window_n, context = op->attend.context_n;
    return gpu_pieces(window && window < context ? window : context, RUN);
}

static uint64_t workspace_bytes(const device_op *op) {
    if (op->row_max > RUN_ROWS) return 0;
    return (uint64_t)op->row_max * op->attend.head_n * run_max_of(op) * (op->attend.value_n + 2) *
           sizeof(float);
}

template <gguf_type T> static void launch_as(const gpu_call *call, const device_op *op, const attend_args a) {
    if (op->row_max <= RUN_ROWS) {
        const uint32_t turns = gpu_pieces(a.head_n / a.head_kv_n, HEADS);
        GPU_LAUNCH(attend_run<T>, dim3(a.run_max, a.head_kv_n * turns, op->row_max), RUN_BLOCK, call->stream,
                   a);
        GPU_LAUNCH(fold_runs, dim3(a.head_n, op->row_max), RUN_BLOCK, call->stream, a);
        return;
    }
    const dim3 grid(gpu_pieces(op->row_max, TILE), a.head_n);
    const uint32_t pieces = gpu_pieces(larger(a.key_n, a.value_n), PIECE);
    if (pieces == 1)
        GPU_LAUNCH((attend_tile<T, 1>), grid, TILE_BLOCK, call->stream, a);
    else if (pieces == 2)
        GPU_LAUNCH((attend_tile<T, 2>), grid, TILE_BLOCK, call->stream, a);
    else
        GPU_LAUNCH((attend_tile<T, 4>), grid, TILE_BLOCK, call->stream, a);
}

static void launch(const gpu_call *call, const device_op *op) {
    const uint32_t bytes = op->attend.state == GGUF_F16 ? 2 : 4; /* wide rows are floats */
    attend_args a;
    memset(&a, 0, sizeof a);
    a.step = call->step;
    a.row = call->row;
    a.q = gpu_rows_of(op->attend.q);
    a.y = gpu_rows_of(op->attend.y);
    a.key = gpu_at(op->attend.key_state);
    a.value = gpu_at(op->attend.value_state);
    a.key_slot_bytes = op->attend.key_slot_bytes;
    a.value_slot_bytes = op->attend.value_slot_bytes;
    a.head_n = op->attend.head_n;
    a.head_kv_n = op->attend.head_kv_n;
    a.key_n = op->attend.key_n;
    a.value_n = op->attend.value_n;
    a.window_n = op->attend.window_n;
    a.context_n = op->attend.context_n;
    a.run_max = run_max_of(op);
    a.scale = op->attend.scale;
    a.softcap = op->attend.softcap;
    a.sinks = (const float *)(const void *)gpu_at(op->attend.sinks);
    a.outputs = op->outputs;
    a.wide_key = (uintptr_t)a.key % 16 == 0 && a.key_slot_bytes % 16 == 0 && a.key_n * bytes % 16 == 0 &&
                 a.key_n % 8 == 0;
    a.wide_value = (uintptr_t)a.value % 16 == 0 && a.value_slot_bytes % 16 == 0 &&
                   a.value_n * bytes % 16 == 0 && a.value_n % 8 == 0;
    a.partial = (float *)call->workspace;
    switch (op->attend.state) {
    case GGUF_F16: launch_as<GGUF_F16>(call, op, a); break;
    case GGUF_Q8_0: launch_as<GGUF_Q8_0>(call, op, a); break;
    default: launch_as<GGUF_F32>(call, op, a); break;
    }
}

GPU_TABLE gpu_family gpu_attend = {check, workspace_bytes, launch};
