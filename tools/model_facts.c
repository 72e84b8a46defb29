/* model_facts.c - looks into model files, activation profiles and kept plans. */
#include "tools/model_facts.h"

#include <dirent.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/hotset.h"

enum { PATH_BYTES = 4096 };

static void identity_add(identity_list *list, model_identity item) {
    model_identity *larger = realloc(list->items, (list->n + 1) * sizeof *larger);
    if (!larger) return; /* a mark is missing in a list for people */
    list->items = larger;
    list->items[list->n++] = item;
}

/* Calls `each` with the files of a folder that end with `ending`. */
static void folder_each(identity_list *list, const char *folder, const char *beginning, const char *ending,
                        void (*each)(identity_list *list, const char *path)) {
    DIR *dir = folder ? opendir(folder) : NULL;
    const struct dirent *entry;
    while (dir && (entry = readdir(dir))) {
        char path[PATH_BYTES];
        size_t bytes = strlen(entry->d_name), end = strlen(ending);
        if (bytes < end || strcmp(entry->d_name + bytes - end, ending) != 0) continue;
        if (strncmp(entry->d_name, beginning, strlen(beginning)) != 0) continue;
        if (snprintf(path, sizeof path, "%s/%s", folder, entry->d_name) < (int)sizeof path) each(list, path);
    }
    if (dir) closedir(dir);
}

static void profile_read(identity_list *list, const char *path) {
    hotset_profile *p;
    if (!hotset_profile_is(path) || hotset_profile_open(&p, NULL, path, NULL, NULL)) return;
    hotset_profile_facts facts = hotset_profile_get(p);
    identity_add(list, (model_identity){facts.shape, facts.weights});
    hotset_profile_free(p);
}

static uint64_t fingerprint(const json_t *object, const char *key) {
    const char *text = json_string_value(json_object_get(object, key));
    return text ? strtoull(text, NULL, 16) : 0;
}

static void plan_read(identity_list *list, const char *path) {
    json_t *plan = json_load_file(path, 0, NULL);
    const json_t *model = json_object_get(plan, "model");
    if (model)
        identity_add(list, (model_identity){fingerprint(model, "shape"), fingerprint(model, "weights")});
    json_decref(plan);
}

static bool identity_has(const identity_list *list, uint64_t shape, const uint64_t *weights) {
    for (size_t i = 0; i < list->n; i++)
        if (list->items[i].shape == shape && (!weights || list->items[i].weights == *weights)) return true;
    return false;
}

/* The profile that hotset profile makes beside a model by default. */
static bool has_profile_beside(const store_model *model, uint64_t shape) {
    char path[PATH_BYTES];
    identity_list list = {0};
    size_t bytes = strlen(model->path), ending = sizeof ".gguf" - 1;
    if (bytes <= ending || bytes >= sizeof path - 32) return false;
    snprintf(path, sizeof path, "%.*s.activation.gguf", (int)(bytes - ending), model->path);
    profile_read(&list, path);
    bool has = identity_has(&list, shape, NULL);
    free(list.items);
    return has;
}

static void text_append(void *cookie, const char *text, size_t text_bytes) {
    fwrite(text, 1, text_bytes, cookie);
}

/* The type that most of the bytes have. */
static void main_type(const json_t *types, char out[32]) {
    const char *name;
    json_t *type;
    json_int_t most = -1;
    json_object_foreach((json_t *)types, name, type) {
        json_int_t bytes = json_integer_value(json_object_get(type, "bytes"));
        if (bytes <= most) continue;
        most = bytes;
        snprintf(out, 32, "%s", name);
    }
}

/* What `hotset inspect --json` says, which also describes what cannot be run. */
static bool inspect(const store_model *model, model_facts *facts) {
    char *text = NULL;
    size_t bytes;
    hotset_inspect_options how = {.json = true};
    FILE *to = open_memstream(&text, &bytes);
    if (!to) return false;
    hotset_status status = hotset_inspect(model->path, &how, text_append, to, NULL);
    fclose(to);
    json_t *json = status ? NULL : json_loads(text, JSON_ALLOW_NUL, NULL);
    const char *architecture = json_string_value(json_object_get(json, "architecture"));
    if (architecture) snprintf(facts->architecture, sizeof facts->architecture, "%s", architecture);
    facts->parameter_n = (uint64_t)json_integer_value(json_object_get(json, "parameter_n"));
    main_type(json_object_get(json, "types"), facts->type);
    bool readable = json;
    json_decref(json);
    free(text);
    return readable;
}

void facts_open(facts_known *known, const char *profile_folder, const char *plan_folder) {
    folder_each(&known->profiles, profile_folder, "", ".gguf", profile_read);
    folder_each(&known->plans, plan_folder, "plan-", ".json", plan_read);
}

void facts_close(facts_known *known) {
    free(known->profiles.items);
    free(known->plans.items);
    *known = (facts_known){0};
}

model_facts facts_learn(const facts_known *known, const store_model *model) {
    model_facts facts = {.architecture = "-", .type = "-"};
    hotset_model *opened;
    hotset_profile *empty;
    if (!inspect(model, &facts) || hotset_model_open(&opened, model->path, NULL, NULL)) return facts;
    if (!hotset_profile_open(&empty, opened, NULL, NULL, NULL)) {
        hotset_profile_facts own = hotset_profile_get(empty);
        facts.profiled =
            identity_has(&known->profiles, own.shape, NULL) || has_profile_beside(model, own.shape);
        facts.planned = identity_has(&known->plans, own.shape, &own.weights);
        hotset_profile_free(empty);
    }
    hotset_model_free(opened);
    return facts;
}
