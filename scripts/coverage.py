# SPDX-License-Identifier: Apache-2.0
"""The suite coverage: which lines of the daemon, rings, transports and store the default suites reach.

A build of its own with gcov counters; each program adds to them when it ends, so what a process did that was killed -9 is
not seen. Writes build/coverage.txt: each file, its lines that nothing reached, and the rungs of error ladders among them.
"""
import glob
import gzip
import json
import os
import re
import subprocess
import tempfile

import testlog
from mesontest import Build

OPTIONS = ['-Db_coverage=true', '-Dcuda=disabled', '-Doptimization=1', '-Ddebug=true', '-Dbench=disabled',
           '-Dc_args=-fprofile-update=atomic',
           '-Dc_link_args=-Wl,-u,__gcov_dump']  # for a process that ends by _exit (core/spawner.c)
SUITES = ['unit', 'conformance', 'stress', 'e2e', 'ctl', 'ordering', 'fuzz', 'hostile', 'kill']
ROOMS = ['core', 'rings', 'control', 'store', 'local-transport', 'xen-transport', 'pmd-gpu', 'guest-lib', 'host', 'ctl']
GOAL_ROOMS = {'core', 'rings', 'control', 'store', 'local-transport', 'xen-transport'}
GOAL_PERCENT = 90
FLOOR_PERCENT = 90  # below it the suite fails
# Run programs as other users, or where nothing can be written: the counters of those could not be stored, and libgcov says so
# in their output, or makes its own folders in there (privileges: /root in an executor's sandbox).
NOT_HERE = {'doctor', 'precheck', 'tour', 'sandbox', 'privileges'}
# What needs a GPU, and is measured where there is one.
ELSEWHERE = ('pmd-gpu/cuda/',)
LABEL = re.compile(r'^(?:err|out|undo|fail)\w*:')


def counters(build):
    """{file: {line: count}} over all programs of the build; files are relative to the source tree."""
    found = {}
    notes = [p for p in glob.glob(os.path.join(build.path, '**', '*.gcda'), recursive=True)]
    for note in notes:
        with tempfile.TemporaryDirectory() as scratch:
            done = subprocess.run(['gcov', '--json-format', '--object-directory', os.path.dirname(note), note], cwd=scratch,
                                  stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
            for path in glob.glob(os.path.join(scratch, '*.gcov.json.gz')):
                with gzip.open(path) as text:
                    add(found, json.load(text), build)
            if done.returncode:
                raise RuntimeError(f'gcov {note}: {done.stderr[-500:]}')
    return found


def add(found, report, build):
    base = report.get('current_working_directory') or build.path
    for one in report['files']:
        path = os.path.relpath(os.path.normpath(os.path.join(base, one['file'])), build.root)
        if path.split('/')[0] not in ROOMS or path.startswith(ELSEWHERE):
            continue
        lines = found.setdefault(path, {})
        for line in one['lines']:
            lines[line['line_number']] = max(lines.get(line['line_number'], 0), line['count'])


def ranges(numbers):
    spans = []
    for n in sorted(numbers):
        if spans and n == spans[-1][1] + 1:
            spans[-1][1] = n
        else:
            spans.append([n, n])
    return ', '.join(str(a) if a == b else f'{a}-{b}' for a, b in spans)


def rungs(root, path, lines):
    """Labels of error ladders in this file: (reached, ["file:line label" that were not])."""
    with open(os.path.join(root, path), encoding='utf-8') as source:
        text = source.read().splitlines()
    reached, missed = 0, []
    for at, line in enumerate(text, 1):
        if not LABEL.match(line):
            continue
        following = next((n for n in sorted(lines) if n > at), None)
        if following is None:
            continue
        if lines[following]:
            reached += 1
        else:
            missed.append(f'{path}:{at} {line.rstrip(":")}')
    return reached, missed


def report(root, found, out):
    """Writes the report; returns ({room: (reached, all)}, rungs reached, rungs missed)."""
    rooms, all_reached, all_missed = {}, 0, []
    with open(out, 'w', encoding='utf-8') as text:
        for path in sorted(found):
            lines = found[path]
            if not lines:
                continue
            missing = [n for n, count in lines.items() if count == 0]
            room = path.split('/')[0]
            had, total = rooms.get(room, (0, 0))
            rooms[room] = (had + len(lines) - len(missing), total + len(lines))
            print(f'{path:44} {100 * (len(lines) - len(missing)) / len(lines):6.1f} % of {len(lines):4}'
                  + (f'   not reached: {ranges(missing)}' if missing else ''), file=text)
            reached, missed = rungs(root, path, lines)
            all_reached += reached
            all_missed += missed
        print('\nrungs of error ladders that nothing reached:', file=text)
        for rung in all_missed or ['none']:
            print(f'  {rung}', file=text)
    return rooms, all_reached, all_missed


def run(root, directory, limit_s):
    """Returns (testlog.Outcome, path of the report). Raises BuildError."""
    build = Build(root, directory)
    build.make(OPTIONS)
    for old in glob.glob(os.path.join(build.path, '**', '*.gcda'), recursive=True):
        os.unlink(old)
    env = {'VGPU_TEST_SLICE_S': os.environ.get('VGPU_TEST_SLICE_S', '30'),
           'VGPU_TEST_SCALE': '0.3', 'GCOV_ERROR_FILE': os.devnull,
           'VGPU_TEST_LADDERS_S': os.environ.get('VGPU_TEST_LADDERS_S', '90')}
    have = build.suites()
    suites = [s for s in SUITES if s in have]
    outcome, _ = build.run(suites, processes=2, limit_s=limit_s, logbase='test-coverage', env=env, scale=5,
                           names=[t for t in build.tests(suites) if t not in NOT_HERE])
    out = os.path.join(root, 'build', 'coverage.txt')
    rooms, reached, missed = report(root, counters(build), out)
    had, total = (sum(rooms.get(r, (0, 0))[i] for r in GOAL_ROOMS) for i in (0, 1))
    outcome.shows = [f'{room}/: {100 * a / b:.1f} % of {b} lines' for room, (a, b) in sorted(rooms.items())]
    outcome.shows.append(f'rungs of error ladders: {reached} reached, {len(missed)} not; build/coverage.txt has each line')
    percent, rooms_text = 100 * had / max(total, 1), ', '.join(sorted(GOAL_ROOMS))
    if percent < FLOOR_PERCENT:
        with open(out, encoding='utf-8') as text:
            outcome.fail(f'{percent:.1f} % of the lines of {rooms_text} are reached, at least {FLOOR_PERCENT} % is wanted',
                         text.read())
    else:
        outcome.passed += 1
    outcome.shows.append(f'{percent:.1f} % of {total} lines of {rooms_text}: the goal of {GOAL_PERCENT} % is '
                         + ('met' if percent >= GOAL_PERCENT else 'missed'))
    return outcome, out
