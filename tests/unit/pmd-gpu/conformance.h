/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The conformance test of GPU backends: one set of cases over an ops table, run for every backend. A backend adds a
 * subject (subjects.c) and a file like conformance_cpu_test.c; conformance_main.c runs the same cases without Criterion.
 *
 * How a case judges: the rig keeps a shadow of every arena and of the device heap. An operation is applied to the
 * shadow in float64, the device's result is compared within the tolerance stated beside each reference, and then every
 * byte of every arena and of the heap must equal the shadow: what an operation should not touch, it did not.
 */
#ifndef VGPU_TESTS_CONFORMANCE_H
#define VGPU_TESTS_CONFORMANCE_H

#include "pmd-gpu/backend.h"

struct conformance_subject {
    const char *name;         /* of the subject: the backend's, or "BACKEND:WAY" */
    const char *backend;
    const char *options;
    const char *options_from; /* environment variable with options to add; NULL: none */
    bool computes;     /* operations have their effects; false (null): they must have none */
    bool strict_order; /* one operation at a time: completions come in the order of execution */
    bool by_priority;  /* and that order is by priority, then by submit */
    bool sliced;       /* an urgent operation overtakes one that runs already */
    bool serves_debug;
    bool asynchronous; /* the device works on its own; poll does not run anything, and a poll may find nothing */
    bool bounced;      /* arenas are reached through copies only */
    uint32_t random_ops;    /* length of the random mix */
    uint32_t region_rounds; /* how often regions come and go: the dear part on a real device */
    uint64_t seed;
};

#define CONFORMANCE_CASES(X)                                                                                           \
    X(open_close)                                                                                                      \
    X(nothing_written)                                                                                                 \
    X(fill)                                                                                                            \
    X(copy)                                                                                                            \
    X(mem_alloc)                                                                                                       \
    X(vector_add)                                                                                                      \
    X(axpy)                                                                                                            \
    X(reduce)                                                                                                          \
    X(gemm_f32)                                                                                                        \
    X(gemm_bf16)                                                                                                       \
    X(gemm_empty)                                                                                                      \
    X(gemm_beta_zero_ignores_dst)                                                                                      \
    X(gemm_large)                                                                                                      \
    X(edges)                                                                                                           \
    X(unsupported)                                                                                                     \
    X(refused_comes_back)                                                                                              \
    X(fifo_chain)                                                                                                      \
    X(fifo_across_priority_and_queue)                                                                                  \
    X(barriers)                                                                                                        \
    X(independent)                                                                                                     \
    X(priorities)                                                                                                      \
    X(urgent_overtakes_running)                                                                                        \
    X(queues_share_time)                                                                                               \
    X(full)                                                                                                            \
    X(exactly_once)                                                                                                    \
    X(regions)                                                                                                         \
    X(many_vms)                                                                                                        \
    X(two_devices_two_threads)                                                                                         \
    X(fresh_data)                                                                                                      \
    X(engines_share_data)                                                                                              \
    X(unaligned)                                                                                                       \
    X(regions_come_and_go)                                                                                             \
    X(leaving)                                                                                                         \
    X(mixed_sizes)                                                                                                     \
    X(sampled)                                                                                                         \
    X(random_mix)

/* Cases that only run when named. */
#define CONFORMANCE_NAMED_CASES(X) X(huge)

#define CONFORMANCE_DECLARE(name) void conformance_##name(const struct conformance_subject *s);
CONFORMANCE_CASES(CONFORMANCE_DECLARE)
CONFORMANCE_NAMED_CASES(CONFORMANCE_DECLARE)

/* Ends the case as failed. Provided by conformance_criterion.c or conformance_main.c. */
_Noreturn void conformance_fail(const char *file, int line, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#define CHECK(cond, ...)                                                                                               \
    do {                                                                                                               \
        if (!(cond))                                                                                                   \
            conformance_fail(__FILE__, __LINE__, __VA_ARGS__);                                                         \
    } while (0)

#endif
