#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the commands over the registry print for people, and that a refusal changes nothing.

registry_test.py VGPUD VGPU-CTL
"""
import json
import os
import sys

import rig

UUID = '01234567-89ab-cdef-0123-456789abcdef'


def printed(d):
    """Each command's text for people, once."""
    document = os.path.join(d.where, 'registry.json')
    for arguments, expected in (
            (['set-pool', '--vm-id=20', '--pool=B'], ' B '),
            (['set-limit', '--vm-id=3', '--in-flight=16'], ' 16 '),
            (['drain-vm', '--vm-id=3', '--reason=work on it'], 'drained'),
            (['drain-vm', '--vm-id=3', '--undo'], 'registered'),
            (['quarantine-vm', '--vm-id=4', '--reason=loud'], 'quarantined'),
            (['show-vm', '--vm-id=4'], 'loud'),
            (['clear-quarantine', '--vm-id=4'], 'registered'),
            (['attach', f'--uuid={UUID.upper()}'], '20'),
            (['detach', '--vm-id=20'], '20'),
            (['create-pool', '--pool=C', '--executor=exec-A', '--capacity=4'], 'exec-A'),
            (['update-pool', '--pool=C', '--capacity=5'], '5'),
            (['show-pool', '--pool=A'], 'vm-7'),
            (['export'], '"vgpu-registry"'),
            (['export', f'--output={document}'], 'wrote 3 pools and 20 VMs'),
            (['remove-pool', '--pool=C'], 'removed pool C'),
            (['remove-vm', '--vm-id=1'], 'removed VM 1'),
            (['import', document, '--dry-run'], 'not done, it would be:\nadded pool C\nadded VM 1\n'),
            (['import', f'--input={document}', '--mode=replace'], 'added pool C\nadded VM 1\n'),
            (['import', document], 'nothing changes'),
            (['history', '--vm-id=3'], 'set-limit'),
            (['history', '--since=1h'], 'pool A -> B'),
            (['status'], 'config_file'),
            (['reload-config', '--dry-run'], 'nothing changes')):
        output = d.good(*arguments)
        assert expected in output, f'{arguments}: expected {expected!r} in\n{output}'


def refused(d):
    """What only vgpud can know: exit status 1, and nothing changes."""
    before = d.json('list-vms'), d.json('list-pools')
    wrong = os.path.join(d.where, 'wrong.json')
    with open(wrong, 'w', encoding='utf-8') as f:
        f.write('{"format": "vgpu-registry", "version": 1, "pools": [], "vms": [{"vm_id": 70000}]}')
    for message, *arguments in (
            ('ENOENT', 'set-pool', '--vm-id=1-3,99', '--pool=B'),
            ('ENOENT', 'set-pool', '--vm-id=1', '--pool=Z'),
            ('EEXIST', 'register-vm', '--vm-id=1', '--pool=A'),
            ('EEXIST', 'update-vm', '--vm-id=2', f'--uuid={UUID}'),
            ('EINVAL', 'update-vm', '--vm-id=1-2', '--name=same'),
            ('EBUSY', 'remove-pool', '--pool=A'),
            ('executor', 'create-pool', '--pool=D', '--executor=nobody'),
            ('ENOENT', 'attach', '--vm-id=99'),
            ('vm_id', 'import', wrong),
            ('no JSON', 'import', d.config),
            ('cannot read', 'import', d.where + '/none'),
            ('cannot write', 'export', f'--output={d.where}/none/x')):
        d.fails(1, message, *arguments)
    assert (d.json('list-vms'), d.json('list-pools')) == before


def large(d):
    """A document far beyond 64 KiB goes through the daemon as one change, and so does a change of all that are in it."""
    document = os.path.join(d.where, 'large.json')
    vms = [{'vm_id': 1000 + i, 'name': f'large-{i}', 'pool': 'L', 'priority': 'low', 'reason': 'why' * 10,
            'admin_state': 'drained', 'uuid': f'aaaaaaaa-0000-4000-8000-{i:012x}'} for i in range(2000)]
    pool = {'name': 'L', 'capacity': 2000, 'executor': 'exec-A'}
    with open(document, 'w', encoding='utf-8') as f:
        json.dump({'format': 'vgpu-registry', 'version': 1, 'pools': [pool], 'vms': vms}, f)
    assert os.path.getsize(document) > 4 * 65536
    before = d.json('list-vms')
    vms[1999]['pool'] = 'no-such-pool'
    with open(document + '.bad', 'w', encoding='utf-8') as f:
        json.dump({'format': 'vgpu-registry', 'version': 1, 'pools': [pool], 'vms': vms}, f)
    d.fails(1, 'there is no pool no-such-pool', 'import', document + '.bad')
    assert d.json('list-vms') == before and 'L' not in d.good('list-pools').split()
    added = d.json('import', document)['differences']['added']
    assert len(added) == 2000, len(added)
    assert len(d.json('set-priority', '--vm-id=1000-2899', '--priority=high')['vms']) == 1900
    assert len(d.json('list-vms', '--pool=L', '--priority=high')['vms']) == 1900
    assert len(d.good('top', '--once', '--pool=L', '--interval-ms=100').splitlines()) > 2000
    assert len(d.json('remove-vm', '--vm-id=1000-2999')['removed']) == 2000
    d.good('remove-pool', '--pool=L')
    assert d.json('list-vms') == before


def main():
    with rig.Daemon(*sys.argv[1:3]) as d:
        d.good('register-vm', '--vm-id=1-7', '--pool=A', '--priority=high')
        d.good('register-vm', '--vm-id=8-20', '--pool=B')
        d.good('update-vm', '--vm-id=20', '--pool=A', f'--uuid={UUID}')
        return rig.run_tests([
            ('every_command_prints_its_result', lambda: printed(d)),
            ('a_refusal_changes_nothing', lambda: refused(d)),
            ('thousands_in_one_request', lambda: large(d))])


if __name__ == '__main__':
    sys.exit(main())
