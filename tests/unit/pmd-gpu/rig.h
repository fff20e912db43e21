/* SPDX-License-Identifier: Apache-2.0 */
/* The test rig of the conformance cases: an open device, arenas with guard pages, shadows, operations. One thread. */
#ifndef VGPU_TESTS_RIG_H
#define VGPU_TESTS_RIG_H

#include "tests/unit/pmd-gpu/conformance.h"

struct rig_config {
    uint32_t vms, queues, in_flight;
    uint64_t heap_bytes, arena_bytes; /* multiples of 4096 */
    bool unshadowed; /* the heap is too large for a shadow: it starts as it is, and the case looks at it itself */
    bool engines;    /* VM i prefers engine i modulo the number of engines, where the backend has several */
};

struct rig_vm {
    uint8_t *map; /* guard page, arena, guard page */
    uint8_t *arena;
    uint8_t *shadow; /* what the arena must hold */
    uint32_t queue, priority;
    uint64_t last_order; /* of the operation that came back last */
    bool leaving;        /* cancelled: operations come back done, and from one on cancelled */
    uint32_t cancelled;
};

struct rig_op {
    struct vgpu_op op;     /* first: a finished op is cast back */
    struct vgpu_work sent; /* the backend must hand the work back unchanged */
    uint16_t want_status;
    uint64_t want_value;
    bool busy;
    uint64_t order; /* of submit, from 1 */
};

struct rig {
    const struct conformance_subject *s;
    const struct vgpu_backend_ops *ops;
    struct vgpu_backend *b;
    struct rig_config config;
    struct rig_vm *vm;
    uint8_t *heap_shadow;
    uint8_t *heap_copy; /* rig_compare()'s, from its first time on */
    struct rig_op *pool; /* in_flight of them */
    struct rig_op **free;
    uint32_t n_free;
    uint32_t in_flight;
    uint64_t submitted, finished;
    void (*on_done)(struct rig *r, struct rig_op *op); /* may be NULL */
    void *context;
    uint64_t random;
};

void rig_open(struct rig *r, const struct conformance_subject *s, const struct rig_config *config);
/* Drains, compares every byte with the shadows, closes. */
void rig_close(struct rig *r);
uint64_t rig_random(struct rig *r);
/* A random number below n. */
uint64_t rig_below(struct rig *r, uint64_t n);

/* Submits for a VM at its queue and priority, polling while the device is full. Expects status OK. */
struct rig_op *rig_send(struct rig *r, uint32_t vm, const struct vgpu_work *w);
/* The same, expecting another status. */
struct rig_op *rig_send_expect(struct rig *r, uint32_t vm, const struct vgpu_work *w, uint16_t status);
/* One poll for at most max; checks what comes back; returns how many. */
uint32_t rig_poll(struct rig *r, uint32_t max);
/* Polls until nothing is in flight; fails after a minute without any completion. */
void rig_drain(struct rig *r);
/* Drains and compares arenas, and the heap (read back by COPY through VM 0), with the shadows. */
void rig_compare(struct rig *r);

/* A reference in the arena or on the device. */
#define REF_A(off) ((uint64_t)(off))
#define REF_D(off) ((uint64_t)(off) | VGPU_WREF_DEVICE)
/* Where the shadow of a reference is. */
uint8_t *rig_shadow(struct rig *r, uint32_t vm, uint64_t ref);
/* Two VMs change arenas, shadows included; the caller has taken their regions away, and adds them again. */
void rig_swap_arenas(struct rig *r, uint32_t a, uint32_t b);
/* Writes bytes to the arena or (by COPY through the arena's last part) to the device, and to the shadow. */
void rig_write(struct rig *r, uint32_t vm, uint64_t ref, const void *data, uint64_t bytes);
/* Reads bytes of the device's view. */
void rig_read(struct rig *r, uint32_t vm, uint64_t ref, void *data, uint64_t bytes);
/* The last quarter of an arena is the rig's window for rig_write, rig_read and rig_compare; cases stay below. */
uint64_t rig_window(const struct rig *r);

struct vgpu_work w_nop(void);
struct vgpu_work w_op(uint8_t opcode);
struct vgpu_work w_fill(uint64_t dst, uint32_t pattern, uint64_t bytes);
struct vgpu_work w_copy(uint64_t dst, uint64_t src, uint64_t bytes);
struct vgpu_work w_alloc(uint64_t dst, uint64_t bytes);
struct vgpu_work w_add(uint64_t dst, uint64_t a, uint64_t b, uint64_t n);
struct vgpu_work w_axpy(uint64_t dst, float alpha, uint64_t x, uint64_t n);
struct vgpu_work w_reduce(uint64_t dst, uint64_t src, uint64_t n, uint8_t how);
struct vgpu_work w_gemm(uint64_t dst, uint64_t a, uint64_t b, uint32_t m, uint32_t n, uint32_t k, float alpha,
                        float beta, uint8_t sub, uint8_t dtype);

/*
 * Applies an operation to the shadow, the f32 result being the float64 one rounded. `tolerance` (may be NULL) receives
 * the largest allowed difference for each f32 of the result. Returns how many f32 the result has (0: compare bytes).
 */
uint64_t model_apply(struct rig *r, uint32_t vm, const struct vgpu_work *w, double *tolerance);
/* Sends, waits, compares the result within tolerance, takes it over into the shadow. */
void rig_run(struct rig *r, uint32_t vm, const struct vgpu_work *w);

#endif
