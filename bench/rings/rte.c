/* SPDX-License-Identifier: Apache-2.0 */
/* DPDK's rte_ring, single producer and consumer, 64-byte elements, on our memory: rte_ring_init() needs no EAL. */
#include <stdlib.h>

#include <rte_ring.h>
#include <rte_ring_elem.h>

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
    return rte_ring_sp_enqueue_burst_elem(q->ring, items, sizeof(*items), n, NULL);
}

static inline uint32_t q_pop(struct q *q, struct vgpu_slot *out, uint32_t n)
{
    return rte_ring_sc_dequeue_burst_elem(q->ring, out, sizeof(*out), n, NULL);
}

#define SUBJECT      ring_rte
#define SUBJECT_NAME "rte_ring"
#define SUBJECT_WHAT "DPDK rte_ring, single producer, single consumer, copying"
#define SUBJECT_KIND RING_PACKAGED
#include "bench/rings/template.h"
