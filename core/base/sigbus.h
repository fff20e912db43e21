/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Survives memory that a guest took away. Seals stop shrinking a memfd, not punching holes into it when no page can be
 * had again (an empty hugepage pool); touching such a page raises SIGBUS. The handler maps a private zero page over the
 * fault and marks that region broken; the access is repeated and succeeds, on garbage that only that guest asked for.
 * A SIGBUS anywhere else kills the process as before.
 *
 * add and del: control thread. The handler runs on whichever thread faults and uses only async-signal-safe calls.
 */
#ifndef VGPU_BASE_SIGBUS_H
#define VGPU_BASE_SIGBUS_H

#include <stdint.h>

#define VGPU_SIGBUS_RANGES (6 * 4096 + 8) /* 4 for each VM that can be attached, 2 for its programs, some in passing */

/* Installs the handler. 0 or -errno. */
int vgpu_sigbus_install(void);
/* Watches [base, base + bytes), made of pages of page_bytes; *broken is set to 1 on a fault. Returns an id >= 0 or -ENOSPC. */
int vgpu_sigbus_add(void *base, uint64_t bytes, uint64_t page_bytes, uint32_t *broken);
void vgpu_sigbus_del(int id);

#endif
