#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""bench/report.py: rows in, a report that loads nothing, shows what is in them, and lets nothing in them become HTML."""
import html.parser
import json
import os
import subprocess
import sys
import tempfile

HOST = {'cpu': '<script>x</script>', 'cpus': 2, 'load': 3.0}
ROWS = [
    {'bench': 'made.rtt', 'subject': 'one & <b>', 'params': {'burst': 1}, 'metric': 'p50', 'value': 120.0, 'min': 119.0,
     'max': 121.0, 'unit': 'ns', 'reps': 3, 'host': HOST},
    {'bench': 'made.rtt', 'subject': 'one & <b>', 'params': {'burst': 1}, 'metric': 'hist', 'unit': 'ns', 'count': 1000,
     'max': 9000.0, 'buckets': [[100.0, 500], [120.0, 490], [3000.0, 9], [8999.0, 1]], 'host': HOST},
    {'bench': 'made.goal', 'subject': 'fast', 'params': {'against': 'floor', 'at_most': 1.5, 'judged': True}, 'metric': 'ratio',
     'value': 1.7, 'min': 1.6, 'max': 1.8, 'unit': '', 'reps': 3, 'host': HOST},
    {'bench': 'made.goal', 'subject': 'large', 'params': {'against': '', 'at_least': 2, 'judged': True}, 'metric': 'value',
     'value': 3, 'min': 3, 'max': 3, 'unit': 'M/s', 'reps': 1, 'host': HOST},
] + [
    {'bench': 'hops.until', 'subject': 'a <i>', 'params': {'burst': 1, 'percentile': 'p99'}, 'metric': metric, 'value': value,
     'min': value, 'max': value, 'unit': 'ns', 'reps': 1, 'host': HOST}
    for metric, value in (('total', 400.0), ('seen', 100.0), ('dequeued', 0.0), ('completed', 300.0))
]


class Page(html.parser.HTMLParser):
    """What a browser would load or run, tags that are left open, and the text."""
    EMPTY = {'meta', 'hr', 'br', 'line', 'link', 'img'}

    def __init__(self):
        super().__init__()
        self.bars = []
        self.loads, self.open, self.text, self.tags = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == 'rect':
            self.bars.append({k: float(v) for k, v in attrs if k in ('x', 'width')})
        self.loads += [f'{tag} {k}={v}' for k, v in attrs if k in ('src', 'href', 'srcset', 'data') or k.startswith('on')]
        if tag in ('script', 'link', 'iframe', 'img'):
            self.loads.append(tag)
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()
        else:
            self.open.append('/' + tag)

    def handle_data(self, data):
        self.text.append(data)


def run(program, rows, *options):
    with tempfile.TemporaryDirectory() as directory:
        path, page, table = (os.path.join(directory, n) for n in ('rows', 'page.html', 'rows.csv'))
        with open(path, 'w', encoding='utf-8') as out:
            out.write(rows)
        done = subprocess.run([sys.executable, program, path, *(o.format(page=page, table=table) for o in options)],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        made = {}
        for name in (page, table):
            if os.path.exists(name):
                with open(name, encoding='utf-8') as text:
                    made[os.path.basename(name)] = text.read()
        return done.returncode, done.stdout + done.stderr, made


def goals_block(program):
    """The committed table is that of the committed rows; an edit by hand, a bound that moved and a row that is gone are found."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(program)))
    document, bench = os.path.join(root, 'docs', 'performance.md'), os.path.join(root, 'bench')

    def check(path, folder):
        done = subprocess.run([sys.executable, program, '--goals-into', path, '--check', '--results', folder],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stderr
    with open(document, encoding='utf-8') as text:
        committed = text.read()
    with open(os.path.join(bench, 'goals.json'), encoding='utf-8') as text:
        spec = json.load(text)
    found = [('the goals in docs/performance.md are those of the committed rows', check(document, bench)[0] == 0)]
    tuning = os.path.join(root, 'docs', 'tuning.md')
    found.append(('the tables in docs/tuning.md are those of the committed rows', check(tuning, bench)[0] == 0))
    with tempfile.TemporaryDirectory() as directory:
        edited = os.path.join(directory, 'edited.md')
        with open(tuning, encoding='utf-8') as text, open(edited, 'w', encoding='utf-8') as out:
            changed = text.read()
            at = changed.index('<!-- table engines')
            out.write(changed[:at] + changed[at:].replace('`auto`', '`other`', 1))
        code, said = check(edited, bench)
        found.append(('a table that somebody changed is found', code == 1 and 'not those of' in said))
        with open(edited, 'w', encoding='utf-8') as out:
            out.write('nothing\n')
        code, said = check(edited, bench)
        found.append(('a document without marks is refused', code == 1 and 'no marks' in said))
        with open(edited, 'w', encoding='utf-8') as out:
            out.write(committed.replace('**missed**', 'met', 1))
        code, said = check(edited, bench)
        found.append(('a verdict that somebody changed is found', code == 1 and 'not those of' in said))
        os.symlink(os.path.join(bench, 'results'), os.path.join(directory, 'results'))
        os.symlink(os.path.join(bench, 'tables.json'), os.path.join(directory, 'tables.json'))
        for what, change in (('a bound that moved is found', {'at_most': 1.36}), ('a row that is gone is said', {'ours': [
                'rings.rtt', 'nobody', {}, 'p50']})):
            other = [{**spec[0], 'goals': [{**spec[0]['goals'][0], **change}, *spec[0]['goals'][1:]]}, *spec[1:]]
            with open(os.path.join(directory, 'goals.json'), 'w', encoding='utf-8') as out:
                json.dump(other, out)
            code, said = check(document, directory)
            found.append((what, code == 1 and ('nobody' in said or 'ours' not in change)))
    return found


def main():
    program, failed, number = sys.argv[1], 0, 0
    rows = ''.join(json.dumps(r) + '\n' for r in ROWS)
    code, text, made = run(program, rows, '--html', '{page}', '--csv', '{table}', '--goals')
    page = Page()
    page.feed(made.get('page.html', ''))
    shown = ' '.join(page.text)
    checks = [
        ('it ends well', code == 0),
        ('nothing is loaded or run', not page.loads and 'http' not in made.get('page.html', '')),
        ('every tag is closed', not page.open),
        ('what rows say stays text', 'script' not in page.tags and 'one & <b>' in shown),
        ('latencies are drawn', 'polyline' in page.tags),
        ('a missed goal is missed', 'missed' in shown and '**missed**' in text),
        ('a goal that is a number is met', '| large | ≥ 2 | 3 | met |' in text),
        ('a busy machine is said to be', 'busy' in shown),
        ('CSV has a line a row but histograms', len(made.get('rows.csv', '').splitlines()) == len(ROWS)),
        ('a waterfall has a bar for each hop, one behind the other, as wide as its share', [
            (round(b['x']), round(b['width'])) for b in page.bars] == [(150, 110), (260, 1), (260, 330)]),
    ]
    beside = {'noisy': True, 'involuntary_switches_per_s': 91.0, 'migrations': 0}
    marked = [{**r, 'noise': beside} if r['metric'] != 'hist' else r for r in ROWS]
    code, text, made = run(program, ''.join(json.dumps(r) + '\n' for r in marked), '--html', '{page}', '--csv', '{table}')
    page = made['page.html']
    checks.append(('a noisy run is marked on top of the page, in plain sight',
                   0 < page.find('NOISY HOST') < page.find('<details>') and 'involuntary switches per s 91' in page and
                   page.count('class="noisy"') >= 4))
    checks.append(('a noisy run is marked in CSV', all(',yes' in line for line in made['rows.csv'].splitlines()[1:])))
    code, text, made = run(program, rows, '--html', '{page}', '--csv', '{table}')
    checks.append(('a quiet run has no mark', 'NOISY' not in made['page.html'] and ',yes' not in made['rows.csv']))
    code, text, _ = run(program, rows + 'junk\n', '--goals')
    checks.append(('a line that is no row is named', code == 1 and f':{len(ROWS) + 1}:' in text))
    code, text, _ = run(program, '', '--goals')
    checks.append(('a file without rows is refused', code == 1 and 'no rows' in text))
    checks += goals_block(program)
    print(f'1..{len(checks)}')
    for number, (what, ok) in enumerate(checks, 1):
        failed += not ok
        print(f'{"ok" if ok else "not ok"} {number} {what}')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
