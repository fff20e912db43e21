#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""all-MiniLM-L6-v2 from a guest in C: vgpu-embed's numbers against JAX on the CPU and against numpy in double.

minilm_test.py BUILD [--plugin P --bundle DIR --backend cuda]
"""
import argparse
import os
import subprocess
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
        print(f'shows: {len(got)} embeddings, cosine with {name} at least {worst:.9f}')
        tally.check(worst > LIMIT, f'cosine with {name}: the worst of {len(got)} is {worst:.9f}')
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


def embed(tally, args, plugin, bundle):
    """vgpu-embed's numbers, or None."""
    import numpy
    program = frame.build_has(args.build, 'guest-lib/examples/vgpu-embed')
    with frame.Host(args.build, plugin, [(1, 'A', 'high')], {'exec0': args.programs}, backend=args.backend) as host:
        done = subprocess.run([program, bundle], env=host.env(1), stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=300)
        good = tally.check(done.returncode == 0, 'vgpu-embed ends with 0: ' + done.stderr.strip())
        if not good:
            print(host.log())
    tally.check(host.status == 0, 'vgpud ends with 0')
    return numpy.array([line.split() for line in done.stdout.splitlines()], numpy.float32) if good else None


def main():
    parser = argparse.ArgumentParser(description='Embeddings of a guest against those of two references.')
    parser.add_argument('build')
    parser.add_argument('--plugin', help='another than the pinned one for CPUs: nothing is installed then')
    parser.add_argument('--bundle', help='made elsewhere by export_minilm.py; default: made here')
    parser.add_argument('--backend', default='cpu')
    parser.add_argument('--programs', default='', help='more options of executors[].programs')
    args = parser.parse_args()
    args.build = os.path.abspath(args.build)
    if not args.plugin:
        _, python, wheel = frame.installed(frame.pjrt.header, frame.pjrt.venv, frame.pjrt.weights)
        frame.in_environment(python)
    frame.build_has(args.build, 'pmd-gpu/vgpu-worker')
    plugin = args.plugin or frame.pjrt.cache('pjrt', 'xla_cpu_pjrt.so')
    tally = frame.Tally()
    with open(os.path.join(frame.HERE, 'sentences.txt'), encoding='utf-8') as f:
        sentences = [line.strip() for line in f if line.strip() and not line.startswith('#')]
    with tempfile.TemporaryDirectory(prefix='vgpu-minilm-') as made:
        if not args.bundle:
            import export_minilm
            import minilm
            tokens_agree(tally, minilm.Package(wheel), sentences)
            export_minilm.export(wheel, made, sentences)
        got = embed(tally, args, plugin, args.bundle or made)
        if got is not None:
            judge(tally, got, args.bundle or made, sentences)
    tally.finish()


if __name__ == '__main__':
    main()
