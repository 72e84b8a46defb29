/* hotset.c - the command: finds the subcommand and runs it. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "engine/hotset.h"
#include "tools/commands.h"
#include "tools/options.h"
#include "tools/output.h"
#include "tools/runtime.h"

const command_entry commands[COMMAND_N] = {
    {"run", command_run, "complete a text"},
    {"models", command_models, "list the models on this disk"},
    {"plan", command_plan, "say what goes where on a machine, and how fast it will be"},
    {"bench", command_bench, "measure prefill and decode speed against the machine's limits"},
    {"eval", command_eval, "perplexity of a text"},
    {"logits", command_logits, "write the logits of given tokens"},
    {"tokenize", command_tokenize, "turn standard input into tokens"},
    {"profile", command_profile, "count how often each neuron or expert is used"},
    {"inspect", command_inspect, "describe a file"},
    {"machine", command_machine, "measure this machine, for plans"},
    {"convert", command_convert, "store a model for skipping: by neuron, quantised, hot neurons first"},
    {"synth", command_synth, "make a model with random weights for tests and measurements"},
    {"completion", command_completion, "write what completes these commands in a shell, or the manual page"},
};

static void help(void) {
    printf("Usage: hotset COMMAND MODEL [options]\nRuns language models in GGUF files.\n\nCommands:\n");
    for (size_t i = 0; i < COMMAND_N; i++) printf("  %-10s %s\n", commands[i].name, commands[i].summary);
    printf("\nhotset COMMAND --help tells the options of a command, hotset --version the version.\n"
           "MODEL is a file, or the name of one that hotset models lists.\n"
           "Results go to standard output, all else to standard error.\n"
           "Exit status: 0 done, 1 error, 2 wrong usage.\n");
}

static int wrong_usage(const char *problem, const char *argument, const char *hint) {
    char line[256];
    snprintf(line, sizeof line, "%s%s%s%s%s", problem, argument, hint ? " (did you mean " : "",
             hint ? hint : "", hint ? "?)" : "");
    for (char *c = line; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 127) *c = '?';
    fprintf(stderr, "hotset: %s; see hotset --help\n", line);
    return 2;
}

/* A full disk or a closed pipe shows only when the last bytes are written. */
static int finish_output(const char *command, int status) {
    bool written = !ferror(stdout) && !fflush(stdout);
    if (written || status) return status;
    if (errno != EPIPE) say(command, "standard output: %s", strerror(errno));
    return 1;
}

int main(int argc, char **argv) {
    /* whoever started us may have ignored it; a reader that went away ends the command, quietly */
    signal(SIGPIPE, SIG_DFL);
    lost_file_catch();
    if (argc < 2) return wrong_usage("a command is missing", "", NULL);
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
        help();
        return finish_output("help", 0);
    }
    if (!strcmp(argv[1], "--version")) {
        printf("hotset %s\n", hotset_version());
        return finish_output("version", 0);
    }
    const char *hint = NULL;
    for (size_t i = 0; i < COMMAND_N; i++) {
        if (!strcmp(argv[1], commands[i].name))
            return finish_output(argv[1], commands[i].run(argc - 1, argv + 1));
        if (option_is_near(argv[1], commands[i].name)) hint = commands[i].name;
    }
    return wrong_usage(argv[1][0] == '-' ? "unknown option " : "unknown command ", argv[1], hint);
}
