/* profile_report.h - an activation profile described for people and scripts, and one compared with another.
 */
#ifndef HOTSET_TOOLS_PROFILE_REPORT_H
#define HOTSET_TOOLS_PROFILE_REPORT_H

#include <stdio.h>

#include "engine/hotset.h"

/* The uses of each unit of a layer, most used first: [unit_n], free() it. NULL: out of memory. */
int64_t *profile_sorted(const hotset_profile_layer *layer);
/* How many of `sorted` [n] it takes to carry this share of their sum. */
uint32_t profile_carriers(const int64_t *sorted, uint32_t n, double share);
/* "a.txt, b.txt and 2 more", cut to fit. */
void profile_corpora(const hotset_profile *p, char *out, size_t out_bytes);

/* Text: a table with one line per layer. JSON: one object of the whole, then one per layer. False: out of
 * memory (an error line has been printed). */
bool profile_report(FILE *out, const char *command, const char *path, const hotset_profile *p, bool json);
/* What share of b's activations the units carry that are most used in a: beside the best choice in hindsight,
 * from b's own counts, and the uniform one. False after an error line: profiles of different shapes. */
bool profile_against(FILE *out, const char *command, const char *a_path, const hotset_profile *a,
                     const char *b_path, const hotset_profile *b, bool json);

#endif
