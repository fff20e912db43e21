/* SPDX-License-Identifier: Apache-2.0 */
/* Results for people: aligned tables. Everything that came from the daemon is printed without control characters. */
#ifndef VGPU_CTL_PRINT_H
#define VGPU_CTL_PRINT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

/* Prints the result of a command. color: bold headings, red for what is broken. */
void vgpu_ctl_print(FILE *out, const char *command, const json_t *result, bool color);

#endif
