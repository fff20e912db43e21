#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""vgpu-ctl trace against a real vgpud and guests that use libvgpu: on, off and dump while they run.

trace_test.py VGPUD VGPU-CTL SCHEMA-FOLDER LIBVGPU DEMO-GUEST [FAKE-CUDA]
"""
import collections
import contextlib
import ctypes
import json
import os
import subprocess
import sys
import time

import chrome_trace
import rig
import schema

CONFIG = '''paths:
  run_dir: {0}/run
  state_dir: {0}/state
executors:
  - name: E
%s
pools:
  - name: A
    executor: E
'''
HOPS = ['published', 'seen', 'validated', 'queued', 'dequeued', 'submitted', 'device_start', 'device_end', 'completed',
        'guest_seen']
HOST = HOPS[1:9]


class Buffer(ctypes.Structure):
    _fields_ = [('handle', ctypes.c_uint32), ('offset', ctypes.c_uint64), ('bytes', ctypes.c_uint64),
                ('host_ptr', ctypes.c_void_p)]


class Guest:
    """libvgpu in this process; a program would do the same."""

    def __init__(self, daemon, library, vm_id, trace=None):
        os.environ.update(VGPU_VM_ID=str(vm_id), VGPU_SOCKET=f'{daemon.where}/run/attach.sock',
                          VGPU_TOKEN_FILE=f'{daemon.where}/run/tokens/vm-{vm_id}.token')
        os.environ.pop('VGPU_TRACE', None)
        if trace:
            os.environ['VGPU_TRACE'] = trace
        self.lib = ctypes.CDLL(library)
        self.handle = ctypes.c_void_p()
        self.error = ctypes.create_string_buffer(300)
        self.rc = self.lib.vgpu_open(None, ctypes.byref(self.handle), self.error, len(self.error))

    def nops(self, count):
        for _ in range(count):
            assert self.lib.vgpu_nop(self.handle) == 0

    def adds(self, count, n=256):
        buffers = [Buffer() for _ in range(3)]
        for buffer in buffers:
            assert self.lib.vgpu_arena_alloc(self.handle, ctypes.c_uint64(n * 4), ctypes.byref(buffer)) == 0
        for _ in range(count):
            assert self.lib.vgpu_vector_add(self.handle, *map(ctypes.byref, buffers), ctypes.c_uint64(n)) == 0

    def bursts(self, count, n=32):
        """Requests and completions of nothing but zeros and whatever comes: NOPs."""
        requests, out = ctypes.create_string_buffer(128 * n), ctypes.create_string_buffer(64 * n)
        for _ in range(count):
            assert self.lib.vgpu_submit_burst(self.handle, requests, n, None) == n
            left = n
            while left:
                got = self.lib.vgpu_wait(self.handle, out, n, ctypes.c_uint64(10 ** 10))
                assert got > 0, got
                left -= got

    def close(self):
        self.lib.vgpu_close(self.handle)

    def __enter__(self):
        assert self.rc == 0, self.error.value.decode()
        return self

    def __exit__(self, *_):
        self.close()


def times(dump, record):
    return dict(zip(dump['hops'], record['at_ns']))


class Tests:
    def __init__(self, daemon, folder, library, demo):
        self.daemon, self.library, self.demo = daemon, library, demo
        with open(os.path.join(folder, 'vgpu-ctl.json'), encoding='utf-8') as f:
            self.schema = json.load(f)

    def guest(self, vm_id=1, trace=None):
        return Guest(self.daemon, self.library, vm_id, trace)

    def dump(self, vm_id=1, *more):
        dump = self.daemon.json('trace', f'--vm-id={vm_id}', 'dump', *more)
        faults = list(schema.faults({'$ref': '#/$defs/trace'}, dump, self.schema))
        assert not faults, faults[:3]
        assert dump['hops'] == HOPS
        return dump

    def trace(self, word, *more, vm_id=1):
        return self.daemon.json('trace', f'--vm-id={vm_id}', word, *more)

    def every_descriptor(self):
        """One of one: all are there, each with all of the host's hops, in order; the guest's file adds its two."""
        path = os.path.join(self.daemon.where, 'guest-%v')
        assert self.trace('on')['tracing'] is True
        with self.guest(trace=path) as guest:
            guest.nops(500)
            dump = self.dump(1, f'--guest={path.replace("%v", "1")}')
        assert len(dump['records']) == dump['traced'] == 500 and dump['lost'] == 0
        assert len({r['position'] for r in dump['records']}) == 500
        assert dump['guest'] == {'records': 500, 'used': 500, 'contradict': 0}, dump['guest']
        for record in dump['records']:
            assert record['opcode'] == 'nop' and record['status'] == 'ok' and record['device'] == 'exact'
            known = [t for t in record['at_ns'] if t is not None]
            assert len(known) == 10 and known == sorted(known), record
        for row in dump['waterfall']['rows']:
            assert abs(sum(row['until_ns'].values()) - row['total_ns']) < 1e-3 * row['total_ns'] + 1e-6
            assert list(row['until_ns']) == HOPS[1:]
        assert [r['percentile'] for r in dump['waterfall']['rows']] == ['p50', 'p90', 'p99']
        self.trace('off')

    def sampled(self):
        self.trace('on', '--sample=16')
        with self.guest() as guest:
            guest.bursts(32)
            dump = self.dump()
        assert len(dump['records']) == 64 and dump['sample'] == 16, len(dump['records'])
        assert all(int(r['position']) % 16 == 0 for r in dump['records'])
        assert all(times(dump, r)['published'] is None for r in dump['records'])
        self.trace('off')

    def off_records_nothing(self):
        self.trace('on')
        self.trace('off')
        with self.guest() as guest:
            before = self.dump()
            guest.nops(300)
            after = self.dump()
        assert before['traced'] == after['traced'] == 0 and after['records'] == [], after['traced']
        assert after['tracing'] is False and after['waterfall'] is None

    def other_vm_is_not_traced(self):
        self.trace('on')
        with self.guest(2) as other:
            other.nops(100)
            assert self.dump()['records'] == [] and self.dump(2)['records'] == []
        self.trace('off')

    def survives_the_guest(self):
        """What was asked for before the VM attached holds; what it left can be looked at after it has gone."""
        self.trace('on')
        with self.guest() as guest:
            guest.nops(50)
        with self.guest() as guest:
            guest.nops(50)
        dump = self.dump()
        assert dump['traced'] == len(dump['records']) == 100, (dump['traced'], len(dump['records']))
        self.trace('off')

    def written_over(self):
        self.trace('on')
        with self.guest() as guest:
            guest.bursts(625)
            dump = self.dump()
            few = self.dump(1, '--limit=10')
        assert dump['traced'] == 20000 and dump['lost'] >= 20000 - 16384
        assert dump['lost'] + len([r for r in dump['records'] if times(dump, r)['seen'] is not None]) == 20000
        assert [r['position'] for r in few['records']] == [r['position'] for r in dump['records'][-10:]]
        self.trace('off')

    def switched_under_load(self):
        """A hundred times on and off, with looks, while a program checks each of its results."""
        env = {**os.environ, 'VGPU_VM_ID': '1', 'VGPU_SOCKET': f'{self.daemon.where}/run/attach.sock',
               'VGPU_TOKEN_FILE': f'{self.daemon.where}/run/tokens/vm-1.token'}
        env.pop('VGPU_TRACE', None)
        load = subprocess.Popen([self.demo, '--seconds', '60', '--json'], env=env, stdout=subprocess.DEVNULL,
                                stderr=subprocess.PIPE, preexec_fn=rig.die_with_parent)
        seen = collections.Counter()
        try:
            for i in range(100):
                self.trace('on', f'--sample={1 << (i % 4)}')
                dump = self.dump(1, '--limit=200')
                for record in dump['records']:
                    host = [t for t in record['at_ns'][1:9] if t is not None]
                    assert host == sorted(host), record
                    seen[record['opcode']] += 1
                self.trace('off')
            assert load.poll() is None, load.stderr.read()
        finally:
            load.terminate()
            load.wait(timeout=30)
            for _ in range(600):  # its end is noticed, or the next test finds it attached
                if self.daemon.json('show-vm', '--vm-id=1')['vm']['state'] == 'registered':
                    break
                time.sleep(0.05)
        assert load.returncode in (0, -15), (load.returncode, load.stderr.read())
        stats = self.daemon.json('stats', '--vm-id=1')['vms'][0]
        # What it had in flight when it was ended is cancelled.
        assert set(stats['statuses']) <= {'ok', 'cancelled'} and stats['accepted'] == stats['completed'], stats
        assert sum(seen.values()) > 100, seen
        print(f'# shows: tracing switched 200 times under load, {sum(seen.values())} records read, kinds {dict(seen)}')

    def chrome(self):
        path = os.path.join(self.daemon.where, 'trace.json')
        guest_file = os.path.join(self.daemon.where, 'guest')
        self.trace('on')
        with self.guest(trace=guest_file) as guest:
            guest.nops(200)
            self.daemon.good('trace', '--vm-id=1', 'dump', f'--guest={guest_file}', f'--chrome={path}')
        found = chrome_trace.check(path)
        assert found['X'] == 3 * 200 and found['b'] == found['e'] == 10 * 200, found
        assert found['s'] == found['t'] == found['f'] == 200, found
        self.trace('off')

    def text(self):
        self.trace('on')
        with self.guest() as guest:
            guest.nops(100)
            text = self.daemon.good('trace', '--vm-id=1', 'dump')
        assert 'VM 1: tracing is on' in text and 'p50:' in text and 'in the queue' in text and '%' in text
        assert 'tracing is off' in self.daemon.good('trace', '--vm-id=1', 'off')
        assert 'No descriptor has come all the way' in self.daemon.good('trace', '--vm-id=2', 'dump')

    def refused(self):
        fails = self.daemon.fails
        fails(1, 'VM 77 is not registered', 'trace', '--vm-id=77', 'on')
        fails(2, 'power of two', 'trace', '--vm-id=1', 'on', '--sample=3')
        fails(2, 'trace off takes no --sample', 'trace', '--vm-id=1', 'off', '--sample=4')
        fails(2, 'trace on takes no --chrome', 'trace', '--vm-id=1', 'on', '--chrome=/tmp/x')
        fails(2, 'on', 'trace', '--vm-id=1', 'maybe')
        fails(1, 'cannot read /nowhere', 'trace', '--vm-id=1', 'dump', '--guest=/nowhere')
        fails(1, 'cannot write /nowhere/x', 'trace', '--vm-id=1', 'dump', '--chrome=/nowhere/x')
        with self.guest(1):
            pass
        for spec, message in (('/tmp/x,3', 'power of two'), ('/nowhere/at/all', 'cannot write'), (',4', 'names no file')):
            guest = self.guest(1, spec)
            assert guest.rc < 0 and message in guest.error.value.decode(), guest.error.value
        os.environ.pop('VGPU_TRACE', None)

    def history(self):
        self.trace('on', '--sample=8')
        self.dump()
        self.trace('off')
        rows = [r for r in self.daemon.json('history')['history'] if r['command'] == 'trace']
        assert rows and all(r['new']['tracing'] in (True, False) for r in rows[:2]), rows[:2]


    def cuda(self):
        """The device's own clock, 40 millionths fast and with another zero, mapped: in order, within what is said."""
        self.trace('on')
        with self.guest() as guest:
            guest.adds(150)
            time.sleep(0.2)
            guest.adds(150)
            dump = self.dump()
        assert dump['backend'] == 'cuda' and len(dump['records']) == 300
        for record in dump['records']:
            host = record['at_ns'][1:9]
            assert record['device'] == 'mapped' and None not in host and host == sorted(host), record
            assert times(dump, record)['device_end'] > times(dump, record)['device_start'], record
        assert 0 < dump['device_error_ns'] < 10 ** 8, dump['device_error_ns']
        assert 'device_end' in dump['waterfall']['rows'][0]['until_ns']
        print(f'# shows: device times mapped within {dump["device_error_ns"]} ns on the fake device')
        self.trace('off')

    def cuda_resident(self):
        """Workers have no times: none are made up."""
        self.trace('on')
        with self.guest() as guest:
            guest.adds(100)
            dump = self.dump()
        assert len(dump['records']) == 100 and dump['device_error_ns'] is None
        for record in dump['records']:
            assert record['device'] is None and times(dump, record)['device_start'] is None
            assert times(dump, record)['completed'] is not None
        self.trace('off')


def main():
    vgpud, ctl, folder, library, demo = sys.argv[1:6]
    fake = sys.argv[6] if len(sys.argv) > 6 else None
    both = ('every_descriptor', 'sampled', 'off_records_nothing', 'other_vm_is_not_traced', 'survives_the_guest',
            'written_over', 'switched_under_load', 'chrome')
    todo = []
    with contextlib.ExitStack() as stack:
        on_cpu = '    backend: cpu\n    in_process: %s'
        kinds = [('executor in process', on_cpu % 'true', both + ('text', 'refused', 'history')),
                 ('executor as a process', on_cpu % 'false', both)]
        for engine, test in (('stream', 'cuda'), ('resident', 'cuda_resident')) if fake else ():
            options = f'driver={fake},cublas={fake},nvml={fake},engine={engine}'
            kinds.append((f'engine {engine}', f'    backend: cuda\n    heap_bytes: 16M\n    options: "{options}"', (test,)))
        limits = 'limits:\n  device_bytes: 1M\n'
        for where, executor, names in kinds:
            daemon = stack.enter_context(rig.Daemon(vgpud, ctl, CONFIG % executor + limits * ('cuda' in executor)))
            daemon.good('register-vm', '--vm-id=1-2', '--pool=A', '--priority=high', f'--uid={os.getuid()}')
            t = Tests(daemon, folder, library, demo)
            todo += [(n.replace('_', ' ') + ', ' + where, getattr(t, n)) for n in names]
        return rig.run_tests(todo)


if __name__ == '__main__':
    sys.exit(main())
