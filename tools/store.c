/* store.c - looks through the folders where models are kept.
 *
 * Hugging Face: HUB/models--OWNER--NAME/snapshots/REVISION/..., with refs/main naming the current revision.
 * Ollama: manifests/HOST/NAMESPACE/MODEL/TAG, JSON whose layers name files in blobs/. LM Studio, and our own:
 * files in folders.
 */
#include "tools/store.h"

#include <dirent.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

enum { DEPTH_MAX = 6, PART_SUFFIX_BYTES = sizeof "-00001-of-00002" - 1, REVISION_BYTES_MAX = 128 };
#define GGUF ".gguf"

static const char *const store_names[] = {"hotset", "huggingface", "ollama", "lmstudio"};
typedef enum store_kind { OWN, HUGGING_FACE, OLLAMA, LM_STUDIO } store_kind;

/* ---- Paths ---- */

static char *text_make(const char *format, ...) __attribute__((format(printf, 1, 2)));
static char *text_make(const char *format, ...) {
    char *text;
    va_list args;
    va_start(args, format);
    int n = vasprintf(&text, format, args);
    va_end(args);
    return n < 0 ? NULL : text;
}

static const char *folder_named_by(const char *variable) {
    const char *folder = getenv(variable);
    return folder && folder[0] == '/' ? folder : NULL;
}

/* BELOW in the folder that a variable names, or at OTHERWISE in the home folder. */
static char *folder_make(const char *variable, const char *below, const char *otherwise) {
    const char *named = variable ? folder_named_by(variable) : NULL, *home = folder_named_by("HOME");
    if (named) return text_make("%s%s", named, below);
    return home ? text_make("%s/%s", home, otherwise) : NULL;
}

char *store_data_folder(const char *below) {
    char *folder = folder_make("XDG_DATA_HOME", "", ".local/share");
    char *path = folder ? text_make("%s/hotset/%s", folder, below) : NULL;
    free(folder);
    return path;
}

char *store_profile_path(const char *name) {
    char *folder = store_data_folder("profiles"), *path = NULL, *plain = strdup(name);
    for (char *c = plain; c && *c; c++)
        if (*c == '/' || *c == ':') *c = '-';
    for (char *slash = folder; slash && (slash = strchr(slash + 1, '/'));) {
        *slash = 0;
        mkdir(folder, 0777); /* where that fails, writing will say why */
        *slash = '/';
    }
    if (folder) mkdir(folder, 0777);
    if (folder && plain) path = text_make("%s/%s.activation.gguf", folder, plain);
    free(folder);
    free(plain);
    return path;
}

static char *hugging_face_folder(void) {
    if (folder_named_by("HF_HUB_CACHE")) return folder_make("HF_HUB_CACHE", "", "");
    if (folder_named_by("HF_HOME")) return folder_make("HF_HOME", "/hub", "");
    return folder_make("XDG_CACHE_HOME", "/huggingface/hub", ".cache/huggingface/hub");
}

typedef struct store_place {
    char *folder; /* NULL: nowhere */
    store_kind kind;
} store_place;

/* All of them: [STORE_FOLDER_MAX]. */
static size_t places_make(store_place *places) {
    size_t n = 0;
    places[n++] = (store_place){store_data_folder("models"), OWN};
    places[n++] = (store_place){hugging_face_folder(), HUGGING_FACE};
    places[n++] = (store_place){folder_make("OLLAMA_MODELS", "", ".ollama/models"), OLLAMA};
    if (!folder_named_by("OLLAMA_MODELS")) /* of the system's service */
        places[n++] = (store_place){text_make("/usr/share/ollama/.ollama/models"), OLLAMA};
    places[n++] = (store_place){folder_make(NULL, "", ".lmstudio/models"), LM_STUDIO};
    places[n++] = (store_place){folder_make(NULL, "", ".cache/lm-studio/models"), LM_STUDIO};
    return n;
}

size_t store_folders(char *folders[STORE_FOLDER_MAX]) {
    store_place places[STORE_FOLDER_MAX];
    size_t place_n = places_make(places), n = 0;
    for (size_t i = 0; i < place_n; i++)
        if (places[i].folder) folders[n++] = places[i].folder;
    return n;
}

/* ---- What is found ---- */

/* Takes `name` and `path`. */
static void add(store_list *list, store_kind kind, char *name, char *path, uint64_t bytes) {
    if (list->n == list->max) {
        size_t more = list->max ? 2 * list->max : 32;
        store_model *larger = realloc(list->models, more * sizeof *larger);
        if (larger) {
            list->models = larger;
            list->max = more;
        }
    }
    if (!name || !path || list->n == list->max) {
        list->failed = true;
        free(name);
        free(path);
        return;
    }
    list->models[list->n++] = (store_model){name, path, store_names[kind], bytes};
}

void store_free(store_list *list) {
    for (size_t i = 0; i < list->n; i++) {
        free(list->models[i].name);
        free(list->models[i].path);
    }
    free(list->models);
    *list = (store_list){0};
}

static bool ends_with_gguf(const char *name, size_t *stem_bytes) {
    size_t bytes = strlen(name), suffix = sizeof GGUF - 1;
    if (bytes <= suffix || strcasecmp(name + bytes - suffix, GGUF) != 0) return false;
    *stem_bytes = bytes - suffix;
    return true;
}

/* Of "...-00002-of-00003": 2, and *part_n 3; 0 for a file that is whole. */
static unsigned part_of(const char *name, size_t stem_bytes, unsigned *part_n) {
    unsigned part;
    int end = 0;
    *part_n = 1;
    if (stem_bytes <= PART_SUFFIX_BYTES) return 0;
    const char *suffix = name + stem_bytes - PART_SUFFIX_BYTES;
    if (sscanf(suffix, "-%5u-of-%5u%n", &part, part_n, &end) == 2 && end == PART_SUFFIX_BYTES) return part;
    *part_n = 1;
    return 0;
}

/* Of a split file all parts are one model, which goes by the first. */
static void add_file(store_list *list, store_kind kind, const char *name, const char *path, uint64_t bytes) {
    size_t stem_bytes, path_stem_bytes;
    unsigned part_n, part;
    if (!ends_with_gguf(name, &stem_bytes) || !ends_with_gguf(path, &path_stem_bytes)) return;
    part = part_of(name, stem_bytes, &part_n);
    if (part > 1) return;
    if (part == 1) stem_bytes -= PART_SUFFIX_BYTES;
    for (unsigned i = 2; part == 1 && i <= part_n; i++) {
        struct stat info;
        char *other =
            text_make("%.*s-%05u-of-%05u" GGUF, (int)(path_stem_bytes - PART_SUFFIX_BYTES), path, i, part_n);
        if (other && !stat(other, &info)) bytes += (uint64_t)info.st_size;
        free(other);
    }
    add(list, kind, strndup(name, stem_bytes), strdup(path), bytes);
}

/* ---- Folders ---- */

typedef void file_fn(store_list *list, store_kind kind, const char *top, const char *name, const char *path,
                     uint64_t bytes);

/* Calls `each` with every file below `folder`; names begin with `name`, in order of the folder. Links are
 * followed, hidden files are not looked at. */
static void walk(store_list *list, store_kind kind, const char *top, const char *folder, const char *name,
                 int depth, file_fn *each) {
    DIR *dir = opendir(folder);
    const struct dirent *entry;
    while (dir && (entry = readdir(dir))) {
        struct stat info;
        if (entry->d_name[0] == '.') continue;
        char *path = text_make("%s/%s", folder, entry->d_name);
        char *longer = text_make("%s%s%s", name, *name ? "/" : "", entry->d_name);
        if (!path || !longer)
            list->failed = true;
        else if (!stat(path, &info) && S_ISREG(info.st_mode))
            each(list, kind, top, longer, path, (uint64_t)info.st_size);
        else if (!stat(path, &info) && S_ISDIR(info.st_mode) && depth < DEPTH_MAX)
            walk(list, kind, top, path, longer, depth + 1, each);
        free(path);
        free(longer);
    }
    if (dir) closedir(dir);
}

static void each_file(store_list *list, store_kind kind, const char *top, const char *name, const char *path,
                      uint64_t bytes) {
    (void)top;
    add_file(list, kind, name, path, bytes);
}

/* The revision that refs/main names; false where it does not. */
static bool main_revision(const char *repository, char revision[REVISION_BYTES_MAX]) {
    char *path = text_make("%s/refs/main", repository);
    FILE *in = path ? fopen(path, "r") : NULL;
    bool found = in && fgets(revision, REVISION_BYTES_MAX, in);
    if (in) fclose(in);
    free(path);
    if (found) revision[strcspn(revision, "\r\n")] = 0;
    return found && *revision && !strchr(revision, '/') && *revision != '.';
}

static void read_repository(store_list *list, const char *hub, const char *entry) {
    static const char head[] = "models--";
    char revision[REVISION_BYTES_MAX];
    if (strncmp(entry, head, sizeof head - 1) != 0) return;
    char *path = text_make("%s/%s", hub, entry), *name = strdup(entry + sizeof head - 1), *snapshot = NULL;
    char *dashes = name ? strstr(name, "--") : NULL;
    if (dashes) { /* OWNER--NAME */
        *dashes = '/';
        memmove(dashes + 1, dashes + 2, strlen(dashes + 2) + 1);
    }
    if (path && name && main_revision(path, revision)) {
        snapshot = text_make("%s/snapshots/%s", path, revision);
        if (snapshot) walk(list, HUGGING_FACE, hub, snapshot, name, 1, each_file);
    }
    list->failed |= !path || !name;
    free(path);
    free(name);
    free(snapshot);
}

static void read_hub(store_list *list, const char *hub) {
    DIR *dir = opendir(hub);
    const struct dirent *entry;
    while (dir && (entry = readdir(dir))) read_repository(list, hub, entry->d_name);
    if (dir) closedir(dir);
}

/* HOST/NAMESPACE/MODEL/TAG to MODEL:TAG, as Ollama's own command does; with the namespace where it is not the
 * usual one. NULL when it is not of this form. */
static char *ollama_name(const char *manifest) {
    const char *part[4];
    size_t n = 0;
    for (const char *at = manifest; at; at = strchr(at, '/')) {
        if (*at == '/') at++;
        if (n == 4) return NULL;
        part[n++] = at;
    }
    if (n != 4) return NULL;
    bool usual = !strncmp(part[1], "library/", sizeof "library/" - 1);
    const char *begin = usual ? part[2] : part[1];
    return text_make("%.*s:%s", (int)(part[3] - 1 - begin), begin, part[3]);
}

/* The blob that holds the model; NULL when there is none. */
static char *ollama_blob(const char *top, const json_t *manifest) {
    size_t i;
    json_t *layer, *layers = json_object_get(manifest, "layers");
    json_array_foreach(layers, i, layer) {
        const char *type = json_string_value(json_object_get(layer, "mediaType"));
        const char *digest = json_string_value(json_object_get(layer, "digest"));
        if (!type || !digest || strcmp(type, "application/vnd.ollama.image.model") != 0) continue;
        const char *colon = strchr(digest, ':');
        if (!colon || strchr(digest, '/')) continue;
        return text_make("%s/blobs/%.*s-%s", top, (int)(colon - digest), digest, colon + 1);
    }
    return NULL;
}

static void each_manifest(store_list *list, store_kind kind, const char *top, const char *name,
                          const char *path, uint64_t bytes) {
    enum { MANIFEST_BYTES_MAX = 1 << 20 };
    struct stat info;
    if (bytes > MANIFEST_BYTES_MAX) return;
    json_t *manifest = json_load_file(path, 0, NULL);
    char *blob = ollama_blob(top, manifest), *called = ollama_name(name);
    json_decref(manifest);
    if (blob && called && !stat(blob, &info) && S_ISREG(info.st_mode)) {
        add(list, kind, called, blob, (uint64_t)info.st_size);
        return;
    }
    free(blob);
    free(called);
}

static int compare_models(const void *a, const void *b) {
    return strcmp(((const store_model *)a)->name, ((const store_model *)b)->name);
}

static void read_place(store_list *list, const store_place *place) {
    char *manifests;
    size_t before = list->n;
    switch (place->kind) {
    case OWN:
    case LM_STUDIO: walk(list, place->kind, place->folder, place->folder, "", 1, each_file); break;
    case HUGGING_FACE: read_hub(list, place->folder); break;
    case OLLAMA:
        manifests = text_make("%s/manifests", place->folder);
        if (manifests) walk(list, OLLAMA, place->folder, manifests, "", 1, each_manifest);
        free(manifests);
        break;
    }
    if (list->n > before)
        qsort(list->models + before, list->n - before, sizeof *list->models, compare_models);
}

void store_read(store_list *list) {
    store_place places[STORE_FOLDER_MAX];
    *list = (store_list){0};
    size_t n = places_make(places);
    for (size_t i = 0; i < n; i++) {
        if (places[i].folder) read_place(list, &places[i]);
        free(places[i].folder);
    }
}

/* ---- By name ---- */

typedef enum match_sense { WHOLE, LATEST, END, BEGINNING, SENSE_N } match_sense;

/* `name` has name_bytes bytes. */
static bool matches(const char *model, const char *name, size_t name_bytes, match_sense sense) {
    size_t bytes = strlen(model);
    bool begins = bytes > name_bytes && !strncasecmp(model, name, name_bytes);
    switch (sense) {
    case WHOLE: return bytes == name_bytes && !strncmp(model, name, name_bytes);
    case LATEST: return begins && !strcmp(model + name_bytes, ":latest");
    case END:
        return bytes == name_bytes ? !strncasecmp(model, name, bytes)
                                   : bytes > name_bytes && model[bytes - name_bytes - 1] == '/' &&
                                         !strncasecmp(model + bytes - name_bytes, name, name_bytes);
    case BEGINNING: return begins && strchr("/:", model[name_bytes]);
    case SENSE_N: break;
    }
    return false;
}

size_t store_match(const store_list *list, const char *name, const store_model **first) {
    size_t name_bytes = strlen(name), stem_bytes, n = 0;
    if (ends_with_gguf(name, &stem_bytes)) name_bytes = stem_bytes;
    *first = NULL;
    for (int sense = WHOLE; sense < SENSE_N && !n; sense++)
        for (size_t i = 0; i < list->n; i++) {
            if (!matches(list->models[i].name, name, name_bytes, (match_sense)sense)) continue;
            if (*first && !strcmp((*first)->name, list->models[i].name)) continue;
            if (!*first) *first = &list->models[i];
            n++;
        }
    return n;
}
