/* SPDX-License-Identifier: Apache-2.0 */
/* Prints config/vgpud.yaml. A build tool, not installed: build/config/vgpu-config-reference > config/vgpud.yaml */
#include <stdio.h>

#include "core/config.h"

int main(void)
{
    vgpu_config_reference(stdout);
    return fflush(stdout) ? 1 : 0;
}
