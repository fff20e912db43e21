/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/pmd-gpu/subjects.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SEED 20261120u
/* An asynchronous device: completions come when they come, in the order of submit for each VM alone. Its deadline is long: what
 * stands for the device may be a thread that a crowded machine keeps from its CPU for longer than the default's ten seconds. */
#define CUDA(engine, more, number)                                                                                     \
    .backend = "cuda", .options = "deadline_ms=90000,engine=" engine more, .options_from = "VGPU_TEST_CUDA_OPTIONS",   \
    .computes = true, .serves_debug = true, .asynchronous = true, .random_ops = 100000, .region_rounds = 300,          \
    .seed = SEED + (number)

const struct conformance_subject conformance_subjects[] = {
    {.name = "null",
     .backend = "null",
     .options = "",
     .strict_order = true,
     .random_ops = 100000,
     .region_rounds = 1000,
     .seed = SEED},
    {.name = "cpu",
     .backend = "cpu",
     .options = "",
     .computes = true,
     .strict_order = true,
     .by_priority = true,
     .sliced = true,
     .random_ops = 200000,
     .region_rounds = 1000,
     .seed = SEED + 1},
    {.name = "fault:null",
     .backend = "fault:null",
     .options = "",
     .strict_order = true,
     .serves_debug = true,
     .random_ops = 100000,
     .region_rounds = 1000,
     .seed = SEED + 2},
    {.name = "fault:cpu",
     .backend = "fault:cpu",
     .options = "",
     .computes = true,
     .strict_order = true,
     .by_priority = true,
     .sliced = true,
     .serves_debug = true,
     .random_ops = 100000,
     .region_rounds = 1000,
     .seed = SEED + 3},
    {.name = "cuda:auto", CUDA("auto", "", 4)},
    {.name = "cuda:stream", CUDA("stream", "", 5)},
    {.name = "cuda:batch", CUDA("batch", "", 6)},
    {.name = "cuda:resident", CUDA("resident", "", 7)},
    {.name = "cuda:pools", CUDA("auto", ",partition=pools", 9)},
    {.name = "cuda:bounce", CUDA("auto", ",register=0", 8), .bounced = true},
    {0},
};

static struct conformance_subject completed;
static char completed_options[512];

const struct conformance_subject *conformance_subject_find(const char *name)
{
    for (const struct conformance_subject *s = conformance_subjects; s->name; s++) {
        if (strcmp(s->name, name) != 0)
            continue;
        const char *more = s->options_from ? getenv(s->options_from) : NULL;
        completed = *s;
        snprintf(completed_options, sizeof(completed_options), "%s%s%s", s->options, more && *more ? "," : "",
                 more ? more : "");
        completed.options = completed_options;
        return &completed;
    }
    return NULL;
}
