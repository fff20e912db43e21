# SPDX-License-Identifier: Apache-2.0
"""One meson build directory: what suites it has, how it is made, how its tests are run within a time limit."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import testlog

PROGRESS = re.compile(r'^\s*(\d+)/(\d+) ')


class BuildError(Exception):
    """A build directory could not be made or asked; `text` is the output, `log` where it stands."""

    def __init__(self, message, text='', log=''):
        super().__init__(message)
        self.text = text
        self.log = log


def tool(name):
    """The distribution's tool before whatever stands first in PATH."""
    path = f'/usr/bin/{name}'
    return path if os.access(path, os.X_OK) else name


def stop_group(process):
    """Ends a process and all that it started."""
    for sig, patience_s in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
        try:
            os.killpg(process.pid, sig)
        except ProcessLookupError:
            return
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            continue


class Build:
    def __init__(self, root, path):
        self.root = root
        self.path = path
        self.log_dir = os.path.join(root, 'build', 'log')

    def suites(self):
        """Suites with at least one test, in no particular order; [] when the directory is not configured."""
        if not os.path.exists(os.path.join(self.path, 'build.ninja')):
            return []
        names = {s.split(':', 1)[-1] for test in self._introspect('--tests') for s in test['suite']}
        return sorted(names - {'vgpu'})

    def _step(self, log, command, what):
        with open(log, 'ab') as sink:
            code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT,
                                  timeout=1800).returncode
        if code:
            with open(log, encoding='utf-8', errors='replace') as text:
                raise BuildError(f'{what} failed (exit {code})', text.read(), log)

    def make(self, options):
        """Configures with these meson options where needed, and compiles all. Raises BuildError."""
        self.configure(options)
        self.compile()

    def _build_log(self):
        return os.path.join(self.log_dir, os.path.basename(self.path) + '.log')

    def configure(self, options):
        """Raises BuildError."""
        os.makedirs(self.path, exist_ok=True)
        os.makedirs(self.log_dir, exist_ok=True)
        log = self._build_log()
        open(log, 'wb').close()
        stamp, want = os.path.join(self.path, '.stamp'), '\n'.join([self.root, *options])
        have = open(stamp, encoding='utf-8').read() if os.path.exists(stamp) else ''
        ninja = [tool('ninja'), '-C', self.path]
        if have == want and os.path.exists(os.path.join(self.path, 'build.ninja')):
            try:
                self._step(log, [*ninja, 'build.ninja'], 'reconfigure')
            except BuildError:
                have = ''
        if have != want or not os.path.exists(os.path.join(self.path, 'build.ninja')):
            shutil.rmtree(self.path)
            self._step(log, [tool('meson'), 'setup', *options, self.path, self.root], 'configure')
            with open(stamp, 'w', encoding='utf-8') as out:
                out.write(want)

    def compile(self, targets=()):
        """All, or these files. Raises BuildError."""
        self._step(self._build_log(), [tool('ninja'), '-C', self.path, *targets], 'build')

    def _introspect(self, what):
        done = subprocess.run([tool('meson'), 'introspect', what, self.path], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise BuildError('meson introspect failed', done.stdout + done.stderr)
        return json.loads(done.stdout)

    def tests(self, suites):
        """{name: suite} of the tests in these suites."""
        return {test['name']: s.split(':', 1)[-1] for test in self._introspect('--tests') for s in test['suite']
                if s.split(':', 1)[-1] in suites}

    def needed(self, names):
        """What must be compiled for these tests: what each says that it runs or depends on. Paths relative to the build."""
        wanted = {i for test in self._introspect('--tests') if test['name'] in names for i in test['depends']}
        return sorted(os.path.relpath(f, os.path.realpath(self.path)) for target in self._introspect('--targets')
                      if target['id'] in wanted for f in target['filename'])

    def run(self, suites, *, processes, limit_s, logbase, env=None, prefix=(), scale=1, names=()):
        """Runs the tests of these suites, or of them those of these names; processes: at once, None: one for each CPU.
        Returns (testlog.Outcome, path of the full log)."""
        command = [*prefix, tool('meson'), 'test', '-C', self.path, '--no-rebuild', '--logbase', logbase, '-t', str(scale)]
        for suite in suites:
            command += ['--suite', suite]
        if processes:
            command += ['--num-processes', str(processes)]
        command += names
        base = os.path.join(self.path, 'meson-logs', logbase)
        for ending in ('.json', '.txt'):
            if os.path.exists(base + ending):
                os.unlink(base + ending)
        text, code, late = self._watch(command, {**os.environ, **(env or {})}, limit_s, suites)
        records = testlog.read(base + '.json')
        outcome = testlog.Outcome(logbase)
        for record in records:
            outcome.add(testlog.judge(record))
        if late:
            outcome.fail(f'stopped after {limit_s} s, the limit of a suite', text)
        elif code and not outcome.failed and records:
            outcome.fail(f'meson test ended with exit {code}', text)
        elif not records and 'No suitable tests' not in text and 'No tests defined' not in text:
            outcome.fail(f'meson test recorded nothing (exit {code})', text)
        return outcome, base + '.txt'

    def _watch(self, command, env, limit_s, suites):
        """Runs meson test, with a line of progress on a terminal. Returns (output, exit code, ran too long)."""
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   env=env, start_new_session=True)
        os.set_blocking(process.stdout.fileno(), False)
        deadline, seen, late = time.monotonic() + limit_s, b'', False
        try:
            while True:
                chunk = process.stdout.read() or b''
                seen += chunk
                self._progress(suites, seen)
                if process.poll() is not None and not chunk:
                    break
                if time.monotonic() > deadline:
                    late = True
                    break
                time.sleep(0.1 if not chunk else 0)
        finally:
            if process.poll() is None:
                stop_group(process)
            if sys.stderr.isatty():
                print('\r\033[K', end='', file=sys.stderr, flush=True)
        return seen.decode(errors='replace'), process.returncode, late

    @staticmethod
    def _progress(suites, seen):
        if not sys.stderr.isatty():
            return
        done = [m for m in map(PROGRESS.match, seen[-4000:].decode(errors='replace').splitlines()) if m]
        count = f'{done[-1].group(1)} of {done[-1].group(2)}' if done else ''
        print(f'\r\033[K{" ".join(suites):<12} {count}', end='', file=sys.stderr, flush=True)
