/* SPDX-License-Identifier: Apache-2.0 */
/* The file that callcount.c writes, and a test reads while the program runs. */
#ifndef VGPU_TESTS_CALLCOUNT_H
#define VGPU_TESTS_CALLCOUNT_H

#include <stdbool.h>
#include <stdint.h>

enum callcount_kind { CALLCOUNT_ALLOCATION, CALLCOUNT_LOCK, CALLCOUNT_SYSTEM_CALL, CALLCOUNT_YIELD, CALLCOUNT_KINDS };
#define CALLCOUNT_NAMES {"allocations", "locks", "system calls", "yields"}
#define CALLCOUNT_THREADS 256u

/* Of one thread; from its first counted call on. */
struct callcount_thread {
    int32_t pid, tid;
    uint64_t calls[CALLCOUNT_KINDS];
};
struct callcount_file {
    uint32_t used;
    struct callcount_thread threads[CALLCOUNT_THREADS];
};

#endif
