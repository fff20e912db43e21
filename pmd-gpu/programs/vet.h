/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Looks at a program before anything else does: which custom calls does it make? The second wall, behind the worker's
 * own process: a custom call reaches code that a guest has no business with (PTX of its own, callbacks into files).
 */
#ifndef VGPU_PMD_GPU_PROGRAMS_VET_H
#define VGPU_PMD_GPU_PROGRAMS_VET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* VGPU_OK; VGPU_E_ARG with the reason in `text`: not of this form, or a custom call that is not on the list. `code` is
 * private memory. Any thread; bounded by `bytes`. */
uint16_t vgpu_program_vet(bool hlo, const uint8_t *code, uint64_t bytes, char *text, size_t text_bytes);

#endif
