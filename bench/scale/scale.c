/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The suite `scale`: from 1 to 1000 attached VMs, real rings in one process. One thread plays the guests and the poll
 * core with the executor in its loop, so a figure is the work that a descriptor makes, wherever the cores lie; what moving
 * lines between cores adds is the suite `path`'s business.
 */
#define URCU_INLINE_SMALL_FUNCTIONS
#include <urcu-qsbr.h>

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench/count/burst.h"
#include "bench/scale/scale.h"

#define SLOTS 128u
#define WINDOWS 40u
#define BURSTS_MIN 32u /* of a window, and one of each active VM at least */
#define IDLE_ROUNDS 2000u

#define COUNTS_MAX 12u
static uint32_t counts[COUNTS_MAX] = {1, 2, 4, 8, 16, 30, 64, 128, 256, 512, 1000}, count_n = 11; /* or those of --vms */

/* Who sends: one of all that are attached, in bursts or alone; or each in turn. */
static const struct shape {
    const char *name;
    bool all, together;
    uint32_t burst;
    const char *what;
} shapes[] = {
    {"one-1", false, false, 1, "one VM sends, one descriptor at a time; the others are idle"},
    {"one-32", false, false, 32, "one VM sends, bursts of 32; the others are idle"},
    {"all-32", true, false, 32, "each VM sends a burst of 32 in turn, the next when it is done"},
    {"together-32", true, true, 32, "all VMs send a burst of 32 at once"},
};
#define SHAPES (sizeof(shapes) / sizeof(shapes[0]))

static const char *params_of(char *out, size_t bytes, uint32_t vms)
{
    snprintf(out, bytes, "{\"attached\":%u}", vms);
    return out;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/*
 * Nanoseconds a descriptor: that of the fastest tenth of the windows, as an interrupted one measures others. Negative: a
 * completion is missing or wrong.
 */
static double measure(struct rig *rig, uint32_t vms, const struct shape *shape)
{
    double ns[WINDOWS];
    uint32_t active = shape->all ? vms : 1, vm = 0;
    uint32_t bursts = active > BURSTS_MIN ? active : (BURSTS_MIN + active - 1) / active * active;

    for (uint32_t w = 0; w < WINDOWS; w++) {
        uint64_t from = vgpu_ticks();
        for (uint32_t i = 0; shape->together && i < bursts; i += active)
            if (!burst_run_all(rig, active, shape->burst))
                return -1;
        for (uint32_t i = 0; !shape->together && i < bursts; i++, vm = vm + 1 < active ? vm + 1 : 0)
            if (!burst_run(rig, &rig->guests[vm], VGPU_OP_NOP, shape->burst))
                return -1;
        ns[w] = (double)vgpu_ticks_to_ns(vgpu_ticks() - from) / ((double)bursts * shape->burst);
    }
    qsort(ns, WINDOWS, sizeof(ns[0]), by_value);
    return ns[WINDOWS / 10];
}

static int measure_all(struct bench *b, struct rig *rig, uint32_t vms)
{
    char params[48];
    double alone = 0;

    params_of(params, sizeof(params), vms);
    rig_publish(rig, vms, true);
    rcu_register_thread();
    for (size_t s = 0; s < SHAPES; s++) {
        if (!bench_wanted(b, "descriptor", shapes[s].name))
            continue;
        double ns = measure(rig, vms, &shapes[s]);
        if (ns < 0) {
            rcu_unregister_thread();
            fprintf(b->text, "WRONG DATA: scale, %u VMs, %s: a completion is missing or wrong\n", vms, shapes[s].name);
            return -EBADMSG;
        }
        bench_record(b, "scale.descriptor", shapes[s].name, params, "time", "ns", ns);
    }
    rcu_unregister_thread();
    if (!bench_wanted(b, "idle", "round"))
        return 0;
    double round = (double)vgpu_ticks_to_ns(rig_idle_rounds(rig, IDLE_ROUNDS)) / IDLE_ROUNDS;
    bench_record(b, "scale.idle", "round", params, "time", "ns", round);
    const struct bench_row *one = bench_find(b, "scale.idle", "round", params_of(params, sizeof(params), 1), "time");
    if (one && b->round >= 0)
        alone = one->value[b->round];
    if (one && vms > 1)
        bench_record(b, "scale.idle", "vm", params_of(params, sizeof(params), vms), "time", "ns", (round - alone) / (vms - 1));
    return 0;
}

static void report(struct bench *b)
{
    struct bench_table t;
    struct bench_goals g;
    char params[48], first[48], what[4][80];

    bench_table_init(&t, 2 + 2 * SHAPES + 1);
    bench_table_names(&t, (const char *const[]){"VMs attached", "one-1, ns", "95 %", "one-32", "95 %", "all-32", "95 %",
                                                "together-32", "95 %", "idle round, ns", "an idle VM", NULL});
    for (size_t i = 0; i < count_n; i++) {
        params_of(params, sizeof(params), counts[i]);
        bench_table_add(&t, "%u", counts[i]);
        for (size_t s = 0; s < SHAPES; s++) {
            const struct bench_row *time = bench_find(b, "scale.descriptor", shapes[s].name, params, "time");
            bench_table_num(&t, bench_median(time), 1);
            bench_table_interval(&t, time, 1);
        }
        bench_table_num(&t, bench_median(bench_find(b, "scale.idle", "round", params, "time")), 1);
        bench_table_num(&t, bench_median(bench_find(b, "scale.idle", "vm", params, "time")), 2);
    }
    bench_table_print(&t, b->text);
    fputc('\n', b->text);
    bench_goals_begin(&g, b, "scale", true, false);
    params_of(first, sizeof(first), 1);
    params_of(params, sizeof(params), counts[count_n - 1]);
    snprintf(what[0], sizeof(what[0]), "a descriptor with %u VMs attached, one sends bursts", counts[count_n - 1]);
    snprintf(what[1], sizeof(what[1]), "a descriptor with %u VMs sending in turn", counts[count_n - 1]);
    snprintf(what[3], sizeof(what[3]), "a descriptor with %u VMs sending at once", counts[count_n - 1]);
    snprintf(what[2], sizeof(what[2]), "an idle VM of %u, ns a round", counts[count_n - 1]);
    bench_goal(&g, what[0], "1 VM attached", true, 2,
               bench_find(b, "scale.descriptor", "one-32", params, "time"),
               bench_find(b, "scale.descriptor", "one-32", first, "time"));
    bench_goal(&g, what[1], "1 VM sending", true, NAN,
               bench_find(b, "scale.descriptor", "all-32", params, "time"),
               bench_find(b, "scale.descriptor", "all-32", first, "time"));
    bench_goal(&g, what[3], "1 VM sending", true, NAN,
               bench_find(b, "scale.descriptor", "together-32", params, "time"),
               bench_find(b, "scale.descriptor", "together-32", first, "time"));
    bench_goal(&g, what[2], "", true, 5, bench_find(b, "scale.idle", "vm", params, "time"), NULL);
    bench_goals_end(&g, "ratios are medians of each round's");
}

int bench_scale_run(struct bench *b)
{
    uint32_t slots = b->ring_slots ? b->ring_slots : SLOTS;

    for (uint32_t i = 0; i < b->vms.n; i++)
        counts[i] = (uint32_t)b->vms.value[i];
    count_n = b->vms.n ? b->vms.n : count_n;
    if (slots < SLOTS / 2) {
        fprintf(stderr, "vgpu-bench: scale: bursts of 32 need rings of 64 slots or more: --ring-slots\n");
        return -EINVAL;
    }
    struct rig_params params = {.vms = counts[count_n - 1], .ring_slots = slots, .in_flight = slots / 2, .window = 1024,
                                .burst = 32, .budget = 1024, .handles = 4, .backend = "null"};
    struct vgpu_err err;
    struct rig *rig;

    int rc = rig_open(&params, &rig, &err);
    if (rc) {
        fprintf(b->text, "scale: %s\n", err.text);
        return rc;
    }
    fprintf(b->text, "scale: %d rounds, rings of %u slots, one thread\n\n", (int)b->reps, slots);
    bench_rounds(b)
    {
        for (size_t i = 0; i < count_n && rc == 0; i++)
            rc = measure_all(b, rig, counts[i]);
        if (rc)
            break;
    }
    if (rc == 0)
        report(b);
    rig_close(rig);
    return rc;
}

void bench_scale_list(FILE *to)
{
    fprintf(to, "  measurements: descriptor, idle; 1 to %u VMs attached, or those of --vms\n", counts[count_n - 1]);
    for (size_t s = 0; s < SHAPES; s++)
        fprintf(to, "  %-18s %s\n", shapes[s].name, shapes[s].what);
}
