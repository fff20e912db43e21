# SPDX-License-Identifier: Apache-2.0
# What one domain may not do to another, and dom0 not to a page that it was lent read-only. Each refusal has a control
# beside it that shows that the means are right: the same is done by somebody who may.
# expects: grant-foreign grant-control channel-foreign channel-control store-foreign-read store-foreign-write
# expects: store-control store-own-properties readonly-map readonly-write readonly-control

D1=$(guest_id g1) D2=$(guest_id g2)
flow_start g1
wait_until 30 flow_gets_on g1

# References from the hypervisor's own list, whatever the nodes say.
grants "$D1" >/tmp/grants
shared=$(awk '!and($3, 4) && $1 > 8 { print $1; exit }' /tmp/grants)
lent=$(awk 'and($3, 4) { print $1; exit }' /tmp/grants)
LENT=$(awk 'and($3, 4)' /tmp/grants | wc -l)
info grants "$(grants_used "$D1") pages granted by g1, $LENT of them read-only"

guest_run g2 20 "vgpu-lab-reach map $D1 ${shared:-none} ro"
status=$?
check grant-foreign "g2 maps page ${shared:-none} of g1: $REPLY" [ "${shared:-0}" -gt 0 -a $status -eq 1 ]
check grant-control 'dom0 maps the same page' vgpu-lab-reach map "$D1" "${shared:-none}" ro

guest_background g1 "vgpu-lab-reach offer 0 30 >/tmp/port"
guest_run g1 20 'sleep 1; cat /tmp/port'
port=$REPLY
guest_run g2 20 "vgpu-lab-reach bind $D1 $port"
status=$?
check channel-foreign "g2 binds channel $port of g1: $REPLY" [ $status -eq 1 ]
check channel-control 'dom0 binds the same channel' vgpu-lab-reach bind "$D1" "$port"

# Every node of g1's device and of its backend.
xenstore-ls -f "$(device g1)" >/tmp/nodes
xenstore-ls -f "/local/domain/0/backend/vgpu/$D1/0" >>/tmp/nodes
many=$([ "$(wc -l </tmp/nodes)" -gt 8 ] && echo yes)
nodes=$(sed 's/ = .*//' /tmp/nodes | tr '\n' ' ')
guest_run g2 60 "r=0; for n in $nodes; do xenstore-read \$n >/dev/null 2>&1 && r=\$((r+1)); done; echo read \$r"
check store-foreign-read "of $(wc -l </tmp/nodes) nodes of g1, g2: $REPLY" [ "$REPLY/$many" = 'read 0/yes' ]
guest_run g2 60 "r=0; for n in $nodes; do xenstore-write \$n x 2>/dev/null && r=\$((r+1)); done; echo wrote \$r"
check store-foreign-write "of $(wc -l </tmp/nodes) nodes of g1, g2: $REPLY" [ "$REPLY/$many" = 'wrote 0/yes' ]
guest_run g1 60 "r=0; for n in $nodes; do xenstore-read \$n >/dev/null 2>&1 && r=\$((r+1)); done; echo read \$r"
check store-control "g1 itself: $REPLY" [ "${REPLY#read }" -gt 4 ]
backend=$(sed 's/ = .*//' /tmp/nodes | grep "^/local/domain/0/backend/" | tr '\n' ' ')
guest_run g1 60 "r=0; t=0; for n in $backend; do
    t=\$((t+1)); xenstore-write \$n 2 2>/dev/null && r=\$((r+1)); done; echo \$r of \$t"
check store-own-properties "g1 writes its properties: $REPLY" [ "${REPLY%% *}" = 0 -a "${REPLY##* }" -gt 2 ]

reached=$(vgpu-lab-reach map "$D1" "${lent:-none}" rw)
check readonly-map "dom0 maps page ${lent:-none} writable: $reached" [ "${reached%%:*}" = refused ]
reached=$(vgpu-lab-reach write "$D1" "${lent:-none}")
check readonly-write "dom0 writes to it: $reached" [ "${reached%%:*}" = refused ]
check readonly-control 'dom0 maps it read-only' vgpu-lab-reach map "$D1" "${lent:-none}" ro
flow_end g1 || fail walls-flow "$REPLY"
mark walls
