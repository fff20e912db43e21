/* SPDX-License-Identifier: Apache-2.0 */
/* Results for people, one function per kind of result; a row of commands.c names the one that its command needs. */
#ifndef VGPU_CTL_PRINT_H
#define VGPU_CTL_PRINT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

/* color: bold headings, red for what is broken. Whatever the result lacks is left out or shown as "-". */
typedef void (*vgpu_ctl_printer)(FILE *out, const json_t *result, bool color);

void vgpu_ctl_print_registered(FILE *out, const json_t *result, bool color);
void vgpu_ctl_print_removed(FILE *out, const json_t *result, bool color);
/* {"vms"}: a table. */
void vgpu_ctl_print_vms(FILE *out, const json_t *result, bool color);
/* {"vms"}: what they are after a change, a line each. */
void vgpu_ctl_print_changed(FILE *out, const json_t *result, bool color);
void vgpu_ctl_print_vm(FILE *out, const json_t *result, bool color);
void vgpu_ctl_print_pools(FILE *out, const json_t *result, bool color);
void vgpu_ctl_print_pool(FILE *out, const json_t *result, bool color);
void vgpu_ctl_print_stats(FILE *out, const json_t *result, bool color);
void vgpu_ctl_print_history(FILE *out, const json_t *result, bool color);
void vgpu_ctl_print_reload(FILE *out, const json_t *result, bool color);
void vgpu_ctl_print_iommu(FILE *out, const json_t *result, bool color);
/* Anything: values as lines, lists as tables. */
void vgpu_ctl_print_any(FILE *out, const json_t *result, bool color);

#endif
