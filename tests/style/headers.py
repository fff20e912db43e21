# SPDX-License-Identifier: Apache-2.0
"""Every header compiles alone as C; those that guests include also as C++ and, the wire format, freestanding.

A file without an include guard is a template, included several times with other macros: only tests and benches may
have such, and it is compiled by those that include it.
"""
import concurrent.futures
import os
import re
import shlex
import shutil
import subprocess
import sys

import common

FLAGS = ['-fsyntax-only', '-Wall', '-Wextra', '-Wno-unused-parameter', '-Wno-unused-function', '-Werror']
C_FLAGS = ['-xc', '-std=gnu11', '-D_GNU_SOURCE', *FLAGS]
WIRE_FLAGS = ['-xc', '-std=c11', '-ffreestanding', '-Wpedantic', *FLAGS]
CXX_FLAGS = ['-xc++', '-std=c++11', '-Wpedantic', *FLAGS]
GUARD = re.compile(r'^#ifndef (\w+)\n#define \1$|^#pragma once', re.M)
PJRT = ('pmd-gpu/programs/pjrt.h', 'pmd-gpu/programs/worker_int.h', 'guest-lib/pjrt/plugin.h')
MODULES = ['libdpdk', 'liburcu-qsbr', 'hwloc', 'sqlite3', 'criterion', 'yaml-0.1', 'jansson', 'openblas', 'libsystemd']


def library_flags():
    """Include paths of what is installed, as system headers: their warnings are not ours."""
    flags = []
    for module in MODULES:
        done = subprocess.run(['pkg-config', '--cflags', module], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        for flag in shlex.split(done.stdout) if done.returncode == 0 else []:
            new = ['-isystem', flag[2:]] if flag.startswith('-I') else [flag]
            flags += [] if new[-1] in flags else new
    return flags


def pjrt_dir():
    """Where pjrt_c_api.h is (./run setup --programs), or None."""
    cache = os.environ.get('XDG_CACHE_HOME') or os.path.join(os.path.expanduser('~'), '.cache')
    path = os.path.join(cache, 'vgpu', 'pjrt', 'include')
    return path if os.path.exists(os.path.join(path, 'pjrt_c_api.h')) else None


def compiles(compiler, flags, header):
    done = subprocess.run([*compiler, *flags, '-I', common.root(), '-'], input=f'#include "{header}"\n', text=True,
                          capture_output=True, cwd=common.root(), timeout=60)
    if done.returncode == 0:
        return None
    first = [line for line in done.stderr.splitlines() if 'error' in line] or done.stderr.splitlines()
    return f'{header}: {first[0] if first else f"exit {done.returncode}"}'


def check(tally, name, compiler, flags, headers):
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        faults = [fault for fault in pool.map(lambda h: compiles(compiler, flags, h), headers) if fault]
    tally.rule(f'{len(headers)} headers {name}', faults if headers else ['there are none'])


def main():
    tally = common.Tally()
    cc = sys.argv[2].split('@') if len(sys.argv) > 2 else ['cc']
    every = common.files('.h')
    templates = [h for h in every if not GUARD.search('\n'.join(common.lines(h)))]
    tally.rule('each header has an include guard', (f'{h}: no include guard' for h in templates
                                                    if not h.startswith(('tests/', 'bench/'))))
    every = [h for h in every if h not in templates]
    wire = [h for h in every if h.startswith('rings/abi/')]
    flags = C_FLAGS + library_flags()
    if pjrt_dir():
        flags += ['-isystem', pjrt_dir()]
    else: # as the build leaves out what needs it
        needs = [h for h in every if h in PJRT]
        every = [h for h in every if h not in needs]
        tally.skip(f'{len(needs)} headers over PJRT compile', 'no pjrt_c_api.h here (./run setup --programs)')
    check(tally, 'compile alone as C', cc, flags, every)
    check(tally, 'of the wire format compile freestanding', cc, WIRE_FLAGS, wire)
    cxx = next((c for c in ('g++', 'c++', 'clang++') if shutil.which(c)), None)
    if cxx:
        check(tally, 'that guests include compile as C++', [cxx], CXX_FLAGS, wire + ['guest-lib/vgpu.h'])
    else:
        tally.skip('headers that guests include compile as C++', 'no C++ compiler here')
    tally.finish()


if __name__ == '__main__':
    main()
