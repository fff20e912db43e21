/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemon's control plane, over its socket as vgpu-ctl does: how long each request takes with so many VMs registered, and
 * a guest's round trip while ever more administrators ask. The store is real: what changes it is on disk when it is answered.
 */
#include "bench/control/control.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/path/path.h"

#define VMS 30u          /* registered, besides the one that is measured */
#define DEFAULT_S 0.15   /* of one measurement */
#define VISITOR 1999u    /* ids that the others do not have */

struct run {
    struct bench *b;
    struct path_daemon *daemon;
    struct bench_hist *hist;
    struct path_load *load;
    char socket_path[PATH_PARAMS_BYTES];
    uint32_t vms;
    uint64_t ticks, failed;
};

/* Pairs undo themselves, so that each round finds what the last one found. visit: attach, one NOP, detach. */
static const struct request {
    const char *name, *line, *undo;
} requests[] = {
    {"show-vm", "{\"command\":\"show-vm\",\"args\":{\"vm_id\":1}}\n", NULL},
    {"list-vms", "{\"command\":\"list-vms\"}\n", NULL},
    {"stats", "{\"command\":\"stats\"}\n", NULL},
    {"set-priority", "{\"command\":\"set-priority\",\"args\":{\"vm_ids\":[2],\"priority\":\"low\"}}\n",
     "{\"command\":\"set-priority\",\"args\":{\"vm_ids\":[2],\"priority\":\"medium\"}}\n"},
    {"register+remove", "{\"command\":\"register-vm\",\"args\":{\"vm_ids\":[2000],\"pool\":\"A\"}}\n",
     "{\"command\":\"remove-vm\",\"args\":{\"vm_ids\":[2000]}}\n"},
    {"visit", NULL, NULL},
};
#define REQUESTS (sizeof(requests) / sizeof(requests[0]))

static const char *params_of(char out[PATH_PARAMS_BYTES], uint32_t vms, uint32_t clients)
{
    snprintf(out, PATH_PARAMS_BYTES, "{\"vms\":%u,\"clients\":%u}", vms, clients);
    return out;
}

static bool once(const struct run *run, const struct request *r)
{
    if (!r->line)
        return path_daemon_visit(run->daemon, VISITOR) == 0;
    return path_ask(run->socket_path, r->line) && (!r->undo || path_ask(run->socket_path, r->undo));
}

/* From connect to the answer's end; a pair counts once. */
static void measure_request(struct run *run, const struct request *r)
{
    char params[PATH_PARAMS_BYTES];
    uint64_t from = vgpu_ticks(), last = from;

    if (!bench_wanted(run->b, "request", r->name))
        return;
    memset(run->hist, 0, sizeof(*run->hist));
    while (last - from < run->ticks) {
        if (!once(run, r)) {
            run->failed++;
            fprintf(run->b->text, "FAILED: control: request/%s was refused\n", r->name);
            return;
        }
        uint64_t now = vgpu_ticks();
        bench_hist_add(run->hist, now - last);
        last = now;
    }
    bench_record_latency(run->b, "control.request", r->name, params_of(params, run->vms, 1), run->hist);
}

/* One descriptor in flight through the daemon, while administrators ask it. */
static void measure_beside(struct run *run, uint32_t clients)
{
    char params[PATH_PARAMS_BYTES];
    uint64_t refused = 0, asked = 0;

    if (!bench_wanted(run->b, "beside", "vgpud"))
        return;
    memset(run->hist, 0, sizeof(*run->hist));
    *run->load = (struct path_load){.ticks = run->ticks, .hist = run->hist};
    struct path_clients *c = clients ? path_clients_start(run->b, run->socket_path, clients) : NULL;
    int err = path_daemon_measure(run->daemon, run->b, false, run->load);
    if (c)
        asked = path_clients_stop(c, &refused);
    if (err || run->load->errors || refused) {
        run->failed++;
        fprintf(run->b->text, "FAILED: control: beside/vgpud: %llu wrong completions, %llu requests refused\n",
                (unsigned long long)run->load->errors, (unsigned long long)refused);
        return;
    }
    params_of(params, run->vms, clients);
    bench_record_latency(run->b, "control.beside", "vgpud", params, run->hist);
    if (clients)
        bench_record(run->b, "control.beside", "vgpud", params, "requests", "1/s",
                     (double)asked * (double)vgpu_clock.ticks_hz / (double)run->load->took);
}

/* VMs 2 to vms + 1, and the one that comes to visit. */
static int vms_register(const struct run *run)
{
    size_t bytes = 128 + 8 * (size_t)run->vms;
    char *line = malloc(bytes), one[160];

    if (!line)
        return -ENOMEM;
    size_t n = (size_t)snprintf(line, bytes, "{\"command\":\"register-vm\",\"args\":{\"pool\":\"A\",\"vm_ids\":[2");
    for (uint32_t i = 1; i < run->vms; i++)
        n += (size_t)snprintf(line + n, bytes - n, ",%u", i + 2);
    snprintf(line + n, bytes - n, "]}}\n");
    snprintf(one, sizeof(one), "{\"command\":\"register-vm\",\"args\":{\"pool\":\"A\",\"uid\":%u,\"vm_ids\":[%u]}}\n",
             (unsigned)getuid(), VISITOR);
    int rc = path_ask(run->socket_path, line) && path_ask(run->socket_path, one) ? 0 : -EIO;
    free(line);
    return rc;
}

static uint32_t clients_at(const struct bench *b, uint32_t i)
{
    static const uint32_t own[] = {1, 8, PATH_CLIENTS};

    if (i == 0)
        return 0;
    if (b->clients.n)
        return i <= b->clients.n ? (uint32_t)b->clients.value[i - 1] : 0;
    return i <= sizeof(own) / sizeof(own[0]) ? own[i - 1] : 0;
}

static void row_add(struct bench_table *t, const struct bench *b, const char *bench, const char *subject, const char *params)
{
    static const char *const tail[] = {"p99", "p99.9", "max"};
    const struct bench_row *p50 = bench_find(b, bench, subject, params, "p50");

    bench_table_num(t, bench_median(p50) / 1e3, 1);
    if (p50) {
        double low, high;
        if (bench_interval(p50, &low, &high))
            bench_table_add(t, "[%.1f, %.1f]", low / 1e3, high / 1e3);
        else
            bench_table_add(t, "-");
    } else {
        bench_table_add(t, "-");
    }
    for (size_t k = 0; k < sizeof(tail) / sizeof(tail[0]); k++)
        bench_table_num(t, bench_median(bench_find(b, bench, subject, params, tail[k])) / 1e3, 1);
}

static void report(const struct run *run)
{
    struct bench *b = run->b;
    char params[PATH_PARAMS_BYTES], alone[PATH_PARAMS_BYTES];
    struct bench_table t;
    struct bench_goals g;

    bench_table_init(&t, 6);
    bench_table_names(&t, (const char *const[]){"request, one administrator", "p50 us", "95 %", "p99", "p99.9", "max", NULL});
    int none = t.cells;
    for (size_t i = 0; i < REQUESTS; i++) {
        if (!bench_find(b, "control.request", requests[i].name, params_of(params, run->vms, 1), "p50"))
            continue;
        bench_table_add(&t, "%s", requests[i].name);
        row_add(&t, b, "control.request", requests[i].name, params);
    }
    bench_table_show(&t, none, b->text);
    bench_table_init(&t, 8);
    bench_table_names(&t, (const char *const[]){"a guest's round trip beside", "administrators", "p50 us", "95 %", "p99", "p99.9",
                                                "max", "requests/s", NULL});
    none = t.cells;
    for (uint32_t i = 0; i == 0 || clients_at(b, i); i++) {
        if (!bench_find(b, "control.beside", "vgpud", params_of(params, run->vms, clients_at(b, i)), "p50"))
            continue;
        bench_table_add(&t, "vgpud");
        bench_table_add(&t, "%u", clients_at(b, i));
        row_add(&t, b, "control.beside", "vgpud", params);
        bench_table_num(&t, bench_median(bench_find(b, "control.beside", "vgpud", params, "requests")), 0);
    }
    bench_table_show(&t, none, b->text);
    /* With fewer cores the clients take time from what is measured: that says nothing of the daemon. */
    bench_goals_begin(&g, b, "control", b->n_cores >= 8 && !b->cores_shared, false);
    bench_goal(&g, "beside 50 administrators, p99", "without them", true, 1.05,
               bench_find(b, "control.beside", "vgpud", params_of(params, run->vms, PATH_CLIENTS), "p99"),
               bench_find(b, "control.beside", "vgpud", params_of(alone, run->vms, 0), "p99"));
    bench_goals_end(&g, "judged on 8 cores and more");
}

int bench_control_run(struct bench *b)
{
    struct run run = {.b = b, .vms = b->vms.n ? (uint32_t)b->vms.value[b->vms.n - 1] : VMS};
    int rc = -ENOMEM;

    if (b->n_cores < 2) {
        fprintf(b->text, "SKIPPED: control: a guest and a poll core need 2 cores, there is %d\n", b->n_cores);
        return BENCH_SKIPPED;
    }
    run.hist = malloc(sizeof(*run.hist));
    run.load = aligned_alloc(128, sizeof(*run.load));
    if (!run.hist || !run.load)
        goto out;
    run.daemon = path_daemon_start(b, b->cores[1], -1);
    rc = BENCH_SKIPPED; /* it said why */
    if (!run.daemon)
        goto out;
    path_daemon_control(run.daemon, run.socket_path);
    rc = vms_register(&run);
    if (rc) {
        fprintf(b->text, "FAILED: control: VMs were not registered\n");
        goto out;
    }
    double slice_s = b->duration > 0 || b->seconds > 0 ? bench_slice_s(b, DEFAULT_S, REQUESTS + 4, 60) : DEFAULT_S;
    run.ticks = (uint64_t)(slice_s * (double)vgpu_clock.ticks_hz);
    fprintf(b->text, "control: %u rounds, %.0f ms a measurement, %u VMs registered\n\n", b->reps, slice_s * 1e3, run.vms);
    bench_rounds(b)
    {
        for (int i = 0; i < (int)REQUESTS; i++)
            measure_request(&run, &requests[bench_turn(b, i, REQUESTS)]);
        for (uint32_t i = 0; i == 0 || clients_at(b, i); i++)
            measure_beside(&run, clients_at(b, i));
    }
    report(&run);
    rc = run.failed ? -EIO : 0;
out:
    path_daemon_stop(run.daemon);
    free(run.hist);
    free(run.load);
    return rc;
}

void bench_control_list(FILE *to)
{
    fprintf(to, "  measurements: request, beside\n");
    for (size_t i = 0; i < REQUESTS; i++)
        fprintf(to, "  %-18s %s\n", requests[i].name, requests[i].line ? "a request over the control socket" :
                "a VM attaches, has one NOP done, detaches");
    fprintf(to, "  vgpud              beside: a guest's round trip without and with administrators who ask all the time\n");
}
