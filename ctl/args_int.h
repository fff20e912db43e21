/* SPDX-License-Identifier: Apache-2.0 */
/* Between args.c, values.c and help.c. */
#ifndef VGPU_CTL_ARGS_INT_H
#define VGPU_CTL_ARGS_INT_H

#include "ctl/args.h"

/* What the user typed, quoted, printable and short, for a message. Four at a time. */
const char *vgpu_ctl_shown(const char *text);
/* An option's value as the JSON of its argument: a new reference. 0, or -EINVAL with err. */
int vgpu_ctl_value(const struct vgpu_ctl_option *o, const char *text, json_t **out, struct vgpu_err *err);
/* Is this one of "a|b|c"? If not, *best may name the nearest (static storage, until the next call). */
bool vgpu_ctl_choice(const char *choices, const char *text, const char **best);

#endif
