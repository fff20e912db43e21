/* SPDX-License-Identifier: Apache-2.0 */
/* Slowdowns planted into the data path, one at a time: what the gate and the comparison must notice. */
#ifndef VGPU_BENCH_PLANTED_H
#define VGPU_BENCH_PLANTED_H

enum planted {
    PLANTED_NOTHING = 0,
    PLANTED_WORK = 1,  /* some 10 % more instructions a descriptor */
    PLANTED_FENCE = 2, /* a full fence a descriptor */
    PLANTED_LINE = 3,  /* a cache line more, dirtied, a descriptor */
};
/* Set between measurements by the only thread there is. */
extern enum planted planted;

#endif
