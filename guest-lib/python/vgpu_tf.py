# SPDX-License-Identifier: Apache-2.0
"""TensorFlow on the shared device: lowers a tf.function to HLO and runs it through libvgpu. TensorFlow itself needs no GPU.

    import tensorflow as tf, vgpu, vgpu_tf
    model = tf.keras.applications.MobileNetV2(weights=None)
    run = vgpu_tf.compile(vgpu.Guest(), tf.function(lambda x: model(x, training=False), jit_compile=True), images)
    print(run(images))          # shapes and types as of the example; variables as they were when it was compiled

run.weights.update() puts the variables again, after training on the CPU.
"""
import tensorflow as tf

import vgpu


class Weights(list):
    """What the function captured, on the device, in the order of the program's last parameters."""

    def __init__(self, guest, concrete):
        super().__init__()
        self.guest, self.captured = guest, concrete.captured_inputs
        self.variables = {id(v.handle): v for v in concrete.graph.variables}
        self.update()

    def update(self):
        values = [self.variables[id(c)].numpy() if c.dtype == tf.resource else c.numpy() for c in self.captured]
        self[:] = [self.guest.put(value) for value in values]


def lower(function, *example):
    """(HLO, concrete function) of a tf.function(jit_compile=True) for inputs like these. The program's parameters are the
    inputs, then what the function captured."""
    concrete = function.get_concrete_function(*example)
    return function.experimental_get_compiler_ir(*example)(stage='hlo_serialized'), concrete


def compile(guest, function, *example):
    """A function like `function` that runs on the shared device and gives numpy arrays in the same structure."""
    hlo, concrete = lower(function, *example)
    program, weights = guest.load(hlo, vgpu.HLO), Weights(guest, concrete)
    wanted = [i if isinstance(i, tf.TensorSpec) else tf.convert_to_tensor(i) for i in tf.nest.flatten(example)]

    def run(*inputs):
        flat = tf.nest.flatten(inputs)
        if len(flat) != len(wanted):
            raise ValueError(f'{len(flat)} inputs; it was compiled for {len(wanted)}')
        for i, (got, want) in enumerate(zip(flat, wanted)):
            # A Python number becomes what is wanted; whatever has a type and shape must have the right ones.
            flat[i] = got = tf.convert_to_tensor(got) if hasattr(got, 'dtype') else tf.convert_to_tensor(got, want.dtype)
            if got.shape != want.shape or got.dtype != want.dtype:
                raise ValueError(f'input {i} is {got.dtype.name} of shape {tuple(got.shape)}; it was compiled for '
                                 f'{want.dtype.name} of shape {tuple(want.shape)}')
        flat = [i.numpy() for i in flat]
        outputs = [t.numpy() for t in program(*flat, *weights)]
        return tf.nest.pack_sequence_as(concrete.structured_outputs, outputs)

    run.program, run.weights = program, weights
    return run
