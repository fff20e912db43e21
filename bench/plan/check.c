/* SPDX-License-Identifier: Apache-2.0 */
/* Real runs beside what model and simulation say of them. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench/plan/here.h"
#include "bench/plan/plan.h"

_Static_assert(PLAN_CHECK_VMS == HERE_VMS_MAX, "as many as can run");
#define SIMULATED 100000u
#define ALLOWED 0.7 /* of a core, poll core or guest: what a plan allows unless told otherwise; beyond it nothing is compared */

static const struct row {
    uint32_t vms;
    double rate; /* descriptors a second, of all */
    bool split;
} list[] = {{1, 1e5, false},  {1, 5e5, false},  {1, 1e6, false},  {1, 2e6, false},   {8, 5e5, false},  {8, 1e6, false},
             {8, 2e6, false},  {30, 3e5, false}, {30, 1e6, false}, {30, 1.5e6, false}, {30, 2e6, false}, {64, 3e5, false},
             {64, 1e6, false}, {64, 2e6, false}, {1, 5e5, true},   {8, 1e6, true},    {30, 1.5e6, true}, {64, 2e6, true}};
#define LOADS (sizeof(list) / sizeof(list[0]))
#define PARAMS_BYTES 96

static const char *params_of(const struct bench *b, const struct row *r, char out[PARAMS_BYTES])
{
    snprintf(out, PARAMS_BYTES, "{\"vms\":%u,\"rate\":%g,\"layout\":\"%s\",\"guest_threads\":%u}", r->vms, r->rate,
             r->split ? "split" : "one-core", here_guests(b, r->vms, r->split));
    return out;
}

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

struct agreement {
    double p50[LOADS], p99[LOADS]; /* how many times one is as large as the other */
    int n;
};

static void agreement_add(struct agreement *a, double p50, double p99)
{
    a->p50[a->n] = exp(fabs(log(p50)));
    a->p99[a->n++] = exp(fabs(log(p99)));
}

static double largest(const double *v, int n)
{
    double most = 1;

    for (int i = 0; i < n; i++)
        most = v[i] > most ? v[i] : most;
    return most;
}

static void check_report(const struct bench *b, const struct row *loads, size_t n)
{
    struct bench_table t;
    struct agreement all = {.n = 0};
    char params[PARAMS_BYTES];

    bench_table_init(&t, 12);
    bench_table_names(&t, (const char *const[]){"layout", "VMs", "M/s", "utilisation", "p50 ns run", "model", "simulated",
                                                "p99 ns run", "model", "simulated", "p50 model/run", "p99 model/run", NULL});
    for (size_t i = 0; i < n; i++) {
        params_of(b, &loads[i], params);
        double busy = figure(b, "model", params, "utilisation"), p50 = figure(b, "model", params, "p50"), p99;
        if (isnan(busy))
            continue;
        p50 /= figure(b, "run", params, "p50");
        p99 = figure(b, "model", params, "p99") / figure(b, "run", params, "p99");
        bench_table_add(&t, "%s", loads[i].split ? "split" : "one-core");
        bench_table_add(&t, "%u", loads[i].vms);
        bench_table_num(&t, loads[i].rate / 1e6, 2);
        bench_table_num(&t, busy, 2);
        for (int q = 0; q < 2; q++) {
            const char *metric = q ? "p99" : "p50";
            bench_table_num(&t, figure(b, "run", params, metric), 0);
            bench_table_num(&t, figure(b, "model", params, metric), 0);
            bench_table_num(&t, figure(b, "simulation", params, metric), 0);
        }
        bench_table_num(&t, p50, 2);
        bench_table_num(&t, p99, 2);
        agreement_add(&all, p50, p99);
    }
    bench_table_print(&t, b->text);
    if (all.n)
        fprintf(b->text, "  model and run are apart by a factor of, median and largest of %d loads: "
                "p50 %.2f and %.2f, p99 %.2f and %.2f\n", all.n, bench_median_of(all.p50, all.n), largest(all.p50, all.n),
                bench_median_of(all.p99, all.n), largest(all.p99, all.n));
}

/* One load of the list. */
static int one_load(struct here *h, const struct plan_constants *c, const struct row *row)
{
    struct bench *b = h->b;
    char params[PARAMS_BYTES];
    double p50, p99, guests = here_guests(b, row->vms, row->split);
    struct plan_load l = {.vms = row->vms, .active = row->vms, .rate = row->rate, .burst = 1, .in_flight = HERE_SLOTS,
                          .split = row->split, .executor_rate = row->rate, .guests = guests, .guest_round = c->guest_round};
    struct here_run r = {.guest = path_open_main, .vms = row->vms, .rate = row->rate, .split = row->split};
    struct plan_answer model;

    plan_model(c, &l, &model);
    if (model.utilisation > ALLOWED || model.executor_utilisation > ALLOWED ||
        row->rate / guests * (c->guest_send + c->guest_take) * 1e-9 > ALLOWED)
        return 0;
    int rc = here_quiet(h, &r, &p50, &p99);
    if (rc)
        return rc;
    bench_record(b, "plan.check", "run", params_of(b, row, params), "p50", "ns", p50);
    bench_record(b, "plan.check", "run", params, "p99", "ns", p99);
    if (b->round >= 0)
        predictions(b, c, &l, params);
    return 0;
}

int plan_runs(struct bench *b, const struct plan_constants *c, double vms, double rate, bool split)
{
    static struct here h;
    const struct row one = {.vms = (uint32_t)vms, .rate = vms * rate, .split = split}, *loads = vms > 0 ? &one : list;
    size_t n = vms > 0 ? 1 : LOADS;
    int rc = 0;

    if (vms > 0 && split && (b->n_cores < 3 || c->split_p50 <= 0)) {
        fprintf(stderr, "vgpu-bench: plan: --layout split needs a third core, and constants that were measured with one\n");
        return -ENODEV;
    }
    rc = here_open(&h, b);
    bench_rounds(b)
    {
        for (size_t i = 0; i < n && !rc; i++)
            if (!loads[i].split || (b->n_cores > 2 && c->split_p50 > 0))
                rc = one_load(&h, c, &loads[i]);
        if (rc)
            break;
    }
    if (!rc && b->n_rows == 0) {
        fprintf(b->text, "plan: this load keeps a core busy for more than %g of its time: beyond that runs and model are not "
                         "compared\n", ALLOWED);
        rc = -ERANGE;
    }
    if (!rc)
        check_report(b, loads, n);
    here_close(&h);
    return rc;
}
