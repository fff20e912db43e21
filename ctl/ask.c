/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/ask.h"

#include <errno.h>

#include "ctl/client.h"

int vgpu_ctl_ask(const struct vgpu_ctl_line *line, const char *command, json_t *args, json_t **result, int *exit_code,
                 struct vgpu_err *err)
{
    bool refused = false;
    json_t *none = args ? NULL : json_object();
    int rc = vgpu_ctl_call(line->socket, command, args ? args : none, result, &refused, err);

    *exit_code = !rc ? VGPU_CTL_OK : refused ? VGPU_CTL_REFUSED : rc == -E2BIG ? VGPU_CTL_USAGE : VGPU_CTL_UNREACHABLE;
    json_decref(none);
    return rc;
}
