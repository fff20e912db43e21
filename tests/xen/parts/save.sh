# SPDX-License-Identifier: Apache-2.0
# A domain is saved and restored: without a device in use, with one that it let go of as it was told to, and with one that
# it used all along. In the last case Linux 6.1 stops the guest's process when that ends, whatever it does (a BUG in
# evtchn_release: the channel is from before the suspend); until then it works, and that is what is checked.
# expects: save restore restored-works release saved-released saved-each-once saved-no-bug saved-attached

bugs() { grep -c 'kernel BUG' /var/log/xen/console/guest-g1.log; }
save_restore() { xl save g1 /tmp/g1.save >/tmp/save.log 2>&1 && xl restore /tmp/g1.save >>/tmp/save.log 2>&1; }

guest_run g1 60 'vgpu-vecadd --size 256'
old=$(guest_id g1)
check save "domain $old" xl save g1 /tmp/g1.save
check restore 'from the same file' xl restore /tmp/g1.save
rm -f /tmp/g1.save
device_up g1 30
guest_run g1 60 'vgpu-vecadd --size 256'
status=$?
check restored-works "as domain $(guest_id g1): $REPLY" [ $status -eq 0 ]
mark restored

flow_start g1
wait_until 30 flow_gets_on g1
old=$(guest_id g1)
check release 'the guest lets go of its event channel' /lab/vgpu-xen-device release "$old"
save_restore
status=$?
new=$(guest_id g1)
check saved-released "domain $old, then $new: $(tail -n 1 /tmp/save.log)" [ $status -eq 0 -a "$new" != "$old" ]
rm -f /tmp/g1.save
wait_until 60 flow_again g1
flow_end g1
status=$?
check saved-each-once "$REPLY" reattached_flow $status "$REPLY"
check saved-no-bug "$(bugs) kernel BUGs on its console" [ "$(bugs)" -eq 0 ]
mark released

flow_start g1
wait_until 30 flow_gets_on g1
save_restore
rm -f /tmp/g1.save
wait_until 60 flow_again g1
status=$?
check saved-attached "it attached again and works: $(flow_done g1)" [ $status -eq 0 ]
guest_run g1 20 'touch /tmp/stop; sleep 3; tail -n 1 /tmp/flow; exit $(cat /tmp/flow.status)'
info saved-attached "its process when it ends: exit $?, $REPLY; $(bugs) kernel BUGs on its console"
guest_destroy g1
guest_create g1 uuid=$UUID1 && guest_up g1 && device_up g1
mark saved
