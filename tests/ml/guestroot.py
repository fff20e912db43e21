# SPDX-License-Identifier: Apache-2.0
"""Runs a guest program in a mount namespace with a root of its own: the program, the libraries that ldd names, its bundle, the
host's socket, its token, and a /dev of three nodes. No GPU, no driver, no CUDA can be there."""
import os
import re
import shutil
import subprocess

NODES = ('null', 'zero', 'urandom')
SCRIPT = r'''
set -e
root=$1; shift
mount -t tmpfs -o mode=755 vgpu-guest "$root"
mkdir "$root/dev" "$root/out" "$root/guest"
bind() { # FROM TO [OPTION]
    case $1 in */) mkdir -p "$root$2" ;; *) mkdir -p "$root$(dirname "$2")"; : > "$root$2" ;; esac
    mount --bind "$1" "$root$2"
    [ -z "$3" ] || mount -o "remount,bind,$3" "$root$2" 2>/dev/null || true
}
while [ "$1" != -- ]; do bind "$1" "$2" "$3"; shift 3; done
shift
exec chroot "$root" "$@"
'''


def namespace():
    """The command that makes one, or None where this user may not."""
    for command in (['unshare', '--mount', '--propagation', 'private'],
                    ['unshare', '--map-root-user', '--mount', '--propagation', 'private']):
        if shutil.which('unshare') and subprocess.run([*command, 'mount', '-t', 'tmpfs', 'none', '/mnt'], capture_output=True,
                                                      stdin=subprocess.DEVNULL).returncode == 0:
            return command
    return None


def libraries(program):
    listed = subprocess.run(['ldd', program], capture_output=True, text=True, check=True).stdout
    return sorted({os.path.normpath(path) for path in re.findall(r'(?:=> )?(/\S+) \(0x', listed)})


def command(space, root, program, arguments, binds):
    """(command line, more of its environment); binds: [(from, to, 'ro' or '')], `from` with a slash at its end is a
    directory. The program and its libraries lie where they lie outside."""
    binds = [*binds, (program, program, 'ro')]
    binds += [(path, path, 'ro') for path in libraries(program)]
    binds += [(f'/dev/{node}', f'/dev/{node}', '') for node in NODES]
    # Without a /proc the loader does not know where the program lies, and an rpath relative to it is none.
    places = ':'.join(sorted({os.path.dirname(path) for path in libraries(program)}))
    flat = [part for bind in binds for part in bind]
    return [*space, 'sh', '-c', SCRIPT, 'guest-root', root, *flat, '--', program, *arguments], {'LD_LIBRARY_PATH': places}
