#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs scenarios in Xen in QEMU and prints TAP. See README.md.

xen_test.py [--build DIR] [--boot N] SUITE
        its boots, or the N-th alone
xen_test.py [--build DIR] [--limit S] [--pvh guests|dom0] --scenario PART...
        one boot with parts of your choice; shows the console
"""
import argparse
import os
import signal
import sys
import tempfile

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import lab
from vmlab import CannotRun, results

ROOT = os.path.dirname(os.path.dirname(lab.HERE))
PROGRAMS = {
    'vgpud': 'core/vgpud', 'vgpu-exec': 'pmd-gpu/vgpu-exec', 'vgpu-ctl': 'ctl/vgpu-ctl',
    'vgpu-vecadd': 'guest-lib/examples/vgpu-vecadd', 'vgpu-gemm': 'guest-lib/examples/vgpu-gemm',
    'vgpu-lab-guest': 'tests/xen/vgpu-lab-guest', 'vgpu-lab-reach': 'tests/xen/vgpu-lab-reach',
    'vgpu-lab-agent': 'tests/xen/vgpu-lab-agent',
}
PVH = {'pvh': True, 'arguments': 'lab.type=pvh lab.memory=128', 'memory_mib': 1536}
# dom0 as a PVH domain needs an IOMMU; an emulated AMD one will do.
PVH_DOM0 = {**PVH, 'xen': 'dom0=pvh', 'machine': ['-machine', 'q35', '-device', 'amd-iommu']}
BOOTS_MAX = 3
# suite: [(parts, seconds that they may take, options of Lab.boot)]: one boot each. Limits are for a machine that is busy.
SUITES = {
    'xen': [(['start', 'precheck', 'work', 'walls', 'hostile', 'leaks', 'life', 'quiet'], 1200, {})],
    'xen-ten': [(['ten'], 1500, {'memory_mib': 2800})],
    'xen-more': [
        (['start', 'work', 'limits', 'plug', 'save'], 1200,
         {'dom0_mib': 1100, 'memory_mib': 1800, 'xen': 'gnttab_max_maptrack_frames=16'}),
        (['start', 'work', 'walls'], 1200, PVH),
    ],
    'xen-cycles': [(['start', 'work', 'leaks', 'cycles'], 3000, {'arguments': 'lab.cycles=50 lab.attaches=50'})],
    'xen-pvh': [(['start', 'precheck', 'work', 'walls'], 1200, PVH_DOM0)],
}


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument('--build', default=os.path.join(ROOT, 'build'))
    parser.add_argument('--scenario', nargs='+', help='names in parts/ or shell scripts, instead of a suite')
    parser.add_argument('--limit', type=int, default=300, help='seconds for --scenario')
    parser.add_argument('--log', help='folder for images and logs; default: BUILD/tests/xen/log')
    parser.add_argument('--boot', type=int, help='with a suite: this boot alone, and its console')
    parser.add_argument('--pvh', choices=['guests', 'dom0'], help='with --scenario: PVH domains, dom0 as well')
    parser.add_argument('suite', nargs='?', choices=list(SUITES))
    options = parser.parse_args()
    if bool(options.suite) == bool(options.scenario):
        parser.error('a suite, or --scenario FILE')
    if options.boot is not None and not 1 <= options.boot <= len(SUITES.get(options.suite, [])):
        parser.error(f'--boot: {options.suite} has {len(SUITES.get(options.suite, []))}')
    return options


def emulator_fault(boot):
    """Did QEMU mix up the two worlds of its emulated SVM? Xen then finds its own code's address and segment (e008) in the
    state of a domain that it kept out of them, and gives that domain up. None that runs anything of ours can do that."""
    return any('Triple fault' in text and any('RIP:    e008:' in after for _, after in boot.lines[at:at + 8])
               for at, (_, text) in enumerate(boot.lines))


def one_boot(machine, parts, limit_s, more, log, shown):
    """(rows, infos, the boot); shown: the console as it happens."""
    expected = lab.expected(parts)
    for attempt in range(1, BOOTS_MAX + 1):
        found = results.Results()

        def line(at, text, found=found):
            found.line(at, text)
            if shown:
                print(f'[{at:7.2f}] {text}', flush=True)
        boot = machine.boot(parts, log=log, limit_s=limit_s, on_line=line, **more)
        if attempt == BOOTS_MAX or not emulator_fault(boot):
            break
        print(f'# boot {attempt} of {log}: the emulator mixed up host and domain after {boot.seconds:.0f} s; again', flush=True)
    return found.judge(boot, expected), found.infos, boot


def own_scenario(machine, options, logs):
    log = os.path.join(logs, 'scenario.log')
    more = {None: {}, 'guests': PVH, 'dom0': PVH_DOM0}[options.pvh]
    rows, infos, _ = one_boot(machine, options.scenario, options.limit, more, log, True)
    return 1 if results.tap(rows, infos, log) else 0


def main():
    options = arguments()
    logs = options.log or os.path.join(options.build, 'tests', 'xen', 'log')
    os.makedirs(logs, exist_ok=True)
    missing = [path for path in PROGRAMS.values() if not os.path.exists(os.path.join(options.build, path))]
    if missing:
        of_xen = [PROGRAMS['vgpu-lab-reach'], PROGRAMS['vgpu-lab-agent']]
        print(f'not built: {" ".join(missing)}' + (' (libxen-dev)' if missing == of_xen else ''))
        return 77
    programs = {name: os.path.join(options.build, path) for name, path in PROGRAMS.items()}
    with tempfile.TemporaryDirectory(prefix='vgpu-xen-') as work:
        machine = lab.Lab(programs, work)
        if options.scenario:
            return own_scenario(machine, options, logs)
        rows, infos = [], []
        for number, (parts, limit_s, more) in enumerate(SUITES[options.suite], 1):
            if options.boot not in (None, number):
                continue
            log = os.path.join(logs, f'{options.suite}-{number}.log')
            judged, facts, boot = one_boot(machine, parts, limit_s, more, log, options.boot)
            prefix = f'{number}-' if len(SUITES[options.suite]) > 1 else ''
            rows += [(prefix + name, verdict, detail) for name, verdict, detail in judged]
            infos += [(prefix + name, text) for name, text in facts]
            if any(verdict == 'FAIL' for _, verdict, _ in judged):
                for at, text in boot.lines[-60:]:
                    print(f'# [{at:7.2f}] {text}')
        return 1 if results.tap(rows, infos, logs) else 0


if __name__ == '__main__':
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))   # the images are large: no time limit leaves them behind
    try:
        sys.exit(main())
    except CannotRun as why:
        print(why)
        sys.exit(77)
