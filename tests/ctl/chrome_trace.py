# SPDX-License-Identifier: Apache-2.0
"""Is a file what the description of the trace event format says (docs.google.com "Trace Event Format", JSON object form),
as far as vgpu writes it? check(PATH) raises AssertionError, or counts the events by phase.

chrome_trace.py FILE does the same by hand.
"""
import collections
import json
import sys

NEEDS = {'M': ('name', 'args'), 'X': ('name', 'cat', 'ts', 'dur'), 'b': ('name', 'cat', 'id', 'ts'),
         'e': ('name', 'cat', 'id', 'ts'), 's': ('name', 'cat', 'id', 'ts'), 't': ('name', 'cat', 'id', 'ts'),
         'f': ('name', 'cat', 'id', 'ts', 'bp'), 'i': ('name', 'cat', 'ts', 's')}
EPS = 0.0011  # times are written to a thousandth of a microsecond


def slices_nest(slices):
    """Complete events of a thread may lie inside of each other, not across."""
    open_until = []
    for ts, dur in sorted(slices, key=lambda s: (s[0], -s[1])):
        while open_until and open_until[-1] <= ts + EPS:
            open_until.pop()
        assert not open_until or ts + dur <= open_until[-1] + EPS, f'slices overlap at {ts}'
        open_until.append(ts + dur)


def check(path):
    with open(path, encoding='utf-8') as f:
        document = json.load(f)
    assert isinstance(document['traceEvents'], list) and document['displayTimeUnit'] in ('ns', 'ms')
    count = collections.Counter()
    threads, processes, slices = set(), set(), collections.defaultdict(list)
    used, spans, flows = set(), collections.defaultdict(list), collections.defaultdict(list)
    for event in document['traceEvents']:
        phase = event['ph']
        count[phase] += 1
        assert phase in NEEDS, f'phase {phase}'
        assert isinstance(event['pid'], int) and isinstance(event['tid'], int), event
        for key in NEEDS[phase]:
            assert key in event, f'{phase} without {key}: {event}'
        where = (event['pid'], event['tid'])
        if phase == 'M':
            assert event['name'] in ('process_name', 'thread_name') and event['args']['name']
            (threads if event['name'] == 'thread_name' else processes).add(where if event['name'] == 'thread_name' else where[0])
            continue
        used.add(where)
        assert isinstance(event['ts'], (int, float)) and event['ts'] >= 0, event
        if phase == 'X':
            assert event['dur'] >= 0, event
            slices[where].append((event['ts'], event['dur']))
        elif phase in 'be':
            spans[event['pid'], event['cat'], event['id']].append(event)
        elif phase in 'stf':
            flows[event['cat'], event['name'], event['id']].append((phase, event['ts'], where))
    assert used <= threads, f'threads without a name: {used - threads}'
    assert {pid for pid, _ in used} <= processes, 'processes without a name'
    for each in slices.values():
        slices_nest(each)
    for key, events in spans.items():
        stack = []
        for event in events:
            if event['ph'] == 'b':
                stack.append(event)
            else:
                assert stack and stack[-1]['name'] == event['name'], f'{key}: {event["name"]} ends and did not begin'
                assert stack.pop()['ts'] <= event['ts'] + EPS, f'{key}: {event["name"]} ends before it begins'
        assert not stack, f'{key}: {stack[-1]["name"]} does not end'
    for key, points in flows.items():
        phases = ''.join(p for p, _, _ in sorted(points, key=lambda p: ('stf'.index(p[0]), p[1])))
        assert phases in ('sf', 'stf'), f'flow {key}: {phases}'
        assert [p[1] for p in points] == sorted(p[1] for p in points) or phases, key
        for _, ts, where in points:
            assert any(at - EPS <= ts <= at + dur + EPS for at, dur in slices[where]), f'flow {key} leads to no slice'
    return count


if __name__ == '__main__':
    print(dict(check(sys.argv[1])))
