/* SPDX-License-Identifier: Apache-2.0 */
/* The suite `rings`: which measurements there are, and running them round by round. */
#include "bench/rings/rings.h"
#include "bench/rings/report.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define UNSTEADY_NS 30000.0
#define DEFAULT_SECONDS 36.0
#define IDLE_MS         3.0

uint32_t ring_slots = RING_SLOTS, ring_bursts[RING_BURSTS_MAX] = {1, 8, 32}, ring_burst_count = 3;
const uint32_t ring_idle_counts[RING_IDLE_COUNTS] = {1, 8, 64, 256, 1000};
const uint32_t fan_bursts[FAN_BURSTS] = {1, 8};

struct run {
    struct bench *b;
    struct ring_bed *bed;
    struct bench_hist *hist;
    uint64_t ticks; /* of one measurement */
    uint64_t errors;
    uint32_t dropped; /* measurements in which a thread was off its core most of the time */
};

static void bed_reset(struct run *run, uint32_t slots, uint32_t burst)
{
    bench_mem_reset(run->b->mem);
    memset(run->bed, 0, sizeof(*run->bed));
    memset(run->hist, 0, sizeof(*run->hist));
    run->bed->mem = run->b->mem;
    run->bed->slots = slots;
    run->bed->burst = burst;
    run->bed->ticks = run->ticks;
    run->bed->hist = run->hist;
}

/* A ring that loses, repeats or changes an element has no speed: said aloud, counted, and the time is not recorded. */
static bool sound(struct run *run, const char *bench, const char *subject)
{
    if (run->bed->errors == 0)
        return true;
    run->errors += run->bed->errors;
    fprintf(run->b->text, "WRONG DATA: %s/%s: %llu of %llu elements\n", bench, subject,
            (unsigned long long)run->bed->errors, (unsigned long long)run->bed->count);
    return false;
}

/* So long a median is that of a thread which was not running: dropped, and said at the end. */
static bool steady(struct run *run)
{
    bool ran = bench_hist_quantile_ns(run->hist, 0.5) < UNSTEADY_NS;

    run->dropped += !ran;
    return ran;
}

static int record_latency(struct run *run, const char *bench, const struct ring_subject *s, const char *params)
{
    if (!sound(run, bench, s->name) || !steady(run))
        return 0;
    bench_record_latency(run->b, bench, s->name, params, run->hist);
    return 0;
}

static int measure_rtt(struct run *run, const struct ring_subject *s)
{
    char params[RING_PARAMS_BYTES];

    if (!s->rtt_client || !bench_wanted(run->b, "rtt", s->name))
        return 0;
    bed_reset(run, ring_slots, 1);
    s->setup(run->bed);
    bench_thread_fn *const fn[] = {s->rtt_client, s->rtt_server};
    void *const arg[] = {run->bed, run->bed};
    int err = bench_team_run(run->b, run->b->cores, 2, fn, arg);
    return err ? err : record_latency(run, "rings.rtt", s, ring_params(params));
}

static int measure_hops(struct run *run, const struct ring_subject *s)
{
    char params[RING_PARAMS_BYTES];

    if (!s->hop_guest || run->b->n_cores < 3 || !bench_wanted(run->b, "hops", s->name))
        return 0;
    bed_reset(run, ring_slots, 1);
    s->setup(run->bed);
    bench_thread_fn *const fn[] = {s->hop_guest, s->hop_poll, s->hop_exec};
    void *const arg[] = {run->bed, run->bed, run->bed};
    int err = bench_team_run(run->b, run->b->cores, 3, fn, arg);
    return err ? err : record_latency(run, "rings.hops", s, ring_params(params));
}

/* rate: of the median window. mean: of the whole run, with all interruptions. */
static void record_rate(struct run *run, const char *bench, const char *subject, const char *params)
{
    if (!sound(run, bench, subject) || !steady(run))
        return;
    double ns = bench_hist_quantile_ns(run->hist, 0.5) / RING_WINDOW_SCALE;
    double took_s = (double)run->bed->took / (double)vgpu_clock.ticks_hz;
    bench_record(run->b, bench, subject, params, "rate", "M/s", 1e3 / ns);
    bench_record(run->b, bench, subject, params, "mean", "M/s", (double)run->bed->count / took_s / 1e6);
}

static int measure_stream(struct run *run, const struct ring_subject *s, uint32_t burst)
{
    char params[RING_PARAMS_BYTES];

    if (!s->stream_producer || !bench_wanted(run->b, "stream", s->name))
        return 0;
    bed_reset(run, ring_slots, burst);
    s->setup(run->bed);
    bench_thread_fn *const fn[] = {s->stream_producer, s->stream_consumer};
    void *const arg[] = {run->bed, run->bed};
    int err = bench_team_run(run->b, run->b->cores, 2, fn, arg);
    if (!err)
        record_rate(run, "rings.stream", s->name, ring_burst_params(params, burst));
    return err;
}

static int measure_fan(struct run *run, const struct fan_subject *s, uint32_t producers, uint32_t burst)
{
    bench_thread_fn *fn[RING_FAN_MAX + 1];
    void *arg[RING_FAN_MAX + 1];
    struct fan_arg who[RING_FAN_MAX];
    char params[RING_PARAMS_BYTES];
    uint32_t cores = (uint32_t)run->b->n_cores - 1;

    if (!bench_wanted(run->b, "fanin", s->name))
        return 0;
    bed_reset(run, ring_slots, burst);
    run->bed->producers = producers;
    run->bed->threads = producers < cores ? producers : cores;
    s->setup(run->bed);
    fn[0] = s->consumer;
    arg[0] = run->bed;
    for (uint32_t i = 0; i < run->bed->threads; i++) {
        who[i] = (struct fan_arg){.bed = run->bed, .thread = i};
        fn[i + 1] = s->producer;
        arg[i + 1] = &who[i];
    }
    int err = bench_team_run(run->b, run->b->cores, (int)run->bed->threads + 1, fn, arg);
    if (!err)
        record_rate(run, "rings.fanin", s->name, fan_params(params, producers, run->bed->threads, burst));
    return err;
}

struct idle_arg {
    struct ring_bed *bed;
    const struct ring_subject *subject;
    uint32_t rings;
};

static void idle_thread(void *arg)
{
    struct idle_arg *a = arg;

    a->subject->idle(a->bed, a->rings);
}

static int measure_idle(struct run *run, const struct ring_subject *s, uint32_t rings)
{
    struct idle_arg who = {run->bed, s, rings};
    char params[RING_PARAMS_BYTES];

    if (!s->idle || !bench_wanted(run->b, "idle", s->name))
        return 0;
    bed_reset(run, RING_IDLE_SLOTS, 8);
    run->bed->ticks = (uint64_t)(IDLE_MS * 1e-3 * (double)vgpu_clock.ticks_hz);
    s->setup_idle(run->bed, rings);
    bench_thread_fn *const fn[] = {idle_thread};
    void *const arg[] = {&who};
    int err = bench_team_run(run->b, run->b->cores, 1, fn, arg);
    if (!err && sound(run, "rings.idle", s->name) && steady(run))
        bench_record(run->b, "rings.idle", s->name, idle_params(params, rings), "poll", "ns",
                     bench_hist_quantile_ns(run->hist, 0.5) / RING_WINDOW_SCALE);
    return err;
}

static int count_subjects(void)
{
    int n = 0;

    while (ring_subjects[n])
        n++;
    return n;
}

/* Each subject in turn, starting with another one each round: none always runs after the same neighbour. */
static const struct ring_subject *nth(const struct run *run, int i)
{
    return ring_subjects[bench_turn(run->b, i, count_subjects())];
}

static int run_fans(struct run *run)
{
    int err = 0;

    if (run->b->n_cores < 2)
        return 0;
    for (uint32_t k = 0; k < FAN_BURSTS; k++)
        for (uint32_t producers = 2; producers <= ring_fan_producers(run->b); producers++)
            for (int i = 0; fan_subjects[i] && !err; i++)
                err = measure_fan(run, fan_subjects[i], producers, fan_bursts[k]);
    return err;
}

static int run_round(struct run *run)
{
    int n = count_subjects(), err = 0;

    if (run->b->n_cores >= 2) {
        for (int i = 0; i < n && !err; i++)
            err = measure_rtt(run, nth(run, i));
        for (int i = 0; i < n && !err; i++)
            err = measure_hops(run, nth(run, i));
        for (uint32_t k = 0; k < ring_burst_count; k++)
            for (int i = 0; i < n && !err; i++)
                err = measure_stream(run, nth(run, i), ring_bursts[k]);
    }
    for (uint32_t k = 0; k < RING_IDLE_COUNTS; k++)
        for (int i = 0; i < n && !err; i++)
            err = measure_idle(run, nth(run, i), ring_idle_counts[k]);
    return err ? err : run_fans(run);
}

/* Timed measurements in a round, to share out the time. */
static int count_cells(const struct bench *b)
{
    int cells = 0;

    for (int i = 0; ring_subjects[i]; i++) {
        const struct ring_subject *s = ring_subjects[i];
        cells += s->rtt_client && bench_wanted(b, "rtt", s->name);
        cells += s->hop_guest && b->n_cores >= 3 && bench_wanted(b, "hops", s->name);
        cells += s->stream_producer && bench_wanted(b, "stream", s->name) ? (int)ring_burst_count : 0;
    }
    for (int i = 0; fan_subjects[i]; i++)
        if (bench_wanted(b, "fanin", fan_subjects[i]->name))
            cells += (int)(FAN_BURSTS * (ring_fan_producers(b) - 1));
    return cells;
}

static void say_limits(const struct bench *b)
{
    for (int i = 0; ring_missing[i]; i++)
        fprintf(b->text, "not built in: %s: every comparison with it is missing below\n", ring_missing[i]);
    if (b->n_cores < 2)
        fprintf(b->text, "skipped: all but idle polls: they need 2 cores, there is %d\n", b->n_cores);
    if (b->n_cores == 2)
        fprintf(b->text, "skipped: three hops: they need 3 cores, there are 2\n"
                         "fan-in: 2 producers take turns on the one core left: they never meet, so it is not judged\n");
}

int bench_rings_run(struct bench *b)
{
    struct run run = {.b = b};
    struct vgpu_slot pool[RING_POOL];
    int err = 0;

    ring_slots = b->ring_slots ? b->ring_slots : RING_SLOTS;
    for (uint32_t k = 0; k < b->burst.n; k++)
        ring_bursts[k] = (uint32_t)b->burst.value[k];
    ring_burst_count = b->burst.n ? b->burst.n : ring_burst_count;
    ring_pool_fill(pool);
    run.bed = aligned_alloc(128, sizeof(*run.bed));
    run.hist = malloc(sizeof(*run.hist));
    if (!run.bed || !run.hist) {
        err = -ENOMEM;
        goto out;
    }
    say_limits(b);
    int cells = count_cells(b);
    double slice_s = bench_slice_s(b, DEFAULT_SECONDS, cells, 0.2);
    run.ticks = (uint64_t)(slice_s * (double)vgpu_clock.ticks_hz);
    fprintf(b->text, "rings: %d rounds, %.1f ms a measurement, 64-byte elements, %u slots, cores %d and %d\n\n",
            (int)b->reps, slice_s * 1e3, ring_slots, b->cores[0], b->n_cores > 1 ? b->cores[1] : b->cores[0]);
    bench_rounds(b)
        if ((err = run_round(&run)) != 0)
            break;
    if (err)
        fprintf(b->text, "rings: stopped: %s\n", strerror(-err));
    else
        ring_report(b);
    if (run.dropped)
        fprintf(b->text,
                "dropped: %u measurements of single rounds, in which a thread was off its core most of the time\n",
                run.dropped);
    if (run.errors)
        err = -EBADMSG;
out:
    free(run.bed);
    free(run.hist);
    return err;
}

void bench_rings_list(FILE *to)
{
    fprintf(to, "  measurements: rtt, stream, hops, fanin, idle\n");
    for (int i = 0; ring_subjects[i]; i++)
        fprintf(to, "  %-18s %s\n", ring_subjects[i]->name, ring_subjects[i]->what);
    for (int i = 0; fan_subjects[i]; i++)
        fprintf(to, "  %-18s %s\n", fan_subjects[i]->name, fan_subjects[i]->what);
    for (int i = 0; ring_missing[i]; i++)
        fprintf(to, "  not built in: %s\n", ring_missing[i]);
}
