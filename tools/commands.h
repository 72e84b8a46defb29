/* commands.h - the commands of `hotset`. Each takes its own name as argv[0] and returns the exit status: 0
 * done, 1 error (one line on standard error), 2 wrong usage (likewise). */
#ifndef HOTSET_TOOLS_COMMANDS_H
#define HOTSET_TOOLS_COMMANDS_H

int command_bench(int argc, char **argv);
int command_convert(int argc, char **argv);
int command_eval(int argc, char **argv);
int command_inspect(int argc, char **argv);
int command_logits(int argc, char **argv);
int command_machine(int argc, char **argv);
int command_plan(int argc, char **argv);
int command_profile(int argc, char **argv);
int command_run(int argc, char **argv);
int command_synth(int argc, char **argv);
int command_tokenize(int argc, char **argv);

#endif
