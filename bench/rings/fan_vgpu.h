/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One SPSC ring per producer, merged by the stamp in word 6 (that of struct vgpu_work). The consumer holds a burst of
 * each ring and hands out, from the ring whose next element is oldest, the run of elements that are not younger than
 * the next of any other ring. FAN_STAMP_EVERY: elements that share one reading of the clock, as all that a poll core
 * took in one pass over its VMs do; 1: every push reads it.
 */
#include "bench/rings/rings.h"

#define STAMP_WORD 6
#define STAGE      RING_POOL

struct fan_ring {
    struct vgpu_prod prod VGPU_ALIGNED(128);
    uint64_t stamp;
    uint32_t stamped; /* elements since the clock was read */
    struct vgpu_cons cons VGPU_ALIGNED(128);
    uint32_t next, staged; /* stage[next..staged) are to be handed out */
    struct vgpu_slot stage[STAGE];
};

struct fan {
    uint32_t rings;
    struct fan_ring ring[RING_FAN_MAX];
};

static inline void fan_init(struct fan *fan, struct ring_bed *bed)
{
    fan->rings = bed->producers;
    for (uint32_t i = 0; i < fan->rings; i++) {
        struct fan_ring *r = &fan->ring[i];
        struct vgpu_slot *slots = bench_mem_take(bed->mem, bed->slots * sizeof(*slots));
        uint64_t *credit = bench_mem_take(bed->mem, 128);
        vgpu_prod_init(&r->prod, slots, bed->slots, credit, 0);
        vgpu_cons_init(&r->cons, slots, bed->slots, credit, 0, !vgpu_ring_ownership_pays());
        r->stamped = UINT32_MAX;
    }
}

static inline uint32_t fan_push(struct fan *fan, uint32_t producer, struct vgpu_slot *items, uint32_t n)
{
    struct fan_ring *r = &fan->ring[producer];

    if (r->stamped >= FAN_STAMP_EVERY) {
        r->stamp = vgpu_ticks();
        r->stamped = 0;
    }
    r->stamped += n;
    for (uint32_t i = 0; i < n; i++)
        items[i].w[STAMP_WORD] = r->stamp;
    int went = vgpu_prod_push(&r->prod, items, n);
    return went > 0 ? (uint32_t)went : 0;
}

static inline uint32_t fan_take(struct fan *fan, const struct vgpu_slot **first, uint32_t n)
{
    struct fan_ring *oldest = NULL;
    uint64_t oldest_stamp = 0, second = UINT64_MAX;
    uint32_t run = 0;

    for (uint32_t i = 0; i < fan->rings; i++) {
        struct fan_ring *r = &fan->ring[i];
        if (r->next == r->staged) {
            r->next = 0;
            r->staged = vgpu_cons_pop(&r->cons, r->stage, STAGE);
            if (!r->staged)
                continue;
        }
        uint64_t stamp = r->stage[r->next].w[STAMP_WORD];
        if (!oldest || stamp < oldest_stamp) {
            second = oldest ? oldest_stamp : second;
            oldest = r;
            oldest_stamp = stamp;
        } else if (stamp < second) {
            second = stamp;
        }
    }
    if (!oldest)
        return 0;
    *first = &oldest->stage[oldest->next];
    while (run < n && oldest->next < oldest->staged && oldest->stage[oldest->next].w[STAMP_WORD] <= second) {
        oldest->next++;
        run++;
    }
    return run;
}
