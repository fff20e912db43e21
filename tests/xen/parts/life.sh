# SPDX-License-Identifier: Apache-2.0
# Either side goes away under load.
# expects: daemon-killed daemon-back g1-each-once g2-each-once rebooted destroyed destroy-clean lived-neighbour

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

# In the middle of its work: its kernel stops all processes, the host is told by what their grants tell.
flow_start g1 calm
flow_start g2
wait_until 30 flow_gets_on g1
wait_until 30 flow_gets_on g2
old=$(guest_id g2)
xl reboot g2
rebooted() { new=$(guest_id g2) && [ "$new" != "$old" ]; }
wait_until 60 rebooted && guest_up g2 && device_up g2 && flow_start g2 && wait_until 30 flow_gets_on g2
check rebooted "domain $old, then $new, which works" [ $? -eq 0 ]
mark rebooted

old=$(guest_id g2)
xl destroy g2
# Not a zombie that somebody's mapping keeps.
check destroyed 'the domain is gone altogether' wait_until 20 no_domain "$old"
check destroy-clean 'vgpud has let go of it' wait_until 20 vm_state 2 registered
flow_end g1
check lived-neighbour "$REPLY" clean_flow $? "$REPLY"
mark lived
