# SPDX-License-Identifier: Apache-2.0
"""docs/troubleshooting.md quotes what the programs say: each message of its tables is in the sources, and no two rows of a
table have the same."""
import re

import common

PAGE = 'docs/troubleshooting.md'
ROW = re.compile(r'^\| `(.+?)` \|')
# Where a literal goes on in the next one: "a " "b", over a line's end and around PRIu64 and its like.
JOINED = re.compile(r'"\s*\n?\s*"')


def sources():
    """All literals of the product, joined where C joins them; tests and benchmarks say nothing to an administrator."""
    text = []
    for path in common.files('.c', '.h', '.cu', 'vgpu-hook'):
        if not path.startswith(('tests/', 'bench/')):
            text.append(JOINED.sub('', '\n'.join(common.lines(path))))
    return '\n'.join(text)


def rows():
    """(line number, heading, message)"""
    heading = ''
    for number, line in enumerate(common.lines(PAGE), 1):
        if line.startswith('#'):
            heading = line.lstrip('# ')
        found = ROW.match(line)
        if found:
            yield number, heading, found.group(1)


def unknown(found, text):
    for number, _, message in found:
        if '%' in message:
            yield f'{PAGE}:{number}: "{message}" is what the source says, not what is printed'
        elif message not in text:
            yield f'{PAGE}:{number}: "{message}" is in no source'


def twice(found):
    seen = {}
    for number, _, message in found:
        if message in seen:
            yield f'{PAGE}:{number}: "{message}" stands in line {seen[message]} already'
        seen.setdefault(message, number)


def main():
    tally = common.Tally()
    found, text = list(rows()), sources()
    tally.rule('messages of troubleshooting.md are in the sources', unknown(found, text))
    tally.rule('each message stands there once', twice(found))
    tally.rule('there are such messages', [] if len(found) >= 40 else [f'{PAGE}: only {len(found)} rows were found'])
    tally.rule('a message that nobody says is noticed',
               [] if list(unknown([(0, '', 'no source says ' + 'this of itself')], text)) else ['it was not'])
    tally.finish()


if __name__ == '__main__':
    main()
