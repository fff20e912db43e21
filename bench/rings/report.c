/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/rings/report.h"

#include <math.h>
#include <string.h>

static const struct bench_row *rtt(const struct bench *b, const char *subject)
{
    char params[RING_PARAMS_BYTES];

    return bench_find(b, "rings.rtt", subject, ring_params(params), "p50");
}

static const struct bench_row *hops(const struct bench *b, const char *subject)
{
    char params[RING_PARAMS_BYTES];

    return bench_find(b, "rings.hops", subject, ring_params(params), "p50");
}

static const struct bench_row *stream(const struct bench *b, const char *subject, uint32_t burst)
{
    char params[RING_PARAMS_BYTES];

    return bench_find(b, "rings.stream", subject, ring_burst_params(params, burst), "rate");
}

static const struct bench_row *fan(const struct bench *b, const char *subject, uint32_t producers, uint32_t burst)
{
    char params[RING_PARAMS_BYTES];

    return bench_find(b, "rings.fanin", subject, fan_params(params, producers, ring_fan_threads(b, producers), burst),
                      "rate");
}

static const struct bench_row *idle(const struct bench *b, const char *subject, uint32_t rings)
{
    char params[RING_PARAMS_BYTES];

    return bench_find(b, "rings.idle", subject, idle_params(params, rings), "poll");
}

/* ---- Tables ---- */
static void latency_table(const struct bench *b, const char *bench, const char *title, const char *floor_column)
{
    static const char *const tail[] = {"p99", "p99.9", "p99.99", "max"};
    char params[RING_PARAMS_BYTES];
    const struct bench_row *floor = bench_find(b, bench, "floor", ring_params(params), "p50");
    const struct bench_row *rte = bench_find(b, bench, "rte_ring", params, "p50");
    struct bench_table t;

    bench_table_init(&t, 9);
    bench_table_names(&t, (const char *const[]){title, "p50 ns", "95 %", "p99", "p99.9", "p99.99", "max", floor_column,
                                                "x rte_ring", NULL});
    int none = t.cells;
    for (int i = 0; ring_subjects[i]; i++) {
        const char *name = ring_subjects[i]->name;
        const struct bench_row *p50 = bench_find(b, bench, name, params, "p50");
        if (!p50)
            continue;
        bench_table_add(&t, "%s", name);
        bench_table_num(&t, bench_median(p50), 0);
        bench_table_interval(&t, p50, 0);
        for (size_t k = 0; k < sizeof(tail) / sizeof(tail[0]); k++)
            bench_table_num(&t, bench_median(bench_find(b, bench, name, params, tail[k])), 0);
        bench_table_num(&t, bench_ratio(p50, floor), 2);
        bench_table_num(&t, bench_ratio(p50, rte), 2);
    }
    bench_table_show(&t, none, b->text);
}

static void stream_table(const struct bench *b)
{
    struct bench_table t;

    bench_table_init(&t, 1 + 3 * (int)ring_burst_count);
    bench_table_add(&t, "stream, M/s");
    for (uint32_t k = 0; k < ring_burst_count; k++) {
        bench_table_add(&t, "b=%u", ring_bursts[k]);
        bench_table_add(&t, "95 %%");
        bench_table_add(&t, "x rte");
    }
    int none = t.cells;
    for (int i = 0; ring_subjects[i]; i++) {
        const char *name = ring_subjects[i]->name;
        if (!stream(b, name, ring_bursts[0]))
            continue;
        bench_table_add(&t, "%s", name);
        for (uint32_t k = 0; k < ring_burst_count; k++) {
            const struct bench_row *row = stream(b, name, ring_bursts[k]);
            bench_table_num(&t, bench_median(row), 1);
            bench_table_interval(&t, row, 1);
            bench_table_num(&t, bench_ratio(row, stream(b, "rte_ring", ring_bursts[k])), 2);
        }
    }
    bench_table_show(&t, none, b->text);
}

static void fan_table(const struct bench *b)
{
    struct bench_table t;

    if (!fan(b, fan_subjects[0]->name, 2, 1))
        return;
    bench_table_init(&t, 6);
    for (const char *const *head =
             (const char *const[]){"fan-in, M/s", "producers", "b=1", "x rte mp", "b=8", "x rte mp", NULL};
         *head; head++)
        bench_table_add(&t, "%s", *head);
    for (uint32_t producers = 2; producers <= ring_fan_producers(b); producers++) {
        for (int i = 0; fan_subjects[i]; i++) {
            bench_table_add(&t, "%s", fan_subjects[i]->name);
            bench_table_add(&t, "%u on %u", producers, ring_fan_threads(b, producers));
            for (uint32_t k = 0; k < FAN_BURSTS; k++) {
                const struct bench_row *row = fan(b, fan_subjects[i]->name, producers, fan_bursts[k]);
                bench_table_num(&t, bench_median(row), 1);
                bench_table_num(&t, bench_ratio(row, fan(b, "rte_ring-mp", producers, fan_bursts[k])), 2);
            }
        }
    }
    bench_table_print(&t, b->text);
    fputc('\n', b->text);
}

static void idle_table(const struct bench *b)
{
    struct bench_table t;
    int rows = 0;

    bench_table_init(&t, 1 + (int)RING_IDLE_COUNTS);
    bench_table_add(&t, "idle poll, ns a ring");
    for (uint32_t k = 0; k < RING_IDLE_COUNTS; k++)
        bench_table_add(&t, "%u", ring_idle_counts[k]);
    for (int i = 0; ring_subjects[i]; i++) {
        if (!idle(b, ring_subjects[i]->name, 1))
            continue;
        bench_table_add(&t, "%s", ring_subjects[i]->name);
        for (uint32_t k = 0; k < RING_IDLE_COUNTS; k++)
            bench_table_num(&t, bench_median(idle(b, ring_subjects[i]->name, ring_idle_counts[k])), 1);
        rows++;
    }
    if (rows == 0)
        t.cells = 0;
    bench_table_print(&t, b->text);
    if (rows)
        fputc('\n', b->text);
}

/* ---- Goals ---- */
/* The packaged peer with the best median; "" when there is none. */
static const char *best_rtt(const struct bench *b)
{
    const char *best = "";

    for (int i = 0; ring_subjects[i]; i++)
        if (ring_subjects[i]->kind == RING_PACKAGED && rtt(b, ring_subjects[i]->name) &&
            (!*best || bench_median(rtt(b, ring_subjects[i]->name)) < bench_median(rtt(b, best))))
            best = ring_subjects[i]->name;
    return best;
}

static const char *best_stream(const struct bench *b, uint32_t burst)
{
    const char *best = "";

    for (int i = 0; ring_subjects[i]; i++) {
        const struct bench_row *row = stream(b, ring_subjects[i]->name, burst);
        if (ring_subjects[i]->kind == RING_PACKAGED && row &&
            (!*best || bench_median(row) > bench_median(stream(b, best, burst))))
            best = ring_subjects[i]->name;
    }
    return best;
}

static void latency_goals(struct bench_goals *g)
{
    const struct bench *b = g->b;
    const char *best = best_rtt(b);

    bench_goal(g, "round trip, validated", "floor, two lines", true, b->is_amd ? 1.2 : 1.35, rtt(b, "vgpu+validate"),
               rtt(b, "floor"));
    bench_goal(g, "round trip", "rte_ring", true, 0.65, rtt(b, "vgpu"), rtt(b, "rte_ring"));
    bench_goal(g, "round trip", best[0] ? best : "best packaged peer", true, 0.85, rtt(b, "vgpu"), rtt(b, best));
    bench_goal(g, "round trip", "b-queue", true, 1.1, rtt(b, "vgpu"), rtt(b, "b-queue"));
    bench_goal(g, "three hops, validated", "floor, three lines", true, 1.2, hops(b, "vgpu+validate"), hops(b, "floor"));
}

static void stream_goals(struct bench_goals *g)
{
    const struct bench *b = g->b;
    char what[64];

    bench_goal(g, "stream b=32, validated", "rte_ring", false, b->is_amd ? 2.5 : 1.4, stream(b, "vgpu+validate", 32),
               stream(b, "rte_ring", 32));
    for (uint32_t k = 0; k < ring_burst_count; k++) {
        uint32_t burst = ring_bursts[k];
        const char *best = best_stream(b, burst);
        double over_paper = (double)NAN, over_best = (double)NAN; /* goals are set for the longest burst */
        if (burst == 32) {
            over_paper = b->is_amd ? 1.1 : 1.2;
            over_best = b->is_amd ? 1.8 : 1.2;
        }
        snprintf(what, sizeof(what), "stream b=%u", burst);
        bench_goal(g, what, "b-queue", false, over_paper, stream(b, "vgpu", burst), stream(b, "b-queue", burst));
        bench_goal(g, what, best[0] ? best : "best packaged peer", false, over_best, stream(b, "vgpu", burst),
                   stream(b, best, burst));
    }
}

static void fan_goals(struct bench_goals *g)
{
    const struct bench *b = g->b;
    uint32_t producers = ring_fan_producers(b);
    bool apart = ring_fan_threads(b, producers) == producers;
    char what[64];

    for (uint32_t k = 0; k < FAN_BURSTS; k++) {
        uint32_t burst = fan_bursts[k];
        snprintf(what, sizeof(what), "fan-in of %u, b=%u", producers, burst);
        double bound = burst == 1 ? 10 : 3;
        bench_goal(g, what, "rte_ring-mp", false, apart ? bound : (double)NAN, fan(b, "vgpu-fanin", producers, burst),
                   fan(b, "rte_ring-mp", producers, burst));
    }
}

void ring_report(struct bench *b)
{
    struct bench_goals g;

    latency_table(b, "rings.rtt", "round trip, one in flight", "x floor");
    latency_table(b, "rings.hops", "three hops, one in flight", "x relay");
    stream_table(b);
    fan_table(b);
    idle_table(b);
    bench_goals_begin(&g, b, "rings", !b->cores_shared, !b->filter);
    latency_goals(&g);
    stream_goals(&g);
    fan_goals(&g);
    bench_goals_end(&g, b->is_amd ? "bounds for AMD; ratios are medians of each round's"
                                  : "bounds for Intel; ratios are medians of each round's");
}
