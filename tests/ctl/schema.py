# SPDX-License-Identifier: Apache-2.0
"""The part of JSON Schema (draft 2020-12) that docs/schema/vgpu-ctl.json uses. A keyword that it does not know is an
error, so that nothing in the schema stands there unchecked."""
import re

TYPES = {'object': dict, 'array': list, 'string': str, 'boolean': bool, 'null': type(None)}
KNOWN = {'$ref', '$defs', '$schema', '$id', '$comment', 'title', 'description', 'type', 'properties', 'required',
         'additionalProperties', 'items', 'enum', 'const', 'minimum', 'maximum', 'pattern', 'anyOf', 'uniqueItems'}


def is_type(value, name):
    if name == 'integer':
        return isinstance(value, int) and not isinstance(value, bool)
    if name == 'number':
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, TYPES[name])


def faults(schema, value, root, where='$'):
    """What of the value is not as the schema says, one text each."""
    if schema is True:
        return
    if schema is False:
        yield f'{where}: this is not described'
        return
    unknown = set(schema) - KNOWN
    if unknown:
        raise ValueError(f'{where}: the schema has keywords that this check does not know: {sorted(unknown)}')
    if '$ref' in schema:
        target = root
        for part in schema['$ref'].removeprefix('#/').split('/'):
            target = target[part]
        yield from faults(target, value, root, where)
    wanted = schema.get('type')
    if wanted and not any(is_type(value, t) for t in ([wanted] if isinstance(wanted, str) else wanted)):
        yield f'{where}: {value!r} is not of type {wanted}'
        return
    if 'enum' in schema and value not in schema['enum']:
        yield f'{where}: {value!r} is not one of {schema["enum"]}'
    if 'const' in schema and value != schema['const']:
        yield f'{where}: {value!r} is not {schema["const"]!r}'
    if 'anyOf' in schema and all(list(faults(s, value, root, where)) for s in schema['anyOf']):
        yield f'{where}: {value!r} fits none of the alternatives'
    if is_type(value, 'number'):
        if value < schema.get('minimum', value):
            yield f'{where}: {value} is below {schema["minimum"]}'
        if value > schema.get('maximum', value):
            yield f'{where}: {value} is above {schema["maximum"]}'
    if isinstance(value, str) and not re.search(schema.get('pattern', ''), value):
        yield f'{where}: {value!r} does not match {schema["pattern"]}'
    if isinstance(value, list):
        if schema.get('uniqueItems') and len({repr(v) for v in value}) != len(value):
            yield f'{where}: an item stands there twice'
        for i, item in enumerate(value):
            yield from faults(schema.get('items', True), item, root, f'{where}[{i}]')
    if isinstance(value, dict):
        yield from object_faults(schema, value, root, where)


def object_faults(schema, value, root, where):
    properties = schema.get('properties', {})
    for key in schema.get('required', []):
        if key not in value:
            yield f'{where}: {key} is missing'
    for key, item in value.items():
        if key in properties:
            yield from faults(properties[key], item, root, f'{where}.{key}')
        else:
            yield from faults(schema.get('additionalProperties', True), item, root, f'{where}.{key}')
