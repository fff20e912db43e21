/* SPDX-License-Identifier: Apache-2.0 */
/*
 * B-Queue, after the idea of Wang, Zhang, Tang and Hua, "B-Queue: efficient and practical queuing for fast core-to-core
 * communication" (2013), written anew: no shared index; each side looks a batch ahead in the slots, and a consumer that
 * finds the far end of the batch empty halves the batch until something is there. Its batch adapts to what it found.
 * Slots of 56 bytes and a full/empty word.
 */
#include "bench/rings/rings.h"

#define BATCH 64u /* or the whole of a smaller ring */

struct q {
    struct vgpu_slot *slots VGPU_ALIGNED(128); /* seq: 1 full, 0 empty */
    uint32_t mask, batch;
    uint32_t head, head_limit; /* producer: slots in [head, head_limit) are known to be empty */
    struct vgpu_slot *cons_slots VGPU_ALIGNED(128);
    uint32_t cons_mask, cons_batch;
    uint32_t tail, tail_limit; /* consumer: slots in [tail, tail_limit) are known to be full */
    uint32_t history;          /* how long the last batch was */
};

static inline void q_init(struct q *q, struct ring_bed *bed)
{
    q->slots = bench_mem_take(bed->mem, bed->slots * sizeof(*q->slots));
    q->mask = bed->slots - 1;
    q->head = q->head_limit = 0;
    q->cons_slots = q->slots;
    q->cons_mask = q->mask;
    q->tail = q->tail_limit = 0;
    q->batch = q->cons_batch = bed->slots < BATCH ? bed->slots : BATCH;
    q->history = 1;
}

static inline uint32_t q_push(struct q *q, const struct vgpu_slot *items, uint32_t n)
{
    uint32_t sent = 0;

    while (sent < n) {
        if (q->head == q->head_limit) {
            /* Empty a batch ahead means empty up to there: the consumer empties in order. */
            if (vgpu_load_acquire(&q->slots[(q->head + q->batch - 1) & q->mask].seq))
                break;
            q->head_limit = q->head + q->batch;
        }
        struct vgpu_slot *slot = &q->slots[q->head & q->mask];
        for (int i = 0; i < 7; i++)
            slot->w[i] = items[sent].w[i];
        vgpu_store_release(&slot->seq, 1);
        q->head++;
        sent++;
    }
    return sent;
}

static inline bool look_ahead(struct q *q)
{
    uint32_t batch = q->history * 2 <= q->cons_batch ? q->history * 2 : q->cons_batch;

    for (; batch; batch >>= 1)
        if (vgpu_load_acquire(&q->cons_slots[(q->tail + batch - 1) & q->cons_mask].seq))
            break;
    q->history = batch ? batch : 1;
    q->tail_limit = q->tail + batch;
    return batch != 0;
}

static inline uint32_t q_pop(struct q *q, struct vgpu_slot *out, uint32_t n)
{
    uint32_t got = 0;

    while (got < n) {
        if (q->tail == q->tail_limit && !look_ahead(q))
            break;
        struct vgpu_slot *slot = &q->cons_slots[q->tail & q->cons_mask];
        for (int i = 0; i < 7; i++)
            out[got].w[i] = slot->w[i];
        vgpu_store_release(&slot->seq, 0);
        q->tail++;
        got++;
    }
    return got;
}

#define SUBJECT      ring_bqueue
#define SUBJECT_NAME "b-queue"
#define SUBJECT_WHAT "B-Queue (Wang et al. 2013), from the paper's idea"
#define SUBJECT_KIND RING_PAPER
#include "bench/rings/template.h"
