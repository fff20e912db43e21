/* SPDX-License-Identifier: Apache-2.0 */
/*
 * liburcu's wfcqueue: a linked queue of nodes. Nodes are handed round a fixed array; the consumer publishes how many it
 * has taken, because the queue itself has no bound. Bursts are spliced, which is its way to pass several at once.
 */
#define URCU_INLINE_SMALL_FUNCTIONS
#define _LGPL_SOURCE
#include <urcu/wfcqueue.h>

#include "bench/rings/rings.h"

struct node {
    struct cds_wfcq_node link;
    uint64_t w[7];
} VGPU_ALIGNED(64);

struct q {
    struct cds_wfcq_tail tail VGPU_ALIGNED(128);
    struct __cds_wfcq_head head VGPU_ALIGNED(128);
    struct node *nodes VGPU_ALIGNED(128); /* producer */
    uint64_t sent, limit;
    uint32_t slots;
    uint64_t taken VGPU_ALIGNED(128); /* consumer, published */
    uint64_t pos VGPU_ALIGNED(128);   /* consumer, private */
    uint32_t quarter;
    struct __cds_wfcq_head local; /* spliced off the queue, to be read */
    struct cds_wfcq_tail local_tail;
};

static inline void q_init(struct q *q, struct ring_bed *bed)
{
    q->nodes = bench_mem_take(bed->mem, bed->slots * sizeof(*q->nodes));
    q->slots = bed->slots;
    q->quarter = bed->slots / 4;
    q->sent = q->pos = q->taken = 0;
    q->limit = bed->slots - 1; /* the node read last stays linked until the next one comes */
    __cds_wfcq_init(&q->head, &q->tail);
    __cds_wfcq_init(&q->local, &q->local_tail);
}

static inline uint32_t q_push(struct q *q, const struct vgpu_slot *items, uint32_t n)
{
    struct __cds_wfcq_head batch;
    struct cds_wfcq_tail batch_tail;

    if (q->limit - q->sent < n)
        q->limit = vgpu_load_acquire(&q->taken) + q->slots - 1;
    if (q->limit - q->sent < n)
        n = (uint32_t)(q->limit - q->sent);
    if (n > 1)
        __cds_wfcq_init(&batch, &batch_tail);
    for (uint32_t i = 0; i < n; i++) {
        struct node *node = &q->nodes[(q->sent + i) & (q->slots - 1)];
        for (int k = 0; k < 7; k++)
            node->w[k] = items[i].w[k];
        cds_wfcq_node_init(&node->link);
        if (n > 1)
            cds_wfcq_enqueue(&batch, &batch_tail, &node->link);
        else
            cds_wfcq_enqueue(&q->head, &q->tail, &node->link);
    }
    if (n > 1)
        __cds_wfcq_splice_nonblocking(&q->head, &q->tail, &batch, &batch_tail);
    q->sent += n;
    return n;
}

static inline uint32_t q_pop(struct q *q, struct vgpu_slot *out, uint32_t n)
{
    uint32_t got = 0;

    if (cds_wfcq_empty(&q->local, &q->local_tail))
        __cds_wfcq_splice_nonblocking(&q->local, &q->local_tail, &q->head, &q->tail);
    while (got < n) {
        struct cds_wfcq_node *link = __cds_wfcq_dequeue_nonblocking(&q->local, &q->local_tail);
        if (link == NULL || link == CDS_WFCQ_WOULDBLOCK)
            break;
        struct node *node = caa_container_of(link, struct node, link);
        for (int k = 0; k < 7; k++)
            out[got].w[k] = node->w[k];
        got++;
    }
    q->pos += got;
    if (q->pos != vgpu_load_relaxed(&q->taken) && (got == 0 || q->pos - q->taken > q->quarter))
        vgpu_store_release(&q->taken, q->pos);
    return got;
}

#define SUBJECT      ring_wfcqueue
#define SUBJECT_NAME "wfcqueue"
#define SUBJECT_WHAT "liburcu wfcqueue, nodes from a fixed array, bursts spliced"
#define SUBJECT_KIND RING_PACKAGED
#include "bench/rings/template.h"
