#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""vgpu-bench's command line: each option does what it says, and each wrong value is refused with a sentence that names the
option and what would be right, before anything runs. Times are nobody's business here. Prints TAP.

options_test.py VGPU-BENCH SOURCE-FOLDER
"""
import json
import os
import subprocess
import sys
import tempfile

BENCH, SOURCE = sys.argv[1:3]
sys.path.insert(0, os.path.join(SOURCE, 'tests', 'ctl'))
import schema  # noqa: E402

with open(os.path.join(SOURCE, 'docs', 'schema', 'bench-row.json'), encoding='utf-8') as text:
    ROW = json.load(text)
TINY = ['--reps', '2', '--warm-up', '0', '--duration', '0.005']  # a busy host drops rounds of rings: two, then
CORES = sorted(os.sched_getaffinity(0))
MISSING = max(CORES) + 1000 if max(CORES) < 20 else 1020

# (arguments, words that the refusal must have)
WRONG = [
    ([], ['usage']),
    (['nonsense'], ["'nonsense'", 'rings', 'control']),
    (['rings', 'nonsense'], ["'nonsense'"]),
    (['rings', '--nonsense'], ["'--nonsense'", '--help']),
    (['rings', '--reps'], ['--reps', 'value']),
    *(([*'rings --reps'.split(), v], ['--reps', '1 to 101', f"'{v}'"]) for v in ('0', '102', '-1', 'x', '3x', '', '1.5', ' 3')),
    (['rings', '--repeat', '0'], ['--repeat', '1 to 101']),
    *((['rings', '--warm-up', v], ['--warm-up', '0 to 100']) for v in ('-1', '101', 'x', '')),
    *((['rings', '--seconds', v], ['--seconds', "'" + v]) for v in ('0', '-1', 'x', 'nan', 'inf', '1e99', '')),
    *((['rings', '--duration', v], ['--duration', "'" + v]) for v in ('0', '-1', 'x', '3601', '1s')),
    *((['scale', '--vms', v], ['--vms', '1 to 1000']) for v in ('0', '1001', 'x', '1,', ',1', '1,,2', '-1', '1 2')),
    (['scale', '--vms', '4,2'], ['--vms', 'grow']),
    (['scale', '--vms', '2,2'], ['--vms', 'grow']),
    (['scale', '--vms', '1,2,3,4,5,6,7,8,9,10,11,12,13'], ['--vms', 'up to 12']),
    *((['rings', '--ring-slots', v], ['--ring-slots', 'power of two']) for v in ('7', '12', '4', '131072', 'x', '0')),
    *((['rings', '--burst', v], ['--burst', 'powers of two']) for v in ('0', '3', '64', 'x', '1,3')),
    (['rings', '--burst', '32', '--ring-slots', '16'], ['--burst', '--ring-slots', '16']),
    (['path', '--ring-slots', '16'], ['path', '--ring-slots', '16']),
    (['scale', '--ring-slots', '16'], ['scale', '--ring-slots']),
    (['transport', '--ring-slots', '64'], ['transport', '--ring-slots']),
    *((['transport', '--payload', v], ['--payload']) for v in ('0', 'x', '1T', '2G', '4')),
    (['transport', '--payload', '2M'], ['transport', '--payload', '1 MiB']),
    *((['gpu', '--engine', v], ['--engine', 'resident']) for v in ('fast', '', 'AUTO')),
    *((['path', '--load', v], ['--load', 'open or closed']) for v in ('both', '')),
    *((['path', '--rate', v], ['--rate']) for v in ('0', 'x', '1e10', '-5')),
    (['path', '--load', 'closed', '--rate', '1000'], ['--rate', '--load closed']),
    *((['control', '--clients', v], ['--clients', '1 to 64']) for v in ('0', '65', 'x')),
    *((['rings', '--cores', v], ['--cores']) for v in ('', 'x', '0,', '-1', '0;1')),
    (['rings', '--cores', str(MISSING)], ['--cores', str(MISSING), 'not there']),
    (['rings', '--filter', ''], ['--filter']),
    (['rings', '--json=/nonexistent/rows'], ['/nonexistent/rows']),
    # An option that the suite has no use for.
    (['rings', '--payload', '64'], ['--payload', 'rings', 'transport']),
    (['scale', '--burst', '8'], ['--burst', 'scale', 'path']),
    (['rings', 'path', '--engine', 'auto'], ['--engine', 'gpu']),
    (['control', '--rate', '5'], ['--rate', 'control']),
    (['compare', 'one'], ['usage']),
]


def run(arguments, timeout=120):
    return subprocess.run([BENCH, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout)


def rows_of(arguments, where, code=0):
    path = os.path.join(where, 'rows')
    done = run([*arguments, f'--json={path}'])
    assert done.returncode == code, f'exit {done.returncode}\n{done.stdout}{done.stderr}'
    with open(path, encoding='utf-8') as lines:
        rows = [json.loads(line) for line in lines]
    for row in rows:  # each is as the schema says
        found = [fault for part in ('figure', 'histogram') if (part == 'histogram') == (row['metric'] == 'hist')
                 for fault in schema.faults(ROW['$defs'][part], row, ROW)]
        assert not found, f'{row["bench"]}/{row["subject"]}: {found}'
    return rows, done.stdout + done.stderr


def params(rows, bench, key):
    return {r['params'].get(key) for r in rows if r['bench'] == bench} - {None}


def wrong():
    faults = []
    for arguments, words in WRONG:
        done = run(arguments, 20)
        text = done.stderr
        if done.returncode not in (1, 2) or not text.strip() or not all(w in text for w in words) or 'rounds,' in done.stdout:
            faults.append(f'{arguments}: exit {done.returncode}: {text.strip()[:300]}')
    return faults


def lists(where):
    every, one = run(['--list']).stdout, run(['--list', 'control']).stdout
    suites = ['rings', 'path', 'scale', 'priority', 'isolation', 'transport', 'gpu', 'copy', 'control']
    faults = [f'{s} is not listed' for s in suites if f'\n{s}: ' not in '\n' + every]
    return faults + ([] if one.startswith('control: ') and 'rings: ' not in one else ['--list control lists more'])


def rounds(where):
    """In one thread, where a busy host costs no round."""
    rows, _ = rows_of(['scale', '--vms', '1', '--filter', 'descriptor/one-32', '--reps', '6', '--warm-up', '2'], where)
    row = [r for r in rows if r['bench'] == 'scale.descriptor']
    if len(row) != 1 or len(row[0]['values']) != 6:
        return [f'not six rounds: {row}']
    low, high = row[0]['ci95']
    return [] if low == min(row[0]['values']) <= row[0]['value'] <= high == max(row[0]['values']) else [f'{row}']


def few_rounds(where):
    rows, text = rows_of(['rings', '--filter', 'rtt/vgpu', *TINY], where)
    return [] if all(r['ci95'] is None for r in rows if 'ci95' in r) else ['two rounds have an interval']


def filters(where):
    rows, _ = rows_of(['rings', '--filter', 'stream/ck', *TINY], where)
    faults = [] if {r['bench'] + '/' + r['subject'] for r in rows} <= {'rings.stream/ck_ring'} and rows else [f'{rows}']
    done = run(['rings', '--filter', 'no such thing', *TINY])
    return faults + ([] if done.returncode == 1 and 'no such thing' in done.stderr else ['a filter of nothing is not said'])


def rings_sizes(where):
    rows, _ = rows_of(['rings', '--filter', 'stream/', '--ring-slots', '128', '--burst', '2,16', *TINY], where)
    faults = [] if params(rows, 'rings.stream', 'slots') == {128} else ['not 128 slots']
    return faults + ([] if params(rows, 'rings.stream', 'burst') == {2, 16} else ['not bursts of 2 and 16'])


def smallest_rings(where):
    """Every peer keeps its elements in order in the smallest ring."""
    rows, text = rows_of(['rings', '--filter', 'stream/', '--ring-slots', '8', '--burst', '8', *TINY], where)
    return [] if rows and 'WRONG' not in text else [text]


def open_loop(where):
    rows, _ = rows_of(['path', '--filter', 'open/rtc', '--load', 'open', '--rate', '5000,20000', '--vms', '3', *TINY[:-1],
                       '0.05'], where)
    faults = [] if params(rows, 'path.open', 'rate') == {0.005, 0.02} else ['not these rates']
    faults += [] if params(rows, 'path.open', 'active') == {3} else ['not three VMs']
    metrics = {r['metric'] for r in rows if r['bench'] == 'path.open'}
    faults += [f'no {m}' for m in ('p50', 'p99', 'p99.9', 'p99.99', 'max', 'hist') if m not in metrics]
    return faults + ([] if {r['bench'] for r in rows} <= {'path.open', 'path.goal'} else ['more than an open loop'])


def closed_loop(where):
    rows, _ = rows_of(['path', '--filter', 'rtc', '--load', 'closed', '--vms', '2', '--burst', '4', *TINY], where)
    benches = {r['bench'] for r in rows}
    faults = [] if 'path.open' not in benches and 'path.stream' in benches else [f'{benches}']
    faults += [] if params(rows, 'path.stream', 'burst') == {4} else ['not bursts of 4']
    return faults + ([] if params(rows, 'path.stream', 'attached') == {1, 2} - {1} else ['not two VMs'])


def scales(where):
    rows, _ = rows_of(['scale', '--vms', '1,3', '--ring-slots', '64', *TINY[:4]], where)
    return [] if params(rows, 'scale.descriptor', 'attached') == {1, 3} else [f'{rows}']


def transports(where):
    rows, text = rows_of(['transport', '--burst', '4', '--payload', '128,1K', *TINY], where)
    subjects = {r['subject'] for r in rows if r['bench'] == 'transport.rtt'}
    kernel = {'eventfd', 'pipe', 'unix-seqpacket', 'unix-stream', 'io_uring-unix', 'io_uring-msg'}
    memory = {'vgpu', 'b-queue', 'virtio-split', 'rte_ring', 'ck_ring', 'wfcqueue', 'xen-io-ring', 'boost'}
    gone = {s for s in kernel | memory if f'{s} cannot be had' in text or f'not built in: {s.split("-")[0]}' in text}
    dropped = memory if 'dropped' in text else set()
    faults = [f'no figure of {s}' for s in sorted((kernel | memory) - gone - dropped - subjects)]
    faults += [] if params(rows, 'transport.payload', 'bytes') == {128, 1024} else ['not these payloads']
    return faults + ([] if params(rows, 'transport.stream', 'burst') == {4} else ['not bursts of 4'])


def controls(where):
    rows, _ = rows_of(['control', '--clients', '2', '--vms', '5', *TINY[:-1], '0.01'], where)
    faults = [] if params(rows, 'control.beside', 'clients') == {0, 2} else ['not two clients']
    requests = {r['subject'] for r in rows if r['bench'] == 'control.request'}
    return faults + [f'no {s}' for s in ('show-vm', 'list-vms', 'set-priority', 'register+remove', 'visit') if s not in requests]


def shared_device(where):
    """The suites that take a GPU where there is one, on the CPU backend."""
    if subprocess.run(['sh', '-c', 'ls /dev/nvidia0'], capture_output=True).returncode == 0:
        return []
    faults = []
    for suite, bench, subjects in (('priority', 'cpu.priority', {'alone', 'compute', 'bandwidth'}),
                                   ('isolation', 'cpu.pools', {'alone', 'compute', 'bandwidth'}),
                                   ('copy', 'cpu.copy', {'vgpu', 'memcpy'})):
        more = ['--payload', '4K,64K'] if suite == 'copy' else ['--vms', '1']
        rows, _ = rows_of([suite, '--reps', '1', '--duration', '0.02', *more], where)
        found = {r['subject'] for r in rows if r['bench'] == bench and r['metric'] == 'p50'}
        faults += [] if found == subjects else [f'{suite}: {found}']
    done = run(['copy', '--engine', 'stream'])
    return faults + ([] if done.returncode == 1 and '--engine' in done.stderr else [f'--engine, no GPU: {done.stderr}'])


def main():
    cases = [lists, rounds, few_rounds, filters, rings_sizes, smallest_rings, open_loop, closed_loop, scales, transports,
             controls, shared_device]
    failed = 0
    print(f'1..{len(cases) + 1}', flush=True)
    faults = wrong()
    print(f'{"not ok" if faults else "ok"} 1 - each of {len(WRONG)} wrong command lines is refused, and why', flush=True)
    failed += bool(faults)
    for line in faults:
        print(f'# {line}')
    for number, case in enumerate(cases, 2):
        with tempfile.TemporaryDirectory(prefix='vgpu-bench-test-') as where:
            try:
                faults = case(where) if len(CORES) > 1 or case in (lists, scales) else []
            except AssertionError as error:
                faults = [str(error)]
        print(f'{"not ok" if faults else "ok"} {number} - {case.__name__}', flush=True)
        failed += bool(faults)
        for line in '\n'.join(faults).splitlines():
            print(f'# {line}')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
