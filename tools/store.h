/* store.h - models that are on this disk already: in Hotset's own folder, and where Hugging Face's tools,
 * Ollama and LM Studio keep theirs. Nothing in those stores is ever written to. */
#ifndef HOTSET_TOOLS_STORE_H
#define HOTSET_TOOLS_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct store_model {
    char *name; /* by which it can be asked for */
    char *path;
    const char *store; /* hotset, huggingface, ollama or lmstudio */
    uint64_t bytes;    /* of all parts */
} store_model;

typedef struct store_list {
    store_model *models; /* Hotset's first, then as above; each store's by name */
    size_t n, max;
    bool failed; /* out of memory: some are missing */
} store_list;

enum { STORE_FOLDER_MAX = 8 };
/* The folders that are looked through, whether they are there or not; free() each. Returns how many. */
size_t store_folders(char *folders[STORE_FOLDER_MAX]);
/* Looks through all stores. */
void store_read(store_list *list);
void store_free(store_list *list);

/* The models that are called `name`, best sense first: the whole name; an Ollama name without its ":latest";
 * the end of a name behind a slash; its beginning before a slash or colon. ".gguf" may be left out or not.
 * Returns how many there are in that sense; *first is the first of them, NULL when there are none. The same
 * name in two stores counts once. */
size_t store_match(const store_list *list, const char *name, const store_model **first);

/* $XDG_DATA_HOME/hotset/BELOW or ~/.local/share/hotset/BELOW; free() it. NULL where there is neither. */
char *store_data_folder(const char *below);
/* Where the activation profile of a model that was found by name belongs: beside it nothing may be written.
 * The folder is made if need be. free() it; NULL as above. */
char *store_profile_path(const char *name);

#endif
