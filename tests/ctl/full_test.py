#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A full disk, a real one: vgpud's state on a small tmpfs that is filled to the last byte. Commands that would write are
refused with the reason, nothing is half applied, those that read work, the daemon goes on, and once there is room again all
goes on as before; also with kill -9 in between, and on the store itself.

full_test.py VGPUD VGPU-CTL
"""
import ctypes
import errno
import os
import random
import shutil
import signal
import sys

import rig

MIB = 1 << 20
CLONE_NEWNS, CLONE_NEWUSER, MS_REC, MS_PRIVATE = 0x20000, 0x10000000, 0x4000, 1 << 18
LIBC = ctypes.CDLL(None, use_errno=True)


def call(name, *args):
    if getattr(LIBC, name)(*args):
        raise OSError(ctypes.get_errno(), name)


def own_mounts():
    """A mount namespace of our own, so that nothing stays behind; without root also a user namespace, where we are root."""
    uid, gid = os.geteuid(), os.getegid()
    call('unshare', CLONE_NEWNS | (CLONE_NEWUSER if uid else 0))
    if uid:
        for name, text in (('setgroups', 'deny'), ('uid_map', f'0 {uid} 1'), ('gid_map', f'0 {gid} 1')):
            with open(f'/proc/self/{name}', 'w', encoding='ascii') as f:
                f.write(text)
    call('mount', b'none', b'/', None, MS_REC | MS_PRIVATE, None)


class Disk:
    """A tmpfs over this folder, and a file that takes all that is left on it."""

    def __init__(self, folder, mib=3):
        os.makedirs(folder, exist_ok=True)
        call('mount', b'tmpfs', folder.encode(), b'tmpfs', 0, f'size={mib * MIB},mode=0700'.encode())
        self.folder, self.ballast = folder, os.path.join(folder, 'ballast')

    def fill(self, but=0):
        """Leaves `but` pages."""
        self.free()
        with open(self.ballast, 'wb', buffering=0) as f:
            try:
                while True:
                    f.write(bytes(4096))
            except OSError as fault:
                assert fault.errno == errno.ENOSPC, fault
            f.truncate(max(0, f.tell() - but * 4096))

    def free(self):
        if os.path.exists(self.ballast):
            os.unlink(self.ballast)


WRITES = (('register-vm', '--vm-id=100-115', '--pool=B'), ('set-priority', '--vm-id=1-20', '--priority=low'),
          ('set-pool', '--vm-id=1-7', '--pool=B'), ('set-limit', '--vm-id=1', '--in-flight=9'), ('remove-vm', '--vm-id=1-20'),
          ('drain-vm', '--vm-id=1-7', '--reason=full'), ('quarantine-vm', '--vm-id=3'), ('attach', '--vm-id=4'),
          ('create-pool', '--pool=C', '--executor=exec-A'), ('update-pool', '--pool=B', '--sm-share=3'),
          ('update-vm', '--vm-id=5', '--name=five'))


def registry(d, *where, **more):
    return d.json('export', *where, **more)


def refused(d, disk):
    """Each command that writes, with no page left: either it is done as a whole, since a page that was there was enough,
    or it is refused with the reason and nothing of it is there."""
    full = 0
    for arguments in WRITES:
        disk.fill()
        before = registry(d)
        status, output, errors = d.run(*arguments)
        if status == 0:
            continue
        full += 1
        assert status == 1 and output == '' and errors.count('\n') == 1, (arguments, status, errors)
        assert 'free some disk space (ENOSPC)' in errors, (arguments, errors)
        assert registry(d) == before, f'{arguments}: half of it was applied'
        assert d.process.poll() is None, d.log()
    return full


def until_full(d, disk):
    """No page is left, neither on the disk nor in SQLite's own files."""
    disk.fill()
    for _ in range(2000):
        if d.run('set-priority', '--vm-id=1-20', f'--priority={random.choice(("high", "low"))}')[0]:
            return
    raise AssertionError('the disk does not get full')


def unrecorded(d, disk):
    """What changes only the running daemon is not done either where it cannot be in the history."""
    full = 'free some disk space'
    disk.free()
    d.good('trace', '--vm-id=1', 'off')
    with open(d.config, 'a', encoding='utf-8') as f:
        f.write('log: {level: error}\nlimits: {in_flight: 77}\n')
    until_full(d, disk)
    d.fails(1, full, 'trace', '--vm-id=1', 'on')
    assert d.json('trace', '--vm-id=1', 'dump')['tracing'] is False
    for _ in range(2):  # the second is asked to change as much as the first
        d.fails(1, full, 'reload-config')
        assert len(d.json('reload-config', '--dry-run')['applied']) == 2
    assert d.json('show-vm', '--vm-id=1')['vm']['in_flight'] == 1024
    assert not [h for h in d.json('history')['history'] if h['command'] == 'reload-config' and h['result'] == 'ok']
    disk.free()
    d.good('trace', '--vm-id=1', 'on')
    assert len(d.json('reload-config')['applied']) == 2
    assert [h['command'] for h in d.json('history')['history'][-2:]] == ['trace', 'reload-config']
    assert d.json('history', '--vm-id=1')['history'][-1]['new'] == {'tracing': True, 'sample': 1}
    disk.fill()


def daemon_on_a_full_disk(d, disk):
    pid = d.process.pid
    d.good('register-vm', '--vm-id=1-7', '--pool=A', f'--uid={os.getuid()}')
    d.good('register-vm', '--vm-id=8-20', '--pool=B')
    before = registry(d)
    # First what is left of SQLite's own files is used up.
    disk.fill()
    for _ in range(2000):
        status, _, errors = d.run('set-priority', '--vm-id=1-20', f'--priority={random.choice(("high", "low"))}')
        if status:
            break
    assert status == 1 and 'free some disk space' in errors and 'ENOSPC' in errors, (status, errors)
    names = [vm['vm_id'] for vm in d.json('list-vms')['vms']]
    assert names == list(range(1, 21)), names
    assert len({vm['priority'] for vm in d.json('list-vms')['vms']}) == 1, 'half of a range was changed'
    refusals = refused(d, disk)
    assert refusals >= 5, f'only {refusals} commands met a full disk'
    unrecorded(d, disk)
    for read in (('list-vms',), ('list-pools',), ('show-vm', '--vm-id=1'), ('stats',), ('status',), ('history',)):
        d.good(*read)
    assert os.path.exists(os.path.join(d.where, 'run', 'tokens', 'vm-1.token')), 'tokens stayed'
    assert d.json('stats')['daemon']['pid'] == pid
    d.fails(1, 'No space left', 'export', f'--output={disk.folder}/copy.json')
    assert not [name for name in os.listdir(disk.folder) if 'copy.json' in name], 'half of a file is left behind'
    # Room again: everything goes on, in the same daemon.
    disk.free()
    d.good('set-priority', '--vm-id=1-20', '--priority=medium')
    d.good('register-vm', '--vm-id=200', '--pool=A')
    d.good('remove-vm', '--vm-id=200')
    assert len(registry(d)['vms']) >= len(before['vms'])
    return refusals


def killed_on_a_full_disk(d, disk):
    """kill -9 while nothing can be written, and a start on the full disk: refused with the reason, or it serves."""
    disk.fill()
    before = registry(d)
    d.run('set-priority', '--vm-id=2', '--priority=high')
    now = registry(d)
    d.kill()
    try:
        d.start()
    except RuntimeError as fault:
        assert 'free some disk space' in str(fault) or 'No space left' in str(fault), fault
        disk.free()
        d.start()
    assert registry(d) == now, (before, now)
    disk.free()
    d.good('set-priority', '--vm-id=2', '--priority=high')


def store_on_a_full_disk(d, disk):
    """The same without a daemon; and a store that is new."""
    d.stop()
    db = f'--db={d.database}'
    before = registry(d, db, socket=False)
    disk.fill()
    full = 0
    for arguments in (('set-priority', '--vm-id=1-20', '--priority=low'), ('remove-vm', '--vm-id=1-7')) * 20:
        status, _, errors = d.run(*arguments, db, socket=False)
        if status == 0:
            break
        assert 'full' in errors or 'No space left' in errors, errors
        full += 1
    assert full, 'the disk was not full'
    new = os.path.join(disk.folder, 'new.db')
    d.fails(3, 'free some disk space', 'list-vms', f'--db={new}', socket=False)
    disk.free()
    assert registry(d, db, socket=False) == before or full < 40
    assert len(d.json('list-pools', f'--db={new}', socket=False)['pools']) == 2, 'what was half made is made whole'
    d.start()
    d.good('set-priority', '--vm-id=1-20', '--priority=high')


def main():
    try:
        own_mounts()
    except OSError as fault:
        print(f'no mount namespace of our own: {fault.strerror} ({fault.args[-1]}); run it as root')
        return 77
    d = rig.Daemon(*sys.argv[1:3])
    try:
        disk, shown = Disk(os.path.join(d.where, 'state')), []
        d.start()
        status = rig.run_tests([('vgpud_on_a_full_disk', lambda: shown.append(daemon_on_a_full_disk(d, disk))),
                                ('killed_and_started_on_a_full_disk', lambda: killed_on_a_full_disk(d, disk)),
                                ('a_store_without_vgpud', lambda: store_on_a_full_disk(d, disk))])
        print(f'shows: {sum(shown)} of {len(WRITES)} commands met a disk without a free page, refused as a whole')
    finally:
        if d.process:
            d.kill()
        LIBC.umount2(os.path.join(d.where, 'state').encode(), 2)
        shutil.rmtree(d.where, ignore_errors=True)
    return status


if __name__ == '__main__':
    signal.alarm(110)
    sys.exit(main())
