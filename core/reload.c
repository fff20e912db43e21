/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The configuration read again, and pools that come while the daemon runs. Control thread.
 *
 * A file is parsed and checked as a whole, then every value that differs is judged: it can be changed now, it waits for
 * the next start, or it cannot be (then nothing is changed at all). Values that wait stay as they are in the running
 * configuration, so each reload lists them again.
 */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/control.h"
#include "core/daemon.h"

/* What can be changed now. All others are taken at the start: memory, threads, sockets and processes hang on them. */
static const char *const live_keys[] = {
    "poll_cores.burst",       "poll_cores.idle.spin_us", "poll_cores.idle.pause_us", "executor_idle.spin_us",
    "executor_idle.pause_us", "executor_idle.sleep",     "recovery.backoff_min_us",  "recovery.backoff_max_us",
    "recovery.deaths",        "recovery.window_s",       "recovery.retry_s",         "limits.in_flight",
    "limits.handles",         "limits.ring_slots",       "limits.arena_bytes",       "limits.device_bytes",
    "limits.max_arena_bytes", "log.level",               "control.admin_group",      "control.viewer_group",
    "pools[].capacity",       "pools[].budget.high",     "pools[].budget.medium",    "pools[].budget.low",
    "recovery.quarantine",
    "pools[].name", /* of a pool that is new */
};

struct reload {
    struct vgpud *d;
    struct vgpu_config *next;   /* the file's */
    struct vgpu_config *merged; /* what runs, with what can be changed now */
    json_t *applied, *waits;
    struct vgpu_err *err;
    int rc;
};

static const struct vgpu_pool_config *pool_of(const struct vgpu_config *c, const char *name)
{
    for (uint32_t i = 0; i < c->pool_count; i++)
        if (!strcmp(c->pools[i].name, name))
            return &c->pools[i];
    return NULL;
}

static struct vgpu_executor *executor_of(struct vgpud *d, const char *name)
{
    for (uint32_t i = 0; i < d->executor_count; i++)
        if (!strcmp(d->executors[i].config->name, name))
            return &d->executors[i];
    return NULL;
}

/* Would the budgets of this executor's pools still fit into what it was started with? */
static bool budgets_fit(struct reload *r, const char *pool)
{
    const struct vgpu_pool_config *p = pool_of(r->merged, pool);
    const struct vgpu_executor *e = p ? executor_of(r->d, p->executor) : NULL;
    uint64_t sum = 0;

    if (!e || !e->xchg)
        return true; /* it starts with what is there then */
    for (uint32_t i = 0; i < r->next->pool_count; i++)
        for (uint32_t prio = 0; prio < VGPU_PRIO_COUNT && !strcmp(r->next->pools[i].executor, p->executor); prio++)
            sum += r->next->pools[i].budget[prio];
    return sum <= e->xchg->budget_total;
}

/* A queue for it, beside those for what else is new? */
static bool queue_spare(const struct reload *r, const struct vgpu_pool_config *p)
{
    const struct vgpu_executor *e = executor_of(r->d, p->executor);
    uint32_t taken = e ? e->queues : 0;

    if (!e || r->merged->pool_count == VGPU_CONFIG_MAX_POOLS)
        return false;
    for (uint32_t i = r->d->config.pool_count; i < r->merged->pool_count; i++)
        taken += !strcmp(r->merged->pools[i].executor, p->executor);
    return r->d->config.scope == VGPU_SCOPE_HOST || taken < VGPU_XCHG_MAX_QUEUES;
}

/* Can it be changed while we run? */
static bool is_live(struct reload *r, const struct vgpu_config_change *c)
{
    bool live = false;

    for (size_t i = 0; i < sizeof(live_keys) / sizeof(live_keys[0]) && !live; i++)
        live = !strcmp(live_keys[i], c->path);
    if (!strcmp(c->path, "pools[].name"))
        return !c->was && queue_spare(r, pool_of(r->next, c->element));
    if (!strcmp(c->path, "limits.in_flight"))
        return r->next->in_flight <= r->d->in_flight_max;
    if (!strncmp(c->path, "pools[].budget.", 15))
        return budgets_fit(r, c->element);
    return live;
}

struct members {
    const char *pool;
    uint32_t n;
};

static bool count_members(void *ctx, const struct vgpu_pool_record *p)
{
    struct members *m = ctx;

    if (!strcmp(p->name, m->pool))
        m->n = p->members;
    return true;
}

/* A pool does not get smaller than what is registered in it. */
static int capacity_check(struct reload *r, const struct vgpu_config_change *c)
{
    const struct vgpu_pool_config *p = pool_of(r->next, c->element);
    struct members m = {.pool = c->element};
    int rc = vgpu_store_each_pool(r->d->store, count_members, &m, r->err);

    if (rc == 0 && p && p->capacity < m.n)
        rc = vgpu_err_set(r->err, EINVAL, "%s: %u VMs are registered in pool %s; expected %u or more", c->key, m.n,
                          c->element, m.n);
    return rc;
}

static void judge(void *ctx, const struct vgpu_config_change *c)
{
    struct reload *r = ctx;
    bool ours = c->element && !c->is && !strncmp(c->path, "pools[]", 7) &&
                pool_of(&r->d->config, c->element)->stored; /* not the file's business */

    if (r->rc || ours)
        return;
    if (!strcmp(c->path, "pools[].capacity"))
        r->rc = capacity_check(r, c);
    if (r->rc)
        return;
    bool live = is_live(r, c);
    json_array_append_new(live ? r->applied : r->waits,
                          json_pack("{s:s, s:s?, s:s?}", "key", c->key, "old", c->was, "new", c->is));
    if (!live)
        return;
    if (strcmp(c->path, "pools[].name") == 0)
        r->merged->pools[r->merged->pool_count++] = *pool_of(r->next, c->element);
    else
        vgpu_config_take(r->merged, r->next, c);
}

/* The first faults of a file, for the answer; all of them for the log. */
static int load(struct vgpud *d, struct vgpu_config *next, struct vgpu_err *err)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *faults = open_memstream(&text, &bytes);

    if (!faults)
        return vgpu_err_set(err, ENOMEM, "out of memory");
    int rc = vgpu_config_load(next, d->config.path, faults);
    fclose(faults);
    if (rc) {
        vgpu_err_set(err, EINVAL, "nothing was changed: %.*s", (int)strcspn(text ? text : "", "\n"), text ? text : "");
        for (const char *line = text; line && *line; line += strcspn(line, "\n"), line += *line == '\n')
            vgpu_log(VGPU_LOG_ERROR, "reload: %.*s", (int)strcspn(line, "\n"), line);
        rc = -EINVAL;
    }
    free(text);
    return rc;
}

static void log_changes(const json_t *list, const char *when)
{
    size_t i;
    json_t *c;

    json_array_foreach((json_t *)list, i, c)
    {
        const char *was = json_string_value(json_object_get(c, "old")), *is = json_string_value(json_object_get(c, "new"));
        vgpu_log(VGPU_LOG_INFO, "reload: %s: %s, was %s (%s)", json_string_value(json_object_get(c, "key")),
                 is ? is : "not there", was ? was : "not there", when);
    }
}

/* ---- making it so ---- */

/* All that can fail, with nothing in force yet: queues of pools that are new, the store, the history. */
static int prepare(struct vgpud *d, const struct vgpu_config *merged, const json_t *result, struct vgpu_err *err)
{
    uint32_t executors[VGPU_CONFIG_MAX_POOLS], n = 0;

    for (uint32_t i = d->config.pool_count; i < merged->pool_count; i++)
        executors[n++] = executor_of(d, merged->pools[i].executor)->index; /* queue_spare() found it */
    int rc = vgpud_queues_prepare(d, executors, n, err);
    rc = rc ? rc : vgpu_store_begin(d->store, err);
    if (rc)
        return rc;
    rc = vgpu_control_put_pools(d->store, vgpu_control_caller(d->control), "reload-config", merged, err);
    rc = rc ? rc : vgpu_control_note(d->control, "reload-config", "configuration", json_deep_copy(result), err);
    return vgpu_store_end(d->store, rc, err);
}

bool vgpud_pool_gone(const struct vgpud *d, uint32_t pool)
{
    return !d->config.pools[pool].name[0];
}

bool vgpud_pool_unused(const struct vgpud *d, uint32_t pool)
{
    if (!vgpud_pool_gone(d, pool))
        return false;
    for (uint32_t s = 0; s < d->config.max_vms; s++)
        if (d->attachments[s].state != VGPU_ATTACH_FREE && d->attachments[s].vm->pool == pool)
            return false; /* on its way to another executor */
    return true;
}

/* How many more pools could be served. */
static uint32_t pools_left(const struct vgpud *d)
{
    uint32_t n = VGPU_CONFIG_MAX_POOLS - d->config.pool_count;

    for (uint32_t p = 0; p < d->config.pool_count; p++)
        n += vgpud_pool_unused(d, p);
    return n;
}

/* Takes a pool, whose queue is prepared, into the running configuration. */
static void pool_serve(struct vgpud *d, const struct vgpu_pool_config *p)
{
    uint32_t slot = 0;

    while (slot < d->config.pool_count && !vgpud_pool_unused(d, slot))
        slot++;
    if (slot == d->config.pool_count)
        d->config.pool_count++;
    vgpud_executor_pool_add(d, executor_of(d, p->executor), slot, p);
}

static void make_it_so(struct vgpud *d, const struct vgpu_config *merged)
{
    uint32_t pools = d->config.pool_count;

    d->config = *merged;
    d->config.pool_count = pools;
    for (uint32_t i = pools; i < merged->pool_count; i++)
        pool_serve(d, &merged->pools[i]);
    if (!d->verbose)
        vgpu_log_level = (int)d->config.log_level;
    for (uint32_t i = 0; i < d->executor_count; i++)
        vgpud_executor_tune(d, &d->executors[i]);
    vgpud_caps_renew(d);
    vgpud_tables_publish(d); /* burst and idle policy */
}

int vgpud_reload(void *ctx, bool dry_run, json_t **result, struct vgpu_err *err)
{
    struct vgpud *d = ctx;
    struct reload r = {.d = d, .err = err, .applied = json_array(), .waits = json_array()};
    uint32_t level = (uint32_t)vgpu_log_level;

    *result = NULL;
    r.next = calloc(1, sizeof(*r.next));
    r.merged = calloc(1, sizeof(*r.merged));
    if (!r.next || !r.merged || !r.applied || !r.waits) {
        r.rc = vgpu_err_set(err, ENOMEM, "out of memory");
        goto out;
    }
    if (!d->config.path[0]) {
        r.rc = vgpu_err_set(err, ENOENT, "the daemon runs without a configuration file; start it with --config FILE");
        goto out;
    }
    r.rc = load(d, r.next, err);
    if (r.rc)
        goto out;
    *r.merged = d->config;
    vgpu_config_diff(&d->config, r.next, judge, &r);
    if (r.rc)
        goto out;
    *result = json_pack("{s:b, s:O, s:O}", "dry_run", dry_run, "applied", r.applied, "needs_restart", r.waits);
    if (!*result)
        r.rc = vgpu_err_set(err, ENOMEM, "out of memory");
    if (r.rc == 0 && !dry_run)
        r.rc = prepare(d, r.merged, *result, err);
    if (r.rc)
        goto out;
    if (!dry_run) {
        make_it_so(d, r.merged);
        json_decref(d->waits);
        d->waits = json_incref(r.waits);
        log_changes(r.applied, "now");
        log_changes(r.waits, "at the next start");
        vgpu_log(VGPU_LOG_INFO, "reload: %zu values changed, %zu wait for the next start%s", json_array_size(r.applied),
                 json_array_size(r.waits), level == (uint32_t)vgpu_log_level ? "" : " (and the log's level)");
    }
out:
    if (r.rc) {
        json_decref(*result);
        *result = NULL;
    }
    if (r.rc && !dry_run)
        vgpu_log(VGPU_LOG_ERROR, "reload: %s", err->text);
    json_decref(r.applied);
    json_decref(r.waits);
    free(r.next);
    free(r.merged);
    return r.rc;
}

/* ---- pools ---- */

/* As a pool of the configuration, with default budgets. */
static void pool_from_record(const struct vgpu_pool_record *rec, struct vgpu_pool_config *out)
{
    vgpu_config_pool_defaults(out);
    memcpy(out->name, rec->name, sizeof(out->name));
    memcpy(out->executor, rec->executor, sizeof(out->executor));
    out->capacity = rec->capacity;
    out->stored = true;
}

/* One of the store that could not be served at the start, which said so; unless it gets another executor now. */
static bool waits(const struct vgpu_pool_change *p)
{
    return p->have_old && !strcmp(p->old.executor, p->now.executor);
}

/* The configuration's part is checked: what is left is what this process can serve. */
int vgpud_pools_check(void *ctx, const struct vgpu_pool_change *pools, uint32_t n, struct vgpu_err *err)
{
    struct vgpud *d = ctx;
    uint32_t executors[VGPU_CONFIG_MAX_POOLS], added = 0;

    for (uint32_t i = 0; i < n; i++) {
        const struct vgpu_pool_record *now = &pools[i].now;
        if (!pools[i].have_now)
            continue;
        const struct vgpu_pool_config *c = pool_of(&d->config, now->name);
        if (c && now->executor[0] && strcmp(now->executor, c->executor))
            return vgpu_err_set(err, EBUSY, "pool %s is served by executor %s until the next start; make a pool on %s, and "
                                            "set-pool its VMs",
                                c->name, c->executor, now->executor);
        if (c || waits(&pools[i]))
            continue;
        const struct vgpu_executor *e = executor_of(d, now->executor);
        if (!e)
            return vgpu_err_set(err, ENOENT, "there is no executor %s", now->executor);
        if (pools_left(d) == added)
            return vgpu_err_set(err, ENOSPC, "a vgpud serves %u pools at most", VGPU_CONFIG_MAX_POOLS);
        executors[added++] = e->index;
    }
    return vgpud_queues_prepare(d, executors, added, err);
}

void vgpud_pool_apply(void *ctx, const struct vgpu_pool_record *old, const struct vgpu_pool_record *now)
{
    struct vgpud *d = ctx;
    struct vgpu_pool_config p;

    struct vgpu_pool_config *c = (struct vgpu_pool_config *)(uintptr_t)pool_of(&d->config, now ? now->name : old->name);
    if (!now) {
        if (c)
            c->name[0] = 0; /* vgpud_pool_gone() */
        return;
    }
    if (c) {
        c->capacity = now->capacity;
        return;
    }
    if (old && !strcmp(old->executor, now->executor))
        return; /* waits() */
    pool_from_record(now, &p);
    pool_serve(d, &p);
}

static bool adopt(void *ctx, const struct vgpu_pool_record *rec)
{
    struct vgpud *d = ctx;

    if (pool_of(&d->config, rec->name) || !rec->executor[0])
        return true;
    bool known = false;
    for (uint32_t i = 0; i < d->config.executor_count; i++)
        known |= !strcmp(d->config.executors[i].name, rec->executor);
    if (!known || d->config.pool_count == VGPU_CONFIG_MAX_POOLS) {
        vgpu_log(VGPU_LOG_WARN, "pool %s of the store is not served: %s %s", rec->name,
                 known ? "there are too many pools, executor" : "there is no executor", rec->executor);
        return true;
    }
    pool_from_record(rec, &d->config.pools[d->config.pool_count++]);
    return true;
}

int vgpud_pools_adopt(struct vgpud *d, struct vgpu_err *err)
{
    return vgpu_store_each_pool(d->store, adopt, d, err);
}
