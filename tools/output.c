/* output.c - error lines, whole files, JSON, progress. */
#include "tools/output.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

/* ---- Errors and time ---- */

void say(const char *command, const char *format, ...) {
    char line[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    /* file names may contain anything: what is said stays one line */
    for (char *c = line; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 127) *c = '?';
    bool colour = wants_colour(stderr);
    fprintf(stderr, "%shotset %s:%s %s\n", colour ? COLOUR_DIM : "", command, colour ? COLOUR_OFF : "", line);
}

bool wants_colour(FILE *stream) {
    const char *none = getenv("NO_COLOR"), *terminal = getenv("TERM");
    return isatty(fileno(stream)) && !(none && *none) && terminal && strcmp(terminal, "dumb") != 0;
}

void say_failure(const char *command, const char *path, const hotset_error *err) {
    const char *message = err->message[0] ? err->message : hotset_status_text(err->status);
    bool named = !strncmp(message, path, strlen(path));
    char offset[40] = "", digits[24];
    snprintf(digits, sizeof digits, "%llu", (unsigned long long)err->offset_bytes);
    if (err->offset_bytes && !strstr(message, digits))
        snprintf(offset, sizeof offset, " (at byte %s)", digits);
    say(command, "%s%s%s%s", named ? "" : path, named ? "" : ": ", message, offset);
}

double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- Reading ---- */

char *read_text(const char *command, const char *path, size_t *text_bytes) {
    bool standard = !strcmp(path, "-");
    const char *name = standard ? "standard input" : path;
    FILE *in = standard ? stdin : fopen(path, "rb");
    if (!in) return say(command, "%s: %s", name, strerror(errno)), NULL;
    char *text = NULL;
    size_t size = 0, used = 0;
    for (;;) {
        if (used == size) {
            size = size ? 2 * size : 64 << 10;
            char *larger = realloc(text, size);
            if (!larger) {
                say(command, "%s: out of memory for %zu bytes of text", name, size);
                goto failed;
            }
            text = larger;
        }
        size_t got = fread(text + used, 1, size - used, in);
        if (got == 0) break;
        used += got;
    }
    if (ferror(in)) {
        say(command, "%s: %s", name, strerror(errno));
        goto failed;
    }
    if (!standard) fclose(in);
    *text_bytes = used;
    return text;
failed:
    if (!standard) fclose(in);
    free(text);
    return NULL;
}

size_t utf8_length(const char *text, size_t text_bytes) {
    const unsigned char *b = (const unsigned char *)text;
    if (text_bytes == 0) return 0;
    if (b[0] < 0x80) return 1;
    size_t n = b[0] >= 0xf0 ? 4 : b[0] >= 0xe0 ? 3 : 2;
    if (b[0] < 0xc2 || b[0] > 0xf4 || text_bytes < n) return 0;
    for (size_t i = 1; i < n; i++)
        if ((b[i] & 0xc0) != 0x80) return 0;
    /* overlong forms, surrogates, beyond U+10FFFF */
    if ((b[0] == 0xe0 && b[1] < 0xa0) || (b[0] == 0xed && b[1] > 0x9f)) return 0;
    if ((b[0] == 0xf0 && b[1] < 0x90) || (b[0] == 0xf4 && b[1] > 0x8f)) return 0;
    return n;
}

/* ---- Writing files ---- */

/* Where the file really goes: renaming onto a symbolic link would replace the link. */
static char *target_resolve(const char *path, bool *direct) {
    struct stat info;
    *direct = stat(path, &info) == 0 && !S_ISREG(info.st_mode);
    char *resolved = realpath(path, NULL);
    return resolved ? resolved : strdup(path);
}

/* mkstemp makes files that only their owner can read; results get the permissions that any new file gets. */
static FILE *temporary_open(char *name) {
    int fd = mkstemp(name);
    if (fd < 0) return NULL;
    mode_t mask = umask(0);
    umask(mask);
    FILE *stream = fchmod(fd, 0666 & ~mask) ? NULL : fdopen(fd, "wb");
    if (stream) return stream;
    int reason = errno;
    close(fd);
    unlink(name);
    errno = reason;
    return NULL;
}

bool out_file_open(out_file *file, const char *command, const char *path) {
    *file = (out_file){0};
    if (!strcmp(path, "-")) {
        file->stream = stdout;
        return true;
    }
    bool direct;
    file->target = target_resolve(path, &direct);
    if (file->target && direct) {
        file->stream = fopen(file->target, "wb");
    } else if (file->target && asprintf(&file->temporary, "%s.XXXXXX", file->target) >= 0) {
        file->stream = temporary_open(file->temporary);
    }
    if (file->stream) return true;
    say(command, "%s: %s", path, strerror(errno));
    free(file->target);
    free(file->temporary);
    *file = (out_file){0};
    return false;
}

bool out_file_commit(out_file *file, const char *command) {
    if (file->stream == stdout) return true; /* checked for all commands at their end */
    bool written = !ferror(file->stream) && !fflush(file->stream);
    written = !fclose(file->stream) && written;
    file->stream = NULL;
    if (written && file->temporary) written = !rename(file->temporary, file->target);
    if (!written) say(command, "%s: %s", file->target, strerror(errno));
    if (written) {
        free(file->temporary);
        file->temporary = NULL;
    }
    out_file_discard(file);
    return written;
}

void out_file_discard(out_file *file) {
    if (file->stream && file->stream != stdout) fclose(file->stream);
    if (file->temporary) unlink(file->temporary);
    free(file->temporary);
    free(file->target);
    *file = (out_file){0};
}

bool out_has_room(const char *command, const char *path, uint64_t needed_bytes) {
    const char *slash = strrchr(path, '/');
    char *folder = slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : strdup(".");
    struct statvfs fs;
    bool known = folder && statvfs(folder, &fs) == 0; /* where it is not, writing will say why */
    uint64_t free_bytes = known ? (uint64_t)fs.f_bavail * fs.f_frsize : 0;
    free(folder);
    if (!known || free_bytes >= needed_bytes) return true;
    say(command, "%s needs %.1f GB, the disk has %.1f GB free", path, (double)needed_bytes * 1e-9,
        (double)free_bytes * 1e-9);
    return false;
}

/* ---- JSON ---- */

static void json_string(FILE *out, const char *text, size_t text_bytes) {
    fputc('"', out);
    for (size_t i = 0; i < text_bytes;) {
        size_t n = utf8_length(text + i, text_bytes - i);
        unsigned char c = (unsigned char)text[i];
        if (n == 0)
            fputs("\\ufffd", out);
        else if (c == '"' || c == '\\')
            fprintf(out, "\\%c", c);
        else if (c == '\n')
            fputs("\\n", out);
        else if (c < ' ' || c == 127)
            fprintf(out, "\\u%04x", c);
        else
            fwrite(text + i, 1, n, out);
        i += n ? n : 1;
    }
    fputc('"', out);
}

static void json_key(json_object *json, const char *key) {
    fputs(json->has_field ? ", " : "", json->out);
    json->has_field = true;
    json_string(json->out, key, strlen(key));
    fputs(": ", json->out);
}

void json_begin(json_object *json, FILE *out) {
    *json = (json_object){.out = out};
    fputc('{', out);
}

void json_text(json_object *json, const char *key, const char *text, size_t text_bytes) {
    json_key(json, key);
    json_string(json->out, text, text_bytes);
}

void json_count(json_object *json, const char *key, uint64_t value) {
    json_key(json, key);
    fprintf(json->out, "%llu", (unsigned long long)value);
}

void json_number(json_object *json, const char *key, double value) {
    json_key(json, key);
    if (isfinite(value))
        fprintf(json->out, "%.9g", value);
    else
        fputs("null", json->out);
}

void json_flag(json_object *json, const char *key, bool value) {
    json_key(json, key);
    fputs(value ? "true" : "false", json->out);
}

void json_end(json_object *json) { fputs("}\n", json->out); }

/* ---- Progress ---- */

/* " 5230 tokens/s, 1:05 left" */
static void rate_print(const progress *p, size_t done_n, size_t all_n, double seconds) {
    double per_s = seconds > 0 ? (double)done_n / seconds : 0;
    if (!p->unit || per_s <= 0) return;
    unsigned long long left_s = (unsigned long long)((double)(all_n - done_n) / per_s + 0.5);
    fprintf(stderr, ", %.*f %s/s, %llu:%02llu left", per_s < 100, per_s, p->unit, left_s / 60, left_s % 60);
}

void progress_update(progress *p, size_t done_n, size_t all_n) {
    enum { BAR_N = 30 };
    double now = now_s();
    if (p->begin_s <= 0) p->begin_s = now;
    if (p->quiet || !isatty(STDERR_FILENO) || (done_n < all_n && now - p->last_s < 0.1)) return;
    p->last_s = now;
    p->shown = true;
    int filled = all_n ? (int)(done_n * BAR_N / all_n) : 0;
    fprintf(stderr, "\r%s [%.*s%*s] %zu/%zu", p->what, filled, "##############################",
            BAR_N - filled, "", done_n, all_n);
    rate_print(p, done_n, all_n, now - p->begin_s);
    fputs("\033[K", stderr);
    fflush(stderr);
}

void progress_wait(progress *p) {
    double now = now_s();
    if (p->begin_s <= 0) p->begin_s = now;
    if (p->quiet || now - p->begin_s < 1 || now - p->last_s < 0.5 || !isatty(STDERR_FILENO)) return;
    p->last_s = now;
    p->shown = true;
    fprintf(stderr, "\r%s, %.0f s\033[K", p->what, now - p->begin_s);
    fflush(stderr);
}

void progress_clear(progress *p) {
    if (p->shown) fputs("\r\033[K", stderr);
    p->shown = false;
}
