# SPDX-License-Identifier: Apache-2.0
"""Debian packages unpacked into the cache, without installing them; and the few programs that must be installed.

apt finds, downloads and verifies (its lists are signed and hold the hashes); what is in the cache is checked against the
same hashes before it is used again.
"""
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tarfile

from vmlab import CannotRun

URI = re.compile(r"^'(\S+)' (\S+) (\d+) SHA256:([0-9a-f]{64})$", re.M)


def cache_dir(*parts):
    base = os.environ.get('XDG_CACHE_HOME') or os.path.join(os.path.expanduser('~'), '.cache')
    path = os.path.join(base, 'vgpu', 'vmlab', *parts)
    os.makedirs(path, exist_ok=True)
    return path


def _apt(*arguments, cwd=None):
    sandbox = ['-o', 'APT::Sandbox::User=root'] if os.geteuid() == 0 else []
    return subprocess.run([arguments[0], *sandbox, *arguments[1:]], cwd=cwd, stdin=subprocess.DEVNULL, text=True,
                          capture_output=True, timeout=900)


def _root(*command):
    """A command as root; the completed process, or None where nobody may."""
    prefix = [] if os.geteuid() == 0 else ['sudo', '-n']
    if prefix and (not shutil.which('sudo') or subprocess.run([*prefix, 'true'], capture_output=True).returncode):
        return None
    return subprocess.run([*prefix, 'env', 'DEBIAN_FRONTEND=noninteractive', *command], stdin=subprocess.DEVNULL,
                          text=True, capture_output=True, timeout=1200)


def need_programs(programs):
    """Makes sure that these run: {program: package}. Installs what is missing, where that is allowed."""
    lacking = [package for program, package in programs.items() if not shutil.which(program)]
    if not lacking:
        return
    by_hand = f'apt-get install -y --no-install-recommends {" ".join(lacking)}'
    if os.environ.get('VGPU_NO_INSTALL') or not shutil.which('apt-get'):
        raise CannotRun(f'{", ".join(lacking)} is not installed; as root: {by_hand}')
    install = ['apt-get', '-o', 'DPkg::Lock::Timeout=300', 'install', '-y', '--no-install-recommends', *lacking]
    done = _root(*install)
    if done is not None and done.returncode:  # old lists name versions that mirrors no longer have
        _root('apt-get', 'update')
        done = _root(*install)
    if done is None or done.returncode or any(not shutil.which(p) for p in programs):
        why = 'this user may not install it' if done is None else (done.stderr.strip().splitlines() or ['?'])[-1]
        raise CannotRun(f'{", ".join(lacking)} is not installed ({why}); as root: {by_hand}')


def dependency(package, pattern):
    """The first package that `package` depends on and whose name matches: what a meta package stands for today."""
    done = _apt('apt-cache', 'depends', package)
    found = re.search(rf'Depends: ({pattern})$', done.stdout, re.M)
    if not found:
        raise CannotRun(f'apt knows no {package} that depends on {pattern}')
    return found.group(1)


def _wanted(packages):
    """[(file name, size, hash)] of the versions that apt would install."""
    for attempt in (1, 2):
        done = _apt('apt-get', 'download', '--print-uris', '-qq', *packages)
        found = [(m.group(2), int(m.group(3)), m.group(4)) for m in URI.finditer(done.stdout)]
        if done.returncode == 0 and len(found) == len(packages):
            return found
        if attempt == 1:
            _root('apt-get', 'update')
    why = (done.stderr.strip().splitlines() or ['no answer'])[-1]
    raise CannotRun(f'apt does not find all of {" ".join(packages)}: {why}')


def _right(path, size, digest):
    if not os.path.exists(path) or os.path.getsize(path) != size:
        return False
    with open(path, 'rb') as deb:
        return hashlib.file_digest(deb, 'sha256').hexdigest() == digest if hasattr(hashlib, 'file_digest') else \
            hashlib.sha256(deb.read()).hexdigest() == digest


def _download(packages, wanted, where):
    if all(_right(os.path.join(where, name), size, digest) for name, size, digest in wanted):
        return
    for attempt in (1, 2):
        done = _apt('apt-get', 'download', '-qq', *packages, cwd=where)
        wrong = [name for name, size, digest in wanted if not _right(os.path.join(where, name), size, digest)]
        if not wrong:
            return
        if attempt == 1:
            _root('apt-get', 'update')
    why = (done.stderr.strip().splitlines() or ['no answer'])[-1]
    raise CannotRun(f'apt-get download of {", ".join(wrong)} failed: {why}')


def _unpack_one(deb, target, keep):
    unpacker = subprocess.Popen(['dpkg-deb', '--fsys-tarfile', deb], stdout=subprocess.PIPE)
    with tarfile.open(fileobj=unpacker.stdout, mode='r|') as members:
        for member in members:
            if member.isdir() or keep(member.name[2:] if member.name.startswith('./') else member.name):
                if member.isdir() or member.issym() or member.isreg() or member.islnk():
                    member.uid = member.gid = os.getuid()
                    members.extract(member, target, set_attrs=not member.isdir())
    unpacker.stdout.read()
    unpacker.stdout.close()
    if unpacker.wait():
        raise CannotRun(f'{deb} cannot be unpacked')


def tree(name, packages, keep=lambda path: True):
    """A folder with the files of these packages for which keep(path) is true. Made once for each set of versions."""
    if not shutil.which('apt-get') or not shutil.which('dpkg-deb'):
        raise CannotRun('packages come from apt (Debian, Ubuntu), and there is none here')
    with open(os.path.join(cache_dir(), 'lock'), 'w', encoding='utf-8') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wanted = _wanted(packages)
        key = hashlib.sha256('\n'.join(sorted(w[2] for w in wanted)).encode()).hexdigest()[:16]
        target = os.path.join(cache_dir(), f'{name}-{key}')
        if os.path.isdir(target):
            return target
        debs = cache_dir('debs')
        _download(packages, wanted, debs)
        # What earlier versions left is of no use to anyone.
        for old in os.listdir(cache_dir()):
            if re.fullmatch(rf'{re.escape(name)}-[0-9a-f]{{16}}(\.part)?', old):
                shutil.rmtree(os.path.join(cache_dir(), old))
        part = target + '.part'
        os.makedirs(part)
        for file_name, _, _ in wanted:
            _unpack_one(os.path.join(debs, file_name), part, keep)
            os.unlink(os.path.join(debs, file_name))
        os.rename(part, target)
        return target
