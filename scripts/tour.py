# SPDX-License-Identifier: Apache-2.0
"""How ./run demo --tour runs and looks: a daemon of its own, steps that print each command with what it printed, and
verdicts. The steps themselves are in toursteps.py."""
import grp
import json
import os
import select
import shlex
import signal
import subprocess
import sys
import termios
import textwrap
import time
import tty

import demo
import toursteps

CONFIG = '''# Made by ./run demo --tour.
paths:
  run_dir: {dir}/run
  state_dir: {dir}/state
  executor: {executor}
executors:
  - name: exec-A
    backend: {backend}
    options: {options}
  - name: exec-B
    backend: {backend}
    options: {options}
pools:
  - name: A
    executor: exec-A
  - name: B
    executor: exec-B
debug:
  exec_seq: true
'''
# Only root can try what members of another group may.
CONFIG_VIEWERS = '''control:
  viewer_group: {viewers}
'''
COMMAND_S = 60
LINES = 26  # of a command's output that are shown
AUTO_S = 3.0


class TourError(Exception):
    """The tour cannot go on; the text says why, for a person."""


class Done:
    """A command that ended."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    def last(self):
        """The JSON object on the last line; {} where there is none."""
        try:
            return json.loads(self.out.strip().splitlines()[-1])
        except (IndexError, ValueError):
            return {}


class View:
    def __init__(self, stream, pause):
        self.stream, self.pause = stream, pause
        self.color = stream.isatty() and 'NO_COLOR' not in os.environ

    def paint(self, code, text):
        return f'\033[{code}m{text}\033[0m' if self.color else text

    def write(self, text=''):
        self.stream.write(text + '\n')
        self.stream.flush()

    def command(self, text):
        self.write(self.paint('36', f'  $ {text}'))

    def output(self, text):
        lines = text.rstrip('\n').splitlines()
        keep = LINES if len(lines) <= LINES else LINES - 2
        for line in lines[:keep]:
            self.write('    ' + ''.join(c if c.isprintable() else '?' for c in line)[:180])
        if len(lines) > keep:
            self.write(self.paint('2', f'    ... {len(lines) - keep} more lines'))

    def verdict(self, good, text):
        mark = self.paint('1;32', '  ok   ') if good else self.paint('1;31', '  WRONG')
        self.write(f'{mark} {text}')

    def next_step(self):
        """Between steps: a key, or a few seconds where nobody is asked to press one. False: leave."""
        if self.pause == 'never':
            return True
        forever = self.pause == 'always'
        hint = 'any key: next step; q: leave' + ('' if forever else f'; goes on by itself after {AUTO_S:.0f} s')
        self.stream.write(self.paint('2', f'  [{hint}]'))
        self.stream.flush()
        key = read_key(None if forever else AUTO_S)
        self.stream.write('\r\033[K' if self.color else '\n')
        return key not in ('q', '\x03')


def read_key(limit_s):
    """One key, '' after the limit; a line where stdin is no terminal."""
    if not sys.stdin.isatty():
        return sys.stdin.readline()[:1]
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        if not select.select([sys.stdin], [], [], limit_s)[0]:
            return ''
        return os.read(sys.stdin.fileno(), 1).decode(errors='replace')
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


class Tour(demo.Demo):
    """What the steps use. Commands run in an environment that names this tour's sockets, and are shown as typed there."""

    def __init__(self, view, backend, options, seconds):
        super().__init__(seconds, view, backend, options)
        self.results = []
        self.checks = None
        self.last_question = ''
        self.children = []

    def prepare(self):
        super().prepare()
        os.chmod(self.dir, 0o711)
        for name in ('run', 'state'):
            os.rmdir(os.path.join(self.dir, name))  # vgpud makes its own, with its own modes
        self.tokens = os.path.join(self.dir, 'run', 'tokens')
        with open(os.path.join(self.dir, 'vgpud.yaml'), 'w', encoding='utf-8') as out:
            out.write(CONFIG.format(dir=self.dir, executor=demo.program('VGPU_DEMO_EXEC', 'pmd-gpu/vgpu-exec'),
                                    backend=json.dumps(self.backend or 'cpu'), options=json.dumps(self.options)))
            self.viewers = next((g.gr_name for g in grp.getgrall() if g.gr_gid == int(toursteps.NOBODY)), '')
            if os.getuid() == 0 and self.viewers:
                out.write(CONFIG_VIEWERS.format(viewers=self.viewers))
        programs = [os.path.dirname(demo.program(variable, path)) for variable, path in
                    (('VGPU_DEMO_CTL', 'ctl/vgpu-ctl'), ('VGPU_DEMO_VGPUD', 'core/vgpud'),
                     ('VGPU_DEMO_GUEST', 'guest-lib/examples/vgpu-demo-guest'))]
        here = os.path.dirname(os.path.abspath(__file__))
        self.env = {**os.environ, 'VGPU_CONTROL_SOCKET': self.control, 'VGPU_TOKEN_DIR': self.tokens,
                    'VGPU_SOCKET': os.path.join(self.dir, 'run', 'attach.sock'), 'PYTHONDONTWRITEBYTECODE': '1',
                    'PATH': ':'.join(dict.fromkeys([*programs, here, os.environ.get('PATH', '/usr/bin:/bin')]))}
        self.env.pop('VGPU_VM_ID', None)
        self.env.pop('VGPU_TOKEN_FILE', None)
        self.programs = programs + [here]

    # -- commands --

    def spell(self, argv, more):
        return ' '.join([f'{name}={shlex.quote(value)}' for name, value in more.items()] +
                        [shlex.quote(word) for word in argv]).replace(self.dir, '$T')

    def start(self, *argv, show=True, **more):
        """A command that runs beside others; end() waits for it."""
        if show:
            self.view.command(self.spell(argv, more) + ' &')
        env = {**self.env, **more}
        child = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, text=True, preexec_fn=demo.die_with_parent)
        self.children.append(child)
        return child

    def end(self, child, show=None, limit_s=COMMAND_S):
        """Waits for it. show: how many of its last lines are printed, without its summary for this script."""
        try:
            out, err = child.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            child.kill()
            out, err = child.communicate()
            err += f'(killed: it ran for more than {limit_s} s)'
        self.children.remove(child)
        if show:
            lines = [line for line in (out + err).replace(self.dir, '$T').splitlines() if not line.startswith('{"')]
            self.view.output('\n'.join(lines[-show:]))
        return Done(child.returncode, out, err)

    def run(self, *argv, show=True, **more):
        """A command; printed with its output."""
        if show:
            self.view.command(self.spell(argv, more))
        done = self.end(self.start(*argv, show=False, **more), limit_s=COMMAND_S)
        if show:
            text = [line for line in done.out.splitlines() if not (line.startswith('{"') and argv[0] == 'tourguest.py')]
            self.view.output('\n'.join(text + done.err.splitlines()).replace(self.dir, '$T'))
            if done.code:
                self.view.output(f'(exit {done.code})')
        return done

    def quietly(self, *argv):
        """Exit status only; from any thread."""
        return subprocess.run(argv, env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, timeout=COMMAND_S, check=False).returncode

    def ctl(self, *argv):
        """vgpu-ctl, printed with its output."""
        return self.run('vgpu-ctl', *argv)

    def ask(self, *argv):
        """vgpu-ctl --json, for a verdict; the question is named there and its answer not printed."""
        self.last_question = f'vgpu-ctl {" ".join(argv)} --json'
        done = self.run('vgpu-ctl', *argv, '--json', show=False)
        if done.code:
            raise TourError(f'{self.last_question}: exit {done.code}: {done.err.strip()}')
        return json.loads(done.out)

    def pools_up(self):
        deadline = time.monotonic() + demo.DEVICE_S
        while True:
            pools = self.ask('list-pools')['pools']
            if all(pool['state'] == 'up' for pool in pools):
                return pools
            if time.monotonic() > deadline:
                raise TourError(f'pools are {[(p["name"], p["state"], p["fault"]) for p in pools]}')
            time.sleep(0.02)

    def wait_for(self, what, limit_s=20):
        """True as soon as what() is; False after the limit."""
        deadline = time.monotonic() + limit_s
        while not what():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def guest_env(self, vm_id):
        return {'VGPU_VM_ID': str(vm_id), 'VGPU_TOKEN_FILE': f'{self.tokens}/vm-{vm_id}.token'}

    # -- verdicts --

    def say(self, text):
        self.view.write()
        for line in textwrap.wrap(text, 116):
            self.view.write('  ' + self.view.paint('3', line))

    def check(self, good, text, asked=False):
        """A verdict. asked: the last ask() is what it rests on."""
        text += f'  [{self.last_question}]' if asked else ''
        self.checks.append({'text': text, 'pass': bool(good)})
        self.view.verdict(good, text)

    # -- the daemon --

    def start_daemon(self, show=True):
        if show:
            self.view.command('vgpud --config $T/vgpud.yaml &')
        try:
            super().start_daemon()
        except demo.DemoError as error:
            raise TourError(f'{error}: {self.daemon_says()}') from None

    def daemon_says(self):
        with open(self.log('vgpud.log'), encoding='utf-8', errors='replace') as log:
            return ' | '.join(log.read().splitlines()[-4:])

    def cleanup(self):
        for child in self.children:
            demo.kill(child)
        super().cleanup()


def choose(names):
    """The steps to take, in their order; those that others rest on are added."""
    if not names:
        return list(toursteps.STEPS)
    wanted = set(names) | {name for name, _, _, always in toursteps.STEPS if always}
    unknown = wanted - {name for name, _, _, _ in toursteps.STEPS}
    if unknown:
        raise TourError(f'no such step: {", ".join(sorted(unknown))}; --steps takes '
                        f'{",".join(name for name, *_ in toursteps.STEPS)}')
    return [step for step in toursteps.STEPS if step[0] in wanted]


def take(tour, steps):
    """All steps; a step that cannot go on is wrong, and the next ones are still taken while vgpud runs."""
    view = tour.view
    for number, (name, title, function, _) in enumerate(steps, 1):
        tour.checks, began = [], time.monotonic()
        view.write('\n' + view.paint('1', f'-- {number} of {len(steps)}: {title} ' + '-' * max(0, 96 - len(title))))
        try:
            function(tour)
        except (TourError, demo.DemoError, OSError, KeyError, ValueError, subprocess.TimeoutExpired) as error:
            tour.check(False, f'this step could not go on: {type(error).__name__}: {error}')
        if not tour.checks:
            tour.check(False, 'this step came to no verdict')
        tour.results.append({'step': name, 'title': title, 'pass': all(c['pass'] for c in tour.checks),
                             'seconds': round(time.monotonic() - began, 2), 'checks': tour.checks})
        if name == 'host' and not tour.results[-1]['pass']:
            return False  # nothing else can be shown
        if number < len(steps) and not view.next_step():
            return False
    return True


def summary(tour, started, complete):
    view = tour.view
    wrong = [c['text'] for r in tour.results for c in r['checks'] if not c['pass']]
    view.write('\n' + view.paint('1', 'What was shown'))
    for r in tour.results:
        mark = view.paint('32', 'ok   ') if r['pass'] else view.paint('31', 'WRONG')
        view.write(f'  {mark}  {r["title"]:<72} {len(r["checks"]):>2} verdicts {r["seconds"]:>6.1f} s')
    checks = sum(len(r['checks']) for r in tour.results)
    seconds = time.monotonic() - started
    if not complete:
        view.write(f'\nleft after {len(tour.results)} steps')
    if wrong:
        view.write('\n' + view.paint('1;31', f'{len(wrong)} of {checks} verdicts are WRONG') + f' after {seconds:.0f} s')
        for text in wrong:
            view.write(f'  {text}')
    else:
        view.write('\n' + view.paint('1;32', f'all {checks} verdicts are right') + f' after {seconds:.0f} s')
    return wrong


def terminated(signum, frame):
    raise KeyboardInterrupt


def main(args):
    """The tour; the exit status."""
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, terminated)
    stream = sys.stderr if args.json else sys.stdout
    pause = args.pause or ('auto' if sys.stdin.isatty() and stream.isatty() else 'never')
    view = View(stream, pause)
    tour = Tour(view, args.backend, args.options, args.seconds)
    started = time.monotonic()
    try:
        steps = choose([name for name in args.steps.split(',') if name])
        tour.prepare()
        view.write('Everything below runs for real, in a directory of its own; nothing of an installed vgpud is touched.')
        view.write('Lines with $ are commands as you would type them, with:\n')
        view.write(f'    T={tour.dir}\n    export VGPU_CONTROL_SOCKET=$T/run/control.sock VGPU_SOCKET=$T/run/attach.sock '
                   'VGPU_TOKEN_DIR=$T/run/tokens')
        view.write('    PATH=' + ':'.join(os.path.relpath(p) for p in dict.fromkeys(tour.programs)) + ':$PATH')
        complete = take(tour, steps)
        wrong = summary(tour, started, complete)
        if wrong:
            view.write(f'  logs are kept in {os.path.relpath(tour.keep_logs())}')
    except TourError as error:
        print(f'vgpu: error: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        view.write('\ninterrupted; everything was stopped and removed')
        return 130
    finally:
        tour.cleanup()
        if tour.dir:
            tour.remove()
    if args.json:
        print(json.dumps({'pass': not wrong, 'complete': complete, 'steps': tour.results}), flush=True)
    return 1 if wrong else 0
