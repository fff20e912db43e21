#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""libvirt's hook and what it calls: a table of domains against a vgpu-ctl that records how it was called, the same against
the real one on a store, with and without a daemon, and attach and detach themselves: twice, in any order, both names of a VM.

hook_test.py VGPUD VGPU-CTL HOOK
"""
import json
import os
import subprocess
import sys

import rig

UUIDS = [f'{n:08d}-1111-2222-3333-444444444444' for n in range(10)]
DOMAIN = '<domain type="kvm"><name>web</name><uuid>{0}</uuid><metadata>{1}</metadata></domain>'
WISH = '<vgpu:vm xmlns:vgpu="urn:vgpu:1" {0}/>'
OTHER = '<app:info xmlns:app="urn:other:1" pool="A"/>'
FAKE = '''#!/bin/sh
printf '%s\\n' "$@" >> "$FAKE_CALLS"
echo "$FAKE_SAYS" >&2
exit "$FAKE_EXIT"
'''
START, STOP = ('prepare', 'begin'), ('release', 'end')


def domain(n, wish=None, more=''):
    return DOMAIN.format(UUIDS[n], more + (WISH.format(wish) if wish is not None else ''))


def hook(path, what, xml, **env):
    done = subprocess.run([path, 'web', *what, '-'], input=xml.encode(), env=dict(os.environ, **env), capture_output=True,
                          timeout=60, check=False)
    assert done.stdout == b'', f'libvirt reads the output as XML: {done.stdout!r}'
    return done.returncode, done.stderr.decode()


# what, XML, exit status and words of vgpu-ctl -> how it was called (None: not at all), exit status and words of the hook
TABLE = [
    ('a wish', START, domain(1, 'pool="A" priority="high"'), 0, '', ['attach', '1', '--pool=A', '--priority=high'], 0, ''),
    ('all attributes', START, domain(1, 'iommu-domain="3" isolation="dedicated" uid="root" vm-id="7" pool="B" name="w" '
     'engine="batch" in-flight="8" arena-bytes="1M" device-bytes="0" priority="low"'), 0, '',
     ['attach', '1', '--vm-id=7', '--pool=B', '--priority=low', '--engine=batch', '--name=w', '--uid=root', '--in-flight=8',
      '--arena-bytes=1M', '--device-bytes=0', '--isolation=dedicated', '--iommu-domain=3'], 0, ''),
    ('what is no option stays a value', START, domain(1, 'pool="A --db=/x; reboot"'), 2, 'is not a name',
     ['attach', '1', '--pool=A --db=/x; reboot'], 1, 'is not a name'),
    ('no wish, registered', START, domain(2, more=OTHER), 0, '', ['attach', '2'], 0, ''),
    ('no wish, not registered', START, domain(2), 1, 'vgpu-ctl: VM x is not registered (ENOENT)', ['attach', '2'], 0, ''),
    ('no wish, quarantined', START, domain(2), 1, 'VM 2 is quarantined (EPERM)', ['attach', '2'], 0, 'without its vGPU'),
    ('no wish, nobody there', START, domain(2), 3, 'cannot reach vgpud', ['attach', '2'], 0, ''),
    ('a pool that is full', START, domain(1, 'pool="A"'), 1, 'pool A is full (ENOSPC)', ['attach', '1', '--pool=A'], 1,
     'pool A is full'),
    ('no such pool', START, domain(1, 'pool="Z"'), 1, 'there is no pool Z (ENOENT)', ['attach', '1', '--pool=Z'], 1, 'no pool Z'),
    ('nobody there', START, domain(1, 'pool="A"'), 3, 'cannot reach vgpud', ['attach', '1', '--pool=A'], 0, 'could not be told'),
    ('killed', START, domain(1, 'pool="A"'), 137, '', ['attach', '1', '--pool=A'], 0, 'could not be told'),
    ('no pool', START, domain(1, 'priority="high"'), 0, '', None, 1, 'the attribute pool is missing'),
    ('an unknown attribute', START, domain(1, 'pool="A" prio="high"'), 0, '', None, 1, 'unknown attribute prio'),
    ('no XML', START, 'no XML', 0, '', None, 0, 'web'),
    ('nothing', START, '', 0, '', None, 0, 'web'),
    ('no uuid', START, '<domain/>', 0, '', None, 0, 'no uuid'),
    ('libvirt has started again', ('reconnect', 'begin'), domain(1, 'pool="A"'), 0, '', ['attach', '1', '--pool=A'], 0, ''),
    ('stop', STOP, domain(1, 'pool="A"'), 0, '', ['detach', '1'], 0, ''),
    ('stop, not registered', STOP, domain(1), 1, 'is not registered (ENOENT)', ['detach', '1'], 0, ''),
    ('stop, refused', STOP, domain(1), 1, 'disk full (ENOSPC)', ['detach', '1'], 0, 'disk full'),
    ('stop, nobody there', STOP, domain(1), 3, 'cannot reach vgpud', ['detach', '1'], 0, ''),
    ('stop, a wish that nobody understands', STOP, domain(1, 'priority="high"'), 0, '', None, 0, 'pool is missing'),
] + [(f'{a} {b}', (a, b), domain(1, 'pool="A"'), 0, '', None, 0, '') for a, b in
     (('start', 'begin'), ('started', 'begin'), ('stopped', 'end'), ('migrate', 'begin'), ('restore', 'begin'),
      ('attach', 'begin'))]


def table(path, where):
    fake, calls = os.path.join(where, 'fake-ctl'), os.path.join(where, 'calls')
    with open(fake, 'w', encoding='utf-8') as f:
        f.write(FAKE)
    os.chmod(fake, 0o755)
    for name, what, xml, code, says, called, wanted, words in TABLE:
        open(calls, 'w', encoding='utf-8').close()
        got, text = hook(path, what, xml, VGPU_HOOK_CTL=fake, FAKE_CALLS=calls, FAKE_SAYS=says, FAKE_EXIT=str(code))
        with open(calls, encoding='utf-8') as f:
            seen = f.read().splitlines()
        if called:
            called = [called[0], f'--uuid={UUIDS[int(called[1])]}', *called[2:]]
        assert seen == (called or []), f'{name}: called vgpu-ctl with {seen}, expected {called}'
        assert got == wanted, f'{name}: exit {got}, expected {wanted}: {text}'
        assert words in text and bool(words) == bool(text), f'{name}: expected {words!r} in {text!r}'
    got, text = hook(path, START, domain(1, 'pool="A"'), VGPU_HOOK_CTL=os.path.join(where, 'no-such-program'))
    assert got == 0 and 'could not be told' in text, (got, text)
    done = subprocess.run([path, 'web'], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert done.returncode == 2 and b'usage' in done.stderr, done
    return len(TABLE) + 2


def names(daemon):
    """attach and detach: by id, by uuid, by both; only once in the history; registered where a pool is given."""
    def vm(*args):
        return daemon.json(*args)['vms'][0]

    made = vm('attach', f'--uuid={UUIDS[1]}', '--pool=A', '--priority=high', '--name=one')
    assert (made['vm_id'], made['pool'], made['priority'], made['uuid'], made['expected']) == (1, 'A', 'high', UUIDS[1], True)
    same = vm('attach', f'--uuid={UUIDS[1].upper()}', '--vm-id=1', '--pool=B', '--priority=low', '--name=other')
    assert same == made, f'what is registered was changed: {same}'
    daemon.good('register-vm', '--vm-id=3', '--pool=B')
    assert vm('attach', f'--uuid={UUIDS[2]}', '--pool=B')['vm_id'] == 2, 'the lowest free id'
    assert vm('attach', f'--uuid={UUIDS[4]}', '--pool=B')['vm_id'] == 4
    assert vm('attach', f'--uuid={UUIDS[6]}', '--vm-id=9', '--pool=B')['vm_id'] == 9
    before = daemon.json('list-vms'), len(daemon.json('history', '--limit=1000')['history'])
    assert vm('attach', '--vm-id=1') == vm('attach', '--vm-id=1') == made
    assert (daemon.json('list-vms'), len(daemon.json('history', '--limit=1000')['history'])) == before, 'twice is once'
    daemon.fails(1, 'is VM 1, not VM 2', 'attach', f'--uuid={UUIDS[1]}', '--vm-id=2', '--pool=A')
    daemon.fails(1, 'is registered with uuid', 'attach', f'--uuid={UUIDS[7]}', '--vm-id=2', '--pool=A')
    daemon.fails(1, 'is registered without a uuid', 'attach', f'--uuid={UUIDS[7]}', '--vm-id=3', '--pool=A')
    daemon.fails(1, 'not registered', 'attach', f'--uuid={UUIDS[7]}')
    daemon.fails(1, 'there is no pool Z', 'attach', f'--uuid={UUIDS[7]}', '--pool=Z')
    daemon.fails(1, 'is VM 1, not VM 2', 'detach', f'--uuid={UUIDS[1]}', '--vm-id=2')
    assert daemon.json('list-vms') == before[0]
    gone = vm('detach', f'--uuid={UUIDS[1]}', '--vm-id=1')
    assert not gone['expected'] and gone == vm('detach', '--vm-id=1')
    entry = daemon.json('history', '--vm-id=9')['history'][-1]
    assert entry['command'] == 'attach' and entry['old'] is None and entry['new']['uuid'] == UUIDS[6], entry
    daemon.good('quarantine-vm', '--vm-id=9')
    daemon.fails(1, 'quarantined', 'attach', '--vm-id=9', '--pool=B')
    daemon.good('remove-vm', '--vm-id=1-4,9')


def real(daemon, path):
    """The hook with the real vgpu-ctl: while vgpud runs, after its end, and before there was one."""
    env = {'VGPU_HOOK_CTL': daemon.ctl, 'VGPU_HOOK_ARGS': f'--db={daemon.database}'}

    def state():
        vms = daemon.json('list-vms', f'--db={daemon.database}', socket=False)['vms']
        return [(vm['vm_id'], vm['uuid'], vm['pool'], vm['expected']) for vm in vms]

    def told(what, xml, expected=0):
        got, text = hook(path, what, xml, **env)
        assert got == expected, f'exit {got}: {text}'
        return text

    for running in (True, False):
        if not running:
            daemon.stop()
        for _ in range(2):
            told(START, domain(1, 'pool="A" priority="high"'))
        told(START, domain(2))  # wants nothing
        assert state() == [(1, UUIDS[1], 'A', True)], state()
        for _ in range(2):
            told(STOP, domain(1, 'pool="A" priority="high"'))
        told(STOP, domain(2))
        assert state() == [(1, UUIDS[1], 'A', False)], state()
        assert 'there is no pool Z' in told(START, domain(3, 'pool="Z"'), 1)
        assert 'priority' in told(START, domain(3, 'pool="A" priority="urgent"'), 1)
    env['VGPU_HOOK_ARGS'] = f'--db={daemon.where}/before/there/was.db'
    assert 'could not be told' in told(START, domain(1, 'pool="A"'))
    env['VGPU_HOOK_ARGS'] = f'--db={daemon.where}/new.db'
    told(START, domain(1, 'pool="A"'))
    made = json.loads(daemon.good('list-vms', '--json', f'--db={daemon.where}/new.db', socket=False))
    assert [vm['uuid'] for vm in made['vms']] == [UUIDS[1]]
    daemon.start()


def main():
    path, shown = sys.argv[3], []
    with rig.Daemon(*sys.argv[1:3]) as daemon:
        status = rig.run_tests([('a_table_of_domains', lambda: shown.append(table(path, daemon.where))),
                                ('attach_and_detach', lambda: names(daemon)),
                                ('with_and_without_the_daemon', lambda: real(daemon, path))])
    print(f'shows: {sum(shown)} domains through the libvirt hook')
    return status


if __name__ == '__main__':
    sys.exit(main())
