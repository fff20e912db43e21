/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What looks at programs before a compiler does: it ends, stays inside the bytes, and a verdict comes with a reason. The
 * first byte says which form. The corpus has artifacts that JAX wrote: an addition, a QR decomposition (two custom calls),
 * an error function.
 */
#include "pmd-gpu/programs/vet.h"

#include "fuzz.h"
#include "rings/abi/vgpu_abi.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    char text[64] = "";

    if (bytes == 0)
        return 0;
    uint8_t *code = malloc(bytes); /* exactly as long: AddressSanitizer sees the first byte beyond */
    if (!code)
        abort();
    memcpy(code, data + 1, bytes - 1);
    uint16_t status = vgpu_program_vet(data[0] & 1, code, bytes - 1, text, sizeof(text));
    fuzz_check(status == VGPU_OK || (status == VGPU_E_ARG && text[0]), "status %u, \"%s\"", status, text);
    fuzz_check(memchr(text, 0, sizeof(text)) != NULL, "a text without an end");
    free(code);
    return 0;
}
