#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The machine of suite iommu: vgpud with VFIO-bound devices (mode iommu), or without an IOMMU (mode bare).
. /vmlab.sh
vmlab_mounts
mode=$(vmlab_argument vgpu.mode iommu)
for module in irqbypass vfio vfio_virqfd vfio_iommu_type1 vfio-pci-core vfio-pci; do
    [ ! -f "/mod/$module.ko" ] || insmod "/mod/$module.ko"
done
mkdir -p /etc /run/vgpu /var/lib/vgpu
# Of these CPUs OpenBLAS knows a name, and not what the emulation lacks.
export OPENBLAS_CORETYPE=Nehalem
export VGPU_SOCKET=/run/vgpu/attach.sock VGPU_CONTROL_SOCKET=/run/vgpu/control.sock

# The edu devices, in order of their addresses.
devices=
for d in /sys/bus/pci/devices/*; do
    [ "$(cat "$d/vendor"):$(cat "$d/device")" = 0x1234:0x11e8 ] || continue
    devices="$devices ${d##*/}"
    echo vfio-pci >"$d/driver_override"
    echo "${d##*/}" >/sys/bus/pci/drivers_probe
done
set -- $devices

configure() { # DEVICES
    cat >/etc/vgpud.yaml <<END
paths: {executor: /bin/vgpu-exec}
memory: {hugepages: false}
iommu: {devices: [$1]}
pools:
  - {name: A, executor: exec-A}
END
}
answers() { vgpu-ctl list-pools >/dev/null 2>&1; }
start() {
    vgpud --config /etc/vgpud.yaml >>/tmp/vgpud.log 2>&1 </dev/null &
    vgpud=$!
    wait_until 60 eval 'answers || ! kill -0 $vgpud' && answers
}
guest() { # NUMBER ARENA-BYTES
    VGPU_VM_ID=$1 vgpu-iommu-guest "$2" "/tmp/guest-$1" >"/tmp/guest-$1.log" 2>&1 </dev/null &
    wait_until 60 test -f "/tmp/guest-$1" || { cat "/tmp/guest-$1.log"; return 1; }
}
register() { vgpu-ctl register-vm --pool=A --uid=0 --vm-id="$@"; }
refused() { # WORDS: vgpud does not start, and says so
    ! timeout 60 vgpud --config /etc/vgpud.yaml >/tmp/refused.log 2>&1 </dev/null && grep -q "$1" /tmp/refused.log
}

changes_refused() {
    local change
    for change in --iommu-domain=2 --isolation=shared; do
        if vgpu-ctl update-vm --vm-id=1 $change 2>/tmp/change; then echo "taken: $change"; return 1; fi
        cat /tmp/change
        grep -q "is attached" /tmp/change || return 1
    done
    vgpu-ctl update-vm --vm-id=4 --iommu-domain=1 --isolation=dedicated || return 1
    vgpu-ctl show-iommu-status --vm-id=1 >/tmp/change
    cat /tmp/change
    grep -q "VM 1  dedicated, IOMMU domain 1" /tmp/change
}

# What precheck says of this machine.
finding() { # ID: its status
    grep -o "\"id\":\"$1\"[^}]*" /tmp/precheck.json | sed -n 's/.*"status":"\([a-z-]*\)".*/\1/p'
}
findings() { # NAME ID=STATUS...: all of them; of the copy in $copy, if there is one
    local name=$1 pair id told=
    shift
    vgpu-ctl precheck --json ${copy:+--root=$copy} --config=/etc/vgpud.yaml >/tmp/precheck.json 2>/tmp/precheck.err
    for pair; do
        id=${pair%=*}
        told="$told$id: $(finding "$id"), "
        [ "$(finding "$id")" = "${pair#*=}" ] || { fail "$name" "${told}expected $pair $(cat /tmp/precheck.err)"; return; }
    done
    pass "$name" "${told%, }"
}

if [ "$mode" = bare ]; then
    configure "$1"
    # The kernel was told to use none, and that is found; that there is none is not a virtual machine's fault.
    findings precheck iommu.enabled=not-applicable iommu.groups=not-applicable iommu.coverage=not-applicable \
        iommu.interrupts=not-applicable iommu.cmdline=fail vfio.module=pass vfio.permissions=not-applicable vgpu.config=pass
    check refuses-without-iommu "vgpud refuses a VFIO device where there is no IOMMU" refused 'is in no IOMMU group'
    configure ''
    check vgpud "vgpud answers" start
    register 1 --arena-bytes=256K && register 2 --arena-bytes=256K && register 3 --arena-bytes=1M
    check attached "three guests" eval 'guest 1 0x40000 && guest 2 0x40000 && guest 3 0x100000'
    vgpu-iommu-probe bare "$1" "$2" "$vgpud"
else
    configure "$1@1, $2@2:ro"
    check groups "each device alone in its group" test "$(ls /sys/kernel/iommu_groups/*/devices/ | grep -c -e "$1" -e "$2")" = 2
    check vgpud "vgpud took both devices into domains" start
    register 1 --arena-bytes=256K --iommu-domain=1 --isolation=dedicated && register 2 --arena-bytes=256K &&
        register 3 --arena-bytes=1M --iommu-domain=2
    check attached "three guests" eval 'guest 1 0x40000 && guest 2 0x40000 && guest 3 0x100000'
    good='iommu.enabled=pass iommu.cmdline=pass iommu.groups=pass iommu.coverage=pass iommu.translated=pass
        iommu.interrupts=pass vfio.module=pass vfio.unsafe_interrupts=pass vfio.permissions=pass
        vfio.entries=pass vgpu.config=pass xen.iommu=not-applicable'
    findings precheck $good iommu.faults=pass
    register 4 --iommu-domain=2
    # Another domain or isolation for a VM that is attached, and for one that is not.
    if changes_refused >/tmp/changes 2>&1; then
        pass changes-refused "$(head -1 /tmp/changes)"
    else
        fail changes-refused "$(cat /tmp/changes)"
    fi
    vgpu-ctl show-iommu-status
    vgpu-iommu-probe iommu "$1" "$2" "$vgpud"
    findings precheck-faults iommu.enabled=pass iommu.faults=fail
    # A copy of this machine, judged without it, says the same.
    copy=/tmp/copy
    vgpu-ctl precheck --capture=$copy --config=/etc/vgpud.yaml
    findings precheck-copy $good iommu.faults=fail
fi
sed 's/^/vgpud.log: /' /tmp/vgpud.log
[ ! -f /tmp/refused.log ] || sed 's/^/refused.log: /' /tmp/refused.log
vmlab_end
