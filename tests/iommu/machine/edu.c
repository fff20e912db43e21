/* SPDX-License-Identifier: Apache-2.0 */
#include "edu.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define REG_ID                    0x00u
#define REG_SOURCE                0x80u
#define REG_TARGET                0x88u
#define REG_COUNT                 0x90u
#define REG_COMMAND               0x98u
#define BUFFER                    UINT64_C(0x40000) /* its address, for the device */
#define BAR_BYTES                 (1u << 20)
#define CONFIG_COMMAND            4
#define COMMAND_MEMORY_AND_MASTER 6u

static void die(const char *what)
{
    fprintf(stderr, "edu: %s: %s\n", what, strerror(errno));
    exit(1);
}

void edu_open(struct edu *e, const char *address)
{
    char path[128];
    uint16_t command = 0;

    snprintf(e->address, sizeof(e->address), "%s", address);
    snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/config", address);
    int fd = open(path, O_RDWR);
    if (fd < 0 || pread(fd, &command, 2, CONFIG_COMMAND) != 2)
        die(path);
    command |= COMMAND_MEMORY_AND_MASTER;
    if (pwrite(fd, &command, 2, CONFIG_COMMAND) != 2)
        die(path);
    close(fd);
    snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/resource0", address);
    fd = open(path, O_RDWR | O_SYNC);
    if (fd < 0)
        die(path);
    e->bar = mmap(NULL, BAR_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (e->bar == MAP_FAILED)
        die(path);
    close(fd);
    uint32_t id = *(volatile uint32_t *)(e->bar + REG_ID);
    if ((id & 0xff) != 0xed) {
        fprintf(stderr, "edu: %s answers %08x: not an edu device\n", address, id);
        exit(1);
    }
}

static void run(struct edu *e, uint64_t source, uint64_t target, uint32_t bytes, uint64_t command)
{
    *(volatile uint64_t *)(e->bar + REG_SOURCE) = source;
    *(volatile uint64_t *)(e->bar + REG_TARGET) = target;
    *(volatile uint64_t *)(e->bar + REG_COUNT) = bytes;
    *(volatile uint64_t *)(e->bar + REG_COMMAND) = command | 1;
    for (uint32_t i = 0; *(volatile uint32_t *)(e->bar + REG_COMMAND) & 1; i++) {
        if (i > 20000) {
            fprintf(stderr, "edu: %s does not end a transfer\n", e->address);
            exit(1);
        }
        usleep(1000);
    }
}

void edu_read(struct edu *e, uint64_t from, uint32_t bytes)
{
    run(e, from, BUFFER, bytes, 0);
}

void edu_write(struct edu *e, uint64_t to, uint32_t bytes)
{
    run(e, BUFFER, to, bytes, 2);
}
