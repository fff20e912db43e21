/* SPDX-License-Identifier: Apache-2.0 */
/* Commands that make, change, show and remove VMs. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "control/records.h"

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

/* What is stored and decided when a VM attaches: of one that runs it is not in force yet. */
static json_t *pending(const struct vgpu_vm_live *live)
{
    json_t *list = json_array();

    if (live->arena_waits)
        json_array_append_new(list, json_string("arena_bytes"));
    if (live->engine_waits)
        json_array_append_new(list, json_string("engine"));
    return list;
}

/* Limits (defaults filled in), and the live state. */
json_t *vgpu_vm_json(struct vgpu_control *c, const struct vgpu_vm_record *vm)
{
    const struct vgpu_config *config = c->params.config;
    struct vgpu_vm_live live;
    bool attached = vm_live(c, vm->vm_id, &live);
    uint64_t device = vm->device_bytes == UINT64_MAX ? config->device_bytes : vm->device_bytes;
    const char *state = attached ? live.state : vm->admin_state ? vgpu_admin_states[vm->admin_state] : "registered";
    json_t *token = vm->has_token ? vgpu_token_path(c, vm->vm_id) : json_null();

    json_t *json = json_pack(
        "{s:i,s:s,s:s,s:s,s:o,s:s,s:o,s:o,s:o,s:I,s:I,s:o,s:o,s:I,s:o,s:o}", "vm_id", (int)vm->vm_id, "pool", vm->pool,
        "priority", vgpu_priority_name(vm->priority), "name", vm->name, "uuid", text_or_null(vm->uuid), "engine",
        vgpu_engine_name(vm->engine), "state", vgpu_json_text(state), "uid", int_or_null(vm->uid >= 0, vm->uid), "pid",
        int_or_null(attached && live.pid >= 0, live.pid), "in_flight",
        (json_int_t)(vm->in_flight ? vm->in_flight : config->in_flight), "arena_bytes",
        (json_int_t)(vm->arena_bytes ? vm->arena_bytes : config->arena_bytes), "attached_arena_bytes",
        int_or_null(attached, (int64_t)live.arena_bytes), "arena_access", text_or_null(attached ? live.arena_access : NULL),
        "device_bytes", (json_int_t)device, "token_file", token, "broken_reason",
        text_or_null(attached ? live.broken_reason : NULL));
    json_t *more = json_pack("{s:s,s:I,s:s,s:o,s:b,s:o}", "isolation",
                             vgpu_isolations[vm->isolation], "iommu_domain", (json_int_t)vm->iommu_domain, "admin_state",
                             vgpu_admin_states[vm->admin_state], "reason", text_or_null(vm->reason), "expected",
                             vm->expected, "pending", attached ? pending(&live) : json_array());
    if (!json || !more || json_object_update(json, more)) {
        json_decref(json);
        json = NULL;
    }
    json_decref(more);
    return json;
}

void vgpu_vm_fill(const json_t *args, struct vgpu_vm_record *vm)
{
    const char *pool = vgpu_arg_string(args, "pool"), *uuid = vgpu_arg_string(args, "uuid");
    uint64_t limit;

    if (pool)
        snprintf(vm->pool, sizeof(vm->pool), "%s", pool);
    vm->priority = (uint32_t)vgpu_arg_priority(args, (int)vm->priority);
    if (vgpu_arg_string(args, "engine"))
        vm->engine = vgpu_arg_engine(args);
    if (vgpu_arg_limit(args, "in_flight", 0, &limit))
        vm->in_flight = (uint32_t)limit;
    vgpu_arg_limit(args, "arena_bytes", 0, &vm->arena_bytes);
    vgpu_arg_limit(args, "device_bytes", UINT64_MAX, &vm->device_bytes);
    vm->uid = vgpu_arg_int(args, "uid", vm->uid);
    if (uuid)
        vgpu_uuid_read(uuid, vm->uuid);
    vm->isolation = vgpu_arg_word(args, "isolation", vgpu_isolations, VGPU_VM_ISOLATION_COUNT, vm->isolation);
    vm->iommu_domain = (uint32_t)vgpu_arg_int(args, "iommu_domain", vm->iommu_domain);
}

/* What only one VM can have. */
static int one_only(const json_t *args, uint32_t count, struct vgpu_err *err)
{
    static const char *const keys[] = {"name", "uuid"};

    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
        if (count > 1 && vgpu_arg_string(args, keys[i]))
            return vgpu_err_set(err, EINVAL, "%s: %u VMs cannot share one; register them one by one or without a %s", keys[i],
                                count, keys[i]);
    return 0;
}

json_t *vgpu_vms_changed(struct vgpu_control *c, const char *command, struct vgpu_vm_change *vms, uint32_t n,
                         struct vgpu_err *err)
{
    const struct vgpu_change change = {.command = command, .vms = vms, .vm_count = n};
    json_t *list = NULL, *result = NULL;

    if (vgpu_change_make(c, &change, err))
        goto out;
    list = json_array();
    for (uint32_t i = 0; i < n; i++) {
        struct vgpu_vm_record now;
        if (vgpu_store_get_vm(c->params.store, vms[i].now.vm_id, &now, err) ||
            json_array_append_new(list, vgpu_vm_json(c, &now))) {
            json_decref(list);
            vgpu_result(NULL, err);
            goto out;
        }
    }
    result = vgpu_result(json_pack("{s:o}", "vms", list), err);
out:
    free(vms);
    return result;
}

void vgpu_vm_new(const json_t *args, uint32_t vm_id, struct vgpu_vm_record *vm)
{
    const char *name = vgpu_arg_string(args, "name");

    *vm = (struct vgpu_vm_record){.vm_id = vm_id, .priority = VGPU_PRIO_MEDIUM, .device_bytes = UINT64_MAX, .uid = -1};
    if (name)
        snprintf(vm->name, sizeof(vm->name), "%s", name);
    else
        snprintf(vm->name, sizeof(vm->name), "vm-%u", vm_id);
    vgpu_vm_fill(args, vm);
}

json_t *vgpu_run_register_vm(struct vgpu_control *c, const json_t *args, struct vgpu_err *err)
{
    uint32_t count = 0;
    uint32_t *ids = vgpu_ids_of(args, &count, err);
    struct vgpu_vm_change *vms = ids ? calloc(count, sizeof(*vms)) : NULL;

    if (!vms || one_only(args, count, err)) {
        if (ids && !vms)
            vgpu_err_set(err, ENOMEM, "out of memory");
        free(vms);
        free(ids);
        return NULL;
    }
    for (uint32_t i = 0; i < count; i++) {
        struct vgpu_vm_record *vm = &vms[i].now;
        vms[i].have_now = true;
        vgpu_vm_new(args, ids[i], vm);
    }
    const struct vgpu_change change = {.command = "register-vm", .vms = vms, .vm_count = count};
    json_t *list = vgpu_change_make(c, &change, err) ? NULL : json_array(), *result = NULL;
    for (uint32_t i = 0; list && i < count; i++)
        json_array_append_new(list, json_pack("{s:i,s:o}", "vm_id", (int)ids[i], "token_file",
                                              vms[i].now.uid >= 0 ? vgpu_token_path(c, ids[i]) : json_null()));
    if (list)
        result = vgpu_result(json_pack("{s:o}", "vms", list), err);
    free(vms);
    free(ids);
    return result;
}

/* The records of the VMs that the arguments name, as old and, to be changed, as now. NULL with err. */
static struct vgpu_vm_change *named(struct vgpu_control *c, const json_t *args, uint32_t *count, struct vgpu_err *err)
{
    uint32_t *ids = vgpu_ids_of(args, count, err);
    struct vgpu_vm_change *vms = ids ? calloc(*count, sizeof(*vms)) : NULL;
    int rc = vms ? 0 : ids ? vgpu_err_set(err, ENOMEM, "out of memory") : -ENOMEM;

    for (uint32_t i = 0; i < *count && !rc; i++) {
        vms[i].have_old = vms[i].have_now = true;
        rc = vgpu_store_get_vm(c->params.store, ids[i], &vms[i].old, err);
        vms[i].now = vms[i].old;
    }
    free(ids);
    if (!rc)
        return vms;
    free(vms);
    return NULL;
}

json_t *vgpu_run_update_vm(struct vgpu_control *c, const json_t *args, struct vgpu_err *err)
{
    const char *name = vgpu_arg_string(args, "name");
    uint32_t count = 0;

    if (json_object_size(args) < 2) {
        vgpu_err_set(err, EINVAL, "update-vm: nothing to change; expected at least one of name, pool, priority, engine, "
                                  "in_flight, arena_bytes, device_bytes, uid, uuid, isolation, iommu_domain");
        return NULL;
    }
    struct vgpu_vm_change *vms = named(c, args, &count, err);
    if (!vms || one_only(args, count, err)) {
        free(vms);
        return NULL;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (name)
            snprintf(vms[i].now.name, sizeof(vms[i].now.name), "%s", name);
        vgpu_vm_fill(args, &vms[i].now);
        if (vms[i].now.uid != vms[i].old.uid)
            vms[i].now.has_token = false; /* another user gets a token of its own */
    }
    return vgpu_vms_changed(c, "update-vm", vms, count, err);
}

static json_t *set(struct vgpu_control *c, const char *command, const json_t *args, struct vgpu_err *err)
{
    uint32_t count = 0;
    struct vgpu_vm_change *vms = named(c, args, &count, err);

    if (!vms)
        return NULL;
    for (uint32_t i = 0; i < count; i++)
        vgpu_vm_fill(args, &vms[i].now);
    return vgpu_vms_changed(c, command, vms, count, err);
}

json_t *vgpu_run_set_pool(struct vgpu_control *c, const json_t *args, struct vgpu_err *err)
{
    return set(c, "set-pool", args, err);
}

json_t *vgpu_run_set_priority(struct vgpu_control *c, const json_t *args, struct vgpu_err *err)
{
    return set(c, "set-priority", args, err);
}

json_t *vgpu_run_set_limit(struct vgpu_control *c, const json_t *args, struct vgpu_err *err)
{
    if (json_object_size(args) < 2) {
        vgpu_err_set(err, EINVAL, "set-limit: no limit given; expected at least one of in_flight, arena_bytes, device_bytes");
        return NULL;
    }
    return set(c, "set-limit", args, err);
}

json_t *vgpu_run_remove_vm(struct vgpu_control *c, const json_t *args, struct vgpu_err *err)
{
    const json_t *ids = json_object_get(args, "vm_ids");
    uint32_t count = 0;

    for (size_t i = 0; i < json_array_size(ids); i++) { /* the stop that is missing says more than an id that is not there */
        uint32_t vm_id = (uint32_t)json_integer_value(json_array_get(ids, i));
        struct vgpu_vm_live live;
        if (vm_live(c, vm_id, &live)) {
            vgpu_err_set(err, EBUSY, "VM %u is %s; stop it first, or vgpu-ctl drain-vm --vm-id=%u", vm_id,
                         live.state[0] ? live.state : "attached", vm_id);
            return NULL;
        }
    }
    struct vgpu_vm_change *vms = named(c, args, &count, err);
    const struct vgpu_change change = {.command = "remove-vm", .vms = vms, .vm_count = count};
    json_t *list = NULL, *result = NULL;
    if (!vms)
        return NULL;
    for (uint32_t i = 0; i < count; i++)
        vms[i].have_now = false;
    if (vgpu_change_make(c, &change, err))
        goto out;
    list = json_array();
    for (uint32_t i = 0; i < count; i++)
        json_array_append_new(list, json_integer(vms[i].old.vm_id));
    result = vgpu_result(json_pack("{s:o}", "removed", list), err);
out:
    free(vms);
    return result;
}

struct listing {
    struct vgpu_control *c;
    json_t *list;
    bool failed;
};

static bool list_vm(void *ctx, const struct vgpu_vm_record *vm)
{
    struct listing *l = ctx;

    l->failed = json_array_append_new(l->list, vgpu_vm_json(l->c, vm)) != 0;
    return !l->failed;
}

json_t *vgpu_run_list_vms(struct vgpu_control *c, const json_t *args, struct vgpu_err *err)
{
    const char *pool = vgpu_arg_string(args, "pool");
    struct listing l = {.c = c};

    if (pool && vgpu_pool_get(c, pool, NULL, err))
        return NULL;
    l.list = json_array();
    int rc = l.list ? vgpu_store_each_vm(c->params.store, pool, vgpu_arg_priority(args, -1), list_vm, &l, err) : 0;
    if (!rc && l.list && !l.failed)
        return vgpu_result(json_pack("{s:o}", "vms", l.list), err);
    json_decref(l.list);
    return rc ? NULL : vgpu_result(NULL, err);
}

json_t *vgpu_run_show_vm(struct vgpu_control *c, const json_t *args, struct vgpu_err *err)
{
    struct vgpu_vm_record vm;

    if (vgpu_store_get_vm(c->params.store, (uint32_t)vgpu_arg_int(args, "vm_id", 0), &vm, err))
        return NULL;
    return vgpu_result(json_pack("{s:o}", "vm", vgpu_vm_json(c, &vm)), err);
}

/* ---- what the administrator decides about a VM ---- */

static json_t *decide(struct vgpu_control *c, const char *command, const json_t *args, enum vgpu_vm_admin from,
                      enum vgpu_vm_admin to, struct vgpu_err *err)
{
    const char *reason = vgpu_arg_string(args, "reason");
    uint32_t count = 0;
    struct vgpu_vm_change *vms = named(c, args, &count, err);

    for (uint32_t i = 0; vms && i < count; i++) {
        struct vgpu_vm_record *now = &vms[i].now;
        if (now->admin_state == VGPU_VM_QUARANTINED && to == VGPU_VM_DRAINED) {
            vgpu_err_set(err, EBUSY, "VM %u is quarantined, which is more; vgpu-ctl clear-quarantine --vm-id=%u first",
                         now->vm_id, now->vm_id);
            free(vms);
            return NULL;
        }
        if (to == VGPU_VM_ACTIVE && now->admin_state != from)
            continue; /* it is not in that state: nothing to take back */
        now->admin_state = to;
        snprintf(now->reason, sizeof(now->reason), "%s", to == VGPU_VM_ACTIVE || !reason ? "" : reason);
    }
    return vms ? vgpu_vms_changed(c, command, vms, count, err) : NULL;
}

json_t *vgpu_run_drain_vm(struct vgpu_control *c, const json_t *args, struct vgpu_err *err)
{
    bool undo = vgpu_arg_bool(args, "undo");

    if (undo && vgpu_arg_string(args, "reason")) {
        vgpu_err_set(err, EINVAL, "drain-vm: undo takes no reason");
        return NULL;
    }
    return decide(c, "drain-vm", args, VGPU_VM_DRAINED, undo ? VGPU_VM_ACTIVE : VGPU_VM_DRAINED, err);
}

json_t *vgpu_run_quarantine_vm(struct vgpu_control *c, const json_t *args, struct vgpu_err *err)
{
    return decide(c, "quarantine-vm", args, VGPU_VM_ACTIVE, VGPU_VM_QUARANTINED, err);
}

json_t *vgpu_run_clear_quarantine(struct vgpu_control *c, const json_t *args, struct vgpu_err *err)
{
    return decide(c, "clear-quarantine", args, VGPU_VM_QUARANTINED, VGPU_VM_ACTIVE, err);
}
