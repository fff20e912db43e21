#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""TensorFlow from a guest, through the helper vgpu_tf: Keras' MobileNetV2, a function of several results, variables that change;
each against TensorFlow's own output on the CPU. Then MobileNetV2 once more as files, without TensorFlow.

tensorflow_test.py BUILD        TensorFlow must be there (./run setup --ml): it is too large to be fetched unasked
"""
import os
import subprocess
import sys
import tempfile

import frame

TOLERANCE = 1e-4  # of the largest number: float32 sums in another order, over 53 layers


def off(got, want):
    import numpy
    got, want = numpy.asarray(got, numpy.float64), numpy.asarray(want, numpy.float64)
    return numpy.abs(got - want).max() / numpy.abs(want).max() if got.shape == want.shape else float('inf')


def keras_model(tally, guest):
    import numpy
    import tensorflow as tf
    import export_tf
    import vgpu_tf
    model = export_tf.mobilenet()
    x = export_tf.images(0, 4, 224)
    run = vgpu_tf.compile(guest, tf.function(lambda x: model(x, training=False), jit_compile=True), tf.constant(x))
    told = set()
    for batch in range(3):
        x = export_tf.images(batch, 4, 224)
        want, got = model(x, training=False).numpy(), run(x)
        worst = off(got, want)
        told |= {int(row.argmax()) for row in want}
        print(f'shows: MobileNetV2 (Keras, {model.count_params()} parameters) off by {worst:.2e} from TensorFlow on the CPU')
        tally.check(worst < TOLERANCE and want.max() > 4 * numpy.median(want) and (got.argmax(1) == want.argmax(1)).all(),
                    f'MobileNetV2, {len(x)} images: off by {worst:.2e} of the largest probability')
    tally.check(len(told) > 1, f'the images are not all one to it: {len(told)} classes')


def structure(tally, guest):
    """Several results in a structure, integers, and weights put anew after they changed."""
    import numpy
    import tensorflow as tf
    import vgpu_tf
    scale = tf.Variable([[1.0, 2.0], [3.0, 4.0]])
    offset = tf.constant([0.5, -0.5])

    @tf.function(jit_compile=True)
    def both(x, n):
        y = tf.matmul(x, scale) + offset
        return {'y': y, 'rest': (tf.nn.softmax(y), n * 2)}

    x, n = tf.random.stateless_normal((5, 2), (1, 2)), tf.range(7)
    run = vgpu_tf.compile(guest, both, x, n)
    for value in (1.0, -0.25):
        scale.assign(tf.fill((2, 2), value) + tf.eye(2))
        run.weights.update()
        want, got = both.python_function(x, n), run(x, n)
        good = (off(got['y'], want['y']) < 1e-6 and off(got['rest'][0], want['rest'][0]) < 1e-6
                and (got['rest'][1] == want['rest'][1].numpy()).all())
        tally.check(good, 'a dictionary of results, weights changed and put anew')
    for what, inputs in (('input 0 is float32 of shape (2, 5)', (tf.transpose(x), n)),  # as many bytes: nobody else would notice
                         ('input 1 is int64', (x, numpy.arange(7))), ('1 inputs', (x,))):
        try:
            run(*inputs)
            told = 'nothing'
        except ValueError as error:
            told = str(error)
        tally.check(told.startswith(what), f'inputs of another shape or type are refused: {told}')


def files(tally, build, host):
    program = frame.build_has(build, 'guest-lib/examples/vgpu-program')
    with tempfile.TemporaryDirectory(prefix='vgpu-tf-') as where:
        made = subprocess.run([sys.executable, os.path.join(frame.HERE, 'export_tf.py'), where], capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, timeout=300)
        tally.check(made.returncode == 0, 'export_tf.py ends with 0' + (made.stderr if made.returncode else ''))
        ran = subprocess.run([program, '--inputs-first', where], env=host.env(2), stdin=subprocess.DEVNULL,
                             capture_output=True, text=True, timeout=300)
        tally.check(ran.returncode == 0, f'the same without TensorFlow: {(ran.stdout + ran.stderr).strip()}')
        wrong = subprocess.run([program, '--inputs-first', '--tolerance', '1e-12', where], env=host.env(2),
                               stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
        tally.check(wrong.returncode == 1, 'a difference is noticed')


def main():
    build = os.path.abspath(sys.argv[1])
    python = frame.pjrt.tf_installed()
    if not python:
        frame.cannot('TensorFlow is not installed: ./run setup --ml (2 GB)')
    frame.installed(frame.pjrt.header)
    frame.in_environment(python)
    frame.build_has(build, 'pmd-gpu/vgpu-worker')
    os.environ.update(TF_CPP_MIN_LOG_LEVEL='2', CUDA_VISIBLE_DEVICES='', VGPU_LIBRARY=frame.library(build))
    sys.path.insert(0, os.path.join(frame.ROOT, 'guest-lib', 'python'))
    import vgpu
    tally = frame.Tally()
    plugin = os.path.join(frame.pjrt.cache('pjrt'), 'xla_cpu_pjrt.so')
    with frame.Host(build, plugin, [(1, 'A', 'high'), (2, 'A', 'low')]) as host:
        os.environ.update(host.env(1))
        with vgpu.Guest() as guest:
            keras_model(tally, guest)
            structure(tally, guest)
        files(tally, build, host)
    tally.check(host.status == 0, 'vgpud ends with 0')
    tally.finish()


if __name__ == '__main__':
    main()
