#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""embed.py IN OUT: a text file as a C array named plan_constants_text."""
import sys

with open(sys.argv[1], 'rb') as text:
    data = text.read()
with open(sys.argv[2], 'w', encoding='utf-8') as out:
    out.write('extern const char plan_constants_text[];\nconst char plan_constants_text[] = {')
    out.write(','.join(str(byte) for byte in data) + ',0};\n')
