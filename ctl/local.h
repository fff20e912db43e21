/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Commands that are more than one request to the daemon, or need none: a row in commands.c with `run`. The common
 * parser has checked the options already, and --json, --socket, help and completion work for them as for all others.
 */
#ifndef VGPU_CTL_LOCAL_H
#define VGPU_CTL_LOCAL_H

#include "ctl/args.h"

struct vgpu_ctl_local {
    const struct vgpu_ctl_line *line; /* line->args: the options by `argument`; line->json */
    FILE *out, *errors;               /* results; everything else */
    bool color;                       /* may print ANSI sequences to out */
};

/*
 * run(local, argc, argv): argv[0] is the command's name, argv[1] its word where the row has `words` (argc says).
 * Returns an exit code (enum vgpu_ctl_exit). With line->json it prints one line of JSON and nothing else to out.
 */
int vgpu_ctl_precheck(struct vgpu_ctl_local *local, int argc, char **argv);
int vgpu_ctl_doctor(struct vgpu_ctl_local *local, int argc, char **argv);
int vgpu_ctl_iommu(struct vgpu_ctl_local *local, int argc, char **argv);
int vgpu_ctl_export(struct vgpu_ctl_local *local, int argc, char **argv);
int vgpu_ctl_import(struct vgpu_ctl_local *local, int argc, char **argv);
int vgpu_ctl_completion(struct vgpu_ctl_local *local, int argc, char **argv);
int vgpu_ctl_topology(struct vgpu_ctl_local *local, int argc, char **argv);
int vgpu_ctl_trace(struct vgpu_ctl_local *local, int argc, char **argv);
int vgpu_ctl_top(struct vgpu_ctl_local *local, int argc, char **argv);
int vgpu_ctl_watch(struct vgpu_ctl_local *local, int argc, char **argv);

/* Helpers. The result on one line as --json wants it; takes no reference. */
void vgpu_ctl_emit(struct vgpu_ctl_local *local, const json_t *result);
/* "vgpu-ctl: text" without control characters to errors; returns exit_code. */
int vgpu_ctl_complain(struct vgpu_ctl_local *local, const struct vgpu_err *err, int exit_code);

#endif
