# SPDX-License-Identifier: Apache-2.0
# The daemon in dom0, a guest that is a process there, and two domains.
# expects: daemon dom0-guest domains

UUID1=11111111-1111-4111-8111-111111111111
UUID2=22222222-2222-4222-8222-222222222222

vgpu_configure </dev/null
check daemon 'vgpud and its executors in dom0' vgpu_start
mark daemon
register 9 --pool=B --priority=low --uid=0 --arena-bytes=2M
check dom0-guest 'a process of dom0 adds vectors' local_guest 9 vgpu-vecadd --size 4096

guest_create g1 uuid=$UUID1
guest_create g2 uuid=$UUID2
check domains 'two domains are up' guests_up g1 g2
mark domains
