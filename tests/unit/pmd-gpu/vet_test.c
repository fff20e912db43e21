/* SPDX-License-Identifier: Apache-2.0 */
/* Which HLO gets past the judge. MLIR bytecode, which no one writes by hand: fuzz target `program` and suite ml. */
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
        cr_expect_eq(status, cases[i].says ? VGPU_E_ARG : VGPU_OK, "%s %s: %u, %s", cases[i].opcode, cases[i].target, status,
                     text);
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
