# SPDX-License-Identifier: Apache-2.0
# While both sides poll, a descriptor costs no system call on either side, so no hypercall: a process has no other way to
# the hypervisor. Counted by the kernels' own tracing (trace.sh), with a control that shows that it would be seen.
# With ring.strict_ro as well: the submission slots are lent read-only, 16 pages of 1024 slots.
# expects: strict-pages strict-write quiet-work quiet-domu quiet-dom0 quiet-control quiet-doorbells

. /trace.sh
vgpu_stop
vgpu_configure <<'C'
poll_cores:
  idle: {sleep: false}
executor_idle: {sleep: false}
ring: {strict_ro: true}
executors:
  - {name: exec-A, backend: cpu}
pools:
  - {name: A, executor: exec-A}
C
vgpu_start
device_up g1
guest_background g1 "vgpu-lab-guest count 300 >/tmp/count"
guest_run g1 30 'vgpu-lab-guest await /tmp/count.attached; pidof vgpu-lab-guest'
guest=$REPLY
D1=$(guest_id g1)
grants "$D1" >/tmp/grants
strict=$(awk 'and($3, 4)' /tmp/grants | wc -l)
check strict-pages "$strict pages are read-only, ${LENT:-0} without strict_ro" [ "$strict" -ge $((${LENT:-0} + 16)) ]
written=0
for ref in $(awk 'and($3, 4) { print $1 }' /tmp/grants); do
    reached=$(vgpu-lab-reach write "$D1" "$ref" ro)
    [ "${reached%%:*}" = refused ] || written=$((written + 1))
done
check strict-write "dom0 can write to $written of them" [ "$written" -eq 0 ]
doorbells() {
    $CTL stats --vm-id=1 --json | tr ',{' '\n\n' | awk -F: '/"doorbells_(in|out)"/ { n += $2 } END { print n + 0 }'
}
# The poll core's thread and the executor's loop. Other threads may do what they like.
threads=$(grep -l -e rte-worker -e vgpu-exec-loop /proc/[0-9]*/task/*/comm | cut -d/ -f5 | tr '\n' ' ')
bells=$(doorbells)
trace_start $threads
# The program itself switches tracing on before the first descriptor, and off behind the last: a write.
guest_run g1 60 ". /trace.sh; trace_arm $guest && touch /tmp/count.go
    vgpu-lab-guest await /tmp/count.done; trace_stop"
guest_calls=$REPLY
host_calls=$(trace_stop)
bells=$(($(doorbells) - bells))
guest_run g1 10 'cat /tmp/trace.calls'
check quiet-domu "$guest_calls system calls of the guest, 1 of them ends the count ($REPLY)" [ "$guest_calls" -eq 1 ]
both() { [ "$host_calls" -eq 0 ] && [ "$(echo $threads | wc -w)" -eq 2 ]; }
check quiet-dom0 "$host_calls system calls of poll core and executor (threads $threads, $(cat /tmp/trace.calls))" both
check quiet-doorbells "$bells doorbells" [ "$bells" -eq 0 ]
guest_run g1 30 ". /trace.sh; trace_start $guest; touch /tmp/count.end
    while pidof vgpu-lab-guest >/dev/null; do sleep 0.1; done; trace_stop"
check quiet-control "$REPLY system calls when it detaches" [ "$REPLY" -gt 10 ]
guest_run g1 10 'cat /tmp/count'
check quiet-work "$REPLY" [ "${REPLY%% of*}" = 'done 300' ]
mark quiet
