/* SPDX-License-Identifier: Apache-2.0 */
/* Stands in for the host half where this build has no Xen transport. */
#include <errno.h>
#include <unistd.h>

#include "core/base/transport.h"

#define WHY "this build has no Xen transport (-Dxen, libxen-dev)"

static int absent_open(const struct vgpu_transport_options *options, const struct vgpu_transport_events *events, void *ctx,
                       struct vgpu_transport **out, struct vgpu_err *err)
{
    return vgpu_err_set(err, ENOTSUP, WHY);
}

const struct vgpu_transport_ops vgpu_transport_xen = {
    .size = sizeof(struct vgpu_transport_ops),
    .name = "xen",
    .open = absent_open,
};

static int absent_view_open(const struct vgpu_region_source *src, struct vgpu_region_view **out, struct vgpu_err *err)
{
    if (src->doorbell_fd >= 0)
        close(src->doorbell_fd);
    return vgpu_err_set(err, ENOTSUP, WHY);
}

const struct vgpu_region_ops vgpu_region_grants = {.open = absent_view_open};
