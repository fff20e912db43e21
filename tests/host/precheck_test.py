#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""vgpu-ctl precheck as a program: its JSON against docs/schema/precheck.json, exit codes, saving, drift and history, an
ordinary user, this machine; and docs/precheck.md against the tables.

precheck_test.py VGPU-CTL HOST-TREE HOST-CHECKLIST SOURCE-ROOT COUNTING-LIBRARY|''
"""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree

CTL, TREE, CHECKLIST, SOURCE, COUNTING = sys.argv[1:6]
sys.path.insert(0, os.path.join(SOURCE, 'tests', 'ctl'))
sys.dont_write_bytecode = True
import schema  # noqa: E402  (lies beside the tests of vgpu-ctl)

PLACE = tempfile.mkdtemp(prefix='vgpu-precheck-', dir='/dev/shm' if os.access('/dev/shm', os.W_OK) else None)


def closed(part):
    """Every object that names its keys takes no other."""
    if isinstance(part, list):
        return [closed(item) for item in part]
    if not isinstance(part, dict):
        return part
    out = {key: closed(value) for key, value in part.items()}
    if 'properties' in out and out.get('type') == 'object':
        out.setdefault('additionalProperties', False)
    return out


with open(os.path.join(SOURCE, 'docs', 'schema', 'precheck.json'), encoding='utf-8') as f:
    SCHEMA = closed(json.load(f))


def tree(name, *lines):
    where = tempfile.mkdtemp(dir=PLACE)
    os.chmod(where, 0o755)
    subprocess.run([TREE, name, where, *lines], check=True)
    return where


def precheck(*args, status=None, **more):
    env = dict(os.environ, VGPU_PRECHECK_DIR=os.path.join(PLACE, 'saved'))
    done = subprocess.run([CTL, 'precheck', *args], capture_output=True, text=True, env=env, timeout=60, check=False, **more)
    assert status is None or done.returncode == status, (args, done.returncode, done.stdout[-2000:], done.stderr)
    return done


def report(*args, **more):
    done = precheck(*args, '--json', **more)
    assert done.stdout.count('\n') == 1 and not done.stderr, done.stderr
    out = json.loads(done.stdout)
    found = list(schema.faults(SCHEMA, out, SCHEMA))
    assert not found, '\n'.join(found)
    return out


def fired(out):
    return {c['id'] for c in out['checks'] if c['status'] in ('warn', 'fail')}


def test_schema_on_every_tree():
    """Each kind of machine and profile gives a report as the schema says; all checks are listed each time."""
    sizes = set()
    for name in ('bare-kvm-host', 'xen-pvh-h100', 'developer-laptop', 'no-pci', 'hostile'):
        where = tree(name)
        for profile in ('performance', 'balanced', 'maximum-security'):
            out = report(f'--root={where}', f'--profile={profile}')
            sizes.add(len(out['checks']))
            assert len({c['id'] for c in out['checks']}) == len(out['checks'])
            assert {c['subsystem'] for c in out['checks']} == {s['id'] for s in out['subsystems']}
            for s in out['subsystems']:
                own = [c for c in out['checks'] if c['subsystem'] == s['id']]
                for status in ('pass', 'warn', 'fail', 'not-applicable', 'unknown'):
                    assert s[status] == sum(c['status'] == status for c in own), (name, s['id'], status)
    assert len(sizes) == 1 and sizes.pop() >= 60


def test_the_schema_refuses():
    """A report that lacks a key, has one too many, or has a wrong word is not taken."""
    good = report(f'--root={tree("no-pci")}')
    for change in (lambda r: r.pop('score'), lambda r: r.update(extra=1), lambda r: r['checks'][0].update(status='good'),
                   lambda r: r['checks'][0].pop('remedy'), lambda r: r.update(score=101), lambda r: r.update(time='now')):
        bad = json.loads(json.dumps(good))
        change(bad)
        assert list(schema.faults(SCHEMA, bad, SCHEMA)), bad


def test_exit_codes():
    """The worst severity that fired."""
    precheck(f'--root={tree("bare-kvm-host")}', status=0)
    precheck(f'--root={tree("bare-kvm-host", "f proc/sys/vm/overcommit_memory 2")}', status=0)
    precheck(f'--root={tree("bare-kvm-host", "f sys/kernel/mm/ksm/run 1")}', status=4)
    precheck(f'--root={tree("bare-kvm-host", "x dev/nvidia0")}', status=5)
    precheck(f'--root={tree("bare-kvm-host", "m 0666 dev/mem")}', status=6)
    precheck('--root=/nowhere/at/all', status=1)
    precheck('--profile=fast', status=2)
    assert 'bare-kvm-host' in precheck('--against=nobody', status=1).stderr
    assert 'shipped' in precheck('--save=bare-kvm-host', f'--root={tree("no-pci")}', status=1).stderr


def test_drift_and_history():
    """A saved report, the host changed for the worse and the better, in order of severity; scores over time."""
    good = tree('bare-kvm-host', 'f sys/kernel/mm/ksm/run 1')
    report(f'--root={good}', '--save=monday')
    same = report(f'--root={good}', '--against=monday', status=0)['drift']
    assert not same['worse'] and not same['better'] and not same['other'] and same['worst'] == 'none', same
    worse = tree('bare-kvm-host', 'm 0666 dev/mem', 'f proc/sys/vm/overcommit_memory 2', 'x dev/nvidia0')
    out = report(f'--root={worse}', '--against=monday', '--save=tuesday', status=6)['drift']
    assert [c['severity'] for c in out['worse']] == ['critical', 'high', 'low'], out
    assert [c['id'] for c in out['better']] == ['memory.ksm'], out
    text = precheck(f'--root={worse}', '--against=monday', status=6).stdout
    assert 'Worse than there' in text and 'security.mem_nodes' in text
    done = precheck('--history', '--json', status=0)
    history = json.loads(done.stdout)
    assert [r['name'] for r in history['runs']] == ['monday', 'tuesday'] and history['trend'] == 'worse', history
    assert history['runs'][1]['change'] < 0
    assert 'trend: worse' in precheck('--history', status=0).stdout
    with open(os.path.join(PLACE, 'saved', 'monday.json'), 'w', encoding='utf-8') as f:
        f.write('{"checks": 3}')
    assert 'not a saved report' in precheck('--against=monday', status=1).stderr


def test_drift_of_the_host():
    """Against a saved report: another kernel, a narrower link, a GPU that went; shipped references are of no machine."""
    then = tree('xen-pvh-h100')
    report(f'--root={then}', '--save=before')
    now = tree('xen-pvh-h100', 'f proc/sys/kernel/osrelease 6.9.1', 'f sys/bus/pci/devices/0000:41:00.0/current_link_width 8')
    drift = report(f'--root={now}', '--against=before')['drift']
    assert [(f['what'], f['was'], f['is']) for f in drift['host']] == [
        ('kernel', '6.1.0-25-amd64', '6.9.1'), ('GPU 0000:41:00.0 link_width', 16, 8)], drift['host']
    assert drift['worse'][0]['was_found'] == 'full width', drift['worse']
    drift = report(f'--root={tree("no-pci")}', '--against=before', status=5)['drift']
    assert {'what': 'GPU 0000:41:00.0', 'was': 'there', 'is': 'absent'} in drift['host'], drift['host']
    gone = [c for c in drift['worse'] if c['id'] == 'gpu.present']
    assert len(gone) == 1 and gone[0]['severity'] == 'high' and 'GPU 0000:41:00.0' in gone[0]['found'], gone
    # The second of two: the checks see a GPU that is well.
    two = ['pci 0000:42:00.0 class=030200 id=10de:2331 driver=nvidia']
    report(f'--root={tree("xen-pvh-h100", *two)}', '--save=two')
    drift = report(f'--root={then}', '--against=two', status=5)['drift']
    assert [(c['id'], c['found']) for c in drift['worse']] == [('gpu.present', 'gone: GPU 0000:42:00.0')], drift['worse']
    # Against a shipped reference, which is of no particular machine, too; there the check's own severity counts.
    drift = report(f'--root={tree("no-pci")}', '--against=bare-kvm-host')['drift']
    assert [c['severity'] for c in drift['worse'] if c['id'] == 'gpu.present'] == ['medium'], drift['worse']
    text = precheck(f'--root={now}', '--against=before').stdout
    assert 'The host itself' in text and '"6.9.1"' in text, text
    assert not report(f'--root={then}', '--against=xen-pvh-h100')['drift']['host']


def test_iommu_of_a_copy():
    """show-iommu-status of captured hosts and, without vgpud, of this one; as its schema says."""
    with open(os.path.join(SOURCE, 'docs', 'schema', 'vgpu-ctl.json'), encoding='utf-8') as spec:
        whole = json.load(spec)

    def show(*args, status=0):
        env = {k: v for k, v in os.environ.items() if not k.startswith('VGPU_')}
        done = subprocess.run([CTL, 'show-iommu-status', *args], capture_output=True, text=True, env=env, timeout=60, check=False)
        assert done.returncode == status, (args, done)
        if '--json' in args:
            found = list(schema.faults({'$ref': '#/$defs/show-iommu-status'}, json.loads(done.stdout), whole))
            assert not found, found
        return done.stdout

    intel = json.loads(show('--json', f'--root={tree("bare-kvm-host")}'))
    assert intel['kind'] == 'intel' and intel['pci_devices'] == intel['pci_devices_in_groups'] == 5, intel
    assert any(d['gpu'] and d['driver'] == 'nvidia' for g in intel['groups'] for d in g['devices']), intel
    xen = json.loads(show('--json', f'--root={tree("xen-pvh-h100")}'))
    assert xen['xen_dom0'] and not xen['groups'], xen
    assert 'the hypervisor drives the IOMMU' in show(f'--root={tree("xen-pvh-h100")}')
    show('--json', f'--root={tree("hostile")}')
    fault = 'f dev/kmsg 3,1,5000000,-;DMAR: [DMA Write NO_PASID] Request device [41:00.0] fault addr 0x1000 [fault reason 0x05] x'
    seen = json.loads(show('--json', f'--root={tree("bare-kvm-host", fault)}'))['faults']
    assert '41:00.0' in json.dumps(seen), seen
    # An event of an SMMUv3 in its lines, and an interrupt: as a person reads them, and counted alike by precheck.
    smmu = 'arm-smmu-v3 arm-smmu-v3.0.auto: '
    words = (0x10000000010, 0x20800000000, 0xfff00000, 0)
    lines = [f'{smmu}event 0x10 received:', *(f'{smmu}\\\\x09{word:#018x}' for word in words),
             'DMAR: [INTR-REMAP] Request device [f0:1f.0] fault index 0x40 [fault reason 0x25] Blocked']
    log = '\\n'.join(f'3,{n},{n}000000,-;{line}' for n, line in enumerate(lines))
    where = tree('arm-server', f'f dev/kmsg {log}')
    text = show(f'--root={where}')
    assert 'read of 0xfff00000 by stream 0x100, 1 time: nothing is mapped there' in text, text
    assert 'interrupt number 0x40 by 0000:f0:1f.0, 1 time: Blocked' in text, text
    fault = [c for c in report(f'--root={where}')['checks'] if c['id'] == 'iommu.faults'][0]
    assert fault['status'] == 'fail' and fault['found'].startswith('2 faults'), fault
    show(f'--root={tree("no-pci")}', '--vm-id=1', status=2)
    show('--root=/nowhere/at/all', status=1)
    show(f'--socket={PLACE}/none.sock', status=3)
    if not os.path.exists('/run/vgpu/control.sock'):
        show('--json')


def test_topology_arguments():
    """A drawing to stdout is the drawing and nothing else; a CPU that is not there is refused by name."""
    def topology(*args, status=0):
        done = subprocess.run([CTL, 'topology', f'--root={where}', *args], capture_output=True, text=True, timeout=60,
                              check=False, cwd=PLACE)
        assert done.returncode == status, (args, done)
        return done.stdout, done.stderr

    where = tree('bare-kvm-host')
    drawn, said = topology('--svg=-')
    assert drawn.startswith('<?xml') or drawn.startswith('<svg'), drawn[:100]
    assert drawn.rstrip().endswith('</svg>') and not said and not os.path.exists(os.path.join(PLACE, '-'))
    xml.etree.ElementTree.fromstring(drawn)
    topology(f'--svg={PLACE}/host.svg')
    with open(f'{PLACE}/host.svg', encoding='utf-8') as f:
        assert f.read() == drawn
    assert 'stdout' in topology('--svg=-', '--json', status=2)[1]
    for option in ('--poll-cpus', '--executor-cpus'):
        said = topology(f'{option}=2,99', status=2)[1]
        assert 'CPU 99 is not online' in said and '0-15' in said and option in said, said
        assert 'no list of CPUs' in topology(f'{option}=zz', status=2)[1]
    assert 'poll core 0' in topology('--poll-cpus=2', '--executor-cpus=3')[0]


def statuses(out):
    return {c['id']: c['status'] for c in out['checks']}


def test_capture():
    """A copy is judged like what it was made of, by every profile; it can be drawn; existing folders are left alone."""
    names = ('bare-kvm-host', 'xen-pvh-h100', 'eight-nodes', 'arm-server', 'hostile', 'no-pci')
    made = [(None, '')] + [(tree(n), n) for n in names]
    for source, name in made:
        copy = os.path.join(PLACE, f'copy-{name}')
        root = [f'--root={source}'] if source else []
        out = json.loads(precheck(*root, f'--capture={copy}', '--json', status=0).stdout)
        assert out['directory'] == copy and out['files'] > 10, out
        for profile in ('performance', 'balanced', 'maximum-security'):
            before, after = report(*root, f'--profile={profile}'), report(f'--root={copy}', f'--profile={profile}')
            # Of this machine, free memory and the like move between two looks.
            differ = {i for i, s in statuses(before).items() if statuses(after)[i] != s}
            differ -= set() if source else {'memory.available', 'hugepages.free'}
            assert not differ, (name, profile, differ)
        drawn = [subprocess.run([CTL, 'topology', '--json', f'--root={r}'], capture_output=True, text=True, check=True,
                                timeout=60).stdout for r in ((source, copy) if source else (copy, copy))]
        assert drawn[0] == drawn[1], (name, drawn)
    assert 'not there yet' in precheck(f'--capture={copy}', status=1).stderr
    assert '/nowhere' in precheck('--capture=/nowhere/at/all', status=1).stderr
    for other in ('--save=x', '--against=bare-kvm-host', '--history'):
        precheck(f'--capture={PLACE}/never', other, status=2)
    precheck('--history', '--save=x', status=2)
    assert not os.path.exists(f'{PLACE}/never')


def test_capture_writes_nowhere_else():
    """A tree whose links lead out, round in circles or through sixty others: nothing is written but below the new folder,
    as an ordinary user too."""
    outside = tempfile.mkdtemp(dir=PLACE)
    lines = [f'l proc/sys {outside}', f'l sys/class {outside}/made', 'l sys/kernel ../sys/kernel', 'l run/vgpu ../../../../..',
             f'l dev/vfio {outside}', 'l vgpu/config /dev/null', f'l proc/irq {outside}/file', f'l boot {outside}']
    lines += [f'l sys/bus/pci/chain{n} chain{n + 1}' for n in range(60)]
    lines += ['x sys/bus/pci/devices', 'l sys/bus/pci/devices chain0', f'l sys/bus/pci/chain60 {outside}']
    # Inside the tree the first link leads to something that is read: its copy belongs there in the copy.
    lines.append(f'f {outside[1:]}/kernel/kptr_restrict 2')
    gone = [f'x {path}' for path in ('proc/sys', 'sys/class', 'sys/kernel', 'run', 'dev', 'vgpu', 'proc/irq', 'boot')]
    source = tree('no-pci', *gone, *lines)
    before = sorted(os.listdir(outside))
    for who in ('me', 'nobody') if os.geteuid() == 0 else ('me',):
        folder = tempfile.mkdtemp(dir=PLACE)
        os.chmod(folder, 0o777)
        os.chmod(PLACE, 0o755)
        shutil.copy(CTL, os.path.join(PLACE, 'ctl'))
        drop = {'user': 65534, 'group': 65534, 'extra_groups': []} if who == 'nobody' else {}
        done = subprocess.run([os.path.join(PLACE, 'ctl'), 'precheck', f'--root={source}', f'--capture={folder}/copy'],
                              timeout=60, capture_output=True, text=True, check=False, **drop)
        assert done.returncode in (0, 1) and os.path.isdir(f'{folder}/copy'), done
        assert sorted(os.listdir(outside)) == before and os.listdir(folder) == ['copy'], (who, os.listdir(outside))
        assert os.path.isfile(f'{folder}/copy{outside}/kernel/kptr_restrict'), done
        precheck(f'--root={folder}/copy')


def test_capture_has_no_secrets():
    """Arguments of init, values of parameters that nobody judges, UUIDs, addresses, serial numbers, tokens, other
    lines of the kernel's log: none is in a copy."""
    serial = '03000100aabbccddeeff1122'
    secrets = ('hunter2', 'aabbccddeeff1122', '6f1c1e52-0000-4a4b', '00:16:3e:12:34:56', '10.11.12.13', 'my-cat-died')
    source = tree('bare-kvm-host',
                  'f proc/cmdline root=/dev/x rd.luks.key=hunter2 isolcpus=8-11 hugepages=512 -- --password hunter2',
                  'f dev/kmsg 6,1,100,-;my-cat-died at 10.11.12.13\\n3,2,200,-;DMAR: [DMA Write] fault 00:16:3e:12:34:56',
                  'f proc/driver/nvidia/version NVRM version: 6f1c1e52-0000-4a4b-8c8d-123456789abc Open Module 580.65.06',
                  'f run/vgpu/tokens/vm-1 aabbccddeeff1122aabbccddeeff1122', 'm 0600 run/vgpu/tokens/vm-1',
                  'b sys/bus/pci/devices/0000:41:00.0/config ' + '00' * 256 + serial + '00' * (3840 - len(serial) // 2))
    copy = os.path.join(PLACE, 'copy-secret')
    precheck(f'--root={source}', f'--capture={copy}', status=0)
    files = [os.path.join(d, n) for d, _, names in os.walk(copy) for n in names]
    for name in files:
        if os.path.islink(name):
            continue
        with open(name, 'rb') as f:
            data = f.read()
        for secret in secrets:
            assert secret.encode() not in data and secret.encode() not in name.encode(), (name, secret)
        assert bytes.fromhex('aabbccddeeff1122') not in data, name
    # What is judged stays.
    with open(f'{copy}/proc/cmdline', encoding='utf-8') as f:
        assert 'isolcpus=8-11' in f.read()
    with open(f'{copy}/dev/kmsg', encoding='utf-8') as f:
        assert 'DMAR: [DMA Write]' in f.read()
    with open(f'{source}/sys/bus/pci/devices/0000:41:00.0/config', 'rb') as f:
        assert bytes.fromhex('aabbccddeeff1122') in f.read(), 'the plant was there to be found'


def test_texts_name_commands_that_exist():
    """`vgpu-ctl WORD` in remedies, in messages and in the documents is a command of it, and its options are options of it."""
    listed = subprocess.run([CTL, 'help'], capture_output=True, text=True, check=True).stdout
    commands = set(re.findall(r'^  ([a-z-]+) +[A-Z]', listed, re.M))
    assert {'precheck', 'doctor', 'topology'} <= commands, listed
    texts = [os.path.join(SOURCE, f) for f in ('README.md', 'docs/precheck.md', 'docs/security-iommu.md', 'docs/reliability.md')]
    for room in ('host', 'ctl', 'core', 'iommu'):
        texts += [os.path.join(SOURCE, room, n) for n in os.listdir(os.path.join(SOURCE, room)) if n.endswith('.c')]
    seen = 0
    for path in texts:
        with open(path, encoding='utf-8') as f:
            text = f.read()
        for word, rest in re.findall(r'`vgpu-ctl ([a-z][a-z-]*)([^`\n]*)`', text):
            seen += 1
            assert word in commands, (path, word)
            usage = subprocess.run([CTL, 'help', word], capture_output=True, text=True, check=True).stdout
            for option in re.findall(r'--[a-z-]+', rest):
                assert option in usage, (path, word, option)
    assert seen > 10, seen


def test_shipped_references():
    """Each reference is what its own tree is; another host differs from it."""
    for name in ('bare-kvm-host', 'xen-pvh-h100', 'developer-laptop'):
        drift = report(f'--root={tree(name)}', f'--against={name}', status=0)['drift']
        assert not drift['worse'] and not drift['better'] and not drift['other'], (name, drift)
    drift = report(f'--root={tree("amd-server")}', '--against=bare-kvm-host', status=5)['drift']
    assert {'iommu.enabled', 'iommu.interrupts'} <= {c['id'] for c in drift['worse']}, drift


def test_a_machine_with_a_gpu():
    """docs/examples/precheck-h200.txt is what a machine with an H200 was told; its copy in few lines is told the same."""
    with open(os.path.join(SOURCE, 'docs', 'examples', 'precheck-h200.txt'), encoding='utf-8') as f:
        seen = f.read()
    now = report(f'--root={tree("h200-vm")}')
    assert set(re.findall(r'^  (?:warn|fail) \w+ +(\S+)  ', seen, re.M)) == fired(now), fired(now)
    assert abs(int(re.search(r"Score +(\d+)", seen).group(1)) - now["score"]) <= 1, now["score"]  # checks were added since
    gpu = now['host']['gpus'][0]
    assert (gpu['id'], gpu['driver'], gpu['link_width'], gpu['link_generation']) == ('10de:2335', 'nvidia', 16, 5), gpu
    assert 'link x16 generation 5 of 5' in seen and 'NVIDIA H200' in now['host']['nvml'][0], now['host']


def test_text():
    """Findings carry all that an operator needs; no color where it is not wanted; no control characters."""
    text = precheck(f'--root={tree("hostile")}', '--all', '--profile=maximum-security').stdout
    assert not re.search(r'[\x00-\x09\x0b-\x1f\x7f]', text), repr(text)
    for word in ('found', 'wanted', 'why', 'mend', 'price', 'effect', 'source', 'Passed', 'Not applicable', 'choose', 'but'):
        assert re.search(rf'^ *{word}', text, re.M), word


def test_ordinary_user():
    """As nobody: no crash, no fault, no complaint about this machine's files."""
    drop = {'user': 65534, 'group': 65534, 'extra_groups': []} if os.geteuid() == 0 else {}
    shutil.copy(CTL, os.path.join(PLACE, 'ctl')) if drop else None
    os.chmod(PLACE, 0o755)
    env = dict(os.environ, HOME='/nonexistent')
    program = os.path.join(PLACE, 'ctl') if drop else CTL
    done = subprocess.run([program, 'precheck', '--json'], capture_output=True, text=True, env=env, timeout=60, check=False,
                          **drop)
    assert done.returncode in (0, 4, 5, 6) and not done.stderr, (done.returncode, done.stderr)
    assert not list(schema.faults(SCHEMA, json.loads(done.stdout), SCHEMA))
    done = subprocess.run([program, 'precheck', '--save=x'], capture_output=True, text=True, env=env, timeout=60, check=False,
                          **drop)
    assert done.returncode != 1 or 'cannot be made' in done.stderr, done.stderr


def counted(*args):
    """What a run of precheck opened, read, started and slept, by tests/host/counting.c."""
    name = os.path.join(PLACE, 'count')
    if os.path.exists(name):
        os.unlink(name)
    env = {**os.environ, 'LD_PRELOAD': COUNTING, 'VGPU_COUNT_FILE': name}
    done = subprocess.run([CTL, 'precheck', '--json', *args], capture_output=True, text=True, env=env, timeout=120, check=False)
    assert done.returncode in (0, 4, 5, 6), done
    with open(name, encoding='utf-8') as f:
        lines = [{k: int(v) for k, v in re.findall(r'(\w+)=(\d+)', line)} for line in f]
    return lines[-1], json.loads(done.stdout)  # vgpud, which it starts, ends first


def test_this_machine():
    """A report of this machine. What takes time is counted: at some 10 us a file it is far below a second, on large machines too,
    and no noise of this one can break it."""
    began = time.monotonic()
    out = report()
    took = time.monotonic() - began
    assert out['host']['cpus'] == os.cpu_count() and out['score'] is not None
    print(f'shows: this machine judged in {took * 1000:.0f} ms: score {out["score"]}, fired: {", ".join(sorted(fired(out)))}')
    if not COUNTING:
        print('nothing is counted: in an instrumented build no other library can come first')
        return

    def number(path):
        return len(os.listdir(path)) if os.path.isdir(path) else 0

    n, _ = counted()
    parts = os.cpu_count() + number('/sys/bus/pci/devices') + number('/proc/irq') + number('/sys/kernel/iommu_groups')
    assert n['sleeps'] == 0 and n['starts'] <= 2, n   # vgpud --show-config, and NVML where there is a driver
    assert 50 < n["opens"] < 500 + 25 * parts and n['bytes'] < (8 << 20), (n, parts)
    print(f'shows: it opened {n["opens"]} files, read {n["bytes"] >> 10} KiB, started {n["starts"]} processes, never slept')
    # A large machine: 8 nodes, and the work grows with its parts, not with their product.
    small, _ = counted(f'--root={tree("no-pci")}')
    large, told = counted(f'--root={tree("eight-nodes")}')
    assert large['starts'] == small['starts'] == 0 and large['sleeps'] == 0, large
    assert large["opens"] < 500 + 25 * (told['host']['cpus'] + 40), (small, large)


def test_documented():
    """docs/precheck.md lists the checks as the tables have them."""
    listed = subprocess.run([CHECKLIST], capture_output=True, text=True, check=True).stdout.strip()
    with open(os.path.join(SOURCE, 'docs', 'precheck.md'), encoding='utf-8') as f:
        assert f.read().split('## All checks\n')[1].strip() == listed, 'docs/precheck.md: put in what host-checklist prints'


def main():
    failed = passed = 0
    try:
        for name, test in list(globals().items()):
            if not name.startswith('test_'):
                continue
            try:
                test()
                passed += 1
                print(f'ok   {name}')
            except AssertionError as error:
                failed += 1
                print(f'FAIL {name}: {str(error)[:3000]}')
    finally:
        shutil.rmtree(PLACE, ignore_errors=True)
    print(f'{passed} passed, {failed} failed')
    sys.exit(1 if failed else 0)


if __name__ == '__main__':
    main()
