/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Aligned tables and lists of JSON values for people. Text of others loses its control characters here, so nothing that
 * a guest or a file says can steer the terminal.
 */
#ifndef VGPU_CTL_TABLE_H
#define VGPU_CTL_TABLE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#define VGPU_CTL_CELL_BYTES  128
#define VGPU_CTL_COLUMNS_MAX 20

enum vgpu_ctl_cell_type { VGPU_CTL_CELL_TEXT, VGPU_CTL_CELL_NUMBER, VGPU_CTL_CELL_SIZE, VGPU_CTL_CELL_MICROS };
struct vgpu_ctl_column {
    const char *title;
    const char *key; /* in the row's object; "latency.p50_us" looks one level down */
    enum vgpu_ctl_cell_type type;
};

/* rows: an array of objects. color: bold titles, red for what is broken. */
void vgpu_ctl_table(FILE *out, const json_t *rows, const struct vgpu_ctl_column *columns, int count, bool color);
#define VGPU_CTL_TABLE(out, rows, columns, color)                                                                      \
    vgpu_ctl_table(out, rows, columns, (int)(sizeof(columns) / sizeof((columns)[0])), color)
/* "key   value" lines of one object; nested objects and lists are left to others. */
void vgpu_ctl_object(FILE *out, const json_t *object, const char *indent);
/* A value as a cell shows it; "-" for null and what is missing. */
void vgpu_ctl_cell(const json_t *value, enum vgpu_ctl_cell_type type, char out[VGPU_CTL_CELL_BYTES]);
/* Copies without control characters; a cut never leaves half a character. */
void vgpu_ctl_clean(const char *text, char *out, size_t bytes);
/* A column's value in a row: borrowed, or NULL. */
const json_t *vgpu_ctl_lookup(const json_t *row, const char *key);

#endif
