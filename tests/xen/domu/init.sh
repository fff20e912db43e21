#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# A guest's first process: runs what dom0 writes to its node lab/command (in base64, since xenstore's tools escape line
# ends), one after the other, and answers in data/reply.
# Blocks in between: guests that poll take the CPU from each other.
. /vmlab.sh
vmlab_mounts
export PATIENCE=$(vmlab_argument lab.patience 1)
limit=$(vmlab_argument lab.grants)
insmod /mod/xen-evtchn.ko
insmod /mod/xen-gntalloc.ko ${limit:+limit=$limit}
insmod /mod/xen-gntdev.ko

# Ten domains and dom0 on two emulated processors: the host may take longer than libvgpu waits for its answers.
export VGPU_HOST_TIMEOUT_MS=$((60000 * PATIENCE))
answer() { # NUMBER STATUS TEXT
    xenstore-write data/reply "$1 $2 $(printf '%s' "$3" | tr '\n\t\r' '   ' | cut -c 1-400)"
}
xenstore-write data/ready 1
last=0
# A path relative to the domain's own, which changes when it is restored. Watches fire once when set, so a command that was
# written before is seen too.
xenstore-watch lab/command | while read -r _; do
    line=$(xenstore-read lab/command 2>/dev/null) || continue
    number=${line%% *}
    [ "$number" != "$last" ] || continue
    last=$number
    command=$(echo "${line#* }" | base64 -d)
    echo "lab: $command"
    sh -c "$command" >/tmp/out 2>&1 </dev/null
    status=$?
    cat /tmp/out
    answer "$number" $status "$(tail -n 1 /tmp/out)"
done
poweroff -f
