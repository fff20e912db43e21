/* SPDX-License-Identifier: Apache-2.0 */
/* Commands about pools. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "control/records.h"

static const char *configured_backend(const struct vgpu_control *c, const char *executor)
{
    const struct vgpu_config *config = c->params.config;

    for (uint32_t i = 0; i < config->executor_count; i++)
        if (!strcmp(config->executors[i].name, executor))
            return config->executors[i].backend;
    return NULL;
}

static json_t *text_or_null(const char *text)
{
    return text && text[0] ? vgpu_json_text(text) : json_null();
}

static json_t *pool_json(struct vgpu_control *c, const struct vgpu_pool_record *p)
{
    const struct vgpu_control_ops *ops = c->params.ops;
    const struct vgpu_pool_config *config = vgpu_pool_configured(c, p->name);
    struct vgpu_pool_live live = {.executor_pid = -1};
    bool up = ops->pool_live && ops->pool_live(c->params.ctx, p->name, &live);
    const char *executor = up && live.executor[0] ? live.executor
                           : config               ? config->executor
                                                  : p->executor;

    return json_pack("{s:s,s:i,s:i,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:i}", "name", p->name, "capacity", (int)p->capacity,
                     "members", (int)p->members, "executor", text_or_null(executor), "backend",
                     text_or_null(up && live.backend[0] ? live.backend : configured_backend(c, executor)), "device",
                     text_or_null(up ? live.device : NULL), "fallback", text_or_null(up ? live.fallback : NULL), "fault",
                     text_or_null(up ? live.fault : NULL), "state", vgpu_json_text(up ? live.state : "down"), "executor_pid",
                     up && live.executor_pid >= 0 ? json_integer(live.executor_pid) : json_null(), "sm_share",
                     (int)p->sm_share);
}

struct listing {
    struct vgpu_control *c;
    json_t *list;
    bool failed;
};

static bool list_pool(void *ctx, const struct vgpu_pool_record *p)
{
    struct listing *l = ctx;

    l->failed = json_array_append_new(l->list, pool_json(l->c, p)) != 0;
    return !l->failed;
}

json_t *vgpu_run_list_pools(struct vgpu_control *c, const json_t *args, struct vgpu_err *err)
{
    struct listing l = {.c = c, .list = json_array()};
    int rc = l.list ? vgpu_store_each_pool(c->params.store, list_pool, &l, err) : 0;

    if (!rc && l.list && !l.failed)
        return vgpu_result(json_pack("{s:o}", "pools", l.list), err);
    json_decref(l.list);
    return rc ? NULL : vgpu_result(NULL, err);
}

static bool list_member(void *ctx, const struct vgpu_vm_record *vm)
{
    struct listing *l = ctx;

    l->failed = json_array_append_new(l->list, vgpu_vm_json(l->c, vm)) != 0;
    return !l->failed;
}

json_t *vgpu_run_show_pool(struct vgpu_control *c, const json_t *args, struct vgpu_err *err)
{
    const char *name = vgpu_arg_string(args, "pool");
    struct vgpu_pool_record p;
    struct listing l = {.c = c};

    if (vgpu_pool_get(c, name, &p, err))
        return NULL;
    l.list = json_array();
    int rc = l.list ? vgpu_store_each_vm(c->params.store, name, -1, list_member, &l, err) : 0;
    if (!rc && l.list && !l.failed)
        return vgpu_result(json_pack("{s:o,s:o}", "pool", pool_json(c, &p), "vms", l.list), err);
    json_decref(l.list);
    return rc ? NULL : vgpu_result(NULL, err);
}

/* Makes the change and shows the pool. */
static json_t *changed(struct vgpu_control *c, const char *command, struct vgpu_pool_change *p, struct vgpu_err *err)
{
    const struct vgpu_change change = {.command = command, .pools = p, .pool_count = 1};
    struct vgpu_pool_record now;

    if (vgpu_change_make(c, &change, err) || vgpu_pool_get(c, p->now.name, &now, err))
        return NULL;
    return vgpu_result(json_pack("{s:o}", "pool", pool_json(c, &now)), err);
}

static void record_fill(const json_t *args, struct vgpu_pool_record *p)
{
    const char *executor = vgpu_arg_string(args, "executor");

    p->capacity = (uint32_t)vgpu_arg_int(args, "capacity", p->capacity);
    if (executor)
        snprintf(p->executor, sizeof(p->executor), "%s", executor);
    p->sm_share = (uint32_t)vgpu_arg_int(args, "sm_share", p->sm_share);
}

json_t *vgpu_run_create_pool(struct vgpu_control *c, const json_t *args, struct vgpu_err *err)
{
    const struct vgpu_config *config = c->params.config;
    struct vgpu_pool_change p = {.have_now = true, .now = {.capacity = VGPU_POOL_CAPACITY}};

    snprintf(p.now.name, sizeof(p.now.name), "%s", vgpu_arg_string(args, "pool"));
    if (config->executor_count == 1)
        snprintf(p.now.executor, sizeof(p.now.executor), "%s", config->executors[0].name);
    record_fill(args, &p.now);
    if (!p.now.executor[0]) {
        vgpu_err_set(err, EINVAL, "create-pool: which executor is to serve pool %s? expected executor (list-pools shows them)",
                     p.now.name);
        return NULL;
    }
    return changed(c, "create-pool", &p, err);
}

json_t *vgpu_run_update_pool(struct vgpu_control *c, const json_t *args, struct vgpu_err *err)
{
    struct vgpu_pool_change p = {.have_old = true, .have_now = true};

    if (json_object_size(args) < 2) {
        vgpu_err_set(err, EINVAL, "update-pool: nothing to change; expected at least one of capacity, executor, sm_share");
        return NULL;
    }
    if (vgpu_pool_get(c, vgpu_arg_string(args, "pool"), &p.old, err))
        return NULL;
    p.now = p.old;
    record_fill(args, &p.now);
    return changed(c, "update-pool", &p, err);
}

json_t *vgpu_run_remove_pool(struct vgpu_control *c, const json_t *args, struct vgpu_err *err)
{
    struct vgpu_pool_change p = {.have_old = true};
    const struct vgpu_change change = {.command = "remove-pool", .pools = &p, .pool_count = 1};
    const char *name = vgpu_arg_string(args, "pool");

    if (vgpu_pool_get(c, name, &p.old, err))
        return NULL;
    if (vgpu_change_make(c, &change, err))
        return NULL;
    return vgpu_result(json_pack("{s:s}", "removed", name), err);
}
