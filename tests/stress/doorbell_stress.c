/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The doorbell: the consumer arms the event and really sleeps on an eventfd; the producer rings only when asked. A lost
 * wake-up leaves the consumer asleep with an element in the ring, which shows as a poll() that times out.
 *
 * The producer waits between batches for a random while, often until the consumer is about to sleep: that is where
 * arming and publishing cross. Exit 0; 1 on a lost wake-up, on a wrong element, or when the consumer hardly ever slept
 * (then nothing was tested).
 *
 * With VGPU_PLANT_NO_FENCE the fences are taken out. On x86 that loses a wake-up sooner or later; how soon depends on
 * the machine, so no test asserts it: the model (tests/model/doorbell.pml) does.
 */
#ifdef VGPU_PLANT_NO_FENCE
#include "core/base/atomic.h"
#define vgpu_fence_full() __atomic_signal_fence(__ATOMIC_SEQ_CST)
#endif
#include "plant.h"
#include "stress.h"

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define SLOTS   8u
#define START   (UINT64_C(0xffffff00)) /* positions cross 2^32 */
#define LOST_MS 10000 /* a wake-up that takes longer was lost: the machine may be slow, but not that slow */

static struct vgpu_slot slots[SLOTS];
static uint64_t head VGPU_ALIGNED(128);
static uint64_t event VGPU_ALIGNED(128);
static uint64_t rung VGPU_ALIGNED(128);
static uint64_t slept VGPU_ALIGNED(128), woken_for_nothing;
static uint64_t count;
static int bell;

static void *produce(void *arg)
{
    struct vgpu_prod p;
    struct vgpu_slot items[4];
    uint64_t sent = 0, rng = 0x77, one = 1;

    vgpu_prod_init(&p, slots, SLOTS, &head, START);
    while (sent < count) {
        uint64_t x = stress_rng(&rng);
        uint32_t n = 1 + (uint32_t)(x & 3);
        if (n > count - sent)
            n = (uint32_t)(count - sent);
        for (uint32_t j = 0; j < n; j++)
            for (int i = 0; i < 7; i++)
                items[j].w[i] = stress_word(sent + j, i);
        uint64_t from = p.pos;
        int pushed = vgpu_prod_push(&p, items, n);
        if (pushed < 0) {
            fprintf(stderr, "producer: push says %d\n", pushed);
            exit(1);
        }
        sent += (uint64_t)pushed;
        if (pushed > 0 && vgpu_ring_event_wanted(&event, from, p.pos)) {
            rung++;
            if (write(bell, &one, sizeof(one)) != sizeof(one)) {
                perror("write");
                exit(1);
            }
        }
        if (pushed == 0)
            sched_yield();
        for (uint32_t spin = (uint32_t)(x >> 8) % ((x & 4) ? 2000 : 50); spin > 0; spin--)
            vgpu_pause();
    }
    return NULL;
}

/* Armed and looked once more: sleep. False: nothing came. */
static bool sleep_on_bell(void)
{
    struct pollfd pfd = {.fd = bell, .events = POLLIN};
    uint64_t n;

    if (poll(&pfd, 1, LOST_MS) != 1)
        return false;
    return read(bell, &n, sizeof(n)) == sizeof(n);
}

static int consume(void)
{
    struct vgpu_cons c;
    struct vgpu_slot items[8];
    uint64_t seen = 0, rng = 0x99;

    vgpu_cons_init(&c, slots, SLOTS, &head, START, false);
    while (seen < count) {
        uint32_t got = vgpu_cons_pop(&c, items, 8);
        for (uint32_t j = 0; j < got; j++, seen++) {
            for (int i = 0; i < 7; i++) {
                if (items[j].w[i] != stress_word(seen, i)) {
                    fprintf(stderr, "consumer: word %d of element %lu is wrong\n", i, seen);
                    return 1;
                }
            }
        }
        if (got > 0)
            continue;
        for (uint32_t spin = (uint32_t)stress_rng(&rng) % 200; spin > 0 && !vgpu_cons_ready(&c); spin--)
            vgpu_pause();
        vgpu_ring_event_arm(&event, c.pos);
        if (vgpu_cons_ready(&c))
            continue;
        slept++;
        if (!sleep_on_bell()) {
            fprintf(stderr, "lost wake-up: slept at position %lu, the slot %s\n", c.pos,
                    vgpu_cons_ready(&c) ? "has an element" : "is empty");
            return 1;
        }
        woken_for_nothing += !vgpu_cons_ready(&c);
    }
    return 0;
}

int main(void)
{
    pthread_t p;

    count = stress_scale(500000);
    event = START - 1; /* not asked for */
    bell = eventfd(0, EFD_CLOEXEC);
    /* The consumer publishes its start before the producer may read it. */
    head = START;
    if (bell < 0 || pthread_create(&p, NULL, produce, NULL)) {
        perror("eventfd or thread");
        return 1;
    }
    if (consume())
        return 1;
    pthread_join(p, NULL);
    close(bell);
    printf("elements %lu slept %lu rung %lu woken for nothing %lu\n", count, slept, rung, woken_for_nothing);
    if (slept < count / 100) {
        fprintf(stderr, "the consumer slept only %lu times: nothing was tested\n", slept);
        return 1;
    }
    return 0;
}
