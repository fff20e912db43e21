# SPDX-License-Identifier: Apache-2.0
# What one domain may not do to another, and dom0 not to a page that it was lent read-only. Each refusal has a control
# beside it that shows that the means are right: the same is done by somebody who may.
# expects: grant-foreign grant-control channel-foreign channel-control store-foreign-read store-foreign-write
# expects: store-control store-own-properties store-foreign-control store-own-control
# expects: readonly-map readonly-write readonly-control readonly-write-control

D1=$(guest_id g1) D2=$(guest_id g2)
flow_start g1 calm
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

guest_background g1 "vgpu-lab-reach offer 0 >/tmp/port"
port_offered() { guest_run g1 20 'cat /tmp/port' && [ -n "$REPLY" ]; }
wait_until 60 port_offered
port=$REPLY
guest_run g2 20 "vgpu-lab-reach bind $D1 $port"
status=$?
check channel-foreign "g2 binds channel $port of g1: $REPLY" [ $status -eq 1 ]
check channel-control 'dom0 binds the same channel' vgpu-lab-reach bind "$D1" "$port"
guest_run g1 60 'killall vgpu-lab-reach'

# Every node of g1's device and of its backend.
xenstore-ls -f "$(device g1)" >/tmp/nodes
xenstore-ls -f "/local/domain/0/backend/vgpu/$D1/0" >>/tmp/nodes
many=$([ "$(wc -l </tmp/nodes)" -gt 8 ] && echo yes)
nodes=$(sed 's/ = .*//' /tmp/nodes | tr '\n' ' ')
count=$(wc -l </tmp/nodes)
guest_run g2 60 "vgpu-lab-reach nodes read $nodes"
check store-foreign-read "g2 reads $REPLY nodes of g1" [ "$REPLY/$many" = "0 of $count/yes" ]
guest_run g2 60 "vgpu-lab-reach nodes write $nodes"
check store-foreign-write "g2 writes $REPLY nodes of g1" [ "$REPLY/$many" = "0 of $count/yes" ]
guest_run g1 60 "vgpu-lab-reach nodes read $nodes"
check store-control "g1 itself reads $REPLY" [ "$REPLY/$many" = "$count of $count/yes" ]
backend=$(sed 's/ = .*//' /tmp/nodes | grep "^/local/domain/0/backend/" | tr '\n' ' ')
guest_run g1 60 "vgpu-lab-reach nodes write $backend"
check store-own-properties "g1 writes $REPLY of its properties" [ "$REPLY/$many" = "0 of $(echo $backend | wc -w)/yes" ]
# Without the protection, which is who may write to a node, both writes go through: dom0 takes it from one node of each kind
# that nobody reads any more in this attachment.
writes_when_open() { # WHO HIS-NUMBER NODE
    local was
    was=$(xenstore-read "$3")
    xenstore-chmod "$3" "n0" "b$2" && guest_run "$1" 60 "vgpu-lab-reach nodes write $3"
    OPEN="$REPLY, now $(xenstore-read "$3")"
    xenstore-write "$3" "$was"
    [ "$OPEN" = '1 of 1, now 2' ]
}
front=$(device g1)
writes_when_open g2 "$D2" "$front/event-channel"
check store-foreign-control "g2 writes to a node of g1 that is open to it: $OPEN" [ $? -eq 0 ]
xenstore-chmod "$front/event-channel" "n$D1" r0
writes_when_open g1 "$D1" "/local/domain/0/backend/vgpu/$D1/0/max-ring-slots"
check store-own-control "g1 writes to a property that is open to it: $OPEN" [ $? -eq 0 ]
xenstore-chmod "/local/domain/0/backend/vgpu/$D1/0/max-ring-slots" n0 "r$D1"

reached=$(vgpu-lab-reach map "$D1" "${lent:-none}" rw)
check readonly-map "dom0 maps page ${lent:-none} writable: $reached" [ "${reached%%:*}" = refused ]
reached=$(vgpu-lab-reach write "$D1" "${lent:-none}" ro)
check readonly-write "dom0 writes to it: $reached" [ "${reached%%:*}" = refused ]
check readonly-control 'dom0 maps it read-only' vgpu-lab-reach map "$D1" "${lent:-none}" ro
check readonly-write-control 'a page that g1 granted writable it writes to' \
    vgpu-lab-reach write "$D1" "${shared:-none}" rw
flow_end g1 || fail walls-flow "$REPLY"
mark walls
