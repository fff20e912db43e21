/* SPDX-License-Identifier: Apache-2.0 */
/* The conformance cases as Criterion tests: a file per backend defines SUITE and BACKEND and includes this. */
#include <criterion/criterion.h>

#include "tests/unit/pmd-gpu/subjects.h"

#define CONFORMANCE_TEST_OF(suite, name)                                                                               \
    Test(suite, name)                                                                                                  \
    {                                                                                                                  \
        const struct conformance_subject *s = conformance_subject_find(BACKEND);                                       \
        cr_assert(s, "no subject %s", BACKEND);                                                                        \
        conformance_##name(s);                                                                                         \
    }
#define CONFORMANCE_TEST(name) CONFORMANCE_TEST_OF(SUITE, name)
CONFORMANCE_CASES(CONFORMANCE_TEST)
