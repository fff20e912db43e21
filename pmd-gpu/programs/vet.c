/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two walks over untrusted bytes, both bounded by them: an HloModuleProto (protocol buffer wire format) and a StableHLO
 * portable artifact (MLIR bytecode, https://mlir.llvm.org/docs/BytecodeFormat/, whose operations are of the vhlo
 * dialect). A walk that loses its way refuses the program: what cannot be followed cannot be judged.
 */
#include "pmd-gpu/programs/vet.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/bytes.h"
#include "rings/abi/vgpu_abi.h"

#define DEPTH_MAX 64u /* regions within regions */

/* What a compiler does itself under the name of a custom call: hints, and operations without a name of their own. */
static const char *const allowed[] = {
    "Sharding",
    "SPMDFullToShardShape",
    "SPMDShardToFullShape",
    "annotate_device_placement",
    "mhlo.topk",
    "mhlo.erf",
    "mhlo.acos",
    "mhlo.acosh",
    "mhlo.asin",
    "mhlo.asinh",
    "mhlo.atanh",
    "mhlo.cosh",
    "mhlo.sinh",
    "mhlo.erf_inv",
    "mhlo.tan",
    "stablehlo.dynamic_rng_bit_generator",
    "Qr",
    "ProductOfElementaryHouseholderReflectors",
    "ApproxTopK",
};

struct text {
    char *out;
    size_t bytes;
};

static uint16_t refuse(const struct text *t, const char *why)
{
    snprintf(t->out, t->bytes, "the program is refused: %s", why);
    return VGPU_E_ARG;
}

static uint16_t judge_target(const struct text *t, const uint8_t *name, uint64_t bytes)
{
    char shown[65];

    for (size_t i = 0; i < sizeof(allowed) / sizeof(allowed[0]); i++)
        if (strlen(allowed[i]) == bytes && memcmp(allowed[i], name, bytes) == 0)
            return VGPU_OK;
    uint64_t n = bytes < sizeof(shown) - 1 ? bytes : sizeof(shown) - 1;
    for (uint64_t i = 0; i < n; i++)
        shown[i] = name[i] >= 0x20 && name[i] < 0x7f ? (char)name[i] : '?';
    shown[n] = '\0';
    snprintf(t->out, t->bytes,
             "the program is refused: it makes the custom call \"%s\", which this host does not allow", shown);
    return VGPU_E_ARG;
}

/* ---- HLO ---- */

static uint64_t proto_varint(struct vgpu_in *in)
{
    uint64_t v = 0;

    for (uint32_t shift = 0; shift < 70; shift += 7) {
        uint8_t b = vgpu_in_byte(in);
        v |= shift < 64 ? (uint64_t)(b & 0x7f) << shift : 0;
        if (!(b & 0x80))
            return v;
    }
    in->bad = true;
    return 0;
}

/* The next field's number and, of those with a length, its contents. 0 at the end. */
static uint64_t proto_field(struct vgpu_in *in, struct vgpu_in *contents)
{
    if (in->at == in->end || in->bad)
        return 0;
    uint64_t key = proto_varint(in);
    *contents = (struct vgpu_in){in->at, in->at, false};
    switch (key & 7) {
    case 0:
        proto_varint(in);
        break;
    case 1:
        vgpu_in_part(in, 8);
        break;
    case 2:
        *contents = vgpu_in_part(in, proto_varint(in));
        break;
    case 5:
        vgpu_in_part(in, 4);
        break;
    default: /* groups: no field of HLO is one */
        in->bad = true;
    }
    in->bad |= key >> 3 == 0 || key > UINT32_MAX; /* of a longer key protobuf's own reader drops the upper bits */
    return in->bad ? 0 : key >> 3;
}

/* Field numbers: xla/service/hlo.proto. */
enum {
    MODULE_COMPUTATIONS = 3,
    COMPUTATION_INSTRUCTIONS = 2,
    INSTRUCTION_OPCODE = 2,
    INSTRUCTION_CUSTOM_CALL_TARGET = 28,
};

/* One field of an instruction. Fusions are made by XLA's optimizer; one of kind "custom" names a kernel in its
 * configuration, Triton code for instance, without being a custom call. */
static uint16_t judge_field(const struct text *t, uint64_t field, const struct vgpu_in *value)
{
    uint64_t n = (uint64_t)(value->end - value->at);

    if (field == INSTRUCTION_CUSTOM_CALL_TARGET && n)
        return judge_target(t, value->at, n);
    if (field == INSTRUCTION_OPCODE && n == strlen("fusion") && memcmp(value->at, "fusion", n) == 0)
        return refuse(t, "it has a fusion: hand in what goes into XLA's optimizer, not what comes out of it");
    return VGPU_OK;
}

static uint16_t vet_hlo(struct vgpu_in *module, const struct text *t)
{
    struct vgpu_in computation, instruction, value;
    uint64_t f, g, h, computations = 0;

    while ((f = proto_field(module, &computation)) != 0) {
        if (f != MODULE_COMPUTATIONS)
            continue;
        computations++;
        while ((g = proto_field(&computation, &instruction)) != 0) {
            if (g != COMPUTATION_INSTRUCTIONS)
                continue;
            while ((h = proto_field(&instruction, &value)) != 0) {
                uint16_t status = judge_field(t, h, &value);
                if (status)
                    return status;
            }
            if (instruction.bad)
                return refuse(t, "an instruction is not a protocol buffer");
        }
        if (computation.bad)
            return refuse(t, "a computation is not a protocol buffer");
    }
    if (module->bad || computations == 0)
        return refuse(t, "it is not an HloModuleProto");
    return VGPU_OK;
}

/* ---- MLIR bytecode ---- */

enum {
    SECTION_STRING = 0,
    SECTION_DIALECT,
    SECTION_ATTR_TYPE,
    SECTION_ATTR_TYPE_OFFSET,
    SECTION_IR,
    SECTION_RESOURCE,
    SECTION_RESOURCE_OFFSET,
    SECTION_DIALECT_VERSIONS,
    SECTION_PROPERTIES,
    SECTIONS
};
enum {
    OP_ATTRS = 1,
    OP_RESULTS = 2,
    OP_OPERANDS = 4,
    OP_SUCCESSORS = 8,
    OP_REGIONS = 16,
    OP_USE_LISTS = 32,
    OP_PROPERTIES = 64
};
/* In vhlo's attribute codes (stablehlo/dialect/VhloBytecode.cpp). */
#define VHLO_API_VERSION_ATTR 5u
#define VHLO_STRING_ATTR      14u
/* In builtin's (mlir/IR/BuiltinDialectBytecode.td). */
#define BUILTIN_DICTIONARY_ATTR 1u
#define BUILTIN_STRING_ATTR     2u
/* Whose an attribute or an operation is. */
enum { OF_OTHERS = 0, OF_VHLO, OF_BUILTIN };

struct op_name {
    struct vgpu_in name;
    bool vhlo;
};

struct bytecode {
    struct vgpu_in section[SECTIONS];
    bool seen[SECTIONS];
    struct vgpu_in *strings, *attrs;
    uint64_t n_strings, n_attrs;
    uint8_t *dialects; /* OF_... */
    uint8_t *attr_of;  /* OF_...; what is written as text is OF_OTHERS */
    uint64_t n_dialects;
    struct op_name *ops;
    uint64_t n_ops;
    struct vgpu_in *properties;
    uint64_t n_properties;
    const struct text *t;
    uint16_t status; /* of the first refusal */
};

static bool is(const struct vgpu_in *s, const char *name)
{
    return (uint64_t)(s->end - s->at) == strlen(name) && memcmp(s->at, name, strlen(name)) == 0;
}

static struct vgpu_in section(struct vgpu_in *in, const uint8_t *start, uint8_t *id)
{
    *id = vgpu_in_byte(in);
    uint64_t bytes = vgpu_in_number(in);
    if (*id & 0x80) {
        uint64_t align = vgpu_in_number(in);
        if (align == 0 || align > 4096 || (align & (align - 1)))
            in->bad = true;
        while (!in->bad && (uint64_t)(in->at - start) % align)
            vgpu_in_byte(in);
    }
    *id &= 0x7f;
    return vgpu_in_part(in, bytes);
}

static bool strings_read(struct bytecode *b)
{
    struct vgpu_in in = b->section[SECTION_STRING];
    uint64_t n = vgpu_in_count(&in), total = 0;
    uint64_t *lengths = calloc(n + 1, sizeof(*lengths));

    b->strings = calloc(n + 1, sizeof(*b->strings));
    if (!lengths || !b->strings)
        in.bad = true;
    for (uint64_t i = n; i-- > 0 && !in.bad;) { /* the lengths stand in reverse, each with its NUL */
        lengths[i] = vgpu_in_number(&in);
        if (lengths[i] == 0 || lengths[i] > (uint64_t)(in.end - in.at))
            in.bad = true;
    }
    for (uint64_t i = 0; i < n && !in.bad; i++, total++) {
        b->strings[i] = vgpu_in_part(&in, lengths[i]);
        if (!in.bad && *--b->strings[i].end != 0)
            in.bad = true;
    }
    b->n_strings = n;
    free(lengths);
    return !in.bad && in.at == in.end;
}

static const struct vgpu_in *string_at(const struct bytecode *b, uint64_t i)
{
    static const struct vgpu_in none = {(const uint8_t *)"", (const uint8_t *)"", false};

    return i < b->n_strings ? &b->strings[i] : &none;
}

static bool dialects_read(struct bytecode *b)
{
    struct vgpu_in in = b->section[SECTION_DIALECT];
    uint64_t n = vgpu_in_count(&in), at = 0;
    uint8_t id;

    b->dialects = calloc(n + 1, 1);
    if (!b->dialects)
        return false;
    b->n_dialects = n;
    for (uint64_t i = 0; i < n && !in.bad; i++) {
        uint64_t name = vgpu_in_number(&in);
        const struct vgpu_in *s = string_at(b, name >> 1);
        b->dialects[i] = is(s, "vhlo") ? OF_VHLO : is(s, "builtin") ? OF_BUILTIN : OF_OTHERS;
        if (!is(s, "vhlo") && !is(s, "builtin") && !is(s, "sdy")) {
            b->status = refuse(
                b->t, "it is not a StableHLO portable artifact: it has a dialect other than vhlo, builtin and sdy");
            return false;
        }
        if (name & 1)
            section(&in, in.at, &id); /* its version */
    }
    uint64_t total = vgpu_in_count(&in);
    b->ops = calloc(total + 1, sizeof(*b->ops));
    if (!b->ops)
        return false;
    while (!in.bad && in.at != in.end) {
        uint64_t dialect = vgpu_in_number(&in), k = vgpu_in_count(&in);
        for (uint64_t i = 0; i < k && !in.bad; i++) {
            uint64_t name = vgpu_in_number(&in);
            if (at == total || dialect >= n || !(name & 1)) /* an operation that nobody registered */
                return false;
            b->ops[at++] = (struct op_name){.name = *string_at(b, name >> 1), .vhlo = b->dialects[dialect] == OF_VHLO};
        }
    }
    b->n_ops = at;
    return !in.bad && at == total;
}

static bool attrs_read(struct bytecode *b)
{
    struct vgpu_in in = b->section[SECTION_ATTR_TYPE_OFFSET], data = b->section[SECTION_ATTR_TYPE];
    uint64_t n = vgpu_in_number(&in), types = vgpu_in_number(&in), at = 0;

    if (n > (uint64_t)(in.end - in.at) || types > (uint64_t)(in.end - in.at))
        return false;
    b->attrs = calloc(n + 1, sizeof(*b->attrs));
    b->attr_of = calloc(n + 1, sizeof(*b->attr_of));
    if (!b->attrs || !b->attr_of)
        return false;
    b->n_attrs = n;
    while (!in.bad && in.at != in.end) {
        uint64_t dialect = vgpu_in_number(&in), k = vgpu_in_count(&in);
        for (uint64_t i = 0; i < k && !in.bad; i++, at++) {
            uint64_t entry = vgpu_in_number(&in);
            struct vgpu_in bytes = vgpu_in_part(&data, entry >> 1);
            if (dialect >= b->n_dialects || at >= n + types || data.bad)
                return false;
            if (at < n) {
                b->attrs[at] = bytes;
                b->attr_of[at] = entry & 1 ? b->dialects[dialect] : OF_OTHERS;
            }
        }
    }
    return !in.bad && at == n + types && data.at == data.end;
}

static bool properties_read(struct bytecode *b)
{
    struct vgpu_in in = b->section[SECTION_PROPERTIES];

    if (!b->seen[SECTION_PROPERTIES])
        return true;
    uint64_t n = vgpu_in_count(&in);
    b->properties = calloc(n + 1, sizeof(*b->properties));
    if (!b->properties)
        return false;
    b->n_properties = n;
    for (uint64_t i = 0; i < n && !in.bad; i++)
        b->properties[i] = vgpu_in_part(&in, vgpu_in_number(&in));
    return !in.bad && in.at == in.end;
}

/* An attribute, from behind its code on. False: it is not one of that dialect and code. */
static bool attr_is(const struct bytecode *b, uint64_t i, uint8_t of, uint64_t code, struct vgpu_in *out)
{
    if (i >= b->n_attrs || b->attr_of[i] != of)
        return false;
    *out = b->attrs[i];
    return vgpu_in_number(out) == code && !out->bad;
}

/*
 * The dictionary beside a custom call's properties. MLIR takes an attribute there with a property's name for the
 * property, so only names of others' are let through: those have a dot ("mhlo.sharding").
 */
static bool others_only(const struct bytecode *b, uint64_t dictionary)
{
    struct vgpu_in d, name;

    if (!attr_is(b, dictionary, OF_BUILTIN, BUILTIN_DICTIONARY_ATTR, &d))
        return false;
    for (uint64_t left = vgpu_in_count(&d); left > 0 && !d.bad; left--) {
        if (!attr_is(b, vgpu_in_number(&d), OF_BUILTIN, BUILTIN_STRING_ATTR, &name))
            return false;
        const struct vgpu_in *s = string_at(b, vgpu_in_number(&name));
        if (name.bad || name.at != name.end || !memchr(s->at, '.', (size_t)(s->end - s->at)))
            return false;
        vgpu_in_number(&d); /* its value */
    }
    return !d.bad && d.at == d.end;
}

/*
 * A custom call. Its properties stand in the order of their names: api_version, backend_config, call_target_name,
 * called_computations, has_side_effect, operand_layouts, output_operand_aliases, result_layouts. Should a later version
 * have others, it is refused until this is taught about it.
 */
static bool custom_call(struct bytecode *b, bool has, uint64_t property)
{
    enum { API_VERSION = 0, TARGET = 2, PROPERTIES = 8 };
    uint64_t attr[PROPERTIES];
    struct vgpu_in a;

    if (!has || property >= b->n_properties)
        return false;
    struct vgpu_in p = b->properties[property];
    for (uint32_t i = 0; i < PROPERTIES; i++)
        attr[i] = vgpu_in_number(&p);
    if (p.bad || p.at != p.end || !attr_is(b, attr[API_VERSION], OF_VHLO, VHLO_API_VERSION_ATTR, &a) ||
        !attr_is(b, attr[TARGET], OF_VHLO, VHLO_STRING_ATTR, &a))
        return false;
    uint64_t name = vgpu_in_number(&a);
    if (a.bad || a.at != a.end || name >= b->n_strings)
        return false;
    const struct vgpu_in *s = &b->strings[name];
    if (!b->status) /* the first one is named */
        b->status = judge_target(b->t, s->at, (uint64_t)(s->end - s->at));
    return true;
}

static void numbers_skip(struct vgpu_in *in, uint64_t n)
{
    while (n-- > 0 && !in->bad)
        vgpu_in_number(in);
}

static void use_lists_skip(struct vgpu_in *in, uint64_t values)
{
    uint64_t n = values > 1 ? vgpu_in_count(in) : 1;

    for (uint64_t i = 0; i < n && !in->bad; i++) {
        if (values > 1)
            vgpu_in_number(in);
        numbers_skip(in, vgpu_in_number(in) >> 1);
    }
}

static bool block_read(struct bytecode *b, struct vgpu_in *in, uint32_t depth);

static bool region_read(struct bytecode *b, struct vgpu_in *in, uint32_t depth)
{
    uint64_t blocks = vgpu_in_count(in);

    if (blocks == 0)
        return !in->bad;
    vgpu_in_number(in); /* how many values it defines */
    for (uint64_t i = 0; i < blocks; i++)
        if (!block_read(b, in, depth))
            return false;
    return !in->bad;
}

static bool op_read(struct bytecode *b, struct vgpu_in *in, uint32_t depth)
{
    uint64_t op = vgpu_in_number(in), attrs = 0, results = 0, property = 0, n;
    uint8_t mask = vgpu_in_byte(in), id;

    if (op >= b->n_ops || mask & 0x80 || depth > DEPTH_MAX)
        return false;
    vgpu_in_number(in); /* location */
    if (mask & OP_ATTRS)
        attrs = vgpu_in_number(in);
    if (mask & OP_PROPERTIES)
        property = vgpu_in_number(in);
    if (mask & OP_RESULTS)
        numbers_skip(in, results = vgpu_in_count(in));
    if (mask & OP_OPERANDS)
        numbers_skip(in, vgpu_in_count(in));
    if (mask & OP_SUCCESSORS)
        numbers_skip(in, vgpu_in_count(in));
    if (mask & OP_USE_LISTS)
        use_lists_skip(in, results);
    if (in->bad)
        return false;
    const struct op_name *name = &b->ops[op];
    bool is_call =
        name->vhlo && (uint64_t)(name->name.end - name->name.at) >= 11 && memcmp(name->name.at, "custom_call", 11) == 0;
    if (is_call && !custom_call(b, mask & OP_PROPERTIES, property))
        return false;
    if (is_call && mask & OP_ATTRS && !others_only(b, attrs) && !b->status)
        b->status = refuse(b->t, "a custom call has an attribute without a dot in its name beside its properties");
    if (!(mask & OP_REGIONS))
        return true;
    n = vgpu_in_number(in);
    struct vgpu_in inner, *from = in;
    if (n & 1) { /* isolated from what is around it: a section of its own */
        inner = section(in, in->at, &id);
        if (in->bad || id != SECTION_IR)
            return false;
        from = &inner;
    }
    for (uint64_t i = 0; i < n >> 1; i++)
        if (from->bad || from->at == from->end || !region_read(b, from, depth + 1))
            return false;
    return !(n & 1) || inner.at == inner.end;
}

static bool block_read(struct bytecode *b, struct vgpu_in *in, uint32_t depth)
{
    uint64_t head = vgpu_in_number(in);

    if (head & 1) {
        uint64_t args = vgpu_in_count(in);
        for (uint64_t i = 0; i < args && !in->bad; i++)
            if (vgpu_in_number(in) & 1) /* its type; with a location */
                vgpu_in_number(in);
        if (vgpu_in_byte(in))
            use_lists_skip(in, args);
    }
    for (uint64_t i = 0; i < head >> 1; i++)
        if (in->bad || in->at == in->end || !op_read(b, in, depth))
            return false;
    return !in->bad;
}

static void bytecode_free(struct bytecode *b)
{
    free(b->strings);
    free(b->attrs);
    free(b->attr_of);
    free(b->dialects);
    free(b->ops);
    free(b->properties);
}

static bool bytecode_read(struct bytecode *b, struct vgpu_in *in)
{
    const uint8_t *start = in->at;
    uint8_t id;

    vgpu_in_part(in, 4);
    uint64_t version = vgpu_in_number(in);
    if (in->bad ||
        version != 6) { /* what portable artifacts have had since 2023; others differ in the details walked here */
        b->status = refuse(b->t, "its bytecode is not of version 6; write it with serialize_portable_artifact");
        return false;
    }
    while (vgpu_in_byte(in) && !in->bad)
        ; /* producer */
    while (in->at != in->end && !in->bad) {
        struct vgpu_in s = section(in, start, &id);
        if (id >= SECTIONS || b->seen[id])
            return false;
        b->seen[id] = true;
        b->section[id] = s;
    }
    if (in->bad || !b->seen[SECTION_STRING] || !b->seen[SECTION_DIALECT] || !b->seen[SECTION_ATTR_TYPE] ||
        !b->seen[SECTION_ATTR_TYPE_OFFSET] || !b->seen[SECTION_IR])
        return false;
    if (!strings_read(b) || !dialects_read(b) || !attrs_read(b) || !properties_read(b))
        return false;
    struct vgpu_in ir = b->section[SECTION_IR];
    return block_read(b, &ir, 0) && ir.at == ir.end;
}

uint16_t vgpu_program_vet(bool hlo, const uint8_t *code, uint64_t bytes, char *text, size_t text_bytes)
{
    struct text t = {text, text_bytes};
    struct vgpu_in in = {code, code + bytes, false};

    if (hlo)
        return vet_hlo(&in, &t);
    if (bytes < 5 || memcmp(code, "ML\xefR", 4) != 0)
        return refuse(&t, "it is not MLIR bytecode; text is not taken");
    struct bytecode b = {.t = &t};
    bool followed = bytecode_read(&b, &in);
    bytecode_free(&b);
    if (b.status)
        return b.status;
    return followed ? VGPU_OK : refuse(&t, "it is not a StableHLO portable artifact that can be followed");
}
