/* SPDX-License-Identifier: Apache-2.0 */
/* The command show-iommu-status: the registry and the live state of VMs, put together with what iommu/ knows. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "control/control_int.h"
#include "iommu/state.h"

struct collect {
    struct vgpu_control *control;
    int64_t only; /* -1: all */
    struct vgpu_iommu_vm *vms;
    uint32_t count, room;
    bool no_memory;
};

static void live_fill(const struct vgpu_control *c, const struct vgpu_vm_record *vm, struct vgpu_iommu_vm *out)
{
    const struct vgpu_control_ops *ops = c->params.ops;
    struct vgpu_vm_live live;
    struct vgpu_pool_live pool;

    if (!ops->vm_live || !ops->vm_live(c->params.ctx, vm->vm_id, &live))
        return;
    out->attached = true;
    out->arena_bytes = live.arena_bytes;
    memcpy(out->arena_access, live.arena_access, sizeof(out->arena_access));
    if (ops->pool_live && ops->pool_live(c->params.ctx, vm->pool, &pool)) {
        memcpy(out->executor, pool.executor, sizeof(out->executor));
        memcpy(out->backend, pool.backend, sizeof(out->backend));
        out->executor_pid = pool.executor_pid;
    }
}

static bool collect_vm(void *ctx, const struct vgpu_vm_record *vm)
{
    struct collect *all = ctx;

    if (all->only >= 0 && all->only != vm->vm_id)
        return true;
    if (all->count == all->room) {
        uint32_t room = all->room ? 2 * all->room : 64;
        struct vgpu_iommu_vm *more = realloc(all->vms, room * sizeof(*more));
        if (!more) {
            all->no_memory = true;
            return false;
        }
        all->vms = more;
        all->room = room;
    }
    struct vgpu_iommu_vm *out = &all->vms[all->count++];
    *out = (struct vgpu_iommu_vm){.vm_id = vm->vm_id,
                                  .domain = vm->iommu_domain,
                                  .dedicated = vm->isolation == VGPU_VM_DEDICATED,
                                  .executor_pid = -1};
    live_fill(all->control, vm, out);
    return true;
}

json_t *vgpu_run_iommu_status(struct vgpu_control *c, const json_t *args, struct vgpu_err *err)
{
    struct collect all = {.control = c, .only = vgpu_arg_int(args, "vm_id", -1)};
    const struct vgpu_control_ops *ops = c->params.ops;
    struct vgpu_vm_record record;
    json_t *result = NULL;

    if (all.only >= 0 && vgpu_store_get_vm(c->params.store, (uint32_t)all.only, &record, err))
        return NULL;
    int rc = vgpu_store_each_vm(c->params.store, NULL, -1, collect_vm, &all, err);
    if (rc == 0 && all.no_memory)
        rc = vgpu_err_set(err, ENOMEM, "out of memory");
    if (rc == 0) {
        struct vgpu_iommu_status_params params = {
            .root = "/", .io = ops->iommu ? ops->iommu(c->params.ctx) : NULL, .vms = all.vms, .vm_count = all.count};
        result = vgpu_iommu_status(&params, err);
    }
    free(all.vms);
    return result;
}
