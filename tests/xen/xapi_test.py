#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""config/xen/vgpu-xapi as XAPI calls it, with stand-ins for xe and vgpu-ctl that write down what they were asked."""
import os
import shutil
import subprocess
import sys
import tempfile

HOOK = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..', 'config', 'xen', 'vgpu-xapi')
UUID = '11111111-1111-4111-8111-111111111111'
# xe vm-param-get uuid=U param-name=other-config param-key=K: fails where there is no such key, as the real one does.
XE = """#!/bin/sh
[ "$1 $2 $3" = "vm-param-get uuid=%s param-name=other-config" ] || exit 9
cat "$WORK/${4#param-key=}" 2>/dev/null
""" % UUID
CTL = """#!/bin/sh
echo "$*" >>"$WORK/asked"
echo "why not" >&2
exit "$(cat "$WORK/status" 2>/dev/null || echo 0)"
"""


def run(folder, other, arguments=('-vmuuid', UUID, '-reason', 'none'), status=0, words=''):
    """Exit status and what vgpu-ctl was asked. words: what XAPI is to show."""
    with tempfile.TemporaryDirectory() as work:
        for name, text in {'xe': XE, 'vgpu-ctl': CTL}.items():
            path = os.path.join(work, name)
            with open(path, 'w', encoding='utf-8') as out:
                out.write(text)
            os.chmod(path, 0o755)
        for key, value in {**other, 'status': str(status)}.items():
            with open(os.path.join(work, key), 'w', encoding='utf-8') as out:
                out.write(value)
        os.mkdir(os.path.join(work, folder))
        hook = shutil.copy(HOOK, os.path.join(work, folder, '50-vgpu'))
        done = subprocess.run([hook, *arguments], env={**os.environ, 'PATH': f'{work}:/usr/bin:/bin', 'WORK': work},
                              capture_output=True, text=True, timeout=30)
        assert words in done.stdout, done.stdout
        asked = os.path.join(work, 'asked')
        return done.returncode, open(asked, encoding='utf-8').read().strip() if os.path.exists(asked) else None


CASES = {
    'a VM that asks for nothing': (run('vm-pre-start', {}), (0, None)),
    'a pool is enough': (run('vm-pre-start', {'vgpu-pool': 'A'}), (0, f'attach --uuid={UUID} --pool=A')),
    'all that may be said': (
        run('vm-pre-start', {'vgpu-pool': 'A', 'vgpu-priority': 'high', 'vgpu-vm-id': '7', 'vgpu-arena-bytes': '64M'}),
        (0, f'attach --uuid={UUID} --pool=A --vm-id=7 --priority=high --arena-bytes=64M')),
    # XAPI: 1 is a line in its log, any other status keeps the VM from starting, with what was printed.
    'a refusal keeps it from starting': (run('vm-pre-start', {'vgpu-pool': 'C'}, status=1, words='no vGPU for this VM: why not'),
                                         (2, f'attach --uuid={UUID} --pool=C')),
    'so does what nobody understands': (run('vm-pre-start', {'vgpu-pool': 'A', 'vgpu-priority': 'urgent'}, status=2),
                                        (2, f'attach --uuid={UUID} --pool=A --priority=urgent')),
    'nobody to ask is no reason not to start': (run('vm-pre-start', {'vgpu-pool': 'A'}, status=3, words='why not'),
                                                (1, f'attach --uuid={UUID} --pool=A')),
    'it resumes': (run('vm-pre-resume', {'vgpu-pool': 'A'}), (0, f'attach --uuid={UUID} --pool=A')),
    'it arrives': (run('vm-post-migrate', {'vgpu-pool': 'A'}, ('-vmuuid', UUID, '-reason', 'destination')),
                   (0, f'attach --uuid={UUID} --pool=A')),
    'it runs already, whatever is said': (
        run('vm-post-migrate', {'vgpu-pool': 'A'}, ('-vmuuid', UUID, '-reason', 'destination'), status=1),
        (1, f'attach --uuid={UUID} --pool=A')),
    'it leaves': (run('vm-post-migrate', {'vgpu-pool': 'A'}, ('-vmuuid', UUID, '-reason', 'source')), (0, None)),
    'its end is told': (run('vm-post-destroy', {'vgpu-pool': 'A'}), (0, f'detach --uuid={UUID}')),
    'an end is an end': (run('vm-post-destroy', {'vgpu-pool': 'A'}, status=3), (1, f'detach --uuid={UUID}')),
    'the end of one that asked for nothing': (run('vm-post-destroy', {}), (0, None)),
    'no -vmuuid': (run('vm-pre-start', {'vgpu-pool': 'A'}, arguments=('-reason', 'none')), (1, None)),
}
print(f'1..{len(CASES)}')
failed = 0
for number, (name, (found, expected)) in enumerate(CASES.items(), 1):
    failed += found != expected
    print(f'{"ok" if found == expected else "not ok"} {number} - {name}')
    if found != expected:
        print(f'# expected {expected}, found {found}')
sys.exit(1 if failed else 0)
