/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The suite steady: so many guest processes at work for minutes, in windows. What must not drift is what vgpud and its
 * executors hold (memory, open descriptors), and no window may fail; rate and latency of the last third are held against
 * the first.
 */
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/gpu/gpu.h"

#define VMS 30u
#define VMS_MAX 48u        /* processes; those of a window are prepared one after the other */
#define MINUTES 10.0
#define WINDOWS_MAX 100    /* rounds of a row */
#define WINDOW_MIN_S 1.0
#define DEPTH 4u
#define MEMORY_KIB 1024.0  /* that may come over the whole run */

/* Of a process: resident KiB and open descriptors, added. */
static void process_add(pid_t pid, double *kib, double *fds)
{
    char path[64];
    unsigned long resident = 0, size;

    snprintf(path, sizeof(path), "/proc/%d/statm", (int)pid);
    FILE *f = fopen(path, "r");
    if (f && fscanf(f, "%lu %lu", &size, &resident) == 2)
        *kib += (double)resident * (double)sysconf(_SC_PAGESIZE) / 1024;
    if (f)
        fclose(f);
    snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
    DIR *dir = opendir(path);
    for (struct dirent *e; dir && (e = readdir(dir));)
        *fds += e->d_name[0] != '.';
    if (dir)
        closedir(dir);
}

/* vgpud and its children. */
static void held_by_daemon(const struct gpu *g, double *kib, double *fds)
{
    pid_t daemon = daemon_pid(g);
    DIR *proc = opendir("/proc");

    *kib = *fds = 0;
    process_add(daemon, kib, fds);
    for (struct dirent *e; proc && (e = readdir(proc));) {
        char path[280];
        int parent = 0;
        if (e->d_name[0] < '1' || e->d_name[0] > '9')
            continue;
        snprintf(path, sizeof(path), "/proc/%s/stat", e->d_name);
        FILE *f = fopen(path, "r");
        if (f && fscanf(f, "%*d (%*[^)]) %*c %d", &parent) == 1 && parent == daemon)
            process_add(atoi(e->d_name), kib, fds);
        if (f)
            fclose(f);
    }
    if (proc)
        closedir(proc);
}

static void window(struct gpu *g, const struct gpu_cell *c)
{
    static struct outcome out;
    double kib, fds;

    crew_run(g, &c->crew, &c->cell, &out);
    if (out.rc) {
        gpu_fail(g, c->bench, c->subject, c->params, out.text);
        daemon_log_tail(g);
        return;
    }
    gpu_record(g, c, &out);
    held_by_daemon(g, &kib, &fds);
    bench_record(g->b, c->bench, c->subject, c->params, "memory", "KiB", kib);
    bench_record(g->b, c->bench, c->subject, c->params, "descriptors", "", fds);
    /* 1: all VMs got the same; 0: one got nothing. */
    bench_record(g->b, c->bench, c->subject, c->params, "least", "of a fair share",
                 out.ops ? (double)out.least * c->crew.count / (double)out.ops : 0);
}

/* Median of a third of the windows. */
static double third(const struct bench_row *r, int which)
{
    int n = r ? r->rounds / 3 : 0;
    double v[BENCH_REPS_MAX];
    int kept = 0;

    for (int i = which * (r ? r->rounds - n : 0) / 2, end = i + n; i < end; i++)
        if (!isnan(r->value[i]))
            v[kept++] = r->value[i];
    return bench_median_of(v, kept);
}

static void report(struct gpu *g, const struct gpu_cell *c)
{
    static const struct {
        const char *metric, *what;
        int decimals;
    } lines[] = {{"rate", "operations a second, all VMs", 0}, {"p50", "p50, us", 1}, {"p99", "p99, us", 1},
                 {"p99.9", "p99.9, us", 1}, {"max", "max, us", 0}, {"least", "the slowest VM's share (1: fair)", 3},
                 {"memory", "memory of vgpud and executors, KiB", 0}, {"descriptors", "their open descriptors", 0}};
    struct bench_table t;

    bench_table_init(&t, 7);
    bench_table_names(&t, (const char *const[]){"", "first third", "middle", "last third", "last / first", "least", "most",
                                                NULL});
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        const struct bench_row *r = bench_find(g->b, c->bench, c->subject, c->params, lines[i].metric);
        double first = third(r, 0), last = third(r, 2);
        bench_table_add(&t, "%s", lines[i].what);
        bench_table_num(&t, first, lines[i].decimals);
        bench_table_num(&t, third(r, 1), lines[i].decimals);
        bench_table_num(&t, last, lines[i].decimals);
        bench_table_num(&t, last / first, 3);
        bench_table_num(&t, bench_min(r), lines[i].decimals);
        bench_table_num(&t, bench_max(r), lines[i].decimals);
    }
    bench_table_print(&t, g->b->text);
}

/* What the host holds must not grow; a time may do what it likes. */
static bool grew(struct gpu *g, const struct gpu_cell *c)
{
    const struct bench_row *kib = bench_find(g->b, c->bench, c->subject, c->params, "memory");
    const struct bench_row *fds = bench_find(g->b, c->bench, c->subject, c->params, "descriptors");
    double memory = third(kib, 2) - third(kib, 0), open = third(fds, 2) - third(fds, 0);

    if (isnan(memory) || (memory <= MEMORY_KIB && open < 1))
        return false;
    fprintf(g->b->text, "steady: GREW: %.0f KiB and %.0f open descriptors between the first and the last third\n", memory,
            open);
    return true;
}

static int windows_run(struct gpu *g, struct gpu_cell *c, uint32_t vms, double minutes)
{
    double length = g->b->duration > 0 ? g->b->duration : fmax(WINDOW_MIN_S, minutes * 60 / WINDOWS_MAX);
    uint64_t end = vgpu_now_ns() + (uint64_t)(minutes * 60e9);

    c->cell.run_ns = (uint64_t)(length * 1e9);
    c->cell.warmup_ns = 0;
    fprintf(g->b->text,
            "steady: %u VMs, each with %u vector adds of 256 floats outstanding, windows of %.1f s for %.1f minutes\n", vms,
            DEPTH, length, minutes);
    fflush(g->b->text);
    for (g->b->round = 0; g->b->round < BENCH_REPS_MAX && vgpu_now_ns() < end && !gpu_interrupted && g->failed < 3;
         g->b->round++)
        window(g, c);
    fprintf(g->b->text, "steady: %d windows, %d failed\n\n", g->b->round, g->failed);
    report(g, c);
    return grew(g, c) ? -EIO : 0;
}

int bench_steady_run(struct bench *b)
{
    static struct gpu g;
    uint32_t vms = b->vms.n ? (uint32_t)b->vms.value[b->vms.n - 1] : VMS;
    double minutes = b->minutes > 0 ? b->minutes : MINUTES;
    const struct gpu_vm registered[] = {{1, VMS_MAX, "A", "medium", 16 * GPU_MIB, 4 * GPU_MIB}, {0}};
    int grown = 0;

    if (vms > VMS_MAX) {
        fprintf(stderr, "vgpu-bench: steady: each VM is a process; at most %u: --vms\n", VMS_MAX);
        return -EINVAL;
    }
    int rc = gpu_begin(&g, b, "steady", true);
    if (rc)
        return rc;
    struct gpu_daemon_config config = {.name = "VMs at work", .backend = g.cpu ? "cpu" : "cuda", .poll_cores = 1,
                                       .budget = 256, .heap_bytes = 1024 * GPU_MIB, .vms = registered};
    struct gpu_cell c = {.bench = "steady.window", .subject = g.cpu ? "cpu" : "cuda", .crew = {CREW_VGPU, 1, vms},
                         .cell = gpu_vadd(&g, 256, TENANT_DEVICE, DEPTH)};
    snprintf(c.params, sizeof(c.params), "{\"vms\":%u,\"op\":\"vadd\",\"n\":256,\"depth\":%u}", vms, DEPTH);
    g.b->round = 0;
    if (daemon_start(&g, &config))
        gpu_fail(&g, "gpu.vgpud", config.name, "{}", "it did not start");
    else
        grown = windows_run(&g, &c, vms, minutes);
    rc = gpu_finish(&g);
    return rc ? rc : grown;
}

void bench_steady_list(FILE *to)
{
    fprintf(to, "  measurements: window; --minutes, --vms\n"
                "  cpu, cuda          guest processes that add vectors all the time; what vgpud holds must not grow\n");
}
