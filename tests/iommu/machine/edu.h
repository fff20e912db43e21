/* SPDX-License-Identifier: Apache-2.0 */
/*
 * QEMU's edu device: a PCI function that copies between its 4 KiB buffer and any address it is told, through whatever
 * IOMMU stands in front of it. Driven over its BAR as sysfs shows it, beside the driver that holds the device: what it
 * may reach is decided by the IOMMU alone.
 */
#ifndef EDU_H
#define EDU_H

#include <stdbool.h>
#include <stdint.h>

#define EDU_BUFFER_BYTES 4096u

struct edu {
    char address[16]; /* 0000:00:03.0 */
    volatile uint8_t *bar;
};
/* Exits with a message when it cannot. */
void edu_open(struct edu *e, const char *address);
/* Memory at this I/O address to the buffer, or back. The device does not know whether it was let; nor do we. */
void edu_read(struct edu *e, uint64_t from, uint32_t bytes);
void edu_write(struct edu *e, uint64_t to, uint32_t bytes);

#endif
