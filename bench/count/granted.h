/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Regions of the Xen transport for vgpu-bench-steps: granted by libvgpu's half, mapped by vgpud's and by an executor's, all
 * in one process over tests/fake-xen. The handshake waits by the clock, for longer than any of its intervals, so that it
 * takes the same steps each time. One thread.
 */
#ifndef VGPU_BENCH_GRANTED_H
#define VGPU_BENCH_GRANTED_H

#include "bench/path/rig.h"

/* rig_params.memory: domain slot + 1 attaches. */
int granted_open(uint32_t slot, const struct vgpu_region_header *layout, struct rig_memory *out, struct vgpu_err *err);
/* Between these two: was no function of Xen's libraries called that grants, maps, sends or reads? Says so if not. */
void granted_begin(void);
bool granted_end(void);
/* Once the rig is closed. */
void granted_close(void);

#endif
