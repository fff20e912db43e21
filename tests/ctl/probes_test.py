#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The USDT probes are in the programs that pass the hops, each with its arguments: read from the ELF notes.

probes_test.py BUILT-WITH-PROBES(yes|no) VGPUD VGPU-EXEC LIBVGPU
"""
import re
import shutil
import subprocess
import sys

HOST = {'seen': 3, 'validated': 3, 'queued': 4}
EXEC = {'dequeued': 3, 'submitted': 3, 'device_start': 3, 'device_end': 3, 'completed': 4}
GUEST = {'published': 3, 'guest_seen': 3}


def probes(path):
    """{name: {number of arguments at each site}} of provider vgpu."""
    text = subprocess.run(['readelf', '-n', '--wide', path], capture_output=True, text=True, check=True).stdout
    found = {}
    for provider, name, arguments in re.findall(r'Provider: (\S+)\n\s+Name: (\S+)\n.*\n\s+Arguments: (.*)', text):
        if provider == 'vgpu':
            found.setdefault(name, set()).add(len(re.findall(r'-?\d+@\S+', arguments)))
    return found


def main():
    built, vgpud, executor, library = sys.argv[1:]
    if not shutil.which('readelf'):
        print('readelf is not installed')
        return 77
    # vgpud runs executors in process, too.
    expected = [(vgpud, {**HOST, **EXEC}), (executor, EXEC), (library, GUEST)]
    if built != 'yes':
        expected = [(path, {}) for path, _ in expected]
    failed = 0
    print(f'1..{len(expected)}')
    for number, (path, names) in enumerate(expected, 1):
        found, want = probes(path), {name: {count} for name, count in names.items()}
        failed += found != want
        print(f'{"ok" if found == want else "not ok"} {number} {path.split("/")[-1]}')
        if found != want:
            print(f'# found {found}, expected {want}')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
