# SPDX-License-Identifier: Apache-2.0
"""How the demo looks: a table that redraws itself on a terminal, a few lines elsewhere."""
import shutil
import time

BAR = 24
REDRAW_S, LINE_S = 0.15, 2.0


def micro(value):
    """Microseconds with three telling digits."""
    if value is None:
        return '-'
    return f'{value:,.0f}' if value >= 100 else f'{value:.1f}' if value >= 10 else f'{value:.2f}'


class View:
    """Writes to one stream. progress() is cheap and may be called often."""

    def __init__(self, stream):
        self.stream = stream
        self.live = stream.isatty() and shutil.get_terminal_size().lines > 14
        self.color = stream.isatty()
        self.drawn = 0
        self.next = 0.0
        self.started = time.monotonic()

    def paint(self, code, text):
        return f'\033[{code}m{text}\033[0m' if self.color else text

    def write(self, text):
        self.stream.write(text)
        self.stream.flush()

    def say(self, text):
        self.write(f'vgpu: {text}\n')

    def progress(self, guests, last=False):
        now = time.monotonic()
        if now < self.next and not last:
            return
        self.next = now + (REDRAW_S if self.live else LINE_S)
        if not self.live:
            done = sum(g.descriptors for g in guests)
            ended = sum(1 for g in guests if g.result)
            self.say(f'{now - self.started:5.1f} s  {done:>12,} descriptors, {ended} of {len(guests)} guests done')
            return
        out = [f'\033[{self.drawn}A' if self.drawn else '']
        for g in guests:
            filled = int(g.progress * BAR)
            bar = '#' * filled + '.' * (BAR - filled)
            out.append(f'\r\033[K  VM {g.vm_id:>2}  pool {g.pool}  {g.priority:<6}  [{bar}] {g.progress:4.0%} '
                       f'{g.descriptors:>12,}  {g.phase[:16]}\n')
        self.drawn = len(guests)
        self.write(''.join(out))

    def ended(self, guest):
        self.next = 0.0 if self.live else self.next

    def table(self, demo):
        rows = [g for g in demo.guests if g.result]
        if not rows:
            return
        head = f'{"VM":>4}  {"pool":<4}  {"priority":<8}  {"descriptors":>12}  {"per second":>11}' \
               f'  {"p50 us":>9}  {"p95 us":>9}  {"p99 us":>9}  verified'
        self.write('\n' + self.paint('1', head) + '\n')
        for g in demo.guests:
            r = g.result or {}
            good = r.get('verified') is True and not g.faults
            mark = self.paint('32', 'yes') if good else self.paint('31', 'NO')
            self.write(f'{g.vm_id:>4}  {g.pool:<4}  {g.priority:<8}  {g.descriptors:>12,}'
                       f'  {r.get("throughput_per_s") or 0:>11,.0f}  {micro(r.get("p50_us")):>9}'
                       f'  {micro(r.get("p95_us")):>9}  {micro(r.get("p99_us")):>9}  {mark}\n')
        total = sum(g.descriptors for g in demo.guests)
        host = sum(row.get('completed', 0) for row in (demo.stats or {}).get('vms', []))
        digits = demo.digits()
        self.write(f'\n  device        {demo.device}')
        self.write(f'\n  descriptors   {total:,} counted by the guests, {host:,} by the host\n')
        self.write(f'  digits        {digits["images"]:,} images, accuracy {digits["accuracy"]:.2%}, '
                   f'{"same as" if digits["matches_reference"] else "UNLIKE"} the reference\n')

    def verdict(self, faults):
        if not faults:
            self.write('\n' + self.paint('1;32', 'all right') + f' after {time.monotonic() - self.started:.1f} s\n')
            return
        self.write('\n' + self.paint('1;31', 'not right:') + '\n')
        for fault in faults:
            self.write(f'  {fault}\n')
