#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""with_fake_host.py FAKE-HOST COMMAND...: runs a client program against the fake host, with a socket of its own.

The command finds the host in its environment (VGPU_SOCKET, VGPU_VM_ID, VGPU_TOKEN_FILE); {socket} and {token} in its
arguments stand for the paths. Ends with the command's exit status.
"""
import os
import subprocess
import sys
import tempfile


def main():
    with tempfile.TemporaryDirectory(prefix='vgpu-fake-') as where:
        at, token = os.path.join(where, 'attach.sock'), os.path.join(where, 'token')
        host = subprocess.Popen([sys.argv[1], at, token, '3'], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if host.stdout.readline() != b'ready\n':
            print('FAIL the fake host did not start')
            return 1
        env = dict(os.environ, VGPU_SOCKET=at, VGPU_VM_ID='3', VGPU_TOKEN_FILE=token)
        command = [part.replace('{socket}', at).replace('{token}', token) for part in sys.argv[2:]]
        status = subprocess.run(command, env=env, check=False).returncode
        host.stdin.close()
        if host.wait(timeout=30) != 0:
            print(f'FAIL the fake host ended with {host.returncode}')
            return 1
        return status


if __name__ == '__main__':
    sys.exit(main())
