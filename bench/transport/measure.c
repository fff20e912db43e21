/* SPDX-License-Identifier: Apache-2.0 */
/* The suite `transport`: all ways between two cores in one run, each in turn. */
#include "bench/transport/transport.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench/path/path.h"

#define DEFAULT_SECONDS 30.0
#define SLICE_MAX_S 0.2
#define UNSTEADY_NS 30000.0

struct run {
    struct bench *b;
    struct ring_bed *bed;
    struct bench_hist *hist;
    struct path_daemon *daemon;
    struct path_load *load;
    char *buffer[2];
    uint64_t ticks, errors;
    uint32_t slots, bursts[BENCH_LIST_MAX], n_bursts, payloads[BENCH_LIST_MAX], n_payloads;
    bool dead[16]; /* channels that this machine does not have */
    uint32_t dropped;
};

static void bed_reset(struct run *run, uint32_t burst)
{
    bench_mem_reset(run->b->mem);
    memset(run->bed, 0, sizeof(*run->bed));
    memset(run->hist, 0, sizeof(*run->hist));
    *run->bed = (struct ring_bed){.mem = run->b->mem, .slots = run->slots, .burst = burst, .ticks = run->ticks,
                                  .hist = run->hist};
}

static bool sound(struct run *run, const char *bench, const char *subject, uint64_t errors, uint64_t count)
{
    if (errors == 0 && count)
        return true;
    run->errors += errors ? errors : 1;
    fprintf(run->b->text, "WRONG DATA: %s/%s: %llu of %llu elements\n", bench, subject, (unsigned long long)errors,
            (unsigned long long)count);
    return false;
}

/* Of what is polled so long a median is that of a thread which was not running: dropped, and said at the end. */
static bool steady(struct run *run)
{
    bool ran = bench_hist_quantile_ns(run->hist, 0.5) < UNSTEADY_NS;

    run->dropped += !ran;
    return ran;
}

static void rate_record(struct run *run, const char *subject, const char *params, uint64_t count, uint64_t took)
{
    double ns = bench_hist_quantile_ns(run->hist, 0.5) / RING_WINDOW_SCALE;

    if (ns > 0)
        bench_record(run->b, "transport.stream", subject, params, "rate", "M/s", 1e3 / ns);
    if (took)
        bench_record(run->b, "transport.stream", subject, params, "mean", "M/s",
                     (double)count * (double)vgpu_clock.ticks_hz / (double)took / 1e6);
}

/* ---- Rings that are polled: the loops of the suite rings ---- */
static int measure_ring(struct run *run, const struct ring_subject *s, uint32_t burst)
{
    const char *bench = burst ? "stream" : "rtt";
    char params[TRANSPORT_PARAMS_BYTES];

    if (!s->rtt_client || !s->stream_producer || !bench_wanted(run->b, bench, s->name))
        return 0;
    bed_reset(run, burst ? burst : 1);
    s->setup(run->bed);
    bench_thread_fn *const fn[] = {burst ? s->stream_producer : s->rtt_client, burst ? s->stream_consumer : s->rtt_server};
    void *const arg[] = {run->bed, run->bed};
    int err = bench_team_run(run->b, run->b->cores, 2, fn, arg);
    if (err || !sound(run, bench, s->name, run->bed->errors, run->bed->count) || !steady(run))
        return err;
    transport_params(params, run->slots, 0, burst);
    if (burst)
        rate_record(run, s->name, params, run->bed->count, run->bed->took);
    else
        bench_record_latency(run->b, "transport.rtt", s->name, params, run->hist);
    return 0;
}

/* ---- Channels ---- */
static int channel_team(struct run *run, struct transport_load *l, bool stream)
{
    bench_thread_fn *const fn[] = {stream ? transport_producer : transport_rtt_client,
                                   stream ? transport_consumer : transport_rtt_server};
    void *const arg[] = {l, l};

    return bench_team_run(run->b, run->b->cores, 2, fn, arg);
}

/* burst 0: a round trip, with a payload or without. */
static int measure_channel(struct run *run, int index, uint32_t payload, uint32_t burst)
{
    const struct channel_ops *ops = transport_channels[index];
    const char *bench = burst ? "stream" : payload ? "payload" : "rtt";
    struct channel c = {.ops = ops, .bed = run->bed, .fd = {-1, -1}, .event = {-1, -1}};
    struct transport_load l = {.channel = &c, .burst = burst, .payload = payload, .ticks = run->ticks, .hist = run->hist,
                               .buffer = {run->buffer[0], run->buffer[1]}};
    char params[TRANSPORT_PARAMS_BYTES];

    if (run->dead[index] || !bench_wanted(run->b, bench, ops->name))
        return 0;
    bed_reset(run, burst);
    c.shared = bench_mem_take(run->b->mem, TRANSPORT_PAYLOAD_MAX);
    int rc = ops->open(&c);
    if (rc) {
        run->dead[index] = true;
        fprintf(run->b->text, "SKIPPED: transport: %s cannot be had here: %s\n", ops->name, strerror(-rc));
    } else {
        rc = channel_team(run, &l, burst != 0);
    }
    if (ops->close)
        ops->close(&c);
    if (run->dead[index])
        return 0;
    if (rc)
        return rc;
    if (l.rc == -EMSGSIZE) { /* a bound of the kernel's, not a fault: net.core.wmem_max */
        fprintf(run->b->text, "note: %s has no messages of %u bytes here\n", ops->name, payload);
        return 0;
    }
    if (l.rc) {
        fprintf(run->b->text, "FAILED: transport: %s/%s: %s\n", bench, ops->name, strerror(-l.rc));
        run->errors++;
        return 0;
    }
    if (!sound(run, bench, ops->name, l.errors, l.count) || (ops == &channel_vgpu && payload <= 4096 && !steady(run)))
        return 0;
    transport_params(params, run->slots, payload, burst);
    if (burst)
        rate_record(run, ops->name, params, l.count, l.took);
    else
        bench_record_latency(run->b, payload ? "transport.payload" : "transport.rtt", ops->name, params, run->hist);
    return 0;
}

/* ---- The whole of it: libvgpu, the local transport, vgpud with backend null in its poll core's loop, and back ---- */
static int measure_daemon(struct run *run)
{
    char params[TRANSPORT_PARAMS_BYTES];

    if (!run->daemon)
        return 0;
    memset(run->hist, 0, sizeof(*run->hist));
    *run->load = (struct path_load){.ticks = run->ticks, .hist = run->hist};
    if (path_daemon_measure(run->daemon, run->b, false, run->load))
        return 0; /* said aloud */
    if (sound(run, "rtt", "vgpud", run->load->errors, run->load->count))
        bench_record_latency(run->b, "transport.rtt", "vgpud", transport_params(params, run->slots, 0, 0), run->hist);
    return 0;
}

static int rings_count(void)
{
    int n = 0;

    while (ring_subjects[n])
        n++;
    return n;
}

static int channels_count(void)
{
    int n = 0;

    while (transport_channels[n])
        n++;
    return n;
}

/* Cell i of one measurement: the rings, the channels, the daemon. */
static int cell(struct run *run, int i, uint32_t payload, uint32_t burst)
{
    int rings = rings_count(), channels = channels_count();

    if (i < rings)
        return payload ? 0 : measure_ring(run, ring_subjects[i], burst);
    if (i < rings + channels)
        return measure_channel(run, i - rings, payload, burst);
    return payload || burst ? 0 : measure_daemon(run);
}

static int run_round(struct run *run)
{
    int n = rings_count() + channels_count() + 1, err = 0;

    for (int i = 0; i < n && !err; i++)
        err = cell(run, bench_turn(run->b, i, n), 0, 0);
    for (uint32_t k = 0; k < run->n_bursts && !err; k++)
        for (int i = 0; i < n && !err; i++)
            err = cell(run, bench_turn(run->b, i, n), 0, run->bursts[k]);
    for (uint32_t k = 0; k < run->n_payloads && !err; k++)
        for (int i = 0; i < n && !err; i++)
            err = cell(run, bench_turn(run->b, i, n), run->payloads[k], 0);
    return err;
}

static int options_take(struct run *run)
{
    static const uint32_t payloads[] = {64, 4096, 65536};
    const struct bench *b = run->b;

    run->slots = b->ring_slots ? b->ring_slots : RING_SLOTS;
    run->bursts[0] = 1;
    run->bursts[1] = 32;
    run->n_bursts = b->burst.n ? b->burst.n : 2;
    for (uint32_t i = 0; i < b->burst.n; i++)
        run->bursts[i] = (uint32_t)b->burst.value[i];
    run->n_payloads = b->payload.n ? b->payload.n : sizeof(payloads) / sizeof(payloads[0]);
    for (uint32_t i = 0; i < run->n_payloads; i++)
        run->payloads[i] = b->payload.n ? (uint32_t)b->payload.value[i] : payloads[i];
    if (run->slots < 4 * run->bursts[run->n_bursts - 1]) {
        fprintf(stderr, "vgpu-bench: transport: bursts of %u need rings of %u slots or more: --ring-slots, --burst\n",
                run->bursts[run->n_bursts - 1], 4 * run->bursts[run->n_bursts - 1]);
        return -EINVAL;
    }
    if (run->payloads[0] < 64 || run->payloads[run->n_payloads - 1] > TRANSPORT_PAYLOAD_MAX) {
        fprintf(stderr, "vgpu-bench: transport: a payload has 64 bytes to 1 MiB: --payload\n");
        return -EINVAL;
    }
    return 0;
}

static int run_open(struct run *run)
{
    struct bench *b = run->b;

    run->bed = aligned_alloc(128, sizeof(*run->bed));
    run->hist = malloc(sizeof(*run->hist));
    run->load = aligned_alloc(128, sizeof(*run->load));
    for (int i = 0; i < 2; i++) {
        run->buffer[i] = malloc(TRANSPORT_PAYLOAD_MAX);
        if (run->buffer[i])
            memset(run->buffer[i], i + 1, TRANSPORT_PAYLOAD_MAX);
    }
    if (!run->bed || !run->hist || !run->load || !run->buffer[0] || !run->buffer[1])
        return -ENOMEM;
    for (int i = 0; transport_missing[i]; i++)
        fprintf(b->text, "not built in: %s: every comparison with it is missing below\n", transport_missing[i]);
    for (int i = 0; ring_missing[i]; i++)
        fprintf(b->text, "not built in: %s: every comparison with it is missing below\n", ring_missing[i]);
    if (bench_wanted(b, "rtt", "vgpud"))
        run->daemon = path_daemon_start(b, b->cores[1], -1);
    return 0;
}

int bench_transport_run(struct bench *b)
{
    struct run run = {.b = b};
    struct vgpu_slot pool[RING_POOL];
    int err = options_take(&run);

    if (err)
        return err;
    if (b->n_cores < 2) {
        fprintf(b->text, "SKIPPED: transport: it needs 2 cores, there is %d\n", b->n_cores);
        return BENCH_SKIPPED;
    }
    ring_pool_fill(pool);
    err = run_open(&run);
    if (err)
        goto out;
    int cells = (rings_count() + channels_count()) * (int)(1 + run.n_bursts) + channels_count() * (int)run.n_payloads + 1;
    double slice_s = bench_slice_s(b, DEFAULT_SECONDS, cells, SLICE_MAX_S);
    run.ticks = (uint64_t)(slice_s * (double)vgpu_clock.ticks_hz);
    fprintf(b->text, "transport: %u rounds, %.1f ms a measurement, 64-byte messages, %u slots, cores %d and %d\n\n", b->reps,
            slice_s * 1e3, run.slots, b->cores[0], b->cores[1]);
    bench_rounds(b)
        if ((err = run_round(&run)) != 0)
            break;
    if (err)
        fprintf(b->text, "transport: stopped: %s\n", strerror(-err));
    else
        transport_report(b, run.slots);
    if (run.dropped)
        fprintf(b->text, "dropped: %u measurements of single rounds, in which a thread was off its core most of the time\n",
                run.dropped);
    if (run.errors)
        err = -EBADMSG;
out:
    path_daemon_stop(run.daemon);
    for (int i = 0; i < 2; i++)
        free(run.buffer[i]);
    free(run.bed);
    free(run.hist);
    free(run.load);
    return err;
}

void bench_transport_list(FILE *to)
{
    fprintf(to, "  measurements: rtt, stream, payload (channels only: bytes there, a message back)\n");
    for (int i = 0; transport_channels[i]; i++)
        fprintf(to, "  %-18s %s\n", transport_channels[i]->name, transport_channels[i]->what);
    for (int i = 0; transport_missing[i]; i++)
        fprintf(to, "  not built in: %s\n", transport_missing[i]);
    fprintf(to, "  vgpud              rtt: libvgpu, the local transport, vgpud (backend null, one core) and back\n"
                "  and the subjects of the suite rings\n");
}
