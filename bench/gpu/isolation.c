/* SPDX-License-Identifier: Apache-2.0 */
/* High priority while low priority saturates the GPU; one pool while the other does; and a VM that comes and goes. */
#include "bench/gpu/gpu.h"

#include <string.h>

#define BACKGROUND_DEPTH 4u
#define LEAD_S           0.15 /* the background runs so long before, and after, what is measured */
#define TIMES_LONGER     2.5  /* than other cells: p99.9 of a slow operation, and some detaches */

struct shape {
    const char *name;
    bool gemm;
    uint64_t n;
};
static const struct shape shapes[] = {{"vadd", false, 256}, {"gemm", true, 256}, {"vadd", false, 1u << 20}};

enum load { ALONE, COMPUTE, BANDWIDTH, LOADS };
static const char *const loads[] = {"alone", "compute", "bandwidth"};

const char *gpu_isolation_params(char *out, const char *op, uint64_t n, const char *key, uint32_t value)
{
    snprintf(out, GPU_PARAMS_BYTES, "{\"op\":\"%s\",\"n\":%llu,\"%s\":%u}", op, (unsigned long long)n, key, value);
    return out;
}

static struct tenant_cell background_cell(const struct gpu *g, enum load load, double seconds)
{
    struct tenant_cell c = load == COMPUTE ? gpu_gemm(g, gpu_limit(g, TENANT_GEMM), false, BACKGROUND_DEPTH)
                                           : gpu_vadd(g, gpu_limit(g, TENANT_VADD), TENANT_DEVICE, BACKGROUND_DEPTH);

    c.run_ns = (uint64_t)(seconds * 1e9);
    c.warmup_ns = 0;
    return c;
}

static struct tenant_cell churn_cell(const struct gpu *g, double seconds)
{
    struct tenant_cell c = gpu_vadd(g, 1, TENANT_DEVICE, 1);

    c.op = TENANT_CHURN;
    c.run_ns = (uint64_t)(seconds * 1e9);
    return c;
}

static void background_record(struct gpu *g, const struct gpu_cell *c, const struct outcome *busy,
                              const struct outcome *churn)
{
    bench_record(g->b, c->bench, c->subject, c->params, "background", "op/s", busy->rate);
    bench_record(g->b, c->bench, c->subject, c->params, "detaches", "", (double)churn->ops);
    if (churn->hist.count)
        bench_record(g->b, c->bench, c->subject, c->params, "detach", "us",
                     tenant_hist_quantile(&churn->hist, 0.5) / 1e3);
}

/* All are prepared; then the background starts, later what is measured, and it ends before the background does. */
static void measure_beside(struct gpu *g, struct gpu_cell *c, enum load load)
{
    static struct outcome out, busy, churn;
    const struct crew background = {CREW_VGPU, GPU_VM_BACKGROUND, g->backgrounds},
                      comes = {CREW_VGPU, GPU_VM_CHURN, 1};
    double seconds = (double)c->cell.run_ns / 1e9 + 2 * LEAD_S;
    struct tenant_cell heavy = background_cell(g, load, seconds), churning = churn_cell(g, seconds);

    memset(&out, 0, sizeof(out));
    memset(&busy, 0, sizeof(busy));
    memset(&churn, 0, sizeof(churn));
    int rc = crew_prepare(g, &background, &heavy, &busy);
    bool heavy_ready = rc == 0, churn_ready = false;
    if (rc == 0)
        churn_ready = (rc = crew_prepare(g, &comes, &churning, &churn)) == 0;
    if (rc == 0)
        rc = crew_prepare(g, &c->crew, &c->cell, &out);
    if (rc == 0) {
        crew_go(g, &background, 0.001);
        crew_go(g, &comes, 0.001);
        crew_go(g, &c->crew, LEAD_S);
        crew_collect(g, &c->crew, &out);
    }
    if (rc) { /* those that wait are left without a start: end them */
        crew_end(g, CREW_VGPU);
        gpu_fail(g, c->bench, c->subject, c->params, busy.rc ? busy.text : churn.rc ? churn.text : out.text);
        daemon_log_tail(g);
        return;
    }
    if (heavy_ready)
        crew_collect(g, &background, &busy);
    if (churn_ready)
        crew_collect(g, &comes, &churn);
    if (out.rc || busy.rc || churn.rc) {
        gpu_fail(g, c->bench, c->subject, c->params, out.rc ? out.text : busy.rc ? busy.text : churn.text);
        daemon_log_tail(g);
        return;
    }
    gpu_record(g, c, &out);
    background_record(g, c, &busy, &churn);
}

static void isolation_cell(struct gpu *g, const char *bench, const struct shape *s, enum load load, const char *key,
                           uint32_t value)
{
    struct gpu_cell c = {.bench = bench,
                         .subject = loads[load],
                         .crew = {CREW_VGPU, 1, 1},
                         .cell = s->gemm ? gpu_gemm(g, s->n, false, 1) : gpu_vadd(g, s->n, TENANT_DEVICE, 1)};

    if (gpu_interrupted || !gpu_wanted(g, bench, loads[load]) || (!s->gemm && s->n > gpu_limit(g, TENANT_VADD)) ||
        (s->gemm && g->cpu)) /* on a CPU a product of 256 is no small operation */
        return;
    gpu_isolation_params(c.params, s->name, s->n, key, value);
    c.cell.run_ns = (uint64_t)(g->seconds * TIMES_LONGER * 1e9);
    if (load == ALONE)
        gpu_measure(g, &c);
    else
        measure_beside(g, &c, load);
}

static void isolation_rounds(struct gpu *g, const char *bench, bool resident_too, const char *key, uint32_t value)
{
    for (size_t s = resident_too ? 0 : 1; s < sizeof(shapes) / sizeof(shapes[0]); s++)
        gpu_rounds(g)
            for (int load = ALONE; load < LOADS; load++)
                isolation_cell(g, bench, &shapes[s], (enum load)load, key, value);
}

void priority_run(struct gpu *g, uint32_t reserve_sms)
{
    isolation_rounds(g, GPU_BENCH(g, "priority"), reserve_sms == 0, "reserve_sms", reserve_sms);
}

void pools_run(struct gpu *g, bool two_gpus)
{
    isolation_rounds(g, GPU_BENCH(g, "pools"), true, g->cpu ? "executors" : "gpus", two_gpus ? 2 : 1);
}
