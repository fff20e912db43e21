# SPDX-License-Identifier: Apache-2.0
# g2 turns on its host while g1 works on, with every result verified.
# expects: scribble revoke unbell store-garbage neighbour daemon-lives attacker-again

executors=$(pidof vgpu-exec)
flow_start g1 calm
wait_until 30 flow_gets_on g1
for attack in scribble revoke unbell; do
    guest_run g2 60 "vgpu-lab-guest $attack 2"
    check $attack "$REPLY" [ $? -eq 0 ]
done
# Handshakes made of anything, while an attachment comes and goes.
guest_run g2 90 'vgpu-lab-reach garbage 40'
check store-garbage "$REPLY" [ $? -eq 0 ]
same_processes() { [ -d "/proc/$VGPUD" ] && [ "$(pidof vgpu-exec)" = "$executors" ]; }
check daemon-lives 'the same vgpud and the same executors' same_processes
flow_end g1
check neighbour "$REPLY" clean_flow $? "$REPLY"
# vgpud makes the nodes of a registered domain anew; they are the toolstack's to take away.
/lab/vgpu-xen-device remove "$(guest_id g2)"
device_up g2
guest_run g2 60 'vgpu-vecadd --size 256'
check attacker-again "its device, made anew: $REPLY" [ $? -eq 0 ]
mark hostile
