#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""docs/admin-guide.md is true: the commands of its blocks are run in order against a real vgpud, and what they print is what
the guide shows, figures and widths aside; every vgpu-ctl command line of the docs has options that there are.

guide_test.py VGPUD VGPU-CTL GUIDE EXAMPLES [--update]

Blocks: ```console are run; ```console host are not (they say what this host is), nor is ```sh. systemctl starts, stops and
reloads a daemon of the test's own, and paths are below its directory. --update writes into the guide what is printed.
"""
import getpass
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import rig

PLACES = (('/etc/vgpu', 'etc'), ('/run/vgpu', 'run'), ('/var/lib/vgpu', 'state'))
# May be run here, in a shell; everything else in a block is a mistake.
PROGRAMS = {'vgpu-ctl', 'vgpu-admin', 'vgpud', 'sudo', 'systemctl', 'cat', 'cp', 'rm', 'mkdir'}
DOCS = ('README.md', 'docs', 'config', 'ctl')


class Block:
    """A fenced block: its kind, and (command, its output) in order."""

    def __init__(self, kind, start):
        self.kind, self.start, self.steps = kind, start, []

    def line(self, text):
        if text.startswith('# '):
            self.steps.append((text[2:], []))
        elif self.steps:
            self.steps[-1][1].append(text)


def blocks(lines):
    """Yields (first line's number, end, Block)."""
    block = None
    for number, line in enumerate(lines):
        if block is None and line.startswith('```'):
            block = Block(line[3:].strip(), number + 1)
        elif block is not None and line.startswith('```'):
            block.end = number
            yield block
            block = None
        elif block is not None:
            block.line(line)


class Host:
    """Runs the guide's commands: a daemon below a directory, its paths under the guide's names."""

    def __init__(self, daemon, examples):
        self.daemon, self.where = daemon, daemon.where
        daemon.stop()  # the guide starts it
        self.user = getpass.getuser()
        binaries = [os.path.dirname(os.path.abspath(p)) for p in (daemon.ctl, daemon.vgpud)]
        links = os.path.join(self.where, 'bin')
        os.mkdir(links)
        os.symlink(os.path.abspath(daemon.ctl), os.path.join(links, 'vgpu-admin'))
        self.env = dict(os.environ, PATH=':'.join([*binaries, links, os.path.abspath(examples), os.environ['PATH']]),
                        VGPU_CONTROL_SOCKET=f'{self.where}/run/control.sock', VGPU_SOCKET=f'{self.where}/run/attach.sock',
                        LC_ALL='C.UTF-8')

    def here(self, text):
        for place, name in PLACES:
            text = text.replace(place, f'{self.where}/{name}')
        return text.replace('alice', self.user)

    def there(self, text):
        for place, name in PLACES:
            text = text.replace(f'{self.where}/{name}', place)
        return text if self.user == 'root' else re.sub(rf'\b{re.escape(self.user)}\b', 'root', text)

    def config(self):
        """The guide's, with this directory's paths."""
        path = f'{self.where}/etc/vgpud.yaml'
        text = ''
        if os.path.exists(path):
            with open(path, encoding='utf-8') as f:
                text = f.read()
        with open(self.daemon.config, 'w', encoding='utf-8') as f:
            f.write(rig.CONFIG.format(self.where) + text)

    def systemctl(self, words):
        words = [w for w in words if not w.startswith('-')]
        assert words[1:] == ['vgpud'], words
        self.config()
        if words[0] in ('stop', 'restart'):
            self.daemon.stop()
        if words[0] in ('start', 'enable', 'restart'):
            self.daemon.start()
        if words[0] == 'reload':
            self.daemon.process.send_signal(signal.SIGHUP)
            time.sleep(0.5)

    def run(self, command, text):
        """A command, with what the guide has below it where that is its input; what it prints."""
        words = shlex.split(command)
        assert words[0] in PROGRAMS, f'{command!r}: the guide runs what this test does not know'
        self.config()
        if words[0] == 'systemctl':
            self.systemctl(words[1:])
            return []
        if words[0] == 'sudo':
            vm = next(w.split('=')[1] for w in words if w.startswith('VGPU_VM_ID='))
            command = f'VGPU_TOKEN_FILE=/run/vgpu/tokens/vm-{vm}.token ' + command.removeprefix('sudo -u alice env ')
        done = subprocess.run(['bash', '-c', self.here(command)], env=self.env, input='\n'.join([*text, '']).encode()
                              if words[0] == 'cat' else b'', stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60,
                              check=False)
        if words[0] == 'cat':
            return text
        return self.there(done.stdout.decode()).splitlines()


def shape(lines):
    """What must be alike: words, without figures and the widths that follow from them."""
    return [re.sub(r'\s+', ' ', re.sub(r'[\d.]+', 'N', line)).strip() for line in lines]


def follow(host, path, update):
    with open(path, encoding='utf-8') as f:
        lines = f.read().splitlines()
    out, at, ran, wrong = [], 0, 0, []
    for block in blocks(lines):
        out += lines[at:block.start]
        at = block.end
        if block.kind != 'console':
            out += lines[block.start:block.end]
            continue
        for command, text in block.steps:
            printed = host.run(command, text)
            ran += 1
            out += [f'# {command}', *printed]
            if shape(printed) != shape(text):
                wrong.append(f'# {command}\n--- printed:\n' + '\n'.join(printed) + '\n--- in the guide:\n' + '\n'.join(text))
    if update:
        with open(path, 'w', encoding='utf-8') as f:
            f.write('\n'.join(out + lines[at:]) + '\n')
        return ran
    assert not wrong, f'{len(wrong)} of {ran} commands print another text than the guide shows:\n' + '\n\n'.join(wrong)
    return ran


def command_lines(root):
    """(where, words) of each command line of vgpu-ctl in the code blocks of the docs, and between backquotes."""
    names = []
    for place in DOCS:
        full = os.path.join(root, place)
        names += [full] if full.endswith('.md') else [os.path.join(d, n) for d, _, ns in os.walk(full) for n in ns]
    for name in sorted(n for n in names if n.endswith('.md')):
        with open(name, encoding='utf-8') as f:
            lines = f.read().splitlines()
        for number, line in enumerate(lines, 1):
            for text in re.findall(r'`((?:vgpu-ctl|vgpu-admin) [a-z][^`]*)`', line):
                yield f'{os.path.relpath(name, root)}:{number}', text.split()[1:]
        for block in blocks(lines):
            for number in range(block.start, block.end):
                found = re.match(r'\s*(?:[#$] )?(?:sudo )?(vgpu-ctl|vgpu-admin) (.*)', lines[number])
                if found and block.kind in ('', 'sh', 'console', 'console host'):
                    text = re.split(r'\s+#\s', found.group(2))[0].split('|')[0]
                    yield f'{os.path.relpath(name, root)}:{number + 1}', shlex.split(text.rstrip('\\'))


def options_exist(daemon, root):
    commands = {c['name']: {o['name'] for o in c['options']} for c in daemon.json('help')['commands']}
    wrong, seen = [], 0
    for where, words in command_lines(root):
        seen += 1
        name = next((w for w in words if not w.startswith('-') and w not in ('help',)), None)
        if name not in commands and name not in ('COMMAND', None):
            wrong.append(f'{where}: there is no command {name}')
            continue
        known = commands.get(name, set()) | {'json', 'help', 'version', 'socket', 'db', 'config'}
        wrong += [f'{where}: {name} has no option {w}' for w in words
                  if w.startswith('--') and w[2:].split('=')[0] not in known]
    assert not wrong, '\n'.join(wrong)
    assert seen > 40, f'only {seen} command lines were found'
    return seen


def by_hand(root, build, where):
    """The README's block under "By hand", word by word but for where the programs are and where it may write."""
    with open(os.path.join(root, 'README.md'), encoding='utf-8') as f:
        text = f.read()
    block = text.split('## By hand')[1].split('```sh\n')[1].split('```')[0]
    here = os.path.join(where, 'try')
    script = 'set -em\ntrap \'kill %1 2>/dev/null\' EXIT\n' + block.replace('/tmp/vgpu-try', here).replace('build/', build + '/')
    done = subprocess.run(['bash', '-c', script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout
    for words in ('registered VM 7', 'vm-7  A     high', '1048576 floats', ' right', ' 3  A     low', 'COMPLETED'):
        assert words in done.stdout, f'{words!r} is missing in:\n{done.stdout}'


def main():
    vgpud, ctl, guide, examples = sys.argv[1:5]
    root = os.path.dirname(os.path.dirname(os.path.abspath(guide)))
    with rig.Daemon(vgpud, ctl) as daemon:
        host = Host(daemon, examples)
        if sys.argv[5:] == ['--update']:
            print(follow(host, guide, True), 'commands')
            return 0
        shown = {}
        status = rig.run_tests([('the_guide_shows_what_is_printed', lambda: shown.update(run=follow(host, guide, False))),
                                ('the_readme_by_hand', lambda: by_hand(root, os.path.dirname(os.path.dirname(
                                    os.path.abspath(ctl))), daemon.where)),
                                ('command_lines_of_the_docs_exist', lambda: shown.update(seen=options_exist(daemon, root)))])
        print(f'shows: {shown.get("run")} commands of the guide run, options of {shown.get("seen")} command lines looked up')
    return status


if __name__ == '__main__':
    sys.exit(main())
