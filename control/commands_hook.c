/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attach and detach: what the hooks of hypervisors say when a VM starts and has stopped. The same twice is fine, in any
 * order, and with the daemon or without it: a hook that fails would keep a VM from starting.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "control/records.h"

struct gap {
    uint32_t free; /* lowest id that no VM has so far */
};

static bool gap_look(void *ctx, const struct vgpu_vm_record *vm)
{
    struct gap *g = ctx;

    if (vm->vm_id > g->free)
        return false; /* they come in order */
    g->free = vm->vm_id + 1;
    return true;
}

/* The VM that is meant: by its uuid, else by its id; where both are given they must be one. -ENOENT: there is none. */
static int find(struct vgpu_control *c, const char *command, const json_t *args, struct vgpu_vm_record *vm,
                struct vgpu_err *err)
{
    const char *uuid = vgpu_arg_string(args, "uuid");
    int64_t vm_id = vgpu_arg_int(args, "vm_id", 0);
    char lower[VGPU_UUID_BYTES];
    int rc;

    if (!uuid && !vm_id)
        return vgpu_err_set(err, EINVAL, "%s: expected vm_id or uuid, or both of one VM", command);
    if (!uuid)
        return vgpu_store_get_vm(c->params.store, (uint32_t)vm_id, vm, err);
    vgpu_uuid_read(uuid, lower);
    rc = vgpu_store_get_vm_by_uuid(c->params.store, lower, vm, err);
    if (!rc && vm_id && vm->vm_id != vm_id)
        return vgpu_err_set(err, EEXIST, "%s: uuid %s is VM %u, not VM %" PRId64, command, lower, vm->vm_id, vm_id);
    if (rc != -ENOENT || !vm_id || vgpu_store_get_vm(c->params.store, (uint32_t)vm_id, vm, &(struct vgpu_err){0}))
        return rc;
    return vgpu_err_set(err, EEXIST, "%s: VM %" PRId64 " is registered %s%s, not with uuid %s", command, vm_id,
                        vm->uuid[0] ? "with uuid " : "without a uuid", vm->uuid, lower);
}

/* A VM that is not registered yet; without an id it gets the lowest that is free. */
static int make(struct vgpu_control *c, const json_t *args, struct vgpu_vm_record *vm, struct vgpu_err *err)
{
    struct gap g = {.free = 1};
    uint32_t vm_id = (uint32_t)vgpu_arg_int(args, "vm_id", 0);

    if (!vm_id) {
        int rc = vgpu_store_each_vm(c->params.store, NULL, -1, gap_look, &g, err);
        if (rc)
            return rc;
        if (g.free > VGPU_VM_ID_MAX)
            return vgpu_err_set(err, ENOSPC, "attach: all %u VM ids are taken", VGPU_VM_ID_MAX);
        vm_id = g.free;
    }
    vgpu_vm_new(args, vm_id, vm);
    return 0;
}

/* Takes vm. */
static json_t *expect(struct vgpu_control *c, const char *command, struct vgpu_vm_change *vm, bool expected,
                      struct vgpu_err *err)
{
    vm->have_now = true;
    if (vm->have_old)
        vm->now = vm->old;
    vm->now.expected = expected;
    if (vm->have_old && vm->now.expected == vm->old.expected) { /* no change, and none in the history */
        json_t *result = vgpu_result(json_pack("{s:[o]}", "vms", vgpu_vm_json(c, &vm->old)), err);
        free(vm);
        return result;
    }
    return vgpu_vms_changed(c, command, vm, 1, err);
}

/* What is registered stays as it is, whatever else the hook says about it: that is the administrator's. */
json_t *vgpu_run_attach(struct vgpu_control *c, const json_t *args, struct vgpu_err *err)
{
    struct vgpu_vm_change *vm = calloc(1, sizeof(*vm));

    if (!vm)
        return vgpu_result(NULL, err);
    int rc = find(c, "attach", args, &vm->old, err);
    vm->have_old = rc == 0;
    if (rc == -ENOENT && vgpu_arg_string(args, "pool"))
        rc = make(c, args, &vm->now, err);
    if (!rc && vm->have_old && vm->old.admin_state == VGPU_VM_QUARANTINED)
        rc = vgpu_err_set(err, EPERM, "VM %u is quarantined%s%s; vgpu-ctl clear-quarantine --vm-id=%u lets it attach",
                          vm->old.vm_id, vm->old.reason[0] ? ": " : "", vm->old.reason, vm->old.vm_id);
    if (!rc)
        return expect(c, "attach", vm, true, err);
    free(vm);
    return NULL;
}

json_t *vgpu_run_detach(struct vgpu_control *c, const json_t *args, struct vgpu_err *err)
{
    struct vgpu_vm_change *vm = calloc(1, sizeof(*vm));

    if (!vm)
        return vgpu_result(NULL, err);
    vm->have_old = true;
    if (find(c, "detach", args, &vm->old, err) == 0)
        return expect(c, "detach", vm, false, err);
    free(vm);
    return NULL;
}
