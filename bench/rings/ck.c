/* SPDX-License-Identifier: Apache-2.0 */
/* Concurrency Kit's ck_ring, single producer and consumer, copying 64-byte elements. It has no burst calls. */
#include <ck_ring.h>

#include "bench/rings/rings.h"

CK_RING_PROTOTYPE(bench, vgpu_slot)

struct q {
    ck_ring_t ring; /* pads its own two indices */
    struct vgpu_slot *buffer VGPU_ALIGNED(128);
} VGPU_ALIGNED(128);

static inline void q_init(struct q *q, struct ring_bed *bed)
{
    q->buffer = bench_mem_take(bed->mem, bed->slots * sizeof(*q->buffer));
    ck_ring_init(&q->ring, bed->slots);
}

static inline uint32_t q_push(struct q *q, const struct vgpu_slot *items, uint32_t n)
{
    uint32_t sent = 0;

    while (sent < n && ck_ring_enqueue_spsc_bench(&q->ring, q->buffer, (struct vgpu_slot *)&items[sent]))
        sent++;
    return sent;
}

static inline uint32_t q_pop(struct q *q, struct vgpu_slot *out, uint32_t n)
{
    uint32_t got = 0;

    while (got < n && ck_ring_dequeue_spsc_bench(&q->ring, q->buffer, &out[got]))
        got++;
    return got;
}

#define SUBJECT      ring_ck
#define SUBJECT_NAME "ck_ring"
#define SUBJECT_WHAT "Concurrency Kit ck_ring, single producer, single consumer"
#define SUBJECT_KIND RING_PACKAGED
#include "bench/rings/template.h"
