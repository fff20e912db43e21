/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/harness.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/utsname.h>
#include <unistd.h>

#define HUGE_BYTES ((size_t)2 << 20)

/* ---- Facts ---- */
static void cpuinfo_field(const char *key, char *out, size_t bytes)
{
    FILE *f = fopen("/proc/cpuinfo", "r");
    char line[4096];

    snprintf(out, bytes, "unknown");
    while (f && fgets(line, sizeof(line), f)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, key, strlen(key)) || !colon)
            continue;
        snprintf(out, bytes, "%s", colon[1] ? colon + 2 : "");
        out[strcspn(out, "\n\"\\")] = '\0';
        break;
    }
    if (f)
        fclose(f);
}

static bool cpu_has_flag(const char *flag)
{
    FILE *f = fopen("/proc/cpuinfo", "r");
    char line[8192], padded[64];
    bool has = false;

    snprintf(padded, sizeof(padded), " %s ", flag);
    while (f && fgets(line, sizeof(line), f)) {
        if (strncmp(line, "flags", 5))
            continue;
        line[strcspn(line, "\n")] = ' ';
        has = strstr(line, padded) != NULL;
        break;
    }
    if (f)
        fclose(f);
    return has;
}

/* First CPU of the physical core that this one belongs to, so that siblings can be told apart. */
static int core_leader(int cpu)
{
    char path[128];
    int leader = cpu;

    snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
    FILE *f = fopen(path, "r");
    if (!f)
        return cpu;
    if (fscanf(f, "%d", &leader) != 1)
        leader = cpu;
    fclose(f);
    return leader;
}

/* Allowed CPUs: those that lead a physical core first, their siblings after. */
static void choose_cores(struct bench *b)
{
    cpu_set_t set;

    b->n_cores = 0;
    if (sched_getaffinity(0, sizeof(set), &set))
        return;
    for (int pass = 0; pass < 2; pass++)
        for (int cpu = 0; cpu < CPU_SETSIZE && b->n_cores < BENCH_CORES_MAX; cpu++)
            if (CPU_ISSET(cpu, &set) && (core_leader(cpu) == cpu) == (pass == 0))
                b->cores[b->n_cores++] = cpu;
}

void bench_host_init(struct bench *b)
{
    char vendor[64], model[128], cores[4 * BENCH_CORES_MAX] = "";
    struct utsname os;
    double load = 0;

    cpuinfo_field("vendor_id", vendor, sizeof(vendor));
    cpuinfo_field("model name", model, sizeof(model));
    b->is_amd = strcmp(vendor, "AuthenticAMD") == 0;
    b->is_intel = strcmp(vendor, "GenuineIntel") == 0;
    if (!b->cores_given)
        choose_cores(b);
    for (int i = 0; i < b->n_cores; i++)
        snprintf(cores + strlen(cores), sizeof(cores) - strlen(cores), "%s%d", i ? "," : "", b->cores[i]);
    uname(&os);
    if (getloadavg(&load, 1) != 1)
        load = -1;
    if (asprintf(&b->host_json,
                 "{\"cpu\":\"%s\",\"vendor\":\"%s\",\"virtual\":%s,\"cpus\":%ld,\"cores\":[%s],\"kernel\":\"%s\","
                 "\"memory\":\"%s\",\"tick_hz\":%llu,\"load\":%.2f,\"compiler\":\"%s\",\"vgpu\":\"%s\"}",
                 model, vendor, cpu_has_flag("hypervisor") ? "true" : "false", sysconf(_SC_NPROCESSORS_ONLN), cores,
                 os.release, b->mem->kind, (unsigned long long)vgpu_clock.ticks_hz, load, __VERSION__,
                 VGPU_VERSION) < 0)
        abort();
    fprintf(b->text, "host: %s, %d cores used (%s), %s, kernel %s, load %.2f\n", model, b->n_cores, cores, b->mem->kind,
            os.release, load);
    if (b->cores_shared)
        fprintf(b->text, "note: a core was given twice: threads wait for each other's turns, no goal is judged\n");
    if (load > 0.5)
        fprintf(b->text, "note: the machine was busy when this started; trust ratios, not times\n");
}

/* ---- Threads ---- */
struct member {
    pthread_t thread;
    bench_thread_fn *fn;
    void *arg;
    int core;
    int *ready;
    struct bench_noise *noise;
    int n;
    int err;
};

static void *member_main(void *arg)
{
    struct member *m = arg;
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(m->core, &set);
    m->err = -pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
    __atomic_add_fetch(m->ready, 1, __ATOMIC_ACQ_REL);
    /* Yields: more threads than cores must not lock each other out of starting. */
    while (__atomic_load_n(m->ready, __ATOMIC_ACQUIRE) < m->n)
        sched_yield();
    if (__atomic_load_n(m->ready, __ATOMIC_ACQUIRE) < 2 * m->n && !m->err) {
        uint64_t before = bench_noise_switches(), from = vgpu_now_ns();
        m->fn(m->arg);
        bench_noise_thread(m->noise, before, vgpu_now_ns() - from, sched_getcpu() != m->core);
    }
    return NULL;
}

int bench_team_run(struct bench *b, const int *cores, int n, bench_thread_fn *const *fn, void *const *arg)
{
    struct member members[BENCH_CORES_MAX];
    int ready = 0, started = 0, err = 0;

    for (; started < n && !err; started++) {
        members[started] = (struct member){.fn = fn[started], .arg = arg[started], .core = cores[started],
                                           .ready = &ready, .noise = &b->noise, .n = n};
        err = -pthread_create(&members[started].thread, NULL, member_main, &members[started]);
        if (err)
            break;
    }
    if (err) /* releases those that wait, without running them */
        __atomic_add_fetch(&ready, 2 * n, __ATOMIC_ACQ_REL);
    for (int i = 0; i < started; i++) {
        pthread_join(members[i].thread, NULL);
        if (members[i].err)
            err = members[i].err;
    }
    return err;
}

/* ---- Memory ---- */
/* Did the kernel really give huge pages to [base, base + bytes)? */
static bool has_huge_pages(const char *base)
{
    FILE *f = fopen("/proc/self/smaps", "r");
    char line[512];
    bool inside = false;
    unsigned long from, to, kib = 0;

    while (f && fgets(line, sizeof(line), f)) {
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
            inside = from <= (unsigned long)base && (unsigned long)base < to;
        else if (inside && sscanf(line, "AnonHugePages: %lu kB", &kib) == 1)
            break;
    }
    if (f)
        fclose(f);
    return kib > 0;
}

int bench_mem_init(struct bench_mem *m, size_t bytes)
{
    memset(m, 0, sizeof(*m));
    m->bytes = bytes;
    m->base =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_POPULATE, -1, 0);
    if (m->base != MAP_FAILED) {
        m->kind = "hugetlb";
        return 0;
    }
    char *raw = mmap(NULL, bytes + HUGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (raw == MAP_FAILED)
        return -ENOMEM;
    char *aligned = (char *)(((uintptr_t)raw + HUGE_BYTES - 1) & ~(uintptr_t)(HUGE_BYTES - 1));
    if (aligned > raw)
        munmap(raw, (size_t)(aligned - raw));
    munmap(aligned + bytes, (size_t)(raw + HUGE_BYTES - aligned));
    m->base = aligned;
    madvise(m->base, bytes, MADV_HUGEPAGE);
    memset(m->base, 1, bytes);
    memset(m->base, 0, bytes);
    m->kind = has_huge_pages(m->base) ? "transparent huge pages" : "4 KiB pages";
    return 0;
}

void bench_mem_fini(struct bench_mem *m)
{
    munmap(m->base, m->bytes);
}

void bench_mem_reset(struct bench_mem *m)
{
    memset(m->base, 0, m->used);
    m->used = 0;
    m->pieces = 0;
}

void *bench_mem_take(struct bench_mem *m, size_t bytes)
{
    /* 5 line pairs more each time: prime to the 32 pairs of a page, so neighbours never share an L1 set. */
    size_t at = ((m->used + 4095) & ~(size_t)4095) + (size_t)(m->pieces++ * 5u % 32u) * VGPU_LINE_PAIR_BYTES;

    if (at + bytes > m->bytes) {
        fprintf(stderr, "vgpu-bench: the arena of %zu bytes is too small\n", m->bytes);
        abort();
    }
    m->used = at + bytes;
    return m->base + at;
}

bool bench_sibling(char out[PATH_MAX], const char *name)
{
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

    if (n <= 0)
        return false;
    self[n] = '\0';
    for (int up = 0; up < 2; up++) {
        char *slash = strrchr(self, '/');
        if (!slash)
            return false;
        *slash = '\0';
    }
    return snprintf(out, PATH_MAX, "%s/%s", self, name) < PATH_MAX && access(out, X_OK) == 0;
}
