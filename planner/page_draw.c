/* page_draw.c - what the pictures of a plan's page share, and its bars of memory. */
#include "planner/page_draw.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---- Shared by the pictures ---- */

void page_svg(const prose *o, double height, const char *label) {
    prose_format(o, "<svg viewBox=\"0 0 %d %s\" role=\"img\" aria-label=\"", PAGE_WIDTH,
                 prose_number(height, 1).s);
    prose_escaped(o, label);
    prose_put(o, "\">\n");
}

const char *page_class(uint32_t place) {
    static const char *const classes[] = {"d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7", "d8", "df"};
    return classes[place];
}

void page_box(const prose *o, const char *class, const char *class2, double x, double y, double width,
              double height, const char *title) {
    /* edges are rounded, not widths: what touches stays together */
    prose_text left = prose_number(x, 1), right = prose_number(x + width, 1);
    if (!strcmp(left.s, right.s)) return;
    prose_format(o, "<path class=\"%s%s%s\" d=\"M%s %sH%sV%sH%sz\"", class, *class2 ? " " : "", class2,
                 left.s, prose_number(y, 1).s, right.s, prose_number(y + height, 1).s, left.s);
    if (title) {
        prose_put(o, "><title>");
        prose_escaped(o, title);
        prose_put(o, "</title></path>\n");
    } else {
        prose_put(o, "/>\n");
    }
}

void page_label(const prose *o, const char *class, double x, double y, const char *text) {
    prose_format(o, "<text class=\"%s\" x=\"%s\" y=\"%s\">", class, prose_number(x, 1).s,
                 prose_number(y, 1).s);
    prose_escaped(o, text);
    prose_put(o, "</text>\n");
}

void page_key(const prose *o, const char *class, const char *class2, const char *text) {
    prose_format(o,
                 "<span><svg class=\"key\" viewBox=\"0 0 12 12\" aria-hidden=\"true\"><path class=\"%s%s%s\" "
                 "d=\"M0 0h12v12h-12z\"/></svg>",
                 class, *class2 ? " " : "", class2);
    prose_escaped(o, text);
    prose_put(o, "</span>\n");
}

/* ---- Memory ---- */

enum { BAR_LEFT = 175, BAR_WIDTH = 615, BAR_HEIGHT = 26, BAR_STEP = 46, LETTER_WIDTH = 7 };

typedef struct memory_part {
    const char *what, *class;
    uint64_t bytes;
} memory_part;

enum { MEMORY_PART_N = 7 };

static void memory_parts(const figures *f, uint32_t d, memory_part out[MEMORY_PART_N]) {
    const plan_ledger *l = &f->p->device[d].ledger;
    const memory_part parts[MEMORY_PART_N] = {
        {"attention, other dense weights", "m0", l->dense},
        {"embedding", "m1", l->embedding},
        {"head", "m2", l->head},
        {f->word, page_class(d), l->units},
        {"state", "m3", l->state},
        {"scratch", "m4", l->scratch},
        {"tables", "m5", l->tables},
    };
    memcpy(out, parts, sizeof parts);
}

static void memory_bar(const prose *o, const figures *f, uint32_t d, double y) {
    const plan_device *device = &f->p->device[d];
    const plan_ledger *l = &device->ledger;
    memory_part part[MEMORY_PART_N];
    char text[FIGURES_TEXT_BYTES];
    double all = (double)(device->limit_bytes + l->mapped), x = BAR_LEFT;
    memory_parts(f, d, part);
    page_label(o, "name", 0, y + 12, device->name);
    snprintf(text, 27, "%s", device->model);
    prose_trim(text);
    page_label(o, "small", 0, y + 26, text);
    page_box(o, "empty", "", BAR_LEFT, y, BAR_WIDTH, BAR_HEIGHT, NULL);
    for (int i = 0; i < MEMORY_PART_N && all > 0; i++) {
        double width = (double)part[i].bytes / all * BAR_WIDTH;
        snprintf(text, sizeof text, "%s: %s", part[i].what, prose_bytes(part[i].bytes).s);
        page_box(o, part[i].class, "", x, y, width, BAR_HEIGHT, text);
        if (width > LETTER_WIDTH * (double)strlen(part[i].what))
            page_label(o, "in", x + width / 2, y + 17, part[i].what);
        else if (width > LETTER_WIDTH * 9 && i == 0)
            page_label(o, "in", x + width / 2, y + 17, "attention");
        x += width;
    }
    snprintf(text, sizeof text, "pages of the model's file, not allocated: %s", prose_bytes(l->mapped).s);
    if (l->mapped)
        page_box(o, "pages", "", BAR_LEFT, y + BAR_HEIGHT, (double)l->mapped / all * BAR_WIDTH, 5, text);
    snprintf(text, sizeof text, "%s of %s", prose_bytes(l->total).s, prose_bytes(device->limit_bytes).s);
    page_label(o, "body", BAR_LEFT + BAR_WIDTH + 14, y + 12, text);
    uint64_t free_bytes = device->limit_bytes > l->total ? device->limit_bytes - l->total : 0;
    snprintf(text, sizeof text, "%s free", prose_bytes(free_bytes).s);
    page_label(o, "small", BAR_LEFT + BAR_WIDTH + 14, y + 26, text);
}

void page_memory(const prose *o, const figures *f) {
    memory_part part[PLAN_DEVICE_MAX][MEMORY_PART_N];
    bool mapped = false;
    prose_put(o, "<figure>\n");
    page_svg(o, f->shown_n * BAR_STEP - 8, "Memory of each device against its limit");
    for (uint32_t i = 0; i < f->shown_n; i++) {
        memory_bar(o, f, f->shown[i], 2 + i * BAR_STEP);
        memory_parts(f, f->shown[i], part[i]);
        mapped |= f->p->device[f->shown[i]].ledger.mapped > 0;
    }
    prose_put(o, "</svg>\n<figcaption class=\"keys\">\n");
    for (int k = 0; k < MEMORY_PART_N; k++)
        for (uint32_t i = 0; i < f->shown_n; i++) {
            if (!part[i][k].bytes) continue;
            bool units = part[i][k].what == f->word;
            char text[64];
            snprintf(text, sizeof text, "%s%s%s", part[i][k].what, units && f->shown_n > 1 ? " on " : "",
                     units && f->shown_n > 1 ? f->p->device[f->shown[i]].name : "");
            page_key(o, part[i][k].class, "", text);
            if (!units) break;
        }
    if (mapped) page_key(o, "pages", "", "pages of the model's file, not allocated");
    page_key(o, "empty", "", "free up to the limit");
    prose_put(o, "</figcaption>\n</figure>\n");
}
