# SPDX-License-Identifier: Apache-2.0
"""Labels of atomic accesses: "A1 pairs with B1" names a partner that another comment carries.

Accesses with release or acquire order, and full fences, that carry no label are listed as notes.
"""
import re

import common

ROOMS = ('rings/', 'core/', 'pmd-gpu/', 'local-transport/', 'xen-transport/', 'guest-lib/')
PAIR = re.compile(r'\b([A-Z]\d+)(?: and [A-Z]\d+)? pairs with ([A-Z]\d+)\b')
COMMENT = re.compile(r'/\*.*?\*/|//[^\n]*', re.S)
LABEL = re.compile(r'\b[A-Z]\d+\b')
ORDERED = re.compile(r'\bvgpu_(load_acquire|store_release|exchange_acq_rel|fence_full)\(')
NAMED_FILE = re.compile(r'\b(?:%s)/[\w./-]+\.(?:c|h|pml|md|py|yaml)\b' % '|'.join([*common.ROOMS, 'scripts']))


def comments(path):
    """(line number, text) of each comment."""
    text = '\n'.join(common.lines(path))
    for found in COMMENT.finditer(text):
        yield text.count('\n', 0, found.start()) + 1, found.group(0)


def main():
    tally = common.Tally()
    sources = [p for p in common.files('.c', '.h') if p.startswith(ROOMS)]
    pairs, mentions, lost = [], {}, []
    for path in sources:
        for line, text in comments(path):
            for label in set(LABEL.findall(text)):
                mentions.setdefault(label, []).append((path, line))
            pairs += [(path, line, *found.groups()) for found in PAIR.finditer(text)]
            lost += [f'{path}:{line}: {name} is not there' for name in NAMED_FILE.findall(text)
                     if name not in KNOWN]
    lonely = [f'{path}:{line}: {own} pairs with {other}, which no other comment carries'
              for path, line, own, other in pairs
              if not any(where != (path, line) for where in mentions.get(other, []))]
    tally.rule('each label has its partner', lonely)
    tally.rule('labels were found', [] if len(pairs) >= 4 else [f'only {len(pairs)} pairs'])
    tally.rule('files named in comments exist', lost)
    for path in sources:
        text = common.lines(path)
        for number, line in enumerate(text, 1):
            if ORDERED.search(line) and not line.startswith('#define') and 'static inline' not in line and \
                    not LABEL.search(' '.join(text[max(0, number - 3):number + 1])):
                print(f'     no label: {path}:{number}: {line.strip()}')
    tally.finish()


KNOWN = set(common.files())

if __name__ == '__main__':
    main()
