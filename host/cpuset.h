/* SPDX-License-Identifier: Apache-2.0 */
/* Sets of CPU numbers as the kernel writes them ("0-3,8"). Any thread; no allocation. */
#ifndef VGPU_HOST_CPUSET_H
#define VGPU_HOST_CPUSET_H

#include <stdbool.h>
#include <stdint.h>
#include <stddef.h>

#define VGPU_HOST_CPUS 4096u /* higher numbers are not represented */

struct vgpu_host_cpuset {
    uint64_t word[VGPU_HOST_CPUS / 64];
};
static inline bool vgpu_host_cpuset_has(const struct vgpu_host_cpuset *set, int64_t cpu)
{
    return cpu >= 0 && cpu < VGPU_HOST_CPUS && (set->word[cpu / 64] >> (cpu % 64) & 1);
}
static inline void vgpu_host_cpuset_add(struct vgpu_host_cpuset *set, int64_t cpu)
{
    if (cpu >= 0 && cpu < VGPU_HOST_CPUS)
        set->word[cpu / 64] |= UINT64_C(1) << (cpu % 64);
}
/*
 * "0-3,8", also "0-31:2/8" (2 of each 8), and words in front of it as isolcpus= takes them ("managed_irq,domain,2-3").
 * 0, or -EBADMSG: then out has what came before the fault. An empty text is the empty set.
 */
int vgpu_host_cpuset_parse(const char *text, struct vgpu_host_cpuset *out);
uint32_t vgpu_host_cpuset_count(const struct vgpu_host_cpuset *set);
/* The lowest CPU that is >= from, or -1. */
int vgpu_host_cpuset_next(const struct vgpu_host_cpuset *set, int from);
bool vgpu_host_cpuset_subset(const struct vgpu_host_cpuset *part, const struct vgpu_host_cpuset *whole);
bool vgpu_host_cpuset_overlap(const struct vgpu_host_cpuset *a, const struct vgpu_host_cpuset *b);
/* As the kernel writes it; "none" for the empty set; ends with ",..." when cut. */
const char *vgpu_host_cpuset_print(const struct vgpu_host_cpuset *set, char *out, size_t bytes);

#endif
