/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an execution costs through libvgpu beside the same program run natively through the same PJRT plugin. Two sides of one
 * interface; overhead.py starts a process of each and has them measure by turns.
 */
#ifndef VGPU_BENCH_PROGRAMS_OVERHEAD_H
#define VGPU_BENCH_PROGRAMS_OVERHEAD_H

#include <stdint.h>

#include "guest-lib/examples/tensors.h"

#define OVERHEAD_DEPTH_MAX 16u

struct overhead_bundle {
    const char *directory;
    struct ex_tensors weights, inputs, expected;
    uint32_t n_in;     /* inputs of the first batch: it alone is run */
    int inputs_first;  /* before the weights */
};

/* Each call: 0 and, where it has one, a number; or -errno after saying why. */
struct overhead_side {
    const char *name;
    int (*open)(const char *bundle, const char *plugin, const char *client); /* loads the program */
    int (*put)(const struct overhead_bundle *b);                             /* weights and inputs */
    /* Runs once and waits, all inputs on the device. ns: from the call to the outputs being there; their end is not timed. */
    int (*once)(uint64_t *ns);
    /* As many as fit into the time, `depth` of them in flight. */
    int (*load)(double seconds, uint32_t depth, double *per_s);
    /* Copies output i of one execution to `to`. */
    int (*output)(uint32_t i, const struct vgpu_tensor **shape, void **data);
    uint32_t (*outputs)(void);
};
extern const struct overhead_side overhead_guest, overhead_native;

#endif
