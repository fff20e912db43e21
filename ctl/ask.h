/* SPDX-License-Identifier: Apache-2.0 */
/* One request, answered by whoever can: the daemon. Blocks as client.h says. */
#ifndef VGPU_CTL_ASK_H
#define VGPU_CTL_ASK_H

#include "ctl/args.h"

/*
 * 0 with *result, a new reference; or -errno with err, and *exit_code as the program should end: refused, too long,
 * unreachable. args may be NULL. Any thread.
 */
int vgpu_ctl_ask(const struct vgpu_ctl_line *line, const char *command, json_t *args, json_t **result, int *exit_code,
                 struct vgpu_err *err);

#endif
