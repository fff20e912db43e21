/* SPDX-License-Identifier: Apache-2.0 */
/* DPDK's rte_ring, single producer and consumer, with its zero-copy calls: elements are written in place. */
#include <stdlib.h>

#include <rte_ring.h>
#include <rte_ring_elem.h>
#include <rte_ring_peek_zc.h>

#include <string.h>

#include "bench/rings/rings.h"

struct q {
    struct rte_ring *ring;
} VGPU_ALIGNED(128);

static inline void q_init(struct q *q, struct ring_bed *bed)
{
    ssize_t bytes = rte_ring_get_memsize_elem(sizeof(struct vgpu_slot), bed->slots);

    q->ring = bench_mem_take(bed->mem, (size_t)bytes);
    if (rte_ring_init(q->ring, "bench", bed->slots, RING_F_SP_ENQ | RING_F_SC_DEQ))
        abort();
}

static inline uint32_t q_push(struct q *q, const struct vgpu_slot *items, uint32_t n)
{
    struct rte_ring_zc_data zcd;
    uint32_t room = rte_ring_enqueue_zc_burst_elem_start(q->ring, sizeof(*items), n, &zcd, NULL);

    if (!room)
        return 0;
    memcpy(zcd.ptr1, items, zcd.n1 * sizeof(*items));
    if (zcd.n1 != room)
        memcpy(zcd.ptr2, items + zcd.n1, (room - zcd.n1) * sizeof(*items));
    rte_ring_enqueue_zc_elem_finish(q->ring, room);
    return room;
}

static inline uint32_t q_pop(struct q *q, struct vgpu_slot *out, uint32_t n)
{
    struct rte_ring_zc_data zcd;
    uint32_t there = rte_ring_dequeue_zc_burst_elem_start(q->ring, sizeof(*out), n, &zcd, NULL);

    if (!there)
        return 0;
    memcpy(out, zcd.ptr1, zcd.n1 * sizeof(*out));
    if (zcd.n1 != there)
        memcpy(out + zcd.n1, zcd.ptr2, (there - zcd.n1) * sizeof(*out));
    rte_ring_dequeue_zc_elem_finish(q->ring, there);
    return there;
}

#define SUBJECT      ring_rte_zc
#define SUBJECT_NAME "rte_ring-zc"
#define SUBJECT_WHAT "DPDK rte_ring, single producer, single consumer, its zero-copy calls"
#define SUBJECT_KIND RING_PACKAGED
#include "bench/rings/template.h"
