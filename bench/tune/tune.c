/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vgpud with one setting changed at a time, each started anew in each round: a round trip while a guest is busy, one each
 * millisecond, and how much of a CPU the host takes then and while nobody asks for anything.
 */
#include "bench/tune/tune.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bench/path/path.h"
#include "guest-lib/vgpu.h"

#define DEFAULT_S 0.25   /* of each of the three parts */
#define PERIOD_NS 1000000
#define SPIN "{spin_us: 1000000, pause_us: 0, sleep: false}"
#define SLEEP "{spin_us: 0, pause_us: 0, sleep: true}"

static const struct setting {
    const char *name, *what;
    bool split, unpinned, huge;
    const char *idle;
} settings[] = {
    {"default", "poll core pinned, executor in its loop, default idle policy", false, false, false, NULL},
    {"spin", "idle policy: always polls", false, false, false, SPIN},
    {"sleep", "idle policy: sleeps as soon as there is nothing", false, false, false, SLEEP},
    {"unpinned", "the poll core where the kernel likes", false, true, false, NULL},
    {"split", "the executor on a core of its own (from 3 cores on)", true, false, false, NULL},
    {"hugepages", "rings and arena in 2 MiB pages (where the host has reserved some)", false, false, true, NULL},
};
#define SETTINGS (sizeof(settings) / sizeof(settings[0]))

struct run {
    struct bench *b;
    struct path_load *load;
    struct bench_hist *hist;
    struct path_daemon *daemon;
    uint64_t ticks, errors;
    double slice_s;
};

/* Seconds of CPU that a process and its children that are alive have had. */
static double cpu_seconds(pid_t pid)
{
    char path[64];
    unsigned long user = 0, system = 0;

    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    FILE *f = fopen(path, "r");
    if (f && fscanf(f, "%*d (%*[^)]) %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system) != 2)
        user = system = 0;
    if (f)
        fclose(f);
    return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

static void nap_until(uint64_t ns)
{
    struct timespec at = {.tv_sec = (time_t)(ns / UINT64_C(1000000000)), .tv_nsec = (long)(ns % UINT64_C(1000000000))};

    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
}

static uint64_t monotonic_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

/* One NOP each millisecond; the guest polls for its completion. From submission, since what wakes the guest is its own. */
static void paced_main(void *arg)
{
    struct run *run = arg;
    struct vgpu *v = path_daemon_guest(run->daemon);
    struct vgpu_request nop = {.opcode = VGPU_OP_NOP};
    struct vgpu_completion out;
    uint64_t due = monotonic_ns(), end = due + (uint64_t)(run->slice_s * 1e9);

    for (; due < end; due += PERIOD_NS) {
        nap_until(due);
        uint64_t from = vgpu_ticks();
        int rc = vgpu_submit(v, &nop, NULL);
        while (rc == 0 && (rc = vgpu_poll(v, &out, 1)) == 0)
            ;
        run->errors += rc != 1 || out.status != VGPU_OK;
        bench_hist_add(run->hist, vgpu_ticks() - from);
    }
}

static void paced_measure(struct run *run, const char *subject)
{
    bench_thread_fn *const fn[] = {paced_main};
    void *const arg[] = {run};
    pid_t pid = path_daemon_pid(run->daemon);

    memset(run->hist, 0, sizeof(*run->hist));
    double before = cpu_seconds(pid);
    uint64_t from = vgpu_now_ns();
    if (bench_team_run(run->b, run->b->cores, 1, fn, arg) || run->errors)
        return;
    double took = (double)(vgpu_now_ns() - from) / 1e9;
    bench_record_latency(run->b, "tune.paced", subject, "{\"period_us\":1000}", run->hist);
    bench_record(run->b, "tune.paced", subject, "{\"period_us\":1000}", "cpu", "%", 100 * (cpu_seconds(pid) - before) / took);
    before = cpu_seconds(pid);
    nap_until(monotonic_ns() + (uint64_t)(run->slice_s * 1e9));
    bench_record(run->b, "tune.idle", subject, "{}", "cpu", "%", 100 * (cpu_seconds(pid) - before) / run->slice_s);
}

static void setting_measure(struct run *run, const struct setting *s)
{
    struct bench *b = run->b;
    struct path_daemon_options o = {.poll_cpu = s->unpinned ? -1 : b->cores[1], .executor_cpu = s->split ? b->cores[2] : -1,
                                    .idle = s->idle, .hugepages = s->huge};

    run->daemon = path_daemon_start_with(b, &o);
    if (!run->daemon) {
        run->errors++;
        return;
    }
    for (int stream = 0; stream < 2; stream++) {
        memset(run->hist, 0, sizeof(*run->hist));
        *run->load = (struct path_load){.ticks = run->ticks, .hist = run->hist};
        if (path_daemon_measure(run->daemon, b, stream, run->load) || run->load->errors) {
            run->errors++;
        } else if (stream) {
            double ns = bench_hist_quantile_ns(run->hist, 0.5);
            bench_record(b, "tune.stream", s->name, "{\"burst\":32}", "rate", "M/s", 1e3 * PATH_WINDOW_SCALE / ns);
        } else {
            bench_record_latency(b, "tune.busy", s->name, "{}", run->hist);
        }
    }
    paced_measure(run, s->name);
    path_daemon_stop(run->daemon);
    run->daemon = NULL;
}

static bool huge_pages_free(void)
{
    FILE *f = fopen("/proc/meminfo", "r");
    char line[128];
    int pages = 0;

    while (f && fgets(line, sizeof(line), f))
        if (sscanf(line, "HugePages_Free: %d", &pages) == 1)
            break;
    if (f)
        fclose(f);
    return pages >= 256; /* rings and arena of the guest, and vgpud's own */
}

static bool possible(const struct bench *b, const struct setting *s, bool huge)
{
    return bench_wanted(b, "tune", s->name) && (!s->split || b->n_cores > 2) && (!s->huge || huge);
}

static void report(struct bench *b)
{
    const struct bench_row *base = bench_find(b, "tune.busy", "default", "{}", "p50");
    const struct bench_row *paced = bench_find(b, "tune.paced", "default", "{\"period_us\":1000}", "p50");
    const struct bench_row *rate = bench_find(b, "tune.stream", "default", "{\"burst\":32}", "rate");
    struct bench_table t;

    bench_table_init(&t, 12);
    bench_table_names(&t, (const char *const[]){"setting", "busy p50 ns", "p99", "x default", "stream M/s", "x default",
                                                "each ms: p50 ns", "95 %", "p99", "x default", "CPU then, %", "CPU idle, %",
                                                NULL});
    int none = t.cells;
    for (size_t i = 0; i < SETTINGS; i++) {
        const char *name = settings[i].name, *period = "{\"period_us\":1000}";
        const struct bench_row *busy = bench_find(b, "tune.busy", name, "{}", "p50");
        const struct bench_row *one = bench_find(b, "tune.paced", name, period, "p50");
        const struct bench_row *stream = bench_find(b, "tune.stream", name, "{\"burst\":32}", "rate");
        if (!busy)
            continue;
        bench_table_add(&t, "%s", name);
        bench_table_num(&t, bench_median(busy), 0);
        bench_table_num(&t, bench_median(bench_find(b, "tune.busy", name, "{}", "p99")), 0);
        bench_table_num(&t, bench_ratio(busy, base), 2);
        bench_table_num(&t, bench_median(stream), 1);
        bench_table_num(&t, bench_ratio(stream, rate), 2);
        bench_table_num(&t, bench_median(one), 0);
        bench_table_interval(&t, one, 0);
        bench_table_num(&t, bench_median(bench_find(b, "tune.paced", name, period, "p99")), 0);
        bench_table_num(&t, bench_ratio(one, paced), 2);
        bench_table_num(&t, bench_median(bench_find(b, "tune.paced", name, period, "cpu")), 0);
        bench_table_num(&t, bench_median(bench_find(b, "tune.idle", name, "{}", "cpu")), 0);
    }
    bench_table_show(&t, none, b->text);
}

int bench_tune_run(struct bench *b)
{
    struct run run = {.b = b};
    bool huge = huge_pages_free();

    if (b->n_cores < 2) {
        fprintf(b->text, "SKIPPED: tune: a guest and a poll core need 2 cores, there is %d\n", b->n_cores);
        return BENCH_SKIPPED;
    }
    if (!b->warm_up_given) /* each daemon is new; its first part warms it up */
        b->warm_up = 0;
    if (!huge && bench_wanted(b, "tune", "hugepages"))
        fprintf(b->text, "SKIPPED: tune/hugepages: fewer than 256 hugepages are free (vgpu-ctl precheck says how)\n");
    if (b->n_cores < 3 && bench_wanted(b, "tune", "split"))
        fprintf(b->text, "SKIPPED: tune/split: it needs 3 cores, there are %d\n", b->n_cores);
    run.hist = malloc(sizeof(*run.hist));
    run.load = aligned_alloc(128, sizeof(*run.load));
    if (run.hist && run.load) {
        run.slice_s = b->duration > 0 ? b->duration : DEFAULT_S;
        run.ticks = (uint64_t)(run.slice_s * (double)vgpu_clock.ticks_hz);
        fprintf(b->text, "tune: %u rounds, %.0f ms a part, backend null\n\n", b->reps, run.slice_s * 1e3);
        bench_rounds(b)
            for (int i = 0; i < (int)SETTINGS; i++) {
                const struct setting *s = &settings[bench_turn(b, i, SETTINGS)];
                if (possible(b, s, huge))
                    setting_measure(&run, s);
            }
        report(b);
    }
    bool memory = run.hist && run.load;
    free(run.hist);
    free(run.load);
    return !memory ? -ENOMEM : run.errors ? -EIO : 0;
}

void bench_tune_list(FILE *to)
{
    fprintf(to, "  measurements: tune: a round trip while busy, a stream, one NOP each ms, CPU that vgpud takes\n");
    for (size_t i = 0; i < SETTINGS; i++)
        fprintf(to, "  %-18s %s\n", settings[i].name, settings[i].what);
}
