/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loops around many producers and one consumer. The including file has defined:
 *   struct fan                                   all of it
 *   fan_init(struct fan *, struct ring_bed *)    empty, for bed->producers
 *   fan_push(struct fan *, uint32_t producer, struct vgpu_slot *items, uint32_t n)   how many went in
 *   fan_take(struct fan *, const struct vgpu_slot **first, uint32_t n)   up to n elements, to be read at *first before
 *                                                the next call
 *   FAN_SUBJECT, FAN_NAME, FAN_WHAT, FAN_KIND
 * Word 1 of an element names its producer, the tag counts within the producer.
 */
#include "bench/rings/rings.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

static void setup(struct ring_bed *bed)
{
    struct fan *fan = bench_mem_take(bed->mem, sizeof(*fan));

    fan_init(fan, bed);
    bed->state = fan;
}

/* One thread is all producers whose number modulo the threads is its own. */
ALWAYS_INLINE void fan_produce(struct fan_arg *arg, const uint32_t burst)
{
    struct ring_bed *bed = arg->bed;
    struct fan *fan = bed->state;
    struct vgpu_slot pool[RING_FAN_MAX][RING_POOL];
    uint64_t number = 0, from = vgpu_ticks();

    for (uint32_t p = arg->thread; p < bed->producers; p += bed->threads) {
        ring_pool_fill(pool[p]);
        for (uint32_t i = 0; i < RING_POOL; i++)
            pool[p][i].w[1] = p;
    }
    do {
        for (uint32_t chunk = 0; chunk < 256; chunk += burst) {
            for (uint32_t p = arg->thread; p < bed->producers; p += bed->threads) {
                struct vgpu_slot *items = &pool[p][number % RING_POOL];
                for (uint32_t i = 0; i < burst; i++)
                    items[i].w[0] = ring_word0(number + i);
                for (uint32_t sent = 0; sent < burst;)
                    sent += fan_push(fan, p, items + sent, burst - sent);
            }
            number += burst;
        }
    } while (vgpu_ticks() - from < bed->ticks);
    for (uint32_t p = arg->thread; p < bed->producers; p += bed->threads)
        vgpu_store_release(&bed->done[p].total, number + 1);
}

ALWAYS_INLINE bool fan_finished(struct ring_bed *bed, const uint64_t *number)
{
    for (uint32_t p = 0; p < bed->producers; p++)
        if (vgpu_load_acquire(&bed->done[p].total) != number[p] + 1)
            return false;
    return true;
}

ALWAYS_INLINE void fan_consume(struct ring_bed *bed, const uint32_t burst)
{
    struct fan *fan = bed->state;
    const struct vgpu_slot *first;
    uint64_t number[RING_FAN_MAX] = {0}, total = 0, errors = 0, from = vgpu_ticks();
    struct ring_window window = {0, from};

    for (;;) {
        uint32_t got = fan_take(fan, &first, burst);
        for (uint32_t i = 0; i < got; i++) {
            uint32_t p = (uint32_t)first[i].w[1] % RING_FAN_MAX;
            errors += ring_tag(&first[i]) != (uint32_t)number[p];
            number[p]++;
        }
        total += got;
        if (total - window.number >= RING_WINDOW)
            ring_window_end(&window, bed->hist, total);
        if (got == 0 && fan_finished(bed, number))
            break;
    }
    bed->took = vgpu_ticks() - from;
    bed->count = total;
    bed->errors = errors;
}

static void producer(void *arg)
{
    if (((struct fan_arg *)arg)->bed->burst == 1)
        fan_produce(arg, 1);
    else
        fan_produce(arg, 8);
}

static void consumer(void *arg)
{
    if (((struct ring_bed *)arg)->burst == 1)
        fan_consume(arg, 1);
    else
        fan_consume(arg, 8);
}

extern const struct fan_subject FAN_SUBJECT;
const struct fan_subject FAN_SUBJECT = {
    .name = FAN_NAME,
    .what = FAN_WHAT,
    .kind = FAN_KIND,
    .setup = setup,
    .producer = producer,
    .consumer = consumer,
};
