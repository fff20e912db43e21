# SPDX-License-Identifier: Apache-2.0
# Ten domains at once: two pools, three priorities, everything verified; the order of priorities from sequence numbers.
# expects: daemon ten-up ten-vecadd ten-gemm large-vectors order-attached order-queued order-completed order-a order-b ten-gone

vgpu_configure <<'C'
executors:
  - {name: exec-A, backend: cpu}
  - {name: exec-B, backend: cpu}
pools:
  - {name: A, executor: exec-A, budget: {high: 16, medium: 8, low: 4}}
  - {name: B, executor: exec-B, budget: {high: 16, medium: 8, low: 4}}
debug: {exec_seq: true}
C
check daemon 'vgpud and its executors in dom0' vgpu_start

NAMES='g1 g2 g3 g4 g5 g6 g7 g8 g9 g10'
# NAME POOL PRIORITY, a line each. g10 has more pages to lend: three vectors of 1 M floats.
cat >/tmp/plan <<'P'
g1 A high
g2 A medium
g3 A low
g4 A medium
g5 A low
g6 B high
g7 B medium
g8 B low
g9 B high
g10 B low
P
while read -r name pool priority; do
    number=${name#g}
    uuid=$(printf '10000000-0000-4000-8000-%012d' "$number")
    arena=2M more=
    if [ "$name" = g10 ]; then arena=13M more='memory=160 args=lab.grants=8192'; fi
    register "$number" --pool="$pool" --priority="$priority" --uuid="$uuid" --arena-bytes=$arena
    guest_create "$name" uuid="$uuid" $more
done </tmp/plan
devices_up() { local n; for n; do device_up "$n" 60 || return 1; done; }
ten_up() { guests_up $NAMES && devices_up $NAMES; }
ten_up
status=$?
check ten-up "$(xl list | grep -c '^g[0-9]') domains, $(free_mib) MiB left" [ $status -eq 0 ]
mark ten

# all SECONDS COMMAND: in all ten at once. WRONG: who did not end well. Answers are in /tmp/reply.NAME.
all() {
    local name
    for name in $NAMES; do guest_start "$name" "$2"; done
    WRONG=
    for name in $NAMES; do
        guest_wait "$name" "$1" || WRONG="$WRONG $name ($?: $REPLY)"
        echo "$REPLY" >"/tmp/reply.$name"
    done
    [ -z "$WRONG" ]
}
all 240 'vgpu-vecadd'
check ten-vecadd "ten at once, each sum checked${WRONG:+; wrong:$WRONG}" [ -z "$WRONG" ]
mark vecadd
all 240 'vgpu-gemm --size 48x32x64'
check ten-gemm "ten at once, each element checked${WRONG:+; wrong:$WRONG}" [ -z "$WRONG" ]
mark gemm
guest_run g10 120 'vgpu-vecadd --size 1048576'
check large-vectors "$REPLY" [ $? -eq 0 ]

# All queue up while the devices stand still: their executors are stopped, and go on when everything was accepted. EACH is
# less than a quarter of the ring.
EACH=200
vms() { $CTL stats --json | sed 's/{"vm_id"/\n&/g' | sed -n 's/^{"vm_id": *\([0-9]*\),.*"accepted": *\([0-9]*\).*/\1 \2/p'; }
all_accepted() {
    vms >/tmp/accepted
    awk -v each=$EACH 'NR == FNR { b[$1] = $2; next } $2 - b[$1] == each { n++ } END { exit n != 10 }' \
        /tmp/accepted.before /tmp/accepted
}
order_round() { # sets ATTACHED, QUEUED, COMPLETED: who did not; 1: the executors did not live through it
    local executors name priority
    all 60 "rm -rf /tmp/o; mkdir /tmp/o
        (vgpu-lab-guest order $EACH /tmp/o >/tmp/o/out 2>&1; echo \$? >/tmp/o/status) </dev/null >/dev/null 2>&1 &"
    all 120 'vgpu-lab-guest await /tmp/o/attached /tmp/o/status; cat /tmp/o/out; [ -e /tmp/o/attached ]'
    ATTACHED=$WRONG
    vms >/tmp/accepted.before
    executors=$(pidof vgpu-exec)
    kill -STOP $executors
    # Low first, so that an order of arrival would be another one.
    for priority in low medium high; do
        for name in $(awk -v p=$priority '$3 == p { print $1 }' /tmp/plan); do guest_start "$name" 'touch /tmp/o/go
            vgpu-lab-guest await /tmp/o/submitted /tmp/o/status'; done
        for name in $(awk -v p=$priority '$3 == p { print $1 }' /tmp/plan); do guest_wait "$name" 60; done
    done
    wait_until 60 all_accepted
    QUEUED=$?
    kill -CONT $executors
    all 120 'vgpu-lab-guest await /tmp/o/status; tail -n 1 /tmp/o/out; exit $(cat /tmp/o/status)'
    COMPLETED=$WRONG
    [ "$(pidof vgpu-exec)" = "$executors" ]
}
# vgpud ends an executor that does not answer for half a minute; on a crowded machine all this may take longer.
round=1
until order_round || [ $round -eq 3 ]; do
    info order "round $round took so long that vgpud gave up the executors that stood still; again"
    round=$((round + 1))
done
check order-attached "ten at once${ATTACHED:+; wrong:$ATTACHED}" [ -z "$ATTACHED" ]
check order-queued "$EACH of each were accepted while both executors stood still, round $round" [ $QUEUED -eq 0 ]
check order-completed "each of them once, all well${COMPLETED:+; wrong:$COMPLETED}" [ -z "$COMPLETED" ]
mark ordered
# By sequence numbers of execution; each executor, so each pool, has its own. A guest's first and last are its answer.
last() { # POOL PRIORITY: the last of these
    for name in $(awk -v p="$1" -v r="$2" '$2 == p && $3 == r { print $1 }' /tmp/plan); do cat "/tmp/reply.$name"; done |
        awk '$2 > top { top = $2 } END { print top + 0 }'
}
for pool in A B; do
    high=$(last $pool high) medium=$(last $pool medium)
    m=0 l=0 lm=0
    for name in $(awk -v p=$pool '$2 == p && $3 != "high" { print $1 }' /tmp/plan); do
        guest_run "$name" 60 "awk '\$1 < $high { h++ } \$1 < $medium { m++ } END { print h + 0, m + 0 }' /tmp/o/seq"
        case $(awk -v n="$name" '$1 == n { print $3 }' /tmp/plan) in
        medium) m=$((m + ${REPLY% *})) ;;
        low) l=$((l + ${REPLY% *})) lm=$((lm + ${REPLY#* })) ;;
        esac
    done
    # As many as may be on the device at once.
    check order-$(echo $pool | tr AB ab) \
        "of $EACH each: before the last high one $m medium and $l low, before the last medium one $lm low" \
        [ "$high" -ge $EACH -a "$medium" -gt "$high" -a "$m" -le 8 -a "$l" -le 4 -a "$lm" -le 4 ]
done
for name in $NAMES; do xl destroy "$name"; done
all_gone() { [ "$(xl list | wc -l)" -eq 2 ]; }
check ten-gone 'no domain is left' wait_until 30 all_gone
mark gone
