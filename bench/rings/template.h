/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loops around one point-to-point queue. The including file has defined:
 *   struct q                                     one direction, both private halves (on lines of their own)
 *   q_init(struct q *, struct ring_bed *)        empty, memory from bed->mem
 *   q_push(struct q *, const struct vgpu_slot *items, uint32_t n), q_pop(struct q *, struct vgpu_slot *out, uint32_t n)
 *                                                how many went in or came out, never waiting
 *   SUBJECT, SUBJECT_NAME, SUBJECT_WHAT, SUBJECT_KIND
 * and may have defined
 *   Q_JUDGE(item)                                what the receiver of requests does with each; 0 when fine
 *   Q_DUPLEX with struct duplex, d_init, d_req_push, d_req_pop, d_rsp_push, d_rsp_pop: one element, request and
 *                                                response in one structure instead of two queues
 */
#include <string.h>

#include "bench/rings/rings.h"

#ifndef Q_JUDGE
#define Q_JUDGE(item) 0
#endif
#define ALWAYS_INLINE static inline __attribute__((always_inline))

#ifndef Q_DUPLEX
struct duplex {
    struct q req VGPU_ALIGNED(128);
    struct q rsp VGPU_ALIGNED(128);
};
ALWAYS_INLINE void d_init(struct duplex *d, struct ring_bed *bed)
{
    q_init(&d->req, bed);
    q_init(&d->rsp, bed);
}
ALWAYS_INLINE uint32_t d_req_push(struct duplex *d, const struct vgpu_slot *item)
{
    return q_push(&d->req, item, 1);
}
ALWAYS_INLINE uint32_t d_req_pop(struct duplex *d, struct vgpu_slot *out)
{
    return q_pop(&d->req, out, 1);
}
ALWAYS_INLINE uint32_t d_rsp_push(struct duplex *d, const struct vgpu_slot *item)
{
    return q_push(&d->rsp, item, 1);
}
ALWAYS_INLINE uint32_t d_rsp_pop(struct duplex *d, struct vgpu_slot *out)
{
    return q_pop(&d->rsp, out, 1);
}
#endif

struct state {
    struct duplex duplex;
    struct q hop[3] VGPU_ALIGNED(128); /* guest to poll core (also the stream), poll core to executor, and back */
};

static void setup(struct ring_bed *bed)
{
    struct state *s = (struct state *)bench_mem_take(bed->mem, sizeof(*s));

    d_init(&s->duplex, bed);
    for (int i = 0; i < 3; i++)
        q_init(&s->hop[i], bed);
    bed->state = s;
}

/* ---- Round trip ---- */
static void rtt_client(void *arg)
{
    struct ring_bed *bed = (struct ring_bed *)arg;
    struct duplex *d = &((struct state *)bed->state)->duplex;
    struct vgpu_slot pool[RING_POOL], item;
    uint64_t number = 0, errors = 0;

    ring_pool_fill(pool);
    uint64_t from = vgpu_ticks(), last = from;
    while (last - from < bed->ticks) {
        struct vgpu_slot *request = &pool[number % RING_POOL];
        request->w[0] = ring_word0(number);
        while (!d_req_push(d, request))
            ;
        while (!d_rsp_pop(d, &item))
            ;
        errors += ring_tag(&item) != (uint32_t)number;
        number++;
        uint64_t now = vgpu_ticks();
        bench_hist_add(bed->hist, now - last);
        last = now;
    }
    bed->count = number;
    bed->errors = errors;
    vgpu_store_release(&bed->stop, 1);
}

static void rtt_server(void *arg)
{
    struct ring_bed *bed = (struct ring_bed *)arg;
    struct duplex *d = &((struct state *)bed->state)->duplex;
    struct vgpu_slot item, response;

    memset(&response, 0, sizeof(response));
    for (uint32_t idle = 1;; idle++) {
        if (d_req_pop(d, &item)) {
            uint64_t status = Q_JUDGE(&item);
            response.w[0] = ring_word0(ring_tag(&item)) + status;
            while (!d_rsp_push(d, &response))
                ;
        } else if (idle % 64 == 0 && vgpu_load_acquire(&bed->stop)) {
            return;
        }
    }
}

/* ---- Stream ---- */
ALWAYS_INLINE void produce(struct ring_bed *bed, struct q *q, const uint32_t burst)
{
    struct vgpu_slot pool[RING_POOL];
    uint64_t number = 0, from = vgpu_ticks();

    ring_pool_fill(pool);
    do {
        for (uint32_t chunk = 0; chunk < 256; chunk += burst) { /* the clock costs more than an element */
            struct vgpu_slot *items = &pool[number % RING_POOL];
            for (uint32_t i = 0; i < burst; i++)
                items[i].w[0] = ring_word0(number + i);
            for (uint32_t sent = 0; sent < burst;)
                sent += q_push(q, items + sent, burst - sent);
            number += burst;
        }
    } while (vgpu_ticks() - from < bed->ticks);
    vgpu_store_release(&bed->done[0].total, number + 1);
}

ALWAYS_INLINE void consume(struct ring_bed *bed, struct q *q, const uint32_t burst)
{
    struct vgpu_slot out[RING_POOL];
    uint64_t number = 0, errors = 0, from = vgpu_ticks();
    struct ring_window window = {0, from};

    for (;;) {
        uint32_t got = q_pop(q, out, burst);
        for (uint32_t i = 0; i < got; i++) {
            errors += Q_JUDGE(&out[i]) != 0;
            errors += ring_tag(&out[i]) != (uint32_t)(number + i);
        }
        number += got;
        if (number - window.number >= RING_WINDOW)
            ring_window_end(&window, bed->hist, number);
        if (got == 0 && vgpu_load_acquire(&bed->done[0].total) == number + 1)
            break;
    }
    bed->took = vgpu_ticks() - from;
    bed->count = number;
    bed->errors = errors;
}

static void stream_producer(void *arg)
{
    struct ring_bed *bed = (struct ring_bed *)arg;
    struct q *q = &((struct state *)bed->state)->hop[0];

    if (bed->burst == 1)
        produce(bed, q, 1);
    else if (bed->burst == 8)
        produce(bed, q, 8);
    else if (bed->burst == 32)
        produce(bed, q, 32);
    else
        produce(bed, q, bed->burst);
}

static void stream_consumer(void *arg)
{
    struct ring_bed *bed = (struct ring_bed *)arg;
    struct q *q = &((struct state *)bed->state)->hop[0];

    if (bed->burst == 1)
        consume(bed, q, 1);
    else if (bed->burst == 8)
        consume(bed, q, 8);
    else if (bed->burst == 32)
        consume(bed, q, 32);
    else
        consume(bed, q, bed->burst);
}

/* ---- Three hops: guest, poll core (judges), executor, guest ---- */
static void hop_guest(void *arg)
{
    struct ring_bed *bed = (struct ring_bed *)arg;
    struct q *hop = ((struct state *)bed->state)->hop;
    struct vgpu_slot pool[RING_POOL], item;
    uint64_t number = 0, errors = 0;

    ring_pool_fill(pool);
    uint64_t from = vgpu_ticks(), last = from;
    while (last - from < bed->ticks) {
        struct vgpu_slot *request = &pool[number % RING_POOL];
        request->w[0] = ring_word0(number);
        while (!q_push(&hop[0], request, 1))
            ;
        while (!q_pop(&hop[2], &item, 1))
            ;
        errors += ring_tag(&item) != (uint32_t)number;
        number++;
        uint64_t now = vgpu_ticks();
        bench_hist_add(bed->hist, now - last);
        last = now;
    }
    bed->count = number;
    bed->errors = errors;
    vgpu_store_release(&bed->stop, 1);
}

ALWAYS_INLINE void hop_loop(struct ring_bed *bed, struct q *in, struct q *out, const bool judge)
{
    struct vgpu_slot item;

    for (uint32_t idle = 1;; idle++) {
        if (q_pop(in, &item, 1)) {
            uint64_t status = judge ? Q_JUDGE(&item) : 0;
            item.w[0] += status;
            while (!q_push(out, &item, 1))
                ;
        } else if (idle % 64 == 0 && vgpu_load_acquire(&bed->stop)) {
            return;
        }
    }
}

static void hop_poll(void *arg)
{
    struct ring_bed *bed = (struct ring_bed *)arg;
    struct q *hop = ((struct state *)bed->state)->hop;

    hop_loop(bed, &hop[0], &hop[1], true);
}

static void hop_exec(void *arg)
{
    struct ring_bed *bed = (struct ring_bed *)arg;
    struct q *hop = ((struct state *)bed->state)->hop;

    hop_loop(bed, &hop[1], &hop[2], false);
}

/* ---- Idle poll ---- */
static void setup_idle(struct ring_bed *bed, uint32_t rings)
{
    struct q *q = (struct q *)bench_mem_take(bed->mem, rings * sizeof(*q));

    for (uint32_t i = 0; i < rings; i++)
        q_init(&q[i], bed);
    bed->state = q;
}

static void idle(struct ring_bed *bed, uint32_t rings)
{
    struct q *q = (struct q *)bed->state;
    struct vgpu_slot out[8];
    const uint32_t turns = 1 + RING_WINDOW / rings;
    uint64_t polls = 0, errors = 0, from = vgpu_ticks();
    struct ring_window window = {0, from};

    do {
        for (uint32_t turn = 0; turn < turns; turn++)
            for (uint32_t i = 0; i < rings; i++)
                errors += q_pop(&q[i], out, 8); /* nothing was pushed */
        polls += (uint64_t)turns * rings;
        ring_window_end(&window, bed->hist, polls);
    } while (window.ticks - from < bed->ticks);
    bed->took = window.ticks - from;
    bed->count = polls;
    bed->errors = errors;
}

#ifdef __cplusplus
extern "C" const struct ring_subject SUBJECT;
#else
extern const struct ring_subject SUBJECT;
#endif
const struct ring_subject SUBJECT = {
    .name = SUBJECT_NAME,
    .what = SUBJECT_WHAT,
    .kind = SUBJECT_KIND,
    .setup = setup,
    .rtt_client = rtt_client,
    .rtt_server = rtt_server,
    .stream_producer = stream_producer,
    .stream_consumer = stream_consumer,
    .hop_guest = hop_guest,
    .hop_poll = hop_poll,
    .hop_exec = hop_exec,
    .setup_idle = setup_idle,
    .idle = idle,
};
