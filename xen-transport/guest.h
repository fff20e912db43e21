/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's half of the Xen transport (core/base/carrier.h): grants its pages to the backend's domain, names them in
 * xenstore, waits on an event channel. Used by libvgpu only, which opens Xen's libraries when it needs them.
 *
 * No thread of its own: xenstore is read in the handshake and once a second, never watched. Whether the host lives is
 * seen in two bytes of the host page, which the host's kernel clears.
 */
#ifndef VGPU_XEN_TRANSPORT_GUEST_H
#define VGPU_XEN_TRANSPORT_GUEST_H

#include "core/base/carrier.h"

/* Is this a Xen guest that can grant pages? */
bool vgpu_xen_guest_here(void);
/* library NULL: the installed libraries. 0 and *out, or -errno with err: -ENOENT (libraries), -ENOTSUP (not built in). */
int vgpu_xen_carrier_open(const char *library, struct vgpu_carrier **out, struct vgpu_err *err);

struct vgpu_xen_directory;
/* For tests: the directory of a region that was made. */
struct vgpu_xen_directory *vgpu_xen_guest_directory(struct vgpu_carrier *c);

#endif
