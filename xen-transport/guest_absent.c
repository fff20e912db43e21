/* SPDX-License-Identifier: Apache-2.0 */
/* Stands in for the guest half where libvgpu was built without Xen's headers. */
#include <errno.h>

#include "xen-transport/guest.h"

bool vgpu_xen_guest_here(void)
{
    return false;
}

int vgpu_xen_carrier_open(const char *library, struct vgpu_carrier **out, struct vgpu_err *err)
{
    (void)library;
    (void)out;
    return vgpu_err_set(err, ENOTSUP, "this libvgpu was built without Xen (-Dxen, libxen-dev)");
}
