/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A VFIO container (type 1): one IOMMU address space, with the groups of devices that live in it. A device in it
 * reaches exactly what was mapped here, at the address (IOVA) that was chosen here. Control thread of vgpud; the calls
 * may take as long as pinning the memory takes. The kernel is reached through a table, so that tests can be the kernel.
 */
#ifndef VGPU_IOMMU_VFIO_H
#define VGPU_IOMMU_VFIO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/log.h"

#define VGPU_VFIO_MAX_GROUPS 16u
#define VGPU_VFIO_MAX_RANGES 32u

/* System calls: each returns as the call does, with errno. */
struct vgpu_vfio_sys {
    size_t size;
    int (*open)(void *ctx, const char *path);
    int (*ioctl)(void *ctx, int fd, unsigned long request, void *arg);
    void (*close)(void *ctx, int fd);
    void *ctx;
};
extern const struct vgpu_vfio_sys vgpu_vfio_sys_linux;

enum vgpu_vfio_access { VGPU_VFIO_READ = 1, VGPU_VFIO_WRITE = 2 }; /* by the device; bits */

struct vgpu_vfio_range {
    uint64_t first, last; /* IOVAs, both inside */
};
struct vgpu_vfio_container {
    const struct vgpu_vfio_sys *sys;
    int fd; /* -1: closed */
    uint32_t group_count;
    struct {
        uint32_t number;
        int fd;
    } groups[VGPU_VFIO_MAX_GROUPS];
    uint64_t page_bytes;  /* smallest that the IOMMU maps; valid once there is a group */
    uint32_t range_count; /* of the IOVAs that the IOMMU takes; 0: it does not say */
    struct vgpu_vfio_range ranges[VGPU_VFIO_MAX_RANGES];
};

/* Opens an empty container. 0 or -errno; nothing is left open on failure. sys outlives it. */
int vgpu_vfio_open(struct vgpu_vfio_container *c, const struct vgpu_vfio_sys *sys, struct vgpu_err *err);
/* Takes a group in: from now on its devices reach what is mapped here and nothing else. Not twice. 0 or -errno; a group
 * that could not be taken in is closed again. */
int vgpu_vfio_group_add(struct vgpu_vfio_container *c, uint32_t group, struct vgpu_err *err);
/*
 * Pins [vaddr, vaddr + bytes) of this process and lets the container's devices reach it at iova. access: enum
 * vgpu_vfio_access. All are multiples of page_bytes. 0 or -errno; on failure nothing is mapped.
 */
int vgpu_vfio_map(struct vgpu_vfio_container *c, uint64_t iova, void *vaddr, uint64_t bytes, uint32_t access,
                  struct vgpu_err *err);
/* Takes back one mapping, as it was made. 0; or -errno, and then parts of it may still be reachable by the devices: the
 * caller closes the container. */
int vgpu_vfio_unmap(struct vgpu_vfio_container *c, uint64_t iova, uint64_t bytes, struct vgpu_err *err);
/* Closes all: what was mapped is unmapped, and the devices reach nothing. A closed one is fine. */
void vgpu_vfio_close(struct vgpu_vfio_container *c);

#endif
