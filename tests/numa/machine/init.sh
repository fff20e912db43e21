#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The machine of suite numa: two nodes with two CPUs each. CPUs 0 and 1 are on node 0, 2 and 3 on node 1.
. /vmlab.sh
vmlab_mounts
mkdir -p /etc /run/vgpu /var/lib/vgpu
export OPENBLAS_CORETYPE=Nehalem # of this CPU OpenBLAS knows a name, and not what the emulation lacks
control=/run/vgpu/control.sock
nodes=/sys/devices/system/node

pages() { # NODE SIZE-KIB COUNT
    echo "$3" >"$nodes/node$1/hugepages/hugepages-$2kB/nr_hugepages"
    [ "$(cat "$nodes/node$1/hugepages/hugepages-$2kB/nr_hugepages")" = "$3" ]
}
huge() { # 2-MiB-PAGES-ON-NODE-0 ON-NODE-1 1-GiB-PAGES-ON-NODE-1
    pages 0 2048 "$1" && pages 1 2048 "$2" && pages 1 1048576 "$3"
}
answers() { vgpu-ctl --socket=$control list-pools >/dev/null 2>&1; }
start() { # POLL-CPU EXECUTOR-CPU [BACKEND]
    cat >/etc/vgpud.yaml <<END
paths: {executor: /bin/vgpu-exec, run_dir: /run/vgpu, state_dir: /var/lib/vgpu}
poll_cores: {cpus: [$1]}
executors:
  - {name: exec-A, backend: ${3:-cpu}, cpu: $2}
pools:
  - {name: A, executor: exec-A}
END
    vgpud --config /etc/vgpud.yaml >/tmp/vgpud.log 2>&1 </dev/null &
    vgpud=$!
    wait_until 300 eval 'answers || ! kill -0 $vgpud' && answers || { sed 's/^/vgpud.log: /' /tmp/vgpud.log; return 1; }
    vgpu-ctl --socket=$control status >/tmp/status
    cat "/proc/$vgpud/numa_maps" >/tmp/maps
}
end() { kill "$vgpud"; wait "$vgpud"; }
# The kernel's account of a mapping: "file=NAME ... N1=4 kernelpagesize_kB=2048".
maps() { grep "$1" /tmp/maps | cut -c 1-200; }
on() { # NODE FILE WORDS: some of it is there
    maps "$2" | grep "${3:-.}" | grep -q "N$1="
}
only_on() { # NODE FILE WORDS: mapped, all of its pages there
    maps "$2" | grep "${3:-.}" | grep -q "N$1=" && ! maps "$2" | grep "${3:-.}" | grep -q "N$((1 - $1))="
}
says() { grep -q "$1" /tmp/status; }
degraded() { sed -n '/^degraded/,/^poll_cores/p' /tmp/status | grep -q "$1"; }

check nodes "two nodes at distance 21" grep -q '10 21' $nodes/node0/distance
# First, while the page of 1 GiB is there that the boot put aside: later no other may be found.
huge 0 0 1
start 2 3
check one-gib "without 2 MiB pages: $(maps memfd:seg)" eval 'only_on 1 memfd:seg kernelpagesize_kB=1048576 &&
    says "0 of 2 MiB, 1 of 1 GiB"'
end

huge 64 64 0
check starts "both on node 1: CPUs 2 and 3" start 2 3
# EAL keeps a page of its own where its main thread ran; the poll core's are near it.
check two-mib-near "$(maps memfd:seg)" on 1 memfd:seg kernelpagesize_kB=2048
check exchange-near "$(maps vgpu-exchange)" eval 'only_on 1 vgpu-exchange && maps vgpu-exchange | grep -q prefer'
check report "each core with its node, queues with theirs, pages by size" eval 'says "poll core 0: CPU 2, NUMA node 1" &&
    says "executor exec-A: CPU 3, NUMA node 1" && says "queues and journal on NUMA node 1" &&
    says "128 of 2 MiB, 0 of 1 GiB" && ! degraded "different"'
vgpu-ctl --socket=$control topology >/tmp/topology
check topology "$(head -1 /tmp/topology)" eval \
    'grep -q "2 NUMA nodes" /tmp/topology && grep -q "poll core 0 on CPU 2" /tmp/topology'
vgpu-ctl precheck --json --config=/etc/vgpud.yaml >/tmp/precheck.json
passes() { # ID...: each of these checks
    local id
    for id; do
        grep -o "\"id\":\"$id\"[^}]*" /tmp/precheck.json | grep -q '"status":"pass"' || { echo "not well: $id"; return 1; }
    done
}
check precheck "memory on each node, free huge pages, CPUs of the configuration apart" \
    passes memory.nodes hugepages.supported hugepages.free vgpu.cpus_exist vgpu.cpu_overlap
end

start 0 1
check other-node "CPUs 0 and 1: $(maps memfd:seg)" only_on 0 memfd:seg kernelpagesize_kB=2048
check exchange-follows "$(maps vgpu-exchange)" only_on 0 vgpu-exchange
end

start 0 3
check across "a poll core and an executor on different nodes are told" eval \
    'says "on different NUMA nodes" && only_on 1 vgpu-exchange'
end

# A GPU on node 1, as far as sysfs says, and an executor for it that is pinned nowhere (backend auto: it computes on the CPU
# in the end): its threads and memory belong to that node, and not to the poll core's CPU there.
mkdir -p /tmp/pci/0000:41:00.0
for file in vendor=0x10de device=0x2331 class=0x030200 numa_node=1; do
    echo "${file#*=}" >"/tmp/pci/0000:41:00.0/${file%=*}"
done
mount -o bind /tmp/pci /sys/bus/pci/devices
start 2 any auto
exec=$(pidof vgpu-exec)
allowed() { cat /proc/"$exec"/task/*/status | sed -n 's/^Cpus_allowed_list:[^0-9]*//p' | sort -u; }
check executor-near "threads on CPUs $(allowed), $(grep -c 'prefer:1' /proc/"$exec"/numa_maps) mappings from node 1 first" eval \
    '[ "$(allowed)" = 3 ] && grep -q prefer:1 /proc/$exec/numa_maps && says "bounce memory on NUMA node 1, .* on CPUs 3"'
check daemon-free "vgpud itself runs where it likes" eval \
    'grep -q "^Cpus_allowed_list:.*0-3" /proc/$vgpud/status && ! grep -q "heap.*prefer:1" /proc/$vgpud/numa_maps'
end
start any any auto
check any-warned "a poll core that is not pinned is told what the other node costs" \
    degraded "may be on another NUMA node than the GPU of executor exec-A (node 1)"
end
umount /sys/bus/pci/devices

huge 64 0 0
start 2 3
check none-near "pages on the other node alone: works, and is told" degraded 'NUMA node 1 has no free huge pages'
end

huge 0 0 0
start 2 3
check plain-pages "no huge pages: works, and is told with what to type" eval \
    'degraded "4 KiB pages" && says "sysctl vm.nr_hugepages" && only_on 1 vgpu-exchange'
end
vmlab_end
