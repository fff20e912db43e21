/* SPDX-License-Identifier: Apache-2.0 */
/* The side `vgpu`: a guest of vgpud, through libvgpu. */
#include "bench/peers/tenant.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "guest-lib/vgpu.h"
#include "rings/abi/vgpu_abi.h"

#define BURST     32u
#define SLOTS_MAX 64u
#define CHURN_NS  400000000L /* between a detach and the next attach */
#define CHURN_N   256u

struct guest {
    struct side side; /* first: guest_of() */
    struct vgpu *v;
    struct vgpu_options options;
    struct vgpu_buffer arena, device;
    struct vgpu_request requests[SLOTS_MAX];
    uint32_t slots;
    uint64_t patience_ns;
    uint64_t taken; /* completions since prepare */
    char socket_path[128], token_path[128];
};

static struct guest *guest_of(struct side *s)
{
    return (struct guest *)s;
}

static int fault(struct guest *g, int rc, const char *what)
{
    const char *why = g->v ? vgpu_strerror(g->v) : "";

    snprintf(g->side.text, sizeof(g->side.text), "%s: %s", what, *why ? why : strerror(-rc));
    return rc;
}

/* Tries again while there is no daemon, or no executor, yet. */
static int attach(struct guest *g, char *text)
{
    uint64_t since = vgpu_now_ns();
    struct timespec nap = {.tv_nsec = 20000000};
    int rc;

    for (;;) {
        rc = vgpu_open(&g->options, &g->v, text, TENANT_TEXT_BYTES);
        if ((rc != -EAGAIN && rc != -ENOENT && rc != -ECONNREFUSED && rc != -EBUSY) ||
            vgpu_now_ns() - since > g->patience_ns)
            return rc;
        nanosleep(&nap, NULL);
    }
}

static int areas_take(struct guest *g, uint64_t device_bytes)
{
    struct vgpu_properties props;
    int rc = vgpu_properties_get(g->v, &props);

    if (!rc)
        rc = vgpu_arena_alloc(g->v, g->options.arena_bytes ? g->options.arena_bytes : props.arena_bytes, &g->arena);
    if (rc)
        return fault(g, rc, "arena");
    g->side.host = g->arena.host_ptr;
    g->side.host_bytes = g->arena.bytes;
    if (device_bytes > props.max_device_bytes)
        device_bytes = props.max_device_bytes;
    rc = device_bytes ? vgpu_device_alloc(g->v, device_bytes, &g->device) : 0;
    g->side.device_bytes = g->device.bytes;
    return rc ? fault(g, rc, "device memory") : 0;
}

static int guest_open(const struct tenant_options *o, struct side **out, char *text)
{
    struct guest *g = calloc(1, sizeof(*g));

    if (!g)
        return -ENOMEM;
    g->side.ops = &side_guest;
    g->patience_ns = o->patience_s * UINT64_C(1000000000);
    snprintf(g->socket_path, sizeof(g->socket_path), "%s", o->socket_path ? o->socket_path : "");
    snprintf(g->token_path, sizeof(g->token_path), "%s", o->token_path ? o->token_path : "");
    g->options = (struct vgpu_options){.vm_id = o->vm_id,
                                       .socket_path = *g->socket_path ? g->socket_path : NULL,
                                       .token_path = *g->token_path ? g->token_path : NULL,
                                       .arena_bytes = o->host_bytes};
    int rc = attach(g, text);
    if (!rc) {
        rc = areas_take(g, o->device_bytes);
        if (rc)
            snprintf(text, TENANT_TEXT_BYTES, "%s", g->side.text);
    }
    if (rc) {
        vgpu_close(g->v);
        free(g);
        return rc;
    }
    *out = &g->side;
    return 0;
}

static void guest_close(struct side *s)
{
    struct guest *g = guest_of(s);

    vgpu_close(g->v);
    free(g);
}

static int guest_move(struct side *s, bool to_device, uint64_t dev_off, uint64_t host_off, uint64_t bytes)
{
    struct guest *g = guest_of(s);
    struct vgpu_buffer dev = vgpu_buffer_at(&g->device, dev_off), host = vgpu_buffer_at(&g->arena, host_off);

    if (!g->v)
        return fault(g, -ENOTCONN, "copy");
    int rc = vgpu_copy(g->v, to_device ? &dev : &host, to_device ? &host : &dev, bytes);

    return rc ? fault(g, rc, "copy") : 0;
}

/* ---- Cells ---- */
static struct vgpu_request request_make(struct guest *g, const struct plan *p, uint32_t slot)
{
    const struct tenant_cell *cell = &p->cell;
    struct vgpu_buffer *area = cell->data == TENANT_ARENA ? &g->arena : &g->device;
    uint64_t at = slot * p->stride;
    struct vgpu_buffer a = vgpu_buffer_at(area, at + p->a), b = vgpu_buffer_at(area, at + p->b),
                       c = vgpu_buffer_at(area, at + p->c);
    struct vgpu_request copy = {.opcode = VGPU_OP_COPY, .n = cell->n}, nop = {.opcode = VGPU_OP_NOP};

    switch (cell->op) {
    case TENANT_VADD:
        return vgpu_req_vector_add(&c, &a, &b, cell->n);
    case TENANT_GEMM:
        return vgpu_req_gemm(&c, &a, &b, (uint32_t)cell->n, (uint32_t)cell->n, (uint32_t)cell->n, 1.0f, 0.0f, 0,
                             cell->bf16 ? VGPU_BF16 : VGPU_F32);
    case TENANT_COPY_H2D:
        copy.dst = g->device;
        copy.src0 = g->arena;
        return copy;
    case TENANT_COPY_D2H:
        copy.dst = g->arena;
        copy.src0 = g->device;
        return copy;
    default:
        return nop;
    }
}

static int guest_prepare(struct side *s, const struct tenant_cell *cell, char *text)
{
    struct guest *g = guest_of(s);
    struct plan p;
    int rc = plan_make(&p, s, cell, text);

    if (rc)
        return rc;
    if (cell->op == TENANT_PINGPONG || cell->op == TENANT_RESIDENT || cell->data == TENANT_COPIED || cell->graph) {
        snprintf(text, TENANT_TEXT_BYTES, "only a native tenant can do that");
        return -ENOTSUP;
    }
    g->taken = 0;
    if (cell->op == TENANT_CHURN) { /* attaches by itself */
        vgpu_close(g->v);
        g->v = NULL;
        return 0;
    }
    if (!g->v) {
        snprintf(text, TENANT_TEXT_BYTES, "detached");
        return -ENOTCONN;
    }
    /* Without operands every slot is the same: as many as a burst has room for. */
    g->slots = p.stride ? p.slots : BURST;
    for (uint32_t k = 0; k < g->slots; k++)
        g->requests[k] = request_make(g, &p, k);
    return 0;
}

static int guest_submit(struct side *s, uint64_t first, uint32_t n)
{
    struct guest *g = guest_of(s);
    uint32_t slot = (uint32_t)(first % g->slots);

    n = n < g->slots - slot ? n : g->slots - slot;
    for (uint32_t k = 0; k < n; k++)
        g->requests[slot + k].tag = (uint32_t)(first + k);
    int rc = vgpu_submit_burst(g->v, &g->requests[slot], n, NULL);
    if (rc >= 0 || rc == -EAGAIN)
        return rc < 0 ? 0 : rc;
    return fault(g, rc, "submit");
}

static int guest_poll(struct side *s)
{
    struct guest *g = guest_of(s);
    struct vgpu_completion out[BURST];
    int got = vgpu_poll(g->v, out, BURST);

    if (got < 0)
        return fault(g, got, "poll");
    for (int i = 0; i < got; i++, g->taken++) {
        if (out[i].status == VGPU_OK && out[i].tag == (uint32_t)g->taken)
            continue;
        snprintf(g->side.text, sizeof(g->side.text), "operation %llu came back with tag %u: %s",
                 (unsigned long long)g->taken, out[i].tag, vgpu_status_string(out[i].status));
        return -EIO;
    }
    return got;
}

static int guest_finish(struct side *s)
{
    struct guest *g = guest_of(s);
    struct vgpu_completion out[BURST];

    /* After a failure some are still under way: the next cell must not see them. */
    while (g->v && vgpu_outstanding(g->v))
        if (vgpu_wait(g->v, out, BURST, UINT64_C(5000000000)) <= 0)
            break;
    return 0;
}

/* ---- A VM that comes and goes ---- */
static int churn_once(struct guest *g, struct tenant_result *r)
{
    struct vgpu_buffer a;
    int rc = attach(g, g->side.text);

    if (rc)
        return rc;
    rc = vgpu_arena_alloc(g->v, 3 * CHURN_N * 4, &a);
    if (!rc) {
        float *f = a.host_ptr;
        for (uint32_t i = 0; i < CHURN_N; i++) {
            f[i] = (float)i;
            f[CHURN_N + i] = 1.0f;
        }
        struct vgpu_buffer b = vgpu_buffer_at(&a, CHURN_N * 4), c = vgpu_buffer_at(&a, 2 * CHURN_N * 4);
        rc = vgpu_vector_add(g->v, &c, &a, &b, CHURN_N);
        for (uint32_t i = 0; i < CHURN_N && !rc; i++)
            r->wrong += f[2 * CHURN_N + i] != (float)(i + 1);
    }
    if (rc)
        fault(g, rc, "a VM that comes and goes");
    uint64_t from = vgpu_ticks();
    vgpu_close(g->v);
    g->v = NULL;
    tenant_hist_add(&r->hist, vgpu_ticks_to_ns(vgpu_ticks() - from));
    return rc;
}

/* The histogram holds how long the detaches took. */
static int guest_churn(struct side *s, uint64_t end_tick, struct tenant_result *r)
{
    struct guest *g = guest_of(s);
    struct timespec nap = {.tv_nsec = CHURN_NS};
    uint64_t from = vgpu_ticks();
    int rc = 0;

    while (!rc && vgpu_ticks() < end_tick) {
        rc = churn_once(g, r);
        r->ops++;
        nanosleep(&nap, NULL);
    }
    r->elapsed_ns = vgpu_ticks_to_ns(vgpu_ticks() - from);
    return rc;
}

const struct side_ops side_guest = {
    .name = "vgpu",
    .open = guest_open,
    .close = guest_close,
    .prepare = guest_prepare,
    .submit = guest_submit,
    .poll = guest_poll,
    .finish = guest_finish,
    .move = guest_move,
    .churn = guest_churn,
};
