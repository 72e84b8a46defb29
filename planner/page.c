/* page.c - a plan as a page: the document, its style, facts and tables. */
#include "planner/page.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "planner/page_draw.h"

/* ---- Style ---- */

/* Colours of devices, for light and for dark. */
static const char style_colours[] =
    ":root{color-scheme:light dark;--bg:#fcfcfb;--ink:#23292f;--dim:#68727d;--line:#e3e5e8;--soft:#eef0f2;"
    "--d0:#d9822b;--d1:#2f6fdb;--d2:#12908e;--d3:#8a4fd3;--d4:#c93f7c;--d5:#5a8f29;--d6:#b3533a;--d7:#4b5fb5;"
    "--d8:#7a7f2a;--df:#8a8f96;--m0:#4a5a6c;--m1:#64778c;--m2:#7d91a6;--m3:#a3627c;--m4:#9aa5b1;--m5:#b9c1ca}"
    "\n"
    "@media(prefers-color-scheme:dark){:root{--bg:#16191d;--ink:#e4e7ea;--dim:#98a2ad;--line:#2c3138;"
    "--soft:#22272d;--d0:#eb9a4a;--d1:#5b93f2;--d2:#2fb3ac;--d3:#a97cec;--d4:#e2659c;--d5:#7db548;"
    "--d6:#d2765c;--d7:#7b8de0;--d8:#a8ad4a;--df:#7b828a;--m0:#5d7186;--m1:#72869b;--m2:#8799ac;--m3:#b57690;"
    "--m4:#66717d;--m5:#4d565f}}\n";

static const char style_page[] =
    "*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--ink);"
    "font:15px/1.5 system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif}"
    "main{max-width:1000px;margin:0 auto;padding:28px 20px 48px}"
    "h1{font-size:25px;line-height:1.25;margin:0;overflow-wrap:anywhere}"
    "h2{font-size:17px;margin:34px 0 10px}p{margin:4px "
    "0}.sub,.note{color:var(--dim);font-size:13px}.note{margin:-6px 0 16px}"
    ".tiles{display:flex;flex-wrap:wrap;gap:12px;margin:18px 0 16px}"
    ".tiles div{flex:1 1 180px;padding:10px 14px;border:1px solid var(--line);border-radius:8px}"
    ".tiles b{display:block;font-size:23px;font-weight:600;line-height:1.3}"
    ".tiles span{color:var(--dim);font-size:13px}"
    "dl{display:grid;grid-template-columns:max-content 1fr;gap:1px 18px;margin:0;font-size:14px}"
    "dt{color:var(--dim)}dd{margin:0;overflow-wrap:anywhere}"
    "figure{margin:0}figure>svg{display:block;width:100%;height:auto}"
    ".keys{display:flex;flex-wrap:wrap;gap:3px 18px;margin-top:8px;font-size:13px;color:var(--dim)}"
    ".keys span{display:inline-flex;align-items:center;gap:6px}.key{width:12px;height:12px}"
    ".scale svg{width:120px;height:12px}\n"
    "table{border-collapse:collapse;font-size:14px;font-variant-numeric:tabular-nums}"
    ".scroll{overflow-x:auto}"
    "th,td{text-align:right;padding:3px 0 3px 26px;border-bottom:1px solid var(--line);white-space:nowrap}"
    "th{font-weight:500;color:var(--dim)}th:first-child,td:first-child{text-align:left;padding-left:0;"
    "white-space:normal}tr.strong td{font-weight:600}tr.detail td{color:var(--dim)}"
    "tr.detail td:first-child{padding-left:16px}td.bar{width:260px}td.bar svg{display:block;width:100%;"
    "height:10px}details{margin-top:12px}summary{cursor:pointer;color:var(--dim);font-size:13px}"
    "footer{margin-top:34px;color:var(--dim);font-size:13px}\n";

static const char style_picture[] =
    "text{font-size:12px;fill:var(--ink)}.small{font-size:11.5px;fill:var(--dim)}.name{font-weight:600}"
    "text.in{fill:#fff;font-size:11.5px;text-anchor:middle;pointer-events:none}"
    ".mid{text-anchor:middle}.end{text-anchor:end}.tick{stroke:var(--dim);stroke-opacity:.5;fill:none}"
    ".crisp{shape-rendering:crispEdges}.ink{fill:var(--dim)}.empty,.lane{fill:var(--soft)}"
    ".pages{fill:url(#hatch)}.wait{fill:var(--dim);fill-opacity:.4}"
    ".mixer{fill-opacity:1}.ffn{fill-opacity:.68}.head{fill-opacity:.84}.send{fill:var(--ink);"
    "fill-opacity:.75}.defs{position:absolute;width:0;height:0}\n";

static void write_style(const prose *o) {
    prose_put(o, "<style>\n");
    prose_put(o, style_colours);
    prose_put(o, style_page);
    for (uint32_t k = 0; k < FIGURES_PLACE_N; k++)
        prose_format(o, ".%s{fill:var(--%s)}", page_class(k), page_class(k));
    for (int i = 0; i < 6; i++) prose_format(o, ".m%d{fill:var(--m%d)}", i, i);
    for (int i = 0; i < PAGE_LEVEL_N; i++)
        prose_format(o, ".u%d{fill-opacity:%s}", i, prose_number(1 - 0.86 * i / (PAGE_LEVEL_N - 1), 2).s);
    prose_put(o, "\n");
    prose_put(o, style_picture);
    prose_put(o, "</style>\n");
}

/* ---- Facts ---- */

static void write_tile(const prose *o, const char *value, const char *unit, const char *what) {
    prose_format(o, "<div><b>%s %s</b><span>", value, unit);
    prose_escaped(o, what);
    prose_put(o, "</span></div>\n");
}

static void write_tiles(const prose *o, const figures *f) {
    const plan_data *p = f->p;
    char text[FIGURES_TEXT_BYTES];
    prose_put(o, "<div class=\"tiles\">\n");
    if (p->token_s > 0) {
        snprintf(text, sizeof text, "decode, predicted: %s a token", prose_seconds(p->token_s).s);
        write_tile(o, prose_digits(1 / p->token_s).s, "tokens/s", text);
    } else {
        write_tile(o, "no", "prediction", "planned without a machine profile");
    }
    if (f->kept && f->kept->measured_s > 0) {
        snprintf(text, sizeof text, "decode, measured: %s a token", prose_seconds(f->kept->measured_s).s);
        write_tile(o, prose_digits(1 / f->kept->measured_s).s, "tokens/s", text);
    }
    if (p->chunk_s > 0) {
        snprintf(text, sizeof text, "prefill, predicted: %s a chunk of %" PRIu32, prose_seconds(p->chunk_s).s,
                 p->batch_n);
        write_tile(o, prose_digits(p->batch_n / p->chunk_s).s, "tokens/s", text);
    }
    prose_put(o, "</div>\n");
    figures_prefill(f, text);
    if (!*text) return;
    prose_put(o, "<p class=\"note\">Prompts: ");
    prose_escaped(o, text);
    prose_put(o, ".</p>\n");
}

static void write_facts(const prose *o, const figures *f) {
    figures_fact fact;
    bool open = false;
    prose_put(o, "<dl>\n");
    for (uint32_t at = 0; figures_next_fact(f, &at, &fact);) {
        if (*fact.name) {
            if (open) prose_put(o, "</dd>\n");
            prose_format(o, "<dt>%s</dt><dd>", fact.name);
            open = true;
        } else {
            prose_put(o, "<br>");
        }
        prose_escaped(o, fact.text);
    }
    prose_put(o, open ? "</dd>\n</dl>\n" : "</dl>\n");
}

/* ---- Tables ---- */

static void write_cell(const prose *o, const char *text) {
    prose_put(o, "<td>");
    prose_escaped(o, text);
    prose_put(o, "</td>");
}

static void write_places(const prose *o, const figures *f) {
    figures_row row;
    prose_put(o, "<details><summary>As a table</summary><div class=\"scroll\"><table>\n<tr><th></th>");
    for (uint32_t i = 0; i < f->shown_n; i++) {
        prose_put(o, "<th>");
        prose_escaped(o, f->p->device[f->shown[i]].name);
        prose_put(o, "</th>");
    }
    prose_put(o, "</tr>\n");
    for (uint32_t at = 0; figures_next_row(f, &at, &row);) {
        prose_format(o, "<tr%s>", row.strong ? " class=\"strong\"" : row.detail ? " class=\"detail\"" : "");
        write_cell(o, row.what);
        for (uint32_t i = 0; i < f->shown_n; i++) write_cell(o, row.cell[i]);
        prose_put(o, "</tr>\n");
    }
    prose_put(o, "</table></div></details>\n");
}

static void write_bar(const prose *o, uint32_t device, double share) {
    prose_put(
        o,
        "<td class=\"bar\"><svg viewBox=\"0 0 100 10\" preserveAspectRatio=\"none\" aria-hidden=\"true\">");
    page_box(o, device == FIGURES_NO_DEVICE ? "ink" : page_class(device), "", 0, 0,
             100 * (share < 1 ? share : 1), 10, NULL);
    prose_put(o, "</svg></td>");
}

static void write_time(const prose *o, const figures *f) {
    const plan_data *p = f->p;
    int decimals = figures_ms_decimals(f);
    prose_put(o, "<h2>Where the time of a token goes</h2>\n<div class=\"scroll\"><table>\n"
                 "<tr><th></th><th>ms</th><th>share</th><th></th></tr>\n");
    for (uint32_t i = 0; i < f->part_n; i++) {
        double share = f->part[i].s / p->token_s;
        prose_put(o, "<tr>");
        write_cell(o, f->part[i].what);
        write_cell(o, prose_number(f->part[i].s * 1e3, decimals).s);
        write_cell(o, prose_percent(share).s);
        write_bar(o, f->part[i].device, share);
        prose_put(o, "</tr>\n");
    }
    prose_format(o, "<tr class=\"strong\"><td>in all</td><td>%s</td><td>100 %%</td><td></td></tr>\n",
                 prose_number(p->token_s * 1e3, decimals).s);
    for (uint32_t i = 0; i < f->shown_n && f->shown_n > 1; i++) {
        uint32_t d = f->shown[i];
        prose_put(o, "<tr class=\"detail\"><td>");
        prose_escaped(o, p->device[d].name);
        prose_put(o, " at work</td>");
        write_cell(o, prose_number(f->busy_s[d] * 1e3, decimals).s);
        write_cell(o, prose_percent(f->busy_s[d] / p->token_s).s);
        write_bar(o, d, f->busy_s[d] / p->token_s);
        prose_put(o, "</tr>\n");
    }
    prose_put(o, "</table></div>\n");
}

static void write_gains(const prose *o, const figures *f) {
    prose_put(o, "<h2>What would help</h2>\n");
    if (!f->gain_n) {
        prose_put(o, "<p>Nothing that was asked about: no change brings 0.5 %.</p>\n");
        return;
    }
    prose_put(o,
              "<div class=\"scroll\"><table>\n<tr><th></th><th>tokens/s</th><th>gain</th><th></th></tr>\n");
    for (uint32_t i = 0; i < f->gain_n; i++) {
        const plan_gain *g = &f->p->gain[f->gain[i]];
        double gain = figures_gain(f, f->gain[i]);
        prose_put(o, "<tr>");
        write_cell(o, g->what);
        write_cell(o, prose_digits(1 / g->token_s).s);
        write_cell(o, prose_gain(gain).s);
        write_bar(o, FIGURES_NO_DEVICE, gain / figures_gain(f, f->gain[0]));
        prose_put(o, "</tr>\n");
    }
    prose_put(o, "</table></div>\n");
}

static void write_measured(const prose *o, const figures *f) {
    const plan_data *p = f->p;
    if (!p->measured_n) return;
    prose_put(o, "<h2>Measured beside predicted</h2>\n<div class=\"scroll\"><table>\n<tr><th></th>"
                 "<th>predicted</th><th>measured</th><th>spread</th><th>difference</th></tr>\n");
    for (uint32_t i = 0; i < p->measured_n; i++) {
        const plan_measured *m = &p->measured[i];
        bool both = m->predicted_s > 0 && m->measured_s > 0;
        prose_put(o, m->kept ? "<tr class=\"strong\"><td>" : "<tr><td>");
        prose_escaped(o, m->what);
        prose_put(o, m->kept ? " (this plan)</td>" : "</td>");
        write_cell(o, m->predicted_s > 0 ? prose_seconds(m->predicted_s).s : "");
        write_cell(o, prose_seconds(m->measured_s).s);
        write_cell(o, prose_percent(m->spread).s);
        write_cell(o, both ? prose_gain(m->measured_s / m->predicted_s - 1).s : "");
        prose_put(o, "</tr>\n");
    }
    prose_put(o, "</table></div>\n");
}

/* ---- The document ---- */

static void write_head(const prose *o, const plan_data *p) {
    prose_put(o, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
                 "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>Plan of ");
    prose_escaped(o, *p->name ? p->name : p->architecture);
    prose_put(o, "</title>\n");
    write_style(o);
    prose_put(o,
              "</head>\n<body>\n<main>\n<svg class=\"defs\" aria-hidden=\"true\"><defs><pattern id=\"hatch\" "
              "width=\"5\" height=\"5\" patternUnits=\"userSpaceOnUse\" patternTransform=\"rotate(45)\">"
              "<path class=\"ink\" d=\"M0 0h2v5h-2z\"/></pattern></defs></svg>\n<h1>");
    prose_escaped(o, *p->name ? p->name : p->architecture);
    prose_put(o, "</h1>\n");
}

void plan_page(const plan_data *p, const float *const *use, hotset_text_fn *write, void *cookie) {
    prose o = {write, cookie};
    figures f = figures_make(p);
    write_head(&o, p);
    write_tiles(&o, &f);
    write_facts(&o, &f);
    prose_put(&o, "<h2>Memory</h2>\n");
    page_memory(&o, &f);
    write_places(&o, &f);
    if (f.unit_n) {
        prose_put(&o, "<h2>Units by layer</h2>\n");
        page_units(&o, &f, use);
    }
    if (p->token_s > 0) {
        prose_put(&o, "<h2>One token, as predicted</h2>\n");
        page_timeline(&o, &f);
        write_time(&o, &f);
        write_gains(&o, &f);
    }
    write_measured(&o, &f);
    prose_put(&o, "</main>\n</body>\n</html>\n");
}
