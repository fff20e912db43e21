# SPDX-License-Identifier: Apache-2.0
"""What the style tests share: the files of the tree, and a tally. Each rule is one test."""
import os
import re
import sys

SKIP_DIRS = {'.git', '.cache', '__pycache__', 'node_modules'}
ROOMS = ['core', 'rings', 'pmd-gpu', 'local-transport', 'xen-transport', 'guest-lib', 'ctl', 'store', 'config', 'bench',
         'tests', 'docs']


def root():
    return os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(__file__), '..', '..'))


def files(*endings):
    """Paths relative to the root, sorted; build directories and generated caches are not part of the source."""
    found = []
    for where, dirs, names in os.walk(root()):
        dirs[:] = [d for d in dirs if d not in SKIP_DIRS and not re.match(r'build(-.*)?$', d)]
        for name in names:
            path = os.path.relpath(os.path.join(where, name), root())
            if not endings or path.endswith(endings):
                found.append(path)
    return sorted(found)


def lines(path):
    with open(os.path.join(root(), path), encoding='utf-8') as text:
        return text.read().splitlines()


class Tally:
    """rule() records one test: its faults are printed; finish() ends the program."""

    def __init__(self):
        self.passed = 0
        self.failed = 0
        self.skipped = 0

    def rule(self, name, faults):
        faults = list(faults)
        print(f'{"FAIL" if faults else "ok  "} {name}')
        for fault in faults[:40]:
            print(f'     ERROR {fault}')
        if len(faults) > 40:
            print(f'     and {len(faults) - 40} more')
        if faults:
            self.failed += 1
        else:
            self.passed += 1

    def skip(self, name, why):
        print(f'SKIP {name}: {why}')
        self.skipped += 1

    def finish(self):
        print(f'{self.passed} passed, {self.failed} failed' + (f', {self.skipped} skipped' if self.skipped else ''))
        sys.exit(1 if self.failed else 0)
