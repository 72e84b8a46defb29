/* page_draw.h - the pictures of a plan's page: each a <figure> of inline SVG with its legend.
 *
 * Classes of the page's style: d0 .. d8 and df fill with the colour of a device or of the file; u0 .. u19 are
 * levels of use; others are named where they are used.
 */
#ifndef HOTSET_PAGE_DRAW_H
#define HOTSET_PAGE_DRAW_H

#include "planner/figures.h"

enum { PAGE_WIDTH = 960, PAGE_LEVEL_N = 20, PAGE_ROW_MAX = 128 };

/* ---- Shared by the pictures ---- */

void page_svg(const prose *o, double height, const char *label);
/* Class "d0" .. "d8" or "df" (FIGURES_FILE). */
const char *page_class(uint32_t place);
/* A rectangle as a path; nothing where it is too thin to be seen. `title` may be NULL. */
void page_box(const prose *o, const char *class, const char *class2, double x, double y, double width,
              double height, const char *title);
void page_label(const prose *o, const char *class, double x, double y, const char *text);
/* A piece of legend in HTML: a swatch and a text. */
void page_key(const prose *o, const char *class, const char *class2, const char *text);

/* ---- Pictures ---- */

void page_memory(const prose *o, const figures *f);
void page_units(const prose *o, const figures *f, const float *const *use);
void page_timeline(const prose *o, const figures *f);

#endif
