/* SPDX-License-Identifier: Apache-2.0 */
/* The suite `control`: what administrators wait for, and what guests notice of them. Main thread. */
#ifndef VGPU_BENCH_CONTROL_H
#define VGPU_BENCH_CONTROL_H

#include "bench/harness.h"

int bench_control_run(struct bench *b);
void bench_control_list(FILE *to);

#endif
