/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's half of the local transport (core/base/carrier.h): the attach handshake of rings/abi/vgpu_attach.h, a
 * sealed memfd as region, the doorbells, and the socket whose end is the end of the attachment. Used by libvgpu only.
 */
#ifndef VGPU_LOCAL_TRANSPORT_GUEST_H
#define VGPU_LOCAL_TRANSPORT_GUEST_H

#include "core/base/carrier.h"

/* socket_path and token are copied. 0 and *out, or -errno with err. */
int vgpu_local_carrier_open(const char *socket_path, uint32_t vm_id, const uint8_t token[VGPU_TOKEN_BYTES],
                            struct vgpu_carrier **out, struct vgpu_err *err);

#endif
