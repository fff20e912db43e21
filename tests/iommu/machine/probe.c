/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vgpu-iommu-probe WHAT DEVICE DEVICE PID-OF-VGPUD: makes edu devices reach for memory, and looks at the memory itself.
 *
 *   iommu   device 1 is in VM 1's domain, device 2 in VM 3's, where it may only read; VM 2 is in a domain without
 * devices bare    each kind of reach again, at a machine without an IOMMU: there it must succeed, or the check of that
 * name under `iommu` could not fail
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

#define PAGE           4096u
#define DMA_BYTES      1024u
#define ROUNDS         24u /* under load; a transfer takes edu a tenth of a second */
#define CONTROL_ROUNDS 4u
#define VMS            4u

struct vm {
    uint32_t id;
    pid_t pid;
    uint8_t *memory; /* the arena, mapped here too: it stays when the guest goes */
    uint64_t bytes;
    uint64_t iova;  /* 0: not mapped for any device */
    uint64_t at[2]; /* its first two pages, for its device: behind each other at iova, or by their physical addresses */
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

static json_t *status_of(const char *arguments)
{
    char command[160];
    json_error_t error;

    snprintf(command, sizeof(command), "%s --json show-iommu-status%s", ctl, arguments);
    FILE *f = popen(command, "r");
    json_t *status = f ? json_loadf(f, 0, &error) : NULL;
    if (f)
        pclose(f);
    return status ? status : json_object();
}

static json_t *status_read(void)
{
    return status_of("");
}

/* Of the host, when vgpud is gone. */
static json_t *status_alone(void)
{
    return status_of(" --root=/");
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
static void arm(struct edu *e, struct vm *own, uint8_t seed)
{
    for (uint32_t i = 0; i < DMA_BYTES; i++)
        own->memory[i] = (uint8_t)(seed + i * 7);
    edu_read(e, own->at[0], DMA_BYTES);
    memset(own->memory, PROBE_PATTERN(own->id), PAGE);
}

/* Does a write of the device to this address leave the page as it is? */
static bool write_blocked(struct edu *e, struct vm *own, uint64_t address, const uint8_t *page)
{
    uint8_t before[PAGE];

    arm(e, own, (uint8_t)address);
    memcpy(before, page, PAGE);
    edu_write(e, address, DMA_BYTES);
    return memcmp(before, page, PAGE) == 0;
}

/* Does a read of the device from this address bring nothing of the page? It is written back where we can look. */
static bool read_blocked(struct edu *e, struct vm *own, uint64_t address, const uint8_t *page)
{
    uint32_t same = 0;

    arm(e, own, 1);
    edu_read(e, address, DMA_BYTES);
    edu_write(e, own->at[1], DMA_BYTES);
    for (uint32_t i = 0; i < DMA_BYTES; i++)
        same += own->memory[PAGE + i] == page[i];
    memset(own->memory + PAGE, PROBE_PATTERN(own->id), PAGE);
    return same < DMA_BYTES / 4; /* some bytes are alike by chance */
}

/* Both ways through memory that the device may use: what came out is what went in. */
static bool round_trip(struct edu *e, struct vm *vm)
{
    bool good = true;

    arm(e, vm, (uint8_t)rand());
    uint8_t seed = 0;
    edu_write(e, vm->at[1], DMA_BYTES);
    seed = vm->memory[PAGE];
    for (uint32_t i = 0; i < DMA_BYTES; i++)
        good &= vm->memory[PAGE + i] == (uint8_t)(seed + i * 7);
    memset(vm->memory + PAGE, PROBE_PATTERN(vm->id), PAGE);
    return good;
}

/* page: what would change, or be read, if the device were let. */
static void reach_blocked(struct edu *e, struct vm *own, const char *name, uint64_t address, const uint8_t *page)
{
    bool unchanged = write_blocked(e, own, address, page), secret = read_blocked(e, own, address, page);
    bool shown = fault_shown(e, "write", address) && fault_shown(e, "read", address);

    result(unchanged && secret && shown, name, "0x%llx: memory %s, %s, faults %s", (unsigned long long)address,
           unchanged ? "unchanged" : "CHANGED", secret ? "not read" : "READ", shown ? "shown" : "NOT SHOWN");
    /* The kernel writes some five lines about faults in five seconds: what is to be seen next waits for the next
     * interval. */
    sleep(6);
}

static void under_load(struct edu *e, struct edu *reader, uint64_t forbidden)
{
    uint32_t trips = 0, writes = 0, reads = 0, read_only = 0;

    for (uint32_t i = 0; i < ROUNDS; i++) {
        trips += round_trip(e, &vms[1]);
        writes += write_blocked(e, &vms[1], forbidden, vms[2].memory + 2 * PAGE);
        reads += read_blocked(e, &vms[1], forbidden, vms[2].memory + 2 * PAGE);
        read_only += write_blocked(reader, &vms[3], vms[3].iova + 2 * PAGE, vms[3].memory + 2 * PAGE);
    }
    result(trips == ROUNDS && writes == ROUNDS && reads == ROUNDS && read_only == ROUNDS, "under-load",
           "while guests compute, of %u each: own memory reached %u, writes blocked %u, reads blocked %u, writes to "
           "read-only memory blocked %u",
           ROUNDS, trips, writes, reads, read_only);
    printf("\n@vmlab INFO refused | %u transfers of devices that may not, while guests computed: every one blocked, "
           "and %u that may went through\n",
           writes + reads + read_only, trips);
}

/* A page that is in no VM's arena: of this process. */
static uint8_t *page_of_nobody(void)
{
    uint8_t *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (page == MAP_FAILED || mlock(page, PAGE))
        die("a page of our own");
    memset(page, 0x3c, PAGE);
    return page;
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

/* A page of VM 3's memory, which is larger, at an offset that VM 1's does not have. Its guest works elsewhere. */
static uint8_t *beyond(void)
{
    return vms[3].memory + vms[1].bytes + 2 * PAGE;
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

    for (uint32_t id = 1; id <= 3; id += 2) {
        vms[id].at[0] = vms[id].iova;
        vms[id].at[1] = vms[id].iova + PAGE;
    }
    result(round_trip(e, &vms[1]), "own-memory", "a device reaches the memory of its domain's VM, both ways");
    uint8_t *own = vms[1].memory + 2 * PAGE, *page = vms[3].memory + 2 * PAGE, *nobodys = page_of_nobody();
    reach_blocked(e, &vms[1], "other-vm", physical(vms[2].memory + 2 * PAGE), vms[2].memory + 2 * PAGE);
    reach_blocked(e, &vms[1], "host-memory", physical(nobodys), nobodys);
    reach_blocked(e, &vms[1], "unmapped", vms[1].iova + vms[1].bytes, own);
    reach_blocked(e, &vms[1], "own-physical", physical(own), own);
    reach_blocked(e, &vms[1], "null", 0, own);
    /* This I/O address is mapped in VM 3's domain and not in VM 1's. */
    reach_blocked(e, &vms[1], "other-domain", vms[3].iova + (uint64_t)(beyond() - vms[3].memory), beyond());
    bool unchanged = write_blocked(reader, &vms[3], vms[3].iova + 2 * PAGE, page);
    bool shown = fault_shown(reader, "write", vms[3].iova + 2 * PAGE);
    result(unchanged && shown, "read-only", "a write to memory mapped read-only: %s, fault %s",
           unchanged ? "unchanged" : "CHANGED", shown ? "shown" : "NOT SHOWN");
    under_load(e, reader, physical(vms[2].memory + 2 * PAGE));

    /* Its buffer is loaded once more while that works; then the guest leaves. */
    uint64_t old = vms[1].iova;
    arm(e, &vms[1], 77);
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

/* ---- the control ---- */

/* The reach of that name, at a machine where nothing stands in its way. */
static void control(struct edu *e, struct vm *own, const char *name, uint8_t *page)
{
    uint8_t before[PAGE];
    uint64_t address = physical(page);

    memcpy(before, page, PAGE);
    bool changed = !write_blocked(e, own, address, page);
    memcpy(page, before, PAGE);
    bool leaked = !read_blocked(e, own, address, page);
    result(changed && leaked, name, "without an IOMMU that memory %s by a write and %s by a read",
           changed ? "is changed" : "IS NOT CHANGED", leaked ? "is read" : "IS NOT READ");
}

/* What stands at address 0 is not ours to write; reading it brings other bytes than the buffer had. */
static void control_null(struct edu *e, struct vm *own)
{
    uint32_t seeded = 0;

    arm(e, own, 1);
    edu_read(e, 0, DMA_BYTES);
    edu_write(e, own->at[1], DMA_BYTES);
    for (uint32_t i = 0; i < DMA_BYTES; i++)
        seeded += own->memory[PAGE + i] == (uint8_t)(1 + i * 7);
    memset(own->memory + PAGE, PROBE_PATTERN(own->id), PAGE);
    result(seeded < DMA_BYTES / 4, "control-null", "without an IOMMU a read of address 0 %s",
           seeded < DMA_BYTES / 4 ? "brings what stands there" : "BRINGS NOTHING");
}

static void control_under_load(struct edu *e, struct edu *reader, uint8_t *victim, uint8_t *read_only)
{
    uint32_t landed = 0;

    for (uint32_t i = 0; i < CONTROL_ROUNDS; i++) {
        landed += round_trip(e, &vms[1]);
        landed += !write_blocked(e, &vms[1], physical(victim), victim);
        memset(victim, PROBE_PATTERN(2), PAGE);
        landed += !read_blocked(e, &vms[1], physical(victim), victim);
        landed += !write_blocked(reader, &vms[3], physical(read_only), read_only);
        memset(read_only, PROBE_PATTERN(3), PAGE);
    }
    result(landed == 4 * CONTROL_ROUNDS, "control-under-load", "without an IOMMU %u of %u transfers land", landed,
           4 * CONTROL_ROUNDS);
}

static void probe_bare(struct edu *e, struct edu *reader, pid_t vgpud)
{
    uint8_t *own = vms[1].memory + 2 * PAGE, *other = vms[2].memory + 2 * PAGE, *third = vms[3].memory + 2 * PAGE;

    for (uint32_t id = 1; id <= 3; id++)
        for (uint32_t i = 0; i < 2; i++)
            vms[id].at[i] = physical(vms[id].memory + i * PAGE);
    control(e, &vms[1], "control-other-vm", other);
    control(e, &vms[1], "control-host-memory", page_of_nobody());
    control(e, &vms[1], "control-unmapped", page_of_nobody()); /* one that no mapping names, as the one behind an arena */
    control(e, &vms[1], "control-own-physical", own);
    control_null(e, &vms[1]);
    control(e, &vms[1], "control-other-domain", beyond());
    control(reader, &vms[3], "control-read-only", third);
    control_under_load(e, reader, other, third);
    guests_end(1, 1);
    control(e, &vms[1], "control-after-detach", own);
    guests_end(2, 2);
    kill(vgpud, SIGKILL);
    while (kill(vgpud, 0) == 0)
        usleep(20000);
    control(reader, &vms[3], "control-after-kill", third);
    /* And a fault is shown where there was one, not because something was tried. */
    json_t *status = status_alone();
    json_int_t faults = json_integer_value(json_object_get(json_object_get(status, "faults"), "total"));
    result(json_is_object(json_object_get(status, "faults")) && faults == 0, "control-faults",
           "%lld faults are told of all that", (long long)faults);
    json_decref(status);
    printf("\n@vmlab INFO control | without an IOMMU each kind of reach that is blocked under one goes through\n");
}

int main(int argc, char **argv)
{
    struct edu e[2];
    bool iommu = argc > 1 && !strcmp(argv[1], "iommu");

    setvbuf(stdout, NULL, _IOLBF, 0);
    srand(1);
    if (argc != 5 || (!iommu && strcmp(argv[1], "bare"))) {
        fprintf(stderr, "vgpu-iommu-probe iommu|bare DEVICE DEVICE PID-OF-VGPUD\n");
        return 2;
    }
    for (uint32_t id = 1; id <= 3; id++)
        vm_look(&vms[id], id);
    memset(beyond(), PROBE_PATTERN(3), PAGE);
    edu_open(&e[0], argv[2]);
    edu_open(&e[1], argv[3]);
    (iommu ? probe_iommu : probe_bare)(&e[0], &e[1], (pid_t)atoi(argv[4]));
    return 0;
}
