/* SPDX-License-Identifier: Apache-2.0 */
#define VGPU_QUEUE_READ_ONLY true
#include "bench/rings/vgpu_queue.h"

#define SUBJECT      ring_ours_read_only
#define SUBJECT_NAME "vgpu-ro"
#define SUBJECT_WHAT "rings/spsc.h never with the ownership store (also: slots mapped read-only)"
#define SUBJECT_KIND RING_OURS
#include "bench/rings/template.h"
