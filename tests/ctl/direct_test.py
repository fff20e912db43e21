#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Whom vgpu-ctl asks: --db and --socket before and after the command; the store itself while no vgpud runs, through vgpud
while one does, also one that starts or ends at that moment.

direct_test.py VGPUD VGPU-CTL
"""
import fcntl
import json
import os
import random
import shutil
import sys
import threading
import time

import rig

A, B = '--pool=A', '--pool=B'


def new_store(daemon):
    """A store that is not there yet has pools A and B with room for 32 VMs each."""
    db = os.path.join(daemon.where, 'new.db')
    pools = daemon.json('list-pools', f'--db={db}', socket=False)['pools']
    assert [(p['name'], p['capacity'], p['members']) for p in pools] == [('A', 32, 0), ('B', 32, 0)], pools
    assert daemon.json('--db', db, 'list-vms', socket=False) == {'vms': []}
    daemon.good('--db', db, 'register-vm', '--vm-id=1-32', A, socket=False)
    daemon.fails(1, 'pool A is full', 'register-vm', '--vm-id', '33', A, '--db', db, socket=False)
    daemon.fails(1, 'VM 32 is registered already', 'register-vm', '--vm-id=32-40', B, '--db', db, socket=False)
    assert len(daemon.json('list-vms', '--db', db, socket=False)['vms']) == 32
    assert daemon.json('list-vms', B, '--db', db, socket=False) == {'vms': []}
    history = daemon.json('history', '--db', db, socket=False)['history']
    assert {h['uid'] for h in history} == {os.getuid()}, history
    assert [h['result'].split(':')[0] for h in history] == ['ok'] * 32 + ['ENOSPC', 'EEXIST'], history


def only_the_store(daemon):
    """Every command that needs only the store works without vgpud; the others say so and end with 3."""
    db = f'--db={os.path.join(daemon.where, "only.db")}'
    uid = os.getuid()
    daemon.good('register-vm', db, '--vm-id=1', A, f'--uid={uid}', socket=False)
    token = daemon.json('show-vm', db, '--vm-id=1', socket=False)['vm']['token_file']
    assert os.stat(token).st_mode & 0o777 == 0o600 and os.stat(token).st_uid == uid, token
    for args in (['update-vm', '--vm-id=1', '--priority=low'], ['set-priority', '--vm-id=1', '--priority=high'],
                 ['set-pool', '--vm-id=1', B], ['set-limit', '--vm-id=1', '--in-flight=9'], ['attach', '--vm-id=1'],
                 ['detach', '--vm-id=1'], ['drain-vm', '--vm-id=1'], ['drain-vm', '--vm-id=1', '--undo'],
                 ['quarantine-vm', '--vm-id=1'], ['clear-quarantine', '--vm-id=1'], ['show-pool', B], ['history'],
                 ['export'], ['list-vms'], ['list-pools'], ['remove-vm', '--vm-id=1']):
        daemon.good(*args, db, socket=False)
    assert not os.path.exists(token), 'the token of a VM that is gone'
    for args in (['stats'], ['status'], ['reload-config'], ['top', '--once']):
        daemon.fails(3, 'vgpud', *args, db, socket=False)


def not_there(daemon):
    """Nobody to ask: exit status 3 and what to look at."""
    where = daemon.where
    empty = {'VGPU_CONFIG': os.path.join(where, 'elsewhere.yaml')}
    with open(empty['VGPU_CONFIG'], 'w', encoding='utf-8') as f:
        f.write(f'paths:\n  run_dir: {where}/none/run\n  state_dir: {where}/none/state\n')
    daemon.fails(3, 'cannot reach vgpud', 'list-vms', socket=False, env=empty)
    daemon.fails(3, 'cannot reach vgpud', 'attach', '--vm-id=1', A, socket=False, env=empty)
    assert not os.path.exists(os.path.join(where, 'none')), 'a question made a store'
    daemon.fails(3, 'cannot reach vgpud', 'list-vms', '--socket', os.path.join(where, 'nobody.sock'), socket=False)
    daemon.fails(3, 'lock file', 'list-vms', f'--db={where}/none/of.db', socket=False)
    not_a_store = os.path.join(where, 'text.db')
    with open(not_a_store, 'w', encoding='utf-8') as f:
        f.write('this is no database' * 100)
    daemon.fails(3, 'text.db', 'list-vms', '--db', not_a_store, socket=False)
    with open(empty['VGPU_CONFIG'], 'a', encoding='utf-8') as f:
        f.write('nonsense: 1\n')
    daemon.fails(3, 'nonsense', 'list-vms', socket=False, env=empty)


def default_store(daemon):
    """With nothing named: the configuration's store, with its tokens where vgpud would put them."""
    named = {'VGPU_CONFIG': daemon.config}
    daemon.good('register-vm', '--vm-id=50', A, f'--uid={os.getuid()}', f'--db={daemon.database}', socket=False, env=named)
    vm = daemon.json('show-vm', '--vm-id=50', socket=False, env=named)['vm']
    assert vm['token_file'] == f'{daemon.where}/run/tokens/vm-50.token' and os.path.exists(vm['token_file']), vm
    daemon.good('remove-vm', '--vm-id=50', socket=False, env=named)


def through_the_daemon(daemon):
    """A store that a vgpud has is changed through it; so vgpud knows, and the history says who."""
    db = f'--db={daemon.database}'
    daemon.good('register-vm', '--vm-id=60', A, db, socket=False)
    assert daemon.json('show-vm', '--vm-id=60')['vm']['pool'] == 'A'
    assert daemon.json('stats', db, socket=False)['daemon']['pid'] == daemon.process.pid
    assert daemon.json('status', db, socket=False)['store'] == daemon.database
    link = os.path.join(daemon.where, 'link.db')
    os.symlink(daemon.database, link)
    assert daemon.json('list-vms', f'--db={link}', socket=False) == daemon.json('list-vms')
    daemon.good('remove-vm', '--vm-id=60', db, socket=False)


def by_configuration(daemon):
    """--config names the vgpud, and its store while it is down; --socket and --db say more, the environment less."""
    config = f'--config={daemon.config}'
    elsewhere = {'VGPU_CONTROL_SOCKET': '/nonexistent/s', 'VGPU_CONFIG': '/nonexistent/c'}
    daemon.good(config, 'register-vm', '--vm-id=61', A, socket=False, env=elsewhere)
    assert daemon.process is None and os.path.exists(daemon.database)
    daemon.start()
    assert daemon.json('show-vm', '--vm-id=61', '--config', daemon.config, socket=False)['vm']['pool'] == 'A'
    assert daemon.json('stats', config, socket=False)['daemon']['pid'] == daemon.process.pid
    assert daemon.json('stats', socket=False, env={'VGPU_CONFIG': daemon.config})['daemon']['pid'] == daemon.process.pid
    daemon.fails(3, '/nonexistent/s', 'stats', config, '--socket=/nonexistent/s', socket=False)
    daemon.good('remove-vm', '--vm-id=61', config, socket=False)
    daemon.stop()
    daemon.fails(3, '/nonexistent/c', 'list-vms', '--config=/nonexistent/c', socket=False)
    small = os.path.join(daemon.where, 'small.yaml')
    with open(small, 'w', encoding='utf-8') as f:
        f.write(f'paths:\n  run_dir: {daemon.where}/run\n  state_dir: {daemon.where}/state\nlimits: {{in_flight: 16}}\n')
    limit = ('register-vm', '--vm-id=61', A, '--in-flight=17', f'--db={daemon.where}/other.db')
    daemon.fails(1, 'expected 1 to 16', *limit, f'--config={small}', socket=False)
    daemon.good(*limit, config, socket=False)


def another_store(daemon):
    """A vgpud that has another file open than the one that is meant is never taken for its owner."""
    db, spare = daemon.database, daemon.database + '.spare'
    daemon.good('register-vm', '--vm-id=70', A, f'--db={db}', socket=False)
    shutil.copy(db, spare)
    daemon.start()
    before = daemon.json('list-vms')
    # Restored from a copy while vgpud runs: the name is the same, the file is not.
    os.rename(db, db + '.old')
    shutil.copy(spare, db)
    daemon.fails(3, 'was it replaced while vgpud ran', 'remove-vm', '--vm-id=70', f'--db={db}', socket=False)
    assert daemon.json('list-vms') == before
    os.rename(db + '.old', db)
    assert daemon.json('list-vms', f'--db={db}', socket=False) == before
    # Its lock file taken away: the store itself is still locked.
    os.unlink(db + '.lock')
    daemon.fails(3, 'locked', 'remove-vm', '--vm-id=70', f'--db={db}', socket=False)
    assert daemon.json('list-vms') == before
    # A lock held by somebody else that names this vgpud, for a store that is not its own.
    other = os.path.join(daemon.where, 'foreign.db')
    daemon.good('register-vm', '--vm-id=71', A, f'--db={other}', socket=False)
    with open(other + '.lock', 'w', encoding='utf-8') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(f'{os.getpid()}\n{daemon.socket}\n')
        lock.flush()
        daemon.fails(3, 'has another file open', 'set-priority', '--vm-id=70', '--priority=low', f'--db={other}', socket=False)
        # And one that names nobody who answers.
        lock.seek(0)
        lock.write(f'1\n{daemon.where}/nobody.sock\n')
        lock.truncate()
        lock.flush()
        daemon.fails(3, 'cannot reach vgpud', 'list-vms', f'--db={other}', socket=False)
    assert [vm['vm_id'] for vm in daemon.json('list-vms', f'--db={other}', socket=False)['vms']] == [71]
    assert daemon.json('list-vms') == before
    daemon.kill()
    daemon.good('remove-vm', '--vm-id=70', f'--db={db}', socket=False)


def pools_without_vgpud(daemon):
    """What vgpud would refuse of a pool is refused without it too, and half of nothing is done."""
    db = f'--db={daemon.database}'
    here = dict(socket=False, env={'VGPU_CONFIG': daemon.config})
    document = os.path.join(daemon.where, 'pools.json')

    def write(*pools):
        with open(document, 'w', encoding='utf-8') as f:
            json.dump({'format': 'vgpu-registry', 'version': 1, 'pools': list(pools), 'vms': [
                {'vm_id': 90, 'name': 'vm-90', 'pool': 'A', 'priority': 'low'}]}, f)

    def unchanged(words, *args):
        before = daemon.json('export', db, **here)
        daemon.fails(1, words, *args, db, **here)
        assert daemon.json('export', db, **here) == before, args

    unchanged('there is no executor zzz', 'create-pool', '--pool=C', '--executor=zzz')
    unchanged('did you mean exec-A?', 'create-pool', '--pool=C', '--executor=exec-AA')
    unchanged('EBUSY', 'update-pool', '--pool=A', '--executor=exec-B')
    unchanged("one of the configuration's", 'remove-pool', '--pool=B')
    unchanged('change its capacity there', 'update-pool', '--pool=A', '--capacity=33')
    for pool, words in (({'name': 'C', 'capacity': 4, 'executor': 'zzz'}, 'there is no executor zzz'),
                        ({'name': 'C', 'capacity': 4}, 'expected executor'),
                        ({'name': 'A', 'capacity': 4}, 'change its capacity there')):
        write(pool)
        unchanged(words, 'import', document)
        unchanged(words, 'import', document, '--dry-run')
    write(*[{'name': f'P{i}', 'capacity': 1, 'executor': 'exec-A'} for i in range(14)])
    assert len(daemon.json('import', document, db, **here)['differences']['pools']) == 14
    unchanged('16 at most', 'create-pool', '--pool=P99', '--executor=exec-A')
    unchanged('there is no executor zzz', 'update-pool', '--pool=P1', '--executor=zzz')
    daemon.good('update-pool', '--pool=P1', '--executor=exec-B', '--capacity=2', db, **here)
    daemon.start()
    assert {p['state'] for p in daemon.json('list-pools')['pools']} == {'up'}
    daemon.stop()
    daemon.good('remove-vm', '--vm-id=90', db, **here)
    for i in range(14):
        daemon.good('remove-pool', f'--pool=P{i}', db, **here)
    # A store that is not the configuration's: its pools are its own, but executors are the configuration's all the same.
    other = f'--db={daemon.where}/own.db'
    daemon.good('update-pool', '--pool=A', '--capacity=33', other, **here)
    daemon.good('remove-pool', '--pool=B', other, **here)
    daemon.fails(1, 'there is no executor zzz', 'create-pool', '--pool=C', '--executor=zzz', other, **here)
    assert [(p['name'], p['capacity']) for p in daemon.json('list-pools', other, **here)['pools']] == [('A', 33)]


def hook_before_the_first_start(daemon):
    """The pools of a configuration are there for a hook that comes before vgpud ever ran, and it finds what was done."""
    where = os.path.join(daemon.where, 'first')
    named = os.path.join(daemon.where, 'first.yaml')
    os.makedirs(f'{where}/state')
    with open(named, 'w', encoding='utf-8') as f:
        f.write(f'paths:\n  run_dir: {where}/run\n  state_dir: {where}/state\n'
                'pools:\n  - {name: gold, executor: exec-A, capacity: 2}\n  - {name: A, executor: exec-A, capacity: 3}\n'
                'executors:\n  - {name: exec-A}\n')
    here = dict(socket=False, env={'VGPU_CONFIG': named})
    db = f'--db={where}/state/vgpu.db'
    daemon.fails(3, 'cannot reach vgpud', 'list-vms', **here)
    assert os.listdir(f'{where}/state') == [], 'a question made a store'
    daemon.good('attach', '--vm-id=1', '--pool=gold', **here)
    daemon.fails(1, 'there is no pool B', 'attach', '--vm-id=2', '--pool=B', db, **here)
    assert [(p['name'], p['capacity']) for p in daemon.json('list-pools', db, **here)['pools']] == [('A', 3), ('gold', 2)]
    rows = daemon.json('history', db, **here)['history']
    assert [h['command'] for h in rows].count('configuration') == 3, rows  # gold and A as they are, B gone: once, not each time
    config, daemon.config = daemon.config, named
    socket, daemon.socket = daemon.socket, f'{where}/run/control.sock'
    daemon.start()
    assert daemon.json('show-vm', '--vm-id=1')['vm']['pool'] == 'gold'
    assert len(daemon.json('history')['history']) == len(rows), 'the start changed pools'
    daemon.stop()
    daemon.config, daemon.socket = config, socket
    # Three VMs, then a capacity of two: without vgpud the store can be mended, which is what vgpud asks for at its start.
    daemon.good('attach', '--vm-id=2', '--pool=A', db, **here)
    daemon.good('attach', '--vm-id=3', '--pool=A', db, **here)
    with open(named, encoding='utf-8') as f:
        text = f.read()
    with open(named, 'w', encoding='utf-8') as f:
        f.write(text.replace('capacity: 3', 'capacity: 1'))
    daemon.good('list-vms', db, **here)
    daemon.good('remove-vm', '--vm-id=2', db, **here)
    assert daemon.json('show-pool', '--pool=A', db, **here)['pool']['capacity'] == 1


def newer_or_damaged(daemon):
    """A store of a newer vgpu, and one that is damaged: neither vgpu-ctl nor vgpud touches it, and both say what to do."""
    db = daemon.database
    daemon.good('register-vm', '--vm-id=80-99', B, f'--db={db}', socket=False)
    with open(db, 'rb') as f:
        good = f.read()

    def refused(text, words):
        with open(db, 'wb') as f:
            f.write(text)
        daemon.fails(3, words, 'list-vms', f'--db={db}', socket=False)
        daemon.fails(3, words, 'remove-vm', '--vm-id=80', f'--db={db}', socket=False)
        try:
            daemon.start()
            raise AssertionError('vgpud serves it')
        except RuntimeError as fault:
            assert words in str(fault), fault
        with open(db, 'rb') as f:
            assert f.read() == text, 'it was written to'

    version = 60  # of SQLite's header: user_version, big endian
    refused(good[:version] + (99).to_bytes(4, 'big') + good[version + 4:], 'was written by a newer vgpu')
    page = good.index(b'vm-99') // 4096 * 4096
    refused(good[:page] + bytes(200) + good[page + 200:], 'restore a backup')
    with open(db, 'wb') as f:
        f.write(good)
    assert len(daemon.json('list-vms', B, f'--db={db}', socket=False)['vms']) >= 20
    daemon.good('remove-vm', '--vm-id=80-99', f'--db={db}', socket=False)


STARTS = 8


def around_starts(daemon):
    """Hooks that call while vgpud starts and ends: each succeeds, and none of their changes is lost."""
    db, done, faults, over = f'--db={daemon.database}', {}, [], threading.Event()

    def hooks(first):
        turn = 0
        while not over.is_set() or turn < 2:
            for vm in range(first, first + 4):
                try:
                    daemon.good('detach' if turn % 2 else 'attach', f'--vm-id={vm}', db, socket=False)
                    daemon.good('set-limit', f'--vm-id={vm}', f'--in-flight={turn % 1000 + 1}', db, socket=False)
                    done[vm] = (turn % 2 == 0, turn % 1000 + 1, turn)
                except AssertionError as fault:
                    faults.append(str(fault))
                    return
            turn += 1

    daemon.good('register-vm', '--vm-id=100-103', A, db, socket=False)
    daemon.good('register-vm', '--vm-id=200-203', B, db, socket=False)
    threads = [threading.Thread(target=hooks, args=(first,)) for first in (100, 200)]
    for thread in threads:
        thread.start()
    for turn in range(STARTS):
        daemon.start()
        time.sleep(random.random() * 0.1)
        daemon.kill() if turn % 2 else daemon.stop()
    over.set()
    for thread in threads:
        thread.join()
    assert not faults, faults[:3]
    vms = {vm['vm_id']: vm for vm in daemon.json('list-vms', db, socket=False)['vms'] if vm['vm_id'] >= 100}
    kept = {vm: (vms[vm]['expected'], vms[vm]['in_flight']) for vm in vms}
    assert kept == {vm: told[:2] for vm, told in done.items()} and len(kept) == 8, (kept, done)
    return sum(2 * (turn + 1) for _, _, turn in done.values())


def main():
    shown = []
    daemon = rig.Daemon(*sys.argv[1:3])
    try:
        os.makedirs(os.path.dirname(daemon.database))
        os.makedirs(os.path.join(daemon.where, 'run'))

        def with_daemon():
            with_state = dict(before=daemon.json('list-vms', f'--db={daemon.database}', socket=False))
            daemon.start()
            assert daemon.json('list-vms') == with_state['before']
            through_the_daemon(daemon)
            daemon.stop()

        status = rig.run_tests([('a_new_store_has_two_pools', lambda: new_store(daemon)),
                                ('what_needs_only_the_store', lambda: only_the_store(daemon)),
                                ('nobody_to_ask', lambda: not_there(daemon)),
                                ('the_store_of_the_configuration', lambda: default_store(daemon)),
                                ('a_store_that_a_daemon_has', with_daemon),
                                ('by_configuration', lambda: by_configuration(daemon)),
                                ('another_store', lambda: another_store(daemon)),
                                ('pools_without_vgpud', lambda: pools_without_vgpud(daemon)),
                                ('hook_before_the_first_start', lambda: hook_before_the_first_start(daemon)),
                                ('newer_or_damaged', lambda: newer_or_damaged(daemon)),
                                ('hooks_around_starts_and_ends', lambda: shown.append(around_starts(daemon)))])
        print(f'shows: {sum(shown)} changes by hooks while vgpud started and ended {STARTS} times: each was made, none is lost')
    finally:
        if daemon.process:
            daemon.kill()
        shutil.rmtree(daemon.where, ignore_errors=True)
    return status


if __name__ == '__main__':
    sys.exit(main())
