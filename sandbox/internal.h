/* SPDX-License-Identifier: Apache-2.0 */
/* Between the files of sandbox/. */
#ifndef VGPU_SANDBOX_INTERNAL_H
#define VGPU_SANDBOX_INTERNAL_H

#include "sandbox/sandbox.h"

#define VGPU_SANDBOX_WHY_BYTES sizeof(((struct vgpu_sandbox_report *)0)->why[0])

/* A layer each: 0; or -errno with the reason. */
int vgpu_sandbox_mounts(const struct vgpu_sandbox_policy *p, char *why, size_t bytes);
/* all_threads: of the process, else of the calling one, whose children inherit it. */
int vgpu_sandbox_seccomp(const struct vgpu_sandbox_policy *p, bool all_threads, char *why, size_t bytes);
/* Is it off, or in the way of this build? Then the report says so. */
bool vgpu_sandbox_layer_skipped(const struct vgpu_sandbox_policy *p, enum vgpu_sandbox_layer layer,
                                struct vgpu_sandbox_report *r);
/* Of the calling thread, by system calls alone (a signal handler may call it). 0 or -errno. */
int vgpu_sandbox_caps_set(uint64_t keep);
int vgpu_sandbox_become(uint32_t uid, uint32_t gid, uint64_t keep_caps);
/* Can this uid pass through all folders above the path, and read it? */
bool vgpu_sandbox_reachable(const char *path, uint32_t uid, uint32_t gid);
/* Calls each for every path that this process has mapped a file of, once per path. */
void vgpu_sandbox_each_mapped(void (*each)(void *ctx, const char *path), void *ctx);

#endif
