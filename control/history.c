/* SPDX-License-Identifier: Apache-2.0 */
/* The history: rows of changes, and of pools that the configuration changed. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "control/records.h"

/* Takes both; each may be NULL. */
int vgpu_history_row(struct vgpu_store *s, const struct vgpu_caller *caller, const char *command, const char *object,
                     uint32_t vm_id, json_t *old, json_t *now, const char *result, struct vgpu_err *err)
{
    struct vgpu_audit_record a = {.vm_id = vm_id, .uid = -1, .pid = -1, .result = result};
    char *old_text = old ? json_dumps(old, JSON_COMPACT) : NULL, *new_text = now ? json_dumps(now, JSON_COMPACT) : NULL;

    if (caller) {
        a.uid = caller->uid;
        a.pid = caller->pid;
        if (caller->user[0])
            memcpy(a.user, caller->user, sizeof(a.user));
        else
            vgpu_user_name(caller->uid, a.user, sizeof(a.user));
    }
    snprintf(a.command, sizeof(a.command), "%s", command);
    snprintf(a.object, sizeof(a.object), "%s", object);
    a.old_json = old_text;
    a.new_json = new_text;
    int rc = (old && !old_text) || (now && !new_text) ? vgpu_err_set(err, ENOMEM, "out of memory")
                                                      : vgpu_store_audit_add(s, &a, err);
    free(old_text);
    free(new_text);
    json_decref(old);
    json_decref(now);
    return rc;
}

int vgpu_control_note(struct vgpu_control *c, const char *command, const char *object, json_t *now, struct vgpu_err *err)
{
    return vgpu_history_row(c->params.store, c->caller, command, object, 0, NULL, now, "ok", err);
}

/* ---- pools of the configuration ---- */

struct pools {
    struct vgpu_pool_record *list;
    uint32_t n;
    bool failed;
};

static bool pools_add(void *ctx, const struct vgpu_pool_record *p)
{
    struct pools *l = ctx;
    struct vgpu_pool_record *more = realloc(l->list, (l->n + 1) * sizeof(*more));

    l->failed = !more;
    if (!more)
        return false;
    l->list = more;
    l->list[l->n++] = *p;
    return true;
}

static int pools_read(struct vgpu_store *s, struct pools *l, struct vgpu_err *err)
{
    int rc = vgpu_store_each_pool(s, pools_add, l, err);

    return rc || !l->failed ? rc : vgpu_err_set(err, ENOMEM, "out of memory");
}

static const struct vgpu_pool_record *pools_find(const struct pools *l, const char *name)
{
    for (uint32_t i = 0; i < l->n; i++)
        if (!strcmp(l->list[i].name, name))
            return &l->list[i];
    return NULL;
}

static int pool_row(struct vgpu_store *s, const struct vgpu_caller *caller, const char *command, const char *name,
                    const struct vgpu_pool_record *old, const struct vgpu_pool_record *now, struct vgpu_err *err)
{
    char object[VGPU_NAME_BYTES + 8];

    snprintf(object, sizeof(object), "pool %s", name);
    return vgpu_history_row(s, caller, command, object, 0, old ? vgpu_pool_record_json(old) : NULL,
                            now ? vgpu_pool_record_json(now) : NULL, "ok", err);
}

int vgpu_control_put_pools(struct vgpu_store *s, const struct vgpu_caller *caller, const char *command,
                           const struct vgpu_config *config, struct vgpu_err *err)
{
    struct vgpu_pool_record pools[VGPU_CONFIG_MAX_POOLS] = {0};
    struct pools before = {0}, after = {0};
    uint32_t n = 0;
    int rc = vgpu_store_begin(s, err);

    if (rc)
        return rc;
    for (uint32_t i = 0; i < config->pool_count; i++) {
        if (config->pools[i].stored)
            continue;
        memcpy(pools[n].name, config->pools[i].name, sizeof(pools[n].name));
        pools[n++].capacity = config->pools[i].capacity;
    }
    rc = pools_read(s, &before, err);
    rc = rc ? rc : vgpu_store_put_pools(s, pools, n, err);
    rc = rc ? rc : pools_read(s, &after, err);
    for (uint32_t i = 0; i < before.n && !rc; i++)
        if (!pools_find(&after, before.list[i].name))
            rc = pool_row(s, caller, command, before.list[i].name, &before.list[i], NULL, err);
    for (uint32_t i = 0; i < after.n && !rc; i++) {
        const struct vgpu_pool_record *old = pools_find(&before, after.list[i].name);
        if (!old || old->capacity != after.list[i].capacity)
            rc = pool_row(s, caller, command, after.list[i].name, old, &after.list[i], err);
    }
    free(before.list);
    free(after.list);
    return vgpu_store_end(s, rc, err);
}
