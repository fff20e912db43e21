# SPDX-License-Identifier: Apache-2.0
"""Registers libvgpu_pjrt.so with JAX as platform `vgpu`: JAX looks for packages in `jax_plugins` and calls initialize().

The library is VGPU_PJRT_LIBRARY, or libvgpu_pjrt.so beside this file, or in lib of the prefix that this file was installed into,
or where the system keeps libraries. Nothing is registered
in a process that is no guest: one without VGPU_VM_ID and VGPU_SOCKET, unless its JAX_PLATFORMS asks for vgpu.
"""
import glob
import logging
import os

NAME = 'vgpu'
FILE = 'libvgpu_pjrt.so'
FOLDERS = ('/usr/local/lib', '/usr/local/lib/x86_64-linux-gnu', '/usr/lib/x86_64-linux-gnu', '/usr/lib64', '/usr/lib')
PRIORITY = 500  # above the CPU: the shared device is what a guest is to use


def library():
    """The plugin's path, or None."""
    named = os.environ.get('VGPU_PJRT_LIBRARY')
    if named:
        return named
    here = os.path.dirname(os.path.abspath(__file__))
    prefix = here.removesuffix('/share/vgpu/python/jax_plugins/vgpu')  # where `meson install` puts it
    installed = [os.path.join(prefix, 'lib'), *sorted(glob.glob(prefix + '/lib/*') + glob.glob(prefix + '/lib64'))]
    for folder in (here, *(installed if prefix != here else []), *FOLDERS):
        path = os.path.join(folder, FILE)
        if os.path.exists(path):
            return path
    return None


def is_guest():
    return bool(os.environ.get('VGPU_VM_ID') or os.environ.get('VGPU_SOCKET') or
                NAME in os.environ.get('JAX_PLATFORMS', '').split(','))


def initialize():
    path = library()
    if not is_guest():
        logging.getLogger(__name__).debug('not registered: no guest of vgpu')
        return
    if not path or not os.path.exists(path):
        # Said aloud: JAX would go on with the guest's CPU, and nobody would know why it is slow.
        logging.getLogger(__name__).warning('vgpu: this is a guest, but %s was not found, so JAX does not use the shared '
                                            'device; install it, or set VGPU_PJRT_LIBRARY to its path', path or FILE)
        return
    from jax._src import xla_bridge
    xla_bridge.register_plugin(NAME, priority=PRIORITY, library_path=path)
    _allow_donation()


def _allow_donation():
    """JAX drops donate_argnums for platforms that it does not know, with a warning; the plugin honours them."""
    try:
        from jax._src.interpreters import mlir
        if NAME not in mlir._platforms_with_donation:
            mlir._platforms_with_donation.append(NAME)
    except (ImportError, AttributeError):  # a version of JAX that has this elsewhere: it goes on without
        pass
