/* explain.c - a plan as text that people understand. */
#include "planner/explain.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "planner/figures.h"

enum { LABEL_WIDTH = 38, CELL_WIDTH = 12, FACT_WIDTH = 14, MS_WIDTH = 10 };

static void explain_facts(const prose *o, const figures *f) {
    figures_fact fact;
    for (uint32_t at = 0; figures_next_fact(f, &at, &fact);) {
        prose_column(o, fact.name, -FACT_WIDTH);
        prose_put(o, fact.text);
        prose_put(o, "\n");
    }
}

static void explain_places(const prose *o, const figures *f) {
    figures_row row;
    prose_put(o, "\n");
    prose_column(o, "What is where", -LABEL_WIDTH);
    for (uint32_t i = 0; i < f->shown_n; i++) prose_column(o, f->p->device[f->shown[i]].name, CELL_WIDTH);
    prose_put(o, "\n");
    for (uint32_t at = 0; figures_next_row(f, &at, &row);) {
        prose_put(o, row.detail ? "    " : "  ");
        prose_column(o, row.what, row.detail ? 4 - LABEL_WIDTH : 2 - LABEL_WIDTH);
        for (uint32_t i = 0; i < f->shown_n; i++)
            prose_column(o, *row.cell[i] ? row.cell[i] : "-", CELL_WIDTH);
        prose_put(o, "\n");
    }
}

/* "decode      21.3 tokens/s     46.9 ms a token". */
static void explain_rate(const prose *o, const char *what, double rate, double seconds, const char *of) {
    prose_put(o, "  ");
    prose_column(o, what, -20);
    prose_column(o, prose_digits(rate).s, 7);
    prose_put(o, " tokens/s");
    prose_column(o, prose_seconds(seconds).s, 13);
    prose_format(o, " %s\n", of);
}

static void explain_speed(const prose *o, const figures *f) {
    const plan_data *p = f->p;
    char text[FIGURES_TEXT_BYTES], chunk[48];
    prose_put(o, "\nSpeed\n");
    if (p->token_s <= 0) prose_put(o, "  not predicted: planned without a machine profile\n");
    if (p->token_s > 0) explain_rate(o, "decode, predicted", 1 / p->token_s, p->token_s, "a token");
    if (f->kept && f->kept->measured_s > 0)
        explain_rate(o, "decode, measured", 1 / f->kept->measured_s, f->kept->measured_s, "a token");
    if (p->chunk_s > 0) {
        snprintf(chunk, sizeof chunk, "a chunk of %" PRIu32, p->batch_n);
        explain_rate(o, "prefill, predicted", p->batch_n / p->chunk_s, p->chunk_s, chunk);
    }
    figures_prefill(f, text);
    if (*text) {
        prose_put(o, "  ");
        prose_put(o, text);
        prose_put(o, "\n");
    }
}

static void explain_measured(const prose *o, const figures *f) {
    const plan_data *p = f->p;
    if (!p->measured_n) return;
    prose_put(o, "\n");
    prose_column(o, "Measured", -LABEL_WIDTH);
    prose_column(o, "predicted", CELL_WIDTH);
    prose_column(o, "measured", CELL_WIDTH);
    prose_column(o, "spread", CELL_WIDTH);
    prose_column(o, "difference", CELL_WIDTH);
    prose_put(o, "\n");
    for (uint32_t i = 0; i < p->measured_n; i++) {
        const plan_measured *m = &p->measured[i];
        bool both = m->predicted_s > 0 && m->measured_s > 0;
        prose_put(o, m->kept ? "* " : "  ");
        prose_column(o, m->what, 2 - LABEL_WIDTH);
        prose_column(o, m->predicted_s > 0 ? prose_seconds(m->predicted_s).s : "-", CELL_WIDTH);
        prose_column(o, prose_seconds(m->measured_s).s, CELL_WIDTH);
        prose_column(o, prose_percent(m->spread).s, CELL_WIDTH);
        prose_column(o, both ? prose_gain(m->measured_s / m->predicted_s - 1).s : "-", CELL_WIDTH);
        prose_put(o, "\n");
    }
    if (f->kept) prose_put(o, "  * this plan\n");
}

static void explain_part(const prose *o, const figures *f, const char *what, double s) {
    prose_put(o, "  ");
    prose_column(o, what, 2 - LABEL_WIDTH);
    prose_column(o, prose_number(s * 1e3, figures_ms_decimals(f)).s, MS_WIDTH);
    prose_column(o, prose_percent(s / f->p->token_s).s, MS_WIDTH);
    prose_put(o, "\n");
}

static void explain_time(const prose *o, const figures *f) {
    if (!f->part_n) return;
    prose_put(o, "\n");
    prose_column(o, "Where the time of a token goes", -LABEL_WIDTH);
    prose_column(o, "ms", MS_WIDTH);
    prose_put(o, "\n");
    for (uint32_t i = 0; i < f->part_n; i++) explain_part(o, f, f->part[i].what, f->part[i].s);
    explain_part(o, f, "in all", f->p->token_s);
    if (f->shown_n < 2) return;
    prose_put(o, "  at work: ");
    for (uint32_t i = 0; i < f->shown_n; i++) {
        uint32_t d = f->shown[i];
        prose_format(o, "%s%s %s", i ? ", " : "", f->p->device[d].name,
                     prose_percent(f->busy_s[d] / f->p->token_s).s);
    }
    prose_put(o, " of the time\n");
}

static void explain_gains(const prose *o, const figures *f) {
    if (f->p->token_s <= 0) return;
    prose_put(o, "\nWhat would help\n");
    if (!f->gain_n) prose_put(o, "  nothing that was asked about: no change brings 0.5 %\n");
    for (uint32_t i = 0; i < f->gain_n; i++) {
        const plan_gain *g = &f->p->gain[f->gain[i]];
        prose_put(o, "  ");
        prose_column(o, g->what, 2 - LABEL_WIDTH);
        prose_column(o, prose_digits(1 / g->token_s).s, MS_WIDTH);
        prose_put(o, " tokens/s");
        prose_column(o, prose_gain(figures_gain(f, f->gain[i])).s, MS_WIDTH);
        prose_put(o, "\n");
    }
}

void plan_explain(const plan_data *p, hotset_text_fn *write, void *cookie) {
    prose o = {write, cookie};
    figures f = figures_make(p);
    explain_facts(&o, &f);
    explain_places(&o, &f);
    explain_speed(&o, &f);
    explain_measured(&o, &f);
    explain_time(&o, &f);
    explain_gains(&o, &f);
}
