#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the first customer asked for, word by word: VMs 1-7 in pool A and 8-20 in pool B, priorities set and changed, both
questions answered, and all of it there after a restart and after kill -9 of vgpud (at any moment: kill_test.py).

acceptance_test.py VGPUD VGPU-ADMIN
"""
import sys

import rig

FIRST, SECOND = list(range(1, 8)), list(range(8, 21))


def ids(daemon, *filters):
    vms = daemon.json('list-vms', *filters)['vms']
    found = [vm['vm_id'] for vm in vms]
    assert len(found) == len(set(found)), f'a VM stands there twice: {found}'
    return found


def assign(daemon):
    daemon.good('register-vm', '--vm-id=1', '--pool=A', '--priority=high')
    daemon.good('register-vm', '--vm-id=2-7', '--pool=A', '--priority=high')
    daemon.good('register-vm', '--vm-id', '8-20', '--pool', 'B')
    assert ids(daemon, '--pool=A') == FIRST and ids(daemon, '--pool=B') == SECOND
    assert ids(daemon, '--priority=high') == FIRST and ids(daemon, '--priority=medium') == SECOND
    assert ids(daemon, '--pool=B', '--priority=high') == []


def modify(daemon):
    daemon.good('set-priority', '--vm-id=8-9', '--priority=high')
    daemon.good('set-priority', '--vm-id=7,20', '--priority=low')
    daemon.fails(1, 'VM 21 is not registered', 'set-priority', '--vm-id=18-21', '--priority=low')
    assert ids(daemon, '--priority=high') == [1, 2, 3, 4, 5, 6, 8, 9]
    assert ids(daemon, '--priority=low') == [7, 20], 'a range that failed changed some'
    table = daemon.good('list-vms', '--pool=A').splitlines()
    assert len(table) == 8 and table[1].split()[:4] == ['1', 'vm-1', 'A', 'high'], table


def everything(daemon):
    return {vm['vm_id']: (vm['pool'], vm['priority']) for vm in daemon.json('list-vms')['vms']}


def restart(daemon):
    before = everything(daemon)
    daemon.stop()
    daemon.start()
    assert everything(daemon) == before, 'a restart lost something'
    daemon.kill()
    daemon.start()
    assert everything(daemon) == before, 'kill -9 lost something'


def main():
    with rig.Daemon(*sys.argv[1:3]) as daemon:
        return rig.run_tests([('vms_1_to_7_in_pool_a_and_8_to_20_in_pool_b', lambda: assign(daemon)),
                              ('priorities_set_changed_and_asked_for', lambda: modify(daemon)),
                              ('all_there_after_restart_and_kill', lambda: restart(daemon))])


if __name__ == '__main__':
    sys.exit(main())
