#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Clients that share no code with the host, against the real daemon: abi_client.py, written from docs/abi.md alone, with
rings of 8, 64 and 1024 slots, and the example programs. Prints TAP.

clients_test.py VGPUD VGPU-CTL EXAMPLES-DIRECTORY
"""
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))


def daemon_start(vgpud, where):
    config = os.path.join(where, 'vgpud.yaml')
    with open(config, 'w', encoding='utf-8') as f:
        f.write(f'paths:\n  run_dir: {where}/run\n  state_dir: {where}/state\n')
    ready_read, ready_write = os.pipe()
    log = open(os.path.join(where, 'log'), 'w', encoding='utf-8')
    daemon = subprocess.Popen([vgpud, '--config', config, f'--ready-fd={ready_write}'], pass_fds=[ready_write],
                              stdin=subprocess.DEVNULL, stderr=log)
    os.close(ready_write)
    with os.fdopen(ready_read, 'rb') as f:
        if f.read() != b'ready\n':
            raise RuntimeError('vgpud did not become ready')
    return daemon


def clients(where, examples):
    token = os.path.join(where, 'run', 'tokens', 'vm-1.token')
    attach = os.path.join(where, 'run', 'attach.sock')
    for slots in (8, 64, 1024):
        yield f'abi_client_{slots}_slots', [sys.executable, os.path.join(HERE, 'abi_client.py'), '--socket', attach,
                                            '--vm-id', '1', '--token-file', token, '--slots', str(slots)]
    for name in ('vgpu-vecadd', 'vgpu-gemm', 'vgpu-digits'):
        yield name, [os.path.join(examples, name)]


def main():
    vgpud, ctl, examples = sys.argv[1:4]
    failed = count = 0
    with tempfile.TemporaryDirectory(prefix='vgpu-clients-') as where:
        daemon = daemon_start(vgpud, where)
        try:
            subprocess.run([ctl, f'--socket={where}/run/control.sock', 'register-vm', '--vm-id=1', '--pool=A',
                            f'--uid={os.getuid()}'], check=True, stdout=subprocess.DEVNULL, timeout=30)
            env = dict(os.environ, VGPU_SOCKET=f'{where}/run/attach.sock', VGPU_VM_ID='1',
                       VGPU_TOKEN_FILE=f'{where}/run/tokens/vm-1.token')
            for name, command in clients(where, examples):
                count += 1
                ran = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                     stderr=subprocess.STDOUT, timeout=120, check=False)
                good = ran.returncode == 0
                failed += not good
                print(f'{"ok" if good else "not ok"} {count} - {name}')
                if not good:
                    print('# ' + ran.stdout.decode(errors='replace').replace('\n', '\n# '))
        finally:
            daemon.terminate()
            status = daemon.wait(timeout=60)
        count += 1
        failed += status != 0
        print(f'{"ok" if status == 0 else "not ok"} {count} - vgpud_ends_with_0')
        print(f'1..{count}')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
