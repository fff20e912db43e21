# SPDX-License-Identifier: Apache-2.0
"""Counts individual tests in what `meson test` recorded.

A meson test is one program; what counts is the tests inside it. In order of preference: Criterion's synthesis line,
TAP with a plan, a last line "N passed, N failed[, N skipped]", and else the program itself as one test. A count never
hides a bad exit: a program that failed while all its tests passed adds one failure.
"""
import json
import re
from dataclasses import dataclass, field

ANSI = re.compile(r'\x1b\[[0-9;?]*[A-Za-z]')
SYNTHESIS = re.compile(r'Synthesis: Tested: (\d+) \| Pass\w+: (\d+) \| Fail\w+: (\d+) \| Crash\w+: (\d+)')
CRITERION_SKIP = re.compile(r'^\[SKIP\] (.+)$', re.M)
TAP_PLAN = re.compile(r'^1\.\.(\d+)', re.M)
TAP_LINE = re.compile(r'^(not )?ok\b(?: \d+)?(?: - )?([^#\n]*)(?:# *(SKIP)\b *(.*))?$', re.M | re.I)
TALLY = re.compile(r'^(\d+) passed, (\d+) failed(?:, (\d+) skipped)?$')
TALLY_SKIP = re.compile(r'^\s*SKIP (.+)$', re.M)
SHOWS = re.compile(r'^\s*shows: (.+)$')
PASSING = ('OK', 'EXPECTEDFAIL')


@dataclass
class Outcome:
    """What one program, or one suite, came to."""
    name: str
    passed: int = 0
    failed: int = 0
    skipped: list = field(default_factory=list)   # "what: why"
    failures: list = field(default_factory=list)  # (title, output)
    shows: list = field(default_factory=list)
    seconds: float = 0.0
    build_seconds: float = 0.0  # of them, in a build of the suite's own

    def add(self, other):
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped
        self.failures += other.failures
        self.shows += other.shows

    def fail(self, title, output=''):
        self.failed += 1
        self.failures.append((title, output))


def last_line(text):
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ''


def _why(record):
    if record['result'] == 'TIMEOUT':
        return f"ran longer than its limit and was stopped after {record['duration']:.0f} s"
    if record['result'] == 'UNEXPECTEDPASS':
        return 'passed, but must fail'
    code = record.get('returncode', 0)
    return f'killed by signal {-code}' if code < 0 else f'exit {code}'


def _counts(text, stdout):
    """(passed, failed, [skips]) from the program's own account, or None when it gives none."""
    found = SYNTHESIS.findall(text)
    if found:
        _, passed, failed, crashing = map(int, found[-1])
        return passed, failed + crashing, CRITERION_SKIP.findall(text)
    if 'Synthesis:' in text:  # a wording that is not known: better a failure than a wrong count
        return 0, 1, []
    plan = TAP_PLAN.search(stdout)
    if plan:
        passed, failed, skips = 0, 0, []
        for bad, title, directive, reason in TAP_LINE.findall(stdout):
            if directive.upper() == 'SKIP':
                skips.append(f'{title.strip()}: {reason.strip() or "no reason given"}')
            elif bad:
                failed += 1
            else:
                passed += 1
        missing = int(plan.group(1)) - passed - failed - len(skips)
        return passed, failed + max(missing, 0), skips
    tally = TALLY.match(last_line(stdout))
    if tally:
        skips = TALLY_SKIP.findall(stdout)
        skips += ['no reason given'] * (int(tally.group(3) or 0) - len(skips))
        return int(tally.group(1)), int(tally.group(2)), skips
    return None


def shown(stdout):
    """What the program shows, each with the TAP test that it belongs to, if there is one."""
    found, pending = [], []
    for line in stdout.splitlines():
        show, tap = SHOWS.match(line), TAP_LINE.match(line)
        if show:
            pending.append(show.group(1))
        elif tap:
            title = re.sub(r' \(\d+ ms\)$', '', tap.group(2).strip())
            found += [f'{title}: {text}' if title else text for text in pending]
            pending = []
    return found + pending


def judge(record):
    """One record of meson's testlog.json as an Outcome."""
    name = record['name'].split(' / ')[-1]
    stdout = ANSI.sub('', record.get('stdout') or '')
    text = stdout + '\n' + ANSI.sub('', record.get('stderr') or '')
    out = Outcome(name, shows=shown(stdout), seconds=record.get('duration', 0.0))
    if record['result'] == 'SKIP':
        out.skipped.append(f"{name}: {last_line(stdout) or last_line(text) or 'no reason given'}")
        return out
    good = record['result'] in PASSING
    counts = _counts(text, stdout)
    if counts is None:
        if good:
            out.passed = 1
        else:
            out.fail(f'{name}: {_why(record)}', text)
        return out
    out.passed, out.failed, skips = counts
    out.skipped = [f'{name}: {s}' for s in skips]
    if out.failed:
        out.failures.append((f'{name}: {out.failed} of {out.passed + out.failed} failed', text))
    elif not good:
        out.fail(f'{name}: {_why(record)}, although all its tests passed', text)
    elif out.passed == 0 and not skips:
        out.fail(f'{name}: ran no test at all', text)
    return out


def read(path):
    """The records of a testlog.json (JSON Lines); [] when meson wrote none."""
    try:
        with open(path, encoding='utf-8', errors='replace') as log:
            return [json.loads(line) for line in log if line.strip()]
    except FileNotFoundError:
        return []


def excerpt(text, limit=25):
    """The lines that tell a person why: those that name a failure, and the end."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith('ok ')]
    telling = [line for line in lines if re.search(
        r'\[----\]|\[FAIL\]|\[ERR\s*\]|[Aa]ssert|not ok|FAIL|ERROR|runtime error|Sanitizer|SUMMARY|Traceback|Error:',
        line)]
    end = lines[-8:]
    return [line for line in telling if line not in end][-(limit - len(end)):] + end
