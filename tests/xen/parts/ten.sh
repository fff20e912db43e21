# SPDX-License-Identifier: Apache-2.0
# Ten domains at once: two pools, three priorities, everything verified; the order of priorities from sequence numbers.
# expects: daemon ten-up ten-vecadd ten-gemm large-vectors order-queued order-A order-B ten-gone

vgpu_configure <<'C'
executors:
  - {name: exec-A, backend: "fault:cpu"}
  - {name: exec-B, backend: "fault:cpu"}
pools:
  - {name: A, executor: exec-A, budget: {high: 16, medium: 8, low: 4}}
  - {name: B, executor: exec-B, budget: {high: 16, medium: 8, low: 4}}
debug: {debug_ops: true, exec_seq: true}
C
check daemon 'vgpud and its executors in dom0' vgpu_start
register 20 --pool=A --priority=high --uid=0 --arena-bytes=64K
register 21 --pool=B --priority=high --uid=0 --arena-bytes=64K

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
devices_up() { local n; for n; do wait_until 60 xenstore-exists "$(device "$n")/state" || return 1; done; }
ten_up() { guests_up $NAMES && devices_up $NAMES; }
ten_up
status=$?
check ten-up "$(xl list | grep -c '^g[0-9]') domains, $(free_mib) MiB left" [ $status -eq 0 ]
mark ten

# all SECONDS COMMAND: in all ten at once. WRONG: who did not end well.
all() {
    local name
    for name in $NAMES; do guest_start "$name" "$2"; done
    WRONG=
    for name in $NAMES; do guest_wait "$name" "$1" || WRONG="$WRONG $name ($?: $REPLY)"; done
    [ -z "$WRONG" ]
}
all 240 'patiently vgpu-vecadd'
check ten-vecadd "ten at once, each sum checked${WRONG:+; wrong:$WRONG}" [ -z "$WRONG" ]
mark vecadd
all 240 'patiently vgpu-gemm --size 48x32x64'
check ten-gemm "ten at once, each element checked${WRONG:+; wrong:$WRONG}" [ -z "$WRONG" ]
mark gemm
guest_run g10 120 'patiently vgpu-vecadd --size 1048576'
check large-vectors "$REPLY" [ $? -eq 0 ]

# All queue up behind a device that stands still. EACH is less than a quarter of the ring.
EACH=200 STALL_S=$((15 * PATIENCE))
all 30 "rm -rf /tmp/o; mkdir /tmp/o"
all 30 "(patiently vgpu-lab-guest order $EACH /tmp/o >/tmp/o/out 2>&1; echo \$? >/tmp/o/status) </dev/null >/dev/null 2>&1 &"
all 60 'while [ ! -e /tmp/o/attached ]; do sleep 0.2; done'
vms() { $CTL stats --json | sed 's/{"vm_id"/\n&/g' | sed -n 's/^{"vm_id": *\([0-9]*\),.*"accepted": *\([0-9]*\).*/\1 \2/p'; }
vms >/tmp/accepted.before
local_guest 20 vgpu-lab-guest stall $STALL_S >/tmp/stall.A & S1=$!
local_guest 21 vgpu-lab-guest stall $STALL_S >/tmp/stall.B & S2=$!
sleep 1
# Low first, so that an order of arrival would be another one.
for priority in low medium high; do
    for name in $(awk -v p=$priority '$3 == p { print $1 }' /tmp/plan); do
        guest_run "$name" 30 'touch /tmp/o/go; while [ ! -e /tmp/o/submitted ]; do sleep 0.1; done'
    done
done
all_accepted() {
    vms >/tmp/accepted
    awk -v each=$EACH 'NR == FNR { b[$1] = $2; next } $1 <= 10 && $2 - b[$1] >= each { n++ } END { exit n != 10 }' \
        /tmp/accepted.before /tmp/accepted
}
still() { wait_until 20 all_accepted && [ -d /proc/$S1 ] && [ -d /proc/$S2 ]; }
check order-queued "$EACH of each were accepted while both devices stood still" still
wait $S1 $S2
all 120 'i=0; while [ ! -e /tmp/o/status ] && [ $i -lt 1000 ]; do sleep 0.1; i=$((i+1)); done
    tail -n 1 /tmp/o/out; exit $(cat /tmp/o/status)'
mark ordered
# LAST of a priority in a pool; how many of another came before it.
last() {
    local name top=0
    for name in $(awk -v p="$1" -v r="$2" '$2 == p && $3 == r { print $1 }' /tmp/plan); do
        guest_run "$name" 30 'sort -n /tmp/o/seq | tail -n 1'
        [ "${REPLY:-0}" -gt $top ] && top=$REPLY
    done
    echo $top
}
before() { # POOL PRIORITY SEQUENCE
    local name sum=0
    for name in $(awk -v p="$1" -v r="$2" '$2 == p && $3 == r { print $1 }' /tmp/plan); do
        guest_run "$name" 30 "awk '\$1 < $3 { n++ } END { print n + 0 }' /tmp/o/seq"
        sum=$((sum + REPLY))
    done
    echo $sum
}
for pool in A B; do
    high=$(last $pool high) medium=$(last $pool medium)
    m=$(before $pool medium "$high") l=$(before $pool low "$high") lm=$(before $pool low "$medium")
    # As many as may be on the device at once.
    check order-$pool "before the last high one: $m medium, $l low; before the last medium one: $lm low" \
        [ "$high" -gt 0 -a "$medium" -gt "$high" -a "$m" -le 8 -a "$l" -le 4 -a "$lm" -le 4 ]
    info order-$pool "of $EACH each: before the last high one $m medium and $l low, before the last medium one $lm low"
done
for name in $NAMES; do xl destroy "$name"; done
all_gone() { [ "$(xl list | wc -l)" -eq 2 ]; }
check ten-gone 'no domain is left' wait_until 30 all_gone
mark gone
