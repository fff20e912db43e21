# SPDX-License-Identifier: Apache-2.0
"""Fetches what compiled programs are built and tested with: pinned packages from PyPI, checked by their hashes.

    python3 scripts/pjrt.py header    pjrt_c_api.h and a plugin for CPUs -> CACHE/pjrt (what the build looks for)
    python3 scripts/pjrt.py venv      a Python with JAX, for suite ml     -> CACHE/ml/venv-HASH

Nothing is fetched twice. Prints where it is; ends with 77 and a reason where it cannot be had.
"""
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
CANNOT = 77
# The package that has both the header (PJRT 0.81) and a plugin with GetPjrtApi for CPUs. Header: Apache-2.0, of XLA.
PLUGIN = ('xla-cpu-pjrt', '0.0.1', '55837b6b7b47daa717f2d9a5a03563ea0ceaa338d06a81a1e2d3f060d960decc')
PARTS = {'xla_plugins/xla_cpu_pjrt/include/pjrt_c_api.h': 'include/pjrt_c_api.h',
         'xla_plugins/xla_cpu_pjrt/xla_cpu_pjrt.so': 'xla_cpu_pjrt.so'}
REQUIREMENTS = os.path.join(ROOT, 'tests', 'ml', 'requirements.txt')


class CannotFetch(Exception):
    """What is missing, and what to do."""


def cache(*parts):
    base = os.environ.get('XDG_CACHE_HOME') or os.path.join(os.path.expanduser('~'), '.cache')
    return os.path.join(base, 'vgpu', *parts)


def pip(*arguments):
    if os.environ.get('VGPU_NO_INSTALL'):
        raise CannotFetch(f'VGPU_NO_INSTALL is set; by hand: pip {" ".join(arguments)}')
    done = subprocess.run([sys.executable, '-m', 'pip', '--disable-pip-version-check', *arguments], stdin=subprocess.DEVNULL,
                          text=True, capture_output=True, timeout=1800)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ['?'])[-1]
        raise CannotFetch(f'pip {arguments[0]}: {last}' + ('; install python3-pip' if 'No module named pip' in last else ''))


def wheel(name, version, sha256, where):
    """Downloads one wheel into `where` and returns its path."""
    with tempfile.NamedTemporaryFile('w', suffix='.txt') as pinned:
        pinned.write(f'{name}=={version} --hash=sha256:{sha256}\n')
        pinned.flush()
        pip('download', '--no-deps', '--only-binary=:all:', '--require-hashes', '-q', '-d', where, '-r', pinned.name)
    return os.path.join(where, os.listdir(where)[0])


def locked(path):
    os.makedirs(path, exist_ok=True)
    lock = open(os.path.join(path, '.lock'), 'w')
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def header():
    """The folder with include/pjrt_c_api.h and xla_cpu_pjrt.so."""
    to = cache('pjrt')
    with locked(to):
        stamp = os.path.join(to, 'package')
        have = os.path.exists(stamp) and open(stamp).read() == PLUGIN[2]
        if have and all(os.path.exists(os.path.join(to, p)) for p in PARTS.values()):
            return to
        with tempfile.TemporaryDirectory(dir=to) as work, zipfile.ZipFile(wheel(*PLUGIN, work)) as z:
            for member, name in PARTS.items():
                path = os.path.join(to, name)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with z.open(member) as source, open(path + '.new', 'wb') as out:
                    shutil.copyfileobj(source, out)
                os.chmod(path + '.new', 0o755 if name.endswith('.so') else 0o644)
                os.replace(path + '.new', path)
        with open(stamp, 'w') as f:
            f.write(PLUGIN[2])
    return to


def venv():
    """The python of an environment that holds exactly tests/ml/requirements.txt."""
    with open(REQUIREMENTS, 'rb') as f:
        key = hashlib.sha256(f.read() + sys.version.encode()).hexdigest()[:12]
    to = cache('ml', f'venv-{key}')
    python = os.path.join(to, 'bin', 'python')
    with locked(cache('ml')):
        if os.path.exists(os.path.join(to, 'complete')):
            return python
        shutil.rmtree(to, ignore_errors=True)
        done = subprocess.run([sys.executable, '-m', 'venv', '--without-pip', to], stdin=subprocess.DEVNULL, text=True,
                              capture_output=True, timeout=300)
        if done.returncode:
            raise CannotFetch('python3 -m venv does not work; install python3-venv')
        pip('--python', python, 'install', '-q', '--no-deps', '--only-binary=:all:', '--require-hashes', '-r', REQUIREMENTS)
        open(os.path.join(to, 'complete'), 'w').close()
    return python


if __name__ == '__main__':
    if len(sys.argv) != 2 or sys.argv[1] not in ('header', 'venv'):
        sys.exit('usage: pjrt.py header|venv')
    try:
        print(header() if sys.argv[1] == 'header' else venv())
    except (CannotFetch, OSError, subprocess.TimeoutExpired) as e:
        print(f'pjrt: {e}', file=sys.stderr)
        sys.exit(CANNOT)
