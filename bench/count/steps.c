/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vgpu-bench-steps CASE COUNT: sends COUNT descriptors through the whole path in one thread (guest's rings, poll core,
 * executor, completion, guest's rings) and checks each. It measures nothing itself: an instruction counter runs it with
 * two counts, and the difference, divided by that of the counts, is what a descriptor costs. One thread and no clock in
 * any decision, so that the count is the same on a busy host.
 *
 * With STEPS_GRANTED the regions are granted and mapped by the Xen transport, and nothing may be asked of Xen on the way.
 */
#define URCU_INLINE_SMALL_FUNCTIONS
#include <urcu-qsbr.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/count/burst.h"
#ifdef STEPS_GRANTED
#include "bench/count/granted.h"
#endif
#include "bench/count/planted.h"
#include "core/base/clock.h"

struct count_case {
    const char *name;
    uint32_t vms, burst, opcode;
    uint32_t sample; /* one of so many is traced; 0: none */
};
static const struct count_case cases[] = {
    {"nop-1", 1, 1, VGPU_OP_NOP, 0},     /* one outstanding */
    {"nop-32", 1, 32, VGPU_OP_NOP, 0},   /* bursts */
    {"nop-32x8", 8, 32, VGPU_OP_NOP, 0}, /* eight VMs in turn */
    {"bad-32", 1, 32, 0xee, 0},          /* refused by the validator */
    {"traced-32", 1, 32, VGPU_OP_NOP, 1}, /* bursts, each descriptor traced */
};
#define CASES (sizeof(cases) / sizeof(cases[0]))

static const struct count_case *case_find(const char *name)
{
    for (size_t i = 0; i < CASES; i++)
        if (strcmp(cases[i].name, name) == 0)
            return &cases[i];
    return NULL;
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
#ifdef STEPS_PLANTED
    planted = PLANTED_WORK;
#endif
    vgpu_clock_init();
    struct rig_params params = {.vms = c->vms,
                                .ring_slots = BURST_SLOTS,
                                .in_flight = BURST_SLOTS,
                                .window = BURST_SLOTS,
                                .burst = 32,
                                .budget = BURST_SLOTS,
                                .handles = 16,
                                .trace_slots = 1024,
                                .backend = "null"};
#ifdef STEPS_GRANTED
    params.memory = granted_open;
    params.arena_bytes = VGPU_PAGE_BYTES;
#endif
    if (rig_open(&params, &rig, &err)) {
        fprintf(stderr, "vgpu-bench-steps: %s\n", err.text);
        return 1;
    }
    rig_publish(rig, c->vms, true);
    if (c->sample)
        rig_trace(rig, 0, c->sample);
    rcu_register_thread();
#ifdef STEPS_GRANTED
    granted_begin();
#endif
    for (uint32_t vm = 0; ok && done < count; vm = (vm + 1) % c->vms) {
        uint32_t n = count - done < c->burst ? (uint32_t)(count - done) : c->burst;
        ok = burst_run(rig, &rig->guests[vm], c->opcode, n);
        done += n;
    }
    rcu_unregister_thread();
#ifdef STEPS_GRANTED
    ok = granted_end() && ok;
#endif
    if (ok && rig_broken(rig) == 0)
        printf("%s: %llu descriptors, each completed once\n", c->name, (unsigned long long)done);
    else
        fprintf(stderr, "vgpu-bench-steps: %s: a completion is missing or wrong\n", c->name);
    rig_close(rig);
#ifdef STEPS_GRANTED
    granted_close();
#endif
    return ok ? 0 : 1;
}
