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
        assert any('state T' in f['found'] for f in of(found, 'doctor.processes')), found
        assert any(f['status'] == 'fail' and 'VM 1: ' in f['found'] for f in of(found, 'doctor.rings')), found
    finally:
        os.kill(executor, signal.SIGCONT)
        guest.kill()
        guest.wait()


def no_daemon(daemon):
    """The daemon is gone: said with what to do, and the bundle can still be made."""
    daemon.process.kill()
    daemon.process.wait()
    bundle = os.path.join(daemon.where, 'gone.tar')
    found = daemon.doctor(f'--bundle={bundle}')
    assert status(found, 'doctor.daemon') == {'fail'} and 'systemctl' in of(found, 'doctor.daemon')[0]['remedy'], found
    assert 'config.txt' in members(bundle)
    code, text, _ = daemon.ctl('doctor', f'--config={daemon.config}')
    assert code == 6 and 'mend:' in text, text


def main():
    daemon = Daemon()
    failed = passed = 0
    try:
        for test in (well, nothing_secret, stuck, no_daemon):
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
