/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One request, answered by whoever can:
 *   --db FILE      the vgpud that owns this store, asked at the socket that it announced; none: this process, on the
 *                  store
 *   --socket PATH  the vgpud that serves this socket, nobody else (also $VGPU_CONTROL_SOCKET)
 *   neither        the vgpud at the configuration's socket (--config, $VGPU_CONFIG, the installed one); none: as with --db,
 *                  on the configuration's store, if there is one
 * So a hook that starts a VM works whether vgpud runs yet or not. Blocks as client.h and direct.h say.
 */
#ifndef VGPU_CTL_ASK_H
#define VGPU_CTL_ASK_H

#include "ctl/args.h"

/*
 * 0 with *result, a new reference; or -errno with err, and *exit_code as the program should end: refused, too long,
 * unreachable. args may be NULL. One thread at a time.
 */
int vgpu_ctl_ask(const struct vgpu_ctl_line *line, const char *command, json_t *args, json_t **result, int *exit_code,
                 struct vgpu_err *err);

#endif
