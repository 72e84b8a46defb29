/* test_lost_file.c - model files that shrink or are deleted while they are mapped. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/hotset.h"

#define DEMO_MODEL HOTSET_SOURCE_DIR "/tools/demo/Gutenberg-7M-ReGLU-F16.gguf"

typedef struct setup {
    char path[64];
    hotset_model *model;
    hotset_plan *plan;
    hotset_engine *engine;
    hotset_session *session;
} setup;

static void copy_model(char *path) {
    char buffer[1 << 16];
    ssize_t n;
    snprintf(path, 64, "/tmp/test_lost_file_XXXXXX");
    int to = mkstemp(path), from = open(DEMO_MODEL, O_RDONLY);
    cr_assert(to >= 0 && from >= 0);
    while ((n = read(from, buffer, sizeof buffer)) > 0) cr_assert_eq(write(to, buffer, (size_t)n), n);
    close(to);
    close(from);
}

/* Everything opened on a copy of the model. */
static setup set_up(hotset_memory_mode memory) {
    setup s = {.path = ""};
    hotset_error err = {0};
    hotset_plan_options options = {.context_n = 64, .thread_n = 2, .memory = memory};
    copy_model(s.path);
    cr_assert_eq(hotset_model_open(&s.model, s.path, NULL, &err), HOTSET_OK, "%s", err.message);
    cr_assert_eq(hotset_plan_cpu(&s.plan, s.model, &options, &err), HOTSET_OK, "%s", err.message);
    cr_assert_eq(hotset_engine_open(&s.engine, s.model, s.plan, NULL, &err), HOTSET_OK, "%s", err.message);
    cr_assert_eq(hotset_session_open(&s.session, s.engine, &err), HOTSET_OK, "%s", err.message);
    return s;
}

static void tear_down(setup *s) {
    hotset_session_free(s->session);
    hotset_engine_free(s->engine);
    hotset_plan_free(s->plan);
    hotset_model_free(s->model);
    unlink(s->path);
}

static hotset_status evaluate(setup *s) {
    return hotset_session_append(s->session, (int32_t[]){0, 776, 349}, 3, NULL, NULL);
}

Test(lost_file, a_mapped_file_that_was_cut_is_an_error) {
    setup s = set_up(HOTSET_MEMORY_MAPPED);
    cr_assert_eq(evaluate(&s), HOTSET_OK);
    cr_assert_eq(truncate(s.path, 1 << 20), 0);
    cr_assert_eq(evaluate(&s), HOTSET_E_IO);
    const hotset_error *err = hotset_session_error(s.session);
    cr_assert(strstr(err->message, strrchr(s.path, '/') + 1) && strstr(err->message, "1048576"), "%s",
              err->message);
    cr_assert_eq(evaluate(&s), HOTSET_E_IO, "and stays one");
    size_t n;
    hotset_session_tokens(s.session, &n);
    cr_assert_eq(n, 3u, "what was evaluated before stays");
    tear_down(&s);
}

Test(lost_file, copied_weights_need_no_file) {
    setup s = set_up(HOTSET_MEMORY_COPIED);
    if (hotset_plan_footprint(s.plan).weights_mapped_bytes == 0) {
        cr_assert_eq(truncate(s.path, 0), 0);
        cr_assert_eq(evaluate(&s), HOTSET_OK);
    }
    tear_down(&s);
}

Test(lost_file, a_file_that_was_cut_before_opening_is_an_error) {
    setup s = set_up(HOTSET_MEMORY_COPIED);
    hotset_engine *e = (hotset_engine *)&s;
    hotset_error err = {0};
    cr_assert_eq(truncate(s.path, 1 << 20), 0);
    cr_assert_eq(hotset_engine_open(&e, s.model, s.plan, NULL, &err), HOTSET_E_IO);
    cr_assert_null(e);
    cr_assert(strstr(err.message, "1048576"), "%s", err.message);
    tear_down(&s);
}

Test(lost_file, a_deleted_file_stays_readable) {
    setup s = set_up(HOTSET_MEMORY_MAPPED);
    cr_assert_eq(unlink(s.path), 0);
    cr_assert_eq(evaluate(&s), HOTSET_OK);
    tear_down(&s);
}

/* The handler that a program would install for what happens in the middle of a step. */
static const hotset_model *watched;
static sigjmp_buf back;
static volatile sig_atomic_t maps;
static void on_lost_page(int signal_number, siginfo_t *info, void *context) {
    (void)signal_number;
    (void)context;
    maps = hotset_model_maps(watched, info->si_addr);
    siglongjmp(back, 1);
}

Test(lost_file, a_handler_can_tell_whose_page_is_missing) {
    setup s = set_up(HOTSET_MEMORY_MAPPED);
    size_t bytes;
    const char *template = hotset_model_chat_template(s.model, &bytes);
    cr_assert(!template || hotset_model_maps(s.model, template));
    cr_assert(!hotset_model_maps(s.model, &s) && !hotset_model_maps(s.model, NULL));
    /* a page of the model, found as the signal finds it: by reading all that is mapped after a cut */
    watched = s.model;
    struct sigaction action = {.sa_sigaction = on_lost_page, .sa_flags = SA_SIGINFO};
    cr_assert_eq(sigaction(SIGBUS, &action, NULL), 0);
    FILE *list = fopen("/proc/self/maps", "r");
    char line[512];
    unsigned long from = 0, to = 0;
    while (list && fgets(line, sizeof line, list))
        if (strstr(line, s.path)) {
            sscanf(line, "%lx-%lx", &from, &to);
            break;
        }
    if (list) fclose(list);
    cr_assert(to > from, "the model is mapped");
    cr_assert_eq(truncate(s.path, 1 << 20), 0);
    if (!sigsetjmp(back, 1)) {
        volatile char c = *(const volatile char *)(from + (2 << 20));
        (void)c;
        cr_assert_fail("a page behind the end is still there");
    }
    cr_assert(maps);
    tear_down(&s);
}
