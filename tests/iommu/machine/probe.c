/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vgpu-iommu-probe WHAT DEVICE [DEVICE]: makes edu devices reach for memory, and looks at the memory itself.
 *
 *   iommu   device 1 is in VM 1's domain, device 2 in VM 3's, where it may only read; VM 2 is in a domain without
 * devices bare    the same reaches at a machine without an IOMMU: each must succeed, or the checks of `iommu` could not
 * fail
 *
 * Results are lines of tests/vmlab/guest.sh. Addresses and mappings come from vgpu-ctl show-iommu-status, as an
 * operator would see them; memory is looked at through /proc, which no IOMMU is in front of.
 */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "edu.h"
#include "probe.h"

#define PAGE      4096u
#define DMA_BYTES 1024u
#define ROUNDS    24u /* under load; a transfer takes edu a tenth of a second */
#define VMS       4u

struct vm {
    uint32_t id;
    pid_t pid;
    uint8_t *memory; /* the arena, mapped here too: it stays when the guest goes */
    uint64_t bytes;
    uint64_t iova; /* 0: not mapped for any device */
};

static struct vm vms[VMS];
static const char *ctl = "vgpu-ctl";

static void result(bool good, const char *name, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void result(bool good, const char *name, const char *fmt, ...)
{
    FILE *count = fopen("/tmp/vmlab.count", "a");
    va_list ap;

    printf("\n@vmlab %s %s | ", good ? "PASS" : "FAIL", name);
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    printf("\n");
    fflush(stdout);
    if (!count || fprintf(count, "%s\n", name) < 0 || fclose(count))
        exit(1);
}

static void die(const char *what)
{
    printf("probe: %s: %s\n", what, strerror(errno));
    fflush(stdout);
    exit(1);
}

/* ---- guests ---- */

/* Maps a guest's arena into this process, by the file behind it. */
static void vm_look(struct vm *vm, uint32_t id)
{
    char path[128], line[512];
    unsigned long at, from, to, offset;
    int pid;
    unsigned long long bytes;

    snprintf(path, sizeof(path), PROBE_GUEST_FILE, id);
    FILE *f = fopen(path, "r");
    if (!f || fscanf(f, "%d %lx %llu", &pid, &at, &bytes) != 3)
        die(path);
    fclose(f);
    snprintf(path, sizeof(path), "/proc/%d/maps", pid);
    f = fopen(path, "r");
    if (!f)
        die(path);
    int fd = -1;
    while (fd < 0 && fgets(line, sizeof(line), f))
        if (sscanf(line, "%lx-%lx %*s %lx", &from, &to, &offset) == 3 && at >= from && at + bytes <= to) {
            snprintf(path, sizeof(path), "/proc/%d/map_files/%lx-%lx", pid, from, to);
            fd = open(path, O_RDWR);
        }
    fclose(f);
    if (fd < 0)
        die(path);
    *vm = (struct vm){.id = id, .pid = pid, .bytes = bytes};
    vm->memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)(offset + (at - from)));
    if (vm->memory == MAP_FAILED)
        die("mmap of an arena");
    close(fd);
    if (vm->memory[0] != PROBE_PATTERN(id))
        die("an arena without its pattern");
}

/* Where the page lies for a device that no IOMMU stands in front of. */
static uint64_t physical(const void *p)
{
    uint64_t entry = 0;
    int fd = open("/proc/self/pagemap", O_RDONLY);

    (void)*(volatile const uint8_t *)p; /* there, in this process's tables too */
    if (fd < 0 || pread(fd, &entry, 8, (off_t)((uintptr_t)p / PAGE * 8)) != 8 || !(entry >> 63))
        die("pagemap");
    close(fd);
    return (entry & ((UINT64_C(1) << 55) - 1)) * PAGE + (uintptr_t)p % PAGE;
}

static void touch(const char *fmt, uint32_t id, const char *end)
{
    char path[128];

    snprintf(path, sizeof(path), fmt, id);
    strcat(path, end);
    int fd = open(path, O_CREAT | O_WRONLY, 0644);
    if (fd < 0)
        die(path);
    close(fd);
}

/* ---- what vgpu-ctl says ---- */

static json_t *status_read(void)
{
    char command[160];
    json_error_t error;

    snprintf(command, sizeof(command), "%s --json show-iommu-status", ctl);
    FILE *f = popen(command, "r");
    json_t *status = f ? json_loadf(f, 0, &error) : NULL;
    if (f)
        pclose(f);
    return status ? status : json_object();
}

/* The mapping of a VM for devices: its first I/O address, 0 without one. */
static uint64_t iova_of(const json_t *status, uint32_t vm_id, const char **access)
{
    size_t i, j;
    json_t *vm, *m;

    json_array_foreach(json_object_get(status, "vms"), i, vm)
    {
        if (json_integer_value(json_object_get(vm, "vm_id")) != vm_id)
            continue;
        json_array_foreach(json_object_get(vm, "mappings"), j, m)
        {
            const char *iova = json_string_value(json_object_get(m, "iova"));
            if (access)
                *access = json_string_value(json_object_get(m, "access"));
            if (iova)
                return strtoull(iova, NULL, 16);
        }
    }
    return 0;
}

static bool fault_listed(const json_t *status, const char *device, const char *access, uint64_t address)
{
    size_t i;
    json_t *f;

    json_array_foreach(json_object_get(json_object_get(status, "faults"), "recent"), i, f)
    {
        const char *d = json_string_value(json_object_get(f, "device")),
                   *a = json_string_value(json_object_get(f, "access")),
                   *at = json_string_value(json_object_get(f, "address"));
        if (d && a && at && !strcmp(d, device) && !strcmp(a, access) && strtoull(at, NULL, 16) == address / PAGE * PAGE)
            return true;
    }
    return false;
}

/* The kernel writes its log when the interrupt has come. */
static bool fault_shown(const struct edu *e, const char *access, uint64_t address)
{
    for (int i = 0; i < 20; i++) {
        json_t *status = status_read();
        bool there = fault_listed(status, e->address, access, address);
        json_decref(status);
        if (there)
            return true;
        usleep(200000);
    }
    return false;
}

/* ---- reaching ---- */

/* Fills the device's buffer with bytes that stand nowhere else: through memory that it may read. */
static void arm(struct edu *e, struct vm *own, uint64_t own_address, uint8_t seed)
{
    for (uint32_t i = 0; i < DMA_BYTES; i++)
        own->memory[i] = (uint8_t)(seed + i * 7);
    edu_read(e, own_address, DMA_BYTES);
    memset(own->memory, PROBE_PATTERN(own->id), PAGE);
}

/* Does a write of the device to this address leave the page as it is? */
static bool write_blocked(struct edu *e, struct vm *own, uint64_t own_address, uint64_t address, const uint8_t *page)
{
    uint8_t before[PAGE];

    arm(e, own, own_address, (uint8_t)address);
    memcpy(before, page, PAGE);
    edu_write(e, address, DMA_BYTES);
    return memcmp(before, page, PAGE) == 0;
}

/* Does a read of the device from this address bring nothing of the page? It is written back where we can look. */
static bool read_blocked(struct edu *e, struct vm *own, uint64_t own_address, uint64_t address, const uint8_t *page)
{
    uint32_t same = 0;

    arm(e, own, own_address, 1);
    edu_read(e, address, DMA_BYTES);
    edu_write(e, own_address + PAGE, DMA_BYTES);
    for (uint32_t i = 0; i < DMA_BYTES; i++)
        same += own->memory[PAGE + i] == page[i];
    memset(own->memory + PAGE, PROBE_PATTERN(own->id), PAGE);
    return same < DMA_BYTES / 4; /* some bytes are alike by chance */
}

/* Both ways through memory that the device may use: what came out is what went in. */
static bool round_trip(struct edu *e, struct vm *vm, uint64_t address)
{
    bool good = true;

    arm(e, vm, address, (uint8_t)rand());
    uint8_t seed = 0;
    edu_write(e, address + PAGE, DMA_BYTES);
    seed = vm->memory[PAGE];
    for (uint32_t i = 0; i < DMA_BYTES; i++)
        good &= vm->memory[PAGE + i] == (uint8_t)(seed + i * 7);
    memset(vm->memory + PAGE, PROBE_PATTERN(vm->id), PAGE);
    return good;
}

static void reach_blocked(struct edu *e, struct vm *own, const char *name, uint64_t address, struct vm *victim,
                          bool fault)
{
    const uint8_t *page = victim->memory + 2 * PAGE;
    bool unchanged = write_blocked(e, own, own->iova, address, page),
         secret = read_blocked(e, own, own->iova, address, page);
    bool shown = !fault || (fault_shown(e, "write", address) && fault_shown(e, "read", address));

    result(unchanged && secret && shown, name, "0x%llx: memory of VM %u %s, %s, faults %s", (unsigned long long)address,
           victim->id, unchanged ? "unchanged" : "CHANGED", secret ? "not read" : "READ",
           !fault  ? "not looked for"
           : shown ? "shown"
                   : "NOT SHOWN");
}

static void under_load(struct edu *e, struct edu *reader, uint64_t forbidden)
{
    uint32_t trips = 0, writes = 0, reads = 0, read_only = 0;

    for (uint32_t i = 0; i < ROUNDS; i++) {
        trips += round_trip(e, &vms[1], vms[1].iova);
        writes += write_blocked(e, &vms[1], vms[1].iova, forbidden, vms[2].memory + 2 * PAGE);
        reads += read_blocked(e, &vms[1], vms[1].iova, forbidden, vms[2].memory + 2 * PAGE);
        read_only += write_blocked(reader, &vms[3], vms[3].iova, vms[3].iova + 2 * PAGE, vms[3].memory + 2 * PAGE);
    }
    result(trips == ROUNDS && writes == ROUNDS && reads == ROUNDS && read_only == ROUNDS, "under-load",
           "while guests compute, of %u each: own memory reached %u, writes blocked %u, reads blocked %u, writes to "
           "read-only "
           "memory blocked %u",
           ROUNDS, trips, writes, reads, read_only);
    printf("\n@vmlab INFO refused | %u transfers of devices that may not, while guests computed: every one blocked, "
           "and %u that "
           "may went through\n",
           writes + reads + read_only, trips);
}

/* All that guests computed meanwhile was right. */
static void guests_end(uint32_t first, uint32_t last)
{
    for (uint32_t id = first; id <= last; id++)
        touch(PROBE_GUEST_FILE, id, ".stop");
    for (uint32_t id = first; id <= last; id++) {
        char path[128];
        unsigned long long done = 0;
        FILE *f = NULL;
        snprintf(path, sizeof(path), PROBE_GUEST_FILE ".done", id);
        for (int i = 0; i < 150 && !(f = fopen(path, "r")); i++)
            usleep(100000);
        if (!f || fscanf(f, "%llu", &done) != 1)
            done = 0;
        if (f)
            fclose(f);
        char name[32];
        snprintf(name, sizeof(name), "guest-%u-computed", id);
        result(done > 0, name, "%llu operations, each result right", done);
    }
}

static bool unmapped_within(uint32_t vm_id, int tenths)
{
    bool gone = false;

    for (int i = 0; i < tenths && !gone; i++) {
        json_t *status = status_read();
        gone = iova_of(status, vm_id, NULL) == 0 && json_is_array(json_object_get(status, "vms"));
        json_decref(status);
        usleep(100000);
    }
    return gone;
}

static void probe_iommu(struct edu *e, struct edu *reader, pid_t vgpud)
{
    const char *access1 = NULL, *access3 = NULL;
    json_t *status = status_read();

    vms[1].iova = iova_of(status, 1, &access1);
    vms[2].iova = iova_of(status, 2, NULL);
    vms[3].iova = iova_of(status, 3, &access3);
    result(vms[1].iova && !vms[2].iova && vms[3].iova && access1 && !strcmp(access1, "read-write") && access3 &&
               !strcmp(access3, "read-only"),
           "mappings-shown", "VM 1 at 0x%llx %s, VM 2 nowhere, VM 3 at 0x%llx %s", (unsigned long long)vms[1].iova,
           access1 ? access1 : "?", (unsigned long long)vms[3].iova, access3 ? access3 : "?");
    json_decref(status);
    if (!vms[1].iova || !vms[3].iova)
        return;

    result(round_trip(e, &vms[1], vms[1].iova), "own-memory",
           "a device reaches the memory of its domain's VM, both ways");
    /* The kernel writes some five lines about faults in five seconds: what must be seen waits for the next interval. */
    reach_blocked(e, &vms[1], "other-vm", physical(vms[2].memory + 2 * PAGE), &vms[2], true);
    sleep(6);
    reach_blocked(e, &vms[1], "unmapped", vms[1].iova + vms[1].bytes, &vms[1], true);
    reach_blocked(e, &vms[1], "own-physical", physical(vms[1].memory + 2 * PAGE), &vms[1], false);
    reach_blocked(e, &vms[1], "null", 0, &vms[1], false);
    sleep(6);
    /* VM 3's memory is larger: this I/O address is mapped in its domain and not in VM 1's. */
    reach_blocked(e, &vms[1], "other-domain", vms[3].iova + vms[1].bytes + 2 * PAGE, &vms[3], true);
    uint8_t *page = vms[3].memory + 2 * PAGE;
    bool unchanged = write_blocked(reader, &vms[3], vms[3].iova, vms[3].iova + 2 * PAGE, page);
    bool shown = fault_shown(reader, "write", vms[3].iova + 2 * PAGE);
    result(unchanged && shown, "read-only", "a write to memory mapped read-only: %s, fault %s",
           unchanged ? "unchanged" : "CHANGED", shown ? "shown" : "NOT SHOWN");
    under_load(e, reader, physical(vms[2].memory + 2 * PAGE));

    /* Its buffer is loaded once more while that works; then the guest leaves. */
    uint64_t old = vms[1].iova;
    arm(e, &vms[1], old, 77);
    guests_end(1, 1);
    bool gone = unmapped_within(1, 100);
    sleep(6);
    edu_write(e, old + 2 * PAGE, DMA_BYTES);
    bool kept = vms[1].memory[2 * PAGE] == PROBE_PATTERN(1) &&
                !memcmp(vms[1].memory + 2 * PAGE, vms[1].memory + 3 * PAGE, PAGE);
    shown = fault_shown(e, "write", old + 2 * PAGE);
    result(gone && kept && shown, "after-detach", "mapping %s, memory %s, fault %s", gone ? "gone" : "STILL THERE",
           kept ? "unchanged" : "CHANGED", shown ? "shown" : "NOT SHOWN");
    guests_end(2, 2);

    /* kill -9 of the daemon: the kernel closes its containers. */
    edu_read(reader, vms[3].iova + 2 * PAGE, DMA_BYTES); /* this works: the pattern is in its buffer */
    kill(vgpud, SIGKILL);
    while (kill(vgpud, 0) == 0)
        usleep(20000);
    memset(page, 0x55, PAGE);
    edu_write(reader, vms[3].iova + 2 * PAGE, DMA_BYTES);
    edu_write(reader, physical(page), DMA_BYTES);
    kept = page[0] == 0x55 && !memcmp(page, page + 1, PAGE - 1);
    result(kept, "after-kill", "vgpud killed: memory that was mapped %s", kept ? "unchanged" : "CHANGED");
}

static void probe_bare(struct edu *e)
{
    uint64_t own = physical(vms[1].memory), other = physical(vms[2].memory + 2 * PAGE);

    bool unchanged = write_blocked(e, &vms[1], own, other, vms[2].memory + 2 * PAGE);
    result(!unchanged, "control-write", "without an IOMMU a write to VM 2's memory: %s (so the check can fail)",
           unchanged ? "UNCHANGED" : "changed");
    memset(vms[2].memory + 2 * PAGE, PROBE_PATTERN(2), PAGE);
    arm(e, &vms[1], own, 1);
    edu_read(e, other, DMA_BYTES);
    edu_write(e, physical(vms[1].memory + PAGE), DMA_BYTES);
    bool leaked = !memcmp(vms[1].memory + PAGE, vms[2].memory + 2 * PAGE, DMA_BYTES);
    result(leaked, "control-read", "without an IOMMU VM 2's memory %s (so the check can fail)",
           leaked ? "was read" : "NOT READ");
    memset(vms[1].memory + PAGE, PROBE_PATTERN(1), PAGE);
    printf("\n@vmlab INFO control | without an IOMMU the same transfers %s VM 2's memory\n",
           !unchanged && leaked ? "change and read" : "DO NOT REACH");
    guests_end(1, 2);
}

int main(int argc, char **argv)
{
    struct edu e[2];
    bool iommu = argc > 1 && !strcmp(argv[1], "iommu");

    setvbuf(stdout, NULL, _IOLBF, 0);
    srand(1);
    if (argc != (iommu ? 5 : 3)) {
        fprintf(stderr, "vgpu-iommu-probe iommu DEVICE DEVICE PID-OF-VGPUD | bare DEVICE\n");
        return 2;
    }
    for (uint32_t id = 1; id <= (iommu ? 3u : 2u); id++)
        vm_look(&vms[id], id);
    edu_open(&e[0], argv[2]);
    if (!iommu) {
        probe_bare(&e[0]);
        return 0;
    }
    edu_open(&e[1], argv[3]);
    probe_iommu(&e[0], &e[1], (pid_t)atoi(argv[4]));
    return 0;
}
