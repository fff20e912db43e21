/* SPDX-License-Identifier: Apache-2.0 */
/* The suite `hops`: where a descriptor's time goes, at which percentile; and what recording that costs. */
#ifndef VGPU_BENCH_HOPS_H
#define VGPU_BENCH_HOPS_H

#include "bench/harness.h"

int bench_hops_run(struct bench *b);
void bench_hops_list(FILE *to);

#endif
