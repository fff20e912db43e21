/* SPDX-License-Identifier: Apache-2.0 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/cpuset.h"
#include "tests/host/tree.h"

#define PATH_BYTES 700
#define HOME_BYTES 350 /* "pci0000:00/0000:00:01.0/...", below sys/devices */
#define LINE_BYTES 16384

static int unlink_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

void tree_remove(const char *directory)
{
    nftw(directory, unlink_one, 16, FTW_DEPTH | FTW_PHYS);
}

char *tree_new(void)
{
    static char names[4][PATH_BYTES];
    static unsigned turn;
    const char *tmp = getenv("TMPDIR");
    char *out = names[turn++ % 4];

    /* Thousands of small files: in memory where there is room. */
    snprintf(out, PATH_BYTES, "%s/vgpu-host-XXXXXX", tmp ? tmp : access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    if (!mkdtemp(out))
        err(1, "%s", out);
    return out;
}

static void make_folders(const char *path, bool last)
{
    char part[PATH_BYTES];

    snprintf(part, sizeof(part), "%s", path);
    for (char *c = part + 1; *c; c++)
        if (*c == '/') {
            *c = 0;
            if (mkdir(part, 0755) && errno != EEXIST)
                err(1, "mkdir %s", part);
            *c = '/';
        }
    if (last && mkdir(part, 0755) && errno != EEXIST)
        err(1, "mkdir %s", part);
}

static void put_bytes(const char *path, const void *bytes, size_t n, int flags)
{
    make_folders(path, false);
    if (!(flags & O_APPEND))
        unlink(path);
    int fd = open(path, O_WRONLY | O_CREAT | flags, 0644);
    if (fd < 0 || write(fd, bytes, n) != (ssize_t)n)
        err(1, "%s", path);
    close(fd);
}

/* In place; returns the length, since \x00 may be in it. */
static size_t unescape(char *text)
{
    char *out = text;

    for (char *in = text; *in; in++) {
        unsigned byte;
        if (*in != '\\') {
            *out++ = *in;
        } else if (in[1] == 'x' && sscanf(in + 2, "%2x", &byte) == 1) {
            *out++ = (char)byte;
            in += 3;
        } else {
            in++;
            *out++ = *in == 'n' ? '\n' : *in == 't' ? '\t' : *in;
        }
    }
    *out = 0;
    return (size_t)(out - text);
}

static void put_text(const char *path, char *text, bool newline, int flags)
{
    size_t n = unescape(text);

    if (newline)
        text[n++] = '\n'; /* over the NUL */
    put_bytes(path, text, n, flags);
}

__attribute__((format(printf, 3, 4))) static void put(const char *directory, const char *path, const char *fmt, ...)
{
    char full[PATH_BYTES * 2], text[LINE_BYTES];
    va_list ap;

    snprintf(full, sizeof(full), "%s/%s", directory, path);
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text) - 1, fmt, ap);
    va_end(ap);
    strcat(text, "\n");
    put_bytes(full, text, strlen(text), 0);
}

static void put_link(const char *directory, const char *path, const char *target)
{
    char full[PATH_BYTES * 2];

    snprintf(full, sizeof(full), "%s/%s", directory, path);
    make_folders(full, false);
    unlink(full);
    if (symlink(target, full))
        err(1, "%s", full);
}

/* The value of KEY in "KEY=VALUE KEY=VALUE", in one of some static buffers; missing if it is not there. */
static const char *key(const char *line, const char *name, const char *missing)
{
    static char values[16][512];
    static unsigned turn;
    size_t n = strlen(name);

    for (const char *at = line; (at = strstr(at, name)); at += n)
        if (at[n] == '=' && (at == line || at[-1] == ' ')) {
            char *out = values[turn++ % 16];
            bool rest = strcmp(name, "model") == 0;
            snprintf(out, sizeof(values[0]), "%.*s", (int)strcspn(at + n + 1, rest ? "" : " "), at + n + 1);
            return out;
        }
    return missing;
}

static uint64_t size_of(const char *text)
{
    char *end;
    uint64_t v = strtoull(text, &end, 0);

    return *end == 'G' ? v << 30 : *end == 'M' ? v << 20 : *end == 'K' ? v << 10 : v;
}

static void make_node(const char *directory, const char *args)
{
    int id = atoi(args);
    char path[256];
    uint64_t kb = size_of(key(args, "memory", "64G")) / 1024;
    char *distance = strdup(key(args, "distance", "10"));
    struct vgpu_host_cpuset cpus;

    for (char *c = distance; *c; c++)
        if (*c == ',')
            *c = ' ';
#define NODE(file) (snprintf(path, sizeof(path), "sys/devices/system/node/node%d/" file, id), path)
    put(directory, NODE("cpulist"), "%s", key(args, "cpus", ""));
    put(directory, NODE("distance"), "%s", distance);
    put(directory, NODE("meminfo"), "Node %d MemTotal:       %" PRIu64 " kB\nNode %d MemFree:        %" PRIu64 " kB",
        id, kb, id, kb * 3 / 4);
    put(directory, NODE("hugepages/hugepages-2048kB/nr_hugepages"), "%s", key(args, "huge2m", "0"));
    put(directory, NODE("hugepages/hugepages-2048kB/free_hugepages"), "%s", key(args, "huge2m", "0"));
    put(directory, NODE("hugepages/hugepages-1048576kB/nr_hugepages"), "%s", key(args, "huge1g", "0"));
    put(directory, NODE("hugepages/hugepages-1048576kB/free_hugepages"), "%s", key(args, "huge1g", "0"));
#undef NODE
    if (vgpu_host_cpuset_parse(key(args, "cpus", ""), &cpus) == 0)
        for (int cpu = vgpu_host_cpuset_next(&cpus, 0); cpu >= 0; cpu = vgpu_host_cpuset_next(&cpus, cpu + 1)) {
            char target[64];
            snprintf(path, sizeof(path), "sys/devices/system/cpu/cpu%d/node%d", cpu, id);
            snprintf(target, sizeof(target), "../../node/node%d", id);
            put_link(directory, path, target);
        }
    free(distance);
}

/* Threads of a core are neighbours: CPUs 0 and 1 of per_core=2. */
static void make_cpus(const char *directory, const char *args)
{
    int count = atoi(args), per_core = atoi(key(args, "per_core", "1"));
    int per_package = atoi(key(args, "per_package", "4096"));
    const char *governor = key(args, "governor", NULL);
    char path[256];

    put(directory, "sys/devices/system/cpu/online", count > 1 ? "0-%d" : "0", count - 1);
    for (int i = 0; i < count; i++) {
#define CPU(file) (snprintf(path, sizeof(path), "sys/devices/system/cpu/cpu%d/" file, i), path)
        put(directory, CPU("topology/physical_package_id"), "%d", i / per_package);
        put(directory, CPU("topology/core_id"), "%d", i % per_package / per_core);
        if (per_core > 1)
            put(directory, CPU("topology/thread_siblings_list"), "%d-%d", i / per_core * per_core,
                i / per_core * per_core + per_core - 1);
        else
            put(directory, CPU("topology/thread_siblings_list"), "%d", i);
        if (governor)
            put(directory, CPU("cpufreq/scaling_governor"), "%s", governor);
#undef CPU
    }
}

static void le(uint8_t *config, unsigned at, uint32_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        config[at + i] = (uint8_t)(value >> (8 * i));
}

static unsigned power(unsigned bytes)
{
    return (unsigned)__builtin_ctz(bytes / 128 ? bytes / 128 : 1);
}

/* Configuration space of a PCI Express function: header, one capability, and ACS where it is asked for. */
static void make_config(const char *path, const char *args)
{
    uint8_t config[4096] = {0};
    const char *port = key(args, "port", NULL), *acs = key(args, "acs", NULL);
    unsigned can, on, now, most;
    static const char *const kinds[] = {"endpoint", NULL, NULL, NULL, "root", "up", "down"};

    if (!port)
        return;
    le(config, 0x04, 0x0006, 2); /* memory space, bus master */
    le(config, 0x06, 0x0010, 2); /* has capabilities */
    config[0x34] = 0x40;
    config[0x40] = 0x10; /* PCI Express */
    for (unsigned i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
        if (kinds[i] && strcmp(kinds[i], port) == 0)
            le(config, 0x42, 2 | i << 4, 2);
    if (sscanf(key(args, "payload", "256/256"), "%u/%u", &now, &most) == 2) {
        le(config, 0x44, power(most), 4);
        le(config, 0x48, power(now) << 5 | 0x10 | 2 << 12, 2);
    }
    if (acs && sscanf(acs, "%x/%x", &can, &on) == 2) {
        le(config, 0x100, 0x0d | 1 << 16, 4);
        le(config, 0x104, can, 2);
        le(config, 0x106, on, 2);
    }
    if (strcmp(key(args, "ats", "off"), "on") == 0) { /* behind ACS, if that is there */
        unsigned at = config[0x100] ? 0x110 : 0x100;
        if (at != 0x100)
            le(config, 0x100, 0x0d | 1 << 16 | at << 20, 4);
        le(config, at, 0x0f | 1 << 16, 4);
        le(config, at + 6, 0x8000, 2);
    }
    put_bytes(path, config, sizeof(config), 0);
}

static void make_pci_links(const char *directory, const char *address, const char *home, const char *args)
{
    const char *group = key(args, "group", NULL), *driver = key(args, "driver", NULL);
    char path[PATH_BYTES], target[PATH_BYTES], up[64] = "../../";

    snprintf(path, sizeof(path), "sys/bus/pci/devices/%s", address);
    snprintf(target, sizeof(target), "../../../devices/%s", home);
    put_link(directory, path, target);
    for (const char *c = home; *c; c++)
        if (*c == '/')
            strcat(up, "../");
    if (driver) {
        snprintf(path, sizeof(path), "sys/devices/%s/driver", home);
        snprintf(target, sizeof(target), "%sbus/pci/drivers/%s", up, driver);
        put_link(directory, path, target);
    }
    if (group) {
        snprintf(path, sizeof(path), "sys/devices/%s/iommu_group", home);
        snprintf(target, sizeof(target), "%skernel/iommu_groups/%s", up, group);
        put_link(directory, path, target);
        snprintf(path, sizeof(path), "sys/kernel/iommu_groups/%s/devices/%s", group, address);
        snprintf(target, sizeof(target), "../../../../devices/%s", home);
        put_link(directory, path, target);
        snprintf(path, sizeof(path), "sys/kernel/iommu_groups/%s/type", group);
        put(directory, path, "%s", key(args, "domain", "DMA-FQ"));
    }
}

static void make_bars(const char *directory, const char *home, const char *args)
{
    char path[PATH_BYTES], text[1024] = "";
    uint64_t at = UINT64_C(0x38000000000);

    for (int i = 0; i < 6; i++) {
        char name[8];
        snprintf(name, sizeof(name), "bar%d", i);
        uint64_t bytes = size_of(key(args, name, "0"));
        snprintf(text + strlen(text), sizeof(text) - strlen(text), "0x%016" PRIx64 " 0x%016" PRIx64 " 0x%016x%s",
                 bytes ? at : 0, bytes ? at + bytes - 1 : 0, bytes ? 0x14220c : 0, i < 5 ? "\n" : "");
        at += bytes;
    }
    snprintf(path, sizeof(path), "sys/devices/%s/resource", home);
    put(directory, path, "%s", text);
}

static void make_pci(const char *directory, const char *args)
{
    char address[32], home[HOME_BYTES], path[PATH_BYTES], speed[2][16];
    const char *above = key(args, "below", NULL), *reset = key(args, "reset", NULL);
    unsigned vendor = 0, device = 0, width[2];

    if (sscanf(args, "%31s", address) != 1)
        errx(1, "pci: no address: %s", args);
    if (above) { /* its home is where its own link points */
        char link[PATH_BYTES], below[HOME_BYTES - sizeof(address)];
        snprintf(link, sizeof(link), "%s/sys/bus/pci/devices/%s", directory, above);
        ssize_t n = readlink(link, below, sizeof(below) - 1);
        if (n < 0)
            err(1, "pci %s: below=%s", address, above);
        below[n] = 0;
        snprintf(home, sizeof(home), "%.300s/%.31s", below + strlen("../../../devices/"), address);
    } else {
        snprintf(home, sizeof(home), "pci%.7s/%s", address, address);
    }
#define FILE_OF(file) (snprintf(path, sizeof(path), "sys/devices/%s/" file, home), path)
    sscanf(key(args, "id", "0:0"), "%x:%x", &vendor, &device);
    put(directory, FILE_OF("vendor"), "0x%04x", vendor);
    put(directory, FILE_OF("device"), "0x%04x", device);
    put(directory, FILE_OF("class"), "0x%s", key(args, "class", "000000"));
    put(directory, FILE_OF("revision"), "0x%s", key(args, "revision", "00"));
    put(directory, FILE_OF("numa_node"), "%s", key(args, "node", "-1"));
    put(directory, FILE_OF("power_state"), "%s", key(args, "power", "D0"));
    put(directory, FILE_OF("power/control"), "%s", key(args, "control", "on"));
    if (sscanf(key(args, "link", ""), "%15[0-9.]x%u", speed[0], &width[0]) == 2) {
        if (sscanf(key(args, "max", key(args, "link", "")), "%15[0-9.]x%u", speed[1], &width[1]) != 2)
            errx(1, "pci %s: max=", address);
        put(directory, FILE_OF("current_link_speed"), "%s GT/s PCIe", speed[0]);
        put(directory, FILE_OF("current_link_width"), "%u", width[0]);
        put(directory, FILE_OF("max_link_speed"), "%s GT/s PCIe", speed[1]);
        put(directory, FILE_OF("max_link_width"), "%u", width[1]);
    }
    if (reset) {
        put(directory, FILE_OF("reset"), "%s", "");
        put(directory, FILE_OF("reset_method"), "%s", reset);
    }
    if (key(args, "aer", NULL)) {
        put(directory, FILE_OF("aer_dev_fatal"), "Undefined 0\nTOTAL_ERR_FATAL %s", key(args, "aer", "0"));
        put(directory, FILE_OF("aer_dev_nonfatal"), "Undefined 0\nTOTAL_ERR_NONFATAL 0");
        put(directory, FILE_OF("aer_dev_correctable"), "RxErr 0\nTOTAL_ERR_COR %s", key(args, "aer_cor", "0"));
    }
    make_bars(directory, home, args);
    char config[PATH_BYTES * 2];
    snprintf(config, sizeof(config), "%s/%s", directory, FILE_OF("config"));
    make_config(config, args);
#undef FILE_OF
    make_pci_links(directory, address, home, args);
}

static void put_hex(const char *path, const char *hex)
{
    uint8_t bytes[LINE_BYTES / 2];
    size_t n = 0;
    unsigned byte;

    for (; sscanf(hex, " %2x", &byte) == 1; n++) {
        bytes[n] = (uint8_t)byte;
        hex += strspn(hex, " ") + 2;
    }
    put_bytes(path, bytes, n, 0);
}

static void put_zeros(const char *path, const char *size)
{
    put_bytes(path, "", 0, 0);
    if (truncate(path, (off_t)size_of(size)))
        err(1, "%s", path);
}

/* verb PATH REST, where PATH is below the directory. */
static void apply_file(const char *directory, const char *verb, char *args)
{
    char full[PATH_BYTES * 2];
    size_t n = strcspn(args, " ");
    char *rest = args + n + (args[n] == ' ');

    args[n] = 0;
    snprintf(full, sizeof(full), "%s/%s", directory, verb[0] == 'm' ? rest : args);
    switch (verb[0]) {
    case 'f':
    case 'n':
    case 'a':
        put_text(full, rest, verb[0] != 'n', verb[0] == 'a' ? O_APPEND : 0);
        break;
    case 'b':
        put_hex(full, rest);
        break;
    case 'z':
        put_zeros(full, rest);
        break;
    case 'd':
        make_folders(full, true);
        break;
    case 'l':
        put_link(directory, args, rest);
        break;
    case 'p':
        make_folders(full, false);
        if (mkfifo(full, 0644))
            err(1, "%s", full);
        break;
    case 'm':
        if (chmod(full, (mode_t)strtoul(args, NULL, 8)))
            err(1, "%s", full);
        break;
    case 'x':
        tree_remove(full);
        break;
    default:
        errx(1, "'%s': not a verb", verb);
    }
}

static void apply_line(const char *directory, char *line)
{
    char *verb = line + strspn(line, " ");
    size_t n = strcspn(verb, " ");
    char *args = verb + n + (verb[n] == ' ');

    if (!*verb || *verb == '#')
        return;
    verb[n] = 0;
    if (strcmp(verb, "include") == 0)
        tree_make(directory, args);
    else if (strcmp(verb, "node") == 0)
        make_node(directory, args);
    else if (strcmp(verb, "cpus") == 0)
        make_cpus(directory, args);
    else if (strcmp(verb, "pci") == 0)
        make_pci(directory, args);
    else if (n == 1)
        apply_file(directory, verb, args);
    else
        errx(1, "'%s %s': not a verb", verb, args);
}

void tree_apply(const char *directory, const char *text)
{
    char *copy = strdup(text), *rest = copy, *line;

    while ((line = strsep(&rest, "\n"))) {
        char room[LINE_BYTES]; /* with space for the newline that put_text() adds */
        if (strlen(line) >= sizeof(room) - 1)
            errx(1, "a line of %zu bytes", strlen(line));
        apply_line(directory, strcpy(room, line));
    }
    free(copy);
}

void tree_make(const char *directory, const char *fixture)
{
    char path[PATH_BYTES];
    static const size_t most = 1 << 20;
    char *text = calloc(1, most);

    snprintf(path, sizeof(path), VGPU_TEST_SOURCE_ROOT "/tests/host/fixtures/%s.txt", fixture);
    FILE *f = fopen(path, "r");
    if (!f || !text)
        err(1, "%s", path);
    size_t got = fread(text, 1, most - 1, f);
    fclose(f);
    if (got == most - 1)
        errx(1, "%s: too long", path);
    tree_apply(directory, text);
    free(text);
}
