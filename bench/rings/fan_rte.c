/* SPDX-License-Identifier: Apache-2.0 */
/* DPDK's rte_ring with many producers and one consumer, as an executor would be fed without our fan-in. */
#include <stdlib.h>

#include <rte_ring.h>
#include <rte_ring_elem.h>

#include "bench/rings/rings.h"

struct fan {
    struct rte_ring *ring;
    struct vgpu_slot out[RING_POOL] VGPU_ALIGNED(128);
};

static inline void fan_init(struct fan *fan, struct ring_bed *bed)
{
    ssize_t bytes = rte_ring_get_memsize_elem(sizeof(struct vgpu_slot), bed->slots);

    fan->ring = bench_mem_take(bed->mem, (size_t)bytes);
    if (rte_ring_init(fan->ring, "bench", bed->slots, RING_F_SC_DEQ))
        abort();
}

static inline uint32_t fan_push(struct fan *fan, uint32_t producer, struct vgpu_slot *items, uint32_t n)
{
    return rte_ring_mp_enqueue_burst_elem(fan->ring, items, sizeof(*items), n, NULL);
}

static inline uint32_t fan_take(struct fan *fan, const struct vgpu_slot **first, uint32_t n)
{
    *first = fan->out;
    return rte_ring_sc_dequeue_burst_elem(fan->ring, fan->out, sizeof(*fan->out), n, NULL);
}

#define FAN_SUBJECT fan_rte
#define FAN_NAME    "rte_ring-mp"
#define FAN_WHAT    "DPDK rte_ring, many producers, single consumer"
#define FAN_KIND    RING_PACKAGED
#include "bench/rings/fan_template.h"
