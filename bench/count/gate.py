#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The instruction gate: what a descriptor costs in instructions, against a baseline kept beside this file.

  gate.py BUILD KEY            counts, compares with baseline.json, prints TAP
  gate.py BUILD KEY --update   counts, and writes the baseline of KEY (meson test shows KEY: machine/compiler/options)

A count under callgrind does not depend on how busy the host is: runs differ by some 0.0001 %. It does depend on the
compiler and its options, so there is one baseline for each; with a compiler that has none, only the gate itself is
tried, and that is said. More than LIMIT above the baseline fails, and so does as much below it: a gain is noted by
--update in the commit that made it, or the next loss hides behind it.

The gate is tried on a planted slowdown each time (count/planted.c): what it does not find would be found by nothing.
"""
import argparse
import json
import os
import re
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
BASELINE = os.path.join(HERE, 'baseline.json')
CASES = ('nop-1', 'nop-32', 'nop-32x8', 'bad-32', 'traced-32')
GRANTED = ('nop-1', 'nop-32')  # also in regions of the Xen transport
FEW, MANY = 4096, 12288  # descriptors; the difference takes out what starting costs
LIMIT = 0.03


def instructions(program, case, count):
    command = ['valgrind', '--tool=callgrind', '--callgrind-out-file=/dev/null', program, case, str(count)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
    found = re.search(r'Collected : (\d+)', done.stderr)
    if done.returncode or not found:
        raise RuntimeError(f'{os.path.basename(program)} {case} {count}: exit {done.returncode}\n{done.stderr[-2000:]}')
    return int(found.group(1))


def per_descriptor(program, case):
    return (instructions(program, case, MANY) - instructions(program, case, FEW)) / (MANY - FEW)


def judge(found, baseline):
    """'' when it is within the limit, else what is wrong."""
    change = found / baseline - 1
    if change > LIMIT:
        return f'{found:.1f} instructions a descriptor, {change:+.1%} against {baseline:.1f}: slower'
    if change < -LIMIT:
        return f'{found:.1f} instructions a descriptor, {change:+.1%} against {baseline:.1f}: a gain; note it with --update'
    return ''


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('build')
    parser.add_argument('key', help='machine/compiler/options, what a count depends on besides the code')
    parser.add_argument('--update', action='store_true')
    args = parser.parse_args()
    if not shutil.which('valgrind'):
        print('1..0 # SKIP valgrind is not installed')
        return 0
    program = os.path.join(args.build, 'bench', 'vgpu-bench-steps')
    found = {case: per_descriptor(program, case) for case in CASES}
    with open(BASELINE, encoding='utf-8') as text:
        baselines = json.load(text)
    key = args.key
    if args.update:
        baselines[key] = {case: round(value, 2) for case, value in found.items()}
        with open(BASELINE, 'w', encoding='utf-8') as out:
            json.dump(baselines, out, indent=2, sort_keys=True)
            out.write('\n')
        print(f'{key}: {baselines[key]}')
        return 0
    known = baselines.get(key)
    failed = 0
    granted = os.path.join(args.build, 'tests', 'bench', 'vgpu-bench-steps-granted')
    over_xen = GRANTED if os.path.exists(granted) else ()
    print(f'1..{len(CASES) + 2 + len(over_xen)}')
    for number, case in enumerate(CASES, 1):
        if not known:
            print(f'ok {number} {case} # SKIP no baseline for {key}; {found[case]:.1f} instructions a descriptor')
            continue
        wrong = judge(found[case], known[case])
        failed += bool(wrong)
        print(f'{"not ok" if wrong else "ok"} {number} {case}')
        print(f'# {case}: {wrong or f"{found[case]:.1f} instructions a descriptor, baseline {known[case]:.1f}"}')
    # The gate itself, with this build's own count for a baseline.
    again = judge(per_descriptor(program, CASES[1]), found[CASES[1]])
    planted = judge(per_descriptor(program + '-planted', CASES[1]), found[CASES[1]])
    print(f'{"not ok" if again else "ok"} {len(CASES) + 1} the same build counts the same')
    print(f'{"ok" if planted.endswith("slower") else "not ok"} {len(CASES) + 2} a planted slowdown is found')
    print(f'# planted: {planted or "not found"}')
    # Over Xen's transport the same, and it checks that Xen is asked for nothing.
    for number, case in enumerate(over_xen, len(CASES) + 3):
        there = per_descriptor(granted, case)
        wrong = judge(there, found[case])
        failed += bool(wrong)
        print(f'{"not ok" if wrong else "ok"} {number} {case} over Xen costs what it costs over the local transport')
        print(f'# {case} over Xen: {wrong or f"{there:.1f} instructions a descriptor, {found[case]:.1f} over the local one"}')
    return 1 if failed or again or not planted.endswith('slower') else 0


if __name__ == '__main__':
    sys.exit(main())
