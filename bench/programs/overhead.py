#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What an execution costs through libvgpu, beside the same program run natively through the same PJRT plugin; and what ten guests
get through together, beside one native process.

    overhead.py BUILD PLUGIN BUNDLE... [--client OPTIONS] [--programs OPTIONS] [--backend cuda] [--guests N] [--json FILE]

A BUNDLE is a directory as vgpu-program takes it (tests/ml/models.py, tests/ml/export_minilm.py, tests/ml/export_tf.py). Starts a
vgpud of its own. All processes are loaded first; then they measure by turns, round after round, so that only one of the two
sides has work at a time. Ratios are taken round by round; printed is the median, and the least and the greatest round.
"""
import argparse
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, 'tests', 'ml'))
import frame  # noqa: E402
from rows import Rows  # noqa: E402


class Side:
    """A process of vgpu-program-overhead."""

    def __init__(self, command, env):
        self.name = ' '.join(command[1:3])
        self.process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def line(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f'{self.name} ended with {self.process.wait()}')
        return line.strip()

    def say(self, text):
        self.process.stdin.write(text + '\n')
        self.process.stdin.flush()

    def ask(self, text):
        self.say(text)
        return self.line()

    def once(self, n):
        return sorted(int(ns) / 1e3 for ns in self.ask(f'once {n}').split())

    def end(self):
        self.process.stdin.close()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def quantile(ordered, q):
    return ordered[int(q * (len(ordered) - 1))]


def single(name, native, guest, args, rows):
    """One at a time: the difference is what the way there and back costs."""
    native.once(args.executions)
    guest.once(args.executions)
    rounds = []
    for _ in range(args.rounds):
        rounds.append((native.once(args.executions), guest.once(args.executions)))
    params = {'program': name, 'executions': args.executions}

    def add(subject, metric, unit, values):
        return rows.add('programs.execute', subject, params, metric, unit, values)
    p50 = [(quantile(a, .5), quantile(b, .5)) for a, b in rounds]
    alone, ours = add('native', 'p50', 'us', [a for a, _ in p50]), add('guest', 'p50', 'us', [b for _, b in p50])
    add('native', 'p99', 'us', [quantile(a, .99) for a, _ in rounds])
    add('guest', 'p99', 'us', [quantile(b, .99) for _, b in rounds])
    more = add('guest', 'overhead', 'us', [b - a for a, b in p50])
    of = [b / a for a, b in p50]
    ratio = add('guest', 'ratio', 'x', of)
    print(f'{name:12} one execution: native {alone:.1f} us, guest {ours:.1f} us (p50): {more:+.1f} us, '
          f'{(ratio - 1) * 100:+.2f} % '
          f'(rounds {(min(of) - 1) * 100:+.2f} to {(max(of) - 1) * 100:+.2f} %)', flush=True)


def together(name, native, guests, args, rows):
    """All guests at once, each with some in flight, beside one native process that has the best of the depths tried. One guest
    alone has as many in flight as that one: what executions that are queued cost."""
    depth = max(args.depths, key=lambda d: float(native.ask(f'load {args.seconds / 2} {d}')))
    guest_depth = args.guest_depth if len(guests) > 1 else depth
    of = []
    for _ in range(max(3, args.rounds // 2)):
        alone = float(native.ask(f'load {args.seconds} {depth}'))
        for guest in guests:
            guest.say(f'load {args.seconds} {guest_depth}')
        of.append((alone, [float(guest.line()) for guest in guests]))
    params = {'program': name, 'guests': len(guests), 'native_depth': depth, 'guest_depth': guest_depth}

    def add(subject, metric, unit, values):
        return rows.add('programs.aggregate', subject, params, metric, unit, values)
    alone = add('native', 'rate', '1/s', [a for a, _ in of])
    all_of_them = add('guests', 'rate', '1/s', [sum(b) for _, b in of])
    ratios = [sum(b) / a for a, b in of]
    ratio = add('guests', 'ratio', 'x', ratios)
    least = add('guests', 'least', '1/s', [min(b) for _, b in of])
    most = add('guests', 'greatest', '1/s', [max(b) for _, b in of])
    print(f'{name:12} {len(guests)} guests {all_of_them:.1f}/s, native {alone:.1f}/s ({depth} in flight): {ratio:.3f} '
          f'(rounds {min(ratios):.3f} to {max(ratios):.3f}); a guest has {least:.1f} to {most:.1f}/s', flush=True)


def measure(args, bundle, rows):
    program = os.path.join(args.build, 'bench/vgpu-program-overhead')
    first = ['--inputs-first'] if os.path.exists(os.path.join(bundle, 'program.hlo')) else []
    name = os.path.basename(bundle.rstrip('/'))
    vms = [(vm, 'A' if vm <= 7 or args.one_pool else 'B', 'medium') for vm in range(1, args.guests + 1)]
    sides = []
    with frame.Host(args.build, args.plugin, vms, {'exec0': args.programs}, backend=args.backend) as host:
        try:
            sides.append(Side([program, 'native', *first, bundle, args.plugin, args.client], dict(os.environ)))
            sides += [Side([program, 'guest', *first, bundle], host.env(vm)) for vm, _, _ in vms]
            for side in sides:
                if side.line() != 'ready':
                    raise RuntimeError('not ready')
            single(name, sides[0], sides[1], args, rows)
            together(name, sides[0], sides[1:2], args, rows)
            if args.guests > 1:
                together(name, sides[0], sides[1:], args, rows)
        except RuntimeError:
            print(host.log()[-3000:], file=sys.stderr)
            raise
        finally:
            for side in sides:
                side.end()


def main():
    parser = argparse.ArgumentParser(description='An execution through libvgpu beside the same one run natively.')
    parser.add_argument('build')
    parser.add_argument('plugin', help='a PJRT plugin, such as xla_cuda_plugin.so of JAX')
    parser.add_argument('bundles', nargs='+')
    parser.add_argument('--client', default='', help="the plugin's options for the native process: key=value;key=value")
    parser.add_argument('--programs', default='', help="vgpud's: client=...,sharing=...: see executors[].programs")
    parser.add_argument('--backend', default='cpu')
    parser.add_argument('--guests', type=int, default=10)
    parser.add_argument('--one-pool', action='store_true', help='pool A for all; otherwise guests from the eighth on are in B')
    parser.add_argument('--rounds', type=int, default=11)
    parser.add_argument('--executions', type=int, default=200, help='of a round and side')
    parser.add_argument('--seconds', type=float, default=2, help='of a round and side, with all guests')
    parser.add_argument('--depths', type=lambda t: [int(d) for d in t.split(',')], default=[1, 2, 4, 8],
                        help='of the native process: executions in flight; the best is taken')
    parser.add_argument('--guest-depth', type=int, default=4)
    parser.add_argument('--json', help='rows of what was measured, as of vgpu-bench')
    args = parser.parse_args()
    args.build, args.plugin = os.path.abspath(args.build), os.path.abspath(args.plugin)
    rows = Rows(args.build)
    for bundle in args.bundles:
        measure(args, os.path.abspath(bundle), rows)
    if args.json:
        rows.write(args.json)


if __name__ == '__main__':
    main()
