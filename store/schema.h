/* SPDX-License-Identifier: Apache-2.0 */
/* Private to the store: its schema as a row of forward migrations. Control thread. */
#ifndef VGPU_STORE_SCHEMA_H
#define VGPU_STORE_SCHEMA_H

#include <stdint.h>

#define VGPU_STORE_APPLICATION_ID 0x56475055 /* "VGPU" in the file's header: what kind of database this is */

/* vgpu_store_migration[v] brings version v to v + 1. A released entry is never edited: a new one follows it. */
extern const char *const vgpu_store_migration[];
extern const uint32_t vgpu_store_migration_count;

#endif
