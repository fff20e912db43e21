#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""vgpud killed -9 at random points of a thousand acknowledged writes of every kind. Each time the store it leaves is whole,
and is what was acknowledged, with the write that was under way made as a whole or not at all; the history has a row for each
change and no other; and the next vgpud says the same and has just the token files that belong to it.

kill_test.py VGPUD VGPU-CTL            VGPU_KILLS: how often (24), VGPU_TEST_SEED: the random choices again
"""
import copy
import json
import os
import random
import shutil
import socket
import sqlite3
import sys
import time

import rig

CONFIG = '''paths:
  run_dir: {0}/run
  state_dir: {0}/state
executors:
  - {{name: one, backend: null}}
pools:
  - {{name: A, executor: one, capacity: 40}}
  - {{name: B, executor: one, capacity: 40}}
'''
WRITES = 1000
KILLS = int(os.environ.get('VGPU_KILLS', '24'))
PRIORITIES, ADMIN = ('high', 'medium', 'low'), ('active', 'drained', 'quarantined')


class Model:
    """What the store must hold: VMs and pools as export shows them, and how many rows the history has."""

    def __init__(self):
        self.vms, self.pools, self.rows = {}, {'A': 40, 'B': 40}, 0

    def members(self, pool):
        return sum(vm['pool'] == pool for vm in self.vms.values())


def some(rng, model, most=4):
    return sorted(rng.sample(sorted(model.vms), min(len(model.vms), rng.randint(1, most))))


def change(rng, model, number):
    """A request that will be accepted, and what it makes of the model."""
    after = copy.deepcopy(model)
    kind = rng.choice(('register-vm', 'register-vm', 'remove-vm', 'set-priority', 'set-pool', 'set-limit', 'update-vm',
                       'drain-vm', 'quarantine-vm', 'clear-quarantine', 'attach', 'detach', 'create-pool', 'update-pool',
                       'remove-pool', 'import'))
    spare = [i for i in range(1, 200) if i not in model.vms]
    if not model.vms or (kind == 'register-vm' and len(model.vms) > 60):
        kind = 'remove-vm' if model.vms else 'register-vm'

    def fresh(vm_id, pool, priority):
        return {'vm_id': vm_id, 'name': f'vm-{vm_id}', 'pool': pool, 'priority': priority, 'in_flight': None, 'uid': None,
                'admin_state': 'active', 'expected': False}

    def each(vm_ids, **now):
        for vm_id in vm_ids:
            after.vms[vm_id].update(now)
        after.rows += len(vm_ids)
        return vm_ids

    room = [pool for pool in model.pools if model.pools[pool] - model.members(pool) >= 4]
    if kind == 'register-vm':
        vm_ids, pool, priority = spare[:rng.randint(1, 4)], rng.choice(room), rng.choice(PRIORITIES)
        args = {'vm_ids': vm_ids, 'pool': pool, 'priority': priority}
        if rng.random() < 0.5:
            args['uid'] = os.getuid()
        for vm_id in vm_ids:
            after.vms[vm_id] = dict(fresh(vm_id, pool, priority), uid=args.get('uid'))
        after.rows += len(vm_ids)
    elif kind == 'remove-vm':
        args = {'vm_ids': some(rng, model)}
        for vm_id in args['vm_ids']:
            del after.vms[vm_id]
        after.rows += len(args['vm_ids'])
    elif kind == 'set-priority':
        priority = rng.choice(PRIORITIES)
        args = {'vm_ids': each(some(rng, model), priority=priority), 'priority': priority}
    elif kind == 'set-pool':
        pool = rng.choice(room)
        args = {'vm_ids': each(some(rng, model), pool=pool), 'pool': pool}
    elif kind == 'set-limit':
        args = {'vm_ids': each(some(rng, model), in_flight=number % 1024 + 1), 'in_flight': number % 1024 + 1}
    elif kind == 'update-vm':
        vm_id = rng.choice(sorted(model.vms))
        args = {'vm_ids': each([vm_id], name=f'n{number}'), 'name': f'n{number}'}
    elif kind in ('drain-vm', 'quarantine-vm', 'clear-quarantine'):
        state = {'drain-vm': 'drained', 'quarantine-vm': 'quarantined', 'clear-quarantine': 'active'}[kind]
        fits = [i for i in sorted(model.vms) if model.vms[i]['admin_state'] ==
                ('quarantined' if kind == 'clear-quarantine' else 'active')]
        if not fits:
            return change(rng, model, number)
        args = {'vm_ids': each(fits[:3], admin_state=state)}
    elif kind in ('attach', 'detach'):
        fits = [i for i in sorted(model.vms) if model.vms[i]['expected'] == (kind == 'detach') and
                model.vms[i]['admin_state'] == 'active']
        if not fits:
            return change(rng, model, number)
        args = {'vm_id': each([rng.choice(fits)], expected=kind == 'attach')[0]}
    elif kind == 'create-pool':
        if len(model.pools) >= 14:
            return change(rng, model, number)
        args = {'pool': f'p{number}', 'executor': 'one', 'capacity': 8}
        after.pools[args['pool']] = 8
        after.rows += 1
    elif kind in ('update-pool', 'remove-pool'):
        fits = [pool for pool in sorted(model.pools) if pool not in 'AB' and
                (kind == 'update-pool' or not model.members(pool))]
        if not fits:
            return change(rng, model, number)
        args = {'pool': rng.choice(fits)}
        after.rows += 1
        if kind == 'remove-pool':
            del after.pools[args['pool']]
        else:
            args['capacity'] = after.pools[args['pool']] = 8 + number
    else:
        vm_id, pool = spare[0], f'i{number}'
        if len(model.pools) >= 14:
            return change(rng, model, number)
        after.pools[pool], after.vms[vm_id] = 5, fresh(vm_id, pool, 'low')
        gone = some(rng, model, 2)
        args = {'mode': 'merge', 'document': {
            'format': 'vgpu-registry', 'version': 1, 'pools': [{'name': pool, 'capacity': 5, 'executor': 'one'}],
            'vms': [{'vm_id': vm_id, 'name': f'vm-{vm_id}', 'pool': pool, 'priority': 'low'}] +
                   [{'vm_id': i, 'name': f'vm-{i}', 'pool': 'A', 'priority': 'low'} for i in gone]}}
        if model.members('A') > 38 or any(model.vms[i]['name'] != f'vm-{i}' for i in gone):
            return change(rng, model, number)
        for i in gone:
            after.vms[i] = fresh(i, 'A', 'low')
        same = sum(model.vms[i] == after.vms[i] for i in gone)
        after.rows += 2 + len(gone) - same
    return {'command': kind, 'args': args}, after


def send(daemon, request):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(60)
    s.connect(daemon.socket)
    s.sendall(json.dumps(request).encode() + b'\n')
    return s


def answer(s):
    """True: acknowledged. False: it ended first."""
    with s:
        try:
            text = s.makefile().readline()
        except ConnectionResetError:
            return False
    if not text.endswith('\n'):
        return False
    response = json.loads(text)
    assert response['ok'], response
    return True


def shown(document):
    keys = ('vm_id', 'name', 'pool', 'priority', 'in_flight', 'uid', 'admin_state', 'expected')
    return {vm['vm_id']: {key: vm[key] for key in keys} for vm in document['vms']}, \
        {pool['name']: pool['capacity'] for pool in document['pools']}


def left_behind(daemon):
    """What the killed vgpud left, read by another program from a copy; checked by SQLite itself."""
    where = os.path.join(daemon.where, 'copy')
    shutil.rmtree(where, ignore_errors=True)
    shutil.copytree(os.path.dirname(daemon.database), where)
    db = sqlite3.connect(os.path.join(where, 'vgpu.db'))
    assert db.execute('PRAGMA integrity_check').fetchall() == [('ok',)]
    assert db.execute('PRAGMA foreign_key_check').fetchall() == []
    vms = {row[0]: {'vm_id': row[0], 'name': row[1], 'pool': row[2], 'priority': PRIORITIES[row[3]], 'in_flight': row[4] or None,
                    'uid': row[5], 'admin_state': ADMIN[row[6]], 'expected': bool(row[7])}
           for row in db.execute('SELECT vm_id, name, pool, priority, in_flight, uid, admin_state, expected FROM vms')}
    pools = dict(db.execute('SELECT name, capacity FROM pools'))
    seqs = [seq for seq, in db.execute("SELECT seq FROM audit WHERE command NOT IN ('start') ORDER BY seq")]
    db.close()
    return vms, pools, seqs


def killed(daemon, rng):
    """Returns (acknowledged, kills, writes under way that were made, that were not)."""
    model = Model()
    at = sorted(rng.sample(range(1, WRITES), KILLS))
    first = daemon.json('history', '--limit=1')['history'][-1]['seq']
    acknowledged, made, number = 0, 0, 0
    while acknowledged < WRITES:
        number += 1
        request, after = change(rng, model, number)
        kill = at and acknowledged == at[0]
        s = send(daemon, request)
        if kill:
            at.pop(0)
            time.sleep(rng.random() * rng.choice((0.0005, 0.003, 0.02)))
            daemon.kill()
        done = answer(s)
        acknowledged += done
        if done:
            model = after
        if not kill:
            assert done, f'{request} was not answered'
            continue
        vms, pools, seqs = left_behind(daemon)
        if not done and (vms, pools) == (after.vms, after.pools) != (model.vms, model.pools):
            model, made = after, made + 1
        elif not done and len([seq for seq in seqs if seq > first]) == after.rows:
            model = after  # one that changes nothing but the history
        wrong = {i: (vms.get(i), model.vms.get(i)) for i in {*vms, *model.vms} if vms.get(i) != model.vms.get(i)}
        assert not wrong, (request, wrong)
        assert pools == model.pools, (request, pools, model.pools)
        seqs = [seq for seq in seqs if seq > first]
        assert seqs == list(range(first + 1, first + 1 + model.rows)), (request, len(seqs), model.rows)
        daemon.start()
        assert shown(daemon.json('export')) == (model.vms, model.pools), request
        tokens = {f'vm-{i}.token' for i, vm in model.vms.items() if vm['uid'] is not None}
        wrong = tokens ^ set(os.listdir(os.path.join(daemon.where, 'run', 'tokens')))
        assert not wrong, (request, wrong)
    assert not at and acknowledged == WRITES
    daemon.stop()
    daemon.start()
    assert shown(daemon.json('export')) == (model.vms, model.pools)
    return acknowledged, made


def main():
    seed, facts = int(os.environ.get('VGPU_TEST_SEED', random.randrange(1 << 32))), []
    with rig.Daemon(*sys.argv[1:3], config=CONFIG) as daemon:
        status = rig.run_tests([('killed_at_random_points_of_a_thousand_writes',
                                 lambda: facts.append(killed(daemon, random.Random(seed))))])
    for acknowledged, made in facts:
        print(f'shows: vgpud killed -9 {KILLS} times at random points of {acknowledged} acknowledged writes of 15 kinds: all '
              f'there each time, {made} that were under way made as a whole, none by half (seed {seed})')
    if status:
        print(f'# VGPU_TEST_SEED={seed} repeats the random choices')
    return status


if __name__ == '__main__':
    sys.exit(main())
