/* page.h - a plan as a page: one HTML file that needs nothing else.
 *
 * The same facts and figures as the text (planner/explain.h), with pictures: memory, units by layer and use,
 * the timeline of a token. No script, no external resource; readable in light and dark; each piece that has
 * more to say says it when pointed at.
 */
#ifndef HOTSET_PAGE_H
#define HOTSET_PAGE_H

#include "profiles/plan.h"

/* The plan must be right (plan_data_check). `use`: [layer_n][unit_n] 0 to 1, how often each unit is used;
 * NULL, or NULL for a layer: not known, then a place's units are drawn alike. At most 2 MiB of text. */
void plan_page(const plan_data *p, const float *const *use, hotset_text_fn *write, void *cookie);

#endif
