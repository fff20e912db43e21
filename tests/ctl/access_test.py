#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Who may, over the real socket with real users and groups; and that whatever changed, or was refused, is in the history
with who did it: commands, a signal, a start with another configuration.

access_test.py VGPUD VGPU-CTL
"""
import grp
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time

import rig

CONFIG = '''paths:
  run_dir: {0}/run
  state_dir: {0}/state
limits:
  in_flight: 256
executors:
  - {{name: one, backend: null}}
pools:
  - {{name: A, executor: one, capacity: 8}}
  - {{name: B, executor: one, capacity: 8}}
'''


def groups_of_others():
    """Two groups of this host, and a user that is in neither."""
    named = [g for g in grp.getgrall() if g.gr_gid not in (0, os.getgid())]
    return named[0], named[1]


class As:
    """Runs vgpu-ctl as nobody who is in these groups."""

    def __init__(self, daemon):
        if os.geteuid():
            raise rig.Skip('needs root, to become other users')
        self.daemon = daemon
        os.chmod(daemon.where, 0o755)
        self.ctl = shutil.copy(daemon.ctl, os.path.join(daemon.where, 'vgpu-ctl'))  # a build may lie where only root looks
        self.user = pwd.getpwnam('nobody')

    def run(self, groups, *args):
        done = subprocess.run([self.ctl, *args, f'--socket={self.daemon.socket}'], user=self.user.pw_uid,
                              group=self.user.pw_gid, extra_groups=[g.gr_gid for g in groups], cwd='/',
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60, check=False)
        return done.returncode, done.stdout.decode() + done.stderr.decode()


    def long_request(self, groups, length):
        """The code that a request of this length is answered with: show-vm of a VM that is not there."""
        read, write = os.pipe()
        child = os.fork()  # not another Python: it may lie where only root looks
        if child == 0:
            try:
                os.setgroups([g.gr_gid for g in groups])
                os.setresgid(*[self.user.pw_gid] * 3)
                os.setresuid(*[self.user.pw_uid] * 3)
                with socket.socket(socket.AF_UNIX) as s:
                    s.settimeout(30)
                    s.connect(self.daemon.socket)
                    try:
                        s.sendall(b'{"command":"show-vm","args":{"vm_id":4000}}'.ljust(length) + b'\n')
                    except OSError:
                        pass  # it answered early
                    os.write(write, json.loads(s.makefile().readline())['error']['code'].encode())
            finally:
                os._exit(0)
        os.close(write)
        with os.fdopen(read) as f:
            code = f.read()
        os.waitpid(child, 0)
        return code


def reload(daemon, extra):
    with open(daemon.config, 'w', encoding='utf-8') as f:
        f.write(CONFIG.format(daemon.where) + daemon.privileges + extra)
    daemon.good('reload-config')


def mode_of(daemon):
    s = os.stat(daemon.socket)
    return s.st_mode & 0o777, s.st_gid


def roles(daemon, privileged):
    """privileged: vgpud gave nothing up, so it can give its socket to a group. Else the socket lets everybody in, and who has
    no role is told so."""
    nobody = As(daemon)
    admins, viewers = groups_of_others()
    look, change = ('list-vms',), ('set-priority', '--vm-id=1', '--priority=low')
    assert mode_of(daemon) == (0o660, os.getgid())
    assert nobody.run([admins], *look)[0] == 3, 'no group is named'
    reload(daemon, f'control: {{admin_group: {admins.gr_name}}}\n')
    if privileged:
        assert mode_of(daemon) == (0o660, admins.gr_gid), mode_of(daemon)
    else:
        assert mode_of(daemon) in ((0o660, admins.gr_gid), (0o666, os.getgid())), mode_of(daemon)
    assert nobody.run([admins], *look)[0] == 0
    assert nobody.run([viewers], *look)[0] == (3 if mode_of(daemon)[0] == 0o660 else 1)
    daemon.stop()
    daemon.start()
    assert mode_of(daemon) == (0o660, admins.gr_gid), 'named at the start, it has the socket in any case'
    assert nobody.run([admins], *look)[0] == 0 and nobody.run([viewers], *look)[0] == 3
    reload(daemon, f'control: {{admin_group: {admins.gr_name}, viewer_group: {viewers.gr_name}}}\n')
    assert mode_of(daemon)[0] == 0o666, 'one file, two groups'
    for groups, may_look, may_change in (([admins], 0, 0), ([viewers], 0, 1), ([admins, viewers], 0, 0), ([], 1, 1)):
        for command, status in ((look, may_look), (change, may_change)):
            got, text = nobody.run(groups, *command)
            assert got == status, f'{[g.gr_name for g in groups]} {command}: exit {got}: {text}'
            assert got == 0 or 'EPERM' in text, text
    # An administrator's request may be long, a viewer's may not.
    assert nobody.long_request([viewers], 70000) == 'EMSGSIZE'
    assert nobody.long_request([admins], 70000) == 'ENOENT'
    rows = [(row['user'], row['command'], row['object'], row['result'].split(':')[0])
            for row in daemon.json('history', '--limit=10')['history']]
    assert ('nobody', 'set-priority', 'vm 1', 'EPERM') in rows and ('nobody', 'connect', '', 'EPERM') in rows, rows
    reload(daemon, '')
    assert mode_of(daemon)[0] == 0o660
    assert nobody.run([admins, viewers], *look)[0] in (1, 3), 'the roles were taken away again'
    daemon.stop()
    daemon.start()
    assert mode_of(daemon) == (0o660, os.getgid())
    assert nobody.run([admins, viewers], *look)[0] == 3


def last(daemon, count=1):
    return daemon.json('history', f'--limit={count}')['history']


def signals(daemon):
    """SIGHUP is a reload like the command's: what it did, and what it refused, is in the history."""
    def hangup(text):
        before = last(daemon)[0]['seq']
        with open(daemon.config, 'w', encoding='utf-8') as f:
            f.write(text)
        daemon.process.send_signal(signal.SIGHUP)
        until = time.monotonic() + 20
        while last(daemon)[0]['seq'] == before:
            assert time.monotonic() < until, 'the signal left no row'
            time.sleep(0.02)
        return last(daemon)[0]

    row = hangup(CONFIG.format(daemon.where).replace('in_flight: 256', 'in_flight: 100'))
    assert row['command'] == 'reload-config' and row['result'] == 'ok' and row['uid'] == os.getuid(), row
    assert row['pid'] == os.getpid(), 'the sender is known'
    assert row['new']['applied'] == [{'key': 'limits.in_flight', 'old': '256', 'new': '100'}], row
    assert 'limits.in_flight 256 -> 100' in daemon.good('history', '--limit=1')
    row = hangup(CONFIG.format(daemon.where) + 'nonsense: 1\n')
    assert row['result'].startswith('EINVAL: nothing was changed') and 'nonsense' in row['result'], row
    row = hangup(CONFIG.format(daemon.where).replace('capacity: 8', 'capacity: 2'))
    assert row['result'].startswith('EINVAL: ') and 'registered in pool' in row['result'], row
    pools = {p['name']: p['capacity'] for p in daemon.json('list-pools')['pools']}
    assert pools == {'A': 8, 'B': 8}, 'half of a file was applied'


def started_with_another_file(daemon):
    """Pools that the configuration changes between two starts are changes as well."""
    daemon.stop()
    text = CONFIG.format(daemon.where).replace('name: B, executor: one, capacity: 8', 'name: B, executor: one, capacity: 9')
    with open(daemon.config, 'w', encoding='utf-8') as f:
        f.write(text + '  - {name: C, executor: one, capacity: 3}\n')
    daemon.start()
    rows = {row['object']: row for row in last(daemon, 2)}
    assert rows['pool B']['old']['capacity'] == 8 and rows['pool B']['new']['capacity'] == 9, rows
    assert rows['pool C']['old'] is None and rows['pool C']['command'] == 'start', rows
    before = last(daemon)[0]['seq']
    daemon.stop()
    daemon.start()
    assert last(daemon)[0]['seq'] == before, 'a start that changes nothing leaves no row'


def refusals(daemon):
    daemon.fails(1, 'is full', 'register-vm', '--vm-id=50-60', '--pool=A')
    row = last(daemon)[0]
    assert row['result'].startswith('ENOSPC: ') and row['new']['vm_ids'] == list(range(50, 61)), row
    assert row['pid'] > 0 and row['uid'] == os.getuid(), row
    line = daemon.good('history', '--limit=1')
    assert ' refused ' in line and 'pool A is full' in line and 'added' not in line, line
    daemon.fails(1, 'VM 3', 'register-vm', '--vm-id=3', '--pool=A')
    assert last(daemon)[0]['vm_id'] == 3 and 'EEXIST' in daemon.json('history', '--vm-id=3')['history'][-1]['result']


def privileged_roles():
    privileges = 'privileges: {sandbox: off}\n'
    config = CONFIG + privileges.replace('{', '{{').replace('}', '}}')
    with rig.Daemon(*sys.argv[1:3], config=config) as daemon:
        daemon.privileges = privileges
        daemon.good('register-vm', '--vm-id=1', '--pool=A')
        roles(daemon, True)


def main():
    with rig.Daemon(*sys.argv[1:3], config=CONFIG) as daemon:
        daemon.privileges = ''
        daemon.good('register-vm', '--vm-id=1-4', '--pool=A')
        return rig.run_tests([('roles_by_group', lambda: roles(daemon, False)),
                              ('roles_by_group_of_a_privileged_vgpud', privileged_roles),
                              ('refusals_are_in_the_history', lambda: refusals(daemon)),
                              ('signals_are_in_the_history', lambda: signals(daemon)),
                              ('pools_of_the_configuration', lambda: started_with_another_file(daemon))])


if __name__ == '__main__':
    sys.exit(main())
