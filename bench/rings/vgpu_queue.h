/* SPDX-License-Identifier: Apache-2.0 */
/* rings/spsc.h as a queue for template.h. VGPU_QUEUE_READ_ONLY: 1 keeps the consumer from writing to slots. */
#include "bench/rings/rings.h"

struct q {
    struct vgpu_prod prod VGPU_ALIGNED(128);
    struct vgpu_cons cons VGPU_ALIGNED(128);
};

static inline void q_init(struct q *q, struct ring_bed *bed)
{
    struct vgpu_slot *slots = bench_mem_take(bed->mem, bed->slots * sizeof(*slots));
    uint64_t *credit = bench_mem_take(bed->mem, 128);
    /* The host chooses where a ring starts; apart from each other, so that idle rings do not share L1 sets. */
    uint64_t start = ((uintptr_t)slots >> 7) * 3 % bed->slots;

    vgpu_prod_init(&q->prod, slots, bed->slots, credit, start);
    vgpu_cons_init(&q->cons, slots, bed->slots, credit, start, VGPU_QUEUE_READ_ONLY);
}

static inline uint32_t q_push(struct q *q, const struct vgpu_slot *items, uint32_t n)
{
    int went = vgpu_prod_push(&q->prod, items, n);

    return went > 0 ? (uint32_t)went : 0;
}

static inline uint32_t q_pop(struct q *q, struct vgpu_slot *out, uint32_t n)
{
    return vgpu_cons_pop(&q->cons, out, n);
}

#ifdef VGPU_QUEUE_VALIDATE
/* As a poll core does it: the private copy in, a work item or a refusal out. */
static inline uint64_t q_judge(const struct vgpu_slot *item)
{
    struct vgpu_work work;
    uint16_t status = vgpu_validate((const struct vgpu_desc *)item, &ring_view, &work);

    __asm__ __volatile__("" : : "r"(&work) : "memory"); /* the work item is wanted */
    return status;
}
#define Q_JUDGE(item) q_judge(item)
#endif
