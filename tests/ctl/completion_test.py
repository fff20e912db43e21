#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Completion and manual against the table of commands (help --json): bash, zsh and fish, each asked as a person would by its
own completion, complete every command, option and choice; and vgpu-ctl(8) has each command with exactly the options that it
takes.

completion_test.py VGPUD VGPU-CTL MANUAL
"""
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time

import rig

# Asks the completion function as bash would: words as readline breaks them, '=' being a word of its own.
ASK = '''
compopt() { :; }
source "$1"
shift
while read -r line; do
    eval "COMP_WORDS=($line)"
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    COMPREPLY=()
    _vgpu_ctl
    echo "${COMPREPLY[*]}"
done
'''


def script(daemon, shell):
    path = os.path.join(daemon.where, f'completion.{shell}')
    with open(path, 'w', encoding='utf-8') as f:
        f.write(daemon.good('completion', shell))
    return path


def bash_answers(daemon, lines):
    """What bash offers for each of these lists of words, the last being the one that is typed."""
    text = '\n'.join(' '.join(f"'{w}'" for w in words) for words in lines) + '\n'
    env = dict(os.environ, PATH=os.path.dirname(daemon.ctl) + ':' + os.environ['PATH'], VGPU_CONTROL_SOCKET=daemon.socket)
    done = subprocess.run(['bash', '--norc', '-c', ASK, 'ask', script(daemon, 'bash')], input=text, text=True, env=env,
                          capture_output=True, timeout=60, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return [set(line.split()) for line in done.stdout.splitlines()]


def bash(daemon, commands):
    daemon.good('register-vm', '--vm-id=7', '--pool=A')
    names = {c['name'] for c in commands}
    questions, expected = [], []

    def ask(words, answer):
        questions.append(['vgpu-ctl', *words])
        expected.append(answer)

    ask([''], names | {'help', '--version', '--json', '--socket=', '--db=', '--config=', '--help'})
    ask(['regis'], {'register-vm'})
    ask(['help', 'list-v'], {'list-vms'})
    ask(['--socket', '=', '/x', 'regis'], {'register-vm'})
    ask(['--socket', '/x', 'regis'], {'register-vm'})
    ask(['--json', 'list-pools', '--j'], {'--json'})
    ask(['register-vm', '--pool', '=', ''], {'A', 'B'})
    ask(['register-vm', '--pool', '='], {'A', 'B'})
    ask(['register-vm', '--pool', ''], {'A', 'B'})
    ask(['show-vm', '--vm-id', '=', ''], {'7'})
    for c in commands:
        options = {f'--{o["name"]}' + ('' if o['type'] == 'flag' else '=') for o in c['options']}
        words = set(c['words'].split('|')) if c['words'] else set()
        ask([c['name'], ''], options | words | {'--json', '--socket=', '--db=', '--config=', '--help'})
        for o in c['options']:
            if o['type'] == 'word':
                ask([c['name'], f'--{o["name"]}', '=', ''], set(o['choices'].split('|')))
                ask([c['name'], f'--{o["name"]}', o['choices'][:2]],
                    {w for w in o['choices'].split('|') if w.startswith(o['choices'][:2])})
    answers = bash_answers(daemon, questions)
    assert len(answers) == len(questions), (len(answers), len(questions))
    for question, answer, right in zip(questions, answers, expected):
        assert answer == right, f'{question}: {sorted(answer)}, expected {sorted(right)}'
    return len(questions)


# An interactive zsh whose completion widget writes what it offers into a file, one a line.
ZSHRC = '''PS1='> '
fpath=({0} $fpath)
autoload -Uz compinit
compinit -u -D
compadd() {{
    if [[ ${{@[1,(i)(-|--)]}} == *-(O|A|D)\\ * ]]; then builtin compadd "$@"; return $?; fi
    local -a hits
    builtin compadd -A hits "$@"
    (( $#hits )) && print -lr -- $hits >> {0}/out
    builtin compadd "$@"
}}
capture() {{ _main_complete; print -r -- ---DONE >> {0}/out }}
zle -C capture complete-word capture
bindkey '^X' capture
print -r -- ---DONE > {0}/out
'''
FISH = '''source $argv[1]
while read -l line
    complete -C "$line" | string replace -r '\\t.*' ''
    echo ---DONE
end
'''


def commands_env(daemon):
    return dict(os.environ, PATH=os.path.dirname(daemon.ctl) + ':' + os.environ['PATH'],
                VGPU_CONTROL_SOCKET=daemon.socket, TERM='dumb')


class Zsh:
    """zsh on a terminal of its own."""

    def __init__(self, daemon):
        where = os.path.join(daemon.where, 'zsh')
        os.mkdir(where)
        self.out = os.path.join(where, 'out')
        shutil.copy(script(daemon, 'zsh'), os.path.join(where, '_vgpu-ctl'))
        with open(os.path.join(where, '.zshrc'), 'w', encoding='utf-8') as f:
            f.write(ZSHRC.format(where))
        env = dict(commands_env(daemon), ZDOTDIR=where)
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            rig.die_with_parent()
            os.execvpe('zsh', ['zsh', '-d', '-i'], env)
        self.wait('')

    def wait(self, line):
        end, text = time.monotonic() + 30, ''
        while time.monotonic() < end:
            if select.select([self.fd], [], [], 0.02)[0]:
                os.read(self.fd, 65536)
            if os.path.exists(self.out):
                with open(self.out, encoding='utf-8') as f:
                    text = f.read()
            if '---DONE' in text:
                return set(text.split()) - {'---DONE'}
        raise AssertionError(f'zsh offers nothing for {line!r} within 30 s: {text!r}')

    def ask(self, line):
        open(self.out, 'w', encoding='utf-8').close()
        os.write(self.fd, line.encode() + b'\x18')
        answer = self.wait(line)
        os.write(self.fd, b'\x15')
        return answer

    def end(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.fd)


def fish_answers(daemon, lines):
    done = subprocess.run(['fish', '--no-config', '-c', FISH, script(daemon, 'fish')], input='\n'.join(lines) + '\n', text=True,
                          env=dict(commands_env(daemon), HOME=daemon.where), capture_output=True, timeout=100, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return [set(part.split()) for part in done.stdout.split('---DONE\n')[:-1]]


def questions_of(commands):
    """(what is typed, what must be offered) in shells that know words and descriptions of themselves."""
    names = {c['name'] for c in commands} | {'help'}
    yield 'vgpu-ctl regis', {'register-vm'}
    yield 'vgpu-admin set-', {n for n in names if n.startswith('set-')}
    yield 'vgpu-ctl --db=/x show-v', {'show-vm'}
    yield 'vgpu-ctl --socket /x --json show-v', {'show-vm'}
    yield 'vgpu-ctl help list-v', {'list-vms'}
    yield 'vgpu-ctl completion ', {'bash', 'zsh', 'fish'}
    yield 'vgpu-ctl set-pool --pool ', {'A', 'B'}
    yield 'vgpu-ctl show-vm --vm-id ', {'7'}
    for c in commands:
        yield f'vgpu-ctl {c["name"]} --', ({'--json', '--socket', '--db', '--config', '--help'} |
                                               {f'--{o["name"]}' for o in c['options']})
        for o in c['options']:
            if o['type'] == 'word':
                yield f'vgpu-ctl {c["name"]} --{o["name"]} ', set(o['choices'].split('|'))


def asked_like(commands, answer_of, shell):
    """Asks everything; how many questions that were."""
    count = 0
    for line, right in questions_of(commands):
        got = {word.rstrip('=') for word in answer_of(line)}
        assert got == right, f'{shell}: {line!r}: {sorted(got)}, expected {sorted(right)}'
        count += 1
    return count


def zsh(daemon, commands):
    if not shutil.which('zsh'):
        raise rig.Skip('zsh is not installed (apt-get install zsh): its completion is not asked')
    shell = Zsh(daemon)
    try:
        return asked_like(commands, shell.ask, 'zsh')
    finally:
        shell.end()


def fish(daemon, commands):
    if not shutil.which('fish'):
        raise rig.Skip('fish is not installed (apt-get install fish): its completion is not asked')
    lines = [line for line, _ in questions_of(commands)]
    answers = dict(zip(lines, fish_answers(daemon, lines)))
    return asked_like(commands, answers.get, 'fish')


def syntax(daemon, shell, *how):
    path = script(daemon, shell)
    if not shutil.which(shell):
        raise rig.Skip(f'{shell} is not installed: its script is not checked')
    done = subprocess.run([*how, path], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr


def complete_scripts(daemon, commands):
    """No shell is needed to see that each command and option is in each script."""
    for shell in ('bash', 'zsh', 'fish'):
        with open(script(daemon, shell), encoding='utf-8') as f:
            text = f.read()
        for c in commands:
            for word in [c['name'], *(o['name'] for o in c['options'])]:
                assert re.search(rf'(?<!\w)(?<!\w-){word}(?![\w-])', text), f'{shell} lacks {word}'


def manual(commands, path):
    """A synopsis in vgpu-ctl(8) is each line that starts with *COMMAND*."""
    with open(path, encoding='utf-8') as f:
        lines = f.read().splitlines()
    there = {}
    for line in lines:
        found = re.match(r'\*([a-z]+(?:-[a-z]+)*)\*(?: |\+\+|$)', line)
        if found:
            there.setdefault(found.group(1), set()).update(re.findall(r'\*--([a-z0-9-]+)\*', line))
    for other in ('vgpu-ctl', 'vgpud', 'help'):
        there.pop(other, None)
    names = {c['name'] for c in commands}
    assert set(there) == names, f'not in the manual: {sorted(names - set(there))}; only there: {sorted(set(there) - names)}'
    for c in commands:
        options = {o['name'] for o in c['options']}
        assert there[c['name']] == options, f'{c["name"]}: the manual has {sorted(there[c["name"]] ^ options)} wrong'


def main():
    with rig.Daemon(*sys.argv[1:3]) as daemon:
        commands = daemon.json('help')['commands']
        asked = []
        status = rig.run_tests([
            ('bash_completes_commands_options_and_values', lambda: asked.append(bash(daemon, commands))),
            ('scripts_have_every_command_and_option', lambda: complete_scripts(daemon, commands)),
            ('zsh_takes_its_script', lambda: syntax(daemon, 'zsh', 'zsh', '-n')),
            ('fish_takes_its_script', lambda: syntax(daemon, 'fish', 'fish', '--no-execute')),
            ('zsh_completes_commands_options_and_values', lambda: asked.append(zsh(daemon, commands))),
            ('fish_completes_commands_options_and_values', lambda: asked.append(fish(daemon, commands))),
            ('the_manual_has_the_same_commands_and_options', lambda: manual(commands, sys.argv[3]))])
        print(f'shows: {len(asked)} shells asked {sum(asked)} times for completions of {len(commands)} commands')
    return status


if __name__ == '__main__':
    sys.exit(main())
