/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/unit/pmd-gpu/conformance.h"

_Noreturn void conformance_fail(const char *file, int line, const char *fmt, ...)
{
    char text[512];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (gettid() != getpid()) { /* Criterion's way out works in a test's first thread only */
        fprintf(stderr, "%s:%d: %s\n", file, line, text);
        abort();
    }
    cr_assert(0, "%s:%d: %s", file, line, text);
    abort(); /* not reached */
}
