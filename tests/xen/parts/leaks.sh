# SPDX-License-Identifier: Apache-2.0
# g1's process attaches lab.attaches times (kernel argument): what the hypervisor counts returns to what it was.
# expects: attach-cycles attach-grants attach-channels

ATTACHES=$(vmlab_argument lab.attaches 10)
D1=$(guest_id g1)
guest_run g1 60 'vgpu-lab-guest cycles 2'
wait_until 10 vm_state 1 registered
grants_before=$(grants_used "$D1") channels_before=$(channels_used 0)
guest_run g1 120 "vgpu-lab-guest cycles $ATTACHES"
check attach-cycles "$REPLY" [ $? -eq 0 ]
wait_until 10 vm_state 1 registered
check attach-grants "$grants_before before, $(grants_used "$D1") after" [ "$(grants_used "$D1")" = "$grants_before" ]
check attach-channels "$channels_before before, $(channels_used 0) after" [ "$(channels_used 0)" = "$channels_before" ]
mark leaks
