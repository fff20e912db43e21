# SPDX-License-Identifier: Apache-2.0
"""Files and functions stay short enough to be read in one go."""
import ast
import os

import common

FILE_WANTED, FILE_MAX = 800, 1000
FUNCTION_WANTED, FUNCTION_MAX = 70, 120


def c_functions(path):
    """(name, first line, lines): a body starts with a brace alone in column 0 and ends likewise."""
    text = common.lines(path)
    start = None
    for number, line in enumerate(text, 1):
        if line == '{':
            start = number
        elif start and line.startswith('}'):
            head = text[max(0, start - 4):start - 1]
            named = [part for part in head if part and not part[0].isspace() and '(' in part]
            name = named[-1].split('(')[0].split()[-1].lstrip('*') if named else '?'
            yield name, start, number - start + 1
            start = None


def python_functions(path):
    with open(os.path.join(common.root(), path), encoding='utf-8') as source:
        tree = ast.parse(source.read(), path)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name, node.lineno, node.end_lineno - node.lineno + 1


def main():
    tally = common.Tally()
    sources = common.files('.c', '.h', '.cu', '.cpp', '.py', '.sh')
    too_long, notes = [], []
    for path in sources:
        count = len(common.lines(path))
        (too_long if count > FILE_MAX else notes if count > FILE_WANTED else []).append(f'{path}: {count} lines')
    tally.rule(f'no file over {FILE_MAX} lines (wanted: {FILE_WANTED})', too_long)
    long_functions, seen = [], 0
    for path in sources:
        reader = python_functions if path.endswith('.py') else None if path.endswith('.sh') else c_functions
        for name, line, count in reader(path) if reader else ():
            seen += 1
            (long_functions if count > FUNCTION_MAX else notes if count > FUNCTION_WANTED else []).append(
                f'{path}:{line}: {name}() has {count} lines')
    tally.rule(f'no function over {FUNCTION_MAX} lines (wanted: {FUNCTION_WANTED})', long_functions)
    tally.rule('functions were found', [] if seen > 50 else [f'only {seen} under {common.root()}'])
    for note in notes:
        print(f'     longer than wanted: {note}')
    tally.finish()


if __name__ == '__main__':
    main()
