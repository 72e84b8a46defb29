/* matmul.cu - LINEAR and EXPERTS for many rows: tiles of weight rows times tiles of vectors ("columns").
 *
 * Block types are unpacked to bytes in shared memory and multiplied 4 at a time; floats, and blocks that lie
 * along the outputs, as floats. Every output is summed along k in one order. Vectors are grouped by expert on
 * the device: the host never learns what a router chose.
 */
#include "devices/gpu/by_neuron.h"

enum {
    BLOCK = 256,
    COLS = 64,       /* of a tile */
    COLS_EACH = 4,   /* of a thread: 16 threads beside each other */
    ROWS = 128,      /* weight rows of a tile of blocks */
    ROWS_EACH = 8,   /* of a thread: 16 apart */
    STEP = 64,       /* weights along k between two barriers */
    STRIDE = 20,     /* words of STEP bytes and a gap: 8 threads' loads of 16 bytes meet all banks */
    FLOAT_ROWS = 64, /* the same for floats */
    FLOAT_ROWS_EACH = 4,
    FLOAT_STEP = 32
};

/* ---- Grouping vectors by expert ---- */

/* Columns use[from], ... of one expert's tile. */
typedef struct tile {
    uint32_t unit, from, n;
} tile;

typedef struct groups {
    uint32_t *start, *count; /* [unit_n] */
    uint32_t *tile_n;
    uint32_t *use; /* [use_max] numbers of vectors, by expert, rising in each */
    tile *tiles;   /* [use_max / COLS + unit_n] */
} groups;

struct group_args {
    gpu_uses u;
    uint32_t unit_n;
    groups g;
};

/* One warp for each expert: counts, then lists its vectors. */
GPU_KERNEL(GPU_WARP) group_uses(const group_args a) {
    const uint32_t unit = blockIdx.x, lane = threadIdx.x, n = gpu_use_n(a.u);
    uint32_t start = 0, count = 0;
    for (uint32_t i = lane; i - lane < n; i += GPU_WARP) {
        const uint32_t id = i < n ? gpu_unit_of(a.u, i) : 0;
        start += GPU_POPCOUNT(GPU_BALLOT(i < n && id < unit));
        count += GPU_POPCOUNT(GPU_BALLOT(i < n && id == unit));
    }
    uint32_t at = start;
    for (uint32_t i = lane; i - lane < n; i += GPU_WARP) {
        const bool mine = i < n && gpu_unit_of(a.u, i) == unit;
        const uint32_t mask = GPU_BALLOT(mine);
        if (mine) a.g.use[at + GPU_POPCOUNT(mask & (((uint32_t)1 << lane) - 1))] = i;
        at += GPU_POPCOUNT(mask);
    }
    if (lane != 0) return;
    a.g.start[unit] = start;
    a.g.count[unit] = count;
}

/* One warp: the tiles of all experts, in their order. */
GPU_KERNEL(GPU_WARP) list_tiles(const group_args a) {
    const uint32_t lane = threadIdx.x;
    uint32_t tile_n = 0;
    for (uint32_t unit = lane; unit - lane < a.unit_n; unit += GPU_WARP) {
        const uint32_t count = unit < a.unit_n ? a.g.count[unit] : 0, n = (count + COLS - 1) / COLS;
        uint32_t end = n; /* of this lane's tiles, after adding those of the lanes before */
        for (uint32_t by = 1; by < GPU_WARP; by *= 2) {
            const uint32_t before = GPU_SHUFFLE(end, lane >= by ? lane - by : lane);
            if (lane >= by) end += before;
        }
        for (uint32_t j = 0; j < n; j++) {
            const uint32_t left = count - j * COLS;
            const tile t = {unit, a.g.start[unit] + j * COLS, left < COLS ? left : (uint32_t)COLS};
            a.g.tiles[tile_n + end - n + j] = t;
        }
        tile_n += GPU_SHUFFLE(end, GPU_WARP - 1);
    }
    if (lane == 0) *a.g.tile_n = tile_n;
}

/* ---- Tiles ---- */

struct matmul_args {
    gpu_uses u;
    gpu_planes planes; /* of block types */
    gpu_part part;
    groups g;  /* tiles NULL: one matrix, columns are rows of the step */
    bool wide; /* inputs begin at multiples of 16 bytes */
};

GPU_DEVICE tile tile_of(const matmul_args &a, uint32_t i) {
    tile t = {0, 0, 0};
    if (a.g.tiles) return i < *a.g.tile_n ? a.g.tiles[i] : t;
    const uint32_t n = gpu_row_n(a.u.step, a.u.outputs);
    t.from = i * COLS;
    if (t.from < n) t.n = n - t.from < COLS ? n - t.from : (uint32_t)COLS;
    return t;
}
GPU_DEVICE uint32_t use_of(const matmul_args &a, const tile &t, uint32_t column) {
    return a.g.tiles ? a.g.use[t.from + column] : t.from + column;
}

/* Of a tile that is not full most warps have none, and leave the multiplying to the others. */
GPU_DEVICE bool has_columns(const tile &t) { return threadIdx.x / 16 * COLS_EACH < t.n; }

/* Zeros for the rows [o, o + row_n) of an absent expert's tile. */
GPU_DEVICE void put_nothing(const matmul_args &a, const tile &t, uint32_t o, uint32_t row_n) {
    for (uint32_t c = 0; c < t.n; c++)
        for (uint32_t r = o + threadIdx.x; r < o + row_n && r < a.part.w.out_n; r += BLOCK)
            gpu_nothing(a.part, a.u, use_of(a, t, c), r);
}

/* ---- Block types ---- */

struct alignas(16) byte_tiles {
    uint32_t w[ROWS][STRIDE], x[COLS][STRIDE];
    float scale[2][2][ROWS], min[2][ROWS]; /* [group][half] */
    float d[2][COLS], sum[2][COLS];
};

GPU_DEVICE void put_zeros(uint32_t *words, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) words[i] = 0;
}

/* Rows of blocks: each thread one group of one row. */
template <gguf_type T>
GPU_DEVICE void fill_rows(byte_tiles &s, const gpu_matrix &m, const uint8_t *data, uint32_t o, uint32_t k) {
    const uint32_t r = threadIdx.x / 2, g = threadIdx.x % 2, at = k / GPU_GROUP + g;
    gpu_group e;
    if (o + r < m.out_n && at < m.in_n / GPU_GROUP) {
        e = gpu_group_at<T>(data + m.row_bytes * (o + r), at);
    } else {
        put_zeros(e.w, 8);
        e.scale[0] = e.scale[1] = e.min = 0;
    }
    GPU_UNROLL
    for (uint32_t i = 0; i < 8; i++) s.w[r][8 * g + i] = e.w[i];
    for (uint32_t h = 0; h < 2; h++) s.scale[g][h][r] = e.scale[h];
    s.min[g][r] = e.min;
}

/* By neuron: each thread a run of outputs of one neuron, whose bytes go to as many rows; then the scales of
 * one row and part. */
template <gguf_type T>
GPU_DEVICE void fill_neurons(byte_tiles &s, const gpu_matrix &m, const uint8_t *data, uint32_t o,
                             uint32_t k) {
    const uint32_t i = threadIdx.x / 4, run = threadIdx.x % 4, neuron = k + i,
                   group_n = gpu_neuron_group_n<T>();
    const bool there = o + 32 * run < m.out_n && neuron < m.in_n;
    const uint8_t *from = NULL;
    if (there)
        from = gpu_neuron_group<T>(data, m.out_n, neuron / group_n) +
               gpu_neuron_bytes<T>(m.out_n) * (neuron % group_n);
    for (uint32_t j = 0; j < 4; j++) {
        gpu_8 q = {{0, 0}};
        if (there) q = gpu_neuron_quants<T>(from, m.out_n, o / 32 + run, j);
        if (there && T != GGUF_Q8_0)
            for (uint32_t h = 0; h < 2; h++)
                q.w[h] = gpu_bytes_minus(q.w[h], (uint32_t)gpu_neuron_offset<T>());
        for (uint32_t b = 0; b < 8; b++)
            ((uint8_t *)s.w[32 * run + 16 * (b / 4) + 4 * j + b % 4])[i] = (uint8_t)(q.w[b / 4] >> b % 4 * 8);
    }
    const uint32_t r = threadIdx.x / 2, g = threadIdx.x % 2, part = k / GPU_GROUP + g;
    float scale[2] = {0, 0}, min = 0;
    if (o + r < m.out_n && part < m.in_n / GPU_GROUP)
        gpu_neuron_scales<T>(scale, &min, gpu_neuron_group<T>(data, m.out_n, part * GPU_GROUP / group_n),
                             m.out_n, part % (group_n / GPU_GROUP), o + r);
    for (uint32_t h = 0; h < 2; h++) s.scale[g][h][r] = scale[h];
    s.min[g][r] = min;
}

/* Each thread 16 values of one column. */
GPU_DEVICE void fill_columns(byte_tiles &s, const matmul_args &a, uint32_t input, bool there, uint32_t k) {
    const uint32_t c = threadIdx.x / 4, part = threadIdx.x % 4, at = k + 16 * part;
    gpu_16 q = {{0, 0, 0, 0}};
    there = there && at < a.u.in_n;
    const gpu_act act = gpu_act_at(a.planes, there ? input : 0);
    if (there) q = *(const gpu_16 *)(act.q + at);
    *(gpu_16 *)&s.x[c][4 * part] = q;
    if (part % 2 != 0) return;
    const uint32_t group = at / GPU_GROUP;
    s.d[part / 2][c] = there ? act.d[group] : 0;
    s.sum[part / 2][c] =
        there ? (float)(gpu_half_sum(act.sum[group], 0) + gpu_half_sum(act.sum[group], 1)) : 0;
}

/* Scales the dot products of a group, or of half of it, and begins new ones. */
template <gguf_type T>
GPU_DEVICE void scale_dots(float sum[ROWS_EACH][COLS_EACH], int dot[ROWS_EACH][COLS_EACH],
                           const byte_tiles &s, uint32_t g, uint32_t half) {
    const uint32_t row = threadIdx.x % 16, column = threadIdx.x / 16 * COLS_EACH;
    GPU_UNROLL
    for (uint32_t r = 0; r < ROWS_EACH; r++) {
        const float scale = s.scale[g][half][row + 16 * r], min = T == GGUF_Q4_K ? s.min[g][row + 16 * r] : 0;
        GPU_UNROLL
        for (uint32_t c = 0; c < COLS_EACH; c++) {
            const float d = s.d[g][column + c];
            float part = scale * (float)dot[r][c];
            if (T == GGUF_Q4_K) part = fmaf(-min, s.sum[g][column + c], part);
            sum[r][c] = fmaf(d, part, sum[r][c]);
            dot[r][c] = 0;
        }
    }
}

template <gguf_type T> GPU_DEVICE void multiply(float sum[ROWS_EACH][COLS_EACH], const byte_tiles &s) {
    const uint32_t row = threadIdx.x % 16, column = threadIdx.x / 16 * COLS_EACH;
    int dot[ROWS_EACH][COLS_EACH];
    GPU_UNROLL
    for (uint32_t r = 0; r < ROWS_EACH; r++) {
        GPU_UNROLL
        for (uint32_t c = 0; c < COLS_EACH; c++) dot[r][c] = 0;
    }
    GPU_UNROLL
    for (uint32_t half = 0; half < 4; half++) { /* of both groups */
        gpu_16 x[COLS_EACH];
        GPU_UNROLL
        for (uint32_t c = 0; c < COLS_EACH; c++) x[c] = *(const gpu_16 *)&s.x[column + c][4 * half];
        GPU_UNROLL
        for (uint32_t r = 0; r < ROWS_EACH; r++) {
            const gpu_16 w = *(const gpu_16 *)&s.w[row + 16 * r][4 * half];
            GPU_UNROLL
            for (uint32_t c = 0; c < COLS_EACH; c++) {
                GPU_UNROLL
                for (uint32_t i = 0; i < 4; i++) dot[r][c] = GPU_DOT4(w.w[i], x[c].w[i], dot[r][c]);
            }
        }
        if (T == GGUF_Q6_K) scale_dots<T>(sum, dot, s, half / 2, half % 2);
        if (T != GGUF_Q6_K && half % 2 == 1) scale_dots<T>(sum, dot, s, half / 2, 0);
    }
}

template <gguf_type T, bool BY_NEURON> GPU_KERNEL(BLOCK) matmul_bytes(const matmul_args a) {
    GPU_SHARED(byte_tiles, s);
    const tile t = tile_of(a, blockIdx.y);
    if (t.n == 0) return;
    const uint32_t o = blockIdx.x * ROWS, filled = threadIdx.x / 4;
    const bool there = filled < t.n, multiplies = has_columns(t);
    const uint32_t input = there ? gpu_input_of(a.u, use_of(a, t, filled)) : 0;
    const uint8_t *data = gpu_unit(a.part.w, t.unit);
    if (!data) {
        put_nothing(a, t, o, ROWS);
        return;
    }
    float sum[ROWS_EACH][COLS_EACH];
    GPU_UNROLL
    for (uint32_t r = 0; r < ROWS_EACH; r++) {
        GPU_UNROLL
        for (uint32_t c = 0; c < COLS_EACH; c++) sum[r][c] = 0;
    }
    for (uint32_t k = 0; k < a.u.in_n; k += STEP) {
        if (BY_NEURON)
            fill_neurons<T>(s, a.part.w, data, o, k);
        else
            fill_rows<T>(s, a.part.w, data, o, k);
        fill_columns(s, a, input, there, k);
        GPU_SYNC();
        if (multiplies) multiply<T>(sum, s);
        GPU_SYNC();
    }
    for (uint32_t c = 0; c < COLS_EACH; c++) {
        const uint32_t column = threadIdx.x / 16 * COLS_EACH + c;
        if (column >= t.n) break;
        const uint32_t use = use_of(a, t, column);
        GPU_UNROLL
        for (uint32_t r = 0; r < ROWS_EACH; r++) {
            const uint32_t row = o + threadIdx.x % 16 + 16 * r;
            if (row < a.part.w.out_n) gpu_finish(a.part, a.u, use, t.unit, row, sum[r][c]);
        }
    }
}

/* ---- Floats ---- */

struct float_tiles {
    float w[FLOAT_STEP][FLOAT_ROWS], x[FLOAT_STEP][COLS];
};

/* Eight weights for each thread: along k, or along the outputs (ACROSS) where these lie together. */
template <gguf_type T, bool ACROSS>
GPU_DEVICE void fill_floats(float_tiles &s, const gpu_part &part, const uint8_t *data, uint32_t o,
                            uint32_t k) {
    float v[GPU_VALUES];
    const uint32_t i = ACROSS ? threadIdx.x / 8 : threadIdx.x % 64;
    const uint32_t at = 8 * (ACROSS ? threadIdx.x % 8 : threadIdx.x / 64);
    const uint32_t row = (ACROSS ? k : o) + i, first = (ACROSS ? o : k) + at;
    const uint32_t row_n = ACROSS ? part.w.in_n : part.w.out_n, n = ACROSS ? part.w.out_n : part.w.in_n;
    if (row < row_n && first < n) {
        gpu_values_8<T>(v, data + part.w.row_bytes * row, first, n, part.wide);
    } else {
        GPU_UNROLL
        for (uint32_t j = 0; j < GPU_VALUES; j++) v[j] = 0;
    }
    GPU_UNROLL
    for (uint32_t j = 0; j < GPU_VALUES; j++) {
        if (ACROSS)
            s.w[i][at + j] = v[j];
        else
            s.w[at + j][i] = v[j];
    }
}

GPU_DEVICE void fill_inputs(float_tiles &s, const matmul_args &a, const float *x, uint32_t k) {
    float v[GPU_VALUES];
    const uint32_t c = threadIdx.x % 64, at = 8 * (threadIdx.x / 64);
    if (x && k + at < a.u.in_n) {
        gpu_values_8<GGUF_F32>(v, (const uint8_t *)x, k + at, a.u.in_n, a.wide);
    } else {
        GPU_UNROLL
        for (uint32_t j = 0; j < GPU_VALUES; j++) v[j] = 0;
    }
    GPU_UNROLL
    for (uint32_t j = 0; j < GPU_VALUES; j++) s.x[at + j][c] = v[j];
}

/* Sums of a step are added to those before as a whole: fewer roundings at the size of the total. */
GPU_DEVICE void multiply_floats(float sum[FLOAT_ROWS_EACH][COLS_EACH], const float_tiles &s) {
    const uint32_t row = threadIdx.x % 16, column = threadIdx.x / 16 * COLS_EACH;
    float part[FLOAT_ROWS_EACH][COLS_EACH];
    GPU_UNROLL
    for (uint32_t r = 0; r < FLOAT_ROWS_EACH; r++) {
        GPU_UNROLL
        for (uint32_t c = 0; c < COLS_EACH; c++) part[r][c] = 0;
    }
    for (uint32_t k = 0; k < FLOAT_STEP; k++) {
        float x[COLS_EACH];
        GPU_UNROLL
        for (uint32_t c = 0; c < COLS_EACH; c++) x[c] = s.x[k][column + c];
        GPU_UNROLL
        for (uint32_t r = 0; r < FLOAT_ROWS_EACH; r++) {
            const float w = s.w[k][row + 16 * r];
            GPU_UNROLL
            for (uint32_t c = 0; c < COLS_EACH; c++) part[r][c] = fmaf(w, x[c], part[r][c]);
        }
    }
    GPU_UNROLL
    for (uint32_t r = 0; r < FLOAT_ROWS_EACH; r++) {
        GPU_UNROLL
        for (uint32_t c = 0; c < COLS_EACH; c++) sum[r][c] += part[r][c];
    }
}

template <gguf_type T, bool ACROSS> GPU_KERNEL(BLOCK) matmul_floats(const matmul_args a) {
    GPU_SHARED(float_tiles, s);
    const tile t = tile_of(a, blockIdx.y);
    if (t.n == 0) return;
    const uint32_t o = blockIdx.x * FLOAT_ROWS, filled = threadIdx.x % 64;
    const bool multiplies = has_columns(t);
    const float *x = filled < t.n ? gpu_input(a.u, gpu_input_of(a.u, use_of(a, t, filled))) : NULL;
    const uint8_t *data = gpu_unit(a.part.w, t.unit);
    if (!data) {
        put_nothing(a, t, o, FLOAT_ROWS);
        return;
    }
    float sum[FLOAT_ROWS_EACH][COLS_EACH];
    GPU_UNROLL
    for (uint32_t r = 0; r < FLOAT_ROWS_EACH; r++) {
        GPU_UNROLL
        for (uint32_t c = 0; c < COLS_EACH; c++) sum[r][c] = 0;
    }
    for (uint32_t k = 0; k < a.u.in_n; k += FLOAT_STEP) {
        fill_floats<T, ACROSS>(s, a.part, data, o, k);
        fill_inputs(s, a, x, k);
        GPU_SYNC();
        if (multiplies) multiply_floats(sum, s);
        GPU_SYNC();
    }
    for (uint32_t c = 0; c < COLS_EACH; c++) {
        const uint32_t column = threadIdx.x / 16 * COLS_EACH + c;
        if (column >= t.n) break;
        const uint32_t use = use_of(a, t, column);
        GPU_UNROLL
        for (uint32_t r = 0; r < FLOAT_ROWS_EACH; r++) {
            const uint32_t row = o + threadIdx.x % 16 + 16 * r;
            if (row < a.part.w.out_n) gpu_finish(a.part, a.u, use, t.unit, row, sum[r][c]);
        }
    }
}

/* ---- Launches ---- */

static uint32_t unit_n_of(const gpu_product *p) { return p->id.ref.buffer ? p->part[0].w.unit_n : 0; }
static uint32_t tile_max(const gpu_product *p) { return gpu_use_max(p) / COLS + unit_n_of(p); }

uint64_t gpu_groups_bytes(const gpu_product *p) {
    if (!unit_n_of(p)) return 0;
    return sizeof(uint32_t) * (2 * (uint64_t)unit_n_of(p) + 1 + gpu_use_max(p)) +
           sizeof(tile) * (uint64_t)tile_max(p);
}

static groups groups_launch(const gpu_call *call, const gpu_product *p, const gpu_layout *l) {
    group_args a;
    memset(&a, 0, sizeof a);
    if (!unit_n_of(p)) return a.g;
    a.u = gpu_uses_of(call, p);
    a.unit_n = unit_n_of(p);
    a.g.start = (uint32_t *)(call->workspace + l->groups);
    a.g.count = a.g.start + a.unit_n;
    a.g.tile_n = a.g.count + a.unit_n;
    a.g.use = a.g.tile_n + 1;
    a.g.tiles = (tile *)(a.g.use + gpu_use_max(p));
    GPU_LAUNCH(group_uses, dim3(a.unit_n), GPU_WARP, call->stream, a);
    GPU_LAUNCH(list_tiles, dim3(1), GPU_WARP, call->stream, a);
    return a.g;
}

static uint32_t column_tiles(const gpu_product *p) {
    return unit_n_of(p) ? tile_max(p) : gpu_pieces(p->op->row_max, COLS);
}

template <gguf_type T>
static void bytes_launch(const gpu_call *call, const gpu_product *p, const device_matrix *m,
                         const matmul_args a) {
    const dim3 grid(gpu_pieces(m->out_n, ROWS), column_tiles(p));
    if (m->order == NEURONS_BY_NEURON)
        GPU_LAUNCH((matmul_bytes<T, true>), grid, BLOCK, call->stream, a);
    else
        GPU_LAUNCH((matmul_bytes<T, false>), grid, BLOCK, call->stream, a);
}

template <gguf_type T>
static void across_launch(const gpu_call *call, const gpu_product *p, const device_matrix *m,
                          const matmul_args a) {
    const dim3 grid(gpu_pieces(m->out_n, FLOAT_ROWS), column_tiles(p));
    GPU_LAUNCH((matmul_floats<T, true>), grid, BLOCK, call->stream, a);
}

template <gguf_type T>
static void floats_launch(const gpu_call *call, const gpu_product *p, const device_matrix *m,
                          const matmul_args a) {
    const dim3 grid(gpu_pieces(m->out_n, FLOAT_ROWS), column_tiles(p));
    GPU_LAUNCH((matmul_floats<T, false>), grid, BLOCK, call->stream, a);
}

void gpu_matmul_launch(const gpu_call *call, const gpu_product *p, const gpu_layout *l) {
    matmul_args a;
    memset(&a, 0, sizeof a);
    a.g = groups_launch(call, p, l);
    a.u = gpu_uses_of(call, p);
    a.wide = (uintptr_t)a.u.x.at % 16 == 0 && a.u.x.stride % 4 == 0 && p->in_n % 8 == 0;
    for (uint32_t i = 0; i < p->part_n; i++) {
        const device_matrix *m = &p->part[i].w;
        a.part = gpu_part_of(&p->part[i]);
        if (gpu_act_block(m)) {
            a.planes = gpu_planes_at(p, l, call->workspace, gpu_act_block(m));
            GPU_BY_BLOCK_TYPE(m->type, bytes_launch, call, p, m, a)
        } else if (m->order != NEURONS_BY_OUTPUT) {
            GPU_BY_TYPE(m->type, across_launch, call, p, m, a)
        } else {
            GPU_BY_FLOAT_TYPE(m->type, floats_launch, call, p, m, a)
        }
    }
}
