# SPDX-License-Identifier: Apache-2.0
"""Machines in QEMU for tests: packages without installing them, initramfs images, boots, results. README.md says how."""


class CannotRun(Exception):
    """This machine lacks what the test needs: exit 77 with this sentence."""
