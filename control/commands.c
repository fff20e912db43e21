/* SPDX-License-Identifier: Apache-2.0 */
/* The commands of docs/control-protocol.md, over the store and what the daemon knows. */
#include "control/control_int.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/suggest.h"

#define PAGE_BYTES 4096
#define BYTES_MAX  (INT64_C(1) << 40)

/* All JSON building checks for memory once, at the end: jansson passes NULL through and fails. */
static json_t *finish(json_t *result, struct vgpu_err *err)
{
    if (!result)
        vgpu_err_set(err, ENOMEM, "out of memory");
    return result;
}

static const struct vgpu_pool_config *pool_config(const struct vgpu_control *c, const char *name)
{
    const struct vgpu_config *config = c->params.config;
    for (uint32_t i = 0; i < config->pool_count; i++)
        if (!strcmp(config->pools[i].name, name))
            return &config->pools[i];
    return NULL;
}

/* Device memory of the executor that serves this configured pool. */
static uint64_t pool_heap_bytes(const struct vgpu_control *c, const char *name)
{
    const struct vgpu_config *config = c->params.config;
    const struct vgpu_pool_config *pool = pool_config(c, name);

    for (uint32_t i = 0; pool && i < config->executor_count; i++)
        if (!strcmp(config->executors[i].name, pool->executor))
            return config->executors[i].heap_bytes;
    return 0;
}

/* Fills err with the pools that there are. */
static void no_such_pool(const struct vgpu_control *c, const char *name, struct vgpu_err *err)
{
    const struct vgpu_config *config = c->params.config;
    char known[160] = "";
    const char *best = NULL;
    unsigned distance = ~0u;

    for (uint32_t i = 0; i < config->pool_count; i++) {
        size_t n = strlen(known);
        vgpu_suggest_consider(name, config->pools[i].name, &best, &distance);
        snprintf(known + n, sizeof(known) - n, "%s%s", n ? ", " : "", config->pools[i].name);
    }
    if (best)
        vgpu_err_set(err, ENOENT, "there is no pool %s; did you mean %s?", name, best);
    else
        vgpu_err_set(err, ENOENT, "there is no pool %s; there are %s", name, known);
}

static bool vm_live(struct vgpu_control *c, uint32_t vm_id, struct vgpu_vm_live *live)
{
    memset(live, 0, sizeof(*live));
    live->pid = -1;
    return c->params.ops->vm_live && c->params.ops->vm_live(c->params.ctx, vm_id, live);
}

static json_t *int_or_null(bool have, int64_t v)
{
    return have ? json_integer(v) : json_null();
}

static json_t *text_or_null(const char *text)
{
    return text && text[0] ? vgpu_json_text(text) : json_null();
}

/* A VM as the protocol shows it: limits in force (defaults filled in), and the live state. */
static json_t *vm_json(struct vgpu_control *c, const struct vgpu_vm_record *vm)
{
    const struct vgpu_config *config = c->params.config;
    struct vgpu_vm_live live;
    bool attached = vm_live(c, vm->vm_id, &live);
    uint64_t device = vm->device_bytes == UINT64_MAX ? config->device_bytes : vm->device_bytes;

    return json_pack("{s:i,s:s,s:s,s:s,s:s,s:o,s:o,s:o,s:o,s:I,s:I,s:o,s:o,s:I,s:o,s:o}", "vm_id", (int)vm->vm_id, "name",
                     vm->name, "pool", vm->pool, "priority", vgpu_priority_name(vm->priority), "engine",
                     vgpu_engine_name(vm->engine), "state",
                     vgpu_json_text(attached ? live.state : "registered"), "uid", int_or_null(vm->uid >= 0, vm->uid),
                     "uuid", text_or_null(vm->uuid),
                     "pid", int_or_null(attached && live.pid >= 0, live.pid), "in_flight",
                     (json_int_t)(vm->in_flight ? vm->in_flight : config->in_flight), "arena_bytes",
                     (json_int_t)(vm->arena_bytes ? vm->arena_bytes : config->arena_bytes), "attached_arena_bytes",
                     int_or_null(attached, (int64_t)live.arena_bytes), "arena_access",
                     text_or_null(attached ? live.arena_access : NULL), "device_bytes", (json_int_t)device, "token_file",
                     vm->has_token ? vgpu_token_path(c, vm->vm_id) : json_null(), "broken_reason",
                     attached && live.broken_reason[0] ? vgpu_json_text(live.broken_reason) : json_null());
}

/* The ids of a checked list, sorted as given; malloc'ed. */
static uint32_t *ids_of(const json_t *args, uint32_t *count, struct vgpu_err *err)
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

/* What all the VMs of one register-vm have in common. False with err filled. */
static bool register_template(struct vgpu_control *c, const json_t *args, uint32_t count, struct vgpu_vm_record *out,
                              struct vgpu_err *err)
{
    const struct vgpu_config *config = c->params.config;
    const char *pool = vgpu_arg_string(args, "pool"), *name = vgpu_arg_string(args, "name");

    memset(out, 0, sizeof(*out));
    if (!pool_config(c, pool)) {
        no_such_pool(c, pool, err);
        return false;
    }
    if (name && count > 1) {
        vgpu_err_set(err, EINVAL, "name: %u VMs cannot share one; register them one by one or without a name", count);
        return false;
    }
    snprintf(out->pool, sizeof(out->pool), "%s", pool);
    snprintf(out->name, sizeof(out->name), "%s", name ? name : "");
    out->priority = (uint32_t)vgpu_arg_priority(args, VGPU_PRIO_MEDIUM);
    out->engine = vgpu_arg_engine(args);
    out->in_flight = (uint32_t)vgpu_arg_int(args, "in_flight", 0);
    out->arena_bytes = (uint64_t)vgpu_arg_int(args, "arena_bytes", 0);
    out->device_bytes = (uint64_t)vgpu_arg_int(args, "device_bytes", -1); /* -1: UINT64_MAX, the default */
    out->uid = vgpu_arg_int(args, "uid", -1);
    const char *uuid = vgpu_arg_string(args, "uuid");
    if (uuid && count > 1) {
        vgpu_err_set(err, EINVAL, "uuid: %u VMs cannot share one; register them one by one", count);
        return false;
    }
    for (uint32_t i = 0; uuid && i < sizeof(out->uuid); i++) /* xenstore, libvirt and people write both cases */
        out->uuid[i] = (char)tolower((unsigned char)uuid[i]);
    out->iommu_domain = (uint32_t)vgpu_arg_int(args, "iommu_domain", VGPU_IOMMU_DOMAIN_HOST);
    const char *isolation = vgpu_arg_string(args, "isolation");
    if (isolation && strcmp(isolation, "shared") && strcmp(isolation, "dedicated")) {
        vgpu_err_set(err, EINVAL, "isolation: %s is none; expected shared or dedicated", isolation);
        return false;
    }
    out->isolation = isolation && !strcmp(isolation, "dedicated") ? VGPU_VM_DEDICATED : VGPU_VM_SHARED;
    if (out->in_flight > config->in_flight) {
        vgpu_err_set(err, EINVAL, "in_flight: %u is more than limits.in_flight of the configuration; expected 1 to %u",
                     out->in_flight, config->in_flight);
        return false;
    }
    if (out->arena_bytes > config->max_arena_bytes) {
        vgpu_err_set(err, EINVAL,
                     "arena_bytes: %" PRIu64
                     " is more than limits.max_arena_bytes of the configuration; expected %d to "
                     "%" PRIu64,
                     out->arena_bytes, PAGE_BYTES, config->max_arena_bytes);
        return false;
    }
    uint64_t heap_bytes = pool_heap_bytes(c, pool);
    if (out->device_bytes != UINT64_MAX && out->device_bytes > heap_bytes) {
        vgpu_err_set(err, EINVAL,
                     "device_bytes: %" PRIu64 " is more than the heap of pool %s's executor; expected 0 to %" PRIu64
                     " (executors.heap_bytes)",
                     out->device_bytes, pool, heap_bytes);
        return false;
    }
    return true;
}

/* Token files for VMs that are in the store; takes all back when one fails. */
static int write_tokens(struct vgpu_control *c, const uint32_t *ids, uint32_t count, struct vgpu_err *err)
{
    for (uint32_t i = 0; i < count; i++) {
        struct vgpu_vm_record vm;
        int rc = vgpu_store_get_vm(c->params.store, ids[i], &vm, err);
        if (!rc && vm.has_token)
            rc = vgpu_token_write(c, &vm, err);
        if (!rc)
            continue;
        while (i-- > 0)
            vgpu_token_remove(c, ids[i]);
        struct vgpu_err undo;
        if (vgpu_store_remove_vms(c->params.store, ids, count, &undo))
            vgpu_log(VGPU_LOG_ERROR, "VMs stay registered without token files: %s", undo.text);
        return rc;
    }
    return 0;
}

static json_t *run_register_vm(struct vgpu_control *c, const json_t *args, struct vgpu_err *err)
{
    struct vgpu_vm_record *vms = NULL, common;
    uint32_t count = 0;
    json_t *result = NULL, *list = NULL;
    uint32_t *ids = ids_of(args, &count, err);

    if (!ids || !register_template(c, args, count, &common, err))
        goto out;
    vms = malloc(count * sizeof(*vms));
    if (!vms) {
        vgpu_err_set(err, ENOMEM, "out of memory");
        goto out;
    }
    for (uint32_t i = 0; i < count; i++) {
        vms[i] = common;
        vms[i].vm_id = ids[i];
    }
    if (vgpu_store_add_vms(c->params.store, vms, count, err) || write_tokens(c, ids, count, err))
        goto out;
    list = json_array();
    for (uint32_t i = 0; i < count; i++)
        json_array_append_new(list, json_pack("{s:i,s:o}", "vm_id", (int)ids[i], "token_file",
                                              common.uid >= 0 ? vgpu_token_path(c, ids[i]) : json_null()));
    result = finish(json_pack("{s:o}", "vms", list), err);
out:
    free(vms);
    free(ids);
    return result;
}

static json_t *run_remove_vm(struct vgpu_control *c, const json_t *args, struct vgpu_err *err)
{
    uint32_t count = 0;
    json_t *result = NULL, *list;
    uint32_t *ids = ids_of(args, &count, err);

    if (!ids)
        return NULL;
    for (uint32_t i = 0; i < count; i++) {
        struct vgpu_vm_live live;
        if (vm_live(c, ids[i], &live)) {
            vgpu_err_set(err, EBUSY, "VM %u is %s; stop it first", ids[i], live.state[0] ? live.state : "attached");
            goto out;
        }
    }
    if (vgpu_store_remove_vms(c->params.store, ids, count, err))
        goto out;
    list = json_array();
    for (uint32_t i = 0; i < count; i++) {
        vgpu_token_remove(c, ids[i]);
        json_array_append_new(list, json_integer(ids[i]));
    }
    result = finish(json_pack("{s:o}", "removed", list), err);
out:
    free(ids);
    return result;
}

struct listing {
    struct vgpu_control *c;
    json_t *list;
    bool failed;
    const char *wanted; /* a pool to look for */
    bool found;
};

static bool list_vm(void *ctx, const struct vgpu_vm_record *vm)
{
    struct listing *l = ctx;
    l->failed = json_array_append_new(l->list, vm_json(l->c, vm)) != 0;
    return !l->failed;
}

static bool find_pool(void *ctx, const struct vgpu_pool_record *p)
{
    struct listing *l = ctx;
    l->found = !strcmp(p->name, l->wanted);
    return !l->found;
}

static json_t *run_list_vms(struct vgpu_control *c, const json_t *args, struct vgpu_err *err)
{
    const char *pool = vgpu_arg_string(args, "pool");
    struct listing l = {.c = c, .wanted = pool};

    /* A pool that the configuration no longer has may still have members in the store. */
    if (pool && vgpu_store_each_pool(c->params.store, find_pool, &l, err))
        return NULL;
    if (pool && !l.found) {
        no_such_pool(c, pool, err);
        return NULL;
    }
    l.list = json_array();
    if (!l.list || vgpu_store_each_vm(c->params.store, pool, vgpu_arg_priority(args, -1), list_vm, &l, err) ||
        l.failed) {
        bool memory = !l.list || l.failed;
        json_decref(l.list);
        return memory ? finish(NULL, err) : NULL;
    }
    return finish(json_pack("{s:o}", "vms", l.list), err);
}

static json_t *run_show_vm(struct vgpu_control *c, const json_t *args, struct vgpu_err *err)
{
    struct vgpu_vm_record vm;

    if (vgpu_store_get_vm(c->params.store, (uint32_t)vgpu_arg_int(args, "vm_id", 0), &vm, err))
        return NULL;
    return finish(json_pack("{s:o}", "vm", vm_json(c, &vm)), err);
}

static const char *configured_backend(const struct vgpu_control *c, const struct vgpu_pool_config *pool)
{
    const struct vgpu_config *config = c->params.config;
    for (uint32_t i = 0; pool && i < config->executor_count; i++)
        if (!strcmp(config->executors[i].name, pool->executor))
            return config->executors[i].backend;
    return NULL;
}

static bool list_pool(void *ctx, const struct vgpu_pool_record *p)
{
    struct listing *l = ctx;
    const struct vgpu_control_params *params = &l->c->params;
    const struct vgpu_pool_config *config = pool_config(l->c, p->name);
    struct vgpu_pool_live live = {.executor_pid = -1};
    bool up = params->ops->pool_live && params->ops->pool_live(params->ctx, p->name, &live);

    json_t *pool =
        json_pack("{s:s,s:i,s:i,s:o,s:o,s:o,s:o,s:o,s:o,s:o}", "name", p->name, "capacity", (int)p->capacity, "members",
                  (int)p->members, "executor",
                  text_or_null(up && live.executor[0] ? live.executor
                               : config               ? config->executor
                                                      : NULL),
                  "backend", text_or_null(up && live.backend[0] ? live.backend : configured_backend(l->c, config)),
                  "device", text_or_null(up ? live.device : NULL), "fallback",
                  text_or_null(up ? live.fallback : NULL), "fault", text_or_null(up ? live.fault : NULL), "state",
                  vgpu_json_text(up ? live.state : "down"), "executor_pid",
                  int_or_null(up && live.executor_pid >= 0, live.executor_pid));
    l->failed = json_array_append_new(l->list, pool) != 0;
    return !l->failed;
}

static json_t *run_list_pools(struct vgpu_control *c, const json_t *args, struct vgpu_err *err)
{
    struct listing l = {.c = c, .list = json_array()};

    if (!l.list || vgpu_store_each_pool(c->params.store, list_pool, &l, err) || l.failed) {
        bool memory = !l.list || l.failed;
        json_decref(l.list);
        return memory ? finish(NULL, err) : NULL;
    }
    return finish(json_pack("{s:o}", "pools", l.list), err);
}

static json_t *run_stats(struct vgpu_control *c, const json_t *args, struct vgpu_err *err)
{
    int64_t vm_id = vgpu_arg_int(args, "vm_id", -1);
    struct vgpu_vm_record vm;

    if (vm_id >= 0 && vgpu_store_get_vm(c->params.store, (uint32_t)vm_id, &vm, err))
        return NULL;
    return finish(c->params.ops->stats(c->params.ctx, vm_id), err);
}

static json_t *run_version(struct vgpu_control *c, const json_t *args, struct vgpu_err *err)
{
    return finish(
        json_pack("{s:s,s:o}", "version", VGPU_VERSION, "abi", json_sprintf("%u.%u", VGPU_ABI_MAJOR, VGPU_ABI_MINOR)),
        err);
}

const struct vgpu_command vgpu_commands[] = {
    {"register-vm",
     run_register_vm,
     {{"vm_ids", VGPU_ARG_VM_IDS, true, 0, 0},
      {"pool", VGPU_ARG_NAME, true, 0, 0},
      {"priority", VGPU_ARG_PRIORITY, false, 0, 0},
      {"engine", VGPU_ARG_ENGINE, false, 0, 0},
      {"name", VGPU_ARG_NAME, false, 0, 0},
      {"in_flight", VGPU_ARG_INT, false, 1, VGPU_RING_SLOTS_MAX},
      {"arena_bytes", VGPU_ARG_INT, false, PAGE_BYTES, BYTES_MAX},
      {"device_bytes", VGPU_ARG_INT, false, 0, BYTES_MAX},
      {"uid", VGPU_ARG_INT, false, 0, INT64_C(4294967294)},
      {"uuid", VGPU_ARG_UUID, false, 0, 0},
      {"isolation", VGPU_ARG_NAME, false, 0, 0},
      {"iommu_domain", VGPU_ARG_INT, false, 0, VGPU_VM_ID_MAX}}},
    {"remove-vm", run_remove_vm, {{"vm_ids", VGPU_ARG_VM_IDS, true, 0, 0}}},
    {"list-vms", run_list_vms, {{"pool", VGPU_ARG_NAME, false, 0, 0}, {"priority", VGPU_ARG_PRIORITY, false, 0, 0}}},
    {"show-vm", run_show_vm, {{"vm_id", VGPU_ARG_INT, true, 1, VGPU_VM_ID_MAX}}},
    {"list-pools", run_list_pools, {{NULL, VGPU_ARG_INT, false, 0, 0}}},
    {"stats", run_stats, {{"vm_id", VGPU_ARG_INT, false, 1, VGPU_VM_ID_MAX}}},
    {"show-iommu-status", vgpu_run_iommu_status, {{"vm_id", VGPU_ARG_INT, false, 1, VGPU_VM_ID_MAX}}},
    {"version", run_version, {{NULL, VGPU_ARG_INT, false, 0, 0}}},
};
const uint32_t vgpu_command_count = sizeof(vgpu_commands) / sizeof(vgpu_commands[0]);
