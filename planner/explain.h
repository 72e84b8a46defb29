/* explain.h - a plan as text that people understand.
 *
 * What is where, how fast that will be, where the time goes, what would help. Made from the plan alone, so a
 * plan that was shared explains itself. Lines of up to 110 characters for up to three devices, as long as the
 * texts inside are ASCII and short.
 */
#ifndef HOTSET_EXPLAIN_H
#define HOTSET_EXPLAIN_H

#include "profiles/plan.h"

/* The plan must be right (plan_data_check). */
void plan_explain(const plan_data *p, hotset_text_fn *write, void *cookie);

#endif
