#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""JAX's own tests for the operations that a guest has, through libvgpu_pjrt.so: a selection by seed.

jax_suite_test.py BUILD [--count N] [--limit-s S] [--total-s S] [--seed N] [--out RESULTS.json] [FILE...]

What fails in a guest is run again natively, on the host's plugin. It is our failure, and the test's, unless it fails there
too, or JAX has no lowering for a platform that it does not know, or the error is a documented limit of vgpu's.
"""
import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time

import frame

NO_RULE = re.compile(r"(translation|lowering) rule for primitive .* not found for platform vgpu|"
                     r'not (implemented|supported|available) .*(platform|backend).*|.*not supported on (the )?vgpu|'
                     r'only implemented on|[Uu]nsupported platform')
LIMIT = re.compile(r'wire format does not have|arrays have at most|arrays of PJRT.s element type|UNIMPLEMENTED: vgpu')
START_S = 120


def side(kind, build, host, plugin, folder):
    library = f'{build}/guest-lib/pjrt/libvgpu_pjrt.so' if kind == 'vgpu' else plugin
    env = host.env(1) if kind == 'vgpu' else dict(os.environ)
    env.update(PJRT_NAMES_AND_LIBRARY_PATHS=f'{kind}:{library}', JAX_PLATFORMS=kind, TF_CPP_MIN_LOG_LEVEL='3', PYTHONPATH=folder,
               JAX_NUM_GENERATED_CASES='10')
    return env


def run(tally, args, env, path, names=None):
    """{test: [verdict, text]} as far as it came."""
    with tempfile.TemporaryDirectory() as where:
        out, more = os.path.join(where, 'out.json'), []
        if names:
            more = [os.path.join(where, 'names.json')]
            with open(more[0], 'w', encoding='utf-8') as f:
                json.dump(names, f)
        command = [sys.executable, '-B', os.path.join(frame.HERE, 'jax_suite.py'), path, out, str(args.seed), str(args.count),
                   str(args.limit_s), *more]
        try:
            done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                  timeout=START_S + 3 * args.limit_s)
            ended, last = done.returncode, done.stderr.strip()[-500:]
        except subprocess.TimeoutExpired:
            ended, last = 'no end', ''
        if not os.path.exists(out):
            tally.check(False, f'{os.path.basename(path)} can be run: {ended}: {last}')
            return {}
        with open(out, encoding='utf-8') as f:
            results = json.load(f)
    for name, result in results.items():
        if result[0] == 'running':
            result[:] = ['failed', f'the process ended with {ended} in it: {last}']
    return results


def judge(tally, args, runs, path, counts, kept):
    name = os.path.basename(path)
    results = run(tally, args, runs['vgpu'], path)
    known = results.pop('', [0, 0])[1]
    failed = [t for t, (verdict, _) in results.items() if verdict == 'failed']
    reason = {t: 'no rule' if NO_RULE.search(results[t][1]) else 'limit' if LIMIT.search(results[t][1]) else '' for t in failed}
    open_ones = [t for t in failed if not reason[t]]
    native = run(tally, args, runs['native'], path, open_ones) if open_ones else {}
    for t in open_ones:
        reason[t] = 'native too' if native.get(t, ['', ''])[0] == 'failed' else 'ours'
    here = {'known': known, 'run': len(results)}
    for verdict in ('passed', 'skipped'):
        here[verdict] = sum(v == verdict for v, _ in results.values())
    for why in ('no rule', 'limit', 'native too', 'ours'):
        here[why] = sum(r == why for r in reason.values())
    for key, n in here.items():
        counts[key] = counts.get(key, 0) + n
    kept[name] = {'counts': here, 'failed': {t: [reason[t], results[t][1]] for t in failed}}
    tally.check(results and not here['ours'], f'{name}: {here}')
    for t in failed:
        if reason[t] == 'ours':
            print(f'     {t}: {results[t][1][:700]}')


def main():
    p = argparse.ArgumentParser()
    p.add_argument('build')
    p.add_argument('files', nargs='*')
    p.add_argument('--count', type=int, default=10)
    p.add_argument('--limit-s', type=float, default=10)
    p.add_argument('--total-s', type=float, default=180, help='begins with no further file after so long; default %(default)g')
    p.add_argument('--seed', type=int, default=int(os.environ.get('VGPU_TEST_SEED', '1')))
    p.add_argument('--out')
    args = p.parse_args()
    build = os.path.abspath(args.build)
    _, python, folder = frame.installed(frame.pjrt.header, frame.pjrt.venv, frame.pjrt.jaxtests)
    frame.in_environment(python)
    frame.build_has(build, 'guest-lib/pjrt/libvgpu_pjrt.so')
    frame.build_has(build, 'pmd-gpu/vgpu-worker')
    plugin = os.path.join(frame.pjrt.cache('pjrt'), 'xla_cpu_pjrt.so')
    tally, counts, kept, began = frame.Tally(), {}, {}, time.monotonic()
    with frame.Host(build, plugin, [(1, 'A', 'high')]) as host:
        runs = {kind: side(kind, build, host, plugin, folder) for kind in ('vgpu', 'native')}
        for name in args.files or sorted(f for f in os.listdir(folder) if f.endswith('_test.py')):
            if time.monotonic() - began > args.total_s:
                tally.skip(name, f'not begun: {args.total_s:g} s are over (--total-s)')
                continue
            judge(tally, args, runs, os.path.join(folder, name), counts, kept)
    tally.check(host.status == 0, 'vgpud ends with 0')
    if args.out:
        with open(args.out, 'w', encoding='utf-8') as f:
            json.dump(kept, f, indent=1)
    print(f'shows: of JAX\'s own tests {counts["passed"]} of {counts["run"]} pass in a guest, {counts["skipped"]} skip '
          f'themselves; {counts["no rule"]} need what JAX has for known platforms only, {counts["limit"]} are beyond a limit, '
          f'{counts["native too"]} fail on the plugin itself, {counts["ours"]} fail here alone (seed {args.seed})')
    tally.finish()


if __name__ == '__main__':
    main()
