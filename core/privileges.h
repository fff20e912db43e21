/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From the configuration's `privileges:` to policies of sandbox/: of executors, of the spawner that starts them, and of
 * vgpud itself. Control thread (and the spawner's process), at the start only.
 */
#ifndef VGPU_CORE_PRIVILEGES_H
#define VGPU_CORE_PRIVILEGES_H

#include "core/config.h"
#include "pmd-gpu/programs/programs.h"
#include "sandbox/sandbox.h"

#define VGPU_EXECUTOR_UID_FIRST 60600u /* of executors that are given no user: no distribution hands these out */
/* Of workers: executor * 65536 + slot on top. From https://systemd.io/UIDS-GIDS: above what containers get, and not used. */
#define VGPU_WORKER_UID_FIRST 1879179264u

/* Of the executor with this index. `without`: layers that its backend does not work in (bit per number): left out unless they
 * are required. 0; -ENOENT with err: a user that there is not. */
int vgpu_privileges_executor(const struct vgpu_config *c, uint32_t index, uint32_t without, struct vgpu_sandbox_policy *out,
                             struct vgpu_err *err);
/* Of the worker that runs the programs of the VM in this slot of that executor: as the executor, but a user and a file system of
 * its own. `o`: the executor's programs. */
int vgpu_privileges_worker(const struct vgpu_config *c, uint32_t index, uint32_t slot, uint32_t without,
                           const struct vgpu_programs_options *o, struct vgpu_sandbox_policy *out, struct vgpu_err *err);
/* Of vgpud once it has started, and the capabilities that it keeps. The same. */
int vgpu_privileges_daemon(const struct vgpu_config *c, struct vgpu_sandbox_policy *out, uint64_t *keep_caps,
                           struct vgpu_err *err);
/* Of the spawner: what it takes to start others with less. */
void vgpu_privileges_spawner(const struct vgpu_config *c, struct vgpu_sandbox_policy *out, uint64_t *keep_caps);
/* A name or a number; its group is the user's own, or for a number without a name the same number. */
int vgpu_privileges_user(const char *text, const char *key, uint32_t *uid, uint32_t *gid, struct vgpu_err *err);
/* Gives run_dir and state_dir, and what vgpud has in them, to the user that it becomes. As root. */
int vgpu_privileges_give_dirs(const struct vgpu_config *c, uint32_t uid, uint32_t gid, struct vgpu_err *err);

#endif
