/* SPDX-License-Identifier: Apache-2.0 */
#include "holdings.h"

#include <dirent.h>
#include <unistd.h>

#define MAPS_SLACK 1400 /* libc keeps up to 40 MiB of stacks of ended threads, two mappings each */

/* Whose name contains this; NULL: all. */
static long entries(const char *path, const char *part)
{
    DIR *dir = opendir(path);
    struct dirent *one;
    long n = 0;

    e2e_check(dir, "%s: %s", path, strerror(errno));
    while ((one = readdir(dir)) != NULL)
        n += !part || strstr(one->d_name, part);
    closedir(dir);
    return n;
}

struct holdings holdings_of(pid_t pid)
{
    struct holdings have = {0};
    char path[64], line[512];

    if (pid <= 0)
        return have;
    snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
    have.fds = entries(path, NULL);
    snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
    FILE *f = fopen(path, "r");
    e2e_check(f, "%s: %s", path, strerror(errno));
    while (fgets(line, sizeof(line), f)) {
        have.maps++;
        have.memfds += strstr(line, "/memfd:") != NULL;
    }
    fclose(f);
    snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    f = fopen(path, "r");
    e2e_check(f, "%s: %s", path, strerror(errno));
    while (fgets(line, sizeof(line), f))
        if (sscanf(line, "VmRSS: %ld", &have.rss_kb) == 1)
            break;
    fclose(f);
    return have;
}

/* Names what it has open: the difference is what somebody will look for. */
static void show_open(pid_t pid)
{
    char path[300], target[256];
    struct dirent *one;

    snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
    DIR *dir = opendir(path);
    while (dir && (one = readdir(dir)) != NULL) {
        snprintf(path, sizeof(path), "/proc/%d/fd/%.16s", (int)pid, one->d_name);
        ssize_t n = readlink(path, target, sizeof(target) - 1);
        if (n > 0)
            printf("# open: %s -> %.*s\n", one->d_name, (int)n, target);
    }
    if (dir)
        closedir(dir);
}

void holdings_check(pid_t pid, const char *what, const struct holdings *before, long rss_slack_kb)
{
    struct holdings now = {0};

    for (uint64_t until = e2e_now_ms() + 7000; e2e_now_ms() < until; e2e_sleep_ms(20)) {
        now = holdings_of(pid);
        if (now.fds <= before->fds && now.memfds <= before->memfds && now.maps <= before->maps + MAPS_SLACK &&
            (SANITIZED || now.rss_kb <= before->rss_kb + rss_slack_kb))
            return;
    }
    show_open(pid);
    e2e_check(false,
              "%s: %ld descriptors, %ld mappings (%ld of memfds), %ld KiB; before there were %ld, %ld (%ld), %ld", what,
              now.fds, now.maps, now.memfds, now.rss_kb, before->fds, before->maps, before->memfds, before->rss_kb);
}

struct machine_holdings holdings_of_machine(void)
{
    return (struct machine_holdings){.hugepages_free = e2e_hugepages("free_hugepages"),
                                     .shm_files = entries("/dev/shm", "vgpu") + entries("/dev/shm", "rte")};
}

void holdings_check_machine(const struct machine_holdings *before)
{
    struct machine_holdings now = {0};

    for (uint64_t until = e2e_now_ms() + 3000; e2e_now_ms() < until; e2e_sleep_ms(20)) {
        now = holdings_of_machine();
        if (now.hugepages_free >= before->hugepages_free && now.shm_files <= before->shm_files)
            return;
    }
    e2e_check(false, "%ld free hugepages and %ld files of ours in /dev/shm; before there were %ld and %ld",
              now.hugepages_free, now.shm_files, before->hugepages_free, before->shm_files);
}
