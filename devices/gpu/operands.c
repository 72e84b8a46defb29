/* operands.c - where the operands of an operation stand: every reference into a buffer that it has. */
#include "devices/gpu/gpu.h"

typedef struct refs {
    device_ref *at;
    uint32_t n;
} refs;

static void add(refs *r, device_ref ref) {
    if (ref.buffer) r->at[r->n++] = ref;
}

static void add_rows(refs *r, device_rows rows) { add(r, rows.ref); }

static void add_matrix(refs *r, const device_matrix *m) {
    add(r, m->data);
    if (m->unit_n) add(r, m->unit_offset);
}

static void add_parts(refs *r, const device_linear_part *part, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        add_matrix(r, &part[i].w);
        add(r, part[i].bias);
        add_rows(r, part[i].y);
    }
}

static void add_choice(refs *r, const device_choice *c) {
    add(r, c->verdict);
    add_rows(r, c->list);
}

static void add_attention(refs *r, const device_op *op) {
    if (op->kind == DEVICE_OP_ATTEND) {
        add_rows(r, op->attend.q);
        add_rows(r, op->attend.y);
        add(r, op->attend.sinks);
        add(r, op->attend.key_state);
        add(r, op->attend.value_state);
        return;
    }
    add_rows(r, op->prepare.q);
    add_rows(r, op->prepare.k);
    add_rows(r, op->prepare.v);
    add_rows(r, op->prepare.rotary);
    add(r, op->prepare.q_norm);
    add(r, op->prepare.k_norm);
    add(r, op->prepare.key_state);
    add(r, op->prepare.value_state);
}

static void add_ffn(refs *r, const device_op *op) {
    switch ((int)op->kind) {
    case DEVICE_OP_SELECT:
        add_rows(r, op->select.x);
        add_choice(r, &op->select.choice);
        add(r, op->select.skipped);
        break;
    case DEVICE_OP_ACTIVATE:
        add_rows(r, op->activate.gate);
        add_rows(r, op->activate.up);
        add_rows(r, op->activate.y);
        add_rows(r, op->activate.score);
        add_choice(r, &op->activate.choice);
        break;
    case DEVICE_OP_ROUTE:
        add_rows(r, op->route.logits);
        add(r, op->route.bias);
        add_rows(r, op->route.id);
        add_rows(r, op->route.weight);
        break;
    case DEVICE_OP_EXPERTS:
        add_rows(r, op->experts.x);
        add_rows(r, op->experts.id);
        add_parts(r, op->experts.part, op->experts.part_n);
        add_choice(r, &op->experts.choice);
        break;
    case DEVICE_OP_COMBINE:
        add_rows(r, op->combine.x);
        add_rows(r, op->combine.weight);
        add_rows(r, op->combine.y);
        break;
    case DEVICE_OP_CAP: add_rows(r, op->cap.x); break;
    case DEVICE_OP_COPY:
        add_rows(r, op->copy.x);
        add_rows(r, op->copy.y);
        break;
    case DEVICE_OP_TALLY:
        add_rows(r, op->tally.x);
        add_rows(r, op->tally.weight);
        add_rows(r, op->tally.also);
        add_rows(r, op->tally.score);
        add(r, op->tally.record);
        break;
    }
}

uint32_t gpu_operands(const device_op *op, device_ref list[GPU_REFS_MAX]) {
    refs r = {list, 0};
    switch (op->kind) {
    case DEVICE_OP_EMBED:
        add_matrix(&r, &op->embed.table);
        add_rows(&r, op->embed.y);
        break;
    case DEVICE_OP_ROTARY:
        add(&r, op->rotary.inverse_frequency);
        add_rows(&r, op->rotary.y);
        break;
    case DEVICE_OP_NORM:
        add_rows(&r, op->norm.x);
        add_rows(&r, op->norm.y);
        add(&r, op->norm.weight);
        add(&r, op->norm.bias);
        break;
    case DEVICE_OP_LINEAR:
        add_rows(&r, op->linear.x);
        add_parts(&r, op->linear.part, op->linear.part_n);
        add_choice(&r, &op->linear.choice);
        break;
    case DEVICE_OP_PREPARE:
    case DEVICE_OP_ATTEND: add_attention(&r, op); break;
    case DEVICE_OP_GATHER:
        add_rows(&r, op->gather.x);
        add_rows(&r, op->gather.y);
        break;
    case DEVICE_OP_PICK:
        add_rows(&r, op->pick.x);
        add_rows(&r, op->pick.id);
        break;
    case DEVICE_OP_WAIT:
    case DEVICE_OP_SIGNAL: add(&r, op->counter.counter); break;
    default: add_ffn(&r, op); break;
    }
    return r.n;
}
