#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A client of vgpud's control protocol (docs/control-protocol.md) in Python's standard library.

    control_client.py /run/vgpu/control.sock list-vms '{"pool": "A"}'

One connection carries one request and one response, each one line of JSON.
"""
import json
import socket
import sys


class Refused(Exception):
    """vgpud said no: `code` is an errno name, the text says what, where and what to do."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


def call(path, command, args=None, timeout_s=10.0):
    """The result of one command, a dict. Refused, or OSError where nobody answers."""
    request = {'command': command}
    if args:
        request['args'] = args
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
        s.settimeout(timeout_s)
        s.connect(path)
        s.sendall(json.dumps(request).encode() + b'\n')
        text = b''.join(iter(lambda: s.recv(65536), b''))  # up to the daemon's close
    if not text.endswith(b'\n'):
        raise ConnectionError('vgpud closed before its answer was complete')
    response = json.loads(text)
    if not response['ok']:
        raise Refused(response['error']['code'], response['error']['message'])
    return response['result']


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit(f'usage: {sys.argv[0]} SOCKET COMMAND [ARGS as JSON]')
    try:
        result = call(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]) if len(sys.argv) == 4 else None)
    except Refused as no:
        sys.exit(f'{no.code}: {no}')
    print(json.dumps(result, indent=2))


if __name__ == '__main__':
    main()
