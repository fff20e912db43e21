/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The backend interface: what executes operations. Backends are const ops tables, listed in backend.c; `null`, `cpu`,
 * `cuda` where the build has it, and `fault`, a decorator over any of them. All pass the conformance test of tests/unit/pmd-gpu.
 *
 * Threads: open, close, region_add and region_del are called by the executor's control thread (region_* while the loop
 * thread runs; no operation of that VM is in flight then). submit and poll are called by the loop thread only and never
 * block. A backend allocates nothing after open and region_add.
 *
 * Order: operations of one VM must take effect in the order of submit, unless flagged VGPU_DESC_INDEPENDENT; barriers
 * (MEM_ALLOC, MEM_FREE, FENCE) order everything of their VM. Between VMs: a lower `priority` number starts first,
 * and FIFO inside a priority. Operations of one VM are handed back by poll in the order of submit, also independent ones
 * (so what is outstanding is always the newest part of what was accepted); of different VMs in any order.
 */
#ifndef VGPU_PMD_GPU_BACKEND_H
#define VGPU_PMD_GPU_BACKEND_H

#include <stddef.h>
#include <stdint.h>

#include "core/base/log.h"
#include "core/base/trace.h"
#include "rings/abi/vgpu_abi.h"
#include "rings/work.h"

/* Ways a backend may have to run an operation; stored per VM, so the numbers stay. */
enum vgpu_engine { VGPU_ENGINE_AUTO = 0, VGPU_ENGINE_STREAM = 1, VGPU_ENGINE_BATCH = 2, VGPU_ENGINE_RESIDENT = 3 };
#define VGPU_ENGINE_COUNT 4u

struct vgpu_backend; /* a backend's own state */

struct vgpu_backend_config {
    uint64_t heap_bytes;    /* device memory to reserve at open */
    uint32_t max_vms;       /* VM slots 0..max_vms-1 */
    uint32_t queues;        /* pools served: submit's `queue` is below this */
    uint32_t max_in_flight; /* submitted and not polled, at most, over all queues and priorities */
    const char *options;    /* backend-specific "key=value,key=value", may be "" */
};

/* One operation. The executor owns it and keeps it unchanged until it comes back from poll. */
struct vgpu_op {
    struct vgpu_work work;  /* references are resolved: arena or device-heap offsets */
    uint32_t vm;            /* VM slot */
    uint32_t queue;         /* which pool */
    uint32_t priority;      /* enum vgpu_priority */
    uint16_t status;        /* out: enum vgpu_status */
    uint64_t value;         /* out: completion value; MEM_ALLOC: bytes reserved, all others: 0 */
    uint64_t priv[6];       /* the backend's own */
    /* Only where `traced` is set, which is rare: when it ran, in ticks. A backend that cannot tell leaves `device` 0. */
    uint8_t traced;
    uint8_t device;         /* out: enum vgpu_trace_device */
    uint64_t device_start, device_end; /* out */
};

struct vgpu_backend_ops {
    size_t size;      /* sizeof(struct vgpu_backend_ops) */
    const char *name;
    bool queues_free; /* a queue without work costs nothing: open() gets as many as there may ever be */
    /* Opens the device and reserves the heap. 0 or -errno with err filled. */
    int (*open)(const struct vgpu_backend_config *config, struct vgpu_backend **out, struct vgpu_err *err);
    /* Nothing is in flight, or the device hangs or is lost: then what was submitted is forgotten. */
    void (*close)(struct vgpu_backend *b);
    /* Makes a VM's arena reachable; arena_bytes may be 0 (arena NULL). `fd`/`fd_offset` name the memory behind it, or
     * -1. 0 or -errno. */
    int (*region_add)(struct vgpu_backend *b, uint32_t vm, void *arena, uint64_t arena_bytes, int fd,
                      uint64_t fd_offset, struct vgpu_err *err);
    /* Adding a slot that has a region replaces it. The loop thread learns of a region through the VM's first operation. */
    void (*region_del)(struct vgpu_backend *b, uint32_t vm);
    /* Control thread: zeroes [heap_off, heap_off + bytes) of the device heap, the slice of a VM that left; the next tenant
     * gets it after that, whatever became of the MEM_ALLOCs in between. Nothing of it is in use. May be NULL: no heap. */
    void (*wipe)(struct vgpu_backend *b, uint64_t heap_off, uint64_t bytes);
    /* A descriptor that vgpud refused arrives as a NOP: the executor keeps its status. Should work with a status in it
     * arrive all the same, it comes back with that status and without effect.
     *
     * Takes the operation (0), or -EAGAIN when it cannot hold more now: try again after a poll. */
    int (*submit)(struct vgpu_backend *b, struct vgpu_op *op);
    /* Makes progress for at most some 100 us and hands back at most `max` finished operations. */
    uint32_t (*poll)(struct vgpu_backend *b, struct vgpu_op **done, uint32_t max);
    /* Loop thread: the device is gone for good (the process must be restarted)? May be NULL: never. */
    bool (*lost)(struct vgpu_backend *b);
    /* Control thread, before region_add: which engine this VM's operations run on where they can; VGPU_ENGINE_AUTO is the
     * default again after region_del. May be NULL: there is one engine. */
    void (*region_engine)(struct vgpu_backend *b, uint32_t vm, enum vgpu_engine engine);
    /* Control thread, after region_add: the device reaches this VM's arena through copies only (it could not be
     * registered). May be NULL: never. */
    bool (*region_bounced)(struct vgpu_backend *b, uint32_t vm);
    /* Loop thread: this VM leaves and submits nothing more before its next region_add. Its operations come back from the
     * next polls, ahead of all others whatever their priority, cancelled unless they are finished. May be NULL where
     * every operation is soon done, or cannot be stopped: an executor that does not let go of a VM is killed. */
    void (*cancel)(struct vgpu_backend *b, uint32_t vm);
    /* Control thread, without a backend open: can one be opened with these options here? Opens what it takes to know that
     * (driver, device) and closes it again; may take seconds. 0 with the device's name for people in `what`, or -errno with
     * err filled. May be NULL: it works everywhere. */
    int (*probe)(const char *options, char *what, size_t bytes, struct vgpu_err *err);
    /* Loop thread, once lost() is true: why, for people ("Xid 79"); stays the backend's, valid until close. May be NULL. */
    const char *(*lost_reason)(struct vgpu_backend *b);
    /* Loop thread: how far, in ticks, a device time that is VGPU_TRACE_DEVICE_MAPPED may be off. May be NULL: there are none. */
    uint32_t (*trace_error)(const struct vgpu_backend *b);
    /* Loop thread: others need the device. With `on`, while nothing is submitted: whatever keeps it busy without an operation
     * ends (resident workers); true once that is so, else call again after a poll. Nothing is submitted before the call
     * with `on` false. May be NULL: without an operation there is nothing on the device that would be in anybody's way. */
    bool (*pause)(struct vgpu_backend *b, bool on);
    /* Control thread, after region_add: the loop thread counts here for how long this VM's executions of programs had the
     * device, in ns; it stays until region_del. May be NULL: none. */
    void (*region_usage)(struct vgpu_backend *b, uint32_t vm, uint64_t *program_ns);
};

/* The registered backends by name; "fault:NAME" is the decorator over NAME. NULL when there is none. */
const struct vgpu_backend_ops *vgpu_backend_find(const char *name);
/* Their names, comma separated, for error messages. */
const char *vgpu_backend_names(void);

extern const struct vgpu_backend_ops vgpu_backend_null;
extern const struct vgpu_backend_ops vgpu_backend_cpu;
extern const struct vgpu_backend_ops vgpu_backend_cuda; /* only in a build with VGPU_HAVE_CUDA */
extern const struct vgpu_backend_ops vgpu_backend_fault_null;
extern const struct vgpu_backend_ops vgpu_backend_fault_cpu;

#endif
