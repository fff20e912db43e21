/* SPDX-License-Identifier: Apache-2.0 */
/* One measurement: run, recorded, or said why not. */
#include "bench/gpu/gpu.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* "gpu.latency" -> "latency": what --filter sees. */
bool gpu_wanted(const struct gpu *g, const char *bench, const char *subject)
{
    return bench_wanted(g->b, bench + strlen("gpu."), subject);
}

static void text_quoted(const char *text, char *out, size_t bytes)
{
    size_t n = 0;

    for (; *text && n + 3 < bytes; text++) {
        if (*text == '"' || *text == '\\')
            out[n++] = '\\';
        out[n++] = (unsigned char)*text < ' ' ? ' ' : *text;
    }
    out[n] = '\0';
}

static void reason_record(struct gpu *g, const char *kind, const char *bench, const char *subject, const char *params,
                          const char *why)
{
    char quoted[TENANT_TEXT_BYTES], all[TENANT_TEXT_BYTES + GPU_PARAMS_BYTES + 96];

    text_quoted(why, quoted, sizeof(quoted));
    snprintf(all, sizeof(all), "{\"bench\":\"%s\",\"cell\":%s,\"reason\":\"%s\"}", bench, params, quoted);
    bench_record(g->b, kind, subject, all, "count", "", 1);
}

void gpu_fail(struct gpu *g, const char *bench, const char *subject, const char *params, const char *why)
{
    if (gpu_interrupted)
        return; /* what it was told to end is no failure */
    g->failed++;
    fprintf(g->b->text, "FAILED: %s/%s %s: %s\n", bench + strlen("gpu."), subject, params, why);
    reason_record(g, "gpu.failed", bench, subject, params, why);
}

void gpu_skip(struct gpu *g, const char *bench, const char *subject, const char *why)
{
    size_t before = g->b->n_rows;

    reason_record(g, "gpu.skipped", bench, subject, "{}", why);
    if (g->b->n_rows > before) /* the first of its kind */
        fprintf(g->b->text, "SKIPPED: %s/%s: %s\n", bench + strlen("gpu."), subject, why);
}

void gpu_record(struct gpu *g, const struct gpu_cell *c, const struct outcome *out)
{
    static const struct {
        const char *metric;
        double q;
    } quantiles[] = {{"p50", 0.5}, {"p99", 0.99}, {"p99.9", 0.999}, {"p99.99", 0.9999}, {"max", 1}};

    bench_record(g->b, c->bench, c->subject, c->params, "rate", "op/s", out->rate);
    for (size_t i = 0; i < sizeof(quantiles) / sizeof(quantiles[0]) && out->hist.count; i++)
        bench_record(g->b, c->bench, c->subject, c->params, quantiles[i].metric, "us",
                     tenant_hist_quantile(&out->hist, fmin(quantiles[i].q, 1 - 0.5 / (double)out->hist.count)) / 1e3);
}

void gpu_measure(struct gpu *g, const struct gpu_cell *c)
{
    static struct outcome out;

    if (gpu_interrupted || !gpu_wanted(g, c->bench, c->subject))
        return;
    if (c->crew.kind == CREW_MPS) {
        mps_start(g);
        if (!g->mps)
            return; /* said once */
    }
    crew_run(g, &c->crew, &c->cell, &out);
    if (out.rc == -ENOTSUP && g->driver[0]) /* a driver without a GPU may lack graphs and such; NVIDIA's has all */
        gpu_skip(g, c->bench, c->subject, out.text);
    else if (out.rc)
        gpu_fail(g, c->bench, c->subject, c->params, out.text);
    else
        gpu_record(g, c, &out);
    if (out.rc && c->crew.kind == CREW_VGPU && !gpu_interrupted)
        daemon_log_tail(g);
}

void gpu_step(struct gpu *g, const char *what)
{
    fprintf(g->b->text, "gpu: %s (%.0f s)\n", what, (double)(vgpu_now_ns() - g->began_ns) / 1e9);
    fflush(g->b->text);
    bench_json_checkpoint(g->b);
}

static struct tenant_cell base(const struct gpu *g, uint64_t n, uint32_t depth)
{
    return (struct tenant_cell){
        .n = n, .depth = depth, .run_ns = (uint64_t)(g->seconds * 1e9), .warmup_ns = (uint64_t)(g->seconds * 1e9 / 10)};
}

struct tenant_cell gpu_vadd(const struct gpu *g, uint64_t n, uint32_t data, uint32_t depth)
{
    struct tenant_cell c = base(g, n, depth);

    c.op = TENANT_VADD;
    c.data = data;
    return c;
}

struct tenant_cell gpu_gemm(const struct gpu *g, uint64_t n, bool bf16, uint32_t depth)
{
    struct tenant_cell c = base(g, n, depth);

    c.op = TENANT_GEMM;
    c.bf16 = bf16;
    /* Several outstanding: told of each second one; one word for it, like everywhere. */
    c.wait = depth > 1 ? TENANT_VALUE : TENANT_SYNC;
    c.notify = depth > 1 ? 2 : 0;
    return c;
}
