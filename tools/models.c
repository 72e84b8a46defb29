/* models.c - `hotset models`: which models are on this disk, and what is known of each. */
#include <stdlib.h>
#include <string.h>

#include "tools/commands.h"
#include "tools/model_facts.h"
#include "tools/output.h"
#include "tools/runtime.h"
#include "tools/store.h"

typedef struct models_options {
    const char *name;
    bool json, names, quiet;
} models_options;

#define FIELD(name) .offset = offsetof(models_options, name)
static const option_row rows[] = {
    {"names", 0, OPTION_FLAG, FIELD(names), 0, 0, NULL, "only the names, one a line; opens no file"},
    {"json", 0, OPTION_FLAG, FIELD(json), 0, 0, NULL, "one JSON object per line and model"},
    {"quiet", 'q', OPTION_FLAG, FIELD(quiet), 0, 0, NULL, "only errors on standard error"},
};

static const command_spec spec = {
    .name = "models",
    .argument = "[NAME]",
    .argument_optional = true,
    .argument_offset = offsetof(models_options, name),
    .summary = "Lists the models that are on this disk, by the names that every command takes for them.",
    .details =
        "With NAME only those whose name contains it. Looked through are $XDG_DATA_HOME/hotset/models "
        "(usually\n"
        "~/.local/share/hotset/models), and the stores of Hugging Face ($HF_HUB_CACHE, $HF_HOME), Ollama\n"
        "($OLLAMA_MODELS) and LM Studio. PROFILE: an activation profile of the model stands beside it or in\n"
        "$XDG_DATA_HOME/hotset/profiles. PLAN: hotset run has kept a plan for it.\n"
        "A shorter name does where it is the only one: the end behind a slash, or the beginning before a\n"
        "slash or colon.\n",
    .examples = "  hotset models\n"
                "  hotset models qwen3 --json | jq -r .path\n"
                "  hotset run \"$(hotset models --names | head -n 1)\" -p 'Once upon a time'\n",
    .tables = {{"Options", rows, sizeof rows / sizeof rows[0], 0}},
};

/* ---- Lists ---- */

static void model_json(const store_model *model, const model_facts *facts) {
    json_object json;
    json_begin(&json, stdout);
    json_text(&json, "name", model->name, strlen(model->name));
    json_text(&json, "path", model->path, strlen(model->path));
    json_text(&json, "store", model->store, strlen(model->store));
    json_count(&json, "bytes", model->bytes);
    json_text(&json, "type", facts->type, strlen(facts->type));
    json_text(&json, "architecture", facts->architecture, strlen(facts->architecture));
    json_count(&json, "parameter_n", facts->parameter_n);
    json_flag(&json, "profile", facts->profiled);
    json_flag(&json, "plan", facts->planned);
    json_end(&json);
}

/* Control characters in names of files belong to nobody's terminal. */
static void name_print(const char *name, int width) {
    int n = 0;
    for (; *name; name++, n++) putchar((unsigned char)*name < ' ' || *name == 127 ? '?' : *name);
    printf("%*s", n < width ? width - n : 0, "");
}

static void model_row(const store_model *model, const model_facts *facts, int width) {
    double gb = (double)model->bytes * 1e-9;
    name_print(model->name, width);
    printf("  %8.*f %s  %-8s  %-14s  %-7s  %-4s  %s\n",
           gb < 1    ? 0
           : gb < 10 ? 2
                     : 1,
           gb < 1 ? gb * 1e3 : gb, gb < 1 ? "MB" : "GB", facts->type, facts->architecture,
           facts->profiled ? "yes" : "-", facts->planned ? "yes" : "-", model->store);
}

static bool is_wanted(const models_options *o, const store_model *model) {
    if (o->name && !strcasestr(model->name, o->name)) return false;
    return o->names || !hotset_profile_is(model->path);
}

static void nothing_found(const models_options *o) {
    char *folders[STORE_FOLDER_MAX], line[1024] = "";
    size_t n = store_folders(folders), used = 0;
    for (size_t i = 0; i < n; i++) {
        if (used < sizeof line)
            used += (size_t)snprintf(line + used, sizeof line - used, "%s%s", i ? ", " : "", folders[i]);
        free(folders[i]);
    }
    if (o->quiet) return;
    if (o->name)
        say(spec.name, "no model whose name contains %s", o->name);
    else
        say(spec.name, "no models in %s", line);
}

static void list_print(const models_options *o, const store_list *list) {
    facts_known known = {0};
    char cache[RUNTIME_PATH_BYTES], *profiles = store_data_folder("profiles");
    int width = 4;
    size_t shown_n = 0;
    if (!o->names) facts_open(&known, profiles, runtime_cache_folder(cache) ? cache : NULL);
    for (size_t i = 0; i < list->n; i++) {
        int bytes = (int)strlen(list->models[i].name);
        if (is_wanted(o, &list->models[i]) && bytes > width) width = bytes;
    }
    for (size_t i = 0; i < list->n && !interrupt_seen(); i++) {
        const store_model *model = &list->models[i];
        if (!is_wanted(o, model)) continue;
        if (!shown_n++ && !o->names && !o->json)
            printf("%-*s  %8s     %-8s  %-14s  %-7s  %-4s  %s\n", width, "NAME", "SIZE", "TYPE",
                   "ARCHITECTURE", "PROFILE", "PLAN", "STORE");
        if (o->names) {
            name_print(model->name, 0);
            putchar('\n');
            continue;
        }
        model_facts facts = facts_learn(&known, model);
        if (o->json)
            model_json(model, &facts);
        else
            model_row(model, &facts, width);
    }
    if (!shown_n) nothing_found(o);
    facts_close(&known);
    free(profiles);
}

int command_models(int argc, char **argv) {
    models_options o = {0};
    int status = command_begin(&spec, argc, argv, &o);
    if (status >= 0) return status;
    store_list list;
    store_read(&list);
    if (list.failed) say(spec.name, "out of memory for the list of models: some are missing");
    list_print(&o, &list);
    status = list.failed;
    store_free(&list);
    return status;
}
