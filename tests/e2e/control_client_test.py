#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""docs/examples/control_client.py against a real vgpud. Arguments: the example, vgpud."""
import importlib.util
import json
import os
import subprocess
import sys
import tempfile


def expect(what, is_so):
    if not is_so:
        sys.exit(f'not so: {what}')


def refusal(client, *call):
    try:
        client.call(*call)
    except client.Refused as no:
        return no.code
    return None


def talk(client, example, sock):
    expect('version', client.call(sock, 'version')['abi'].count('.') == 1)
    made = client.call(sock, 'register-vm', {'vm_ids': [1, 2], 'pool': 'A', 'priority': 'high'})
    expect('two are registered', [vm['vm_id'] for vm in made['vms']] == [1, 2])
    listed = client.call(sock, 'list-vms', {'pool': 'A', 'priority': 'high'})['vms']
    expect('both are listed', [(vm['vm_id'], vm['pool'], vm['priority']) for vm in listed] ==
           [(1, 'A', 'high'), (2, 'A', 'high')])
    expect('taken', refusal(client, sock, 'register-vm', {'vm_ids': [2], 'pool': 'A'}) == 'EEXIST')
    expect('unknown command', refusal(client, sock, 'list-vm') == 'ENOSYS')
    expect('unknown argument', refusal(client, sock, 'list-vms', {'poool': 'A'}) == 'EINVAL')
    shown = subprocess.run([sys.executable, example, sock, 'show-vm', '{"vm_id": 2}'], capture_output=True, check=False)
    expect('as a program', shown.returncode == 0 and json.loads(shown.stdout)['vm']['vm_id'] == 2)
    shown = subprocess.run([sys.executable, example, sock, 'show-vm', '{"vm_id": 3}'], capture_output=True, check=False)
    expect('a refusal of the program', shown.returncode == 1 and shown.stderr.startswith(b'ENOENT: '))


def main():
    example, vgpud = sys.argv[1:]
    sys.dont_write_bytecode = True
    spec = importlib.util.spec_from_file_location('control_client', example)
    client = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(client)
    with tempfile.TemporaryDirectory(prefix='vgpu-client-') as where:
        config = os.path.join(where, 'vgpud.yaml')
        with open(config, 'w', encoding='utf-8') as f:
            f.write(f'paths: {{run_dir: {where}/run, state_dir: {where}/state}}\n')
        ready, told = os.pipe()
        with subprocess.Popen([vgpud, '--config', config, f'--ready-fd={told}'], pass_fds=[told],
                              stdin=subprocess.DEVNULL) as daemon:
            os.close(told)
            with os.fdopen(ready, 'rb') as f:
                is_ready = f.read() == b'ready\n'
            try:
                expect('vgpud is ready', is_ready)
                talk(client, example, f'{where}/run/control.sock')
            finally:
                daemon.terminate()
        expect('vgpud ends well', daemon.returncode == 0)


if __name__ == '__main__':
    main()
