/* SPDX-License-Identifier: Apache-2.0 */
/* Descriptors through the whole path in one thread: nothing waits, so nothing depends on who else runs. */
#ifndef VGPU_BENCH_BURST_H
#define VGPU_BENCH_BURST_H

#include "bench/path/rig.h"

#define BURST_MAX 32u
#define BURST_SLOTS 1024u

/*
 * One burst of one VM, there and back; the calling thread plays guest and poll core (in_process) and is registered with
 * RCU. opcode: NOP, or one that does not exist. n: at most BURST_MAX. False: something is lost or wrong.
 */
bool burst_run(struct rig *rig, struct rig_guest *g, uint32_t opcode, uint32_t n);
/* The same from each of the first `vms` guests at once. */
bool burst_run_all(struct rig *rig, uint32_t vms, uint32_t n);

#endif
