/* SPDX-License-Identifier: Apache-2.0 */
/* Which HLO gets past the judge. and MLIR bytecode; more of the latter: fuzz target `program` and suite ml. */
#include <criterion/criterion.h>
#include <string.h>

#include "pmd-gpu/programs/vet.h"
#include "rings/abi/vgpu_abi.h"

struct proto {
    uint8_t data[512];
    size_t n;
};

/* Field `number` with these bytes; shorter than 128. */
static void field(struct proto *p, unsigned number, const void *data, size_t n)
{
    unsigned key = number << 3 | 2;

    if (key >= 128) {
        p->data[p->n++] = (uint8_t)(key | 0x80);
        key >>= 7;
    }
    p->data[p->n++] = (uint8_t)key;
    p->data[p->n++] = (uint8_t)n;
    memcpy(p->data + p->n, data, n);
    p->n += n;
}

/* A module of one computation with one instruction. */
static struct proto module_of(const char *opcode, const char *target)
{
    struct proto instruction = {0}, computation = {0}, module = {0};

    field(&instruction, 1, "it", 2);
    field(&instruction, 2, opcode, strlen(opcode));
    if (target)
        field(&instruction, 28, target, strlen(target));
    field(&computation, 2, instruction.data, instruction.n);
    field(&module, 3, computation.data, computation.n);
    return module;
}

static uint16_t judge(const struct proto *p, size_t n, char *text, size_t bytes)
{
    text[0] = '\0';
    return vgpu_program_vet(true, p->data, n, text, bytes);
}

Test(vet, hlo)
{
    static const struct {
        const char *opcode, *target, *says; /* says: NULL where it passes */
    } cases[] = {
        {"add", NULL, NULL},
        {"custom-call", "Sharding", NULL},
        {"custom-call", "mhlo.erf", NULL},
        {"custom-call", "mhlo.erf2", "\"mhlo.erf2\""},
        {"custom-call", "mhlo.er", "\"mhlo.er\""},
        {"custom-call", "__gpu$xla.gpu.triton", "__gpu$xla.gpu.triton"},
        {"custom-call", "xla_python_gpu_callback", "xla_python_gpu_callback"},
        {"add", "__gpu$xla.gpu.triton", "__gpu$xla.gpu.triton"}, /* whatever the opcode says */
        {"custom-call", "a\nb\x1b[31m", "a?b?[31m"},
        {"fusion", NULL, "fusion"},
    };
    char text[200];

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct proto p = module_of(cases[i].opcode, cases[i].target);
        uint16_t status = judge(&p, p.n, text, sizeof(text));
        cr_expect_eq(status, cases[i].says ? VGPU_E_ARG : VGPU_OK, "%s %s: %u, %s", cases[i].opcode, cases[i].target,
                     status, text);
        cr_expect(!cases[i].says || strstr(text, cases[i].says), "\"%s\" does not say %s", text, cases[i].says);
    }
}

/* A second target, a second computation, and whatever ends too early. */
Test(vet, hlo_that_hides_something)
{
    struct proto instruction = {0}, computation = {0}, module = module_of("add", NULL);
    char text[200];

    field(&instruction, 28, "Sharding", 8);
    field(&instruction, 28, "evil", 4);
    field(&computation, 2, instruction.data, instruction.n);
    field(&module, 3, computation.data, computation.n);
    cr_expect_eq(judge(&module, module.n, text, sizeof(text)), VGPU_E_ARG);
    cr_expect(strstr(text, "\"evil\""), "%s", text);
    struct proto whole = module_of("add", NULL);
    for (size_t n = 0; n < whole.n; n++) {
        cr_expect_eq(judge(&whole, n, text, sizeof(text)), VGPU_E_ARG, "%zu of %zu bytes", n, whole.n);
        cr_expect_neq(text[0], '\0');
    }
}

/* Bits that protobuf's reader drops from a key: it would see a target here. */
Test(vet, hlo_with_a_key_too_long)
{
    static const char evil[] = "\xe2\x81\x80\x80\x10\x04"
                               "evil"; /* 28 << 3 | 2 | 1 << 32 */
    struct proto computation = {0}, module = {0};
    char text[200];

    field(&computation, 2, evil, sizeof(evil) - 1);
    field(&module, 3, computation.data, computation.n);
    cr_expect_eq(judge(&module, module.n, text, sizeof(text)), VGPU_E_ARG, "%s", text);
}

/*
 * stablehlo.custom_call @Sharding(%a) {mhlo.call_target = "evil"} : (tensor<4xf32>) -> tensor<4xf32>, as jaxlib's
 * serialize_portable_artifact() writes it for StableHLO 1.0.0.
 */
static const uint8_t call[] = {
    0x4d, 0x4c, 0xef, 0x52, 0x0d, 0x53, 0x74, 0x61, 0x62, 0x6c, 0x65, 0x48, 0x4c, 0x4f, 0x5f, 0x76, 0x31, 0x2e, 0x30,
    0x2e, 0x30, 0x00, 0x01, 0x19, 0x05, 0x01, 0x05, 0x09, 0x01, 0x03, 0x0b, 0x03, 0x07, 0x0f, 0x13, 0x17, 0x03, 0x37,
    0x21, 0x07, 0x01, 0x11, 0x0b, 0x13, 0x13, 0x13, 0x13, 0x0b, 0x13, 0x13, 0x03, 0x11, 0x0b, 0x0b, 0x0b, 0x0b, 0x0b,
    0x0b, 0x0b, 0x0b, 0x03, 0x07, 0x13, 0x17, 0x07, 0x02, 0x6d, 0x05, 0x0d, 0x17, 0x01, 0x03, 0x03, 0x17, 0x01, 0x03,
    0x15, 0x17, 0x01, 0x03, 0x35, 0x03, 0x03, 0x0b, 0x19, 0x05, 0x0f, 0x17, 0x01, 0x05, 0x0f, 0x17, 0x01, 0x07, 0x05,
    0x03, 0x01, 0x1d, 0x11, 0x23, 0x03, 0x1d, 0x13, 0x1d, 0x15, 0x0b, 0x03, 0x1d, 0x17, 0x05, 0x01, 0x29, 0x03, 0x11,
    0x05, 0x11, 0x03, 0x01, 0x03, 0x01, 0x09, 0x04, 0x4f, 0x05, 0x01, 0x50, 0x03, 0x01, 0x07, 0x04, 0x3f, 0x03, 0x01,
    0x05, 0x03, 0x50, 0x05, 0x03, 0x07, 0x04, 0x2b, 0x03, 0x05, 0x0b, 0x03, 0x03, 0x07, 0x00, 0x05, 0x47, 0x0d, 0x09,
    0x05, 0x03, 0x01, 0x03, 0x01, 0x07, 0x04, 0x0f, 0x03, 0x03, 0x06, 0x03, 0x01, 0x05, 0x01, 0x00, 0xd3, 0x19, 0x13,
    0x0b, 0x0b, 0x03, 0x23, 0x05, 0x15, 0x1f, 0x11, 0x0f, 0x0b, 0x11, 0x62, 0x75, 0x69, 0x6c, 0x74, 0x69, 0x6e, 0x00,
    0x76, 0x68, 0x6c, 0x6f, 0x00, 0x6d, 0x6f, 0x64, 0x75, 0x6c, 0x65, 0x00, 0x66, 0x75, 0x6e, 0x63, 0x5f, 0x76, 0x31,
    0x00, 0x63, 0x75, 0x73, 0x74, 0x6f, 0x6d, 0x5f, 0x63, 0x61, 0x6c, 0x6c, 0x5f, 0x76, 0x31, 0x00, 0x72, 0x65, 0x74,
    0x75, 0x72, 0x6e, 0x5f, 0x76, 0x31, 0x00, 0x2d, 0x00, 0x6d, 0x68, 0x6c, 0x6f, 0x2e, 0x63, 0x61, 0x6c, 0x6c, 0x5f,
    0x74, 0x61, 0x72, 0x67, 0x65, 0x74, 0x00, 0x00, 0x6d, 0x61, 0x69, 0x6e, 0x00, 0x65, 0x76, 0x69, 0x6c, 0x00, 0x53,
    0x68, 0x61, 0x72, 0x64, 0x69, 0x6e, 0x67, 0x00, 0x08, 0x27, 0x07, 0x05, 0x01, 0x01, 0x0b, 0x11, 0x15, 0x11, 0x17,
    0x13, 0x11, 0x1b, 0x13, 0x1d, 0x11, 0x1f, 0x11, 0x11, 0x11,
};

/* The attributes beside a custom call's properties: MLIR takes one with a property's name for the property. */
Test(vet, mlir_target_named_twice)
{
    static const char other[] = "mhlo.call_target", target[] = "call_target_name";
    uint8_t code[sizeof(call)];
    char text[200] = "";

    cr_expect_eq(vgpu_program_vet(false, call, sizeof(call), text, sizeof(text)), VGPU_OK, "%s", text);
    memcpy(code, call, sizeof(call));
    uint8_t *at = memmem(code, sizeof(code), other, sizeof(other));
    cr_assert(at && sizeof(other) == sizeof(target));
    memcpy(at, target, sizeof(target));
    cr_expect_eq(vgpu_program_vet(false, code, sizeof(code), text, sizeof(text)), VGPU_E_ARG);
    cr_expect(strstr(text, "beside its properties"), "%s", text);
    for (size_t n = 0; n < sizeof(call); n++)
        cr_expect_eq(vgpu_program_vet(false, call, n, text, sizeof(text)), VGPU_E_ARG, "%zu of %zu bytes", n,
                     sizeof(call));
}
