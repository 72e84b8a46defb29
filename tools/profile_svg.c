/* profile_svg.c - the heat map of an activation profile.
 *
 * A row's units stand in order of use, so its colours fall from left to right: each colour is one stretch of
 * the row, drawn exactly however many units there are, and the file stays small.
 */
#include "tools/profile_svg.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tools/output.h"
#include "tools/profile_report.h"

/* Places in the picture, in its own units (pixels at 100 %). */
enum {
    WIDTH = 980,
    LEFT = 70,
    TOP = 92,
    PLOT_WIDTH = 730,
    MEAN_LEFT = LEFT + PLOT_WIDTH + 22,
    MEAN_WIDTH = 84,
    ROWS_HEIGHT = 480, /* what the rows share, within the limits of one */
    ROW_MIN = 6,
    ROW_MAX = 34,
    FOOT = 122
};

enum { SIZE_N = 66, OCTAVE_N = SIZE_N / 2, LEVEL_N = 32, DECADES = 3 };
static const double use_min = 1e-3; /* the least share of tokens that has a colour of its own */

typedef struct picture {
    FILE *out;
    const hotset_profile *profile;
    hotset_profile_facts facts;
    bool sizes; /* no layer has hot units: the rows show sizes of activations */
    double row_height;
    double bottom; /* of the rows */
} picture;

/* ---- Text ------------------------------------------------------------------------------------------- */

static void escaped(FILE *out, const char *text) {
    for (size_t n, left = strlen(text); left; text += n, left -= n) {
        unsigned char c = (unsigned char)*text;
        n = utf8_length(text, left);
        if (n == 0 || c < ' ' || c == 127)
            fputc('?', out), n = 1;
        else if (strchr("<>&\"'", c))
            fprintf(out, "&#%d;", c);
        else
            fwrite(text, 1, n, out);
    }
}

/* 97531 as "97,531". */
static void grouped(char out[32], int64_t value) {
    char digits[24];
    int n = snprintf(digits, sizeof digits, "%lld", (long long)value), used = 0;
    for (int i = 0; i < n; i++) {
        if (i && (n - i) % 3 == 0) out[used++] = ',';
        out[used++] = digits[i];
    }
    out[used] = 0;
}

static void label(const picture *p, double x, double y, const char *class, const char *text) {
    fprintf(p->out, "<text x=\"%.1f\" y=\"%.1f\" class=\"%s\">", x, y, class);
    escaped(p->out, text);
    fputs("</text>\n", p->out);
}

/* ---- Colours ---------------------------------------------------------------------------------------- */

static void colour(char out[8], double t) {
    static const double stops[][3] = {{253, 246, 224}, {253, 209, 122}, {247, 148, 60},
                                      {218, 72, 44},   {156, 20, 48},   {66, 10, 42}};
    enum { STOP_N = sizeof stops / sizeof stops[0] };
    double at = fmin(fmax(t, 0), 1) * (STOP_N - 1);
    size_t i = at >= STOP_N - 1 ? STOP_N - 2 : (size_t)at;
    double part = at - (double)i;
    int rgb[3];
    for (int c = 0; c < 3; c++) rgb[c] = (int)lround(stops[i][c] + part * (stops[i + 1][c] - stops[i][c]));
    snprintf(out, 8, "#%02x%02x%02x", rgb[0] & 255, rgb[1] & 255, rgb[2] & 255);
}

/* Share of tokens to place on the colour scale, which is logarithmic: 0.1 % is its beginning. */
static double place_of(double share) { return 1 + log10(fmax(share, use_min)) / DECADES; }
static int level_of(double share) {
    int level = (int)floor(place_of(share) * LEVEL_N);
    return level < LEVEL_N ? level : LEVEL_N - 1;
}

static void stretch(const picture *p, double from, double to, double y, double t) {
    char fill[8];
    colour(fill, t);
    fprintf(p->out, "<path fill=\"%s\" d=\"M%.1f %.1fH%.1fv%.1fH%.1fz\"/>\n", fill, LEFT + from * PLOT_WIDTH,
            y, LEFT + to * PLOT_WIDTH, p->row_height, LEFT + from * PLOT_WIDTH);
}

/* ---- Rows ------------------------------------------------------------------------------------------- */

static double row_top(const picture *p, uint32_t layer_i) { return TOP + layer_i * p->row_height; }

/* Units of one colour are one stretch; those never used show the background. */
static bool use_row(const picture *p, uint32_t layer_i, const hotset_profile_layer *l) {
    int64_t *sorted = profile_sorted(l);
    if (!sorted) return false;
    double token_n = (double)p->facts.token_n, y = row_top(p, layer_i);
    for (uint32_t from = 0, to; from < l->unit_n && sorted[from] > 0; from = to) {
        int level = level_of((double)sorted[from] / token_n);
        to = from + 1;
        while (to < l->unit_n && sorted[to] > 0 && level_of((double)sorted[to] / token_n) == level) to++;
        stretch(p, (double)from / l->unit_n, (double)to / l->unit_n, y, (level + 0.5) / LEVEL_N);
    }
    double carriers = profile_carriers(sorted, l->unit_n, 0.8), x = LEFT + carriers / l->unit_n * PLOT_WIDTH;
    fprintf(p->out, "<path class=\"mark\" d=\"M%.1f %.1fv%.1f\"/>\n", x, y, p->row_height);
    free(sorted);
    return true;
}

/* A column for each power of two; the colour is linear in the column's share, the layer's largest is darkest.
 */
static void sizes_row(const picture *p, uint32_t layer_i, const hotset_profile_layer *l) {
    double octave[OCTAVE_N], max = 0;
    for (int i = 0; i < OCTAVE_N; i++) {
        octave[i] = (double)(l->size_n[2 * i] + l->size_n[2 * i + 1]);
        max = fmax(max, octave[i]);
    }
    for (int i = 0; i < OCTAVE_N; i++)
        if (octave[i] > 0)
            stretch(p, (double)i / OCTAVE_N, (i + 1.0) / OCTAVE_N, row_top(p, layer_i), octave[i] / max);
}

static void always_row(const picture *p, uint32_t layer_i, const hotset_profile_layer *l) {
    fprintf(p->out, "<rect x=\"%d\" y=\"%.1f\" width=\"%d\" height=\"%.1f\" fill=\"#c9ced6\"/>\n", LEFT,
            row_top(p, layer_i), PLOT_WIDTH, p->row_height);
    if (p->row_height >= 10)
        label(p, LEFT + PLOT_WIDTH / 2.0, row_top(p, layer_i) + p->row_height / 2 + 4, "mid",
              l->kind == HOTSET_NO_UNITS ? "no FFN" : "every neuron is always active");
}

/* The mean share of active units as a bar, with its number where there is room. */
static void mean_bar(const picture *p, uint32_t layer_i, const hotset_profile_layer *l) {
    double share = p->facts.token_n ? (double)l->union_n[0] / ((double)p->facts.token_n * l->unit_n) : 0;
    double y = row_top(p, layer_i), gap = p->row_height >= 10 ? 2 : 0.5;
    char text[32];
    fprintf(p->out, "<rect x=\"%d\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"#5b6b82\"/>\n",
            MEAN_LEFT, y + gap, share * MEAN_WIDTH, p->row_height - 2 * gap);
    if (p->row_height < 10) return;
    snprintf(text, sizeof text, "%.1f %%", 100 * share);
    label(p, MEAN_LEFT + share * MEAN_WIDTH + 5, y + p->row_height / 2 + 4, "start", text);
}

static bool rows_draw(const picture *p) {
    fprintf(p->out, "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%.1f\" fill=\"#e6ebf2\"/>\n", LEFT, TOP,
            PLOT_WIDTH, p->bottom - TOP);
    fputs("<g shape-rendering=\"crispEdges\">\n", p->out);
    for (uint32_t i = 0; i < p->facts.layer_n; i++) {
        hotset_profile_layer l = hotset_profile_get_layer(p->profile, i);
        if (l.count && !use_row(p, i, &l)) return false;
        if (l.size_n && p->sizes) sizes_row(p, i, &l);
    }
    fputs("</g>\n", p->out);
    for (uint32_t i = 0; i < p->facts.layer_n; i++) {
        hotset_profile_layer l = hotset_profile_get_layer(p->profile, i);
        if (l.count) mean_bar(p, i, &l);
        if (!l.count && !(l.size_n && p->sizes)) always_row(p, i, &l);
        if (i && p->row_height >= 10)
            fprintf(p->out, "<path stroke=\"#fff\" d=\"M%d %.1fh%d\"/>\n", LEFT, row_top(p, i), PLOT_WIDTH);
    }
    return true;
}

/* ---- Around the rows -------------------------------------------------------------------------------- */

/* The share of all counted units that a token uses. */
static double mean_active(const picture *p) {
    double used = 0, all = 0;
    for (uint32_t i = 0; i < p->facts.layer_n; i++) {
        hotset_profile_layer l = hotset_profile_get_layer(p->profile, i);
        if (!l.count) continue;
        used += (double)l.union_n[0];
        all += (double)p->facts.token_n * l.unit_n;
    }
    return all > 0 ? used / all : 0;
}

static void head_draw(const picture *p) {
    char corpora[200], tokens[32], line[400];
    const hotset_profile_facts *f = &p->facts;
    profile_corpora(p->profile, corpora, sizeof corpora);
    grouped(tokens, f->token_n);
    snprintf(line, sizeof line, "%s%s", f->model, f->model[0] ? "" : "Activation profile");
    label(p, LEFT, 36, "title", line);
    snprintf(line, sizeof line, "%s %s tokens of %s (FFN activation %s)",
             p->sizes ? "How large the activations of each layer are:" : "How often each unit is used:",
             tokens, corpora, f->activation);
    label(p, LEFT, 60, "start", line);
    if (p->sizes) return;
    snprintf(line, sizeof line, "active: mean %.1f %%", 100 * mean_active(p));
    label(p, MEAN_LEFT, TOP - 8, "start", line);
}

static void layer_axis(const picture *p) {
    uint32_t layer_n = p->facts.layer_n, step = 1;
    while (step * p->row_height < 13) step = step == 1 ? 2 : step == 2 ? 5 : step * 2;
    for (uint32_t i = 0; i < layer_n; i += step) {
        char text[16];
        snprintf(text, sizeof text, "%u", i);
        label(p, LEFT - 8, row_top(p, i) + p->row_height / 2 + 4, "end", text);
    }
    fprintf(p->out, "<text class=\"mid\" transform=\"translate(24 %.1f) rotate(-90)\">layer</text>\n",
            (TOP + p->bottom) / 2);
}

static void tick(const picture *p, double x) {
    fprintf(p->out, "<path stroke=\"#5b6b82\" d=\"M%.1f %.1fv5\"/>\n", x, p->bottom);
}

/* 2 to this power, in superscript digits. */
static void power_text(char *out, size_t out_bytes, int power) {
    static const char *const digits[] = {"\u2070", "\u00b9", "\u00b2", "\u00b3", "\u2074",
                                         "\u2075", "\u2076", "\u2077", "\u2078", "\u2079"};
    int size = power < 0 ? -power : power;
    snprintf(out, out_bytes, "2%s%s%s", power < 0 ? "\u207b" : "", size >= 10 ? digits[size / 10 % 10] : "",
             digits[size % 10]);
}

static void unit_axis(const picture *p) {
    char text[32];
    for (int i = 0; i <= 10 && !p->sizes; i++) {
        double x = LEFT + i / 10.0 * PLOT_WIDTH;
        snprintf(text, sizeof text, "%d %%", 10 * i);
        tick(p, x);
        label(p, x, p->bottom + 19, "mid", text);
    }
    for (int power = -24; power <= 8 && p->sizes; power += 4) {
        double x = LEFT + (power + 25.0) / OCTAVE_N * PLOT_WIDTH;
        tick(p, x);
        power_text(text, sizeof text, power);
        label(p, x, p->bottom + 19, "mid", text);
    }
    label(p, LEFT + PLOT_WIDTH / 2.0, p->bottom + 42, "mid",
          p->sizes ? "absolute value of the activation; every neuron is always active, none is hot"
                   : "units of the layer, the most used first");
}

static void colour_key(const picture *p) {
    static const struct {
        double share;
        const char *text;
    } ticks[] = {{0.001, "0.1 %"}, {0.01, "1 %"}, {0.1, "10 %"}, {1, "100 %"}};
    enum { KEY_WIDTH = 260, KEY_HEIGHT = 12 };
    double x = LEFT + 84, y = p->bottom + 66;
    fprintf(p->out, "<rect x=\"%d\" y=\"%.1f\" width=\"40\" height=\"%d\" fill=\"#e6ebf2\"/>\n", LEFT, y,
            KEY_HEIGHT);
    label(p, LEFT + 20, y + 28, "mid", "never");
    for (int i = 0; i < LEVEL_N; i++) {
        char fill[8];
        colour(fill, (i + 0.5) / LEVEL_N);
        fprintf(p->out, "<rect x=\"%.2f\" y=\"%.1f\" width=\"%.2f\" height=\"%d\" fill=\"%s\"/>\n",
                x + (double)i * KEY_WIDTH / LEVEL_N, y, (double)KEY_WIDTH / LEVEL_N + 0.3, KEY_HEIGHT, fill);
    }
    for (size_t i = 0; i < sizeof ticks / sizeof ticks[0]; i++)
        label(p, x + place_of(ticks[i].share) * KEY_WIDTH, y + 28, "mid", ticks[i].text);
    label(p, x + KEY_WIDTH + 34, y + 11, "start", "of tokens");
    fprintf(p->out, "<path class=\"mark\" d=\"M%.1f %.1fv18\"/>\n", LEFT + 490.0, y - 3);
    label(p, LEFT + 500, y + 11, "start", "left of it: 80 % of all activations");
}

static void styles(const picture *p, double height) {
    fprintf(
        p->out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %.0f\" width=\"%d\" height=\"%.0f\">\n"
        "<style>text{font:13px system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif;fill:#2b3442}"
        ".title{font-size:20px;font-weight:600}.mid{text-anchor:middle}.end{text-anchor:end}"
        ".mark{stroke:#12a5c9;stroke-width:2.5;fill:none}</style>\n"
        "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n",
        WIDTH, height, WIDTH, height);
}

static bool draw(FILE *out, const hotset_profile *profile) {
    picture p = {.out = out, .profile = profile, .facts = hotset_profile_get(profile), .sizes = true};
    for (uint32_t i = 0; i < p.facts.layer_n; i++)
        if (hotset_profile_get_layer(profile, i).count) p.sizes = false;
    p.row_height = fmin(fmax((double)ROWS_HEIGHT / p.facts.layer_n, ROW_MIN), ROW_MAX);
    p.bottom = row_top(&p, p.facts.layer_n);
    styles(&p, p.bottom + FOOT - (p.sizes ? 60 : 0));
    head_draw(&p);
    if (!rows_draw(&p)) return false;
    layer_axis(&p);
    unit_axis(&p);
    if (!p.sizes) colour_key(&p);
    fputs("</svg>\n", out);
    return true;
}

bool profile_svg(const char *command, const char *path, const hotset_profile *profile) {
    out_file file;
    if (!out_file_open(&file, command, path)) return false;
    if (draw(file.stream, profile)) return out_file_commit(&file, command);
    out_file_discard(&file);
    say(command, "out of memory");
    return false;
}
