/* SPDX-License-Identifier: Apache-2.0 */
/* What was measured, under which parameters, and the tables and goals made of it. Main thread. */
#ifndef VGPU_BENCH_RINGS_REPORT_H
#define VGPU_BENCH_RINGS_REPORT_H

#include "bench/rings/rings.h"

#define RING_PARAMS_BYTES 96
#define RING_BURSTS_MAX   6u
#define RING_IDLE_COUNTS  5u
#define RING_IDLE_SLOTS   64u
#define FAN_BURSTS        2u

/* What --ring-slots and --burst ask for; set before the first round. */
extern uint32_t ring_slots, ring_bursts[RING_BURSTS_MAX], ring_burst_count;
extern const uint32_t ring_idle_counts[RING_IDLE_COUNTS];
extern const uint32_t fan_bursts[FAN_BURSTS];

static inline const char *ring_params(char *text)
{
    snprintf(text, RING_PARAMS_BYTES, "{\"slots\":%u}", ring_slots);
    return text;
}
static inline const char *ring_burst_params(char *text, uint32_t burst)
{
    snprintf(text, RING_PARAMS_BYTES, "{\"slots\":%u,\"burst\":%u}", ring_slots, burst);
    return text;
}
static inline const char *idle_params(char *text, uint32_t rings)
{
    snprintf(text, RING_PARAMS_BYTES, "{\"slots\":%u,\"rings\":%u}", RING_IDLE_SLOTS, rings);
    return text;
}
static inline const char *fan_params(char *text, uint32_t producers, uint32_t threads, uint32_t burst)
{
    snprintf(text, RING_PARAMS_BYTES, "{\"slots\":%u,\"producers\":%u,\"threads\":%u,\"burst\":%u}", ring_slots,
             producers, threads, burst);
    return text;
}
/* Producers in the largest fan-in that this machine is asked for; at least 2. */
static inline uint32_t ring_fan_producers(const struct bench *b)
{
    uint32_t producers = b->n_cores > 3 ? (uint32_t)b->n_cores - 1 : 2;

    return producers < RING_FAN_MAX ? producers : RING_FAN_MAX;
}
static inline uint32_t ring_fan_threads(const struct bench *b, uint32_t producers)
{
    uint32_t cores = b->n_cores > 1 ? (uint32_t)b->n_cores - 1 : 1;

    return producers < cores ? producers : cores;
}

void ring_report(struct bench *b); /* prints, and records goals as rows of rings.goal */

#endif
