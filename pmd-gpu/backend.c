/* SPDX-License-Identifier: Apache-2.0 */
#include "pmd-gpu/backend.h"

#include <string.h>

/* Every backend of this build, in the order shown to people. */
static const struct vgpu_backend_ops *const backends[] = {
    &vgpu_backend_null,
    &vgpu_backend_cpu,
#ifdef VGPU_HAVE_CUDA
    &vgpu_backend_cuda,
#endif
    &vgpu_backend_fault_null,
    &vgpu_backend_fault_cpu,
};

const struct vgpu_backend_ops *vgpu_backend_find(const char *name)
{
    for (size_t i = 0; i < sizeof(backends) / sizeof(backends[0]); i++)
        if (strcmp(backends[i]->name, name) == 0)
            return backends[i];
    return NULL;
}

const char *vgpu_backend_names(void)
{
    return "null, cpu, "
#ifdef VGPU_HAVE_CUDA
           "cuda, "
#endif
           "fault:null, fault:cpu";
}
