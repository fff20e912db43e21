/* SPDX-License-Identifier: Apache-2.0 */
/* Boost.Lockfree's spsc_queue with its storage inside, placed in our memory. */
#include <boost/lockfree/spsc_queue.hpp>
#include <new>

#include "bench/rings/rings.h"

typedef boost::lockfree::spsc_queue<vgpu_slot, boost::lockfree::capacity<RING_SLOTS>> boost_queue;

struct q {
    boost_queue *queue;
} VGPU_ALIGNED(128);

static inline void q_init(struct q *q, struct ring_bed *bed)
{
    q->queue = new (bench_mem_take(bed->mem, sizeof(boost_queue))) boost_queue;
}

static inline uint32_t q_push(struct q *q, const struct vgpu_slot *items, uint32_t n)
{
    return (uint32_t)q->queue->push(items, n);
}

static inline uint32_t q_pop(struct q *q, struct vgpu_slot *out, uint32_t n)
{
    return (uint32_t)q->queue->pop(out, n);
}

#define SUBJECT      ring_boost
#define SUBJECT_NAME "boost"
#define SUBJECT_WHAT "Boost.Lockfree spsc_queue"
#define SUBJECT_KIND RING_PACKAGED
#include "bench/rings/template.h"
