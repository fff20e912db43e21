/* SPDX-License-Identifier: Apache-2.0 */
#include "guest-lib/examples/common.h"

#include <stdio.h>

struct vgpu *ex_open(void)
{
    struct vgpu *v;
    char why[256];
    int rc = vgpu_open(NULL, &v, why, sizeof(why));

    if (rc == 0)
        return v;
    fprintf(stderr, "%s\n", why);
    return NULL;
}
