/* SPDX-License-Identifier: Apache-2.0 */
/* The suite `path`: which measurements there are, and running them round by round. */
#include "bench/path/path.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bench/rings/rings.h"

#define DEFAULT_SECONDS 40.0
#define SLICE_MAX_S 0.25
#define IDLE_ROUNDS 20000u
#define IDLE_VMS_MAX 1000u
#define IDLE_SLOTS 8u

const uint32_t path_idle_counts[PATH_IDLE_COUNTS] = {1, 8, 64, 256, IDLE_VMS_MAX};

struct path_plan path_plan;

uint32_t path_mixes(struct path_mix out[PATH_MIXES_MAX])
{
    static const struct path_mix own[] = {{1, 1}, {8, 1}, {64, 1}, {8, 8}, {64, 64}};
    uint32_t n = 0;

    if (!path_plan.n_vms)
        for (; n < sizeof(own) / sizeof(own[0]); n++)
            out[n] = own[n];
    for (uint32_t i = 0; i < path_plan.n_vms; i++) {
        out[n++] = (struct path_mix){path_plan.vms[i], 1};
        if (path_plan.vms[i] > 1)
            out[n++] = (struct path_mix){path_plan.vms[i], path_plan.vms[i]};
    }
    return n;
}

/* The most VMs that anything is measured with; without --vms the suite's. */
static uint32_t vms_most(void)
{
    return path_plan.n_vms ? path_plan.vms[path_plan.n_vms - 1] : PATH_VMS_MAX;
}

extern const struct ring_subject ring_floor;

struct run {
    struct bench *b;
    struct rig *rig, *idle_rig;
    struct path_load *loads;
    struct bench_hist *hists; /* [PATH_THREADS_MAX] */
    struct path_daemon *daemon[2]; /* executor in the poll core's loop, and on a core of its own */
    struct ring_bed *bed;
    uint64_t ticks;
    uint64_t errors;
};

static const char *subject_of(bool in_process)
{
    return in_process ? "rtc" : "split";
}

/* What loses, repeats or changes a descriptor has no speed: said aloud, counted, and no time is recorded. */
static bool sound(struct run *run, const char *bench, const char *subject, uint64_t errors, uint64_t count)
{
    if (errors == 0)
        return true;
    run->errors += errors;
    fprintf(run->b->text, "WRONG DATA: %s/%s: %llu of %llu, VM broken: %u\n", bench, subject,
            (unsigned long long)errors, (unsigned long long)count, rig_broken(run->rig));
    return false;
}

static void loads_reset(struct run *run, uint32_t *running, uint32_t threads, uint32_t active)
{
    memset(run->hists, 0, PATH_THREADS_MAX * sizeof(*run->hists));
    memset(run->loads, 0, PATH_THREADS_MAX * sizeof(*run->loads));
    *running = threads;
    for (uint32_t i = 0; i < PATH_THREADS_MAX; i++)
        run->loads[i] = (struct path_load){.rig = run->rig, .first = i, .step = threads, .vms = active,
                                           .burst = PATH_BURST, .ticks = run->ticks, .running = running,
                                           .hist = &run->hists[i]};
}

static void record_latency(struct run *run, const char *bench, const char *subject, const char *params,
                           const struct bench_hist *hist)
{
    bench_record_latency(run->b, bench, subject, params, hist);
}

static void record_rate(struct run *run, const char *subject, const char *params, const struct path_load *loads,
                        uint32_t threads)
{
    double rate = 0, mean = 0;

    for (uint32_t i = 0; i < threads; i++) {
        rate += 1e3 * PATH_WINDOW_SCALE / bench_hist_quantile_ns(loads[i].hist, 0.5);
        mean += (double)loads[i].count * (double)vgpu_clock.ticks_hz / (double)loads[i].took / 1e6;
    }
    bench_record(run->b, "path.stream", subject, params, "rate", "M/s", rate);
    bench_record(run->b, "path.stream", subject, params, "mean", "M/s", mean);
}

/* ---- the floors, from the suite `rings`: the same lines, the same cores ---- */
static int measure_floor(struct run *run, bool relay)
{
    const char *bench = relay ? "path.hops" : "path.rtt";
    char params[PATH_PARAMS_BYTES];

    bench_mem_reset(run->b->mem);
    memset(run->bed, 0, sizeof(*run->bed));
    memset(run->hists, 0, sizeof(*run->hists));
    *run->bed = (struct ring_bed){.mem = run->b->mem, .ticks = run->ticks, .hist = run->hists};
    ring_floor.setup(run->bed);
    bench_thread_fn *const fn[] = {relay ? ring_floor.hop_guest : ring_floor.rtt_client,
                                   relay ? ring_floor.hop_poll : ring_floor.rtt_server, ring_floor.hop_exec};
    void *const arg[] = {run->bed, run->bed, run->bed};
    int err = bench_team_run(run->b, run->b->cores, relay ? 3 : 2, fn, arg);
    if (!err)
        record_latency(run, bench, "floor", path_params(params, 0, 0, 1), run->hists);
    return err;
}

/* ---- the path ---- */

/* Guests on cores 0 and what the host leaves; the poll core on core 1, the executor on core 2. */
static int path_team(struct run *run, bool in_process, uint32_t threads, bench_thread_fn *guest)
{
    bench_thread_fn *fn[PATH_THREADS_MAX + 2] = {guest, rig_poll_main};
    void *arg[PATH_THREADS_MAX + 2] = {&run->loads[0], run->rig};
    int n = 2;

    if (!in_process) {
        fn[n] = rig_exec_main;
        arg[n++] = run->rig;
    }
    for (uint32_t i = 1; i < threads; i++) {
        fn[n] = guest;
        arg[n++] = &run->loads[i];
    }
    return bench_team_run(run->b, run->b->cores, n, fn, arg);
}

static int measure_rtt(struct run *run, bool in_process, uint32_t attached)
{
    const char *bench = in_process ? "path.rtt" : "path.hops", *subject = subject_of(in_process);
    char params[PATH_PARAMS_BYTES];
    uint32_t running;

    loads_reset(run, &running, 1, 1);
    rig_publish(run->rig, attached, in_process);
    int err = path_team(run, in_process, 1, path_rtt_main);
    if (!err && sound(run, bench, subject, run->loads[0].errors, run->loads[0].count))
        record_latency(run, bench, subject, path_params(params, attached, 1, 1), run->loads[0].hist);
    return err;
}

/* Latency under a load that does not wait for answers. */
static int measure_open(struct run *run, bool in_process, double rate, uint32_t vms)
{
    const char *subject = subject_of(in_process);
    char params[PATH_PARAMS_BYTES];
    uint32_t running;

    loads_reset(run, &running, 1, vms);
    run->loads[0].rate = rate;
    rig_publish(run->rig, vms, in_process);
    int err = path_team(run, in_process, 1, path_open_main);
    const struct path_load *load = &run->loads[0];
    if (err || !sound(run, "path.open", subject, load->errors, load->count))
        return err;
    record_latency(run, "path.open", subject, path_open_params(params, rate, vms), load->hist);
    bench_record(run->b, "path.open", subject, params, "reached", "M/s",
                 (double)load->count * (double)vgpu_clock.ticks_hz / (double)load->took / 1e6);
    return 0;
}

static uint32_t guest_threads(const struct bench *b, bool in_process, uint32_t active)
{
    uint32_t cores = (uint32_t)b->n_cores - (in_process ? 1 : 2);

    if (cores > PATH_THREADS_MAX)
        cores = PATH_THREADS_MAX;
    return cores < active ? cores : active;
}

static int measure_stream(struct run *run, bool in_process, const struct path_mix *mix, uint32_t burst)
{
    uint32_t threads = guest_threads(run->b, in_process, mix->active);
    const char *subject = subject_of(in_process);
    char params[PATH_PARAMS_BYTES];
    uint64_t errors = 0, count = 0;
    uint32_t running;

    loads_reset(run, &running, threads, mix->active);
    for (uint32_t i = 0; i < threads; i++)
        run->loads[i].burst = burst;
    rig_publish(run->rig, mix->attached, in_process);
    int err = path_team(run, in_process, threads, path_stream_main);
    for (uint32_t i = 0; i < threads; i++) {
        errors += run->loads[i].errors;
        count += run->loads[i].count;
    }
    if (!err && sound(run, "path.stream", subject, errors, count))
        record_rate(run, subject, path_params(params, mix->attached, mix->active, burst), run->loads, threads);
    return err;
}

static int measure_bare(struct run *run, bool completions, uint32_t burst)
{
    const char *subject = completions ? "ring+answer" : "ring";
    char params[PATH_PARAMS_BYTES];
    uint32_t running;

    loads_reset(run, &running, 2, 1);
    run->loads[0].burst = burst;
    struct path_bare bare = {.guest = &run->loads[0], .host = &run->loads[1], .completions = completions};
    path_bare_init(&bare);
    bench_thread_fn *const fn[] = {path_bare_guest_main, path_bare_host_main};
    void *const arg[] = {&bare, &bare};
    int err = bench_team_run(run->b, run->b->cores, 2, fn, arg);
    struct path_load *load = completions ? bare.guest : bare.host;
    if (!err && sound(run, "path.stream", subject, load->errors, load->count))
        record_rate(run, subject, path_params(params, 0, 0, burst), load, 1);
    return err;
}

/* ---- an idle host ---- */
struct idle_arg {
    struct rig *rig;
    uint64_t took;
};

static void idle_main(void *arg)
{
    struct idle_arg *a = arg;

    a->took = rig_idle_rounds(a->rig, IDLE_ROUNDS);
}

/* round: what one round costs with so many idle VMs attached. vm: what they add to that of none, per VM. */
static int measure_idle(struct run *run)
{
    struct idle_arg who = {.rig = run->idle_rig};
    bench_thread_fn *const fn[] = {idle_main};
    void *const arg[] = {&who};
    char params[PATH_PARAMS_BYTES];
    double none_ns = 0;

    for (uint32_t k = 0; k <= PATH_IDLE_COUNTS; k++) {
        uint32_t vms = k ? path_idle_counts[k - 1] : 0;
        rig_publish(run->idle_rig, vms, true);
        int err = bench_team_run(run->b, run->b->cores, 1, fn, arg);
        if (err)
            return err;
        double ns = (double)who.took * 1e9 / (double)vgpu_clock.ticks_hz / IDLE_ROUNDS;
        path_params(params, vms, 0, 0);
        bench_record(run->b, "path.idle", "rtc", params, "round", "ns", ns);
        if (k == 0)
            none_ns = ns;
        else
            bench_record(run->b, "path.idle", "rtc", params, "vm", "ns", (ns - none_ns) / vms);
    }
    return 0;
}

/* ---- vgpud ---- */
static int measure_daemon(struct run *run, bool in_process, bool stream)
{
    const char *subject = in_process ? "vgpud" : "vgpud-split";
    char params[PATH_PARAMS_BYTES];
    uint32_t running;

    if (!run->daemon[!in_process])
        return 0;
    loads_reset(run, &running, 1, 1);
    if (path_daemon_measure(run->daemon[!in_process], run->b, stream, &run->loads[0]))
        return 0; /* said aloud; the rest of the suite does not depend on it */
    if (!sound(run, stream ? "path.stream" : "path.rtt", subject, run->loads[0].errors, run->loads[0].count))
        return 0;
    path_params(params, 1, 1, stream ? PATH_BURST : 1);
    if (stream)
        record_rate(run, subject, params, &run->loads[0], 1);
    else
        record_latency(run, in_process ? "path.rtt" : "path.hops", subject, params, run->loads[0].hist);
    return 0;
}

/* ---- cells: what is measured in one round, one after the other ---- */
enum cell_kind { CELL_FLOOR, CELL_RTT, CELL_BARE, CELL_STREAM, CELL_OPEN, CELL_DAEMON };
struct cell {
    enum cell_kind kind;
    bool in_process; /* CELL_FLOOR: two lines, not three. CELL_BARE: no completions */
    bool stream;     /* CELL_DAEMON */
    struct path_mix mix;
    double rate; /* CELL_OPEN; CELL_BARE, CELL_STREAM: burst */
};
#define CELLS_MAX 512
struct cells {
    struct cell cell[CELLS_MAX];
    int n;
};

static void cell_add(struct cells *c, const struct bench *b, const char *measurement, const char *subject,
                     struct cell cell)
{
    bool floor = cell.kind == CELL_FLOOR || cell.kind == CELL_BARE; /* what the others are held against stays in */
    bool open = cell.kind == CELL_OPEN;

    if (b->load && open != !strcmp(b->load, "open"))
        return;
    if ((floor ? !b->filter || strstr(b->filter, measurement) || b->filter[0] == '/'
               : bench_wanted(b, measurement, subject)) &&
        c->n < CELLS_MAX)
        c->cell[c->n++] = cell;
}

static void streams_add(struct cells *c, const struct bench *b, bool in_process)
{
    struct path_mix mixes[PATH_MIXES_MAX];
    uint32_t n = path_mixes(mixes);

    for (uint32_t k = 0; k < path_plan.n_bursts; k++) {
        double burst = path_plan.bursts[k];
        if (in_process) {
            cell_add(c, b, "stream", "ring", (struct cell){CELL_BARE, true, true, {0, 0}, burst});
            cell_add(c, b, "stream", "ring+answer", (struct cell){CELL_BARE, false, true, {0, 0}, burst});
        }
        for (uint32_t i = 0; i < n; i++)
            cell_add(c, b, "stream", subject_of(in_process), (struct cell){CELL_STREAM, in_process, true, mixes[i], burst});
    }
}

static void cells_fill(struct cells *c, const struct bench *b, bool in_process)
{
    const char *latency = in_process ? "rtt" : "hops", *subject = subject_of(in_process);
    const char *daemon = in_process ? "vgpud" : "vgpud-split";

    cell_add(c, b, latency, "floor", (struct cell){CELL_FLOOR, in_process, false, {0, 0}, 0});
    if (!path_plan.n_vms) {
        cell_add(c, b, latency, subject, (struct cell){CELL_RTT, in_process, false, {1, 1}, 0});
        cell_add(c, b, latency, subject, (struct cell){CELL_RTT, in_process, false, {PATH_VMS_MAX, 1}, 0});
    }
    for (uint32_t i = 0; i < path_plan.n_vms; i++)
        cell_add(c, b, latency, subject, (struct cell){CELL_RTT, in_process, false, {path_plan.vms[i], 1}, 0});
    cell_add(c, b, latency, daemon, (struct cell){CELL_DAEMON, in_process, false, {1, 1}, 0});
    streams_add(c, b, in_process);
    for (uint32_t i = 0; i < path_plan.n_rates; i++)
        for (uint32_t k = 0; k == 0 || k < path_plan.n_vms; k++)
            cell_add(c, b, "open", subject, (struct cell){CELL_OPEN, in_process, false,
                                                          {path_plan.n_vms ? path_plan.vms[k] : 1, 0}, path_plan.rates[i]});
    cell_add(c, b, "stream", daemon, (struct cell){CELL_DAEMON, in_process, true, {1, 1}, 0});
}

static int run_cell(struct run *run, const struct cell *c)
{
    switch (c->kind) {
    case CELL_FLOOR:
        return measure_floor(run, !c->in_process);
    case CELL_RTT:
        return measure_rtt(run, c->in_process, c->mix.attached);
    case CELL_BARE:
        return measure_bare(run, !c->in_process, (uint32_t)c->rate);
    case CELL_STREAM:
        return measure_stream(run, c->in_process, &c->mix, (uint32_t)c->rate);
    case CELL_OPEN:
        return measure_open(run, c->in_process, c->rate, c->mix.attached);
    case CELL_DAEMON:
        return measure_daemon(run, c->in_process, c->stream);
    }
    return -EINVAL;
}

/* ---- the suite ---- */
static int run_open(struct run *run)
{
    struct rig_params params = {.vms = vms_most(), .ring_slots = path_plan.slots, .in_flight = path_plan.slots, .window = 256,
                                .burst = PATH_BURST, .budget = 64, .handles = 1024, .backend = "null"};
    struct rig_params idle = {.vms = IDLE_VMS_MAX, .ring_slots = IDLE_SLOTS, .in_flight = IDLE_SLOTS, .window = 256,
                              .burst = PATH_BURST, .budget = 64, .handles = 1, .backend = "null"};
    struct vgpu_err err;

    run->loads = aligned_alloc(128, PATH_THREADS_MAX * sizeof(*run->loads));
    run->hists = malloc(PATH_THREADS_MAX * sizeof(*run->hists));
    run->bed = aligned_alloc(128, sizeof(*run->bed));
    if (!run->loads || !run->hists || !run->bed)
        return -ENOMEM;
    int rc = rig_open(&params, &run->rig, &err);
    if (rc == 0)
        rc = rig_open(&idle, &run->idle_rig, &err);
    if (rc)
        fprintf(run->b->text, "path: %s\n", err.text);
    return rc;
}

static void run_close(struct run *run)
{
    for (int i = 0; i < 2; i++)
        path_daemon_stop(run->daemon[i]);
    rig_close(run->rig);
    rig_close(run->idle_rig);
    free(run->loads);
    free(run->hists);
    free(run->bed);
}

static void say_limits(const struct bench *b)
{
    if (b->n_cores < 2)
        fprintf(b->text, "SKIPPED: all but idle rounds: they need 2 cores, there is %d\n", b->n_cores);
    else if (b->n_cores < 3)
        fprintf(b->text, "SKIPPED: split (the executor on a core of its own), three hops: they need 3 cores, there are "
                         "2\n");
}

/* The daemons that some cell asks for. They sleep while others are measured. */
static void daemons_start(struct run *run, const struct cells *cells)
{
    struct bench *b = run->b;
    bool tried[2] = {false, false};

    for (int i = 0; i < cells->n; i++) {
        int split = !cells->cell[i].in_process;
        if (cells->cell[i].kind != CELL_DAEMON || tried[split])
            continue;
        tried[split] = true;
        run->daemon[split] = path_daemon_start(b, b->cores[1], split ? b->cores[2] : -1);
    }
}

static int run_rounds(struct run *run, const struct cells *cells)
{
    struct bench *b = run->b;
    bool idle = bench_wanted(b, "idle", "rtc") && !b->load && !b->vms.n;
    int err = 0;

    bench_rounds(b)
    {
        for (int i = 0; i < cells->n && !err; i++)
            err = run_cell(run, &cells->cell[bench_turn(b, i, cells->n)]);
        if (idle && !err)
            err = measure_idle(run);
        if (err)
            break;
    }
    return err;
}

static int plan_make(const struct bench *b)
{
    static const double rates[] = {0.1, 1, 4, 8, 16};
    struct path_plan *p = &path_plan;
    uint32_t most = PATH_BURST;

    *p = (struct path_plan){.slots = b->ring_slots ? b->ring_slots : PATH_SLOTS, .bursts = {PATH_BURST}, .n_bursts = 1,
                            .n_vms = b->vms.n, .n_rates = b->rate.n ? b->rate.n : sizeof(rates) / sizeof(rates[0])};
    for (uint32_t i = 0; i < b->vms.n; i++)
        p->vms[i] = (uint32_t)b->vms.value[i];
    for (uint32_t i = 0; i < b->burst.n; i++)
        p->bursts[i] = most = (uint32_t)b->burst.value[i];
    p->n_bursts = b->burst.n ? b->burst.n : 1;
    for (uint32_t i = 0; i < p->n_rates; i++)
        p->rates[i] = b->rate.n ? b->rate.value[i] / 1e6 : rates[i];
    if (p->slots >= most)
        return 0;
    fprintf(stderr, "vgpu-bench: path: a burst of %u does not fit into a ring of %u slots: --burst, --ring-slots\n", most,
            p->slots);
    return -EINVAL;
}

int bench_path_run(struct bench *b)
{
    static struct cells cells;
    struct run run = {.b = b};
    int err = plan_make(b);

    if (!err)
        err = run_open(&run);
    if (err)
        goto out;
    say_limits(b);
    if (b->n_cores >= 2)
        cells_fill(&cells, b, true);
    if (b->n_cores >= 3)
        cells_fill(&cells, b, false);
    daemons_start(&run, &cells);
    double slice_s = bench_slice_s(b, DEFAULT_SECONDS, cells.n, SLICE_MAX_S);
    run.ticks = (uint64_t)(slice_s * (double)vgpu_clock.ticks_hz);
    fprintf(b->text, "path: %d rounds, %.1f ms a measurement, %u slots, backend null; guest on core %d, poll core %d\n\n",
            (int)b->reps, slice_s * 1e3, path_plan.slots, b->n_cores ? b->cores[0] : -1, b->n_cores > 1 ? b->cores[1] : -1);
    err = run_rounds(&run, &cells);
    if (err)
        fprintf(b->text, "path: stopped: %s\n", strerror(-err));
    else
        path_report(b);
    if (run.errors)
        err = -EBADMSG;
out:
    run_close(&run);
    return err;
}

void bench_path_list(FILE *to)
{
    fprintf(to,
            "  measurements: rtt, hops (from 3 cores on), stream, open, idle\n"
            "  floor              two cache lines back and forth, three in the relay\n"
            "  ring               a bare ring whose consumer validates; ring+answer: and sends completions back\n"
            "  rtc                run to completion: poll core and executor in one loop\n"
            "  split              poll core and executor on a core each (from 3 cores on)\n"
            "  vgpud, vgpud-split the daemon as a process, and libvgpu: what users get\n");
}
