/* SPDX-License-Identifier: Apache-2.0 */
#define FAN_STAMP_EVERY RING_POOL
#include "bench/rings/fan_vgpu.h"

#define FAN_SUBJECT fan_ours
#define FAN_NAME    "vgpu-fanin"
#define FAN_WHAT    "one rings/spsc.h ring per producer, merged by arrival stamp, a stamp per pass of 32"
#define FAN_KIND    RING_OURS
#include "bench/rings/fan_template.h"
