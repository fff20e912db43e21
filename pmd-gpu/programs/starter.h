/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Between an executor's keeper and the process that starts its workers (core/workers.c): an executor in its sandbox can
 * neither become another user nor make a file system, and each worker gets both of its own. One request, one answer, in
 * order, over a SOCK_SEQPACKET pair. The starter believes no more of a request than that this executor asked.
 */
#ifndef VGPU_PMD_GPU_PROGRAMS_STARTER_H
#define VGPU_PMD_GPU_PROGRAMS_STARTER_H

#include <stdint.h>

enum vgpu_starter_type {
    VGPU_STARTER_START = 1, /* with the descriptors VGPU_WORKER_FD_* in their order; a pidfd comes beside the answer */
    VGPU_STARTER_END = 2,   /* sends SIGKILL; its pidfd tells when it is over */
    VGPU_STARTER_REAP = 3,  /* once the pidfd has fired: the status as of waitpid() */
};

struct vgpu_starter_request {
    uint32_t type;
    uint32_t slot;
    uint64_t arena_off, arena_bytes; /* START */
};

struct vgpu_starter_answer {
    int32_t rc;     /* 0 or -errno; -EBUSY of START: the one before is not reaped */
    int32_t pid;    /* START */
    int32_t status; /* REAP */
    char text[128]; /* why rc; may be "" */
};

#endif
