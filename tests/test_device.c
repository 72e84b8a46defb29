/* test_device.c - the CPU through the device interface: memory, copies, counters, lists that cannot be
 * recorded. */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "devices/cpu/selftest.h"
#include "devices/device.h"

typedef struct setup {
    device *cpu;
    device_queue *queue;
} setup;

static setup set_up(void) {
    setup s;
    hotset_error err = {0};
    cr_assert_eq(device_cpu_open(&s.cpu, &(device_cpu_options){.thread_n = 2}, &err), HOTSET_OK, "%s",
                 err.message);
    cr_assert_eq(s.cpu->api->queue_open(s.cpu, DEVICE_QUEUE_COMPUTE, &s.queue, &err), HOTSET_OK);
    return s;
}

static void tear_down(setup s) {
    s.cpu->api->queue_close(s.queue);
    s.cpu->api->close(s.cpu);
}

static device_buffer *allocate(setup s, uint64_t bytes) {
    device_buffer *b;
    hotset_error err = {0};
    cr_assert_eq(s.cpu->api->buffer_alloc(s.cpu, DEVICE_MEMORY_PINNED, bytes, &b, &err), HOTSET_OK, "%s",
                 err.message);
    return b;
}

Test(device, copies_what_it_is_told_and_no_more) {
    setup s = set_up();
    enum { BYTES = 5 << 20 };
    device_buffer *from = allocate(s, BYTES), *to = allocate(s, BYTES);
    memset(from->host, 7, BYTES);
    hotset_error err = {0};
    const uint64_t sizes[] = {100, BYTES - 200};
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        memset(to->host, 0, BYTES);
        device_ref at = {to, 64}, source = {from, 128};
        cr_assert_eq(s.cpu->api->copy_async(s.queue, at, source, sizes[i], &err), HOTSET_OK);
        cr_assert_eq(s.cpu->api->queue_drain(s.queue, &err), HOTSET_OK);
        const uint8_t *p = to->host;
        cr_assert(p[63] == 0 && p[64] == 7 && p[63 + sizes[i]] == 7 && p[64 + sizes[i]] == 0);
    }
    s.cpu->api->buffer_free(from);
    s.cpu->api->buffer_free(to);
    tear_down(s);
}

Test(device, refuses_more_memory_than_there_is) {
    setup s = set_up();
    device_buffer *b = (device_buffer *)&b;
    hotset_error err = {0};
    uint64_t capacity, available;
    cr_assert_eq(s.cpu->api->memory(s.cpu, &capacity, &available, &err), HOTSET_OK);
    cr_assert(available > 0 && available <= capacity);
    cr_assert_eq(s.cpu->api->buffer_alloc(s.cpu, DEVICE_MEMORY_DEVICE, UINT64_MAX - 4096, &b, &err),
                 HOTSET_E_MEMORY);
    cr_assert_null(b);
    tear_down(s);
}

/* A list that waits for one counter and signals another: what several devices will do to each other. */
Test(device, lists_wait_and_signal) {
    setup s = set_up();
    device_buffer *tables = allocate(s, 4096);
    device_ref step = {tables, 0}, before = {tables, 1024}, after = {tables, 2048},
               workspace = {tables, 3072};
    const device_op ops[] = {
        {.kind = DEVICE_OP_WAIT, .name = "wait", .row_max = 1, .counter = {.counter = before}},
        {.kind = DEVICE_OP_SIGNAL, .name = "signal", .row_max = 1, .counter = {.counter = after}},
    };
    device_list *list;
    hotset_error err = {0};
    cr_assert_eq(s.cpu->api->list_record(s.cpu, ops, COUNT_OF(ops), step, 1, workspace, &list, &err),
                 HOTSET_OK);
    for (uint64_t epoch = 1; epoch < 4; epoch++) {
        cr_assert_eq(s.cpu->api->queue_signal(s.queue, before, epoch, &err), HOTSET_OK);
        cr_assert_eq(s.cpu->api->submit(s.queue, list, epoch, &err), HOTSET_OK);
        cr_assert_eq(s.cpu->api->queue_wait(s.queue, after, epoch, &err), HOTSET_OK);
        cr_assert_eq(*(const uint64_t *)(const void *)((const uint8_t *)tables->host + after.offset), epoch);
    }
    s.cpu->api->list_free(list);
    s.cpu->api->buffer_free(tables);
    tear_down(s);
}

/* Bits of rows whose last word is not full, into memory that held something else. */
Test(device, tallies_bits_row_by_row) {
    enum { N = 131, ROW_N = 9, STRIDE = 140, WORD_N = 3 };
    setup s = set_up();
    device_buffer *tables = allocate(s, 4096), *values = allocate(s, ROW_N * STRIDE * sizeof(float));
    device_buffer *record = allocate(s, (ROW_N + 1) * WORD_N * sizeof(uint64_t));
    device_op op = {.kind = DEVICE_OP_TALLY, .name = "ffn use", .row_max = ROW_N};
    op.tally.kind = DEVICE_TALLY_BITS;
    op.tally.x = (device_rows){{values, 0}, STRIDE};
    op.tally.n = N;
    op.tally.record = (device_ref){record, 0};
    float *x = values->host;
    uint64_t *bits = record->host;
    for (int i = 0; i < ROW_N * STRIDE; i++) x[i] = i % 3 ? i % 5 ? -1.0f : -0.0f : i % 7 ? 1e-40f : NAN;
    memset(bits, 0xA5, record->bytes);
    device_list *list;
    hotset_error err = {0};
    ((device_step *)tables->host)->row_n = ROW_N;
    cr_assert_eq(s.cpu->api->list_record(s.cpu, &op, 1, (device_ref){tables, 0}, ROW_N,
                                         (device_ref){tables, 2048}, &list, &err),
                 HOTSET_OK, "%s", err.message);
    cr_assert_eq(s.cpu->api->submit(s.queue, list, 1, &err), HOTSET_OK);
    for (int i = 0; i < ROW_N * WORD_N * 64; i++) {
        int row = i / (WORD_N * 64), unit = i % (WORD_N * 64);
        bool active = unit < N && x[row * STRIDE + unit] > 0;
        cr_assert_eq(bits[i / 64] >> i % 64 & 1, active, "row %d, value %d", row, unit);
    }
    for (int i = ROW_N * WORD_N; i < (ROW_N + 1) * WORD_N; i++) cr_assert_eq(bits[i], 0xA5A5A5A5A5A5A5A5u);
    s.cpu->api->list_free(list);
    s.cpu->api->buffer_free(tables);
    s.cpu->api->buffer_free(values);
    s.cpu->api->buffer_free(record);
    tear_down(s);
}

Test(device, lists_that_cannot_run_are_refused_by_name) {
    setup s = set_up();
    device_buffer *tables = allocate(s, 1 << 16);
    device_ref step = {tables, 0}, short_workspace = {tables, (1 << 16) - 64};
    device_op op = {.kind = DEVICE_OP_LINEAR, .name = "attn qkv", .layer_i = 3, .row_max = 1};
    op.linear.part_n = 1;
    op.linear.part[0].w = (device_matrix){.type = GGUF_NVFP4, .in_n = 2048, .out_n = 32, .row_bytes = 1152};
    device_list *list = (device_list *)&list;
    hotset_error err = {0};
    cr_assert_eq(s.cpu->api->list_record(s.cpu, &op, 1, step, 1, short_workspace, &list, &err),
                 HOTSET_E_UNSUPPORTED);
    cr_assert(strstr(err.message, "attn qkv of layer 3") && strstr(err.message, "NVFP4"), "%s", err.message);
    cr_assert_null(list);
    op.linear.part[0].w.type = GGUF_F32;
    op.linear.part[0].w.row_bytes = 8192;
    cr_assert_eq(s.cpu->api->list_record(s.cpu, &op, 1, step, 1, short_workspace, &list, &err),
                 HOTSET_E_ARGUMENT);
    cr_assert(strstr(err.message, "workspace"), "%s", err.message);
    s.cpu->api->buffer_free(tables);
    tear_down(s);
}

/* The linker has the CPU call these (--wrap) in place of cpu_selftest. */
static struct {
    gguf_type last;
    uint32_t n;
    uint64_t types; /* bit i: of gguf_type i */
    bool fails;
} selftests;
hotset_status __real_cpu_selftest(const cpu_kernels *k, gguf_type type, hotset_error *err);
hotset_status __wrap_cpu_selftest(const cpu_kernels *k, gguf_type type, hotset_error *err);
hotset_status __wrap_cpu_selftest(const cpu_kernels *k, gguf_type type, hotset_error *err) {
    selftests.last = type;
    selftests.n++;
    selftests.types |= (uint64_t)1 << type;
    if (selftests.fails) return hotset_fail(err, HOTSET_E_DEVICE, "wrong");
    return __real_cpu_selftest(k, type, err);
}

/* Records a list with two products of weights of one type, and lets it go. */
static hotset_status record_products(setup s, gguf_type type, device_buffer *memory, hotset_error *err) {
    device_op op = {.kind = DEVICE_OP_LINEAR, .name = "ffn gate, up", .row_max = 1};
    op.linear.part_n = 2;
    for (size_t i = 0; i < 2; i++)
        op.linear.part[i].w =
            (device_matrix){.type = type, .in_n = 2048, .out_n = 32, .row_bytes = gguf_row_bytes(type, 2048)};
    device_list *list;
    hotset_status status = s.cpu->api->list_record(s.cpu, &op, 1, (device_ref){memory, 0}, 1,
                                                   (device_ref){memory, 4096}, &list, err);
    if (!status) s.cpu->api->list_free(list);
    return status;
}

Test(device, kernels_are_tested_once_and_before_a_list_has_them) {
    setup s = set_up();
    device_buffer *memory = allocate(s, 1 << 20);
    hotset_error err = {0};
    selftests.n = 0;
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(record_products(s, GGUF_Q4_0, memory, &err), HOTSET_OK, "%s", err.message);
        cr_assert(selftests.n == 1 && selftests.last == GGUF_Q4_0, "%u tests", selftests.n);
    }
    selftests.fails = true;
    cr_assert_eq(record_products(s, GGUF_Q8_0, memory, &err), HOTSET_E_DEVICE);
    cr_assert(selftests.n == 2 && selftests.last == GGUF_Q8_0);
    cr_assert_eq(record_products(s, GGUF_Q4_0, memory, &err), HOTSET_OK, "tested before");
    selftests.fails = false;
    cr_assert_eq(record_products(s, GGUF_Q8_0, memory, &err), HOTSET_OK, "%s", err.message);
    cr_assert_eq(selftests.n, 3, "one that failed is no test");
    s.cpu->api->buffer_free(memory);
    tear_down(s);
}

/* Blocks by row are multiplied as F32 tiles. */
Test(device, blocks_by_row_have_the_kernels_of_floats_tested) {
    enum { IN_N = 512, OUT_N = 256 };
    setup s = set_up();
    device_buffer *memory = allocate(s, 1 << 20);
    device_op op = {.kind = DEVICE_OP_LINEAR, .name = "ffn down", .row_max = 8};
    op.linear.part_n = 1;
    op.linear.part[0].w = (device_matrix){.type = GGUF_Q4_0,
                                          .in_n = IN_N,
                                          .out_n = OUT_N,
                                          .row_bytes = gguf_row_bytes(GGUF_Q4_0, OUT_N),
                                          .order = NEURONS_BY_ROW};
    const uint64_t both = (uint64_t)1 << GGUF_Q4_0 | (uint64_t)1 << GGUF_F32;
    device_list *list;
    hotset_error err = {0};
    selftests.n = 0;
    selftests.types = 0;
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(s.cpu->api->list_record(s.cpu, &op, 1, (device_ref){memory, 0}, 8,
                                             (device_ref){memory, 4096}, &list, &err),
                     HOTSET_OK, "%s", err.message);
        s.cpu->api->list_free(list);
        cr_assert(selftests.n == 2 && selftests.types == both, "%u tests, of types 0x%llx", selftests.n,
                  (unsigned long long)selftests.types);
    }
    s.cpu->api->buffer_free(memory);
    tear_down(s);
}

static uint32_t attention_n; /* calls of cpu_selftest_attention */
hotset_status __real_cpu_selftest_attention(const cpu_kernels *k, const cpu_attention *a, hotset_error *err);
hotset_status __wrap_cpu_selftest_attention(const cpu_kernels *k, const cpu_attention *a, hotset_error *err);
hotset_status __wrap_cpu_selftest_attention(const cpu_kernels *k, const cpu_attention *a, hotset_error *err) {
    attention_n++;
    if (selftests.fails) return hotset_fail(err, HOTSET_E_DEVICE, "wrong");
    return __real_cpu_selftest_attention(k, a, err);
}

Test(device, attention_is_tested_once_of_each_kind) {
    setup s = set_up();
    device_buffer *memory = allocate(s, 1 << 20);
    device_op ops[12];
    for (size_t i = 0; i < COUNT_OF(ops); i++) {
        ops[i] = (device_op){.kind = DEVICE_OP_ATTEND, .name = "attention", .row_max = 1};
        ops[i].attend.head_n = 4;
        ops[i].attend.head_kv_n = 2;
        ops[i].attend.key_n = ops[i].attend.value_n = 64;
        ops[i].attend.context_n = DEVICE_STATE_GROUP;
        ops[i].attend.state = GGUF_F16;
        ops[i].attend.scale = 1;
    }
    ops[1].layer_i = 1;
    ops[2].attend.state = GGUF_F32;
    ops[3].attend.rounded = true;
    ops[4].attend.value_step = 64;
    ops[5].attend.head_kv_n = 1;
    ops[6].attend.key_n = 128;
    ops[7].attend.value_n = 128;
    for (size_t i = 8; i < COUNT_OF(ops); i++) ops[i].attend.key_n = 16 * (uint32_t)(i + 1);
    const device_ref step = {memory, 0}, workspace = {memory, 4096};
    device_list *list;
    hotset_error err = {0};
    selftests.fails = true;
    cr_assert_eq(s.cpu->api->list_record(s.cpu, ops, 1, step, 1, workspace, &list, &err), HOTSET_E_DEVICE);
    selftests.fails = false;
    attention_n = 0;
    uint32_t wanted_n = 0;
    for (uint32_t op_n = 1; op_n <= COUNT_OF(ops); op_n++) {
        const uint32_t kept_n = 8, kind_n = op_n > 1 ? op_n - 1 : 1; /* the first two are of one */
        if (op_n != 2) wanted_n += kind_n > kept_n ? kind_n - kept_n : 1;
        cr_assert_eq(s.cpu->api->list_record(s.cpu, ops, op_n, step, 1, workspace, &list, &err), HOTSET_OK,
                     "%s", err.message);
        s.cpu->api->list_free(list);
        cr_expect_eq(attention_n, wanted_n, "%u operations: %u tests", op_n, attention_n);
    }
    s.cpu->api->buffer_free(memory);
    tear_down(s);
}

Test(device, operations_that_are_refused_need_no_workspace) {
    setup s = set_up();
    device_op op = {.kind = DEVICE_OP_LINEAR, .name = "attn qkv", .row_max = 1};
    op.linear.part_n = 1;
    op.linear.part[0].w = (device_matrix){.type = GGUF_I32, .in_n = 2048, .out_n = 32, .row_bytes = 8192};
    cr_assert_eq(s.cpu->api->workspace_bytes(s.cpu, &op), 0);
    op.linear.part[0].w = (device_matrix){.type = GGUF_Q8_0, .in_n = 2048, .out_n = 32, .row_bytes = 2176};
    cr_assert_gt(s.cpu->api->workspace_bytes(s.cpu, &op), 0);
    tear_down(s);
}

Test(device, the_cpu_tells_what_it_is) {
    device_cpu_facts facts;
    hotset_error err = {0};
    cr_assert_eq(device_cpu_get_facts(&facts, &err), HOTSET_OK, "%s", err.message);
    cr_assert(facts.thread_n > 0 && facts.hardware_thread_n >= facts.thread_n);
    cr_assert(facts.package_n > 0 && facts.package_n <= facts.thread_n);
    cr_assert(facts.memory_free_bytes > 0);
    cr_assert_not_null(memchr(facts.model, 0, sizeof facts.model));
}

Test(device, every_kind_of_operation_has_a_name) {
    for (int kind = 0; kind < DEVICE_OP_COUNT; kind++)
        cr_assert_not_null(device_op_kind_name((device_op_kind)kind));
}
