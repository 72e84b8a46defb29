/* planning_mip.c - the planner's problem as an integer program, solved by CBC. */
#include "tests/planning_mip.h"

#include <coin/Cbc_C_Interface.h>
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

enum { D = PROBLEM_DEVICE_MAX, ROW_MAX = 4096 };

typedef struct program {
    Cbc_Model *model;
    const cost_model *c;
    int column_n, row_n;
    int id[ROW_MAX]; /* the row being made */
    double value[ROW_MAX];
    int n;
} program;

/* Costs in microseconds: the solver's tolerances suit numbers beyond one. */
static int variable(program *p, double seconds, bool integer, double high) {
    Cbc_addCol(p->model, "x", 0, high, seconds * 1e6, integer, 0, NULL, NULL);
    return p->column_n++;
}

static int choice(program *p, double cost) { return variable(p, cost, true, 1); }

static void term(program *p, int column, double value) {
    cr_assert_lt(p->n, ROW_MAX);
    p->id[p->n] = column;
    p->value[p->n++] = value;
}

static void row(program *p, char sense, double right) {
    Cbc_addRow(p->model, "r", p->n, p->id, p->value, sense, right);
    p->row_n++;
    p->n = 0;
}

typedef struct layer_columns {
    int home[D], joins[D][D] /* home, guest or home */, time;
    int *unit; /* [unit_n][D] */
} layer_columns;

/* time >= busy(d), for each device */
static void layer_times(program *p, uint32_t l, const layer_columns *k) {
    const cost_layer *t = &p->c->layer[l];
    uint32_t unit_n = p->c->p->layer[l].ffn.unit_n;
    for (uint32_t d = 0; d < p->c->device_n; d++) {
        term(p, k->time, 1);
        term(p, k->home[d], -1e6 * t->shared[d].row);
        for (uint32_t h = 0; h < p->c->device_n; h++) {
            double exchange = h == d ? 0 : p->c->send[h][d].row + p->c->send[d][h].row;
            term(p, k->joins[h][d], -1e6 * (t->units[d].fixed.row + exchange));
        }
        for (uint32_t i = 0; i < unit_n; i++) {
            double alone = cost_units_s(p->c, l, d, i, i + 1).row - t->units[d].fixed.row;
            term(p, k->unit[i * D + d], -1e6 * alone);
        }
        row(p, 'G', 0);
    }
}

static layer_columns add_layer(program *p, uint32_t l) {
    const cost_layer *t = &p->c->layer[l];
    uint32_t n = p->c->device_n, unit_n = p->c->p->layer[l].ffn.unit_n;
    layer_columns k = {.time = variable(p, 1e-6, false, 1e12) /* in microseconds */,
                       .unit = malloc(unit_n * D * sizeof(int))};
    for (uint32_t h = 0; h < n; h++) {
        k.home[h] = choice(p, t->mixer[h].row);
        for (uint32_t d = 0; d < n; d++) k.joins[h][d] = choice(p, h == d ? 0 : p->c->merge[h].row);
    }
    for (uint32_t h = 0; h < n; h++) term(p, k.home[h], 1);
    row(p, 'E', 1);
    for (uint32_t d = 0; d < n; d++)
        for (uint32_t h = 0; h < n; h++) {
            term(p, k.joins[h][d], 1);
            term(p, k.home[h], -1);
            row(p, 'L', 0);
        }
    for (uint32_t i = 0; i < unit_n; i++) {
        for (uint32_t d = 0; d < n; d++) {
            k.unit[i * D + d] = choice(p, 0);
            term(p, k.unit[i * D + d], 1);
            for (uint32_t h = 0; h < n; h++) term(p, k.joins[h][d], -1);
            row(p, 'L', 0);
        }
        for (uint32_t d = 0; d < n; d++) term(p, k.unit[i * D + d], 1);
        row(p, 'E', 1);
    }
    layer_times(p, l, &k);
    return k;
}

/* The residual stream's way from one layer's home to the next, or to the head. */
static void add_way(program *p, const int *from, const int *to) {
    for (uint32_t a = 0; a < p->c->device_n; a++)
        for (uint32_t b = 0; b < p->c->device_n; b++) {
            if (a == b) continue;
            int crosses = variable(p, p->c->send[a][b].row, false, 1);
            term(p, crosses, 1);
            term(p, from[a], -1);
            term(p, to[b], -1);
            row(p, 'G', -1);
        }
}

static void add_limits(program *p, const layer_columns *k, const int *head, const int *used) {
    const problem *q = p->c->p;
    for (uint32_t d = 1; d < p->c->device_n; d++) {
        double scale = 1.0 / (1 << 20); /* rows in MiB: numbers near one suit the solver */
        for (uint32_t l = 0; l < q->layer_n; l++) {
            const problem_ffn *f = &q->layer[l].ffn;
            term(p, k[l].home[d], scale * (double)p->c->layer[l].home_bytes[d]);
            for (uint32_t h = 0; h < p->c->device_n; h++)
                term(p, k[l].joins[h][d],
                     scale * (double)(f->fc1.bytes + (h == d ? 0 : q->layer[l].ffn_vector_bytes)));
            for (uint32_t i = 0; i < f->unit_n; i++)
                term(p, k[l].unit[i * D + d], scale * (double)p->c->layer[l].unit_bytes);
        }
        term(p, head[d], scale * (double)p->c->head_bytes[d]);
        /* scratch takes its part where the device is used at all */
        double room = (double)q->device[d].limit_bytes - (double)q->device[d].scratch_bytes -
                      (double)q->rotary_bytes - (double)q->device[d].table_bytes;
        term(p, used[d], -scale * fmax(room, 0));
        row(p, 'L', 0);
        for (uint32_t l = 0; l < q->layer_n; l++) {
            term(p, k[l].home[d], 1);
            term(p, used[d], -1);
            row(p, 'L', 0);
            for (uint32_t h = 0; h < p->c->device_n; h++) {
                term(p, k[l].joins[h][d], 1);
                term(p, used[d], -1);
                row(p, 'L', 0);
            }
        }
        term(p, head[d], 1);
        term(p, used[d], -1);
        row(p, 'L', 0);
    }
}

static void build(program *p) {
    uint32_t layer_n = p->c->p->layer_n, n = p->c->device_n;
    layer_columns *k = calloc(layer_n, sizeof *k);
    int head[D], used[D], start[D];
    for (uint32_t d = 0; d < n; d++) {
        start[d] = variable(p, 0, false, d == 0);
        head[d] = choice(p, p->c->head[d]);
        used[d] = choice(p, p->c->submit[d]);
    }
    term(p, start[0], 1);
    row(p, 'E', 1);
    term(p, used[0], 1);
    row(p, 'E', 1);
    for (uint32_t d = 0; d < n; d++) term(p, head[d], 1);
    row(p, 'E', 1);
    for (uint32_t l = 0; l < layer_n; l++) {
        k[l] = add_layer(p, l);
        add_way(p, l ? k[l - 1].home : start, k[l].home);
    }
    add_way(p, k[layer_n - 1].home, head);
    add_limits(p, k, head, used);
    for (uint32_t l = 0; l < layer_n; l++) free(k[l].unit);
    free(k);
}

planning_optimum planning_solve(const cost_model *c) {
    program *p = calloc(1, sizeof *p);
    p->c = c;
    p->model = Cbc_newModel();
    Cbc_setParameter(p->model, "logLevel", "0");
    /* a limit on nodes and not on time, so that the result is the same on every machine */
    Cbc_setParameter(p->model, "maxNodes", "400");
    Cbc_setParameter(p->model, "ratioGap", "0.0001");
    build(p);
    Cbc_solve(p->model);
    planning_optimum o = {INFINITY, Cbc_getBestPossibleObjValue(p->model) * 1e-6};
    if (Cbc_bestSolution(p->model)) o.found = Cbc_getObjValue(p->model) * 1e-6;
    if (Cbc_isProvenOptimal(p->model)) o.bound = fmax(o.bound, o.found * (1 - 1e-4));
    Cbc_deleteModel(p->model);
    free(p);
    return o;
}
