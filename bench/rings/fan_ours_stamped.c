/* SPDX-License-Identifier: Apache-2.0 */
#define FAN_STAMP_EVERY 1u
#include "bench/rings/fan_vgpu.h"

#define FAN_SUBJECT fan_ours_stamped
#define FAN_NAME    "vgpu-fanin-stamped"
#define FAN_WHAT    "the same, every push reads the clock"
#define FAN_KIND    RING_OURS
#include "bench/rings/fan_template.h"
