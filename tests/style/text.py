# SPDX-License-Identifier: Apache-2.0
"""What each text file must look like: licence line, white space, width, and words that mark unfinished work."""
import os
import re

import common

CODE = ('.c', '.h', '.cu', '.cpp', '.cc', '.py', '.sh', '.pml')
LICENSED = CODE + ('meson.build', '.yaml', '.yml', '.service', '.scd')
SCRIPTS = ('run', '.ci/run')
TEXT = LICENSED + ('.md', '.json', '.jsonl', '.csv', '.txt') + SCRIPTS
# Data and figures may be as they are; the licence of a data set stands beside it.
DATA = re.compile(r'(^|/)(data|results|corpus)/|^LICENSE$')
TAGS = re.compile(r'\b(' + '|'.join(['TO' + 'DO', 'FIX' + 'ME', 'X' * 3, 'HA' + 'CK ME']) + r')\b')
HOST_PATHS = re.compile(r'(?<![\w.])(/ho' + r'me/|/wo' + r'rk/|/Us' + r'ers/|/ro' + r'ot/)')
WIDTH_WANTED, WIDTH_MAX = 120, 130


def walk(endings):
    for path in common.files(*endings):
        if not DATA.search(path):
            yield path


def read(path):
    with open(os.path.join(common.root(), path), 'rb') as raw:
        return raw.read()


def faults_of(paths, pattern, what):
    for path in paths:
        for number, line in enumerate(common.lines(path), 1):
            found = pattern.search(line)
            if found:
                yield f'{path}:{number}: {what.format(found.group(0).strip() or "here")}'


def encoding(paths):
    for path in paths:
        raw = read(path)
        try:
            raw.decode('utf-8')
        except UnicodeDecodeError as error:
            yield f'{path}: not UTF-8 ({error.reason} at byte {error.start})'
        if b'\r' in raw:
            yield f'{path}: carriage returns'
        if raw and not raw.endswith(b'\n'):
            yield f'{path}: the last line has no end'
        if raw.endswith(b'\n\n'):
            yield f'{path}: empty lines at the end'


def main():
    tally = common.Tally()
    text = sorted(set(walk(TEXT)))
    bad = list(encoding(text))
    tally.rule('text is UTF-8 with unix line ends', bad)
    if any('UTF-8' in fault for fault in bad):
        tally.finish()
    tally.rule('each source has its SPDX line on top', (
        f'{path}:1: no "SPDX-License-Identifier: Apache-2.0" in the first three lines'
        for path in walk(LICENSED + SCRIPTS)
        if not any('SPDX-License-Identifier: Apache-2.0' in line for line in common.lines(path)[:3])))
    # scdoc nests with tabs and takes nothing else.
    tally.rule('no tabs', faults_of([p for p in text if not p.endswith('.scd')], re.compile(r'\t'), 'a tab'))
    tally.rule('no spaces at the end of a line', faults_of(text, re.compile(r' +$'), 'spaces at the end'))
    wide = [(len(line), f'{path}:{number}: {len(line)} wide') for path in walk(CODE + SCRIPTS)
            for number, line in enumerate(common.lines(path), 1) if len(line) > WIDTH_WANTED]
    tally.rule(f'code is at most {WIDTH_MAX} wide (wanted: {WIDTH_WANTED})', (w for n, w in wide if n > WIDTH_MAX))
    print(f'     {len(wide)} lines are wider than {WIDTH_WANTED}')
    tally.rule('no marks of unfinished work', faults_of(text, TAGS, '{}: finish it, or say it in the docs'))
    tally.rule('no paths of somebody\'s machine', faults_of(text, HOST_PATHS, '{} belongs to one machine'))
    scripts = [path for path in common.files() if read(path)[:2] == b'#!']
    tally.rule('files that start with #! may be run', (
        f'{path}: not executable' for path in scripts if not os.access(os.path.join(common.root(), path), os.X_OK)))
    tally.finish()


if __name__ == '__main__':
    main()
