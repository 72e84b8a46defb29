/* manual.c - hotset(1), from the tables that --help is made from. */
#include "tools/manual.h"

#include <string.h>

#include "engine/hotset.h"
#include "tools/commands.h"
#include "tools/runtime.h"

/* Text as troff: a backslash, a hyphen, a quote or a dot at the beginning of a line would mean something. */
static void text_print(FILE *out, const char *text, size_t text_bytes) {
    for (size_t i = 0; i < text_bytes; i++) {
        bool begins = i == 0 || text[i - 1] == '\n';
        if (begins && (text[i] == '.' || text[i] == '\'')) fputs("\\&", out);
        if (text[i] == '\\')
            fputs("\\e", out);
        else if (text[i] == '-')
            fputs("\\-", out);
        else if (text[i] == '\'')
            fputs("\\(aq", out);
        else
            fputc(text[i], out);
    }
}

static void line_print(FILE *out, const char *text) {
    text_print(out, text, strlen(text));
    fputc('\n', out);
}

static void option_print(FILE *out, const option_row *row, const void *field) {
    fputs(".TP\n", out);
    if (row->letter) fprintf(out, "\\fB\\-%c\\fR, ", row->letter);
    fputs("\\fB\\-\\-", out);
    text_print(out, row->name, strlen(row->name));
    fputs("\\fR", out);
    if (row->value) {
        fputs(" \\fI", out);
        text_print(out, row->value, strlen(row->value));
        fputs("\\fR", out);
    }
    fputc('\n', out);
    text_print(out, row->help, strlen(row->help));
    option_default(row, field, out);
    fputc('\n', out);
}

static void command_print(void *cookie, const command_spec *spec, const void *values) {
    FILE *out = cookie;
    fprintf(out, ".SS hotset %s \\fI%s%s%s\\fR [\\fIoptions\\fR]\n", spec->name, spec->argument,
            spec->second ? " " : "", spec->second ? spec->second : "");
    line_print(out, spec->summary);
    if (spec->details) text_print(out, spec->details, strlen(spec->details));
    for (size_t t = 0; t < OPTION_TABLES_MAX; t++) {
        const option_table *table = &spec->tables[t];
        if (table->rows == common_rows) {
            fputs(".PP\nAnd the common options.\n", out);
            continue;
        }
        for (size_t i = 0; i < table->row_n; i++)
            option_print(out, &table->rows[i], (const char *)values + table->base + table->rows[i].offset);
    }
    if (!spec->examples) return;
    fputs(".PP\nExamples:\n.PP\n.nf\n", out);
    text_print(out, spec->examples, strlen(spec->examples));
    fputs(".fi\n", out);
}

static void common_print(FILE *out) {
    static const common_options none;
    fputs(".SH COMMON OPTIONS\n", out);
    for (size_t i = 0; i < COMMON_ROW_N; i++)
        option_print(out, &common_rows[i], (const char *)&none + common_rows[i].offset);
}

static void tail_print(FILE *out) {
    fputs(
        ".SH EXIT STATUS\n0: done. 1: error, told in one line on standard error. 2: wrong usage.\n"
        ".SH FILES\n"
        ".TP\n\\fI$XDG_DATA_HOME/hotset/models\\fR, \\fI~/.local/share/hotset/models\\fR\n"
        "models that can be called by their name; so can those in the stores of Hugging Face, Ollama and LM "
        "Studio\n"
        ".TP\n\\fI$XDG_DATA_HOME/hotset/profiles\\fR\nactivation profiles of models that were called by "
        "name\n"
        ".TP\n\\fI$XDG_CACHE_HOME/hotset\\fR, \\fI~/.cache/hotset\\fR\n"
        "what was measured of this machine, and plans made from it\n"
        ".TP\n\\fI$XDG_STATE_HOME/hotset/history\\fR, \\fI~/.local/state/hotset/history\\fR\n"
        "texts typed into hotset run\n"
        ".SH ENVIRONMENT\n"
        "XDG_DATA_HOME, XDG_CACHE_HOME, XDG_STATE_HOME, HF_HUB_CACHE, HF_HOME and OLLAMA_MODELS as above.\n"
        "NO_COLOR: no colours, also on a terminal.\n",
        out);
}

void manual_write(FILE *out) {
    fprintf(out,
            ".TH HOTSET 1 \"\" \"hotset %s\" \"User Commands\"\n"
            ".SH NAME\nhotset \\- run language models bigger than the GPU\\(aqs memory\n"
            ".SH SYNOPSIS\n\\fBhotset\\fR \\fICOMMAND\\fR \\fIMODEL\\fR [\\fIoptions\\fR]\n"
            ".SH DESCRIPTION\nRuns language models in GGUF files, with each part of the model where it runs "
            "best.\nMODEL is a file, or the name of one that \\fBhotset models\\fR lists.\n"
            "Results go to standard output, all else to standard error.\n.SH COMMANDS\n",
            hotset_version());
    command_visit(command_print, out);
    for (size_t i = 0; i < COMMAND_N; i++) commands[i].run(0, NULL);
    command_visit(NULL, NULL);
    common_print(out);
    tail_print(out);
}
