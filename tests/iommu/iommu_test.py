#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""DMA under an IOMMU, in QEMU: an edu device in a VFIO container of vgpud's reaches the memory of its domain's VM and
nothing else. The same machine without an IOMMU is the control: there each kind of reach must succeed, under its name
with "control-" in front.

usage: iommu_test.py iommu|bare NAME=PROGRAM...
"""
import os
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(HERE))
from vmlab import CannotRun, debs, initramfs, qemu, results
from vmlab.kernel import Kernel

MODULES = ['irqbypass', 'vfio', 'vfio_virqfd', 'vfio_iommu_type1', 'vfio-pci-core', 'vfio-pci']
OPTIONAL = {'vfio_virqfd'}   # part of vfio in later kernels
BLOCKED = ['other-vm', 'host-memory', 'unmapped', 'own-physical', 'null', 'other-domain', 'read-only', 'under-load',
           'after-detach', 'after-kill']
EXPECTED = {
    'iommu': ['groups', 'vgpud', 'attached', 'precheck', 'changes-refused', 'mappings-shown', 'own-memory', *BLOCKED,
              'guest-1-computed', 'guest-2-computed', 'precheck-faults', 'precheck-copy'],
    'bare': ['precheck', 'refuses-without-iommu', 'vgpud', 'attached', *(f'control-{kind}' for kind in BLOCKED),
             'control-faults', 'guest-1-computed', 'guest-2-computed'],
}
CPU = 'qemu64,+rdrand,+ssse3,+sse4.1,+sse4.2,+popcnt'   # DPDK's baseline
EDU = 'edu,dma_mask=0xffffffffffffffff'


def image(programs, work):
    kernel = Kernel()
    made = initramfs.Image()
    made.busybox(os.path.join(debs.tree('busybox', ['busybox-static']), 'bin', 'busybox'))
    made.file('vmlab.sh', os.path.join(os.path.dirname(HERE), 'vmlab', 'guest.sh'))
    made.file('init', os.path.join(HERE, 'machine', 'init.sh'), 0o755)
    for module in MODULES:
        try:
            made.file(f'mod/{module}.ko', kernel.module(module))
        except CannotRun:
            if module not in OPTIONAL:
                raise
    for name, path in programs.items():
        made.program(f'bin/{name}', path)
    target = os.path.join(work, 'machine.cpio')
    made.write(target)
    return kernel.vmlinux(), target


def main():
    mode, programs = sys.argv[1], dict(word.split('=', 1) for word in sys.argv[2:])
    log = os.path.join(os.environ.get('VGPU_TEST_LOGS') or tempfile.gettempdir(), f'vgpu-iommu-{mode}.log')
    read = results.Results()
    machine = ['-machine', 'q35,kernel-irqchip=split', '-device', f'{EDU},addr=3', '-device', f'{EDU},addr=4']
    if mode == 'iommu':
        machine += ['-device', 'intel-iommu,intremap=on,caching-mode=on']
    try:
        debs.need_programs({qemu.PROGRAM: 'qemu-system-x86', 'strip': 'binutils'})
        with tempfile.TemporaryDirectory(prefix='vgpu-iommu-') as work:
            kernel, initrd = image(programs, work)
            arguments = f'console=ttyS0 rdinit=/init quiet intel_iommu={"on" if mode == "iommu" else "off"} vgpu.mode={mode}'
            boot = qemu.boot(['-kernel', kernel, '-append', arguments, '-initrd', initrd, *machine], log=log, limit_s=400,
                             memory_mib=768, cpu=CPU, on_line=read.line)
    except CannotRun as why:
        print(f'SKIP: {why}')
        return 77
    return 1 if results.tap(read.judge(boot, EXPECTED[mode]), read.infos, log) else 0


if __name__ == '__main__':
    sys.exit(main())
