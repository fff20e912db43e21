/* SPDX-License-Identifier: Apache-2.0 */
/*
 * High before medium before low, told from execution sequence numbers. A low-priority VM saturates its pool behind a
 * device that stands still; medium and high come later and are started first, but for what was on the device already
 * (at most the budget of each priority).
 */
#include "ring_look.h"

#define EACH 400u
#define BUDGET_MEDIUM 8u
#define BUDGET_LOW 4u

struct side {
    struct vgpu *v;
    unsigned got;
    uint64_t seq[EACH + 1];
};

static void submit_all(struct vgpu *v, unsigned n)
{
    struct vgpu_request nop = {.opcode = VGPU_OP_NOP};

    for (unsigned i = 0; i < n; i++)
        e2e_check(vgpu_submit(v, &nop, NULL) == 0, "%s", vgpu_strerror(v));
}

static void fetch_all(struct side *s, unsigned n)
{
    struct vgpu_completion c[64];

    while (s->got < n) {
        int got = vgpu_wait(s->v, c, 64, UINT64_C(30000000000));
        e2e_check(got > 0, "%d: %s", got, vgpu_strerror(s->v));
        for (int i = 0; i < got; i++) {
            e2e_check(c[i].status == VGPU_OK && c[i].exec_seq > 0, "status %u", c[i].status);
            s->seq[s->got++] = c[i].exec_seq;
        }
    }
}

/* How many of a's were started before the last of b's. */
static unsigned before_last(const struct side *a, const struct side *b)
{
    uint64_t last = 0;
    unsigned n = 0;

    for (unsigned i = 0; i < b->got; i++)
        last = b->seq[i] > last ? b->seq[i] : last;
    for (unsigned i = 0; i < a->got; i++)
        n += a->seq[i] < last;
    return n;
}

/* One try: false when the stall ended before all had come, or began late, so that nothing can be said. */
static bool one_try(const struct e2e_host *h, uint32_t stall_us, unsigned *worst_low, unsigned *worst_medium)
{
    struct vgpu_request stall = {.opcode = VGPU_OP_DEBUG, .sub = VGPU_DEBUG_STALL, .arg = {stall_us}};
    const struct vgpu_options large = {.ring_slots = 4096}; /* look_until_taken() wants EACH below a quarter of it */
    struct side low = {.v = e2e_open(h, 3, &large)}, medium = {.v = e2e_open(h, 2, &large)};
    struct side high = {.v = e2e_open(h, 1, &large)};

    e2e_check(vgpu_submit(low.v, &stall, NULL) == 0, "%s", vgpu_strerror(low.v));
    look_until_taken(low.v);
    submit_all(low.v, EACH);
    look_until_taken(low.v);
    submit_all(medium.v, EACH);
    look_until_taken(medium.v);
    submit_all(high.v, EACH);
    look_until_taken(high.v);
    struct vgpu_completion c;
    bool stalled = vgpu_poll(low.v, &c, 1) == 0; /* the stall is still running, so all came while it did */
    if (!stalled)
        low.seq[low.got++] = c.exec_seq;
    fetch_all(&high, EACH);
    fetch_all(&medium, EACH);
    fetch_all(&low, EACH + 1);
    /* On a busy machine the executor may have found others first when it awoke: then nothing stalled them. */
    stalled = stalled && low.seq[0] < medium.seq[0] && low.seq[0] < high.seq[0];
    if (stalled) {
        unsigned low_early = before_last(&low, &high), medium_early = before_last(&medium, &high);
        unsigned low_medium = before_last(&low, &medium);
        e2e_check(low_early <= BUDGET_LOW, "%u low ones started before the last high one", low_early);
        e2e_check(medium_early <= BUDGET_MEDIUM, "%u medium ones started before the last high one", medium_early);
        e2e_check(low_medium <= BUDGET_LOW, "%u low ones started before the last medium one", low_medium);
        e2e_check(before_last(&high, &low) == EACH && before_last(&medium, &low) == EACH, "low was not last");
        *worst_low = low_early > *worst_low ? low_early : *worst_low;
        *worst_medium = medium_early > *worst_medium ? medium_early : *worst_medium;
    }
    vgpu_close(high.v);
    vgpu_close(medium.v);
    vgpu_close(low.v);
    return stalled;
}

static void order(struct e2e_options o, const char *low_pool, const char *high_pool)
{
    struct e2e_host h;

    o.debug = true;
    o.budget[VGPU_PRIO_HIGH] = 16;
    o.budget[VGPU_PRIO_MEDIUM] = BUDGET_MEDIUM;
    o.budget[VGPU_PRIO_LOW] = BUDGET_LOW;
    e2e_host_start(&h, &o);
    e2e_register(&h, 1, 1, high_pool, "high", NULL);
    e2e_register(&h, 2, 2, "A", "medium", NULL);
    e2e_register(&h, 3, 3, low_pool, "low", NULL);
    uint32_t stall_us = 50000;
    unsigned low = 0, medium = 0;
    for (int tries = 0; !one_try(&h, stall_us, &low, &medium); tries++, stall_us *= 2)
        e2e_check(tries < 8, "this machine is too slow: a stall of %u us ends before 1200 descriptors came", stall_us);
    for (int i = 0; i < 5; i++)
        one_try(&h, stall_us, &low, &medium);
    e2e_shows("%u low, then %u medium, then %u high ones queued: at most %u low and %u medium started before the last high "
              "one (budgets %u and %u)", EACH, EACH, EACH, low, medium, BUDGET_LOW, BUDGET_MEDIUM);
    e2e_host_stop(&h);
}

static void one_poll_core(void)
{
    order((struct e2e_options){.backend = "fault:null"}, "A", "A");
}
static void three_poll_cores(void)
{
    order((struct e2e_options){.backend = "fault:cpu", .poll_cores = 3}, "A", "A");
}
static void small_window(void) /* most of the backlog waits with the poll core */
{
    order((struct e2e_options){.backend = "fault:null", .window = 8}, "A", "A");
}
static void in_process(void)
{
    order((struct e2e_options){.backend = "fault:null", .in_process = true}, "A", "A");
}
static void scope_host(void) /* the low one is in another pool: pools are metadata only */
{
    order((struct e2e_options){.backend = "fault:null", .pools = 2, .one_executor = true, .scope_host = true}, "B", "A");
}
static void scope_host_three_poll_cores(void)
{
    order((struct e2e_options){
              .backend = "fault:null", .pools = 2, .one_executor = true, .scope_host = true, .poll_cores = 3},
          "A", "B");
}

static const struct e2e_test tests[] = {
    {"one_poll_core", one_poll_core, 0}, {"three_poll_cores", three_poll_cores, 0},
    {"small_window", small_window, 0},   {"in_process", in_process, 0},
    {"scope_host", scope_host, 0},       {"scope_host_three_poll_cores", scope_host_three_poll_cores, 0},
};
E2E_MAIN(tests)
