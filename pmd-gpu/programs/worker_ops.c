/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The opcodes of programs. Everything in the arena is the guest's and may change at any time: what decides anything is
 * copied first (code, dimensions, lists of handles); bulk data is not judged, so it is read where it lies.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/clock.h"
#include "pmd-gpu/programs/vet.h"
#include "pmd-gpu/programs/worker_int.h"
#include "rings/opcode.h"

#define SAY(w, ...) snprintf((w)->error, sizeof((w)->error), __VA_ARGS__)

static void finish(struct item *item, uint16_t status, uint64_t value)
{
    item->status = status;
    item->value = value;
    worker_item_done(item);
}

static void event_ready(PJRT_Error *error, void *arg)
{
    struct item *item = arg;

    item->error = error;
    item->done_ns = vgpu_now_ns();
    worker_item_done(item);
}

/* Waits for the event with the item: event_ready() finishes it. */
static void await(struct worker *w, struct item *item, PJRT_Event *event)
{
    item->event = event;
    PJRT_Error *error = event ? pjrt_event_watch(&w->pjrt, event, event_ready, item) : NULL;
    if (error || !event)
        event_ready(error, item);
}

static void tensor_free(struct worker *w, struct tensor *t)
{
    if (w->tensors[t->handle] == t)
        w->tensors[t->handle] = NULL;
    pjrt_buffer_free(&w->pjrt, t->buffer);
    w->device_bytes -= t->bytes;
    free(t->staging);
    free(t->host);
    free(t);
}

/* Its handle is free at once; earlier requests may still be at it. */
static void tensor_drop(struct worker *w, struct item *item, struct tensor *t)
{
    w->tensors[t->handle] = NULL;
    t->next = item->dead;
    item->dead = t;
}

/* It failed: gone, unless a later request has let go of it already, or reads it in pieces (then the last of them lets go). */
static void tensor_failed(struct worker *w, struct tensor *t)
{
    if (w->tensors[t->handle] != t)
        return;
    if (t->host_users) {
        w->tensors[t->handle] = NULL;
        t->orphan = true;
        return;
    }
    tensor_free(w, t);
}

/* A tensor without a buffer yet, within the quota. */
static uint16_t tensor_new(struct worker *w, uint32_t handle, const struct vgpu_tensor_info *shape)
{
    uint64_t bytes = pjrt_tensor_bytes(shape);

    if (w->tensors[handle]) {
        SAY(w, "tensor %u exists already: free it first, or choose another number", handle);
        return VGPU_E_EXISTS;
    }
    if (bytes == UINT64_MAX) {
        SAY(w, "tensor %u: a dimension is negative, or the size is beyond all memory", handle);
        return VGPU_E_ARG;
    }
    if (bytes > w->device_bytes_max - w->device_bytes) {
        SAY(w, "tensor %u needs %llu bytes; %llu of %llu are in use", handle, (unsigned long long)bytes,
            (unsigned long long)w->device_bytes, (unsigned long long)w->device_bytes_max);
        return VGPU_E_NOMEM;
    }
    struct tensor *t = calloc(1, sizeof(*t));
    if (!t)
        return VGPU_E_NOMEM;
    t->shape = *shape;
    t->handle = handle;
    t->bytes = bytes;
    w->device_bytes += bytes;
    w->tensors[handle] = t;
    return VGPU_OK;
}

static struct tensor *tensor_whole(struct worker *w, uint32_t handle)
{
    struct tensor *t = w->tensors[handle];

    if (t && t->buffer)
        return t;
    SAY(w, t ? "tensor %u is not complete: pieces are missing" : "there is no tensor %u", handle);
    return NULL;
}

/* ---- programs ---- */

static void program_load(struct worker *w, struct item *item)
{
    const struct vgpu_work *k = &item->work;
    uint32_t handle = k->arg[0];
    uint16_t status = VGPU_E_NOMEM;
    char *code = malloc(k->n);

    if (w->programs[handle]) {
        SAY(w, "program %u exists already: free it first, or choose another number", handle);
        status = VGPU_E_EXISTS;
        goto out;
    }
    struct pjrt_program *p = calloc(1, sizeof(*p));
    if (!code || !p) {
        SAY(w, "no memory for a program of %llu bytes", (unsigned long long)k->n);
        free(p);
        goto out;
    }
    memcpy(code, w->arena + k->src0, k->n);
    bool hlo = k->sub == VGPU_PROGRAM_HLO;
    status = vgpu_program_vet(hlo, (const uint8_t *)code, k->n, w->error, sizeof(w->error));
    if (!status)
        status = pjrt_compile(&w->pjrt, hlo ? "hlo" : "mlir", code, k->n, p, w->error, sizeof(w->error));
    if (status)
        free(p);
    else
        w->programs[handle] = p;
out:
    free(code);
    finish(item, status, status ? 0 : w->programs[handle]->outputs);
}

static struct pjrt_program *program_of(struct worker *w, uint32_t handle)
{
    if (!w->programs[handle])
        SAY(w, "there is no program %u", handle);
    return w->programs[handle];
}

static void program_free(struct worker *w, struct item *item)
{
    struct pjrt_program *p = program_of(w, item->work.arg[0]);

    if (p) {
        pjrt_program_free(&w->pjrt, p);
        free(p);
        w->programs[item->work.arg[0]] = NULL;
    }
    finish(item, p ? VGPU_OK : VGPU_E_HANDLE, 0);
}

/* Appends to the room at `at` what fits. */
static uint64_t room_put(struct worker *w, const struct vgpu_work *k, uint64_t at, const void *data, uint64_t bytes)
{
    if (at < k->n)
        memcpy(w->arena + k->dst + at, data, bytes < k->n - at ? bytes : k->n - at);
    return at + bytes;
}

static void program_info(struct worker *w, struct item *item)
{
    const struct vgpu_work *k = &item->work;

    if (k->sub != VGPU_PROGRAM_SIGNATURE) {
        const char *text = k->sub == VGPU_PROGRAM_HOST ? w->pjrt.about : w->error;
        finish(item, VGPU_OK, room_put(w, k, 0, text, strlen(text)));
        if (k->sub == VGPU_PROGRAM_ERROR) /* told once: the next to ask may have failed before it came here */
            w->error[0] = '\0';
        return;
    }
    const struct pjrt_program *p = program_of(w, k->arg[0]);
    if (!p) {
        finish(item, VGPU_E_HANDLE, 0);
        return;
    }
    struct vgpu_program_info info = {.outputs = p->outputs, .code_bytes = p->code_bytes, .temp_bytes = p->temp_bytes};
    uint64_t at = room_put(w, k, 0, &info, sizeof(info));
    finish(item, VGPU_OK, room_put(w, k, at, p->output, p->outputs * sizeof(*p->output)));
}

/* ---- executions ---- */

static void made_free(struct worker *w, struct item *item)
{
    for (uint32_t i = 0; i < item->n_made; i++)
        if (item->made[i])
            tensor_failed(w, item->made[i]);
    item->n_made = 0;
}

/* `list` is private. VGPU_OK: w->in is filled, item->made has the outputs. */
static uint16_t execute_judge(struct worker *w, struct item *item, const struct pjrt_program *p, const uint16_t *list)
{
    const struct vgpu_work *k = &item->work;
    uint32_t n_in = k->arg[1], n_out = (uint32_t)k->n - n_in;

    if (n_out != p->outputs) {
        SAY(w, "program %u gives %u outputs, the list has room for %u", k->arg[0], p->outputs, n_out);
        return VGPU_E_ARG;
    }
    for (uint32_t i = 0; i < n_in; i++) {
        struct tensor *t = tensor_whole(w, list[i]);
        if (!t)
            return VGPU_E_HANDLE;
        w->in[i] = t->buffer;
    }
    item->made = calloc(n_out + 1, sizeof(*item->made));
    if (!item->made)
        return VGPU_E_NOMEM;
    for (; item->n_made < n_out; item->n_made++) {
        uint32_t handle = list[n_in + item->n_made];
        uint16_t status = handle ? tensor_new(w, handle, &p->output[item->n_made]) : VGPU_OK;
        if (status)
            return status;
        item->made[item->n_made] = handle ? w->tensors[handle] : NULL;
    }
    return VGPU_OK;
}

static uint16_t execute_begin(struct worker *w, struct item *item, const struct pjrt_program *p, const uint16_t *list,
                              PJRT_Event **event)
{
    uint32_t n_in = item->work.arg[1];
    uint16_t status = execute_judge(w, item, p, list);

    if (status)
        return status;
    item->from_ns = vgpu_now_ns();
    memset(w->out, 0, p->outputs * sizeof(*w->out));
    PJRT_Error *error = pjrt_execute(&w->pjrt, p, w->in, n_in, w->out, event);
    status = pjrt_failed(&w->pjrt, error, "the execution failed", w->error, sizeof(w->error));
    if (status)
        return status;
    for (uint32_t i = 0; i < p->outputs; i++) {
        if (item->made[i])
            item->made[i]->buffer = w->out[i];
        else
            pjrt_buffer_free(&w->pjrt, w->out[i]);
    }
    /* Inputs that the program took for itself are gone. */
    for (uint32_t i = 0; i < n_in; i++)
        if (w->tensors[list[i]] && pjrt_buffer_deleted(&w->pjrt, w->tensors[list[i]]->buffer))
            tensor_drop(w, item, w->tensors[list[i]]);
    return VGPU_OK;
}

static void execute(struct worker *w, struct item *item)
{
    const struct vgpu_work *k = &item->work;
    const struct pjrt_program *p = program_of(w, k->arg[0]);
    uint16_t *list = malloc((k->n + 1) * sizeof(*list));
    PJRT_Event *event = NULL;
    uint16_t status = !p ? VGPU_E_HANDLE : !list ? VGPU_E_NOMEM : VGPU_OK;

    if (!status) {
        memcpy(list, w->arena + k->src1, k->n * sizeof(*list));
        status = execute_begin(w, item, p, list, &event);
    }
    free(list);
    if (!status) {
        await(w, item, event);
        return;
    }
    made_free(w, item);
    item->from_ns = 0;
    finish(item, status, 0);
}

/* ---- tensors ---- */

static void put_begin(struct worker *w, struct item *item, struct tensor *t, const void *data)
{
    PJRT_Event *event = NULL;
    PJRT_Error *error = pjrt_put(&w->pjrt, data, &t->shape, &t->buffer, &event);
    uint16_t status = pjrt_failed(&w->pjrt, error, "the tensor cannot be made", w->error, sizeof(w->error));

    if (status) {
        t->buffer = NULL;
        tensor_free(w, t);
        finish(item, status, 0);
        return;
    }
    item->value = t->bytes;
    item->tensor = t;
    await(w, item, event);
}

static void buffer_put(struct worker *w, struct item *item)
{
    const struct vgpu_work *k = &item->work;
    uint32_t handle = k->arg[0];
    struct tensor *t = w->tensors[handle];

    if (k->dst == 0) {
        struct vgpu_tensor_info shape = {.dtype = k->dtype, .rank = (uint8_t)k->arg[1]};
        memcpy(shape.dims, w->arena + k->src1, k->arg[1] * sizeof(shape.dims[0]));
        uint16_t status = tensor_new(w, handle, &shape);
        if (status) {
            finish(item, status, 0);
            return;
        }
        t = w->tensors[handle];
    }
    bool wrong = !t || t->buffer || k->dtype != t->shape.dtype || k->dst != t->staged || k->n > t->bytes - t->staged ||
                 (k->n == 0 && t->bytes);
    if (wrong) {
        SAY(w, "tensor %u: this piece (%llu bytes at %llu) is not the next one of it", handle, (unsigned long long)k->n,
            (unsigned long long)k->dst);
        uint16_t status = t ? VGPU_E_RANGE : VGPU_E_HANDLE;
        if (t && k->dst == 0)
            tensor_free(w, t);
        finish(item, status, 0);
        return;
    }
    if (k->dst == 0 && k->n == t->bytes) {
        put_begin(w, item, t, w->arena + k->src0);
        return;
    }
    if (!t->staging)
        t->staging = malloc(t->bytes);
    if (!t->staging) {
        SAY(w, "no memory for a tensor of %llu bytes", (unsigned long long)t->bytes);
        tensor_free(w, t);
        finish(item, VGPU_E_NOMEM, 0);
        return;
    }
    memcpy(t->staging + t->staged, w->arena + k->src0, k->n);
    t->staged += k->n;
    if (t->staged == t->bytes)
        put_begin(w, item, t, t->staging); /* stays until worker_end() */
    else
        finish(item, VGPU_OK, t->bytes);
}

static void buffer_get(struct worker *w, struct item *item)
{
    const struct vgpu_work *k = &item->work;
    struct tensor *t = tensor_whole(w, k->arg[0]);
    PJRT_Event *event = NULL;

    if (!t) {
        finish(item, VGPU_E_HANDLE, 0);
        return;
    }
    if (k->src0 > t->bytes || k->n > t->bytes - k->src0) {
        SAY(w, "tensor %u has %llu bytes; %llu at %llu were asked for", k->arg[0], (unsigned long long)t->bytes,
            (unsigned long long)k->n, (unsigned long long)k->src0);
        finish(item, VGPU_E_RANGE, 0);
        return;
    }
    bool whole = k->n == t->bytes;
    void *to = w->arena + k->dst;
    item->value = t->bytes;
    if (!whole) {
        bool there = t->host != NULL;
        if (!there && !(t->host = malloc(t->bytes))) {
            SAY(w, "no memory to read a tensor of %llu bytes", (unsigned long long)t->bytes);
            finish(item, VGPU_E_NOMEM, 0);
            return;
        }
        item->tensor = t;
        item->pieces = true;
        t->host_users++;
        if (there) { /* read by an earlier piece, which is finished before this one is answered */
            finish(item, VGPU_OK, t->bytes);
            return;
        }
        to = t->host;
    }
    PJRT_Error *error = pjrt_get(&w->pjrt, t->buffer, &t->shape, to, t->bytes, &event);
    uint16_t status = pjrt_failed(&w->pjrt, error, "the tensor cannot be read", w->error, sizeof(w->error));
    if (status) {
        finish(item, status, 0);
        return;
    }
    await(w, item, event);
}

static void buffer_free(struct worker *w, struct item *item)
{
    struct tensor *t = w->tensors[item->work.arg[0]];

    if (t) /* else nothing is said: results of what failed are let go of too, and why that failed is what is asked for */
        tensor_drop(w, item, t);
    finish(item, t ? VGPU_OK : VGPU_E_HANDLE, 0);
}

void worker_begin(struct worker *w, struct item *item)
{
    const struct vgpu_work *k = &item->work;
    /* The executor's word is good; a check all the same, since a wrong one would be a write anywhere. */
    uint64_t most = w->arena_bytes;
    bool inside = k->arg[0] <= VGPU_HANDLE_MAX && k->n <= most;

    switch (inside ? k->opcode : VGPU_OP_NOP) {
    case VGPU_OP_PROGRAM_LOAD:
        program_load(w, item);
        break;
    case VGPU_OP_PROGRAM_FREE:
        program_free(w, item);
        break;
    case VGPU_OP_PROGRAM_INFO:
        program_info(w, item);
        break;
    case VGPU_OP_EXECUTE:
        execute(w, item);
        break;
    case VGPU_OP_BUFFER_PUT:
        buffer_put(w, item);
        break;
    case VGPU_OP_BUFFER_GET:
        buffer_get(w, item);
        break;
    case VGPU_OP_BUFFER_FREE:
        buffer_free(w, item);
        break;
    default:
        finish(item, VGPU_E_UNSUPPORTED, 0);
    }
}

/* A part of a tensor was asked for: it is in the host's copy, unless that could not be made. */
static void piece_end(struct worker *w, struct item *item, struct tensor *t)
{
    const struct vgpu_work *k = &item->work;

    t->host_failed |= item->status != VGPU_OK;
    if (t->host_failed)
        item->status = item->status ? item->status : VGPU_E_BACKEND;
    else
        memcpy(w->arena + k->dst, t->host + k->src0, k->n);
    if (--t->host_users == 0 && t->orphan) {
        tensor_free(w, t);
        return;
    }
    /* After the last piece nobody is expected to read again; if so, it is read back anew. */
    if (t->host_users == 0 && (t->host_failed || k->src0 + k->n == t->bytes)) {
        free(t->host);
        t->host = NULL;
        t->host_failed = false;
    }
}

void worker_end(struct worker *w, struct item *item)
{
    const struct vgpu_work *k = &item->work;

    if (item->error) {
        item->status =
            pjrt_failed(&w->pjrt, item->error, vgpu_opcode_info(k->opcode)->name, w->error, sizeof(w->error));
        item->error = NULL;
    }
    pjrt_event_free(&w->pjrt, item->event);
    item->event = NULL;
    struct tensor *t = item->tensor;
    if (k->opcode == VGPU_OP_EXECUTE && item->from_ns) {
        uint64_t from = item->from_ns > w->last_end_ns ? item->from_ns : w->last_end_ns;
        item->device_ns = item->done_ns > from ? item->done_ns - from : 0;
        w->last_end_ns = item->done_ns;
        if (item->status)
            made_free(w, item);
    }
    free(item->made);
    item->made = NULL;
    if (t && item->pieces)
        piece_end(w, item, t);
    if (t && k->opcode == VGPU_OP_BUFFER_PUT) {
        free(t->staging);
        t->staging = NULL;
        if (item->status)
            tensor_failed(w, t);
    }
    for (struct tensor *dead; (dead = item->dead) != NULL;) {
        item->dead = dead->next;
        tensor_free(w, dead);
    }
}
