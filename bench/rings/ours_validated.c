/* SPDX-License-Identifier: Apache-2.0 */
#define VGPU_QUEUE_READ_ONLY !vgpu_ring_ownership_pays()
#define VGPU_QUEUE_VALIDATE
#include "bench/rings/vgpu_queue.h"

#define SUBJECT      ring_ours_validated
#define SUBJECT_NAME "vgpu+validate"
#define SUBJECT_WHAT "the same, each descriptor judged by vgpu_validate() (from a guest)"
#define SUBJECT_KIND RING_OURS
#include "bench/rings/template.h"
