/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Blocking calls, device memory and request helpers: thin layers over vgpu_submit() and vgpu_wait().
 */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "core/base/clock.h"
#include "guest-lib/internal.h"
#include "rings/opcode.h"

static int status_errno(uint16_t status)
{
    switch (status) {
    case VGPU_OK:
        return 0;
    case VGPU_E_OPCODE:
    case VGPU_E_UNSUPPORTED:
        return -EOPNOTSUPP;
    case VGPU_E_HANDLE:
        return -EBADF;
    case VGPU_E_RANGE:
        return -ERANGE;
    case VGPU_E_NOMEM:
        return -ENOMEM;
    case VGPU_E_EXISTS:
        return -EEXIST;
    case VGPU_E_CANCELLED:
        return -ECANCELED;
    case VGPU_E_TIMEOUT:
        return -ETIMEDOUT;
    case VGPU_E_LOST:
        return -ECONNRESET;
    case VGPU_E_FAULT:
        return -EFAULT;
    case VGPU_E_FLAGS:
    case VGPU_E_DTYPE:
    case VGPU_E_ALIGN:
    case VGPU_E_ARG:
    case VGPU_E_OVERLAP:
        return -EINVAL;
    default:
        return -EIO;
    }
}

static const char *opcode_name(uint8_t opcode)
{
    const struct vgpu_opcode_info *info = vgpu_opcode_info(opcode);

    return info ? info->name : "unknown opcode";
}

/*
 * Nothing is outstanding, so "ring full" only means that the host has not published its credit yet (it does when idle):
 * wait for that, gently. Ends also when the host goes away, which submit notices.
 */
static int submit_patiently(struct vgpu *v, const struct vgpu_request *req, uint64_t *position)
{
    for (unsigned i = 0;; i++) {
        int rc = vgpu_submit(v, req, position);
        if (rc != -EAGAIN)
            return rc;
        if (v->cap == 0)
            return vgpu_fail(v, EAGAIN, "this VM may have no descriptor in flight; raise its in_flight limit");
        if (i < 100) {
            vgpu_pause();
        } else {
            struct timespec nap = {.tv_nsec = 20000};
            nanosleep(&nap, NULL);
            vgpu_link_check(v);
        }
    }
}

int vgpu_run_blocking(struct vgpu *v, const struct vgpu_request *req)
{
    uint64_t position;

    if (v->outstanding > 0)
        return vgpu_fail(v, EBUSY,
                         "a blocking call needs that nothing else is outstanding; fetch the completions first");
    int rc = submit_patiently(v, req, &position);
    if (rc < 0)
        return rc;
    do {
        rc = vgpu_wait(v, &v->last, 1, UINT64_MAX);
    } while (rc == 0 && v->outstanding > 0);
    if (rc <= 0)
        return rc < 0 ? rc : vgpu_fail(v, EPROTO, "the descriptor vanished without a completion");
    if (v->last.lost_locally && v->link == VGPU_LINK_BROKEN)
        return -EPROTO; /* the sentence says why it broke */
    if (v->last.status != VGPU_OK)
        return vgpu_failf(v, -status_errno(v->last.status), "%s failed: %s", opcode_name(req->opcode),
                          v->last.lost_locally ? "the host went away: it may or may not have run"
                                               : vgpu_status_text(v->last.status));
    v->error_static = ""; /* what was said on the way, such as "try again", is over */
    return 0;
}

const struct vgpu_completion *vgpu_last_completion(const struct vgpu *v)
{
    return &v->last;
}

/* ---- One call per opcode ---- */

int vgpu_nop(struct vgpu *v)
{
    struct vgpu_request r = {.opcode = VGPU_OP_NOP};

    return vgpu_run_blocking(v, &r);
}

int vgpu_fence(struct vgpu *v)
{
    struct vgpu_request r = {.opcode = VGPU_OP_FENCE};

    return vgpu_run_blocking(v, &r);
}

int vgpu_fill(struct vgpu *v, const struct vgpu_buffer *dst, uint32_t pattern, uint64_t bytes)
{
    struct vgpu_request r = {.opcode = VGPU_OP_FILL, .dst = *dst, .n = bytes, .arg = {pattern}};

    return vgpu_run_blocking(v, &r);
}

int vgpu_copy(struct vgpu *v, const struct vgpu_buffer *dst, const struct vgpu_buffer *src, uint64_t bytes)
{
    struct vgpu_request r = {.opcode = VGPU_OP_COPY, .dst = *dst, .src0 = *src, .n = bytes};

    return vgpu_run_blocking(v, &r);
}

struct vgpu_request vgpu_req_vector_add(const struct vgpu_buffer *dst, const struct vgpu_buffer *a,
                                        const struct vgpu_buffer *b, uint64_t n)
{
    return (struct vgpu_request){.opcode = VGPU_OP_VECTOR_ADD, .dst = *dst, .src0 = *a, .src1 = *b, .n = n};
}

int vgpu_vector_add(struct vgpu *v, const struct vgpu_buffer *dst, const struct vgpu_buffer *a,
                    const struct vgpu_buffer *b, uint64_t n)
{
    struct vgpu_request r = vgpu_req_vector_add(dst, a, b, n);

    return vgpu_run_blocking(v, &r);
}

static uint32_t float_bits(float f)
{
    uint32_t bits;

    memcpy(&bits, &f, sizeof(bits));
    return bits;
}

int vgpu_axpy(struct vgpu *v, const struct vgpu_buffer *y, float alpha, const struct vgpu_buffer *x, uint64_t n)
{
    struct vgpu_request r = {
        .opcode = VGPU_OP_AXPY, .dst = *y, .src0 = *x, .n = n, .arg = {float_bits(alpha)}};

    return vgpu_run_blocking(v, &r);
}

int vgpu_reduce(struct vgpu *v, const struct vgpu_buffer *dst, const struct vgpu_buffer *src, uint64_t n,
                enum vgpu_reduction how)
{
    struct vgpu_request r = {.opcode = VGPU_OP_REDUCE, .sub = (uint8_t)how, .dst = *dst, .src0 = *src, .n = n};

    return vgpu_run_blocking(v, &r);
}

struct vgpu_request vgpu_req_gemm(const struct vgpu_buffer *dst, const struct vgpu_buffer *a,
                                  const struct vgpu_buffer *b, uint32_t m, uint32_t n, uint32_t k, float alpha,
                                  float beta, unsigned flags, unsigned dtype)
{
    return (struct vgpu_request){.opcode = VGPU_OP_GEMM, .dtype = (uint8_t)dtype, .sub = (uint8_t)flags, .dst = *dst,
                                 .src0 = *a, .src1 = *b, .n = n, .arg = {m, k, float_bits(alpha), float_bits(beta)}};
}

int vgpu_gemm(struct vgpu *v, const struct vgpu_buffer *dst, const struct vgpu_buffer *a, const struct vgpu_buffer *b,
              uint32_t m, uint32_t n, uint32_t k, float alpha, float beta, unsigned flags, unsigned dtype)
{
    struct vgpu_request r = vgpu_req_gemm(dst, a, b, m, n, k, alpha, beta, flags, dtype);

    return vgpu_run_blocking(v, &r);
}

/* ---- Device memory ---- */

/* Handles are given out in turn, not lowest first: a buffer that was freed or forgotten is then refused by the host as
 * unknown for as long as possible, instead of silently naming another buffer. */
static uint32_t handle_next(const struct vgpu *v, uint32_t max)
{
    for (uint32_t i = 1; i <= max; i++) {
        uint32_t h = (v->handle_last + i - 1) % max + 1;
        if (!(v->handle_used[h / 64] >> (h % 64) & 1))
            return h;
    }
    return 0;
}

static void handle_mark(struct vgpu *v, uint32_t h, bool used)
{
    uint64_t bit = UINT64_C(1) << (h % 64);

    if (used)
        v->handle_used[h / 64] |= bit;
    else
        v->handle_used[h / 64] &= ~bit;
}

/* After the device was lost the host knows none of the handles. */
static void handles_follow_generation(struct vgpu *v)
{
    uint64_t generation = v->carrier->props ? vgpu_props_page(v)->device_generation : v->handle_generation;

    if (generation != v->handle_generation) {
        memset(v->handle_used, 0, sizeof(v->handle_used));
        v->handle_generation = generation;
    }
}

int vgpu_device_alloc(struct vgpu *v, uint64_t bytes, struct vgpu_buffer *out)
{
    memset(out, 0, sizeof(*out));
    if (v->link != VGPU_LINK_UP) {
        struct vgpu_completion c;
        int rc = v->outstanding ? -EBUSY : vgpu_poll(v, &c, 1); /* attaches again if that is possible */
        if (rc < 0)
            return rc == -EBUSY ? vgpu_fail(v, EBUSY,
                                            "a blocking call needs that nothing else is outstanding; fetch the "
                                            "completions first")
                                : rc;
    }
    handles_follow_generation(v);
    uint32_t max = vgpu_props_page(v)->max_handles;
    if (max > VGPU_HANDLE_MAX)
        max = VGPU_HANDLE_MAX;
    for (uint32_t tries = 0; tries < max; tries++) {
        uint32_t h = handle_next(v, max);
        if (h == 0)
            break;
        struct vgpu_request r = {.opcode = VGPU_OP_MEM_ALLOC, .dst = {.handle = h}, .n = bytes};
        int rc = vgpu_run_blocking(v, &r);
        if (rc == 0 || rc == -EEXIST) {
            v->handle_last = h;
            handle_mark(v, h, true);
        }
        if (rc == -EEXIST)
            continue; /* the application allocated this one with a descriptor of its own */
        if (rc == 0)
            *out = (struct vgpu_buffer){.handle = h, .bytes = bytes};
        return rc;
    }
    return vgpu_failf(v, ENOMEM, "all %u device buffers that this VM may have are in use; free some", max);
}

int vgpu_device_free(struct vgpu *v, struct vgpu_buffer *buf)
{
    struct vgpu_request r = {.opcode = VGPU_OP_MEM_FREE, .dst = {.handle = buf->handle}};

    if (buf->handle == VGPU_HANDLE_ARENA || buf->handle > VGPU_HANDLE_MAX || buf->offset != 0)
        return vgpu_fail(v, EINVAL, "vgpu_device_free takes a buffer as vgpu_device_alloc gave it");
    int rc = vgpu_run_blocking(v, &r);
    if (rc == 0 || rc == -EBADF) {
        handle_mark(v, buf->handle, false); /* -EBADF: the host does not know it either */
        memset(buf, 0, sizeof(*buf));
    }
    return rc;
}

struct vgpu_buffer vgpu_buffer_at(const struct vgpu_buffer *buf, uint64_t offset)
{
    struct vgpu_buffer b = *buf;

    b.offset += offset;
    b.bytes = offset < buf->bytes ? buf->bytes - offset : 0;
    if (b.host_ptr)
        b.host_ptr = (uint8_t *)b.host_ptr + offset;
    return b;
}
