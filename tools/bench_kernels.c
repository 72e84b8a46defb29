/* bench_kernels.c - how fast the CPU kernels run against what the machine can do, measured side by side.
 *
 * A workshop tool: it times the products alone, so it includes the kernels' own header. Memory and clock
 * speeds drift, so each limit is timed in turn with the kernel that it bounds and only the ratio is to be
 * trusted.
 */
#include "tools/bench_kernels.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "devices/cpu/kernels.h"
#include "devices/lanes.h"
#include "devices/neurons.h"
#include "tools/runtime.h"

enum { REPEATS = 7, CACHED_REPEATS = 1000, PREFILL_REPEATS = 50, SPARSE_REPEATS = 15 };
enum { LAYER_NEURONS = 4096 };

typedef struct bench_options {
    int isa; /* cpu_isa */
    uint64_t k, weight_bytes, col_n, thread_n;
    const char *type; /* NULL: all */
} bench_options;

#define FIELD(f) offsetof(bench_options, f)
static const option_row rows[] = {
    {"isa", 0, OPTION_CHOICE, FIELD(isa), 0, 0, "scalar|avx2|avxvnni|avx512|amx",
     "the kernels' instruction set"},
    {"type", 0, OPTION_TEXT, FIELD(type), 0, 0, "TYPE", "of the weights; all where none is named"},
    {"length", 0, OPTION_UINT, FIELD(k), 256, 1 << 20, "N", "weights of a row, a multiple of 256"},
    {"mib", 0, OPTION_UINT, FIELD(weight_bytes), 0, 1 << 16, "N", "MiB of weights to decode, 0: none"},
    {"columns", 0, OPTION_UINT, FIELD(col_n), 0, 1 << 14, "N", "activation rows of prefill, 0: none"},
    {"threads", 0, OPTION_UINT, FIELD(thread_n), 1, 1024, "N", "that share the work"},
};
static const command_spec spec = {
    .name = "bench --kernels",
    .argument = "[TYPE]",
    .argument_optional = true,
    .argument_offset = FIELD(type),
    .summary =
        "Times each kernel alone, in turn with the limit that it has: reads of memory, or multiplications.\n"
        "By AMX a float is multiplied three times (BF16 twice), which the share of the peak counts as once.",
    .examples = "  hotset bench --kernels --type q4_k --threads 2\n"
                "  hotset bench --kernels q6_k --isa avx2 --columns 0\n",
    .tables = {{"Options", rows, COUNT_OF(rows), 0}},
};

static const gguf_type bench_types[] = {GGUF_F32,  GGUF_F16,    GGUF_BF16,   GGUF_Q8_0, GGUF_Q4_0, GGUF_Q4_1,
                                        GGUF_Q5_0, GGUF_Q5_1,   GGUF_Q2_K,   GGUF_Q3_K, GGUF_Q4_K, GGUF_Q5_K,
                                        GGUF_Q6_K, GGUF_IQ4_NL, GGUF_IQ4_XS, GGUF_MXFP4};

typedef struct bench_case {
    const bench_options *options;
    const cpu_kernels *kernels;
    const cpu_matmul *matmul;
    gguf_type type;
    bool interleaved; /* or rows stand alone */
    uint8_t *weights;
    size_t row_bytes, row_n;
    void *act, *panels;
    float *x, *y;
    uint32_t *active; /* [row_n] chosen rows */
    size_t active_n;
    uint64_t random;
    float ones[LAYER_NEURONS];
    int8_t q[LAYER_NEURONS];
    double sink;
} bench_case;

/* Share `i` of `n` items of a thread; each a multiple of `unit` but the last. */
static size_t share(size_t item_n, size_t unit, int i, int n) {
    const size_t unit_n = (item_n + unit - 1) / unit;
    return (size_t)min_u64(unit_n * (size_t)i / (size_t)n * unit, item_n);
}

static void *aligned(size_t bytes) {
    void *p = aligned_alloc(CPU_ALIGN, (size_t)round_up(bytes, CPU_ALIGN));
    if (p) memset(p, 0, bytes);
    return p;
}

/* ---- What is timed: each returns the seconds of one pass over the weights ---- */

static double read_s(bench_case *c) {
    const size_t bytes = c->row_bytes * c->row_n / 4096 * 4096;
    uint64_t sum = 0;
    const double start = base_now_s();
#pragma omp parallel num_threads((int)c->options->thread_n) reduction(+ : sum)
    {
        const size_t first = share(bytes, 4096, omp_get_thread_num(), omp_get_num_threads());
        const size_t last = share(bytes, 4096, omp_get_thread_num() + 1, omp_get_num_threads());
        sum += c->kernels->read_sum(c->weights + first, last - first);
    }
    const double s = base_now_s() - start;
    c->sink += (double)sum;
    return s;
}

static double gemv_s(bench_case *c) {
    const cpu_matmul *m = c->matmul;
    const double start = base_now_s();
#pragma omp parallel num_threads((int)c->options->thread_n)
    {
        const size_t last =
            share(c->row_n, CPU_GEMV_ROWS_MAX, omp_get_thread_num() + 1, omp_get_num_threads());
        size_t r = share(c->row_n, CPU_GEMV_ROWS_MAX, omp_get_thread_num(), omp_get_num_threads());
        for (; r < last; r += CPU_GEMV_ROWS_MAX)
            m->gemv(c->y + r, c->weights + r * c->row_bytes, c->row_bytes,
                    (size_t)min_u64(last - r, CPU_GEMV_ROWS_MAX), c->act, c->options->k);
    }
    return base_now_s() - start;
}

/* Columns of a panel, and the bytes that it takes. */
static size_t panel_cols(const bench_case *c) {
    return c->matmul->wide ? CPU_WIDE_COLS : c->matmul->panel_cols;
}

static size_t panel_bytes(const bench_case *c) {
    const cpu_matmul *m = c->matmul;
    const size_t k = c->options->k;
    return (size_t)round_up(m->wide ? m->wide->panel_bytes(k) : m->panel_bytes(k), CPU_ALIGN);
}

/* Some rows of the weights, by tiles; of wide ones, by runs of what a row holds. */
static void multiply_tiles(bench_case *c, size_t r, size_t row_n, void *tile, void *wide_tile) {
    const cpu_matmul *m = c->matmul;
    const cpu_wide *wide = m->wide;
    const size_t k = c->options->k, run = wide ? min_u64(k, CPU_WIDE_RUN) : k, cols = panel_cols(c);
    for (size_t at = 0, k_n; at < k; at += k_n) {
        k_n = (size_t)min_u64(k - at, run);
        const uint8_t *weights = c->weights + r * c->row_bytes;
        weights += gguf_row_bytes(c->type, at) * (c->interleaved ? LANES_ROWS : 1);
        m->tile_unpack(tile, weights, c->row_bytes, row_n, k_n);
        if (wide) m->tile_widen(wide_tile, tile, k_n);
        const uint8_t *panel = c->panels;
        for (size_t from = 0; from < c->options->col_n; from += cols, panel += panel_bytes(c)) {
            float *y = c->y + from * c->row_n + r;
            if (wide)
                wide->tile_mul(y, c->row_n, wide_tile, panel + wide->panel_bytes(at),
                               (size_t)min_u64(c->options->col_n - from, cols), k_n, at > 0);
            else
                m->tile_mul(y, c->row_n, tile, panel, k_n);
        }
    }
}

static double gemm_s(bench_case *c) {
    const cpu_matmul *m = c->matmul;
    const size_t k = c->options->k;
    const double start = base_now_s();
#pragma omp parallel num_threads((int)c->options->thread_n)
    {
        void *tile = aligned(m->tile_bytes(k)), *wide = m->wide ? aligned(m->wide->tile_bytes(k)) : NULL;
        const size_t last = share(c->row_n, m->tile_rows, omp_get_thread_num() + 1, omp_get_num_threads());
        size_t r = share(c->row_n, m->tile_rows, omp_get_thread_num(), omp_get_num_threads());
        for (; r < last; r += m->tile_rows)
            multiply_tiles(c, r, (size_t)min_u64(last - r, m->tile_rows), tile, wide);
        free(tile);
        free(wide);
    }
    return base_now_s() - start;
}

/* ---- Skipping: a fresh random choice of rows, or neurons, is visited as the device does ---- */

/* Chooses about `share` of row_n rows. */
static void choose(bench_case *c, double share) {
    c->active_n = 0;
    for (size_t r = 0; r < c->row_n; r++) {
        c->random = c->random * 6364136223846793005u + 1442695040888963407u;
        if ((double)(c->random >> 11) * 0x1p-53 < share) c->active[c->active_n++] = (uint32_t)r;
    }
}

/* Dot products of the chosen rows. */
static double listed_s(bench_case *c) {
    const cpu_matmul *m = c->matmul;
    const double start = base_now_s();
#pragma omp parallel num_threads((int)c->options->thread_n)
    {
        const size_t last = share(c->active_n, 1, omp_get_thread_num() + 1, omp_get_num_threads());
        size_t i = share(c->active_n, 1, omp_get_thread_num(), omp_get_num_threads());
        for (float y[CPU_DOTS]; i < last; i += CPU_DOTS) {
            cpu_listed_dots(m, y, c->weights, c->row_bytes, c->active + i, last - i, last - i, c->act,
                            c->options->k);
            memcpy(c->y + i, y, min_u64(last - i, CPU_DOTS) * sizeof *y);
        }
    }
    return base_now_s() - start;
}

/* Sums of the chosen neurons over k outputs, in layers of LAYER_NEURONS. */
static double neurons_s(bench_case *c) {
    const size_t k = c->options->k;
    const double start = base_now_s();
#pragma omp parallel num_threads((int)c->options->thread_n)
    {
        float y[CPU_NEURON_OUTPUTS_MAX];
        uint32_t neuron[LAYER_NEURONS];
        const size_t first = share(k, 128, omp_get_thread_num(), omp_get_num_threads());
        const size_t last = share(k, 128, omp_get_thread_num() + 1, omp_get_num_threads());
        for (size_t layer = 0, i = 0, n; layer < c->row_n; layer += LAYER_NEURONS, i += n) {
            for (n = 0; i + n < c->active_n && c->active[i + n] < layer + LAYER_NEURONS; n++)
                neuron[n] = c->active[i + n] - (uint32_t)layer;
            const cpu_active active = {n, neuron, c->ones, c->q, c->ones};
            for (size_t o = first, outputs; o < last; o += outputs) {
                outputs = (size_t)min_u64(last - o, cpu_neuron_outputs(c->type));
                c->kernels->neuron_sum[c->type](y, c->weights + c->row_bytes * layer, k, o, outputs, &active);
            }
        }
    }
    return base_now_s() - start;
}

/* What a sum reads: the chosen neurons, and the scales of every group that has one. */
static double neurons_bytes(const bench_case *c) {
    neurons_form f;
    const uint32_t k = (uint32_t)c->options->k;
    if (!neurons_form_of(c->type, k, &f)) return 0;
    double bytes = 0;
    for (size_t i = 0; i < c->active_n; i++) {
        const bool first = i == 0 || c->active[i] / f.group_n != c->active[i - 1] / f.group_n;
        bytes += (double)(neurons_row_bytes(f, k) + (first ? neurons_header_bytes(f, k) : 0));
    }
    return bytes;
}

/* Operations per second of the multipliers that a prompt is multiplied with, all threads together. */
static double peak_per_s(bench_case *c) {
    const cpu_kernels *k = c->kernels;
    double operations = 0, (*peak)(size_t, float *) = k->peak_int8;
    if (gguf_type_get(c->type)->block_n == 1) peak = k->peak_f32;
    if (c->matmul->wide) peak = k->peak_bf16;
    const double start = base_now_s();
#pragma omp parallel num_threads((int)c->options->thread_n) reduction(+ : operations)
    {
        float sink;
        operations += peak(c->matmul->wide ? 1000 : 100000, &sink);
    }
    return operations / (base_now_s() - start);
}

/* ---- Cases ---- */

/* Accepts a half-made case; leaves it fit for the next. */
static void case_free(bench_case *c) {
    if (c->weights) pages_free(c->weights, c->row_bytes * c->row_n + 4096);
    free(c->act);
    free(c->panels);
    free(c->x);
    free(c->y);
    free(c->active);
    c->active = NULL;
    c->act = c->panels = c->x = c->y = NULL;
    c->weights = NULL;
}

/* Weights of `row_n` rows with finite scales; panels where col_n is not 0. */
static bool case_make(bench_case *c, size_t row_n, size_t col_n) {
    const cpu_matmul *m = c->matmul;
    const size_t k = c->options->k, cols = panel_cols(c), panel_n = (col_n + cols - 1) / cols;
    c->row_n = row_n;
    c->row_bytes = gguf_row_bytes(c->type, k);
    c->weights = pages_alloc(c->row_bytes * row_n + 4096);
    c->x = aligned(k * (col_n + 1) * sizeof(float));
    c->y = aligned((panel_n * cols + 1) * (row_n + 64) * sizeof(float));
    c->act = aligned(m->act_bytes(k));
    c->panels = aligned(panel_n * panel_bytes(c) + CPU_ALIGN);
    c->active = aligned(row_n * sizeof *c->active);
    if (!c->weights || !c->x || !c->y || !c->act || !c->panels || !c->active) return false;
    for (size_t i = 0; i < LAYER_NEURONS; i++) c->ones[i] = 1, c->q[i] = 1;
    /* bytes from 1 to 0x37 make halves of blocks below one, and no subnormal one, which would be slow; powers
     * of two as one byte do so from 0x41 on, and floats that rounding leaves no subnormal rest of from 0x21
     */
    uint8_t least = c->type == GGUF_MXFP4 ? 0x41 : 1;
    if (gguf_type_get(c->type)->block_n == 1) least = 0x21;
    for (size_t i = 0; i < c->row_bytes * row_n; i++)
        c->weights[i] = (uint8_t)(least + (i * 2654435761u >> 16) % 0x37);
    for (size_t i = 0; i < k * (col_n + 1); i++) c->x[i] = sinf((float)i);
    m->act_pack(c->act, c->x, k);
    for (size_t p = 0; p < panel_n; p++)
        (m->wide ? m->wide->panel_pack : m->panel_pack)((uint8_t *)c->panels + p * panel_bytes(c),
                                                        c->x + p * cols * k, k,
                                                        (size_t)min_u64(col_n - p * cols, cols), k);
    return true;
}

/* Best of the kernel and of its limit, taken in turn. */
static void bench_gemv(bench_case *c, size_t repeats, double *gb_per_s, double *ratio) {
    double read = INFINITY, best = INFINITY;
    for (size_t i = 0; i < repeats; i++) {
        read = fmin(read, read_s(c));
        best = fmin(best, gemv_s(c));
    }
    *gb_per_s = (double)(c->row_bytes * c->row_n) / best / 1e9;
    *ratio = read / best;
}

/* Rates of active bytes, and their share of the read limit: dot products and sums at each density. */
enum { DENSITIES = 3 };
static const double densities[DENSITIES] = {0.1, 0.3, 0.9};

static void bench_sparse(bench_case *c, double *gb_per_s, double *ratio) {
    const double bytes = (double)(c->row_bytes * c->row_n);
    for (size_t d = 0; d < DENSITIES; d++) {
        double read = INFINITY, dot = 0, sum = 0;
        for (size_t i = 0; i < SPARSE_REPEATS; i++) {
            choose(c, densities[d]);
            read = fmin(read, read_s(c));
            dot = fmax(dot, (double)(c->row_bytes * c->active_n) / listed_s(c));
            choose(c, densities[d]);
            sum = fmax(sum, neurons_bytes(c) / neurons_s(c));
        }
        gb_per_s[d] = dot / 1e9, ratio[d] = dot / (bytes / read);
        gb_per_s[DENSITIES + d] = sum / 1e9, ratio[DENSITIES + d] = sum / (bytes / read);
    }
}

static void bench_gemm(bench_case *c, double *gop_per_s, double *ratio) {
    double peak = 0, best = INFINITY;
    for (int i = 0; i < PREFILL_REPEATS; i++) {
        peak = fmax(peak, peak_per_s(c));
        best = fmin(best, gemm_s(c));
    }
    const double operations = 2.0 * (double)(c->row_n * c->options->k * c->options->col_n);
    *gop_per_s = operations / best / 1e9;
    *ratio = operations / best / peak;
}

/* One column pair of the table; nothing to do where a size is 0. */
static bool bench_decode(bench_case *c, size_t row_n, size_t repeats, double *gb_per_s, double *ratio) {
    if (row_n == 0) return true;
    const bool ok = case_make(c, row_n, 0);
    if (ok) bench_gemv(c, repeats, gb_per_s, ratio);
    case_free(c);
    return ok;
}

static bool bench_skipping(bench_case *c, size_t row_n, double *gb_per_s, double *ratio) {
    row_n = row_n / LAYER_NEURONS * LAYER_NEURONS;
    if (row_n == 0) return true;
    const bool ok = case_make(c, row_n, 0);
    if (ok) bench_sparse(c, gb_per_s, ratio);
    case_free(c);
    return ok;
}

static bool bench_prefill(bench_case *c, size_t row_n, double *gop_per_s, double *ratio) {
    if (c->options->col_n == 0) return true;
    const bool ok = case_make(c, row_n, c->options->col_n);
    if (ok) bench_gemm(c, gop_per_s, ratio);
    case_free(c);
    return ok;
}

static bool bench_one(const bench_options *o, const cpu_kernels *kernels, gguf_type type, bool interleaved) {
    enum { CACHED_BYTES = 256 * 1024, PREFILL_ROWS = 256 };
    const size_t row_bytes = gguf_row_bytes(type, o->k);
    const size_t step = interleaved ? LANES_ROWS : 1, row_n = o->weight_bytes / row_bytes / step * step;
    const size_t cached_rows = row_n ? (size_t)max_u64(step, CACHED_BYTES / row_bytes / step * step) : 0;
    double rate[3] = {0}, ratio[3] = {0}, sparse[2 * DENSITIES] = {0}, sparse_ratio[2 * DENSITIES] = {0};
    bench_case c = {.options = o, .kernels = kernels, .type = type, .interleaved = interleaved, .random = 1};
    c.matmul = interleaved ? &kernels->lanes[type] : &kernels->matmul[type];
    bool ok = bench_decode(&c, row_n, REPEATS, &rate[0], &ratio[0]);
    ok = ok && bench_decode(&c, cached_rows, CACHED_REPEATS, &rate[1], &ratio[1]);
    ok = ok && bench_prefill(&c, PREFILL_ROWS, &rate[2], &ratio[2]);
    ok = ok && (interleaved || bench_skipping(&c, row_n, sparse, sparse_ratio));
    if (!ok) return false;
    printf("%-6s %-4s %7.1f %8.2f %10.1f %12.1f %8.2f", gguf_type_get(type)->name, interleaved ? "x16" : "",
           rate[0], ratio[0], rate[1], rate[2], ratio[2]);
    for (size_t i = 0; i < 2 * DENSITIES && !interleaved; i++)
        printf("%s%6.1f %4.2f", i ? " " : "   ", sparse[i], sparse_ratio[i]);
    printf("\n");
    fflush(stdout);
    return true;
}

/* What stands above the lines of bench_one. */
static void print_head(const bench_options *o, const char *isa) {
    printf("%s, rows of %llu weights, %llu thread(s)\n", isa, (unsigned long long)o->k,
           (unsigned long long)o->thread_n);
    printf("x16: rows interleaved, as copied weights stand where nothing is skipped\n");
    printf("           ------ decode: memory ------ cached ---- prefill: %llu columns ----   -- listed rows, "
           "neuron sums: GB/s, of read --\n",
           (unsigned long long)o->col_n);
    printf("%-6s %-4s %7s %8s %10s %12s %8s  ", "type", "", "GB/s", "of read", "GB/s", "Gop/s", "of peak");
    for (size_t i = 0; i < 2 * DENSITIES; i++)
        printf("     %s %2.0f%%", i < DENSITIES ? "dot" : "sum", 100 * densities[i % DENSITIES]);
    printf("\n");
}

static bool is_bench_type(const char *name) {
    for (size_t i = 0; i < COUNT_OF(bench_types); i++)
        if (!strcasecmp(name, gguf_type_get(bench_types[i])->name)) return true;
    return false;
}

int bench_kernels(int argc, char **argv) {
    bench_options o = {
        .isa = (int)cpu_isa_detect(), .k = 2048, .weight_bytes = 256, .col_n = 256, .thread_n = 1};
    const int status = command_begin(&spec, argc, argv, &o);
    if (status >= 0) return status;
    o.weight_bytes <<= 20;
    if (!cpu_isa_here((cpu_isa)o.isa)) {
        say(spec.name, "--isa %s: this machine does not have it", cpu_isa_name((cpu_isa)o.isa));
        return 2;
    }
    if (o.k % 256 != 0) {
        say(spec.name, "--length %llu: not a multiple of 256", (unsigned long long)o.k);
        return 2;
    }
    if (o.type && !is_bench_type(o.type)) {
        say(spec.name, "--type %s: no type that has kernels", o.type);
        return 2;
    }
    cpu_kernels kernels;
    cpu_kernels_init(&kernels, (cpu_isa)o.isa);
    print_head(&o, kernels.isa);
    for (size_t i = 0; i < COUNT_OF(bench_types); i++) {
        if (o.type && strcasecmp(o.type, gguf_type_get(bench_types[i])->name) != 0) continue;
        const bool both = kernels.lanes[bench_types[i]].act_bytes != NULL;
        if (!bench_one(&o, &kernels, bench_types[i], false) ||
            (both && !bench_one(&o, &kernels, bench_types[i], true))) {
            say(spec.name, "out of memory");
            return 1;
        }
    }
    return 0;
}
