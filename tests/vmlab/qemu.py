# SPDX-License-Identifier: Apache-2.0
"""One boot: QEMU without acceleration, its serial line as a stream of lines, an exit that nothing else can imitate.

The machine ends the run by writing 16 to port 0xf4: QEMU then exits 33. Anything else (a crash, a reboot, time over) is
no success, whatever was printed before.
"""
import ctypes
import fcntl
import os
import selectors
import signal
import subprocess
import time
from dataclasses import dataclass, field

PASS_EXIT = 33
PROGRAM = 'qemu-system-x86_64'
# The SSE extensions are what DPDK asks for; without rdrand programs wait for entropy.
CPU = 'qemu64,+rdrand,+ssse3,+sse4.1,+sse4.2,+popcnt'
# Two cores are not enough for two of these machines.
LOCK = '/tmp/vmlab.lock'


@dataclass
class Boot:
    exit_code: int = -1
    timed_out: bool = False
    seconds: float = 0.0
    lines: list = field(default_factory=list)   # (seconds since the start, text)

    @property
    def ended_well(self):
        return self.exit_code == PASS_EXIT and not self.timed_out


def _die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)   # PR_SET_PDEATHSIG


class only_one:
    """At most one machine at a time, whoever starts it."""

    def __init__(self, patience_s=1500):
        self.patience_s = patience_s

    def __enter__(self):
        try:
            self.fd = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except PermissionError:   # another user's, in a sticky folder: reading is enough for a lock
            self.fd = os.open(LOCK, os.O_RDONLY | os.O_CLOEXEC)
        until = time.monotonic() + self.patience_s
        while True:
            try:
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return self
            except BlockingIOError:
                if time.monotonic() > until:
                    os.close(self.fd)
                    raise TimeoutError(f'another machine has held {LOCK} for {self.patience_s} s') from None
                time.sleep(0.2)

    def __exit__(self, *_):
        os.close(self.fd)


def boot(arguments, *, log, limit_s, memory_mib=1024, cpus=1, cpu=CPU, on_line=None):
    """Runs QEMU with these arguments; log: a file that gets each line with its time. Returns a Boot."""
    command = [PROGRAM, '-accel', 'tcg,thread=multi', '-cpu', cpu, '-smp', str(cpus), '-m', str(memory_mib),
               '-nodefaults', '-no-user-config', '-display', 'none', '-vga', 'none', '-serial', 'stdio', '-no-reboot',
               '-device', 'isa-debug-exit,iobase=0xf4,iosize=0x04', *arguments]
    result = Boot()
    with only_one(), open(log, 'w', encoding='utf-8') as sink:
        started = time.monotonic()
        print(' '.join(command), file=sink)
        machine = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, preexec_fn=_die_with_parent)
        try:
            for text in _lines(machine, started + limit_s, result):
                at = time.monotonic() - started
                result.lines.append((at, text))
                print(f'[{at:7.2f}] {text}', file=sink, flush=True)
                if on_line:
                    on_line(at, text)
        finally:
            if machine.poll() is None:
                machine.kill()
            result.exit_code = machine.wait()
            result.seconds = time.monotonic() - started
            print(f'[{result.seconds:7.2f}] QEMU exit code {result.exit_code}'
                  f'{", stopped: time over" if result.timed_out else ""}', file=sink)
    return result


def _lines(machine, until, result):
    rest = b''
    with selectors.DefaultSelector() as ready:
        ready.register(machine.stdout, selectors.EVENT_READ)
        while True:
            left = until - time.monotonic()
            if left <= 0:
                result.timed_out = True
                return
            if not ready.select(left):
                continue
            chunk = os.read(machine.stdout.fileno(), 65536)
            if not chunk:
                if rest:
                    yield rest.decode('latin1').rstrip('\r')
                return
            *whole, rest = (rest + chunk).split(b'\n')
            for line in whole:
                yield line.decode('latin1').rstrip('\r')
