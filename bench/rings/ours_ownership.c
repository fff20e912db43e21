/* SPDX-License-Identifier: Apache-2.0 */
#define VGPU_QUEUE_READ_ONLY false
#include "bench/rings/vgpu_queue.h"

#define SUBJECT      ring_ours_ownership
#define SUBJECT_NAME "vgpu-own"
#define SUBJECT_WHAT "rings/spsc.h always with the ownership store"
#define SUBJECT_KIND RING_OURS
#include "bench/rings/template.h"
