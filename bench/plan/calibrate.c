/* SPDX-License-Identifier: Apache-2.0 */
/* The constants of this machine. */
#define URCU_INLINE_SMALL_FUNCTIONS
#include <urcu-qsbr.h>

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#include "bench/plan/here.h"
#include "bench/plan/plan.h"

#define IDLE_VMS_MAX 1000u
#define IDLE_ROUNDS 2000u
#define IDLE_TRIES 50 /* the fastest counts: one that nobody interrupted */
#define WINDOWS 400u
#define VISITS_RATE 1e6 /* descriptors a second: few enough to come one by one */
#define VISITS_S 0.1
#define FEW_RATE 1e5 /* descriptors a second that hardly ever meet */
#define MANY_S 0.1
#define ROUNDS_MIN 100u
#define LONGEST 16.0 /* times as long, until there are so many rounds */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* ---- Work of the poll core in one thread: what a visit costs, and how a descriptor's part is shared ---- */
struct alone {
    struct here *h;
    uint32_t burst;
    bool split;
    double poll_ns, exec_ns, guest_ns; /* of a burst, the fastest tenth's: an interrupted one measures others */
    bool wrong;
};

static void alone_main(void *arg)
{
    struct alone *a = arg;
    struct rig *rig = a->h->rig;
    struct rig_guest *g = &rig->guests[0];
    struct vgpu_slot pool[PATH_BURST], out[PATH_BURST];
    double poll[WINDOWS], exec[WINDOWS], guest[WINDOWS];

    memset(pool, 0, sizeof(pool));
    rcu_register_thread();
    for (uint32_t w = 0; w < WINDOWS; w++) {
        uint64_t begun = vgpu_ticks();
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
        g->done += vgpu_cons_pop(&g->cq, out, PATH_BURST);
        guest[w] = (double)(from - begun + vgpu_ticks() - done);
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
    qsort(guest, WINDOWS, sizeof(*guest), by_value);
    a->guest_ns = guest[WINDOWS / 10] * 1e9 / (double)vgpu_clock.ticks_hz;
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

/* ---- An idle poll core ---- */
struct idle_arg {
    struct rig *rig;
    double ns;
};

static void idle_main(void *arg)
{
    struct idle_arg *a = arg;
    double best = HUGE_VAL;

    for (int i = 0; i < IDLE_TRIES; i++) {
        double ns = (double)rig_idle_rounds(a->rig, IDLE_ROUNDS) * 1e9 / (double)vgpu_clock.ticks_hz / IDLE_ROUNDS;
        best = ns < best ? ns : best;
    }
    a->ns = best;
}

static int idle_calibrate(struct bench *b, struct plan_constants *out)
{
    static const double counts[] = {64, 256, IDLE_VMS_MAX};
    struct rig_params params = {.vms = IDLE_VMS_MAX, .ring_slots = 8, .in_flight = 8, .window = 256, .burst = PATH_BURST,
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

/* ---- Medians over rounds ---- */
#define VALUES 4
struct what {
    uint32_t vms;
    bool split;
};
typedef int measure_fn(struct here *h, const struct what *w, double v[VALUES]);

/* Each value's median; one that was NAN in all rounds is. -EBUSY, said aloud: the first one is. */
static int medians(struct here *h, measure_fn *measure, const struct what *w, double out[VALUES])
{
    double v[VALUES][BENCH_REPS_MAX], one[VALUES];
    int rc = 0, n[VALUES] = {0};

    for (uint32_t r = 0; r < h->b->reps && !rc; r++) {
        for (int k = 0; k < VALUES; k++)
            one[k] = 0;
        rc = measure(h, w, one);
        for (int k = 0; k < VALUES; k++)
            if (!isnan(one[k]))
                v[k][n[k]++] = one[k];
    }
    for (int k = 0; k < VALUES; k++)
        out[k] = n[k] ? bench_median_of(v[k], n[k]) : (double)NAN;
    if (!rc && isnan(out[0])) {
        fprintf(h->b->text, "plan: this machine is too busy to be measured\n");
        rc = -EBUSY;
    }
    return rc;
}

static int one_in_flight(struct here *h, const struct what *w, double v[VALUES])
{
    struct here_run r = {.guest = path_rtt_main, .vms = 1, .split = w->split};

    return here_quiet(h, &r, &v[0], &v[1]);
}

/* An open loop of few: a closed one has one reading of all that a stop of some microseconds would have kept waiting. */
static int few_on_a_schedule(struct here *h, const struct what *w, double v[VALUES])
{
    struct here_run r = {.guest = path_open_main, .vms = 1, .rate = FEW_RATE, .split = w->split};

    return here_quiet(h, &r, &v[0], &v[1]);
}

static double median(const struct bench_hist *hist)
{
    return hist->count < ROUNDS_MIN ? (double)NAN : bench_hist_quantile_ns(hist, 0.5);
}

/* What a round of poll core, and of the executor, takes longer that has one descriptor; and the turns of a guest. */
static int visits(struct here *h, const struct what *w, double v[VALUES])
{
    struct here_run r = {.guest = path_open_main, .vms = w->vms, .split = w->split, .rate = VISITS_RATE, .seconds = VISITS_S};

    h->timed = true;
    int rc = here_run(h, &r);
    h->timed = false;
    v[0] = median(&h->poll->one) - median(&h->poll->none);
    v[1] = w->split ? median(&h->exec->one) - median(&h->exec->none) : 0;
    return rc;
}

static int guest_turns(struct here *h, const struct what *w, double v[VALUES])
{
    struct here_run r = {.guest = path_open_main, .vms = w->vms, .guests = 1, .rate = VISITS_RATE, .seconds = VISITS_S};

    h->cost = calloc(1, sizeof(*h->cost));
    int rc = h->cost ? here_run(h, &r) : -ENOMEM;
    double idle = h->cost ? median(&h->cost->idle) : (double)NAN;
    v[0] = h->cost ? median(&h->cost->send) - idle / 2 : (double)NAN;
    v[1] = h->cost ? median(&h->cost->take) - idle / 2 : (double)NAN;
    v[2] = idle;
    free(h->cost);
    h->cost = NULL;
    return rc;
}

/* A descriptor where many come at a time: rounds of the poll core, and of the executor. */
static int many(struct here *h, const struct what *w, double v[VALUES])
{
    struct here_run r = {.guest = path_stream_main, .vms = w->vms, .split = w->split, .seconds = MANY_S};
    int rc = 0;

    h->timed = true;
    do
        rc = here_run(h, &r);
    while (!rc && h->poll->each.count < ROUNDS_MIN && (r.seconds *= 2) <= LONGEST * MANY_S);
    h->timed = false;
    v[0] = median(&h->poll->each) / PATH_WINDOW_SCALE;
    v[1] = median(&h->exec->each) / PATH_WINDOW_SCALE;
    return rc;
}

static int one_thread(struct here *h, const struct what *w, double v[VALUES])
{
    struct alone one, bursts, parts;
    int rc = alone_run(h, 1, false, &one);

    (void)w;
    rc = rc ? rc : alone_run(h, PATH_BURST, false, &bursts);
    rc = rc ? rc : alone_run(h, PATH_BURST, true, &parts);
    v[0] = parts.poll_ns / (parts.poll_ns + parts.exec_ns);
    v[1] = bursts.guest_ns > one.guest_ns ? (bursts.guest_ns - one.guest_ns) / (PATH_BURST - 1) : 0;
    return rc;
}

/* ---- All of them ---- */
static const uint32_t counts[] = {1, 8, 30, 64};
#define COUNTS (sizeof(counts) / sizeof(counts[0]))

static double above_0(double v)
{
    return v > 0 ? v : 0;
}

static void point(struct plan_curve *c, double vms, double ns)
{
    c->vms[c->n] = vms;
    c->ns[c->n] = isnan(ns) && c->n > 0 ? c->ns[c->n - 1] : above_0(ns);
    c->n++;
}

/* A visit and a descriptor, for each number of VMs. */
static int work_calibrate(struct here *h, struct plan_constants *out)
{
    double v[VALUES], more[VALUES] = {0};
    int rc = 0;

    for (size_t i = 0; i < COUNTS && !rc; i++) {
        const struct what w = {.vms = counts[i]};
        rc = medians(h, visits, &w, v);
        rc = rc ? rc : medians(h, many, &w, more);
        /* A visit of many is shared by them: more = descriptor + visit / burst, v = descriptor + visit. */
        double each = (more[0] - v[0] / PATH_BURST) / (1 - 1.0 / PATH_BURST);
        each = each > 1 ? each : 1;
        point(&out->descriptor, counts[i], each);
        point(&out->visit, counts[i], v[0] - each);
        if (rc || h->b->n_cores < 3)
            continue;
        const struct what split = {.vms = counts[i], .split = true};
        rc = medians(h, visits, &split, v);
        point(&out->split_visit, counts[i], v[0] - each * out->poll_share);
        point(&out->executor_visit, counts[i], v[1] - each * (1 - out->poll_share));
    }
    return rc;
}

/* p50 of one in flight, and beside it a p99 so much later that the model's is right for few descriptors on a schedule. */
static int alone_calibrate(struct here *h, struct plan_constants *out, bool split)
{
    const struct what w = {.vms = 1, .split = split};
    double *p50 = split ? &out->split_p50 : &out->one_core_p50, *p99 = split ? &out->split_p99 : &out->one_core_p99, v[VALUES];
    struct plan_load few = {.vms = 1, .active = 1, .rate = FEW_RATE, .executor_rate = FEW_RATE, .burst = 1,
                            .in_flight = HERE_SLOTS, .split = split, .guest_round = out->guest_round};
    struct plan_answer model;
    int rc = medians(h, one_in_flight, &w, v);

    if (rc)
        return rc;
    *p50 = *p99 = v[0];
    rc = medians(h, few_on_a_schedule, &w, v);
    plan_model(out, &few, &model);
    *p99 += above_0(v[1] - model.p99_ns);
    return rc;
}

int plan_calibrate(struct bench *b, struct plan_constants *out)
{
    static struct here h;
    const struct what one = {.vms = 1};
    struct utsname os;
    double v[VALUES] = {0};

    memset(out, 0, sizeof(*out));
    uname(&os);
    snprintf(out->name, sizeof(out->name), "here");
    snprintf(out->what, sizeof(out->what), "%s, %d cores used, Linux %.40s", os.nodename, b->n_cores, os.release);
    int rc = here_open(&h, b);
    rc = rc ? rc : idle_calibrate(b, out);
    rc = rc ? rc : medians(&h, one_thread, &one, v);
    out->poll_share = rc ? 0 : v[0] < 0.05 ? 0.05 : v[0] > 0.95 ? 0.95 : v[0];
    out->guest_more = rc ? 0 : v[1];
    rc = rc ? rc : medians(&h, guest_turns, &one, v);
    out->guest_send = rc ? 0 : above_0(v[0]);
    out->guest_take = rc || isnan(v[1]) ? 0 : above_0(v[1]);
    out->guest_round = rc || isnan(v[2]) ? 0 : v[2];
    rc = rc ? rc : work_calibrate(&h, out);
    rc = rc ? rc : alone_calibrate(&h, out, false);
    if (!rc && b->n_cores > 2)
        rc = alone_calibrate(&h, out, true);
    here_close(&h);
    return rc;
}
