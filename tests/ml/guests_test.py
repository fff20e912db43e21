#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Ten guests at once: pools A and B, three priorities, seven models; each result of each request is compared with JAX on the CPU.
In the middle of it the worker of one guest is killed, and five more guests mean harm (hostile.py). Nobody else may notice by a
result; what it did to latencies is printed.

guests_test.py BUILD [--seconds S] [--plugin P] [--models DIR] [--json FILE] [...]

With --plugin, --backend and --options it runs on another machine, such as one with a GPU, and installs nothing; with --models
nothing is made there (made by: models.py DIR; export_minilm.py --rows 4 WHEEL DIR/minilm). The hostile guests want jaxlib.
"""
import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time

import frame
import guestroot

PRIORITIES = ('high', 'medium', 'low')
# As ./run demo: VMs 1 to 7 in pool A, 8 to 10 in pool B.
GUESTS = [(vm, 'A' if vm <= 7 else 'B', PRIORITIES[(vm - 1) % 3], model) for vm, model in enumerate(
    ('minilm', 'resnet', 'mlp', 'attention', 'gru', 'minilm', 'mobilenet', 'resnet', 'mlp', 'attention'), 1)]
HOSTILE = [(11, 'A', 'high', 'ptx'), (12, 'B', 'high', 'loop'), (13, 'A', 'medium', 'hog'), (14, 'B', 'low', 'shapes'),
           (15, 'A', 'low', 'corrupt')]
KILLED = 5
ARENA = 32 << 20
# A deadline that honest work does not reach on a busy machine, and quotas that it does not need.
ATTEMPTS, STALL_S = 3, 4.0
PROGRAMS = 'deadline_ms=15000,device_mib=256,memory_mib=6144'
# A guest rests after each request, for so many times what it took: three busy ones of high priority would leave nothing to those
# below, whom strict priority lets starve. So each gets a quarter at most, on a slow machine too.
REST = 3.0
START_S, END_S, DRIVERS = 180, 240, re.compile(r'libcuda|libcudart|libnvidia|libcublas|xla|pjrt|/dev/nvidia', re.I)


class Stalls:
    """How long this process, which needs next to nothing, was kept from running at worst: then nobody else ran either, and honest
    work may be over its deadline."""

    def __init__(self):
        self.worst_s, self.over = 0.0, threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def _watch(self):
        last = time.monotonic()
        while not self.over.wait(0.1):
            now = time.monotonic()
            self.worst_s, last = max(self.worst_s, now - last - 0.1), now

    def end(self):
        self.over.set()
        self.thread.join()
        return self.worst_s


class Guest:
    def __init__(self, vm, pool, priority, model):
        self.vm, self.pool, self.priority, self.model = vm, pool, priority, model
        self.process, self.result, self.latencies = None, {}, []

    def start(self, host, space, program, models, rest):
        out = os.path.join(host.dir, f'out-{self.vm}')
        root = os.path.join(host.dir, f'root-{self.vm}')
        os.mkdir(out)
        os.mkdir(root)
        bundle = os.path.join(models, self.model)
        arguments = ['--json', '--recover', '--seconds', '3600', *(['--rest', str(rest)] if rest > 0 else []), '--latencies']
        env = host.env(self.vm)
        if space:
            binds = [(bundle + '/', '/bundle', 'ro'), (out + '/', '/out', ''), (env['VGPU_SOCKET'], '/guest/attach.sock', ''),
                     (env['VGPU_TOKEN_FILE'], '/guest/token', 'ro')]
            command, more = guestroot.command(space, root, program, [*arguments, '/out/latencies', '/bundle'], binds)
            env = {'PATH': '/usr/bin:/bin:/usr/sbin:/sbin', **more, 'VGPU_VM_ID': str(self.vm), 'VGPU_TRANSPORT': 'local',
                   'VGPU_SOCKET': '/guest/attach.sock', 'VGPU_TOKEN_FILE': '/guest/token'}
        else:
            command = [program, *arguments, os.path.join(out, 'latencies'), bundle]
        self.out = out
        self.process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True)

    def libraries(self):
        """(what its memory maps from files, what its /dev has), as the kernel says."""
        with open(f'/proc/{self.process.pid}/maps', encoding='utf-8') as f:
            maps = {line.split(None, 5)[5].strip() for line in f if len(line.split(None, 5)) == 6}
        devices = os.listdir(os.path.join('/proc', str(self.process.pid), 'root', 'dev'))
        return sorted(m for m in maps if m.startswith('/')), sorted(devices)

    def end(self, limit_s):
        try:
            out, err = self.process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            out, err = self.process.communicate()
            err += '\nit did not end'
        lines = [line for line in out.splitlines() if line.startswith('{')]
        self.result = json.loads(lines[-1])['result'] if lines else {}
        self.error = err.strip()
        try:
            with open(os.path.join(self.out, 'latencies'), encoding='utf-8') as f:
                self.latencies = [tuple(map(int, line.split())) for line in f]
        except OSError:
            pass


def children(pid):
    found = []
    for name in os.listdir('/proc'):
        try:
            with open(f'/proc/{name}/stat', encoding='utf-8') as f:
                fields = f.read().rpartition(')')[2].split()
        except OSError:
            continue
        if name.isdigit() and int(fields[1]) == pid:
            found += [int(name), *children(int(name))]
    return found


def workers_of(host):
    """The processes of the host that run programs. Which is whose nobody but root may see."""
    found = set()
    for pid in children(host.daemon.pid):
        try:
            with open(f'/proc/{pid}/cmdline', encoding='utf-8') as f:
                if f.read().split('\0')[0].endswith('vgpu-worker'):
                    found.add(pid)
        except OSError:
            continue
    return found


def completed(host):
    """{VM: how many of its operations came to an end}, as the host counts."""
    return {vm['vm_id']: vm['completed'] for vm in json.loads(host.ctl('stats', '--json'))['vms']}


def wait_until(what, limit_s, condition):
    ends = time.monotonic() + limit_s
    while time.monotonic() < ends:
        if condition():
            return True
        time.sleep(0.2)
    print(f'waited {limit_s} s in vain: {what}')
    return False


def quantile(sorted_ns, q):
    return sorted_ns[int(q * (len(sorted_ns) - 1))] / 1e6 if sorted_ns else 0.0


def make_models(where):
    import export_minilm
    import models
    for name in sorted({g[3] for g in GUESTS} - {'minilm'}):
        models.bundle(name, os.path.join(where, name))
    sentences = export_minilm.sentences_of(os.path.join(frame.HERE, 'sentences.txt'))[:12]
    export_minilm.export(frame.pjrt.weights(), os.path.join(where, 'minilm'), sentences, rows=4, double=False)


def no_gpu(tally, guests, space):
    """While they run: what the kernel says that they have."""
    if not space:
        tally.skip('guests without a GPU', 'this user may not make mount namespaces (unshare)')
        return
    maps, devices = guests[0].libraries()
    print(f'shows: guest 1 maps {" ".join(os.path.basename(m) for m in maps)}; its /dev has {" ".join(devices)}')
    for guest in guests:
        maps, devices = guest.libraries()
        bad = [m for m in maps if DRIVERS.search(os.path.basename(m))]
        good = not bad and set(devices) <= {*guestroot.NODES} and any('libvgpu' in m for m in maps)
        if not tally.check(good, f'guest {guest.vm} has no GPU, driver or compiler: {bad} {devices}'):
            print(maps)


def harm(tally, host, build):
    """All hostile guests, at once; the honest ones are at work."""
    env = {'VGPU_LIBRARY': frame.library(build)}
    running = []
    for vm, _, _, kind in HOSTILE:
        # `nice`: a guest has CPUs of its own; what counts is what the host does for it.
        command = ['nice', '-n', '19', sys.executable, '-B', os.path.join(frame.HERE, 'hostile.py'), kind]
        running.append((kind, subprocess.Popen(command, env={**host.env(vm), **env}, stdin=subprocess.DEVNULL, text=True,
                                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)))
    for kind, process in running:
        try:
            text, _ = process.communicate(timeout=END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            text, _ = process.communicate()
        told = [line for line in text.splitlines() if line.strip()]
        if tally.check(process.returncode == 0, f'hostile guest ({kind}): {told[-1] if told else "said nothing"}'):
            continue
        print(text)


def judge(tally, guests):
    for g in guests:
        r = g.result
        good = (g.process.returncode == 0 and r.get('verified') is True and r.get('vm_id') == g.vm and r.get('pool') == g.pool
                and r.get('priority') == g.priority)
        tally.check(good, f'guest {g.vm} ({g.pool} {g.priority}, {g.model}): {r.get("requests")} requests, {r.get("wrong")} '
                    f'wrong, largest difference {r.get("worst")} {"" if good else g.error}')
        wanted = 1 if g.vm == KILLED else 0
        tally.check(r.get('recovered') == wanted, f'guest {g.vm} had to load anew {r.get("recovered")} times, {wanted} expected')


def report(guests, phases, rows):
    """What each priority of each pool got: when all was well, and while there was harm. phases: {name: (from, to)} in ns."""
    for pool in ('A', 'B'):
        for priority in PRIORITIES:
            of = [g for g in guests if (g.pool, g.priority) == (pool, priority)]
            told, usual = [], 0.0
            for name, (start, end) in phases.items():
                ns = sorted(took for g in of for began, took in g.latencies if start <= began + took < end)
                rate = len(ns) / ((end - start) / 1e9)
                p50, p95, p99, most = (quantile(ns, q) for q in (.5, .95, .99, 1))
                params = {'phase': name, 'pool': pool, 'priority': priority, 'models': [g.model for g in of]}
                if rows:
                    rows.add('programs.guests', 'guests', params, 'rate', '1/s', [rate])
                    for metric, value in (('p50', p50), ('p95', p95), ('p99', p99), ('max', most)):
                        rows.add('programs.guests', 'guests', params, metric, 'ms', [value])
                against = f' (p50 {p50 / usual:.2f} times)' if usual else ''
                told.append(f'{name} {len(ns)} requests, {rate:.1f}/s, p50 {p50:.1f} p95 {p95:.1f} p99 {p99:.1f} '
                            f'max {most:.0f} ms{against}')
                usual = p50
            print(f'shows: {pool} {priority:6} ({" ".join(g.model for g in of)}): {"; ".join(told)}')


def all_move(tally, host, guests, what):
    """Each guest gets something done, however little: no priority and no neighbour keeps one out for good."""
    before = completed(host)
    stuck = []

    def moved():
        now = completed(host)
        stuck[:] = [g.vm for g in guests if now[g.vm] <= before[g.vm] + 3]  # one request has more operations than that
        return not stuck
    tally.check(wait_until('requests of each guest', START_S, moved), f'{what}: each guest gets work done; not so: {stuck}')


def play(tally, args, host, build, models, rows):
    space = guestroot.namespace()
    program = frame.build_has(build, 'guest-lib/examples/vgpu-program')
    guests = [Guest(*row) for row in GUESTS]
    try:
        victim = next(g for g in guests if g.vm == KILLED)
        victim.start(host, space, program, models, args.rest)  # first: the worker that is there then is its
        wait_until('the first worker', START_S, lambda: workers_of(host) or victim.process.poll() is not None)
        of_victim = workers_of(host)
        for guest in guests:
            if guest is not victim:
                guest.start(host, space, program, models, args.rest)
        wait_until('ten workers', START_S, lambda: len(workers_of(host)) == len(guests) or
                   any(g.process.poll() is not None for g in guests))
        if not tally.check(len(workers_of(host)) == len(guests), 'ten guests, each with a worker of its own'):
            return [print(g.vm, g.end(1), g.error) for g in guests if g.process.poll() is not None]
        no_gpu(tally, guests, space)
        if args.rest > 0:
            all_move(tally, host, guests, 'when all is well')
        begins = time.monotonic_ns()
        time.sleep(args.seconds)
        harm_begins = time.monotonic_ns()
        if tally.check(len(of_victim) == 1 and of_victim < workers_of(host), f'guest {KILLED} has a worker to be killed'):
            os.kill(min(of_victim), signal.SIGKILL)
        tally.check(wait_until('the killed one is back', START_S, lambda: not of_victim & workers_of(host) and
                               len(workers_of(host)) == len(guests)), 'it gets another one')
        if args.hostile:
            attack = threading.Thread(target=harm, args=(tally, host, build))
            attack.start()
            if args.rest > 0:
                all_move(tally, host, guests, 'while there is harm')
            attack.join()
        else:
            time.sleep(args.seconds)
        harm_ends = time.monotonic_ns()
        for priority in PRIORITIES:  # the lower ones end what they began once the others are gone
            for guest in guests:
                if guest.priority == priority and guest.process.poll() is None:
                    guest.process.terminate()
            for guest in guests:
                if guest.priority == priority:
                    guest.end(END_S)
        report(guests, {'quiet': (begins, harm_begins), 'harm': (harm_begins, harm_ends)}, rows)
        judge(tally, guests)
    finally:
        for guest in guests:
            if guest.process and guest.process.poll() is None:
                guest.process.kill()
                guest.process.wait()


def main():
    parser = argparse.ArgumentParser(description='Ten guests with compiled programs at once, a kill, and hostile guests.')
    parser.add_argument('build')
    parser.add_argument('--seconds', type=float, default=15, help='without harm; with it they run on until it is over')
    parser.add_argument('--rest', type=float, default=REST, help='after each request, times what it took; 0: all are busy')
    parser.add_argument('--plugin')
    parser.add_argument('--models')
    parser.add_argument('--backend', default='cpu')
    parser.add_argument('--options', default=PROGRAMS)
    parser.add_argument('--one-executor', action='store_true', help='for both pools: one GPU')
    parser.add_argument('--no-hostile', dest='hostile', action='store_false')
    parser.add_argument('--json', help='rows of what was measured, as of vgpu-bench')
    args = parser.parse_args()
    build = os.path.abspath(args.build)
    if not args.plugin:
        _, python, _ = frame.installed(frame.pjrt.header, frame.pjrt.venv, frame.pjrt.weights)
        frame.in_environment(python)
    frame.build_has(build, 'pmd-gpu/vgpu-worker')
    plugin = args.plugin or frame.pjrt.cache('pjrt', 'xla_cpu_pjrt.so')
    sys.path.insert(0, os.path.join(frame.ROOT, 'bench', 'programs'))
    from rows import Rows
    executors = {'exec-A': args.options} if args.one_executor else {'exec-A': args.options, 'exec-B': args.options}
    pools = {'A': 'exec-A', 'B': 'exec-A' if args.one_executor else 'exec-B'}
    vms = [row[:3] for row in GUESTS] + [row[:3] for row in HOSTILE]
    with tempfile.TemporaryDirectory(prefix='vgpu-models-') as made:
        if not args.models:
            make_models(made)
        for attempt in range(ATTEMPTS):
            tally, rows, stalls = frame.Tally(), Rows(build) if args.json else None, Stalls()
            with frame.Host(build, plugin, vms, executors, pools, args.backend) as host:
                play(tally, args, host, build, os.path.abspath(args.models or made), rows)
            if not tally.check(host.status == 0, 'vgpud ends with 0') or tally.failed:
                print(host.last_log[-6000:])
            stood_s = stalls.end()
            if not tally.failed or stood_s < STALL_S or attempt + 1 == ATTEMPTS:
                break
            print(f'the machine stood still for {stood_s:.0f} s, which deadlines do not forgive: once more')
    if args.json:
        rows.write(args.json)
    tally.finish()


if __name__ == '__main__':
    main()
