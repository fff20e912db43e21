#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Turns the JSON rows of vgpu-bench into something to read.

  bench/report.py ROWS.jsonl... --html report.html   tables and plots in one file that loads nothing
  bench/report.py ROWS.jsonl... --csv rows.csv       one line a row, histograms left out
  bench/report.py ROWS.jsonl... --goals              goals and what was reached, as a Markdown table
  bench/report.py --goals-into docs/performance.md   goals of bench/goals.json and tables of bench/tables.json, from the rows in
                                                     bench/results/, between their marks in that file
  bench/report.py --goals-into FILE --check          says whether FILE has them as they would be now
"""
import argparse
import csv
import html
import json
import os
import sys

import goals
import plots

STYLE = '''
:root { color-scheme: light dark; --ink: #1c2330; --dim: #667085; --line: #d8dde6; --ground: #ffffff; --card: #f6f8fb;
  --good: #1f7a4d; --bad: #b3261e; --bar: #2a78d6 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --dim: #98a2b3; --line: #333b49; --ground: #12161d;
  --card: #1a202b; --good: #5cc98f; --bad: #ff8a80; --bar: #5b9ff0 } }
body { margin: 0 auto; max-width: 1080px; padding: 1.2rem; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif }
h1 { font-size: 1.5rem; margin: 0 0 .2rem } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem }
h3 { font-size: .95rem; margin: 1rem 0 .3rem; font-weight: 600 }
p, dl { color: var(--dim); margin: .2rem 0 } dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 .8rem }
dd { margin: 0; color: var(--ink) } .scroll { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100% }
th, td { text-align: right; padding: .22rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap }
th { color: var(--dim); font-weight: 500 } td:first-child, th:first-child, td.text, th.text { text-align: left }
td.bar { width: 30%; min-width: 6rem } td.bar div { background: var(--bar); height: .7rem; border-radius: 2px }
.alarm { border: 2px solid var(--bad); border-radius: 8px; padding: .5rem .8rem; margin: .8rem 0; color: var(--bad) }
.alarm ul { margin: .3rem 0; padding-left: 1.2rem } .noisy { color: var(--bad); font-size: .75rem }
.goals td:first-child, .goals td.text { white-space: normal }
.met { color: var(--good) } .missed { color: var(--bad); font-weight: 600 } .warn { color: var(--bad) }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); gap: 1rem }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .6rem }
figcaption { color: var(--dim); font-size: .85rem } svg { width: 100%; height: auto; display: block }
figure > div:first-child { overflow-x: auto } svg { min-width: 27rem } svg text { fill: var(--dim); font-size: 11px }
summary { cursor: pointer; color: var(--dim) }
@media (max-width: 640px) { body { padding: .8rem; font-size: 14px } th, td { padding: .2rem .35rem }
  td:first-child { white-space: normal; min-width: 7rem; overflow-wrap: anywhere }
  td.text { white-space: normal } .wide { display: none } td.bar { width: 18%; min-width: 3rem } }
.grid { stroke: var(--line) } .key { display: flex; flex-wrap: wrap;
  gap: .1rem .9rem; font-size: .82rem } .key span { white-space: nowrap } svg.mark { display: inline-block; width: 1.1rem;
  min-width: 0; height: .3rem; margin-right: .3rem; vertical-align: middle }
'''


def load(paths):
    rows = []
    for path in paths:
        with open(path, encoding='utf-8') as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                    row['bench'], row['subject'], row['params'], row['metric'], row['unit']
                except (ValueError, KeyError, TypeError) as error:
                    sys.exit(f'report: {path}:{number}: no row of a benchmark ({error!r}); expected what --json wrote')
                rows.append(row)
    if not rows:
        sys.exit('report: no rows in ' + ', '.join(paths))
    return rows


def words(params):
    return ', '.join(f'{k} {v:,}' if isinstance(v, int) and not isinstance(v, bool) else f'{k} {v}'
                     for k, v in params.items())


def number(value, unit=''):
    if value is None:
        return '–'
    for limit, letter in ((1e9, 'G'), (1e6, 'M'), (1e4, 'k')):
        if abs(value) >= limit and unit not in ('ns', 'us'):
            return f'{value / (1e3 if letter == "k" else limit):.4g} {letter}'
    return f'{value:,.0f}' if abs(value) >= 100 else f'{value:.3g}'


def noisy(row):
    """Others ran where it was measured; rows of before there was such a mark do not say."""
    return row.get('noise', {}).get('noisy', False)


def goals_of(rows):
    """(what, against, bound as text, reached, unit, verdict)"""
    for r in rows:
        if not r['bench'].endswith('.goal'):
            continue
        p, at_most = r['params'], 'at_most' in r['params']
        bound = p['at_most' if at_most else 'at_least']
        if not p.get('judged') or bound is None:
            verdict = 'not judged'
        else:
            verdict = 'met' if (r['value'] <= bound if at_most else r['value'] >= bound) else 'missed'
        limit = '–' if bound is None else f'{"≤" if at_most else "≥"} {bound:g}'
        yield r, p['against'], limit, verdict


def spread(row):
    return f'{number(row["min"], row["unit"])} … {number(row["max"], row["unit"])}' if row.get('reps', 1) > 1 else ''


def interval(row):
    """At least 95 % sure to hold the median; rows of before, and of few rounds, have none."""
    ends = row.get('ci95')
    return f'{number(ends[0], row["unit"])} … {number(ends[1], row["unit"])}' if ends else ''


def goals_markdown(rows):
    print('| what | goal | reached | |\n|---|---|---|---|')
    for r, against, limit, verdict in goals_of(rows):
        what = f'{r["subject"]} / {against}' if against else r['subject']
        between = f' ({spread(r)})' if spread(r) else ''
        print(f'| {what} | {limit} | {r["value"]:.3g}{between} | {"**missed**" if verdict == "missed" else verdict} |')


def rows_csv(rows, path):
    with open(path, 'w', newline='', encoding='utf-8') as out:
        table = csv.writer(out)
        table.writerow(['bench', 'subject', 'params', 'metric', 'value', 'min', 'max', 'unit', 'reps', 'noisy'])
        for r in rows:
            if r['metric'] != 'hist':
                table.writerow([r['bench'], r['subject'], json.dumps(r['params'], sort_keys=True), r['metric'], r['value'],
                                r['min'], r['max'], r['unit'], r['reps'], 'yes' if noisy(r) else 'no'])


# ---- HTML ----

def esc(text):
    return html.escape(str(text), quote=True)


def goals_html(rows):
    lines = []
    for r, against, limit, verdict in goals_of(rows):
        kind = verdict if verdict in ('met', 'missed') else ''
        lines.append(f'<tr><td>{esc(r["subject"])}</td><td class="text">{esc(against)}</td><td>{esc(limit)}</td>'
                     f'<td>{number(r["value"], r["unit"])}</td><td class="wide">{esc(interval(r) or spread(r))}</td>'
                     f'<td class="{kind}">{esc(verdict)}{NOISY_MARK if noisy(r) else ""}</td></tr>')
    if not lines:
        return ''
    return ('<h2>Goals</h2><div class="scroll"><table class="goals"><tr><th>what</th><th class="text">against</th><th>bound</th>'
            '<th>reached</th><th class="wide">95 %, or rounds</th><th></th></tr>' + ''.join(lines) +
            '</table></div>')


def table_html(group, title):
    """Rows of one metric under the same parameters, with bars against the largest."""
    top = max((r['value'] for r in group if r['value'] is not None), default=0) or 1
    lines = []
    for r in group:
        width = max(0.5, 100 * max(r['value'] or 0, 0) / top)
        lines.append(f'<tr><td>{esc(r["subject"])}</td><td>{number(r["value"], r["unit"])}</td><td>{esc(interval(r))}</td>'
                     f'<td class="wide">{esc(spread(r))}</td>'
                     f'<td class="bar"><div style="width:{width:.1f}%"></div></td></tr>')
    return (f'<h3>{esc(group[0]["metric"])}, {esc(group[0]["unit"] or "ratio")} <small>{esc(title)}</small></h3>'
            '<div class="scroll"><table><tr><th></th><th>median</th><th>95 %</th><th class="wide">rounds</th><th></th></tr>' +
            ''.join(lines) + '</table></div>')


def hist_groups(rows):
    """Subjects are compared under like conditions; what a floor lacks (attached, active) does not part it."""
    groups = {}
    for r in rows:
        if r['metric'] != 'hist':
            continue
        p = r['params']
        key = p.get('burst', ''), p.get('bytes', '')
        more = (f' ({p["attached"]} VMs)' if 'attached' in p else f' {p["rate"]:g} M/s' if 'rate' in p else
                f' ({p["clients"]} clients)' if 'clients' in p else '')
        groups.setdefault(key, []).append({**r, 'subject': r['subject'] + more})
    return groups


SPANS = {'seen': 'in the submission ring', 'validated': 'validation', 'queued': 'into the queue', 'dequeued': 'in the queue',
         'submitted': 'to the backend', 'device_start': 'before the device', 'device_end': 'on the device',
         'completed': 'to the completion ring', 'guest_seen': 'in the completion ring'}


def waterfall_plot(subject, burst, percentiles):
    """One percentile under the other, each as wide as its total: a bar for each hop, from where the one before ended."""
    left, right, high, y, body = 150, 590, 15, 14, []
    for percentile, values in percentiles.items():
        total, at = values.get('total'), 0.0
        hops = [h for h in SPANS if h in values]
        if not total or not hops:
            continue
        body.append(f'<text x="4" y="{y}" font-weight="600">{esc(percentile)}: {plots.time_label(float(f"{total:.3g}"))}</text>')
        y += 6
        for hop in hops:
            x, wide = left + (right - left) * min(at / total, 1), (right - left) * max(values[hop], 0) / total
            colour = plots.COLOURS[list(SPANS).index(hop) % len(plots.COLOURS)]
            label = f'{plots.time_label(float(f"{values[hop]:.3g}"))}, {100 * values[hop] / total:.0f} %'
            inside = x + wide + 110 > right
            body.append(f'<text x="{left - 6}" y="{y + 10}" text-anchor="end">{esc(SPANS[hop])}</text>'
                        f'<rect x="{x:.1f}" y="{y}" width="{max(wide, 0.7):.1f}" height="{high - 4}" rx="1.5" fill="{colour}">'
                        f'<title>until {esc(hop)}: {esc(label)}</title></rect>'
                        f'<text x="{(x - 4 if inside else x + wide + 4):.1f}" y="{y + 10}" '
                        f'text-anchor="{"end" if inside else "start"}">{esc(label)}</text>')
            at += values[hop]
            y += high
        y += 20
    if not body:
        return ''
    caption = f'{subject}, bursts of {burst}: mean of the descriptors next to each percentile, hop by hop'
    return (f'<figure><div><svg viewBox="0 0 600 {y - 8}" role="img" aria-label="{esc(caption)}">{"".join(body)}</svg></div>'
            f'<figcaption>{esc(caption)}</figcaption></figure>')


def waterfalls_html(rows):
    groups = {}
    for r in rows:
        if r.get('value') is not None and 'percentile' in r['params']:
            key = (r['subject'], r['params'].get('burst', ''))
            groups.setdefault(key, {}).setdefault(r['params']['percentile'], {})[r['metric']] = r['value']
    drawn = ''.join(waterfall_plot(subject, burst, p) for (subject, burst), p in groups.items())
    return f'<h2>Where the time goes</h2><div class="plots">{drawn}</div>' if drawn else ''


def bench_html(name, rows):
    """Tables by metric and parameters; curves where there are histograms; lines where the number of VMs changes."""
    drawn, groups = [], {}
    for r in rows:
        if r['metric'] != 'hist':
            groups.setdefault((r['metric'], json.dumps(r['params'], sort_keys=True)), []).append(r)
    tables = [table_html(group, words(group[0]['params'])) for group in groups.values()]
    for (_, size), group in hist_groups(rows).items():
        of = f'{name}, {size} bytes' if size != '' else name
        drawn.append(plots.percentiles(group, f'{of}: latency by percentile, all rounds together'))
        drawn.append(plots.cumulative(group, f'{of}: share of all that took no longer'))
    drawn += plots.against_vms(name, rows)
    drawn = ''.join(p for p in drawn if p)
    mark = NOISY_MARK if any(noisy(r) for r in rows) else ''
    return (f'<h2>{esc(name)}{mark}</h2>' + (f'<div class="plots">{drawn}</div>' if drawn else '') +
            f'<details{"" if drawn else " open"}><summary>tables</summary>{"".join(tables)}</details>')


def host_html(rows):
    seen, parts = set(), []
    for r in rows:
        text = json.dumps(r.get('host', {}), sort_keys=True)
        if text in seen:
            continue
        seen.add(text)
        facts = ''.join(f'<dt>{esc(k)}</dt><dd>{esc(v if not isinstance(v, list) else ", ".join(map(str, v)))}</dd>'
                        for k, v in r.get('host', {}).items())
        load = r.get('host', {}).get('load', 0)
        busy = '<p class="warn">The machine was busy when this started: trust ratios, not times.</p>' if load > 1 else ''
        parts.append(f'<dl>{facts}</dl>{busy}')
    more = '<p class="warn">Rows of several machines or runs: nothing is compared across them.</p>' if len(seen) > 1 else ''
    return '<details><summary>machine</summary>' + '<hr>'.join(parts) + '</details>' + more


NOISY_MARK = ' <strong class="noisy">NOISY</strong>'


def noise_html(rows):
    """On top of all, in plain sight: what was measured while others ran on the same cores, and how much of them there was."""
    found = {}
    for r in rows:
        if noisy(r):
            found.setdefault(json.dumps(r['noise'], sort_keys=True), set()).add(r['bench'].split('.')[0])
    if not found:
        return ''
    lines = []
    for text, suites in found.items():
        facts = ', '.join(f'{k.replace("_", " ")} {number(v)}' for k, v in json.loads(text).items() if k != 'noisy' and v)
        lines.append(f'<li>{esc(", ".join(sorted(suites)))}: {esc(facts)}</li>')
    return ('<div class="alarm"><strong>NOISY HOST.</strong> Others ran on the cores while this was measured: ratios are '
            f'doubtful, times worthless, and nothing here is a basis for a comparison.<ul>{"".join(lines)}</ul></div>')


def report_html(rows, path):
    benches = {}
    for r in rows:
        if not r['bench'].endswith('.goal'):
            benches.setdefault(r['bench'], []).append(r)
    body = waterfalls_html(benches.get('hops.until', []))
    body += ''.join(bench_html(name, group) for name, group in benches.items())
    text = (f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>vgpu-bench</title>'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head><body>'
            f'<h1>vgpu-bench</h1><p>What is compared ran interleaved in one run. Values are medians over rounds; only ratios '
            f'within a run mean something.</p>{noise_html(rows)}{host_html(rows)}{goals_html(rows)}{body}</body></html>\n')
    with open(path, 'w', encoding='utf-8') as out:
        out.write(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('rows', nargs='*', metavar='ROWS.jsonl')
    parser.add_argument('--html', metavar='FILE')
    parser.add_argument('--csv', metavar='FILE')
    parser.add_argument('--goals', action='store_true')
    parser.add_argument('--goals-into', metavar='FILE')
    parser.add_argument('--check', action='store_true')
    parser.add_argument('--results', metavar='FOLDER', default=os.path.dirname(os.path.abspath(__file__)),
                        help='where goals.json and results/ are')
    args = parser.parse_args()
    if args.goals_into:
        try:
            same = goals.block_put(args.goals_into, args.results, args.check)
        except (goals.Missing, OSError, ValueError, KeyError) as error:
            sys.exit(f'report: {error}')
        if not same:
            sys.exit(f'report: goals or tables in {args.goals_into} are not those of bench/results; run this without --check')
        return
    if not args.rows:
        parser.error('no rows: give files that --json wrote')
    if not (args.html or args.csv or args.goals):
        parser.error('nothing to make: --html, --csv or --goals')
    rows = load(args.rows)
    if args.goals:
        goals_markdown(rows)
    if args.csv:
        rows_csv(rows, args.csv)
    if args.html:
        report_html(rows, args.html)


if __name__ == '__main__':
    main()
