/* selftest.c - a known-answer test of the kernels in use. */
#include "devices/cpu/selftest.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "devices/blocks.h"
#include "devices/cpu/state.h"
#include "devices/lanes.h"
#include "devices/neurons.h"

/* ROW_N: a run of outputs, as matrices by neuron need, and a wide tile. ACTIVE_EVERY: neurons of sums. */
enum { ROW_N = NEURONS_RUN, K = 512, ACTIVE_EVERY = 3 };
_Static_assert((int)ROW_N == CPU_WIDE_ROWS, "one tile");

static uint64_t next_random(uint64_t *state) { /* splitmix64 */
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static float next_float(uint64_t *state) { return (float)(next_random(state) >> 40) / (float)(1 << 23) - 1; }

/* In the 2-norm; of what is not finite no number. */
static double relative_error(const float *got, const float *want, size_t n) {
    double difference = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        difference += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
        norm += (double)want[i] * want[i];
    }
    return sqrt(difference / norm);
}

/* Random quants with every scale of a block set to the same harmless number. */
static void fill_blocks(uint8_t *w, uint64_t bytes, gguf_type type, uint64_t *state) {
    const blocks_form *f = blocks_form_of(type);
    const uint16_t scale = ref_f32_to_f16(0.01f);
    for (uint64_t i = 0; i < bytes; i++) w[i] = (uint8_t)next_random(state);
    for (uint8_t *block = w; block < w + bytes; block += f->block_bytes) {
        for (uint32_t i = 0; i < f->field_n; i++)
            if (f->field_bytes[i] == 2) memcpy(block + f->field_at[i], &scale, 2);
        if (type == GGUF_MXFP4) block[0] = 120;
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

/* Memory for the test of one type. */
typedef struct workspace {
    uint8_t *rows, *stored, *act, *panel, *tile, *tiles, *wide;
    float *got, *want; /* K products, and behind them what else a tile writes */
} workspace;

/* Lays the parts out from `base` on, which may be NULL; returns the bytes they take. */
static uint64_t lay_out(workspace *ws, const cpu_kernels *k, gguf_type type, uint8_t *base) {
    const cpu_matmul *m = &k->matmul[type], *lanes = &k->lanes[type], *floats = &k->matmul[GGUF_F32];
    const uint64_t row_bytes = gguf_row_bytes(type, K);
    const uint64_t act_bytes = max_u64(m->act_bytes(K), lanes->act_bytes ? lanes->act_bytes(K) : 0);
    const uint64_t tile_n = (ROW_N + m->tile_rows - 1) / m->tile_rows;
    const uint64_t tile_bytes = max_u64(m->tile_bytes(K), floats->tile_bytes(ROW_N));
    uint64_t panel_bytes = max_u64(m->panel_bytes(K), floats->panel_bytes(ROW_N)), wide_bytes = 0;
    uint64_t product_n = max_u64(m->tile_rows * m->panel_cols, floats->tile_rows * floats->panel_cols);
    if (m->wide) {
        panel_bytes =
            max_u64(panel_bytes, max_u64(m->wide->panel_bytes(K), floats->wide->panel_bytes(ROW_N)));
        wide_bytes = max_u64(m->wide->tile_bytes(K), floats->wide->tile_bytes(ROW_N));
        product_n = max_u64(product_n, CPU_WIDE_ROWS * CPU_WIDE_COLS);
    }
    const uint64_t products = (K + product_n) * sizeof(float);
    const struct {
        uint8_t **at;
        uint64_t bytes;
    } part[] = {{&ws->rows, row_bytes * ROW_N}, {&ws->stored, row_bytes * ROW_N},
                {&ws->act, act_bytes},          {&ws->panel, panel_bytes},
                {&ws->tile, tile_bytes},        {&ws->tiles, round_up(m->tile_bytes(K), CPU_ALIGN) * tile_n},
                {&ws->wide, wide_bytes}};
    uint64_t used = 0;
    for (size_t i = 0; i < COUNT_OF(part); i++) {
        if (base) *part[i].at = base + used;
        used += round_up(part[i].bytes, CPU_ALIGN);
    }
    if (base) ws->got = (float *)(void *)(base + used), ws->want = (float *)(void *)(base + used + products);
    return used + 2 * products;
}

/* What one type is tested with. */
typedef struct type_test {
    const cpu_kernels *kernels, *reference;
    gguf_type type;
    uint64_t row_bytes;
    workspace ws;
    float x[K], product[ROW_N]; /* of the rows with x, by the reference */
} type_test;

static hotset_status compare_within(const type_test *t, double tolerance, const char *what,
                                    const float *wanted, size_t n, hotset_error *err) {
    const double error = relative_error(t->ws.got, wanted, n);
    if (error <= tolerance) {
        memset(t->ws.got, 0, n * sizeof *t->ws.got); /* or a kernel that writes nothing would be right */
        return HOTSET_OK;
    }
    return hotset_fail(err, HOTSET_E_DEVICE, "cpu: the %s kernels compute wrong %s %s (relative error %.1e)",
                       t->kernels->isa, gguf_type_get(t->type)->name, what, error);
}

static hotset_status compare(const type_test *t, const char *what, const float *wanted, size_t n,
                             hotset_error *err) {
    return compare_within(t, 1e-5, what, wanted, n, err);
}

static hotset_status test_gemv(const type_test *t, hotset_error *err) {
    const cpu_matmul *m = &t->kernels->matmul[t->type];
    m->act_pack(t->ws.act, t->x, K);
    m->gemv(t->ws.got, t->ws.rows, t->row_bytes, ROW_N - CPU_DOTS, t->ws.act, K);
    const uint8_t *row[CPU_DOTS];
    for (size_t i = 0; i < CPU_DOTS; i++) row[i] = t->ws.rows + (ROW_N - CPU_DOTS + i) * t->row_bytes;
    cpu_dots(m, t->ws.got + ROW_N - CPU_DOTS, row, row, t->row_bytes, t->ws.act, K);
    return compare(t, "products", t->product, ROW_N, err);
}

/* Every column is the same. A tile writes its first one where the tile before has left others, so that in the
 * end all first columns stand one behind the other. */
static hotset_status test_tiles(const type_test *t, hotset_error *err) {
    const cpu_matmul *m = &t->kernels->matmul[t->type];
    m->panel_pack(t->ws.panel, t->x, 0, m->panel_cols, K);
    for (size_t r = 0; r < ROW_N; r += m->tile_rows) {
        const size_t n = ROW_N - r < m->tile_rows ? ROW_N - r : m->tile_rows;
        m->tile_unpack(t->ws.tile, t->ws.rows + r * t->row_bytes, t->row_bytes, n, K);
        m->tile_mul(t->ws.got + r, m->tile_rows, t->ws.tile, t->ws.panel, K);
    }
    return compare(t, "tiles", t->product, ROW_N, err);
}

/* The tile in the workspace, widened. Every column is the same. */
static hotset_status test_wide(const type_test *t, const cpu_matmul *m, size_t k, const float *wanted,
                               const char *what, hotset_error *err) {
    const double tolerance = gguf_type_get(t->type)->block_n > 1 ? 1e-2 : 1e-4; /* BF16: 2e-3 */
    float columns[CPU_WIDE_COLS * CPU_WIDE_ROWS];
    for (size_t c = 0; c < CPU_WIDE_COLS; c++)
        memcpy(columns + c * CPU_WIDE_ROWS, wanted, CPU_WIDE_ROWS * sizeof *columns);
    m->wide->panel_pack(t->ws.panel, t->x, 0, CPU_WIDE_COLS, k);
    m->tile_widen(t->ws.wide, t->ws.tile, k);
    m->wide->tile_mul(t->ws.got, CPU_WIDE_ROWS, t->ws.wide, t->ws.panel, CPU_WIDE_COLS, k, false);
    return compare_within(t, tolerance, what, columns, COUNT_OF(columns), err);
}

static hotset_status test_wide_tiles(const type_test *t, hotset_error *err) {
    const cpu_matmul *m = &t->kernels->matmul[t->type];
    float product[ROW_N];
    ref_gemv_float(product, t->ws.rows, t->row_bytes, ROW_N, t->x, K, t->type);
    m->tile_unpack(t->ws.tile, t->ws.rows, t->row_bytes, CPU_WIDE_ROWS, K);
    return test_wide(t, m, K, product, "wide tiles", err);
}

static hotset_status test_neuron_tiles(const type_test *t, hotset_error *err) {
    const cpu_matmul *m = &t->kernels->matmul[t->type];
    const uint64_t stride = round_up(m->tile_bytes(K), CPU_ALIGN);
    m->panel_pack(t->ws.panel, t->x, 0, m->panel_cols, K);
    m->neuron_tiles(t->ws.tiles, stride, t->ws.stored, ROW_N, 0, ROW_N, K);
    for (size_t r = 0; r < ROW_N; r += m->tile_rows)
        m->tile_mul(t->ws.got + r, m->tile_rows, t->ws.tiles + r / m->tile_rows * stride, t->ws.panel, K);
    return compare(t, "tiles by neuron", t->product, ROW_N, err);
}

static hotset_status test_lanes(const type_test *t, hotset_error *err) {
    const cpu_matmul *m = &t->kernels->lanes[t->type];
    for (size_t r = 0; r < ROW_N; r += LANES_ROWS)
        lanes_store(t->ws.stored + r * t->row_bytes, t->ws.rows + r * t->row_bytes, t->row_bytes, t->type, K);
    m->act_pack(t->ws.act, t->x, K);
    m->gemv(t->ws.got, t->ws.stored, t->row_bytes, ROW_N, t->ws.act, K);
    HOTSET_TRY(compare(t, "products of interleaved rows", t->product, ROW_N, err));
    m->panel_pack(t->ws.panel, t->x, 0, m->panel_cols, K);
    for (size_t r = 0; r < ROW_N; r += LANES_ROWS) {
        m->tile_unpack(t->ws.tile, t->ws.stored + r * t->row_bytes, t->row_bytes, LANES_ROWS, K);
        m->tile_mul(t->ws.got + r, m->tile_rows, t->ws.tile, t->ws.panel, K);
    }
    return compare(t, "tiles of interleaved rows", t->product, ROW_N, err);
}

static hotset_status test_sums(const type_test *t, hotset_error *err) {
    uint32_t neuron[K];
    int8_t q[K];
    float d[K];
    cpu_active active = {.neuron = neuron, .x = t->x, .q = q, .d = d};
    for (uint32_t i = 0; i < K; i += ACTIVE_EVERY, active.n++) {
        neuron[active.n] = i;
        q[active.n] = (int8_t)(127 * t->x[active.n]);
    }
    for (size_t i = 0; i < K; i++) d[i] = 0.01f; /* by block, as many as there are */
    t->kernels->neuron_sum[t->type](t->ws.got, t->ws.stored, ROW_N, 0, ROW_N, &active);
    t->reference->neuron_sum[t->type](t->ws.want, t->ws.stored, ROW_N, 0, ROW_N, &active);
    return compare(t, "sums over neurons", t->ws.want, ROW_N, err);
}

/* Blocks by row: the rows are those of ROW_N neurons with K outputs each. Sums over some neurons, and tiles,
 * which are of floats, over all. */
static hotset_status test_rows(const type_test *t, hotset_error *err) {
    const cpu_matmul *m = &t->kernels->matmul[GGUF_F32];
    uint32_t neuron[ROW_N];
    cpu_active active = {.neuron = neuron, .x = t->x};
    for (uint32_t i = 0; i < ROW_N; i += ACTIVE_EVERY) neuron[active.n++] = i;
    t->kernels->row_sum[t->type](t->ws.got, t->ws.rows, t->row_bytes, 0, K, &active);
    t->reference->row_sum[t->type](t->ws.want, t->ws.rows, t->row_bytes, 0, K, &active);
    HOTSET_TRY(compare(t, "sums by row", t->ws.want, K, err));
    for (active.n = 0; active.n < ROW_N; active.n++) neuron[active.n] = (uint32_t)active.n;
    t->reference->row_sum[t->type](t->ws.want, t->ws.rows, t->row_bytes, 0, K, &active);
    m->panel_pack(t->ws.panel, t->x, 0, m->panel_cols, ROW_N);
    for (size_t from = 0; from < K; from += m->tile_rows) {
        const size_t n = K - from < m->tile_rows ? K - from : m->tile_rows;
        t->kernels->row_tile[t->type](t->ws.tile, t->ws.rows, t->row_bytes, from, n, ROW_N);
        m->tile_mul(t->ws.got + from, m->tile_rows, t->ws.tile, t->ws.panel, ROW_N);
    }
    HOTSET_TRY(compare(t, "tiles by row", t->ws.want, K, err));
    if (!m->wide) return HOTSET_OK;
    t->kernels->row_tile[t->type](t->ws.tile, t->ws.rows, t->row_bytes, 0, CPU_WIDE_ROWS, ROW_N);
    return test_wide(t, m, ROW_N, t->ws.want, "wide tiles by row", err);
}

static hotset_status run_tests(type_test *t, hotset_error *err) {
    uint64_t state = t->type;
    for (int i = 0; i < K; i++) t->x[i] = next_float(&state);
    if (gguf_type_get(t->type)->block_n > 1) {
        fill_blocks(t->ws.rows, t->row_bytes * ROW_N, t->type, &state);
        ref_gemv_int(t->product, t->ws.rows, t->row_bytes, ROW_N, t->x, K, t->type);
    } else {
        fill_floats(t->ws.rows, ROW_N * K, t->type, &state);
        ref_gemv_float(t->product, t->ws.rows, t->row_bytes, ROW_N, t->x, K, t->type);
    }
    HOTSET_TRY(test_gemv(t, err));
    HOTSET_TRY(test_tiles(t, err));
    if (t->kernels->matmul[t->type].wide) HOTSET_TRY(test_wide_tiles(t, err));
    if (t->kernels->lanes[t->type].act_bytes) HOTSET_TRY(test_lanes(t, err));
    if (t->kernels->row_sum[t->type]) HOTSET_TRY(test_rows(t, err));
    if (!t->kernels->neuron_sum[t->type]) return HOTSET_OK;
    neurons_store(t->ws.stored, t->ws.rows, t->row_bytes, t->type, K, ROW_N, 0, ROW_N);
    HOTSET_TRY(test_neuron_tiles(t, err));
    return test_sums(t, err);
}

hotset_status cpu_selftest(const cpu_kernels *k, gguf_type type, hotset_error *err) {
    cpu_kernels reference;
    cpu_kernels_ref(&reference);
    type_test t = {.kernels = k, .reference = &reference, .type = type, .row_bytes = gguf_row_bytes(type, K)};
    const uint64_t bytes = lay_out(&t.ws, k, type, NULL);
    uint8_t *memory = aligned_alloc(CPU_ALIGN, round_up(bytes, CPU_ALIGN));
    if (!memory) return hotset_fail(err, HOTSET_E_MEMORY, "out of memory for the CPU's self-test");
    lay_out(&t.ws, k, type, memory);
    const hotset_status status = run_tests(&t, err);
    free(memory);
    return status;
}

/* ---- Attention ---- */

/* SEEN_N: positions, the last group of which is not whole; ROOM_N: those of whole groups. QUERY_N: query
 * heads of all tokens at most. */
enum {
    SEEN_N = 70,
    ROOM_N = (SEEN_N + CPU_ATTEND_GROUP - 1) / CPU_ATTEND_GROUP * CPU_ATTEND_GROUP,
    QUERY_N = 32,
    TOKEN_N = 3
};

typedef struct attention_test {
    cpu_attention of;
    uint32_t token_n;
    float *q, *key, *value, *scores, *out, *want, *max, *sum;
    uint8_t *key_state, *value_state;
} attention_test;

/* As lay_out(). */
static uint64_t lay_out_attention(attention_test *t, uint8_t *base) {
    const uint64_t head_n = (uint64_t)t->token_n * t->of.head_n, key_n = t->of.key_n, value_n = t->of.value_n;
    float *key_state, *value_state; /* room for F32, which is longest */
    const struct {
        float **at;
        uint64_t n;
    } part[] = {{&t->q, head_n * key_n},
                {&t->key, SEEN_N * key_n},
                {&t->value, SEEN_N * value_n},
                {&t->scores, head_n * SEEN_N},
                {&t->out, head_n * value_n},
                {&t->want, head_n * value_n},
                {&t->max, head_n},
                {&t->sum, head_n},
                {&key_state, ROOM_N * key_n},
                {&value_state, ROOM_N * value_n}};
    uint64_t used = 0;
    for (size_t i = 0; i < COUNT_OF(part); i++) {
        if (base) *part[i].at = (float *)(void *)(base + used);
        used += round_up(part[i].n * sizeof(float), CPU_ALIGN);
    }
    if (base) t->key_state = (uint8_t *)key_state, t->value_state = (uint8_t *)value_state;
    return used;
}

/* softmax(scale q k^T) v of all tokens, whose last one sees all positions. */
static void attend_by(const cpu_kernels *k, const attention_test *t, cpu_state_form form, float *y) {
    const cpu_attention *a = &t->of;
    const uint64_t key_bytes = gguf_row_bytes(form.type, a->key_n);
    const uint64_t value_bytes = a->joined ? key_bytes : gguf_row_bytes(form.type, a->value_n);
    for (int32_t i = 0; i < SEEN_N; i++) {
        const size_t at = (size_t)i;
        cpu_state_store(k, form, t->key_state + at * key_bytes, t->key + at * a->key_n, a->key_n, i, true);
        if (!a->joined)
            cpu_state_store(k, form, t->value_state + at * value_bytes, t->value + at * a->value_n,
                            a->value_n, i, false);
    }
    k->attend(&(cpu_attend_args){.q = t->q,
                                 .query_n = t->token_n,
                                 .query_stride = (size_t)a->head_n * a->key_n,
                                 .seen_n = SEEN_N + 1 - t->token_n,
                                 .head_n = a->head_n,
                                 .key_n = a->key_n,
                                 .value_n = a->value_n,
                                 .key = t->key_state,
                                 .value = a->joined ? t->key_state : t->value_state,
                                 .key_stride = key_bytes,
                                 .value_stride = value_bytes,
                                 .row_n = SEEN_N,
                                 .state = form.type,
                                 .grouped = form.grouped,
                                 .rounded = a->rounded,
                                 .scale = 4 / sqrtf((float)a->key_n),
                                 .scores = t->scores,
                                 .out = y,
                                 .max = t->max,
                                 .sum = t->sum});
    for (size_t i = 0; i < (size_t)t->token_n * a->head_n * a->value_n; i++) y[i] /= t->sum[i / a->value_n];
}

static hotset_status test_attention(const attention_test *t, const cpu_kernels *k, hotset_error *err) {
    const cpu_attention *a = &t->of;
    const size_t head_n = (size_t)t->token_n * a->head_n;
    cpu_kernels reference;
    cpu_kernels_ref(&reference);
    uint64_t state = a->key_n;
    for (size_t i = 0; i < head_n * a->key_n; i++) t->q[i] = next_float(&state);
    for (size_t i = 0; i < SEEN_N * (size_t)a->key_n; i++) t->key[i] = next_float(&state);
    for (size_t i = 0; i < SEEN_N * (size_t)a->value_n; i++) t->value[i] = next_float(&state);
    attend_by(&reference, t, (cpu_state_form){GGUF_F32, false}, t->want);
    const cpu_state_form form = cpu_state_form_of(k, a->state, a->rounded, a->key_n, a->value_n, a->joined);
    attend_by(k, t, form, t->out);
    const double error = relative_error(t->out, t->want, head_n * a->value_n);
    /* numbers of 8 bits are off by a hundredth; what is wrong, by much more */
    if (error <= (form.type == GGUF_F32 ? 1e-4 : 3e-2)) return HOTSET_OK;
    return hotset_fail(err, HOTSET_E_DEVICE,
                       "cpu: the %s kernels compute wrong attention to a state in %s (relative error %.1e)",
                       k->isa, gguf_type_get(form.type)->name, error);
}

hotset_status cpu_selftest_attention(const cpu_kernels *k, const cpu_attention *attention,
                                     hotset_error *err) {
    attention_test t = {.of = *attention};
    t.of.head_n = (uint32_t)min_u64(t.of.head_n, QUERY_N);
    t.token_n = t.of.head_n * TOKEN_N <= QUERY_N ? TOKEN_N : 1;
    const uint64_t bytes = lay_out_attention(&t, NULL);
    uint8_t *memory = aligned_alloc(CPU_ALIGN, bytes);
    if (!memory) return hotset_fail(err, HOTSET_E_MEMORY, "out of memory for the CPU's self-test");
    memset(memory, 0, bytes);
    lay_out_attention(&t, memory);
    const hotset_status status = test_attention(&t, k, err);
    free(memory);
    return status;
}
