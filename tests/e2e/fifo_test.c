/* SPDX-License-Identifier: Apache-2.0 */
/*
 * FIFO inside a priority. One driver owns ten VMs. It submits bursts of random size to a random VM each time, and goes on
 * only when the host has accepted the burst, so the order of arrival is known; queues are kept long by a device that
 * stalls now and then. The execution sequence number of each descriptor must then be its place in the order of arrival.
 */
#include <stdlib.h>

#include "ring_look.h"

#define VMS 10u
#define TOTAL 1000000u
#define BURST_MAX 250u /* below a quarter of the ring, for look_taken() */

struct chain {
    struct vgpu *v[VMS];
    uint64_t outstanding, most_outstanding;
    uint64_t submitted, completed;
    uint64_t first_seq;         /* of the first descriptor */
    uint32_t *place;            /* tag (place of arrival) by VM, in submission order: a ring per VM */
    uint64_t head[VMS], tail[VMS];
    uint64_t last_seq[VMS];
    uint64_t *used;             /* bit per sequence number */
    uint64_t total, tolerance, displaced, worst;
    uint64_t rng;
};
#define LANE 4096u

static void take(struct chain *c, unsigned i, const struct vgpu_completion *got)
{
    uint32_t tag = c->place[i * LANE + c->head[i]++ % LANE];

    e2e_check(got->status == VGPU_OK, "status %u", got->status);
    e2e_check(got->tag == tag, "VM %u: completion of tag %u, tag %u is older", i + 1, got->tag, tag);
    e2e_check(got->exec_seq > c->last_seq[i], "VM %u: sequence %llu after %llu", i + 1,
              (unsigned long long)got->exec_seq, (unsigned long long)c->last_seq[i]);
    c->last_seq[i] = got->exec_seq;
    uint64_t seq = got->exec_seq - 1;
    e2e_check(seq < c->total && !(c->used[seq / 64] >> (seq % 64) & 1), "sequence %llu twice, or too large",
              (unsigned long long)seq);
    c->used[seq / 64] |= UINT64_C(1) << (seq % 64);
    uint64_t off = seq > tag ? seq - tag : tag - seq;
    c->displaced += off != 0;
    c->worst = off > c->worst ? off : c->worst;
    e2e_check(off <= c->tolerance, "the descriptor that arrived at place %u was executed at place %llu", tag,
              (unsigned long long)seq);
    c->outstanding--;
    c->completed++;
}

static void fetch(struct chain *c)
{
    struct vgpu_completion got[64];

    for (unsigned i = 0; i < VMS; i++) {
        int n = vgpu_poll(c->v[i], got, 64);
        e2e_check(n >= 0, "VM %u: %s", i + 1, vgpu_strerror(c->v[i]));
        for (int k = 0; k < n; k++)
            take(c, i, &got[k]);
    }
}

static void submit(struct chain *c)
{
    struct vgpu_request r[BURST_MAX];
    unsigned i = (unsigned)(e2e_next(&c->rng) % VMS);
    unsigned n = 1 + (unsigned)(e2e_next(&c->rng) % (e2e_next(&c->rng) % 4 ? BURST_MAX : 8));

    if (n > c->total - c->submitted)
        n = (unsigned)(c->total - c->submitted);
    if (c->outstanding + n > c->most_outstanding)
        return;
    for (unsigned k = 0; k < n; k++)
        r[k] = (struct vgpu_request){.opcode = VGPU_OP_NOP, .tag = (uint32_t)(c->submitted + k)};
    int got = vgpu_submit_burst(c->v[i], r, n, NULL);
    e2e_check(got > 0 || got == -EAGAIN, "VM %u: %s", i + 1, vgpu_strerror(c->v[i]));
    for (int k = 0; k < got; k++)
        c->place[i * LANE + c->tail[i]++ % LANE] = (uint32_t)c->submitted++;
    c->outstanding += got > 0 ? (uint64_t)got : 0;
    for (uint64_t tries = 1; got > 0 && !look_taken(c->v[i]); tries++) {
        if (tries % 256 == 0) {
            fetch(c); /* it may wait for room */
            sched_yield();
        }
        e2e_check(tries < UINT64_C(2000000000), "VM %u: the host does not take descriptors", i + 1);
    }
}

/* tolerance: places by which an execution may differ from the arrival; 0 is exact. */
static void chain_run(struct e2e_options o, uint64_t tolerance, uint64_t most_outstanding)
{
    struct e2e_host h;
    struct chain c = {.total = e2e_scaled(TOTAL), .tolerance = tolerance, .rng = e2e_seed(),
                      .most_outstanding = most_outstanding};

    o.debug = true;
    o.backend = "fault:null";
    o.backend_options = "stall_every=2000,stall_us=500";
    e2e_host_start(&h, &o);
    e2e_register(&h, 1, VMS / 2, "A", "medium", NULL);
    e2e_register(&h, VMS / 2 + 1, VMS, o.pools == 2 ? "B" : "A", "medium", NULL);
    c.place = calloc(VMS * LANE, sizeof(*c.place));
    c.used = calloc(c.total / 64 + 1, sizeof(*c.used));
    e2e_check(c.place && c.used, "no memory");
    for (unsigned i = 0; i < VMS; i++)
        c.v[i] = e2e_open(&h, i + 1, NULL);
    uint64_t deepest = 0;
    while (c.completed < c.total) {
        if (c.submitted < c.total)
            submit(&c);
        if (c.outstanding > deepest)
            deepest = c.outstanding;
        if (c.outstanding + BURST_MAX > c.most_outstanding || c.submitted == c.total || e2e_next(&c.rng) % 16 == 0)
            fetch(&c);
    }
    /* `total` different numbers below `total`: no gap. */
    e2e_check(deepest > 500, "queues were never long (%llu): nothing was shown", (unsigned long long)deepest);
    e2e_shows("%llu descriptors of %u VMs executed in order of arrival, %llu displaced, at most by %llu; up to %llu queued",
              (unsigned long long)c.total, VMS, (unsigned long long)c.displaced, (unsigned long long)c.worst,
              (unsigned long long)deepest);
    for (unsigned i = 0; i < VMS; i++)
        vgpu_close(c.v[i]);
    free(c.place);
    free(c.used);
    e2e_host_stop(&h);
}

static void one_poll_core(void)
{
    chain_run((struct e2e_options){0}, 0, 4000);
}
static void one_poll_core_small_window(void) /* the queue stands in the poll core */
{
    chain_run((struct e2e_options){.window = 64}, 0, 4000);
}
static void scope_host(void)
{
    chain_run((struct e2e_options){.pools = 2, .one_executor = true, .scope_host = true}, 0, 4000);
}
/* Poll cores stamp what they take; between them the order holds within one burst. */
static void three_poll_cores(void)
{
    chain_run((struct e2e_options){.poll_cores = 3}, 32, 4000);
}
static void scope_host_three_poll_cores(void)
{
    chain_run((struct e2e_options){.pools = 2, .one_executor = true, .scope_host = true, .poll_cores = 3}, 32,
              4000);
}

static const struct e2e_test tests[] = {
    {"one_poll_core", one_poll_core, 240},
    {"one_poll_core_small_window", one_poll_core_small_window, 240},
    {"scope_host", scope_host, 240},
    {"three_poll_cores", three_poll_cores, 240},
    {"scope_host_three_poll_cores", scope_host_three_poll_cores, 240},
};
E2E_MAIN(tests)
