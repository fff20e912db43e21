#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""vgpu-ctl at a terminal, and where there is none: top draws, sorts and quits and gives the terminal back; colors only
where they are wanted; a pipe that closes early makes no noise.

terminal_test.py VGPUD VGPU-CTL
"""
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time

import rig

ESCAPE = '\x1b'


class Terminal:
    """A program at a terminal of its own."""

    def __init__(self, daemon, *args, rows=24, columns=100, env=None):
        self.text, self.status = '', None
        every = dict(os.environ, TERM='xterm', VGPU_CONTROL_SOCKET=daemon.socket)
        every.pop('NO_COLOR', None)
        every.update(env or {})
        self.fd, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack('HHHH', rows, columns, 0, 0))
        self.before = termios.tcgetattr(other)
        self.other = other
        self.process = subprocess.Popen([daemon.ctl, *args], stdin=other, stdout=other, stderr=other, env=every,
                                        start_new_session=True)

    def read(self, enough, seconds=20):
        """Reads until enough(text) holds."""
        until = time.monotonic() + seconds
        while not enough(self.text):
            assert time.monotonic() < until, f'waited in vain; so far: {self.text!r}'
            if select.select([self.fd], [], [], 0.05)[0]:
                self.text += os.read(self.fd, 65536).decode()

    def end(self):
        """Waits for the program's own end, then reads the rest."""
        until = time.monotonic() + 20
        while self.process.poll() is None:
            assert time.monotonic() < until, 'it does not end'
            if select.select([self.fd], [], [], 0.02)[0]:
                self.text += os.read(self.fd, 65536).decode()
        while select.select([self.fd], [], [], 0)[0]:
            self.text += os.read(self.fd, 65536).decode()
        after = termios.tcgetattr(self.other)
        os.close(self.fd)
        os.close(self.other)
        assert after == self.before, 'the terminal is not as it was'
        return self.process.returncode


def top_keys(daemon):
    t = Terminal(daemon, 'top', '--interval-ms=100', rows=10, columns=60)
    t.read(lambda text: 's sorts (rate)' in text or text.count('DONE/s') > 1)
    os.write(t.fd, b's')
    os.write(t.fd, b' ')
    t.read(lambda text: text.count('DONE/s') > 3)
    os.write(t.fd, b'q')
    assert t.end() == 0
    assert t.text.startswith(ESCAPE + '[?1049h') and t.text.endswith(ESCAPE + '[?25h' + ESCAPE + '[?1049l'), t.text
    for frame in t.text.split(ESCAPE + '[H')[1:]:
        lines = frame.split(ESCAPE + '[J')[0].split('\r\n')
        assert len(lines) <= 10, lines
        for line in lines:
            plain = ''.join(part.split('m', 1)[-1] if i else part for i, part in enumerate(line.split(ESCAPE + '[')))
            assert len(plain.removesuffix('K')) <= 60, plain


def top_signal(daemon, number):
    t = Terminal(daemon, 'top', '--interval-ms=60000')
    t.read(lambda text: 'DONE/s' in text)
    t.process.send_signal(number)
    assert t.end() == 0


def top_resize(daemon):
    t = Terminal(daemon, 'top', '--interval-ms=60000', rows=5)
    t.read(lambda text: 'pool B' in text)
    fcntl.ioctl(t.fd, termios.TIOCSWINSZ, struct.pack('HHHH', 40, 200, 0, 0))
    t.process.send_signal(signal.SIGWINCH)
    t.read(lambda text: 'q quits' in text)
    os.write(t.fd, b'q')
    assert t.end() == 0


def top_sizes(daemon):
    """Any size, also one that the terminal does not know; the last line says what the keys do wherever there is room."""
    for rows, columns, shown in ((1, 1, False), (2, 10, False), (4, 40, True), (24, 80, True), (0, 0, True), (200, 400, True)):
        t = Terminal(daemon, 'top', '--interval-ms=100', rows=rows, columns=columns)
        t.read(lambda text: text.count(ESCAPE + '[J') > 3)
        os.write(t.fd, b'q')
        assert t.end() == 0
        frames = [frame.split(ESCAPE + '[J')[0] for frame in t.text.split(ESCAPE + '[H')[1:]]
        most = max(frame.count('\r\n') + 1 for frame in frames)
        assert most <= (rows or 24), f'{most} lines on {rows} rows'
        assert ('q quits' in frames[-1].split('\r\n')[-1]) == shown, (rows, columns, frames[-1])
    t = Terminal(daemon, 'top', '--interval-ms=100', env={'TERM': 'dumb'})
    t.read(lambda text: text.count('DONE/s') > 1)
    t.process.send_signal(signal.SIGINT)
    assert t.end() == 0 and ESCAPE not in t.text, t.text


def top_plain(daemon):
    for args in (('top', '--once', '--interval-ms=100'), ('top', '--count=1', '--interval-ms=100')):
        output = daemon.good(*args)
        assert ESCAPE not in output and 'DONE/s' in output and ' 1  A ' in output, output
    t = Terminal(daemon, 'top', '--once', '--interval-ms=100')
    assert t.end() == 0 and '[?1049h' not in t.text and 'DONE/s' in t.text, t.text
    assert len(daemon.good('top', '--count=3', '--interval-ms=100').split('vgpu-ctl top')) == 4
    daemon.fails(3, 'cannot reach vgpud', 'top', '--once', '--socket=/nonexistent/s')


def colors(daemon):
    def at_terminal(env=None):
        t = Terminal(daemon, 'list-pools', env=env)
        assert t.end() == 0
        return t.text
    assert ESCAPE in at_terminal()
    assert ESCAPE not in at_terminal({'NO_COLOR': '1'})
    assert ESCAPE not in at_terminal({'TERM': 'dumb'})
    assert ESCAPE not in daemon.good('list-pools')


def closed_pipes(daemon):
    """The reader goes away after a line: silence, whether SIGPIPE is ignored or not."""
    for ignored in (False, True):
        for args in (['list-vms'], ['help'], ['stats', '--json'], ['top', '--interval-ms=100'],
                     ['watch', '--interval-ms=50'], ['completion', 'bash']):
            read, write = os.pipe()
            os.close(read)
            process = subprocess.Popen([daemon.ctl, *args, f'--socket={daemon.socket}'], stdout=write,
                                       stderr=subprocess.PIPE, restore_signals=not ignored)
            os.close(write)
            errors = process.communicate(timeout=20)[1].decode()
            assert process.returncode in ((1, 0) if ignored else (-signal.SIGPIPE, 0)), (args, process.returncode)
            assert errors == '' or (args[0] == 'watch' and errors.startswith('watching ')), (args, errors)
    with open('/dev/full', 'w', encoding='utf-8') as full:
        done = subprocess.run([daemon.ctl, 'list-vms', f'--socket={daemon.socket}'], stdout=full, stderr=subprocess.PIPE,
                              timeout=20, check=False)
    assert done.returncode == 1 and b'cannot write the result: No space left' in done.stderr, done


def daemon_goes(daemon):
    """watch says that vgpud went and came back; a live top waits for it."""
    watch = subprocess.Popen([daemon.ctl, 'watch', '--interval-ms=20', '--count=2', '--seconds=60',
                              f'--socket={daemon.socket}'], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    t = Terminal(daemon, 'top', '--interval-ms=100')
    t.read(lambda text: 'DONE/s' in text)
    watch.stderr.readline()
    daemon.kill()
    t.read(lambda text: 'tries again' in text)
    seen = t.text.count('DONE/s')
    daemon.start()
    t.read(lambda text: text.count('DONE/s') > seen)
    os.write(t.fd, b'q')
    assert t.end() == 0
    output = watch.communicate(timeout=60)[0].decode().splitlines()
    assert watch.returncode == 0 and len(output) == 2, output
    assert 'does not answer' in output[0] and 'answers again' in output[1], output


def main():
    with rig.Daemon(*sys.argv[1:3]) as daemon:
        daemon.good('register-vm', '--vm-id=1-12', '--pool=A')
        return rig.run_tests([('top_draws_sorts_and_quits', lambda: top_keys(daemon)),
                              ('top_ends_on_sigint', lambda: top_signal(daemon, signal.SIGINT)),
                              ('top_ends_on_sigterm', lambda: top_signal(daemon, signal.SIGTERM)),
                              ('top_follows_the_window', lambda: top_resize(daemon)),
                              ('top_at_any_size', lambda: top_sizes(daemon)),
                              ('top_without_a_terminal', lambda: top_plain(daemon)),
                              ('colors_only_where_wanted', lambda: colors(daemon)),
                              ('a_closed_pipe_makes_no_noise', lambda: closed_pipes(daemon)),
                              ('vgpud_goes_and_comes_back', lambda: daemon_goes(daemon))])


if __name__ == '__main__':
    sys.exit(main())
