/* SPDX-License-Identifier: Apache-2.0 */
/* Several tenants, each a process on a core of its own: through vgpud, under MPS, under the driver's time-slicing. */
#include "bench/gpu/gpu.h"

#include <math.h>
#include <string.h>

#define SMALL_N      256u
#define BANDWIDTH    8u /* tenants that are bandwidth-bound */
#define NOTIFY       16u
#define GRAPH        1000u
#define GRAPH_CHAINS 8u

const int gpu_tenant_counts[] = {1, 2, 4, 8, 12, 0};

static struct crew crew_of(enum crew_kind kind, int count)
{
    return (struct crew){kind, kind == CREW_VGPU ? 1 : 0, (uint32_t)count};
}

static const char *subject_of(enum crew_kind kind)
{
    return kind == CREW_VGPU ? "vgpu" : kind == CREW_MPS ? "mps" : "time-sliced";
}

static void wait_set(struct tenant_cell *cell, uint32_t wait)
{
    cell->wait = wait;
    cell->notify = cell->depth > 1 ? NOTIFY : 0;
}

static void launches_cell(struct gpu *g, enum crew_kind kind, int count, uint32_t depth)
{
    struct gpu_cell c = {.bench = "gpu.tenants",
                         .subject = subject_of(kind),
                         .crew = crew_of(kind, count),
                         .cell = gpu_vadd(g, SMALL_N, TENANT_DEVICE, depth)};

    wait_set(&c.cell, depth > 1 ? g->wait[kind] : g->wait_one[kind]);
    gpu_vadd_params(c.params, SMALL_N, "device", count, depth);
    gpu_measure(g, &c);
}

/* Two graphs outstanding: the device always has the next one. */
static void graphs_cell(struct gpu *g, enum crew_kind kind, int count, uint32_t chains)
{
    struct gpu_cell c = {
        .bench = "gpu.tenants", .crew = crew_of(kind, count), .cell = gpu_vadd(g, SMALL_N, TENANT_DEVICE, 2 * GRAPH)};

    c.subject = kind == CREW_MPS ? chains > 1 ? "mps-graph-chains" : "mps-graph" : "time-sliced-graph";
    c.cell.wait = g->wait[kind];
    c.cell.graph = GRAPH;
    c.cell.chains = chains;
    c.cell.slots = GPU_DEPTH;
    gpu_vadd_params(c.params, SMALL_N, "device", count, GPU_DEPTH);
    gpu_measure(g, &c);
}

static const char *const wait_names[] = {"cuStreamSynchronize", "a word that the stream writes", "events"};

/* Operations a second in that form; NAN where it does not work. */
static double form_rate(struct gpu *g, enum crew_kind kind, uint32_t depth, uint32_t wait)
{
    static struct outcome out;
    struct tenant_cell cell = gpu_vadd(g, SMALL_N, TENANT_DEVICE, depth);
    struct crew crew = crew_of(kind, g->tenants_max);
    char params[GPU_PARAMS_BYTES];

    wait_set(&cell, wait);
    crew_run(g, &crew, &cell, &out);
    if (out.rc) {
        fprintf(g->b->text, "note: %s, told by %s: %s\n", subject_of(kind), wait_names[wait], out.text);
        return NAN;
    }
    snprintf(params, sizeof(params), "{\"told_by\":\"%s\",\"tenants\":%d,\"depth\":%u}", wait_names[wait],
             g->tenants_max, depth);
    bench_record(g->b, "gpu.peer-form", subject_of(kind), params, "rate", "op/s", out.rate);
    return out.rate;
}

/*
 * A native tenant can wait in cuStreamSynchronize, or poll a word that the stream writes, or events. The faster of two,
 * at the most tenants, is used for all of its cells.
 */
static uint32_t form_choose(struct gpu *g, enum crew_kind kind, uint32_t depth, uint32_t usual, uint32_t other)
{
    double first = form_rate(g, kind, depth, usual), second = gpu_interrupted ? NAN : form_rate(g, kind, depth, other);
    uint32_t choice = second > first || (isnan(first) && !isnan(second)) ? other : usual;

    fprintf(g->b->text, "peer: %s, %u outstanding: told by %s, the faster form here\n", subject_of(kind), depth,
            wait_names[choice]);
    return choice;
}

static void kind_forms_choose(struct gpu *g, enum crew_kind kind)
{
    g->wait_one[kind] = form_choose(g, kind, 1, TENANT_SYNC, TENANT_VALUE);
    g->wait[kind] = form_choose(g, kind, GPU_DEPTH, TENANT_VALUE, TENANT_EVENT);
}

static void forms_choose(struct gpu *g)
{
    g->b->round = 0;
    if (gpu_wanted(g, "gpu.tenants", "time-sliced-graph"))
        kind_forms_choose(g, CREW_NATIVE);
    if (!gpu_wanted(g, "gpu.tenants", "mps-graph-chains"))
        return;
    mps_start(g);
    if (g->mps)
        kind_forms_choose(g, CREW_MPS);
}

/* ---- What the host alone allows: where a goal is missed, is it the device or the way to it? ---- */
static void host_cell(struct gpu *g, const char *subject, bool null, uint32_t depth)
{
    struct gpu_cell c = {.bench = "gpu.tenants",
                         .subject = subject,
                         .crew = crew_of(CREW_VGPU, g->tenants_max),
                         .cell = gpu_vadd(g, SMALL_N, TENANT_DEVICE, depth)};

    c.cell.unchecked = null;
    if (!null)
        c.cell.op = TENANT_NOP;
    gpu_vadd_params(c.params, SMALL_N, "device", g->tenants_max, depth);
    gpu_measure(g, &c);
}

void tenants_null_run(struct gpu *g)
{
    gpu_rounds(g)
        for (int i = 0; i < 2; i++)
            host_cell(g, "vgpu-null", true, i ? GPU_DEPTH : 1);
}

/* ---- Bandwidth-bound ---- */
static void bandwidth_cell(struct gpu *g, int which)
{
    const uint64_t n = gpu_limit(g, TENANT_VADD);
    const int count = g->tenants_max < (int)BANDWIDTH ? g->tenants_max : (int)BANDWIDTH;
    struct gpu_cell c = {.bench = "gpu.bandwidth", .cell = gpu_vadd(g, n, TENANT_DEVICE, 1)};

    if (which < CREW_KINDS) {
        c.subject = subject_of((enum crew_kind)which);
        c.crew = crew_of((enum crew_kind)which, count);
    } else { /* one program with as many streams, one launch outstanding on each */
        c.subject = "one-context";
        c.crew = crew_of(CREW_NATIVE, 1);
        c.cell.depth = c.cell.streams = c.cell.slots = (uint32_t)count;
        c.cell.wait = TENANT_VALUE;
    }
    gpu_vadd_params(c.params, n, "device", count, 1);
    gpu_measure(g, &c);
}

static void tenants_round(struct gpu *g)
{
    static const enum crew_kind kinds[] = {CREW_VGPU, CREW_MPS, CREW_NATIVE};

    for (const int *count = gpu_tenant_counts; *count && *count <= g->tenants_max; count++) {
        for (int i = 0; i < 6; i++)
            launches_cell(g, kinds[i / 2], *count, i & 1 ? GPU_DEPTH : 1);
        graphs_cell(g, CREW_MPS, *count, 1);
    }
    for (int i = 0; i < 2; i++)
        host_cell(g, "vgpu-nop", false, i ? GPU_DEPTH : 1);
    graphs_cell(g, CREW_MPS, g->tenants_max, GRAPH_CHAINS);
    graphs_cell(g, CREW_NATIVE, g->tenants_max, 1);
    for (int i = 0; i < CREW_KINDS + 1; i++)
        bandwidth_cell(g, (i + g->b->round) % (CREW_KINDS + 1));
}

void tenants_run(struct gpu *g)
{
    if (g->b->filter && !strstr(GPU_TENANTS_NAMES, g->b->filter))
        return;
    forms_choose(g);
    gpu_rounds(g)
        tenants_round(g);
    /* Contexts that are not needed any more. */
    mps_stop(g);
}

/* The same guests with two poll cores in vgpud. */
void tenants_two_poll_cores_run(struct gpu *g)
{
    gpu_rounds(g)
        for (int i = 0; i < 2; i++) {
            uint32_t depth = i ? GPU_DEPTH : 1;
            struct gpu_cell c = {.bench = "gpu.tenants",
                                 .subject = "vgpu-2-poll-cores",
                                 .crew = crew_of(CREW_VGPU, g->tenants_max),
                                 .cell = gpu_vadd(g, SMALL_N, TENANT_DEVICE, depth)};
            gpu_vadd_params(c.params, SMALL_N, "device", g->tenants_max, depth);
            gpu_measure(g, &c);
        }
}
