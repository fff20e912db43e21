/* SPDX-License-Identifier: Apache-2.0 */
/* Changes of VMs and pools: checked as a whole, stored in one transaction with their history, then applied. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "control/records.h"
#include "core/base/suggest.h"

json_t *vgpu_result(json_t *result, struct vgpu_err *err)
{
    if (!result)
        vgpu_err_set(err, ENOMEM, "out of memory");
    return result;
}

const struct vgpu_pool_config *vgpu_pool_configured(const struct vgpu_control *c, const char *name)
{
    const struct vgpu_config *config = c->params.config;

    for (uint32_t i = 0; i < config->pool_count; i++)
        if (!config->pools[i].stored && !strcmp(config->pools[i].name, name))
            return &config->pools[i];
    return NULL;
}

const struct vgpu_pool_config *vgpu_pool_ruled(const struct vgpu_control *c, const char *name)
{
    return c->params.other_store ? NULL : vgpu_pool_configured(c, name);
}

const char *vgpu_config_file(const struct vgpu_control *c)
{
    return c->params.config->path[0] ? c->params.config->path : "the default configuration";
}

struct known {
    const char *wanted;
    char list[160];
    char best[VGPU_NAME_BYTES];
    unsigned distance;
};

static bool known_add(void *ctx, const struct vgpu_pool_record *p)
{
    struct known *k = ctx;
    const char *best = NULL;
    size_t n = strlen(k->list);

    vgpu_suggest_consider(k->wanted, p->name, &best, &k->distance);
    if (best)
        snprintf(k->best, sizeof(k->best), "%s", best);
    snprintf(k->list + n, sizeof(k->list) - n, "%s%s", n ? ", " : "", p->name);
    return true;
}

int vgpu_pool_get(struct vgpu_control *c, const char *name, struct vgpu_pool_record *out, struct vgpu_err *err)
{
    struct vgpu_pool_record unused;
    struct known k = {.wanted = name, .distance = ~0u};

    int rc = vgpu_store_get_pool(c->params.store, name, out ? out : &unused, err);
    if (rc != -ENOENT)
        return rc;
    rc = vgpu_store_each_pool(c->params.store, known_add, &k, err);
    if (rc)
        return rc;
    if (k.best[0])
        return vgpu_err_set(err, ENOENT, "there is no pool %s; did you mean %s?", name, k.best);
    return vgpu_err_set(err, ENOENT, "there is no pool %s; there are %s", name, k.list[0] ? k.list : "none");
}

uint32_t *vgpu_ids_of(const json_t *args, uint32_t *count, struct vgpu_err *err)
{
    const json_t *list = json_object_get(args, "vm_ids");
    uint32_t n = (uint32_t)json_array_size(list);
    uint32_t *ids = malloc(n * sizeof(*ids)); /* the check refused an empty list */

    if (!ids) {
        vgpu_err_set(err, ENOMEM, "out of memory");
        return NULL;
    }
    for (uint32_t i = 0; i < n; i++)
        ids[i] = (uint32_t)json_integer_value(json_array_get(list, i));
    *count = n;
    return ids;
}

/* ---- what the configuration allows ---- */

/* Device memory of the executor that serves this pool; 0: the configuration does not say. */
static uint64_t heap_bytes(const struct vgpu_control *c, const struct vgpu_pool_record *pool)
{
    const struct vgpu_config *config = c->params.config;
    const struct vgpu_pool_config *configured = vgpu_pool_configured(c, pool->name);
    const char *executor = pool->executor[0] ? pool->executor : configured ? configured->executor : "";

    for (uint32_t i = 0; i < config->executor_count; i++)
        if (!strcmp(config->executors[i].name, executor))
            return config->executors[i].heap_bytes;
    return 0;
}

/* Limits that are new; what was stored under an older configuration stays as it is. */
static int limits_check(const struct vgpu_control *c, const struct vgpu_vm_change *v,
                        const struct vgpu_pool_record *pool, struct vgpu_err *err)
{
    const struct vgpu_config *config = c->params.config;
    const struct vgpu_vm_record *now = &v->now;

    if (now->in_flight > config->in_flight && !(v->have_old && v->old.in_flight == now->in_flight))
        return vgpu_err_set(err, EINVAL, "in_flight: %u is more than limits.in_flight of the configuration; expected 1 to %u",
                            now->in_flight, config->in_flight);
    if (now->arena_bytes > config->max_arena_bytes && !(v->have_old && v->old.arena_bytes == now->arena_bytes))
        return vgpu_err_set(err, EINVAL,
                            "arena_bytes: %" PRIu64
                            " is more than limits.max_arena_bytes of the configuration; expected 4096 to %" PRIu64,
                            now->arena_bytes, config->max_arena_bytes);
    uint64_t heap = heap_bytes(c, pool);
    bool same = v->have_old && v->old.device_bytes == now->device_bytes && !strcmp(v->old.pool, now->pool);
    if (heap && now->device_bytes != UINT64_MAX && now->device_bytes > heap && !same)
        return vgpu_err_set(err, EINVAL,
                            "device_bytes: %" PRIu64 " is more than the heap of pool %s's executor; expected 0 to %" PRIu64
                            " (executors.heap_bytes)",
                            now->device_bytes, now->pool, heap);
    return 0;
}

/* The pool that a VM will be in: one of this change, or one that is there. */
static int pool_of(struct vgpu_control *c, const struct vgpu_change *change, const char *name,
                   struct vgpu_pool_record *out, struct vgpu_err *err)
{
    for (uint32_t i = 0; i < change->pool_count; i++)
        if (change->pools[i].have_now && !strcmp(change->pools[i].now.name, name)) {
            *out = change->pools[i].now;
            return 0;
        }
    return vgpu_pool_get(c, name, out, err);
}

static int vms_check(struct vgpu_control *c, const struct vgpu_change *change, struct vgpu_err *err)
{
    const struct vgpu_control_ops *ops = c->params.ops;
    struct vgpu_pool_record pool = {0};
    int rc = 0;

    for (uint32_t i = 0; i < change->vm_count && !rc; i++) {
        const struct vgpu_vm_change *v = &change->vms[i];
        if (v->have_now) {
            /* Reading a pool counts its members: not once more for each of them. */
            rc = strcmp(pool.name, v->now.pool) ? pool_of(c, change, v->now.pool, &pool, err) : 0;
            rc = rc ? rc : limits_check(c, v, &pool, err);
        }
        if (!rc && ops->vm_check && (v->have_old || v->have_now))
            rc = ops->vm_check(c->params.ctx, v->have_old ? &v->old : NULL, v->have_now ? &v->now : NULL, err);
    }
    return rc;
}

static int executor_check(const struct vgpu_control *c, const char *executor, struct vgpu_err *err)
{
    const struct vgpu_config *config = c->params.config;
    const char *best = NULL;
    unsigned distance = ~0u;
    char known[256] = "";

    for (uint32_t i = 0; i < config->executor_count; i++) {
        size_t n = strlen(known);
        if (!strcmp(config->executors[i].name, executor))
            return 0;
        vgpu_suggest_consider(executor, config->executors[i].name, &best, &distance);
        snprintf(known + n, sizeof(known) - n, "%s%s", n ? ", " : "", config->executors[i].name);
    }
    return vgpu_err_set(err, ENOENT, "there is no executor %s in %s; there are %s%s%s%s", executor, vgpu_config_file(c), known,
                        best ? "; did you mean " : "", best ? best : "", best ? "?" : "");
}

/* A pool that stands in the configuration is what stands there: at the next start at the latest. */
static int ruled_check(const struct vgpu_control *c, const struct vgpu_pool_config *ruled, const struct vgpu_pool_change *p,
                       struct vgpu_err *err)
{
    const char *file = vgpu_config_file(c);

    if (!p->have_now)
        return vgpu_err_set(err, EBUSY, "pool %s is one of the configuration's; take it out of pools in %s, then vgpu-ctl "
                                        "reload-config",
                            ruled->name, file);
    if (p->now.capacity != (p->have_old ? p->old.capacity : ruled->capacity))
        return vgpu_err_set(err, EBUSY,
                            "pool %s stands in %s with a capacity of %u; change its capacity there, then vgpu-ctl "
                            "reload-config",
                            ruled->name, file, ruled->capacity);
    if (p->now.executor[0] && strcmp(p->now.executor, ruled->executor) &&
        !(p->have_old && !strcmp(p->now.executor, p->old.executor)))
        return vgpu_err_set(err, EBUSY, "pool %s is served by executor %s; make a pool on %s, and set-pool its VMs",
                            ruled->name, ruled->executor, p->now.executor);
    return 0;
}

struct total {
    const struct vgpu_change *change;
    uint32_t n;
};

static bool count_kept(void *ctx, const struct vgpu_pool_record *p)
{
    struct total *t = ctx;

    for (uint32_t i = 0; i < t->change->pool_count; i++)
        if (t->change->pools[i].have_old && !strcmp(t->change->pools[i].old.name, p->name))
            return true; /* counted with the change */
    t->n++;
    return true;
}

/* More pools than a daemon serves are of no use to anybody. */
static int total_check(struct vgpu_control *c, const struct vgpu_change *change, struct vgpu_err *err)
{
    struct total t = {.change = change};
    bool more = false;

    for (uint32_t i = 0; i < change->pool_count; i++) {
        t.n += change->pools[i].have_now;
        more |= change->pools[i].have_now && !change->pools[i].have_old;
    }
    int rc = more ? vgpu_store_each_pool(c->params.store, count_kept, &t, err) : 0;
    if (rc || !more || t.n <= VGPU_CONFIG_MAX_POOLS)
        return rc;
    return vgpu_err_set(err, ENOSPC, "%u pools are more than a vgpud serves; expected %u at most", t.n,
                        VGPU_CONFIG_MAX_POOLS);
}

static int pools_check(struct vgpu_control *c, const struct vgpu_change *change, struct vgpu_err *err)
{
    const struct vgpu_control_ops *ops = c->params.ops;
    int rc = total_check(c, change, err);

    for (uint32_t i = 0; i < change->pool_count && !rc; i++) {
        const struct vgpu_pool_change *p = &change->pools[i];
        const struct vgpu_pool_config *ruled = vgpu_pool_ruled(c, p->have_now ? p->now.name : p->old.name);
        bool asked = p->have_now && !(p->have_old && !strcmp(p->now.executor, p->old.executor));
        if (asked && p->now.executor[0])
            rc = executor_check(c, p->now.executor, err);
        else if (asked && !ruled && !c->params.other_store)
            rc = vgpu_err_set(err, EINVAL, "pool %s: no executor is named, and it does not stand in %s; expected executor",
                              p->now.name, vgpu_config_file(c));
        if (!rc && ruled)
            rc = ruled_check(c, ruled, p, err);
    }
    if (!rc && ops->pools_check && change->pool_count)
        rc = ops->pools_check(c->params.ctx, change->pools, change->pool_count, err);
    return rc;
}

/* ---- storing ---- */

static int pool_store(struct vgpu_control *c, const char *command, const struct vgpu_pool_change *p, bool removal,
                      struct vgpu_err *err)
{
    struct vgpu_store *s = c->params.store;
    const char *name = p->have_now ? p->now.name : p->old.name;
    char object[VGPU_NAME_BYTES + 8];
    int rc;

    if (removal != !p->have_now) /* pools come before the VMs that are in them, and go after those that were */
        return 0;
    rc = !p->have_now   ? vgpu_store_remove_pool(s, p->old.name, err)
         : !p->have_old ? vgpu_store_add_pool(s, &p->now, err)
                        : vgpu_store_update_pool(s, &p->now, err);
    if (rc)
        return rc;
    snprintf(object, sizeof(object), "pool %s", name);
    return vgpu_history_row(s, c->caller, command, object, 0, p->have_old ? vgpu_pool_record_json(&p->old) : NULL,
                            p->have_now ? vgpu_pool_record_json(&p->now) : NULL, "ok", err);
}

enum part { PART_NEW, PART_OTHER, PART_GONE };

static bool in_part(const struct vgpu_vm_change *v, enum part part)
{
    return part == PART_NEW ? !v->have_old && v->have_now : part == PART_OTHER ? v->have_old && v->have_now : !v->have_now;
}

static int vms_store(struct vgpu_control *c, const struct vgpu_change *change, enum part part, struct vgpu_err *err)
{
    struct vgpu_vm_record *list = calloc(change->vm_count ? change->vm_count : 1, sizeof(*list));
    uint32_t *ids = calloc(change->vm_count ? change->vm_count : 1, sizeof(*ids)), n = 0;
    int rc = list && ids ? 0 : vgpu_err_set(err, ENOMEM, "out of memory");

    for (uint32_t i = 0; i < change->vm_count && !rc; i++)
        if (in_part(&change->vms[i], part)) {
            list[n] = change->vms[i].now;
            ids[n++] = part == PART_GONE ? change->vms[i].old.vm_id : change->vms[i].now.vm_id;
        }
    if (n && !rc)
        rc = part == PART_NEW     ? vgpu_store_add_vms(c->params.store, list, n, err)
             : part == PART_OTHER ? vgpu_store_update_vms(c->params.store, list, n, err)
                                  : vgpu_store_remove_vms(c->params.store, ids, n, err);
    free(list);
    free(ids);
    return rc;
}

static int vms_history(struct vgpu_control *c, const struct vgpu_change *change, struct vgpu_err *err)
{
    int rc = 0;

    for (uint32_t i = 0; i < change->vm_count && !rc; i++) {
        const struct vgpu_vm_change *v = &change->vms[i];
        uint32_t vm_id = v->have_now ? v->now.vm_id : v->old.vm_id;
        char object[32];
        snprintf(object, sizeof(object), "vm %u", vm_id);
        rc = vgpu_history_row(c->params.store, c->caller, change->command, object, vm_id,
                              v->have_old ? vgpu_vm_record_json(&v->old) : NULL,
                              v->have_now ? vgpu_vm_record_json(&v->now) : NULL, "ok", err);
    }
    return rc;
}

/* Token files of what is new or has another user now, before the commit: a VM that is stored can attach. */
static int tokens_store(struct vgpu_control *c, const struct vgpu_change *change, struct vgpu_err *err)
{
    struct vgpu_vm_record stored;
    int rc = 0;

    for (uint32_t i = 0; i < change->vm_count && !rc; i++) {
        const struct vgpu_vm_change *v = &change->vms[i];
        if (!v->have_now || v->now.uid < 0 || (v->have_old && v->old.uid == v->now.uid))
            continue;
        rc = vgpu_store_get_vm(c->params.store, v->now.vm_id, &stored, err);
        rc = rc ? rc : vgpu_token_write(c, &stored, err);
    }
    return rc;
}

/* Token files as the store has them: after a change that was made, or that was not. */
static void tokens_settle(struct vgpu_control *c, const struct vgpu_change *change, bool made)
{
    for (uint32_t i = 0; i < change->vm_count; i++) {
        const struct vgpu_vm_change *v = &change->vms[i];
        bool had = v->have_old && v->old.uid >= 0, has = v->have_now && v->now.uid >= 0;
        struct vgpu_vm_record stored;
        struct vgpu_err ignored;
        if (made ? had && !has : has && !had)
            vgpu_token_remove(c, v->have_now ? v->now.vm_id : v->old.vm_id);
        else if (!made && had && v->have_now && v->old.uid != v->now.uid &&
                 !vgpu_store_get_vm(c->params.store, v->old.vm_id, &stored, &ignored) &&
                 vgpu_token_write(c, &stored, &ignored))
            vgpu_log(VGPU_LOG_WARN, "%s", ignored.text);
    }
}

static int records_store(struct vgpu_control *c, const struct vgpu_change *change, struct vgpu_err *err)
{
    int rc = 0;

    for (uint32_t i = 0; i < change->pool_count && !rc; i++)
        rc = pool_store(c, change->command, &change->pools[i], false, err);
    rc = rc ? rc : vms_store(c, change, PART_GONE, err);
    rc = rc ? rc : vms_store(c, change, PART_OTHER, err);
    rc = rc ? rc : vms_store(c, change, PART_NEW, err);
    for (uint32_t i = 0; i < change->pool_count && !rc; i++)
        rc = pool_store(c, change->command, &change->pools[i], true, err);
    return rc ? rc : vms_history(c, change, err);
}

/* All that can be asked before anything is written; then a transaction is open. */
static int change_begin(struct vgpu_control *c, const struct vgpu_change *change, struct vgpu_err *err)
{
    int rc = pools_check(c, change, err);

    rc = rc ? rc : vms_check(c, change, err);
    return rc ? rc : vgpu_store_begin(c->params.store, err);
}

int vgpu_change_try(struct vgpu_control *c, const struct vgpu_change *change, struct vgpu_err *err)
{
    int rc = change_begin(c, change, err);

    if (rc)
        return rc;
    rc = records_store(c, change, err); /* a pool's room and what is unique is the store's to say */
    vgpu_store_end(c->params.store, rc ? rc : -ECANCELED, err);
    return rc;
}

int vgpu_change_make(struct vgpu_control *c, const struct vgpu_change *change, struct vgpu_err *err)
{
    const struct vgpu_control_ops *ops = c->params.ops;
    int rc = change_begin(c, change, err);

    if (rc)
        return rc;
    rc = records_store(c, change, err);
    rc = rc ? rc : tokens_store(c, change, err);
    rc = vgpu_store_end(c->params.store, rc, err);
    tokens_settle(c, change, rc == 0);
    if (rc)
        return rc;
    for (uint32_t i = 0; i < change->pool_count && ops->pool_apply; i++) {
        const struct vgpu_pool_change *p = &change->pools[i];
        ops->pool_apply(c->params.ctx, p->have_old ? &p->old : NULL, p->have_now ? &p->now : NULL);
    }
    for (uint32_t i = 0; i < change->vm_count && ops->vm_apply; i++) {
        const struct vgpu_vm_change *v = &change->vms[i];
        ops->vm_apply(c->params.ctx, v->have_old ? &v->old : NULL, v->have_now ? &v->now : NULL);
    }
    return 0;
}
