#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""vgpu-bench compare on rows made to order: what is slower, faster, the same, or not to be judged."""
import json
import os
import random
import subprocess
import sys
import tempfile

HOST = {'cpu': 'a', 'cpus': 2, 'kernel': 'k', 'memory': 'huge'}


def row(subject, values, unit='ns', host=None, **more):
    return {'bench': 'made', 'subject': subject, 'params': {'n': 1}, 'metric': 'p50', 'value': values[0],
            'unit': unit, 'reps': len(values), 'values': values, 'host': host or HOST, **more}


def noisy(middle, spread, seed, n=7):
    draw = random.Random(seed)
    return [middle * (1 + spread * draw.uniform(-1, 1)) for _ in range(n)]


def compare(program, directory, a, b, *options):
    paths = []
    for name, rows in (('a', a), ('b', b)):
        paths.append(os.path.join(directory, name))
        with open(paths[-1], 'w', encoding='utf-8') as out:
            out.write(rows if isinstance(rows, str) else ''.join(json.dumps(r) + '\n' for r in rows))
    command = [program, 'compare', *options, *paths]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def cases():
    """(what, rows of A, rows of B, exit, words in the output, words not in it, options)"""
    base = noisy(100, 0.03, 1)
    yield 'a time 10 % longer is slower', [row('x', base)], [row('x', noisy(110, 0.03, 2))], 1, ['SLOWER'], []
    yield 'a rate 10 % lower is slower', [row('x', base, 'M/s')], [row('x', noisy(90, 0.03, 2), 'M/s')], 1, ['SLOWER'], []
    yield 'a rate 10 % higher is faster', [row('x', base, 'M/s')], [row('x', noisy(110, 0.03, 2), 'M/s')], 0, ['faster'], []
    yield 'the same with other noise is the same', [row('x', base)], [row('x', noisy(100, 0.03, 3))], 0, \
        ['same within noise', '0 slower, 0 faster'], []
    wild = [70.0, 130.0, 85.0, 100.0, 115.0, 92.0, 108.0]
    yield '10 % within 30 % of noise is no verdict', [row('x', wild)], [row('x', [1.1 * v for v in wild])], 0, \
        ['same within noise'], []
    yield 'one bad round of seven changes nothing', [row('x', base)], [row('x', noisy(100, 0.03, 6)[:-1] + [900.0])], 0, \
        ['same within noise'], []
    yield 'three rounds are too few', [row('x', base[:3])], [row('x', [200.0, 201.0, 202.0])], 0, ['too few rounds'], ['SLOWER']
    yield 'machines are told apart', [row('x', base)], [row('x', noisy(150, 0.03, 2), host={**HOST, 'cpus': 4})], 0, \
        ['another machine', 'machines differ'], ['SLOWER']
    others = {'noise': {'noisy': True, 'involuntary_switches_per_s': 90.0}}
    quiet = {'noise': {'noisy': False, 'involuntary_switches_per_s': 1.0}}
    slow = noisy(150, 0.03, 2)
    for side, a, b in (('A', others, quiet), ('B', quiet, others)):
        yield f'a noisy {side} is said aloud and gets no verdict', [row('x', base, **a)], [row('x', slow, **b)], 2, \
            ['**** NOISY HOST', f'1 of 1 rows of {side}', '--even-noisy', '1 without a verdict'], ['SLOWER']
    yield 'a noisy row does not hide another that is slower', [row('x', base, **others), row('y', base)], \
        [row('x', slow), row('y', slow)], 1, ['NOISY HOST', 'SLOWER', '1 slower'], []
    yield 'quiet rows have no mark', [row('x', base, **quiet)], [row('x', slow, **quiet)], 1, ['SLOWER'], ['NOISY']
    yield '--even-noisy judges, with a mark', [row('x', base, **others)], [row('x', slow, **quiet)], 1, \
        ['**** NOISY HOST', 'doubtful', 'SLOWER (noisy host)'], [], '--even-noisy'
    yield 'a round that did not run is left out', [row('x', base + [None])], [row('x', noisy(110, 0.03, 2) + [None])], 1, \
        ['SLOWER'], []
    yield 'a row that B lacks is said', [row('x', base), row('y', base)], [row('x', base)], 0, ['1 rows of A are not in B'], []
    yield 'what is no row is named by line', [row('x', base)], json.dumps(row('x', base)) + '\n{"bench":1}\n', 2, [':2:'], []
    yield 'an empty file is no comparison', [row('x', base)], '', 2, ['no rows'], []


def main():
    program, failed, plan = sys.argv[1], 0, list(cases())
    print(f'1..{len(plan)}')
    with tempfile.TemporaryDirectory() as directory:
        for number, (what, a, b, want, words, absent, *options) in enumerate(plan, 1):
            code, text = compare(program, directory, a, b, *options)
            ok = code == want and all(w in text for w in words) and not any(w in text for w in absent)
            failed += not ok
            print(f'{"ok" if ok else "not ok"} {number} {what}')
            if not ok:
                print(f'# exit {code}, expected {want}\n' + ''.join(f'# {line}\n' for line in text.splitlines()), end='')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
