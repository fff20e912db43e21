#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compiles CUDA kernels and writes them as a C array:  fatbin.py SYMBOL INPUT.cu OUTPUT.c DEPFILE NVCC [ARGUMENT...]"""
import os
import subprocess
import sys
import tempfile

symbol, source, output, depfile, nvcc = sys.argv[1:6]
with tempfile.TemporaryDirectory() as work:
    image = os.path.join(work, "kernels.fatbin")
    subprocess.run([nvcc, "-fatbin", *sys.argv[6:], "-MD", "-MF", os.path.join(work, "d"), "-o", image, source], check=True)
    with open(os.path.join(work, "d"), encoding="utf-8") as f:
        needs = f.read().split(":", 1)[1]
    with open(image, "rb") as f:
        data = f.read()
with open(depfile, "w", encoding="utf-8") as f:
    f.write(f"{output}:{needs}")
data += bytes(-len(data) % 8)
words = [f"0x{int.from_bytes(data[i:i + 8], 'little'):x}" for i in range(0, len(data), 8)]
with open(output, "w", encoding="utf-8") as f:
    f.write(f"extern const unsigned long long {symbol}[{len(words)}];\n")
    f.write(f"const unsigned long long {symbol}[{len(words)}] = {{\n")
    for i in range(0, len(words), 8):
        f.write(",".join(words[i:i + 8]) + ",\n")
    f.write("};\n")
