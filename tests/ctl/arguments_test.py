#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every command of vgpu-ctl with each class of wrong argument, made from its own table of commands (help --json), so that a
new command or option has its rows at once: exit status 2, nothing on standard output, one clean line that says what is wrong,
and a daemon that saw nothing of it. Then what only the registry knows to be wrong, of every option that names something in
it: exit status 1. An option of a kind that has no rows here is a failure.

arguments_test.py VGPUD VGPU-CTL
"""
import concurrent.futures
import os
import sys

import rig

GOOD = {'ids': '1-2', 'id': '1', 'name': 'A', 'count': None, 'size': '1M', 'user': '0', 'text': 'words', 'path': 'f',
        'uuid': '01234567-89ab-cdef-0123-456789abcdef', 'flag': None, 'since': '2h'}
CONTROL = ['\x01', 'a\x1b[2Jb', 'a\nb', 'a\x7f', '\t']


# What each option of a kind must have been tried with.
CLASSES = {'flag': {'unknown', 'duplicate', 'range'}, 'path': {'missing', 'duplicate', 'unknown', 'too long', 'control'}}
for KIND in ('ids', 'id', 'name', 'word', 'count', 'size', 'user', 'text', 'uuid', 'since'):
    CLASSES[KIND] = {'missing', 'duplicate', 'unknown', 'too long', 'control'} | ({'range'} if KIND != 'text' else set())
EVERY_COMMAND = {'unknown', 'positional', 'duplicate', 'missing', 'too long', 'control', 'range'}

# Options that name what need not be there: by what they are for.
NEW = {('register-vm', 'vm-id'), ('create-pool', 'pool'), ('history', 'vm-id'), ('watch', 'vm-id'), ('attach', 'vm-id'),
       ('attach', 'pool'), ('detach', 'uuid')}
# What two cannot share, command by command: each command that makes or renames something.
TAKEN = (('register-vm', ['--vm-id=60', '--pool=A'], 'VM 60 is registered already'),
         ('register-vm', ['--vm-id=59-61', '--pool=A'], 'VM 60 is registered already'),
         ('register-vm', ['--vm-id=70', '--pool=A', '--name=vm-60'], 'the name vm-60 is taken'),
         ('register-vm', ['--vm-id=70', '--pool=A', '--uuid=UUID'], 'another VM has the uuid'),
         ('register-vm', ['--vm-id=70-71', '--pool=A', '--name=x'], 'cannot share one'),
         ('update-vm', ['--vm-id=61', '--name=vm-60'], 'the name vm-60 is taken'),
         ('update-vm', ['--vm-id=61', '--uuid=UUID'], 'another VM has the uuid'),
         ('update-vm', ['--vm-id=60-61', '--uuid=UUID'], 'cannot share one'),
         ('create-pool', ['--pool=A', '--executor=exec-A'], 'there is a pool A already'),
         ('attach', ['--vm-id=70', '--pool=Nowhere'], 'there is no pool Nowhere'),
         ('attach', ['--vm-id=70'], 'VM 70 is not registered'),
         ('detach', ['--vm-id=70'], 'VM 70 is not registered'),
         ('create-pool', ['--pool=New', '--executor=nobody'], 'there is no executor nobody'),
         ('remove-pool', ['--pool=A'], "one of the configuration's"))
UUID = '99999999-89ab-cdef-0123-456789abcdef'


def registry_cases(commands):
    """(command, arguments, message): each option that names a VM or a pool, naming one that is not there."""
    for command in commands:
        for option in command['options']:
            name = option['name']
            if (command['name'], name) in NEW:
                continue
            rest = [word.replace('--vm-id=1-2', '--vm-id=60').replace('--vm-id=1', '--vm-id=60')
                    for word in needed(command, but=option)]
            if option['type'] in ('ids', 'id'):
                yield command['name'], rest + ['--vm-id=4000'], 'VM 4000 is not registered'
            if option['type'] == 'ids':
                yield command['name'], rest + ['--vm-id=60-61,4000'], 'VM 4000 is not registered'
            if name == 'pool':
                yield command['name'], rest + ['--pool=Nowhere'], 'there is no pool Nowhere; there are A, B'
    for name, words, message in TAKEN:
        yield name, [word.replace('UUID', UUID) for word in words], message


def complete(commands, seen):
    """Has every command been tried with each class, and every option with each class of its kind?"""
    for command in commands:
        missing = EVERY_COMMAND - seen[command['name'], None]
        assert not missing, f'{command["name"]}: never tried with {missing}'
        for option in command['options']:
            assert option['type'] in CLASSES, f'{command["name"]} --{option["name"]}: no rows for the kind {option["type"]}'
            missing = CLASSES[option['type']] - seen.get((command['name'], option['name']), set())
            assert not missing, f'{command["name"]} --{option["name"]}: never tried with {missing}'


def good_value(option):
    if option['type'] == 'word':
        return option['choices'].split('|')[0]
    if option['type'] == 'count':
        return str(option['min'])
    return GOOD[option['type']]


def given(option):
    """This option with a value that is right."""
    value = good_value(option)
    return [f'--{option["name"]}'] if value is None else [f'--{option["name"]}={value}']


def needed(command, but=None):
    """All that the command needs, in the right form, except one option."""
    words = [command['words'].split('|')[0]] if command['words'] else []
    for option in command['options']:
        if option['required'] and option is not but:
            words += given(option)
    if (command['change'] or command['either']) and (but is None or but['required']):
        words += given(next(o for o in command['options'] if not o['required'] and o is not but))
    return words


def bad_values(option):
    """(class, value, what the message must say)."""
    name, kind = option['name'], option['type']
    if kind in ('id', 'count'):
        for value in (option['min'] - 1, option['max'] + 1, 10 ** 30):
            yield 'range', str(value), 'out of range'
        for value in ('one', '1.5', '0x1', ' 1', '1 ', '+1', '1,2'):
            yield 'range', value, 'out of range'
    elif kind == 'ids':
        for value in ('0', '65536', '1-65536', '1-', '-1', '1,,2', ',', 'all', '1-2-3', '1.5', ' 1'):
            yield 'range', value, 'no list of VM ids'
        yield 'range', '7-1', 'runs backwards'
        yield 'duplicate', '1-5,3', 'names VM 3 twice'
    elif kind == 'size':
        for value in (str(option['min'] - 1) if option['min'] else '-1', '1025G', '1m', 'K', '1KK', '1.5M', 'big'):
            yield 'range', value, 'no size that fits'
    elif kind == 'word':
        yield 'range', 'frobnicate', f'is no {name}; expected'
        first = option['choices'].split('|')[0]
        yield 'range', first[:-1] + 'x', f'is no {name}; expected'
        yield 'range', first.upper(), f'is no {name}; expected'
    elif kind == 'name':
        for value in ('a/b', 'a b', 'ä', 'a:b', "a'b"):
            yield 'range', value, 'is not a name'
        yield 'too long', 'a' * 32, 'is not a name'
    elif kind == 'user':
        for value in ('no-such-user-is-here', '-1', str(option['max'] + 1)):
            yield 'range', value, 'there is no user'
    elif kind == 'uuid':
        for value in ('1', '01234567-89ab-cdef-0123-456789abcde', '01234567-89ab-cdef-0123-456789abcdeff',
                      '0123456789abcdef0123456789abcdef', 'g1234567-89ab-cdef-0123-456789abcdef'):
            yield 'range', value, 'is no UUID'
    elif kind == 'since':
        for value in ('2', 'h', '-1h', '1.5h', '2H', '10000000d', 'yesterday', '2026-13-01', '2026-01-01T', '1969-12-31',
                      '2026-01-01T25:00:00'):
            yield 'range', value, 'is no time'
    elif kind == 'text':
        yield 'too long', 'a' * (option['max'] + 1), 'expected at most'
    long = 5000 if kind == 'path' else 256
    yield 'too long', '1' * long, ''
    for value in CONTROL:
        yield 'control', value, 'holds a control character'
    yield 'missing', '', 'has no value'


def option_cases(command, option):
    """(class, arguments, message) for one option of one command."""
    name = f'--{option["name"]}'
    rest = needed(command, but=option)
    head = [command['name']]
    if option['required']:
        yield 'missing', head + rest, f'{name}=' if option['type'] != 'flag' else name
    yield 'duplicate', head + rest + given(option) * 2, f'{name}: given twice'
    yield 'unknown', head + rest + [name[:-1] + '~'], 'unknown option'
    if option['type'] == 'flag':
        yield 'range', head + rest + [name + '=yes'], f'{name}: takes no value'
        return
    yield 'missing', head + rest + [name], f'{name}: has no value'
    yield 'missing', head + rest + [name, '--json'], f'{name}: has no value'
    for kind, value, message in bad_values(option):
        yield kind, head + rest + [f'{name}={value}'], f'{name}: ' if not message else message


def cases(commands, seen):
    """(class, arguments, message); seen: by command and option, the classes that there are."""
    for command in commands:
        for option, case in command_cases(command):
            seen.setdefault((command['name'], option), set()).add(case[0])
            yield case
    yield 'unknown', ['frobnicate'], "unknown command 'frobnicate'"
    yield 'control', ['\x1b[2J'], 'unknown command'
    yield 'too long', ['x' * 10000], 'unknown command'
    yield 'missing', [], 'no command'


def command_cases(command):
    """(option or None, case) of all of its cases."""
    for case in common_cases(command):
        yield None, case
    for option in command['options']:
        for case in option_cases(command, option):
            yield option['name'], case


def common_cases(command):
    head = [command['name'], *needed(command)]
    yield 'unknown', head + ['--no-such-option'], 'unknown option'
    yield 'unknown', head + ['--no-such-option=1'], 'unknown option'
    yield 'unknown', head + ['-x'], 'unknown option'
    yield 'unknown', head + ['--jsno'], 'did you mean --json?'
    yield 'positional', head + ['extra'], "unexpected argument 'extra'"
    yield 'positional', head + ['\x1b[2J'], 'unexpected argument'
    yield 'positional', head + ['--', '--json'], "unexpected argument '--json'"
    yield 'positional', head + [''], "unexpected argument ''"
    for name, most in (('--socket', 107), ('--db', 4095), ('--config', 4095)):
        yield 'duplicate', head + [f'{name}=/a', f'{name}=/b'], f'{name}: given twice'
        yield 'missing', head + [name], f'{name}: has no value'
        yield 'missing', head + [f'{name}='], f'{name}: expected a path'
        yield 'too long', head + [f'{name}=' + 'a' * (most + 1)], f'{name}: expected a path'
        yield 'control', head + [f'{name}=a\x1b[2J'], f'{name}: '
    yield 'range', head + ['--json=yes'], '--json: takes no value'
    yield 'unknown', [command['name'] + '~'], f'did you mean {command["name"]}?'
    if command['words']:
        yield 'missing', [command['name']], 'is missing'
        required = [w for o in command['options'] if o['required'] for w in given(o)]
        yield 'range', [command['name'], 'frobnicate', *required], 'unexpected argument'
    if command['change']:
        required = [w for o in command['options'] if o['required'] for w in given(o)]
        yield 'missing', [command['name'], *required], 'nothing to change was given'
    if command['either']:
        first, second = command['options'][:2]
        message = f'expected --{first["name"]} or --{second["name"]}'
        yield 'missing', [command['name']], message
        others = [w for o in command['options'][2:] for w in given(o)]
        yield 'missing', [command['name'], *others], message


def main():
    with rig.Daemon(*sys.argv[1:3]) as daemon:
        commands = daemon.json('help')['commands']
        daemon.good('register-vm', '--vm-id=60-61', '--pool=A')
        daemon.good('update-vm', '--vm-id=60', f'--uuid={UUID}')
        before = daemon.json('list-vms'), daemon.json('list-pools')
        by_class, seen, faults, registry_faults = {}, {}, [], []

        def one(case, status=2, where=faults):
            try:
                daemon.fails(status, case[2], *case[1])
            except (AssertionError, ValueError, UnicodeDecodeError) as fault:
                where.append(str(fault))

        every = list(cases(commands, seen))
        registry = [('registry', [name, *words], message) for name, words, message in registry_cases(commands)]
        for case in every:
            by_class[case[0]] = by_class.get(case[0], 0) + 1
        with concurrent.futures.ThreadPoolExecutor(2 * (os.cpu_count() or 1)) as pool:
            list(pool.map(one, every))
            list(pool.map(lambda case: one(case, 1, registry_faults), registry))

        def each():
            assert not faults, f'{len(faults)} of {len(every)}:\n' + '\n'.join(faults[:20])
            assert len(every) > 20 * len(commands), 'the table of commands was not understood'

        def unchanged():
            assert (daemon.json('list-vms'), daemon.json('list-pools')) == before

        def of_the_registry():
            assert not registry_faults, f'{len(registry_faults)} of {len(registry)}:\n' + '\n'.join(registry_faults)

        status = rig.run_tests([('every_command_and_each_wrong_argument', each),
                                ('no_command_or_option_is_left_out', lambda: complete(commands, seen)),
                                ('what_is_not_there_or_is_taken', of_the_registry),
                                ('nothing_of_it_reached_the_daemon', unchanged)])
        print(f'shows: {len(every)} wrong command lines of {len(commands)} commands refused: ' +
              ', '.join(f'{n} {kind}' for kind, n in sorted(by_class.items())) + f'; {len(registry)} refused by the registry')
    return status


if __name__ == '__main__':
    sys.exit(main())
