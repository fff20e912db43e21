#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""./run demo: ten guest processes share the device; every result is checked by the guest, every count by the host.

Starts a daemon of its own in a temporary directory (own sockets, store and tokens; nothing of an installed vgpud is
touched), registers VMs 1-7 in pool A and 8-10 in pool B, runs ten guests at once, and ends 0 only if all is right.
"""
import argparse
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import demoview

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PRIORITIES = ('high', 'medium', 'low')
VMS = [(vm, 'A' if vm <= 7 else 'B', PRIORITIES[(vm - 1) % 3]) for vm in range(1, 11)]
DIGITS_IMAGES = 1797
DIGITS_ACCURACY = 0.95
READY_S, DEVICE_S, CONTROL_S, STOP_S, GUEST_EXTRA_S = 60, 30, 30, 30, 180
CONFIG = '''# Made by ./run demo.
paths:
  run_dir: {dir}/run
  state_dir: {dir}/state
  executor: {executor}
'''
# Both pools on one executor: one context on one device.
CONFIG_BACKEND = '''executors:
  - name: exec-A
    backend: {backend}
    options: {options}
pools:
  - name: A
    executor: exec-A
  - name: B
    executor: exec-A
'''
PR_SET_PDEATHSIG = 1


class DemoError(Exception):
    """Something is not right; the text says what, for a person."""


def program(variable, path):
    """The program to run; the environment may name another (tests of this script do)."""
    return os.path.abspath(os.environ.get(variable) or os.path.join(ROOT, 'build', path))


def die_with_parent():
    """Between fork and exec: whatever happens to this script, its children do not stay behind."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


LIBC = ctypes.CDLL(None)


class Guest:
    """One guest process: its pipe, what it reported last, and its verdict."""

    def __init__(self, vm_id, pool, priority):
        self.vm_id, self.pool, self.priority = vm_id, pool, priority
        self.token_file = None
        self.process = None
        self.log = None
        self.pending = b''
        self.progress = 0.0
        self.descriptors = 0
        self.phase = 'start'
        self.result = None
        self.faults = []

    def start(self, command, env, log):
        self.log = log
        with open(log, 'wb') as sink:
            self.process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                            stderr=sink, start_new_session=True, preexec_fn=die_with_parent)

    def take(self):
        """Reads what is there. False at the end of the pipe."""
        chunk = os.read(self.process.stdout.fileno(), 65536)
        if not chunk:
            return False
        *whole, self.pending = (self.pending + chunk).split(b'\n')
        for line in whole:
            self.line(line.decode(errors='replace'))
        return True

    def line(self, text):
        try:
            told = json.loads(text)
            if 'result' in told:
                self.result = told['result']
                self.progress, self.descriptors, self.phase = 1.0, int(self.result['descriptors']), 'done'
            elif 'progress' in told:
                self.progress = min(max(float(told['progress']), 0.0), 1.0)
                self.descriptors = int(told['descriptors'])
                self.phase = str(told.get('phase', ''))
        except (ValueError, KeyError, TypeError):
            self.faults.append(f'wrote a line that is not what was agreed: {text[:120]!r}')

    def judge(self):
        """After its end: what is wrong with this guest, by its own account."""
        code = self.process.returncode
        if code:
            self.faults.append(f'ended by signal {-code}' if code < 0 else f'ended with exit {code}')
        if not self.result:
            self.faults.append('gave no result')
            return
        for key, want in (('vm_id', self.vm_id), ('pool', self.pool), ('priority', self.priority)):
            if self.result.get(key) != want:
                self.faults.append(f'says its {key} is {self.result.get(key)!r}, registered is {want!r}')
        if self.result.get('verified') is not True:
            self.faults.append(f'was not verified: {self.result.get("error") or "results differ from its reference"}')
        if self.descriptors <= 0:
            self.faults.append('did no work')
        digits = self.result.get('digits')
        if digits is None:
            return
        if digits.get('matches_reference') is not True:
            self.faults.append('classified digits unlike the reference on the CPU')
        if digits.get('accuracy', 0) < DIGITS_ACCURACY:
            self.faults.append(f'digits: accuracy {digits.get("accuracy")}, at least {DIGITS_ACCURACY} is wanted')


class Demo:
    def __init__(self, seconds, view, backend=None, options=''):
        self.seconds = seconds
        self.view = view
        self.backend, self.options = backend, options
        self.device = ''
        self.dir = None
        self.daemon = None
        self.guests = [Guest(*row) for row in VMS]
        self.stats = None

    # -- the daemon --

    def prepare(self):
        self.dir = tempfile.mkdtemp(prefix='vgpu-demo-')
        if len(self.dir) > 70:  # a unix socket's path has 107 bytes
            os.rmdir(self.dir)
            self.dir = tempfile.mkdtemp(prefix='vgpu-demo-', dir='/tmp')
        for name in ('run', 'state', 'log'):
            os.mkdir(os.path.join(self.dir, name), 0o700)
        self.control = os.path.join(self.dir, 'run', 'control.sock')
        with open(os.path.join(self.dir, 'vgpud.yaml'), 'w', encoding='utf-8') as out:
            out.write(CONFIG.format(dir=self.dir, executor=program('VGPU_DEMO_EXEC', 'pmd-gpu/vgpu-exec')))
            if self.backend:
                out.write(CONFIG_BACKEND.format(backend=json.dumps(self.backend), options=json.dumps(self.options)))

    def log(self, name):
        return os.path.join(self.dir, 'log', name)

    def start_daemon(self):
        ready, child = os.pipe()
        command = [program('VGPU_DEMO_VGPUD', 'core/vgpud'), '--config', os.path.join(self.dir, 'vgpud.yaml'),
                   f'--ready-fd={child}']
        try:
            with open(self.log('vgpud.log'), 'wb') as sink:
                self.daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink,
                                               pass_fds=[child], start_new_session=True, preexec_fn=die_with_parent)
        finally:
            os.close(child)
        try:
            said = b''
            deadline = time.monotonic() + READY_S
            while b'\n' not in said:
                if not select.select([ready], [], [], max(0, deadline - time.monotonic()))[0]:
                    raise DemoError(f'vgpud was not ready after {READY_S} s')
                chunk = os.read(ready, 64)
                if not chunk:
                    raise DemoError('vgpud ended before it was ready')
                said += chunk
        finally:
            os.close(ready)

    def ctl(self, *args):
        command = [program('VGPU_DEMO_CTL', 'ctl/vgpu-ctl'), '--socket', self.control, *args, '--json']
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=CONTROL_S)
        if done.returncode:
            raise DemoError(f'vgpu-ctl {" ".join(args)}: exit {done.returncode}: {done.stderr.strip()}')
        try:
            return json.loads(done.stdout)
        except ValueError:
            raise DemoError(f'vgpu-ctl {" ".join(args)}: not JSON: {done.stdout[:200]!r}') from None

    def pools_up(self):
        """Waits for the executors: a GPU's takes seconds to start."""
        deadline = time.monotonic() + DEVICE_S
        while True:
            pools = self.ctl('list-pools').get('pools', [])
            down = [p for p in pools if p.get('state') != 'up']
            if not down:
                return pools
            if time.monotonic() > deadline:
                raise DemoError(f'pool {down[0]["name"]} is {down[0]["state"]} after {DEVICE_S} s: {down[0].get("fault")}')
            time.sleep(0.05)

    def find_device(self):
        """What the pools run on, as the host says: "cuda (NVIDIA H200); 1 executor"."""
        pools = self.pools_up()
        if self.backend and self.backend != 'auto' and {p.get('backend') for p in pools} != {self.backend}:
            raise DemoError(f'asked for backend {self.backend}, the pools have {[p.get("backend") for p in pools]}')
        names = dict.fromkeys(p['backend'] + (f' ({p["device"]})' if p.get('device') else '') for p in pools)
        executors = len({p.get('executor') for p in pools})
        self.device = f'{", ".join(names)}; {executors} executor{"s" if executors > 1 else ""}'
        for reason in dict.fromkeys(p['fallback'] for p in pools if p.get('fallback')):
            self.view.say(f'backend auto fell back: {reason}')

    def register(self):
        for guest in self.guests:
            told = self.ctl('register-vm', f'--vm-id={guest.vm_id}', f'--pool={guest.pool}',
                            f'--priority={guest.priority}', f'--uid={os.getuid()}')
            mine = [vm for vm in told.get('vms', []) if vm.get('vm_id') == guest.vm_id]
            if not mine or not mine[0].get('token_file'):
                raise DemoError(f'register-vm gave no token file for VM {guest.vm_id}: {told}')
            guest.token_file = mine[0]['token_file']

    def stop_daemon(self):
        """Asks it to end; a daemon that dies, hangs or complains is a fault."""
        if self.daemon.poll() is not None:
            raise DemoError(f'vgpud ended by itself with exit {self.daemon.returncode}')
        self.daemon.send_signal(signal.SIGTERM)
        try:
            code = self.daemon.wait(STOP_S)
        except subprocess.TimeoutExpired:
            raise DemoError(f'vgpud did not end within {STOP_S} s of SIGTERM') from None
        if code:
            raise DemoError(f'vgpud ended with exit {code} after SIGTERM')

    # -- the guests --

    def run_guests(self):
        command = [program('VGPU_DEMO_GUEST', 'guest-lib/examples/vgpu-demo-guest'), '--json',
                   '--seconds', str(self.seconds)]
        for guest in self.guests:
            env = {**os.environ, 'VGPU_VM_ID': str(guest.vm_id), 'VGPU_TOKEN_FILE': guest.token_file,
                   'VGPU_SOCKET': os.path.join(self.dir, 'run', 'attach.sock')}
            guest.start(command, env, self.log(f'vm-{guest.vm_id}.log'))
        limit_s = self.seconds + GUEST_EXTRA_S
        deadline = time.monotonic() + limit_s
        running = {guest.process.stdout.fileno(): guest for guest in self.guests}
        while running:
            for fd in select.select(list(running), [], [], 0.1)[0]:
                if not running[fd].take():
                    guest = running.pop(fd)
                    self.view.ended(guest)
            if self.daemon.poll() is not None:
                raise DemoError(f'vgpud ended with exit {self.daemon.returncode} while guests ran')
            if time.monotonic() > deadline:
                for guest in running.values():
                    guest.faults.append(f'still ran after {limit_s:.0f} s (phase {guest.phase})')
                break
            self.view.progress(self.guests)
        for guest in running.values():
            kill(guest.process)
        for guest in self.guests:
            guest.process.wait(STOP_S)
            guest.judge()
        self.view.progress(self.guests, last=True)

    # -- the host's account --

    def compare_counts(self):
        self.stats = self.ctl('stats')
        rows = {row.get('vm_id'): row for row in self.stats.get('vms', [])}
        for guest in self.guests:
            row = rows.get(guest.vm_id)
            if row is None:
                guest.faults.append('is not in the host\'s statistics')
                continue
            if row.get('completed') != guest.descriptors or row.get('accepted') != guest.descriptors:
                guest.faults.append(f'counted {guest.descriptors} descriptors; the host accepted '
                                    f'{row.get("accepted")} and completed {row.get("completed")}')
            for name in ('refused', 'failed', 'lost', 'outstanding'):
                if row.get(name):
                    guest.faults.append(f'the host counts {row[name]} {name}')

    def digits(self):
        """One verdict of all guests that classified digits: the weakest counts."""
        told = [g.result['digits'] for g in self.guests if g.result and g.result.get('digits')]
        if not told:
            return {'images': 0, 'accuracy': 0.0, 'matches_reference': False}
        return {'images': min(d.get('images', 0) for d in told),
                'accuracy': min(d.get('accuracy', 0.0) for d in told),
                'matches_reference': all(d.get('matches_reference') is True for d in told)}

    def guest_faults(self):
        return [f'VM {g.vm_id} {fault} (log: vm-{g.vm_id}.log)' for g in self.guests for fault in g.faults]

    def faults(self):
        found = self.guest_faults()
        if self.digits()['images'] != DIGITS_IMAGES:
            found.append(f'digits: {self.digits()["images"]} images were classified, not {DIGITS_IMAGES}')
        return found

    # -- the end --

    def cleanup(self):
        for guest in self.guests:
            if guest.process:
                kill(guest.process)
                guest.process.stdout.close()
        if self.daemon:
            kill(self.daemon, patience_s=5)

    def log_tail(self, faults):
        """The last words of up to three logs that the faults name."""
        named = dict.fromkeys(word.strip('()') for fault in faults for word in fault.split() if word.endswith('.log)'))
        for name in list(named)[:3]:
            with open(self.log(name), encoding='utf-8', errors='replace') as text:
                for line in text.read().splitlines()[-4:]:
                    yield f'{name}: {line[:200]}'

    def keep_logs(self):
        kept = os.path.join(ROOT, 'build', 'log', 'demo-failed')
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(os.path.join(self.dir, 'log'), kept)
        shutil.copy(os.path.join(self.dir, 'vgpud.yaml'), kept)
        return kept

    def remove(self):
        shutil.rmtree(self.dir, ignore_errors=True)


def kill(process, patience_s=0.0):
    """Ends a process that may have ended already; SIGTERM first where patience is given. Waits for its end."""
    if process.poll() is None and patience_s:
        process.terminate()
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            pass
    if process.poll() is None:
        process.kill()
    process.wait(10)


def run(demo, view):
    """The whole story. Returns the list of what is wrong; [] when all is right."""
    demo.prepare()
    try:
        view.say('starting vgpud')
        demo.start_daemon()
        demo.find_device()
        view.say(f'device: {demo.device}')
        view.say('registering VMs 1-7 in pool A, 8-10 in pool B')
        demo.register()
        view.say('ten guests at once')
        demo.run_guests()
        demo.compare_counts()
        demo.stop_daemon()
        return demo.faults()
    except (DemoError, OSError, subprocess.TimeoutExpired) as error:
        return [f'{error} (log: vgpud.log)'] + demo.guest_faults()
    finally:
        demo.cleanup()


def interrupted(signum, frame):
    raise KeyboardInterrupt


def main():
    parser = argparse.ArgumentParser(prog='./run demo', description='Ten guests share the device; all is checked.')
    parser.add_argument('--json', action='store_true', help='one line with one JSON object on stdout, nothing else')
    parser.add_argument('--seconds', type=float, default=5.0, help='how long the guests work, about (default 5)')
    parser.add_argument('--backend', help='what the executor runs on: cpu (default), cuda, auto')
    parser.add_argument('--options', default='', help='options of that backend, key=value,key=value')
    parser.add_argument('--tour', action='store_true', help='every feature live, step by step, each with a verdict')
    parser.add_argument('--steps', default='', help='with --tour: only these, and what they rest on: a,b,c')
    parser.add_argument('--pause', action='store_const', const='always', help='with --tour: wait for a key after each step')
    parser.add_argument('--no-pause', action='store_const', const='never', dest='pause',
                        help='with --tour: never wait; without both: a few seconds, at a terminal only')
    args = parser.parse_args()
    if args.options and not args.backend:
        parser.error('--options are those of a --backend')
    if not 0.1 <= args.seconds <= 3600:
        parser.error('--seconds takes 0.1 to 3600')
    if args.tour:
        import tour  # which imports this
        return tour.main(args)
    if args.steps or args.pause:
        parser.error('--steps, --pause and --no-pause are of --tour')
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, interrupted)
    view = demoview.View(sys.stderr if args.json else sys.stdout)
    demo = Demo(args.seconds, view, args.backend, args.options)
    try:
        faults = run(demo, view)
        if faults and demo.dir:
            faults += [f'  {line}' for line in demo.log_tail(faults)]
            kept = demo.keep_logs()
            faults.append(f'logs are kept in {os.path.relpath(kept)}')
        view.table(demo)
        view.verdict(faults)
    except KeyboardInterrupt:
        demo.cleanup()
        view.say('interrupted; everything was stopped and removed')
        return 130
    finally:
        if demo.dir:
            demo.remove()
    if args.json:
        rows = [{'vm_id': g.vm_id, 'pool': g.pool, 'priority': g.priority, 'descriptors': g.descriptors,
                 'p50_us': (g.result or {}).get('p50_us'), 'p99_us': (g.result or {}).get('p99_us'),
                 'verified': bool(g.result and g.result.get('verified') is True and not g.faults)}
                for g in demo.guests]
        print(json.dumps({'pass': not faults, 'device': demo.device, 'vms': rows, 'digits': demo.digits()}), flush=True)
    return 1 if faults else 0


if __name__ == '__main__':
    sys.exit(main())
