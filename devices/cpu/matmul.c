/* matmul.c - products with weight matrices: dense (linear) and of the experts that a router chose.
 *
 * Few rows (decode): every thread packs the activations for itself, which is quicker than meeting the others
 * after one of them did it; then pieces of weight rows are walked at memory speed. Many rows (prefill):
 * activations are packed into panels; each tile of weight rows is unpacked once and multiplied with every
 * panel. Both take activations by the same rule (kernels.h), so that they agree.
 */
#include <string.h>

#include "devices/cpu/tiles.h"
#include "devices/lanes.h"

enum {
    PIECE_BYTES = 64 << 10 /* weights per piece of work: long enough to stream, short enough to share out */
};

/* ---- Packed activations ---- */

/* The distinct packed forms of an operation's input: parts whose weight types take the same form share it. */
typedef struct forms {
    uint32_t n;
    const cpu_matmul *form[DEVICE_LINEAR_MAX];
    uint64_t offset[DEVICE_LINEAR_MAX]; /* in the scratch that holds them */
    uint32_t of_part[DEVICE_LINEAR_MAX];
    uint64_t bytes; /* of all of them */
} forms;

/* How an operation's rows meet weights. */
typedef enum way { BY_ROW, BY_TILES, BY_WIDE_TILES } way;

/* That of many rows, whose matrices meet col_n columns each: the types that a table of kernels has are wide
 * all or none. */
static way way_of(const cpu_kernels *kernels, const device_linear_part *part, uint32_t col_n) {
    return cpu_goes_wide(kernels, &part->w, col_n) ? BY_WIDE_TILES : BY_TILES;
}

static bool same_form(const cpu_matmul *a, const cpu_matmul *b, way how) {
    if (how == BY_ROW) return a->act_pack == b->act_pack;
    if (how == BY_WIDE_TILES) return a->wide == b->wide;
    return a->panel_pack == b->panel_pack && a->panel_cols == b->panel_cols;
}

static uint32_t panel_cols(const cpu_matmul *m, way how) {
    return how == BY_WIDE_TILES ? CPU_WIDE_COLS : (uint32_t)m->panel_cols;
}

static uint64_t panel_stride(const cpu_matmul *m, uint32_t k, way how) {
    return how == BY_WIDE_TILES ? m->wide->panel_bytes(k) : cpu_panel_stride(m, k);
}

static void pack_panel(const cpu_matmul *m, way how, void *panel, const float *x, size_t x_stride,
                       size_t col_n, size_t k) {
    (how == BY_WIDE_TILES ? m->wide->panel_pack : m->panel_pack)(panel, x, x_stride, col_n, k);
}

static uint64_t act_stride(const cpu_matmul *m, uint32_t k) { return round_up(m->act_bytes(k), CPU_ALIGN); }

static forms forms_of(const cpu_kernels *kernels, const device_linear_part *part, uint32_t part_n,
                      uint64_t row_n, uint64_t panel_extra, way how) {
    forms f = {0};
    for (uint32_t i = 0; i < part_n; i++) {
        const cpu_matmul *m = cpu_matmul_of(kernels, &part[i].w);
        uint32_t j = 0;
        while (j < f.n && !same_form(f.form[j], m, how)) j++;
        f.of_part[i] = j;
        if (j < f.n) continue;
        uint32_t k = part[i].w.in_n;
        f.form[j] = m;
        f.offset[j] = f.bytes;
        f.bytes += how == BY_ROW ? row_n * act_stride(m, k)
                                 : ((row_n + panel_cols(m, how) - 1) / panel_cols(m, how) + panel_extra) *
                                       panel_stride(m, k, how);
        f.n++;
    }
    return f;
}

/* Bytes of the panels, whichever way the rows of a submission will go. */
static uint64_t panels_bytes(const cpu_kernels *kernels, const device_linear_part *part, uint32_t part_n,
                             uint64_t row_n, uint64_t panel_extra) {
    const uint64_t bytes = forms_of(kernels, part, part_n, row_n, panel_extra, BY_TILES).bytes;
    if (way_of(kernels, part, UINT32_MAX) == BY_TILES) return bytes;
    return max_u64(bytes, forms_of(kernels, part, part_n, row_n, panel_extra, BY_WIDE_TILES).bytes);
}

/* Scratch for `row_n` packed rows of every part: enough for parts interleaved or not, so that a plan need not
 * know which of them will be. */
static uint64_t few_rows_bytes(const cpu_kernels *kernels, const device_linear_part *part, uint32_t part_n,
                               uint64_t row_n) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < part_n; i++) {
        device_matrix plain = part[i].w;
        plain.interleaved = false;
        uint64_t stride = act_stride(cpu_matmul_of(kernels, &plain), plain.in_n);
        if (kernels->lanes[plain.type].act_bytes)
            stride = max_u64(stride, act_stride(&kernels->lanes[plain.type], plain.in_n));
        bytes += row_n * stride;
    }
    return bytes;
}

/* Scratch of an operation: panels are shared; packed rows, or a tile with its products, are each thread's
 * own. */
static cpu_scratch product_scratch(uint64_t few_bytes, uint64_t panels_bytes, uint64_t tile_bytes) {
    return (cpu_scratch){round_up(panels_bytes, CPU_ALIGN),
                         round_up(max_u64(few_bytes, tile_bytes), CPU_ALIGN)};
}

/* ---- Pieces of weight rows ---- */

static uint32_t piece_rows(const device_matrix *m) {
    const uint64_t least = m->interleaved ? LANES_ROWS : 8, rows = PIECE_BYTES / m->row_bytes / least * least;
    return (uint32_t)(rows < least ? least : rows > CPU_GEMV_ROWS_MAX ? CPU_GEMV_ROWS_MAX : rows);
}

static uint32_t pieces(uint32_t row_n, uint32_t per_piece) { return (row_n + per_piece - 1) / per_piece; }

/* Number `item` counts through the pieces of all parts; finds its part and leaves the piece's number in
 * *item. */
static uint32_t find_part(const uint32_t *piece_n, uint32_t part_n, uint32_t *item) {
    uint32_t i = 0;
    while (i + 1 < part_n && *item >= piece_n[i]) *item -= piece_n[i++];
    return i;
}

void cpu_finish(float *y, const float *product, const float *bias, uint32_t n, bool accumulate) {
    if (bias && accumulate)
        for (uint32_t i = 0; i < n; i++) y[i] += product[i] + bias[i];
    else if (bias)
        for (uint32_t i = 0; i < n; i++) y[i] = product[i] + bias[i];
    else if (accumulate)
        for (uint32_t i = 0; i < n; i++) y[i] += product[i];
    else
        memcpy(y, product, n * sizeof *y);
}

/* Asks for outputs that are about to be written: their lines may be another core's, and to wait for one at
 * the end of a stream costs as much as 16 KB of it. */
static void ask_for_outputs(const float *y, uint32_t n) {
    for (uint32_t i = 0; i < n; i += CPU_ALIGN / sizeof *y) __builtin_prefetch(y + i, 1);
}

/* Rows [from, end) of one unit's matrix times one packed activation, in calls as long as can be: the stream
 * from memory stands still between two. */
static void walk_rows(const cpu_worker *w, const device_linear_part *part, int32_t unit, uint32_t from,
                      uint32_t end, const void *act, float *y) {
    const device_matrix *m = &part->w;
    const cpu_matmul *mm = cpu_matmul_of(w->kernels, m);
    const float *bias = cpu_unit_bias(part, unit);
    const uint8_t *data = cpu_unit_data(m, unit);
    if (!data) {
        memset(y + from, 0, (end - from) * sizeof *y);
        return;
    }
    for (uint32_t n; from < end; from += n) {
        float product[CPU_GEMV_ROWS_MAX];
        n = (uint32_t)min_u64(end - from, CPU_GEMV_ROWS_MAX);
        ask_for_outputs(y + from, n);
        mm->gemv(product, data + m->row_bytes * from, m->row_bytes, n, act, m->in_n);
        cpu_finish(y + from, product, bias ? bias + from : NULL, n, part->accumulate);
    }
}

static bool same_rows(device_rows a, device_rows b) {
    return a.ref.buffer == b.ref.buffer && a.ref.offset == b.ref.offset && a.stride == b.stride;
}

/* The same pieces of gate and of up must be the same neurons; y must be what the product writes anyway, for
 * others may still read its input. */
bool cpu_is_activation_of(const device_op *product, const device_op *next) {
    const bool experts = product->kind == DEVICE_OP_EXPERTS;
    if (next->kind != DEVICE_OP_ACTIVATE || (product->kind != DEVICE_OP_LINEAR && !experts)) return false;
    const device_linear_part *part = experts ? product->experts.part : product->linear.part;
    const uint32_t part_n = experts ? product->experts.part_n : product->linear.part_n;
    const device_choice *choice = experts ? &product->experts.choice : &product->linear.choice;
    const device_rows gate = next->activate.gate, up = next->activate.up, y = next->activate.y;
    if (choice->list.stride || next->activate.choice.list.stride || next->activate.score.ref.buffer)
        return false;
    if (part_n > 2 || (part_n == 2) != (up.ref.buffer != NULL) || product->outputs != next->outputs ||
        next->activate.n != part[0].w.out_n ||
        next->activate.per_row != (experts ? product->experts.used_n : 1))
        return false;
    for (uint32_t i = 0; i < part_n; i++)
        if (part[i].w.order != NEURONS_BY_OUTPUT || part[i].w.out_n != part[0].w.out_n ||
            part[i].w.type != part[0].w.type || part[i].w.interleaved != part[0].w.interleaved ||
            part[i].accumulate || !same_rows(part[i].y, i ? up : gate))
            return false;
    return same_rows(y, gate) || (part_n == 2 && same_rows(y, up));
}

/* Outputs [from, to) of vector number `use` of row r, which a product has just given, activated. */
static void activate_outputs(const cpu_worker *w, const device_op *activation, uint32_t r, uint32_t use,
                             uint32_t from, uint32_t to) {
    const device_rows up = activation->activate.up;
    const size_t at = (size_t)use * activation->activate.n + from;
    w->kernels->activate(cpu_row(activation->activate.y, r) + at, cpu_row(activation->activate.gate, r) + at,
                         up.ref.buffer ? cpu_row(up, r) + at : NULL, to - from,
                         cpu_activation_of(activation->activate.kind));
}

/* The parts that tiles are counted through: where there is an activation, up's go with gate's. */
static uint32_t counted_parts(const cpu_op *op, uint32_t part_n) { return op->activation ? 1 : part_n; }

/* ---- Linear ---- */

cpu_scratch cpu_linear_scratch(const cpu_kernels *k, const device_op *op) {
    const device_linear_part *part = op->linear.part;
    uint32_t part_n = op->linear.part_n;
    uint64_t few = few_rows_bytes(k, part, part_n, min_u64(op->row_max, CPU_TILE_ROWS_MIN - 1));
    if (op->row_max < CPU_TILE_ROWS_MIN) return product_scratch(few, 0, 0);
    return product_scratch(few, panels_bytes(k, part, part_n, op->row_max, 0),
                           cpu_job_bytes_max(k, part, part_n));
}

/* Pieces [from, end) of one part times the packed rows: one piece for all rows, then the next, which is read
 * from memory once; a single row takes all in one go. */
static void linear_walk_part(const cpu_worker *w, const device_linear_part *part, uint32_t from, uint32_t end,
                             const uint8_t *packed, uint64_t stride, uint32_t row_n) {
    const uint32_t rows = piece_rows(&part->w), step = row_n > 1 ? 1 : end - from;
    for (; from < end; from += step) {
        const uint32_t to = (uint32_t)min_u64((uint64_t)rows * (from + step), part->w.out_n);
        for (uint32_t r = 0; r < row_n; r++)
            walk_rows(w, part, 0, rows * from, to, packed + stride * r, cpu_row(part->y, r));
    }
}

/* Pieces [from, end), counted through all parts, times the packed rows. */
static void linear_walk(const cpu_op *op, const cpu_worker *w, const forms *f, const uint8_t *packed,
                        uint32_t from, uint32_t end) {
    const device_linear_part *part = op->op.linear.part;
    for (uint32_t i = 0, first = 0; i < op->op.linear.part_n && first < end; i++) {
        const uint32_t n = pieces(part[i].w.out_n, piece_rows(&part[i].w)), j = f->of_part[i];
        if (first + n > from)
            linear_walk_part(w, &part[i], from > first ? from - first : 0, (uint32_t)min_u64(end - first, n),
                             packed + f->offset[j], act_stride(f->form[j], part[i].w.in_n), cpu_row_n(op, w));
        first += n;
    }
}

static void linear_few_rows(cpu_op *op, const cpu_worker *w, uint32_t row_n) {
    const device_linear_part *part = op->op.linear.part;
    uint32_t part_n = op->op.linear.part_n, k = part[0].w.in_n;
    forms f = forms_of(w->kernels, part, part_n, row_n, 0, BY_ROW);
    uint8_t *packed = cpu_thread_scratch(w, cpu_linear_scratch(w->kernels, &op->op));
    for (uint32_t j = 0; j < f.n; j++)
        for (uint32_t r = 0; r < row_n; r++)
            f.form[j]->act_pack(packed + f.offset[j] + act_stride(f.form[j], k) * r,
                                cpu_row(op->op.linear.x, r), k);
    uint32_t first_n = pieces(part[0].w.out_n, piece_rows(&part[0].w)), total = first_n;
    for (uint32_t i = 1; i < part_n; i++) total += pieces(part[i].w.out_n, piece_rows(&part[i].w));
    const bool activates = op->activation != NULL; /* then a run is one of each part's pieces */
    for (cpu_run run = {0}; cpu_take_run(op, 0, activates ? first_n : total, w, &run);) {
        linear_walk(op, w, &f, packed, run.at, run.end);
        if (!activates) continue;
        if (part_n > 1) linear_walk(op, w, &f, packed, first_n + run.at, first_n + run.end);
        const uint32_t begin = run.at * piece_rows(&part[0].w), end = run.end * piece_rows(&part[0].w);
        for (uint32_t r = 0; r < row_n; r++)
            activate_outputs(w, op->activation, r, 0, begin, (uint32_t)min_u64(end, part[0].w.out_n));
    }
}

static void linear_many_rows(cpu_op *op, const cpu_worker *w, uint32_t row_n) {
    const device_linear_part *part = op->op.linear.part;
    uint32_t part_n = op->op.linear.part_n, k = part[0].w.in_n;
    const way how = way_of(w->kernels, part, row_n);
    const bool wide = how == BY_WIDE_TILES;
    forms f = forms_of(w->kernels, part, part_n, row_n, 0, how);
    uint32_t panel_n[DEVICE_LINEAR_MAX], total = 0;
    for (uint32_t j = 0; j < f.n; j++) total += panel_n[j] = pieces(row_n, panel_cols(f.form[j], how));
    cpu_run run = {0};
    for (uint32_t item; (item = cpu_take_next(op, 0, total, w, &run)) < total;) {
        uint32_t j = find_part(panel_n, f.n, &item), cols = panel_cols(f.form[j], how), r = item * cols;
        pack_panel(f.form[j], how, w->workspace + f.offset[j] + panel_stride(f.form[j], k, how) * item,
                   cpu_row(op->op.linear.x, r), op->op.linear.x.stride, min_u64(row_n - r, cols), k);
    }
    if (!team_barrier(w->team, w->thread_i)) return;
    uint32_t tile_n[DEVICE_LINEAR_MAX]; /* per part: what is unpacked at a time */
    total = 0;
    const uint32_t counted_n = counted_parts(op, part_n);
    for (uint32_t i = 0; i < counted_n; i++)
        total += tile_n[i] =
            pieces(part[i].w.out_n, cpu_unpack_rows(w->kernels, &part[i].w, w->thread_n, wide));
    run = (cpu_run){0};
    for (uint32_t item; (item = cpu_take_next(op, 1, total, w, &run)) < total;) {
        uint32_t i = find_part(tile_n, counted_n, &item);
        cpu_tile_job job = {.w = w,
                            .part = &part[i],
                            .from = item * cpu_unpack_rows(w->kernels, &part[i].w, w->thread_n, wide),
                            .panels = w->workspace + f.offset[f.of_part[i]],
                            .col_n = row_n,
                            .used_n = 1,
                            .wide = wide,
                            .room = cpu_thread_scratch(w, cpu_linear_scratch(w->kernels, &op->op))};
        cpu_tile_job_run(&job, op, part_n);
    }
}

void cpu_linear_run(cpu_op *op, const cpu_worker *w) {
    uint32_t row_n = cpu_row_n(op, w);
    if (cpu_skips(&op->op.linear.choice) ||
        (op->op.linear.part[0].w.order != NEURONS_BY_OUTPUT && row_n < CPU_TILE_ROWS_MIN))
        cpu_listed_run(op, w);
    else if (row_n < CPU_TILE_ROWS_MIN)
        linear_few_rows(op, w, row_n);
    else
        linear_many_rows(op, w, row_n);
}

/* ---- Experts ---- */

/* The uses of experts by rows, sorted by expert: use = row * used_n + choice. Lies behind the packed
 * activations in the shared scratch. */
typedef struct groups {
    uint32_t *start; /* [unit_n + 1]: uses of expert u are use[start[u]] ... */
    uint32_t *panel; /* [unit_n + 1]: its first panel */
    uint32_t *use;   /* [row_n * used_n] */
} groups;

static uint32_t experts_unit_n(const device_op *op) { return op->experts.part[0].w.unit_n; }

/* Activation rows that the operation packs: one per row, or one per use. */
static uint64_t experts_input_n(const device_op *op, uint64_t row_n) {
    return op->experts.x_per_use ? row_n * op->experts.used_n : row_n;
}

static uint64_t experts_panels_bytes(const cpu_kernels *k, const device_op *op) {
    uint64_t uses = (uint64_t)op->row_max * op->experts.used_n;
    return panels_bytes(k, op->experts.part, op->experts.part_n, uses, experts_unit_n(op));
}

static groups groups_at(const cpu_kernels *k, const device_op *op, uint8_t *workspace) {
    uint32_t *p = (uint32_t *)(void *)(workspace + experts_panels_bytes(k, op));
    uint32_t unit_n = experts_unit_n(op);
    return (groups){p, p + unit_n + 1, p + 2 * ((size_t)unit_n + 1)};
}

cpu_scratch cpu_experts_scratch(const cpu_kernels *k, const device_op *op) {
    const device_linear_part *part = op->experts.part;
    uint32_t part_n = op->experts.part_n;
    uint64_t few_rows = experts_input_n(op, min_u64(op->row_max, CPU_TILE_ROWS_MIN - 1));
    uint64_t few = few_rows_bytes(k, part, part_n, few_rows);
    if (op->row_max < CPU_TILE_ROWS_MIN) return product_scratch(few, 0, 0);
    uint64_t numbers = 2 * ((uint64_t)experts_unit_n(op) + 1) + (uint64_t)op->row_max * op->experts.used_n;
    uint64_t gathered = CPU_PANEL_COLS_MAX * (uint64_t)part[0].w.in_n; /* inputs of one panel */
    return product_scratch(few, experts_panels_bytes(k, op) + numbers * sizeof(uint32_t),
                           cpu_job_bytes_max(k, part, part_n) + gathered * sizeof(float));
}

static int32_t *chosen(const device_op *op, uint32_t r) {
    return (int32_t *)(void *)cpu_row(op->experts.id, r);
}

static const float *experts_input(const device_op *op, uint32_t use) {
    uint32_t r = use / op->experts.used_n;
    const float *x = cpu_row(op->experts.x, r);
    return op->experts.x_per_use ? x + (size_t)(use % op->experts.used_n) * op->experts.part[0].w.in_n : x;
}

/* Pieces [from, end), counted through the parts, of one use of an expert. */
static void experts_walk(const cpu_op *op, const cpu_worker *w, const forms *f, const uint8_t *packed,
                         uint32_t use, uint32_t from, uint32_t end) {
    const device_op *o = &op->op;
    const device_linear_part *part = o->experts.part;
    const uint32_t used_n = o->experts.used_n, r = use / used_n, input = o->experts.x_per_use ? use : r;
    for (uint32_t i = 0, first = 0; i < o->experts.part_n && first < end; i++) {
        const uint32_t rows = piece_rows(&part[i].w), n = pieces(part[i].w.out_n, rows), j = f->of_part[i];
        const uint32_t begin = from > first ? from - first : 0, to = (uint32_t)min_u64(end - first, n);
        if (begin < to)
            walk_rows(w, &part[i], chosen(o, r)[use % used_n], rows * begin,
                      (uint32_t)min_u64((uint64_t)rows * to, part[i].w.out_n),
                      packed + f->offset[j] + act_stride(f->form[j], part[i].w.in_n) * input,
                      cpu_row(part[i].y, r) + (size_t)(use % used_n) * part[i].w.out_n);
        first += n;
    }
}

static void experts_few_rows(cpu_op *op, const cpu_worker *w, uint32_t row_n) {
    const device_op *o = &op->op;
    const device_linear_part *part = o->experts.part;
    uint32_t part_n = o->experts.part_n, k = part[0].w.in_n, used_n = o->experts.used_n;
    uint32_t input_n = (uint32_t)experts_input_n(o, row_n), per_row = (uint32_t)experts_input_n(o, 1);
    forms f = forms_of(w->kernels, part, part_n, input_n, 0, BY_ROW);
    uint8_t *packed = cpu_thread_scratch(w, cpu_experts_scratch(w->kernels, o));
    for (uint32_t j = 0; j < f.n; j++)
        for (uint32_t input = 0; input < input_n; input++)
            f.form[j]->act_pack(packed + f.offset[j] + act_stride(f.form[j], k) * input,
                                experts_input(o, input / per_row * used_n + input % per_row), k);
    const bool activates = op->activation != NULL; /* then a run is one of each part's pieces */
    uint32_t first_n = pieces(part[0].w.out_n, piece_rows(&part[0].w));
    uint32_t per_use =
        first_n + (part_n > 1 && !activates ? pieces(part[1].w.out_n, piece_rows(&part[1].w)) : 0);
    for (cpu_run run = {0}; cpu_take_run(op, 0, row_n * used_n * per_use, w, &run);)
        for (uint32_t m; run.at < run.end; run.at += m) {
            uint32_t use = run.at / per_use, piece = run.at % per_use;
            m = (uint32_t)min_u64(run.end - run.at, per_use - piece);
            experts_walk(op, w, &f, packed, use, piece, piece + m);
            if (!activates) continue;
            if (part_n > 1) experts_walk(op, w, &f, packed, use, first_n + piece, first_n + piece + m);
            const uint32_t to = (piece + m) * piece_rows(&part[0].w);
            activate_outputs(w, op->activation, use / used_n, use % used_n, piece * piece_rows(&part[0].w),
                             (uint32_t)min_u64(to, part[0].w.out_n));
        }
}

/* Sorts the uses by expert (counting sort, so that rows keep their order) and gives each expert its panels.
 */
static void group_uses(const device_op *op, groups g, uint32_t row_n, uint32_t panel_cols) {
    uint32_t unit_n = experts_unit_n(op), used_n = op->experts.used_n;
    memset(g.start, 0, sizeof *g.start * ((size_t)unit_n + 1));
    for (uint32_t r = 0; r < row_n; r++)
        for (uint32_t j = 0; j < used_n; j++) g.start[chosen(op, r)[j] + 1]++;
    g.panel[0] = 0;
    for (uint32_t u = 0; u < unit_n; u++) {
        g.panel[u + 1] = g.panel[u] + pieces(g.start[u + 1], panel_cols);
        g.start[u + 1] += g.start[u];
    }
    for (uint32_t r = 0; r < row_n; r++)
        for (uint32_t j = 0; j < used_n; j++) g.use[g.start[chosen(op, r)[j]]++] = r * used_n + j;
    for (uint32_t u = unit_n; u > 0; u--)
        g.start[u] = g.start[u - 1]; /* the fill moved each start to its end */
    g.start[0] = 0;
}

/* The expert that panel number p belongs to. */
static uint32_t panel_owner(const groups *g, uint32_t unit_n, uint32_t p) {
    uint32_t low = 0, high = unit_n;
    while (low + 1 < high) {
        uint32_t middle = (low + high) / 2;
        if (g->panel[middle] <= p)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static void pack_expert_panel(const device_op *op, const groups *g, const cpu_matmul *m, way how, uint32_t p,
                              uint8_t *panels, float *gathered) {
    uint32_t k = op->experts.part[0].w.in_n, cols = panel_cols(m, how);
    uint32_t u = panel_owner(g, experts_unit_n(op), p), from = g->start[u] + (p - g->panel[u]) * cols, n = 0;
    for (; n < cols && from + n < g->start[u + 1]; n++)
        memcpy(gathered + (size_t)n * k, experts_input(op, g->use[from + n]), k * sizeof(float));
    pack_panel(m, how, panels + panel_stride(m, k, how) * p, gathered, k, n, k);
}

/* The turn of one form. */
typedef struct grouping {
    cpu_op *op;
    const groups *g;
    uint32_t row_n, panel_cols;
} grouping;

static void begin_turn(void *cookie) {
    const grouping *turn = cookie;
    group_uses(&turn->op->op, *turn->g, turn->row_n, turn->panel_cols);
    for (uint32_t phase = 0; phase < CPU_OP_PHASES; phase++)
        atomic_store_explicit(&turn->op->next[phase], 0, memory_order_relaxed);
}

static void experts_many_rows(cpu_op *op, const cpu_worker *w, uint32_t row_n) {
    const device_op *o = &op->op;
    const device_linear_part *part = o->experts.part;
    uint32_t part_n = o->experts.part_n, unit_n = experts_unit_n(o), k = part[0].w.in_n;
    const way how = way_of(w->kernels, part, row_n * o->experts.used_n / unit_n);
    const bool wide = how == BY_WIDE_TILES;
    forms f = forms_of(w->kernels, part, part_n, (uint64_t)row_n * o->experts.used_n, unit_n, how);
    groups g = groups_at(w->kernels, o, w->workspace);
    uint8_t *scratch = cpu_thread_scratch(w, cpu_experts_scratch(w->kernels, o));
    float *gathered = (float *)(void *)scratch;
    uint8_t *room = scratch + CPU_PANEL_COLS_MAX * (size_t)k * sizeof *gathered;
    /* panels are numbered by one column count: forms of an operation that differ in it take turns */
    for (uint32_t j = team_passed_turns(w->team, w->thread_i, 2); j < f.n; j++) {
        grouping turn = {op, &g, row_n, panel_cols(f.form[j], how)};
        if (!team_barrier_alone(w->team, w->thread_i, begin_turn, &turn)) return;
        for (uint32_t p; (p = cpu_take(op, 0)) < g.panel[unit_n];)
            pack_expert_panel(o, &g, f.form[j], how, p, w->workspace + f.offset[j], gathered);
        if (!team_barrier(w->team, w->thread_i)) return;
        uint32_t tile_n[2] = {0, 0}, per_unit = 0;
        const uint32_t counted_n = counted_parts(op, part_n);
        for (uint32_t i = 0; i < counted_n; i++)
            if (f.of_part[i] == j)
                per_unit += tile_n[i] =
                    pieces(part[i].w.out_n, cpu_unpack_rows(w->kernels, &part[i].w, w->thread_n, wide));
        for (uint32_t item; (item = cpu_take(op, 1)) < unit_n * per_unit;) {
            uint32_t u = item / per_unit, tile_i = item % per_unit, i = find_part(tile_n, counted_n, &tile_i);
            uint32_t uses = g.start[u + 1] - g.start[u];
            if (!uses) continue;
            cpu_tile_job job = {.w = w,
                                .part = &part[i],
                                .unit = (int32_t)u,
                                .from = tile_i * cpu_unpack_rows(w->kernels, &part[i].w, w->thread_n, wide),
                                .panels =
                                    w->workspace + f.offset[j] + panel_stride(f.form[j], k, how) * g.panel[u],
                                .col_n = uses,
                                .use = g.use + g.start[u],
                                .used_n = o->experts.used_n,
                                .wide = wide,
                                .room = room};
            cpu_tile_job_run(&job, op, part_n);
        }
    }
}

void cpu_experts_run(cpu_op *op, const cpu_worker *w) {
    uint32_t row_n = cpu_row_n(op, w);
    if (cpu_skips(&op->op.experts.choice) ||
        (op->op.experts.part[0].w.order != NEURONS_BY_OUTPUT && row_n < CPU_TILE_ROWS_MIN))
        cpu_listed_run(op, w);
    else if (row_n < CPU_TILE_ROWS_MIN)
        experts_few_rows(op, w, row_n);
    else
        experts_many_rows(op, w, row_n);
}
