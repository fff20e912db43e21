/* SPDX-License-Identifier: Apache-2.0 */
/*
 * IOMMU domains: which VFIO-bound device lives in which, and what is mapped there, for which VM. A domain is one VFIO
 * container. Domain 0 is shared by all VMs that ask for none; another number is a domain of its own, which a VM asks
 * for in its registration (iommu_domain) and a device is put into by the configuration (iommu.devices). A dedicated VM
 * shares its domain with no other. A VM whose domain has no device is mapped nowhere: nothing could reach it anyway.
 *
 * Control thread of vgpud. Nothing is allocated after open.
 */
#ifndef VGPU_IOMMU_DOMAINS_H
#define VGPU_IOMMU_DOMAINS_H

#include "iommu/vfio.h"

#define VGPU_IOMMU_MAX_DEVICES   16u
#define VGPU_IOMMU_ADDRESS_BYTES 16u                /* "0000:01:00.0" */
#define VGPU_IOMMU_IOVA_FIRST    UINT64_C(0x100000) /* below: never mapped, so that a device's null pointer faults */

struct vgpu_iommu_device {
    char address[VGPU_IOMMU_ADDRESS_BYTES];
    uint32_t domain;
    bool read_only; /* the domain's devices may read what is mapped there, not write it; all of a domain agree */
    uint32_t group; /* out */
};
/* One VM's memory in one domain. */
struct vgpu_iommu_mapping {
    uint32_t vm_id;
    uint32_t domain;
    bool dedicated, read_only;
    uint64_t iova, bytes;
};

struct vgpu_iommu_params {
    const struct vgpu_iommu_device *devices; /* copied */
    uint32_t device_count;
    uint32_t max_mappings;
    const char *root;                /* "" or a directory that stands for / (tests) */
    const struct vgpu_vfio_sys *sys; /* NULL: Linux */
};
struct vgpu_iommu;

/* Puts every device into its domain. 0 or -errno with what is wrong and how to mend it; nothing is left open. No
 * device: no container is opened, and every map below is a no-op. */
int vgpu_iommu_open(const struct vgpu_iommu_params *params, struct vgpu_iommu **out, struct vgpu_err *err);
/* Ends all domains: devices reach nothing. NULL is fine. */
void vgpu_iommu_close(struct vgpu_iommu *io);

/* May this VM use that domain, given who is in it now? 0, or -EBUSY with who is. NULL io: yes. */
int vgpu_iommu_may(const struct vgpu_iommu *io, uint32_t vm_id, uint32_t domain, bool dedicated, struct vgpu_err *err);
/* Has the domain any device? NULL io: no. */
bool vgpu_iommu_has_devices(const struct vgpu_iommu *io, uint32_t domain);
/*
 * Lets the devices of a domain reach a VM's memory, at an address that is chosen here. One mapping for each VM. vaddr
 * and bytes are multiples of 4096; the memory stays mapped in this process until vgpu_iommu_unmap(). 0 (also where the
 * domain has no device) or -errno: nothing is mapped then.
 */
int vgpu_iommu_map(struct vgpu_iommu *io, uint32_t vm_id, uint32_t domain, bool dedicated, void *vaddr, uint64_t bytes,
                   struct vgpu_err *err);
/*
 * Takes it back; on return no device reaches it. A VM without a mapping is fine. -errno: the kernel would not unmap, so
 * the whole domain was closed (the others in it lost their mapping too); err says so.
 */
int vgpu_iommu_unmap(struct vgpu_iommu *io, uint32_t vm_id, struct vgpu_err *err);

/* What there is, for show-iommu-status; index from 0, NULL behind the last. */
const struct vgpu_iommu_device *vgpu_iommu_device_at(const struct vgpu_iommu *io, uint32_t index);
const struct vgpu_iommu_mapping *vgpu_iommu_mapping_at(const struct vgpu_iommu *io, uint32_t index);
/* Was this domain closed because the kernel would not unmap? */
bool vgpu_iommu_domain_lost(const struct vgpu_iommu *io, uint32_t domain);

#endif
