#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The suite gpu of vgpu-bench on a driver without a GPU: every measurement runs, wrong results and a broken device are
failures and said, and nothing stays behind. Its times mean nothing. Prints TAP.

gpu_smoke_test.py BUILD-FOLDER FAKE-DRIVER TABLE-SCRIPT
"""
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

BUILD, DRIVER, TABLE = sys.argv[1:4]
BENCH = os.path.join(BUILD, 'bench', 'vgpu-bench')
QUICK = ['--gpu-small', '--reps', '1', '--seconds', '0.02']
# What there must be a figure of, by who: the driver without a GPU has no graphs, no MPS and none of the peer's kernels.
EXPECTED = {
    'gpu.latency': {'native', 'native-polled', 'native-copied', 'vgpu'},
    'gpu.hops': {'vgpu-device', 'vgpu-host', 'vgpu-nop', 'vgpu-null'},
    'gpu.gemm': {'native', 'vgpu'},
    'gpu.copy': {'native', 'vgpu'},
    'gpu.tenants': {'vgpu', 'vgpu-nop', 'vgpu-null', 'time-sliced'},
    'gpu.bandwidth': {'vgpu', 'time-sliced', 'one-context'},
    'gpu.priority': {'alone', 'compute', 'bandwidth'},
    'gpu.pools': {'alone', 'compute', 'bandwidth'},
}


def environment(driver=DRIVER, **more):
    return {**os.environ, 'VGPU_BENCH_CUDA_DRIVER': driver, 'VGPU_BENCH_CUBLAS': driver, **more}


def bench(arguments, where, timeout=240, **more):
    out = os.path.join(where, 'rows.jsonl')
    done = subprocess.run([BENCH, 'gpu', *QUICK, f'--json={out}', *arguments], stdin=subprocess.DEVNULL, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout, env=environment(**more))
    with open(out, encoding='utf-8') as rows:
        return done.returncode, done.stdout, [json.loads(line) for line in rows]


def everything(where):
    code, text, rows = bench([], where)
    faults = [] if code == 0 else [f'exit status {code}']
    faults += [f'failed: {r["params"]}' for r in rows if r['bench'] == 'gpu.failed']
    for name, subjects in EXPECTED.items():
        seen = {r['subject'] for r in rows if r['bench'] == name and r['metric'] == 'rate' and r['value'] > 0}
        faults += [f'{name}: no figure of {s}' for s in sorted(subjects - seen)]
    if not any(r['metric'] == 'detaches' and r['value'] > 0 for r in rows):
        faults.append('no VM came and went')
    if not any(r['bench'] == 'gpu.goal' for r in rows):
        faults.append('no goal has a row')
    tables = subprocess.run([sys.executable, TABLE, os.path.join(where, 'rows.jsonl'), 'all'], text=True,
                            capture_output=True)
    if tables.returncode or '### priority' not in tables.stdout or '≤ 0.35' not in tables.stdout:
        faults.append(f'the tables were not made: {tables.stderr}')
    return faults, text


def broken_device(where):
    """A device that breaks has no figures."""
    code, text, rows = bench(['--filter', 'copy/native'], where, VGPU_FAKE_CUDA='fail=copy:9+:700')
    failed = [r for r in rows if r['bench'] == 'gpu.failed']
    return [] if code == 1 and failed and 'FAILED: copy/native' in text else [f'exit status {code}, {failed}'], text


def wrong_results(where):
    """Who computes nothing must not be fast: backend null is refused by each operation's check."""
    config = os.path.join(where, 'vgpud.yaml')
    with open(config, 'w', encoding='utf-8') as out:
        out.write(f'paths:\n  run_dir: {where}/run\n  state_dir: {where}/state\n'
                  'executors:\n  - name: E\n    backend: "null"\npools:\n  - name: A\n    executor: E\n')
    os.mkdir(os.path.join(where, 'state'))
    with open(os.path.join(where, 'log'), 'w+', encoding='utf-8') as log:
        ready, other = os.pipe()
        daemon = subprocess.Popen([os.path.join(BUILD, 'core', 'vgpud'), '--config', config, '--ready-fd', str(other)],
                                  pass_fds=[other], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        os.close(other)
        os.read(ready, 1)
        os.close(ready)
        try:
            faults = null_refused(where)
        finally:
            daemon.terminate()
            daemon.wait(timeout=30)
        log.seek(0)
        return faults, log.read()


def null_refused(where):
    subprocess.run([os.path.join(BUILD, 'ctl', 'vgpu-ctl'), f'--socket={where}/run/control.sock', 'register-vm',
                    '--vm-id=1', '--pool=A', f'--uid={os.getuid()}', '--arena-bytes=16M', '--device-bytes=16M'],
                   check=True, stdout=subprocess.DEVNULL)
    tenant = [os.path.join(BUILD, 'bench', 'vgpu-bench-tenant'), '--mode', 'vgpu', '--vm', '1', '--socket',
              f'{where}/run/attach.sock', '--token', f'{where}/run/tokens/vm-1.token', '--seconds', '0.02',
              '--host-bytes', str(16 << 20), '--device-bytes', str(16 << 20)]
    faults = []
    for cell in ('--op vadd', '--op vadd --depth 64', '--op vadd --n 400000', '--op vadd --data arena',
                 '--op vadd --n 20000 --data arena', '--op gemm --n 100 --depth 4', '--op gemm --n 64 --bf16 1',
                 '--op copy-h2d --n 10000000', '--op copy-d2h --n 4096', '--op churn'):
        done = subprocess.run(tenant + cell.split(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        if done.returncode != 1 or 'wrong results' not in done.stderr:
            faults.append(f'{cell}: exit status {done.returncode}: {done.stderr}{done.stdout}')
    done = subprocess.run(tenant + ['--op', 'nop'], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    return faults + ([] if done.returncode == 0 else [f'nop: {done.stderr}'])


def no_driver(where):
    code, text, rows = bench([], where, driver='/nonexistent/libcuda.so.1')
    return [] if code == 77 and 'SKIPPED' in text and not rows else [f'exit status {code}'], text


def no_gpu(where):
    code, text, _ = bench([], where, VGPU_FAKE_CUDA='devices=0')
    return [] if code == 77 and 'no GPU' in text else [f'exit status {code}'], text


def children_of(pid):
    """All processes below pid."""
    below, found = {}, []
    for entry in filter(str.isdigit, os.listdir('/proc')):
        try:
            with open(f'/proc/{entry}/stat', encoding='utf-8') as stat:
                below.setdefault(int(stat.read().rsplit(')', 1)[1].split()[1]), []).append(int(entry))
        except (OSError, IndexError):
            continue
    todo = [pid]
    while todo:
        children = below.get(todo.pop(), [])
        found += children
        todo += children
    return found


def interrupted(where):
    """Told to end in the middle: its guests, daemon and folders are gone."""
    run = subprocess.Popen([BENCH, 'gpu', '--gpu-small', '--seconds', '30', '--filter', 'latency/vgpu'], text=True,
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                           env=environment(TMPDIR=where))
    until = time.monotonic() + 60
    children = []
    while len(children) < 3 and time.monotonic() < until:  # vgpud, vgpu-exec, a guest
        time.sleep(0.2)
        children = children_of(run.pid)
    run.send_signal(signal.SIGTERM)
    text = run.communicate(timeout=60)[0]
    faults = [] if len(children) >= 3 else [f'only {len(children)} processes were started']
    faults += [] if run.returncode == 1 and 'interrupted' in text else [f'exit status {run.returncode}']
    faults += [f'process {pid} is still there' for pid in children if os.path.exists(f'/proc/{pid}')]
    return faults, text


def main():
    cases = [no_driver, no_gpu, everything, wrong_results, broken_device, interrupted]
    failed = 0
    print(f'1..{len(cases)}', flush=True)
    for number, case in enumerate(cases, 1):
        with tempfile.TemporaryDirectory(prefix='vgpu-bench-test-') as where:
            faults, text = case(where)
        print(f'{"not ok" if faults else "ok"} {number} - {case.__name__}', flush=True)
        if faults:
            failed += 1
            for line in faults + text.splitlines():
                print(f'# {line}')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
