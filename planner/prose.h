/* prose.h - texts for people: pieces through a callback, numbers as people read them.
 *
 * Nothing here depends on the locale: a point is a point, so that equal plans give equal texts everywhere.
 */
#ifndef HOTSET_PROSE_H
#define HOTSET_PROSE_H

#include "engine/base.h"

typedef struct prose {
    hotset_text_fn *write;
    void *cookie;
} prose;

void prose_put(const prose *o, const char *text);
/* Of up to 511 bytes; the rest is cut off. */
void prose_format(const prose *o, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* As text of HTML and of its attributes. */
void prose_escaped(const prose *o, const char *text);
/* Padded to so many characters (of UTF-8): before the text or, with a negative width, after it. */
void prose_column(const prose *o, const char *text, int width);

/* Removes a character of UTF-8 at the end that was cut in half. */
void prose_trim(char *text);

/* A short text by value: prose_number(x, 1).s lives to the end of the full expression. */
typedef struct prose_text {
    char s[32];
} prose_text;

prose_text prose_number(double value, int decimals);
prose_text prose_digits(double value);    /* three significant digits: "21.3" */
prose_text prose_bytes(uint64_t bytes);   /* "7.25 GiB" */
prose_text prose_percent(double share);   /* "22.1 %"; says when it is nearly none or nearly all */
prose_text prose_gain(double share);      /* "+4.8 %" */
prose_text prose_seconds(double seconds); /* "46.9 ms" */

#endif
