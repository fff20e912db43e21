#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""vgpud on a machine of two NUMA nodes, with huge pages of 2 MiB, of 1 GiB, on one node, and none: where its memory is
by the kernel's own account, and what it says of it.

usage: numa_test.py NAME=PROGRAM...
"""
import os
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(HERE))
from vmlab import CannotRun, debs, initramfs, qemu, results
from vmlab.kernel import Kernel

EXPECTED = ['nodes', 'one-gib', 'starts', 'two-mib-near', 'exchange-near', 'report', 'other-node', 'exchange-follows', 'across',
            'executor-near', 'daemon-free', 'any-warned',
            'none-near', 'plain-pages', 'topology', 'precheck']
CPU = 'qemu64,+rdrand,+ssse3,+sse4.1,+sse4.2,+popcnt,+pdpe1gb'   # DPDK's baseline, and pages of 1 GiB
MEMORY_MIB = {0: 1024, 1: 1536}   # a whole aligned GiB lies on node 1


def image(programs, work):
    kernel = Kernel()
    made = initramfs.Image()
    made.busybox(os.path.join(debs.tree('busybox', ['busybox-static']), 'bin', 'busybox'))
    made.file('vmlab.sh', os.path.join(os.path.dirname(HERE), 'vmlab', 'guest.sh'))
    made.file('init', os.path.join(HERE, 'machine', 'init.sh'), 0o755)
    for name, path in programs.items():
        made.program(f'bin/{name}', path)
    target = os.path.join(work, 'machine.cpio')
    made.write(target)
    return kernel.vmlinux(), target


def main():
    programs = dict(word.split('=', 1) for word in sys.argv[1:])
    log = os.path.join(os.environ.get('VGPU_TEST_LOGS') or tempfile.gettempdir(), 'vgpu-numa.log')
    read = results.Results()
    machine = ['-machine', 'q35']
    for node, mib in MEMORY_MIB.items():
        machine += ['-object', f'memory-backend-ram,id=m{node},size={mib}M',
                    '-numa', f'node,nodeid={node},cpus={2 * node}-{2 * node + 1},memdev=m{node}']
    machine += ['-numa', 'dist,src=0,dst=1,val=21']
    try:
        debs.need_programs({qemu.PROGRAM: 'qemu-system-x86', 'strip': 'binutils'})
        with tempfile.TemporaryDirectory(prefix='vgpu-numa-') as work:
            kernel, initrd = image(programs, work)
            arguments = 'console=ttyS0 rdinit=/init quiet hugepagesz=1G hugepages=1:1'
            boot = qemu.boot(['-kernel', kernel, '-append', arguments, '-initrd', initrd, *machine], log=log, limit_s=1200,
                             memory_mib=sum(MEMORY_MIB.values()), cpus=4, cpu=CPU, on_line=read.line)
    except CannotRun as why:
        print(f'SKIP: {why}')
        return 77
    return 1 if results.tap(read.judge(boot, EXPECTED), read.infos, log) else 0


if __name__ == '__main__':
    sys.exit(main())
