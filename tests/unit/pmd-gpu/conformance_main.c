/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The conformance cases as a plain program: for sanitizers, and for machines without Criterion.
 *   conformance SUBJECT [CASE...]     VGPU_TEST_SEED and VGPU_TEST_OPS change the random mix, VGPU_TEST_ROUNDS how
 *                                     often regions come and go
 * The last line is "N passed, N failed". Exit 77: the subject cannot run on this machine, and why.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/clock.h"
#include "tests/unit/pmd-gpu/subjects.h"

static const char *running = "";
static unsigned passed;
static struct conformance_subject subject;

_Noreturn void conformance_fail(const char *file, int line, const char *fmt, ...)
{
    va_list ap;

    printf("FAIL %s %s (seed %" PRIu64 "): %s:%d: ", subject.name, running, subject.seed, file, line);
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    printf("\n%u passed, 1 failed\n", passed);
    fflush(stdout);
    _Exit(1);
}

static const struct {
    const char *name;
    void (*run)(const struct conformance_subject *s);
} cases[] = {
#define CASE(name) {#name, conformance_##name},
    CONFORMANCE_CASES(CASE) CONFORMANCE_NAMED_CASES(CASE)};

#define CASE_COUNT (sizeof(cases) / sizeof(cases[0]))
#define BY_DEFAULT (CASE_COUNT - (sizeof((const char[]){CONFORMANCE_NAMED_CASES(ONE)})))
#define ONE(name) 0,

static int usage(void)
{
    fprintf(stderr, "usage: conformance SUBJECT [CASE...], SUBJECT one of:");
    for (const struct conformance_subject *s = conformance_subjects; s->name; s++)
        fprintf(stderr, " %s", s->name);
    fprintf(stderr, "\nCASE one of:");
    for (size_t i = 0; i < CASE_COUNT; i++)
        fprintf(stderr, " %s%s", cases[i].name, i < BY_DEFAULT ? "" : " (only when named)");
    fprintf(stderr, "\n");
    return 2;
}

/* Is there such a device at all? Whatever else is wrong with it the cases find. */
static bool can_run(void)
{
    const struct vgpu_backend_ops *ops = vgpu_backend_find(subject.backend);
    struct vgpu_backend_config config = {.max_vms = 1, .queues = 1, .max_in_flight = 1, .options = subject.options};
    struct vgpu_backend *b;
    struct vgpu_err err = {0};

    if (!ops) {
        printf("this build has no backend \"%s\"; it has: %s\n", subject.backend, vgpu_backend_names());
        return false;
    }
    int rc = ops->open(&config, &b, &err);
    if (rc == 0)
        ops->close(b);
    if (rc == -ENODEV || rc == -ENOENT)
        printf("%s\n", err.text);
    return rc != -ENODEV && rc != -ENOENT;
}

static void run_case(size_t i)
{
    uint64_t start = vgpu_now_ns();

    running = cases[i].name;
    cases[i].run(&subject);
    printf("ok %s %s %.0f ms\n", subject.name, running, (double)(vgpu_now_ns() - start) / 1e6);
    fflush(stdout);
    passed++;
}

int main(int argc, char **argv)
{
    const struct conformance_subject *found = argc > 1 ? conformance_subject_find(argv[1]) : NULL;
    const char *seed = getenv("VGPU_TEST_SEED"), *ops = getenv("VGPU_TEST_OPS"), *rounds = getenv("VGPU_TEST_ROUNDS");

    if (!found)
        return usage();
    subject = *found;
    if (seed)
        subject.seed = strtoull(seed, NULL, 0);
    if (ops)
        subject.random_ops = (uint32_t)strtoul(ops, NULL, 0);
    if (rounds)
        subject.region_rounds = (uint32_t)strtoul(rounds, NULL, 0);
    vgpu_clock_init();
    if (!can_run())
        return 77;
    for (size_t i = 0; i < CASE_COUNT; i++) {
        bool wanted = argc == 2 && i < BY_DEFAULT;
        for (int a = 2; a < argc; a++)
            wanted |= strcmp(argv[a], cases[i].name) == 0;
        if (wanted)
            run_case(i);
    }
    if (passed == 0 || (argc > 2 && passed != (unsigned)argc - 2)) {
        fprintf(stderr, "conformance: %u of %d named cases exist\n", passed, argc - 2);
        return usage();
    }
    printf("%u passed, 0 failed\n", passed);
    return 0;
}
