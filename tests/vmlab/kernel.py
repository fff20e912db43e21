# SPDX-License-Identifier: Apache-2.0
"""The distribution's kernel and modules, out of its package."""
import glob
import lzma
import os
import struct
import zlib

from vmlab import CannotRun, debs

# Folders of modules worth keeping (the package has 350 MB of them); anything may be added.
MODULES = ('drivers/xen/', 'drivers/vfio/', 'drivers/iommu/', 'virt/lib/', 'drivers/hv/', 'drivers/char/')


class Kernel:
    """vmlinuz: the compressed kernel, as QEMU wants it; module(name) finds a module."""

    def __init__(self):
        package = debs.dependency('linux-image-amd64', r'linux-image-\d\S*')
        self.root = debs.tree('kernel', [package], lambda path: path.startswith('boot/') or any(
            f'/kernel/{folder}' in path for folder in MODULES))
        found = glob.glob(os.path.join(self.root, 'boot', 'vmlinuz-*'))
        if len(found) != 1:
            raise CannotRun(f'{package} has no kernel in boot/')
        self.vmlinuz = found[0]

    def module(self, name):
        found = glob.glob(os.path.join(self.root, '**', name + '.ko*'), recursive=True)
        if len(found) != 1:
            raise CannotRun(f'the kernel package has no module {name}')
        return found[0]

    def vmlinux(self):
        """The kernel as an ELF file: a PV or PVH guest of Xen starts that. The payload stands in the boot protocol's
        setup header."""
        target = os.path.join(self.root, 'vmlinux')
        if not os.path.exists(target):
            with open(self.vmlinuz, 'rb') as image:
                data = image.read()
            setup_sectors = data[0x1f1] or 4
            offset, length = struct.unpack_from('<II', data, 0x248)
            start = (setup_sectors + 1) * 512 + offset
            with open(target + '.part', 'wb') as out:
                out.write(_decompressed(data[start:start + length]))
            os.rename(target + '.part', target)
        return target


def _decompressed(payload):
    if payload.startswith(b'\xfd7zXZ\0'):
        return lzma.LZMADecompressor().decompress(payload)
    if payload.startswith(b'\x1f\x8b'):
        return zlib.decompressobj(31).decompress(payload)
    raise CannotRun('the kernel is compressed with something else than xz or gzip')
