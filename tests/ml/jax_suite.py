# SPDX-License-Identifier: Apache-2.0
"""Runs chosen tests of one of JAX's own test files and writes what became of each; on whatever platform JAX finds.

jax_suite.py FILE.py OUT.json SEED COUNT LIMIT_S [NAMES.json]

COUNT of the file's tests by SEED, or those named, as far as they are done within LIMIT_S. OUT holds {test: [verdict, text]};
the one that runs has the verdict "running", which is what a process that crashed leaves.
"""
import importlib.util
import json
import os
import random
import sys
import time
import unittest


def tests_of(suite):
    for one in suite:
        if isinstance(one, unittest.TestSuite):
            yield from tests_of(one)
        else:
            yield one


def load(path):
    name = os.path.basename(path)[:-3]
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return {t.id(): t for t in tests_of(unittest.defaultTestLoader.loadTestsFromModule(module))}


class Result(unittest.TestResult):
    """The verdict of one test: a test with subtests fails with the first of them."""

    def __init__(self):
        super().__init__()
        self.verdict, self.text = 'passed', ''

    def _bad(self, error):
        if self.verdict != 'failed':
            self.verdict, self.text = 'failed', f'{error[0].__name__}: {error[1]}'[:2000]

    def addError(self, test, err):  # noqa: N802 unittest's names
        super().addError(test, err)
        self._bad(err)

    def addFailure(self, test, err):  # noqa: N802
        super().addFailure(test, err)
        self._bad(err)

    def addSubTest(self, test, subtest, err):  # noqa: N802
        super().addSubTest(test, subtest, err)
        if err is not None:
            self._bad(err)

    def addSkip(self, test, reason):  # noqa: N802
        super().addSkip(test, reason)
        if self.verdict == 'passed':
            self.verdict, self.text = 'skipped', str(reason)[:300]


def main():
    path, out, seed, count, limit_s, *names = sys.argv[1:]
    del sys.argv[1:]  # the tests read it themselves
    known = load(path)
    if names:
        with open(names[0], encoding='utf-8') as f:
            wanted = json.load(f)
    else:
        wanted = sorted(known)
        wanted = random.Random(int(seed)).sample(wanted, min(int(count), len(wanted)))
    done = {'': ['known', len(known)]}

    def write():
        with open(out + '.new', 'w', encoding='utf-8') as f:
            json.dump(done, f)
        os.replace(out + '.new', out)

    until = time.monotonic() + float(limit_s)
    for name in wanted:
        if time.monotonic() > until:
            break
        done[name] = ['running', '']
        write()
        result = Result()
        known[name].run(result)
        done[name] = [result.verdict, result.text]
    write()


if __name__ == '__main__':
    main()
