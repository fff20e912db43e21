#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Guests of ./run demo --tour that do what an ordinary program does not: fill queues on purpose, and break rules.

    tourguest.py order VM:NAME:COUNT...      one after another submits COUNT operations, then says in which order they ran
    tourguest.py backlog VM:NAME:COUNT...    the same; prints "queued" first, so that VMs can be changed meanwhile
    tourguest.py allocate VM                 wants 1 MiB of device memory
    tourguest.py forge VM                    asks for what is not its own; each must be refused
    tourguest.py violate VM                  breaks the ring's rules; must be cut off

VGPU_SOCKET is where vgpud listens, VGPU_TOKEN_DIR where the tokens are. The last line is one JSON object. It speaks the wire
format with tests/e2e/abi_client.py, no line of the host's code. The host must have debug.exec_seq on.
"""
import json
import mmap
import os
import struct
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'tests', 'e2e'))
import abi_client as abi

SLOTS = 1024
GIVE_UP_S = 60
# An operation shall take about this long, so that a queue is there while a person's command runs.
OPERATION_NS = 1500000
LARGEST = 1 << 21  # floats; three vectors of 8 MiB
STATUS = {1: 'OPCODE', 2: 'FLAGS', 4: 'HANDLE', 5: 'RANGE', 6: 'ALIGN', 9: 'NOMEM'}


class Guest(abi.Guest):
    """A guest that remembers when each of its operations started (exec_seq) and how it ended."""

    def __init__(self, vm_id, name='', arena_bytes=3 * 4 * LARGEST):
        with open(os.path.join(os.environ['VGPU_TOKEN_DIR'], f'vm-{vm_id}.token'), encoding='ascii') as f:
            token = bytes.fromhex(f.read().strip())
        super().__init__(os.environ['VGPU_SOCKET'], vm_id, token,
                         lambda g: abi.Region(SLOTS, min(arena_bytes, g.max_arena)))
        self.vm_id, self.name, self.started, self.statuses = vm_id, name, [], []

    def poll(self):
        slot = self.region.cq + 64 * (self.cq_pos % self.region.slots)
        done = super().poll()
        if done:  # the payload stays until the host gets room for the next lap, which it has not been told of yet
            self.started.append((done[0], *struct.unpack_from('<Q', self.region.map, slot + 24)))
            self.statuses.append(done[1])
        return done


def add(n):
    return abi.desc(abi.VECTOR_ADD, abi.ref(0, 8 * n), abi.ref(0, 0), abi.ref(0, 4 * n), n)


def calibrate(guest):
    """How many floats make an operation of about OPERATION_NS here."""
    n = 1 << 14
    while n < LARGEST:
        best = min(timed(guest, n) for _ in range(3))
        if best >= OPERATION_NS:
            break
        n *= 2
    guest.started.clear()
    guest.statuses.clear()
    return n


def timed(guest, n):
    before = time.monotonic_ns()
    abi.expect(guest.run(add(n)) == [abi.OK], 'an addition')
    return time.monotonic_ns() - before


def queues(wanted, announce):
    """Fills the queues of these VMs one after another; returns what the host did with them."""
    guests = [(Guest(vm, name), count) for vm, name, count in wanted]
    n = calibrate(guests[0][0])
    finished = []
    for guest, count in guests:
        for _ in range(count):
            abi.expect(guest.submit(add(n)), 'the ring is full')
        guest.ring()
        print(f'VM {guest.vm_id:>2} ({guest.name}): {count} additions of {n} floats submitted', flush=True)
    if announce:
        print('queued', flush=True)
    end = time.monotonic() + GIVE_UP_S
    while any(guest.outstanding for guest, _ in guests):
        abi.expect(time.monotonic() < end, f'not done after {GIVE_UP_S} s')
        idle = True
        for guest, _ in guests:
            while guest.outstanding and guest.poll():
                idle = False
            if not guest.outstanding and guest.vm_id not in finished:
                finished.append(guest.vm_id)
        if idle:
            time.sleep(0.0002)
    rows = [report(guest, count, finished) for guest, count in guests]
    for row in rows:
        print(f'VM {row["vm_id"]:>2} ({row["name"]}): started as number {row["first"]} to {row["last"]} of its executor, '
              f'{row["completed"]} completed, {row["falls"]} out of the order of submission')
    for guest, _ in guests:
        guest.close()
    return {'vms': rows}


def report(guest, count, finished):
    """falls: how often an operation started before the one submitted before it; once is right where the VM moved to another
    executor, which counts from its own start."""
    seqs = [seq for _, seq in sorted(guest.started)]
    return {'vm_id': guest.vm_id, 'name': guest.name, 'submitted': count, 'completed': len(seqs),
            'positions': len({pos for pos, _ in guest.started}), 'ok': guest.statuses.count(abi.OK),
            'first': min(seqs), 'last': max(seqs), 'falls': sum(a >= b for a, b in zip(seqs, seqs[1:])),
            'finished': finished.index(guest.vm_id)}


def allocate(vm_id):
    guest = Guest(vm_id, arena_bytes=1 << 16)
    status, = guest.run(abi.desc(abi.MEM_ALLOC, abi.ref(1, 0), n=1 << 20))
    print(f'1 MiB of device memory: {"allocated" if status == abi.OK else "refused, " + STATUS.get(status, str(status))}')
    guest.close()
    return {'vm_id': vm_id, 'status': status}


def forge(vm_id):
    """What a guest may ask for and must not get."""
    guest = Guest(vm_id, arena_bytes=1 << 16)
    arena = guest.region.arena_bytes
    tried = []

    def attempt(what, refused, how):
        tried.append({'what': what, 'refused': refused})
        print(f'{what}: {how if refused else "NOT REFUSED"}', flush=True)

    for what, d in (('read 4 KiB behind the end of its memory', abi.desc(abi.COPY, 0, abi.ref(0, arena), n=4096)),
                    ('write with an offset that wraps around', abi.desc(abi.FILL, abi.ref(0, (1 << 48) - 4), n=8)),
                    ('use device memory that it never allocated', abi.desc(abi.COPY, 0, abi.ref(3, 0), n=64)),
                    ('allocate 64 TiB of device memory', abi.desc(abi.MEM_ALLOC, abi.ref(1, 0), n=1 << 46)),
                    ('run an operation that does not exist', abi.desc(200)),
                    ('set bits that are reserved, to gain priority', abi.desc(abi.NOP, flags=0xf0))):
        status, = guest.run(d)
        attempt(what, status in STATUS, f'refused, {STATUS.get(status)}')
    p = guest.properties()
    print(f'and still: VM {p["vm_id"]}, pool {p["pool"]}, state {p["state"]}')
    abi.expect(guest.run(abi.desc(abi.NOP)) == [abi.OK], 'an honest operation afterwards')
    guest.close()
    return {'vm_id': vm_id, 'tried': tried, 'state': p['state']}


class Shared(Guest):
    """Tries to map its properties page for writing before it is mapped for reading."""

    def receive(self, kind, size, n_fds):
        data = super().receive(kind, size, n_fds)
        if kind == abi.ATTACHED:
            try:
                mmap.mmap(self.fds[0], abi.PAGE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
                self.writable = True
            except OSError:
                self.writable = False
        return data


def violate(vm_id):
    """Writes a position into its ring that no honest producer can have reached."""
    guest = Shared(vm_id, arena_bytes=1 << 16)
    print(f'map the page with its priority for writing: {"IT COULD" if guest.writable else "refused"}')
    for slot in range(SLOTS):
        guest.words[(guest.region.sq + 64 * slot) // 8 + 7] = (1 << 61) + slot
    guest.ring()
    print('a ring full of positions that cannot be', flush=True)
    end = time.monotonic() + 10
    while guest.properties()['state'] != 3 and time.monotonic() < end:
        time.sleep(0.002)
    p = guest.properties()
    print(f'the host says: state {p["state"]} (3 is broken), reason {p["reason"]}')
    return {'vm_id': vm_id, 'state': p['state'], 'reason': p['reason'], 'properties_writable': guest.writable}


SINGLE = {'allocate': allocate, 'forge': forge, 'violate': violate}


def wanted(words):
    for word in words:
        vm, name, count = word.split(':')
        yield int(vm), name, int(count)


def main():
    if len(sys.argv) < 3 or sys.argv[1] not in ('order', 'backlog', *SINGLE):
        sys.exit(__doc__)
    what = sys.argv[1]
    try:
        if what in ('order', 'backlog'):
            result = queues(list(wanted(sys.argv[2:])), what == 'backlog')
        else:
            result = SINGLE[what](int(sys.argv[2]))
    except (abi.Wrong, OSError) as error:
        print(json.dumps({'error': str(error)}))
        return 1
    print(json.dumps(result))
    return 0


if __name__ == '__main__':
    sys.exit(main())
