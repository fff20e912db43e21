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
guest_run g2 90 'for i in 1 2 3 4 5 6 7 8; do
    for n in $(xenstore-list device/vgpu/0); do
        case $((RANDOM % 4)) in
        0) xenstore-write device/vgpu/0/$n $RANDOM ;;
        1) xenstore-write device/vgpu/0/$n "" ;;
        2) xenstore-write device/vgpu/0/$n 4294967297 ;;
        3) xenstore-rm device/vgpu/0/$n ;;
        esac
    done 2>/dev/null
    xenstore-write device/vgpu/0/state $((i % 8)) 2>/dev/null
done; echo garbage written'
check store-garbage "$REPLY" [ "$REPLY" = 'garbage written' ]
same_processes() { [ -d "/proc/$VGPUD" ] && [ "$(pidof vgpu-exec)" = "$executors" ]; }
check daemon-lives 'the same vgpud and the same executors' same_processes
flow_end g1
check neighbour "$REPLY" clean_flow $? "$REPLY"
guest_destroy g2
guest_create g2 uuid=$UUID2
guest_up g2
wait_until 20 xenstore-exists "$(device g2)/state"
guest_run g2 60 'vgpu-vecadd --size 256'
check attacker-again "its domain, started again: $REPLY" [ $? -eq 0 ]
mark hostile
