/* SPDX-License-Identifier: Apache-2.0 */
/* What the native tenant and its kernels (peer.cu) read from each other. */
#ifndef VGPU_BENCH_PEER_H
#define VGPU_BENCH_PEER_H

#include <stdint.h>

/* vadd<<<ceil(n / 4 / 256), 256>>>(a, b, c, n): four floats a thread, so that large n runs at the memory's speed. */
#define PEER_KERNEL_VADD     "vgpu_peer_vadd"
#define PEER_VADD_PER_THREAD 4u
/* resident<<<1, 32>>>(word, answer, a, b, c, n): answers each new *word, after adding n floats; ends at PEER_STOP. */
#define PEER_KERNEL_RESIDENT "vgpu_peer_resident"
#define PEER_STOP            UINT32_MAX

#endif
