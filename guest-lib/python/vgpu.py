# SPDX-License-Identifier: Apache-2.0
"""libvgpu's compiled programs and tensors from Python: ctypes over the library, numpy arrays in and out.

    import vgpu
    guest = vgpu.Guest()                        # VGPU_VM_ID, VGPU_SOCKET, VGPU_TOKEN_FILE
    program = guest.load(open('program.mlir', 'rb').read())
    weight = guest.put(array)                   # stays on the device
    result, = program(weight, guest.put(x))     # tensors on the device
    print(result.numpy())

A Guest and what it made belong to one thread. Errors are vgpu.Error (an OSError: errno, and the host's own words).
VGPU_LIBRARY names libvgpu.so.0 where neither the system finds it nor the prefix that this file was installed into. Nothing here
needs a GPU, CUDA or a driver.
"""
import ctypes
import glob
import os

import numpy

RANK_MAX = 8
STABLEHLO, HLO = 0, 1
DTYPES = ('float32', 'bfloat16', 'float16', 'float64', 'int8', 'int16', 'int32', 'int64', 'uint8', 'uint16', 'uint32',
          'uint64', 'bool', 'complex64', 'complex128')


class Error(OSError):
    """A call that failed: errno, and a sentence."""


class _Options(ctypes.Structure):
    _fields_ = [('vm_id', ctypes.c_uint32), ('socket_path', ctypes.c_char_p), ('token_path', ctypes.c_char_p),
                ('arena_bytes', ctypes.c_uint64), ('ring_slots', ctypes.c_uint32), ('flags', ctypes.c_uint32),
                ('spin_ns', ctypes.c_uint64), ('host_timeout_ns', ctypes.c_uint64)]


class _Tensor(ctypes.Structure):
    _fields_ = [('handle', ctypes.c_uint32), ('dtype', ctypes.c_uint8), ('rank', ctypes.c_uint8),
                ('dims', ctypes.c_int64 * RANK_MAX), ('bytes', ctypes.c_uint64)]


class _Program(ctypes.Structure):
    _fields_ = [('handle', ctypes.c_uint32), ('outputs', ctypes.c_uint32), ('code_bytes', ctypes.c_uint64),
                ('temp_bytes', ctypes.c_uint64), ('output', ctypes.POINTER(_Tensor))]


class _Completion(ctypes.Structure):
    _fields_ = [('tag', ctypes.c_uint32), ('status', ctypes.c_uint16), ('opcode', ctypes.c_uint8),
                ('lost_locally', ctypes.c_uint8), ('position', ctypes.c_uint64), ('value', ctypes.c_uint64),
                ('exec_seq', ctypes.c_uint64), ('latency_ns', ctypes.c_uint64)]


def _load():
    named = os.environ.get('VGPU_LIBRARY')
    prefix = os.path.dirname(os.path.abspath(__file__)).removesuffix('/share/vgpu/python')  # `meson install` puts both there
    last = None
    for path in [named] if named else ['libvgpu.so.0', *sorted(glob.glob(prefix + '/lib*/libvgpu.so.0') +
                                                               glob.glob(prefix + '/lib/*/libvgpu.so.0'))]:
        try:
            return ctypes.CDLL(path)
        except OSError as error:
            last = error
    raise Error(2, f'libvgpu cannot be loaded: {last}; install it, or set VGPU_LIBRARY to the path of libvgpu.so.0')


def _library():
    lib = _load()
    v, tensor, program = ctypes.c_void_p, ctypes.POINTER(_Tensor), ctypes.POINTER(_Program)
    for name, result, arguments in (
            ('open', ctypes.c_int, [ctypes.POINTER(_Options), ctypes.POINTER(v), ctypes.c_char_p, ctypes.c_size_t]),
            ('close', None, [v]),
            ('strerror', ctypes.c_char_p, [v]),
            ('last_completion', ctypes.POINTER(_Completion), [v]),
            ('program_load', ctypes.c_int, [v, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint64, program]),
            ('program_free', ctypes.c_int, [v, program]),
            ('program_execute', ctypes.c_int, [v, program, ctypes.POINTER(tensor), ctypes.c_uint32, tensor]),
            ('tensor_put', ctypes.c_int, [v, ctypes.c_uint8, ctypes.c_uint8, ctypes.POINTER(ctypes.c_int64),
                                          ctypes.c_void_p, tensor]),
            ('tensor_get', ctypes.c_int, [v, tensor, ctypes.c_void_p]),
            ('tensor_free', ctypes.c_int, [v, tensor])):
        function = getattr(lib, 'vgpu_' + name)
        function.restype, function.argtypes = result, arguments
    return lib


def _dtype(number):
    if DTYPES[number] == 'bfloat16':
        import ml_dtypes  # comes with JAX and TensorFlow; only who has such a tensor needs it
        return numpy.dtype(ml_dtypes.bfloat16)
    return numpy.dtype(DTYPES[number])


class Tensor:
    """An array on the device. Its memory there goes with the last reference to it, or with free()."""

    def __init__(self, guest, raw):
        self.guest, self.raw = guest, raw
        self.shape, self.dtype = tuple(raw.dims[:raw.rank]), _dtype(raw.dtype)

    def numpy(self):
        out = numpy.empty(self.shape, self.dtype)
        self.guest._call('tensor_get', ctypes.byref(self.raw), out.ctypes.data)
        return out

    def free(self):
        if self.raw.handle:
            self.guest._call('tensor_free', ctypes.byref(self.raw))

    def __del__(self):
        if self.raw.handle:  # at any time, in the middle of another call: so the next call does it
            self.guest._dead.append(self.raw)


class Program:
    """A compiled program; call it with its inputs, Tensors or arrays, for a list of Tensors."""

    def __init__(self, guest, raw):
        self.guest, self.raw = guest, raw
        self.device_ns = 0  # of the last execution
        self.outputs = [(tuple(t.dims[:t.rank]), _dtype(t.dtype)) for t in raw.output[:raw.outputs]]

    def __call__(self, *inputs):
        tensors = [i if isinstance(i, Tensor) else self.guest.put(i) for i in inputs]
        list_in = (ctypes.POINTER(_Tensor) * (len(tensors) + 1))(*(ctypes.pointer(t.raw) for t in tensors))
        out = (_Tensor * (self.raw.outputs + 1))()
        self.guest._call('program_execute', ctypes.byref(self.raw), list_in, len(tensors), out)
        self.device_ns = self.guest._lib.vgpu_last_completion(self.guest._v).contents.value
        return [Tensor(self.guest, _Tensor.from_buffer_copy(out[i])) for i in range(self.raw.outputs)]

    def free(self):
        if self.raw.handle:
            self.guest._call('program_free', ctypes.byref(self.raw))


class Guest:
    """An attachment to the host; a context manager. vm_id, socket and token default to the environment's."""

    def __init__(self, vm_id=0, socket=None, token=None, arena_bytes=0):
        self._lib, self._v, self._dead = _library(), ctypes.c_void_p(), []
        options = _Options(vm_id, socket and os.fsencode(socket), token and os.fsencode(token), arena_bytes, 0, 0, 0, 0)
        why = ctypes.create_string_buffer(512)
        rc = self._lib.vgpu_open(ctypes.byref(options), ctypes.byref(self._v), why, len(why))
        if rc:
            raise Error(-rc, why.value.decode(errors='replace'))

    def _call(self, name, *arguments):
        if not self._v:
            raise Error(9, 'this Guest is closed')
        while self._dead:
            self._lib.vgpu_tensor_free(self._v, ctypes.byref(self._dead.pop()))
        rc = getattr(self._lib, 'vgpu_' + name)(self._v, *arguments)
        if rc < 0:
            raise Error(-rc, self._lib.vgpu_strerror(self._v).decode(errors='replace') or os.strerror(-rc))

    def load(self, code, format=STABLEHLO):
        """code: a StableHLO portable artifact; with format=HLO a serialized HloModuleProto. Compiled by the host."""
        raw = _Program()
        self._call('program_load', format, bytes(code), len(code), ctypes.byref(raw))
        return Program(self, raw)

    def put(self, array):
        array = numpy.ascontiguousarray(array).reshape(numpy.shape(array))  # the first makes vectors of scalars
        if array.dtype.name not in DTYPES or array.ndim > RANK_MAX:
            raise Error(22, f'a tensor cannot be {array.dtype.name} of {array.ndim} dimensions')
        raw = _Tensor()
        self._call('tensor_put', DTYPES.index(array.dtype.name), array.ndim, (ctypes.c_int64 * RANK_MAX)(*array.shape),
                   array.ctypes.data, ctypes.byref(raw))
        return Tensor(self, raw)

    def close(self):
        if self._v:
            self._lib.vgpu_close(self._v)
            self._v = ctypes.c_void_p()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
