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
import select
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


def roles(daemon):
    """Everybody may knock; who may come in, vgpud tells apart, and whom it turned away is in the history."""
    nobody = As(daemon)
    admins, viewers = groups_of_others()
    look, change = ('list-vms',), ('set-priority', '--vm-id=1', '--priority=low')

    def may(*wanted):
        for groups, may_look, may_change in wanted:
            for command, status in ((look, may_look), (change, may_change)):
                got, text = nobody.run(groups, *command)
                assert got == status, f'{[g.gr_name for g in groups]} {command}: exit {got}: {text}'
                assert got == 0 or ('EPERM' in text and 'try sudo' in text), text

    def before_and_after_a_start(*wanted):
        may(*wanted)
        daemon.stop()
        daemon.start()
        may(*wanted)

    assert os.stat(daemon.socket).st_mode & 0o777 == 0o666
    before_and_after_a_start(([admins], 1, 1), ([], 1, 1))
    assert 'control.admin_group names no group' in nobody.run([], *look)[1]
    reload(daemon, f'control: {{admin_group: {admins.gr_name}}}\n')
    before_and_after_a_start(([admins], 0, 0), ([viewers], 1, 1))
    assert f'the group {admins.gr_name} (control.admin_group)' in nobody.run([], *look)[1]
    reload(daemon, f'control: {{admin_group: {admins.gr_name}, viewer_group: {viewers.gr_name}}}\n')
    before_and_after_a_start(([admins], 0, 0), ([viewers], 0, 1), ([admins, viewers], 0, 0), ([], 1, 1))
    assert f'viewers the group {viewers.gr_name}' in nobody.run([], *look)[1]
    # An administrator's request may be long, a viewer's may not.
    assert nobody.long_request([viewers], 70000) == 'EMSGSIZE'
    assert nobody.long_request([admins], 70000) == 'ENOENT'
    rows = [(row['user'], row['command'], row['object'], row['result'].split(':')[0])
            for row in daemon.json('history', '--limit=20')['history']]
    assert ('nobody', 'set-priority', 'vm 1', 'EPERM') in rows and ('nobody', 'connect', '', 'EPERM') in rows, rows
    reload(daemon, '')
    before_and_after_a_start(([admins, viewers], 1, 1))


def strangers(daemon):
    """A thousand knocks of somebody without a role are few rows, and each of them is counted."""
    nobody = As(daemon)
    daemon.stop()
    daemon.start()
    first = last(daemon)[0]['seq']
    knocks = 1000
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups([])
            os.setresgid(*[nobody.user.pw_gid] * 3)
            os.setresuid(*[nobody.user.pw_uid] * 3)
            for _ in range(knocks):
                with socket.socket(socket.AF_UNIX) as s:
                    s.settimeout(30)
                    s.connect(daemon.socket)
                    assert 'EPERM' in s.makefile().readline()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0, 'a knock was not answered'
    daemon.stop()  # what is counted is told at the end at the latest
    daemon.start()
    rows = [row for row in last(daemon, 1000) if row['seq'] > first]
    assert {row['user'] for row in rows} == {'nobody'}, rows
    noted = [row for row in rows if row['command'] == 'connect']
    counted = sum(int(row['result'].split()[0]) for row in rows if row['command'] == 'refused')
    assert len(rows) < 30 and len(noted) + counted == knocks, (len(rows), len(noted), counted)


class Holder:
    """Connections of nobody in these groups that say nothing. Those beyond the places are answered at once; the others are
    held until it is told to let go, or vgpud has waited long enough for them."""

    def __init__(self, nobody, groups, wanted, places):
        (read, self.told), (self.tell, write) = os.pipe(), os.pipe()
        self.child = os.fork()
        if self.child == 0:
            try:
                os.close(self.told)
                os.setgroups([g.gr_gid for g in groups])
                os.setresgid(*[nobody.user.pw_gid] * 3)
                os.setresuid(*[nobody.user.pw_uid] * 3)
                held, answers = [], []
                for _ in range(wanted):
                    s = socket.socket(socket.AF_UNIX)
                    s.connect(nobody.daemon.socket)
                    held.append(s)
                while len(answers) < wanted - places:
                    for s in select.select(held, [], [], 30)[0]:
                        answers.append(s.recv(4096).decode())
                        held.remove(s)
                os.write(write, str(sum('EUSERS' in a for a in answers)).encode())
                os.read(read, 1)
            finally:
                os._exit(0)
        os.close(read)
        os.close(write)

    def crowded(self):
        """How many were told that there is no place."""
        return int(os.read(self.tell, 16) or b'-1')

    def end(self):
        os.close(self.told)
        os.close(self.tell)
        os.waitpid(self.child, 0)


def places(daemon):
    """Nobody takes all places: of one uid, and of all viewers, only so many, and the rest is told so at once."""
    nobody = As(daemon)
    admins, viewers = groups_of_others()
    reload(daemon, f'control: {{admin_group: {admins.gr_name}, viewer_group: {viewers.gr_name}}}\n')
    first = last(daemon)[0]['seq']
    holder = Holder(nobody, [viewers], 20, 16)
    assert holder.crowded() == 4, 'a viewer has 16 places'
    assert nobody.run([admins], 'list-vms')[0] == 0, 'an administrator of the same uid has more'
    assert daemon.json('list-vms')['vms'], 'and root has all that are left'
    rows = [row for row in last(daemon, 1000) if row['seq'] > first and row['result'].startswith('EUSERS')]
    assert rows and rows[0]['command'] == 'connect' and rows[0]['user'] == 'nobody', rows
    late = subprocess.Popen([nobody.ctl, 'list-vms', f'--socket={daemon.socket}'], user=nobody.user.pw_uid,
                            group=nobody.user.pw_gid, extra_groups=[viewers.gr_gid], cwd='/', stdout=subprocess.DEVNULL)
    holder.end()
    assert late.wait(timeout=60) == 0, 'vgpu-ctl waits for its place'
    holder = Holder(nobody, [admins], 70, 40)
    assert holder.crowded() == 30, 'an administrator by group has 40'
    daemon.good('set-priority', '--vm-id=1', '--priority=low')
    holder.end()
    reload(daemon, '')


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
        roles(daemon)


def main():
    with rig.Daemon(*sys.argv[1:3], config=CONFIG) as daemon:
        daemon.privileges = ''
        daemon.good('register-vm', '--vm-id=1-4', '--pool=A')
        return rig.run_tests([('roles_by_group', lambda: roles(daemon)),
                              ('strangers_are_counted', lambda: strangers(daemon)),
                              ('places', lambda: places(daemon)),
                              ('roles_by_group_of_a_privileged_vgpud', privileged_roles),
                              ('refusals_are_in_the_history', lambda: refusals(daemon)),
                              ('signals_are_in_the_history', lambda: signals(daemon)),
                              ('pools_of_the_configuration', lambda: started_with_another_file(daemon))])


if __name__ == '__main__':
    sys.exit(main())
