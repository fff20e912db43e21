#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The cuda backend on the GPU of this machine: what precheck says of it, conformance for each
engine, whole programs, faults, leaks, sanitizers.

gpu_test.py [--list] [--build DIR] [--device N] [--options O] [--fake LIBRARY] [PART...]

Runs from a build tree or an unpacked bundle; without PART all of them, in order. Prints what each part came to, what was
skipped and why, and last "N passed, N failed". Exit 0, 1 when something failed, 77 when there is no GPU to test.
--fake takes the fake driver instead of a GPU: then the parts that need the real thing are skipped.
"""
import argparse
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, 'scripts'))
import testlog  # noqa: E402

ENGINES = ('auto', 'stream', 'batch', 'resident', 'bounce', 'pools')
HUGE_BYTES = 34 << 30         # of device memory: three arrays of 2^31 floats, and some
LEVEL_BYTES = 32 << 20        # device memory may differ by so much before and after a part
E2E = {'hello': (), 'errors': (), 'guest-kill': (), 'daemon-kill': (), 'memory': (), 'shutdown': (),
       'exactly-once': ('device',), 'live': ('to_another_executor_verified', 'device_buffers'),
       # Which layers of the sandbox are in force with this driver, and whether what they deny is denied.
       'privileges': ('given_up', 'tried_from_inside', 'still_recovers', 'another_user')}
# Short cases of every kernel: a sanitizer slows each launch down.
SANITIZED = ('nothing_written', 'fill', 'copy', 'vector_add', 'axpy', 'reduce', 'gemm_f32', 'edges', 'barriers',
             'unaligned', 'random_mix')
# Beside a kernel that stays, the tool lets no other one start: what resident workers do without any launch.
SANITIZED_RESIDENT = ('nothing_written', 'fill', 'copy', 'vector_add', 'axpy', 'reduce')
SANITIZER_PLACES = ('/usr/local/cuda/bin', '/usr/local/cuda/compute-sanitizer', '/opt/cuda/bin')


class Skip(Exception):
    """This part cannot run here; the text says why."""


def used_bytes(index):
    """Device memory in use, by NVML; None where there is none."""
    class Memory(ctypes.Structure):
        _fields_ = [('total', ctypes.c_ulonglong), ('free', ctypes.c_ulonglong), ('used', ctypes.c_ulonglong)]
    try:
        nvml = ctypes.CDLL('libnvidia-ml.so.1')
    except OSError:
        return None, None
    memory, handle = Memory(), ctypes.c_void_p()
    if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) or \
            nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)):
        return None, None
    return memory.used, memory.total


def nvml_facts():
    """What NVML says by another way than vgpu-ctl's: driver, CUDA version, and for each GPU its link."""
    class Pci(ctypes.Structure):
        _fields_ = [('legacy', ctypes.c_char * 16), ('domain', ctypes.c_uint), ('bus', ctypes.c_uint), ('device', ctypes.c_uint),
                    ('device_id', ctypes.c_uint), ('subsystem', ctypes.c_uint), ('address', ctypes.c_char * 32)]
    try:
        nvml = ctypes.CDLL('libnvidia-ml.so.1')
    except OSError as why:
        raise Skip(f'no NVML to compare with: {why}') from why

    def number(function, *before):
        value = ctypes.c_uint()
        return None if getattr(nvml, function)(*before, ctypes.byref(value)) else value.value

    text = ctypes.create_string_buffer(96)
    if nvml.nvmlInit_v2() or nvml.nvmlSystemGetDriverVersion(text, len(text)):
        raise Skip('NVML does not answer')
    out = {'driver': text.value.decode(), 'cuda': number('nvmlSystemGetCudaDriverVersion_v2'), 'gpus': {}}
    for index in range(number('nvmlDeviceGetCount_v2')):
        handle, pci = ctypes.c_void_p(), Pci()
        nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle))
        nvml.nvmlDeviceGetPciInfo_v3(handle, ctypes.byref(pci))
        out['gpus'][f'{pci.domain:04x}:{pci.bus:02x}:{pci.device:02x}.0'] = {
            'width': number('nvmlDeviceGetCurrPcieLinkWidth', handle),
            'generation': number('nvmlDeviceGetMaxPcieLinkGeneration', handle)}
    return out


class Runner:
    def __init__(self, args, scratch):
        self.build, self.scratch, self.device = args.build, scratch, args.device
        self.fake = args.fake
        options = [args.options] if args.options else []
        if self.fake:
            # Short names: the configuration takes 255 bytes of options.
            link = os.path.join(scratch, 'f.so')
            os.symlink(os.path.abspath(self.fake), link)
            options += [f'driver={link}', f'cublas={link}', f'nvml={link}']
        elif self.device:
            options.append(f'device={self.device}')
        self.options = ','.join(options)

    def program(self, path):
        full = os.path.join(self.build, path)
        if not os.access(full, os.X_OK):
            raise Skip(f'{path} was not built')
        return full

    def environment(self, **more):
        env = {**os.environ, 'VGPU_TEST_CUDA_OPTIONS': self.options, 'VGPU_E2E_BACKEND': 'cuda',
               'VGPU_E2E_OPTIONS': self.options, 'PYTHONDONTWRITEBYTECODE': '1'}
        for name, path in (('VGPUD', 'core/vgpud'), ('EXEC', 'pmd-gpu/vgpu-exec'), ('CTL', 'ctl/vgpu-ctl')):
            env['VGPU_E2E_' + name] = env['VGPU_DEMO_' + name] = os.path.join(self.build, path)
        env['VGPU_DEMO_GUEST'] = os.path.join(self.build, 'guest-lib/examples/vgpu-demo-guest')
        env.update(more)
        return env

    def probe(self):
        """(does it work, what the backend says)."""
        done = subprocess.run([self.program('pmd-gpu/vgpu-exec'), '--probe=cuda', f'--options={self.options}'],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=120)
        return done.returncode == 0, testlog.last_line(done.stdout)

    def run(self, name, command, limit_s, env=None):
        """One program as a record that testlog judges."""
        started = time.monotonic()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   text=True, errors='replace', start_new_session=True, env=env or self.environment())
        try:
            out, err = process.communicate(timeout=limit_s)
            result = {0: 'OK', 77: 'SKIP'}.get(process.returncode, 'FAIL')
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            result = 'TIMEOUT'
        record = {'name': name, 'result': result, 'stdout': out, 'stderr': err, 'returncode': process.returncode,
                  'duration': time.monotonic() - started}
        return testlog.judge(record), out + '\n' + err

    # -- the parts --

    def conformance(self, engine):
        outcome, _ = self.run(f'conformance-{engine}', [self.program('tests/unit/pmd-gpu/conformance'), f'cuda:{engine}'],
                              600)
        return outcome

    def huge(self, engine):
        if self.fake:
            raise Skip('needs a real GPU with 34 GiB of memory')
        used, total = used_bytes(self.device)
        if total is None:
            raise Skip('NVML does not say how much memory the GPU has')
        if total - used < HUGE_BYTES:
            raise Skip(f'needs {HUGE_BYTES >> 30} GiB of free device memory, there are {(total - used) >> 30}')
        outcome, _ = self.run('huge', [self.program('tests/unit/pmd-gpu/conformance'), f'cuda:{engine}', 'huge'], 300)
        return outcome

    def leveled(self, run):
        """Runs something and adds the check that device memory is back at its level afterwards."""
        if self.fake:  # its memory ends with its process: nothing to look at
            return run()
        before, _ = used_bytes(self.device)
        outcome = run()
        if before is None:
            outcome.skipped.append('device memory back at its level: NVML does not say how much is in use')
            return outcome
        after, _ = used_bytes(self.device)
        if after <= before + LEVEL_BYTES:
            outcome.passed += 1
            outcome.shows.append(f'device memory in use before and after: {before >> 20} and {after >> 20} MiB')
        else:
            outcome.fail(f'device memory: {before >> 20} MiB in use before, {after >> 20} MiB after')
        return outcome

    def e2e(self, name, *tests, limit_s=300, **env):
        return self.run(name, [self.program(f'tests/e2e/e2e-{name}'), *tests], limit_s, self.environment(**env))[0]

    def kill(self):
        env = {'VGPU_E2E_KILLS': '2' if self.fake else '10'}
        if not self.fake and used_bytes(self.device)[0] is not None:
            env['VGPU_E2E_USED_COMMAND'] = f'{sys.executable} {os.path.abspath(__file__)} --used {self.device}'
        tests = ['killed', 'device_memory'] if self.fake else ['killed', 'device_memory', 'crash_operation']
        return self.leveled(lambda: self.e2e('exec-kill', *tests, limit_s=400, **env))

    def faults(self):
        return self.leveled(lambda: self.e2e('device-fault', limit_s=400))

    def demo(self, more=''):
        options = ','.join(filter(None, [self.options, more]))
        command = [sys.executable, os.path.join(ROOT, 'scripts/demo.py'), '--backend', 'cuda', '--options', options,
                   '--seconds', '2' if self.fake else '5']
        outcome, text = self.run('demo', command, 300)
        outcome.shows += [line.strip() for line in text.splitlines() if line.startswith('  device ')]
        return outcome

    def precheck(self):
        """vgpu-ctl precheck and topology on this machine: the GPU with its link, driver and CUDA version, as NVML has them."""
        if self.fake:
            raise Skip('needs a real GPU')
        ctl, facts, outcome, fastest_s = self.program('ctl/vgpu-ctl'), nvml_facts(), testlog.Outcome('precheck'), 1e9
        for _ in range(5):
            started = time.monotonic()
            done = subprocess.run([ctl, 'precheck', '--json'], capture_output=True, text=True, timeout=120)
            fastest_s = min(fastest_s, time.monotonic() - started)
        if done.returncode not in (0, 4, 5, 6):
            outcome.fail('precheck ends well', done.stdout + done.stderr)
            return outcome
        told = json.loads(done.stdout)
        gpus = {g['address']: g for g in told['host']['gpus'] if g['id'].startswith('10de:')}
        checks = {c['id']: c for c in told['checks']}
        with open('/proc/driver/nvidia/version', encoding='utf-8') as f:
            kind = 'open' if 'Open Kernel Module' in f.read() else 'proprietary'
        cuda = f'{facts["cuda"] // 1000}.{facts["cuda"] // 10 % 100}'
        major_minor = '.'.join(facts['driver'].split('.')[:2])

        def expect(what, good, seen):
            if good:
                outcome.passed += 1
            else:
                outcome.fail(what, f'{seen}')

        expect('the GPUs are recognised', set(gpus) == set(facts['gpus']), (gpus, facts))
        for address, gpu in facts['gpus'].items():
            seen = gpus.get(address, {})
            expect(f'{address}: driver nvidia', seen.get('driver') == 'nvidia', seen)
            expect(f'{address}: width of its link', seen.get('link_width') == gpu['width'], (seen, gpu))
            expect(f'{address}: speed of its link', 0 < seen.get('link_generation', 0) <= gpu['generation'] ==
                   seen.get('max_link_generation'), (seen, gpu))
        for name, words in (('gpu.present', ''), ('gpu.driver', 'nvidia'), ('gpu.driver_version', major_minor),
                            ('gpu.cuda_version', f'CUDA {cuda}'), ('gpu.library', 'answers')):
            expect(name, checks[name]['status'] == 'pass' and words in checks[name]['found'], checks[name])
        expect('kind of the driver', kind in checks['gpu.open_module']['found'], checks['gpu.open_module'])
        if any('persistence=1' in line for line in told['host']['nvml']):
            expect('in under a second', fastest_s < 1, f'{fastest_s:.3f} s')
        else:
            outcome.skipped.append('in under a second: without persistence the driver sets the GPU up for each run')
        drawn = subprocess.run([ctl, 'topology'], capture_output=True, text=True, timeout=120).stdout
        for address, gpu in facts['gpus'].items():
            expect(f'{address} in the drawing', address in drawn and f'x{gpu["width"]}' in drawn, drawn)
        outcome.shows.append(f'precheck: {len(gpus)} GPUs, driver {facts["driver"]} ({kind}), CUDA {cuda}, score '
                             f'{told["score"]}, in {fastest_s * 1000:.0f} ms')
        return outcome

    def sanitizer(self, tool, engine):
        if self.fake:
            raise Skip('needs a real GPU')
        program = shutil.which('compute-sanitizer') or next(
            (p for p in (os.path.join(d, 'compute-sanitizer') for d in SANITIZER_PLACES) if os.access(p, os.X_OK)), None)
        if not program:
            raise Skip('compute-sanitizer is not on this machine')
        command = [program, '--tool', tool, '--error-exitcode', '99', '--print-limit', '20',
                   self.program('tests/unit/pmd-gpu/conformance'), f'cuda:{engine}',
                   *(SANITIZED_RESIDENT if engine == 'resident' else SANITIZED)]
        # The tool needs shared memory of its own on the workers' SMs, and knows only memory that precedes a kernel.
        options = ','.join(filter(None, [self.options, 'worker_hold=0', 'register_parks=1']))
        outcome, text = self.run(f'{tool}-{engine}', command, 300,
                                 self.environment(VGPU_TEST_OPS='1500', VGPU_TEST_CUDA_OPTIONS=options))
        if 'Device not supported' in text:
            raise Skip('compute-sanitizer says: Device not supported')
        clean = 'ERROR SUMMARY: 0 errors' in text or 'RACECHECK SUMMARY: 0 hazards' in text
        # The program's own tally is not what the tool found.
        verdict = testlog.Outcome(outcome.name, shows=[line for line in text.splitlines() if 'SUMMARY' in line])
        if clean and not outcome.failed and outcome.passed:
            verdict.passed = 1
        else:
            # What it found first says more than what came last.
            verdict.fail(f'{tool} of {engine}: {"found something, or said nothing" if not clean else "cases failed"}',
                         '\n'.join(text.splitlines()[:40]))
        return verdict


def parts(runner):
    """Name -> what to run, in order."""
    table = {'precheck': runner.precheck}
    table |= {f'conformance-{e}': lambda e=e: runner.conformance(e) for e in ENGINES}
    table['huge-stream'] = lambda: runner.huge('stream')
    table['huge-auto'] = lambda: runner.huge('auto')
    for name, tests in E2E.items():
        table[name] = lambda name=name, tests=tests: runner.e2e(name, *tests)
    table['kill'] = runner.kill
    table['faults'] = runner.faults
    table['demo'] = runner.demo
    table['demo-pools'] = lambda: runner.demo('partition=pools')
    for engine in ('stream', 'batch', 'resident'):
        table[f'memcheck-{engine}'] = lambda engine=engine: runner.sanitizer('memcheck', engine)
    table['racecheck-stream'] = lambda: runner.sanitizer('racecheck', 'stream')
    table['racecheck-batch'] = lambda: runner.sanitizer('racecheck', 'batch')
    return table


def say(text=''):
    print(text, flush=True)


def report(name, outcome, seconds):
    counts = [f'{outcome.passed} passed']
    if outcome.failed:
        counts.append(f'{outcome.failed} FAILED')
    if outcome.skipped:
        counts.append(f'{len(outcome.skipped)} skipped')
    say(f'{name:<22} {", ".join(counts):<36} {seconds:7.1f} s')
    for line in outcome.shows:
        say(f'shows: {line}')
    for line in outcome.skipped:
        say(f'  SKIP {name}: {line}')
    for title, text in outcome.failures:
        say(f'  FAILED {title}')
        for line in testlog.excerpt(text, 60):
            say(f'    | {line[:240]}')


def run_parts(runner, names, table):
    total = testlog.Outcome('gpu')
    for name in names:
        started = time.monotonic()
        try:
            outcome = table[name]()
        except Skip as why:
            outcome = testlog.Outcome(name, skipped=[str(why)])
        report(name, outcome, time.monotonic() - started)
        total.add(outcome)
    say(f'{total.passed} passed, {total.failed} failed' +
        (f', {len(total.skipped)} skipped' if total.skipped else ''))
    return 1 if total.failed else 0


def arguments():
    parser = argparse.ArgumentParser(prog='./run test gpu', description=__doc__.split('\n')[0])
    parser.add_argument('parts', nargs='*', metavar='PART')
    parser.add_argument('--list', action='store_true', help='name the parts and exit')
    parser.add_argument('--build', default=os.environ.get('VGPU_BUILD') or os.path.join(ROOT, 'build'))
    parser.add_argument('--device', type=int, default=0, help='which GPU, as the driver counts them')
    parser.add_argument('--options', default='', help='more options of the backend, key=value,key=value')
    parser.add_argument('--fake', metavar='LIBRARY', help='the fake driver instead of a GPU')
    parser.add_argument('--used', type=int, metavar='N', help='print the bytes of device memory in use on GPU N and exit')
    return parser.parse_args()


def main():
    args = arguments()
    if args.used is not None:
        used, _ = used_bytes(args.used)
        print(used if used is not None else 'NVML is not there')
        return 0 if used is not None else 1
    with tempfile.TemporaryDirectory(prefix='vgpu-gpu-', dir='/tmp') as scratch:
        runner = Runner(args, scratch)
        table = parts(runner)
        if args.list:
            say('\n'.join(table))
            return 0
        wrong = [name for name in args.parts if name not in table]
        if wrong:
            print(f'vgpu: error: no such part: {", ".join(wrong)}; --list names them', file=sys.stderr)
            return 2
        try:
            works, text = runner.probe()
        except Skip as why:
            works, text = False, str(why)
        if not works and args.fake:
            say(f'the backend does not even start on the fake driver: {text}')
            return 1
        if not works:
            say(text)
            return 77
        say(f'{"device" if args.fake else "shows: device"}: {text}')
        return run_parts(runner, args.parts or list(table), table)


if __name__ == '__main__':
    sys.exit(main())
