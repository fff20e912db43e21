/* SPDX-License-Identifier: Apache-2.0 */
/*
 * VMs' memory and VFIO-bound devices (iommu.devices): a VM's arena is mapped into its IOMMU domain when it attaches,
 * and taken out before its memory goes away. Control thread. Pinning takes as long as the memory is large (some 0.3 s
 * per GiB); poll cores do not notice.
 */
#ifndef VGPU_CORE_DMA_H
#define VGPU_CORE_DMA_H

#include "core/base/transport.h"
#include "core/config.h"
#include "iommu/domains.h"

/* What an attachment holds. All zero: nothing. */
struct vgpud_dma {
    void *base; /* the arena's pages in this process, for as long as they are mapped for DMA */
    uint64_t span_bytes;
};

/* Takes the configured devices into their domains. 0 or -errno; *out NULL when there are none. root and sys: as in
 * struct vgpu_iommu_params. */
int vgpud_dma_open(const struct vgpu_config *c, const char *root, const struct vgpu_vfio_sys *sys,
                   struct vgpu_iommu **out, struct vgpu_err *err);
/* domain, dedicated: of the VM's registration. 0; or -1 with the refusal filled and nothing mapped. io NULL, or a
 * region without a file behind it: nothing to do. */
int vgpud_dma_attach(struct vgpu_iommu *io, uint32_t vm_id, uint32_t domain, bool dedicated,
                     const struct vgpu_region *region, struct vgpud_dma *dma, struct vgpu_refusal *r);
/* On return no device reaches the memory. Once or more often. */
void vgpud_dma_detach(struct vgpu_iommu *io, uint32_t vm_id, struct vgpud_dma *dma);

#endif
