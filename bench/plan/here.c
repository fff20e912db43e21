/* SPDX-License-Identifier: Apache-2.0 */
#define URCU_INLINE_SMALL_FUNCTIONS
#include <urcu-qsbr.h>

#include "bench/plan/here.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define QUIET_RUNS 15
#define QUIET_TRIES 60
#define QUIET_S 0.01
#define WORK_ONE_CORE 3u /* what a round counts for a NOP: taken, started, harvested */
#define WORK_EXECUTOR 2u
#define MANY 16u /* descriptors: from so many on a round says what one costs */

static void *hists(size_t n, size_t each)
{
    void *p = aligned_alloc(128, (n * each + 127) / 128 * 128);

    if (p)
        memset(p, 0, n * each);
    return p;
}

int here_open(struct here *h, struct bench *b)
{
    struct rig_params params = {.vms = HERE_VMS_MAX, .ring_slots = HERE_SLOTS, .in_flight = HERE_SLOTS, .window = 256,
                                .burst = PATH_BURST, .budget = 64, .handles = 4, .backend = "null"};
    struct vgpu_err err;

    memset(h, 0, sizeof(*h));
    h->b = b;
    h->hist = hists(1, sizeof(*h->hist));
    h->own = hists(HERE_GUESTS_MAX, sizeof(*h->own));
    h->poll = hists(1, sizeof(*h->poll));
    h->exec = hists(1, sizeof(*h->exec));
    bool room = h->hist && h->own && h->poll && h->exec;
    int rc = room ? rig_open(&params, &h->rig, &err) : -ENOMEM;
    if (rc)
        fprintf(b->text, "plan: %s\n", room ? err.text : "no memory");
    return rc;
}

void here_close(struct here *h)
{
    rig_close(h->rig);
    free(h->hist);
    free(h->own);
    free(h->poll);
    free(h->exec);
}

uint32_t here_guests(const struct bench *b, uint32_t vms, bool split)
{
    int cores = b->n_cores - (split ? 2 : 1);
    uint32_t n = cores < 1 ? 1 : (uint32_t)cores;

    n = n < HERE_GUESTS_MAX ? n : HERE_GUESTS_MAX;
    return n < vms ? n : vms;
}

static void round_add(struct here_rounds *r, uint64_t ticks, uint32_t work, uint32_t of_one)
{
    if (work == 0)
        bench_hist_add(&r->none, ticks);
    else if (work == of_one)
        bench_hist_add(&r->one, ticks);
    else if (work >= MANY * of_one)
        bench_hist_add(&r->each, ticks * PATH_WINDOW_SCALE * of_one / work);
}

static void timed_poll_main(void *arg)
{
    struct here *h = arg;
    uint32_t of_one = h->rig->table.feeds[0]->in_process ? WORK_ONE_CORE : 1;

    rcu_register_thread();
    uint64_t last = vgpu_ticks();
    while (vgpu_load_acquire(&h->rig->stop) == 0) {
        uint32_t work = vgpu_poller_step(h->rig->poller);
        uint64_t now = vgpu_ticks();
        round_add(h->poll, now - last, work, of_one);
        last = now;
    }
    rcu_unregister_thread();
}

static void timed_exec_main(void *arg)
{
    struct here *h = arg;
    uint64_t last = vgpu_ticks();

    while (vgpu_load_acquire(&h->rig->stop) == 0) {
        uint32_t work = vgpu_exec_step(h->rig->exec);
        uint64_t now = vgpu_ticks();
        round_add(h->exec, now - last, work, WORK_EXECUTOR);
        last = now;
    }
}

/* Guests on core 0 and on what is left, the poll core on core 1, the executor on core 2. */
int here_run(struct here *h, const struct here_run *r)
{
    bench_thread_fn *fn[HERE_GUESTS_MAX + 2] = {r->guest, h->timed ? timed_poll_main : rig_poll_main};
    void *arg[HERE_GUESTS_MAX + 2] = {&h->loads[0], h->timed ? (void *)h : (void *)h->rig};
    uint32_t guests = r->guests ? r->guests : here_guests(h->b, r->vms, r->split), running = guests;
    uint64_t errors = 0, count = 0, stuck = 0;
    int n = 2;

    if (r->split) {
        fn[n] = h->timed ? timed_exec_main : rig_exec_main;
        arg[n++] = arg[1];
    }
    memset(h->hist, 0, sizeof(*h->hist));
    memset(h->own, 0, guests * sizeof(*h->own));
    memset(h->poll, 0, sizeof(*h->poll));
    memset(h->exec, 0, sizeof(*h->exec));
    for (uint32_t i = 0; i < guests; i++) {
        uint32_t mine = (r->vms - i + guests - 1) / guests;
        h->loads[i] = (struct path_load){.rig = h->rig, .first = i, .step = guests, .vms = r->vms, .burst = PATH_BURST,
                                         .running = &running, .hist = &h->own[i], .cost = guests == 1 ? h->cost : NULL,
                                         .ticks = (uint64_t)(r->seconds * (double)vgpu_clock.ticks_hz),
                                         .rate = r->rate / 1e6 * mine / r->vms};
        if (i) {
            fn[n] = r->guest;
            arg[n++] = &h->loads[i];
        }
    }
    rig_publish(h->rig, r->vms, !r->split);
    int rc = bench_team_run(h->b, h->b->cores, n, fn, arg);
    for (uint32_t i = 0; i < guests; i++) {
        bench_hist_merge(h->hist, &h->own[i]);
        errors += h->loads[i].errors;
        stuck += h->loads[i].stuck;
        count += h->loads[i].count;
    }
    if (!rc && errors && errors == stuck) {
        fprintf(h->b->text, "plan: nothing came back for 5 s, %u VMs sending: this machine is too busy to be measured, if it was "
                            "not lost\n", r->vms);
        return -EBUSY;
    }
    if (!rc && errors) {
        fprintf(h->b->text, "plan: %llu of %llu completions were missing or wrong, %u VMs sending\n",
                (unsigned long long)errors, (unsigned long long)count, r->vms);
        rc = -EBADMSG;
    }
    return rc;
}

/*
 * Runs in which no thread was switched out; where there are none, all that there were. What other work does to a run is no
 * property of the poll core, and an open loop carries it on to its end. The median of their percentiles.
 */
int here_quiet(struct here *h, const struct here_run *r, double *p50, double *p99)
{
    double all[2][QUIET_TRIES], quiet[2][QUIET_TRIES];
    struct here_run one = *r;
    int rc = 0, n_all = 0, n_quiet = 0;

    one.seconds = QUIET_S;
    for (int i = 0; i < QUIET_TRIES && n_quiet < QUIET_RUNS && !rc; i++) {
        uint64_t switches = h->b->noise.switches;
        rc = here_run(h, &one);
        if (h->hist->count == 0)
            continue;
        all[0][n_all] = bench_hist_quantile_ns(h->hist, 0.5);
        all[1][n_all] = bench_hist_quantile_ns(h->hist, 0.99);
        for (int q = 0; q < 2 && h->b->noise.switches == switches; q++)
            quiet[q][n_quiet] = all[q][n_all];
        n_quiet += h->b->noise.switches == switches;
        n_all++;
    }
    *p50 = n_quiet ? bench_median_of(quiet[0], n_quiet) : n_all ? bench_median_of(all[0], n_all) : (double)NAN;
    *p99 = n_quiet ? bench_median_of(quiet[1], n_quiet) : n_all ? bench_median_of(all[1], n_all) : (double)NAN;
    return rc;
}
