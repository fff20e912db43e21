#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Completion and manual against the table of commands (help --json): bash completes every command, option and choice,
zsh and fish take their scripts, and vgpu-ctl(8) has each command with exactly the options that it takes.

completion_test.py VGPUD VGPU-CTL MANUAL
"""
import os
import re
import shutil
import subprocess
import sys

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

    ask([''], names | {'help', '--version', '--json', '--socket=', '--db=', '--help'})
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
        ask([c['name'], ''], options | words | {'--json', '--socket=', '--db=', '--help'})
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
            ('the_manual_has_the_same_commands_and_options', lambda: manual(commands, sys.argv[3]))])
        print(f'shows: bash asked {sum(asked)} times for completions of {len(commands)} commands')
    return status


if __name__ == '__main__':
    sys.exit(main())
