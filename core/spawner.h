/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The spawner: a small process that vgpud forks before it does anything else. It starts executors, collects their exit
 * statuses and ends them, so that vgpud, which guests talk to, needs no privileges for that. It knows the configuration as it
 * was at the start; what vgpud can ask of it is one of the executors that stand there, in its sandbox, and nothing else.
 *
 * It is the executors' parent: when it dies they die (PR_SET_PDEATHSIG), and when vgpud dies it ends them and itself.
 * Control thread. Calls take a message there and back; they fail with -EPIPE when the spawner is gone, or does not answer for
 * 20 s (then the next ones wait a second each, until it answers again).
 */
#ifndef VGPU_CORE_SPAWNER_H
#define VGPU_CORE_SPAWNER_H

#include <sys/types.h>

#include "core/config.h"
#include "core/startup.h"

/* What of an executor's start is not in the configuration, or may have changed since. */
struct vgpu_spawn {
    uint32_t index;
    bool fallback;        /* backend auto: cpu, without options, not cuda */
    uint32_t without;     /* layers of the sandbox to leave out where they are not required */
    uint64_t spin_ns, pause_ns;
    bool sleep;
    struct vgpu_startup_bind bind;
};
#define VGPU_SPAWN_FDS 4 /* the executor's descriptors 3 to 6: control socket, exchange, event, lock */

struct vgpu_spawner;

/* Before any thread starts. config and executor_path are copied by the fork. 0 or -errno. */
int vgpu_spawner_open(const struct vgpu_config *config, const char *executor_path, struct vgpu_spawner **out,
                      struct vgpu_err *err);
/* Readable (end of file) once it is gone. */
int vgpu_spawner_fd(const struct vgpu_spawner *s);
pid_t vgpu_spawner_pid(const struct vgpu_spawner *s);
/* fds stay the caller's; *pid_fd becomes the caller's. 0 or -errno. */
int vgpu_spawner_start(struct vgpu_spawner *s, const struct vgpu_spawn *what, const int fds[VGPU_SPAWN_FDS], pid_t *pid,
                       int *pid_fd, struct vgpu_err *err);
/* The status as of waitpid(), once the pidfd of that executor has fired; 0 when the spawner is gone. */
int vgpu_spawner_reap(struct vgpu_spawner *s, uint32_t index);
void vgpu_spawner_kill(struct vgpu_spawner *s, uint32_t index);
/* Gives a token file that vgpud has made to the VM's uid. 0 or -errno. */
int vgpu_spawner_give(struct vgpu_spawner *s, int fd, uint32_t uid);
/* vgpud is about to end: from now on calls wait for 5 s at most. */
void vgpu_spawner_hurry(struct vgpu_spawner *s);
/* Ends executors that are left, and itself; waits for it, 30 s at most. NULL is fine. */
void vgpu_spawner_close(struct vgpu_spawner *s);

#endif
