/* prompt.h - texts typed at a terminal: line editing, and a history that outlives the program. */
#ifndef HOTSET_TOOLS_PROMPT_H
#define HOTSET_TOOLS_PROMPT_H

#include <stddef.h>

typedef struct prompt prompt;

/* Prompts on standard error, reads from standard input. NULL when out of memory or the terminal is of no use.
 */
prompt *prompt_open(void);
/* The next text, without its last newline, borrowed until the next call; a line that ends in a backslash goes
 * on in the next one. NULL at the end of input (Ctrl-D). */
const char *prompt_read(prompt *p, size_t *text_bytes);
void prompt_close(prompt *p);

#endif
