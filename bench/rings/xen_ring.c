/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Xen's io/ring.h, polled, without notifications. A round trip uses it as it is meant: request and response share a
 * slot and a ring. A stream goes one way: the back end returns slots by its response index alone, unread.
 */
#define __XEN_INTERFACE_VERSION__ 0x00040400 /* else the header maps the barriers to older names */

#include <string.h>
#include <stdint.h>
#include <xen/xen.h>

#define xen_mb()  __atomic_thread_fence(__ATOMIC_SEQ_CST)
#define xen_rmb() __atomic_thread_fence(__ATOMIC_ACQUIRE)
#define xen_wmb() __atomic_thread_fence(__ATOMIC_RELEASE)
#include <xen/io/ring.h>

#include "bench/rings/rings.h"

DEFINE_RING_TYPES(bench, struct vgpu_slot, struct vgpu_slot);

struct q {
    bench_front_ring_t front VGPU_ALIGNED(128);
    bench_back_ring_t back VGPU_ALIGNED(128);
};

static inline void q_init(struct q *q, struct ring_bed *bed)
{
    size_t bytes = offsetof(struct bench_sring, ring) + bed->slots * sizeof(struct vgpu_slot);
    struct bench_sring *sring = bench_mem_take(bed->mem, bytes);

    XEN_FRONT_RING_INIT(&q->front, sring, bytes);
    BACK_RING_INIT(&q->back, sring, bytes);
}

/* The index fields are plain in the header; read and written once, as the kernel's drivers do. */
#define PEEK(field) (*(volatile RING_IDX *)&(field))

static inline uint32_t q_push(struct q *q, const struct vgpu_slot *items, uint32_t n)
{
    bench_front_ring_t *front = &q->front;
    uint32_t room = RING_FREE_REQUESTS(front);

    if (room < n) {
        front->rsp_cons = PEEK(front->sring->rsp_prod);
        xen_rmb();
        room = RING_FREE_REQUESTS(front);
        if (room < n)
            n = room;
    }
    if (!n)
        return 0;
    for (uint32_t i = 0; i < n; i++)
        *RING_GET_REQUEST(front, front->req_prod_pvt++) = items[i];
    RING_PUSH_REQUESTS(front);
    return n;
}

static inline uint32_t q_pop(struct q *q, struct vgpu_slot *out, uint32_t n)
{
    bench_back_ring_t *back = &q->back;
    uint32_t there = PEEK(back->sring->req_prod) - back->req_cons;

    if (!there)
        return 0;
    xen_rmb();
    if (there < n)
        n = there;
    for (uint32_t i = 0; i < n; i++)
        RING_COPY_REQUEST(back, back->req_cons++, &out[i]);
    back->rsp_prod_pvt = back->req_cons;
    RING_PUSH_RESPONSES(back);
    return n;
}

#define Q_DUPLEX
struct duplex {
    struct q q;
};

static inline void d_init(struct duplex *d, struct ring_bed *bed)
{
    q_init(&d->q, bed);
}

static inline uint32_t d_req_push(struct duplex *d, const struct vgpu_slot *item)
{
    bench_front_ring_t *front = &d->q.front;

    if (RING_FULL(front))
        return 0;
    *RING_GET_REQUEST(front, front->req_prod_pvt++) = *item;
    RING_PUSH_REQUESTS(front);
    return 1;
}

static inline uint32_t d_req_pop(struct duplex *d, struct vgpu_slot *out)
{
    bench_back_ring_t *back = &d->q.back;

    if (PEEK(back->sring->req_prod) == back->req_cons)
        return 0;
    xen_rmb();
    RING_COPY_REQUEST(back, back->req_cons++, out);
    return 1;
}

static inline uint32_t d_rsp_push(struct duplex *d, const struct vgpu_slot *item)
{
    bench_back_ring_t *back = &d->q.back;

    *RING_GET_RESPONSE(back, back->rsp_prod_pvt++) = *item;
    RING_PUSH_RESPONSES(back);
    return 1;
}

static inline uint32_t d_rsp_pop(struct duplex *d, struct vgpu_slot *out)
{
    bench_front_ring_t *front = &d->q.front;

    if (PEEK(front->sring->rsp_prod) == front->rsp_cons)
        return 0;
    xen_rmb();
    RING_COPY_RESPONSE(front, front->rsp_cons++, out);
    return 1;
}

#define SUBJECT      ring_xen
#define SUBJECT_NAME "xen-io-ring"
#define SUBJECT_WHAT "Xen io/ring.h, polled"
#define SUBJECT_KIND RING_PACKAGED
#include "bench/rings/template.h"
