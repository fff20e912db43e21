/* SPDX-License-Identifier: Apache-2.0 */
/* Compiled programs and tensors: docs/abi.md, Programs. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/clock.h"
#include "guest-lib/internal.h"
#include "rings/opcode.h"

VGPU_STATIC_ASSERT(VGPU_RANK_MAX == VGPU_TENSOR_RANK_MAX, "the library's rank is the wire's");

#define PIECE_BYTES_MIN 4096u /* a tensor in smaller pieces would take all day */
#define ERROR_BYTES     400u

/* Which handles are taken. Given out in turn, so that a stale one is refused for as long as possible. */
struct vgpu_handles {
    uint64_t used[(VGPU_HANDLE_MAX + 1) / 64];
    uint32_t last;
};
enum { PROGRAMS = 0, TENSORS = 1 };

static int names_open(struct vgpu *v)
{
    if (v->names)
        return 0;
    v->names = calloc(2, sizeof(*v->names));
    return v->names ? 0 : vgpu_fail(v, ENOMEM, "no memory for the handles of programs and tensors");
}

static uint32_t handle_take(struct vgpu *v, int kind)
{
    struct vgpu_handles *h = &v->names[kind];

    for (uint32_t i = 0; i < VGPU_HANDLE_MAX; i++) {
        uint32_t n = h->last % VGPU_HANDLE_MAX + 1;
        h->last = n;
        if (!(h->used[n / 64] >> (n % 64) & 1)) {
            h->used[n / 64] |= UINT64_C(1) << (n % 64);
            return n;
        }
    }
    return 0;
}

static void handle_give(struct vgpu *v, int kind, uint32_t n)
{
    if (v->names && n && n <= VGPU_HANDLE_MAX)
        v->names[kind].used[n / 64] &= ~(UINT64_C(1) << (n % 64));
}

static int handle_none(struct vgpu *v, const char *what)
{
    return vgpu_failf(v, ENOSPC, "all %u handles of %s are in use; free some", VGPU_HANDLE_MAX, what);
}

/* What the last call said and did, while others are made on its behalf. */
struct said {
    const char *error_static;
    struct vgpu_err error;
    struct vgpu_completion last;
};

static struct said said_keep(const struct vgpu *v)
{
    return (struct said){v->error_static, v->error, v->last};
}

static void said_restore(struct vgpu *v, const struct said *s)
{
    v->error_static = s->error_static;
    v->error = s->error;
    v->last = s->last;
}

/* Runs a program operation; if it fails, the sentence becomes the host's. */
static int run(struct vgpu *v, const struct vgpu_request *req)
{
    struct vgpu_buffer room;
    int rc = vgpu_run_blocking(v, req);

    if (rc >= 0 || v->last.lost_locally || v->link != VGPU_LINK_UP || rc == -ETIMEDOUT || rc == -ECONNRESET ||
        rc == -EOPNOTSUPP || rc == -EBUSY)
        return rc;
    struct said failed = said_keep(v);
    if (vgpu_arena_alloc(v, ERROR_BYTES, &room)) {
        said_restore(v, &failed);
        return rc;
    }
    struct vgpu_request ask = {
        .opcode = VGPU_OP_PROGRAM_INFO, .sub = VGPU_PROGRAM_ERROR, .dst = room, .n = ERROR_BYTES};
    int asked = vgpu_run_blocking(v, &ask);
    if (asked == 0) {
        char text[ERROR_BYTES + 1];
        uint64_t n = v->last.value < ERROR_BYTES ? v->last.value : ERROR_BYTES;
        memcpy(text, room.host_ptr, n);
        text[n] = '\0';
        if (n) {
            vgpu_failf(v, -rc, "%s failed: %s", vgpu_opcode_info(req->opcode)->name, text);
            failed.error_static = v->error_static;
            failed.error = v->error;
        }
    }
    if (asked == -EIO && rc == -EIO) { /* no process that could tell: it does not start */
        vgpu_failf(v, EIO, "%s failed: the host cannot run programs now; the log of its vgpud says why",
                   vgpu_opcode_info(req->opcode)->name);
        failed.error_static = v->error_static;
        failed.error = v->error;
    }
    vgpu_arena_free(v, &room);
    said_restore(v, &failed);
    return rc;
}

/* What was made on the way to a failure, which stays the call's: the host lets go of it too. */
static void undo(struct vgpu *v, uint8_t opcode, uint32_t handle)
{
    struct vgpu_request r = {.opcode = opcode, .dst = {.handle = handle}};
    struct said failed = said_keep(v);

    if (v->link == VGPU_LINK_UP && v->outstanding == 0)
        vgpu_run_blocking(v, &r);
    said_restore(v, &failed);
}

/* Arena room for up to `bytes`, less where there is less. */
static int piece_alloc(struct vgpu *v, uint64_t bytes, struct vgpu_buffer *out)
{
    uint64_t want = bytes ? bytes : 1;

    for (;;) {
        int rc = vgpu_arena_alloc(v, want, out);
        if (rc != -ENOMEM || want <= PIECE_BYTES_MIN)
            return rc;
        want = want / 2 > PIECE_BYTES_MIN ? want / 2 : PIECE_BYTES_MIN;
    }
}

static struct vgpu_buffer named(uint32_t handle, uint64_t offset)
{
    return (struct vgpu_buffer){.handle = handle, .offset = offset};
}

/* ---- programs ---- */

static int signature_read(struct vgpu *v, struct vgpu_program *p)
{
    uint64_t bytes = sizeof(struct vgpu_program_info) + p->outputs * sizeof(struct vgpu_tensor_info);
    struct vgpu_buffer room;
    int rc = vgpu_arena_alloc(v, bytes, &room);

    if (rc)
        return rc;
    struct vgpu_request r = {.opcode = VGPU_OP_PROGRAM_INFO, .dst = room, .src0 = named(p->handle, 0), .n = bytes};
    rc = run(v, &r);
    p->output = rc ? NULL : calloc(p->outputs + 1, sizeof(*p->output));
    if (rc == 0 && !p->output)
        rc = vgpu_fail(v, ENOMEM, "no memory for a program's signature");
    if (rc == 0) {
        const struct vgpu_program_info *info = room.host_ptr;
        const struct vgpu_tensor_info *t = (const struct vgpu_tensor_info *)(info + 1);
        p->code_bytes = info->code_bytes;
        p->temp_bytes = info->temp_bytes;
        for (uint32_t i = 0; i < p->outputs; i++) {
            struct vgpu_tensor *o = &p->output[i];
            o->dtype = t[i].dtype;
            o->rank = t[i].rank <= VGPU_RANK_MAX ? t[i].rank : VGPU_RANK_MAX;
            o->bytes = vgpu_dtype_bytes(o->dtype);
            for (uint32_t d = 0; d < o->rank; d++) {
                o->dims[d] = t[i].dims[d];
                o->bytes *= (uint64_t)o->dims[d];
            }
        }
    }
    vgpu_arena_free(v, &room);
    return rc;
}

int vgpu_program_load(struct vgpu *v, enum vgpu_program_format format, const void *code, uint64_t bytes,
                      struct vgpu_program *out)
{
    struct vgpu_buffer room;

    memset(out, 0, sizeof(*out));
    if (!code || bytes == 0)
        return vgpu_fail(v, EINVAL, "vgpu_program_load: the program is empty");
    int rc = names_open(v);
    if (rc)
        return rc;
    rc = vgpu_arena_alloc(v, bytes, &room); /* whole: the host looks at all of it before it compiles */
    if (rc)
        return rc;
    memcpy(room.host_ptr, code, bytes);
    do {
        out->handle = handle_take(v, PROGRAMS);
        struct vgpu_request r = {.opcode = VGPU_OP_PROGRAM_LOAD,
                                 .sub = (uint8_t)format,
                                 .dst = named(out->handle, 0),
                                 .src0 = room,
                                 .n = bytes};
        rc = out->handle ? run(v, &r) : handle_none(v, "programs");
    } while (rc == -EEXIST); /* the application named this one itself */
    vgpu_arena_free(v, &room);
    if (rc == 0) {
        out->outputs = (uint32_t)v->last.value;
        rc = signature_read(v, out);
        if (rc)
            undo(v, VGPU_OP_PROGRAM_FREE, out->handle);
    }
    if (rc) {
        handle_give(v, PROGRAMS, out->handle);
        memset(out, 0, sizeof(*out));
    }
    return rc;
}

int vgpu_program_free(struct vgpu *v, struct vgpu_program *p)
{
    struct vgpu_request r = {.opcode = VGPU_OP_PROGRAM_FREE, .dst = named(p->handle, 0)};
    int rc = p->handle ? run(v, &r) : vgpu_fail(v, EINVAL, "vgpu_program_free: there is no program");

    if (rc && rc != -EBADF) /* -EBADF: gone already, with its process */
        return rc;
    handle_give(v, PROGRAMS, p->handle);
    free(p->output);
    memset(p, 0, sizeof(*p));
    return 0;
}

int vgpu_req_execute(struct vgpu *v, const struct vgpu_program *p, const struct vgpu_tensor *const *in, uint32_t n_in,
                     struct vgpu_tensor *out, const struct vgpu_buffer *list, struct vgpu_request *req)
{
    uint16_t *handles = list->host_ptr;
    int rc = names_open(v);

    if (rc)
        return rc;
    if (n_in > VGPU_HANDLE_MAX || p->outputs > VGPU_HANDLE_MAX - n_in ||
        list->bytes < 2 * (uint64_t)(n_in + p->outputs))
        return vgpu_fail(v, EINVAL, "vgpu_req_execute: too many tensors, or too little room for their list");
    if (p->handle == 0)
        return vgpu_fail(v, EBADF, "execute: there is no program: it was freed, or not loaded");
    for (uint32_t i = 0; i < n_in; i++) {
        if (in[i]->handle == 0)
            return vgpu_failf(v, EBADF, "execute: input %u is no tensor: it was freed, or not put", i);
        handles[i] = (uint16_t)in[i]->handle;
    }
    for (uint32_t i = 0; i < p->outputs; i++) {
        out[i] = p->output[i];
        out[i].handle = handle_take(v, TENSORS);
        handles[n_in + i] = (uint16_t)out[i].handle;
        if (out[i].handle == 0) {
            while (i-- > 0)
                vgpu_tensor_forget(v, &out[i]);
            return handle_none(v, "tensors");
        }
    }
    *req = (struct vgpu_request){
        .opcode = VGPU_OP_EXECUTE, .src0 = named(p->handle, 0), .src1 = *list, .n = n_in + p->outputs, .arg = {n_in}};
    return 0;
}

/* How long a blocking execution polls before it sleeps. */
static uint64_t execute_spin(const struct vgpu *v)
{
    if (v->program_spin_ns)
        return v->program_spin_ns;
    return v->program_wait_ns < VGPU_PROGRAM_BUSY_WAIT_NS ? 2 * VGPU_PROGRAM_BUSY_WAIT_NS : VGPU_PROGRAM_SPIN_NS_DEFAULT;
}

int vgpu_program_execute(struct vgpu *v, const struct vgpu_program *p, const struct vgpu_tensor *const *in,
                         uint32_t n_in, struct vgpu_tensor *out)
{
    struct vgpu_buffer list;
    struct vgpu_request r;
    int rc = names_open(v);

    if (rc == 0)
        rc = vgpu_arena_alloc(v, 2 * ((uint64_t)n_in + p->outputs) + 2, &list);
    if (rc)
        return rc;
    rc = vgpu_req_execute(v, p, in, n_in, out, &list, &r);
    if (rc == 0) {
        uint64_t spin_ns = v->spin_ns;
        v->spin_ns = execute_spin(v);
        uint64_t from = vgpu_now_ns();
        rc = run(v, &r);
        v->program_wait_ns = vgpu_average_ns(v->program_wait_ns, vgpu_now_ns() - from, 4 * VGPU_PROGRAM_BUSY_WAIT_NS);
        v->spin_ns = spin_ns;
        for (uint32_t i = 0; rc && i < p->outputs; i++)
            vgpu_tensor_forget(v, &out[i]);
    }
    vgpu_arena_free(v, &list);
    return rc;
}

/* ---- tensors ---- */

uint32_t vgpu_dtype_size(uint8_t dtype)
{
    return vgpu_dtype_bytes(dtype);
}

void vgpu_tensor_forget(struct vgpu *v, struct vgpu_tensor *t)
{
    handle_give(v, TENSORS, t->handle);
    memset(t, 0, sizeof(*t));
}

/* 0 with the size, or -EINVAL. */
static int tensor_shape(struct vgpu *v, uint8_t dtype, uint8_t rank, const int64_t *dims, struct vgpu_tensor *out)
{
    memset(out, 0, sizeof(*out));
    if (vgpu_dtype_bytes(dtype) == 0 || rank > VGPU_RANK_MAX)
        return vgpu_failf(v, EINVAL, "a tensor has a type below %u and at most %u dimensions", VGPU_DTYPE_COUNT,
                          VGPU_RANK_MAX);
    out->dtype = dtype;
    out->rank = rank;
    out->bytes = vgpu_dtype_bytes(dtype);
    for (uint32_t i = 0; i < rank; i++) {
        out->dims[i] = dims[i];
        if (dims[i] < 0 || __builtin_mul_overflow(out->bytes, (uint64_t)dims[i], &out->bytes) || out->bytes > INT64_MAX)
            return vgpu_failf(v, EINVAL, "dimension %u of a tensor is %lld, or the tensor too large", i,
                              (long long)dims[i]);
    }
    return 0;
}

/* Sends it in as many pieces as `room` needs, behind 64 bytes of dimensions. */
static int pieces_put(struct vgpu *v, const struct vgpu_tensor *t, const uint8_t *data, const struct vgpu_buffer *room)
{
    const uint64_t head = sizeof(t->dims);
    uint64_t at = 0;
    int rc;

    memcpy(room->host_ptr, t->dims, head);
    do {
        uint64_t n = t->bytes - at < room->bytes - head ? t->bytes - at : room->bytes - head;
        struct vgpu_request r = {.opcode = VGPU_OP_BUFFER_PUT,
                                 .dtype = t->dtype,
                                 .dst = named(t->handle, at),
                                 .src0 = vgpu_buffer_at(room, head),
                                 .n = n};
        if (at == 0 && t->rank) {
            r.src1 = *room;
            r.arg[0] = t->rank;
        }
        memcpy((uint8_t *)room->host_ptr + head, data + at, n);
        rc = run(v, &r);
        if (rc && at)
            undo(v, VGPU_OP_BUFFER_FREE, t->handle);
        at += n;
    } while (rc == 0 && at < t->bytes);
    return rc;
}

int vgpu_tensor_put(struct vgpu *v, uint8_t dtype, uint8_t rank, const int64_t *dims, const void *data,
                    struct vgpu_tensor *out)
{
    struct vgpu_buffer room;
    int rc = tensor_shape(v, dtype, rank, dims, out);

    if (rc == 0)
        rc = names_open(v);
    if (rc == 0)
        rc = piece_alloc(v, out->bytes + sizeof(out->dims), &room);
    if (rc)
        return rc;
    do {
        out->handle = handle_take(v, TENSORS);
        rc = out->handle ? pieces_put(v, out, data, &room) : handle_none(v, "tensors");
    } while (rc == -EEXIST);
    vgpu_arena_free(v, &room);
    if (rc)
        vgpu_tensor_forget(v, out);
    return rc;
}

int vgpu_tensor_get(struct vgpu *v, const struct vgpu_tensor *t, void *data)
{
    struct vgpu_buffer room;
    int rc = t->handle ? 0 : vgpu_fail(v, EBADF, "vgpu_tensor_get: there is no tensor");
    uint64_t at = 0;

    if (rc == 0)
        rc = piece_alloc(v, t->bytes, &room);
    if (rc)
        return rc;
    do {
        uint64_t n = t->bytes - at < room.bytes ? t->bytes - at : room.bytes;
        struct vgpu_request r = {.opcode = VGPU_OP_BUFFER_GET, .dst = room, .src0 = named(t->handle, at), .n = n};
        rc = run(v, &r);
        if (rc == 0)
            memcpy((uint8_t *)data + at, room.host_ptr, n);
        at += n;
    } while (rc == 0 && at < t->bytes);
    vgpu_arena_free(v, &room);
    return rc;
}

int vgpu_tensor_free(struct vgpu *v, struct vgpu_tensor *t)
{
    struct vgpu_request r = {.opcode = VGPU_OP_BUFFER_FREE, .dst = named(t->handle, 0)};
    int rc = t->handle ? run(v, &r) : vgpu_fail(v, EINVAL, "vgpu_tensor_free: there is no tensor");

    if (rc && rc != -EBADF)
        return rc;
    vgpu_tensor_forget(v, t);
    return 0;
}
