/* page_units.c - the map of units on a plan's page: layers as rows, units in falling order of use.
 *
 * Units are counted by level of use and place, and a level's units of one place are drawn as one box. So
 * areas are exact however many units there are, nothing is sorted, and a row has few boxes.
 */
#include "planner/page_draw.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

enum { MAP_LEFT = 70, MAP_TOP = 20, MAP_WIDTH = PAGE_WIDTH - MAP_LEFT - 2, MAP_HEIGHT = 440, HOME_WIDTH = 5 };
enum { ROW_HEIGHT_MAX = 22, DECADES = 3, LEVELS_PER_DECADE = (PAGE_LEVEL_N - 1) / DECADES };

/* Layers [first, first + n) as one row. */
typedef struct map_row {
    uint32_t first, n;
    uint64_t unit_n;
    uint64_t at[PAGE_LEVEL_N][FIGURES_PLACE_N]; /* units; level 0 is used most */
} map_row;

typedef struct map {
    const figures *f;
    const float *const *use;
    uint32_t row_n, group_n; /* layers of a row */
    double row_height;
} map;

/* Tops at 1 and falls by a decade; what is below the last decade, or never used, is the last level. */
static uint32_t level_of(double use) {
    if (!(use > 0)) return PAGE_LEVEL_N - 1;
    double level = floor(-log10(use) * LEVELS_PER_DECADE);
    return level < 0 ? 0 : level < PAGE_LEVEL_N - 1 ? (uint32_t)level : PAGE_LEVEL_N - 1;
}

static uint32_t place_of(uint8_t place) { return place == PLAN_IN_FILE ? (uint32_t)FIGURES_FILE : place; }

/* Where use is not known: a place's share of activations against its share of units, 10 times being the top.
 */
static void count_alike(map_row *row, const plan_layer *l) {
    uint64_t n[FIGURES_PLACE_N] = {0};
    for (uint32_t u = 0; u < l->unit_n; u++) n[place_of(l->place[u])]++;
    for (uint32_t k = 0; k < FIGURES_PLACE_N; k++) {
        double use = k == FIGURES_FILE ? l->file_use : l->use[k];
        if (n[k]) row->at[level_of(use * l->unit_n / (double)n[k] / 10)][k] += n[k];
    }
}

static void count_row(const map *m, map_row *row) {
    for (uint32_t i = row->first; i < row->first + row->n; i++) {
        const plan_layer *l = &m->f->p->layer[i];
        row->unit_n += l->unit_n;
        if (!m->use || !m->use[i]) {
            count_alike(row, l);
            continue;
        }
        for (uint32_t u = 0; u < l->unit_n; u++) row->at[level_of(m->use[i][u])][place_of(l->place[u])]++;
    }
}

static void row_title(const map *m, const map_row *row, char text[FIGURES_TEXT_BYTES]) {
    const plan_data *p = m->f->p;
    int n = row->n == 1 ? snprintf(text, FIGURES_TEXT_BYTES, "layer %" PRIu32, row->first)
                        : snprintf(text, FIGURES_TEXT_BYTES, "layers %" PRIu32 " to %" PRIu32, row->first,
                                   row->first + row->n - 1);
    n += snprintf(text + n, FIGURES_TEXT_BYTES - (size_t)n, ", home %s",
                  p->device[p->layer[row->first].home].name);
    for (uint32_t k = 0; k < FIGURES_PLACE_N; k++) {
        uint64_t unit_n = 0;
        double use = 0;
        for (uint32_t level = 0; level < PAGE_LEVEL_N; level++) unit_n += row->at[level][k];
        if (!unit_n || n > FIGURES_TEXT_BYTES - 80) continue;
        for (uint32_t i = row->first; i < row->first + row->n; i++)
            use += (k == FIGURES_FILE ? p->layer[i].file_use : p->layer[i].use[k]) / row->n;
        n += snprintf(text + n, FIGURES_TEXT_BYTES - (size_t)n, "; %s: %s of units, %s of activations",
                      k == FIGURES_FILE ? "file" : p->device[k].name,
                      prose_percent((double)unit_n / (double)row->unit_n).s, prose_percent(use).s);
    }
}

/* GPUs come first within a level, then the host, then the file. */
static uint32_t place_in_order(uint32_t i, uint32_t device_n) {
    return i + 1 < device_n ? i + 1 : i + 1 == device_n ? 0 : (uint32_t)FIGURES_FILE;
}

static void draw_row(const prose *o, const map *m, uint32_t row_i) {
    const plan_data *p = m->f->p;
    map_row row = {.first = row_i * m->group_n};
    char text[FIGURES_TEXT_BYTES], class2[8];
    double x = MAP_LEFT, y = MAP_TOP + row_i * m->row_height;
    row.n = (uint32_t)min_u64(m->group_n, p->layer_n - row.first);
    count_row(m, &row);
    row_title(m, &row, text);
    prose_put(o, "<g><title>");
    prose_escaped(o, text);
    prose_put(o, "</title>\n");
    page_box(o, page_class(p->layer[row.first].home), "", MAP_LEFT - HOME_WIDTH - 3, y, HOME_WIDTH,
             m->row_height, NULL);
    if (!row.unit_n) page_box(o, "empty", "", MAP_LEFT, y, MAP_WIDTH, m->row_height, NULL);
    for (uint32_t level = 0; level < PAGE_LEVEL_N && row.unit_n; level++)
        for (uint32_t i = 0; i <= p->device_n; i++) {
            uint32_t place = place_in_order(i, p->device_n);
            double width = (double)row.at[level][place] / (double)row.unit_n * MAP_WIDTH;
            snprintf(class2, sizeof class2, "u%u", level % 100);
            page_box(o, page_class(place), class2, x, y, width, m->row_height, NULL);
            x += width;
        }
    prose_put(o, "</g>\n");
}

static void draw_axes(const prose *o, const map *m) {
    double bottom = MAP_TOP + m->row_n * m->row_height;
    uint32_t step = 1;
    char text[96];
    while (step * m->row_height < 13) step = step == 1 ? 2 : step == 2 ? 5 : step * 2;
    for (uint32_t i = 0; i < m->row_n; i += step) {
        snprintf(text, sizeof text, "%" PRIu32, i * m->group_n);
        page_label(o, "small end", MAP_LEFT - 14, MAP_TOP + (i + 0.5) * m->row_height + 4, text);
    }
    page_label(o, "small end", MAP_LEFT - 14, MAP_TOP - 8, "layer");
    for (int i = 0; i <= 4; i++) {
        double x = MAP_LEFT + i * MAP_WIDTH / 4.0;
        snprintf(text, sizeof text, "%d %%", 25 * i);
        prose_format(o, "<path class=\"tick\" d=\"M%s %sv5\"/>\n", prose_number(x, 1).s,
                     prose_number(bottom + 1, 1).s);
        page_label(o, i == 0 ? "small" : i == 4 ? "small end" : "small mid", x, bottom + 19, text);
    }
    snprintf(text, sizeof text, "%s, %s", m->f->word,
             m->use ? "the most used first" : "place by place, since the use of each is not known here");
    page_label(o, "small", MAP_LEFT, MAP_TOP - 8, text);
}

static void draw_keys(const prose *o, const map *m) {
    const figures *f = m->f;
    char text[96], class2[8];
    for (uint32_t i = 0; i <= f->p->device_n; i++) {
        uint32_t place = place_in_order(i, f->p->device_n);
        if (!f->units[place]) continue;
        snprintf(text, sizeof text, "%s: %s", place == FIGURES_FILE ? "file" : f->p->device[place].name,
                 prose_percent((double)f->units[place] / (double)f->unit_n).s);
        page_key(o, page_class(place), "u2", text);
    }
    prose_put(o, "<span class=\"scale\">");
    prose_put(o, m->use ? "used by 100 %" : "10 times the mean");
    prose_format(o, "<svg viewBox=\"0 0 %d 12\" aria-hidden=\"true\">", PAGE_LEVEL_N * 6);
    for (int level = 0; level < PAGE_LEVEL_N; level++) {
        snprintf(class2, sizeof class2, "u%d", level % 100);
        page_box(o, "ink", class2, level * 6, 0, 6, 12, NULL);
    }
    prose_put(o, "</svg>");
    prose_put(o, m->use ? "0.1 % of tokens, or none" : "1/100 of it, or none");
    prose_put(o, "</span>\n");
}

void page_units(const prose *o, const figures *f, const float *const *use) {
    map m = {.f = f, .use = use};
    m.group_n = (f->p->layer_n + PAGE_ROW_MAX - 1) / PAGE_ROW_MAX;
    m.row_n = (f->p->layer_n + m.group_n - 1) / m.group_n;
    m.row_height = fmin((double)MAP_HEIGHT / m.row_n, ROW_HEIGHT_MAX);
    prose_put(o, "<figure>\n");
    page_svg(o, MAP_TOP + m.row_n * m.row_height + 24, "Units of each layer by use and place");
    prose_put(o, "<g class=\"crisp\">\n");
    for (uint32_t i = 0; i < m.row_n; i++) draw_row(o, &m, i);
    prose_put(o, "</g>\n");
    draw_axes(o, &m);
    prose_put(o, "</svg>\n<figcaption class=\"keys\">\n");
    draw_keys(o, &m);
    prose_put(o, "</figcaption>\n</figure>\n");
}
