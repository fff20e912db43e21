#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Planted slowdowns (bench/count/planted.c): a full fence and a cache line more for each descriptor are found by the
interleaved comparison, and nothing is where nothing was planted; a stop shows in an open loop's percentiles; and a run
beside a busy neighbour is marked as noisy.

The path runs in one thread and a value is that of the fastest tenth of many short windows, so a busy host moves it little;
what it still moves moves all subjects of a round. A verdict that a busy moment spoilt may be asked for again, but a slowdown
that is never found, or one that is always "found" where there is none, fails."""
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

TRIES = 3


def run(command):
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)


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
        text = run([os.path.join(build, 'bench', 'vgpu-bench'), 'compare', '--even-noisy',
                    *(os.path.join(directory, n) for n in 'ab')]).stdout
        said[subject] = 'SLOWER' if 'SLOWER' in text else 'same' if 'same within noise' in text else text
    return said, done.stdout


def noise_beside_a_neighbour(build, directory):
    """What a run says of itself while somebody keeps one of its cores busy: rows, terminal, and with --refuse-noisy its exit."""
    cores = sorted(os.sched_getaffinity(0))
    rows = os.path.join(directory, 'noise')
    busy = subprocess.Popen(['taskset', '-c', str(cores[0]), 'sh', '-c', 'while :; do :; done'], stdin=subprocess.DEVNULL,
                            start_new_session=True)
    try:
        done = run([os.path.join(build, 'bench', 'vgpu-bench'), 'rings', 'transport', '--filter', 'rtt/vgpu-ro', '--seconds', '1',
                    '--reps', '3', '--cores', f'{cores[0]},{cores[-1]}', '--refuse-noisy', f'--json={rows}'])
    finally:
        os.killpg(busy.pid, signal.SIGKILL)
        busy.wait()
    with open(rows, encoding='utf-8') as lines:
        written = [json.loads(line) for line in lines]
    return {**written[0]['noise'], 'exit': done.returncode, 'suites': sorted({r['bench'].split('.')[0] for r in written}),
            'aloud': '**** NOISY' in done.stdout and '--refuse-noisy' in done.stderr}


def latency_of_a_stop(build, directory):
    """The worst p99 and max, in ms, of open-loop runs during which the whole program stood still for 150 ms: what fell due
    meanwhile must all have waited, which a loop that waits for answers would count once."""
    rows = os.path.join(directory, 'open')
    bench = subprocess.Popen([os.path.join(build, 'bench', 'vgpu-bench'), 'path', '--filter', 'open/rtc', '--reps', '1',
                              f'--json={rows}'], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while bench.poll() is None:  # some of them fall into a measurement, whenever it begins
        time.sleep(0.2)
        bench.send_signal(signal.SIGSTOP)
        time.sleep(0.15)
        bench.send_signal(signal.SIGCONT)
    bench.wait(120)
    with open(rows, encoding='utf-8') as lines:
        found = [r for r in map(json.loads, lines) if r['bench'] == 'path.open' and r['metric'] in ('p99', 'max')]
    return {metric: max(r['value'] for r in found if r['metric'] == metric) / 1e6 for metric in ('p99', 'max')}


def main():
    build, found, log = sys.argv[1], {}, ''
    with tempfile.TemporaryDirectory() as directory:
        for _ in range(TRIES):
            said, log = verdicts(build, directory)
            for subject, verdict in said.items():
                found.setdefault(subject, set()).add(verdict)
            if {'SLOWER'} <= found['fence'] and {'SLOWER'} <= found['line'] and 'same' in found['same']:
                break
        for _ in range(6):  # a stop may also fall between two measurements, or on the very end of one
            stopped = latency_of_a_stop(build, directory)
            if stopped['p99'] >= 10:
                break
        beside = noise_beside_a_neighbour(build, directory)
    checks = [('a full fence a descriptor is found', 'SLOWER' in found['fence']),
              ('a cache line a descriptor is found', 'SLOWER' in found['line']),
              ('where nothing was planted nothing is found', 'same' in found['same']),
              ('a stop of 150 ms is in the p99 of an open loop',
               10 <= stopped['p99'] <= stopped['max'] and stopped['max'] > 100),
              ('a run beside a busy neighbour is marked', beside['noisy']),
              ('it says so aloud', beside['aloud']),
              ('--refuse-noisy ends it there, with a status of its own', beside['exit'] == 3 and beside['suites'] == ['rings'])]
    print(f'1..{len(checks)}')
    for line in (log + f'noise beside a neighbour: {beside}\nopen loop with stops, ms: {stopped}\n'
                 f'verdicts: {found}').splitlines():
        print(f'# {line}')
    for number, (what, ok) in enumerate(checks, 1):
        print(f'{"ok" if ok else "not ok"} {number} {what}')
    return 0 if all(ok for _, ok in checks) else 1


if __name__ == '__main__':
    sys.exit(main())
