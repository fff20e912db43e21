/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two things that a caller of PJRT may ask for and that only the program says: the name of its module, and which arguments
 * of its main function are donated. A StableHLO portable artifact is MLIR bytecode of version 6
 * (https://mlir.llvm.org/docs/BytecodeFormat/): functions are sections of their own, so that their bodies are passed over.
 * These bytes are the application's own; a walk that loses its way ends without an answer.
 */
#include <stdlib.h>
#include <string.h>

#include "core/base/bytes.h"
#include "guest-lib/pjrt/plugin.h"

enum { STRINGS = 0, DIALECTS = 1, ATTRS = 2, ATTR_OFFSETS = 3, IR = 4, PROPERTIES = 8, SECTIONS = 9 };
enum {
    HAS_ATTRS = 1,
    HAS_RESULTS = 2,
    HAS_OPERANDS = 4,
    HAS_SUCCESSORS = 8,
    HAS_REGIONS = 16,
    HAS_USES = 32,
    HAS_PROPERTIES = 64
};
/* Codes of attributes: the builtin dialect's, and vhlo's. */
enum { BUILTIN_STRING = 2, VHLO_ARRAY = 1, VHLO_DICTIONARY = 6, VHLO_STRING = 14 };
/* Properties of vhlo.func_v1, in the order of their names. */
enum { FUNC_ARGUMENTS = 0, FUNC_NAME = 3, FUNC_PROPERTIES = 5 };

struct artifact {
    struct vgpu_in section[SECTIONS];
    struct vgpu_in *strings, *attrs, *properties, *ops;
    uint64_t n_strings, n_attrs, n_properties, n_ops;
};

static struct vgpu_in section(struct vgpu_in *in, const uint8_t *start, uint8_t *id)
{
    *id = vgpu_in_byte(in);
    uint64_t bytes = vgpu_in_number(in), align = *id & 0x80 ? vgpu_in_number(in) : 1;
    while (!in->bad && align > 1 && (uint64_t)(in->at - start) % align)
        vgpu_in_byte(in);
    *id &= 0x7f;
    return vgpu_in_part(in, bytes);
}

static bool text_is(const struct vgpu_in *s, const char *text)
{
    return (uint64_t)(s->end - s->at) == strlen(text) && memcmp(s->at, text, strlen(text)) == 0;
}

static bool strings_read(struct artifact *a)
{
    struct vgpu_in in = a->section[STRINGS], back;
    uint64_t n = a->n_strings = vgpu_in_count(&in), *length = calloc(n + 1, sizeof(*length));

    a->strings = calloc(n + 1, sizeof(*a->strings));
    for (uint64_t i = n; length && i-- > 0;) /* they stand in reverse */
        length[i] = vgpu_in_number(&in);
    back = in;
    for (uint64_t i = 0; i < n && length && a->strings && !back.bad; i++) {
        a->strings[i] = vgpu_in_part(&back, length[i]);
        if (a->strings[i].end > a->strings[i].at)
            a->strings[i].end--; /* its NUL */
    }
    bool good = length && a->strings && !in.bad && !back.bad;
    free(length);
    return good;
}

/* Only the names of operations, in the order in which they are referred to. */
static bool dialects_read(struct artifact *a)
{
    struct vgpu_in in = a->section[DIALECTS];
    uint64_t n = vgpu_in_count(&in), at = 0;
    uint8_t id;

    for (uint64_t i = 0; i < n && !in.bad; i++)
        if (vgpu_in_number(&in) & 1)
            section(&in, in.at, &id); /* its version */
    a->n_ops = vgpu_in_count(&in);
    a->ops = calloc(a->n_ops + 1, sizeof(*a->ops));
    while (a->ops && !in.bad && in.at != in.end) {
        vgpu_in_number(&in);
        uint64_t k = vgpu_in_count(&in);
        for (uint64_t i = 0; i < k && !in.bad; i++, at++) {
            uint64_t name = vgpu_in_number(&in) >> 1;
            if (at == a->n_ops || name >= a->n_strings)
                return false;
            a->ops[at] = a->strings[name];
        }
    }
    return a->ops && !in.bad;
}

static bool attrs_read(struct artifact *a)
{
    struct vgpu_in in = a->section[ATTR_OFFSETS], data = a->section[ATTRS];
    uint64_t at = 0;

    a->n_attrs = vgpu_in_count(&in);
    vgpu_in_number(&in); /* types, which come behind them */
    a->attrs = calloc(a->n_attrs + 1, sizeof(*a->attrs));
    while (a->attrs && !in.bad && !data.bad && in.at != in.end && at < a->n_attrs) {
        vgpu_in_number(&in);
        uint64_t k = vgpu_in_count(&in);
        for (uint64_t i = 0; i < k && at < a->n_attrs; i++, at++)
            a->attrs[at] = vgpu_in_part(&data, vgpu_in_number(&in) >> 1);
    }
    return a->attrs && !in.bad && !data.bad;
}

static bool properties_read(struct artifact *a)
{
    struct vgpu_in in = a->section[PROPERTIES];

    a->n_properties = in.at == in.end ? 0 : vgpu_in_count(&in);
    a->properties = calloc(a->n_properties + 1, sizeof(*a->properties));
    for (uint64_t i = 0; a->properties && i < a->n_properties; i++)
        a->properties[i] = vgpu_in_part(&in, vgpu_in_number(&in));
    return a->properties && !in.bad;
}

/* What is behind the code of an attribute; false: it is not of that code. */
static bool attr_at(const struct artifact *a, uint64_t i, uint64_t code, struct vgpu_in *out)
{
    if (i >= a->n_attrs)
        return false;
    *out = a->attrs[i];
    return vgpu_in_number(out) == code && !out->bad;
}

static bool string_at(const struct artifact *a, uint64_t i, uint64_t code, struct vgpu_in *out)
{
    struct vgpu_in attr;

    if (!attr_at(a, i, code, &attr))
        return false;
    uint64_t s = vgpu_in_number(&attr);
    if (attr.bad || s >= a->n_strings)
        return false;
    *out = a->strings[s];
    return true;
}

/* Has the dictionary one of the names by which a framework says "this argument is yours"? */
static bool says_donated(const struct artifact *a, uint64_t dictionary)
{
    struct vgpu_in in, key;

    if (!attr_at(a, dictionary, VHLO_DICTIONARY, &in))
        return false;
    for (uint64_t n = vgpu_in_count(&in); n-- > 0 && !in.bad;) {
        uint64_t k = vgpu_in_number(&in);
        vgpu_in_number(&in);
        if (string_at(a, k, VHLO_STRING, &key) && (text_is(&key, "tf.aliasing_output") || text_is(&key, "jax.buffer_donor")))
            return true;
    }
    return false;
}

static void main_found(const struct artifact *a, struct vgpu_in properties, struct vgpu_pjrt_main *out)
{
    struct vgpu_in in;
    uint64_t arguments = vgpu_in_number(&properties);

    if (!attr_at(a, arguments, VHLO_ARRAY, &in))
        return;
    uint64_t n = vgpu_in_count(&in);
    for (uint64_t i = 0; i < n; i++) {
        if (!says_donated(a, vgpu_in_number(&in)))
            continue;
        if (!out->donated)
            out->donated = calloc(n, sizeof(*out->donated));
        if (!out->donated)
            return;
        out->donated[i] = true;
        out->arguments = (uint32_t)n;
    }
}

static void numbers_skip(struct vgpu_in *in)
{
    for (uint64_t n = vgpu_in_count(in); n-- > 0 && !in->bad;)
        vgpu_in_number(in);
}

static bool ops_read(const struct artifact *a, struct vgpu_in *in, struct vgpu_pjrt_main *out, bool top);

/* One operation outside of functions: the module, or a function in it. */
static bool op_read(const struct artifact *a, struct vgpu_in *in, struct vgpu_pjrt_main *out, bool top)
{
    uint64_t op = vgpu_in_number(in), property = UINT64_MAX;
    uint8_t mask = vgpu_in_byte(in), id;
    struct vgpu_in properties, name;

    vgpu_in_number(in); /* location */
    if (mask & HAS_ATTRS)
        vgpu_in_number(in);
    if (mask & HAS_PROPERTIES)
        property = vgpu_in_number(in);
    if (mask & HAS_RESULTS)
        numbers_skip(in);
    if (mask & HAS_OPERANDS)
        numbers_skip(in);
    if (mask & (HAS_SUCCESSORS | HAS_USES) || in->bad || op >= a->n_ops)
        return false;
    if (property < a->n_properties) {
        properties = a->properties[property];
        uint64_t first = vgpu_in_number(&properties); /* of the module: its name, with a bit that says that there is one */
        if (top && (first & 1) && string_at(a, first >> 1, BUILTIN_STRING, &name)) {
            size_t n = (size_t)(name.end - name.at);
            n = n < sizeof(out->name) ? n : sizeof(out->name) - 1;
            memcpy(out->name, name.at, n);
            out->name[n] = '\0';
        }
        uint64_t value[FUNC_PROPERTIES] = {first};
        for (uint32_t i = 1; i < FUNC_PROPERTIES && !properties.bad; i++)
            value[i] = vgpu_in_number(&properties);
        if (!top && text_is(&a->ops[op], "func_v1") && !properties.bad && properties.at == properties.end &&
            string_at(a, value[FUNC_NAME], VHLO_STRING, &name) && text_is(&name, "main"))
            main_found(a, a->properties[property], out);
    }
    if (!(mask & HAS_REGIONS))
        return true;
    uint64_t regions = vgpu_in_number(in);
    if (!(regions & 1) || regions >> 1 != 1)
        return false;
    struct vgpu_in body = section(in, in->at, &id);
    return !in->bad && id == IR && (!top || ops_read(a, &body, out, false));
}

/* The operations of a region's only block, which has no arguments. */
static bool ops_read(const struct artifact *a, struct vgpu_in *in, struct vgpu_pjrt_main *out, bool top)
{
    if (!top && (vgpu_in_count(in) != 1 || vgpu_in_number(in) > 0))
        return false;
    uint64_t head = vgpu_in_number(in);
    if (head & 1)
        return false;
    for (uint64_t i = 0; i < head >> 1; i++)
        if (in->bad || !op_read(a, in, out, top))
            return false;
    return !in->bad;
}

bool vgpu_pjrt_main_read(const uint8_t *code, uint64_t bytes, struct vgpu_pjrt_main *out)
{
    struct vgpu_in in = {code, code + bytes, false};
    struct artifact a = {.n_strings = 0};
    uint8_t id;
    bool good = false;

    memset(out, 0, sizeof(*out));
    if (bytes < 6 || memcmp(code, "ML\xefR", 4) != 0)
        return false;
    vgpu_in_part(&in, 4);
    vgpu_in_number(&in); /* version */
    while (vgpu_in_byte(&in))
        ; /* producer */
    while (in.at != in.end && !in.bad) {
        struct vgpu_in s = section(&in, code, &id);
        if (id < SECTIONS)
            a.section[id] = s;
    }
    if (!in.bad && a.section[IR].at && strings_read(&a) && dialects_read(&a) && attrs_read(&a) && properties_read(&a))
        good = ops_read(&a, &a.section[IR], out, true);
    free(a.strings);
    free(a.attrs);
    free(a.properties);
    free(a.ops);
    if (!good) {
        free(out->donated);
        memset(out, 0, sizeof(*out));
    }
    return good;
}
