# SPDX-License-Identifier: Apache-2.0
# What dom0 says of itself: Xen drives the IOMMU, so Linux's groups are nobody's fault here.
# expects: precheck-xen precheck-iommu iommu-status

# As installed: there xl is found beside other programs of an administrator's.
ln -sf "$(command -v xl)" /usr/sbin/xl
vgpu-ctl precheck --json >/tmp/precheck.json 2>/tmp/precheck.err
finding() { # ID: its status
    grep -o "\"id\":\"$1\"[^}]*" /tmp/precheck.json | sed -n 's/.*"status":"\([a-z-]*\)".*/\1/p'
}
all_are() { # ID=STATUS...; REPLY: what they are
    local pair good=0
    REPLY=
    for pair; do
        REPLY="$REPLY${pair%=*}: $(finding "${pair%=*}") "
        [ "$(finding "${pair%=*}")" = "${pair#*=}" ] || good=1
    done
    return $good
}
# As PV domain it runs without an IOMMU; as PVH domain only with one.
kind=warn iommu=fail
[ "$(cat /sys/hypervisor/guest_type)" = PV ] || kind=pass iommu=pass
all_are xen.dom0_kind=$kind xen.xenfs=pass xen.gntdev=pass xen.evtchn=pass xen.xenstore=pass
check precheck-xen "$REPLY" [ $? -eq 0 ]
all_are iommu.enabled=not-applicable iommu.groups=not-applicable iommu.coverage=not-applicable xen.iommu=$iommu \
    iommu.faults=not-applicable xen.faults=pass
check precheck-iommu "$REPLY" [ $? -eq 0 ]
$CTL --json show-iommu-status >/tmp/iommu.json
check iommu-status 'a dom0 without groups, and not "no IOMMU"; faults are in Xen'"'"'s log, and not "none"' \
    grep -q '"enabled":false,.*"xen_dom0":true,"groups":\[\],.*"unreadable":"Xen has the IOMMU.*xl dmesg' /tmp/iommu.json
