#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# A guest's first process: what it needs, then the agent that does as dom0 says.
. /vmlab.sh
vmlab_mounts
export PATIENCE=$(vmlab_argument lab.patience 1)
limit=$(vmlab_argument lab.grants)
insmod /mod/xen-evtchn.ko
insmod /mod/xen-gntalloc.ko ${limit:+limit=$limit}
insmod /mod/xen-gntdev.ko

# Ten domains and dom0 on two emulated processors: the host may take longer than libvgpu waits for its answers.
export VGPU_HOST_TIMEOUT_MS=$((60000 * PATIENCE))
vgpu-lab-agent serve
poweroff -f
