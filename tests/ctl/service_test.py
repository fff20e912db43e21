#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The systemd unit: systemd takes it, its exposure is no worse than docs/admin-guide.md says, and what the daemon counts on is
in it; and what an administrator finds after `meson install`.

service_test.py UNIT VGPUD GUIDE BUILD
"""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

import rig


def analyze(*args):
    if not shutil.which('systemd-analyze'):
        raise rig.Skip('systemd-analyze is not installed (Debian package systemd)')
    env = dict(os.environ, SYSTEMD_PAGER='', SYSTEMD_COLORS='0', LC_ALL='C.UTF-8')
    return subprocess.run(['systemd-analyze', *args], env=env, capture_output=True, text=True, timeout=60, check=False)


def placed(unit, vgpud, where):
    """The unit with a program that is there, or verify complains about that."""
    with open(unit, encoding='utf-8') as f:
        text = f.read()
    assert '@' not in re.sub(r'~@[a-z-]+|( @[a-z-]+)+', '', text), f'{unit} has words that nobody filled in'
    path = os.path.join(where, 'vgpud.service')
    with open(path, 'w', encoding='utf-8') as f:
        f.write(re.sub(r'(?m)^ExecStart=\S+', f'ExecStart={os.path.abspath(vgpud)}', text))
    return path


def verify(path):
    done = analyze('verify', '--man=no', path)
    assert done.returncode == 0 and not done.stderr.strip(), done.stderr
    with open(path, encoding='utf-8') as f:
        broken = f.read().replace('ProtectSystem=', 'ProtectSystm=')
    with open(path + '.broken.service', 'w', encoding='utf-8') as f:
        f.write(broken)
    done = analyze('verify', '--man=no', path + '.broken.service')
    assert 'ProtectSystm' in done.stderr, 'verify does not notice a wrong key'


def exposure(path, guide):
    with open(guide, encoding='utf-8') as f:
        told = re.search(r'Overall exposure level for vgpud\.service: (\d+\.\d)', f.read())
    assert told, f'{guide} does not say what the exposure is'
    done = analyze('security', '--offline=yes', '--no-pager', path)
    found = re.search(r'Overall exposure level for vgpud\.service: (\d+\.\d)', done.stdout)
    if not found and 'offline' in done.stderr:
        raise rig.Skip('this systemd-analyze cannot look at a file (systemd 250 and later can)')
    assert found, done.stderr
    assert float(found.group(1)) <= float(told.group(1)) + 0.05, f'{found.group(0)}; {guide} says {told.group(1)}'
    print(f'shows: {found.group(0).replace("Overall e", "e")}')


def needs(path):
    """Said where the daemon counts on it: a directory that guests may enter, one that outlives a restart, no limit on locked
    memory, a reload by SIGHUP; notify and watchdog where the build has libsystemd."""
    with open(path, encoding='utf-8') as f:
        lines = f.read().splitlines()
    for line in ('RuntimeDirectory=vgpu', 'RuntimeDirectoryMode=0711', 'RuntimeDirectoryPreserve=restart',
                 'StateDirectoryMode=0700', 'LimitMEMLOCK=infinity', 'ExecReload=/bin/kill -HUP $MAINPID',
                 'NoNewPrivileges=yes', 'Restart=on-failure'):
        assert line in lines, f'{line} is missing'
    kind = [line for line in lines if line.startswith(('Type=', 'WatchdogSec='))]
    assert kind in (['Type=notify', 'WatchdogSec=30'], ['Type=exec', 'WatchdogSec=0']), kind


def installed(build):
    """Where systemd, man, the shells and libvirt's administrator look."""
    meson = next((m for m in ('/usr/bin/meson', shutil.which('meson')) if m and os.path.exists(m)), None)
    if not meson:
        raise rig.Skip('meson is not here to ask')
    done = subprocess.run([meson, 'introspect', '--installed', build], capture_output=True, text=True, timeout=60, check=False)
    places = set(json.loads(done.stdout).values())
    wanted = ['/lib/systemd/system/vgpud.service', '/sbin/vgpud', '/libexec/vgpu/vgpu-exec', '/bin/vgpu-ctl',
              '/share/vgpu/vgpud.yaml', '/share/vgpu/libvirt/vgpu-hook', '/share/bash-completion/completions/vgpu-ctl.bash',
              '/share/zsh/site-functions/_vgpu-ctl', '/share/fish/vendor_completions.d/vgpu-ctl.fish']
    if shutil.which('scdoc'):
        wanted += [f'/share/man/man{page[-1]}/{page}' for page in ('vgpud.8', 'vgpu-ctl.8', 'vgpud.yaml.5', 'libvgpu.7')]
    missing = [end for end in wanted if not any(place.endswith(end) for place in places)]
    assert not missing, f'not installed: {missing}'
    mine = [place for place in places if '/etc/' in place and not place.endswith('/50-vgpu')]
    assert not mine, f'an install would overwrite what an administrator has edited: {mine}'


def main():
    unit, vgpud, guide, build = sys.argv[1:5]
    with tempfile.TemporaryDirectory(prefix='vgpu-service-') as where:
        path = placed(unit, vgpud, where)
        return rig.run_tests([('systemd_takes_the_unit', lambda: verify(path)),
                              ('exposure_as_the_guide_says', lambda: exposure(path, guide)),
                              ('what_the_daemon_counts_on', lambda: needs(path)),
                              ('installed_where_it_is_looked_for', lambda: installed(build))])


if __name__ == '__main__':
    sys.exit(main())
