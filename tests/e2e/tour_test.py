#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""./run demo --tour: a selection of its steps is right, and a step that did not do what it says is told and fails the tour.

tour_test.py VGPUD VGPU-CTL VGPU-EXEC VGPU-DEMO-GUEST [--all]
"""
import json
import os
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
NAMES = ('VGPU_DEMO_VGPUD', 'VGPU_DEMO_CTL', 'VGPU_DEMO_EXEC', 'VGPU_DEMO_GUEST')
# Of what is listed it drops VM 2, of what is printed nothing: only the verdict can notice.
LIAR = '''#!/bin/sh
{0} "$@" > "$0.out"
code=$?
case " $* " in
*" list-vms "*" --json "*) sed -E 's/\\{{"vm_id":2,[^}}]*\\}},//' "$0.out" ;;
*) cat "$0.out" ;;
esac
exit $code
'''


def tour(programs, *args, stdin=None, limit_s=150):
    env = dict(os.environ, PYTHONDONTWRITEBYTECODE='1', **dict(zip(NAMES, programs)))
    return subprocess.run([sys.executable, os.path.join(ROOT, 'scripts/demo.py'), '--tour', *args], env=env,
                          input=stdin, stdin=None if stdin else subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=limit_s, check=False)


def right(programs, args):
    done = tour(programs, '--json', '--seconds', '1', *args)
    told = json.loads(done.stdout or '{}')
    wrong = [c['text'] for step in told.get('steps', []) for c in step['checks'] if not c['pass']]
    assert done.returncode == 0 and told.get('pass') is True and told['complete'] is True and not wrong, \
        f'exit {done.returncode}: {wrong}: {done.stderr[-3000:]}'
    assert 'all ' in done.stderr and '  $ vgpu-ctl register-vm --vm-id=1-7 --pool=A' in done.stderr
    return told


def wrong(programs, where):
    """A vgpu-ctl that leaves VM 2 out of its lists: the steps that ask for them are wrong, and the exit status is 1."""
    liar = os.path.join(where, 'vgpu-ctl')
    with open(liar, 'w', encoding='utf-8') as f:
        f.write(LIAR.format(programs[1]))
    os.chmod(liar, 0o755)
    done = tour([programs[0], liar, *programs[2:]], '--json', '--steps=priorities')
    told = json.loads(done.stdout)
    assert done.returncode == 1 and told['pass'] is False, (done.returncode, done.stderr[-2000:])
    steps = {step['step']: step['pass'] for step in told['steps']}
    assert steps == {'host': True, 'pools': False, 'priorities': False, 'end': True}, steps
    assert 'WRONG' in done.stderr and 'in pool A: 1 3 4 5 6 7' in done.stderr


def nothing_to_show(programs, where):
    """No daemon: one wrong step, and an end."""
    done = tour([os.path.join(where, 'none'), *programs[1:]], '--json')
    told = json.loads(done.stdout)
    assert done.returncode == 1 and [step['pass'] for step in told['steps']] == [False], told


def paused(programs, _):
    """--pause waits for a key after each step; q leaves."""
    done = tour(programs, '--pause', '--steps=priorities', stdin='\nq\n')
    assert done.returncode == 0 and 'left after 2 steps' in done.stdout and '3 of 4' not in done.stdout, done.stdout[-900:]


def usage(programs, _):
    done = tour(programs, '--steps=pools,nonsense')
    assert done.returncode == 2 and 'no such step: nonsense' in done.stderr and 'pools' in done.stderr, done.stderr


def main():
    programs, every = sys.argv[1:5], sys.argv[5:] == ['--all']
    if every:
        told = right(programs, ['--seconds', '5'])
        verdicts = sum(len(step['checks']) for step in told['steps'])
        print(f'shows: {len(told["steps"])} steps, {verdicts} verdicts, all right')
        print('1 passed, 0 failed')
        return 0
    tests = [('steps_are_right', lambda p, _: right(p, ['--steps=priorities,persistence,compute,order,live,security,audit'])),
             ('a_step_that_is_wrong_fails_the_tour', wrong), ('no_daemon', nothing_to_show), ('pause', paused),
             ('an_unknown_step', usage)]
    failed = 0
    with tempfile.TemporaryDirectory(prefix='vgpu-tour-test-') as where:
        for name, function in tests:
            try:
                function(programs, where)
                print(f'ok   {name}')
            except AssertionError as fault:
                failed += 1
                print(f'FAIL {name}: {fault}')
    print(f'{len(tests) - failed} passed, {failed} failed')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
