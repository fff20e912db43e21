#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""vgpu-bench plan: its formulas against its simulation, what it says of limits, each wrong value, and that the model is of the
poll core as it is. Real runs beside it are `vgpu-bench plan --check`. Prints TAP.

plan_test.py VGPU-BENCH SOURCE-FOLDER
"""
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile

BENCH, SOURCE = sys.argv[1:3]
ASK = ['--vms', '30', '--rate', '50000']
# Up to 70 % of a core, which is what a plan allows unless told otherwise. A quantile agrees when it is near the simulated one, or
# when about so many of the simulated descriptors are done by then: where half of them find their VM cold, p50 is any time
# between that of a hot and that of a cold one.
P50_WITHIN, P99_WITHIN, UTILISATION = 1.25, 1.80, 0.70
P50_BELOW, P99_BELOW = (0.40, 0.60), (0.980, 0.996)
# These machines, whatever bench/plan/constants.json holds by now.
MACHINES = os.path.join(SOURCE, 'tests/bench/plan_machines.json')

WRONG = [
    ([], ['--vms', '--rate']),
    (['--vms', '3'], ['--rate']),
    *(([*ASK, '--vms', v], ['--vms', '1 to 65535']) for v in ('0', '-1', 'x', '', '1.5', '65536')),
    *(([*ASK, '--rate', v], ['--rate']) for v in ('0', '-1', 'x', 'nan', 'inf', '1e10')),
    *(([*ASK, '--utilisation', v], ['--utilisation', '0.99']) for v in ('0', '1', 'x')),
    ([*ASK, '--poll-cores', '17'], ['--poll-cores', '1 to 16']),
    ([*ASK, '--layout', 'both'], ['one-core', 'split']),
    ([*ASK, '--active', '31'], ['--active', '30', '31']),
    ([*ASK, '--burst', '64', '--in-flight', '32'], ['--burst', '--in-flight']),
    ([*ASK, '--machine', 'nowhere'], ["'nowhere'", '--list']),
    ([*ASK, '--constants', '/nonexistent'], ['/nonexistent']),
    ([*ASK, '--nonsense'], ['--nonsense']),
    ([*ASK, '--reps'], ['--reps']),
    ([*ASK, 'more'], ["'more'"]),
    ([*ASK, '--json=/nonexistent/x'], ['/nonexistent/x']),
    ([*ASK, '--device-width', '0'], ['--device-width']),
    ([*ASK, '--p99-us', '0'], ['--p99-us']),
    ([*ASK, '--op-us', 'x'], ['--op-us']),
    (['--check', '--vms', '3'], ['--check', '--rate']),
    (['--check', '--vms', '65', '--rate', '1'], ['--check', '64', '65']),
    (['--check', *ASK, '--burst', '2'], ['--check', '--burst']),
    (['--check', *ASK, '--op-us', '2'], ['--check', '--op-us']),
    (['--calibrate=/nonexistent/x'], ['/nonexistent/x']),
]


def run(arguments):
    return subprocess.run([BENCH, 'plan', *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)


def plan(*arguments, code=0):
    """What it says as JSON and as text. code: its exit status; None: it fits or not."""
    with tempfile.TemporaryDirectory() as where:
        path = os.path.join(where, 'plan.json')
        whose = [] if '--constants' in arguments else ['--constants', MACHINES]
        done = run([*whose, *arguments, f'--json={path}'])
        good = done.returncode < 2 if code is None else done.returncode == code
        assert good, f'{arguments}: exit {done.returncode}: {done.stdout}{done.stderr}'
        with open(path, encoding='utf-8') as text:
            return json.load(text), done.stdout


def wrong():
    faults = []
    for arguments, words in WRONG:
        done = run(arguments)
        if done.returncode != 2 or not all(w in done.stderr for w in words):
            faults.append(f'{arguments}: exit {done.returncode}: {done.stderr.strip()}')
    return faults


def one_poller():
    """The constants that the model takes over from the poll core."""
    def defines(path, prefix=''):
        with open(os.path.join(SOURCE, path), encoding='utf-8') as text:
            return dict(re.findall(rf'#define {prefix}(HOT_ALWAYS|COLD_PER_ROUND|COOL_AFTER)\s+(\d+)u', text.read()))
    ours, theirs = defines('bench/plan/plan.h', 'PLAN_'), defines('core/poller.c')
    return [] if len(ours) == 3 and ours == theirs else [f'plan.h has {ours}, core/poller.c {theirs}']


def unlike(one):
    """Where formulas and simulation of a load disagree."""
    faults = []
    for key, within, (low, high) in (('p50', P50_WITHIN, P50_BELOW), ('p99', P99_WITHIN, P99_BELOW)):
        ratio, below = one[key + '_ns'] / one[f'simulated_{key}_ns'], one['simulated_below_' + key]
        if not 1 / within <= ratio <= within and not low <= below <= high:
            faults.append(f'{key} is {ratio:.2f} of the simulated, {below:.4f} are done by then')
    return faults


def like_the_simulation():
    faults, compared = [], 0
    with open(MACHINES, encoding='utf-8') as text:
        machines = [m['name'] for m in json.load(text)['machines']]
    for machine, vms, burst, all_rate in itertools.product(machines, (1, 4, 30, 256), (1, 32), (5e5, 2e6, 6e6)):
        one, _ = plan('--vms', str(vms), '--rate', repr(all_rate / vms), '--burst', str(burst), '--poll-cores', '1',
                      '--utilisation', '0.99', '--constants', MACHINES, '--machine', machine, code=None)
        if one['p99_ns'] and one['utilisation'] <= UTILISATION:
            compared += 1
            faults += [f'{machine}, {vms} VMs, {all_rate:g}/s in bursts of {burst}: {f}' for f in unlike(one)]
    return faults + ([] if compared > 15 * len(machines) else [f'only {compared} loads were compared'])


def limits():
    faults = []
    little, _ = plan(*ASK)
    much, _ = plan('--vms', '30', '--rate', '1000000')
    none, text = plan('--vms', '30', '--rate', '100000000', code=1)
    if little['poll_cores'] != 1 or much['poll_cores'] < 2 or not much['utilisation'] <= 0.7:
        faults.append(f'{little} {much}')
    if none['fits'] or 'does NOT fit' not in text:
        faults.append(f'3 G/s fit: {text}')
    told, _ = plan(*ASK, '--p99-us', repr(little['p99_ns'] / 1e3 * 1.05))
    if told['first_limit'] != 'p99, us':
        faults.append(f'a promise 5 % above p99 is not what is met first: {told}')
    again, _ = plan('--vms', '30', '--rate', repr(50000 * little['first_limit_factor'] * 0.99), '--poll-cores', '1')
    if not 0.65 < again['utilisation'] <= 0.7:
        faults.append(f'at its limit a core is busy for {again["utilisation"]}')
    plan('--vms', '30', '--rate', repr(50000 * little['first_limit_factor'] * 1.01), '--poll-cores', '1', code=1)
    device, _ = plan(*ASK, '--op-us', '10', '--device-width', '16', code=1)
    if device['first_limit'] != "the device's utilisation" or abs(device['device_utilisation'] - 1.5e6 * 10e-6 / 16) > 1e-6:
        faults.append(f'{device}')
    slow, _ = plan('--vms', '2', '--rate', '100', '--op-us', '100000', '--device-width', '100', '--in-flight', '12',
                   '--utilisation', '0.99')
    if slow['first_limit'] != 'outstanding of a VM, at p99':
        faults.append(f'{slow}')
    for vms, rate in (('65535', '10'), ('1', '1'), ('8', '0.001')):
        far, _ = plan('--vms', vms, '--rate', rate, code=None)
        if not 0.5 < far['p50_ns'] / (far['simulated_p50_ns'] or 1e-9) < 2:
            faults.append(f'{far}')
    full, _ = plan('--vms', '2', '--rate', '100', '--burst', '1024', '--in-flight', '1024')
    if full['first_limit_factor'] < 2:
        faults.append(f'{full}')
    return faults


def files():
    """What --calibrate writes is read, and what is no such file is said by name."""
    with tempfile.TemporaryDirectory() as where:
        path = os.path.join(where, 'c.json')
        with open(os.path.join(SOURCE, 'bench/plan/constants.json'), encoding='utf-8') as text:
            machines = json.load(text)
        machines['machines'][0]['name'] = 'other'
        with open(path, 'w', encoding='utf-8') as out:
            json.dump(machines, out)
        other, _ = plan(*ASK, '--constants', path)
        faults = [] if other['machine'] == 'other' else [f'{other}']
        for change, word in (({'round_ns': 0}, 'round_ns'), ({'descriptor_ns': []}, 'descriptor_ns'),
                             ({'descriptor_ns': [[8, 1], [1, 2]]}, 'descriptor_ns'), ({'poll_share': 'half'}, 'poll_share')):
            with open(path, 'w', encoding='utf-8') as out:
                json.dump({'machines': [{**machines['machines'][0], **change}]}, out)
            done = run([*ASK, '--constants', path])
            if done.returncode != 2 or word not in done.stderr or path not in done.stderr:
                faults.append(f'{change}: exit {done.returncode}: {done.stderr}')
        with open(path, 'w', encoding='utf-8') as out:
            out.write('{"machines": [')
        done = run([*ASK, '--constants', path])
        return faults + ([] if done.returncode == 2 and path in done.stderr else [f'a broken file: {done.stderr}'])


def calibrates():
    if len(os.sched_getaffinity(0)) < 2:
        return []
    with tempfile.TemporaryDirectory() as where:
        path = os.path.join(where, 'c.json')
        try:
            done = run([f'--calibrate={path}', '--reps', '1'])
        except subprocess.TimeoutExpired:  # it takes longer where threads rarely run at the same time: nobody's fault here
            print('# calibrates: this machine is too busy to be measured: not done after two minutes', flush=True)
            return []
        if done.returncode == 1 and 'too busy to be measured' in done.stdout:
            print('# calibrates: this machine is too busy to be measured, and said so', flush=True)
            return []
        if done.returncode:
            return [f'exit {done.returncode}: {done.stdout}{done.stderr}']
        one, _ = plan('--vms', '2', '--rate', '1000', '--constants', path, code=None)  # a busy machine may not fit
        return [] if one['machine'] == 'here' and one['p50_ns'] > 0 else [f'{one}']


def main():
    cases = [wrong, one_poller, like_the_simulation, limits, files, calibrates]
    failed = 0
    print(f'1..{len(cases)}', flush=True)
    for number, case in enumerate(cases, 1):
        try:
            faults = case()
        except AssertionError as error:
            faults = [str(error)]
        print(f'{"not ok" if faults else "ok"} {number} - {case.__name__}', flush=True)
        failed += bool(faults)
        for line in '\n'.join(faults).splitlines():
            print(f'# {line}')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
