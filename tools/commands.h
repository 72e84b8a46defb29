/* commands.h - the commands of `hotset`. Each takes its own name as argv[0] and returns the exit status: 0
 * done, 1 error (one line on standard error), 2 wrong usage (likewise). */
#ifndef HOTSET_TOOLS_COMMANDS_H
#define HOTSET_TOOLS_COMMANDS_H

/* All of them, in the order of the help. */
typedef struct command_entry {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *summary; /* a few words */
} command_entry;
enum { COMMAND_N = 13 };
extern const command_entry commands[COMMAND_N];

int command_bench(int argc, char **argv);
int command_completion(int argc, char **argv);
int command_convert(int argc, char **argv);
int command_eval(int argc, char **argv);
int command_inspect(int argc, char **argv);
int command_logits(int argc, char **argv);
int command_machine(int argc, char **argv);
int command_models(int argc, char **argv);
int command_plan(int argc, char **argv);
int command_profile(int argc, char **argv);
int command_run(int argc, char **argv);
int command_synth(int argc, char **argv);
int command_tokenize(int argc, char **argv);

#endif
