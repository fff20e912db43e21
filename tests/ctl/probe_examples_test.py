#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The commands that docs/tracing.md gives for the probes, with the paths of this build: probes and arguments that they name are
there (`names`); bpftrace and perf run them beside a real vgpud and count what a guest sent (`live`). Where one of the two is not
installed, or the kernel or this user may not use it, that is said.

probe_examples_test.py names|live VGPUD VGPU-CTL VGPU-EXEC LIBVGPU docs/tracing.md
"""
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import probes_test
import rig
import trace_test

CONFIG = trace_test.CONFIG % '    backend: cpu\n    in_process: %s'
SENT = 300
WAITS_S = (1, 3, 8)  # tries: a tracer says that it attaches before it has done so, and nobody says when it has


def block(doc):
    """The examples: one command a line, continued inside of quotes."""
    with open(doc, encoding='utf-8') as text:
        found = [b for b in re.findall(r'```\n(.*?)```', text.read(), re.S) if 'bpftrace' in b]
    assert len(found) == 1, 'docs/tracing.md has another number of such blocks'
    return found[0]


def bpftrace_programs(text):
    return re.findall(r"bpftrace -p \$\(pidof [\w-]+\) -e '(.*?)'", text, re.S)


class Examples:
    def __init__(self, vgpud, ctl, executor, library, doc):
        self.vgpud, self.ctl, self.executor, self.library, self.text = vgpud, ctl, executor, library, block(doc)
        self.paths = {'/usr/sbin/vgpud': vgpud, '/usr/libexec/vgpu/vgpu-exec': executor}
        self.programs = bpftrace_programs(self.text)

    def here(self, text):
        for installed, built in self.paths.items():
            text = text.replace(installed, built)
        return text

    def name_what_is_there(self):
        """Each probe of an example is in the program that it is asked of, with so many arguments."""
        assert len(self.programs) == 2, self.programs
        for program in self.programs:
            clauses = re.findall(r'usdt:(\S+?):vgpu:(\w+)\s*(?:/.*?/)?\s*\{(.*?)\}', program, re.S)
            assert clauses, program
            for path, name, body in clauses:
                found = probes_test.probes(self.paths[path])
                used = [int(n) for n in re.findall(r'\barg(\d)', body)]
                assert name in found, f'{path} has no probe {name}'
                assert max(used, default=0) < min(found[name]), f'{name} has {found[name]} arguments; the example uses {used}'
        for name in re.findall(r'(?:sdt_vgpu|-probe-stap vgpu):(\w+)', self.text):
            assert name in {**probes_test.HOST, **probes_test.EXEC}, name

    def need(self, tool):
        if not shutil.which(tool):
            raise rig.Skip(f'{tool} is not installed')
        if os.geteuid():
            raise rig.Skip(f'{tool} needs root for probes')

    def load(self, daemon):
        with trace_test.Guest(daemon, self.library, 1) as guest:
            guest.nops(SENT)

    @contextlib.contextmanager
    def daemon(self, in_process):
        with rig.Daemon(self.vgpud, self.ctl, CONFIG % ('true' if in_process else 'false')) as daemon:
            daemon.good('register-vm', '--vm-id=1', '--pool=A', '--priority=high', f'--uid={os.getuid()}')
            yield daemon

    def bpftrace(self, program, pid, daemon, wait_s):
        """What it prints at its end, after a guest has sent SENT NOPs."""
        with tempfile.TemporaryFile('w+') as out:
            tracer = subprocess.Popen(['bpftrace', '-p', str(pid), '-e', self.here(program)], stdin=subprocess.DEVNULL,
                                      stdout=out, stderr=subprocess.STDOUT, preexec_fn=rig.die_with_parent)
            try:
                for _ in range(600):
                    out.seek(0)
                    said = out.read()
                    if 'Attaching' in said or tracer.poll() is not None:
                        break
                    time.sleep(0.1)
                if tracer.poll() is not None or 'Attaching' not in said:
                    raise rig.Skip(f'bpftrace cannot trace here: {" ".join(said.split())[:200]}')
                time.sleep(wait_s)
                self.load(daemon)
                tracer.send_signal(signal.SIGINT)
                tracer.wait(60)
            finally:
                tracer.kill()
                tracer.wait()
            out.seek(0)
            return out.read()

    @staticmethod
    def counted(text, name):
        """How many readings the histogram of VM 1 has."""
        part = text.split(f'@{name}[1]:')
        return sum(int(n) for n in re.findall(r'^[\[(].*?[\])]\s+(\d+)\s', part[1].split('\n@')[0], re.M))

    def counts_all(self, number, name, in_process):
        """The example counts each descriptor; on a busy machine perhaps only when it got more time to attach."""
        self.need('bpftrace')
        with self.daemon(in_process) as daemon:
            of_executor = re.search(r'executor E is ready \(backend cpu, pid (\d+)\)', daemon.log())
            pid = daemon.process.pid if in_process else of_executor.group(1)
            for wait_s in WAITS_S:
                text = self.bpftrace(self.programs[number], pid, daemon, wait_s)
                if f'@{name}[1]:' in text and self.counted(text, name) == SENT:
                    return
        raise AssertionError(text)

    def bursts_by_vm(self):
        self.counts_all(0, 'burst', True)

    def time_in_the_executor(self):
        self.counts_all(1, 'us', False)

    def perf_counts(self):
        self.need('perf')
        lines = [line for line in self.text.splitlines() if line.startswith('perf ')]
        assert len(lines) == 1, self.text
        for wait_s in WAITS_S:
            said = self.perf(lines[0], wait_s)
            counts = [int(n.replace(',', '')) for n in re.findall(r'^\s*([\d,]+)\s+sdt_vgpu:validated', said, re.M)]
            if sum(counts) == SENT:
                return
        raise AssertionError(said)

    def perf(self, line, wait_s):
        """The example, counting for three times wait_s, of which it waits one before a guest sends."""
        with tempfile.TemporaryDirectory() as home, self.daemon(True) as daemon:
            command = self.here(line).replace('$(pidof vgpud)', str(daemon.process.pid)).replace('sleep 1', f'sleep {3 * wait_s}')
            perf = subprocess.Popen(['sh', '-c', command], env={**os.environ, 'HOME': home}, stdin=subprocess.DEVNULL,
                                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=rig.die_with_parent)
            try:
                for _ in range(100):
                    probes = subprocess.run(['perf', 'probe', '-l'], capture_output=True, text=True, check=False).stdout
                    if 'sdt_vgpu:validated' in probes or perf.poll() is not None:
                        break
                    time.sleep(0.1)
                time.sleep(wait_s)
                self.load(daemon)
                said = perf.communicate(timeout=120)[0]
            finally:
                perf.kill()
                subprocess.run(['perf', 'probe', '-d', 'sdt_vgpu:validated*'], capture_output=True, check=False)
        if perf.returncode:
            raise rig.Skip(f'perf cannot probe here: {" ".join(said.split())[:200]}')
        return said


def main():
    examples = Examples(*(os.path.abspath(path) for path in sys.argv[2:7]))  # an executor has another root
    names = {'names': ['name_what_is_there'], 'live': ['bursts_by_vm', 'time_in_the_executor', 'perf_counts']}[sys.argv[1]]
    return rig.run_tests([(name.replace('_', ' '), getattr(examples, name)) for name in names])


if __name__ == '__main__':
    sys.exit(main())
