# SPDX-License-Identifier: Apache-2.0
"""Rows as vgpu-bench writes them (docs/schema/bench-row.json), from Python: for measurements that start processes by turns."""
import json
import math
import os
import platform
import re
import statistics
import subprocess


def _read(path):
    try:
        with open(path, encoding='utf-8', errors='replace') as f:
            return f.read()
    except OSError:
        return ''


def host(build):
    info = _read('/proc/cpuinfo')

    def field(name):
        found = re.search(rf'^{name}\s*: (.*)$', info, re.M)
        return found.group(1).strip() if found else 'unknown'
    version = subprocess.run([os.path.join(build, 'core/vgpud'), '--version'], capture_output=True, text=True).stdout
    huge = re.search(r'\[(\w+)\]', _read('/sys/kernel/mm/transparent_hugepage/enabled'))
    out = {'cpu': field('model name'), 'vendor': field('vendor_id'), 'virtual': 'hypervisor' in field('flags').split(),
           'cpus': os.cpu_count(), 'cores': sorted(os.sched_getaffinity(0)), 'kernel': platform.release(),
           'memory': f'transparent huge pages: {huge.group(1) if huge else "none"}',
           'tick_hz': int(float(re.sub(r'[^\d.]', '', field('cpu MHz')) or 1) * 1e6), 'load': os.getloadavg()[0],
           'compiler': 'unknown',
           'vgpu': (re.search(r'\d+\.\d+\.\d+', version) or [version.strip()])[0]}
    try:
        names = subprocess.run(['nvidia-smi', '--query-gpu=name', '--format=csv,noheader'], capture_output=True, text=True,
                               timeout=30).stdout.split('\n')
        names = [n.strip() for n in names if n.strip()]
        if names:
            out.update(gpu=names[0], gpus=len(names))
    except (OSError, subprocess.TimeoutExpired):
        pass
    return out


def ci95(values):
    """The interval of the sign test that holds the median with at least 95 %; None with fewer than six values."""
    n, ordered = len(values), sorted(values)
    if n < 6:
        return None
    below, k = 0.0, 0
    while True:
        below += math.comb(n, k) / 2 ** n
        if 2 * below > 0.05:
            break
        k += 1
    return [ordered[k - 1], ordered[n - k]]


class Rows:
    def __init__(self, build):
        self.host, self.all = host(build), []

    def add(self, bench, subject, params, metric, unit, values):
        """One figure with its rounds; returns its median."""
        value = statistics.median(values)
        busy = {'noisy': self.host['load'] > self.host['cpus'] / 2, 'involuntary_switches_per_s': None, 'migrations': None,
                'steal_percent': None, 'interrupts_per_s': None, 'frequency_percent': None}
        self.all.append({'bench': bench, 'subject': subject, 'params': params, 'metric': metric, 'value': value,
                         'min': min(values), 'max': max(values), 'unit': unit, 'reps': len(values), 'values': list(values),
                         'ci95': ci95(values), 'host': self.host, 'noise': busy})
        return value

    def write(self, path):
        with open(path, 'w', encoding='utf-8') as f:
            f.writelines(json.dumps(row, separators=(',', ':')) + '\n' for row in self.all)
