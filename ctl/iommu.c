/* SPDX-License-Identifier: Apache-2.0 */
/* vgpu-ctl show-iommu-status: of vgpud; of this host alone where there is none; of a captured copy of a host. */
#include <errno.h>
#include <stdlib.h>

#include "ctl/ask.h"
#include "ctl/local.h"
#include "ctl/print.h"
#include "iommu/state.h"

int vgpu_ctl_iommu(struct vgpu_ctl_local *local, int argc, char **argv)
{
    const struct vgpu_ctl_line *line = local->line;
    const char *root = json_string_value(json_object_get(line->args, "root"));
    bool of_one = json_object_get(line->args, "vm_id") != NULL;
    json_t *result = NULL;
    struct vgpu_err err;
    int code = VGPU_CTL_OK;

    if (root && of_one) {
        vgpu_err_set(&err, EINVAL, "show-iommu-status: a copy of a host (--root) has no VMs; leave --vm-id out");
        return vgpu_ctl_complain(local, &err, VGPU_CTL_USAGE);
    }
    int rc = root ? -ENOENT : vgpu_ctl_ask(line, "show-iommu-status", line->args, &result, &code, &err);
    /* Groups and faults are the host's own. A socket or a store that was named is what was asked for, though. */
    bool alone = root || (code == VGPU_CTL_UNREACHABLE && (rc == -ENOENT || rc == -ECONNREFUSED) && !of_one &&
                          !line->socket && !line->db && !getenv(VGPU_CTL_SOCKET_ENV));
    if (rc && !alone)
        return vgpu_ctl_complain(local, &err, code);
    if (rc) {
        result = vgpu_iommu_status(&(struct vgpu_iommu_status_params){.root = root ? root : "/"}, &err);
        if (!result)
            return vgpu_ctl_complain(local, &err, VGPU_CTL_REFUSED);
        if (!root)
            fprintf(local->errors, "vgpu-ctl: no vgpud runs here: this is what the host itself has\n");
    }
    if (line->json)
        vgpu_ctl_emit(local, result);
    else
        vgpu_ctl_print_iommu(local->out, result, local->color);
    json_decref(result);
    return VGPU_CTL_OK;
}
