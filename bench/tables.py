# SPDX-License-Identifier: Apache-2.0
"""Tables in docs/*.md that are made of committed rows, like that of the goals (goals.py).

bench/tables.json has by name: columns, each with a heading and a file of bench/results, and rows, each with what it says on its
left and a row of that file, [bench, subject, parameters, metric]. A column may say subject, metric or parameters instead of the
row's, and "over": the same once more for what its value is divided by, round by round. In a document a table lies between two
marks, which name it.
"""
import json
import os
import re
import statistics

MARK = re.compile(r'(<!-- table ([a-z-]+): made by `python3 bench/report\.py --goals-into [\w/.]+`; '
                  r'change bench/tables\.json instead -->\n)(.*?)(<!-- end of table -->)', re.S)


def with_changes(row, change):
    bench, subject, params, metric = row
    return [bench, change.get('subject', subject), {**params, **change.get('params', {})}, change.get('metric', metric)]


def cell(goals, folder, cache, row, column):
    rows = goals.rows_of(folder, column['file'], cache)
    found = goals.find(rows, column['file'], with_changes(row, column))
    values = [v for v in goals.rounds(found) if v is not None]
    if 'over' in column:
        other = goals.rounds(goals.find(rows, column['file'], with_changes(row, column['over'])))
        values = [a / b for a, b in zip(goals.rounds(found), other) if a is not None and b]
    return goals.number(statistics.median(values))


def made(goals, folder, name, cache):
    with open(os.path.join(folder, 'tables.json'), encoding='utf-8') as text:
        spec = json.load(text)
    if name not in spec:
        raise goals.Missing(f'tables.json has no table {name}')
    columns, lines = spec[name]['columns'], []
    for row in spec[name]['rows']:
        cells = [cell(goals, folder, cache, row['row'], column) for column in columns]
        lines.append(f'| {row["what"]} | ' + ' | '.join(cells) + ' |')
    heading = '| | ' + ' | '.join(c['heading'] for c in columns) + ' |'
    return '\n'.join([heading, '|---' * (len(columns) + 1) + '|', *lines]) + '\n'


def put(goals, text, folder, cache):
    """The text with each table as it would be now."""
    return MARK.sub(lambda m: m.group(1) + made(goals, folder, m.group(2), cache) + m.group(4), text)
