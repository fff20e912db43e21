/* SPDX-License-Identifier: Apache-2.0 */
#ifndef VGPU_CTL_RUN_H
#define VGPU_CTL_RUN_H

#include <stdio.h>

/* vgpu-ctl without the process: results to out, diagnostics to errors; returns the exit code (enum vgpu_ctl_exit). */
int vgpu_ctl_run(int argc, char **argv, FILE *out, FILE *errors);

#endif
