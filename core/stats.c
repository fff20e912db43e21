/* SPDX-License-Identifier: Apache-2.0 */
/* What the running daemon tells about itself. Control thread; reads counters of poll cores and executors as they stand. */
#include <jansson.h>
#include <unistd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/control.h"
#include "core/daemon.h"

static const char *const prio_names[VGPU_PRIO_COUNT] = {"high", "medium", "low"};

/* ---- totals ---- */

struct vgpu_vm_totals *vgpud_totals_get(struct vgpud *d, uint32_t vm_id)
{
    static struct vgpu_vm_totals none; /* out of memory: figures are lost, not the daemon */
    struct vgpu_vm_totals *t;

    for (t = d->totals; t; t = t->next)
        if (t->vm_id == vm_id)
            return t;
    t = calloc(1, sizeof(*t));
    if (!t)
        return &none;
    t->vm_id = vm_id;
    t->next = d->totals;
    d->totals = t;
    return t;
}

/* Adds what the VM did since the last fold; `to` is the totals themselves or a copy for showing. */
static void add_live(struct vgpu_vm_totals *to, const struct vgpu_vm *vm)
{
    to->accepted += vgpu_load_relaxed(&vm->stat_accepted) - vm->folded_accepted;
    to->refused += vgpu_load_relaxed(&vm->stat_refused) - vm->folded_refused;
    to->doorbells_in += vgpu_load_relaxed(&vm->stat_doorbells_in) - vm->folded_doorbells_in;
    to->traced += vgpu_load_relaxed(&vm->stat_traced) - vm->folded_traced;
    const struct vgpu_xchg_vm *x = vm->x;
    if (!x)
        return;
    for (uint32_t i = 0; i < VGPU_STATUS_COUNT; i++) {
        uint64_t n = vgpu_load_relaxed(&x->status_count[i]);
        to->status_count[i] += n;
        to->completed += n;
    }
    to->bytes += vgpu_load_relaxed(&x->bytes);
    to->program_ns += vgpu_load_relaxed(&x->program_ns);
    to->doorbells_out += vgpu_load_relaxed(&x->doorbells);
    vgpu_hist_merge(&to->latency, &x->latency);
    vgpu_hist_merge(&to->service, &x->service);
}

void vgpud_totals_fold(struct vgpud *d, const struct vgpu_vm *cvm)
{
    struct vgpu_vm *vm = (struct vgpu_vm *)cvm;

    add_live(vgpud_totals_get(d, vm->vm_id), vm);
    vm->folded_accepted = vm->stat_accepted;
    vm->folded_refused = vm->stat_refused;
    vm->folded_doorbells_in = vm->stat_doorbells_in;
    vm->folded_traced = vm->stat_traced;
}

void vgpud_totals_death(struct vgpud *d, const struct vgpu_vm *vm, uint64_t death)
{
    struct vgpu_vm_totals *t = vgpud_totals_get(d, vm->vm_id);
    bool in_a_row = t->deaths_executor == vm->executor && t->death_last + 1 == death;

    t->deaths_in_flight = in_a_row ? t->deaths_in_flight + 1 : 1;
    t->deaths_executor = vm->executor;
    t->death_last = death;
    t->death_opcodes = vm->lost_opcodes;
}

/* ---- JSON ---- */

static json_t *hist_json(const struct vgpu_hist *h)
{
    return json_pack("{s:I, s:f, s:f, s:f, s:f, s:f}", "count", (json_int_t)h->count, "p50_us",
                     (double)vgpu_hist_quantile(h, 0.50) / 1e3, "p95_us", (double)vgpu_hist_quantile(h, 0.95) / 1e3,
                     "p99_us", (double)vgpu_hist_quantile(h, 0.99) / 1e3, "p99_9_us",
                     (double)vgpu_hist_quantile(h, 0.999) / 1e3, "max_us", (double)h->max_ns / 1e3);
}

static void outstanding_of(const struct vgpu_attachment *a, uint64_t *outstanding, uint64_t *depth)
{
    const struct vgpu_vm *vm = a->vm;

    *outstanding = *depth = 0;
    if (!vm->x)
        return;
    uint64_t completed = vgpu_load_acquire(&vm->x->completed);
    uint64_t accepted = vgpu_load_relaxed(&vm->stat_accepted);
    *outstanding = accepted > completed ? accepted - completed : 0;
    /* a moment's view of the poll core's own cursors: relaxed, for people only */
    *depth = vgpu_load_relaxed(&vm->fifo_tail) - vgpu_load_relaxed(&vm->fifo_head);
}

static void totals_now(struct vgpud *d, uint32_t vm_id, struct vgpu_vm_totals *sum)
{
    *sum = *vgpud_totals_get(d, vm_id);
    const struct vgpu_attachment *a = vgpud_attachment_of(d, vm_id);
    if (a)
        add_live(sum, a->vm);
}

static json_t *vm_json(struct vgpud *d, const struct vgpu_vm_record *rec, struct vgpu_vm_totals *sum)
{
    const struct vgpu_attachment *a = vgpud_attachment_of(d, rec->vm_id);
    uint64_t outstanding = 0, depth = 0, failed = 0;

    totals_now(d, rec->vm_id, sum);
    if (a)
        outstanding_of(a, &outstanding, &depth);
    for (uint32_t i = 1; i < VGPU_STATUS_COUNT; i++)
        if (i != VGPU_E_LOST)
            failed += sum->status_count[i];
    json_t *statuses = json_object();
    for (uint32_t i = 0; i < VGPU_STATUS_COUNT; i++)
        if (sum->status_count[i])
            json_object_set_new(statuses, vgpu_status_name((uint16_t)i), json_integer((json_int_t)sum->status_count[i]));
    return json_pack("{s:i, s:s, s:s, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:o}",
                     "vm_id", (int)rec->vm_id, "pool", rec->pool, "priority", prio_names[rec->priority % VGPU_PRIO_COUNT],
                     "attached", a != NULL, "attachments", (json_int_t)sum->attachments, "accepted",
                     (json_int_t)sum->accepted, "refused", (json_int_t)sum->refused, "completed",
                     (json_int_t)sum->completed, "lost", (json_int_t)sum->status_count[VGPU_E_LOST], "failed",
                     (json_int_t)failed, "bytes", (json_int_t)sum->bytes,
                     "program_ns", (json_int_t)sum->program_ns, "queue_depth", (json_int_t)depth, "outstanding",
                     (json_int_t)outstanding, "doorbells_in", (json_int_t)sum->doorbells_in, "doorbells_out",
                     (json_int_t)sum->doorbells_out, "statuses", statuses, "latency", hist_json(&sum->latency), "service",
                     hist_json(&sum->service));
}

struct collect {
    struct vgpud *d;
    json_t *vms;
    int64_t only;
    struct vgpu_hist (*pool_latency)[VGPU_PRIO_COUNT]; /* [pool] */
    uint64_t (*pool_completed)[VGPU_PRIO_COUNT];
};

static bool collect_vm(void *ctx, const struct vgpu_vm_record *rec)
{
    struct collect *c = ctx;
    struct vgpu_vm_totals *sum = malloc(sizeof(*sum));

    if (!sum)
        return false;
    json_t *vm = vm_json(c->d, rec, sum);
    for (uint32_t p = 0; p < c->d->config.pool_count; p++)
        if (strcmp(c->d->config.pools[p].name, rec->pool) == 0) {
            uint32_t prio = rec->priority % VGPU_PRIO_COUNT;
            vgpu_hist_merge(&c->pool_latency[p][prio], &sum->latency);
            c->pool_completed[p][prio] += sum->completed;
        }
    free(sum);
    if (c->only < 0 || c->only == (int64_t)rec->vm_id)
        json_array_append_new(c->vms, vm);
    else
        json_decref(vm);
    return true;
}

static uint64_t pool_depth(struct vgpud *d, uint32_t pool, uint32_t prio)
{
    uint64_t depth = 0;

    for (uint32_t i = 0; i < d->poller_count; i++) {
        struct vgpu_poller_stats s;
        vgpu_poller_stats_read(d->pollers[i], &s);
        depth += s.backlog[d->pool_executor[pool]][d->pool_queue[pool]][prio];
    }
    return depth;
}

static json_t *pools_json(struct vgpud *d, const struct collect *c)
{
    json_t *pools = json_array();

    for (uint32_t p = 0; p < d->config.pool_count; p++) {
        const struct vgpu_executor *e = &d->executors[d->pool_executor[p]];
        if (vgpud_pool_gone(d, p))
            continue;
        json_t *prios = json_object();
        for (uint32_t prio = 0; prio < VGPU_PRIO_COUNT; prio++) {
            uint64_t in_flight = e->xchg ? vgpu_load_relaxed(&e->xchg->in_flight[d->pool_queue[p]][prio]) : 0;
            json_object_set_new(prios, prio_names[prio],
                                json_pack("{s:I, s:I, s:I, s:o}", "queue_depth", (json_int_t)pool_depth(d, p, prio),
                                          "in_flight", (json_int_t)in_flight, "completed",
                                          (json_int_t)c->pool_completed[p][prio], "latency",
                                          hist_json(&c->pool_latency[p][prio])));
        }
        json_array_append_new(pools, json_pack("{s:s, s:o}", "name", d->config.pools[p].name, "priorities", prios));
    }
    return pools;
}

json_t *vgpud_pollers_json(struct vgpud *d)
{
    json_t *list = json_array();

    for (uint32_t i = 0; i < d->poller_count; i++) {
        struct vgpu_poller_stats s;
        uint32_t vms = 0;
        vgpu_poller_stats_read(d->pollers[i], &s);
        for (uint32_t v = 0; v < d->config.max_vms; v++)
            vms += d->attachments[v].state == VGPU_ATTACH_ACTIVE && d->attachments[v].vm->poll_core == i;
        json_array_append_new(list, json_pack("{s:i, s:i, s:i, s:I, s:I, s:I, s:I, s:I}", "index", (int)i, "cpu",
                                              d->config.poll_cpu[i], "vms", (int)vms, "rounds", (json_int_t)s.steps,
                                              "sleeps", (json_int_t)s.sleeps, "doorbells_in", (json_int_t)s.doorbells_in,
                                              "doorbells_out", (json_int_t)s.doorbells_out, "moves",
                                              (json_int_t)s.moves));
    }
    return list;
}

static const char *executor_state(const struct vgpu_executor *e)
{
    if (e->state == VGPU_EXECUTOR_READY)
        return "up";
    return e->breaker.open ? "down" : "restarting";
}

static json_t *text_or_null(const char *text)
{
    json_t *v = text[0] ? json_string(text) : NULL; /* NULL too for what is not UTF-8 */

    return v ? v : json_null();
}

json_t *vgpud_executors_json(struct vgpud *d)
{
    json_t *list = json_array();

    for (uint32_t i = 0; i < d->executor_count; i++) {
        const struct vgpu_executor *e = &d->executors[i];
        uint64_t heartbeat = e->xchg ? vgpu_load_relaxed(&e->xchg->heartbeat) : 0;
        uint64_t sleeps = e->xchg ? vgpu_load_relaxed(&e->xchg->sleeps) : 0;
        uint64_t started = e->xchg ? vgpu_load_relaxed(&e->xchg->exec_seq) : 0;
        json_array_append_new(
            list, json_pack("{s:s, s:s, s:s, s:i, s:i, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:s, s:s, s:o}", "name",
                            e->config->name, "backend", e->choice.backend, "state", executor_state(e), "pid",
                            (int)e->pid, "cpu", e->config->cpu, "in_process", e->config->in_process, "device_generation",
                            (json_int_t)e->generation, "restarts",
                            (json_int_t)e->restarts, "rounds", (json_int_t)heartbeat, "sleeps", (json_int_t)sleeps,
                            "started", (json_int_t)started, "heap_bytes", (json_int_t)e->heap.bytes, "heap_used_bytes",
                            (json_int_t)e->heap.used, "device", text_or_null(e->choice.device), "fallback",
                            text_or_null(e->choice.fallback), "fault", e->fault, "last_fault", e->last_fault, "sandbox",
                            text_or_null(e->sandbox)));
    }
    return list;
}

static json_t *stats(void *ctx, int64_t vm_id)
{
    struct vgpud *d = ctx;
    struct collect c = {.d = d, .only = vm_id, .vms = json_array()};
    struct vgpu_err err;
    json_t *out = NULL;

    c.pool_latency = calloc(d->config.pool_count, sizeof(*c.pool_latency));
    c.pool_completed = calloc(d->config.pool_count, sizeof(*c.pool_completed));
    if (c.pool_latency && c.pool_completed && vgpu_store_each_vm(d->store, NULL, -1, collect_vm, &c, &err) == 0) {
        json_t *daemon = json_pack("{s:s, s:i, s:f, s:I, s:s}", "version", VGPU_VERSION, "pid", (int)getpid(), "uptime_s",
                                   (double)(vgpu_now_ns() - d->started_ns) / 1e9, "table_changes",
                                   (json_int_t)d->table_changes, "startup", vgpu_report_text(&d->startup_report));
        out = json_pack("{s:o, s:o, s:o, s:o, s:O}", "daemon", daemon, "poll_cores", vgpud_pollers_json(d), "executors",
                        vgpud_executors_json(d), "pools", pools_json(d, &c), "vms", c.vms);
    }
    json_decref(c.vms);
    free(c.pool_latency);
    free(c.pool_completed);
    return out;
}

static bool vm_live(void *ctx, uint32_t vm_id, struct vgpu_vm_live *out)
{
    const struct vgpu_attachment *a = vgpud_attachment_of(ctx, vm_id);
    static const char *const reasons[] = {"", "submission sequence ran ahead", "impossible completion credit",
                                          "region memory vanished", "stopped by the operator"};
    static const char *const accesses[] = {[VGPU_ARENA_UNKNOWN] = "", [VGPU_ARENA_NONE] = "none",
                                           [VGPU_ARENA_DIRECT] = "direct", [VGPU_ARENA_BOUNCE] = "bounce"};

    if (!a || !a->accepted)
        return false;
    memset(out, 0, sizeof(*out));
    const char *state = "attached";
    if (a->vm->broken) {
        state = "broken";
        snprintf(out->broken_reason, sizeof(out->broken_reason), "%s", reasons[a->vm->broken % 5]);
    } else if (a->state == VGPU_ATTACH_PAUSED || a->state == VGPU_ATTACH_STARTING) {
        state = "paused";
    } else if (a->leave == VGPU_LEAVE_MOVE && a->state == VGPU_ATTACH_DETACHING) {
        state = "paused";
    } else if (a->state == VGPU_ATTACH_DETACHING || a->leave == VGPU_LEAVE_DRAIN || a->leave == VGPU_LEAVE_QUARANTINE) {
        state = "draining";
    }
    snprintf(out->state, sizeof(out->state), "%s", state);
    out->pid = a->session ? a->session->peer.pid : -1;
    out->arena_bytes = a->vm->view.arena_bytes;
    out->arena_waits = a->arena_limit != vgpud_arena_bytes(ctx, &a->record);
    out->engine_waits = a->engine != a->record.engine;
    snprintf(out->arena_access, sizeof(out->arena_access), "%s", accesses[a->arena_access]);
    return true;
}

static bool pool_live(void *ctx, const char *pool, struct vgpu_pool_live *out)
{
    struct vgpud *d = ctx;

    for (uint32_t p = 0; p < d->config.pool_count; p++) {
        if (strcmp(d->config.pools[p].name, pool) != 0)
            continue;
        const struct vgpu_executor *e = &d->executors[d->pool_executor[p]];
        memset(out, 0, sizeof(*out));
        snprintf(out->executor, sizeof(out->executor), "%s", e->config->name);
        snprintf(out->backend, sizeof(out->backend), "%s", e->choice.backend);
        snprintf(out->device, sizeof(out->device), "%s", e->choice.device);
        snprintf(out->fallback, sizeof(out->fallback), "%s", e->choice.fallback);
        snprintf(out->fault, sizeof(out->fault), "%s", e->fault[0] ? e->fault : e->last_fault);
        snprintf(out->state, sizeof(out->state), "%s", executor_state(e));
        out->executor_pid = e->pid > 0 ? e->pid : -1;
        return true;
    }
    return false;
}

static const struct vgpu_iommu *iommu(void *ctx)
{
    return ((const struct vgpud *)ctx)->iommu;
}

static int give(void *ctx, int fd, uint32_t uid)
{
    return vgpu_spawner_give(((struct vgpud *)ctx)->spawner, fd, uid);
}

const struct vgpu_control_ops vgpud_control_ops = {.vm_check = vgpud_vm_check,
                                                  .vm_apply = vgpud_vm_apply,
                                                  .pools_check = vgpud_pools_check,
                                                  .pool_apply = vgpud_pool_apply,
                                                  .status = vgpud_status,
                                                  .reload = vgpud_reload,
                                                  .stats = stats,
                                                  .vm_live = vm_live,
                                                  .pool_live = pool_live,
                                                  .trace = vgpud_trace,
                                                  .iommu = iommu,
                                                  .give = give};
