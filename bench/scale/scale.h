/* SPDX-License-Identifier: Apache-2.0 */
/* The suite `scale`: what a descriptor and an idle VM cost with ever more VMs attached. Main thread. */
#ifndef VGPU_BENCH_SCALE_H
#define VGPU_BENCH_SCALE_H

#include "bench/harness.h"

int bench_scale_run(struct bench *b);
void bench_scale_list(FILE *to);

#endif
