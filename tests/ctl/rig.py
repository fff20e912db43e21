# SPDX-License-Identifier: Apache-2.0
"""A real vgpud in a directory of its own, vgpu-ctl to talk to it, and TAP. For the tests of this folder."""
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback

CONFIG = '''paths:
  run_dir: {0}/run
  state_dir: {0}/state
'''


LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1


def die_with_parent():
    """A test that is killed leaves no daemon behind. (Set by the thread that starts it, so start it from the main one.)"""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Skip(Exception):
    """Raised by a test that cannot run here; the text says why."""


class Daemon:
    """vgpud with the default configuration, below a fresh directory that goes with it."""

    def __init__(self, vgpud, ctl, config=CONFIG):
        self.vgpud, self.ctl = vgpud, ctl
        self.where = tempfile.mkdtemp(prefix='vgpu-ctl-test-')
        self.socket = os.path.join(self.where, 'run', 'control.sock')
        self.database = os.path.join(self.where, 'state', 'vgpu.db')
        self.config = os.path.join(self.where, 'vgpud.yaml')
        self.process = None
        with open(self.config, 'w', encoding='utf-8') as f:
            f.write(config.format(self.where))

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        if self.process:
            self.kill()
        shutil.rmtree(self.where, ignore_errors=True)

    def start(self):
        ready_read, ready_write = os.pipe()
        with open(os.path.join(self.where, 'log'), 'a', encoding='utf-8') as log:
            self.process = subprocess.Popen([self.vgpud, '--config', self.config, f'--ready-fd={ready_write}'],
                                            pass_fds=[ready_write], stdin=subprocess.DEVNULL,
                                            stdout=subprocess.DEVNULL, stderr=log, preexec_fn=die_with_parent)
        os.close(ready_write)
        with os.fdopen(ready_read, 'rb') as f:
            if f.read() != b'ready\n':
                self.process = None
                raise RuntimeError('vgpud did not become ready:\n' + self.log())

    def log(self):
        with open(os.path.join(self.where, 'log'), encoding='utf-8') as f:
            return f.read()[-4000:]

    def stop(self):
        self.process.terminate()
        status = self.process.wait(timeout=60)
        self.process = None
        if status:
            raise AssertionError(f'vgpud ended with {status}:\n{self.log()}')

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process = None

    def run(self, *args, env=None, stdin='', socket=True):
        """vgpu-ctl with these arguments, as (exit status, output, diagnostics)."""
        every = dict(os.environ, **(env or {}))
        every.pop('VGPU_CONTROL_SOCKET', None)
        if socket:
            every['VGPU_CONTROL_SOCKET'] = self.socket
        done = subprocess.run([self.ctl, *args], env=every, input=stdin.encode(), stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=60, check=False)
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    def json(self, *args, **more):
        """The result of a command that must work, from --json."""
        status, output, errors = self.run(*args, '--json', **more)
        assert status == 0, f'{args}: exit {status}: {errors}'
        assert errors == '', f'{args}: {errors}'
        assert output.count('\n') == 1 and output.endswith('\n'), f'{args}: not one line: {output!r}'
        return json.loads(output)

    def good(self, *args, **more):
        """The output of a command that must work."""
        status, output, errors = self.run(*args, **more)
        assert status == 0, f'{args}: exit {status}: {errors}'
        return output

    def fails(self, status, message, *args, **more):
        """A command that must fail: this exit status, nothing on standard output, one clean line of diagnostics."""
        got, output, errors = self.run(*args, **more)
        assert got == status, f'{args}: exit {got}, expected {status}: {output}{errors}'
        assert output == '', f'{args}: prints {output!r} although it fails'
        assert errors.startswith('vgpu-ctl: ') and errors.count('\n') == 1 and errors.endswith('\n'), \
            f'{args}: expected one line of diagnostics, got {errors!r}'
        assert all(c >= ' ' and c != '\x7f' for c in errors[:-1]), f'{args}: control characters in {errors!r}'
        assert message in errors, f'{args}: expected {message!r} in {errors!r}'
        return errors


def run_tests(tests):
    """Calls each (name, function); prints TAP; the exit status."""
    failed = 0
    for number, (name, function) in enumerate(tests, 1):
        try:
            function()
            print(f'ok {number} - {name}')
        except Skip as why:
            print(f'ok {number} - {name} # SKIP {why}')
        except Exception:  # whatever it is, it is this test's failure
            failed += 1
            print(f'not ok {number} - {name}')
            print('# ' + traceback.format_exc().rstrip().replace('\n', '\n# '))
        sys.stdout.flush()
    print(f'1..{len(tests)}')
    return 1 if failed else 0
