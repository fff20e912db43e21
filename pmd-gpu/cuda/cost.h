/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which engine runs an operation: the one that should end first. Pure functions, loop thread.
 *
 * The constants were measured on one H200 behind a 16-core VM (docs/performance.md, section GPU); what matters is where
 * the curves of the engines cross, and there they are flat.
 */
#ifndef VGPU_CUDA_COST_H
#define VGPU_CUDA_COST_H

#include "pmd-gpu/backend.h"

#define VGPU_CUDA_PARTS_MAX 16u  /* workers that share one operation */
#define VGPU_CUDA_BATCH_BYTES_MAX (UINT64_C(64) << 10) /* of one operand: larger ones get a launch of their own */

enum vgpu_cuda_route {
    VGPU_CUDA_NOTHING, /* no work for the device */
    VGPU_CUDA_RESIDENT,
    VGPU_CUDA_BATCH,
    VGPU_CUDA_STREAM,
};

struct vgpu_cuda_choice {
    enum vgpu_cuda_route route;
    uint32_t parts; /* RESIDENT: workers to share it */
};

struct vgpu_cuda_situation {
    enum vgpu_engine engine;  /* of the VM, or the configured one */
    bool resident;            /* workers run */
    bool bounced;             /* the arena is reached through a copy */
    uint32_t parts_max;       /* workers that are free now */
};

struct vgpu_cuda_choice vgpu_cuda_choose(const struct vgpu_work *w, const struct vgpu_cuda_situation *s);

/* Nanoseconds from submit to seen done, by a resident worker each of `parts`, and by a launch. */
uint64_t vgpu_cuda_cost_resident_ns(const struct vgpu_work *w, uint32_t parts);
uint64_t vgpu_cuda_cost_launch_ns(const struct vgpu_work *w);

#endif
