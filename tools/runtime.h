/* runtime.h - what the commands that evaluate a model share: the common options, opening model, plan, engine
 * and session by them, and Ctrl-C. */
#ifndef HOTSET_TOOLS_RUNTIME_H
#define HOTSET_TOOLS_RUNTIME_H

#include "engine/hotset.h"
#include "tools/options.h"
#include "tools/output.h"

typedef struct common_options {
    uint64_t thread_n, context_n, batch_n; /* 0: the library's default */
    uint64_t ram_bytes;
    int isa;        /* words of the option table, in order */
    int memory;     /* hotset_memory_mode */
    int state_type; /* hotset_state_type */
    int sparsity;   /* hotset_sparsity */
    bool mapped;    /* --mmap */
    const char *activation, *pre, *trace_path, *plan, *devices, *place;
    bool json, quiet, verbose;
} common_options;

enum { COMMON_ROW_N = 18 };
extern const option_row common_rows[COMMON_ROW_N];
#define COMMON_TABLE(offset)                                                                                 \
    { .title = "Common options", .rows = common_rows, .row_n = COMMON_ROW_N, .base = (offset) }

/* Reads a command's arguments into *values. Returns -1 to go on, otherwise the exit status to end with: 0
 * after printing the help, 2 after the line that says what is wrong. A model (an argument that is called
 * MODEL, IN or FILE) that is no file is looked for by name in the stores; 1 when several are called so. */
int command_begin(const command_spec *spec, int argc, char **argv, void *values);
/* What the model was called that has been found by name; NULL: it was given by its path. */
const char *command_model_name(void);
/* Instead of running, commands that begin hand over what they accept and the defaults; NULL: they run again.
 */
typedef void command_visit_fn(void *cookie, const command_spec *spec, const void *values);
void command_visit(command_visit_fn *visit, void *cookie);

/* Zero-initialise. All functions below that return bool or a pointer have printed an error line when they
 * fail. */
typedef struct runtime {
    const char *command, *path;
    const common_options *options;
    hotset_model *model;
    const hotset_shape *shape;         /* borrowed from the model */
    const hotset_tokenizer *tokenizer; /* borrowed from the model; NULL unless asked for */
    hotset_plan *plan;
    hotset_engine *engine;
    hotset_session *session;
    /* To be set before the session is opened: */
    bool record;                   /* the plan's `record` */
    bool timed;                    /* the engine takes times of operations */
    bool plans;                    /* find or make a plan for this machine where none is named */
    const hotset_profile *profile; /* for that; borrowed, NULL: none */
    hotset_state_type state_type;  /* what --kv-type is where nobody names it */
    progress waiting;              /* `what` is being waited for; NULL: nothing that takes long */
} runtime;

bool runtime_open_model(runtime *rt, const char *command, const char *path, const common_options *options,
                        bool with_tokenizer);
/* How often each unit is used, for a plan: the profile at `path`, which the caller frees; NULL: none. */
bool runtime_open_profile(runtime *rt, const char *path, hotset_profile **profile);
/* What the common options ask of a plan for one session of `context_n` tokens; 0: the library's default. */
hotset_plan_options runtime_plan_options(const common_options *o, uint64_t context_n);
/* The folder where plans are kept, by the XDG conventions. False, without a word, where there is none. */
enum { RUNTIME_PATH_BYTES = 4096 };
bool runtime_cache_folder(char folder[RUNTIME_PATH_BYTES]);
/* Plan, engine and one session for `context_n` tokens; 0: the library's default, or the named plan's. */
bool runtime_open_session(runtime *rt, uint64_t context_n);
/* Whether --plan names a plan's file. */
bool runtime_reads_plan(const common_options *o);
/* False after an error line: a trace could not be written. */
bool runtime_close(runtime *rt);
/* Tells on a terminal what is being waited for, until NULL. */
void runtime_wait(runtime *rt, const char *what);
/* The session's last failure. */
void runtime_fail(const runtime *rt);

/* The tokens of a text; free() them. */
int32_t *tokenize_text(const char *command, const hotset_tokenizer *tokenizer, const char *text,
                       size_t text_bytes, unsigned flags, size_t *token_n);

/* From now on the first Ctrl-C (or SIGTERM, SIGHUP) only sets a flag, which stops the engine between two
 * steps; the second one ends the program. Calling it again clears the flag. */
void interrupt_catch(void);
/* Ctrl-C ends the program again. */
void interrupt_release(void);
bool interrupt_seen(void);
/* From now on a mapped file that is cut or cannot be read any more, in the middle of a step, ends the program
 * with an error line that names the model, and status 1. */
void lost_file_catch(void);

#endif
