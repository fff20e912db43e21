# SPDX-License-Identifier: Apache-2.0
# Either side goes away under load.
# expects: daemon-killed daemon-back g1-each-once g2-each-once destroyed destroy-clean destroy-neighbour rebooted

flow_start g1
flow_start g2
wait_until 30 flow_gets_on g1
wait_until 30 flow_gets_on g2
kill -9 "$VGPUD"
wait "$VGPUD" 2>/dev/null
check daemon-killed 'its executors end with it' wait_until 10 no_process vgpu-exec
check daemon-back 'a new vgpud' vgpu_start
wait_until 60 flow_again g1 && wait_until 60 flow_again g2
for g in g1 g2; do
    flow_end $g
    status=$?
    check $g-each-once "$REPLY" reattached_flow $status "$REPLY"
done
mark killed

flow_start g1
flow_start g2
wait_until 30 flow_gets_on g1
wait_until 30 flow_gets_on g2
old=$(guest_id g2)
xl destroy g2
# Not a zombie that somebody's mapping keeps.
check destroyed 'the domain is gone altogether' wait_until 20 no_domain "$old"
check destroy-clean 'vgpud has let go of it' wait_until 20 vm_state 2 registered
flow_end g1
check destroy-neighbour "$REPLY" clean_flow $? "$REPLY"

guest_create g2 uuid=$UUID2 && guest_up g2
wait_until 20 xenstore-exists "$(device g2)/state"
guest_run g2 60 'vgpu-vecadd --size 256'
old=$(guest_id g2)
xl reboot g2
rebooted() { [ -n "$(guest_id g2)" -a "$(guest_id g2)" != "$old" ]; }
wait_until 60 rebooted && guest_up g2 && wait_until 20 xenstore-exists "$(device g2)/state"
guest_run g2 60 'vgpu-vecadd --size 256'
status=$?
check rebooted "domain $old, then $(guest_id g2): $REPLY" [ $status -eq 0 -a "$(guest_id g2)" != "$old" ]
mark lived
