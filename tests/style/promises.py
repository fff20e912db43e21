# SPDX-License-Identifier: Apache-2.0
"""docs/threat-model.md links each promise to a test: what a row names is there. The same for docs/reliability.md."""
import os
import re

import common

MODEL, PAGE = 'docs/threat-model.md', 'docs/reliability.md'
SPAN = re.compile(r'`([^`]+)`')
SUITE = re.compile(r'\bsuites? ((?:`?[a-z-]+`?(?:, | and )?)+)')
# A test's file and, behind it, functions or cases in it: `tests/a.c` one, two
FILE = re.compile(r'`(?:tests/)?([\w/-]+\.(?:c|py|pml))`((?:,? \w*_\w+)*)')


def text(path):
    return '\n'.join(common.lines(path))


def table(path, heading):
    """(line number, cells) of the first table below the heading, without its head."""
    found, rows = False, []
    for number, line in enumerate(common.lines(path), 1):
        if line.startswith('#'):
            if found:
                break
            found = line.lstrip('# ') == heading
        elif found and line.startswith('|'):
            rows.append((number, [cell.strip() for cell in line.strip().strip('|').split('|')]))
        elif rows:
            break
    return rows[2:]


class Tests:
    """What there is to be named."""

    def __init__(self):
        self.files = {path for path in common.files('.c', '.py', '.pml') if path.startswith('tests/')}
        mesons = '\n'.join(text(path) for path in common.files('meson.build') if path.startswith('tests/'))
        self.mesons = mesons
        self.suites = set(re.findall(r"suite: *\[?'([\w-]+)'", mesons))
        self.suites |= set(re.findall(r"^    '([\w-]+)': {\*\*", text('scripts/special.py'), re.M))
        self.suites |= {'coverage'}
        self.names = set(re.findall(r"test\('([\w-]+)'", mesons))
        self.mutants = set(re.findall(r"^    \('([\w-]+)'", text('tests/mutants/table.py'), re.M))
        self.steps = set(re.findall(r'^    X\((\w+)\)', text('tests/fault/hostile.h'), re.M))
        self.targets = {os.path.basename(path)[:-len('_fuzz.c')] for path in self.files if path.endswith('_fuzz.c')}

    def file(self, name):
        """A full path, or one that says enough: rules.c"""
        if 'tests/' + name in self.files:
            return 'tests/' + name
        found = [path for path in self.files if path.endswith('/' + name)]
        return found[0] if len(found) == 1 else None

    def runs(self, path):
        """Is it of a test that some meson.build registers, by its file's name or what comes before _test?"""
        stem = os.path.splitext(os.path.basename(path))[0]
        names = {os.path.basename(path), stem, re.sub(r'_(test|fuzz)$', '', stem)}
        if path.endswith(('.py', '.pml')) or any(re.search(rf"['/]{re.escape(name)}'", self.mesons) for name in names):
            return True
        for template in re.findall(r"'([\w.-]*@0@[\w.-]*)'", self.mesons):
            value = re.fullmatch(re.escape(template).replace('@0@', r'(\w+)'), os.path.basename(path))
            if value and f"'{value[1]}'" in self.mesons:
                return True
        return False

    def span(self, span):
        """False: nothing of this name can be run."""
        if span.endswith('*'):
            return any(name.startswith(span[:-1]) for name in self.mutants)
        return (span in self.mutants or span in self.steps or span in self.suites or span in self.names
                or span in self.targets or span.replace('fuzz-', '') in self.targets)


def unknown(tests, number, cell, page=MODEL):
    for name, cases in FILE.findall(cell):
        path = tests.file(name)
        if not path:
            yield f'{page}:{number}: there is no test {name}'
            continue
        if not tests.runs(path):
            yield f'{page}:{number}: {path} is run by nothing'
        for case in re.findall(r'\w+', cases):
            if not re.search(rf'\b{case}\b', text(path)):
                yield f'{page}:{number}: {path} has no {case}'
    for found in SUITE.findall(cell):
        for suite in re.findall(r'[a-z-]+', re.sub(r'\band\b', '', found)):
            if suite not in tests.suites:
                yield f'{page}:{number}: there is no suite {suite}'
    for span in SPAN.findall(cell):
        if re.fullmatch(r'[a-z][\w-]*\*?', span) and not tests.span(span):
            yield f'{page}:{number}: `{span}` is no mutant, step of a hostile guest, fuzz target, suite or test'


def promises(tests):
    rows = table(MODEL, 'Boundaries and what each promises')
    if len(rows) < 20:
        yield f'{MODEL}: only {len(rows)} promises were found'
    for number, cells in rows:
        if len(cells) != 4:
            yield f'{MODEL}:{number}: {len(cells)} cells, expected boundary, promise, by, test'
        elif not (FILE.search(cells[3]) or SUITE.search(cells[3]) or SPAN.search(cells[3])):
            yield f'{MODEL}:{number}: no test is named that would notice'
        else:
            yield from unknown(tests, number, cells[3])


def advisories(tests):
    """What is said of others' holes: mutants and tests by name."""
    for number, cells in table(MODEL, 'Holes that others had, and where each would have stopped here'):
        for word, spans in re.findall(r'(mutants?|steps?) ((?:`[^`]+`(?:, )?)+)', cells[2]):
            for span in SPAN.findall(spans):
                if not tests.span(span):
                    yield f'{MODEL}:{number}: there is no {word.rstrip("s")} {span}'
        for name, _ in FILE.findall(cells[2]):
            if not name.startswith('rings/') and not tests.file(name):
                yield f'{MODEL}:{number}: there is no test {name}'


def reliability(tests):
    rows = table(PAGE, 'What is tried')
    named = {span for _, cells in rows for span in SPAN.findall(cells[0] + cells[3])}
    for span in sorted(named - tests.suites):
        yield f'{PAGE}: there is no suite {span}'
    for suite in ('hostile', 'fuzz', 'kill', 'mutants', 'coverage', 'soak', 'model'):
        if suite not in named:
            yield f'{PAGE}: suite {suite} is not in the table of what is tried'
    for number, cells in table(PAGE, 'What a hostile guest does'):
        for span in SPAN.findall(cells[1]):
            if not tests.span(span) and span != 'rules':
                yield f'{PAGE}:{number}: a hostile guest has no step {span}'


def corpora(tests):
    for target in sorted(tests.targets):
        folder = os.path.join(common.root(), 'tests/fuzz/corpus', target)
        if not os.path.isdir(folder) or not os.listdir(folder):
            yield f'tests/fuzz/{target}_fuzz.c: no seeds in tests/fuzz/corpus/{target}'
        if 'fuzz-' + target not in tests.names and f"'{target}'" not in text('tests/fuzz/meson.build'):
            yield f'tests/fuzz/{target}_fuzz.c is not run'


def blind(tests):
    """Would a dead link be seen?"""
    tests.files.add('tests/fault/nobody_runs_this.c')
    for cell in ('`tests/fault/no_such.c`', '`tests/fault/nobody_runs_this.c`',
                 '`tests/fault/rules.c` no_such_case', 'suite nothing', 'mutant `no-such`'):
        if not list(unknown(tests, 0, cell)):
            yield f'"{cell}" was taken for a test'


def main():
    tally, tests = common.Tally(), Tests()
    tally.rule('each promise of the threat model names a test that is there', promises(tests))
    tally.rule('what is said of others\' holes names tests that are there', advisories(tests))
    tally.rule('suites and steps of reliability.md are there', reliability(tests))
    tally.rule('each fuzz target is run, and has seeds', corpora(tests))
    tally.rule('a test that is not there is noticed', blind(tests))
    tally.finish()


if __name__ == '__main__':
    main()
