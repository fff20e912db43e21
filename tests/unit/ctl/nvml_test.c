/* SPDX-License-Identifier: Apache-2.0 */
/* What comes of NVML when it answers, refuses, hangs, dies, or is not there (libraries of nvml_fakes.c). */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/precheck.h"

static char *ask(const char *fake, uint32_t timeout_ms)
{
    char name[512];

    snprintf(name, sizeof(name), "%s/libnvml-%s.so", VGPU_TEST_FAKES, fake);
    char *text = vgpu_nvml_ask(name, timeout_ms);
    cr_assert_not_null(text);
    return text;
}

static void says(const char *fake, uint32_t timeout_ms, const char *start, const char *words)
{
    char *text = ask(fake, timeout_ms);

    cr_expect_eq(strncmp(text, start, strlen(start)), 0, "%s: %s", fake, text);
    cr_expect(strstr(text, words), "%s: %s", fake, text);
    free(text);
}

Test(nvml, answers)
{
    says("good", 20000, "pci=0000:41:00.0 driver=580.65.06 cuda=13000", "\n");
    char *text = ask("empty", 20000);
    cr_expect_str_eq(text, "");
    free(text);
}

Test(nvml, refuses)
{
    says("mismatch", 20000, "error=18 ", "text=Driver/library version mismatch");
}

Test(nvml, hangs_and_dies)
{
    says("hangs", 50, "error=999 ", "does not answer");
    says("crashes", 20000, "error=999 ", "crashed");
}

Test(nvml, is_not_there)
{
    says("other", 20000, "error=999 ", "lacks nvmlInit_v2");
    says("nowhere", 20000, "error=10000 ", "nowhere");
}
