/* manual.h - the manual page. */
#ifndef HOTSET_TOOLS_MANUAL_H
#define HOTSET_TOOLS_MANUAL_H

#include <stdio.h>

/* Writes hotset(1) as troff with the man macros, from the same tables as --help. */
void manual_write(FILE *out);

#endif
