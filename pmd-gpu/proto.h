/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Control messages between vgpud and a vgpu-exec process that it started: fixed structs over an inherited SOCK_SEQPACKET
 * pair. Both sides are ours and of one build (xchg.h carries the magic); end of file on either side is the other's death.
 */
#ifndef VGPU_PMD_GPU_PROTO_H
#define VGPU_PMD_GPU_PROTO_H

#include "pmd-gpu/exec.h"

enum vgpu_exec_msg_type {
    VGPU_EXEC_MSG_READY = 1,    /* exec -> vgpud: backend open */
    VGPU_EXEC_MSG_FAILED = 2,   /* exec -> vgpud: backend did not open (rc, text); the process ends */
    VGPU_EXEC_MSG_ATTACH = 3,   /* vgpud -> exec, fds: region, doorbell_out */
    VGPU_EXEC_MSG_ATTACHED = 4, /* exec -> vgpud: rc, text, flags */
    VGPU_EXEC_MSG_DETACH = 5,   /* vgpud -> exec */
    VGPU_EXEC_MSG_DETACHED = 6, /* exec -> vgpud: nothing of this VM is touched any more */
    VGPU_EXEC_MSG_LOST = 7,     /* exec -> vgpud: the device is gone for good (text: why); the process ends */
    VGPU_EXEC_MSG_PING = 8,     /* vgpud -> exec: are you there? */
    VGPU_EXEC_MSG_PONG = 9,     /* exec -> vgpud */
};
#define VGPU_EXEC_FLAG_BOUNCED 1u /* ATTACHED: the device reaches the arena through copies only */
struct vgpu_exec_msg {
    uint32_t type;
    uint32_t slot;
    int32_t rc;
    uint32_t flags; /* VGPU_EXEC_FLAG_* */
    struct vgpu_exec_region region; /* fds and ops in it are meaningless: fds travel beside it, ops follow from the kind */
    char text[256];
};

#endif
