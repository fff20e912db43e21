# SPDX-License-Identifier: Apache-2.0
"""The docs name what is there: links resolve, headings that links name exist, files in backticks exist."""
import os
import re

import common

LINK = re.compile(r'(?<!!)\[[^\]]*\]\(([^)\s]+)(?:\s+"[^"]*")?\)|!\[[^\]]*\]\(([^)\s]+)\)')
FENCE = re.compile(r'^\s*(```|~~~)')
SPAN = re.compile(r'`([^`]+)`')
NAMED_FILE = re.compile(r'(?:%s|host|scripts)/[\w./-]*\.(?:c|h|cu|py|sh|md|pml|yaml|jsonl|build)' %
                        '|'.join(common.ROOMS))


def prose(path):
    """(number, line) outside code fences."""
    inside = False
    for number, line in enumerate(common.lines(path), 1):
        if FENCE.match(line):
            inside = not inside
        elif not inside:
            yield number, line


def anchors(path):
    """The anchors that a web view makes of the headings of a file."""
    found = set()
    for _, line in prose(path):
        if line.startswith('#'):
            title = re.sub(r'[`*]', '', line.lstrip('#').strip()).lower()
            found.add(re.sub(r'[^\w\- ]', '', title).replace(' ', '-'))
    return found


def links(path):
    for number, line in prose(path):
        for found in LINK.finditer(SPAN.sub('', line)):
            yield number, found.group(1) or found.group(2)


def dead_links(paths):
    for path in paths:
        for number, target in links(path):
            if re.match(r'[a-z]+:', target):
                continue
            name, _, anchor = target.partition('#')
            other = os.path.normpath(os.path.join(os.path.dirname(path), name)) if name else path
            if not os.path.exists(os.path.join(common.root(), other)):
                yield f'{path}:{number}: {target}: no such file'
            elif anchor and other.endswith('.md') and anchor not in anchors(other):
                yield f'{path}:{number}: {target}: no such heading'


def dead_names(paths):
    for path in paths:
        for number, line in prose(path):
            for span in SPAN.findall(line):
                if NAMED_FILE.fullmatch(span) and not os.path.exists(os.path.join(common.root(), span)):
                    yield f'{path}:{number}: `{span}` is not there'


def rooms():
    for room in common.ROOMS + (['host'] if os.path.isdir(os.path.join(common.root(), 'host')) else []):
        readme = os.path.join(room, 'README.md')
        if not os.path.exists(os.path.join(common.root(), readme)):
            if room != 'host' or os.listdir(os.path.join(common.root(), room)):
                yield f'{readme} is missing'
        elif len(common.lines(readme)) > 60:
            yield f'{readme}: {len(common.lines(readme))} lines; some 20 are wanted, the rest belongs to docs/'


def unfound():
    """Documents, man pages, schemas and examples that a reader of docs/README.md would not come across."""
    there = {os.path.normpath(os.path.join('docs', target.split('#')[0])) for _, target in links('docs/README.md')}
    for path in common.files('.md', '.scd', '.json', '.py'):
        if path.startswith('docs/') and path != 'docs/README.md' and path not in there:
            yield f'docs/README.md does not link to {path}'


def main():
    tally = common.Tally()
    paths = common.files('.md')
    tally.rule('links resolve', dead_links(paths))
    tally.rule('files named in backticks exist', dead_names(paths))
    tally.rule('each room has a short README', rooms())
    tally.rule('docs/README.md leads to every document', unfound())
    top = ['README.md', 'LICENSE', 'CONTRIBUTING.md', 'SECURITY.md', 'docs/architecture.md', 'docs/hacking.md']
    tally.rule('the top files are there', (f'{name} is missing' for name in top
                                           if not os.path.exists(os.path.join(common.root(), name))))
    tally.finish()


if __name__ == '__main__':
    main()
