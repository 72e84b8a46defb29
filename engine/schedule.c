/* schedule.c - compiling the forward pass into recorded lists. */
#include "engine/schedule.h"

#include <assert.h>

static uint32_t bucket_rows(uint32_t i, uint32_t batch_n) { return (uint32_t)min_u64(1ull << i, batch_n); }

static uint32_t bucket_count(uint32_t batch_n) {
    uint32_t n = 1;
    while (bucket_rows(n - 1, batch_n) < batch_n) n++;
    assert(n <= SCHEDULE_BUCKET_MAX);
    return n;
}

static uint32_t output_rows(uint32_t row_max) { return (uint32_t)min_u64(row_max, FOOTPRINT_OUTPUT_MAX); }

static hotset_status check_list(const forward_list *list, hotset_error *err) {
    return list->failed ? hotset_fail(err, HOTSET_E_MEMORY, "out of memory for a schedule") : HOTSET_OK;
}

/* Calls fn for the body and the head of one bucket. */
typedef hotset_status list_fn(void *cookie, const forward_list *list, uint32_t row_max, bool head,
                              hotset_error *err);

static hotset_status each_list(const forward_place *place, uint32_t row_max, list_fn *fn, void *cookie,
                               hotset_error *err) {
    hotset_status status = HOTSET_OK;
    for (int head = 0; head < 2 && !status; head++) {
        forward_list list = {0};
        if (head)
            forward_head(&list, place, output_rows(row_max));
        else
            forward_body(&list, place, row_max);
        status = check_list(&list, err);
        if (!status) status = fn(cookie, &list, row_max, head, err);
        forward_list_free(&list);
    }
    return status;
}

typedef struct workspace_max {
    const device *device;
    uint64_t bytes;
} workspace_max;

static hotset_status widen(void *cookie, const forward_list *list, uint32_t row_max, bool head,
                           hotset_error *err) {
    (void)row_max, (void)head, (void)err;
    workspace_max *max = cookie;
    for (uint32_t i = 0; i < list->op_n; i++)
        max->bytes = max_u64(max->bytes, max->device->api->workspace_bytes(max->device, &list->op[i]));
    return HOTSET_OK;
}

hotset_status schedule_workspace_bytes(const forward_place *place, const device *d, uint32_t batch_n,
                                       uint64_t *out, hotset_error *err) {
    workspace_max max = {.device = d};
    for (uint32_t i = 0; i < bucket_count(batch_n); i++)
        HOTSET_TRY(each_list(place, bucket_rows(i, batch_n), widen, &max, err));
    *out = max.bytes;
    return HOTSET_OK;
}

static hotset_status count_ops(void *cookie, const forward_list *list, uint32_t row_max, bool head,
                               hotset_error *err) {
    (void)row_max, (void)head, (void)err;
    *(uint64_t *)cookie += list->op_n + 1;
    return HOTSET_OK;
}

hotset_status schedule_list_bytes(const forward_place *place, uint32_t batch_n, uint64_t *out,
                                  hotset_error *err) {
    uint64_t op_n = 0;
    for (uint32_t i = 0; i < bucket_count(batch_n); i++)
        HOTSET_TRY(each_list(place, bucket_rows(i, batch_n), count_ops, &op_n, err));
    *out = op_n * (sizeof(device_op) + 2 * FOOTPRINT_ALIGN);
    return HOTSET_OK;
}

/* Bytes of a row that an operation reads or writes where devices hand things to each other. */
static uint64_t handed_bytes(const device_op *op, const device_buffer *shared) {
    uint64_t n = 0;
    if (op->kind == DEVICE_OP_COPY)
        n = (uint64_t)op->copy.n * ((op->copy.x.ref.buffer == shared) + (op->copy.y.ref.buffer == shared));
    else if (op->kind == DEVICE_OP_COMBINE && op->combine.y.ref.buffer == shared)
        n = op->combine.n;
    else if (op->kind == DEVICE_OP_LINEAR)
        for (uint32_t i = 0; i < op->linear.part_n; i++)
            if (op->linear.part[i].y.ref.buffer == shared) n += op->linear.part[i].w.out_n;
    return n * sizeof(float);
}

typedef struct recording {
    device *device;
    const device_buffer *shared;
    device_ref step, workspace;
    uint32_t batch_n;
    schedule_bucket *bucket;
} recording;

static hotset_status record(void *cookie, const forward_list *list, uint32_t row_max, bool head,
                            hotset_error *err) {
    (void)row_max;
    recording *r = cookie;
    uint64_t *bytes = head ? &r->bucket->head_handed_bytes : &r->bucket->body_handed_bytes;
    if (!list->op_n) return HOTSET_OK;
    for (uint32_t i = 0; i < list->op_n; i++) *bytes += handed_bytes(&list->op[i], r->shared);
    return r->device->api->list_record(r->device, list->op, list->op_n, r->step, r->batch_n, r->workspace,
                                       head ? &r->bucket->head : &r->bucket->body, err);
}

hotset_status schedule_build(schedule *s, device *d, const forward_place *place, device_ref step,
                             uint32_t batch_n, hotset_error *err) {
    *s = (schedule){.device = d};
    for (uint32_t i = 0; i < bucket_count(batch_n); i++) {
        schedule_bucket *bucket = &s->bucket[s->bucket_n++];
        bucket->row_max = bucket_rows(i, batch_n);
        recording r = {d,       place->exchange.buffer,
                       step,    device_ref_at(place->scratch, place->layout.workspace),
                       batch_n, bucket};
        HOTSET_TRY(each_list(place, bucket->row_max, record, &r, err));
    }
    return HOTSET_OK;
}

void schedule_free(schedule *s) {
    for (uint32_t i = 0; i < s->bucket_n; i++) {
        s->device->api->list_free(s->bucket[i].body);
        s->device->api->list_free(s->bucket[i].head);
    }
    *s = (schedule){0};
}

const schedule_bucket *schedule_find(const schedule *s, uint32_t row_n) {
    uint32_t i = 0;
    while (s->bucket[i].row_max < row_n) i++;
    assert(i < s->bucket_n);
    return &s->bucket[i];
}
