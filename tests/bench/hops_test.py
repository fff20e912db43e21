#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""vgpu-bench hops, briefly: each descriptor traced (else it fails), spans that add up, a trace that viewers open.

hops_test.py VGPU-BENCH
"""
import json
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'ctl'))
import chrome_trace  # noqa: E402

HOST = ['seen', 'validated', 'queued', 'dequeued', 'submitted', 'completed', 'guest_seen']
DEVICE = ['device_start', 'device_end']


def main():
    with tempfile.TemporaryDirectory() as where:
        rows_file, chrome = os.path.join(where, 'rows'), os.path.join(where, 'trace.json')
        done = subprocess.run([sys.argv[1], 'hops', '--reps', '1', '--warm-up', '0', '--duration', '0.05', '--burst', '1,16',
                               f'--json={rows_file}', '--chrome', chrome], stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=250)
        if done.returncode == 77:
            print(f'1..0 # SKIP {done.stdout.strip().splitlines()[-1]}')
            return 0
        assert done.returncode == 0, done.stdout + done.stderr
        with open(rows_file, encoding='utf-8') as text:
            rows = [json.loads(line) for line in text]
        events = chrome_trace.check(chrome)
    groups = {}
    for row in rows:
        if row['bench'] == 'hops.until':
            key = (row['subject'], row['params']['burst'], row['params']['percentile'])
            groups.setdefault(key, {})[row['metric']] = row['value']
    subjects = {key[0] for key in groups}
    sums = [(key, sum(v for k, v in g.items() if k != 'total'), g['total']) for key, g in groups.items()]
    checks = [
        ('it measures both backends', {'rtc', 'rtc-cpu'} <= subjects),
        ('spans add up to the total', all(abs(a - b) <= 1e-4 * b + 0.1 for _, a, b in sums)),
        ('all hops are there, the device\'s where there is a device', all(
            set(g) - {'total'} == set(HOST + (DEVICE if key[0].endswith('cpu') else [])) for key, g in groups.items())),
        ('no span is negative', all(v >= 0 for g in groups.values() for v in g.values())),
        ('the round trip is there with and without tracing', len({json.dumps(r['params']) for r in rows
                                                                 if r['bench'] == 'hops.round' and r['subject'] == 'rtc'}) == 4),
        ('the waterfall is shown', 'in the submission ring' in done.stdout and '%' in done.stdout),
        ('the trace has slices, spans and arrows', all(events[p] for p in 'XbesfM')),
    ]
    print(f'1..{len(checks)}')
    for number, (what, good) in enumerate(checks, 1):
        print(f'{"ok" if good else "not ok"} {number} {what}')
    if not all(good for _, good in checks):
        print('# ' + json.dumps([s for s in sums if abs(s[1] - s[2]) > 1e-4 * s[2] + 0.1][:3]))
    return 0 if all(good for _, good in checks) else 1


if __name__ == '__main__':
    sys.exit(main())
