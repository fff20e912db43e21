/* SPDX-License-Identifier: Apache-2.0 */
/* The constants of this machine, and real runs beside what model and simulation say of them. */
#define URCU_INLINE_SMALL_FUNCTIONS
#include <urcu-qsbr.h>

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#include "bench/path/path.h"
#include "bench/plan/plan.h"

#define SLOTS 1024u
#define VMS_MAX 1000u
#define IDLE_ROUNDS 20000u
#define WINDOWS 400u
#define MEASURE_S 0.15
#define QUIET_RUNS 15
#define QUIET_S 0.01
#define WINDOWS_MIN 10u
#define LONGEST 16.0 /* times as long, until there are so many windows */
#define SIMULATED 100000u

struct here {
    struct bench *b;
    struct rig *rig;
    struct path_load *load;
    struct bench_hist *hist;
};

static int here_open(struct here *h, struct bench *b, uint32_t vms)
{
    struct rig_params params = {.vms = vms, .ring_slots = SLOTS, .in_flight = SLOTS, .window = 256, .burst = PATH_BURST,
                                .budget = 64, .handles = 4, .backend = "null"};
    struct vgpu_err err;

    *h = (struct here){.b = b, .load = aligned_alloc(128, sizeof(*h->load)), .hist = malloc(sizeof(*h->hist))};
    int rc = h->load && h->hist ? rig_open(&params, &h->rig, &err) : -ENOMEM;
    if (rc)
        fprintf(b->text, "plan: %s\n", h->load && h->hist ? err.text : "no memory");
    return rc;
}

static void here_close(struct here *h)
{
    rig_close(h->rig);
    free(h->load);
    free(h->hist);
}

/* One guest thread on core 0, poll core on core 1, and with split the executor on core 2. */
static int here_run(struct here *h, bench_thread_fn *guest, uint32_t attached, uint32_t active, double rate, bool split,
                    double longer)
{
    bench_thread_fn *const fn[] = {guest, rig_poll_main, rig_exec_main};
    void *const arg[] = {h->load, h->rig, h->rig};
    uint32_t running = 1;

    memset(h->hist, 0, sizeof(*h->hist));
    *h->load = (struct path_load){.rig = h->rig, .step = 1, .vms = active, .burst = PATH_BURST, .running = &running,
                                  .ticks = (uint64_t)(longer * MEASURE_S * (double)vgpu_clock.ticks_hz), .hist = h->hist,
                                  .rate = rate / 1e6};
    rig_publish(h->rig, attached, !split);
    int rc = bench_team_run(h->b, h->b->cores, split ? 3 : 2, fn, arg);
    if (!rc && h->load->errors) {
        fprintf(h->b->text, "plan: %llu of %llu completions were missing or wrong, %u VMs sending\n",
                (unsigned long long)h->load->errors, (unsigned long long)h->load->count, active);
        rc = -EBADMSG;
    }
    return rc;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/*
 * p50 and p99 of a latency, as they are while nobody else is on the cores: of so many short runs those of the second quietest
 * (by p99). What other work does to a run is no property of the poll core, and an open loop carries it on to its end.
 */
static int quiet_run(struct here *h, bench_thread_fn *guest, uint32_t vms, double rate, bool split, double *p50, double *p99)
{
    struct {
        double p99, p50;
    } runs[QUIET_RUNS];
    int rc = 0, n = 0;

    for (int i = 0; i < QUIET_RUNS && !rc; i++) {
        rc = here_run(h, guest, vms, vms, rate, split, QUIET_S / MEASURE_S);
        if (h->hist->count == 0)
            continue;
        runs[n].p50 = bench_hist_quantile_ns(h->hist, 0.5);
        runs[n++].p99 = bench_hist_quantile_ns(h->hist, 0.99);
    }
    qsort(runs, (size_t)n, sizeof(runs[0]), by_value); /* p99 comes first */
    *p50 = n ? runs[n > 1].p50 : (double)NAN;
    *p99 = n ? runs[n > 1].p99 : (double)NAN;
    return rc;
}

/* ---- Work of the poll core in one thread: what a visit costs, and how a descriptor's part is shared ---- */
struct alone {
    struct here *h;
    uint32_t burst;
    bool split;
    double poll_ns, exec_ns; /* of a burst, the fastest tenth's: an interrupted one measures others */
    bool wrong;
};

static void alone_main(void *arg)
{
    struct alone *a = arg;
    struct rig *rig = a->h->rig;
    struct rig_guest *g = &rig->guests[0];
    struct vgpu_slot pool[PATH_BURST], out[PATH_BURST];
    double poll[WINDOWS], exec[WINDOWS];

    memset(pool, 0, sizeof(pool));
    rcu_register_thread();
    for (uint32_t w = 0; w < WINDOWS; w++) {
        for (uint32_t i = 0; i < a->burst; i++)
            pool[i].w[0] = (uint64_t)VGPU_OP_NOP | (uint64_t)(uint32_t)(g->sent + i) << 32;
        a->wrong |= vgpu_prod_push(&g->sq, pool, a->burst) != (int)a->burst;
        g->sent += a->burst;
        uint64_t from = vgpu_ticks();
        vgpu_poller_step(rig->poller);
        uint64_t polled = vgpu_ticks();
        while (a->split && vgpu_exec_step(rig->exec))
            ;
        uint64_t done = vgpu_ticks();
        poll[w] = (double)(polled - from);
        exec[w] = (double)(done - polled);
        for (int tries = 0; g->done < g->sent && tries < 1000; tries++) {
            g->done += vgpu_cons_pop(&g->cq, out, PATH_BURST);
            vgpu_poller_step(rig->poller);
            if (a->split)
                vgpu_exec_step(rig->exec);
        }
        a->wrong |= g->done != g->sent;
    }
    rcu_unregister_thread();
    qsort(poll, WINDOWS, sizeof(*poll), by_value);
    qsort(exec, WINDOWS, sizeof(*exec), by_value);
    a->poll_ns = poll[WINDOWS / 10] * 1e9 / (double)vgpu_clock.ticks_hz;
    a->exec_ns = exec[WINDOWS / 10] * 1e9 / (double)vgpu_clock.ticks_hz;
}

static int alone_run(struct here *h, uint32_t burst, bool split, struct alone *a)
{
    bench_thread_fn *const fn[] = {alone_main};
    void *const arg[] = {a};

    *a = (struct alone){.h = h, .burst = burst, .split = split};
    rig_publish(h->rig, 1, !split);
    int rc = bench_team_run(h->b, h->b->cores, 1, fn, arg);
    return rc ? rc : a->wrong ? -EBADMSG : 0;
}

/* ---- Calibration ---- */
struct idle_arg {
    struct rig *rig;
    double ns;
};

static void idle_main(void *arg)
{
    struct idle_arg *a = arg;
    double best = HUGE_VAL;

    for (int i = 0; i < 5; i++) {
        double ns = (double)rig_idle_rounds(a->rig, IDLE_ROUNDS) * 1e9 / (double)vgpu_clock.ticks_hz / IDLE_ROUNDS;
        best = ns < best ? ns : best;
    }
    a->ns = best;
}

static int idle_calibrate(struct bench *b, struct plan_constants *out)
{
    static const double counts[] = {64, 256, VMS_MAX};
    struct rig_params params = {.vms = VMS_MAX, .ring_slots = 8, .in_flight = 8, .window = 256, .burst = PATH_BURST,
                                .budget = 64, .handles = 1, .backend = "null"};
    struct idle_arg a = {.rig = NULL};
    bench_thread_fn *const fn[] = {idle_main};
    void *const arg[] = {&a};
    struct vgpu_err err;

    int rc = rig_open(&params, &a.rig, &err);
    if (rc) {
        fprintf(b->text, "plan: %s\n", err.text);
        return rc;
    }
    rig_publish(a.rig, 0, true);
    rc = bench_team_run(b, b->cores, 1, fn, arg);
    out->round = a.ns;
    rig_publish(a.rig, PLAN_HOT_ALWAYS, true);
    rc = rc ? rc : bench_team_run(b, b->cores, 1, fn, arg);
    out->hot = a.ns > out->round ? (a.ns - out->round) / PLAN_HOT_ALWAYS : 0;
    for (int i = 0; i < 3 && !rc; i++) {
        rig_publish(a.rig, (uint32_t)counts[i], true);
        rc = bench_team_run(b, b->cores, 1, fn, arg);
        out->cold.vms[i] = counts[i];
        out->cold.ns[i] = a.ns > out->round ? a.ns - out->round : 0;
        out->cold.n = i + 1;
    }
    rig_close(a.rig);
    return rc;
}

/* Median over rounds of what `measure` says. */
static int medians(struct here *h, int (*measure)(struct here *h, double v[4], const void *arg), const void *arg, double out[4])
{
    double v[4][BENCH_REPS_MAX], one[4];
    int rc = 0;

    for (uint32_t r = 0; r < h->b->reps && !rc; r++) {
        rc = measure(h, one, arg);
        for (int k = 0; k < 4; k++)
            v[k][r] = one[k];
    }
    for (int k = 0; k < 4; k++)
        out[k] = bench_median_of(v[k], (int)h->b->reps);
    if (!rc && isnan(out[0])) {
        fprintf(h->b->text, "plan: this machine is too busy to be measured\n");
        rc = -EBUSY;
    }
    return rc;
}

static int one_in_flight(struct here *h, double v[4], const void *split)
{
    v[2] = v[3] = 0;
    return quiet_run(h, path_rtt_main, 1, 0, *(const bool *)split, &v[0], &v[1]);
}

static int saturated(struct here *h, double v[4], const void *vms)
{
    uint32_t n = *(const uint32_t *)vms;
    int rc = 0;
    double longer = 1;

    do
        rc = here_run(h, path_stream_main, n, n, 0, false, longer);
    while (!rc && h->hist->count < WINDOWS_MIN && (longer *= 2) <= LONGEST);

    v[0] = bench_hist_quantile_ns(h->hist, 0.1) / PATH_WINDOW_SCALE; /* a descriptor in a window that nobody interrupted */
    v[1] = v[2] = v[3] = 0;
    return rc;
}

static int one_thread(struct here *h, double v[4], const void *unused)
{
    struct alone one, many, parts;
    int rc = alone_run(h, 1, false, &one);

    rc = rc ? rc : alone_run(h, PATH_BURST, false, &many);
    rc = rc ? rc : alone_run(h, PATH_BURST, true, &parts);
    double each = (many.poll_ns - one.poll_ns) / (PATH_BURST - 1);
    v[0] = each;
    v[1] = one.poll_ns - each;
    v[2] = parts.poll_ns / (parts.poll_ns + parts.exec_ns);
    v[3] = 0;
    return rc;
}

int plan_calibrate(struct bench *b, struct plan_constants *out)
{
    static const uint32_t counts[] = {1, 8, 30, 64};
    const bool one_core = false, split = true;
    struct here h;
    struct utsname os;
    double v[4] = {0};

    memset(out, 0, sizeof(*out));
    uname(&os);
    snprintf(out->name, sizeof(out->name), "here");
    snprintf(out->what, sizeof(out->what), "%s, %d cores used, Linux %.40s", os.nodename, b->n_cores, os.release);
    int rc = here_open(&h, b, counts[3]);
    rc = rc ? rc : idle_calibrate(b, out);
    rc = rc ? rc : medians(&h, one_thread, NULL, v);
    out->visit = v[1] > out->round ? v[1] - out->round : 0;
    out->poll_share = rc ? 0 : v[2] < 0.05 ? 0.05 : v[2] > 0.95 ? 0.95 : v[2];
    for (int i = 0; i < 4 && !rc; i++) {
        rc = medians(&h, saturated, &counts[i], v);
        out->descriptor.vms[i] = counts[i];
        out->descriptor.ns[i] = v[0] - out->visit / PATH_BURST > 1 ? v[0] - out->visit / PATH_BURST : v[0];
        out->descriptor.n = i + 1;
    }
    rc = rc ? rc : medians(&h, one_in_flight, &one_core, v);
    out->one_core_p50 = v[0];
    out->one_core_p99 = v[1];
    if (!rc && b->n_cores > 2) {
        rc = medians(&h, one_in_flight, &split, v);
        out->split_p50 = v[0];
        out->split_p99 = v[1];
    }
    here_close(&h);
    return rc;
}

/* ---- Real runs ---- */
static const struct {
    uint32_t vms;
    double rate; /* descriptors a second, of all */
} loads[] = {{1, 1e5}, {1, 2e6}, {1, 6e6}, {8, 1e6}, {8, 4e6}, {30, 3e5}, {30, 1.5e6}, {30, 4e6}, {64, 1e6}, {64, 4e6}};
#define LOADS (sizeof(loads) / sizeof(loads[0]))

static void predictions(struct bench *b, const struct plan_constants *c, const struct plan_load *l, const char *params)
{
    struct plan_answer model, simulated;

    plan_model(c, l, &model);
    if (plan_simulate(c, l, SIMULATED, (uint64_t)b->round + 1, &model, &simulated))
        return;
    bench_record(b, "plan.check", "model", params, "p50", "ns", model.p50_ns);
    bench_record(b, "plan.check", "model", params, "p99", "ns", model.p99_ns);
    bench_record(b, "plan.check", "model", params, "utilisation", "", model.utilisation);
    bench_record(b, "plan.check", "simulation", params, "p50", "ns", simulated.p50_ns);
    bench_record(b, "plan.check", "simulation", params, "p99", "ns", simulated.p99_ns);
}

static double figure(const struct bench *b, const char *subject, const char *params, const char *metric)
{
    return bench_median(bench_find(b, "plan.check", subject, params, metric));
}

static void check_report(const struct bench *b)
{
    struct bench_table t;
    char params[64];
    double p50[LOADS], p99[LOADS];

    bench_table_init(&t, 11);
    bench_table_names(&t, (const char *const[]){"VMs", "M/s", "utilisation", "p50 ns run", "model", "simulated", "p99 ns run",
                                                "model", "simulated", "p50 model/run", "p99 model/run", NULL});
    for (size_t i = 0; i < LOADS; i++) {
        snprintf(params, sizeof(params), "{\"vms\":%u,\"rate\":%g}", loads[i].vms, loads[i].rate);
        p50[i] = figure(b, "model", params, "p50") / figure(b, "run", params, "p50");
        p99[i] = figure(b, "model", params, "p99") / figure(b, "run", params, "p99");
        bench_table_add(&t, "%u", loads[i].vms);
        bench_table_num(&t, loads[i].rate / 1e6, 2);
        bench_table_num(&t, figure(b, "model", params, "utilisation"), 2);
        for (int q = 0; q < 2; q++) {
            const char *metric = q ? "p99" : "p50";
            bench_table_num(&t, figure(b, "run", params, metric), 0);
            bench_table_num(&t, figure(b, "model", params, metric), 0);
            bench_table_num(&t, figure(b, "simulation", params, metric), 0);
        }
        bench_table_num(&t, p50[i], 2);
        bench_table_num(&t, p99[i], 2);
    }
    bench_table_print(&t, b->text);
    for (size_t i = 0; i < LOADS; i++) {
        p50[i] = fabs(log(p50[i]));
        p99[i] = fabs(log(p99[i]));
    }
    fprintf(b->text, "  off by, in the middle of the loads: p50 %.0f %%, p99 %.0f %%\n",
            100 * (exp(bench_median_of(p50, LOADS)) - 1), 100 * (exp(bench_median_of(p99, LOADS)) - 1));
}

int plan_runs(struct bench *b, const struct plan_constants *c)
{
    struct here h;
    char params[64];
    int rc = here_open(&h, b, 64);

    bench_rounds(b)
    {
        for (size_t i = 0; i < LOADS && !rc; i++) {
            struct plan_load l = {.vms = loads[i].vms, .active = loads[i].vms, .rate = loads[i].rate, .burst = 1,
                                  .in_flight = SLOTS, .executor_rate = loads[i].rate};
            snprintf(params, sizeof(params), "{\"vms\":%u,\"rate\":%g}", loads[i].vms, loads[i].rate);
            double p50, p99;
            rc = quiet_run(&h, path_open_main, loads[i].vms, loads[i].rate, false, &p50, &p99);
            if (rc)
                break;
            bench_record(b, "plan.check", "run", params, "p50", "ns", p50);
            bench_record(b, "plan.check", "run", params, "p99", "ns", p99);
            if (b->round >= 0)
                predictions(b, c, &l, params);
        }
        if (rc)
            break;
    }
    if (!rc)
        check_report(b);
    here_close(&h);
    return rc;
}
