/* SPDX-License-Identifier: Apache-2.0 */
#include "host/references.h"

#include <string.h>

const struct vgpu_reference *vgpu_reference_find(const char *name)
{
    for (uint32_t i = 0; i < vgpu_reference_count; i++)
        if (strcmp(vgpu_references[i].name, name) == 0)
            return &vgpu_references[i];
    return NULL;
}

enum vgpu_check_status vgpu_reference_status(const struct vgpu_reference *reference, const char *id)
{
    char status[32];

    if (!vgpu_facts_value(reference->statuses, id, status, sizeof(status)))
        return VGPU_CHECK_PASS;
    int v = vgpu_status_find(status);
    return v < 0 ? VGPU_CHECK_UNKNOWN : (enum vgpu_check_status)v;
}
