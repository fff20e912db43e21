# SPDX-License-Identifier: Apache-2.0
"""Rooms depend one way: who may include whom, and which room alone may include a foreign library's headers."""
import os
import re

import common

LEAF = {'rings/abi', 'core/base', 'rings'}
# Room -> rooms whose headers it may include (its own always).
MAY = {
    'rings/abi': set(),
    'core/base': {'rings/abi'},
    'rings': {'rings/abi', 'core/base'},
    'local-transport': LEAF,
    'xen-transport': LEAF,
    'sandbox': LEAF,
    'pmd-gpu': LEAF | {'sandbox'},
    'store': LEAF,
    'trace': LEAF,
    'host': LEAF,
    'iommu': LEAF | {'host'},
    'core/config': LEAF,
    'control': LEAF | {'store', 'core/config', 'iommu'},
    'core': LEAF | {'core/config', 'control', 'local-transport', 'xen-transport', 'pmd-gpu', 'sandbox',
                    'store', 'host', 'iommu', 'trace'},
    'ctl': LEAF | {'core/config', 'control', 'store', 'host', 'iommu', 'trace'},
    'config': LEAF | {'core/config'},
    'guest-lib': LEAF | {'guest halves'},
    'guest-lib/examples': {'rings/abi', 'core/base', 'guest-lib'},
    'guest-lib/pjrt': LEAF | {'guest-lib'},
}
ANYTHING = ('bench', 'tests')
GUEST_HALF = re.compile(r'(local|xen)-transport/guest')
# Headers of foreign libraries -> the rooms that may include them (bench and tests may include all).
FOREIGN = {
    'CUDA': (r'(cuda|cublas|nvml|nvrtc)\w*\.h$', {'pmd-gpu'}),
    'PJRT': (r'pjrt_c_api\.h$', {'pmd-gpu', 'guest-lib/pjrt'}),
    'BLAS': (r'(openblas/)?cblas[\w-]*\.h$', {'pmd-gpu'}),
    'Xen': (r'(xen\w*|xs|xen/.*)\.h$', {'xen-transport'}),
    'SQLite': (r'sqlite3\w*\.h$', {'store'}),
    'hwloc': (r'hwloc.*\.h$', {'core', 'host'}),
    'DPDK': (r'(dpdk/)?rte_\w+\.h$', {'core'}),
    'VFIO': (r'linux/vfio\.h$', {'iommu'}),
    'liburcu': (r'urcu.*\.h$', {'core'}),
    'libyaml': (r'yaml\.h$', {'core/config'}),
}
BOTH_SIDES = ('PJRT',)  # the host opens a plugin, the guest is one: the same door
INCLUDE = re.compile(r'^\s*#\s*include\s+([<"])([^>"]+)[>"]')


CONFIG = re.compile(r'core/(config\w*|breaker)\.[ch]$')  # need nothing else of core, and are needed without it


def room_of(path):
    if CONFIG.match(path):
        return 'core/config'
    for room in sorted(MAY, key=len, reverse=True):
        if path.startswith(room + '/'):
            return room
    return path.split('/')[0]


def includes():
    for path in common.files('.c', '.h', '.cu', '.cpp', '.cc'):
        for number, line in enumerate(common.lines(path), 1):
            found = INCLUDE.match(line)
            if found:
                yield path, number, found.group(1) == '"', found.group(2)


def resolve(path, name):
    """The project file that an include names, or None."""
    for candidate in (name, os.path.join(os.path.dirname(path), name)):
        candidate = os.path.normpath(candidate)
        if os.path.exists(os.path.join(common.root(), candidate)):
            return candidate
    return None


def allowed(room, target):
    other = room_of(target)
    if room == other or room.startswith(ANYTHING):
        return True
    if 'guest halves' in MAY[room] and GUEST_HALF.match(target):
        return True
    return other in MAY[room]


def main():
    tally = common.Tally()
    found = list(includes())
    arrows, lost, unknown = [], [], []
    for path, number, quoted, name in found:
        room = room_of(path)
        if room not in MAY and not room.startswith(ANYTHING):
            unknown.append(f'{path}: room {room} is not in the table of this test')
            continue
        target = resolve(path, name) if quoted else None
        # A guest program names the public headers as it would when they are installed.
        if quoted and not target and name not in ('vgpu.h', 'vgpu_abi.h'):
            lost.append(f'{path}:{number}: "{name}" is no file of this tree (libraries are included with <>)')
        if target and not allowed(room, target):
            arrows.append(f'{path}:{number}: {room} may not include {target}')
    tally.rule('rooms include only what is below them', arrows)
    tally.rule('quoted includes name files of this tree', lost)
    tally.rule('each source file is in a room that the table knows', sorted(set(unknown)))
    for family, (pattern, rooms) in FOREIGN.items():
        users = {}
        for path, number, quoted, name in found:
            if not quoted and re.match(pattern, name) and not room_of(path).startswith(ANYTHING):
                users.setdefault(room_of(path), f'{path}:{number}: {name}')
        faults = [f'{where} (only {" or ".join(sorted(rooms))} may)' for room, where in users.items()
                  if room not in rooms]
        if len(users) > 1 and family not in BOTH_SIDES:
            faults.append(f'{family} headers are in more than one room: {", ".join(sorted(users))}')
        tally.rule(f'{family} headers stay in one room', faults)
    if len(found) < 20:
        tally.rule('the tree was found', [f'only {len(found)} includes under {common.root()}'])
    tally.finish()


if __name__ == '__main__':
    main()
