/* SPDX-License-Identifier: Apache-2.0 */
/* Known-good hosts to compare with. Made from fixtures (tests/host/reference.c prints them); a test keeps them true. */
#ifndef VGPU_HOST_REFERENCES_H
#define VGPU_HOST_REFERENCES_H

#include "host/checks.h"

struct vgpu_reference {
    const char *name, *about;
    enum vgpu_profile profile;
    const char *statuses; /* "ID=STATUS\n" for each check that does not pass there */
};
extern const struct vgpu_reference vgpu_references[];
extern const uint32_t vgpu_reference_count;
/* NULL: no such reference. */
const struct vgpu_reference *vgpu_reference_find(const char *name);
/* The status of a check in it. */
enum vgpu_check_status vgpu_reference_status(const struct vgpu_reference *reference, const char *id);

#endif
