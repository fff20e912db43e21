/* SPDX-License-Identifier: Apache-2.0 */
#include "core/dma.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

int vgpud_dma_open(const struct vgpu_config *c, const char *root, const struct vgpu_vfio_sys *sys,
                   struct vgpu_iommu **out, struct vgpu_err *err)
{
    struct vgpu_iommu_device devices[VGPU_CONFIG_MAX_DEVICES] = {0};
    struct vgpu_iommu_params params = {
        .devices = devices, .device_count = c->device_count, .max_mappings = c->max_vms, .root = root, .sys = sys};

    *out = NULL;
    if (!c->device_count)
        return 0;
    for (uint32_t i = 0; i < c->device_count; i++) {
        memcpy(devices[i].address, c->devices[i].address, sizeof(devices[i].address));
        devices[i].domain = c->devices[i].domain;
        devices[i].read_only = c->devices[i].read_only;
    }
    return vgpu_iommu_open(&params, out, err);
}

int vgpud_dma_attach(struct vgpu_iommu *io, uint32_t vm_id, uint32_t domain, bool dedicated,
                     const struct vgpu_region *region, struct vgpud_dma *dma, struct vgpu_refusal *r)
{
    uint64_t page = region->page_bytes;
    /* Up to the end of the last page that the IOMMU can tell apart: the rest of it is the same VM's. */
    uint64_t bytes = (region->layout.arena_bytes + VGPU_PAGE_BYTES - 1) / VGPU_PAGE_BYTES * VGPU_PAGE_BYTES;
    struct vgpu_err err;

    /* Domain 0 is shared: a dedicated VM without a domain of its own is reached by no device. */
    if (!bytes || region->fd < 0 || (dedicated && !domain) || !vgpu_iommu_has_devices(io, domain))
        return 0;
    /* Whole pages of the memory behind it; the devices get the arena alone. */
    uint64_t start = region->layout.arena_off / page * page;
    uint64_t end = (region->layout.arena_off + bytes + page - 1) / page * page;
    void *p = mmap(NULL, end - start, PROT_READ | PROT_WRITE, MAP_SHARED, region->fd, (off_t)start);
    if (p == MAP_FAILED)
        return vgpu_refuse(r, VGPU_ATTACH_E_NOMEM, "the host cannot map the arena for DMA: %s", strerror(errno));
    if (vgpu_iommu_map(io, vm_id, domain, dedicated, (char *)p + (region->layout.arena_off - start), bytes, &err)) {
        munmap(p, end - start);
        return vgpu_refuse(r, err.code == EBUSY ? VGPU_ATTACH_E_UNAVAILABLE : VGPU_ATTACH_E_NOMEM, "%s", err.text);
    }
    dma->base = p;
    dma->span_bytes = end - start;
    return 0;
}

void vgpud_dma_detach(struct vgpu_iommu *io, uint32_t vm_id, struct vgpud_dma *dma)
{
    struct vgpu_err err;

    if (!dma->base)
        return;
    if (vgpu_iommu_unmap(io, vm_id, &err))
        vgpu_log(VGPU_LOG_ERROR, "%s", err.text);
    munmap(dma->base, dma->span_bytes);
    memset(dma, 0, sizeof(*dma));
}
