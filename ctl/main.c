/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/run.h"

int main(int argc, char **argv)
{
    return vgpu_ctl_run(argc, argv, stdout, stderr);
}
