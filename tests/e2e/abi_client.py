#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A guest written from docs/abi.md alone, in another language than the library: it proves that the page is complete.

    abi_client.py --socket PATH --vm-id N --token-file FILE

Attaches, computes on the device, checks every result, detaches, and does it again with the same region. Exit 0: all
right. Needs nothing but Python's standard library.
"""
import argparse
import array
import ctypes
import fcntl
import mmap
import os
import random
import select
import socket
import struct
import sys
import time

VGAT = 0x54415647
ABI = 0x00010000
HELLO, WELCOME, ATTACH, ATTACHED, ERROR = 1, 2, 3, 4, 5
F_ADD_SEALS, SEAL_SEAL, SEAL_SHRINK, SEAL_GROW = 1033, 1, 2, 4
NOP, FILL, COPY, MEM_ALLOC, MEM_FREE, VECTOR_ADD, AXPY, REDUCE, GEMM, FENCE = range(10)
OK, E_OPCODE, E_HANDLE, E_RANGE, E_ALIGN, E_EXISTS = 0, 1, 4, 5, 6, 10
F32, BF16 = 0, 1
PAGE = 4096
M64 = (1 << 64) - 1


class Wrong(Exception):
    pass


def expect(condition, what):
    if not condition:
        raise Wrong(what)


def up(value, to):
    return (value + to - 1) // to * to


class Region:
    """The memfd: header, control pages, rings, arena."""

    def __init__(self, slots, arena_bytes):
        ring = up(64 * slots, PAGE)
        self.slots = slots
        self.guest_ctrl, self.host_ctrl, self.sq = PAGE, 2 * PAGE, 3 * PAGE
        self.cq = self.sq + ring
        self.arena = self.cq + ring
        self.arena_bytes = arena_bytes
        self.bytes = self.arena + up(arena_bytes, PAGE)
        self.fd = os.memfd_create('abi-client', os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, self.bytes)
        fcntl.fcntl(self.fd, F_ADD_SEALS, SEAL_SHRINK | SEAL_GROW | SEAL_SEAL)
        self.map = mmap.mmap(self.fd, self.bytes)
        # Each element of these arrays is read and written with one instruction, as the rings need.
        self.words = (ctypes.c_uint64 * (self.bytes // 8)).from_buffer(self.map)

    def prepare(self):
        self.map[:self.arena] = bytes(self.arena)
        header = struct.pack('<QIIQQQQQQQQII40x', 0x314e475255504756, ABI, 128, self.bytes, 0, self.guest_ctrl,
                             self.host_ctrl, self.sq, self.cq, self.arena, self.arena_bytes, self.slots, self.slots)
        expect(len(header) == 128, 'header size')
        self.map[:128] = header

    def write(self, offset, data):
        self.map[self.arena + offset:self.arena + offset + len(data)] = data

    def read(self, offset, n):
        return self.map[self.arena + offset:self.arena + offset + n]


def ref(handle, offset):
    return handle << 48 | offset


def desc(opcode, dst=0, src0=0, src1=0, n=0, arg=(0, 0, 0, 0), sub=0, dtype=F32, flags=0):
    return opcode, flags, dtype, sub, dst, src0, src1, n, tuple(arg) + (0,) * (4 - len(arg))


def bits(f):
    return struct.unpack('<I', struct.pack('<f', f))[0]


class Guest:
    def __init__(self, path, vm_id, token, region_of):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(5)
        self.socket.connect(path)
        self.socket.send(struct.pack('<IIII16s32x', VGAT, HELLO, ABI, vm_id, token))
        welcome = self.receive(WELCOME, 64, 0)
        (self.host_abi, _, self.max_arena, self.max_device, self.max_in_flight,
         self.max_slots) = struct.unpack_from('<IIQQII', welcome, 8)
        expect(self.host_abi >> 16 == 1, 'major version of the host')
        self.region = region_of(self)
        self.region.prepare()
        fds = array.array('i', [self.region.fd])
        self.socket.sendmsg([struct.pack('<IIQ48x', VGAT, ATTACH, self.region.bytes)],
                            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        attached = self.receive(ATTACHED, 64, 3)
        self.epoch, self.sq_pos, self.cq_pos = struct.unpack_from('<QQQ', attached, 8)
        props_fd, self.bell_out, self.bell_in = self.fds
        self.props = mmap.mmap(props_fd, PAGE, mmap.MAP_SHARED, mmap.PROT_READ)
        os.close(props_fd)
        self.words = self.region.words
        self.words[self.region.guest_ctrl // 8] = self.cq_pos
        self.outstanding = {}
        self.tag = 0

    def receive(self, kind, size, n_fds):
        fds = array.array('i')
        data, control, _, _ = self.socket.recvmsg(512, socket.CMSG_SPACE(8 * fds.itemsize))
        for level, kind_of, payload in control:
            if level == socket.SOL_SOCKET and kind_of == socket.SCM_RIGHTS:
                fds.frombytes(payload[:len(payload) - len(payload) % fds.itemsize])
        self.fds = list(fds)
        expect(len(data) >= 8, 'the host closed the connection')
        magic, got = struct.unpack_from('<II', data)
        expect(magic == VGAT, 'magic of a message')
        if got == ERROR:
            number, = struct.unpack_from('<I', data, 8)
            raise Wrong(f'the host refused with {number}: {data[16:208].split(bytes(1))[0].decode()}')
        expect((got, len(data), len(self.fds)) == (kind, size, n_fds), f'message {got}, {len(data)} bytes')
        return data

    def properties(self):
        for _ in range(1000):
            before, = struct.unpack_from('<I', self.props, 16)
            page = self.props[:256]
            after, = struct.unpack_from('<I', self.props, 16)
            if before == after and before % 2 == 0:
                break
        else:
            raise Wrong('the properties page does not settle')
        magic, abi, size = struct.unpack_from('<QII', page)
        expect((magic, abi >> 16) == (0x3150525055504756, 1) and size >= 256, 'properties page')
        names = 'vm_id priority state reason max_in_flight max_handles'.split()
        p = dict(zip(names, struct.unpack_from('<6I', page, 20)))
        names = 'max_arena max_device generation features epoch sq_start cq_start'.split()
        p.update(zip(names, struct.unpack_from('<7Q', page, 48)))
        for i, name in enumerate(('pool', 'vm_name', 'backend')):
            p[name] = page[104 + 32 * i:136 + 32 * i].split(bytes(1))[0].decode()
        return p

    def submit(self, d):
        """One descriptor; False when the ring is full."""
        head = self.words[self.region.host_ctrl // 8]
        used = (self.sq_pos - head) & M64
        expect(used <= self.region.slots, 'the host published an impossible credit')
        if used == self.region.slots or len(self.outstanding) == self.region.slots:
            return False
        opcode, flags, dtype, sub, dst, src0, src1, n, arg = d
        slot = self.region.sq + 64 * (self.sq_pos % self.region.slots)
        self.tag += 1
        struct.pack_into('<BBBBIQQQQ4I', self.region.map, slot, opcode, flags, dtype, sub, self.tag, dst, src0, src1, n,
                         *arg)
        self.words[slot // 8 + 7] = self.sq_pos + 1
        self.outstanding[self.sq_pos] = (self.tag, opcode)
        self.sq_pos += 1
        return True

    def ring(self):
        """There is no fence in this language: ring after each batch, wanted or not."""
        try:
            os.write(self.bell_out, struct.pack('<Q', 1))
        except BlockingIOError:
            pass

    def poll(self):
        """One completion (position, status, value), or None."""
        slot = self.region.cq + 64 * (self.cq_pos % self.region.slots)
        if self.words[slot // 8 + 7] != self.cq_pos + 1:
            self.words[self.region.guest_ctrl // 8] = self.cq_pos
            return None
        tag, status, opcode, _, pos, value, _, latency = struct.unpack_from('<IHBBQQQQ', self.region.map, slot)
        self.words[slot // 8 + 7] = 0
        self.cq_pos += 1
        expect(self.outstanding.pop(pos, None) == (tag, opcode), f'completion of {pos}, which is not outstanding')
        return pos, status, value

    def wait(self):
        end = time.monotonic() + 10
        spins = 0
        while True:
            done = self.poll()
            if done:
                return done
            spins += 1
            if spins > 200:  # sleep: arm, look once more, and a short timeout in place of the fence
                self.words[self.region.guest_ctrl // 8 + 16] = self.cq_pos
                select.select([self.bell_in, self.socket], [], [], 0.01)
                try:
                    os.read(self.bell_in, 4096)
                except BlockingIOError:
                    pass
            expect(time.monotonic() < end, 'no completion within 10 seconds')

    def run(self, *batch):
        """Submits all, waits for all; the statuses in the order of submission."""
        first = self.sq_pos
        status, value, sent = {}, {}, 0
        while len(status) < len(batch):
            before = sent
            while sent < len(batch) and self.submit(batch[sent]):
                sent += 1
            if sent != before:
                self.ring()
            pos, got, result = self.wait()
            status[pos], value[pos] = got, result
        self.values = [value[first + i] for i in range(len(batch))]
        return [status[first + i] for i in range(len(batch))]

    def close(self):
        self.socket.shutdown(socket.SHUT_WR)
        while self.socket.recv(512):
            pass
        self.socket.close()
        os.close(self.bell_in)
        os.close(self.bell_out)
        self.props.close()


def floats(values):
    return struct.pack(f'<{len(values)}f', *values)


def unfloats(data):
    return struct.unpack(f'<{len(data) // 4}f', data)


def rounded(value):
    return struct.unpack('<f', struct.pack('<f', value))[0]


def check_laps(g):
    n = 20 * g.region.slots + 3
    expect(g.run(*[desc(NOP)] * n) == [OK] * n, 'NOPs')
    return f'{n} descriptors over a ring of {g.region.slots} slots'


def check_vector_add(g, rng):
    n = 1000
    a, b = ([rounded(rng.uniform(-1, 1)) for _ in range(n)] for _ in range(2))
    g.region.write(0, floats(a))
    g.region.write(4096, floats(b))
    expect(g.run(desc(VECTOR_ADD, ref(0, 8192), ref(0, 0), ref(0, 4096), n)) == [OK], 'VECTOR_ADD')
    got = unfloats(g.region.read(8192, 4 * n))
    expect(all(abs(c - (x + y)) <= 1.2e-7 * abs(x + y) + 1e-40 for c, x, y in zip(got, a, b)), 'a sum is wrong')
    return f'vector add of {n} floats in the arena'


def check_device(g, rng):
    n = 512
    a = [rounded(rng.uniform(-1, 1)) for _ in range(n)]
    g.region.write(0, floats(a))
    # Allocation, copies and arithmetic in one batch: handles are judged in order.
    status = g.run(desc(MEM_ALLOC, ref(7, 0), n=4 * n), desc(MEM_ALLOC, ref(8, 0), n=8 * n),
                   desc(COPY, ref(0, 8192), ref(8, 0), n=4 * n), desc(COPY, ref(7, 0), ref(0, 0), n=4 * n),
                   desc(FILL, ref(8, 4 * n), n=4 * n, arg=(bits(0.25),)),
                   desc(VECTOR_ADD, ref(8, 0), ref(7, 0), ref(8, 4 * n), n),
                   desc(AXPY, ref(8, 0), ref(7, 0), n=n, arg=(bits(-2.0),)), desc(FENCE),
                   desc(COPY, ref(0, 4096), ref(8, 0), n=4 * n), desc(REDUCE, ref(0, 12288), ref(8, 0), n=n, sub=2))
    expect(status == [OK] * 10, f'device batch: {status}')
    expect(g.values[0] >= 4 * n, 'MEM_ALLOC says what it reserved')
    expect(g.region.read(8192, 4 * n) == bytes(4 * n), 'new device memory is zero')
    got = unfloats(g.region.read(4096, 4 * n))
    expect(all(abs(c - (0.25 - x)) < 1e-6 for c, x in zip(got, a)), 'arithmetic on the device')
    expect(unfloats(g.region.read(12288, 4))[0] == max(got), 'largest element')
    status = g.run(desc(MEM_FREE, ref(7, 0)), desc(COPY, ref(0, 0), ref(7, 0), n=4), desc(MEM_FREE, ref(8, 0)))
    expect(status == [OK, E_HANDLE, OK], f'free: {status}')
    return 'device memory: allocate, fill, add, axpy, reduce, copy, free'


def to_bf16(value):
    b = bits(value)
    return (b + 0x7fff + (b >> 16 & 1)) >> 16


def from_bf16(half):
    return struct.unpack('<f', struct.pack('<I', half << 16))[0]


def check_gemm(g, rng):
    m, n, k = 9, 11, 13
    for dtype in (F32, BF16):
        for sub in range(8):
            a, b = ([rng.uniform(-1, 1) for _ in range(size)] for size in (m * k, k * n))
            if dtype == F32:
                a, b = [rounded(x) for x in a], [rounded(x) for x in b]
                raw = floats(a), floats(b)
            else:
                halves = [to_bf16(x) for x in a], [to_bf16(x) for x in b]
                raw = tuple(struct.pack(f'<{len(h)}H', *h) for h in halves)
                a, b = ([from_bf16(x) for x in h] for h in halves)
            c = [rounded(rng.uniform(-1, 1)) for _ in range(m * n)]
            g.region.write(0, raw[0])
            g.region.write(4096, raw[1])
            g.region.write(8192, floats(c))
            d = desc(GEMM, ref(0, 8192), ref(0, 0), ref(0, 4096), n, (m, k, bits(0.5), bits(-1.5)), sub, dtype)
            expect(g.run(d) == [OK], f'GEMM dtype {dtype} sub {sub}')
            got = unfloats(g.region.read(8192, 4 * m * n))
            for i in range(m):
                for j in range(n):
                    want = 0.5 * sum(a[x * m + i if sub & 1 else i * k + x] * b[j * k + x if sub & 2 else x * n + j]
                                     for x in range(k)) - 1.5 * c[i * n + j]
                    want = max(0, want) if sub & 4 else want
                    expect(abs(got[i * n + j] - want) < 1e-5, f'GEMM dtype {dtype} sub {sub} element {i},{j}')
    return f'GEMM {m}x{n}x{k} in f32 and bf16, plain and transposed, with and without ReLU'


def check_refusals(g):
    arena = g.region.arena_bytes
    cases = [(desc(200), E_OPCODE), (desc(NOP, flags=0x80), 2), (desc(VECTOR_ADD, dtype=BF16), 3),
             (desc(NOP, n=1), 2), (desc(COPY, ref(0, 0), ref(3, 0), n=4), E_HANDLE),
             (desc(FILL, ref(0, arena - 4), n=8), E_RANGE), (desc(FILL, ref(0, arena + 4)), E_RANGE),
             (desc(VECTOR_ADD, ref(0, 2), n=1), E_ALIGN), (desc(REDUCE, sub=2), 7),
             (desc(COPY, ref(0, 4), ref(0, 0), n=8), 8), (desc(MEM_ALLOC, ref(1, 0), n=1 << 47), 9),
             (desc(MEM_FREE, ref(1, 0)), E_HANDLE), (desc(NOP), OK)]
    status = g.run(*[d for d, _ in cases])
    expect(status == [want for _, want in cases], f'refusals: {status}')
    return f'{len(cases) - 1} refusals, each with its status'


def session(args, token, region_of, say):
    g = Guest(args.socket, args.vm_id, token, region_of)
    p = g.properties()
    expect((p['vm_id'], p['epoch'], p['sq_start']) == (args.vm_id, g.epoch, g.sq_pos), 'properties of this attachment')
    expect(p['state'] == 1, f'state {p["state"]}')
    say(f'attached as VM {p["vm_id"]} ({p["vm_name"]}), pool {p["pool"]}, backend {p["backend"]}, epoch {g.epoch}')
    rng = random.Random(7)
    say(check_laps(g))
    say(check_vector_add(g, rng))
    if g.max_device >= 8192 and p['max_handles'] >= 8:
        say(check_device(g, rng))
    say(check_gemm(g, rng))
    say(check_refusals(g))
    g.close()
    return g


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--socket', required=True)
    parser.add_argument('--vm-id', type=int, required=True)
    parser.add_argument('--token-file', required=True)
    parser.add_argument('--slots', type=int, default=64)
    parser.add_argument('--arena-bytes', type=int, default=65536)
    args = parser.parse_args()
    with open(args.token_file, encoding='ascii') as f:
        token = bytes.fromhex(f.read().strip())
    try:
        first = session(args, token, lambda g: Region(min(args.slots, g.max_slots), min(args.arena_bytes, g.max_arena)),
                        lambda line: print('ok', line))
        again = session(args, token, lambda g: first.region, lambda line: None)
        expect(again.epoch != first.epoch, 'a new epoch')
        print('ok detached, attached again with the same region, all of it once more')
    except (Wrong, OSError) as error:
        print(f'FAIL {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
