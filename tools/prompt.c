/* prompt.c - line editing by libedit; history in $XDG_STATE_HOME/hotset/history or
 * ~/.local/state/hotset/history. */
#include "tools/prompt.h"

#include <errno.h>
#include <histedit.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { HISTORY_LINES = 1000 };

struct prompt {
    EditLine *edit;
    History *history;
    char *history_path; /* NULL: nowhere to keep it */
    char *text;
    size_t text_bytes;
    int continued; /* the text goes on: another sign in front of the line */
};

static char *prompt_sign(EditLine *edit) {
    static char first[] = "> ", further[] = "| ";
    prompt *p = NULL;
    el_get(edit, EL_CLIENTDATA, &p);
    return p->continued ? further : first;
}

static char *history_path_make(void) {
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    char *path = NULL;
    int made = -1;
    if (state && state[0] == '/')
        made = asprintf(&path, "%s/hotset/history", state);
    else if (home && home[0] == '/')
        made = asprintf(&path, "%s/.local/state/hotset/history", home);
    return made < 0 ? NULL : path;
}

/* Makes the folders above a file, private to the user as the base directory specification asks. */
static void folders_make(char *path) {
    for (char *slash = path; (slash = strchr(slash + 1, '/'));) {
        *slash = 0;
        mkdir(path, 0700);
        *slash = '/';
    }
}

/* What is typed is worth keeping, but no reason to disturb: a history that cannot be written is done without.
 */
static void history_add(prompt *p, const char *line) {
    HistEvent event;
    if (line[strspn(line, " \t\r\n")] == 0) return;
    history(p->history, &event, H_ENTER, line);
    if (!p->history_path) return;
    folders_make(p->history_path);
    history(p->history, &event, H_SAVE, p->history_path);
}

prompt *prompt_open(void) {
    setlocale(LC_CTYPE, ""); /* libedit edits in the terminal's character set */
    prompt *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    p->edit = el_init("hotset", stdin, stderr, stderr);
    p->history = history_init();
    p->history_path = history_path_make();
    if (!p->edit || !p->history) {
        prompt_close(p);
        return NULL;
    }
    HistEvent event;
    history(p->history, &event, H_SETSIZE, HISTORY_LINES);
    history(p->history, &event, H_SETUNIQUE, 1);
    if (p->history_path) history(p->history, &event, H_LOAD, p->history_path);
    el_set(p->edit, EL_CLIENTDATA, p);
    el_set(p->edit, EL_PROMPT, prompt_sign);
    el_set(p->edit, EL_EDITOR, "emacs");
    el_set(p->edit, EL_SIGNAL, 1); /* gives the terminal back in order when a signal ends the program */
    el_set(p->edit, EL_HIST, history, p->history);
    el_source(p->edit, NULL);
    return p;
}

/* Appends one line; false when out of memory. */
static int text_append(prompt *p, const char *line, size_t line_bytes) {
    char *longer = realloc(p->text, p->text_bytes + line_bytes + 1);
    if (!longer) return 0;
    p->text = longer;
    memcpy(p->text + p->text_bytes, line, line_bytes);
    p->text_bytes += line_bytes;
    p->text[p->text_bytes] = 0;
    return 1;
}

const char *prompt_read(prompt *p, size_t *text_bytes) {
    p->text_bytes = 0;
    p->continued = 0;
    for (;;) {
        int line_n = 0;
        const char *line = el_gets(p->edit, &line_n);
        if (!line || line_n <= 0) return NULL;
        history_add(p, line);
        size_t line_bytes = (size_t)line_n;
        if (line[line_bytes - 1] == '\n') line_bytes--;
        p->continued = line_bytes && line[line_bytes - 1] == '\\';
        if (!text_append(p, line, p->continued ? line_bytes - 1 : line_bytes)) return NULL;
        if (!p->continued) break;
        if (!text_append(p, "\n", 1)) return NULL;
    }
    *text_bytes = p->text_bytes;
    return p->text;
}

void prompt_close(prompt *p) {
    if (!p) return;
    if (p->edit) el_end(p->edit);
    if (p->history) history_end(p->history);
    free(p->history_path);
    free(p->text);
    free(p);
}
