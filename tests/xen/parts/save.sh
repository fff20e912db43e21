# SPDX-License-Identifier: Apache-2.0
# A domain is saved and restored. Detached it works on afterwards. Attached it is told, not required: Linux 6.1 itself
# stops a process that held an event channel over a suspend when it lets go of it (evtchn_release: BUG).
# expects: save restore restored-works

guest_run g1 60 'vgpu-vecadd --size 256'
old=$(guest_id g1)
check save "domain $old" xl save g1 /tmp/g1.save
check restore 'from the same file' xl restore /tmp/g1.save
rm -f /tmp/g1.save
wait_until 30 xenstore-exists "$(device g1)/state"
guest_run g1 60 'vgpu-vecadd --size 256'
status=$?
check restored-works "as domain $(guest_id g1): $REPLY" [ $status -eq 0 ]

flow_start g1
wait_until 30 flow_gets_on g1
xl save g1 /tmp/g1.save >/dev/null 2>&1 && xl restore /tmp/g1.save >/dev/null 2>&1
status=$?
rm -f /tmp/g1.save
wait_until 20 xenstore-exists "$(device g1)/state"
sleep 3
flow_end g1
ended=$?
info saved-attached "save and restore: $status; the load then: exit $ended, $REPLY; $(grep -c 'kernel BUG' \
    /var/log/xen/console/guest-g1.log) kernel BUGs on its console"
guest_destroy g1
guest_create g1 uuid=$UUID1 && guest_up g1 && wait_until 20 xenstore-exists "$(device g1)/state"
mark saved
