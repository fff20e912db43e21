/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What `vgpu-ctl show-iommu-status` shows, as JSON: the IOMMU of this host and its groups, vgpud's domains, which
 * memory of each VM is mapped for whom, and the faults in the kernel's log. docs/control-protocol.md has the members.
 *
 * vgpud answers with it; without a daemon vgpu-ctl makes it itself, and then nothing is mapped by anybody.
 */
#ifndef VGPU_IOMMU_STATE_H
#define VGPU_IOMMU_STATE_H

#include <jansson.h>

#include "iommu/domains.h"

/* A registered VM, and who reaches its arena besides VFIO-bound devices. */
struct vgpu_iommu_vm {
    uint32_t vm_id;
    uint32_t domain;
    bool dedicated;
    bool attached;
    uint64_t arena_bytes; /* attached */
    char executor[32];    /* that serves it; "" : not attached */
    char backend[32];
    int64_t executor_pid;  /* -1: none, or in process */
    char arena_access[16]; /* direct, bounce, none; "" : not now */
};

struct vgpu_iommu_status_params {
    const char *root;            /* "/", or a copy of a host */
    const struct vgpu_iommu *io; /* NULL: no VFIO-bound devices */
    const struct vgpu_iommu_vm *vms;
    uint32_t vm_count;
};
/* A new reference; NULL with err. Blocks for some milliseconds: it reads sysfs and the kernel's log. */
json_t *vgpu_iommu_status(const struct vgpu_iommu_status_params *params, struct vgpu_err *err);

#endif
