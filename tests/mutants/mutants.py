#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tests of the tests: bugs are put into a copy of the real code, one at a time, and the test that must find it is run.

mutants.py [--keep] [--list] [--apply] [NAME...]

First each test must pass on the code as it is; then it must fail, or hang, with each of its mutants. A mutant that lives is
a hole in that test; one that does not apply or does not compile is a failure too. table.py has them. --apply looks only
whether each still applies, which takes no time and is in the default run.
"""
import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, 'scripts'))
from mesontest import tool  # noqa: E402
from special import fixed_addresses  # noqa: E402
from table import MUTANTS  # noqa: E402

OPTIONS = {'plain': ['-Dcuda=disabled'], 'tsan': ['-Dcuda=disabled', '-Db_sanitize=thread', '-Db_lundef=false']}
LIMIT_S = 100      # of a test, or HANGS times what it takes on the code as it is: one that takes longer was made to hang
HEALTHY_S = 600    # a crowded machine takes its time, and may make a test fail once
HANGS = 4
ATTEMPTS = 3       # of tests that look for a race: one failure is enough
# Windows of some 100 ns are looked for longer than in the default run.
ENVIRONMENT = {'VGPU_TEST_SLICE_S': '20', 'TSAN_OPTIONS': 'halt_on_error=1:exitcode=99', 'VGPU_E2E_FLIPS': '40000',
               'VGPU_STRESS_SCALE': '10'}


def say(text):
    print(text, flush=True)


def run(command, limit_s, env=None, cwd=None):
    """(exit status or 'hang', output). Ends all that it started."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               env={**os.environ, **(env or {})}, cwd=cwd, start_new_session=True)
    try:
        text = process.communicate(timeout=limit_s)[0]
        return process.returncode, text.decode(errors='replace')
    except subprocess.TimeoutExpired:
        return 'hang', ''
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()


class Copy:
    """The copied tree and its builds."""

    def __init__(self, where):
        self.source = os.path.join(where, 'tree')
        self.builds = {name: os.path.join(where, name) for name in OPTIONS}
        self.tests, self.files, self.limit_s = {}, {}, {}
        shutil.copytree(ROOT, self.source, symlinks=True, ignore=shutil.ignore_patterns('.git', 'build', '__pycache__'))

    def configure(self, name):
        code, text = run([tool('meson'), 'setup', *OPTIONS[name], self.builds[name], self.source], 600)
        if code:
            raise SystemExit(f'{text}\nmutants: the copy does not configure')
        asked = subprocess.run([tool('meson'), 'introspect', '--tests', '--targets', self.builds[name]],
                               capture_output=True, text=True, check=True)
        both = json.loads(asked.stdout)
        self.tests[name] = {t['name']: t for t in both['tests']}
        self.files[name] = {t['id']: t['filename'][0] for t in both['targets']}

    def make(self, build, test):
        """Builds what the test needs. Output when that fails, else ''."""
        record, base = self.tests[build][test], self.builds[build]
        wanted = {os.path.relpath(self.files[build][d], base) for d in record['depends'] if d in self.files[build]}
        if record['cmd'][0].startswith(base):
            wanted.add(os.path.relpath(record['cmd'][0], base))
        code, text = run([tool('ninja'), '-C', base, *sorted(wanted)], 1800)
        return text if code else ''

    def healthy(self, build, test, arguments, prefix):
        """Its output when it fails on the code as it is, else ''; and how it ended."""
        for _ in range(ATTEMPTS):
            started = time.monotonic()
            code, text = self.judge(build, test, arguments, prefix)
            if code == 0:
                self.limit_s[test, str(arguments), build] = max(LIMIT_S, HANGS * (time.monotonic() - started))
                return '', 0
        return text or 'no output', code

    def judge(self, build, test, arguments, prefix):
        record = self.tests[build][test]
        command = record['cmd'] if arguments is None else record['cmd'][:1] + arguments
        limit_s = self.limit_s.get((test, str(arguments), build), HEALTHY_S)
        return run([*prefix, *command], limit_s, {**record['env'], **ENVIRONMENT}, self.builds[build])


def text_of(path):
    with open(path, encoding='utf-8') as source:
        return source.read()


def write(path, text):
    with open(path, 'w', encoding='utf-8') as out:
        out.write(text)


def try_one(copy, mutant, prefix):
    """'' when it was caught, else what went wrong; and how it ended."""
    _, _, file, old, new, test, arguments, build = mutant
    path = os.path.join(copy.source, file)
    healthy = text_of(path)
    if healthy.count(old) != 1:
        return f'does not apply: the text occurs {healthy.count(old)} times in {file}; mend tests/mutants/table.py', ''
    try:
        write(path, healthy.replace(old, new))
        broken = copy.make(build, test)
        if broken:
            return 'does not compile:\n' + broken[-3000:], ''
        for _ in range(ATTEMPTS):
            code, text = copy.judge(build, test, arguments, prefix[build])
            if code == 77:
                return f'{test} cannot run here: {text.strip().splitlines()[-1:]}', ''
            if code != 0:
                why = [line for line in text.splitlines() if 'FAIL' in line or 'Sanitizer' in line or 'FAILED' in line]
                return '', f'{test}: {"hang" if code == "hang" else why[0].strip() if why else f"exit {code}"}'
        return f'LIVES: {test} passed {ATTEMPTS} times; the test has a hole', ''
    finally:
        write(path, healthy)


def apply():
    """Is the text of each mutant still where it is said to be? Named once each, so that one can be asked for."""
    names = [m[0] for m in MUTANTS]
    failed = 0
    for name, _, file, old, new, _, _, _ in MUTANTS:
        count = text_of(os.path.join(ROOT, file)).count(old)
        if count != 1 or old == new or names.count(name) != 1:
            say(f'FAIL {name}: its text occurs {count} times in {file}, its name {names.count(name)} times in table.py')
            failed += 1
    say(f'{len(MUTANTS) - failed} passed, {failed} failed')
    return 1 if failed else 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--keep', action='store_true', help='leave the copy, and say where')
    parser.add_argument('--list', action='store_true')
    parser.add_argument('names', nargs='*')
    parser.add_argument('--apply', action='store_true', help='only look whether each still applies')
    args = parser.parse_args()
    if args.apply:
        return apply()
    wanted = [m for m in MUTANTS if not args.names or m[0] in args.names]
    if args.list:
        for name, what, file, _, _, test, _, _ in MUTANTS:
            say(f'{name:26}{file:26}{test:18}{what}')
        return 0
    if not wanted:
        print('no mutant of that name', file=sys.stderr)
        return 2
    where = tempfile.mkdtemp(prefix='vgpu-mutants-')
    failed = passed = 0
    try:
        copy = Copy(where)
        prefix = {'plain': [], 'tsan': fixed_addresses()}
        for build in sorted({m[7] for m in wanted}):
            copy.configure(build)
        for test, arguments, build in sorted({(m[5], tuple(m[6]) if m[6] is not None else None, m[7]) for m in wanted},
                                             key=str):
            broken = copy.make(build, test)
            text, code = (broken, 1) if broken else copy.healthy(build, test, None if arguments is None else list(arguments),
                                                                 prefix[build])
            if text:
                say(text[-3000:])
                say(f'FAIL {test}: must pass on the code as it is, ended with {code}: its mutants would prove nothing')
                say('0 passed, 1 failed')
                return 1
        for mutant in wanted:
            started = time.monotonic()
            wrong, how = try_one(copy, mutant, prefix)
            failed += bool(wrong)
            passed += not wrong
            say(f'{"FAIL" if wrong else "ok  "} {mutant[0]}: {mutant[1]}: {wrong or "caught by " + how} '
                f'({time.monotonic() - started:.0f} s)')
    finally:
        if args.keep:
            say(f'kept: {where}')
        else:
            shutil.rmtree(where, ignore_errors=True)
    say(f'shows: {passed} of {passed + failed} mutants of the real code were found by the test that must find them')
    say(f'{passed} passed, {failed} failed')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
