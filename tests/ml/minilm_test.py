#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""all-MiniLM-L6-v2 from a guest in C: vgpu-embed's numbers against JAX on the CPU and against numpy in double.

minilm_test.py BUILD
"""
import os
import subprocess
import sys
import tempfile

import frame

LIMIT = 0.9999


def cosines(a, b):
    import numpy
    return (a * b).sum(-1) / numpy.linalg.norm(a, axis=-1) / numpy.linalg.norm(b, axis=-1)


def tokens_agree(tally, package, sentences):
    import tokenizers
    import wordpiece
    theirs = tokenizers.Tokenizer.from_str(package.tokenizer_json())
    theirs.no_padding()
    vocabulary = package.vocabulary()
    odd = ['Crème brûlée, naïve façade!', 'x' * 150 + ' end', 'tab\tand\u00a0space', '你好 world', 'snowman ☃ 123.45%',
           'don\'t stop-me_now', '', '\u200bzero width', 'ÀÉÎÕÜ ß']
    wrong = [s for s in [*sentences, *odd] if wordpiece.encode(s, vocabulary, 128) != theirs.encode(s).ids]
    tally.check(not wrong, f'tokens as of the package tokenizers, {len(sentences) + len(odd)} texts {wrong or ""}')


def judge(tally, got, bundle, sentences):
    import numpy
    import tensorfile
    in_jax = numpy.concatenate(tensorfile.read(os.path.join(bundle, 'expected.tensors')))[:len(sentences)]
    exact, = tensorfile.read(os.path.join(bundle, 'reference.tensors'))
    tally.check(got.shape == exact.shape and len(got) >= 100, f'{got.shape[0]} sentences, {got.shape[1]} numbers each')
    for name, reference in (('JAX on the CPU', in_jax), ('numpy in double', exact)):
        worst = cosines(got.astype(numpy.float64), reference.astype(numpy.float64)).min()
        tally.check(worst > LIMIT, f'cosine with {name}: the worst of {len(got)} is {worst:.9f}')
        print(f'shows: {len(got)} embeddings, cosine with {name} at least {worst:.9f}')
    related = got @ got.T
    numpy.fill_diagonal(related, -1)
    partner = numpy.arange(len(got)) ^ 1
    of_pairs = related[numpy.arange(len(got)), partner]
    others = related.copy()
    others[numpy.arange(len(got)), partner] = -1
    beaten = [sentences[i] for i in range(len(got)) if of_pairs[i] <= others[i].max()]
    tally.check(not beaten, f'each sentence is nearest to its partner {beaten or ""}')
    tally.check(of_pairs.min() > numpy.median(others.max(-1)),
                f'related at least {of_pairs.min():.3f}, unrelated at most {others.max():.3f}')


def main():
    build = os.path.abspath(sys.argv[1])
    _, python, wheel = frame.installed(frame.pjrt.header, frame.pjrt.venv, frame.pjrt.weights)
    frame.in_environment(python)
    import numpy
    import export_minilm
    import minilm
    embed = frame.build_has(build, 'guest-lib/examples/vgpu-embed')
    frame.build_has(build, 'pmd-gpu/vgpu-worker')
    tally = frame.Tally()
    sentences = export_minilm.sentences_of(os.path.join(frame.HERE, 'sentences.txt'))
    tokens_agree(tally, minilm.Package(wheel), sentences)
    with tempfile.TemporaryDirectory(prefix='vgpu-minilm-') as bundle:
        export_minilm.export(wheel, bundle, sentences)
        plugin = os.path.join(frame.pjrt.cache('pjrt'), 'xla_cpu_pjrt.so')
        with frame.Host(build, plugin, [(1, 'A', 'high')]) as host:
            done = subprocess.run([embed, bundle], env=host.env(1), stdin=subprocess.DEVNULL, capture_output=True,
                                  text=True, timeout=300)
            tally.check(done.returncode == 0, 'vgpu-embed ends with 0: ' + done.stderr.strip())
            if done.returncode:
                print(host.log())
        tally.check(host.status == 0, 'vgpud ends with 0')
        if done.returncode == 0:
            got = numpy.array([line.split() for line in done.stdout.splitlines()], numpy.float32)
            judge(tally, got, bundle, sentences)
    tally.finish()


if __name__ == '__main__':
    main()
