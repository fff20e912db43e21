/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Operations in order. vgpu_pjrt_op_add() appends; whoever does so, and the client's thread after each completion, issues
 * from the head as long as there is room for it (ring, arena). One thread at a time issues: it lets go of the lock while it
 * copies something large, and the others only append meanwhile. Room always comes back, since what holds it are descriptors
 * in flight, which complete whatever the guest does: so nothing waits for ever.
 *
 * The client's thread alone fetches completions and looks at the completion ring, without the lock while it spins. What is over
 * goes to the list `finished`, and is told (events, callbacks) by whoever unlocks next.
 */
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "guest-lib/internal.h"
#include "guest-lib/pjrt/plugin.h"

#define PIECE_BYTES_MIN   (UINT64_C(64) << 10)
#define COPY_LOCKED_BYTES (UINT64_C(64) << 10) /* more is copied without the lock */
#define HEAD_BYTES        64u                  /* dimensions, before the data */
#define HARVEST           32u
#define SLICE_IDLE_MS     1000 /* between looks at a host that says nothing */
#define SLICE_BUSY_MS     200
#define BUSY_SPIN_NS      UINT64_C(4000000) /* while work is out that takes less than half of it, polling does not end before */
#define STOP_NS           UINT64_C(2000000000) /* for what is in flight when the client is destroyed */
#define DOWN_MS           50 /* between attempts to attach again */

/* ---- handles ---- */

uint32_t vgpu_pjrt_handle_take(struct handles *h)
{
    for (uint32_t i = 0; i < HANDLES; i++) {
        uint32_t n = h->last % HANDLES + 1;
        h->last = n;
        if (!(h->used[n / 64] >> (n % 64) & 1)) {
            h->used[n / 64] |= UINT64_C(1) << (n % 64);
            return n;
        }
    }
    return 0;
}

void vgpu_pjrt_handle_give(struct handles *h, uint32_t n)
{
    if (n)
        h->used[n / 64] &= ~(UINT64_C(1) << (n % 64));
}

/* ---- operations ---- */

struct op *vgpu_pjrt_op_new(enum op_kind kind, uint32_t buffers)
{
    struct op *op = calloc(1, sizeof(*op) + buffers * sizeof(op->buffer[0]));

    if (!op)
        return NULL;
    op->kind = kind;
    op->done = vgpu_pjrt_event_new();
    if (!op->done) {
        free(op);
        return NULL;
    }
    return op;
}

/* No lock may be held: references are dropped. */
void vgpu_pjrt_op_free(struct op *op)
{
    for (uint32_t i = 0; i < op->n_in + op->n_out; i++)
        if (op->buffer[i])
            vgpu_pjrt_buffer_drop(op->buffer[i]);
    if (op->program)
        vgpu_pjrt_program_drop(op->program);
    vgpu_pjrt_error_drop(op->error);
    vgpu_pjrt_event_drop(op->done);
    vgpu_pjrt_event_drop(op->host_done);
    free(op->donated);
    free(op->shuffle);
    free(op->owned);
    free(op);
}

void vgpu_pjrt_lock(PJRT_Client *c)
{
    pthread_mutex_lock(&c->lock);
}

void vgpu_pjrt_unlock(PJRT_Client *c)
{
    struct op *first = c->finished;

    c->finished = NULL;
    c->finished_tail = &c->finished;
    pthread_mutex_unlock(&c->lock);
    while (first) {
        struct op *op = first;
        first = op->next;
        if (op->shuffle && !op->error)
            vgpu_pjrt_shuffle_out(op->shuffle, op->owned);
        if (op->host_done)
            vgpu_pjrt_event_fire(op->host_done, NULL);
        vgpu_pjrt_event_fire(op->done, op->error);
        vgpu_pjrt_op_free(op);
    }
}

PJRT_Error *vgpu_pjrt_client_dead(PJRT_Client *c)
{
    if (c->forked)
        return vgpu_pjrt_error(PJRT_Error_Code_FAILED_PRECONDITION,
                               "vgpu: the client belongs to the process that this one was forked from; make a client after "
                               "the fork, as another VM");
    if (!c->v)
        return vgpu_pjrt_error(PJRT_Error_Code_FAILED_PRECONDITION, "vgpu: the client was destroyed");
    return NULL;
}

/* ---- the end of an operation ---- */

static const char *op_name(enum op_kind kind)
{
    static const char *const names[] = {
        [OP_PUT] = "copying to the device", [OP_GET] = "copying from the device", [OP_EXECUTE] = "an execution",
        [OP_FREE] = "freeing a tensor",     [OP_LOAD] = "loading a program",      [OP_UNLOAD] = "freeing a program",
        [OP_INFO] = "asking about programs", [OP_ASK] = "asking for an error",
    };

    return names[kind];
}

static PJRT_Error_Code code_of(uint16_t status)
{
    switch (status) {
    case VGPU_E_OPCODE:
    case VGPU_E_UNSUPPORTED:
        return PJRT_Error_Code_UNIMPLEMENTED;
    case VGPU_E_HANDLE:
        return PJRT_Error_Code_FAILED_PRECONDITION;
    case VGPU_E_NOMEM:
        return PJRT_Error_Code_RESOURCE_EXHAUSTED;
    case VGPU_E_EXISTS:
        return PJRT_Error_Code_ALREADY_EXISTS;
    case VGPU_E_CANCELLED:
        return PJRT_Error_Code_CANCELLED;
    case VGPU_E_TIMEOUT:
        return PJRT_Error_Code_DEADLINE_EXCEEDED;
    case VGPU_E_LOST:
        return PJRT_Error_Code_UNAVAILABLE;
    case VGPU_E_FAULT:
    case VGPU_E_BACKEND:
        return PJRT_Error_Code_INTERNAL;
    default:
        return PJRT_Error_Code_INVALID_ARGUMENT;
    }
}

/* All that the host had for us is gone. What is in flight speaks for itself when it completes. */
static void all_lost(PJRT_Client *c, uint16_t status, const char *why)
{
    PJRT_Error *e = NULL;

    for (PJRT_Buffer *b = c->buffers; b; b = b->next) {
        if (!b->made || b->failed)
            continue;
        if (!e)
            e = vgpu_pjrt_error(code_of(status), "vgpu: this array is gone: %s; put its data on the device again", why);
        b->made = false;
        b->failed = vgpu_pjrt_error_ref(e);
    }
    vgpu_pjrt_error_drop(e);
    for (PJRT_LoadedExecutable *p = c->executables; p; p = p->next)
        p->loaded = false;
}

static void finished_add(PJRT_Client *c, struct op *op)
{
    op->next = NULL;
    *c->finished_tail = op;
    c->finished_tail = &op->next;
}

/* The error of a tensor that this execution was to read. */
static PJRT_Error *input_failed(const struct op *op)
{
    for (uint32_t i = 0; op->kind != OP_PUT && i < op->n_in; i++)
        if (op->buffer[i]->failed)
            return op->buffer[i]->failed;
    return NULL;
}

/* Takes effect on what it was about, and is told at the next unlocking. */
static void op_over(PJRT_Client *c, struct op *op)
{
    PJRT_LoadedExecutable *p = op->program;

    if (op->kind == OP_FREE || op->kind == OP_UNLOAD)
        vgpu_pjrt_handle_give(op->kind == OP_FREE ? &c->tensors : &c->programs, op->handle);
    if (op->feeds) { /* it waits for us */
        op->feeds->waits = false;
        op->feeds->error = vgpu_pjrt_error_ref(op->error);
        op->feeds->status = op->status;
    }
    if (op->kind == OP_LOAD) {
        p->loading = false;
        p->loaded = !op->error;
        vgpu_pjrt_error_drop(p->failed);
        p->failed = vgpu_pjrt_error_ref(op->error);
    }
    uint32_t made = op->kind == OP_PUT ? 1 : op->kind == OP_EXECUTE ? op->n_out : 0;
    for (uint32_t i = 0; i < made; i++) {
        PJRT_Buffer *b = op->buffer[op->kind == OP_PUT ? 0 : op->n_in + i];
        b->made = !op->error;
        if (op->error && !b->failed)
            b->failed = vgpu_pjrt_error_ref(op->error);
    }
    finished_add(c, op);
}

/* Only these know more than a status says. */
static bool worth_asking(const struct op *op)
{
    return !op->asked && !op->lost_here && op->status != VGPU_E_LOST && op->status != VGPU_E_TIMEOUT &&
           op->status != VGPU_E_CANCELLED && op->status != VGPU_E_OPCODE && op->kind != OP_FREE &&
           op->kind != OP_UNLOAD && op->kind != OP_ASK;
}

static void issue(PJRT_Client *c);

/* The host said why, of its last failure, and says it once: it may have been the answer to somebody else's question. */
static void told(PJRT_Client *c, struct op *ask)
{
    struct op *op = ask->about;
    const char *text = c->told;
    bool ours = op->failure == c->told_of && text[0];

    /* Where neither it nor the question is served, there is no process that could: it does not start. */
    bool nobody = op->status == VGPU_E_BACKEND && ask->status == VGPU_E_BACKEND;
    op->error = vgpu_pjrt_error(code_of(op->status), "vgpu: %s failed: %s", op_name(op->kind),
                                nobody ? "the host cannot run programs now; the log of its vgpud says why"
                                : ours ? text
                                       : vgpu_status_string(op->status));
    /* No such program: then nothing of this guest is there, since it goes only as a whole. It is loaded again when used. */
    if (ask->value == UINT64_MAX)
        all_lost(c, VGPU_E_LOST, "the host's process that served this guest ended");
    op_over(c, op);
    finished_add(c, ask);
}

/* Its last descriptor completed. */
static void op_end(PJRT_Client *c, struct op *op)
{
    PJRT_Error *cause;

    if (op->kind == OP_ASK) {
        told(c, op);
        return;
    }
    if (!op->status || op->error) {
        op_over(c, op);
        return;
    }
    if (op->status == VGPU_E_HANDLE && (cause = input_failed(op)) != NULL) {
        op->error = vgpu_pjrt_error_ref(cause);
    } else if (op->status == VGPU_E_HANDLE && op->program && op->program->failed) {
        op->error = vgpu_pjrt_error_ref(op->program->failed);
    } else if (worth_asking(op)) {
        struct op *ask = vgpu_pjrt_op_new(OP_ASK, 0);
        op->asked = true;
        if (ask && (ask->owned = calloc(1, VGPU_PJRT_TEXT_BYTES + 1)) == NULL) {
            vgpu_pjrt_op_free(ask);
            ask = NULL;
        }
        if (ask) {
            ask->about = op;
            ask->next = c->urgent;
            c->urgent = ask;
            return; /* on its completion */
        }
    }
    if (!op->error)
        op->error = vgpu_pjrt_error(code_of(op->status), "vgpu: %s failed: %s", op_name(op->kind),
                                    op->lost_here ? "the host went away" : vgpu_status_string(op->status));
    op_over(c, op);
}


/* ---- issuing ---- */

static struct flight *flight_new(PJRT_Client *c, struct op *op)
{
    if (c->flying >= c->flying_max)
        return NULL;
    struct flight *f = &c->flights[c->flight_free];
    c->flight_free = f->next_free;
    if (c->flying++ == 0)
        c->since_ns = vgpu_now_ns();
    memset(f, 0, sizeof(*f));
    f->op = op;
    op->flying++;
    return f;
}

static void flight_free(PJRT_Client *c, struct flight *f)
{
    if (f->room.bytes)
        vgpu_arena_free(c->v, &f->room);
    f->op->flying--;
    f->op = NULL;
    f->next_free = c->flight_free;
    c->flight_free = (uint32_t)(f - c->flights);
    c->flying--;
}

/* What becomes of an operation that cannot be issued. */
enum verdict { ISSUED, LATER, FAILED };

static enum verdict fail(struct op *op, PJRT_Error *error)
{
    op->status = VGPU_E_ARG;
    op->error = error;
    return FAILED;
}

/* Room for `bytes`, or the verdict. */
static enum verdict room_for(PJRT_Client *c, struct op *op, uint64_t bytes, struct flight **out)
{
    struct flight *f = flight_new(c, op);

    *out = f;
    if (!f)
        return LATER;
    if (bytes == 0 || vgpu_arena_alloc(c->v, bytes, &f->room) == 0)
        return ISSUED;
    f->room.bytes = 0;
    flight_free(c, f);
    if (c->flying || bytes <= c->arena_bytes / 2)
        return LATER;
    return fail(op, vgpu_pjrt_error(PJRT_Error_Code_RESOURCE_EXHAUSTED,
                                    "vgpu: %s needs %llu bytes of the arena, which has %llu; give this VM a larger one "
                                    "(register-vm --arena-mib)",
                                    op_name(op->kind), (unsigned long long)bytes, (unsigned long long)c->arena_bytes));
}

static enum verdict send(PJRT_Client *c, struct flight *f, struct vgpu_request *r)
{
    r->tag = (uint32_t)(f - c->flights);
    int rc = c->v->link == VGPU_LINK_UP ? vgpu_submit(c->v, r, NULL) : -ENOTCONN;
    if (rc == 0)
        return ISSUED;
    struct op *op = f->op;
    flight_free(c, f);
    if (rc == -EAGAIN)
        return LATER;
    op->lost_here = true;
    return fail(op, vgpu_pjrt_error(PJRT_Error_Code_UNAVAILABLE, "vgpu: %s failed: %s", op_name(op->kind),
                                    vgpu_strerror(c->v)));
}

static struct vgpu_buffer named(uint32_t handle, uint64_t offset)
{
    return (struct vgpu_buffer){.handle = handle, .offset = offset};
}

/* Whole where half the arena is enough for it: what comes in pieces is copied once more on the host. */
static uint64_t piece_bytes(const PJRT_Client *c, uint64_t left)
{
    uint64_t most = c->arena_bytes / 2 - HEAD_BYTES;

    if (left <= most)
        return left;
    return c->arena_bytes / 8 > PIECE_BYTES_MIN ? c->arena_bytes / 8 : most < PIECE_BYTES_MIN ? most : PIECE_BYTES_MIN;
}

static void copy(PJRT_Client *c, void *to, const void *from, uint64_t bytes)
{
    if (bytes <= COPY_LOCKED_BYTES) {
        memcpy(to, from, bytes);
        return;
    }
    vgpu_pjrt_unlock(c);
    memcpy(to, from, bytes);
    vgpu_pjrt_lock(c);
}

static enum verdict issue_put(PJRT_Client *c, struct op *op)
{
    PJRT_Buffer *b = op->buffer[0];

    if (op->waits)
        return LATER;
    do {
        uint64_t n = piece_bytes(c, op->end - op->at);
        struct flight *f;
        enum verdict verdict = room_for(c, op, HEAD_BYTES + n, &f);
        if (verdict != ISSUED)
            return verdict;
        uint8_t *room = f->room.host_ptr;
        memcpy(room, b->dims, sizeof(b->dims));
        copy(c, room + HEAD_BYTES, op->from + op->at, n);
        struct vgpu_request r = {.opcode = VGPU_OP_BUFFER_PUT,
                                 .dtype = b->dtype,
                                 .dst = named(b->handle, op->at),
                                 .src0 = vgpu_buffer_at(&f->room, HEAD_BYTES),
                                 .n = n};
        if (op->at == 0 && b->rank) {
            r.src1 = f->room;
            r.arg[0] = b->rank;
        }
        verdict = send(c, f, &r);
        if (verdict != ISSUED)
            return verdict;
        op->at += n;
    } while (op->at < op->end && !op->status);
    return ISSUED;
}

static enum verdict issue_get(PJRT_Client *c, struct op *op)
{
    PJRT_Error *cause = input_failed(op);

    if (cause)
        return fail(op, vgpu_pjrt_error_ref(cause));
    do {
        uint64_t n = piece_bytes(c, op->end - op->at);
        struct flight *f;
        enum verdict verdict = room_for(c, op, n ? n : 1, &f);
        if (verdict != ISSUED)
            return verdict;
        f->at = op->at;
        f->bytes = n;
        struct vgpu_request r = {
            .opcode = VGPU_OP_BUFFER_GET, .dst = f->room, .src0 = named(op->handle, op->at), .n = n};
        verdict = send(c, f, &r);
        if (verdict != ISSUED)
            return verdict;
        op->at += n;
    } while (op->at < op->end && !op->status);
    return ISSUED;
}

static enum verdict issue_load(PJRT_Client *c, struct op *op)
{
    PJRT_LoadedExecutable *p = op->program;
    struct flight *f;
    enum verdict verdict = room_for(c, op, p->code_bytes, &f);

    if (verdict != ISSUED)
        return verdict;
    copy(c, f->room.host_ptr, p->code, p->code_bytes);
    struct vgpu_request r = {.opcode = VGPU_OP_PROGRAM_LOAD,
                             .sub = p->format,
                             .dst = named(p->handle, 0),
                             .src0 = f->room,
                             .n = p->code_bytes};
    return send(c, f, &r);
}

/* The host lost it: loaded again before it is used, in order. */
static enum verdict reload(PJRT_Client *c, struct op *op)
{
    PJRT_LoadedExecutable *p = op->program;

    if (p->loaded || p->loading)
        return ISSUED;
    if (op->reloaded)
        return fail(op, p->failed ? vgpu_pjrt_error_ref(p->failed) : vgpu_pjrt_no_memory());
    op->reloaded = true;
    struct op *load = vgpu_pjrt_op_new(OP_LOAD, 0);
    if (!load)
        return fail(op, vgpu_pjrt_no_memory());
    load->program = p;
    atomic_fetch_add(&p->refs, 1);
    p->loading = true;
    load->next = c->head; /* which is `op`: the tail stays */
    c->head = load;
    return LATER;
}

static enum verdict issue_execute(PJRT_Client *c, struct op *op)
{
    uint32_t total = op->n_in + op->n_out;
    PJRT_Error *cause = input_failed(op);
    struct flight *f;

    if (cause)
        return fail(op, vgpu_pjrt_error_ref(cause));
    enum verdict verdict = room_for(c, op, 2 * (uint64_t)total + 2, &f);
    if (verdict != ISSUED)
        return verdict;
    uint16_t *list = f->room.host_ptr;
    const uint16_t *handles = op->owned;
    memcpy(list, handles, total * sizeof(*list));
    struct vgpu_request r = {.opcode = VGPU_OP_EXECUTE,
                             .src0 = named(op->program->handle, 0),
                             .src1 = f->room,
                             .n = total,
                             .arg = {op->n_in}};
    return send(c, f, &r);
}

static enum verdict issue_info(PJRT_Client *c, struct op *op)
{
    struct flight *f;
    enum verdict verdict = room_for(c, op, op->end, &f);

    if (verdict != ISSUED)
        return verdict;
    f->bytes = op->end;
    struct vgpu_request r = {.opcode = VGPU_OP_PROGRAM_INFO,
                             .sub = op->program ? VGPU_PROGRAM_SIGNATURE : VGPU_PROGRAM_HOST,
                             .dst = f->room,
                             .src0 = named(op->program ? op->program->handle : 0, 0),
                             .n = op->end};
    return send(c, f, &r);
}

/* Is the program still there (where that may be why it failed), and what went wrong? Two descriptors, or one. */
static enum verdict issue_ask(PJRT_Client *c, struct op *op)
{
    struct op *about = op->about;
    struct flight *f;
    enum verdict verdict;

    if (about->kind == OP_EXECUTE && about->status == VGPU_E_HANDLE && op->at == 0) {
        verdict = room_for(c, op, sizeof(struct vgpu_program_info), &f);
        if (verdict != ISSUED)
            return verdict;
        f->at = 1; /* the question about the program */
        struct vgpu_request r = {.opcode = VGPU_OP_PROGRAM_INFO,
                                 .dst = f->room,
                                 .src0 = named(about->program->handle, 0),
                                 .n = sizeof(struct vgpu_program_info)};
        verdict = send(c, f, &r);
        if (verdict != ISSUED)
            return verdict;
        op->at = 1;
    }
    verdict = room_for(c, op, VGPU_PJRT_TEXT_BYTES, &f);
    if (verdict != ISSUED)
        return verdict;
    f->bytes = VGPU_PJRT_TEXT_BYTES;
    struct vgpu_request r = {
        .opcode = VGPU_OP_PROGRAM_INFO, .sub = VGPU_PROGRAM_ERROR, .dst = f->room, .n = VGPU_PJRT_TEXT_BYTES};
    return send(c, f, &r);
}

static enum verdict issue_free(PJRT_Client *c, struct op *op)
{
    struct flight *f;
    enum verdict verdict = room_for(c, op, 0, &f);

    if (verdict != ISSUED)
        return verdict;
    struct vgpu_request r = {.opcode = op->kind == OP_FREE ? VGPU_OP_BUFFER_FREE : VGPU_OP_PROGRAM_FREE,
                             .dst = named(op->handle, 0)};
    return send(c, f, &r);
}

static enum verdict issue_one(PJRT_Client *c, struct op *op)
{
    if (!c->v)
        return fail(op, vgpu_pjrt_client_dead(c));
    switch (op->kind) {
    case OP_PUT:
        return issue_put(c, op);
    case OP_GET:
        return issue_get(c, op);
    case OP_EXECUTE:
        return issue_execute(c, op);
    case OP_LOAD:
        return issue_load(c, op);
    case OP_INFO:
        return issue_info(c, op);
    case OP_ASK:
        return issue_ask(c, op);
    default:
        return issue_free(c, op);
    }
}

/* Nothing more of it will be submitted. */
static void settled(PJRT_Client *c, struct op *op)
{
    op->issued = true;
    if (op->flying)
        return;
    op_end(c, op);
}

static void issue(PJRT_Client *c)
{
    if (c->issuing)
        return;
    c->issuing = true;
    for (;;) {
        bool urgent = c->urgent != NULL;
        struct op *op = urgent ? c->urgent : c->head;
        if (!op)
            break;
        if (op->kind == OP_EXECUTE && reload(c, op) == LATER)
            continue; /* the loading is at the head now */
        if (!op->error && issue_one(c, op) == LATER)
            break;
        /* Others were appended behind it meanwhile, and an urgent one perhaps before it, never instead of it. */
        struct op **at = urgent ? &c->urgent : &c->head;
        while (*at != op)
            at = &(*at)->next;
        *at = op->next;
        if (!urgent && !c->head)
            c->tail = &c->head;
        settled(c, op);
    }
    c->issuing = false;
}

void vgpu_pjrt_op_add(PJRT_Client *c, struct op *op)
{
    op->next = NULL;
    *c->tail = op;
    c->tail = &op->next;
    issue(c);
    /* Nothing in flight would wake the thread, which is to try again. */
    if (c->head && !c->issuing && !c->flying && eventfd_write(c->wake_fd, 1))
        return; /* it is awake: the counter is full */
}

/* ---- completions ---- */

static void completed(PJRT_Client *c, const struct vgpu_completion *done)
{
    struct flight *f = &c->flights[done->tag];
    struct op *op = f->op;

    op->value = op->kind == OP_ASK ? op->value : done->value;
    if (op->kind == OP_ASK && f->at == 1 && done->status == VGPU_E_HANDLE) {
        op->value = UINT64_MAX;
    } else if (op->kind == OP_LOAD && done->status == VGPU_E_EXISTS && op->program->output) {
        op->value = op->program->outputs; /* loaded again, though it was not gone */
    } else if (done->status && !op->status) {
        op->status = done->status;
        op->lost_here = done->lost_locally;
        op->failure = c->failures + 1;
    } else if (!done->status && (op->kind == OP_INFO || (op->kind == OP_ASK && f->at == 0))) {
        memcpy(op->kind == OP_INFO ? op->to : op->owned, f->room.host_ptr,
               done->value < f->bytes ? done->value : f->bytes);
        if (op->kind == OP_ASK && *(const char *)op->owned) { /* about the last failure so far, whoever's question it was */
            memcpy(c->told, op->owned, sizeof(c->told));
            c->told_of = c->failures;
        }
    }
    /* Each replaces what the host would say about those before it, but for a tensor that was never made and is let go of. */
    c->failures += done->status != VGPU_OK && op->kind != OP_FREE;
    flight_free(c, f);
    if (done->status == VGPU_E_LOST || done->status == VGPU_E_TIMEOUT)
        all_lost(c, done->status,
                 done->lost_locally                ? "the host went away"
                 : done->status == VGPU_E_TIMEOUT ? "an operation took too long, and the host ended the process that "
                                                    "served this guest"
                                                   : "the host's process that served this guest died");
    if (op->issued && !op->flying)
        op_end(c, op);
}

/* Copies what GETs brought. Without the lock where it is much. */
static void take_out(PJRT_Client *c, const struct vgpu_completion *done, int n)
{
    uint64_t bytes = 0;

    for (int i = 0; i < n; i++)
        if (c->flights[done[i].tag].op->kind == OP_GET && !done[i].status)
            bytes += c->flights[done[i].tag].bytes;
    if (bytes == 0)
        return;
    if (bytes > COPY_LOCKED_BYTES)
        vgpu_pjrt_unlock(c);
    for (int i = 0; i < n; i++) {
        struct flight *f = &c->flights[done[i].tag]; /* stays: it is given back by this thread */
        if (f->op->kind == OP_GET && !done[i].status)
            memcpy(f->op->to + (f->at - f->op->begin), f->room.host_ptr, f->bytes);
    }
    if (bytes > COPY_LOCKED_BYTES)
        vgpu_pjrt_lock(c);
}

/* The client goes, and the host did not answer in time: what is in flight is given up. Nothing more may be issued: its
 * completions would not be fetched. */
static void abandon(PJRT_Client *c)
{
    for (uint32_t i = 0; i < FLIGHTS; i++) {
        struct vgpu_completion lost = {.tag = i, .status = VGPU_E_LOST, .lost_locally = 1};
        if (c->flights[i].op)
            completed(c, &lost);
    }
}

/* Under the lock. True: something came. */
static bool harvest(PJRT_Client *c)
{
    struct vgpu_completion done[HARVEST];
    int n = vgpu_poll(c->v, done, HARVEST);

    if (n < 0) {
        if (!c->down)
            all_lost(c, VGPU_E_LOST, vgpu_strerror(c->v));
        c->down = true;
        issue(c); /* what waits fails now */
        return false;
    }
    if (c->v->link == VGPU_LINK_UP)
        c->down = false;
    if (n) { /* how long work takes here decides how long polling for it is worth it */
        uint64_t now = vgpu_now_ns();
        c->gap_ns = vgpu_average_ns(c->gap_ns, now - c->since_ns, 4 * BUSY_SPIN_NS);
        c->since_ns = now;
    }
    take_out(c, done, n);
    for (int i = 0; i < n; i++)
        completed(c, &done[i]);
    if (n || c->head || c->urgent)
        issue(c);
    return n > 0;
}

/* How long to poll before sleeping. Being woken costs tens of microseconds, more than all else that we add to an execution:
 * where answers come within two milliseconds, they are polled for; longer ones are slept for. */
static uint64_t spin_for(const PJRT_Client *c)
{
    return c->spin_ns && c->flying && c->gap_ns < BUSY_SPIN_NS / 2 && c->spin_ns < BUSY_SPIN_NS ? BUSY_SPIN_NS : c->spin_ns;
}

/* Without the lock: nobody else moves this end of the ring. Yields after a while, for others on the same core. */
static bool spin(PJRT_Client *c, uint64_t spin_ns)
{
    uint64_t now = vgpu_now_ns(), half = now + c->spin_ns / 2, end = now + spin_ns;

    do {
        for (int i = 0; i < 32; i++) {
            if (vgpu_cons_ready(&c->v->cq))
                return true;
            vgpu_pause();
        }
        now = vgpu_now_ns();
        if (now >= half)
            sched_yield();
    } while (now < end && !__atomic_load_n(&c->stop, __ATOMIC_RELAXED)); /* relaxed: only ends it sooner */
    return false;
}

static void *run(void *arg)
{
    PJRT_Client *c = arg;
    eventfd_t ignored;

    vgpu_pjrt_lock(c);
    while (!(c->stop && ((c->flying == 0 && !c->head && !c->urgent) || vgpu_now_ns() > c->stop_ns))) {
        if (harvest(c)) {
            vgpu_pjrt_unlock(c);
            vgpu_pjrt_lock(c);
            continue;
        }
        bool up = c->v->link == VGPU_LINK_UP;
        uint64_t spin_ns = spin_for(c);
        vgpu_pjrt_unlock(c);
        bool ready = up && spin(c, spin_ns);
        vgpu_pjrt_lock(c);
        if (ready || (up && vgpu_event_arm(c->v)))
            continue;
        if (c->stop && c->down)
            break;
        bool waits = (c->head || c->urgent) && !c->flying; /* for credit, which nobody announces */
        int ms = !up || c->stop ? DOWN_MS : waits ? 1 : c->flying ? SLICE_BUSY_MS : SLICE_IDLE_MS;
        struct pollfd fds[2] = {{.fd = c->wake_fd, .events = POLLIN},
                                {.fd = up ? vgpu_event_fd(c->v) : -1, .events = POLLIN}};
        vgpu_pjrt_unlock(c);
        poll(fds, 2, ms);
        if (fds[0].revents && eventfd_read(c->wake_fd, &ignored))
            ignored = 0; /* somebody else's reading cannot be: it is ours alone */
        vgpu_pjrt_lock(c);
        vgpu_link_check(c->v);
    }
    vgpu_pjrt_unlock(c);
    return NULL;
}

PJRT_Error *vgpu_pjrt_queue_open(PJRT_Client *c)
{
    sigset_t all, before;

    c->tail = &c->head;
    c->finished_tail = &c->finished;
    for (uint32_t i = 0; i < FLIGHTS; i++)
        c->flights[i].next_free = i + 1;
    c->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (c->wake_fd < 0)
        return vgpu_pjrt_error(PJRT_Error_Code_RESOURCE_EXHAUSTED, "vgpu: eventfd: %s", strerror(errno));
    sigfillset(&all); /* the application's handlers run on its own threads */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&c->thread, NULL, run, c);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc)
        return vgpu_pjrt_error(PJRT_Error_Code_RESOURCE_EXHAUSTED, "vgpu: no thread for completions: %s", strerror(rc));
    c->thread_runs = true;
    return NULL;
}

void vgpu_pjrt_queue_close(PJRT_Client *c)
{
    if (c->thread_runs) {
        vgpu_pjrt_lock(c);
        c->stop_ns = vgpu_now_ns() + STOP_NS;
        __atomic_store_n(&c->stop, true, __ATOMIC_RELAXED); /* relaxed: the lock orders it */
        vgpu_pjrt_unlock(c);
        if (eventfd_write(c->wake_fd, 1) == 0 || errno == EAGAIN)
            pthread_join(c->thread, NULL);
        c->thread_runs = false;
        vgpu_pjrt_lock(c);
        struct vgpu *v = c->v;
        abandon(c);
        c->v = NULL;
        issue(c);
        vgpu_pjrt_unlock(c);
        vgpu_close(v);
    }
    if (c->wake_fd >= 0)
        close(c->wake_fd);
    c->wake_fd = -1;
}
