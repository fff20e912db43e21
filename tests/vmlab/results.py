# SPDX-License-Identifier: Apache-2.0
"""What a machine says about its checks, one line for each on the serial console:

    @vmlab PASS name | detail       FAIL likewise
    @vmlab SKIP name | why          the emulation cannot run it: counted as skipped
    @vmlab INFO name | text         a fact, repeated in the summary
    @vmlab END n                    last: n lines PASS, FAIL or SKIP were printed

A check that was announced (expected) and not reported is a failure, and so is a line that got lost on the way.
"""
import re

LINE = re.compile(r'@vmlab (PASS|FAIL|SKIP|INFO) ([a-z0-9_.-]+) \| ?(.*)$')
END = re.compile(r'@vmlab END (\d+)')


class Results:
    def __init__(self):
        self.checks = {}   # name: (verdict, detail)
        self.infos = []    # (name, text)
        self.announced = None
        self.twice = []

    def line(self, _at, text):
        found = LINE.search(text)
        if found:
            verdict, name, detail = found.groups()
            if verdict == 'INFO':
                self.infos.append((name, detail))
            elif name in self.checks:
                self.twice.append(name)
            else:
                self.checks[name] = (verdict, detail)
        found = END.search(text)
        if found:
            self.announced = int(found.group(1))

    def judge(self, boot, expected):
        """[(name, verdict, detail)]: each expected check, each further one, and the boot itself as one more."""
        rows = [(name, *self.checks.get(name, ('FAIL', 'was never reported'))) for name in expected]
        rows += [(name, *row) for name, row in self.checks.items() if name not in expected]
        faults = []
        if boot.timed_out:
            faults.append(f'time over after {boot.seconds:.0f} s')
        elif not boot.ended_well:
            faults.append(f'QEMU ended with exit code {boot.exit_code}')
        if self.announced is None:
            faults.append('the machine did not come to its end')
        elif self.announced != len(self.checks):
            faults.append(f'{self.announced} checks were made, {len(self.checks)} were read')
        faults += [f'{name} was reported twice' for name in self.twice]
        rows.append(('boot', 'FAIL' if faults else 'PASS', '; '.join(faults) or f'{boot.seconds:.0f} s'))
        return rows


def tap(rows, infos, log):
    """Prints TAP for ./run test. Returns the number of failures."""
    print(f'1..{len(rows)}')
    failed = 0
    for number, (name, verdict, detail) in enumerate(rows, 1):
        failed += verdict == 'FAIL'
        ok = 'not ok' if verdict == 'FAIL' else 'ok'
        note = f' # SKIP {detail}' if verdict == 'SKIP' else ''
        print(f'{ok} {number} - {name}{note}')
        if verdict != 'SKIP' and detail:
            print(f'#   {"FAIL " if verdict == "FAIL" else ""}{name}: {detail}')
    for name, text in infos:
        print(f'  shows: {name}: {text}')
    print(f'# log: {log}', flush=True)
    return failed
