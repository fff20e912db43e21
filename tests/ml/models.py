# SPDX-License-Identifier: Apache-2.0
"""Models for the guests of suite ml, in plain JAX with seeded weights: each is made into a bundle that vgpu-program runs and
judges. Whoever runs them needs no JAX.

    $(python3 scripts/pjrt.py venv) tests/ml/models.py OUT [NAME...] [--platform cuda]
"""
import argparse
import os

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy  # noqa: E402

import tensorfile  # noqa: E402
from export_minilm import portable  # noqa: E402

BATCHES = 3


class Weights:
    """Hands out seeded parameters, in the order of the calls."""

    def __init__(self, seed):
        self.random, self.all = numpy.random.default_rng(seed), []

    def __call__(self, *shape):
        scale = 1 / numpy.sqrt(max(1, numpy.prod(shape[:-1])))
        self.all.append((self.random.standard_normal(shape) * scale).astype(numpy.float32))
        return len(self.all) - 1

    def inputs(self, *shape):
        return [self.random.standard_normal(shape).astype(numpy.float32) for _ in range(BATCHES)]


def mlp(w):
    """Four dense layers, 784 to 10."""
    sizes = (784, 512, 512, 256, 10)
    layers = [(w(a, b), w(b)) for a, b in zip(sizes, sizes[1:])]

    def model(p, x):
        for i, (kernel, bias) in enumerate(layers):
            x = x @ p[kernel] + p[bias]
            x = jax.nn.relu(x) if i + 1 < len(layers) else jax.nn.softmax(x)
        return x
    return model, [(x,) for x in w.inputs(64, 784)]


def convolve(x, kernel, stride=1, groups=1):
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), 'SAME', feature_group_count=groups,
                                        dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def resnet(w):
    """A residual network of eleven convolutions on images of 32 x 32, width 32 to 128."""
    first = w(3, 3, 3, 32)
    blocks, width = [], 32
    for out, stride in ((32, 1), (64, 2), (64, 1), (128, 2)):
        blocks.append((w(3, 3, width, out), w(3, 3, out, out), w(1, 1, width, out), stride))
        width = out
    head = w(128, 10)

    def model(p, x):
        x = jax.nn.relu(convolve(x, p[first]))
        for a, b, skip, stride in blocks:
            inner = convolve(jax.nn.relu(convolve(x, p[a], stride)), p[b])
            x = jax.nn.relu(inner + convolve(x, p[skip], stride))
        return jax.nn.log_softmax(x.mean((1, 2)) @ p[head])
    return model, [(x,) for x in w.inputs(8, 32, 32, 3)]


def mobilenet(w):
    """Inverted residuals with depthwise convolutions and relu6, as MobileNetV2 has them, on images of 48 x 48."""
    first = w(3, 3, 3, 16)
    blocks, width = [], 16
    for out, stride in ((16, 1), (24, 2), (24, 1), (32, 2), (32, 1)):
        wide = width * 6
        blocks.append((w(1, 1, width, wide), w(3, 3, 1, wide), w(1, 1, wide, out), stride, width == out and stride == 1, wide))
        width = out
    head = w(width, 20)

    def model(p, x):
        x = jax.nn.relu6(convolve(x, p[first], 2))
        for widen, depth, narrow, stride, residual, wide in blocks:
            y = jax.nn.relu6(convolve(jax.nn.relu6(convolve(x, p[widen])), p[depth], stride, wide))
            y = convolve(y, p[narrow])
            x = x + y if residual else y
        return jax.nn.softmax(x.mean((1, 2)) @ p[head])
    return model, [(x,) for x in w.inputs(8, 48, 48, 3)]


def attention(w):
    """Two causal transformer blocks over 64 positions of 128, four heads: next-token scores of a vocabulary of 500."""
    heads, width = 4, 128
    embed, place = w(500, width), w(64, width)
    blocks = [(w(width, 3 * width), w(width, width), w(width, 4 * width), w(4 * width, width)) for _ in range(2)]

    def norm(x):
        x = x - x.mean(-1, keepdims=True)
        return x / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-5)

    def model(p, ids):
        n, t = ids.shape
        x = p[embed][ids] * 10 + p[place]
        mask = jnp.tril(jnp.ones((t, t), bool))
        for qkv, out, up, down in blocks:
            q, k, v = jnp.split((norm(x) @ p[qkv]).reshape(n, t, heads, -1).transpose(0, 2, 1, 3), 3, -1)
            score = jnp.where(mask, q @ k.swapaxes(-1, -2) / jnp.sqrt(q.shape[-1]), -1e9)
            x = x + (jax.nn.softmax(score) @ v).transpose(0, 2, 1, 3).reshape(n, t, width) @ p[out]
            x = x + jax.nn.gelu(norm(x) @ p[up], approximate=True) @ p[down]
        return norm(x) @ p[embed].T
    return model, [(w.random.integers(0, 500, (4, 64)).astype(numpy.int32),) for _ in range(BATCHES)]


def gru(w):
    """A gated recurrent unit over 32 steps, as a loop inside the program: its last state and all outputs."""
    width = 128
    wx, wh, head = w(64, 3 * width), w(width, 3 * width), w(width, 16)

    def model(p, x):
        def step(h, at):
            gx, gh = at @ p[wx], h @ p[wh]
            reset = jax.nn.sigmoid(gx[:, :width] + gh[:, :width])
            update = jax.nn.sigmoid(gx[:, width:2 * width] + gh[:, width:2 * width])
            new = jnp.tanh(gx[:, 2 * width:] + reset * gh[:, 2 * width:])
            h = (1 - update) * new + update * h
            return h, h @ p[head]
        last, all_of_them = jax.lax.scan(step, jnp.zeros((x.shape[0], width)), x.swapaxes(0, 1))
        return last, all_of_them
    return model, [(x,) for x in w.inputs(16, 32, 64)]


def empty(w):
    """What an execution costs by itself."""
    return (lambda p, x: x + 1), [(x,) for x in w.inputs(16)]


MODELS = {f.__name__: f for f in (mlp, resnet, mobilenet, attention, gru, empty)}


def bundle(name, out, platform='cpu'):
    weights = Weights(sum(name.encode()))
    model, inputs = MODELS[name](weights)
    os.makedirs(out, exist_ok=True)
    with open(os.path.join(out, 'program.mlir'), 'wb') as f:
        f.write(portable(model, (weights.all, *inputs[0]), platform))
    jitted = jax.jit(model)
    expected = [numpy.asarray(a) for batch in inputs for a in jax.tree.leaves(jitted(weights.all, *batch))]
    if weights.all:
        tensorfile.write(os.path.join(out, 'weights.tensors'), weights.all)
    tensorfile.write(os.path.join(out, 'inputs.tensors'), [a for batch in inputs for a in batch])
    tensorfile.write(os.path.join(out, 'expected.tensors'), expected)


def main():
    parser = argparse.ArgumentParser(description='Writes models for vgpu-program.')
    parser.add_argument('out')
    parser.add_argument('names', nargs='*', help=f'of {" ".join(MODELS)}; default: all')
    parser.add_argument('--platform', default='cpu', help='for which JAX lowers: cpu or cuda')
    args = parser.parse_args()
    for name in args.names or MODELS:
        bundle(name, os.path.join(args.out, name), args.platform)


if __name__ == '__main__':
    main()
