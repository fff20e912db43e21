# SPDX-License-Identifier: Apache-2.0
# Xen's own limits, made small for one domain (max_grant_frames) and for this boot (gnttab_max_maptrack_frames): what does not
# fit is refused with a sentence that names what to turn, leaves nothing behind, and less is served. gntalloc's own limit is in
# part work. A PV dom0 takes two entries of its maptrack table for each page (one for the process, one for the kernel).
# expects: frames-fit frames-limit frames-smaller maptrack-fit maptrack-limit maptrack-smaller limits-channels limits-pages
# expects: limits-neighbour

UUID3=33333333-3333-4333-8333-333333333333
flow_start g1 calm
wait_until 30 flow_gets_on g1
register 3 --pool=A --priority=low --uuid=$UUID3 --arena-bytes=16M
limits_guest() { # FURTHER ARGUMENTS: g3, with 8192 pages for programs to lend
    guest_create g3 uuid=$UUID3 memory=160 args=lab.grants=8192 "$@" && guest_up g3 &&
        device_up g3
}
limits_guest grant_frames=4
guest_run g3 60 'vgpu-lab-guest arena 3'
check frames-fit "$REPLY" [ "$REPLY" = 'attached with 3 MiB' ]
guest_run g3 60 'vgpu-lab-guest arena 16'
status=$?
check frames-limit "exit $status: $REPLY" refused_naming $status max_grant_frames
# After such a failure xen-gntalloc believes that there is no room for anything, until it is loaded again.
guest_run g3 60 'rmmod xen-gntalloc; insmod /mod/xen-gntalloc.ko limit=8192; vgpu-lab-guest arena 3'
check frames-smaller "$REPLY" [ "$REPLY" = 'attached with 3 MiB' ]
guest_destroy g3

limits_guest
channels_before=$(channels_used 0)
guest_run g3 60 'vgpu-lab-guest arena 3'
check maptrack-fit "$REPLY" [ "$REPLY" = 'attached with 3 MiB' ]
guest_run g3 60 'vgpu-lab-guest arena 16'
status=$?
check maptrack-limit "exit $status: $REPLY" refused_naming $status gnttab_max_maptrack_frames
guest_run g3 60 'vgpu-lab-guest arena 3'
check maptrack-smaller "$REPLY" [ "$REPLY" = 'attached with 3 MiB' ]
channels_as_before() { [ "$(channels_used 0)" = "$channels_before" ]; }
check limits-channels "$channels_before event channels of dom0, as before" wait_until 10 channels_as_before
mapped=$(grants "$(guest_id g3)" | awk '$2 > 0' | wc -l)
check limits-pages "$mapped pages of g3 are mapped in dom0, its console and its xenstore" [ "$mapped" -eq 2 ]
guest_destroy g3
$CTL remove-vm --vm-id=3 >/dev/null
flow_end g1
check limits-neighbour "$REPLY" clean_flow $? "$REPLY"
mark limits
