/* SPDX-License-Identifier: Apache-2.0 */
#define VGPU_QUEUE_READ_ONLY !vgpu_ring_ownership_pays()
#include "bench/rings/vgpu_queue.h"

#define SUBJECT      ring_ours
#define SUBJECT_NAME "vgpu"
#define SUBJECT_WHAT "rings/spsc.h, bare (between our own processes), as it is set up on this CPU"
#define SUBJECT_KIND RING_OURS
#include "bench/rings/template.h"
