/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Programs and tensors of the fake host. A program's first byte is its number of outputs, each f32[2], {index, inputs}; its
 * second, what goes wrong. A piece of a tensor that begins with 0xee fails.
 */
#ifndef VGPU_TESTS_FAKE_PROGRAMS_H
#define VGPU_TESTS_FAKE_PROGRAMS_H

#include "rings/opcode.h"

enum { FAKE_PROGRAM_OK = 0, FAKE_PROGRAM_NO_SIGNATURE, FAKE_PROGRAM_FAILS, FAKE_PROGRAM_REFUSED };
#define FAKE_PIECE_FAILS 0xee
#define FAKE_ABOUT       "platform=none\ndevice=a made-up device\nstablehlo_current_version=1.7.9\n"

uint16_t fake_program(const struct vgpu_work *w, uint8_t *arena, uint64_t *value);

/* Another host takes over: nothing is there. */
void fake_programs_reset(void);
/* What the host holds now; exact while the guest has nothing outstanding. */
uint32_t fake_programs_held(void);
uint32_t fake_tensors_held(void);

#endif
