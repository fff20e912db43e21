#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# dom0's first process: Xen's services, then the scenario.
. /vmlab.sh
vmlab_mounts
# QEMU's CPU calls itself an Opteron and has no 3DNow!, which OpenBLAS then would use.
export OPENBLAS_CORETYPE=Nehalem
. /lab/xen.sh
GUEST_TYPE=$(vmlab_argument lab.type pv) GUEST_MEMORY=$(vmlab_argument lab.memory 96)
xen_services || { fail xen-services "$(tail -n 3 /tmp/services.log)"; vmlab_end; }
# A machine that is busy gets more time for each thing: services take 4 s of an idle one.
export PATIENCE=$(($(cut -d. -f1 /proc/uptime) / 4 + 2))
mark services
# Domains that poll must not take the processor from those who serve them.
xl sched-credit -d 0 -w 4096
. /lab/vgpu.sh
. /lab/scenario.sh
vmlab_end
