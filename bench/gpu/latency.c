/* SPDX-License-Identifier: Apache-2.0 */
/* One tenant: vector adds of four sizes, GEMM, copies, and where the time of a small operation goes. */
#include "bench/gpu/gpu.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

const uint64_t gpu_vadd_sizes[] = {256, 16384, 1u << 20, 1u << 24, 0};
const uint64_t gpu_gemm_sizes[] = {256, 512, 1024, 2048, 4096, 0};
uint64_t gpu_copy_sizes[BENCH_LIST_MAX + 1] = {4096, 65536, 1u << 20, 16u << 20, 64u << 20, 256u << 20, 0};

#define GEMM_DEPTH 8u

uint64_t gpu_limit(const struct gpu *g, enum tenant_op op)
{
    switch (op) {
    case TENANT_VADD:
        return g->small ? 16384 : g->cpu ? 1u << 18 : 1u << 24;
    case TENANT_GEMM:
        return g->small || g->cpu ? 256 : 4096;
    default:
        return g->cpu ? 64 * GPU_MIB : g->small ? GPU_MIB : 256 * GPU_MIB;
    }
}

const char *gpu_vadd_params(char *out, uint64_t n, const char *data, int tenants, uint32_t depth)
{
    snprintf(out, GPU_PARAMS_BYTES, "{\"op\":\"vadd\",\"n\":%llu,\"data\":\"%s\",\"tenants\":%d,\"depth\":%u}",
             (unsigned long long)n, data, tenants, depth);
    return out;
}

const char *gpu_gemm_params(char *out, uint64_t n, bool bf16, uint32_t depth)
{
    snprintf(out, GPU_PARAMS_BYTES, "{\"op\":\"gemm\",\"n\":%llu,\"inputs\":\"%s\",\"depth\":%u}",
             (unsigned long long)n, bf16 ? "bf16" : "f32", depth);
    return out;
}

const char *gpu_copy_params(char *out, uint64_t bytes, bool to_device)
{
    snprintf(out, GPU_PARAMS_BYTES, "{\"op\":\"copy\",\"direction\":\"%s\",\"bytes\":%llu}", to_device ? "h2d" : "d2h",
             (unsigned long long)bytes);
    return out;
}

static const struct crew native_one = {CREW_NATIVE, 0, 1}, guest_one = {CREW_VGPU, 1, 1};

/* ---- Vector adds, one outstanding ---- */
static void latency_cell(struct gpu *g, uint64_t n, int which)
{
    static const struct {
        const char *subject;
        enum crew_kind kind;
        uint32_t data, wait, graph;
    } forms[] = {
        {"native", CREW_NATIVE, TENANT_DEVICE, TENANT_SYNC, 0},
        {"native-polled", CREW_NATIVE, TENANT_DEVICE, TENANT_VALUE, 0},
        {"native-graph", CREW_NATIVE, TENANT_DEVICE, TENANT_SYNC, 1},
        {"native", CREW_NATIVE, TENANT_ARENA, TENANT_SYNC, 0},
        {"native-copied", CREW_NATIVE, TENANT_COPIED, TENANT_SYNC, 0},
        {"vgpu", CREW_VGPU, TENANT_DEVICE, 0, 0}, /* guests side by side: after them the GPU must come to rest */
        {"vgpu", CREW_VGPU, TENANT_ARENA, 0, 0},
    };
    struct gpu_cell c = {.bench = "gpu.latency",
                         .subject = forms[which].subject,
                         .crew = forms[which].kind == CREW_VGPU ? guest_one : native_one,
                         .cell = gpu_vadd(g, n, forms[which].data, 1)};

    c.cell.wait = forms[which].wait;
    c.cell.graph = forms[which].graph;
    gpu_vadd_params(c.params, n, forms[which].data == TENANT_DEVICE ? "device" : "host", 1, 1);
    gpu_measure(g, &c);
}

void latency_run(struct gpu *g)
{
    const int forms = 7;

    for (const uint64_t *n = gpu_vadd_sizes; *n && *n <= gpu_limit(g, TENANT_VADD); n++)
        gpu_rounds(g)
            for (int i = 0; i < forms; i++) /* another one first in each round */
                latency_cell(g, *n, (i + g->b->round + (int)g->b->warm_up) % forms);
}

/* ---- Hop by hop: n = 256 ---- */
static void hop(struct gpu *g, const char *subject, struct crew crew, struct tenant_cell cell)
{
    struct gpu_cell c = {.bench = "gpu.hops", .subject = subject, .crew = crew, .cell = cell};

    snprintf(c.params, sizeof(c.params), "{\"n\":256,\"depth\":1}");
    gpu_measure(g, &c);
}

static void hops_round(struct gpu *g)
{
    struct tenant_cell cell = gpu_vadd(g, 256, TENANT_DEVICE, 1);

    hop(g, "vgpu-device", guest_one, cell);
    cell.data = TENANT_ARENA;
    hop(g, "vgpu-host", guest_one, cell);
    cell.data = TENANT_DEVICE;
    cell.op = TENANT_NOP;
    hop(g, "vgpu-nop", guest_one, cell);
    cell.op = TENANT_PINGPONG;
    hop(g, "resident-word", native_one, cell);
    cell.op = TENANT_RESIDENT;
    hop(g, "resident-device", native_one, cell);
    cell.data = TENANT_ARENA;
    hop(g, "resident-host", native_one, cell);
}

void hops_run(struct gpu *g)
{
    gpu_rounds(g)
        hops_round(g);
}

void hops_null_run(struct gpu *g)
{
    struct tenant_cell cell = gpu_vadd(g, 256, TENANT_DEVICE, 1);

    cell.unchecked = 1;
    gpu_rounds(g)
        hop(g, "vgpu-null", guest_one, cell);
}

/* ---- GEMM ---- */
static void gemm_cell(struct gpu *g, uint64_t n, bool bf16, uint32_t depth, bool vgpu)
{
    struct gpu_cell c = {.bench = "gpu.gemm",
                         .subject = vgpu ? "vgpu" : "native",
                         .crew = vgpu ? guest_one : native_one,
                         .cell = gpu_gemm(g, n, bf16, depth)};

    gpu_gemm_params(c.params, n, bf16, depth);
    gpu_measure(g, &c);
}

void gemm_run(struct gpu *g)
{
    for (const uint64_t *n = gpu_gemm_sizes; *n && *n <= gpu_limit(g, TENANT_GEMM); n++)
        gpu_rounds(g)
            for (int i = 0; i < 6; i++) {
                bool vgpu = (i < 3) == (g->b->round & 1);
                gemm_cell(g, *n, i % 3 == 1, i % 3 == 2 ? 1 : GEMM_DEPTH, vgpu);
            }
}

/* ---- Copies ---- */
/* Without a GPU what a copy is held against is memcpy by a thread of ours, between memory of the same size. */
struct plain_copy {
    uint64_t bytes, ticks, count, took;
    char *from, *to;
    struct tenant_hist hist;
};

static void plain_copy_main(void *arg)
{
    struct plain_copy *c = arg;
    uint64_t from = vgpu_ticks(), last = from;

    while (last - from < c->ticks) {
        memcpy(c->to, c->from, c->bytes);
        __asm__ volatile("" : : "r"(c->to) : "memory");
        uint64_t now = vgpu_ticks();
        tenant_hist_add(&c->hist, vgpu_ticks_to_ns(now - last));
        last = now;
        c->count++;
    }
    c->took = last - from;
}

static void plain_copy_measure(struct gpu *g, const struct gpu_cell *c)
{
    static struct plain_copy copy;
    static struct outcome out;
    bench_thread_fn *const fn[] = {plain_copy_main};
    void *const arg[] = {&copy};

    if (gpu_interrupted || !gpu_wanted(g, c->bench, c->subject))
        return;
    memset(&copy, 0, sizeof(copy));
    copy.bytes = c->cell.n;
    copy.ticks = vgpu_ns_to_ticks(c->cell.run_ns);
    copy.from = malloc(copy.bytes);
    copy.to = malloc(copy.bytes);
    if (copy.from && copy.to) {
        memset(copy.from, 1, copy.bytes);
        memset(copy.to, 2, copy.bytes);
    }
    int rc = copy.from && copy.to ? bench_team_run(g->b, g->b->cores, 1, fn, arg) : -ENOMEM;
    free(copy.from);
    free(copy.to);
    memset(&out, 0, sizeof(out));
    out.hist = copy.hist;
    out.rate = copy.took ? (double)copy.count * (double)vgpu_clock.ticks_hz / (double)copy.took : 0;
    if (rc)
        gpu_fail(g, c->bench, c->subject, c->params, strerror(-rc));
    else
        gpu_record(g, c, &out);
}

static void copy_cell(struct gpu *g, uint64_t bytes, bool to_device, bool vgpu)
{
    struct gpu_cell c = {.bench = GPU_BENCH(g, "copy"),
                         .subject = vgpu ? "vgpu" : g->cpu ? "memcpy" : "native",
                         .crew = vgpu ? guest_one : native_one,
                         .cell = gpu_vadd(g, bytes, TENANT_DEVICE, 1)};

    c.cell.op = to_device ? TENANT_COPY_H2D : TENANT_COPY_D2H;
    gpu_copy_params(c.params, bytes, to_device);
    if (g->cpu && !vgpu)
        plain_copy_measure(g, &c);
    else
        gpu_measure(g, &c);
}

void copy_run(struct gpu *g)
{
    for (const uint64_t *n = gpu_copy_sizes; *n && *n <= gpu_limit(g, TENANT_COPY_H2D); n++)
        gpu_rounds(g)
            for (int i = 0; i < 4; i++)
                copy_cell(g, *n, i & 1, (i < 2) == (g->b->round & 1));
}
