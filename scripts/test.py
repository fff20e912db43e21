#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""./run test: runs suites, counts individual tests, ends with one line "N passed, N failed[, N skipped]".

Exit: 0 all passed, 1 something failed, 2 wrong arguments, 77 a suite was asked for by name that this version or this
machine does not have (and nothing failed).
"""
import argparse
import os
import signal
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import coverage
import special
import testlog
from mesontest import Build, BuildError

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

DEFAULT = {
    'style': 'include arrows, licence lines, lengths, headers compile alone, links in the docs',
    'unit': 'each room by itself (Criterion)',
    'conformance': 'every GPU backend passes the same tests',
    'model': 'SPIN proves the rings and the doorbell, and finds the planted faults',
    'stress': 'rings and queues under load, random delays, start positions near the wrap',
    'e2e': 'real processes: daemon, executors, guests',
    'ctl': 'vgpu-ctl: each wrong argument of each command, JSON against its schema, completion, terminal',
    'ordering': 'priorities, FIFO and exactly-once, counted over many descriptors',
    'fuzz': 'validator, rings, headers, handshakes, configuration, control, import, /sys from any bytes, against models',
    'hostile': 'guests that keep no rule, beside neighbours that verify every result',
    'instructions': 'what a descriptor costs in instructions, against a baseline',
    'kill': 'kill -9 of daemon, executors, guests and a writer of the store: each completed once, nothing lost or left behind',
    'xen': 'a real Xen in QEMU: dom0 with the daemon, guests in domUs (less frequent cases: xen-more, xen-cycles, by name)',
    'asan': 'unit, conformance, fuzz, e2e, hostile and kill under AddressSanitizer, LeakSanitizer and UBSan',
    'tsan': 'stress and conformance under ThreadSanitizer',
}
# Suites that run only when named: what they need, or why they are not there yet. They become real by registering meson
# tests in a suite of this name.
NAMED = {
    'gpu': 'needs the CUDA Toolkit to build and an NVIDIA GPU to run on',
    'xen-ten': 'ten Xen domains at once: pools, priorities, large vectors',
    'xen-more': 'save and restore, grant limits, hot-plug; PVH domains',
    'xen-cycles': 'fifty domains that come, attach, detach and go: nothing may leak',
    'xen-pvh': 'dom0 and its guests as PVH domains, which the emulator does not always survive',
    'iommu': 'needs QEMU, and packages from apt: the kernel and busybox',
    'numa': 'needs QEMU, and packages from apt: the kernel and busybox',
    'probes': 'the examples of docs/tracing.md; needs root, bpftrace and perf',
    'ml': 'compiled machine-learning programs; needs vgpu-worker (./run setup --programs) and packages from PyPI',
    'mutants': 'bugs put into a copy of the real code, one at a time: the tests must find each',
    'asan-full': 'asan with the tests that take longest',
    'tsan-full': 'tsan with the tests that take longest',
    'coverage': 'lines that the default suites reach, of each file',
    'soak': 'five minutes of load, kills and changes: nothing may drift',
}
# Default suites that need more than a machine may have or install: what they lack is said, and is not a failure.
NEEDY = {'xen'}
# Suites with a build of their own.
SPECIAL = [*special.SUITES, 'coverage']
# Suites whose tests keep several cores busy: one program at a time, or they disturb each other.
SERIAL = {'gpu', 'ml', 'stress', 'soak', 'hostile', 'xen', 'xen-ten', 'xen-more', 'xen-cycles', 'xen-pvh', 'iommu',
          'numa', 'probes'}
# More at once than there are CPUs: much waiting, little work. Tests that measure something, or keep all CPUs busy, say
# is_parallel: false, and priority: -1, so that they come last and no gap opens before each. None: one for each CPU.
PROCESSES = {'unit': 4, 'ctl': 4, 'e2e': 4, 'conformance': 3}
# Campaigns: how long they look for something, in seconds. Part of the default run, and run by name.
# VGPU_TEST_SLICE_S in the environment replaces both.
SLICE_S = {'fuzz': 30, 'kill': 40}
SLICE_DEFAULT_S = 60
CAMPAIGN_S = {'fuzz': 600, 'hostile': 1200, 'kill': 1200}
SUITE_LIMIT_S = {'xen-ten': 1800, 'xen-more': 3600, 'xen-cycles': 3600, 'gpu': 3600, 'ml': 3600, 'asan-full': 3600,
                 'tsan-full': 3600, 'mutants': 7200, 'fuzz': 7200, 'hostile': 7200, 'kill': 7200}
SUITE_LIMIT_DEFAULT_S = 1500


def out(text=''):
    print(text, flush=True)


def arguments():
    parser = argparse.ArgumentParser(prog='./run test', description='Runs test suites; without names the default ones.')
    parser.add_argument('suites', nargs='*', metavar='SUITE')
    parser.add_argument('--list', action='store_true', help='name the suites and exit')
    parser.add_argument('--list-extra', action='store_true', help='name the suites that exist beyond the default ones')
    return parser.parse_args()


def show_list():
    width = max(map(len, [*DEFAULT, *NAMED])) + 2
    out('default suites, in order:')
    for name, what in DEFAULT.items():
        out(f'  {name:{width}}{what}')
    have = Build(ROOT, os.path.join(ROOT, 'build')).suites()
    have += [s for s in SPECIAL if s not in DEFAULT]
    extra = [s for s in have if s not in DEFAULT]
    if extra:
        out('also there, by name:')
        for name in extra:
            out(f'  {name:{width}}{NAMED.get(name, "")}'.rstrip())
    out('by name, not yet part of this version:')
    for name, why in NAMED.items():
        if name not in have:
            out(f'  {name:{width}}{why}')


def costs(seconds):
    """One line: what each suite took, the longest first, so that everybody sees where a run's time goes."""
    each = ', '.join(f'{name} {taken:.0f}' for name, taken in sorted(seconds.items(), key=lambda item: -item[1]))
    return f'seconds: {sum(seconds.values()):.0f} in all: {each}'


def report(name, outcome, log):
    parts = [f'{outcome.passed} passed']
    if outcome.failed:
        parts.append(f'{outcome.failed} FAILED')
    if outcome.skipped:
        parts.append(f'{len(outcome.skipped)} skipped')
    out(f'{name:<12} {", ".join(parts):<36} {outcome.seconds:7.1f} s')
    if outcome.build_seconds:
        out(f'    of which   {outcome.build_seconds:.0f} s building')
    for line in outcome.shows:
        out(f'    shows      {line}')
    for line in outcome.skipped:
        out(f'    skipped    {line}')
    for title, text in outcome.failures:
        out(f'    FAILED     {title}')
        for line in testlog.excerpt(text):
            out(f'      | {line[:200]}')
    if outcome.failures and log:
        out(f'    log        {os.path.relpath(log, ROOT) if log.startswith(ROOT + os.sep) else log}')


def run_plain(name, build, by_name):
    started = time.monotonic()
    slice_s = os.environ.get('VGPU_TEST_SLICE_S') or str((CAMPAIGN_S if by_name else SLICE_S).get(name, SLICE_DEFAULT_S))
    outcome, log = build.run([name], processes=1 if name in SERIAL else PROCESSES.get(name),
                             limit_s=SUITE_LIMIT_S.get(name, SUITE_LIMIT_DEFAULT_S), logbase=f'test-{name}',
                             env={'VGPU_TEST_SLICE_S': slice_s})
    outcome.name, outcome.seconds = name, time.monotonic() - started
    return outcome, log


def run_special(name):
    started = time.monotonic()
    if name == 'coverage':
        outcome, log = coverage.run(ROOT, special.directory(ROOT, name), 2 * SUITE_LIMIT_DEFAULT_S)
    else:
        outcome, log = special.run(ROOT, name, SUITE_LIMIT_S.get(name, SUITE_LIMIT_DEFAULT_S))
    outcome.name, outcome.seconds = name, time.monotonic() - started
    return outcome, log


def choose(asked, have):
    """(suites to run, suites asked for that are not there); exits 2 for an unknown name."""
    if not asked:
        # A suite that somebody adds runs by default too: nothing is left out unnoticed.
        plain = [s for s in DEFAULT if s not in SPECIAL]
        return plain + [s for s in have if s not in DEFAULT and s not in NAMED] + [s for s in SPECIAL if s in DEFAULT], []
    known = {*DEFAULT, *NAMED, *have}
    wrong = [s for s in asked if s not in known]
    if wrong:
        print(f'vgpu: error: no such suite: {", ".join(wrong)}; ./run test --list names them', file=sys.stderr)
        sys.exit(2)
    asked = list(dict.fromkeys(asked))
    return ([s for s in asked if s not in NAMED or s in have], [s for s in asked if s in NAMED and s not in have])


def main():
    args = arguments()
    build = Build(ROOT, os.path.join(ROOT, 'build'))
    if args.list:
        show_list()
        return 0
    have = build.suites() + [s for s in SPECIAL if s in NAMED]
    if args.list_extra:
        out('\n'.join(s for s in have if s in NAMED))
        return 0
    chosen, missing_suites = choose(args.suites, have)
    absent = list(missing_suites)
    total, seconds = testlog.Outcome('all'), {}
    for name in chosen:
        started = time.monotonic()
        try:
            outcome, log = (run_special(name) if name in SPECIAL
                            else run_plain(name, build, bool(args.suites)))
        except BuildError as error:
            outcome, log = testlog.Outcome(name), error.log
            outcome.fail(str(error), error.text)
        seconds[name] = time.monotonic() - started
        if name in {*NAMED, *NEEDY} and outcome.passed + outcome.failed == 0 and outcome.skipped:
            # This machine does not have what it takes; where it was asked for, the exit status says so too.
            out(f'{name:<12} cannot run: {"; ".join(outcome.skipped)}')
            total.skipped.append(name)
            if name in args.suites:
                absent.append(name)
            continue
        if outcome.passed + outcome.failed == 0:
            why = 'every test was skipped' if outcome.skipped else 'no test is registered in this suite'
            outcome.fail(f'{name}: nothing ran ({why})')
        report(name, outcome, log)
        total.add(outcome)
    for name in missing_suites:
        out(f'{name:<12} cannot run: {NAMED[name]}')
        total.skipped.append(name)
    if not args.suites:
        missing = [s for s in NAMED if s not in have]
        if missing:
            out(f'not yet part of this version: {" ".join(missing)}')
    if len(seconds) > 1:
        out(costs(seconds))
    line = f'{total.passed} passed, {total.failed} failed'
    out(line + (f', {len(total.skipped)} skipped' if total.skipped else ''))
    if total.failed:
        return 1
    return 77 if absent else 0


def interrupted(signum, frame):
    raise KeyboardInterrupt


if __name__ == '__main__':
    for one in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, interrupted)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print('\nvgpu: interrupted', file=sys.stderr)
        sys.exit(130)
