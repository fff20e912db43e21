#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Planted slowdowns (bench/count/planted.c): a full fence and a cache line more for each descriptor are found by the
interleaved comparison, and nothing is where nothing was planted; and a run beside a busy neighbour is marked as noisy.

The path runs in one thread and a value is that of the fastest tenth of many short windows, so a busy host moves it little;
what it still moves moves all subjects of a round. A verdict that a busy moment spoilt may be asked for again, but a slowdown
that is never found, or one that is always "found" where there is none, fails."""
import json
import os
import signal
import subprocess
import sys
import tempfile

TRIES = 3


def run(command):
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)


def rows_of(path, subject):
    with open(path, encoding='utf-8') as lines:
        rows = [json.loads(line) for line in lines]
    return ''.join(json.dumps({**r, 'subject': 'path'}) + '\n' for r in rows if r['subject'] == subject)


def verdicts(build, directory):
    """Subject -> what compare says of it against the path without any."""
    rows = os.path.join(directory, 'rows')
    done = run([os.path.join(build, 'bench', 'vgpu-bench-planted'), rows])
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    said = {}
    for subject in ('fence', 'line', 'same'):
        for name, of in (('a', 'plain'), ('b', subject)):
            with open(os.path.join(directory, name), 'w', encoding='utf-8') as out:
                out.write(rows_of(rows, of))
        text = run([os.path.join(build, 'bench', 'vgpu-bench'), 'compare', *(os.path.join(directory, n) for n in 'ab')]).stdout
        said[subject] = 'SLOWER' if 'SLOWER' in text else 'same' if 'same within noise' in text else text
    return said, done.stdout


def noise_beside_a_neighbour(build, directory):
    """What a run says of itself while somebody keeps one of its cores busy."""
    cores = sorted(os.sched_getaffinity(0))
    rows = os.path.join(directory, 'noise')
    busy = subprocess.Popen(['taskset', '-c', str(cores[0]), 'sh', '-c', 'while :; do :; done'], stdin=subprocess.DEVNULL,
                            start_new_session=True)
    try:
        run([os.path.join(build, 'bench', 'vgpu-bench'), 'rings', '--filter', 'rtt/vgpu-ro', '--seconds', '1', '--reps', '3',
             '--cores', f'{cores[0]},{cores[-1]}', f'--json={rows}'])
    finally:
        os.killpg(busy.pid, signal.SIGKILL)
        busy.wait()
    with open(rows, encoding='utf-8') as lines:
        return json.loads(lines.readline())['noise']


def main():
    build, found, log = sys.argv[1], {}, ''
    with tempfile.TemporaryDirectory() as directory:
        for _ in range(TRIES):
            said, log = verdicts(build, directory)
            for subject, verdict in said.items():
                found.setdefault(subject, set()).add(verdict)
            if {'SLOWER'} <= found['fence'] and {'SLOWER'} <= found['line'] and 'same' in found['same']:
                break
        beside = noise_beside_a_neighbour(build, directory)
    checks = [('a full fence a descriptor is found', 'SLOWER' in found['fence']),
              ('a cache line a descriptor is found', 'SLOWER' in found['line']),
              ('where nothing was planted nothing is found', 'same' in found['same']),
              ('a run beside a busy neighbour is marked', beside['noisy'])]
    print(f'1..{len(checks)}')
    for line in (log + f'noise beside a neighbour: {beside}\nverdicts: {found}').splitlines():
        print(f'# {line}')
    for number, (what, ok) in enumerate(checks, 1):
        print(f'{"ok" if ok else "not ok"} {number} {what}')
    return 0 if all(ok for _, ok in checks) else 1


if __name__ == '__main__':
    sys.exit(main())
