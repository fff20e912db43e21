# SPDX-License-Identifier: Apache-2.0
# Domains come and go lab.cycles times (kernel argument), each with a device that it attaches to, detaches from and, every
# other one, is destroyed with: counts return to what they were.
# expects: domain-cycles domain-grants domain-channels domain-memory domain-nodes daemon-files daemon-memory

CYCLES=$(vmlab_argument lab.cycles 3)
guest_destroy g2
no_nodes() { ! xenstore-exists "/local/domain/0/backend/vgpu/$1"; }
cycle() {
    local id
    guest_create g2 uuid=$UUID2 && guest_up g2 && device_up g2 || return 1
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
grants_all() { xen_key g | grep -c '(XEN) *\[0x'; }
# A domain that somebody's mapping keeps from ending has no name any more.
ghosts() { xl list | grep -c '^(null)'; }
grants_before=$(grants_all)
memory_before=$(free_mib) channels_before=$(channels_used 0) files_before=$(ls "/proc/$VGPUD/fd" | wc -l)
nodes_before=$(nodes) resident_before=$(resident)
done_cycles=0
while [ $done_cycles -lt "$CYCLES" ] && cycle $done_cycles; do
    done_cycles=$((done_cycles + 1))
    [ $((done_cycles % 5)) -ne 0 ] || mark cycle $done_cycles
done
check domain-cycles "$done_cycles of $CYCLES; $REPLY" [ $done_cycles -eq "$CYCLES" ]
same_memory() { [ "$(free_mib)" -ge "$memory_before" ]; }
wait_until 10 same_memory
check domain-memory "$memory_before MiB free before, $(free_mib) after" same_memory
check domain-channels "$channels_before before, $(channels_used 0) after" [ "$(channels_used 0)" = "$channels_before" ]
grants_now=$(grants_all)
check domain-grants "$grants_before granted pages in all domains before, $grants_now after; $(ghosts) domains without a name" \
    [ "$grants_before" -gt 0 -a "$grants_now" = "$grants_before" -a "$(ghosts)" -eq 0 ]
files=$(ls "/proc/$VGPUD/fd" | wc -l)
check daemon-files "$files_before before, $files after" [ "$files" -eq "$files_before" ]
check domain-nodes "$nodes_before nodes of devices before, $(nodes) after" [ "$(nodes)" -eq "$nodes_before" ]
# What 50 domains may leave is less than 12 KiB each: an allocator keeps some pages of its own.
resident=$(resident)
check daemon-memory "vgpud and its executors: $resident_before KiB before, $resident after $CYCLES domains" \
    [ "$resident" -le $((resident_before + 600)) ]
mark cycles
