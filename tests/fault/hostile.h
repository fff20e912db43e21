/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest that keeps no rule. hostile.c starts the daemon and well-behaved neighbours and judges; hostile_guest.c is
 * the guest with all that it does once it is attached; hostile_door.c is what it does at the door: handshakes.
 */
#ifndef VGPU_TESTS_FAULT_HOSTILE_H
#define VGPU_TESTS_FAULT_HOSTILE_H

#include <pthread.h>

#include "../e2e/raw.h"

/* Every kind of step; each must happen in a run of some length, or the run shows less than it says. */
#define HOSTILE_STEPS(X)                                                                                               \
    X(valid)     /* well-formed descriptors, so that something runs while the rest goes on */                          \
    X(random)    /* 56 random bytes */                                                                                 \
    X(mutated)   /* a well-formed descriptor with one to three fields bent */                                          \
    X(heap)      /* allocations near 2^63, double frees, use after free, handles out of range */                       \
    X(flood)     /* as many as the ring takes, completions left lying */                                               \
    X(fetch)     /* completions taken as they should be */                                                             \
    X(sequence)  /* a sequence ahead, behind, or garbage */                                                            \
    X(credit)    /* cq_head anywhere */                                                                                \
    X(replay)    /* old slots published again */                                                                       \
    X(retract)   /* a descriptor taken back, or rewritten, after it was published */                                   \
    X(scribble)  /* random words of the whole region */                                                                \
    X(flipper)   /* a thread that does that while descriptors run; on, then off */                                     \
    X(events)    /* event words anywhere */                                                                            \
    X(doorbell)  /* rung much, filled, flags changed, resized, opened again, closed */                                 \
    X(punch)     /* holes in the region */                                                                             \
    X(seal)      /* more seals while attached; the properties page written to */                                       \
    X(half_open) /* connections that say nothing, or stop in the middle */                                             \
    X(bytes)     /* random bytes instead of a handshake, with and without descriptors */                               \
    X(wrong_fd)  /* something else instead of a region */                                                              \
    X(header)    /* a region with a bent header */                                                                     \
    X(storm)     /* attach and leave, many times */

enum hostile_step {
#define X(name) HOSTILE_##name,
    HOSTILE_STEPS(X)
#undef X
    HOSTILE_STEP_COUNT
};

/* Between the processes of a run. Counters are added to atomically. */
struct hostile_shared {
    uint64_t steps[HOSTILE_STEP_COUNT];
    uint64_t attachments, broken, descriptors, kills, flips; /* broken: those that the host had told so before they left */
    bool go, stop;
};

struct hostile {
    const struct e2e_host *h;
    struct hostile_shared *shared;
    unsigned vm_id;       /* its main attachment */
    unsigned other_vm_id; /* for storms beside it */
    uint64_t rng;
    uint32_t enabled;     /* bit per step: what this attachment does at all, so that some live long */
    /* the attachment */
    struct raw_guest g;
    bool attached;
    uint8_t *mem;
    uint64_t pos, cpos;   /* what a good guest's positions would be */
    pthread_t flipper;
    bool flipping, flipper_stop;
    uint64_t flipper_rng;
};

static inline uint64_t hostile_below(struct hostile *x, uint64_t n)
{
    return e2e_next(&x->rng) % n;
}
/* A value that is likely to be near an edge. */
uint64_t hostile_edge(struct hostile *x);
static inline void hostile_count(uint64_t *counter)
{
    __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
}

/* One process' life: attaches, takes steps, ends in one of several ways. Returns, or is killed by itself. */
void hostile_live(struct hostile *x);
/* A complete attach with a random layout as this VM. False: refused, which is fine. */
bool hostile_attach(struct hostile *x, struct raw_guest *g, unsigned vm_id);

/* At the door: connections of their own. */
void hostile_half_open(struct hostile *x);
void hostile_bytes(struct hostile *x);
void hostile_wrong_fd(struct hostile *x);
void hostile_header(struct hostile *x);
void hostile_storm(struct hostile *x);

#endif
