#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A guest that means harm, through vgpu.py: hostile.py KIND. Prints what came of it, and ends 0 if that is what must come of it:
it is refused or ended, with a reason, and afterwards this VM can work again. What matters more, that nobody else noticed, is for
guests_test.py to see."""
import ctypes
import errno
import os
import random
import sys

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..')
sys.path[:0] = [os.path.join(ROOT, 'guest-lib', 'python'), os.path.join(ROOT, 'python')]  # of the tree, of a bundle
import numpy  # noqa: E402
from jaxlib.mlir.dialects import stablehlo  # noqa: E402

import vgpu  # noqa: E402
from export_minilm import STABLEHLO  # noqa: E402

SEED = int(os.environ.get('VGPU_HOSTILE_SEED', '1'))
PTX = '.version 8.0\\0A.target sm_80\\0A.address_size 64\\0A.visible .entry steal() { ret; }'
HARMLESS = 'func.func public @main(%x: tensor<4xf32>) -> tensor<4xf32> { %y = stablehlo.add %x, %x : tensor<4xf32> return %y : ' \
           'tensor<4xf32> }'
CALL = 'func.func public @main(%x: tensor<4xf32>) -> tensor<4xf32> {{ %y = stablehlo.custom_call @"{name}"(%x) ' \
       '{{backend_config = "{ptx}", api_version = {api} : i32}} : (tensor<4xf32>) -> tensor<4xf32> return %y : tensor<4xf32> }}'
LOOP = '''func.func public @main(%x: tensor<4xf32>) -> tensor<4xf32> {
  %y = stablehlo.while(%i = %x) : tensor<4xf32>
    cond { %t = stablehlo.compare EQ, %i, %i : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xi1>
           %z = stablehlo.slice %t [0:1] : (tensor<4xi1>) -> tensor<1xi1>
           %s = stablehlo.reshape %z : (tensor<1xi1>) -> tensor<i1>
           stablehlo.return %s : tensor<i1> }
    do { %n = stablehlo.sine %i : tensor<4xf32> stablehlo.return %n : tensor<4xf32> }
  return %y : tensor<4xf32> }'''
# Sorts 64 GiB: the program asks for them at once.
HOG = '''func.func public @main(%x: tensor<f32>) -> tensor<f32> {
  %i = stablehlo.iota dim = 0 : tensor<17179869184xf32>
  %b = stablehlo.broadcast_in_dim %x, dims = [] : (tensor<f32>) -> tensor<17179869184xf32>
  %m = stablehlo.multiply %i, %b : tensor<17179869184xf32>
  %s = "stablehlo.sort"(%m) ({ ^bb0(%p: tensor<f32>, %q: tensor<f32>):
    %c = stablehlo.compare LT, %p, %q : (tensor<f32>, tensor<f32>) -> tensor<i1> stablehlo.return %c : tensor<i1> })
    {dimension = 0 : i64} : (tensor<17179869184xf32>) -> tensor<17179869184xf32>
  %f = stablehlo.slice %s [0:1] : (tensor<17179869184xf32>) -> tensor<1xf32>
  %r = stablehlo.reshape %f : (tensor<1xf32>) -> tensor<f32>
  return %r : tensor<f32> }'''
HUGE_OUTPUT = 'func.func public @main(%x: tensor<f32>) -> tensor<1048576x1048576xf32> { %y = stablehlo.broadcast_in_dim %x, ' \
              'dims = [] : (tensor<f32>) -> tensor<1048576x1048576xf32> return %y : tensor<1048576x1048576xf32> }'


def artifact(body):
    return stablehlo.serialize_portable_artifact_str('module @m { ' + body + ' }', STABLEHLO)


def hlo(target):
    """An HloModuleProto with one instruction, a custom call: fields of xla/service/hlo.proto, written by hand."""
    def field(number, contents):
        contents = contents.encode() if isinstance(contents, str) else contents
        out = b''
        for value in (number << 3 | 2, len(contents)):
            while value > 127:
                out, value = out + bytes([value & 127 | 128]), value >> 7
            out += bytes([value])
        return out + contents
    call = field(1, 'call') + field(2, 'custom-call') + field(28, target) + field(43, PTX)
    return field(1, 'module') + field(2, 'main') + field(3, field(1, 'main') + field(2, call))


class Wrong(Exception):
    """Not what must come of it."""


def refused(call, *codes):
    """The host's words; it must fail, with one of these errors if any are named."""
    try:
        call()
    except vgpu.Error as error:
        if codes and error.errno not in codes:
            raise Wrong(f'{errno.errorcode.get(error.errno)}: {error.strerror}') from error
        return f'{errno.errorcode.get(error.errno)}: {error.strerror}'
    raise Wrong('it was let through')


def works(guest):
    """An honest program of this VM, once more."""
    x = numpy.arange(4, dtype=numpy.float32)
    program = guest.load(artifact(HARMLESS))
    if not (program(x)[0].numpy() == 2 * x).all():
        raise Wrong('an honest program gives something else now')
    program.free()


def ptx(guest):
    """Custom calls that bring code for the GPU, or run a Python function, or anything that nobody knows."""
    for api, name in ((1, '__gpu$xla.gpu.triton'), (2, '__gpu$xla.gpu.triton'), (4, 'triton_kernel_call'), (2, 'cu_threefry2x32'),
                      (2, 'xla_python_cpu_callback'), (2, ''), (1, 'Sharding2')):
        config = PTX if api < 4 else ''
        body = CALL.format(name=name, ptx=config, api=api)
        if api == 4:  # the typed interface has a dictionary
            body = body.replace('backend_config = ""', f'backend_config = {{ptx = "{PTX}"}}')
        told = refused(lambda body=body: guest.load(artifact(body)), errno.EINVAL)
        if f'custom call "{name}"' not in told:
            raise Wrong(f'{name!r} is not named: {told}')
        print(told)
        if name:  # the same as HLO
            told = refused(lambda name=name: guest.load(hlo(name), vgpu.HLO), errno.EINVAL)
            if f'custom call "{name}"' not in told:
                raise Wrong(f'{name!r} is not named: {told}')


def loop(guest):
    """A program without an end: stopped by the deadline, and all of this VM's programs with it."""
    program = guest.load(artifact(LOOP))
    print(refused(lambda: program(numpy.ones(4, numpy.float32)), errno.ETIMEDOUT))


def hog(guest):
    """Memory: tensors up to the quota and beyond, results beyond it, and a program that needs 64 GiB for itself."""
    kept = []
    def fill():
        for _ in range(10000):
            kept.append(guest.put(numpy.ones(16 << 20, numpy.uint8)))
    print(f'{refused(fill, errno.ENOMEM)}; {len(kept)} tensors of 16 MiB fitted')
    if not 1 <= len(kept) <= 64:
        raise Wrong(f'{len(kept)} tensors fitted')
    kept.clear()
    program = guest.load(artifact(HUGE_OUTPUT))
    print(refused(lambda: program(numpy.float32(1)), errno.ENOMEM))
    def run():
        guest.load(artifact(HOG))(numpy.float32(1))[0].numpy()
    print(refused(run))


def shapes(guest):
    """Descriptors that libvgpu would not write: dimensions, handles, ranges and types from anywhere."""
    class Buffer(ctypes.Structure):
        _fields_ = [('handle', ctypes.c_uint32), ('offset', ctypes.c_uint64), ('bytes', ctypes.c_uint64), ('at', ctypes.c_void_p)]

    class Request(ctypes.Structure):
        _fields_ = [(n, ctypes.c_uint8) for n in ('opcode', 'flags', 'dtype', 'sub')] + [
            ('tag', ctypes.c_uint32), ('dst', Buffer), ('src0', Buffer), ('src1', Buffer), ('n', ctypes.c_uint64),
            ('arg', ctypes.c_uint32 * 4)]
    lib, v, dice = guest._lib, guest._v, random.Random(SEED)
    room = Buffer()
    for name in ('vgpu_arena_alloc', 'vgpu_submit', 'vgpu_wait'):
        getattr(lib, name).restype = ctypes.c_int
    if lib.vgpu_arena_alloc(v, ctypes.c_uint64(4096), ctypes.byref(room)):
        raise Wrong('no room in the arena')
    dims = (ctypes.c_int64 * 512).from_address(room.at)
    odd = [0, 1, -1, 2, 8, 255, 4096, 1 << 16, 1 << 31, (1 << 31) - 1, 1 << 32, 1 << 40, (1 << 62), (1 << 63) - 1, -(1 << 63)]
    done = vgpu._Completion()
    by_status = {}
    for i in range(3000):
        for k in range(8):
            dims[k] = dice.choice(odd)
        request = Request(opcode=dice.randint(32, 38), dtype=dice.choice([0, 6, 12, 14, 15, 255]),
                          sub=dice.choice([0, 0, 1, 2, 255]), tag=i, n=dice.choice(odd) & (2 ** 64 - 1))
        for part in (request.dst, request.src0, request.src1):
            part.handle = dice.choice([0, 0, 1, 2, 7, 65535, 65536])
            part.offset = dice.choice([room.offset, room.offset, 0, 1, 4095, 1 << 20, 1 << 47, (1 << 48) - 1])
        request.arg[0], request.arg[1] = dice.choice([0, 1, 2, 8, 9, 255, 65535, 1 << 31]), dice.choice([0, 0, 0, 1])
        rc = lib.vgpu_submit(v, ctypes.byref(request), None)
        if rc:
            raise Wrong(f'vgpu_submit: {rc}')
        got = lib.vgpu_wait(v, ctypes.byref(done), 1, ctypes.c_uint64(60 * 10 ** 9))
        if got != 1 or done.tag != i:
            raise Wrong(f'vgpu_wait: {got}, tag {done.tag} of {i}')
        by_status[done.status] = by_status.get(done.status, 0) + 1
    print('3000 descriptors, one completion each; by status: ' + ', '.join(f'{s}: {n}' for s, n in sorted(by_status.items())))
    if len(by_status) < 3:
        raise Wrong('they were all judged alike')


def corrupt(guest):
    """Programs that are cut off or damaged: refused, or compiled to whatever they say now."""
    whole, dice, came = artifact(LOOP.replace('EQ', 'NE')), random.Random(SEED), {}
    for i in range(120):
        code = bytearray(whole)
        if i % 3 == 0:
            del code[dice.randrange(len(code)):]
        for _ in range(dice.choice([0, 1, 1, 4, 16]) if i % 3 == 0 else dice.choice([1, 1, 2, 8, 64])):
            if code:
                code[dice.randrange(len(code))] = dice.randrange(256)
        try:
            guest.load(bytes(code) or b'M', dice.choice([vgpu.STABLEHLO, vgpu.STABLEHLO, vgpu.HLO])).free()
            what = 'compiled'
        except vgpu.Error as error:
            what = errno.errorcode.get(error.errno, str(error.errno))
        came[what] = came.get(what, 0) + 1
    print('120 damaged programs: ' + ', '.join(f'{k}: {n}' for k, n in sorted(came.items())))
    if came.get('EINVAL', 0) < 30:
        raise Wrong('too few of them were refused')


KINDS = {f.__name__: f for f in (ptx, loop, hog, shapes, corrupt)}


def main():
    with vgpu.Guest(arena_bytes=32 << 20) as guest:
        works(guest)
        KINDS[sys.argv[1]](guest)
        try:
            works(guest)
        except vgpu.Error:  # its process ended just now: the next operation gets a new one
            works(guest)
    return 0


if __name__ == '__main__':
    try:
        sys.exit(main())
    except (Wrong, vgpu.Error) as wrong:
        print(f'WRONG: {wrong}')
        sys.exit(1)
