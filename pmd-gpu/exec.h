/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The executor: takes work items from the exchange in priority order, runs them on a backend, writes completions into
 * the guests' rings. The same code is vgpu-exec's loop and vgpud's in-process executor.
 *
 * Threads: one loop thread (step, arm, disarm) and one control thread (attach, detach). Attach hands a VM to the loop
 * thread through whoever pushes its first work item (a release and acquire on the feed ring); detach through X1, X2.
 */
#ifndef VGPU_PMD_GPU_EXEC_H
#define VGPU_PMD_GPU_EXEC_H

#include "core/base/region.h"
#include "pmd-gpu/backend.h"
#include "pmd-gpu/xchg.h"

struct vgpu_exec;

/* What the executor needs of a VM's region. Mapped by vgpu_exec_attach, never trusted for its contents. */
struct vgpu_exec_region {
    const struct vgpu_region_ops *ops; /* opens `source`; NULL: vgpu_region_memfd */
    struct vgpu_region_source source;  /* its doorbell is taken over: closed at detach */
    uint64_t guest_ctrl_off, cq_off, arena_off, arena_bytes;
    uint32_t cq_slots;
    uint64_t sq_pos;     /* position of the first descriptor that will come */
    uint64_t cq_pos;     /* position of the first completion to write */
    uint64_t heap_off, heap_bytes; /* the VM's slice of device memory: zeroed at detach */
    uint32_t engine;     /* enum vgpu_engine: the VM's preference */
    uint32_t vm_id;      /* for people: trace records and probes carry it */
};

/* Opens the backend. The exchange must be laid out. 0 or -errno with err. */
int vgpu_exec_open(struct vgpu_xchg_header *xchg, const struct vgpu_backend_ops *ops, uint64_t heap_bytes,
                   const char *options, struct vgpu_exec **out, struct vgpu_err *err);
/* Nothing is attached, the loop has ended. */
void vgpu_exec_close(struct vgpu_exec *e);

/* Control thread. Maps and registers the region; may block for a while (page faults, registration). 0 or -errno. */
int vgpu_exec_attach(struct vgpu_exec *e, uint32_t slot, const struct vgpu_exec_region *r, struct vgpu_err *err);
/* Control thread, after an attach that worked: does the device reach this VM's arena through copies only? */
bool vgpu_exec_bounced(const struct vgpu_exec *e, uint32_t slot);
/* Control thread. Nobody pushes for this VM any more: asks the loop to drop what is queued and finish what runs. */
void vgpu_exec_detach_begin(struct vgpu_exec *e, uint32_t slot);
/* Control thread. True once the loop is done with the VM; unmaps then. */
bool vgpu_exec_detach_finish(struct vgpu_exec *e, uint32_t slot);

/* Loop thread: one bounded round. Returns the number of operations started or finished; 0 means idle. */
uint32_t vgpu_exec_step(struct vgpu_exec *e);
/* Loop thread: is the device gone for good? Then the process must end; vgpud starts another. */
bool vgpu_exec_lost(const struct vgpu_exec *e);
/* Loop thread, once it is lost: why, for people. Never NULL, "" where the backend does not say; valid until close. */
const char *vgpu_exec_lost_reason(const struct vgpu_exec *e);
/* Operations on the backend now. */
uint32_t vgpu_exec_in_flight(const struct vgpu_exec *e);
/* Loop thread: before sleeping. True: armed and nothing to do, the doorbell will be rung. False: there is work. */
bool vgpu_exec_arm(struct vgpu_exec *e);
void vgpu_exec_disarm(struct vgpu_exec *e);

#endif
