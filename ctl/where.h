/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which vgpud and which store a command line means: what --db, --socket, --config, $VGPU_CONTROL_SOCKET and $VGPU_CONFIG
 * name, in this order; else the installed configuration, else what vgpud does without one. Reads files, asks nobody.
 */
#ifndef VGPU_CTL_WHERE_H
#define VGPU_CTL_WHERE_H

#include "core/config.h"
#include "ctl/args.h"
#include "store/store.h"

#define VGPU_CTL_CONFIG_ENV "VGPU_CONFIG"

struct vgpu_ctl_where {
    char socket[VGPU_STORE_SOCKET_BYTES];
    char store[VGPU_CONFIG_PATH_BYTES]; /* where nobody answers; "" : nowhere, the socket alone was meant */
    struct vgpu_err unusable;           /* code 0: none. Why the configuration says nothing about a store */
};

/* 0; or -errno with err: a configuration that was named cannot be read. Never for the installed one. */
int vgpu_ctl_find(const struct vgpu_ctl_line *line, struct vgpu_ctl_where *out, struct vgpu_err *err);
/* The configuration's file that was named, on the command line or in the environment; NULL: none was. */
const char *vgpu_ctl_config_named(const struct vgpu_ctl_line *line);
/* Reads what vgpud would: this file, or NULL: the one in the environment, the installed one, or the defaults. */
int vgpu_ctl_config_read(const char *named, struct vgpu_config *out, struct vgpu_err *err);

#endif
