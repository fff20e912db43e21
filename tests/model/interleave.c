/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rings/spsc.h itself, not a model of it, under all executions of two threads that C11 allows (explore.h): the ring
 * with laps and both ways of reading a slot, and the doorbell. Built once as it is, which must be without fault, and
 * once with each order taken away (shim.h), which must be found: `interleave CASE...`. Exit 0: no execution is wrong,
 * all were tried; with an order taken away: each case has a wrong one.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/model/shim.h"

#define MOST UINT64_C(40000000)

static struct vgpu_slot slots[4];
static uint64_t head, event;
static struct vgpu_prod prod;
static struct vgpu_cons cons;
static unsigned ring_slots, total, popped, lonely;
static bool read_only;

static void check(bool ok, const char *what)
{
    if (!ok)
        explore_fail(what);
}

static void setup(void)
{
    memset(slots, 0, sizeof(slots));
    vgpu_prod_init(&prod, slots, ring_slots, &head, 0);
    vgpu_cons_init(&cons, slots, ring_slots, &head, 0, read_only);
    popped = 0;
}

/* ---- the ring: each element once, in order, whole ---- */

static struct vgpu_slot element(unsigned i)
{
    struct vgpu_slot s = {.w = {i + 1, i + 1, i + 1, i + 1, i + 1, i + 1, i + 1}};
    return s;
}

static void producer(void)
{
    for (unsigned i = 0; i < total;) {
        struct vgpu_slot s = element(i);
        int n = vgpu_prod_push(&prod, &s, 1);
        check(n >= 0, "a good credit is refused");
        i += (unsigned)n;
        if (n == 0 && !explore_wait())
            return; /* the verdict says what is missing */
    }
}

static void take(const struct vgpu_slot *s)
{
    struct vgpu_slot want = element(popped);

    check(s->seq == popped + 1, "an element out of order");
    for (int i = 0; i < 7; i++)
        check(explore_value(s->w[i]) == want.w[i], "an element that was not written, or is overwritten");
    popped++;
}

static void consumer(void)
{
    while (popped < total) {
        struct vgpu_slot out;
        if (vgpu_cons_pop(&cons, &out, 1) == 1)
            take(&out);
        else if (!explore_wait()) {
            while (vgpu_cons_pop(&cons, &out, 1) == 1)
                take(&out);
            return;
        }
    }
    vgpu_cons_publish(&cons);
}

static void all_there(void)
{
    if (popped != total)
        lonely = popped + 1;
}

/* ---- the doorbell: who sleeps is woken ---- */

static void ringing_producer(void)
{
    for (unsigned i = 0; i < total; i++) {
        struct vgpu_slot s = element(i);
        check(vgpu_prod_push(&prod, &s, 1) == 1, "no room");
        if (vgpu_ring_event_wanted(&event, i, i + 1))
            explore_bell();
    }
}

static void sleeping_consumer(void)
{
    while (popped < total) {
        struct vgpu_slot out;
        if (vgpu_cons_pop(&cons, &out, 1) == 1) {
            take(&out);
            continue;
        }
        vgpu_ring_event_arm(&event, cons.pos);
        if (vgpu_cons_ready(&cons)) /* the last look */
            continue;
        while (!explore_bell_take()) /* sleeps: only the bell wakes it */
            if (!explore_wait()) {
                check(explore_bell_take(), "asleep, with an element in the ring and no bell");
                break;
            }
    }
}

/* ---- cases ---- */

static const struct {
    const char *name;
    unsigned slots, total;
    bool read_only, doorbell;
} cases[] = {
    {"ring", 2, 3, false, false},
    {"ring-read-only", 2, 3, true, false},
    {"ring-one-slot", 1, 2, false, false},
    {"doorbell", 4, 2, true, true},
};

int main(int argc, char **argv)
{
    unsigned ran = 0;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        bool wanted = argc == 1;
        for (int a = 1; a < argc; a++)
            wanted |= !strcmp(argv[a], cases[i].name);
        if (!wanted)
            continue;
        ring_slots = cases[i].slots;
        total = cases[i].total;
        read_only = cases[i].read_only;
        lonely = 0;
        struct explore_result r = cases[i].doorbell
                                      ? explore(setup, ringing_producer, sleeping_consumer, all_there, MOST)
                                      : explore(setup, producer, consumer, all_there, MOST);
        ran++;
        if (!r.fault && lonely)
            r.fault = "an element is never seen";
        printf("shows: %s: %s after %llu executions%s\n", cases[i].name, r.fault ? r.fault : "no fault",
               (unsigned long long)r.executions, r.fault || r.complete ? "" : ", which are not all");
        if (PLANTED ? !r.fault : r.fault || !r.complete)
            return 1;
    }
    if (!ran)
        fprintf(stderr, "interleave: no such case\n");
    return ran ? 0 : 1;
}
