# SPDX-License-Identifier: Apache-2.0
"""Initial RAM disks: files, links and programs with the libraries that they need, written as a cpio archive (newc)."""
import os
import shutil
import stat
import subprocess
import tempfile


class Image:
    """What an initramfs holds. Folders of what is added come by themselves. Owner root, uncompressed (quick to boot)."""

    def __init__(self):
        self._entries = {}   # path without leading /: (mode, bytes or path of the file)
        self.library_dirs = []   # searched before the machine's own, for programs that come from packages

    def folder(self, path, mode=0o755):
        path = path.strip('/')
        if path and path not in self._entries:
            self.folder(os.path.dirname(path))
            self._entries[path] = (stat.S_IFDIR | mode, b'')

    def file(self, path, source, mode=0o644):
        """source: bytes, or the path of a file."""
        path = path.strip('/')
        self.folder(os.path.dirname(path))
        self._entries[path] = (stat.S_IFREG | mode, source)

    def link(self, path, target):
        path = path.strip('/')
        self.folder(os.path.dirname(path))
        self._entries[path] = (stat.S_IFLNK | 0o777, target.encode())

    def busybox(self, program):
        self.file('bin/busybox', program, 0o755)
        self.link('bin/sh', 'busybox')

    def program(self, path, source):
        """A program or library without its symbols, and every library that it needs."""
        self.file(path, _stripped(source), 0o755)
        env = {**os.environ, 'LD_LIBRARY_PATH': ':'.join(self.library_dirs)}
        listed = subprocess.run(['ldd', source], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if 'not found' in listed.stdout:
            raise FileNotFoundError(f'{source} needs libraries that are not here: {listed.stdout}')
        for line in listed.stdout.splitlines():
            words = line.split()
            if len(words) >= 3 and words[1] == '=>' and words[2].startswith('/'):
                self.library(words[2])
            elif words and words[0].startswith('/lib'):
                self.file(words[0], os.path.realpath(words[0]), 0o755)

    def library(self, source):
        """A shared library under its own name, in /lib."""
        path = 'lib/' + os.path.basename(source)
        if path not in self._entries:
            self.file(path, _stripped(os.path.realpath(source)), 0o755)

    def write(self, target):
        with open(target, 'wb') as out:
            inode = 0
            for path, (mode, source) in sorted(self._entries.items()):
                inode += 1
                if isinstance(source, bytes):
                    data = source
                else:
                    with open(source, 'rb') as origin:
                        data = origin.read()
                _record(out, inode, path, mode, data)
            _record(out, 0, 'TRAILER!!!', 0, b'')


def _record(out, inode, path, mode, data):
    name = path.encode() + b'\0'
    head = '070701' + ''.join(f'{field:08x}' for field in (
        inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0))
    text = head.encode() + name
    out.write(text + b'\0' * (-len(text) % 4) + data + b'\0' * (-len(data) % 4))


_work = None


def _stripped(source):
    """The file without symbols, as bytes; files that strip does not know stay as they are."""
    global _work
    if _work is None:
        _work = tempfile.TemporaryDirectory(prefix='vgpu-vmlab-')
    copy = os.path.join(_work.name, 'stripped')
    shutil.copyfile(source, copy)
    subprocess.run(['strip', '--strip-unneeded', copy], stdin=subprocess.DEVNULL, capture_output=True)
    with open(copy, 'rb') as file:
        return file.read()
