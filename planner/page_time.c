/* page_time.c - the predicted timeline of a token on a plan's page: a lane for each device.
 *
 * Drawn twice where a model has many layers: the whole token, and its first layers as large as their texts
 * need. Layers are drawn one after the other as the cost model adds them up: send, mixer, all devices' FFN at
 * once, merge. What a device waits for the slowest one is drawn apart.
 */
#include "planner/page_draw.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    TIME_LEFT = 70,
    TIME_TOP = 18,
    TIME_WIDTH = PAGE_WIDTH - TIME_LEFT - 2,
    LANE_STEP = 28,
    LANE_HEIGHT = 20
};
enum { ZOOM_N = 3, WHOLE_N = 8 /* layers that are readable without a zoom */, LETTER_WIDTH = 7 };

/* One picture: layers [0, layer_n) in steps of group_n. */
typedef struct view {
    const prose *o;
    const figures *f;
    uint32_t layer_n, group_n;
    bool texts; /* names in the boxes and what they are when pointed at */
    bool head;  /* the token ends in here */
    double end_s;
    double lane_y[PLAN_DEVICE_MAX];
} view;

/* A layer, or a run of layers as if they were one. */
typedef struct span {
    uint32_t first, n, home;
    double send_s, mixer_s, busy_s[PLAN_DEVICE_MAX], ffn_s, merge_s;
} span;

static span span_of(const plan_data *p, uint32_t first, uint32_t n) {
    span s = {.first = first, .n = n, .home = p->layer[first].home};
    for (uint32_t i = first; i < first + n; i++) {
        const plan_layer *l = &p->layer[i];
        double ffn_s = 0;
        s.send_s += l->send_s;
        s.mixer_s += l->mixer_s;
        s.merge_s += l->merge_s;
        for (uint32_t d = 0; d < p->device_n; d++) {
            s.busy_s[d] += l->busy_s[d];
            ffn_s = fmax(ffn_s, l->busy_s[d]);
        }
        s.ffn_s += ffn_s;
    }
    return s;
}

static double span_s(const span *s) { return s->send_s + s->mixer_s + s->ffn_s + s->merge_s; }

static double x_of(const view *v, double at_s) { return TIME_LEFT + at_s / v->end_s * TIME_WIDTH; }

/* Work of device d from `at_s` on; texts inside where there is room. */
static void draw_work(const view *v, uint32_t d, double at_s, double s, const char *class, const char *what,
                      const span *of) {
    char title[160];
    double x = x_of(v, at_s), width = s / v->end_s * TIME_WIDTH;
    if (s <= 0) return;
    if (of)
        snprintf(title, sizeof title, "layer %" PRIu32 " on %s: %s, %s", of->first, v->f->p->device[d].name,
                 what, prose_seconds(s).s);
    else
        snprintf(title, sizeof title, "%s: %s, %s", v->f->p->device[d].name, what, prose_seconds(s).s);
    page_box(v->o, page_class(d), class, x, v->lane_y[d], width, LANE_HEIGHT, v->texts ? title : NULL);
    if (v->texts && width > LETTER_WIDTH * (double)strlen(what) + 6)
        page_label(v->o, "in", x + width / 2, v->lane_y[d] + 14, what);
}

static void draw_wait(const view *v, uint32_t d, double at_s, double s) {
    char title[96];
    if (s <= 0) return;
    snprintf(title, sizeof title, "%s waits %s", v->f->p->device[d].name, prose_seconds(s).s);
    page_box(v->o, "wait", "", x_of(v, at_s), v->lane_y[d] + LANE_HEIGHT / 2.0 - 2, s / v->end_s * TIME_WIDTH,
             4, v->texts ? title : NULL);
}

static double draw_span(const view *v, const span *s, double at_s) {
    draw_work(v, s->home, at_s, s->send_s, "send", "send", s);
    at_s += s->send_s;
    draw_work(v, s->home, at_s, s->mixer_s, "mixer", "attention", s);
    at_s += s->mixer_s;
    for (uint32_t d = 0; d < v->f->p->device_n; d++) {
        if (s->busy_s[d] <= 0) continue;
        draw_work(v, d, at_s, s->busy_s[d], "ffn", "FFN", s);
        draw_wait(v, d, at_s + s->busy_s[d], s->ffn_s - s->busy_s[d]);
    }
    at_s += s->ffn_s;
    draw_work(v, s->home, at_s, s->merge_s, "send", "merge", s);
    return at_s + s->merge_s;
}

/* Lines between layers, where there is room for them. */
static void draw_layer_mark(const view *v, const span *s, double at_s, double height) {
    char text[32];
    if (!v->texts) return;
    prose_format(v->o, "<path class=\"tick\" d=\"M%s %dv%s\"/>\n", prose_number(x_of(v, at_s), 1).s,
                 TIME_TOP - 6, prose_number(height + 6, 1).s);
    snprintf(text, sizeof text, "layer %" PRIu32, s->first);
    if (span_s(s) / v->end_s * TIME_WIDTH > 55)
        page_label(v->o, "small", x_of(v, at_s) + 4, TIME_TOP - 6, text);
}

/* Steps of 1, 2 or 5 of a power of ten, at most eight of them. */
static void draw_axis(const view *v, double y) {
    double step = pow(10, floor(log10(v->end_s * 1e3))) / 10;
    int times = 0;
    while (v->end_s * 1e3 / step > 8) step *= times++ % 3 == 1 ? 2.5 : 2;
    int decimals = (int)fmin(fmax(-floor(log10(step) + 1e-9), 0), 9);
    for (int i = 0; i * step <= v->end_s * 1e3; i++) {
        char text[48];
        double x = x_of(v, i * step / 1e3);
        prose_format(v->o, "<path class=\"tick\" d=\"M%s %sv5\"/>\n", prose_number(x, 1).s,
                     prose_number(y, 1).s);
        snprintf(text, sizeof text, "%s%s", prose_number(i * step, i ? decimals : 0).s, i ? "" : " ms");
        page_label(v->o, i ? (x > PAGE_WIDTH - 16 ? "small end" : "small mid") : "small", x, y + 17, text);
    }
}

static void draw_view(view *v, const char *label) {
    const plan_data *p = v->f->p;
    double height = v->f->shown_n * LANE_STEP, at_s = p->submit_s;
    v->end_s = p->submit_s;
    for (uint32_t i = 0; i < v->layer_n; i++) {
        span s = span_of(p, i, 1);
        v->end_s += span_s(&s);
    }
    if (v->head) v->end_s += p->head_s;
    if (v->end_s <= 0) return;
    page_svg(v->o, TIME_TOP + height + 24, label);
    for (uint32_t i = 0; i < v->f->shown_n; i++) {
        uint32_t d = v->f->shown[i];
        v->lane_y[d] = TIME_TOP + i * LANE_STEP;
        page_label(v->o, "name", 0, v->lane_y[d] + 14, p->device[d].name);
        page_box(v->o, "lane", "", TIME_LEFT, v->lane_y[d], TIME_WIDTH, LANE_HEIGHT, NULL);
    }
    draw_work(v, 0, 0, p->submit_s, "send", "submit", NULL);
    for (uint32_t i = 0; i < v->layer_n; i += v->group_n) {
        span s = span_of(p, i, (uint32_t)min_u64(v->group_n, v->layer_n - i));
        draw_layer_mark(v, &s, at_s, height);
        at_s = draw_span(v, &s, at_s);
    }
    if (v->head) draw_work(v, p->head, at_s, p->head_s, "head", "head", NULL);
    draw_axis(v, TIME_TOP + height + 2);
    prose_put(v->o, "</svg>\n");
}

void page_timeline(const prose *o, const figures *f) {
    const plan_data *p = f->p;
    view whole = {.o = o, .f = f, .layer_n = p->layer_n, .head = true, .texts = p->layer_n <= WHOLE_N};
    char text[96];
    whole.group_n = (p->layer_n + PAGE_ROW_MAX - 1) / PAGE_ROW_MAX;
    prose_put(o, "<figure>\n");
    draw_view(&whole, "Timeline of one token");
    if (!whole.texts) {
        view zoom = {.o = o, .f = f, .layer_n = ZOOM_N, .group_n = 1, .texts = true};
        snprintf(text, sizeof text, "The first %d of %" PRIu32 " layers", ZOOM_N, p->layer_n);
        prose_format(o, "<p class=\"sub\">%s</p>\n", text);
        draw_view(&zoom, text);
    }
    prose_put(o, "<figcaption class=\"keys\">\n");
    page_key(o, "ink", "mixer", "attention and norms");
    page_key(o, "ink", "ffn", f->shown_n > 1 ? "FFN, with its exchange" : "FFN");
    page_key(o, "ink", "head", "head");
    page_key(o, "ink", "send", f->shown_n > 1 ? "send, merge, submit" : "submission");
    if (f->shown_n > 1) page_key(o, "wait", "", "waits for the other devices");
    prose_put(o, "</figcaption>\n</figure>\n");
}
