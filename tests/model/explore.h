/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs real code under every execution that the C11 memory model allows for it, up to a bound. The code's atomic
 * accesses (core/base/atomic.h, replaced by shim.h) come here. Two threads of one process take turns; at each access
 * that can matter the explorer chooses who goes on, and at each load which of the stores that the model lets it see.
 * All choices are tried: depth first, each execution from the start.
 *
 * The model is that of release, acquire and relaxed accesses with fences, in its operational form: each location has
 * its stores in an order (a store may take its place before others that its thread knows nothing of); a thread has a
 * view, the oldest store of each location that it may still see; a release store carries its thread's view, an acquire
 * load takes it over; a full fence makes a thread's view and the common one the same. A load whose value is only passed
 * on (explore_load_later) may happen as late as the next release store or fence, or the value's use. No store happens
 * before a load that decides whether it happens.
 */
#ifndef VGPU_TESTS_EXPLORE_H
#define VGPU_TESTS_EXPLORE_H

#include <stdbool.h>
#include <stdint.h>

enum { EXPLORE_RELAXED, EXPLORE_ORDERED };

/* One access of the running thread; address: any 8-byte word, 0 until it is stored to. */
uint64_t explore_load(const void *address, int order);
/* The same, but the value is a token that explore_value() exchanges for it, once it matters. */
uint64_t explore_load_later(const void *address);
uint64_t explore_value(uint64_t token);
void explore_store(void *address, uint64_t value, int order);
void explore_fence(void);
/* Nothing to do until the other thread stores something: it goes on. Returns false when the other one has ended and
 * nothing new can come: the caller then looks once more, and ends. */
bool explore_wait(void);
/* The execution is wrong. Does not return. */
void explore_fail(const char *what) __attribute__((noreturn));
/* A message between the threads that is no shared memory (a doorbell): orders nothing, wakes who waits. */
void explore_bell(void);
bool explore_bell_take(void);

struct explore_result {
    uint64_t executions;
    const char *fault; /* NULL: none */
    bool complete;     /* all executions were tried */
};
/* setup runs before each execution, verdict after it (both outside the threads). */
struct explore_result explore(void (*setup)(void), void (*first)(void), void (*second)(void), void (*verdict)(void),
                              uint64_t most);

#endif
