# SPDX-License-Identifier: Apache-2.0
"""The sanitizer suites: builds of their own, outside the source tree, and proof that the sanitizers see faults.

Reports go to files, one per process, so that a fault in a daemon or a worker whose exit status nobody looks at still
fails the suite. Before anything else runs, planted faults (tests/style/canary.c) must be found.
"""
import glob
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import time

import testlog
from mesontest import Build

# What only asan-full and tsan-full run: other ways through sources that are seen already, and tests that mostly wait.
ASAN_LATER = {'isolation', 'idle', 'backend', 'doctor', 'cuda-kill', 'cuda-errors', 'conformance-cuda-auto',
              'conformance-cuda-bounce', 'conformance-cuda-pools', 'conformance-fault_cpu', 'conformance-fault_null',
              'store-kill'}
TSAN_LATER = {'conformance-cuda-bounce', 'conformance-fault_cpu', 'conformance-fault_null'}
ASAN = {
    'variables': {
        'ASAN_OPTIONS': 'detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1:exitcode=99',
        'UBSAN_OPTIONS': 'print_stacktrace=1:halt_on_error=1:exitcode=99',
        'LSAN_OPTIONS': 'exitcode=99',
    },
    'canaries': ['overflow', 'leak', 'shift'],
    'suites': ['unit', 'conformance', 'fuzz', 'e2e', 'hostile', 'kill'],
    'build': 'asan',
}
# The compiler's own work is a third of such a run: -O1, of debug information only what reports name (functions, lines),
# and nothing built that the tests do not need.
COMMON = ['--buildtype=debugoptimized', '-Doptimization=1', '-Dc_args=-g1', '-Db_lundef=false', '-Dbench=disabled']
ASAN_OPTIONS = [*COMMON, '-Db_sanitize=address,undefined']
TSAN = {
    'options': [*COMMON, '-Db_sanitize=thread'],
    'suites': ['stress', 'conformance'],
    'build': 'tsan',
    'variables': {'TSAN_OPTIONS': 'halt_on_error=1:second_deadlock_stack=1:history_size=4:exitcode=99'},
    'canaries': ['race'],
}
SUITES = {
    'asan': {**ASAN, 'options': ASAN_OPTIONS, 'later': ASAN_LATER, 'slice_s': 8},
    'asan-full': {**ASAN, 'options': ASAN_OPTIONS, 'later': (), 'slice_s': 60},
    'tsan': {**TSAN, 'later': TSAN_LATER, 'slice_s': 8, 'stress_scale': 0.4},
    'tsan-full': {**TSAN, 'later': (), 'slice_s': 60},
}
CANARY = os.path.join('tests', 'style', 'canary')
TIMEOUT_SCALE = 5
# At once: many tests wait more than they work. Those that measure say is_parallel: false.
PROCESSES = 4


def directory(root, name):
    """Special builds live in the cache, keyed by the source tree: the tree itself keeps one build only."""
    cache = os.environ.get('XDG_CACHE_HOME') or os.path.join(os.path.expanduser('~'), '.cache')
    key = hashlib.sha256(os.path.realpath(root).encode()).hexdigest()[:12]
    return os.path.join(cache, 'vgpu', key, f'build-{name}')


def fixed_addresses():
    """A command prefix that switches off address randomisation (ThreadSanitizer of gcc 12 and 13 fails on kernels that
    randomise more bits than it knows), or [] where it is not allowed."""
    if not shutil.which('setarch'):
        return []
    prefix = ['setarch', platform.machine(), '-R']
    return prefix if subprocess.run([*prefix, 'true'], stdin=subprocess.DEVNULL,
                                    capture_output=True).returncode == 0 else []


def environment(spec, reports):
    """The sanitizers' options, with reports going to files under `reports`; the caller's own options come last."""
    env = {'VGPU_TEST_SLICE_S': os.environ.get('VGPU_TEST_SLICE_S', str(spec['slice_s']))}
    for name, value in spec['variables'].items():
        own = os.environ.get(name)
        env[name] = f'{value}:log_path={reports}/report' + (f':{own}' if own else '')
    if 'stress_scale' in spec:
        env['VGPU_STRESS_SCALE'] = os.environ.get('VGPU_STRESS_SCALE', str(spec['stress_scale']))
    # Counts of iterations shrink by this factor: sanitizers cost 2 to 20 times.
    env['VGPU_TEST_SCALE'] = os.environ.get('VGPU_TEST_SCALE', '0.1')
    return env


def collect(reports):
    """[(file name, text)] of the sanitizers' reports, and removes them."""
    found = []
    for path in sorted(glob.glob(f'{reports}/report*')):
        with open(path, encoding='utf-8', errors='replace') as text:
            found.append((os.path.basename(path), text.read()))
        os.unlink(path)
    return found


def try_canaries(spec, build, env, reports, prefix, outcome):
    """Each planted fault must end its program and leave a report: else the suite would prove nothing."""
    program = os.path.join(build.path, CANARY)
    for fault in spec['canaries']:
        done = subprocess.run([*prefix, program, fault], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              env={**os.environ, **env}, timeout=120)
        text = done.stdout + done.stderr + ''.join(t for _, t in collect(reports))
        if done.returncode == 99 and 'Sanitizer' in text or 'runtime error' in text and done.returncode:
            outcome.passed += 1
        else:
            outcome.fail(f'the sanitizer did not find a planted fault ({fault}): exit {done.returncode}', text)


def run(root, name, limit_s):
    """Returns (testlog.Outcome, path of the full log). Raises BuildError."""
    spec, started = SUITES[name], time.monotonic()
    build = Build(root, directory(root, spec['build']))
    build.configure(spec['options'])
    tests = build.tests(spec['suites'])
    names = [t for t in tests if t not in spec['later']]
    build.compile([CANARY, *build.needed(names)])
    outcome = testlog.Outcome(name, build_seconds=time.monotonic() - started)
    prefix = fixed_addresses() if spec['build'] == 'tsan' else []
    with tempfile.TemporaryDirectory(prefix=f'vgpu-{name}-') as reports:
        env = environment(spec, reports)
        try_canaries(spec, build, env, reports, prefix, outcome)
        if outcome.failed:
            return outcome, ''
        for suite in spec['suites']:
            if suite not in tests.values():
                outcome.fail(f'{name}: suite {suite} has no tests to run')
        done, log = build.run(spec['suites'], processes=PROCESSES, limit_s=limit_s, logbase=f'test-{name}', env=env,
                               prefix=prefix, scale=TIMEOUT_SCALE, names=names)
        outcome.add(done)
        for title, text in collect(reports):
            outcome.fail(f'sanitizer report {title}', text)
    return outcome, log
