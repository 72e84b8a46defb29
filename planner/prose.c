/* prose.c - texts for people: pieces through a callback, numbers as people read them. */
#include "planner/prose.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void prose_put(const prose *o, const char *text) {
    if (*text) o->write(o->cookie, text, strlen(text));
}

void prose_format(const prose *o, const char *format, ...) {
    char piece[512];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(piece, sizeof piece, format, args);
    va_end(args);
    if (n > 0) o->write(o->cookie, piece, min_u64((uint64_t)n, sizeof piece - 1));
}

static const char *entity_of(char c) {
    switch (c) {
    case '<': return "&lt;";
    case '>': return "&gt;";
    case '&': return "&amp;";
    case '"': return "&quot;";
    case '\'': return "&#39;";
    default: return NULL;
    }
}

void prose_escaped(const prose *o, const char *text) {
    const char *from = text;
    for (; *text; text++) {
        const char *entity = entity_of(*text);
        if (!entity) continue;
        if (text > from) o->write(o->cookie, from, (size_t)(text - from));
        prose_put(o, entity);
        from = text + 1;
    }
    prose_put(o, from);
}

void prose_column(const prose *o, const char *text, int width) {
    int n = 0;
    for (const char *c = text; *c; c++) n += ((unsigned char)*c & 0xc0) != 0x80;
    for (int i = n; i < width; i++) prose_put(o, " ");
    prose_put(o, text);
    for (int i = n; i < -width; i++) prose_put(o, " ");
}

void prose_trim(char *text) {
    size_t n = strlen(text), at = n;
    while (at && ((unsigned char)text[at - 1] & 0xc0) == 0x80) at--;
    if (!at) return;
    unsigned char first = (unsigned char)text[at - 1];
    size_t bytes = first < 0xc0 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    if (at - 1 + bytes > n) text[at - 1] = 0;
}

/* ---- Numbers ---- */

static const double power_of_10[] = {1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9};
enum { DECIMALS_MAX = COUNT_OF(power_of_10) - 1 };

prose_text prose_number(double value, int decimals) {
    prose_text t;
    double scaled = round(fabs(value) * power_of_10[decimals]);
    if (!(scaled < 1e18)) {
        snprintf(t.s, sizeof t.s, "%s", isnan(value) ? "?" : value < 0 ? "-inf" : "inf");
        return t;
    }
    unsigned long long whole = (unsigned long long)scaled, unit = (unsigned long long)power_of_10[decimals];
    const char *sign = value < 0 && whole ? "-" : "";
    if (decimals)
        snprintf(t.s, sizeof t.s, "%s%llu.%0*llu", sign, whole / unit, decimals, whole % unit);
    else
        snprintf(t.s, sizeof t.s, "%s%llu", sign, whole);
    return t;
}

prose_text prose_digits(double value) {
    int decimals = 0;
    double size = fabs(value);
    while (decimals < DECIMALS_MAX && size > 0 && round(size * power_of_10[decimals]) < 100) decimals++;
    /* 9.996 is 10.0 */
    if (size > 0 && decimals > 0 && round(size * power_of_10[decimals]) >= 1000) decimals--;
    return prose_number(value, decimals);
}

static prose_text joined(prose_text number, const char *unit) {
    prose_text t;
    snprintf(t.s, sizeof t.s, "%.20s %s", number.s, unit);
    return t;
}

prose_text prose_bytes(uint64_t bytes) {
    static const char *const units[] = {"KiB", "MiB", "GiB"};
    double value = (double)bytes;
    size_t unit = 0;
    if (bytes < 1024) return joined(prose_number(value, 0), "B");
    for (value /= 1024; value >= 1023.5 && unit + 1 < COUNT_OF(units); value /= 1024) unit++;
    return joined(prose_digits(value), units[unit]);
}

prose_text prose_percent(double share) {
    double percent = 100 * share;
    if (percent <= 0) return joined(prose_number(0, 0), "%");
    if (percent < 0.005) return (prose_text){"<0.01 %"};
    if (percent < 100 - 1e-9 && percent >= 99.95) return (prose_text){">99.9 %"};
    return joined(prose_number(percent, percent >= 99.95 ? 0 : percent >= 0.995 ? 1 : 2), "%");
}

prose_text prose_gain(double share) {
    prose_text t, number = prose_number(100 * share, fabs(share) < 0.9995 ? 1 : 0);
    snprintf(t.s, sizeof t.s, "%s%.20s %%", share < 0 ? "" : "+", number.s);
    return t;
}

prose_text prose_seconds(double seconds) {
    if (seconds >= 0.9995) return joined(prose_digits(seconds), "s");
    if (seconds >= 0.9995e-3) return joined(prose_digits(seconds * 1e3), "ms");
    return joined(prose_digits(seconds * 1e6), "us");
}
