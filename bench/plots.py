# SPDX-License-Identifier: Apache-2.0
"""The report's plots, as SVG: percentile curves, cumulative distributions, and figures against the number of VMs."""
import html
import json
import math

COLOURS = ('#2a78d6', '#d9622b', '#1f9d6b', '#b3489b', '#8a6d1d', '#5b5fd0', '#c43d4b', '#4b8a9c',
           '#77933c', '#8d6e63', '#00897b', '#6d4c41')
DASHES = ('', '6 3', '2 3')  # when colours begin again
LEFT, RIGHT, TOP, BOTTOM = 52, 580, 12, 250


def esc(text):
    return html.escape(str(text), quote=True)


class Axis:
    """Decades of a logarithmic axis between two pixels."""

    def __init__(self, low, high, start, end):
        self.low, self.high = math.floor(math.log10(low)), math.ceil(math.log10(high))
        if self.low == self.high:
            self.high += 1
        self.start, self.end = start, end

    def at(self, value):
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def decades(self):
        return [10.0 ** d for d in range(self.low, math.floor(self.high) + 1)]


class Linear:
    """From 0 to 1."""

    def at(self, value):
        return BOTTOM + value * (TOP - BOTTOM)


def style(i):
    dash = DASHES[i // len(COLOURS) % len(DASHES)]
    return f'stroke="{COLOURS[i % len(COLOURS)]}"' + (f' stroke-dasharray="{dash}"' if dash else '')


def thinned(points, most=400):
    step = max(1, len(points) // most)
    return points[::step] + ([points[-1]] if (len(points) - 1) % step else [])


def across(y, label):
    return (f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')


def upright(x, label):
    return (f'<line class="grid" y1="{TOP}" y2="{BOTTOM}" x1="{x:.1f}" x2="{x:.1f}"/>'
            f'<text x="{x:.1f}" y="{BOTTOM + 16}" text-anchor="middle">{label}</text>')


def figure(grid, curves, caption):
    """curves: [(name, [(x, y) in pixels])]"""
    lines = []
    for i, (name, points) in enumerate(curves):
        path = ' '.join(f'{x:.1f},{y:.1f}' for x, y in thinned(points))
        lines.append(f'<polyline fill="none" {style(i)} stroke-width="1.8" points="{path}"><title>{esc(name)}</title></polyline>')
    key = ''.join(f'<span><svg class="mark" viewBox="0 0 18 4"><line x1="0" x2="18" y1="2" y2="2" {style(i)} stroke-width="3"/>'
                  f'</svg>{esc(name)}</span>' for i, (name, _) in enumerate(curves))
    return (f'<figure><div><svg viewBox="0 0 610 275" role="img" aria-label="{esc(caption)}">{grid}{"".join(lines)}</svg></div>'
            f'<div class="key">{key}</div><figcaption>{esc(caption)}</figcaption></figure>')


def time_label(ns):
    for limit, unit in ((1e9, 's'), (1e6, 'ms'), (1e3, 'µs')):
        if ns >= limit:
            return f'{ns / limit:g} {unit}'
    return f'{ns:g} ns'


def shares(hist):
    """(share of all readings that are larger, latency), bucket by bucket."""
    total, seen, points = hist['count'], 0, []
    for lower, count in hist['buckets']:
        seen += count
        points.append(((total - seen) / total, max(lower, 0.1)))
    return points


def percentiles(hists, caption):
    """Latency against percentile from the median on, both axes logarithmic, one line a subject."""
    curves = []
    for h in hists:
        points = [(max(above, 1 / h['count']), ns) for above, ns in shares(h) if above <= 0.5] if h['count'] > 1 else []
        if points:
            curves.append((h['subject'], points))
    if not curves:
        return ''
    every = [p for _, points in curves for p in points]
    x = Axis(min(a for a, _ in every), 0.5, RIGHT, LEFT)
    x.high = math.log10(0.5)
    y = Axis(min(v for _, v in every), max(v for _, v in every), BOTTOM, TOP)
    grid = ''.join(across(y.at(v), time_label(v)) for v in y.decades())
    for d in range(math.floor(x.high), x.low - 1, -1):
        grid += upright(x.at(10.0 ** d), f'{100 * (1 - 10.0 ** d):.{max(0, -d - 2)}f} %')
    return figure(grid, [(name, [(x.at(a), y.at(v)) for a, v in points]) for name, points in curves], caption)


def cumulative(hists, caption):
    """Share of readings up to a latency, the latency's axis logarithmic."""
    curves = [(h['subject'], [(v, 1 - above) for above, v in shares(h)]) for h in hists if h['count'] > 1]
    if not curves:
        return ''
    # To where all but one in a thousand are: a single interruption would squeeze everything else to the left.
    low = min(points[0][0] for _, points in curves)
    high = max(next((v for v, share in points if share >= 0.999), points[-1][0]) for _, points in curves)
    x, y = Axis(low, max(high, low * 1.01), LEFT, RIGHT), Linear()
    grid = ''.join(across(y.at(v), f'{100 * v:g} %') for v in (0, 0.25, 0.5, 0.75, 1))
    grid += ''.join(upright(x.at(v), time_label(v)) for v in x.decades())
    limit = 10.0 ** x.high
    drawn = [(name, [(x.at(points[0][0]), y.at(0))] + [(x.at(v), y.at(share)) for v, share in points if v <= limit])
             for name, points in curves]
    return figure(grid, drawn, caption)


def number_label(value):
    for limit, letter in ((1e9, ' G'), (1e6, ' M'), (1e3, ' k')):
        if value >= limit:
            return f'{value / limit:g}{letter}'
    return f'{value:g}'


def against_vms(name, rows):
    """Where the number of VMs changes and nothing else does: the metric against it, both axes logarithmic."""
    lines = {}
    for r in rows:
        count = r['params'].get('attached', r['params'].get('vms'))
        if r['metric'] in ('hist', 'max', 'mean') or not count or not r['value'] or r['value'] <= 0:
            continue
        rest = {k: v for k, v in r['params'].items() if k not in ('attached', 'vms')}
        if rest.get('active') == count:
            rest['active'] = 'all'
        what = r['subject'] + (f', {rest.pop("active")} sending' if 'active' in rest else '')
        key = r['metric'], r['unit'], json.dumps(rest, sort_keys=True)
        lines.setdefault(key, {}).setdefault(what, {})[count] = r['value']
    found = []
    for (metric, unit, _), subjects in lines.items():
        curves = [(what, sorted(points.items())) for what, points in subjects.items() if len(points) >= 3]
        if not curves:
            continue
        every = [p for _, points in curves for p in points]
        x = Axis(min(n for n, _ in every), max(n for n, _ in every), LEFT, RIGHT)
        y = Axis(min(v for _, v in every), max(v for _, v in every), BOTTOM, TOP)
        grid = ''.join(across(y.at(v), number_label(v)) for v in y.decades())
        grid += ''.join(upright(x.at(v), number_label(v)) for v in x.decades())
        found.append(figure(grid, [(what, [(x.at(n), y.at(v)) for n, v in points]) for what, points in curves],
                            f'{name}: {metric}, {unit or "ratio"}, against the number of VMs attached'))
    return found
