# SPDX-License-Identifier: Apache-2.0
# The device is taken from a domain that works, and given back: vgpud makes the nodes of a registered domain anew.
# expects: unplugged plugged plugged-each-once

flow_start g1 calm
wait_until 30 flow_gets_on g1
request=$(xenstore-read "$(device g1)/request-id")
check unplugged 'its nodes are taken away' /lab/vgpu-xen-device remove "$(guest_id g1)"
asked_anew() { [ "$(xenstore-read "$(device g1)/request-id" || echo "$request")" != "$request" ]; }
wait_until 60 asked_anew
check plugged 'it attached again and works' wait_until 60 flow_again g1
flow_end g1
check plugged-each-once "$REPLY" reattached_flow $? "$REPLY"
mark plugged
