/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/pmd-gpu/subjects.h"

#include <string.h>

#define SEED 20261120u

const struct conformance_subject conformance_subjects[] = {
    {.backend = "null", .options = "", .strict_order = true, .random_ops = 100000, .seed = SEED},
    {.backend = "cpu",
     .options = "",
     .computes = true,
     .strict_order = true,
     .by_priority = true,
     .sliced = true,
     .random_ops = 200000,
     .seed = SEED + 1},
    {.backend = "fault:null",
     .options = "",
     .strict_order = true,
     .serves_debug = true,
     .random_ops = 100000,
     .seed = SEED + 2},
    {.backend = "fault:cpu",
     .options = "",
     .computes = true,
     .strict_order = true,
     .by_priority = true,
     .sliced = true,
     .serves_debug = true,
     .random_ops = 100000,
     .seed = SEED + 3},
    {0},
};

const struct conformance_subject *conformance_subject_find(const char *backend)
{
    for (const struct conformance_subject *s = conformance_subjects; s->backend; s++)
        if (strcmp(s->backend, backend) == 0)
            return s;
    return NULL;
}
