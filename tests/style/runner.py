# SPDX-License-Identifier: Apache-2.0
"""The test runner itself: a count may never look better than what the programs said."""
import os
import sys

import common

sys.path.insert(0, os.path.join(common.root(), 'scripts'))
import testlog  # noqa: E402


def record(result='OK', stdout='', stderr='', code=0):
    return {'name': 'vgpu:unit / t', 'result': result, 'stdout': stdout, 'stderr': stderr, 'returncode': code,
            'duration': 1.0}


def synthesis(tested, failed=0, crashing=0):
    return (f'[\x1b[0;34m====\x1b[0m] Synthesis: Tested: {tested} | Passing: {tested - failed - crashing} | '
            f'Failing: {failed} | Crashing: {crashing}\n')


# (what, record, passed, failed, skipped)
CASES = [
    ('a plain program is one test', record(), 1, 0, 0),
    ('a plain program that fails is one failure', record('FAIL', code=1), 0, 1, 0),
    ('a signal is a failure', record('FAIL', code=-11), 0, 1, 0),
    ('a timeout is a failure', record('TIMEOUT', code=-15), 0, 1, 0),
    ('an unexpected pass is a failure', record('UNEXPECTEDPASS'), 0, 1, 0),
    ('exit 77 is a skip', record('SKIP', 'trying\nno spin here\n', code=77), 0, 0, 1),
    ('Criterion counts its tests, through colours', record(stderr=synthesis(12)), 12, 0, 0),
    ('Criterion failures and crashes count', record('FAIL', stderr=synthesis(12, 2, 1), code=1), 9, 3, 0),
    ('Criterion that fails after all tests passed', record('FAIL', stderr=synthesis(12), code=99), 12, 1, 0),
    ('Criterion that times out after some passed', record('TIMEOUT', stderr=synthesis(3), code=-15), 3, 1, 0),
    ('Criterion with no test at all fails', record(stderr=synthesis(0)), 0, 1, 0),
    ('Criterion failures count even with exit 0', record(stderr=synthesis(4, 1)), 3, 1, 0),
    ('Criterion in words that are not known', record(stderr='[====] Synthesis: 3 of 4'), 0, 1, 0),
    ('a tally counts', record(stdout='ok a\n3 passed, 0 failed\n'), 3, 0, 0),
    ('a tally with failures', record('FAIL', '2 passed, 1 failed\n', code=1), 2, 1, 0),
    ('a tally with skips', record(stdout='SKIP x: why\n2 passed, 0 failed, 1 skipped\n'), 2, 0, 1),
    ('a tally that is not the last line is prose', record('FAIL', '3 passed, 0 failed\ncrash\n', code=1), 0, 1, 0),
    ('a tally of nothing fails', record(stdout='0 passed, 0 failed\n'), 0, 1, 0),
    ('a good tally does not hide a bad exit', record('FAIL', '3 passed, 0 failed\n', code=1), 3, 1, 0),
    ('TAP counts', record(stdout='1..3\nok 1 - a\nnot ok 2 - b\nok 3 - c # SKIP no device\n'), 1, 1, 1),
    ('TAP that stops early fails for the rest', record(stdout='1..4\nok 1\nok 2\n'), 2, 2, 0),
]


def main():
    tally = common.Tally()
    for what, given, passed, failed, skipped in CASES:
        got = testlog.judge(given)
        have, want = (got.passed, got.failed, len(got.skipped)), (passed, failed, skipped)
        tally.rule(what, [] if have == want and bool(got.failures) == bool(failed)
                   else [f'passed, failed, skipped are {have}, wanted {want}; failures {got.failures}'])
    skip = testlog.judge(record('SKIP', 'trying\nno spin here\n', code=77))
    tally.rule('a skip keeps its reason', [] if skip.skipped == ['t: no spin here'] else skip.skipped)
    shown = testlog.judge(record(stdout='shows: FIFO kept over 10 descriptors\n'))
    tally.rule('what a test shows is kept', [] if shown.shows == ['FIFO kept over 10 descriptors'] else ['lost'])
    named = testlog.judge(record(stdout='1..1\nshows: 7 of 7\nok 1 - fifo (12 ms)\n'))
    tally.rule('what a TAP test shows carries its name', [] if named.shows == ['fifo: 7 of 7'] else named.shows)
    excerpt = testlog.excerpt('\n'.join(['noise'] * 50 + ['spsc.c:7: Assertion failed'] + ['noise'] * 50))
    tally.rule('an excerpt holds the telling line', [] if any('Assertion' in x for x in excerpt) else excerpt)
    tally.finish()


if __name__ == '__main__':
    main()
