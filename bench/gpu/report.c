/* SPDX-License-Identifier: Apache-2.0 */
/* Tables of what was measured. */
#include "bench/gpu/gpu.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static double figure(const struct gpu *g, const char *bench, const char *subject, const char *params,
                     const char *metric)
{
    return bench_median(bench_find(g->b, bench, subject, params, metric));
}

static void latencies_add(const struct gpu *g, struct bench_table *t, const char *bench, const char *subject,
                          const char *params)
{
    static const char *const metrics[] = {"p50", "p99", "p99.9", "p99.99", "max"};

    for (int i = 0; i < 5; i++)
        bench_table_num(t, figure(g, bench, subject, params, metrics[i]), 2);
}

static void latency_table(const struct gpu *g)
{
    static const char *const subjects[] = {"native", "native-polled", "native-graph", "native-copied", "vgpu"};
    struct bench_table t;
    char params[GPU_PARAMS_BYTES];

    bench_table_init(&t, 10);
    bench_table_names(&t, (const char *const[]){"vector add, one tenant, one outstanding", "n", "data", "p50 us", "p99",
                                                "p99.9", "p99.99", "max", "op/s", "p50 / native", NULL});
    int none = t.cells;
    for (const uint64_t *n = gpu_vadd_sizes; *n; n++)
        for (int host = 0; host < 2; host++)
            for (int s = 0; s < 5; s++) {
                gpu_vadd_params(params, *n, host ? "host" : "device", 1, 1);
                const struct bench_row *p50 = bench_find(g->b, "gpu.latency", subjects[s], params, "p50");
                if (!p50)
                    continue;
                bench_table_add(&t, "%s", subjects[s]);
                bench_table_add(&t, "%llu", (unsigned long long)*n);
                bench_table_add(&t, "%s", host ? "host, fresh" : "device");
                latencies_add(g, &t, "gpu.latency", subjects[s], params);
                bench_table_num(&t, figure(g, "gpu.latency", subjects[s], params, "rate"), 0);
                bench_table_num(&t, bench_ratio(p50, bench_find(g->b, "gpu.latency", "native", params, "p50")), 2);
            }
    bench_table_show(&t, none, g->b->text);
}

static void tenants_table(const struct gpu *g)
{
    static const char *const subjects[] = {"vgpu",      "vgpu-2-poll-cores", "vgpu-nop",    "vgpu-null",        "mps",
                                           "mps-graph", "mps-graph-chains",  "time-sliced", "time-sliced-graph"};
    struct bench_table t;
    char params[GPU_PARAMS_BYTES];

    bench_table_init(&t, 8);
    bench_table_names(&t, (const char *const[]){"vector add n = 256, device data", "tenants", "outstanding", "op/s",
                                                "min", "max", "p50 us", "p99", NULL});
    int none = t.cells;
    for (uint32_t depth = 1; depth <= GPU_DEPTH; depth *= GPU_DEPTH)
        for (const int *count = gpu_tenant_counts; *count; count++)
            for (size_t s = 0; s < sizeof(subjects) / sizeof(subjects[0]); s++) {
                gpu_vadd_params(params, 256, "device", *count, depth);
                const struct bench_row *rate = bench_find(g->b, "gpu.tenants", subjects[s], params, "rate");
                if (!rate)
                    continue;
                bench_table_add(&t, "%s", subjects[s]);
                bench_table_add(&t, "%d", *count);
                if (strstr(subjects[s], "graph"))
                    bench_table_add(&t, "2 graphs");
                else
                    bench_table_add(&t, "%u", depth);
                bench_table_num(&t, bench_median(rate), 0);
                bench_table_num(&t, bench_min(rate), 0);
                bench_table_num(&t, bench_max(rate), 0);
                bench_table_num(&t, figure(g, "gpu.tenants", subjects[s], params, "p50"), 1);
                bench_table_num(&t, figure(g, "gpu.tenants", subjects[s], params, "p99"), 1);
            }
    bench_table_show(&t, none, g->b->text);
}

static void bandwidth_table(const struct gpu *g)
{
    static const char *const subjects[] = {"one-context", "vgpu", "mps", "time-sliced"};
    struct bench_table t;
    char params[GPU_PARAMS_BYTES];
    const int count = g->tenants_max < 8 ? g->tenants_max : 8;
    const uint64_t n = gpu_limit(g, TENANT_VADD);

    bench_table_init(&t, 4);
    bench_table_names(
        &t, (const char *const[]){"vector add of many floats, device data", "tenants", "op/s", "/ one context", NULL});
    int none = t.cells;
    gpu_vadd_params(params, n, "device", count, 1);
    const struct bench_row *one = bench_find(g->b, "gpu.bandwidth", "one-context", params, "rate");
    for (int s = 0; s < 4; s++) {
        const struct bench_row *rate = bench_find(g->b, "gpu.bandwidth", subjects[s], params, "rate");
        if (!rate)
            continue;
        bench_table_add(&t, "%s, n = %llu", subjects[s], (unsigned long long)n);
        bench_table_add(&t, "%d", count);
        bench_table_num(&t, bench_median(rate), 0);
        bench_table_num(&t, bench_ratio(rate, one), 3);
    }
    bench_table_show(&t, none, g->b->text);
}

static void gemm_row(const struct gpu *g, struct bench_table *t, uint64_t n, bool bf16, uint32_t depth)
{
    char params[GPU_PARAMS_BYTES];

    gpu_gemm_params(params, n, bf16, depth);
    const struct bench_row *ours = bench_find(g->b, "gpu.gemm", "vgpu", params, "rate");
    const struct bench_row *native = bench_find(g->b, "gpu.gemm", "native", params, "rate");
    double flop = 2.0 * (double)n * (double)n * (double)n;
    if (!ours && !native)
        return;
    bench_table_add(t, "%llu, %s", (unsigned long long)n, bf16 ? "bf16" : "f32");
    bench_table_add(t, "%u", depth);
    bench_table_num(t, 1e6 / bench_median(native), 1);
    bench_table_num(t, 1e6 / bench_median(ours), 1);
    bench_table_num(t, bench_median(native) * flop / 1e12, 1);
    bench_table_num(t, bench_median(ours) * flop / 1e12, 1);
    bench_table_num(t, bench_ratio(ours, native), 3);
}

static void gemm_table(const struct gpu *g)
{
    static const uint32_t depths[] = {1, 8};
    struct bench_table t;

    bench_table_init(&t, 7);
    bench_table_names(&t, (const char *const[]){"GEMM n x n x n, device data", "outstanding", "native us", "vgpu us",
                                                "native TFLOP/s", "vgpu TFLOP/s", "vgpu / native", NULL});
    int none = t.cells;
    for (const uint64_t *n = gpu_gemm_sizes; *n; n++)
        for (int d = 0; d < 2; d++)
            for (int bf16 = 0; bf16 < 2; bf16++)
                gemm_row(g, &t, *n, bf16, depths[d]);
    bench_table_show(&t, none, g->b->text);
}

static void copy_table(const struct gpu *g)
{
    const char *other = g->cpu ? "memcpy" : "native";
    struct bench_table t;
    char params[GPU_PARAMS_BYTES];

    bench_table_init(&t, 7);
    bench_table_names(&t, (const char *const[]){"copy, one outstanding, bytes", "direction",
                                                g->cpu ? "memcpy us" : "native us", "vgpu us",
                                                g->cpu ? "memcpy GB/s" : "native GB/s", "vgpu GB/s", "ratio", NULL});
    int none = t.cells;
    for (const uint64_t *n = gpu_copy_sizes; *n; n++)
        for (int h2d = 1; h2d >= 0; h2d--) {
            gpu_copy_params(params, *n, h2d);
            const struct bench_row *ours = bench_find(g->b, GPU_BENCH(g, "copy"), "vgpu", params, "rate");
            const struct bench_row *native = bench_find(g->b, GPU_BENCH(g, "copy"), other, params, "rate");
            if (!ours && !native)
                continue;
            bench_table_add(&t, "%llu", (unsigned long long)*n);
            bench_table_add(&t, "%s", h2d ? "to device" : "from device");
            bench_table_num(&t, figure(g, GPU_BENCH(g, "copy"), other, params, "p50"), 1);
            bench_table_num(&t, figure(g, GPU_BENCH(g, "copy"), "vgpu", params, "p50"), 1);
            bench_table_num(&t, bench_median(native) * (double)*n / 1e9, 2);
            bench_table_num(&t, bench_median(ours) * (double)*n / 1e9, 2);
            bench_table_num(&t, bench_ratio(ours, native), 3);
        }
    bench_table_show(&t, none, g->b->text);
}

static void isolation_table(const struct gpu *g, const char *bench, const char *title, const char *key,
                            const uint32_t values[2])
{
    static const struct {
        const char *op;
        uint64_t n;
    } shapes[] = {{"vadd", 256}, {"gemm", 256}, {"vadd", 1u << 20}};
    static const char *const loads[] = {"alone", "compute", "bandwidth"};
    struct bench_table t;
    char params[GPU_PARAMS_BYTES];

    bench_table_init(&t, 11);
    bench_table_names(&t, (const char *const[]){title, key, "background", "p50 us", "p99", "p99.9", "p99.99", "max",
                                                "p99 / alone", "background op/s",
                                                "detaches", NULL});
    int none = t.cells;
    for (int v = 0; v < 2; v++)
        for (int s = 0; s < 3; s++)
            for (int load = 0; load < 3; load++) {
                gpu_isolation_params(params, shapes[s].op, shapes[s].n, key, values[v]);
                if (!bench_find(g->b, bench, loads[load], params, "p50"))
                    continue;
                bench_table_add(&t, "%s %llu", shapes[s].op, (unsigned long long)shapes[s].n);
                bench_table_add(&t, "%u", values[v]);
                bench_table_add(&t, "%s", load ? loads[load] : "none (alone)");
                latencies_add(g, &t, bench, loads[load], params);
                bench_table_num(&t, bench_ratio(bench_find(g->b, bench, loads[load], params, "p99"),
                                                bench_find(g->b, bench, loads[0], params, "p99")), 2);
                bench_table_num(&t, figure(g, bench, loads[load], params, "background"), 0);
                bench_table_num(&t, figure(g, bench, loads[load], params, "detaches"), 0);
            }
    bench_table_show(&t, none, g->b->text);
}

static void hops_table(const struct gpu *g)
{
    static const struct {
        const char *subject, *what;
    } hops[] = {
        {"vgpu-device", "the whole: guest to guest, operands on the device"},
        {"vgpu-host", "the whole: operands in the arena, fresh each call"},
        {"vgpu-nop", "guest, poll core, executor, guest: a NOP, nothing on the device"},
        {"vgpu-null", "the same with backend null"},
        {"resident-word", "a running kernel answers a word in pinned memory: the bus, twice"},
        {"resident-device", "the same, and one warp adds 256 floats, on the device"},
        {"resident-host", "the same, and one warp adds 256 floats of host memory"},
    };
    const char *params = "{\"n\":256,\"depth\":1}";
    struct bench_table t;

    bench_table_init(&t, 6);
    bench_table_names(&t, (const char *const[]){"where the time of n = 256 goes", "p50 us", "p99", "p99.9", "p99.99", "max",
                                                NULL});
    int none = t.cells;
    for (size_t i = 0; i < sizeof(hops) / sizeof(hops[0]); i++) {
        if (!bench_find(g->b, "gpu.hops", hops[i].subject, params, "p50"))
            continue;
        bench_table_add(&t, "%s", hops[i].what);
        latencies_add(g, &t, "gpu.hops", hops[i].subject, params);
    }
    bench_table_show(&t, none, g->b->text);
    for (int host = 0; host < 2; host++) {
        double whole = figure(g, "gpu.hops", host ? "vgpu-host" : "vgpu-device", params, "p50");
        double nop = figure(g, "gpu.hops", "vgpu-nop", params, "p50");
        double device = figure(g, "gpu.hops", host ? "resident-host" : "resident-device", params, "p50");
        if (isnan(whole) || isnan(nop) || isnan(device))
            continue;
        fprintf(g->b->text,
                "  %s: %.2f us, of which %.2f are rings and scheduling; the device part is %.2f (a kernel that looks "
                "without pause, alone: %.2f)\n",
                host ? "host data" : "device data", whole, nop, whole - nop, device);
    }
    fputc('\n', g->b->text);
}

void gpu_report(struct gpu *g)
{
    static const uint32_t reserves[2] = {0, 32}, gpus[2] = {1, 2};

    fputc('\n', g->b->text);
    latency_table(g);
    gemm_table(g);
    copy_table(g);
    tenants_table(g);
    bandwidth_table(g);
    isolation_table(g, GPU_BENCH(g, "priority"), "high priority, low saturates", "reserve_sms", reserves);
    isolation_table(g, GPU_BENCH(g, "pools"), "pool A, pool B saturates", g->cpu ? "executors" : "gpus", gpus);
    hops_table(g);
    gpu_goals(g);
}
