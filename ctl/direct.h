/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Commands on the store itself, where no vgpud runs: the same functions that vgpud calls, in this process. The store's
 * lock keeps a vgpud that starts meanwhile out until the command is done. One at a time; blocks for the disk and, where
 * another one has the store, for VGPU_STORE_LOCK_WAIT_MS.
 */
#ifndef VGPU_CTL_DIRECT_H
#define VGPU_CTL_DIRECT_H

#include <jansson.h>
#include <stdbool.h>

#include "core/base/log.h"

/*
 * Runs {"command", "args"} (args borrowed) on this store, with the limits of the configuration `named`
 * (vgpu_ctl_config_read). 0 with *result, a new reference; or -errno with err: *refused when the command said no, else the
 * store cannot be used. -EBUSY: another process owns it, most likely a vgpud that can be asked soon.
 */
int vgpu_ctl_direct(const char *named, const char *store, const char *command, json_t *args, json_t **result,
                    bool *refused, struct vgpu_err *err);

#endif
