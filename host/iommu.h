/* SPDX-License-Identifier: Apache-2.0 */
/* IOMMUs and their groups as Linux sees them. Under Xen Linux sees none: the hypervisor drives them. Control thread. */
#ifndef VGPU_HOST_IOMMU_H
#define VGPU_HOST_IOMMU_H

#include "host/root.h"

#define VGPU_HOST_UNITS_MAX 64u

enum vgpu_host_iommu_kind { /* by the names of its units, else by the firmware's table */
                            VGPU_HOST_IOMMU_NONE,
                            VGPU_HOST_IOMMU_INTEL,
                            VGPU_HOST_IOMMU_AMD,
                            VGPU_HOST_IOMMU_SMMU,
                            VGPU_HOST_IOMMU_VIRTIO,
                            VGPU_HOST_IOMMU_OTHER,
};
struct vgpu_host_group {
    int32_t id;
    char type[16];                  /* "DMA", "DMA-FQ", "identity", "unmanaged", "blocked", "auto"; "" unknown */
    struct vgpu_host_names devices; /* names on their bus; PCI ones as in struct vgpu_host_pci_device */
};
struct vgpu_host_iommu {
    char unit[VGPU_HOST_UNITS_MAX][VGPU_HOST_NAME_MAX]; /* of /sys/class/iommu: the IOMMUs in use */
    uint32_t unit_count;
    enum vgpu_host_iommu_kind kind;
    bool dmar, ivrs, iort;                      /* the firmware has the table of Intel, AMD, Arm */
    int dmar_error;                             /* -EACCES: it is there, its content is for root */
    bool dmar_interrupt_remap, dmar_dma_opt_in; /* flags of the DMAR table; if dmar and !dmar_error */
    struct vgpu_host_group *group;
    uint32_t group_count;
};
int vgpu_host_iommu_read(const struct vgpu_host_root *root, struct vgpu_host_iommu *out);
void vgpu_host_iommu_free(struct vgpu_host_iommu *iommu);
/* NULL: no such group. */
const struct vgpu_host_group *vgpu_host_group_find(const struct vgpu_host_iommu *iommu, int32_t id);

#endif
