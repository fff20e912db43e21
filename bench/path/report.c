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
                 burst, PATH_SLOTS);
    else
        snprintf(out, PATH_PARAMS_BYTES, "{\"burst\":%u,\"slots\":%u}", burst, PATH_SLOTS);
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
    bench_table_num(t, bench_min(p50), 0);
    bench_table_num(t, bench_max(p50), 0);
    bench_table_num(t, bench_median(row(b, bench, subject, attached, active, 1, "p99")), 0);
    bench_table_num(t, bench_median(row(b, bench, subject, attached, active, 1, "p99.9")), 0);
    bench_table_num(t, bench_ratio(p50, row(b, bench, "floor", 0, 0, 1, "p50")), 2);
}

static void latency_table(const struct bench *b, bool relay)
{
    const char *bench = relay ? "path.hops" : "path.rtt";
    struct bench_table t;

    bench_table_init(&t, 8);
    bench_table_names(&t, (const char *const[]){relay ? "three hops, one in flight" : "round trip, one in flight",
                                                "VMs", "p50 ns", "min", "max", "p99 ns", "p99.9 ns", "x floor", NULL});
    int none = t.cells;
    latency_row(&t, b, bench, "floor", 0);
    latency_row(&t, b, bench, relay ? "split" : "rtc", 1);
    latency_row(&t, b, bench, relay ? "split" : "rtc", PATH_VMS_MAX);
    latency_row(&t, b, bench, relay ? "vgpud-split" : "vgpud", 1);
    bench_table_show(&t, none, b->text);
}

static void stream_row(struct bench_table *t, const struct bench *b, const char *subject, uint32_t attached,
                       uint32_t active)
{
    const struct bench_row *rate = row(b, "path.stream", subject, attached, active, PATH_BURST, "rate");

    if (!rate)
        return;
    bench_table_add(t, "%s", subject);
    if (attached) {
        bench_table_add(t, "%u", attached);
        bench_table_add(t, "%u", active);
    } else {
        bench_table_add(t, "-");
        bench_table_add(t, "-");
    }
    bench_table_num(t, bench_median(rate), 1);
    bench_table_num(t, bench_min(rate), 1);
    bench_table_num(t, bench_max(rate), 1);
    bench_table_num(t, bench_median(row(b, "path.stream", subject, attached, active, PATH_BURST, "mean")), 1);
    bench_table_num(t, bench_ratio(rate, row(b, "path.stream", "ring", 0, 0, PATH_BURST, "rate")), 2);
}

static void stream_table(const struct bench *b)
{
    static const uint32_t mixes[][2] = {{1, 1}, {8, 1}, {64, 1}, {8, 8}, {64, 64}};
    struct bench_table t;

    bench_table_init(&t, 8);
    bench_table_names(&t, (const char *const[]){"stream of NOPs, bursts of 32", "VMs", "active", "M/s", "min", "max",
                                                "mean", "x ring", NULL});
    int none = t.cells;
    stream_row(&t, b, "ring", 0, 0);
    stream_row(&t, b, "ring+answer", 0, 0);
    for (int split = 0; split < 2; split++) {
        for (size_t i = 0; i < sizeof(mixes) / sizeof(mixes[0]); i++)
            stream_row(&t, b, split ? "split" : "rtc", mixes[i][0], mixes[i][1]);
        stream_row(&t, b, split ? "vgpud-split" : "vgpud", 1, 1);
    }
    bench_table_show(&t, none, b->text);
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

const char *path_open_params(char out[PATH_PARAMS_BYTES], double rate)
{
    snprintf(out, PATH_PARAMS_BYTES, "{\"rate\":%g,\"slots\":%u}", rate, PATH_SLOTS);
    return out;
}

static void open_table(const struct bench *b)
{
    static const char *const metrics[] = {"reached", "p50", "p99", "p99.9", "p99.99", "max"};
    struct bench_table t;

    bench_table_init(&t, 8);
    bench_table_names(&t, (const char *const[]){"open loop, due on a schedule", "M/s", "reached", "p50 ns", "p99", "p99.9",
                                                "p99.99", "max", NULL});
    int none = t.cells;
    for (int split = 0; split < 2; split++)
        for (uint32_t i = 0; i < PATH_OPEN_RATES; i++) {
            const char *subject = split ? "split" : "rtc";
            char params[PATH_PARAMS_BYTES];
            path_open_params(params, path_open_rates[i]);
            if (!bench_find(b, "path.open", subject, params, "p50"))
                continue;
            bench_table_add(&t, "%s", subject);
            bench_table_num(&t, path_open_rates[i], 1);
            for (size_t k = 0; k < sizeof(metrics) / sizeof(metrics[0]); k++)
                bench_table_num(&t, bench_median(bench_find(b, "path.open", subject, params, metrics[k])), k ? 0 : 2);
        }
    bench_table_show(&t, none, b->text);
}

const char *path_control_params(char out[PATH_PARAMS_BYTES], uint32_t clients)
{
    snprintf(out, PATH_PARAMS_BYTES, "{\"clients\":%u,\"slots\":%u}", clients, PATH_SLOTS);
    return out;
}

static void control_table(const struct bench *b)
{
    static const char *const metrics[] = {"p50", "p99", "p99.9", "max", "requests"};
    struct bench_table t;

    bench_table_init(&t, 7);
    bench_table_names(&t, (const char *const[]){"beside administrators", "clients", "p50 ns", "p99", "p99.9", "max",
                                                "requests/s", NULL});
    int none = t.cells;
    for (int split = 0; split < 2; split++)
        for (uint32_t clients = 0; clients <= PATH_CLIENTS; clients += PATH_CLIENTS) {
            const char *subject = split ? "vgpud-split" : "vgpud";
            char params[PATH_PARAMS_BYTES];
            path_control_params(params, clients);
            if (!bench_find(b, "path.control", subject, params, "p50"))
                continue;
            bench_table_add(&t, "%s", subject);
            bench_table_num(&t, clients, 0);
            for (size_t k = 0; k < sizeof(metrics) / sizeof(metrics[0]); k++)
                bench_table_num(&t, bench_median(bench_find(b, "path.control", subject, params, metrics[k])), 0);
        }
    bench_table_show(&t, none, b->text);
}

/* ---- Goals ---- */
/* With fewer cores the clients take time from what is measured: that says nothing of the daemon. */
static void control_goals(struct bench_goals *g)
{
    char with[PATH_PARAMS_BYTES], without[PATH_PARAMS_BYTES];

    if (g->b->n_cores < 8)
        return;
    path_control_params(with, PATH_CLIENTS);
    path_control_params(without, 0);
    bench_goal(g, "beside 50 administrators, p99", "without them", true, 1.05,
               bench_find(g->b, "path.control", "vgpud-split", with, "p99"),
               bench_find(g->b, "path.control", "vgpud-split", without, "p99"));
}

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
    control_table(b);
    idle_table(b);
    bench_goals_begin(&g, b, "path", true, !b->filter);
    latency_goals(&g);
    stream_goals(&g, "rtc");
    stream_goals(&g, "split");
    idle_goals(&g);
    control_goals(&g);
    bench_goals_end(&g, "ratios are medians of each round's");
}
