# SPDX-License-Identifier: Apache-2.0
# A domain that is registered works through grants; one that is not gets nothing. g1 is VM 1 from here on.
# expects: device vecadd gemm identity claims claims-control claims-open
# expects: unregistered unregistered-device grant-limit registered-later

register 1 --pool=A --priority=high --uuid=$UUID1 --arena-bytes=2M
check device 'its device node appears' device_up g1

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
device_up g2
guest_run g2 60 'vgpu-lab-guest arena 8'
status=$?
check grant-limit "exit $status: $REPLY" refused_naming $status gntalloc limit
$CTL remove-vm --vm-id=2 >/dev/null && register 2 --pool=A --priority=low --uuid=$UUID2 --arena-bytes=1M
device_up g2
guest_run g2 60 'vgpu-vecadd --size 256'
check registered-later "$REPLY" [ $? -eq 0 ]

# What counts is the toolstack's node: the claim that failed above succeeds there. Where the guest could have written it
# itself, it counts for nothing.
D1=$(guest_id g1)
vm=/local/domain/$D1/vm
xenstore-write "$vm" "/vm/$UUID2"
guest_run g1 30 'vgpu-lab-guest who I-am'
check claims-control "the toolstack says that g1 is VM 2; $REPLY" [ "${REPLY%% pool*}" = 'I-am vm=2' ]
xenstore-write "$vm" "/vm/$UUID1"
xenstore-chmod "$vm" n0 "b$D1"
guest_run g1 30 "xenstore-write vm /vm/$UUID2; vgpu-lab-guest who I-am"
status=$?
[ "$(xenstore-read "$vm")" = "/vm/$UUID2" ] && refused_naming $status UUID
check claims-open "g1 may write to that node, and says there that it is VM 2; exit $status: $REPLY" [ $? -eq 0 ]
xenstore-chmod "$vm" n0 "r$D1"
xenstore-write "$vm" "/vm/$UUID1"
mark registered
