/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One producer and one consumer thread on one ring, both stopping at random: each element arrives, once, in order,
 * whole.
 *
 *   spsc_stress                                   the matrix of shapes below
 *   spsc_stress SLOTS BURST COUNT START READ_ONLY one shape
 *
 * Exit 0, or 1 with the first wrong element. A ring that stops moving ends by SIGALRM.
 */
#include "plant.h"
#include "stress.h"

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#define SLOTS_MAX 4096u
#define BURST_MAX 64u
#define STUCK_S   120u

struct shape {
    uint32_t slots, burst;
    uint64_t count, start;
    bool read_only;
};

struct run {
    struct shape shape;
    struct vgpu_slot slots[SLOTS_MAX];
    uint64_t head VGPU_ALIGNED(128);
    struct vgpu_prod prod VGPU_ALIGNED(128);
    struct vgpu_cons cons VGPU_ALIGNED(128);
    uint64_t full VGPU_ALIGNED(128);  /* producer: pushes that found no room */
    uint64_t empty VGPU_ALIGNED(128); /* consumer: pops that found nothing */
};
static struct run run;

static void *produce(void *arg)
{
    struct run *r = arg;
    struct vgpu_slot items[BURST_MAX];
    uint64_t sent = 0, rng = 0x1111 + r->shape.start;

    while (sent < r->shape.count) {
        uint64_t x = stress_rng(&rng);
        uint32_t n = 1 + (uint32_t)(x >> 8) % r->shape.burst;
        if (n > r->shape.count - sent)
            n = (uint32_t)(r->shape.count - sent);
        for (uint32_t j = 0; j < n; j++)
            for (int i = 0; i < 7; i++)
                items[j].w[i] = stress_word(sent + j, i);
        int pushed = vgpu_prod_push(&r->prod, items, n);
        if (pushed < 0) {
            fprintf(stderr, "producer: push says %d after %lu\n", pushed, sent);
            exit(1);
        }
        sent += (uint64_t)pushed;
        r->full += (uint32_t)pushed < n;
        if (pushed == 0 || (x & 63) == 0)
            sched_yield();
    }
    return NULL;
}

static void *consume(void *arg)
{
    struct run *r = arg;
    struct vgpu_slot items[BURST_MAX];
    uint64_t seen = 0, rng = 0x2222 + r->shape.start;

    while (seen < r->shape.count) {
        uint64_t x = stress_rng(&rng);
        uint32_t got = vgpu_cons_pop(&r->cons, items, 1 + (uint32_t)(x >> 8) % r->shape.burst);
        for (uint32_t j = 0; j < got; j++, seen++) {
            for (int i = 0; i < 7; i++) {
                if (items[j].w[i] != stress_word(seen, i)) {
                    fprintf(stderr, "consumer: word %d of element %lu is wrong\n", i, seen);
                    exit(1);
                }
            }
            if (items[j].seq != r->shape.start + seen + 1) {
                fprintf(stderr, "consumer: element %lu has sequence %lu\n", seen, items[j].seq);
                exit(1);
            }
        }
        r->empty += got == 0;
        if (got == 0 || (x & 63) == 0)
            sched_yield();
    }
    return NULL;
}

static int run_shape(const struct shape *shape)
{
    pthread_t p, c;
    struct vgpu_slot extra;

    run.shape = *shape;
    run.full = run.empty = 0;
    for (uint32_t i = 0; i < SLOTS_MAX; i++)
        run.slots[i].seq = 0;
    vgpu_prod_init(&run.prod, run.slots, shape->slots, &run.head, shape->start);
    vgpu_cons_init(&run.cons, run.slots, shape->slots, &run.head, shape->start, shape->read_only);
    alarm(STUCK_S);
    if (pthread_create(&p, NULL, produce, &run) || pthread_create(&c, NULL, consume, &run)) {
        fprintf(stderr, "no threads\n");
        return 1;
    }
    pthread_join(p, NULL);
    pthread_join(c, NULL);
    alarm(0);
    printf("slots %u burst %u count %lu start %lx %s: full %lu empty %lu\n", shape->slots, shape->burst, shape->count,
           shape->start, shape->read_only ? "read-only" : "ownership", run.full, run.empty);
    if (vgpu_cons_pop(&run.cons, &extra, 1) != 0 || run.head != shape->start + shape->count) {
        fprintf(stderr, "something is left in the ring, or its credit is wrong\n");
        return 1;
    }
    return 0;
}

int main(int argc, char **argv)
{
    static const uint64_t starts[] = {0, UINT64_C(0xffffff00), (UINT64_C(1) << 62) - 500};
    static const uint32_t slots[] = {8, 64, 1024}, bursts[] = {1, 5, 32};
    uint32_t shapes = 0;

    if (argc == 6) {
        struct shape s = {.slots = (uint32_t)strtoul(argv[1], NULL, 0),
                          .burst = (uint32_t)strtoul(argv[2], NULL, 0),
                          .count = strtoull(argv[3], NULL, 0),
                          .start = strtoull(argv[4], NULL, 0),
                          .read_only = strtoul(argv[5], NULL, 0) != 0};
        if (s.slots < 8 || s.slots > SLOTS_MAX || (s.slots & (s.slots - 1)) || s.burst < 1 || s.burst > BURST_MAX) {
            fprintf(stderr, "SLOTS: power of two, 8 to %u; BURST: 1 to %u\n", SLOTS_MAX, BURST_MAX);
            return 2;
        }
        return run_shape(&s);
    }
    for (uint32_t i = 0; i < 3; i++) {
        for (uint32_t j = 0; j < 3; j++) {
            for (uint32_t ro = 0; ro < 2; ro++) {
                struct shape s = {slots[i], bursts[j], stress_scale(200000), starts[shapes++ % 3], ro};
                if (run_shape(&s))
                    return 1;
            }
        }
    }
    return 0;
}
