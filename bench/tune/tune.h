/* SPDX-License-Identifier: Apache-2.0 */
/* The suite `tune`: what the choices of docs/tuning.md change. Main thread. */
#ifndef VGPU_BENCH_TUNE_H
#define VGPU_BENCH_TUNE_H

#include "bench/harness.h"

int bench_tune_run(struct bench *b);
void bench_tune_list(FILE *to);

#endif
