# SPDX-License-Identifier: Apache-2.0
"""What the tests of suite ml share: vgpud with programs on PJRT's plugin for CPUs, in a directory of its own; what must be
installed; a count of checks whose last line `./run test` reads."""
import os
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, 'scripts'))
import pjrt  # noqa: E402

CANNOT = 77
READY_S, CONTROL_S, STOP_S = 60, 60, 60


def cannot(why):
    """This machine cannot run the test: the last line is the reason."""
    print(why)
    sys.exit(CANNOT)


def installed(*what):
    """Runs pjrt.header, pjrt.venv ... and returns what they return; ends the test with 77 where that is not to be had."""
    try:
        return [one() for one in what]
    except (pjrt.CannotFetch, OSError, subprocess.TimeoutExpired) as error:
        cannot(f'cannot install what this needs: {error}')


def build_has(build, path):
    full = os.path.join(build, path)
    if not os.path.exists(full):
        cannot(f'{path} was not built: ./run setup --programs, then start over with a new build folder')
    return full


def library(build):
    """libvgpu for Python: in a build folder, or beside the one of an unpacked bundle."""
    bundled = os.path.join(os.path.dirname(build), 'lib', 'libvgpu.so.0')
    return bundled if os.path.exists(bundled) else build_has(build, 'guest-lib/libvgpu.so.0')


def in_environment(python):
    """Starts the calling script again under that python, unless it runs there already."""
    if os.path.dirname(os.path.dirname(python)) != sys.prefix:
        os.execv(python, [python, '-B', *sys.argv])


class Tally:
    """check() counts one; finish() ends the program with the line that is counted."""

    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    def check(self, good, what):
        print(('ok   ' if good else 'FAIL ') + what, flush=True)
        if good:
            self.passed += 1
        else:
            self.failed += 1
        return bool(good)

    def skip(self, what, why):
        print(f'SKIP {what}: {why}', flush=True)
        self.skipped += 1

    def finish(self):
        print(f'{self.passed} passed, {self.failed} failed' + (f', {self.skipped} skipped' if self.skipped else ''))
        sys.exit(1 if self.failed or not self.passed else 0)


class Host:
    """vgpud, its executors and VMs. executors: {name: options of programs, without plugin=}; vms: [(id, pool, priority)]
    with the pools of `pools`, {name: executor}. A context manager: what it started is gone at its end."""

    def __init__(self, build, plugin, vms, executors=None, pools=None, backend='cpu'):
        self.build, self.plugin, self.vms, self.backend = build, plugin, vms, backend
        self.executors = executors or {'exec0': ''}
        self.pools = pools or {'A': 'exec0', 'B': 'exec0'}
        self.daemon = None

    def __enter__(self):
        self.dir = tempfile.mkdtemp(prefix='vgpu-ml-', dir='/tmp')  # a unix socket's path has 107 bytes
        try:
            self._start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _start(self):
        lines = [f'paths: {{run_dir: {self.dir}/run, state_dir: {self.dir}/state}}', 'executors:']
        cpus = os.cpu_count() or 1
        room = cpus >= 8 and cpus > 4 + 2 * len(self.executors)  # for cores of their own: times mean something there
        if room:
            idle = '{spin_us: 200, pause_us: 800, sleep: true}'  # as in config/gpu.yaml
            lines.insert(1, f'poll_cores: {{cpus: [2], idle: {idle}}}')
            lines.insert(2, f'executor_idle: {idle}')
        for i, (name, more) in enumerate(self.executors.items()):
            lines.append(f'  - {{name: {name}, backend: {self.backend}, ' + (f'cpu: {4 + 2 * i}, ' if room else '') +
                         f'programs: "plugin={self.plugin}{"," + more if more else ""}"}}')
        lines.append('pools:')
        lines += [f'  - {{name: {pool}, executor: {name}}}' for pool, name in self.pools.items()]
        config = os.path.join(self.dir, 'vgpud.yaml')
        with open(config, 'w', encoding='utf-8') as f:
            f.write('\n'.join(lines) + '\n')
        ready_read, ready_write = os.pipe()
        with open(os.path.join(self.dir, 'log'), 'w', encoding='utf-8') as log:
            self.daemon = subprocess.Popen([os.path.join(self.build, 'core/vgpud'), '--config', config,
                                            f'--ready-fd={ready_write}'], pass_fds=[ready_write],
                                           stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        os.close(ready_write)
        with os.fdopen(ready_read, 'rb') as f:
            if f.read() != b'ready\n':
                raise RuntimeError('vgpud did not become ready:\n' + self.log())
        for vm, pool, priority in self.vms:
            self.ctl('register-vm', f'--vm-id={vm}', f'--pool={pool}', f'--priority={priority}', f'--uid={os.getuid()}')

    def __exit__(self, *_):
        status = 0
        if self.daemon:
            self.daemon.terminate()
            try:
                status = self.daemon.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.daemon.kill()
                status = self.daemon.wait()
            self.daemon = None
        self.last_log = self.log()
        shutil.rmtree(self.dir, ignore_errors=True)
        self.status = status

    def log(self):
        try:
            with open(os.path.join(self.dir, 'log'), encoding='utf-8', errors='replace') as f:
                return f.read()
        except OSError:
            return ''

    def ctl(self, *arguments):
        """vgpu-ctl's output; raises where it fails."""
        done = subprocess.run([os.path.join(self.build, 'ctl/vgpu-ctl'), f'--socket={self.dir}/run/control.sock', *arguments],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=CONTROL_S)
        if done.returncode:
            raise RuntimeError(f'vgpu-ctl {" ".join(arguments)}: {done.stderr.strip()}')
        return done.stdout

    def env(self, vm):
        """The environment of a guest that is this VM."""
        return {**os.environ, 'VGPU_VM_ID': str(vm), 'VGPU_SOCKET': f'{self.dir}/run/attach.sock', 'VGPU_TRANSPORT': 'local',
                'VGPU_TOKEN_FILE': f'{self.dir}/run/tokens/vm-{vm}.token', 'PYTHONDONTWRITEBYTECODE': '1'}
