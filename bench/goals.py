# SPDX-License-Identifier: Apache-2.0
"""The goals' table at the top of docs/performance.md, made of committed rows.

bench/goals.json lists what was promised, in order, and where the figures lie: two rows of one run whose ratio is meant
("ours", "other"; ours alone is a value), or the rows of goals that a run judged itself ("judged": words that their names
contain). A row is [bench, subject, parameters, metric]; parameters need only be a part of the row's.
"""
import json
import os
import statistics
import sys

import tables

BEGIN = '<!-- goals: made by `python3 bench/report.py --goals-into docs/performance.md`; change bench/goals.json instead -->'
END = '<!-- end of goals -->'


class Missing(Exception):
    pass


def rows_of(folder, name, cache):
    if name not in cache:
        with open(os.path.join(folder, 'results', name), encoding='utf-8') as lines:
            cache[name] = [json.loads(line) for line in lines if line.strip()]
    return cache[name]


def find(rows, name, want):
    bench, subject, params, metric = want
    found = [r for r in rows if (r['bench'], r['subject'], r['metric']) == (bench, subject, metric) and
             all(r['params'].get(k) == v for k, v in params.items())]
    if len(found) != 1:
        raise Missing(f'{name}: {len(found)} rows are {want}')
    return found[0]


def rounds(row):
    """By round; rows of before there were rounds have one value."""
    return row.get('values') or [row['value']]


def noisy(row):
    return row.get('noise', {}).get('noisy', False)


def reached(rows, name, goal):
    """(value, lowest, highest, rounds, noisy) of the ratio round by round, or of ours alone."""
    ours = find(rows, name, goal['ours'])
    values = rounds(ours)
    if 'other' in goal:
        other = rounds(find(rows, name, goal['other']))
        if len(values) != len(other):
            raise Missing(f'{name}: {goal["what"]}: the sides have not as many rounds')
        values = [a / b for a, b in zip(values, other) if a is not None and b]
    values = [v * goal.get('scale', 1) for v in values if v is not None]
    return statistics.median(values), min(values), max(values), len(values), noisy(ours)


def number(value):
    return f'{value:.0f}' if abs(value) >= 100 else f'{value:.3g}'


def line(what, against, at_most, bound, found, machine):
    value, low, high, count, others_ran = found
    met = value <= bound if at_most else value >= bound
    between = f' ({number(low)} to {number(high)})' if count > 1 and number(low) != number(high) else ''
    return met, (f'| {what} | {against or "–"} | {"≤" if at_most else "≥"} {bound:g} | {number(value)}{between} | {machine} | '
                 f'{"met" if met else "**missed**"}{" (noisy run)" if others_ran else ""} |')


def judged_lines(rows, part, machine):
    for r in rows:
        if r['bench'].endswith('.goal') and all(w in r['subject'] for w in part['judged']) and r['params'].get('judged'):
            at_most = 'at_most' in r['params']
            bound = r['params']['at_most' if at_most else 'at_least']
            found = (r['value'], r['min'], r['max'], r.get('reps', 1), noisy(r))
            yield line(r['subject'], r['params']['against'], at_most, bound, found, machine)


def table(folder):
    with open(os.path.join(folder, 'goals.json'), encoding='utf-8') as text:
        spec = json.load(text)
    cache, lines = {}, []
    for part in spec:
        rows, name, machine = rows_of(folder, part['file'], cache), part['file'], part['machine']
        if 'judged' in part:
            found = list(judged_lines(rows, part, machine))
            if not found:
                raise Missing(f'{name}: no goal of it has {part["judged"]} in its name')
            lines += found
        for goal in part.get('goals', []):
            at_most = 'at_most' in goal
            lines.append(line(goal['what'], goal.get('against', ''), at_most, goal['at_most' if at_most else 'at_least'],
                              reached(rows, name, goal), machine))
    met, loud = sum(m for m, _ in lines), sum('(noisy run)' in text for _, text in lines)
    return [f'{met} of {len(lines)} met. Values are medians over rounds, in brackets the extremes; a ratio is taken round by '
            f'round within one run.{f" {loud} are of a run that was marked as noisy." if loud else ""}', '',
            '| what | against | goal | reached | machine | |', '|---|---|---|---|---|---|', *(text for _, text in lines)]


def block_put(path, folder, check):
    """Writes the tables between their marks; with check only says whether they are there already."""
    with open(path, encoding='utf-8') as text:
        before = text.read()
    after, cache = before, {}
    if before.count(BEGIN) > 1 or before.count(BEGIN) != before.count(END):
        raise Missing(f'{path}: the marks "{BEGIN}" and "{END}" must each be there once')
    if BEGIN in before:
        head, rest = before.split(BEGIN)
        after = head + BEGIN + '\n' + '\n'.join(table(folder)) + '\n' + END + rest.split(END)[1]
    elif not tables.MARK.search(before):
        raise Missing(f'{path}: it has no marks between which a table would be')
    after = tables.put(sys.modules[__name__], after, folder, cache)
    if check:
        return before == after
    with open(path, 'w', encoding='utf-8') as out:
        out.write(after)
    return True
