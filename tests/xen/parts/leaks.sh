# SPDX-License-Identifier: Apache-2.0
# Counts of the hypervisor's resources return to what they were. Domains come and go lab.cycles times, g1's process attaches
# lab.attaches times (kernel arguments).
# expects: attach-cycles attach-grants attach-channels
# expects: domain-cycles domain-channels domain-memory domain-nodes daemon-files daemon-memory

CYCLES=$(vmlab_argument lab.cycles 2) ATTACHES=$(vmlab_argument lab.attaches 50)
D1=$(guest_id g1)
guest_run g1 60 'vgpu-lab-guest cycles 2'
wait_until 10 vm_state 1 registered
grants_before=$(grants_used "$D1") channels_before=$(channels_used 0)
guest_run g1 120 "vgpu-lab-guest cycles $ATTACHES"
check attach-cycles "$REPLY" [ $? -eq 0 ]
wait_until 10 vm_state 1 registered
check attach-grants "$grants_before before, $(grants_used "$D1") after" [ "$(grants_used "$D1")" = "$grants_before" ]
check attach-channels "$channels_before before, $(channels_used 0) after" [ "$(channels_used 0)" = "$channels_before" ]

guest_destroy g2
no_nodes() { ! xenstore-exists "/local/domain/0/backend/vgpu/$1"; }
cycle() {
    local id
    guest_create g2 uuid=$UUID2 && guest_up g2 && wait_until 20 xenstore-exists "$(device g2)/state" || return 1
    guest_run g2 60 'vgpu-lab-guest cycles 1' || return 1
    # Every other one is destroyed while it is attached.
    if [ $(($1 % 2)) -eq 0 ]; then
        flow_start g2 && wait_until 30 flow_gets_on g2 || return 1
    fi
    id=$(guest_id g2)
    guest_destroy g2 && wait_until 20 no_nodes "$id" && wait_until 20 vm_state 2 registered
}
cycle 0
nodes() { xenstore-ls -f /local/domain/0/backend/vgpu 2>/dev/null | wc -l; }
resident() {
    local p
    for p in $VGPUD $(pidof vgpu-exec); do cat "/proc/$p/status"; done | awk '/^VmRSS/ { n += $2 } END { print n }'
}
memory_before=$(free_mib) channels_before=$(channels_used 0) files_before=$(ls "/proc/$VGPUD/fd" | wc -l)
nodes_before=$(nodes) resident_before=$(resident)
done_cycles=0
while [ $done_cycles -lt "$CYCLES" ] && cycle $done_cycles; do
    done_cycles=$((done_cycles + 1))
done
check domain-cycles "$done_cycles of $CYCLES; $REPLY" [ $done_cycles -eq "$CYCLES" ]
same_memory() { [ "$(free_mib)" -ge "$memory_before" ]; }
wait_until 10 same_memory
check domain-memory "$memory_before MiB free before, $(free_mib) after" same_memory
check domain-channels "$channels_before before, $(channels_used 0) after" [ "$(channels_used 0)" = "$channels_before" ]
files=$(ls "/proc/$VGPUD/fd" | wc -l)
check daemon-files "$files_before before, $files after" [ "$files" -eq "$files_before" ]
check domain-nodes "$nodes_before nodes of devices before, $(nodes) after" [ "$(nodes)" -eq "$nodes_before" ]
# What 50 domains may leave is less than 12 KiB each: an allocator keeps some pages of its own.
resident=$(resident)
check daemon-memory "vgpud and its executors: $resident_before KiB before, $resident after $CYCLES domains" \
    [ "$resident" -le $((resident_before + 600)) ]
mark leaks
