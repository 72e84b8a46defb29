/* completion.c - `hotset completion`: scripts for shells, written from the tables of options. */
#include <string.h>

#include "tools/commands.h"
#include "tools/manual.h"
#include "tools/output.h"
#include "tools/runtime.h"

typedef struct completion_options {
    const char *shell;
} completion_options;

static const command_spec spec = {
    .name = "completion",
    .argument = "SHELL",
    .argument_offset = offsetof(completion_options, shell),
    .summary =
        "Writes the script that completes commands, options, their values and names of models in a shell:\n"
        "bash, zsh or fish; or, for man, the manual page.",
    .examples = "  hotset completion bash >~/.local/share/bash-completion/completions/hotset\n"
                "  hotset completion zsh >~/.zfunc/_hotset\n"
                "  hotset completion fish >~/.config/fish/completions/hotset.fish\n"
                "  hotset completion man | man -l -\n",
};

/* ---- What can stand behind an option ---- */

/* The words of a value "FILE|auto|new": those that are not in capitals. Calls `each` with every one. */
static void value_words(const option_row *row, void (*each)(const char *word, size_t bytes)) {
    bool choice = row->type == OPTION_CHOICE || (row->type == OPTION_TEXT && strchr(row->value, '|'));
    for (const char *word = choice ? row->value : NULL; word;) {
        size_t bytes = strcspn(word, "|");
        if (row->type == OPTION_CHOICE || (*word >= 'a' && *word <= 'z')) each(word, bytes);
        word = word[bytes] ? word + bytes + 1 : NULL;
    }
}

static bool has_words(const option_row *row) {
    return row->type == OPTION_CHOICE || (row->type == OPTION_TEXT && strchr(row->value, '|'));
}

static bool is_file(const option_row *row) {
    if (row->type == OPTION_FILES) return true;
    return row->type == OPTION_TEXT && (strstr(row->value, "FILE") || strchr(row->value, '.'));
}

static bool takes_model(const command_spec *command) {
    return strstr(command->argument, "MODEL") || !strcmp(command->argument, "IN") ||
           !strcmp(command->argument, "FILE");
}

static void word_print(const char *word, size_t bytes) { printf("%.*s ", (int)bytes, word); }

/* Calls `each` with every option of a command. */
static void each_row(const command_spec *command,
                     void (*each)(const command_spec *command, const option_row *row)) {
    for (size_t t = 0; t < OPTION_TABLES_MAX; t++)
        for (size_t i = 0; i < command->tables[t].row_n; i++) each(command, &command->tables[t].rows[i]);
}

static void each_command(command_visit_fn *visit) {
    command_visit(visit, NULL);
    for (size_t i = 0; i < COMMAND_N; i++) commands[i].run(0, NULL);
    command_visit(NULL, NULL);
}

/* The first line of a help text, without what shells would take for their own. */
static void help_print(const char *help) {
    for (; *help && *help != '\n'; help++)
        if (!strchr("'[]:\\\"`$", *help)) putchar(*help);
}

/* ---- bash ---- */

static void bash_name(const command_spec *command, const option_row *row) {
    (void)command;
    printf("--%s ", row->name);
    if (row->letter) printf("-%c ", row->letter);
}

static void bash_value(const command_spec *command, const option_row *row) {
    (void)command;
    if (row->type == OPTION_FLAG) return;
    printf("        --%s", row->name);
    if (row->letter) printf(" | -%c", row->letter);
    printf(") words=\"");
    value_words(row, word_print);
    printf("\" files=%d free=1 ;;\n", is_file(row));
}

static void bash_command(void *cookie, const command_spec *command, const void *values) {
    (void)cookie;
    (void)values;
    printf("    %s)\n        options=\"", command->name);
    each_row(command, bash_name);
    printf("--help\" models=%d\n        case $before in\n", takes_model(command));
    each_row(command, bash_value);
    printf("        esac\n");
    if (!strcmp(command->name, spec.name)) printf("        words=\"bash zsh fish man\"\n");
    printf("        ;;\n");
}

static void bash_write(void) {
    printf("# bash completion for hotset, written by `hotset completion bash`\n_hotset() {\n"
           "    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}\n"
           "    local options=\"\" words=\"\" files=1 free=0 models=0 line\n"
           "    COMPREPLY=()\n    if [ \"$COMP_CWORD\" -eq 1 ]; then\n"
           "        mapfile -t COMPREPLY < <(compgen -W \"");
    for (size_t i = 0; i < COMMAND_N; i++) printf("%s ", commands[i].name);
    printf("--help --version\" -- \"$word\")\n        return\n    fi\n    case ${COMP_WORDS[1]} in\n");
    each_command(bash_command);
    printf("    esac\n"
           "    if [ \"$free\" -eq 0 ] && [[ $word == -* ]]; then words=$options files=0; fi\n"
           "    mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$word\")\n"
           "    if [ \"$models\" -eq 1 ] && [ \"$free\" -eq 0 ] && [ \"$COMP_CWORD\" -eq 2 ]; then\n"
           "        while IFS= read -r line; do\n"
           "            [[ $line == \"$word\"* ]] && COMPREPLY+=(\"$line\")\n"
           "        done < <(hotset models --names 2>/dev/null)\n"
           "    fi\n"
           "    if [ \"$files\" -eq 1 ]; then\n"
           "        compopt -o filenames 2>/dev/null\n"
           "        while IFS= read -r line; do COMPREPLY+=(\"$line\"); done < <(compgen -f -- \"$word\")\n"
           "    fi\n}\ncomplete -F _hotset hotset\n");
}

/* ---- zsh ---- */

static void zsh_row(const command_spec *command, const option_row *row) {
    (void)command;
    bool value = row->type != OPTION_FLAG;
    printf(" \\\n            ");
    if (row->letter)
        printf("'(-%c --%s)'{-%c%s,--%s%s}", row->letter, row->name, row->letter, value ? "+" : "", row->name,
               value ? "=" : "");
    else
        printf("--%s%s", row->name, value ? "=" : "");
    printf("'[");
    help_print(row->help);
    putchar(']');
    if (value) {
        putchar(':');
        help_print(row->name);
        putchar(':');
        if (is_file(row)) {
            printf("_files");
        } else if (has_words(row)) {
            putchar('(');
            value_words(row, word_print);
            putchar(')');
        }
    }
    putchar('\'');
}

static void zsh_command(void *cookie, const command_spec *command, const void *values) {
    (void)cookie;
    (void)values;
    printf("    %s)\n        _arguments -s '--help[tell the options]'", command->name);
    each_row(command, zsh_row);
    if (!strcmp(command->name, spec.name))
        printf(" \\\n            '1:shell:(bash zsh fish man)'");
    else
        printf(" \\\n            '1:model:%s'", takes_model(command) ? "_hotset_models" : "_files");
    printf(" '*:file:_files'\n        ;;\n");
}

static void zsh_write(void) {
    printf("#compdef hotset\n# zsh completion for hotset, written by `hotset completion zsh`\n"
           "_hotset_models() {\n"
           "    local -a names=(${(f)\"$(hotset models --names 2>/dev/null)\"})\n"
           "    compadd -- $names\n    _files\n}\n"
           "_hotset() {\n    local -a commands=(\n");
    for (size_t i = 0; i < COMMAND_N; i++) {
        printf("        '%s:", commands[i].name);
        help_print(commands[i].summary);
        printf("'\n");
    }
    printf(
        "    )\n    if (( CURRENT == 2 )); then\n        _describe command commands\n        return\n    fi\n"
        "    local command=$words[2]\n    shift words\n    (( CURRENT-- ))\n    case $command in\n");
    each_command(zsh_command);
    printf(
        "    esac\n}\nif [ \"$funcstack[1]\" = _hotset ]; then _hotset; else compdef _hotset hotset; fi\n");
}

/* ---- fish ---- */

static void fish_row(const command_spec *command, const option_row *row) {
    printf("complete -c hotset -n '__fish_seen_subcommand_from %s' -l %s", command->name, row->name);
    if (row->letter) printf(" -s %c", row->letter);
    if (row->type != OPTION_FLAG) printf(is_file(row) ? " -r -F" : " -x");
    if (has_words(row)) {
        printf(" -a '");
        value_words(row, word_print);
        putchar('\'');
    }
    printf(" -d '");
    help_print(row->help);
    printf("'\n");
}

static void fish_command(void *cookie, const command_spec *command, const void *values) {
    (void)cookie;
    (void)values;
    const char *arguments = takes_model(command) ? " -a '(hotset models --names 2>/dev/null)'" : "";
    if (!strcmp(command->name, spec.name)) arguments = " -a 'bash zsh fish man'";
    printf("complete -c hotset -n '__fish_seen_subcommand_from %s' -F%s\n", command->name, arguments);
    each_row(command, fish_row);
}

static void fish_write(void) {
    printf("# fish completion for hotset, written by `hotset completion fish`\n");
    for (size_t i = 0; i < COMMAND_N; i++) {
        printf("complete -c hotset -f -n __fish_use_subcommand -a %s -d '", commands[i].name);
        help_print(commands[i].summary);
        printf("'\n");
    }
    each_command(fish_command);
}

/* ---- The command ---- */

int command_completion(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*write)(void);
    } shells[] = {{"bash", bash_write}, {"zsh", zsh_write}, {"fish", fish_write}};
    completion_options o = {0};
    int status = command_begin(&spec, argc, argv, &o);
    if (status >= 0) return status;
    if (!strcmp(o.shell, "man")) return manual_write(stdout), 0;
    for (size_t i = 0; i < sizeof shells / sizeof shells[0]; i++)
        if (!strcmp(o.shell, shells[i].name)) return shells[i].write(), 0;
    say(spec.name, "%s: must be one of bash|zsh|fish|man; see hotset completion --help", o.shell);
    return 2;
}
