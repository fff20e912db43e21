# SPDX-License-Identifier: Apache-2.0
"""Tensor files (guest-lib/examples/tensors.h says what they look like), from and to numpy arrays."""
import struct

import numpy

NAMES = ('float32', 'bfloat16', 'float16', 'float64', 'int8', 'int16', 'int32', 'int64', 'uint8', 'uint16', 'uint32',
         'uint64', 'bool', 'complex64', 'complex128')
MAGIC, VERSION, RANK_MAX = b'VGPUTENS', 1, 8
ENTRY = struct.Struct('<BB6x8qQ')


def dtype_of(number):
    if NAMES[number] == 'bfloat16':
        import ml_dtypes  # only who uses it needs it
        return numpy.dtype(ml_dtypes.bfloat16)
    return numpy.dtype(NAMES[number])


def number_of(dtype):
    name = numpy.dtype(dtype).name
    if name not in NAMES:
        raise ValueError(f'there is no {name} among the types of tensors')
    return NAMES.index(name)


def write(path, arrays):
    arrays = [numpy.asarray(a) for a in arrays]
    at = 16 + ENTRY.size * len(arrays)
    head = [MAGIC + struct.pack('<II', VERSION, len(arrays))]
    places = []
    for a in arrays:
        at = (at + 63) // 64 * 64
        places.append(at)
        head.append(ENTRY.pack(number_of(a.dtype), a.ndim, *a.shape, *[0] * (RANK_MAX - a.ndim), at))
        at += a.nbytes
    with open(path, 'wb') as out:
        out.write(b''.join(head))
        for a, place in zip(arrays, places):
            out.write(bytes(place - out.tell()))
            out.write(a.tobytes())  # row-major, whatever it was


def read(path):
    with open(path, 'rb') as f:
        raw = f.read()
    magic, (version, count) = raw[:8], struct.unpack_from('<II', raw, 8)
    if magic != MAGIC or version != VERSION:
        raise ValueError(f'{path}: not a tensor file of version {VERSION}')
    arrays = []
    for i in range(count):
        number, rank, *dims, at = ENTRY.unpack_from(raw, 16 + i * ENTRY.size)
        shape = tuple(dims[:rank])
        n = int(numpy.prod(shape, dtype=numpy.int64))
        arrays.append(numpy.frombuffer(raw, dtype_of(number), n, at).reshape(shape))
    return arrays
