#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What every command prints with --json, against docs/schema/vgpu-ctl.json: each command has an entry there, its real
output is as the entry says, and no key of it is missing in the schema.

json_test.py VGPUD VGPU-CTL FOLDER-OF-SCHEMAS
"""
import json
import os
import sys

import rig
import schema


# Reports with a schema of their own beside it. Their exit status says what they found, so it may be another than 0.
OWN_SCHEMA = ('precheck', 'doctor')


def closed(part):
    """The schema with every object that names its keys closed: a key that nobody described is a fault here."""
    if isinstance(part, list):
        return [closed(item) for item in part]
    if not isinstance(part, dict):
        return part
    out = {key: closed(value) for key, value in part.items()}
    if 'properties' in out and 'type' in out:
        out.setdefault('additionalProperties', False)
    return out


class Checker:
    def __init__(self, daemon, folder):
        self.folder = folder
        self.root = closed(self.load('vgpu-ctl'))
        self.daemon, self.seen = daemon, set()

    def load(self, name):
        with open(os.path.join(self.folder, name + '.json'), encoding='utf-8') as f:
            return json.load(f)

    def check(self, command, result):
        self.seen.add(command)
        if command in OWN_SCHEMA:
            own = self.load(command)
            found = list(schema.faults(own, result, own))
        else:
            found = list(schema.faults({'$ref': f'#/$defs/{command}'}, result, self.root))
        assert not found, f'{command}:\n' + '\n'.join(found)

    def run(self, command, *args, **more):
        result = self.daemon.json(command, *args, **more)
        self.check(command, result)
        return result

    def lines(self, command, *args):
        """A command that prints an object a line."""
        output = self.daemon.good(command, *args, '--json')
        for line in output.splitlines():
            self.check(command, json.loads(line))
        return output


def scenario(c):
    """Each command at least once, so that rows of every kind are seen."""
    uid = str(os.getuid())
    c.run('register-vm', '--vm-id=1-3', '--pool=A', '--priority=high')
    c.run('register-vm', '--vm-id=4', '--pool=B', f'--uid={uid}', '--name=four', '--engine=batch')
    vms = c.run('list-vms')['vms']
    assert [vm['vm_id'] for vm in vms] == [1, 2, 3, 4], vms
    assert [vm['vm_id'] for vm in c.run('list-vms', '--pool=A')['vms']] == [1, 2, 3]
    assert c.run('list-vms', '--priority=low') == {'vms': []}
    c.run('show-vm', '--vm-id=4')
    c.run('list-pools')
    c.run('stats')
    c.run('stats', '--vm-id=1')
    c.run('version')
    c.run('help')
    for shell in ('bash', 'zsh', 'fish'):
        assert c.run('completion', shell)['script'] == c.daemon.good('completion', shell)
    c.run('status')
    c.run('reload-config', '--dry-run')
    c.run('update-vm', '--vm-id=4', '--name=vier', '--uuid=01234567-89AB-cdef-0123-456789abcdef', '--isolation=shared')
    c.run('set-pool', '--vm-id=4', '--pool=A')
    c.run('set-priority', '--vm-id=1,4', '--priority=low')
    c.run('set-limit', '--vm-id=4', '--in-flight=8', '--arena-bytes=1M')
    c.run('drain-vm', '--vm-id=4', '--reason=maintenance')
    c.run('drain-vm', '--vm-id=4', '--undo')
    c.run('quarantine-vm', '--vm-id=4', '--reason=loud')
    c.run('show-vm', '--vm-id=4')
    c.run('clear-quarantine', '--vm-id=4')
    c.run('attach', '--uuid=01234567-89ab-cdef-0123-456789abcdef')
    c.run('detach', '--vm-id=4')
    c.run('attach', '--uuid=11111111-2222-3333-4444-555555555555', '--pool=B', f'--uid={uid}')
    c.run('remove-vm', '--vm-id=5')
    c.run('create-pool', '--pool=C', '--executor=exec-A', '--capacity=4')
    c.run('update-pool', '--pool=C', '--capacity=5', '--sm-share=50')
    c.run('show-pool', '--pool=A')
    document = os.path.join(c.daemon.where, 'document')
    c.run('export')
    c.run('export', f'--output={document}')
    c.run('remove-pool', '--pool=C')
    c.run('import', document, '--mode=replace', '--dry-run')
    c.run('import', f'--input={document}')
    c.run('history', '--since=1h', '--limit=1000')
    c.run('history', '--vm-id=4')
    c.lines('top', '--count=2', '--interval-ms=100')
    c.run('show-iommu-status')
    c.run('trace', 'on', '--vm-id=1', '--sample=4')
    c.run('trace', 'dump', '--vm-id=1')
    c.run('trace', 'off', '--vm-id=1')
    c.run('topology')
    for command in OWN_SCHEMA:
        status, output, _ = c.daemon.run(command, '--json', f'--config={c.daemon.config}')
        assert status in (0, 4, 5, 6) and output.count('\n') == 1, (command, status, output[:200])
        c.check(command, json.loads(output))
    c.run('remove-vm', '--vm-id=1-2')


def watching(c):
    """watch sees what happens while it runs, and ends by itself."""
    import subprocess
    import time
    daemon = c.daemon
    watch = subprocess.Popen([daemon.ctl, 'watch', '--json', '--interval-ms=20', '--count=2', '--seconds=30',
                              f'--socket={daemon.socket}'], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    # When it first looks, and how often a busy machine lets it, is not known: until it has seen enough.
    pause = 0.1
    while watch.poll() is None:
        time.sleep(pause)
        daemon.good('register-vm', '--vm-id=30', '--pool=B')
        time.sleep(pause)
        daemon.good('remove-vm', '--vm-id=30')
        pause *= 1.5
    output, errors = watch.communicate(timeout=60)
    assert watch.returncode == 0 and not errors, errors
    changes = [json.loads(line) for line in output.splitlines()]
    for change in changes:
        c.check('watch', change)
    assert {x['id'] for x in changes} == {30} and [x['change'] for x in changes] in (
        ['registered', 'removed'], ['removed', 'registered']), changes


def validator():
    """The validator itself finds what is wrong, or all of this says nothing."""
    s = {'type': 'object', 'required': ['a'], 'properties': {'a': {'type': 'integer', 'minimum': 1}, 'b': {'$ref': '#/x'}},
         'additionalProperties': False}
    root = {'x': {'enum': ['u', None]}}
    assert not list(schema.faults(s, {'a': 1, 'b': None}, root))
    for wrong in ({}, {'a': 0}, {'a': True}, {'a': 1.5}, {'a': '1'}, {'a': 1, 'b': 'v'}, {'a': 1, 'c': 2}, [], None):
        assert list(schema.faults(s, wrong, root)), wrong
    assert list(schema.faults({'type': 'array', 'items': {'pattern': '^a$'}}, ['a', 'ab'], root))
    assert list(schema.faults({'type': 'array', 'uniqueItems': True}, [1, 1], root))
    assert list(schema.faults({'anyOf': [{'type': 'null'}, {'const': 3}]}, 4, root))
    try:
        list(schema.faults({'minItems': 1}, [], root))
    except ValueError:
        return
    raise AssertionError('an unknown keyword went unnoticed')


def main():
    with rig.Daemon(*sys.argv[1:3]) as daemon:
        c = Checker(daemon, sys.argv[3])

        def complete():
            commands = {x['name'] for x in daemon.json('help')['commands']}
            entries = set(c.root['$defs'])
            assert commands <= entries, f'without an entry in the schema: {sorted(commands - entries)}'
            assert commands <= c.seen, f'not run here: {sorted(commands - c.seen)}'

        status = rig.run_tests([('the_validator_finds_faults', validator),
                                ('results_are_as_the_schema_says', lambda: scenario(c)),
                                ('watch_prints_changes', lambda: watching(c)),
                                ('every_command_has_an_entry_and_was_run', complete)])
        print(f'shows: the output of {len(c.seen)} commands held against docs/schema/vgpu-ctl.json')
    return status


if __name__ == '__main__':
    sys.exit(main())
