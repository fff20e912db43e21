# SPDX-License-Identifier: Apache-2.0
"""Xen in QEMU: the images of dom0 and of its guests, and one boot of them with a scenario."""
import glob
import gzip
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(HERE))
from vmlab import CannotRun, debs, initramfs, qemu
from vmlab.kernel import Kernel

# Debian 12's. What libxen-dev installs on the machine is of the same version, but need not be there.
VERSION = '4.17'
PACKAGES = [f'xen-hypervisor-{VERSION}-amd64', f'xen-utils-{VERSION}', 'xenstore-utils', f'libxenmisc{VERSION}',
            'libxencall1', 'libxendevicemodel1', 'libxenevtchn1', 'libxenforeignmemory1', 'libxengnttab1', 'libxenstore4',
            'libxentoolcore1', 'libxentoollog1', 'libxenhypfs1', 'libyajl2', 'libuuid1', 'zlib1g', 'liblzma5', 'libzstd1']
GUEST_LIBRARIES = ['libxengnttab.so.1', 'libxenevtchn.so.1', 'libxenstore.so.4', 'libxentoolcore.so.1',
                   'libxentoollog.so.1']
STORE_TOOLS = ['read', 'write', 'ls', 'rm', 'chmod', 'exists', 'list', 'watch']
# The short time slice lets guests that poll share one CPU; without loglvl the console is full of Xen's own words.
XEN_ARGUMENTS = ('dom0_mem={mem}M,max:{mem}M dom0_max_vcpus=1 com1=115200,8n1 console=com1 conring_size=128k '
                 'bootscrub=0 loglvl=warning guest_loglvl=warning sched=credit sched_credit_tslice_ms=1 sched_ratelimit_us=100')


def part_text(part):
    path = part if os.path.exists(part) else os.path.join(HERE, 'parts', part + '.sh')
    with open(path, encoding='utf-8') as text:
        return text.read()


def expected(parts):
    """The checks that these parts announce, in their lines `# expects: name name...`."""
    return [name for part in parts for line in part_text(part).splitlines() if line.startswith('# expects: ')
            for name in line.split()[2:]]


class Lab:
    """What the scenarios need, as files: made once for each run, in `work`."""

    def __init__(self, programs, work):
        """programs: {name: path} of the project's own: vgpud, vgpu-exec, vgpu-ctl for dom0, all others for guests."""
        debs.need_programs({qemu.PROGRAM: 'qemu-system-x86', 'strip': 'binutils'})
        self.work = work
        self.programs = programs
        self.kernel = Kernel()
        self.busybox = os.path.join(debs.tree('busybox', ['busybox-static']), 'bin', 'busybox')
        self.xen_root = debs.tree('xen', PACKAGES)
        self.libraries = [os.path.join(self.xen_root, folder, 'x86_64-linux-gnu') for folder in ('usr/lib', 'lib')]
        self.hypervisor = os.path.join(work, 'xen')
        found = glob.glob(os.path.join(self.xen_root, 'boot', f'xen-{VERSION}-amd64.gz'))
        if len(found) != 1:
            raise CannotRun(f'the package of Xen {VERSION} has no hypervisor in boot/')
        with gzip.open(found[0]) as packed, open(self.hypervisor, 'wb') as out:
            out.write(packed.read())

    def _image(self):
        image = initramfs.Image()
        image.library_dirs = self.libraries
        image.busybox(self.busybox)
        image.file('vmlab.sh', os.path.join(os.path.dirname(HERE), 'vmlab', 'guest.sh'))
        image.file('trace.sh', os.path.join(HERE, 'trace.sh'))
        for tool in STORE_TOOLS:
            image.program(f'bin/xenstore-{tool}', os.path.join(self.xen_root, 'usr', 'bin', f'xenstore-{tool}'))
        return image

    def _library(self, image, name):
        for folder in self.libraries:
            if os.path.exists(os.path.join(folder, name)):
                return image.library(os.path.join(folder, name))
        raise FileNotFoundError(name)

    def guest_image(self):
        image = self._image()
        for name in GUEST_LIBRARIES:   # libvgpu opens them at run time
            self._library(image, name)
        for module in ('xen-evtchn', 'xen-gntalloc', 'xen-gntdev'):
            image.file(f'mod/{module}.ko', self.kernel.module(module))
        for name, path in self.programs.items():
            if name not in ('vgpud', 'vgpu-exec', 'vgpu-ctl'):
                image.program(f'bin/{name}', path)
        image.file('init', os.path.join(HERE, 'domu', 'init.sh'), 0o755)
        target = os.path.join(self.work, 'domu.cpio')
        image.write(target)
        return target

    def dom0_image(self, parts):
        """parts: scripts of parts/ by name, or paths; dom0 runs them one after the other."""
        image = self._image()
        for module in ('xen-privcmd', 'xen-evtchn', 'xen-gntdev', 'xen-gntalloc', 'xenfs'):
            image.file(f'mod/{module}.ko', self.kernel.module(module))
        tools = f'usr/lib/xen-{VERSION}/bin'
        for tool in ('xenstored', 'xenconsoled', 'xl', 'xen-init-dom0', 'libxl-save-helper', 'lsevtchn'):
            image.program(f'{tools}/{tool}', os.path.join(self.xen_root, tools, tool))
        image.library('/lib/x86_64-linux-gnu/libgcc_s.so.1')   # xl ends its threads through it
        for name in GUEST_LIBRARIES:
            self._library(image, name)
        for name, path in self.programs.items():
            image.program(f'bin/{name}', path)
        for folder in ('var/lib/xen', 'var/lib/xenstored', 'var/log/xen/console', 'var/lock', 'var/run', 'etc/xen'):
            image.folder(folder)
        image.file('etc/xen/xl.conf', b'autoballoon="off"\nmax_maptrack_frames=8\n')
        image.file('boot/domu.cpio', self.guest_image())
        image.file('boot/vmlinux', self.kernel.vmlinux())
        for source in glob.glob(os.path.join(HERE, 'dom0', '*.sh')):
            image.file('lab/' + os.path.basename(source), source)
        image.link('init', 'lab/init.sh')
        script = os.path.join(os.path.dirname(os.path.dirname(HERE)), 'config', 'xen', 'vgpu-xen-device')
        image.file('lab/vgpu-xen-device', script, 0o755)
        image.file('lab/init.sh', os.path.join(HERE, 'dom0', 'init.sh'), 0o755)
        image.file('lab/scenario.sh', '\n'.join(part_text(part) for part in parts).encode())
        target = os.path.join(self.work, 'dom0.cpio')
        image.write(target)
        return target

    def boot(self, parts, *, log, limit_s, on_line, memory_mib=1280, dom0_mib=704, cpus=2, pvh=False, arguments='',
             xen='', machine=()):
        """Boots Xen; dom0 then runs the parts. A qemu.Boot."""
        image = self.dom0_image(parts)
        return qemu.boot(
            ['-kernel', self.hypervisor, '-append', f'{XEN_ARGUMENTS.format(mem=dom0_mib)} {xen}', *machine,
             '-initrd', f'{self.kernel.vmlinux()} console=hvc0 rdinit=/init quiet {arguments},{image}'],
            log=log, limit_s=limit_s, memory_mib=memory_mib, cpus=cpus,
            cpu=qemu.CPU + (',+svm,+npt' if pvh else ''), on_line=on_line)
