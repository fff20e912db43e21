#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""vgpu-ctl doctor beside a real vgpud: well, stopped executor, stuck ring, no daemon; and a bundle with nothing secret.

doctor_test.py VGPUD VGPU-EXEC VGPU-CTL GUEST SOURCE-ROOT
"""
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time

VGPUD, EXEC, CTL, GUEST, SOURCE = sys.argv[1:6]
sys.path.insert(0, os.path.join(SOURCE, 'tests', 'ctl'))
sys.dont_write_bytecode = True
import schema  # noqa: E402  (lies beside the tests of vgpu-ctl)

with open(os.path.join(SOURCE, 'docs', 'schema', 'doctor.json'), encoding='utf-8') as spec:
    SCHEMA = json.load(spec)
UUID = '6f1c1e52-0000-4a4b-8c8d-123456789abc'
CONFIG = '''paths:
  run_dir: {0}/run
  state_dir: {0}/state
  executor: {1}
  attach_socket: {0}/{2}.sock
poll_cores:
  cpus: [any]
executors:
  - name: exec-A
    backend: cpu
pools:
  - name: A
    executor: exec-A
'''


class Daemon:
    def __init__(self):
        self.where = tempfile.mkdtemp(prefix='vgpu-doctor-')
        self.control = os.path.join(self.where, 'run', 'control.sock')
        self.attach = os.path.join(self.where, UUID + '.sock')
        self.config = os.path.join(self.where, 'vgpud.yaml')
        for folder in ('run', 'state'):
            os.mkdir(os.path.join(self.where, folder), 0o711)
        with open(self.config, 'w', encoding='utf-8') as f:
            f.write(CONFIG.format(self.where, EXEC, UUID))
        read, write = os.pipe()
        self.process = subprocess.Popen([VGPUD, '--config', self.config, f'--ready-fd={write}'], pass_fds=[write],
                                        stderr=subprocess.DEVNULL)
        os.close(write)
        with os.fdopen(read, 'rb') as ready:
            assert ready.read() == b'ready\n', 'vgpud did not become ready'

    def ctl(self, *args):
        done = subprocess.run([CTL, f'--socket={self.control}', *args], capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stdout, done.stderr

    def doctor(self, *args):
        code, out, errors = self.ctl('doctor', '--json', f'--config={self.config}', *args)
        assert not errors, errors
        report = json.loads(out)
        faults = list(schema.faults(SCHEMA, report, SCHEMA))
        assert not faults, faults
        worst = {'none': 0, 'low': 0, 'medium': 4, 'high': 5, 'critical': 6}
        assert code == worst[report['worst']], (code, report['worst'])
        return report['findings']

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        shutil.rmtree(self.where, ignore_errors=True)


def of(findings, name):
    return [f for f in findings if f['id'] == name]


def status(findings, name):
    return {f['status'] for f in of(findings, name)}


def members(path):
    with tarfile.open(path) as tar:
        return {m.name.split('/', 1)[1]: tar.extractfile(m).read() for m in tar.getmembers()}


def well(daemon):
    """Nothing is wrong with a fresh daemon, whatever is wrong with this machine."""
    found = daemon.doctor()
    for name in ('doctor.socket', 'doctor.daemon', 'doctor.versions', 'doctor.executors', 'doctor.rings', 'doctor.processes',
                 'doctor.vms', 'doctor.clock'):
        assert status(found, name) == {'pass'}, of(found, name)


def nothing_secret(daemon):
    """Tokens, UUIDs, host names are in what is gathered and not in the bundle; the JSON in it is whole."""
    code, out, errors = daemon.ctl('register-vm', '--vm-id=1', '--pool=A', f'--uid={os.getuid()}', '--json')
    assert code == 0, errors
    with open(json.loads(out)['vms'][0]['token_file'], encoding='utf-8') as f:
        token = f.read().strip()
    assert len(token) >= 32, token
    code, _, errors = daemon.ctl('register-vm', '--vm-id=2', '--pool=A', f'--name={token[:31]}')
    assert code == 0, errors
    bundle = os.path.join(daemon.where, 'report.tar')
    daemon.doctor(f'--bundle={bundle}')
    assert os.stat(bundle).st_mode & 0o777 == 0o600
    with open(bundle, 'rb') as f:
        raw = f.read()
    for secret in (token, token[:31], token[:16], UUID):
        assert secret.encode() not in raw and secret.upper().encode() not in raw, 'a secret is in the bundle'
    files = members(bundle)
    # The plants were there to be found: the places that held them are in the bundle.
    assert b'<uuid>.sock' in files['config.txt'], files['config.txt']
    assert b'<hex>' in files['vms.json'], files['vms.json']
    for name in ('doctor.json', 'precheck.json', 'vms.json', 'pools.json', 'stats.json', 'version.json'):
        json.load(io.BytesIO(files[name]))
    everything = b'\n'.join(files.values())
    assert not re.search(rb'[0-9a-fA-F]{20,}', everything)  # counters have up to 19 digits
    assert not re.search(rb'[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-', everything)
    host = socket.gethostname()
    if len(host) > 2:
        assert not re.search(rb'(?<![\w-])' + re.escape(host.encode()) + rb'(?![\w-])', everything, re.I), host
    assert 'README' in files and b'Taken out' in files['README']
    code, _, errors = daemon.ctl('doctor', f'--config={daemon.config}', '--bundle=/nowhere/at/all.tar')
    assert code == 1 and '/nowhere/at/all.tar' in errors, errors


def served(daemon):
    code, out, errors = daemon.ctl('stats', '--vm-id=1', '--json')
    assert code == 0, errors
    return json.loads(out)['vms'][0]['completed']


def wait_until(true, otherwise):
    until = time.monotonic() + 30
    while not true():
        assert time.monotonic() < until, otherwise
        time.sleep(0.05)


def stuck(daemon):
    """An executor that is stopped, and the ring of a guest that waits for it."""
    code, out, _ = daemon.ctl('list-pools', '--json')
    executor = json.loads(out)['pools'][0]['executor_pid']
    code, out, errors = daemon.ctl('show-vm', '--vm-id=1', '--json')
    assert code == 0, errors
    env = dict(os.environ, VGPU_VM_ID='1', VGPU_SOCKET=daemon.attach, VGPU_TOKEN_FILE=json.loads(out)['vm']['token_file'])
    guest = subprocess.Popen([GUEST, '--seconds', '60'], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: served(daemon) > 100, 'the guest is not served')
        assert status(daemon.doctor(), 'doctor.rings') == {'pass'}, 'a ring that moves is no alarm'
        os.kill(executor, signal.SIGSTOP)
        found = daemon.doctor()
        assert any('state T' in f['found'] and 'kill -CONT' in f['remedy'] for f in of(found, 'doctor.processes')), found
        assert any(f['status'] == 'fail' and 'VM 1: ' in f['found'] for f in of(found, 'doctor.rings')), found
    finally:
        os.kill(executor, signal.SIGCONT)
        guest.kill()
        guest.wait()


def state_of(pid):
    with open(f'/proc/{pid}/stat', encoding='ascii') as f:
        return f.read().rpartition(')')[2].split()[0]


def died(daemon):
    """An executor that is killed comes back, and that is told; one that keeps dying more so."""
    def executor():
        return json.loads(daemon.ctl('list-pools', '--json')[1])['pools'][0]

    for times in (1, 3):
        while json.loads(daemon.ctl('status', '--json')[1])['executors'][0]['restarts'] < times:
            before = executor()
            if before['executor_pid']:
                os.kill(before['executor_pid'], signal.SIGKILL)
                pid = before['executor_pid']
                wait_until(lambda pid=pid: executor()['state'] == 'up' and executor()['executor_pid'] != pid,
                           'the executor does not come back')
        found = of(daemon.doctor(), 'doctor.restarts')
        assert [f['severity'] for f in found] == ['low' if times < 3 else 'medium'], found
        assert f'again {times} time' in found[0]['found'], found


def permissions(daemon):
    """Files that others may change or read, by their real names; none of it before."""
    socket_path, attach = daemon.control, daemon.attach
    run = os.path.join(daemon.where, 'run')
    files = {'vgpu.state': (os.path.join(daemon.where, 'state', 'vgpu.db'), 0o666), 'doctor.socket': (socket_path, 0o600),
             'vgpu.config_permissions': (daemon.config, 0o666), 'vgpu.run_dir': (run, 0o777),
             'vgpu.tokens': (os.path.join(run, 'tokens', 'vm-1.token'), 0o644), 'doctor.attach_socket': (attach, 0o600)}
    before = daemon.doctor()
    for name in files:
        assert status(before, name) <= {'pass'}, (name, of(before, name))
    good = {name: os.stat(path).st_mode & 0o7777 for name, (path, _) in files.items()}
    for path, mode in files.values():
        os.chmod(path, mode)
    broken = daemon.doctor()
    for name, (path, _) in files.items():
        found = of(broken, name)
        assert found and {f['status'] for f in found} <= {'warn', 'fail'}, (name, found)
        mend = found[0]['remedy']
        assert os.path.dirname(path) in mend and '`chmod ' in mend, (name, mend)
        subprocess.run(mend.split('`')[1], shell=True, check=True)   # what it says to type mends it
    after = daemon.doctor()
    for name, (path, _) in files.items():
        assert status(after, name) <= {'pass'}, (name, of(after, name))
        os.chmod(path, good[name])
    os.rename(attach, attach + '.away')
    assert status(daemon.doctor(), 'doctor.attach_socket') == {'fail'}
    os.rename(attach + '.away', attach)


def clock(daemon):
    """A clock that is behind what the registry says went back."""
    store = os.path.join(daemon.where, 'state', 'vgpu.db')
    stamp = os.stat(store)
    os.utime(store, (stamp.st_atime, time.time() + 86400))
    assert status(daemon.doctor(), 'doctor.clock') == {'fail'}
    os.utime(store, (stamp.st_atime, stamp.st_mtime))
    assert status(daemon.doctor(), 'doctor.clock') <= {'pass', 'warn'}


def stopped(daemon):
    """A vgpud that is stopped is found so at once, with its process, and without waiting for its answer."""
    daemon.process.send_signal(signal.SIGSTOP)
    try:
        wait_until(lambda: state_of(daemon.process.pid) == 'T', 'it does not stop')
        found = of(daemon.doctor(), 'doctor.daemon')
        assert f'kill -CONT {daemon.process.pid}' in found[0]['remedy'] and found[0]['severity'] == 'critical', found
    finally:
        daemon.process.send_signal(signal.SIGCONT)
    assert status(daemon.doctor(), 'doctor.daemon') <= {'pass', 'warn'}


def impostor(daemon):
    """Whatever answers at the socket: another version is told, nonsense is no crash and no success."""
    path = os.path.join(daemon.where, 'impostor.sock')
    for answer, name, want in ((b'{"ok":true,"result":{"version":"9.9"}}\n', 'doctor.versions', {'warn'}),
                               (b'\xff\x00nonsense\n', 'doctor.daemon', {'fail'}), (b'', 'doctor.daemon', {'fail'})):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(8)
            stop = threading.Event()

            def serve(listener=listener, answer=answer, stop=stop):
                listener.settimeout(0.1)
                while not stop.is_set():
                    try:
                        with listener.accept()[0] as peer:
                            peer.settimeout(1)
                            peer.recv(65536)
                            peer.sendall(answer)
                    except OSError:
                        pass

            thread = threading.Thread(target=serve)
            thread.start()
            done = subprocess.run([CTL, f'--socket={path}', 'doctor', '--json'], capture_output=True, text=True, timeout=60,
                                  check=False)
            stop.set()
            thread.join()
        os.unlink(path)
        report = json.loads(done.stdout)
        assert not list(schema.faults(SCHEMA, report, SCHEMA)), report
        assert status(report['findings'], name) == want, (answer, report)


def edited(daemon):
    """The file was spoilt after the start: named itself, and the daemon is found by another way or said to be guessed."""
    with open(daemon.config, encoding='utf-8') as f:
        good = f.read()
    with open(daemon.config, 'a', encoding='utf-8') as f:
        f.write('pols: 3\n')

    def doctor(**env):
        env = {k: v for k, v in os.environ.items() if not k.startswith('VGPU_')} | env
        done = subprocess.run([CTL, 'doctor', '--json', f'--config={daemon.config}'], capture_output=True, text=True, env=env,
                              timeout=60, check=False)
        return json.loads(done.stdout)['findings']

    found = doctor(VGPU_CONTROL_SOCKET=daemon.control)
    assert status(found, 'doctor.daemon') == {'pass'}, found
    wrong = of(found, 'vgpu.config')[0]
    assert 'pols' in wrong['found'] and f'`vgpud --check-config {os.path.realpath(daemon.config)}`' in wrong['remedy'], wrong
    if not os.path.exists('/run/vgpu/control.sock'):
        found = of(doctor(), 'doctor.socket')[0]
        assert 'guess' in found['found'] and '--socket' in found['remedy'], found
    with open(daemon.config, 'w', encoding='utf-8') as f:
        f.write(good)


def stale(daemon):
    """The daemon was killed: its socket is there, and nobody listens."""
    daemon.process.kill()
    daemon.process.wait()
    assert os.path.exists(daemon.control)
    found = of(daemon.doctor(), 'doctor.daemon')
    assert found[0]['status'] == 'fail' and f'process {daemon.process.pid}) is gone' in found[0]['found'], found
    if os.geteuid() == 0:
        os.chmod(daemon.where, 0o711)
        program = os.path.join(daemon.where, 'ctl')
        shutil.copy(CTL, program)  # a build in somebody's home is not for everybody to run
        done = subprocess.run([program, f'--socket={daemon.control}', 'doctor', '--json'], capture_output=True, text=True,
                              timeout=60, check=False, user=65534, group=65534, extra_groups=[])
        found = json.loads(done.stdout)['findings'] if done.stdout else []
        assert status(found, 'doctor.daemon') in ({'unknown'}, {'fail'}), (done.stdout, done.stderr)
        os.unlink(program)
    os.unlink(daemon.control)
    with open(daemon.control, 'w', encoding='ascii'):
        pass
    found = of(daemon.doctor(), 'doctor.socket')
    assert found[0]['status'] == 'fail' and f'`rm {daemon.control}`' in found[0]['remedy'], found
    os.unlink(daemon.control)


def no_daemon(daemon):
    """The daemon is gone: said with what to do, and the bundle can still be made."""
    assert daemon.process.poll() is not None
    bundle = os.path.join(daemon.where, 'gone.tar')
    found = daemon.doctor(f'--bundle={bundle}')
    assert status(found, 'doctor.daemon') == {'fail'} and 'journalctl' in of(found, 'doctor.daemon')[0]['remedy'], found
    assert 'config.txt' in members(bundle)
    code, text, _ = daemon.ctl('doctor', f'--config={daemon.config}')
    assert code == 6 and 'mend:' in text, text


def main():
    daemon = Daemon()
    failed = passed = 0
    try:
        for test in (well, nothing_secret, stuck, died, permissions, clock, edited, stopped, impostor, stale, no_daemon):
            try:
                test(daemon)
                passed += 1
                print(f'ok   {test.__name__}')
            except AssertionError as error:
                failed += 1
                print(f'FAIL {test.__name__}: {str(error)[:3000]}')
    finally:
        daemon.end()
    print(f'{passed} passed, {failed} failed')
    sys.exit(1 if failed else 0)


if __name__ == '__main__':
    main()
