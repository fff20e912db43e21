#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Keras' MobileNetV2, with seeded weights, as files that a machine without TensorFlow can run:

    $(python3 scripts/pjrt.py tf) tests/ml/export_tf.py OUT [--rows N] [--pixels N]
    vgpu-program --inputs-first --tolerance 1e-4 OUT       # on the other machine

OUT gets program.hlo (what tf.function(jit_compile=True) is lowered to), weights.tensors, inputs.tensors and, from TensorFlow on
this CPU without XLA, expected.tensors.
"""
import argparse
import os
import sys

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
os.environ.setdefault('CUDA_VISIBLE_DEVICES', '')

import numpy  # noqa: E402
import tensorflow as tf  # noqa: E402

import tensorfile  # noqa: E402

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..', 'guest-lib', 'python'))
import vgpu_tf  # noqa: E402

SEED = 9
# GPUs would otherwise round the inputs of products to 10 bits: no comparison in float32.
tf.config.experimental.enable_tensor_float_32_execution(False)


def mobilenet(pixels=224, classes=1000):
    """Seeded; its normalizations fitted to images, as training would: as they come, all classes are equally likely."""
    tf.keras.utils.set_random_seed(SEED)
    model = tf.keras.applications.MobileNetV2(weights=None, input_shape=(pixels, pixels, 3), classes=classes)
    for layer in model.layers:
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(images(-1, 8, pixels), training=True)
    last = model.layers[-1]
    last.kernel.assign(last.kernel * 8)  # sure of its classes
    return model


def images(batch, rows, pixels):
    """Coloured tiles of several sizes: noise alone looks like the same class everywhere."""
    random = numpy.random.default_rng(SEED + 1 + batch)
    out = numpy.empty((rows, pixels, pixels, 3), numpy.float32)
    for row in out:
        tiles = random.integers(2, 9)
        side = -(-pixels // tiles)
        row[:] = random.uniform(-1, 1, (tiles, tiles, 3)).repeat(side, 0).repeat(side, 1)[:pixels, :pixels]
    return out


def main():
    parser = argparse.ArgumentParser(description='Writes MobileNetV2 as HLO, with what TensorFlow computes.')
    parser.add_argument('out')
    parser.add_argument('--rows', type=int, default=4, help='images of a batch')
    parser.add_argument('--pixels', type=int, default=224)
    parser.add_argument('--batches', type=int, default=2)
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    model = mobilenet(args.pixels)
    function = tf.function(lambda x: model(x, training=False), jit_compile=True)
    inputs = [images(i, args.rows, args.pixels) for i in range(args.batches)]
    hlo, concrete = vgpu_tf.lower(function, tf.constant(inputs[0]))
    with open(os.path.join(args.out, 'program.hlo'), 'wb') as f:
        f.write(hlo)
    handles = {id(v.handle): v for v in concrete.graph.variables}
    tensorfile.write(os.path.join(args.out, 'weights.tensors'), [handles[id(c)].numpy() for c in concrete.captured_inputs])
    tensorfile.write(os.path.join(args.out, 'inputs.tensors'), inputs)
    tensorfile.write(os.path.join(args.out, 'expected.tensors'), [model(x, training=False).numpy() for x in inputs])


if __name__ == '__main__':
    main()
