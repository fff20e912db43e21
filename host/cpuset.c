/* SPDX-License-Identifier: Apache-2.0 */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/cpuset.h"

/* One number below VGPU_HOST_CPUS at *at, which moves behind it; -1: there is none. */
static int64_t number(const char **at)
{
    char *end;

    if (!isdigit((unsigned char)**at))
        return -1;
    unsigned long v = strtoul(*at, &end, 10);
    *at = end;
    return v < VGPU_HOST_CPUS ? (int64_t)v : -1;
}

/* a, a-b or a-b:used/group */
static int range(const char **at, struct vgpu_host_cpuset *out)
{
    int64_t first = number(at), last = first, used = 1, group = 1;

    if (first >= 0 && **at == '-') {
        (*at)++;
        last = number(at);
        if (last >= first && **at == ':') {
            (*at)++;
            used = number(at);
            if (**at != '/')
                return -EBADMSG;
            (*at)++;
            group = number(at);
        }
    }
    if (first < 0 || last < first || used < 1 || group < used)
        return -EBADMSG;
    for (int64_t cpu = first; cpu <= last; cpu++)
        if ((cpu - first) % group < used)
            vgpu_host_cpuset_add(out, cpu);
    return 0;
}

int vgpu_host_cpuset_parse(const char *text, struct vgpu_host_cpuset *out)
{
    memset(out, 0, sizeof(*out));
    while (isspace((unsigned char)*text))
        text++;
    while (isalpha((unsigned char)*text)) {
        size_t n = strcspn(text, ",");
        text += n + (text[n] == ',');
    }
    while (*text && !isspace((unsigned char)*text)) {
        if (range(&text, out))
            return -EBADMSG;
        if (*text == ',')
            text++;
        else if (*text && !isspace((unsigned char)*text))
            return -EBADMSG;
    }
    return 0;
}

uint32_t vgpu_host_cpuset_count(const struct vgpu_host_cpuset *set)
{
    uint32_t n = 0;

    for (size_t i = 0; i < VGPU_HOST_CPUS / 64; i++)
        n += (uint32_t)__builtin_popcountll(set->word[i]);
    return n;
}

int vgpu_host_cpuset_next(const struct vgpu_host_cpuset *set, int from)
{
    for (int cpu = from < 0 ? 0 : from; cpu < (int)VGPU_HOST_CPUS; cpu++) {
        uint64_t rest = set->word[cpu / 64] >> (cpu % 64);
        if (rest)
            return cpu + __builtin_ctzll(rest);
        cpu |= 63;
    }
    return -1;
}

bool vgpu_host_cpuset_subset(const struct vgpu_host_cpuset *part, const struct vgpu_host_cpuset *whole)
{
    for (size_t i = 0; i < VGPU_HOST_CPUS / 64; i++)
        if (part->word[i] & ~whole->word[i])
            return false;
    return true;
}

bool vgpu_host_cpuset_overlap(const struct vgpu_host_cpuset *a, const struct vgpu_host_cpuset *b)
{
    for (size_t i = 0; i < VGPU_HOST_CPUS / 64; i++)
        if (a->word[i] & b->word[i])
            return true;
    return false;
}

const char *vgpu_host_cpuset_print(const struct vgpu_host_cpuset *set, char *out, size_t bytes)
{
    size_t at = 0;

    snprintf(out, bytes, "none");
    for (int first = vgpu_host_cpuset_next(set, 0); first >= 0;) {
        char part[32];
        int last = first;
        while (vgpu_host_cpuset_has(set, last + 1))
            last++;
        snprintf(part, sizeof(part), last > first ? "%s%d-%d" : "%s%d", at ? "," : "", first, last);
        if (at + strlen(part) + sizeof(",...") > bytes) {
            snprintf(out + at, bytes - at, ",...");
            break;
        }
        at += (size_t)snprintf(out + at, bytes - at, "%s", part);
        first = vgpu_host_cpuset_next(set, last + 1);
    }
    return out;
}
