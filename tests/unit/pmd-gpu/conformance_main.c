/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The conformance cases as a plain program: for sanitizers, and for machines without Criterion.
 *   conformance BACKEND [CASE...]     VGPU_TEST_SEED and VGPU_TEST_OPS change the random mix
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/clock.h"
#include "tests/unit/pmd-gpu/subjects.h"

static const char *running = "";
static struct conformance_subject subject;

_Noreturn void conformance_fail(const char *file, int line, const char *fmt, ...)
{
    va_list ap;

    printf("FAIL %s %s (seed %" PRIu64 "): %s:%d: ", subject.backend, running, subject.seed, file, line);
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    printf("\n");
    fflush(stdout);
    _Exit(1);
}

static const struct {
    const char *name;
    void (*run)(const struct conformance_subject *s);
} cases[] = {
#define CASE(name) {#name, conformance_##name},
    CONFORMANCE_CASES(CASE)};

#define CASE_COUNT (sizeof(cases) / sizeof(cases[0]))

int main(int argc, char **argv)
{
    const struct conformance_subject *found = argc > 1 ? conformance_subject_find(argv[1]) : NULL;
    const char *seed = getenv("VGPU_TEST_SEED"), *ops = getenv("VGPU_TEST_OPS");
    unsigned ran = 0;

    if (!found) {
        fprintf(stderr, "usage: conformance BACKEND [CASE...], BACKEND one of:");
        for (const struct conformance_subject *s = conformance_subjects; s->backend; s++)
            fprintf(stderr, " %s", s->backend);
        fprintf(stderr, "\n");
        return 2;
    }
    subject = *found;
    if (seed)
        subject.seed = strtoull(seed, NULL, 0);
    if (ops)
        subject.random_ops = (uint32_t)strtoul(ops, NULL, 0);
    for (size_t i = 0; i < CASE_COUNT; i++) {
        bool wanted = argc == 2;
        for (int a = 2; a < argc; a++)
            wanted |= strcmp(argv[a], cases[i].name) == 0;
        if (!wanted)
            continue;
        uint64_t start = vgpu_now_ns();
        running = cases[i].name;
        cases[i].run(&subject);
        printf("ok %s %s %.0f ms\n", subject.backend, running, (double)(vgpu_now_ns() - start) / 1e6);
        fflush(stdout);
        ran++;
    }
    if (ran == 0 || (argc > 2 && ran != (unsigned)argc - 2)) {
        fprintf(stderr, "conformance: %u of %d named cases exist\n", ran, argc - 2);
        return 2;
    }
    return 0;
}
