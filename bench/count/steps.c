/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vgpu-bench-steps CASE COUNT: sends COUNT descriptors through the whole path in one thread (guest's rings, poll core,
 * executor, completion, guest's rings) and checks each. It measures nothing itself: an instruction counter runs it with
 * two counts, and the difference, divided by that of the counts, is what a descriptor costs. One thread and no clock in
 * any decision, so that the count is the same on a busy host.
 */
#define URCU_INLINE_SMALL_FUNCTIONS
#include <urcu-qsbr.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/path/rig.h"
#include "core/base/clock.h"

#define SLOTS 1024u
#define BURST_MAX 32u
#define ROUNDS_MAX 64u /* of the poll core until all of a burst is back: more means that it is lost */

struct count_case {
    const char *name;
    uint32_t vms, burst, opcode;
};
static const struct count_case cases[] = {
    {"nop-1", 1, 1, VGPU_OP_NOP},     /* one outstanding */
    {"nop-32", 1, 32, VGPU_OP_NOP},   /* bursts */
    {"nop-32x8", 8, 32, VGPU_OP_NOP}, /* eight VMs in turn */
    {"bad-32", 1, 32, 0xee},          /* refused by the validator */
};
#define CASES (sizeof(cases) / sizeof(cases[0]))

static const struct count_case *case_find(const char *name)
{
    for (size_t i = 0; i < CASES; i++)
        if (strcmp(cases[i].name, name) == 0)
            return &cases[i];
    return NULL;
}

/* One burst of one VM, there and back. False: something is lost or wrong. */
static bool burst_run(struct rig *rig, struct rig_guest *g, const struct count_case *c, uint32_t n)
{
    struct vgpu_slot pool[BURST_MAX], out[BURST_MAX];
    uint16_t want = c->opcode == VGPU_OP_NOP ? VGPU_OK : VGPU_E_OPCODE;

    memset(pool, 0, sizeof(pool));
    for (uint32_t i = 0; i < n; i++)
        pool[i].w[0] = (uint64_t)c->opcode | (uint64_t)(uint32_t)(g->sent + i) << 32;
    if (vgpu_prod_push(&g->sq, pool, n) != n)
        return false;
    g->sent += n;
    for (uint32_t round = 0; g->done < g->sent; round++) {
        if (round == ROUNDS_MAX)
            return false;
        vgpu_poller_step(rig->poller);
        uint32_t got = vgpu_cons_pop(&g->cq, out, BURST_MAX);
        for (uint32_t i = 0; i < got; i++) {
            const struct vgpu_cpl *cpl = (const struct vgpu_cpl *)&out[i];
            if (cpl->tag != (uint32_t)g->done || cpl->status != want || cpl->sq_pos != g->sq_start + g->done)
                return false;
            g->done++;
        }
    }
    return true;
}

int main(int argc, char **argv)
{
    const struct count_case *c = argc == 3 ? case_find(argv[1]) : NULL;
    uint64_t count = argc == 3 ? strtoull(argv[2], NULL, 10) : 0, done = 0;
    struct vgpu_err err;
    struct rig *rig;
    bool ok = true;

    if (!c || count == 0) {
        fprintf(stderr, "usage: vgpu-bench-steps CASE COUNT; cases:");
        for (size_t i = 0; i < CASES; i++)
            fprintf(stderr, " %s", cases[i].name);
        fprintf(stderr, "\n");
        return 2;
    }
    vgpu_clock_init();
    struct rig_params params = {.vms = c->vms, .ring_slots = SLOTS, .in_flight = SLOTS, .window = SLOTS, .burst = 32,
                                .budget = SLOTS, .handles = 16, .backend = "null"};
    if (rig_open(&params, &rig, &err)) {
        fprintf(stderr, "vgpu-bench-steps: %s\n", err.text);
        return 1;
    }
    rig_publish(rig, c->vms, true);
    rcu_register_thread();
    for (uint32_t vm = 0; ok && done < count; vm = (vm + 1) % c->vms) {
        uint32_t n = count - done < c->burst ? (uint32_t)(count - done) : c->burst;
        ok = burst_run(rig, &rig->guests[vm], c, n);
        done += n;
    }
    rcu_unregister_thread();
    if (ok && rig_broken(rig) == 0)
        printf("%s: %llu descriptors, each completed once\n", c->name, (unsigned long long)done);
    else
        fprintf(stderr, "vgpu-bench-steps: %s: a completion is missing or wrong\n", c->name);
    rig_close(rig);
    return ok ? 0 : 1;
}
