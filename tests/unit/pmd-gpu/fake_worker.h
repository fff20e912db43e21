/* SPDX-License-Identifier: Apache-2.0 */
/* What fake_worker.c and programs_test.c agree on. */
#ifndef VGPU_TESTS_FAKE_WORKER_H
#define VGPU_TESTS_FAKE_WORKER_H

#include <stdint.h>

/* Programs, by what their execution does. */
enum { FAKE_OK = 1, FAKE_HANG, FAKE_DIE, FAKE_SLOW, FAKE_LIE, FAKE_FLOOD, FAKE_GATE, FAKE_SCRIBBLE };
#define FAKE_SLOW_US 3000
#define FAKE_KEEPS (4u << 20) /* bytes of its one tensor, at most */
#define FAKE_GATE_OFF 60000 /* in the arena: a word that FAKE_GATE waits for */

struct fake_span {
    uint64_t from_ns, to_ns;
};

#endif
