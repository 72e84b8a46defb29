/* model_facts.h - what can be told of a model file without running it, and what Hotset has made for it. */
#ifndef HOTSET_TOOLS_MODEL_FACTS_H
#define HOTSET_TOOLS_MODEL_FACTS_H

#include "tools/store.h"

typedef struct model_facts {
    char architecture[32], type[32]; /* "-": unknown; the type that most of the bytes have */
    uint64_t parameter_n;
    bool profiled, planned; /* there is an activation profile; a kept plan */
} model_facts;

typedef struct model_identity {
    uint64_t shape, weights; /* fingerprints */
} model_identity;
typedef struct identity_list {
    model_identity *items;
    size_t n;
} identity_list;
/* Of which models there are profiles and kept plans. */
typedef struct facts_known {
    identity_list profiles, plans;
} facts_known;

/* Reads the profiles and the plans of two folders; NULL: none. */
void facts_open(facts_known *known, const char *profile_folder, const char *plan_folder);
void facts_close(facts_known *known);
model_facts facts_learn(const facts_known *known, const store_model *model);

#endif
