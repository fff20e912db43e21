#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""./run soak: a long run under load, guests that come and go, kills and changes of priority, with what drifts as plots.

soak.py [--minutes N | --samples N] [--build DIR]

Runs tests/fault/soak.c, writes build/soak.html (self-contained) and build/soak.jsonl, and fails when a result was wrong, when
something was left behind, or when a line through the samples rises by more than its bound over the run. The first tenth of
the samples is warm-up. Last line: "N passed, N failed".
"""
import argparse
import html
import json
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# (sample's key, title, unit, how much it may rise over the whole run, and that as a share of its level at the start).
# The larger of the two counts. Latency is of a machine that others may use too, so it is judged of the fastest NOPs (soak.c);
# the other percentiles are shown, not judged.
BOUNDS = [
    ('vgpud_rss_kb', 'memory of vgpud', 'KiB', 1024, 0.05),
    ('vgpud_fds', 'open descriptors of vgpud', '', 4, 0.10),
    ('vgpud_maps', 'mappings of vgpud', '', 64, 0.10),
    ('executors_rss_kb', 'memory of the executors', 'KiB', 1024, 0.10),
    ('executors_fds', 'open descriptors of the executors', '', 4, 0.10),
    ('own_rss_kb', 'memory of the guests that survive', 'KiB', 4096, 0.10),
    ('own_fds', 'open descriptors of the guests that survive', '', 2, 0.0),
    ('fast_us', 'a NOP of an undisturbed guest, p2.5', 'us', 100, 1.0),
]
SHOWN = [('p50_us', 'a NOP of an undisturbed guest, p50', 'us'), ('p99_us', 'a NOP of an undisturbed guest, p99', 'us'),
         ('answer_ms', 'set-priority, the slower of two', 'ms'),
         ('disk_ms', 'a write of 4 KiB to the same disk, the slower of two', 'ms'),
         ('waited_us', 'waiting for a CPU, of all threads on the way of a NOP', 'us'),
         ('done', 'descriptors done in a second', ''), ('guests_killed', 'guests killed -9, sum', ''),
         ('executors_killed', 'executors killed -9, sum', ''), ('priority_changes', 'changes of priority, sum', '')]
SAMPLES_MIN = 12
WIDTH, HEIGHT, EDGE = 860, 150, 8


def drift(values):
    """(level at the start, rise from start to end) of a line through them that outliers do not bend: the median of the
    slopes between each sample of the first half and its partner in the second."""
    half = len(values) // 2
    slopes = sorted((values[i + half] - values[i]) / half for i in range(half))
    slope = slopes[len(slopes) // 2]
    rest = sorted(v - slope * i for i, v in enumerate(values))
    return rest[len(rest) // 2], slope * (len(values) - 1)


def judge(samples, slack=1):
    """[(key, title, unit, start, rise, allowed)]; slack: of few samples, which executors that just started are among."""
    kept = samples[len(samples) // 10:]
    verdicts = []
    for key, title, unit, most, share in BOUNDS:
        start, rise = drift([s[key] for s in kept])
        verdicts.append((key, title, unit, start, rise, slack * max(most, share * start)))
    return verdicts


def plot(samples, key, title, unit, note, bad):
    values = [s[key] for s in samples]
    high, low = max(values), min(0, *values)
    span = (high - low) or 1
    step = (WIDTH - 2 * EDGE) / max(len(values) - 1, 1)
    points = ' '.join(f'{EDGE + i * step:.1f},{HEIGHT - EDGE - (v - low) / span * (HEIGHT - 2 * EDGE):.1f}'
                      for i, v in enumerate(values))
    color = '#b00020' if bad else '#1f5fa8'
    return (f'<h2>{html.escape(title)}</h2><p class="{"bad" if bad else "good"}">{html.escape(note)}</p>'
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}">'
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#f6f7f9"/>'
            f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.2"/>'
            f'<text x="{EDGE}" y="16" font-size="12">{high:g} {unit}</text></svg>')


def page(samples, verdicts, out):
    parts = ['<!doctype html><html lang="en"><meta charset="utf-8"><title>vgpu soak</title><style>'
             'body{font:15px/1.4 sans-serif;max-width:900px;margin:2em auto;padding:0 1em}h2{font-size:1em;margin:1.4em 0 0}'
             'p{margin:.2em 0 .4em}.bad{color:#b00020;font-weight:bold}svg{width:100%}</style>'
             f'<h1>Soak run: {samples[-1]["s"]:.0f} s, {len(samples)} samples</h1>']
    for key, title, unit, start, rise, allowed in verdicts:
        note = f'from {start:.6g} {unit}, drift {rise:+.4g} over the run, at most {allowed:.4g} is let through'
        parts.append(plot(samples, key, title, unit, note, rise > allowed))
    for key, title, unit in SHOWN:
        parts.append(plot(samples, key, title, unit, f'at the end: {samples[-1][key]:g}', False))
    with open(out, 'w', encoding='utf-8') as text:
        text.write(''.join(parts) + '</html>\n')


def run(build, seconds, count):
    """(exit status, samples, other lines) of the soak program. count: ends with so many samples; 0: by time."""
    env = {**os.environ, 'VGPU_E2E_VGPUD': f'{build}/core/vgpud', 'VGPU_E2E_CTL': f'{build}/ctl/vgpu-ctl',
           'VGPU_E2E_EXEC': f'{build}/pmd-gpu/vgpu-exec', 'VGPU_E2E_CONFIG': f'{ROOT}/config',
           'VGPU_SOAK_SECONDS': str(seconds), 'VGPU_SOAK_SAMPLES': str(count)}
    samples, others = [], []
    with subprocess.Popen([f'{build}/tests/fault/fault-soak'], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          text=True) as process:
        for line in process.stdout:
            if line.startswith('sample: '):
                samples.append(json.loads(line[len('sample: '):]))
                if sys.stderr.isatty():
                    print(f'\r\033[Ksoak {samples[-1]["s"]:.0f} of {seconds} s', end='', file=sys.stderr, flush=True)
            else:
                others.append(line.rstrip())
        code = process.wait()
    if sys.stderr.isatty():
        print('\r\033[K', end='', file=sys.stderr)
    return code, samples, others


def main():
    parser = argparse.ArgumentParser(prog='./run soak')
    parser.add_argument('--minutes', type=float, default=10)
    parser.add_argument('--samples', type=int, default=0, help='end with so many instead; nothing is written to build/')
    parser.add_argument('--build', default=os.path.join(ROOT, 'build'))
    args = parser.parse_args()
    if args.samples and args.samples < SAMPLES_MIN or args.minutes * 60 < SAMPLES_MIN * 2:
        print(f'vgpu: error: soak: drift cannot be judged over less than {SAMPLES_MIN * 2} s', file=sys.stderr)
        return 2
    target = os.path.join(ROOT, 'build')
    os.makedirs(target, exist_ok=True)
    code, samples, others = run(os.path.abspath(args.build), int(args.minutes * 60), args.samples)
    print('\n'.join(line for line in others if line.startswith(('shows:', '# '))))
    passed, failed = (1, 0) if code == 0 else (0, 1)
    print(f'{"ok  " if code == 0 else "FAIL"} each descriptor once, no wrong result, nothing left behind')
    if len(samples) < SAMPLES_MIN:
        print(f'FAIL {len(samples)} samples: too few to judge drift')
        print(f'{passed} passed, {failed + 1} failed')
        return 1
    verdicts = judge(samples, 3 if args.samples else 1)
    if not args.samples:
        with open(os.path.join(target, 'soak.jsonl'), 'w', encoding='utf-8') as out:
            out.writelines(json.dumps(s) + '\n' for s in samples)
        page(samples, verdicts, os.path.join(target, 'soak.html'))
    for _, title, unit, start, rise, allowed in verdicts:
        bad = rise > allowed
        passed, failed = passed + (not bad), failed + bad
        print(f'{"FAIL" if bad else "ok  "} {title}: from {start:.6g} {unit}, drift {rise:+.4g}, at most {allowed:.4g}')
    print(f'shows: {samples[-1]["s"]:.0f} s, {sum(s["done"] for s in samples)} descriptors of the survivors, '
          f'{samples[-1]["guests_killed"]} guests and {samples[-1]["executors_killed"]} executors killed -9; '
          + ('no plots' if args.samples else 'plots in build/soak.html'))
    print(f'{passed} passed, {failed} failed')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
