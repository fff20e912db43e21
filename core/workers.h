/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Program workers, in the spawner's process: each runs one VM's compiled programs, as a user and in a file system of its own.
 * Executors ask for them over a socket each (pmd-gpu/programs/starter.h). They may have one for each VM slot, of the binary
 * and with the options that stand in the configuration; nothing else can be asked for.
 */
#ifndef VGPU_CORE_WORKERS_H
#define VGPU_CORE_WORKERS_H

#include <poll.h>
#include <sys/types.h>

#include "core/config.h"
#include "pmd-gpu/programs/programs.h"

/* Of one executor. All zero but sock -1: it has no programs, or is not running. */
struct vgpu_workers {
    const struct vgpu_config *config;
    uint32_t index;
    uint32_t without; /* layers of the sandbox that its backend does not work in */
    int sock;
    pid_t *pid;       /* [max_vms], 0: none */
    bool *killed;     /* [max_vms], nobody waits for its status but us */
    char path[VGPU_PROGRAMS_PATH_BYTES];
    struct vgpu_programs_options options;
};

/* The executor starts: *child is its end of the socket, the caller's; -1 where it has no programs. `executor_path`: where
 * vgpu-worker lies unless options say otherwise. What is left of an executor before it is ended. 0 or -errno. */
int vgpu_workers_open(struct vgpu_workers *w, const struct vgpu_config *config, uint32_t index, uint32_t without,
                      const char *executor_path, int *child);
/* The socket is readable. */
void vgpu_workers_serve(struct vgpu_workers *w);
/* The executor is gone: ends its workers. They are collected later. */
void vgpu_workers_end(struct vgpu_workers *w);
/* Collects those that were ended. True: some are still on their way. */
bool vgpu_workers_collect(struct vgpu_workers *w);

#endif
