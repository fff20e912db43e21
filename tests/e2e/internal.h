/* SPDX-License-Identifier: Apache-2.0 */
/* Between the runner (harness.c) and the test process (host.c). */
#ifndef VGPU_TESTS_E2E_INTERNAL_H
#define VGPU_TESTS_E2E_INTERNAL_H

#include "harness.h"

/* Shared between the runner and the test's process. */
struct e2e_shared {
    char dir[E2E_PATH_BYTES]; /* of the running test */
    char skip[512];           /* why it skips */
    long hugepages_to;        /* set nr_hugepages to this - 1 after the test; 0: leave it */
};
extern struct e2e_shared *e2e_shared;

#endif
