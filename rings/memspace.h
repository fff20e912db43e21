/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Device memory of one VM: a slice of the executor's heap, reserved at attach (so the quota is a guarantee and no VM
 * can fragment another's memory), the handles that the guest gave to its buffers, and the free extents between them.
 * Bookkeeping only: nothing here touches the memory. Because a VM's operations run in order, a freed range can be given
 * out again at once: the MEM_ALLOC that zeroes it runs after all that used it.
 *
 * Owner: the poll core of the VM; before attach and after detach the control thread. No allocation after init.
 */
#ifndef VGPU_RINGS_MEMSPACE_H
#define VGPU_RINGS_MEMSPACE_H

#include <stdint.h>

#define VGPU_MEM_GRAIN 256u /* allocation granularity and alignment in bytes (that of cudaMalloc) */

struct vgpu_extent {
    uint64_t off;
    uint64_t bytes; /* handles: 0 means the handle is free */
};

struct vgpu_memspace {
    uint64_t base;      /* of the slice, in the executor's heap */
    uint64_t bytes;     /* of the slice */
    uint64_t used;
    uint32_t max_handles;
    uint32_t n_free;
    struct vgpu_extent *handles; /* [max_handles + 1], [0] unused; bytes as asked for, off in the heap */
    struct vgpu_extent *free;    /* [max_handles + 1], sorted by off, never adjacent */
};

/* 0 or -ENOMEM. */
int vgpu_memspace_init(struct vgpu_memspace *ms, uint64_t base, uint64_t bytes, uint32_t max_handles);
void vgpu_memspace_fini(struct vgpu_memspace *ms);
/* Forgets every buffer (device memory was lost). */
void vgpu_memspace_reset(struct vgpu_memspace *ms);
/* First fit. 0, -EEXIST (handle in use), -EBADF (handle out of range), -EINVAL (bytes 0), -ENOMEM. */
int vgpu_memspace_alloc(struct vgpu_memspace *ms, uint32_t handle, uint64_t bytes);
/* 0 or -EBADF. */
int vgpu_memspace_free(struct vgpu_memspace *ms, uint32_t handle);

#endif
