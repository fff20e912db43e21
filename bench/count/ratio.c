/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vgpu-bench-planted FILE: the path without and with each planted slowdown, interleaved round by round, as rows for
 * vgpu-bench compare. `same` is the path without any, once more: what must not be found.
 */
#define URCU_INLINE_SMALL_FUNCTIONS
#include <urcu-qsbr.h>

#include <stdio.h>
#include <stdlib.h>

#include "bench/count/burst.h"
#include "bench/count/planted.h"
#include "bench/harness.h"

#define ROUNDS 21
#define WARM_UP 2   /* rounds that are not recorded */
#define WINDOWS 200 /* of a measurement; its value is the fastest tenth's: a window that was interrupted measures others */
#define WINDOW_BURSTS 16

static const struct {
    const char *name;
    enum planted planted;
} subjects[] = {{"plain", PLANTED_NOTHING}, {"fence", PLANTED_FENCE}, {"line", PLANTED_LINE}, {"same", PLANTED_NOTHING}};
#define SUBJECTS (sizeof(subjects) / sizeof(subjects[0]))

const struct bench_suite bench_suites[] = {{NULL, NULL, NULL, NULL, 0}};

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

/* Nanoseconds a descriptor; negative: something was lost. */
static double measure(struct rig *rig)
{
    uint64_t ticks[WINDOWS];

    for (int w = 0; w < WINDOWS; w++) {
        uint64_t from = vgpu_ticks();
        for (int i = 0; i < WINDOW_BURSTS; i++)
            if (!burst_run(rig, &rig->guests[0], VGPU_OP_NOP, BURST_MAX))
                return -1;
        ticks[w] = vgpu_ticks() - from;
    }
    qsort(ticks, WINDOWS, sizeof(ticks[0]), by_value);
    return (double)ticks[WINDOWS / 10] * 1e9 / (double)vgpu_clock.ticks_hz / (WINDOW_BURSTS * BURST_MAX);
}

int main(int argc, char **argv)
{
    static struct bench_mem mem = {.kind = "the rig's own"};
    static struct bench b = {.reps = ROUNDS, .mem = &mem};
    struct vgpu_err err;
    struct rig *rig;
    double ns = 0;

    if (argc != 2) {
        fprintf(stderr, "usage: vgpu-bench-planted FILE\n");
        return 2;
    }
    b.text = stdout;
    b.json = fopen(argv[1], "w");
    if (!b.json) {
        fprintf(stderr, "vgpu-bench-planted: cannot write %s: %m\n", argv[1]);
        return 1;
    }
    vgpu_clock_init();
    bench_host_init(&b);
    struct rig_params params = {.vms = 1, .ring_slots = BURST_SLOTS, .in_flight = BURST_SLOTS, .window = BURST_SLOTS,
                                .burst = BURST_MAX, .budget = BURST_SLOTS, .handles = 16, .backend = "null"};
    if (rig_open(&params, &rig, &err)) {
        fprintf(stderr, "vgpu-bench-planted: %s\n", err.text);
        return 1;
    }
    rig_publish(rig, 1, true);
    rcu_register_thread();
    for (int round = -WARM_UP; round < ROUNDS && ns >= 0; round++)
        for (size_t i = 0; i < SUBJECTS && ns >= 0; i++) {
            size_t k = (i + (size_t)(round + WARM_UP)) % SUBJECTS; /* none always runs after the same neighbour */
            planted = subjects[k].planted;
            ns = measure(rig);
            b.round = round;
            if (round >= 0 && ns >= 0)
                bench_record(&b, "planted.stream", subjects[k].name, "{\"burst\":32}", "time", "ns", ns);
        }
    rcu_unregister_thread();
    for (size_t i = 0; i < SUBJECTS && ns >= 0; i++)
        printf("%-6s %7.2f ns a descriptor\n", subjects[i].name,
               bench_median(bench_find(&b, "planted.stream", subjects[i].name, "{\"burst\":32}", "time")));
    bench_json_flush(&b);
    rig_close(rig);
    if (ns < 0)
        fprintf(stderr, "vgpu-bench-planted: a completion is missing or wrong\n");
    return ns < 0 || fclose(b.json) ? 1 : 0;
}
