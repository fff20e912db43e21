/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a ring under test offers, and the bed that it is measured on. Each subject is one source file: it defines its
 * queue and includes template.h (point to point) or fan_template.h (many producers), which generates the loops around
 * it, so that every subject is inlined into the same loops and measured the same way.
 */
#ifndef VGPU_BENCH_RINGS_H
#define VGPU_BENCH_RINGS_H

#include "bench/harness.h"
#include "rings/opcode.h"
#include "rings/spsc.h"

#ifdef __cplusplus
extern "C" {
#endif

int bench_rings_run(struct bench *b);
void bench_rings_list(FILE *to);

#define RING_SLOTS   1024u
#define RING_POOL    32u /* elements prepared by a producer; bursts divide it */
#define RING_FAN_MAX 4u
/*
 * A stream is timed in windows of this many elements, and its rate is that of the median window: a window in which one
 * of the two threads was not running says something about the machine's other work, nothing about the ring.
 */
#define RING_WINDOW       1024u
#define RING_WINDOW_SCALE 64u /* a window counts in the histogram as ticks per element, times this */

/* One measurement: what the loops share. Lines of their own for what is written while it runs. */
struct ring_bed {
    struct bench_mem *mem;
    uint32_t slots;
    uint32_t burst;
    uint32_t producers; /* fan-in */
    uint32_t threads;   /* fan-in: producing threads, 1..producers */
    uint64_t ticks;     /* how long to run */
    void *state;        /* the subject's, from setup */
    /* Results, of the side that measures. */
    struct bench_hist *hist; /* round trips in ticks, or windows */
    uint64_t count;
    uint64_t took;   /* ticks */
    uint64_t errors; /* elements that did not arrive unchanged and in order */
    uint32_t stop VGPU_ALIGNED(128);
    struct {
        uint64_t total; /* elements sent, + 1 once the producer has stopped */
    } VGPU_ALIGNED(128) done[RING_FAN_MAX];
};

enum ring_class {
    RING_FLOOR, /* lines without a ring: what the hardware can do */
    RING_OURS,
    RING_PACKAGED, /* a library that a distribution ships */
    RING_PAPER,    /* from the literature, written here */
};

struct ring_subject {
    const char *name;
    const char *what;
    enum ring_class kind;
    void (*setup)(struct ring_bed *bed);
    bench_thread_fn *rtt_client, *rtt_server; /* NULL: not offered */
    bench_thread_fn *stream_producer, *stream_consumer;
    bench_thread_fn *hop_guest, *hop_poll, *hop_exec;
    void (*setup_idle)(struct ring_bed *bed, uint32_t rings);
    void (*idle)(struct ring_bed *bed, uint32_t rings); /* one thread polls `rings` empty rings for bed->ticks */
};
/* Those that were built in, ended by NULL; ring_missing says which were not. In subjects.c. */
extern const struct ring_subject *const ring_subjects[];
extern const char *const ring_missing[];

/* Many producers into one consumer. */
struct fan_subject {
    const char *name;
    const char *what;
    enum ring_class kind;
    void (*setup)(struct ring_bed *bed);
    bench_thread_fn *producer; /* arg: struct fan_arg */
    bench_thread_fn *consumer; /* arg: struct ring_bed */
};
struct fan_arg {
    struct ring_bed *bed;
    uint32_t thread;
};
extern const struct fan_subject *const fan_subjects[];

/*
 * Elements are descriptors that the validator accepts, for all subjects alike: NOP and VECTOR_ADD in turn, over three
 * buffers of ring_view. The running number is the tag, which is how the receiver checks what it got.
 */
extern struct vgpu_vm_view ring_view;
void ring_pool_fill(struct vgpu_slot pool[RING_POOL]);
/* One window of a stream. */
struct ring_window {
    uint64_t number, ticks; /* where and when it began */
};
static inline void ring_window_end(struct ring_window *w, struct bench_hist *hist, uint64_t number)
{
    uint64_t now = vgpu_ticks();

    bench_hist_add(hist, (now - w->ticks) * RING_WINDOW_SCALE / (number - w->number));
    w->number = number;
    w->ticks = now;
}
static inline uint64_t ring_word0(uint64_t number)
{
    return (number & 1 ? (uint64_t)VGPU_OP_VECTOR_ADD : (uint64_t)VGPU_OP_NOP) | number << 32;
}
static inline uint32_t ring_tag(const struct vgpu_slot *item)
{
    return (uint32_t)(item->w[0] >> 32);
}

#ifdef __cplusplus
}
#endif
#endif
