# SPDX-License-Identifier: Apache-2.0
# A domain that is registered works through grants; one that is not gets nothing. g1 is VM 1 from here on.
# expects: device vecadd gemm identity claims unregistered unregistered-device grant-limit registered-later

register 1 --pool=A --priority=high --uuid=$UUID1 --arena-bytes=2M
check device 'its device node appears' wait_until 20 xenstore-exists "$(device g1)/state"

guest_run g1 60 'vgpu-vecadd'
check vecadd "$REPLY" [ $? -eq 0 ]
guest_run g1 60 'vgpu-gemm --size 48x32x64'
check gemm "$REPLY" [ $? -eq 0 ]
mark worked

guest_run g1 30 'vgpu-lab-guest who I-am'
check identity "$REPLY" [ "$REPLY" = 'I-am vm=1 pool=A priority=0 backend=cpu arena=2097152' ]
# It may say what it likes: in its environment, in each node that it can write, and in those that it cannot.
guest_run g1 30 'for n in vm-id pool priority name uuid max-arena-bytes; do xenstore-write device/vgpu/0/$n 2; done
    xenstore-write vm /vm/'$UUID2'
    xenstore-write "$(xenstore-read device/vgpu/0/backend)/vm-id" 2
    VGPU_VM_ID=2 vgpu-lab-guest who I-am'
check claims "it says it is VM 2; $REPLY" [ "$REPLY" = 'I-am vm=1 pool=A priority=0 backend=cpu arena=2097152' ]

guest_run g2 60 'vgpu-vecadd --size 256'
status=$?
check unregistered "exit $status: $REPLY" refused_unregistered $status g2

# Nor does a device that somebody made for it help: who it is decides.
/lab/vgpu-xen-device add "$(guest_id g2)"
guest_run g2 60 'vgpu-vecadd --size 256'
status=$?
check unregistered-device "exit $status: $REPLY" refused_naming $status 'not registered'
/lab/vgpu-xen-device remove "$(guest_id g2)"

# 8 MiB are more than gntalloc gives out by default. The sentence must name what to turn.
register 2 --pool=A --priority=low --uuid=$UUID2 --arena-bytes=8M
wait_until 20 xenstore-exists "$(device g2)/state"
guest_run g2 60 'vgpu-lab-guest arena 8'
status=$?
check grant-limit "exit $status: $REPLY" refused_naming $status gntalloc limit
$CTL remove-vm --vm-id=2 >/dev/null && register 2 --pool=A --priority=low --uuid=$UUID2 --arena-bytes=1M
wait_until 20 xenstore-exists "$(device g2)/state"
guest_run g2 60 'vgpu-vecadd --size 256'
check registered-later "$REPLY" [ $? -eq 0 ]
mark registered
