/* SPDX-License-Identifier: Apache-2.0 */
/* The suite `path`: its tables, and the goals. */
#include "bench/path/path.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* attached, active 0: not a path but a floor. */
const char *path_params(char out[PATH_PARAMS_BYTES], uint32_t attached, uint32_t active, uint32_t burst)
{
    if (attached || active || !burst)
        snprintf(out, PATH_PARAMS_BYTES, "{\"attached\":%u,\"active\":%u,\"burst\":%u,\"slots\":%u}", attached, active,
                 burst, path_plan.slots);
    else
        snprintf(out, PATH_PARAMS_BYTES, "{\"burst\":%u,\"slots\":%u}", burst, path_plan.slots);
    return out;
}

static const struct bench_row *row(const struct bench *b, const char *bench, const char *subject, uint32_t attached,
                                   uint32_t active, uint32_t burst, const char *metric)
{
    char params[PATH_PARAMS_BYTES];

    return bench_find(b, bench, subject, path_params(params, attached, active, burst), metric);
}

/* ---- Tables ---- */
static void latency_row(struct bench_table *t, const struct bench *b, const char *bench, const char *subject,
                        uint32_t attached)
{
    static const char *const tail[] = {"p99", "p99.9", "p99.99", "max"};
    uint32_t active = attached ? 1 : 0;
    const struct bench_row *p50 = row(b, bench, subject, attached, active, 1, "p50");

    if (!p50)
        return;
    bench_table_add(t, "%s", subject);
    if (attached)
        bench_table_add(t, "%u", attached);
    else
        bench_table_add(t, "-");
    bench_table_num(t, bench_median(p50), 0);
    bench_table_interval(t, p50, 0);
    for (size_t k = 0; k < sizeof(tail) / sizeof(tail[0]); k++)
        bench_table_num(t, bench_median(row(b, bench, subject, attached, active, 1, tail[k])), 0);
    bench_table_num(t, bench_ratio(p50, row(b, bench, "floor", 0, 0, 1, "p50")), 2);
}

static void latency_table(const struct bench *b, bool relay)
{
    const char *bench = relay ? "path.hops" : "path.rtt";
    struct bench_table t;

    bench_table_init(&t, 9);
    bench_table_names(&t, (const char *const[]){relay ? "three hops, one in flight" : "round trip, one in flight", "VMs",
                                                "p50 ns", "95 %", "p99", "p99.9", "p99.99", "max", "x floor", NULL});
    int none = t.cells;
    latency_row(&t, b, bench, "floor", 0);
    if (!path_plan.n_vms) {
        latency_row(&t, b, bench, relay ? "split" : "rtc", 1);
        latency_row(&t, b, bench, relay ? "split" : "rtc", PATH_VMS_MAX);
    }
    for (uint32_t i = 0; i < path_plan.n_vms; i++)
        latency_row(&t, b, bench, relay ? "split" : "rtc", path_plan.vms[i]);
    latency_row(&t, b, bench, relay ? "vgpud-split" : "vgpud", 1);
    bench_table_show(&t, none, b->text);
}

static void stream_row(struct bench_table *t, const struct bench *b, const char *subject, struct path_mix mix,
                       uint32_t burst)
{
    const struct bench_row *rate = row(b, "path.stream", subject, mix.attached, mix.active, burst, "rate");

    if (!rate)
        return;
    bench_table_add(t, "%s", subject);
    bench_table_add(t, "%u", burst);
    if (mix.attached) {
        bench_table_add(t, "%u", mix.attached);
        bench_table_add(t, "%u", mix.active);
    } else {
        bench_table_add(t, "-");
        bench_table_add(t, "-");
    }
    bench_table_num(t, bench_median(rate), 1);
    bench_table_interval(t, rate, 1);
    bench_table_num(t, bench_median(row(b, "path.stream", subject, mix.attached, mix.active, burst, "mean")), 1);
    bench_table_num(t, bench_ratio(rate, row(b, "path.stream", "ring", 0, 0, burst, "rate")), 2);
}

static void stream_table(const struct bench *b)
{
    static const struct path_mix none = {0, 0}, one = {1, 1};
    struct path_mix mixes[PATH_MIXES_MAX];
    uint32_t n = path_mixes(mixes);
    struct bench_table t;

    bench_table_init(&t, 8);
    bench_table_names(&t, (const char *const[]){"stream of NOPs", "burst", "VMs", "sending", "M/s", "95 %", "mean", "x ring",
                                                NULL});
    int heading = t.cells;
    for (uint32_t k = 0; k < path_plan.n_bursts; k++) {
        uint32_t burst = path_plan.bursts[k];
        stream_row(&t, b, "ring", none, burst);
        stream_row(&t, b, "ring+answer", none, burst);
        for (int split = 0; split < 2; split++) {
            for (uint32_t i = 0; i < n; i++)
                stream_row(&t, b, split ? "split" : "rtc", mixes[i], burst);
            stream_row(&t, b, split ? "vgpud-split" : "vgpud", one, burst);
        }
    }
    bench_table_show(&t, heading, b->text);
}

static void idle_table(const struct bench *b)
{
    struct bench_table t;

    if (!row(b, "path.idle", "rtc", 0, 0, 0, "round"))
        return;
    bench_table_init(&t, 2 + (int)PATH_IDLE_COUNTS);
    bench_table_add(&t, "idle VMs attached");
    bench_table_add(&t, "0");
    for (uint32_t k = 0; k < PATH_IDLE_COUNTS; k++)
        bench_table_add(&t, "%u", path_idle_counts[k]);
    bench_table_add(&t, "a round of the poll core, ns");
    bench_table_num(&t, bench_median(row(b, "path.idle", "rtc", 0, 0, 0, "round")), 1);
    for (uint32_t k = 0; k < PATH_IDLE_COUNTS; k++)
        bench_table_num(&t, bench_median(row(b, "path.idle", "rtc", path_idle_counts[k], 0, 0, "round")), 1);
    bench_table_add(&t, "of that, an idle VM, ns");
    bench_table_add(&t, "-");
    for (uint32_t k = 0; k < PATH_IDLE_COUNTS; k++)
        bench_table_num(&t, bench_median(row(b, "path.idle", "rtc", path_idle_counts[k], 0, 0, "vm")), 2);
    bench_table_print(&t, b->text);
    fputc('\n', b->text);
}

const char *path_open_params(char out[PATH_PARAMS_BYTES], double rate, uint32_t vms)
{
    if (vms == 1) /* as rows of before there were several */
        snprintf(out, PATH_PARAMS_BYTES, "{\"rate\":%g,\"slots\":%u}", rate, path_plan.slots);
    else
        snprintf(out, PATH_PARAMS_BYTES, "{\"rate\":%g,\"slots\":%u,\"active\":%u}", rate, path_plan.slots, vms);
    return out;
}

static void open_row(struct bench_table *t, const struct bench *b, const char *subject, double rate, uint32_t vms)
{
    static const char *const tail[] = {"p99", "p99.9", "p99.99", "max"};
    char params[PATH_PARAMS_BYTES];

    path_open_params(params, rate, vms);
    const struct bench_row *p50 = bench_find(b, "path.open", subject, params, "p50");
    if (!p50)
        return;
    bench_table_add(t, "%s", subject);
    bench_table_add(t, "%u", vms);
    bench_table_num(t, rate, 2);
    bench_table_num(t, bench_median(bench_find(b, "path.open", subject, params, "reached")), 2);
    bench_table_num(t, bench_median(p50), 0);
    bench_table_interval(t, p50, 0);
    for (size_t k = 0; k < sizeof(tail) / sizeof(tail[0]); k++)
        bench_table_num(t, bench_median(bench_find(b, "path.open", subject, params, tail[k])), 0);
}

static void open_table(const struct bench *b)
{
    struct bench_table t;

    bench_table_init(&t, 10);
    bench_table_names(&t, (const char *const[]){"open loop, due on a schedule", "VMs", "M/s", "reached", "p50 ns", "95 %",
                                                "p99", "p99.9", "p99.99", "max", NULL});
    int none = t.cells;
    for (int split = 0; split < 2; split++)
        for (uint32_t k = 0; k == 0 || k < path_plan.n_vms; k++)
            for (uint32_t i = 0; i < path_plan.n_rates; i++)
                open_row(&t, b, split ? "split" : "rtc", path_plan.rates[i], path_plan.n_vms ? path_plan.vms[k] : 1);
    bench_table_show(&t, none, b->text);
}

/* ---- Goals ---- */
static void latency_goals(struct bench_goals *g)
{
    const struct bench *b = g->b;

    bench_goal(g, "run to completion, p50", "floor, two lines", true, 1.5, row(b, "path.rtt", "rtc", 1, 1, 1, "p50"),
               row(b, "path.rtt", "floor", 0, 0, 1, "p50"));
    bench_goal(g, "run to completion, p99, ns", "", true, 1000, row(b, "path.rtt", "rtc", 1, 1, 1, "p99"), NULL);
    bench_goal(g, "executor on its own core, p50", "floor, three lines", true, 1.3,
               row(b, "path.hops", "split", 1, 1, 1, "p50"), row(b, "path.hops", "floor", 0, 0, 1, "p50"));
    bench_goal(g, "executor on its own core, p99, ns", "", true, 1500, row(b, "path.hops", "split", 1, 1, 1, "p99"), NULL);
}

static void stream_goals(struct bench_goals *g, const char *subject)
{
    const struct bench *b = g->b;
    char what[64];

    snprintf(what, sizeof(what), "stream, %s, 1 VM", subject);
    bench_goal(g, what, "bare validated ring", false, 0.5, row(b, "path.stream", subject, 1, 1, PATH_BURST, "rate"),
               row(b, "path.stream", "ring", 0, 0, PATH_BURST, "rate"));
    snprintf(what, sizeof(what), "stream, %s, 64 VMs attached", subject);
    bench_goal(g, what, "1 VM attached", false, 0.9, row(b, "path.stream", subject, PATH_VMS_MAX, 1, PATH_BURST, "rate"),
               row(b, "path.stream", subject, 1, 1, PATH_BURST, "rate"));
}

static void idle_goals(struct bench_goals *g)
{
    const struct bench_row *worst = NULL;

    for (uint32_t k = 0; k < PATH_IDLE_COUNTS; k++) {
        const struct bench_row *one = row(g->b, "path.idle", "rtc", path_idle_counts[k], 0, 0, "vm");
        if (!worst || bench_median(one) > bench_median(worst))
            worst = one;
    }
    bench_goal(g, "an idle VM, a round, ns (worst count)", "", true, 5, worst, NULL);
}

void path_report(struct bench *b)
{
    struct bench_goals g;

    latency_table(b, false);
    latency_table(b, true);
    stream_table(b);
    open_table(b);
    idle_table(b);
    bench_goals_begin(&g, b, "path", true, !b->filter);
    latency_goals(&g);
    stream_goals(&g, "rtc");
    stream_goals(&g, "split");
    idle_goals(&g);
    bench_goals_end(&g, "ratios are medians of each round's");
}
