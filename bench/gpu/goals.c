/* SPDX-License-Identifier: Apache-2.0 */
/* The goals: each is a ratio of two rows of one run, taken round by round, and a bound. */
#include "bench/gpu/gpu.h"

struct side_row {
    const char *bench, *subject, *params, *metric;
};

static const struct bench_row *row(const struct bench_goals *s, struct side_row r)
{
    return bench_find(s->b, r.bench, r.subject, r.params, r.metric);
}

static void goal(struct bench_goals *s, const char *what, const char *against, bool at_most, double bound,
                 struct side_row ours, struct side_row other)
{
    bench_goal(s, what, against, at_most, bound, row(s, ours), row(s, other));
}

static void latency_goals(struct bench_goals *s)
{
    static const struct {
        const char *data, *what, *tail, *against;
        double bound;
    } sides[] = {
        {"device", "n = 256, device data, p50", "n = 256, device data, our p99", "native launch + sync", 0.35},
        {"host", "n = 256, fresh host data, p50", "n = 256, fresh host data, our p99", "native, zero copy", 0.42},
    };
    char params[GPU_PARAMS_BYTES], p50[64];

    for (int i = 0; i < 2; i++) {
        gpu_vadd_params(params, 256, sides[i].data, 1, 1);
        goal(s, sides[i].what, sides[i].against, true, sides[i].bound,
             (struct side_row){"gpu.latency", "vgpu", params, "p50"},
             (struct side_row){"gpu.latency", "native", params, "p50"});
        snprintf(p50, sizeof(p50), "%s, its p50", sides[i].against);
        goal(s, sides[i].tail, p50, true, 1.0, (struct side_row){"gpu.latency", "vgpu", params, "p99"},
             (struct side_row){"gpu.latency", "native", params, "p50"});
    }
}

static void tenants_goals(struct bench_goals *s)
{
    static const struct {
        uint32_t depth;
        const char *what, *against, *subject;
        double bound;
    } sides[] = {
        {1, "12 tenants, one outstanding, op/s", "MPS", "mps", 3},
        {1, "12 tenants, one outstanding, op/s", "time-slicing", "time-sliced", 300},
        {GPU_DEPTH, "12 tenants, 64 outstanding, op/s", "MPS, launches", "mps", 8},
        {GPU_DEPTH, "12 tenants, 64 outstanding, op/s", "MPS, graphs of 1000", "mps-graph", 1.5},
        {GPU_DEPTH, "12 tenants, 64 outstanding, op/s", "time-slicing", "time-sliced", 30},
    };
    char params[GPU_PARAMS_BYTES];

    for (size_t i = 0; i < sizeof(sides) / sizeof(sides[0]); i++) {
        gpu_vadd_params(params, 256, "device", GPU_TENANTS_MAX, sides[i].depth);
        goal(s, sides[i].what, sides[i].against, false, sides[i].bound,
             (struct side_row){"gpu.tenants", "vgpu", params, "rate"},
             (struct side_row){"gpu.tenants", sides[i].subject, params, "rate"});
    }
    gpu_vadd_params(params, 1u << 24, "device", 8, 1);
    goal(s, "8 tenants, bandwidth-bound (16 M floats), op/s", "one native context", false, 0.98,
         (struct side_row){"gpu.bandwidth", "vgpu", params, "rate"},
         (struct side_row){"gpu.bandwidth", "one-context", params, "rate"});
}

static void bulk_goals(struct bench_goals *s)
{
    char params[GPU_PARAMS_BYTES], what[80];

    for (int bf16 = 0; bf16 < 2; bf16++) {
        gpu_gemm_params(params, 4096, bf16, 8);
        snprintf(what, sizeof(what), "GEMM 4096, %s, op/s", bf16 ? "bf16" : "f32");
        goal(s, what, "native cuBLAS", false, 0.98, (struct side_row){"gpu.gemm", "vgpu", params, "rate"},
             (struct side_row){"gpu.gemm", "native", params, "rate"});
    }
    for (uint64_t bytes = 64 * GPU_MIB; bytes <= 256 * GPU_MIB; bytes *= 4)
        for (int h2d = 1; h2d >= 0; h2d--) {
            gpu_copy_params(params, bytes, h2d);
            snprintf(what, sizeof(what), "copy %s, %llu MiB", h2d ? "to the device" : "from the device",
                     (unsigned long long)(bytes / GPU_MIB));
            goal(s, what, "native pinned copy", false, 0.95, (struct side_row){"gpu.copy", "vgpu", params, "rate"},
                 (struct side_row){"gpu.copy", "native", params, "rate"});
        }
}

static void isolation_goal(struct bench_goals *s, const char *bench, const char *what, const char *op, uint64_t n,
                           const char *key, uint32_t value, double bound)
{
    char params[GPU_PARAMS_BYTES];

    gpu_isolation_params(params, op, n, key, value);
    goal(s, what, "its p99 alone", true, bound, (struct side_row){bench, "compute", params, "p99"},
         (struct side_row){bench, "alone", params, "p99"});
}

static void isolation_goals(struct bench_goals *s)
{
    isolation_goal(s, "gpu.priority", "high priority p99, resident n = 256, low saturates (compute)", "vadd", 256,
                   "reserve_sms", 0, 1.3);
    isolation_goal(s, "gpu.priority", "high priority p99, GEMM 256, 32 SMs in reserve, low saturates", "gemm", 256,
                   "reserve_sms", 32, 2);
    isolation_goal(s, "gpu.priority", "high priority p99, vector add 1 M, 32 SMs in reserve, low saturates", "vadd",
                   1u << 20, "reserve_sms", 32, 2);
    for (uint32_t gpus = 1; gpus <= 2; gpus++) {
        double bound = gpus == 1 ? 1.3 : 1.1;
        const char *where = gpus == 1 ? "one GPU" : "a GPU each";
        char what[3][96];
        snprintf(what[0], 96, "pool A p99, n = 256, pool B saturates, %s", where);
        snprintf(what[1], 96, "pool A p99, GEMM 256, pool B saturates, %s", where);
        snprintf(what[2], 96, "pool A p99, vector add 1 M, pool B saturates, %s", where);
        isolation_goal(s, "gpu.pools", what[0], "vadd", 256, "gpus", gpus, bound);
        isolation_goal(s, "gpu.pools", what[1], "gemm", 256, "gpus", gpus, bound);
        isolation_goal(s, "gpu.pools", what[2], "vadd", 1u << 20, "gpus", gpus, bound);
    }
}

void gpu_goals(struct gpu *g)
{
    struct bench_goals s;

    if (g->cpu) { /* the goals are a GPU's: the ratios stand in the tables */
        fprintf(g->b->text, "  (no GPU: no goal is judged)\n");
        return;
    }
    bench_goals_begin(&s, g->b, g->suite, g->judged, false);
    latency_goals(&s);
    tenants_goals(&s);
    bulk_goals(&s);
    isolation_goals(&s);
    bench_goals_end(&s, "ratios are medians of each round's");
}
