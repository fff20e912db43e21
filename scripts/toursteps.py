# SPDX-License-Identifier: Apache-2.0
"""The steps of ./run demo --tour. Each prints commands with their output and ends in verdicts that rest on what the
commands, the guests or the host's counters said; scripts/tour.py has what they use."""
import json
import os
import re
import socket
import threading
import time

FIRST, SECOND = list(range(1, 8)), list(range(8, 21))
NOBODY = '65534'
ADMINISTRATORS = 8


def ids(rows):
    return [row['vm_id'] for row in rows]


def names(numbers):
    return ' '.join(map(str, numbers))


def host(t):
    """The daemon starts; what it found."""
    t.say('vgpud polls the guests\' rings and serves administrators; one vgpu-exec a pool owns a device and may die.')
    t.start_daemon()
    pools = t.pools_up()
    t.ctl('list-pools')
    t.ctl('version')
    rows = {pool['name']: pool for pool in pools}
    t.check(sorted(rows) == ['A', 'B'] and all(p['capacity'] == 32 for p in pools),
            'a new store has pools A and B with room for 32 VMs each')
    t.check(rows['A']['executor_pid'] != rows['B']['executor_pid'],
            f'each has an executor process of its own, on {rows["A"]["backend"]}')


def pools(t):
    """VMs 1 to 7 in pool A, 8 to 20 in pool B."""
    t.say('A registration says who may attach (--uid; or --uuid for a Xen domain), in which pool and with which priority.')
    uid = f'--uid={os.getuid()}'
    first = t.ctl('register-vm', '--vm-id=1-7', '--pool=A', uid)
    second = t.ctl('register-vm', '--vm-id=8-20', '--pool=B', uid)
    t.ctl('list-vms', '--pool=A')
    found_a, found_b = ids(t.ask('list-vms', '--pool=A')['vms']), ids(t.ask('list-vms', '--pool=B')['vms'])
    t.check(first.code == 0 and found_a == FIRST, f'in pool A: {names(found_a)}, each once')
    t.check(second.code == 0 and found_b == SECOND, f'in pool B: {names(found_b)}, each once', asked=True)
    modes = {os.stat(f'{t.tokens}/vm-{vm}.token').st_mode & 0o777 for vm in FIRST + SECOND}
    t.check(modes == {0o600}, 'each VM has a token that only its user can read (mode 0600)')


def priorities(t):
    """Priorities are set, changed and asked for; a range is all or nothing."""
    t.ctl('set-priority', '--vm-id=1-3', '--priority=high')
    t.ctl('set-priority', '--vm-id=6-7', '--priority=low')
    t.ctl('list-vms', '--priority=high')
    high = ids(t.ask('list-vms', '--priority=high')['vms'])
    t.check(high == [1, 2, 3], f'high priority: VMs {names(high)}', asked=True)
    t.say('A range is taken as a whole or not at all, and what was mistyped is suggested.')
    before = t.ask('list-vms')
    wrong = t.ctl('set-priority', '--vm-id=18-21', '--priority=low')
    typo = t.ctl('set-prioritty', '--vm-id=18', '--priority=low')
    t.check(wrong.code == 1 and '21' in wrong.err and t.ask('list-vms') == before,
            'VM 21 is not there, so none of 18 to 21 was changed (exit 1)')
    t.check(typo.code == 2 and 'set-priority' in typo.err, 'a wrong command line is exit 2 and asks nothing')


def persistence(t):
    """kill -9 of the daemon, and all is there again."""
    before, history = t.ask('list-vms'), len(t.ask('history')['history'])
    t.run('kill', '-9', str(t.daemon.pid))
    t.daemon.wait()
    t.say('No daemon runs now. What needs only the store works on the store:')
    offline = t.ctl('--db', f'{t.dir}/state/vgpu.db', 'set-priority', '--vm-id=7', '--priority=medium')
    t.check(offline.code == 0, 'a change without the daemon (a VM\'s start hook never depends on the order of services)')
    t.ctl('--db', f'{t.dir}/state/vgpu.db', 'set-priority', '--vm-id=7', '--priority=low')
    t.start_daemon()
    t.pools_up()
    t.ctl('list-vms', '--pool=A')
    after = t.ask('list-vms')
    t.check(after == before, f'all {len(after["vms"])} VMs are as they were before kill -9', asked=True)
    more = len(t.ask('history')['history'])
    t.check(more == history + 2, f'the history kept its {history} entries, and has the two made meanwhile', asked=True)


def compute(t):
    """A guest computes, and checks what it gets."""
    t.say('Guests are ordinary programs with libvgpu. These compare every result with one of their own.')
    for vm, program, what in ((1, 'vgpu-vecadd', 'every sum right'), (8, 'vgpu-digits', 'as the reference on the CPU says')):
        done = t.run(program, **t.guest_env(vm))
        t.check(done.code == 0, f'{program} as VM {vm}: {what}')
    row = t.ask('stats', '--vm-id=1')['vms'][0]
    t.check(row['accepted'] == row['completed'] > 0 and not row['refused'] + row['lost'] + row['failed'],
            f'the host counts {row["accepted"]} operations accepted and {row["completed"]} completed, none refused or lost',
            asked=True)


def order(t):
    """Strict priority, shown by the order in which the device started operations."""
    t.say('VM 6 (low) fills the queue. Then VM 4 (medium), VM 1 (high) and VM 8 (of pool B) ask for a few operations each. '
          'The device says in its completions as which it started each.')
    for vm, priority in ((6, 'low'), (4, 'medium'), (1, 'high')):
        t.ctl('set-priority', f'--vm-id={vm}', f'--priority={priority}')
    done = t.run('tourguest.py', 'order', '6:low:300', '4:medium:8', '1:high:8', '8:pool B:8')
    rows = {row['vm_id']: row for row in done.last().get('vms', [])}
    if len(rows) != 4:
        raise ValueError(done.last().get('error') or done.err or 'no result')
    base = min(rows[vm]['first'] for vm in (1, 4, 6))
    at = {vm: rows[vm]['last'] - base + 1 for vm in (1, 4, 6)}
    t.check(at[1] < at[4] < at[6], f'submitted last, done first: the last high one started as number {at[1]} of 316, the last '
                                   f'medium one as {at[4]}, the last low one as {at[6]}')
    overtaken = 316 - at[1]
    t.check(overtaken >= 150, f'high priority overtook {overtaken} operations that were queued before it')
    t.check(rows[8]['finished'] < rows[6]['finished'], 'pool B did not wait for pool A\'s queue')
    exactly_once(t, rows)


def exactly_once(t, rows, moved=()):
    t.check(all(r['falls'] <= (vm in moved) for vm, r in rows.items()), 'each VM\'s own operations started in the order in '
            'which it submitted them')
    t.check(all(r['completed'] == r['positions'] == r['ok'] == r['submitted'] for r in rows.values()),
            f'{sum(r["submitted"] for r in rows.values())} operations, each completed exactly once and right')


def live(t):
    """Priority, pool and limits are changed while the queues are full."""
    t.say('Three VMs of low priority in pool A have their queues full, VM 5 first, then 6 and 7. While they wait, VM 6 is '
          'raised and VM 7 moved to pool B. What the host has accepted of VM 7 is completed in pool A; at most 32 are '
          'accepted at a time (its limit), and the others follow in pool B. Nobody is detached.')
    t.ctl('set-priority', '--vm-id=5-7', '--priority=low')
    t.ctl('set-limit', '--vm-id=7', '--in-flight=32')
    before = started_by(t, 'exec-B')
    child = t.start('tourguest.py', 'backlog', '5:stays:400', '6:raised:250', '7:moved:250')
    queued = any(line.startswith('queued') for line in iter(child.stdout.readline, ''))
    raised = t.ctl('set-priority', '--vm-id=6', '--priority=high')
    moved = t.ctl('set-pool', '--vm-id=7', '--pool=B')
    done = t.end(child, show=3)
    rows = {row['vm_id']: row for row in done.last().get('vms', [])}
    if not queued or len(rows) != 3:
        raise ValueError(done.last().get('error') or done.err or 'no result')
    t.check(raised.code == 0 and moved.code == 0 and 'attached' in raised.out and 'attached' in moved.out,
            'both changes were made while the VMs were attached')
    t.check(rows[6]['last'] < rows[5]['last'], f'VM 6 came after VM 5 and was done before it (its last operation started as '
            f'number {rows[6]["last"]}, VM 5\'s as {rows[5]["last"]})')
    there = started_by(t, 'exec-B') - before
    t.check(100 < there < 250, f'{there} of VM 7\'s 250 operations ran in pool B, the others in pool A before', asked=True)
    exactly_once(t, rows, moved=(7,))
    limits(t)


def started_by(t, executor):
    return next(e['started'] for e in t.ask('stats')['executors'] if e['name'] == executor)


def limits(t):
    t.ctl('set-pool', '--vm-id=7', '--pool=A')
    t.ctl('set-limit', '--vm-id=7', '--in-flight=default')
    had = t.run('tourguest.py', 'allocate', '7').last()
    t.ctl('set-limit', '--vm-id=7', '--device-bytes=0')
    has = t.run('tourguest.py', 'allocate', '7').last()
    t.check(had.get('status') == 0 and has.get('status') == 9, 'VM 7 could have 1 MiB of device memory, and now cannot')
    t.ctl('set-limit', '--vm-id=7', '--device-bytes=default')


def load(t):
    """All VMs at once, and administrators beside them."""
    seconds = f'{t.seconds:g}'
    t.counts = {row['vm_id']: row['completed'] for row in t.ask('stats')['vms']}
    t.say(f'All 20 guests compute for {seconds} seconds at once, while {ADMINISTRATORS} administrators ask without a pause.')
    guests = {vm: t.start('vgpu-demo-guest', '--json', '--seconds', seconds, show=vm in (1, 20), **t.guest_env(vm))
              for vm in FIRST + SECOND}
    t.view.write('    (and VMs 2 to 19 likewise)')
    outputs = {}
    readers = [threading.Thread(target=lambda vm=vm, child=child: outputs.update({vm: child.communicate()}))
               for vm, child in guests.items()]
    for reader in readers:
        reader.start()
    answers, stop = [], threading.Event()

    def administrator(number):
        questions = (['list-vms', '--pool=A'], ['stats', f'--vm-id={number + 1}'], ['list-pools'],
                     ['update-vm', f'--vm-id={number + 8}', f'--name=tour-{number}'])
        while not stop.is_set():
            for question in questions:
                answers.append(t.quietly('vgpu-ctl', *question))

    threads = [threading.Thread(target=administrator, args=(n,)) for n in range(ADMINISTRATORS)]
    for thread in threads:
        thread.start()
    time.sleep(t.seconds / 2)
    t.ctl('top', '--once')
    time.sleep(t.seconds / 4)
    stop.set()
    for thread in threads:
        thread.join()
    for reader in readers:
        reader.join(timeout=180)
    verified, counted = 0, {}
    for vm, child in guests.items():
        t.children.remove(child)
        result = last_result(outputs.get(vm, ('', ''))[0])
        verified += result.get('verified') is True and child.returncode == 0 and result.get('vm_id') == vm
        counted[vm] = result.get('descriptors')
    t.check(verified == 20, f'{verified} of 20 guests checked every result and found it right')
    t.check(answers and all(code == 0 for code in answers),
            f'{len(answers)} administrators\' commands meanwhile, {sum(code != 0 for code in answers)} failed')
    judge_load(t, counted)


def last_result(text):
    for line in text.splitlines():
        if line.startswith('{"result"'):
            return json.loads(line)['result']
    return {}


def judge_load(t, counted):
    rows = {row['vm_id']: row for row in t.ask('stats')['vms']}
    before = t.counts
    done = {vm: rows[vm]['completed'] - before.get(vm, 0) for vm in counted}
    wrong = [vm for vm in counted if done[vm] != counted[vm] or rows[vm]['accepted'] != rows[vm]['completed']]
    t.check(not wrong, f'guests and host count the same: {sum(done.values()):,} operations'
            if not wrong else f'guests and host differ for VMs {names(wrong)}: '
            f'{[(counted[vm], done[vm]) for vm in wrong][:3]}', asked=True)


def isolation(t):
    """The device of pool A dies, and a guest; the others notice nothing."""
    t.say('Two guests compute in each pool. The executor of pool A is killed, and a guest of pool B.')
    guests = {vm: t.start('vgpu-demo-guest', '--json', '--seconds', '4', **t.guest_env(vm)) for vm in (1, 2, 8, 9)}
    ready = t.wait_for(lambda: all(vm['state'] == 'attached' for vm in t.ask('list-vms')['vms']
                                   if vm['vm_id'] in guests))
    time.sleep(0.3)
    pid = {p['name']: p['executor_pid'] for p in t.ask('list-pools')['pools']}
    t.run('kill', '-9', str(pid['A']))
    t.run('kill', '-9', str(guests[9].pid))
    t.end(guests.pop(9))
    back = t.wait_for(lambda: all(p['state'] == 'up' and p['executor_pid'] != pid['A']
                                  for p in t.ask('list-pools')['pools']))
    t.ctl('list-pools')
    ended = {vm: t.end(child) for vm, child in guests.items()}
    rows = {row['vm_id']: row for row in t.ask('stats')['vms']}
    t.check(ready and last_result(ended[8].out).get('verified') is True and ended[8].code == 0,
            'VM 8 of pool B computed on, every result right')
    now = {p['name']: p['executor_pid'] for p in t.ask('list-pools')['pools']}
    t.check(not rows[8]['lost'] and now['B'] == pid['B'], 'and lost nothing; its executor is the same process')
    t.check(back, f'pool A has a new executor (process {pid["A"]}, now {now["A"]})')
    t.check(all(rows[vm]['accepted'] == rows[vm]['completed'] for vm in (1, 2, 9)) and not rows[9]['outstanding'],
            'everything accepted was completed or told as lost: ' +
            ', '.join(f'VM {vm}: {rows[vm]["accepted"]:,} accepted, {rows[vm]["lost"]} lost' for vm in (1, 2, 9)), asked=True)
    again = t.run('vgpu-vecadd', '--size', '4096', **t.guest_env(1))
    t.check(again.code == 0, 'VM 1 attaches again and computes right')
    again = t.run('vgpu-vecadd', '--size', '4096', **t.guest_env(9))
    t.check(again.code == 0, 'so does VM 9, whose process was killed')


def security(t):
    """What is refused, and to whom."""
    t.say('A guest needs its token and its uid; metadata come from the registration and never from the guest.')
    refused = t.run('vgpu-vecadd', VGPU_VM_ID='2', VGPU_TOKEN_FILE=f'{t.tokens}/vm-3.token')
    t.check(refused.code == 1 and 'do not match' in refused.err, 'VM 3\'s token does not open VM 2')
    refused = t.run('vgpu-vecadd', VGPU_VM_ID='21', VGPU_TOKEN_FILE=f'{t.tokens}/vm-3.token')
    t.check(refused.code == 1 and 'do not match' in refused.err, 'a VM that is not registered gets the same answer')
    other_users(t)
    t.say('What a guest may not ask for is refused one by one, and costs it nothing else:')
    forged = t.run('tourguest.py', 'forge', '10').last()
    t.check(len(forged.get('tried', [])) == 6 and all(row['refused'] for row in forged['tried']),
            'all 6 were refused, and the guest works on')
    t.say('A guest that breaks the ring\'s rules is cut off alone:')
    broken = t.run('tourguest.py', 'violate', '10').last()
    t.check(broken.get('state') == 3 and broken.get('properties_writable') is False,
            'its ring is broken, and it cannot write what the host says about it')
    neighbour = t.run('vgpu-vecadd', '--size', '65536', **t.guest_env(11))
    t.check(neighbour.code == 0, 'VM 11, beside it in the pool, works')
    quarantine(t)
    malformed(t)


def other_users(t):
    if os.getuid() != 0:
        t.view.write('    (what other users may is shown only where the tour runs as root)')
        return
    stolen = os.path.join(t.dir, 'stolen.token')
    with open(f'{t.tokens}/vm-2.token', 'rb') as token, open(stolen, 'wb') as copy:
        copy.write(token.read())
    os.chmod(stolen, 0o644)
    drop = ('setpriv', f'--reuid={NOBODY}', '--regid=1', '--clear-groups')
    refused = t.run(*drop, 'vgpu-vecadd', **t.guest_env(2))
    t.check(refused.code == 1 and 'Permission denied' in refused.err, 'another user cannot read the token')
    refused = t.run(*drop, 'vgpu-vecadd', VGPU_VM_ID='2', VGPU_TOKEN_FILE=stolen)
    t.check(refused.code == 1 and 'do not match' in refused.err, 'and a stolen one does not work for another uid')
    if not t.viewers:
        t.view.write(f'    (what a viewer may is not shown: this host has no group {NOBODY})')
        return
    t.say(f'A group may look, another may administer; here control.viewer_group is {t.viewers}:')
    refused = t.run(*drop, 'vgpu-ctl', 'show-vm', '--vm-id=2')
    t.check(refused.code in (1, 3) and not refused.out, 'a user of neither may not even look')
    drop = ('setpriv', f'--reuid={NOBODY}', f'--regid={NOBODY}', '--clear-groups')
    looked = t.run(*drop, 'vgpu-ctl', 'list-vms', '--priority=high')
    t.check(looked.code == 0, 'a viewer may look')
    refused = t.run(*drop, 'vgpu-ctl', 'set-priority', '--vm-id=2', '--priority=low')
    last = t.ask('history', '--limit=1')['history'][-1]
    t.check(refused.code == 1 and last['command'] == 'set-priority' and last['uid'] == int(NOBODY) and last['result'] != 'ok',
            f'and change nothing; that he tried is in the history, by uid {last["uid"]}', asked=True)


def quarantine(t):
    t.say('The administrator may lock a VM out at once, also while it computes:')
    child = t.start('vgpu-demo-guest', '--seconds', '30', **t.guest_env(12))
    t.wait_for(lambda: t.ask('show-vm', '--vm-id=12')['vm']['state'] == 'attached')
    began = time.monotonic()
    t.ctl('quarantine-vm', '--vm-id=12', '--reason=shown in the tour')
    done = t.end(child, show=1)
    took = time.monotonic() - began
    t.check(done.code == 1 and took < 25, f'the running guest was detached after {took:.1f} s of the 30 that it wanted')
    refused = t.run('vgpu-vecadd', '--size', '256', **t.guest_env(12))
    t.check(refused.code == 1 and 'quarantined' in refused.err, 'and attaches no more, until it is cleared:')
    t.ctl('clear-quarantine', '--vm-id=12')
    done = t.run('vgpu-vecadd', '--size', '256', **t.guest_env(12))
    t.check(done.code == 0, 'cleared, it works again')


def malformed(t):
    t.say('The control socket bounds its clients:')
    for what, request, codes in (('a request of 40 MB', b'x' * 40000000 + b'\n', ('EMSGSIZE', 'cut off')),
                                 ('what is no JSON', b'{"command":\n', ('EINVAL',)),
                                 ('a VM id of -1', b'{"command":"remove-vm","args":{"vm_ids":[-1]}}\n', ('EINVAL',)),
                                 ('an unknown argument', b'{"command":"list-vms","args":{"x":1}}\n', ('EINVAL',))):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(30)
            s.connect(t.control)
            try:
                s.sendall(request)
                answer = b''.join(iter(lambda: s.recv(65536), b''))
            except (BrokenPipeError, ConnectionResetError):
                answer = b''  # closed with the rest unread, which may take its answer along
        error = json.loads(answer)['error'] if answer else {'code': 'cut off', 'message': 'before it was read to its end'}
        t.check(error['code'] in codes, f'{what}: {error["code"]}: {error["message"][:90]}')
    t.check(t.ask('version')['version'], 'and vgpud answers the next one', asked=True)


def devices(t):
    """What lies between devices and memory."""
    t.say('Devices bound to VFIO reach the memory of their IOMMU domain and nothing else; this host has:')
    shown = t.ctl('show-iommu-status', '--vm-id=1')
    told = t.ask('show-iommu-status')
    kernel = sorted(map(int, os.listdir('/sys/kernel/iommu_groups'))) if os.path.isdir('/sys/kernel/iommu_groups') else []
    t.check(shown.code == 0 and sorted(group['group'] for group in told['groups']) == kernel,
            f'the same {len(kernel)} IOMMU groups as in /sys/kernel/iommu_groups; {len(told["domains"])} domains of vgpud',
            asked=True)


def audit(t):
    """Who changed what, and out and in again."""
    t.ctl('history', '--vm-id=12', '--limit=8')
    history = t.ask('history', '--limit=10000')['history']
    numbers = [entry['seq'] for entry in history]
    t.check(numbers == sorted(set(numbers)) and len(history) > 20 and
            all(entry['uid'] == os.getuid() for entry in history if entry['result'] == 'ok'),
            f'{len(history)} entries, each with user, time, old and new values', asked=True)
    t.ctl('set-pool', '--vm-id=99', '--pool=A')
    last = t.ask('history', '--limit=1')['history'][-1]
    t.check(last['command'] == 'set-pool' and last['result'] != 'ok', f'what was refused is there too: {last["result"]}',
            asked=True)
    saved = f'{t.dir}/registry.json'
    t.ctl('export', f'--output={saved}')
    before = t.ask('list-vms')
    t.ctl('remove-vm', '--vm-id=15-20')
    t.ctl('import', saved, '--mode=replace')
    after = t.ask('list-vms')
    same = [strip(vm) for vm in after['vms']] == [strip(vm) for vm in before['vms']]
    t.check(same, 'six VMs were removed, and import brought them back as they were', asked=True)
    dry = t.ctl('reload-config', '--dry-run')
    t.check(dry.code == 0, 'the configuration can be read again; --dry-run says what would change')


def strip(vm):
    return {key: vm[key] for key in ('vm_id', 'name', 'pool', 'priority', 'uid', 'in_flight', 'arena_bytes', 'device_bytes')}


def end(t):
    """Everything ends as it should."""
    executors = [p['executor_pid'] for p in t.ask('list-pools')['pools']]
    t.view.command(f'kill {t.daemon.pid}')
    t.stop_daemon()
    with open(t.log('vgpud.log'), encoding='utf-8', errors='replace') as log:
        lines = log.read().splitlines()
    t.view.output('\n'.join(lines[-3:]).replace(t.dir, '$T'))
    t.check(True, 'vgpud ended with exit 0 after SIGTERM')
    gone = t.wait_for(lambda: not any(alive(pid) for pid in executors), 5)
    t.check(gone, 'its executors are gone')
    left = [name for name in os.listdir(f'{t.dir}/run') if re.search(r'\.sock$', name)]
    t.check(not left, 'no socket is left behind')


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f'/proc/{pid}/stat', encoding='ascii', errors='replace') as stat:
        return stat.read().rsplit(')', 1)[1].split()[0] != 'Z'


# name, title, function, whether the others rest on it
STEPS = (
    ('host', 'The daemon, its pools and their executors', host, True),
    ('pools', 'Pools: VMs 1-7 in A, VMs 8-20 in B', pools, True),
    ('priorities', 'Priorities are set, changed and asked for', priorities, False),
    ('persistence', 'kill -9 of the daemon; work without it; all is there again', persistence, False),
    ('compute', 'Guests compute on the shared device', compute, False),
    ('order', 'Strict priority, FIFO, exactly once, pools apart', order, False),
    ('live', 'Live change of priority, pool and limits with full queues', live, False),
    ('load', 'All twenty VMs at once, and administrators beside them', load, False),
    ('isolation', 'Isolation: a device dies, a guest dies', isolation, False),
    ('security', 'Security: what is refused, and to whom', security, False),
    ('devices', 'Devices and the IOMMU', devices, False),
    ('audit', 'History, export and import', audit, False),
    ('end', 'The end', end, True),
)
