/* test_module.c - device lists, and emulated devices as devices: memory, queues that run beside the host,
 * counters, traces, faults on demand. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "devices/module.h"

/* ---- Device lists ---- */

Test(devices, lists_are_read) {
    device_spec spec[MACHINE_DEVICE_MAX];
    uint32_t n;
    hotset_error err = {0};
    cr_assert_eq(
        device_list_parse(spec, &n,
                          "cuda1:1.5GiB,emu:64MiB:fail-alloc=3:fail-copy=7:fail-launch=11:wrong-copy=2"
                          ":reverse@rtx4070,hip0,emu",
                          &err),
        HOTSET_OK, "%s", err.message);
    cr_assert_eq(n, 5);
    cr_assert(spec[0].kind == MACHINE_CPU && strcmp(spec[0].name, "cpu") == 0);
    cr_assert(spec[1].kind == MACHINE_CUDA && spec[1].index == 1 && strcmp(spec[1].name, "cuda1") == 0);
    cr_assert_eq(spec[1].options.memory_bytes, (uint64_t)3 << 29);
    cr_assert(!spec[1].options.wait && !spec[1].options.graphs && !spec[1].options.wait_limit_ms);
    cr_assert(spec[2].kind == MACHINE_EMULATED && strcmp(spec[2].name, "emu0") == 0);
    const module_options *o = &spec[2].options;
    cr_assert(o->memory_bytes == 64 << 20 && o->fail_alloc == 3 && o->fail_copy == 7 && o->fail_launch == 11);
    cr_assert(o->wrong_copy == 2 && o->reverse && strcmp(spec[2].machine, "rtx4070") == 0);
    cr_assert(spec[3].kind == MACHINE_HIP && strcmp(spec[3].name, "hip0") == 0);
    cr_assert(strcmp(spec[4].name, "emu1") == 0 && spec[4].index == 1 && !spec[4].options.reverse);
    cr_assert_eq(device_list_parse(spec, &n, "hip0:wait=host:wait-ms=1500:graphs=on", &err), HOTSET_OK, "%s",
                 err.message);
    o = &spec[1].options;
    cr_assert(o->wait == MODULE_WAIT_HOST && o->wait_limit_ms == 1500 && o->graphs == MODULE_GRAPHS_ON);
    cr_assert_eq(device_list_parse(spec, &n, "emu,cpu", &err), HOTSET_OK);
    cr_assert(n == 2 && spec[1].kind == MACHINE_CPU);
}

Test(devices, lists_that_are_wrong_are_quoted) {
    static const struct {
        const char *list, *quoted;
    } wrong[] = {{"", "''"},
                 {"gpu", "'gpu'"},
                 {"cuda", "'cuda'"},
                 {"cuda100", "'cuda100'"},
                 {"cpu,cpu", "'cpu'"},
                 {"cuda0,cuda0:8GiB", "'cuda0:8GiB'"},
                 {"cpu:8GiB", "'8GiB'"},
                 {"emu:8Gib", "'8Gib'"},
                 {"emu:", NULL},
                 {"emu:0MiB", "'0MiB'"},
                 {"emu:fail-alloc=0", "'fail-alloc=0'"},
                 {"emu:fail-copy=x", "'fail-copy=x'"},
                 {"cuda0:fail-copy=1", "'fail-copy=1'"},
                 {"cuda0:wrong-copy=1", "'wrong-copy=1'"},
                 {"cuda0:fail-graph=1", "'fail-graph=1'"},
                 {"cuda0:wait=never", "'wait=never'"},
                 {"cuda0:wait-ms=0", "'wait-ms=0'"},
                 {"cuda0:wait-ms=4000000", "'wait-ms=4000000'"},
                 {"cuda0:graphs=maybe", "'graphs=maybe'"},
                 {"cpu:wait=host", "'wait=host'"},
                 {"cuda0:reverse", "'reverse'"},
                 {"cuda0@rtx4070", "'cuda0@rtx4070'"},
                 {"emu@", "'emu@'"},
                 {"cpu,,emu", "''"}};
    device_spec spec[MACHINE_DEVICE_MAX];
    uint32_t n;
    for (size_t i = 0; i < COUNT_OF(wrong); i++) {
        hotset_error err = {0};
        hotset_status status = device_list_parse(spec, &n, wrong[i].list, &err);
        cr_assert_eq(status, wrong[i].quoted ? HOTSET_E_ARGUMENT : HOTSET_OK, "%s", wrong[i].list);
        if (wrong[i].quoted) cr_assert(strstr(err.message, wrong[i].quoted), "%s", err.message);
    }
}

Test(devices, what_is_missing_is_a_reason) {
    device *d = (device *)&d;
    hotset_error err = {0};
    device_spec spec = {.kind = MACHINE_CUDA, .name = "cuda0"};
    cr_assert_eq(device_spec_open(&d, &spec, "/nowhere", &err), HOTSET_E_UNSUPPORTED);
    cr_assert(strstr(err.message, "cuda0") && strstr(err.message, "libhotset-cuda.so"), "%s", err.message);
    cr_assert_null(d);
}

/* ---- An emulated device ---- */

static hotset_status try_open(device **out, const char *properties, hotset_error *err) {
    char list[96];
    device_spec spec[MACHINE_DEVICE_MAX];
    uint32_t n;
    const module_interface *module;
    if (module_load(&module, MACHINE_EMULATED, HOTSET_MODULE_FOLDER, err) == HOTSET_E_UNSUPPORTED)
        cr_skip_test("%s", err->message);
    snprintf(list, sizeof list, "emu%s", properties);
    cr_assert_eq(device_list_parse(spec, &n, list, err), HOTSET_OK, "%s", err->message);
    return device_spec_open(out, &spec[1], HOTSET_MODULE_FOLDER, err);
}

static device *open_emulated(const char *properties) {
    device *d;
    hotset_error err = {0};
    cr_assert_eq(try_open(&d, properties, &err), HOTSET_OK, "%s", err.message);
    return d;
}

Test(emulated, memory_is_counted_to_the_byte) {
    device *d = open_emulated(":1MiB");
    hotset_error err = {0};
    uint64_t capacity_bytes, free_bytes;
    device_buffer *a, *b;
    cr_assert_eq(d->api->memory(d, &capacity_bytes, &free_bytes, &err), HOTSET_OK);
    cr_assert(capacity_bytes == 1 << 20 && free_bytes == 1 << 20);
    cr_assert_eq(d->api->buffer_alloc(d, DEVICE_MEMORY_DEVICE, 1000, &a, &err), HOTSET_OK);
    cr_assert_null(a->host, "the host cannot reach it");
    cr_assert_eq(d->api->buffer_alloc(d, DEVICE_MEMORY_DEVICE, (1 << 20) - 999, &b, &err), HOTSET_E_NOFIT);
    cr_assert(strstr(err.message, "emu0") && strstr(err.message, "1047577") && strstr(err.message, "1047576"),
              "%s", err.message);
    cr_assert_null(b);
    cr_assert_eq(d->api->buffer_alloc(d, DEVICE_MEMORY_DEVICE, (1 << 20) - 1000, &b, &err), HOTSET_OK);
    d->api->buffer_free(a);
    d->api->buffer_free(b);
    cr_assert_eq(d->api->memory(d, &capacity_bytes, &free_bytes, &err), HOTSET_OK);
    cr_assert_eq(free_bytes, 1 << 20);
    d->api->close(d);
}

/* A list that waits for the host and then signals: the caller is not held up, and sees nothing too early. */
Test(emulated, queues_run_beside_the_host) {
    device *d = open_emulated("");
    hotset_error err = {0};
    device_queue *q;
    device_buffer *pinned, *workspace;
    cr_assert_eq(d->api->queue_open(d, DEVICE_QUEUE_COMPUTE, &q, &err), HOTSET_OK);
    cr_assert_eq(d->api->buffer_alloc(d, DEVICE_MEMORY_PINNED, 4096, &pinned, &err), HOTSET_OK);
    cr_assert_eq(d->api->buffer_alloc(d, DEVICE_MEMORY_DEVICE, 4096, &workspace, &err), HOTSET_OK);
    memset(pinned->host, 0, 4096);
    const device_ref before = {pinned, 1024}, after = {pinned, 2048}, third = {pinned, 3072};
    const device_op ops[] = {
        {.kind = DEVICE_OP_WAIT, .name = "wait", .row_max = 1, .counter = {.counter = before}},
        {.kind = DEVICE_OP_SIGNAL, .name = "signal", .row_max = 1, .counter = {.counter = after}},
    };
    device_list *list;
    cr_assert_eq(d->api->list_record(d, ops, COUNT_OF(ops), (device_ref){pinned, 0}, 1,
                                     (device_ref){workspace, 0}, &list, &err),
                 HOTSET_OK, "%s", err.message);
    uint64_t *ask = (uint64_t *)(void *)((uint8_t *)pinned->host + 1024), *reply = ask + 128,
             *last = ask + 256;
    for (uint64_t epoch = 1; epoch < 5; epoch++) {
        cr_assert_eq(d->api->submit(q, list, epoch, &err), HOTSET_OK, "%s", err.message);
        cr_assert_eq(d->api->queue_wait(q, after, epoch, &err), HOTSET_OK);
        cr_assert_eq(d->api->queue_signal(q, third, epoch, &err), HOTSET_OK);
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
        cr_assert_eq(__atomic_load_n(reply, __ATOMIC_ACQUIRE), epoch - 1);
        __atomic_store_n(ask, epoch, __ATOMIC_RELEASE);
        cr_assert_eq(d->api->queue_drain(q, &err), HOTSET_OK, "%s", err.message);
        cr_assert(*reply == epoch && *last == epoch);
    }
    d->api->list_free(list);
    /* a wait for what never comes does not keep the queue from being closed */
    cr_assert_eq(d->api->queue_wait(q, before, 99, &err), HOTSET_OK);
    d->api->queue_close(q);
    d->api->buffer_free(pinned);
    d->api->buffer_free(workspace);
    d->api->close(d);
}

/* ---- A small piece of work: rows there, normed, back ---- */

enum { N = 100, ROWS = 2, BYTES = N * ROWS * sizeof(float), BACK_AT = 4096, PINNED_BYTES = 8192 };

typedef struct work {
    device *d;
    device_queue *queue;
    device_buffer *pinned, *memory, *workspace;
    device_list *list;
} work;

static hotset_status open_work(work *w, device *d, hotset_error *err) {
    *w = (work){.d = d};
    device_op op = {.kind = DEVICE_OP_NORM, .name = "ffn norm", .layer_i = 7, .row_max = ROWS};
    HOTSET_TRY(d->api->queue_open(d, DEVICE_QUEUE_COMPUTE, &w->queue, err));
    HOTSET_TRY(d->api->buffer_alloc(d, DEVICE_MEMORY_PINNED, PINNED_BYTES, &w->pinned, err));
    HOTSET_TRY(d->api->buffer_alloc(d, DEVICE_MEMORY_DEVICE, BYTES, &w->memory, err));
    HOTSET_TRY(
        d->api->buffer_alloc(d, DEVICE_MEMORY_DEVICE, d->api->workspace_bytes(d, &op), &w->workspace, err));
    memset(w->pinned->host, 0, PINNED_BYTES);
    ((device_step *)w->pinned->host)->row_n = ROWS;
    op.norm.x = op.norm.y = (device_rows){{w->memory, 0}, N};
    op.norm.n = N;
    op.norm.epsilon = 1;
    return d->api->list_record(d, &op, 1, (device_ref){w->pinned, 0}, ROWS, (device_ref){w->workspace, 0},
                               &w->list, err);
}

static hotset_status do_work(work *w, hotset_error *err) {
    const device_ref memory = {w->memory, 0}, back = {w->pinned, BACK_AT};
    HOTSET_TRY(w->d->api->copy_async(w->queue, memory, back, BYTES, err));
    HOTSET_TRY(w->d->api->submit(w->queue, w->list, 1, err));
    HOTSET_TRY(w->d->api->copy_async(w->queue, back, memory, BYTES, err));
    return w->d->api->queue_drain(w->queue, err);
}

static void close_work(work *w) {
    const device_interface *api = w->d->api;
    api->list_free(w->list);
    api->queue_close(w->queue);
    api->buffer_free(w->pinned);
    api->buffer_free(w->memory);
    api->buffer_free(w->workspace);
    api->close(w->d);
}

/* Every allocation, copy and launch in turn: E_DEVICE that says what was being done, for ever after; and all
 * can be freed. */
static void check_faults(const char *kind, const char *said, int call_n) {
    for (int k = 1; k <= call_n + 1; k++) {
        char properties[64];
        snprintf(properties, sizeof properties, ":1MiB:fail-%s=%d", kind, k);
        hotset_error err = {0}, again = {0};
        device *d = open_emulated(properties);
        work w;
        hotset_status status = open_work(&w, d, &err);
        if (!status) status = do_work(&w, &err);
        cr_assert_eq(status, k <= call_n ? HOTSET_E_DEVICE : HOTSET_OK, "%s: %s", properties, err.message);
        if (status) {
            device_buffer *b;
            device_queue *q;
            cr_assert(strstr(err.message, said) && strstr(err.message, "emu0"), "%s", err.message);
            cr_assert_eq(d->api->buffer_alloc(d, DEVICE_MEMORY_DEVICE, 1, &b, &again), HOTSET_E_DEVICE);
            cr_assert_str_eq(again.message, err.message);
            cr_assert_eq(d->api->queue_open(d, DEVICE_QUEUE_COPY, &q, &again), HOTSET_E_DEVICE);
        }
        close_work(&w);
    }
}

Test(emulated, every_allocation_may_fail) { check_faults("alloc", "allocating", 3); }
Test(emulated, every_copy_may_fail) { check_faults("copy", "copying 800 bytes", 2); }
Test(emulated, every_launch_may_fail) {
    check_faults("launch", "launching", 2);
    hotset_error err = {0};
    work w;
    cr_assert_eq(open_work(&w, open_emulated(":fail-launch=2"), &err), HOTSET_OK, "%s", err.message);
    cr_assert_eq(do_work(&w, &err), HOTSET_E_DEVICE);
    cr_assert(strstr(err.message, "ffn norm of layer 7"), "%s", err.message);
    close_work(&w);
}

/* Every operand that is asked with and every answer in turn: what does not compute right is not opened. */
Test(emulated, wrong_answers_are_found_at_open) {
    static const char *const asked[] = {"norm",
                                        "product of Q8_0 weights with one row",
                                        "product of Q4_K weights with one row",
                                        "product of Q8_0 weights with many rows",
                                        "product of Q4_K weights with many rows",
                                        "product of F16 weights with one row",
                                        "product of F16 weights with many rows"};
    for (size_t k = 1; k <= 2 * COUNT_OF(asked) + 1; k++) {
        device *d = NULL;
        char properties[64];
        hotset_error err = {0};
        snprintf(properties, sizeof properties, ":wrong-copy=%zu%s", k, k % 2 ? ":reverse" : "");
        hotset_status status = try_open(&d, properties, &err);
        if (k > 2 * COUNT_OF(asked)) {
            cr_assert_eq(status, HOTSET_OK, "%s", err.message);
            d->api->close(d);
            continue;
        }
        cr_assert_eq(status, HOTSET_E_DEVICE, "copy %zu", k);
        cr_assert_null(d);
        cr_assert(strstr(err.message, "emu0 computes wrongly") && strstr(err.message, asked[(k - 1) / 2]),
                  "%s", err.message);
    }
}

static void count_span(void *cookie, const device_op *op, uint32_t row_n, double begin_s, double end_s) {
    uint32_t *n = cookie;
    cr_assert_str_eq(op->name, "ffn norm");
    cr_assert_eq(row_n, ROWS);
    cr_assert(begin_s <= end_s && end_s <= base_now_s() && base_now_s() - begin_s < 60);
    ++*n;
}

Test(emulated, operations_are_traced) {
    hotset_error err = {0};
    uint32_t n = 0;
    work w;
    cr_assert_eq(open_work(&w, open_emulated(""), &err), HOTSET_OK, "%s", err.message);
    cr_assert_eq(do_work(&w, &err), HOTSET_OK);
    w.d->api->set_trace(w.d, count_span, &n);
    cr_assert_eq(do_work(&w, &err), HOTSET_OK);
    cr_assert_eq(do_work(&w, &err), HOTSET_OK);
    cr_assert_eq(n, 2);
    w.d->api->set_trace(w.d, NULL, NULL);
    cr_assert_eq(do_work(&w, &err), HOTSET_OK);
    cr_assert_eq(n, 2);
    close_work(&w);
}

Test(emulated, lists_that_cannot_run_are_refused_by_name) {
    hotset_error err = {0};
    work w;
    device *cpu; /* first: LeakSanitizer does not get over libraries that hwloc loads behind the module */
    cr_assert_eq(device_cpu_open(&cpu, &(device_cpu_options){.thread_n = 1}, &err), HOTSET_OK);
    cr_assert_eq(open_work(&w, open_emulated(""), &err), HOTSET_OK, "%s", err.message);
    const device_ref step = {w.pinned, 0}, workspace = {w.workspace, 0};
    device_list *list = (device_list *)&list;
    device_op op = {.kind = DEVICE_OP_EMBED, .name = "embed", .layer_i = 3, .row_max = 1};
    op.embed.table = (device_matrix){.type = GGUF_IQ2_S, .in_n = 256, .out_n = 1};
    cr_assert_eq(w.d->api->workspace_bytes(w.d, &op), 0);
    cr_assert_eq(w.d->api->list_record(w.d, &op, 1, step, 1, workspace, &list, &err), HOTSET_E_UNSUPPORTED);
    cr_assert(strstr(err.message, "embed of layer 3") && strstr(err.message, "IQ2_S"), "%s", err.message);
    cr_assert_null(list);
    /* operands in memory of the CPU, and in a mapped file */
    device_buffer *foreign, *mapped;
    cr_assert_eq(cpu->api->buffer_alloc(cpu, DEVICE_MEMORY_PINNED, 4096, &foreign, &err), HOTSET_OK);
    cr_assert_eq(w.d->api->buffer_wrap(w.d, foreign->host, 4096, &mapped, &err), HOTSET_OK);
    op = (device_op){.kind = DEVICE_OP_NORM, .name = "norm", .row_max = 1, .norm = {.n = 4}};
    device_buffer *const out_of_reach[] = {foreign, mapped};
    for (int i = 0; i < 2; i++) {
        op.norm.x = op.norm.y = (device_rows){{out_of_reach[i], 0}, 4};
        cr_assert_eq(w.d->api->list_record(w.d, &op, 1, step, 1, workspace, &list, &err),
                     HOTSET_E_UNSUPPORTED);
        cr_assert(strstr(err.message, i ? "mapped files" : "memory of cpu"), "%s", err.message);
    }
    op.norm.x = op.norm.y = (device_rows){{w.memory, 0}, 4};
    op.row_max = 50;
    cr_assert_eq(w.d->api->list_record(w.d, &op, 1, step, 50, workspace, &list, &err), HOTSET_E_ARGUMENT);
    cr_assert(strstr(err.message, "workspace"), "%s", err.message);
    w.d->api->buffer_free(mapped);
    cpu->api->buffer_free(foreign);
    cpu->api->close(cpu);
    close_work(&w);
}

/* From the file by rows to the device by neuron, and from the device too. */
Test(emulated, matrices_are_stored_by_neuron) {
    enum { IN = 64, OUT = 96 };
    device *d = open_emulated("");
    hotset_error err = {0};
    device_queue *q;
    device_buffer *file, *there, *stored, *back;
    device_matrix shape = {
        .type = GGUF_Q4_0, .in_n = IN, .out_n = OUT, .row_bytes = gguf_row_bytes(GGUF_Q4_0, IN)};
    const uint64_t bytes = shape.row_bytes * OUT;
    static uint8_t rows[OUT * IN], want[OUT * IN];
    for (size_t i = 0; i < sizeof rows; i++) rows[i] = (uint8_t)(i * 37 + i / 256);
    neurons_store(want, rows, shape.row_bytes, shape.type, IN, OUT, 0, OUT);
    cr_assert_eq(d->api->queue_open(d, DEVICE_QUEUE_COPY, &q, &err), HOTSET_OK);
    cr_assert_eq(d->api->buffer_wrap(d, rows, bytes, &file, &err), HOTSET_OK);
    cr_assert_eq(d->api->buffer_alloc(d, DEVICE_MEMORY_DEVICE, bytes, &there, &err), HOTSET_OK);
    cr_assert_eq(d->api->buffer_alloc(d, DEVICE_MEMORY_DEVICE, bytes + 64, &stored, &err), HOTSET_OK);
    cr_assert_eq(d->api->buffer_alloc(d, DEVICE_MEMORY_PINNED, bytes, &back, &err), HOTSET_OK);
    cr_assert_eq(d->api->copy_async(q, (device_ref){there, 0}, (device_ref){file, 0}, bytes, &err),
                 HOTSET_OK);
    device_buffer *const sources[] = {file, there};
    for (int i = 0; i < 2; i++) {
        memset(back->host, 0, bytes);
        cr_assert_eq(
            d->api->copy_reordered(q, (device_ref){stored, 64}, (device_ref){sources[i], 0}, &shape, &err),
            HOTSET_OK, "%s", err.message);
        cr_assert_eq(d->api->copy_async(q, (device_ref){back, 0}, (device_ref){stored, 64}, bytes, &err),
                     HOTSET_OK);
        cr_assert_eq(d->api->queue_drain(q, &err), HOTSET_OK);
        cr_assert_eq(memcmp(back->host, want, bytes), 0);
    }
    d->api->queue_close(q);
    d->api->buffer_free(file);
    d->api->buffer_free(there);
    d->api->buffer_free(stored);
    d->api->buffer_free(back);
    d->api->close(d);
}

Test(emulated, tells_its_limits) {
    device *d = open_emulated(":8MiB");
    hotset_error err = {0};
    hotset_limits limits;
    cr_assert_eq(d->api->measure(d, NULL, 0, 0.03, &limits, &err), HOTSET_OK, "%s", err.message);
    cr_assert(limits.read_anonymous_bytes_per_s > 0 && limits.int8_op_per_s > 0 &&
              limits.float_flop_per_s > 0);
    cr_assert_eq(limits.read_mapped_bytes_per_s, 0);
    d->api->close(d);
}

Test(emulated, there_can_be_several) {
    device *d[3];
    hotset_error err = {0};
    for (int i = 0; i < 3; i++) d[i] = open_emulated(":1MiB");
    work w[3];
    for (int i = 0; i < 3; i++) cr_assert_eq(open_work(&w[i], d[i], &err), HOTSET_OK, "%s", err.message);
    for (int i = 0; i < 3; i++) cr_assert_eq(do_work(&w[i], &err), HOTSET_OK, "%s", err.message);
    for (int i = 0; i < 3; i++) close_work(&w[i]);
}
