/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What this host's IOMMU is: the units, the groups, the devices in them, whether DMA is translated, as sysfs tells it.
 * Every path is under `root`, so that a captured tree can be asked. Control thread, or vgpu-ctl; blocking reads of sysfs.
 */
#ifndef VGPU_IOMMU_STATE_H
#define VGPU_IOMMU_STATE_H

#include <stdbool.h>
#include <stdint.h>

#define VGPU_IOMMU_MAX_UNITS 64u

struct vgpu_iommu_member {
    char address[32]; /* as sysfs names it */
    char driver[32];  /* "" : none */
    uint32_t class_code, vendor, device;
};
struct vgpu_iommu_group {
    uint32_t number;
    char type[16]; /* DMA, DMA-FQ, identity, unmanaged, blocked, ...; "" : this kernel does not say */
    uint32_t member_count;
    struct vgpu_iommu_member *members;
};
struct vgpu_iommu_state {
    bool enabled;         /* there are groups: the kernel translates DMA for at least these devices */
    bool xen;             /* under Xen: the hypervisor owns the IOMMU, dom0 sees neither units nor groups */
    bool xen_dom0;
    uint32_t unit_count;
    char units[VGPU_IOMMU_MAX_UNITS][32]; /* dmar0, ivhd0, smmu3.0x... */
    uint32_t pci_devices; /* on this host */
    uint32_t covered;     /* of these, in a group */
    uint32_t passthrough; /* groups of type identity: their devices reach all memory */
    uint32_t group_count;
    struct vgpu_iommu_group *groups; /* by number */
};

/* 0 or -ENOMEM. vgpu_iommu_state_free() either way. A tree without any of it is a host without an IOMMU. */
int vgpu_iommu_state_read(const char *root, struct vgpu_iommu_state *out);
void vgpu_iommu_state_free(struct vgpu_iommu_state *s);

#endif
