/* SPDX-License-Identifier: Apache-2.0 */
/* The executor of the fake host: each operation done plainly, in order, in the calling thread. */
#ifndef VGPU_TESTS_FAKE_EXEC_H
#define VGPU_TESTS_FAKE_EXEC_H

#include "rings/opcode.h"

/* Runs a validated item. Returns its status; *value is the completion's. */
uint16_t fake_execute(const struct vgpu_work *w, uint8_t *arena, uint8_t *heap, uint64_t *value);

#endif
